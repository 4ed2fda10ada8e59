// Splitting a cluster: the parts are shown for each number of them before anything is kept.
const splitter = byId("splitter");
const slider = byId("n-parts");
const split = { cluster: null, parts: [], turn: 0, waiting: 0 };

function openSplitter(cluster) {
  split.cluster = cluster;
  slider.max = Math.max(2, Math.min(20, sizeOf(cluster)));
  slider.value = 2;
  splitter.querySelector("h2").replaceChildren("Split ", ...sign(cluster));
  openDialog(splitter);
  previewSplit();
}

async function previewSplit() {
  const [turn, n] = [++split.turn, Number(slider.value)];
  byId("n-parts-said").textContent = n;
  byId("do-split").ariaDisabled = "true";
  const answer = await attempt(() => post("/api/split", { cluster: split.cluster, n }));
  if (!answer || turn !== split.turn) return;
  split.parts = answer.parts.toSorted((a, b) => b.rows.length - a.rows.length);
  byId("do-split").ariaDisabled = String(split.parts.length < 2);
  byId("do-split").textContent = `Split into ${split.parts.length}`;
  byId("split-parts").replaceChildren(...split.parts.map((part, at) => element("li", { class: "part" },
    element("h3", {}, at ? `Part ${at + 1}` : `Stays ${nameOf(split.cluster)}`),
    element("p", { class: "facts" }, imagesText(part.rows.length)),
    fill(element("div", { class: "grid mosaic", role: "group", "aria-label": `Part ${at + 1}: most central images` }), part.central.map((i) => thumb(i))))));
  say(`${split.parts.length} parts: ${split.parts.map((part) => grouped(part.rows.length)).join(", ")} images`);
}

slider.addEventListener("input", () => {
  byId("n-parts-said").textContent = slider.value;
  byId("do-split").ariaDisabled = "true";
  clearTimeout(split.waiting);
  split.waiting = setTimeout(previewSplit, 150);
});
byId("do-split").addEventListener("click", async ({ target }) => {
  if (target.ariaDisabled === "true") return;
  const cluster = split.cluster;
  splitter.close();
  // The largest part stays and keeps the name.
  const answer = await decide({ do: "split", cluster, parts: split.parts.slice(1).map((part) => part.rows) });
  if (!answer) return;
  location.hash = "#/clusters";
  say(`${fullName(cluster)} was split: ${answer.numbers.map(fullName).join(", ")}.`);
});

byId("split-this").addEventListener("click", () => openSplitter(shown.cluster));
byId("merge-this").addEventListener("click", async () => {
  const cluster = shown.cluster;
  const into = await pickCluster(`Merge ${fullName(cluster)} into`, cluster);
  if (into === null) return;
  location.hash = `#/cluster/${into}`;
  if (await decide({ do: "merge", clusters: [cluster], into })) say(`Merged into ${fullName(into)}, which is shown now.`);
});
byId("rename-this").addEventListener("click", async () => {
  const cluster = shown.cluster;
  const name = await askName(`Name of cluster ${cluster}`, state.clusters.get(cluster).name);
  if (name !== null) rename(cluster, name);
});
