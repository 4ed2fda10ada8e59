// The cards: one per cluster, with its most central and most doubtful images.
const CARDS = 60;
const cards = document.querySelector("#clusters .cards");
let cardPage = 0;

/** Least confident first; with a single cluster there is no doubt. */
function byDoubt(members) {
  return K > 1 ? members.toSorted((a, b) => images.confidence[a] - images.confidence[b]) : members;
}

function isStray(cluster) {
  const majority = data.majorities[cluster];
  return (i) => majority !== "" && className(i) !== "" && className(i) !== majority;
}

function facts(cluster) {
  const size = state.sizes[cluster];
  const clustered = state.sizes.reduce((sum, each) => sum + each, 0);
  const shown = state.members[cluster].length;
  const found = [imagesText(size)];
  if (nameOf(cluster) !== `Cluster ${cluster}`) found.unshift(`cluster ${cluster}`);
  if (data.majorities[cluster]) found.push(`${percentage(purity(cluster))} ${data.majorities[cluster] === nameOf(cluster) ? "pure" : data.majorities[cluster]}`);
  else if (size) found.push(`${percentage(size / Math.max(1, clustered))} of all`);
  if (shown < size) found.push(`${grouped(shown)} shown`);
  const merged = state.into.flatMap((goal, old) => (goal === cluster && old !== cluster ? [old] : []));
  if (merged.length) found.push(`includes cluster${merged.length > 1 ? "s" : ""} ${merged.join(", ")}`);
  return found.map((text) => element("span", {}, text));
}

/** As written into the page; after edits, of the images shown. */
function purity(cluster) {
  const labelled = state.members[cluster].filter((i) => images.label[i] >= 0);
  const edited = state.count > 0;
  if (!edited) return data.purities[cluster];
  return labelled.filter((i) => !isStray(cluster)(i)).length / Math.max(1, labelled.length);
}

function card(cluster) {
  const { central, doubtful } = data.card;
  const [lead, own, stray] = [central > 3, state.members[cluster], isStray(cluster)];
  const [first, rest] = [own.slice(0, central), own.slice(central)];
  const last = K > 1 ? byDoubt(rest).slice(0, doubtful) : [];
  const name = nameOf(cluster);
  const grid = (members, label, kind) => fill(
    element("div", { class: `grid mosaic ${kind}`, role: "group", "aria-label": `${label} of ${name}` }),
    members.map((i) => thumb(i, stray(i))),
  );
  const parts = [element("h3", {}, swatch(cluster), name), element("p", { class: "facts" }, ...facts(cluster))];
  if (first.length) parts.push(grid(lead ? first : [...first, ...last], "Most central images", lead ? "lead" : ""));
  else parts.push(element("p", { class: "empty" }, state.sizes[cluster] ? "None of its images are on this page." : "This cluster is empty."));
  if (last.length && lead) parts.push(element("p", { class: "label" }, "Most doubtful"), grid(last, "Most doubtful images", ""));
  const all = own.length < state.sizes[cluster] ? `Open the ${grouped(own.length)} shown` : `Open all ${grouped(own.length)}`;
  const open = own.length > 1 ? all : "Open";
  parts.push(action(open, () => showCluster(cluster), { class: "open", "aria-label": `${open}: ${fullName(cluster)}` }));
  // Links to clusters that were merged into this one lead here.
  const merged = state.into.flatMap((goal, old) => (goal === cluster && old !== cluster ? [element("i", { id: `cluster-${old}` })] : []));
  return element("li", { class: "card", id: `cluster-${cluster}` }, ...merged, ...parts);
}

const cardPager = makePager("clusters", (page) => {
  showCards(page);
  byId("clusters").scrollIntoView();
  say(`Page ${page + 1} of the clusters`);
});
cards.after(cardPager.host);

function showCards(page) {
  cardPage = Math.min(page, Math.floor((state.alive.length - 1) / CARDS));
  const focused = cards.contains(document.activeElement) ? document.activeElement.closest(".card").id : null;
  cards.replaceChildren(...state.alive.slice(cardPage * CARDS, (cardPage + 1) * CARDS).map(card));
  cardPager.show(cardPage, state.alive.length, CARDS);
  if (focused) byId(focused)?.querySelector(".open").focus();
}

/** Follow a link to a cluster: show the page of cards that it is on. */
function reveal() {
  const found = /^#cluster-(\d+)$/.exec(location.hash);
  if (!found || !(Number(found[1]) < K)) return;
  const cluster = state.into[Number(found[1])];
  const page = Math.floor(state.alive.indexOf(cluster) / CARDS);
  if (page !== cardPage) showCards(page);
  byId(`cluster-${cluster}`).scrollIntoView();
}

watchers.push(() => showCards(cardPage));
showCards(0);
addEventListener("hashchange", reveal);
