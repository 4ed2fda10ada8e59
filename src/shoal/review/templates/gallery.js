// The gallery: all images, those of a cluster or those found, sorted and filtered.
const gallery = byId("gallery");
const filters = byId("filters");
const shown = { cluster: null, listed: null, title: "", note: "", sort: "central", turn: 0 };
const wall = new Wall(gallery.querySelector(".wall"), (place) => showImage(wall.rows[place], place));
const outwards = { rows: null, of: null };

/** All rows, the most confident first. */
function byConfidence() {
  if (outwards.of !== images.confidence) {
    outwards.of = images.confidence;
    outwards.rows = Int32Array.from({ length: images.n }, (_, i) => i).sort((a, b) => images.confidence[b] - images.confidence[a]);
  }
  return outwards.rows;
}

function inOrder() {
  if (shown.sort === "doubtful") {
    const inwards = byConfidence().toReversed();
    // What a person has said is beyond doubt.
    return Int32Array.from([...inwards.filter((i) => !images.fixed[i]), ...inwards.filter((i) => images.fixed[i])]);
  }
  if (shown.sort === "date") return byConfidence().toSorted((a, b) => images.date[a] - images.date[b]);
  return byConfidence();
}

/** What the filters leave, as a mask over all rows; null if there are none. */
async function filtered() {
  const { text, folder, from, to } = Object.fromEntries(new FormData(filters));
  if (!text && !folder && !from && !to) return null;
  const asked = new URLSearchParams({ text: text ?? "", folder: folder ?? "", from: from ?? "", to: to ?? "" });
  const rows = await getNumbers(`/api/search?${asked}`, Int32Array);
  const mask = new Uint8Array(images.n);
  for (const i of rows) mask[i] = 1;
  return mask;
}

async function drawGallery({ stay = false } = {}) {
  if (gallery.hidden || !images.confidence) return;
  const turn = ++shown.turn;
  drawGalleryTitle();
  const mask = await attempt(async () => ({ found: await filtered() }));
  if (turn !== shown.turn || !mask) return;
  const fits = (i) => (shown.cluster === null || state.cluster[i] === shown.cluster) && (!mask.found || mask.found[i]);
  const rows = shown.listed ? shown.listed.filter((i) => !mask.found || mask.found[i]) : inOrder().filter(fits);
  wall.show(rows, { stay });
  drawCount(rows.length);
  if (!stay) say(imagesText(rows.length));
}

function drawGalleryTitle() {
  const cluster = shown.listed ? null : shown.cluster;
  const title = shown.title || (cluster === null ? "All images" : "");
  byId("gallery-title").replaceChildren(...(title ? [title] : sign(cluster)));
  byId("of-cluster").hidden = cluster === null || cluster === NOWHERE;
  byId("sorting").hidden = Boolean(shown.listed);
  for (const button of byId("sorting").querySelectorAll("[data-sort]")) button.ariaPressed = String(button.dataset.sort === shown.sort);
}

function drawCount(n) {
  const all = shown.listed?.length ?? (shown.cluster === null ? images.n : sizeOf(shown.cluster));
  byId("gallery-facts").textContent = [n < all ? `${grouped(n)} of ${imagesText(all)}` : imagesText(n), shown.note].filter(Boolean).join(". ");
  gallery.querySelector(".none").hidden = n > 0;
}

function showCluster(cluster) {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  location.hash = `#/cluster/${cluster}`;
}

function openGallery(cluster) {
  const same = shown.cluster === cluster && !shown.listed;
  Object.assign(shown, { cluster, listed: null, title: "", note: "" });
  drawGallery({ stay: same });
}

/** Show these images, in this order. */
function showListed(title, rows, note) {
  Object.assign(shown, { listed: Int32Array.from(rows), title, note });
  for (const field of filters.elements) if (field.name) field.value = "";
  if (location.hash === "#/found") showView();
  else location.hash = "#/found";
}

async function findByMeaning(text) {
  const answer = await attempt(() => getJson(`/api/find?${new URLSearchParams({ text, n: 300 })}`));
  if (answer) showListed(`Like “${text}”`, answer.rows, "The most similar first.");
}

filters.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = filters.elements.text.value.trim();
  if (text && filters.elements.by.value === "meaning") findByMeaning(text);
  else drawGallery();
});
filters.addEventListener("change", (event) => {
  if (event.target.name !== "text" && event.target.name !== "by") drawGallery();
});
filters.elements.text.addEventListener("input", () => {
  clearTimeout(shown.typing);
  if (filters.elements.by.value === "name") shown.typing = setTimeout(drawGallery, 200);
});
for (const button of byId("sorting").querySelectorAll("[data-sort]")) {
  button.addEventListener("click", async () => {
    if (button.dataset.sort === "date" && !images.date) say("Reading the dates of the images.");
    if (button.dataset.sort === "date") await attempt(loadDates);
    if (button.dataset.sort === "date" && !images.date) return;
    shown.sort = button.dataset.sort;
    drawGallery();
  });
}
byId("pick-all").addEventListener("click", () => {
  addToSelection(wall.rows);
  say(`${grouped(selected.size)} selected`);
});

function drawFilters() {
  filters.elements.folder.replaceChildren(element("option", { value: "" }, "All folders"), ...state.folders.map(([folder, n]) => element("option", { value: folder }, `${folder || "(top)"} · ${grouped(n)}`)));
  filters.elements.folder.closest("label").hidden = state.folders.length < 2;
  for (const field of [filters.elements.from, filters.elements.to]) field.closest("label").hidden = !state.has.dates;
  filters.elements.by.closest("label").hidden = !state.has.words;
  gallery.querySelector('[data-sort="date"]').hidden = !state.has.dates;
}
watchers.push(() => {
  if (shown.cluster !== null && shown.cluster !== NOWHERE && !state.clusters.has(shown.cluster) && !shown.listed && !gallery.hidden) location.hash = "#/clusters";
  else drawGallery({ stay: true });
});
