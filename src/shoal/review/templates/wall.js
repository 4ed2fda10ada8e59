// A wall of images of any number: only those near the screen are elements, which are used again while it scrolls.
const TILE = 104;
const GAP = 6;
const OVERSCAN = 2;

/** A listbox of images in ``host``; ``open`` is called with the place of an image. */
class Wall {
  constructor(host, open) {
    Object.assign(this, { host, open, rows: [], active: 0, anchor: 0, columns: 1, side: TILE, waiting: 0 });
    this.tiles = new Map();
    this.spare = [];
    addEventListener("scroll", () => this.redraw(), { passive: true });
    new ResizeObserver(() => this.layOut()).observe(host);
    picking.push(() => this.mark());
    listenToWall(this);
  }

  /** Show other images, from the first, or where they are if they are nearly the same ones. */
  show(rows, { stay = false } = {}) {
    const focused = this.host.contains(document.activeElement);
    for (const place of [...this.tiles.keys()]) this.release(place);
    this.rows = rows;
    this.active = Math.min(stay ? this.active : 0, Math.max(0, rows.length - 1));
    this.anchor = this.active;
    this.layOut();
    this.draw();
    if (focused) this.tiles.get(this.active)?.focus({ preventScroll: true });
  }

  layOut() {
    const width = this.host.clientWidth;
    if (!width) return;
    this.columns = Math.max(3, Math.floor((width + GAP) / (TILE + GAP)));
    this.side = (width + GAP) / this.columns - GAP;
    const lines = Math.ceil(this.rows.length / this.columns);
    this.host.style.height = `${Math.max(0, lines * (this.side + GAP) - GAP)}px`;
    for (const [place, tile] of this.tiles) this.put(tile, place);
    this.redraw();
  }

  redraw() {
    this.waiting ||= requestAnimationFrame(() => {
      this.waiting = 0;
      this.draw();
    });
  }

  /** First and last place near the screen. */
  range() {
    const line = this.side + GAP;
    const top = this.host.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(-top / line) - OVERSCAN);
    const last = Math.ceil((innerHeight - top) / line) + OVERSCAN;
    return [first * this.columns, Math.min(this.rows.length, last * this.columns)];
  }

  draw() {
    if (!this.host.clientWidth) return;
    const [from, to] = this.range();
    for (const place of [...this.tiles.keys()]) {
      if ((place < from || place >= to) && place !== this.active) this.release(place);
    }
    for (let place = from; place < to; place++) if (!this.tiles.has(place)) this.place(place);
    if (this.rows.length && !this.tiles.has(this.active)) this.place(this.active);
    clearTimeout(this.tidying);
    this.tidying = setTimeout(() => this.tidy(), 250);
  }

  /** Elements in the order of their places, as screen readers go through them; the one with the focus stays where it is. */
  tidy() {
    const focused = this.host.contains(document.activeElement) ? document.activeElement : null;
    const last = Number(focused?.dataset.place ?? -1);
    for (const place of [...this.tiles.keys()].sort((a, b) => a - b)) {
      const tile = this.tiles.get(place);
      if (tile !== focused) this.host.insertBefore(tile, place < last ? focused : null);
    }
  }

  release(place) {
    const tile = this.tiles.get(place);
    this.tiles.delete(place);
    if (tile === document.activeElement) this.host.focus({ preventScroll: true });
    tile.hidden = true;
    tile.firstChild.dataset.shows = "";
    this.spare.push(tile);
  }

  place(place) {
    const tile = this.spare.pop() ?? this.make();
    const i = this.rows[place];
    this.tiles.set(place, tile);
    tile.hidden = false;
    tile.dataset.place = place;
    tile.ariaSetSize = this.rows.length;
    tile.ariaPosInSet = place + 1;
    tile.tabIndex = place === this.active ? 0 : -1;
    this.dress(tile, i);
    nameAfter(tile, i);
    this.put(tile, place);
    const canvas = tile.firstChild;
    [canvas.width, canvas.height] = [1, 1];
    canvas.dataset.shows = i;
    paint(canvas);
  }

  make() {
    const tile = element("div", { class: "tile", role: "option" }, element("canvas", { "aria-hidden": "true" }));
    this.host.append(tile);
    return tile;
  }

  put(tile, place) {
    const line = this.side + GAP;
    tile.style.width = tile.style.height = `${this.side}px`;
    tile.style.transform = `translate(${(place % this.columns) * line}px, ${Math.floor(place / this.columns) * line}px)`;
  }

  dress(tile, i) {
    tile.ariaSelected = String(selected.has(i));
    tile.classList.toggle("fixed", images.fixed?.[i] === 1);
  }

  /** Selected or not, said by a person or not: after either has changed. */
  mark() {
    for (const [place, tile] of this.tiles) this.dress(tile, this.rows[place]);
  }

  /** Make an image the one that the keyboard is at. */
  goTo(place, focus = true) {
    if (!this.rows.length) return;
    const goal = Math.min(Math.max(place, 0), this.rows.length - 1);
    const before = this.tiles.get(this.active);
    if (before) before.tabIndex = -1;
    this.active = goal;
    if (!this.tiles.has(goal)) this.place(goal);
    const tile = this.tiles.get(goal);
    tile.tabIndex = 0;
    if (focus) tile.focus({ preventScroll: true });
    tile.scrollIntoView({ block: "nearest", behavior: "instant" });
  }
}
