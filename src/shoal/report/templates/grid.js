// Grids of pictures with pages.
const PER_PAGE = 60;

/** Page controls; ``turn`` is called with the number of the page, counted from 0. */
function makePager(label, turn) {
  let [page, last] = [0, 0];
  const go = (goal) => { if (goal >= 0 && goal <= last && goal !== page) turn(goal); };
  const back = action("Previous", () => go(page - 1));
  const next = action("Next", () => go(page + 1));
  const field = element("input", { type: "number", min: 1, "aria-label": `Page of ${label}` });
  const [of, range] = [element("span"), element("span", { class: "range" })];
  field.addEventListener("change", () => {
    const goal = Math.min(Math.max(Math.round(Number(field.value)) || 1, 1), last + 1) - 1;
    field.value = goal + 1;
    go(goal);
  });
  const host = element("div", { class: "pager", role: "group", "aria-label": `Pages of ${label}` }, back, element("span", { class: "pages" }, "Page ", field, of), next, range);
  const show = (now, n, perPage) => {
    [page, last] = [now, Math.max(0, Math.ceil(n / perPage) - 1)];
    host.hidden = last === 0;
    back.ariaDisabled = String(page === 0);
    next.ariaDisabled = String(page === last);
    field.value = page + 1;
    field.max = last + 1;
    of.textContent = ` of ${grouped(last + 1)}`;
    range.textContent = `${grouped(page * perPage + 1)} to ${grouped(Math.min(n, (page + 1) * perPage))} of ${grouped(n)}`;
  };
  return { host, show };
}

/** A grid with a pager below; returns a function that shows other images. */
function pagedGrid(host, label, stray = () => false) {
  let shown = [];
  const grid = element("div", { class: "grid", role: "group", "aria-label": `${label}; arrow keys move between them` });
  const pager = makePager(label, (page) => {
    turn(page);
    say(`Page ${page + 1}`);
  });
  function turn(page) {
    fill(grid, shown.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map((i) => thumb(i, stray(i))));
    grid.hidden = !shown.length;
    pager.show(page, shown.length, PER_PAGE);
  }
  host.replaceChildren(grid, pager.host);
  return (found) => {
    shown = found;
    turn(0);
  };
}
