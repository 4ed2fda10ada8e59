// The map: a dot per image on a canvas, with pan and zoom (drawn by dots.js, input in mapinput.js, preview and legend in loupe.js).
const chart = byId("chart");
const MARGIN = 18;
const MAX_ZOOM = 60;
const view = { zoom: 1, dx: 0, dy: 0, width: 0, height: 0, scale: 1 };
const map = { dots: [], lit: null, pinned: null, current: -1, lasso: null, colours: [], stamps: [], inView: false };

/** Dots in pseudo-random order, so that no cluster covers the others. */
function spreadDots() {
  const placed = Int32Array.from({ length: images.n }, (_, i) => i).filter((i) => images.place[2 * i] !== OFF_THE_MAP);
  let seed = 1;
  for (let last = placed.length - 1; last > 0; last--) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const other = seed % (last + 1);
    [placed[last], placed[other]] = [placed[other], placed[last]];
  }
  map.dots = placed;
}

function spotX(i) {
  return (MARGIN + (images.place[2 * i] / (OFF_THE_MAP - 1)) * (view.width - 2 * MARGIN)) * view.zoom + view.dx;
}

function spotY(i) {
  return (MARGIN + (images.place[2 * i + 1] / (OFF_THE_MAP - 1)) * (view.height - 2 * MARGIN)) * view.zoom + view.dy;
}

function spot(i) {
  return [spotX(i), spotY(i)];
}

function radius() {
  const base = Math.min(5, Math.max(1.6, 190 / Math.sqrt(map.dots.length + 1)));
  return Math.min(8, base * Math.sqrt(view.width / 900 + 0.3) * view.zoom ** 0.3);
}

/** Zoom about a point of the canvas; the map always fills it. */
function zoomBy(factor, x = view.width / 2, y = view.height / 2) {
  const zoom = Math.min(Math.max(view.zoom * factor, 1), MAX_ZOOM);
  const ratio = zoom / view.zoom;
  view.zoom = zoom;
  moveTo(x - (x - view.dx) * ratio, y - (y - view.dy) * ratio);
}

function moveTo(dx, dy) {
  view.dx = Math.min(0, Math.max(view.width * (1 - view.zoom), dx));
  view.dy = Math.min(0, Math.max(view.height * (1 - view.zoom), dy));
  chart.dataset.zoom = view.zoom.toFixed(2);
  byId("zoom").textContent = `${Math.round(100 * view.zoom)}\u202f%`;
  setGestures();
  drawMap();
}

function fitChart() {
  const [before, box] = [view.width, chart.getBoundingClientRect()];
  if (!box.width) return;
  [view.width, view.height, view.scale] = [box.width, box.height, window.devicePixelRatio || 1];
  [chart.width, chart.height] = [Math.round(box.width * view.scale), Math.round(box.height * view.scale)];
  const ratio = before ? view.width / before : 1;
  moveTo(view.dx * ratio, view.dy * ratio);
}
