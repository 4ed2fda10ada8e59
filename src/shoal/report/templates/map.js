// The map: a dot per image on a canvas, with pan and zoom (input in mapinput.js, preview and legend in loupe.js).
const chart = byId("chart");
const MARGIN = 18;
const MAX_ZOOM = 60;
const view = { zoom: 1, dx: 0, dy: 0, width: 0, height: 0, scale: 1 };
const map = { dots: [], lit: null, pinned: null, current: -1, lasso: null, colours: [], stamps: new Map(), inView: false };
let drawing = 0;

/** Dots in pseudo-random order, so that no cluster covers the others. */
if (chart) {
  map.dots = [...images.place.keys()].filter((j) => j % 2 === 0 && images.place[j] !== OFF_THE_MAP).map((j) => j / 2);
  const rank = (i) => Math.imul(i + 1, 2654435761) >>> 0;
  map.dots.sort((a, b) => rank(a) - rank(b));
}

function spot(i) {
  const x = MARGIN + (images.place[2 * i] / (OFF_THE_MAP - 1)) * (view.width - 2 * MARGIN);
  const y = MARGIN + (images.place[2 * i + 1] / (OFF_THE_MAP - 1)) * (view.height - 2 * MARGIN);
  return [x * view.zoom + view.dx, y * view.zoom + view.dy];
}

function radius() {
  const base = Math.min(5, Math.max(1.6, 190 / Math.sqrt(map.dots.length + 1)));
  return Math.min(8, base * Math.sqrt(view.width / 900 + 0.3) * view.zoom ** 0.3);
}

function readColours() {
  const probe = element("i", { class: "probe" });
  chart.after(probe);
  map.colours = Array.from({ length: 10 }, (_, i) => {
    probe.className = `probe c${i}`;
    return getComputedStyle(probe).color;
  });
  const style = getComputedStyle(chart);
  [map.ink, map.surface] = [style.color, style.backgroundColor];
  probe.remove();
  map.stamps.clear();
}

/** A dot drawn once and copied: disc, square, ring or frame, in one of ten colours. */
function stamp(cluster, r) {
  const key = `${cluster % 40} ${r}`;
  if (map.stamps.has(key)) return map.stamps.get(key);
  const side = Math.ceil(2 * r + 2);
  const made = element("canvas", { width: side, height: side });
  const pen = made.getContext("2d");
  const shape = Math.floor(cluster / 10) % 4;
  const trace = (size) => {
    pen.beginPath();
    if (shape % 2) pen.rect(side / 2 - size, side / 2 - size, 2 * size, 2 * size);
    else pen.arc(side / 2, side / 2, size, 0, 7);
    pen.fill();
  };
  pen.fillStyle = map.colours[cluster % 10];
  trace(shape % 2 ? 0.88 * r : r);
  pen.globalCompositeOperation = "destination-out";
  if (shape > 1) trace(0.45 * r);
  map.stamps.set(key, made);
  return made;
}

function drawMap() {
  if (!chart || drawing || !map.inView) return;
  drawing = requestAnimationFrame(() => {
    drawing = 0;
    drawNow();
  });
}

function drawNow() {
  const pen = chart.getContext("2d");
  const r = Math.round(4 * radius() * view.scale) / 4;
  const picked = new Set(selected);
  const strong = (i) => (picked.size ? picked.has(i) : map.lit === null || state.cluster[i] === map.lit);
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, chart.width, chart.height);
  for (const front of [false, true]) {
    pen.globalAlpha = front ? 1 : 0.16;
    for (const i of map.dots) {
      if (strong(i) !== front) continue;
      const [x, y] = spot(i);
      if (x < -9 || y < -9 || x > view.width + 9 || y > view.height + 9 || state.cluster[i] < 0) continue;
      const dot = stamp(state.cluster[i], r);
      pen.drawImage(dot, x * view.scale - dot.width / 2, y * view.scale - dot.height / 2);
    }
  }
  pen.setTransform(view.scale, 0, 0, view.scale, 0, 0);
  if (map.current >= 0) drawRing(pen);
  if (map.lasso) drawLasso(pen);
}

function drawRing(pen) {
  pen.globalAlpha = 1;
  pen.lineWidth = 2;
  pen.strokeStyle = map.ink;
  pen.beginPath();
  pen.arc(...spot(map.current), radius() + 4, 0, 7);
  pen.stroke();
}

function drawLasso(pen) {
  pen.beginPath();
  for (const corner of map.lasso) pen.lineTo(...corner);
  pen.closePath();
  pen.globalAlpha = 0.12;
  pen.fillStyle = pen.strokeStyle = map.ink;
  pen.fill();
  pen.globalAlpha = 1;
  pen.lineWidth = 1.5;
  pen.setLineDash([5, 4]);
  pen.stroke();
  pen.setLineDash([]);
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
