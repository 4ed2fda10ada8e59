// Pointer and keyboard on a wall: click, range, frame, arrows.
function listenToWall(wall) {
  const { host } = wall;
  let frameStart = null;
  const placeOf = (event) => Number(event.target.closest(".tile")?.dataset.place ?? -1);

  host.addEventListener("click", (event) => {
    const place = placeOf(event);
    if (place < 0 || host.dataset.framed) return;
    pick(wall, place, event.shiftKey);
  });
  host.addEventListener("dblclick", (event) => {
    if (placeOf(event) >= 0) wall.open(placeOf(event));
  });
  host.addEventListener("pointerdown", (event) => {
    delete host.dataset.framed;
    // A finger scrolls.
    if (event.pointerType === "mouse" && event.button === 0) frameStart = atWall(host, event);
  });
  host.addEventListener("pointermove", (event) => {
    if (!frameStart) return;
    const at = atWall(host, event);
    if (!host.dataset.framed && Math.hypot(at[0] - frameStart[0], at[1] - frameStart[1]) < 6) return;
    if (!host.dataset.framed) host.setPointerCapture(event.pointerId);
    host.dataset.framed = "yes";
    drawFrame(host, frameStart, at);
    if (event.clientY > innerHeight - 60) scrollBy(0, 24);
    if (event.clientY < 60) scrollBy(0, -24);
  });
  const end = (event) => {
    const start = frameStart;
    frameStart = null;
    host.querySelector(".frame")?.remove();
    if (!start || !host.dataset.framed || event.type === "pointercancel") return;
    const caught = within(wall, start, atWall(host, event));
    if (event.altKey) removeFromSelection(caught);
    else addToSelection(caught);
    say(`${grouped(selected.size)} selected`);
  };
  host.addEventListener("pointerup", end);
  host.addEventListener("pointercancel", end);
  host.addEventListener("keydown", (event) => pressOnWall(wall, event));
}

function atWall(host, event) {
  const box = host.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

/** Select an image or drop it; with Shift, all from the one before. */
function pick(wall, place, ranged) {
  if (ranged) {
    const [from, to] = [Math.min(wall.anchor, place), Math.max(wall.anchor, place)];
    addToSelection(wall.rows.slice(from, to + 1));
  } else {
    toggle(wall.rows[place]);
    wall.anchor = place;
  }
  wall.goTo(place);
  say(`${grouped(selected.size)} selected`);
}

function drawFrame(host, [ax, ay], [bx, by]) {
  const drawn = host.querySelector(".frame") ?? element("div", { class: "frame" });
  if (!drawn.isConnected) host.append(drawn);
  Object.assign(drawn.style, {
    left: `${Math.min(ax, bx)}px`,
    top: `${Math.min(ay, by)}px`,
    width: `${Math.abs(ax - bx)}px`,
    height: `${Math.abs(ay - by)}px`,
  });
}

/** The images that a frame touches. */
function within(wall, [ax, ay], [bx, by]) {
  const line = wall.side + GAP;
  const cell = (v) => Math.floor(v / line);
  const [left, right] = [Math.max(0, cell(Math.min(ax, bx))), Math.min(wall.columns - 1, cell(Math.max(ax, bx)))];
  const [top, bottom] = [Math.max(0, cell(Math.min(ay, by))), cell(Math.max(ay, by))];
  const caught = [];
  for (let y = top; y <= bottom; y++) {
    for (let x = left; x <= right; x++) {
      const i = wall.rows[y * wall.columns + x];
      if (i !== undefined) caught.push(i);
    }
  }
  return caught;
}

function pressOnWall(wall, event) {
  const { active, columns, rows } = wall;
  const page = columns * Math.max(1, Math.floor(innerHeight / (wall.side + GAP)) - 1);
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -page, PageDown: page, Home: -active, End: rows.length };
  if (event.altKey) return;
  if ((event.ctrlKey || event.metaKey) && event.key === "a") addToSelection(rows);
  else if (event.ctrlKey || event.metaKey) return;
  else if (event.key in steps) {
    wall.goTo(active + steps[event.key]);
    if (event.shiftKey) pick(wall, wall.active, true);
  } else if (event.key === " ") pick(wall, active, event.shiftKey);
  else if (event.key === "Enter") wall.open(active);
  else return;
  event.preventDefault();
  event.stopPropagation();
}
