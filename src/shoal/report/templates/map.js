const sea = document.querySelector(".sea");
if (sea) showMap(sea);

function showMap(sea) {
  const sheet = JSON.parse(document.getElementById("points").textContent);
  const [drawing, ring, loupe] = [sea.querySelector("svg"), sea.querySelector(".ring"), sea.querySelector(".loupe")];
  const [lens, title, name] = [loupe.querySelector(".lens"), loupe.querySelector("b"), loupe.querySelector("span")];
  const buttons = [...document.querySelectorAll(".legend button")];
  const narrow = sea.clientWidth < 500;
  const zoom = (narrow ? 64 : 96) / Math.max(sheet.width, sheet.height);
  const [width, height] = [sheet.width * zoom, sheet.height * zoom];
  let current = -1;
  let pinned = null;

  lens.style.width = `${width}px`;
  lens.style.height = `${height}px`;
  lens.style.backgroundSize = `${sheet.columns * width}px ${sheet.rows * height}px`;

  function light(cluster) {
    drawing.toggleAttribute("data-lit", cluster !== null);
    for (const group of drawing.querySelectorAll("g")) {
      group.toggleAttribute("data-on", Number(group.dataset.cluster) === cluster);
    }
  }

  function show(i) {
    current = i;
    const [x, y, cluster, id, className] = sheet.points[i];
    const scale = sea.clientWidth / 1000;
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    ring.removeAttribute("hidden");
    lens.style.backgroundPosition = `${-(i % sheet.columns) * width}px ${-Math.floor(i / sheet.columns) * height}px`;
    title.textContent = className ? `${className}, in cluster\u00a0${cluster}` : `Cluster ${cluster}`;
    name.textContent = id;
    loupe.hidden = false;
    const right = x * scale + 16;
    const left = right + loupe.offsetWidth > sea.clientWidth ? x * scale - 16 - loupe.offsetWidth : right;
    // On a phone it would hide what it speaks of: there it goes to the other half.
    const away = y * scale > sea.clientHeight / 2 ? 0 : sea.clientHeight;
    const top = narrow ? away : y * scale - loupe.offsetHeight / 2;
    loupe.style.left = `${Math.min(Math.max(left, 4), sea.clientWidth - loupe.offsetWidth - 4)}px`;
    loupe.style.top = `${Math.min(Math.max(top, 4), sea.clientHeight - loupe.offsetHeight - 4)}px`;
    light(pinned ?? cluster);
  }

  function hide() {
    loupe.hidden = true;
    ring.setAttribute("hidden", "");
    light(pinned);
  }

  /** The point that costs least, or -1 if all cost more than the limit. */
  function cheapest(cost, limit) {
    let [best, least] = [-1, limit];
    sheet.points.forEach((point, i) => {
      const price = cost(point, i);
      if (price < least) [best, least] = [i, price];
    });
    return best;
  }

  function point(event) {
    const box = drawing.getBoundingClientRect();
    const scale = 1000 / box.width;
    const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    const i = cheapest((dot) => Math.hypot(dot[0] - x, dot[1] - y), 24 * scale);
    if (i < 0) hide();
    else if (i !== current || loupe.hidden) show(i);
  }

  /** The next dot in a direction: near counts, and sideways counts double. */
  function step([dx, dy]) {
    const [x, y] = sheet.points[current];
    const i = cheapest((dot, j) => {
      const ahead = (dot[0] - x) * dx + (dot[1] - y) * dy;
      const aside = Math.abs((dot[0] - x) * dy) + Math.abs((dot[1] - y) * dx);
      return ahead > 0 && j !== current ? ahead + 2 * aside : Infinity;
    }, Infinity);
    if (i >= 0) show(i);
  }

  sea.addEventListener("pointermove", point);
  sea.addEventListener("pointerdown", point);
  sea.addEventListener("pointerleave", hide);
  sea.addEventListener("blur", hide);
  sea.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!direction) return;
    event.preventDefault();
    if (current < 0) show(0);
    else step(direction);
  });

  for (const button of buttons) {
    const cluster = Number(button.dataset.cluster);
    button.addEventListener("click", () => {
      pinned = pinned === cluster ? null : cluster;
      for (const other of buttons) other.setAttribute("aria-pressed", String(Number(other.dataset.cluster) === pinned));
      light(pinned);
    });
    button.addEventListener("pointerenter", () => light(cluster));
    button.addEventListener("pointerleave", () => light(pinned));
  }
}
