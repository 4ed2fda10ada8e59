// Keys that work everywhere, and their list.
const help = byId("help");

/** Keys of the view that is shown come first, then those of the selection. */
const KEYS = [
  { when: () => !desk.hidden && quiz.queue.length, keys: { x: () => replies.none(), w: () => replies.nowhere(), n: () => replies.new(), " ": () => replies.skip(), u: () => replies.undo(), l: () => byId("learn").click() } },
  { when: () => selected.size, keys: { m: () => picks.move(), n: () => picks.create(), l: () => picks.similar(), w: () => picks.nowhere(), k: () => picks.confirm(), Escape: () => picks.clear() } },
  { when: () => !gallery.hidden && !byId("of-cluster").hidden, keys: { r: () => byId("rename-this").click(), s: () => byId("split-this").click(), j: () => byId("merge-this").click() } },
  { when: () => !board.hidden, keys: { j: () => byId("merge-chosen").click() } },
  { when: () => true, keys: { u: () => byId("undo").click(), "?": () => openDialog(help), "/": focusSearch, c: () => go("clusters"), i: () => go("images"), p: () => go("map"), q: () => go("questions"), d: () => go("duplicates") } },
];

function go(view) {
  const link = document.querySelector(`nav a[href="#/${view}"]`);
  if (link && !link.hidden) location.hash = `#/${view}`;
}

function focusSearch() {
  const field = board.hidden ? filters.elements.text : byId("cluster-part");
  if (board.hidden && gallery.hidden) location.hash = "#/images";
  setTimeout(() => field.focus(), 50);
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || document.querySelector("dialog[open]") || event.target.matches("input:not([type=checkbox]), select, textarea")) return;
  if (event.altKey) return;
  if (event.ctrlKey || event.metaKey) {
    if (event.key !== "z" || event.shiftKey) return;
    event.preventDefault();
    byId("undo").click();
    return;
  }
  if (event.key === " " && event.target.matches("button, a, summary, [type=checkbox]")) return;
  const card = event.target.closest?.(".card");
  if ((event.key === "F2" || event.key === "r") && card) {
    event.preventDefault();
    card.querySelector(".name")?.click();
    return;
  }
  const digit = !desk.hidden && desk.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  const act = digit ? () => digit.click() : KEYS.find(({ when, keys }) => event.key in keys && when())?.keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
byId("open-help").addEventListener("click", () => openDialog(help));
