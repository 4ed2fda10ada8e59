// The views, one of which is shown, after the address: #/clusters, #/images, #/cluster/3, #/found, #/map, …
const VIEWS = {
  clusters: { section: board, open: () => drawBoard() },
  images: { section: gallery, open: () => openGallery(null) },
  cluster: { section: gallery, open: openCluster },
  found: { section: gallery, open: () => (shown.listed ? drawGallery() : openGallery(null)) },
  map: { section: byId("map"), open: () => fitChart() },
  questions: { section: desk, open: () => openQuestions() },
  duplicates: { section: copies, open: () => openCopies() },
};

/** A cluster's images; one that was merged since, or never was, leads to the board. */
function openCluster(text) {
  const cluster = Number(text);
  if (cluster === NOWHERE || state.clusters.has(cluster)) openGallery(cluster);
  else location.replace("#/clusters");
}

function showView() {
  const [, name = "clusters", argument] = location.hash.split("/");
  const view = VIEWS[name] ?? VIEWS.clusters;
  for (const other of Object.values(VIEWS)) other.section.hidden = other.section !== view.section;
  for (const link of document.querySelectorAll("nav a")) {
    const own = link.hash === `#/${name}`;
    if (own) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo({ top: 0, behavior: "instant" });
  view.open(argument);
}

function drawHead() {
  byId("title").textContent = state.title;
  byId("counts").textContent = `${imagesText(images.n)} · ${grouped(state.alive.length)} ${state.alive.length === 1 ? "cluster" : "clusters"}`;
  byId("undo").ariaDisabled = String(!state.undoable);
}

function drawSaving() {
  byId("saving").textContent = outbox.length ? `Saving ${grouped(outbox.length)}…` : "All saved";
  drawBanner();
}
watchers.push(drawHead);

byId("undo").addEventListener("click", () => (desk.hidden ? undo() : undoAnswer()));
addEventListener("hashchange", showView);
