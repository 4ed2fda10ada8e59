// The toolbar: number of edits, undo and reset, and export of the edited assignment.
const bar = byId("tools");
const [undoButton, resetButton] = [bar.querySelector(".undo"), bar.querySelector(".reset")];

function drawBar() {
  const text = state.count === 0 ? "No edits" : `${grouped(state.count)} ${state.count === 1 ? "edit" : "edits"}`;
  const where = kept ? "kept in this browser" : "kept until the page is closed";
  byId("edits").textContent = state.count === 0 ? text : `${text}, ${where}`;
  undoButton.ariaDisabled = String(steps.length === 0);
  resetButton.ariaDisabled = String(state.count === 0);
}

undoButton.addEventListener("click", () => {
  if (!steps.length) return;
  undo();
  say("The last edit was undone.");
});
resetButton.addEventListener("click", () => {
  if (!state.count) return;
  take({ kind: "reset" });
  say("All edits were reset. Undo restores them.");
});

function quoted(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The name given to a cluster, empty without one. */
function givenName(cluster) {
  return state.names.get(cluster) ?? "";
}

function asCsv() {
  const rows = images.ids.map((id, i) => `${quoted(spelt(id))},${state.cluster[i]},${quoted(givenName(state.cluster[i]))}`);
  return ["id,cluster,name", ...rows, ""].join("\r\n");
}

/** Includes the mapping of old to new clusters, for images that this page does not show. */
function asJson() {
  const clusters = state.into.map((cluster, old) => ({ old, cluster, name: givenName(cluster) }));
  const members = images.ids.map((id, i) => ({ id: spelt(id), cluster: state.cluster[i], name: givenName(state.cluster[i]) }));
  return JSON.stringify({ n_images: data.nImages, sample: images.n < data.nImages, clusters, images: members }, null, 1);
}

bar.querySelector(".csv").addEventListener("click", () => {
  download("assignments.csv", "text/csv", asCsv());
  say(`Saved a table of ${imagesText(images.n)}.`);
});
bar.querySelector(".json").addEventListener("click", () => {
  download("assignments.json", "application/json", asJson());
  say(`Saved ${imagesText(images.n)} and the mapping of clusters.`);
});
watchers.push(drawBar);
drawBar();
