// Pointer, wheel and keyboard input of the map.
const modes = document.querySelectorAll("[data-mode]");
const fingers = new Map();
let mode = "move";
let grip = null;

/** Vertical swipes scroll the page while the map is not zoomed in. */
function setGestures() {
  chart.style.touchAction = mode === "lasso" || view.zoom > 1 ? "none" : "pan-y";
}

function local(event) {
  const box = chart.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

function press(event) {
  const at = local(event);
  fingers.set(event.pointerId, at);
  chart.setPointerCapture(event.pointerId);
  chart.focus({ preventScroll: true });
  if (fingers.size === 2) {
    [grip, map.lasso] = [null, null];
    return;
  }
  if (mode === "lasso") {
    map.lasso = [at];
    hideLoupe();
    return;
  }
  grip = { at, from: [view.dx, view.dy], moved: false };
  point(nearestDot(...at, 22));
}

function drag(event) {
  const at = local(event);
  if (fingers.size === 2 && fingers.has(event.pointerId)) pinch(event.pointerId, at);
  else if (map.lasso) {
    map.lasso.push(at);
    showMap();
  } else if (grip) {
    const [x, y] = [at[0] - grip.at[0], at[1] - grip.at[1]];
    grip.moved ||= Math.hypot(x, y) > 4;
    if (!grip.moved) return;
    hideLoupe();
    moveTo(grip.from[0] + x, grip.from[1] + y);
  } else if (!fingers.size) point(nearestDot(...at, 22));
}

function pinch(id, at) {
  const [, other] = [...fingers].find(([each]) => each !== id);
  const before = fingers.get(id);
  const away = (place) => Math.max(10, Math.hypot(place[0] - other[0], place[1] - other[1]));
  hideLoupe();
  zoomBy(away(at) / away(before), other[0], other[1]);
  fingers.set(id, at);
}

function release(event) {
  if (!fingers.delete(event.pointerId)) return;
  if (map.lasso) catchLasso(event.shiftKey);
  else if (grip && !grip.moved && event.type === "pointerup" && map.current >= 0) showImage(map.current);
  grip = null;
}

function catchLasso(adding) {
  const loop = map.lasso;
  map.lasso = null;
  hideLoupe();
  if (loop.length < 3) return;
  const caught = map.dots.filter((i) => inside(loop, ...spot(i)));
  select(new Set(adding ? [...selected, ...caught] : caught));
}

/** Even-odd rule: a ray to the right crosses the loop an odd number of times. */
function inside(loop, x, y) {
  let odd = false;
  loop.forEach(([ax, ay], j) => {
    const [bx, by] = loop[(j + 1) % loop.length];
    if (ay > y !== by > y && x < ax + ((y - ay) / (by - ay)) * (bx - ax)) odd = !odd;
  });
  return odd;
}

function pressKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (direction && event.shiftKey) step(direction);
  else if (direction) moveTo(view.dx - 60 * direction[0], view.dy - 60 * direction[1]);
  else if (event.key === "+" || event.key === "=") zoomBy(1.5);
  else if (event.key === "-") zoomBy(1 / 1.5);
  else if (event.key === "0") zoomBy(0);
  else if (event.key === "Enter" && map.current >= 0) showImage(map.current);
  else if (event.key === "Escape" && !loupe.hidden) hideLoupe();
  else return;
  if (!event.shiftKey && event.key !== "Enter") hideLoupe();
  event.preventDefault();
}

/** The wheel zooms if the map has the focus or Ctrl is held (trackpads report a pinch so); else it scrolls the page. */
function turnWheel(event) {
  if (!event.ctrlKey && !event.metaKey && document.activeElement !== chart) return;
  event.preventDefault();
  hideLoupe();
  zoomBy(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), ...local(event));
}

function startMap() {
  const acts = { pointerdown: press, pointermove: drag, pointerup: release, pointercancel: release, keydown: pressKey };
  for (const [name, act] of Object.entries(acts)) chart.addEventListener(name, act);
  chart.addEventListener("wheel", turnWheel, { passive: false });
  chart.addEventListener("pointerleave", () => { if (!fingers.size) hideLoupe(); });
  chart.addEventListener("blur", hideLoupe);
  for (const button of modes) {
    button.addEventListener("click", () => {
      mode = button.dataset.mode;
      for (const other of modes) other.ariaPressed = String(other === button);
      chart.classList.toggle("catching", mode === "lasso");
      setGestures();
    });
  }
  for (const button of document.querySelectorAll("[data-zoom-by]")) {
    button.addEventListener("click", () => zoomBy(Number(button.dataset.zoomBy)));
  }
  spreadDots();
  readColours();
  drawLegend();
  new ResizeObserver(fitChart).observe(chart);
  new IntersectionObserver(([entry]) => {
    map.inView = entry.isIntersecting;
    drawMap();
  }, { rootMargin: "200px" }).observe(chart);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColours();
    drawMap();
  });
  watchers.push(drawLegend, drawMap);
}
