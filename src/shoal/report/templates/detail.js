// The dialog of an image: enlarged, with its cluster, class and confidence and the nearest images.
const detail = byId("detail-view");
const detailParts = {
  title: detail.querySelector("h2"),
  picture: detail.querySelector(".large"),
  facts: detail.querySelector(".about"),
  back: detail.querySelector(".back"),
  pictures: detail.querySelector(".pictures"),
  target: byId("move-to"),
};
let trail = [];

function showImage(i) {
  trail = detail.open ? [...trail, i] : [i];
  openDialog(detail);
  drawImageView();
  if (trail.length > 1) {
    detailParts.title.focus();
    say(`${describe(i)}, ${place(i)}`);
  }
}

function place(i) {
  return state.cluster[i] < 0 ? "in no cluster" : `in ${fullName(state.cluster[i])}`;
}

function drawImageView() {
  const i = trail.at(-1);
  const large = picture(i);
  const cluster = state.cluster[i];
  large.removeAttribute("aria-hidden");
  large.setAttribute("role", "img");
  large.setAttribute("aria-label", describe(i));
  detailParts.title.textContent = images.ids[i];
  detailParts.picture.replaceChildren(large);
  const inside = cluster < 0 ? "none" : action(fullName(cluster), () => showCluster(cluster), { class: "link" });
  const confidence = images.cluster[i] < 0 ? "" : percentage(images.confidence[i]);
  const known = [["Cluster", inside], ["Class", className(i)], ["Confidence", confidence]];
  if (cluster !== images.cluster[i] && images.cluster[i] >= 0) known.push(["Originally in", `cluster ${images.cluster[i]}`]);
  detailParts.facts.replaceChildren(
    ...known.filter(([, value]) => value !== "").map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
  const near = neighboursOf(i).map((other) => thumb(other, state.cluster[other] !== cluster));
  fill(detailParts.pictures, near);
  byId("near").hidden = !near.length;
  detailParts.back.hidden = trail.length < 2;
  options(detailParts.target, cluster);
  byId("move").hidden = detailParts.target.options.length === 0;
}

detailParts.back.addEventListener("click", () => {
  trail.pop();
  drawImageView();
  detailParts.title.focus();
});
byId("move").addEventListener("submit", (event) => {
  event.preventDefault();
  const cluster = Number(detailParts.target.value);
  take({ kind: "move", images: [trail.at(-1)], cluster });
  say(`Moved to ${fullName(cluster)}.`);
});
refocus(detail, () => {
  const thumbs = [...document.querySelectorAll(`[data-image="${trail[0]}"]`)];
  return thumbs.find((thumb) => thumb.checkVisibility()) ?? byId(`cluster-${state.cluster[trail[0]]}`)?.querySelector(".open");
});
watchers.push(() => { if (detail.open) drawImageView(); });
