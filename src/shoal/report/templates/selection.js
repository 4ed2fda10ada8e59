// The selection, made by the lasso, from a cluster or from a search.
const selectionView = byId("selection");
const selectedIds = byId("selected-ids");
const MAX_IDS = 1000;
const showSelected = pagedGrid(selectionView.querySelector(".pictures"), "Selected images");
let selected = [];

function select(members) {
  selected = [...members].sort((a, b) => a - b);
  selectionView.hidden = !selected.length;
  byId("selection-title").textContent = `${imagesText(selected.length)} selected`;
  showSelected(selected);
  selectedIds.value = idsOf(selected.slice(0, MAX_IDS));
  selectionView.querySelector(".more").hidden = selected.length <= MAX_IDS;
  options(byId("move-all-to"), null);
  say(selected.length ? `${imagesText(selected.length)} selected` : "No image selected");
  drawMap();
}

function showSelection() {
  byId("selection-title").focus({ preventScroll: true });
  // Without smooth scrolling, which shows blanks on a long page.
  selectionView.scrollIntoView({ block: "nearest", behavior: "instant" });
}

/** One id per line; ids with a line break are quoted as JSON. */
function idsOf(members) {
  return members.map((i) => spelt(images.ids[i])).map((id) => (/[\r\n\u2028\u2029]/.test(id) ? JSON.stringify(id) : id)).join("\n");
}

selectionView.querySelector(".copy").addEventListener("click", ({ target }) => copyText(idsOf(selected), selectedIds, target));
selectionView.querySelector(".download").addEventListener("click", () => download("selected.txt", "text/plain", `${idsOf(selected)}\n`));
selectionView.querySelector(".clear").addEventListener("click", () => {
  select([]);
  (byId("chart") ?? query).focus();
});
byId("move-all").addEventListener("submit", (event) => {
  event.preventDefault();
  const cluster = Number(byId("move-all-to").value);
  take({ kind: "move", images: selected, cluster });
  say(`${imagesText(selected.length)} moved to ${fullName(cluster)}.`);
});
watchers.push(() => options(byId("move-all-to"), null));
