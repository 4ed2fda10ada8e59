// The board: a card for each cluster, to be named in place, chosen, opened.
const CARDS = 60;
const board = byId("clusters");
const cards = board.querySelector(".cards");
const chosen = new Set();
const suggestions = new Map();
const ORDERS = {
  number: (a, b) => a - b,
  size: (a, b) => sizeOf(b) - sizeOf(a),
  name: (a, b) => nameOf(a).localeCompare(nameOf(b), undefined, { numeric: true }),
};
let cardPage = 0;

function card(cluster) {
  const { size, central, doubtful, name } = state.clusters.get(cluster);
  const mosaic = (members, text, kind) => fill(element("div", { class: `grid mosaic ${kind}`, role: "group", "aria-label": `${text} of ${nameOf(cluster)}` }), members.map((i) => thumb(i)));
  const first = central.slice(0, 9);
  const last = size > central.length ? doubtful.filter((i) => !first.includes(i)) : [];
  const box = element("input", { type: "checkbox", "aria-label": `Choose ${fullName(cluster)}`, "data-chooses": cluster });
  box.checked = chosen.has(cluster);
  const made = element("li", { class: "card", id: `cluster-${cluster}` },
    element("h3", {}, swatch(cluster), nameButton(cluster), box),
    element("p", { class: "facts" }, ...[name ? `cluster ${cluster}` : "", imagesText(size), `${percentage(size / images.n)} of all`].filter(Boolean).map((text) => element("span", {}, text))));
  if (suggestions.has(cluster) && !name) made.append(suggestion(cluster));
  if (first.length) made.append(mosaic(first, "Most central images", first.length > 3 ? "lead" : ""));
  if (last.length) made.append(element("p", { class: "label" }, "Most doubtful"), mosaic(last, "Most doubtful images", ""));
  if (!size) made.append(element("p", { class: "empty" }, "This cluster is empty."));
  const open = size > 1 ? `Open all ${grouped(size)}` : "Open";
  made.append(action(open, () => showCluster(cluster), { class: "open", "aria-label": `${open}: ${fullName(cluster)}` }));
  return made;
}

/** The name, which a click turns into a field. */
function nameButton(cluster) {
  return action(nameOf(cluster), (button) => editName(button, cluster), { class: "name", title: "Rename", "data-names": cluster });
}

function editName(button, cluster) {
  const before = state.clusters.get(cluster).name;
  const field = element("input", { type: "text", class: "name-field", maxlength: 200, autocomplete: "off", "aria-label": `Name of ${fullName(cluster)}`, placeholder: `Cluster ${cluster}`, value: before });
  let over = false;
  const end = (keep) => {
    if (over) return;
    over = true;
    const name = field.value.trim();
    const focused = document.activeElement === field;
    field.replaceWith(button);
    if (focused) button.focus();
    if (keep && name !== before) rename(cluster, name);
  };
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    // The focus goes to the button, which the same Enter would press.
    event.preventDefault();
    event.stopPropagation();
    end(event.key === "Enter");
  });
  field.addEventListener("blur", () => end(true));
  button.replaceWith(field);
  field.select();
}

async function rename(cluster, name) {
  if (await decide({ do: "rename", cluster, name })) say(name ? `Cluster ${cluster} is now called ${name}.` : `Cluster ${cluster} has no name any more.`);
}

function suggestion(cluster) {
  const [name] = suggestions.get(cluster)[0];
  return element("p", { class: "suggested" }, "Suggested: ", element("i", {}, name), " ", action("Accept", () => rename(cluster, name), { "aria-label": `Accept ${name} as the name of cluster ${cluster}` }));
}

const cardPager = makePager("clusters", (page) => {
  drawBoard(page);
  board.scrollIntoView();
  say(`Page ${page + 1} of the clusters`);
});
cards.after(cardPager.host);

function drawBoard(page = cardPage) {
  if (board.hidden) return;
  const part = byId("cluster-part").value.trim().toLowerCase();
  const fitting = state.alive.filter((cluster) => fullName(cluster).toLowerCase().includes(part)).sort(ORDERS[byId("cluster-order").value]);
  cardPage = Math.max(0, Math.min(page, Math.ceil(fitting.length / CARDS) - 1));
  const editing = cards.querySelector(".name-field");
  if (editing) return; // It is drawn when the name is given.
  const focused = cards.contains(document.activeElement) ? document.activeElement : null;
  const [place, kind] = [focused?.closest(".card").id, focused?.className];
  cards.replaceChildren(...fitting.slice(cardPage * CARDS, (cardPage + 1) * CARDS).map(card));
  cards.classList.toggle("small", fitting.length > 120);
  cardPager.show(cardPage, fitting.length, CARDS);
  if (focused) byId(place)?.querySelector(kind ? `.${kind.split(" ")[0]}` : "input")?.focus();
  board.querySelector(".none").hidden = fitting.length > 0;
  const away = byId("nowhere-card");
  away.hidden = !state.nowhere;
  away.querySelector("span").textContent = `${imagesText(state.nowhere)} in no cluster`;
}

/** Other numbers of clusters that the density suggests. */
function drawLayers(layers) {
  const host = byId("layers");
  host.hidden = !layers.length;
  host.querySelector("div").replaceChildren(...layers.map((k) => element("button", { type: "button", "data-layer": k }, `${grouped(k)} clusters`)));
}

byId("layers").addEventListener("click", async ({ target }) => {
  const layer = target.closest("[data-layer]");
  if (!layer || byId("layers").ariaBusy === "true") return;
  byId("layers").ariaBusy = "true";
  layer.classList.add("waiting");
  say(`Opening ${layer.textContent}.`);
  const opened = await attempt(async () => {
    while (outbox.length) await pause(100); // What was decided here stays here.
    return post("/api/layer", { k: Number(layer.dataset.layer) });
  });
  if (opened) return location.assign("/");
  byId("layers").ariaBusy = "false";
  layer.classList.remove("waiting");
});

byId("cluster-part").addEventListener("input", () => drawBoard(0));
byId("cluster-order").addEventListener("change", () => drawBoard(0));
watchers.push(() => drawBoard());

async function loadSuggestions() {
  if (!state.has.names) return;
  const named = await attempt(() => getJson("/api/names"));
  for (const [cluster, names] of Object.entries(named ?? {})) if (names.length) suggestions.set(Number(cluster), names);
  drawBoard();
  drawChosen();
}
