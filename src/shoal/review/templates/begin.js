// Begin: the clusters first, then the columns of all images.
async function begin() {
  const found = await getJson("/api/state");
  images.n = found.n;
  Object.assign(state, { title: found.title, key: found.key, has: found.has, folders: found.folders, cluster: new Int32Array(found.n) });
  takeClusters(found);
  byId("loading").hidden = true;
  for (const [view, own] of [["map", state.has.map], ["duplicates", state.has.duplicates]]) {
    document.querySelector(`nav a[href="#/${view}"]`).hidden = !own;
  }
  drawFilters();
  drawHead();
  drawLayers(found.layers);
  showView();
  await pause(100); // The pictures of the first cards are asked for before the columns.
  await Promise.all([loadLabels(), loadConfidence(), loadPlaces()]);
  tellWatchers();
  if (state.has.map) startMap();
  picking.push(drawMap);
  watchers.push(() => wall.mark());
  restoreOutbox();
  drawSaving();
  deliver();
  listen();
  showView();
  byId("main").removeAttribute("aria-busy");
  loadSuggestions();
}

attempt(begin);
