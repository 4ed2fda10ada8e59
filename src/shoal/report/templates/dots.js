// The dots of the map. Many of them take several frames: until they are drawn, the drawing before is shown, moved along,
// and while the view moves they are not begun.
const MS_PER_FRAME = 10;
const DOTS_AT_ONCE = 2000;
const STILL_MS = 100;
const plan = { canvas: element("canvas"), view: null, stale: true, changed: 0, frames: 0, at: 0, end: 0, r: 0, strong: null };
const finished = { canvas: element("canvas"), view: null };
let frame = 0;

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
  map.stamps = [];
}

/** A dot drawn once and copied: disc, square, ring or frame, in one of ten colours; small and grey for no cluster. */
function stamp(cluster, r) {
  const away = cluster < 0;
  const kind = away ? 40 : cluster % 40;
  if (map.stamps[kind]) return map.stamps[kind];
  const side = Math.ceil(2 * r + 2);
  const made = element("canvas", { width: side, height: side });
  const pen = made.getContext("2d");
  const shape = away ? 0 : Math.floor(cluster / 10) % 4;
  const trace = (size) => {
    pen.beginPath();
    if (shape % 2) pen.rect(side / 2 - size, side / 2 - size, 2 * size, 2 * size);
    else pen.arc(side / 2, side / 2, size, 0, 7);
    pen.fill();
  };
  pen.fillStyle = away ? map.ink : map.colours[cluster % 10];
  pen.globalAlpha = away ? 0.55 : 1;
  trace(away ? 0.55 * r : shape % 2 ? 0.88 * r : r);
  pen.globalCompositeOperation = "destination-out";
  if (shape > 1) trace(0.45 * r);
  map.stamps[kind] = made;
  return made;
}

/** Draw the dots again, as something about them or the view has changed. */
function drawMap() {
  plan.stale = true;
  plan.changed = performance.now();
  showMap();
}

/** Show what is drawn, with the ring and the lasso over it. */
function showMap() {
  if (!chart || frame || !map.inView) return;
  frame = requestAnimationFrame(() => {
    frame = 0;
    advance();
    compose();
    if (plan.stale || plan.at < plan.end) showMap();
  });
}

/** Draw dots for some milliseconds; those that are not emphasised come first. */
function advance() {
  if (plan.stale) {
    if (plan.frames > 1 && performance.now() - plan.changed < STILL_MS) return;
    beginPlan();
  }
  if (plan.at === plan.end) return;
  plan.frames += 1;
  const n = map.dots.length;
  const pen = plan.canvas.getContext("2d");
  const until = performance.now() + MS_PER_FRAME;
  while (plan.at < plan.end) {
    const last = Math.min(plan.at + DOTS_AT_ONCE, plan.at < n ? n : plan.end);
    drawDots(pen, plan.at, last);
    plan.at = last;
    if (plan.at < plan.end && performance.now() > until) return;
  }
  [finished.canvas, plan.canvas] = [plan.canvas, finished.canvas];
  finished.view = plan.view;
}

/** Some of the dots, all of them emphasised or none. */
function drawDots(pen, from, to) {
  const n = map.dots.length;
  const front = from >= n;
  pen.globalAlpha = front ? 1 : 0.16;
  for (let at = from; at < to; at++) {
    const i = map.dots[at % n];
    const cluster = state.cluster[i];
    if (plan.strong(i) !== front) continue;
    const [x, y] = [spotX(i), spotY(i)];
    if (x < -9 || y < -9 || x > view.width + 9 || y > view.height + 9) continue;
    const dot = stamp(cluster, plan.r);
    pen.drawImage(dot, x * view.scale - dot.width / 2, y * view.scale - dot.height / 2);
  }
}

function beginPlan() {
  const [n, picked] = [map.dots.length, new Set(selected)];
  plan.stale = false;
  plan.frames = 0;
  [plan.canvas.width, plan.canvas.height] = [chart.width, chart.height];
  plan.view = { ...view };
  const r = Math.round(4 * radius() * view.scale) / 4;
  if (r !== plan.r) map.stamps = [];
  plan.r = r;
  plan.strong = (i) => (picked.size ? picked.has(i) : map.lit === null || state.cluster[i] === map.lit);
  plan.at = picked.size || map.lit !== null ? 0 : n;
  plan.end = 2 * n;
}

/** The last finished drawing, moved to where the view is now, until the next one is finished. */
function compose() {
  const pen = chart.getContext("2d");
  const then = finished.view;
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.globalAlpha = 1;
  pen.clearRect(0, 0, chart.width, chart.height);
  if (then?.width === view.width) {
    const ratio = view.zoom / then.zoom;
    pen.setTransform(ratio, 0, 0, ratio, (view.dx - then.dx * ratio) * view.scale, (view.dy - then.dy * ratio) * view.scale);
    pen.drawImage(finished.canvas, 0, 0);
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
