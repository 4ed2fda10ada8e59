// The dialog of an image: at full size, with its facts, the clusters it is near, and the images nearest to it.
const imageView = byId("image-view");
const seen = { trail: [], list: null, place: -1, turn: 0 };

/** Open an image; ``place`` is its place on the wall, where the arrow keys go on. */
function showImage(i, place = -1) {
  const again = imageView.open;
  seen.trail = again && place < 0 ? [...seen.trail, i] : [i];
  if (place >= 0 || !again) [seen.list, seen.place] = [place >= 0 ? wall.rows : null, place];
  openDialog(imageView);
  drawImage();
  if (again) byId("image-title").focus();
}

function besides(step) {
  const goal = seen.place + step;
  if (!seen.list || goal < 0 || goal >= seen.list.length) return;
  showImage(seen.list[goal], goal);
  wall.goTo(goal, false);
}

/** The image at full size, or words where it cannot be read. */
function fullImage(i, alt) {
  const full = element("img", { src: urlOf(i), alt });
  full.addEventListener("error", () => full.replaceWith(element("p", { class: "empty" }, "The image cannot be shown.")));
  return full;
}

async function drawImage() {
  const [turn, i] = [++seen.turn, seen.trail.at(-1)];
  const large = fullImage(i, "");
  byId("image-large").replaceChildren(large);
  byId("image-large").classList.remove("real");
  writeName(byId("image-title"), i);
  imageView.querySelector(".back").hidden = seen.trail.length < 2;
  for (const button of imageView.querySelectorAll(".beside")) button.hidden = !seen.list;
  const about = await attempt(() => getJson(`/api/about/${i}`));
  if (turn !== seen.turn || !about) return;
  large.alt = about.id;
  drawFacts(i, about);
  byId("image-nearest").replaceChildren(...about.nearest.filter(([cluster]) => state.clusters.has(cluster)).map(([cluster], at) => element("li", {}, moveButton(i, cluster, at + 1))));
  fill(byId("image-near"), about.neighbours.map((other) => thumb(other, state.cluster[other] !== state.cluster[i])));
}

function drawFacts(i, about) {
  const cluster = state.cluster[i];
  const inside = cluster === NOWHERE ? "none" : action(fullName(cluster), () => showCluster(cluster), { class: "link" });
  const facts = [
    ["Cluster", inside],
    ["Said by", images.fixed[i] ? "a person" : ""],
    ["Class", about.label ?? ""],
    ["Confidence", Number.isFinite(about.confidence) ? percentage(about.confidence) : ""],
    ["Size", about.size ? `${about.size[0]} × ${about.size[1]}` : ""],
    ["Date", typeof about.date === "number" ? new Date(about.date * 60_000).toLocaleString() : about.date ?? ""],
  ];
  byId("image-facts").replaceChildren(...facts.filter(([, value]) => value !== "").map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

function moveButton(i, cluster, key) {
  const here = state.cluster[i] === cluster;
  const button = action("", () => (here ? confirmImage(i) : moveImages([i], cluster)), { class: "choice", "data-key": key, "aria-label": here ? `${fullName(cluster)}: confirm` : `Move to ${fullName(cluster)}` });
  button.append(element("kbd", { "aria-hidden": "true" }, key), swatch(cluster), element("span", {}, nameOf(cluster)), element("small", {}, here ? "is here: confirm" : "move"));
  return button;
}

async function confirmImage(i) {
  if (await decide({ do: "confirm", images: [i] })) say("Confirmed.");
}

const imageActs = {
  async move() {
    const i = seen.trail.at(-1);
    const cluster = await pickCluster("Move the image to", state.cluster[i]);
    if (cluster !== null) moveImages([i], cluster);
  },
  nowhere: () => moveImages([seen.trail.at(-1)], NOWHERE),
  pick() {
    toggle(seen.trail.at(-1));
    say(`${grouped(selected.size)} selected`);
  },
  back() {
    seen.trail.pop();
    drawImage();
    byId("image-title").focus();
  },
  before: () => besides(-1),
  after: () => besides(1),
};
for (const button of imageView.querySelectorAll("[data-act]")) button.addEventListener("click", () => imageActs[button.dataset.act]());
byId("image-large").addEventListener("click", ({ currentTarget }) => currentTarget.classList.toggle("real"));

imageView.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
  const inGrid = event.target.closest(".grid");
  const act = { ArrowLeft: "before", ArrowRight: "after", m: "move", w: "nowhere", s: "pick" }[event.key];
  const key = imageView.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (act && !(inGrid && event.key.startsWith("Arrow"))) imageActs[act]();
  else if (key) key.click();
  else return;
  event.preventDefault();
});
refocus(imageView, () => {
  if (seen.place >= 0 && !gallery.hidden) return wall.tiles.get(wall.active);
  return [...document.querySelectorAll(`[data-image="${seen.trail[0]}"]`)].find((other) => other.checkVisibility()) ?? null;
});
watchers.push(() => { if (imageView.open) drawImage(); });
