// The dialog of a cluster: all its images on this page, and renaming, merging, selecting.
const clusterView = byId("cluster-view");
const clusterParts = {
  title: clusterView.querySelector("h2"),
  facts: clusterView.querySelector(".facts"),
  name: byId("cluster-name"),
  target: byId("merge-into"),
  undo: clusterView.querySelector(".undo"),
  orders: clusterView.querySelectorAll("[data-order]"),
};
let openCluster = null;
let order = "central";
const showMembers = pagedGrid(clusterView.querySelector(".pictures"), "Images of the cluster", (i) => isStray(openCluster)(i));

function showCluster(cluster) {
  openCluster = cluster;
  for (const dialog of document.querySelectorAll("dialog[open]")) if (dialog !== clusterView) dialog.close();
  openDialog(clusterView);
  drawCluster();
}

function drawCluster() {
  clusterParts.title.replaceChildren(swatch(openCluster), nameOf(openCluster));
  clusterParts.facts.replaceChildren(...facts(openCluster));
  clusterParts.name.value = state.names.get(openCluster) ?? "";
  clusterParts.name.placeholder = nameOf(openCluster);
  options(clusterParts.target, openCluster);
  byId("merge").hidden = state.alive.length < 2;
  clusterView.querySelector('[aria-label="Order"]').hidden = K < 2;
  clusterParts.undo.hidden = state.count === 0;
  for (const button of clusterParts.orders) button.ariaPressed = String(button.dataset.order === order);
  const own = state.members[openCluster];
  showMembers(order === "central" ? own : byDoubt(own));
}

for (const button of clusterParts.orders) {
  button.addEventListener("click", () => {
    order = button.dataset.order;
    drawCluster();
    say(order === "central" ? "The most central images come first." : "The most doubtful images come first.");
  });
}

byId("rename").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = clusterParts.name.value.trim();
  if (name === (state.names.get(openCluster) ?? "")) return;
  take({ kind: "rename", cluster: openCluster, name });
  say(`Cluster ${openCluster} is now called ${nameOf(openCluster)}.`);
});

byId("merge").addEventListener("submit", (event) => {
  event.preventDefault();
  const [from, into] = [openCluster, Number(clusterParts.target.value)];
  const text = `${fullName(from)} was merged into ${fullName(into)}, which is shown now.`;
  openCluster = into;
  take({ kind: "merge", from, into });
  say(text);
});

clusterParts.undo.addEventListener("click", () => {
  undo();
  say("The last edit was undone.");
  if (clusterParts.undo.hidden) clusterParts.name.focus();
});
clusterView.querySelector(".select").addEventListener("click", () => {
  const own = state.members[openCluster];
  clusterView.close();
  select(own);
  showSelection();
});
refocus(clusterView, () => byId(`cluster-${openCluster}`)?.querySelector(".open"));
watchers.push(() => {
  if (openCluster === null) return;
  openCluster = state.into[openCluster];
  if (clusterView.open) drawCluster();
});
