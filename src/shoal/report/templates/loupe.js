// The preview of a dot of the map, and the legend.
const loupe = document.querySelector(".loupe");
const legend = document.querySelector(".legend");

function nearestDot(x, y, reach) {
  let [best, least] = [-1, reach * reach];
  for (const i of map.dots) {
    const [px, py] = spot(i);
    const price = (px - x) ** 2 + (py - y) ** 2;
    if (price < least) [best, least] = [i, price];
  }
  return best;
}

function point(i) {
  if (i === map.current && !loupe.hidden) return;
  map.current = i;
  if (i < 0) {
    hideLoupe();
    return;
  }
  const cluster = state.cluster[i];
  const [x, y] = spot(i);
  const lens = loupe.querySelector("canvas");
  lens.dataset.shows = i;
  lens.width = lens.width; // cleared
  paint(lens);
  loupe.querySelector("b").textContent = cluster < 0 ? "In no cluster" : fullName(cluster);
  writeName(loupe.querySelector("span"), i);
  loupe.hidden = false;
  const narrow = view.width < 500;
  const right = x + 16;
  const left = right + loupe.offsetWidth > view.width ? x - 16 - loupe.offsetWidth : right;
  // On a phone it would cover the dot, so it goes to the other half of the map.
  const top = narrow ? (y > view.height / 2 ? 0 : view.height) : y - loupe.offsetHeight / 2;
  loupe.style.left = `${Math.min(Math.max(left, 4), view.width - loupe.offsetWidth - 4)}px`;
  loupe.style.top = `${Math.min(Math.max(top, 4), view.height - loupe.offsetHeight - 4)}px`;
  light(map.pinned ?? cluster);
}

function hideLoupe() {
  loupe.hidden = true;
  map.current = -1;
  light(map.pinned);
}

function light(cluster) {
  if (cluster === map.lit) showMap();
  else {
    map.lit = cluster;
    drawMap();
  }
}

/** Go to the next dot in a direction; distance sideways counts double. */
function step([dx, dy]) {
  const [x, y] = map.current < 0 ? [view.width / 2, view.height / 2] : spot(map.current);
  let [best, least] = [-1, Infinity];
  for (const i of map.dots) {
    const [px, py] = spot(i);
    const ahead = (px - x) * dx + (py - y) * dy;
    const aside = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
    const price = ahead > 0 && i !== map.current ? ahead + 2 * aside : Infinity;
    if (price < least) [best, least] = [i, price];
  }
  if (best < 0) return;
  const [bx, by] = spot(best);
  const [outX, outY] = [bx - Math.min(Math.max(bx, 40), view.width - 40), by - Math.min(Math.max(by, 40), view.height - 40)];
  if (outX || outY) moveTo(view.dx - outX, view.dy - outY);
  point(best);
}

function drawLegend() {
  if (map.pinned !== null) map.pinned = presentCluster(map.pinned);
  const buttons = state.alive.filter(isShown).map((cluster) => {
    const name = nameOf(cluster);
    const text = name === `Cluster ${cluster}` ? [name] : [element("span", {}, name, " ", element("small", {}, `cluster ${cluster}`))];
    const button = element("button", { type: "button", "aria-pressed": String(map.pinned === cluster) }, swatch(cluster), ...text);
    button.addEventListener("click", () => {
      map.pinned = map.pinned === cluster ? null : cluster;
      for (const other of legend.querySelectorAll("button")) other.ariaPressed = String(other === button && map.pinned !== null);
      light(map.pinned);
    });
    button.addEventListener("pointerenter", () => light(cluster));
    button.addEventListener("pointerleave", () => light(map.pinned));
    return element("li", {}, button);
  });
  legend.replaceChildren(...buttons);
}
