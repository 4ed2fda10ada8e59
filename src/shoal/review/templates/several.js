// Several clusters at once: choose them on the board, then merge or rename them.
const chosenBar = byId("chosen");
const merger = byId("merger");
const renamer = byId("renamer");

/** The chosen clusters that there still are; all of them if none is chosen. */
function chosenOrAll() {
  const own = state.alive.filter((cluster) => chosen.has(cluster));
  return own.length ? own : state.alive;
}

function drawChosen() {
  for (const cluster of chosen) if (!state.clusters.has(cluster)) chosen.delete(cluster);
  byId("n-chosen").textContent = chosen.size ? `${grouped(chosen.size)} chosen` : "";
  byId("merge-chosen").ariaDisabled = String(chosen.size < 2);
  byId("rename-chosen").textContent = chosen.size ? "Rename chosen…" : "Rename all…";
  byId("drop-chosen").hidden = !chosen.size;
  byId("accept-names").hidden = !state.alive.some((cluster) => suggestions.has(cluster) && !state.clusters.get(cluster).name);
}

cards.addEventListener("change", (event) => {
  const cluster = Number(event.target.dataset.chooses);
  if (Number.isNaN(cluster)) return;
  if (event.target.checked) chosen.add(cluster);
  else chosen.delete(cluster);
  drawChosen();
});

byId("merge-chosen").addEventListener("click", ({ target }) => {
  if (target.ariaDisabled === "true") return say("Choose two clusters or more, with the boxes on their cards.");
  const own = [...chosen].sort(ORDERS.size);
  merger.querySelector("h2").textContent = `Merge ${grouped(own.length)} clusters`;
  byId("merge-goal").replaceChildren(...own.map((cluster) => element("option", { value: cluster }, `${fullName(cluster)}, ${imagesText(sizeOf(cluster))}`)));
  openDialog(merger);
});
merger.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const into = Number(byId("merge-goal").value);
  const others = [...chosen].filter((cluster) => cluster !== into);
  merger.close();
  chosen.clear();
  if (await decide({ do: "merge", clusters: others, into })) say(`${grouped(others.length + 1)} clusters were merged into ${fullName(into)}.`);
});

byId("rename-chosen").addEventListener("click", () => {
  const own = chosenOrAll();
  const line = (cluster) => {
    const { name } = state.clusters.get(cluster);
    const hint = suggestions.get(cluster)?.[0][0] ?? `Cluster ${cluster}`;
    const field = element("input", { type: "text", id: `name-${cluster}`, maxlength: 200, autocomplete: "off", value: name, placeholder: hint, "data-cluster": cluster });
    return element("li", {}, element("label", { for: `name-${cluster}` }, swatch(cluster), `Cluster ${cluster}`), field, element("span", { class: "few" }, ...state.clusters.get(cluster).central.slice(0, 3).map(picture)));
  };
  byId("renamer-list").replaceChildren(...own.map(line));
  openDialog(renamer);
});
renamer.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const fields = [...renamer.querySelectorAll("[data-cluster]")].map((field) => [Number(field.dataset.cluster), field.value.trim()]);
  const renames = fields.filter(([cluster, name]) => state.clusters.has(cluster) && name !== state.clusters.get(cluster).name);
  renamer.close();
  await renameAll(renames);
});

async function renameAll(renames) {
  if (!renames.length) return;
  const answer = await decide(...renames.map(([cluster, name]) => ({ do: "rename", cluster, name })));
  if (answer) say(`${grouped(renames.length)} ${renames.length === 1 ? "cluster was" : "clusters were"} renamed.`);
}

byId("accept-names").addEventListener("click", () => {
  const open = state.alive.filter((cluster) => suggestions.has(cluster) && !state.clusters.get(cluster).name);
  renameAll(open.map((cluster) => [cluster, suggestions.get(cluster)[0][0]]));
});
byId("drop-chosen").addEventListener("click", () => {
  chosen.clear();
  for (const box of cards.querySelectorAll("[data-chooses]")) box.checked = false;
  drawChosen();
});
watchers.push(drawChosen);
