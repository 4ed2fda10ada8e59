// Helpers: elements, announcements, dialogs, and grids of buttons that are a single Tab stop.
const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en").format;

function grouped(n) {
  return number(n).replaceAll(",", "\u202f");
}

function imagesText(n) {
  return `${grouped(n)} ${n === 1 ? "image" : "images"}`;
}

function percentage(share) {
  return `${(100 * share).toFixed(1)}\u202f%`;
}

/** An element with attributes and children; false and null are left out, and strings become text nodes. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** A button with a click handler. */
function action(text, act, attributes = {}) {
  const button = element("button", { type: "button", ...attributes }, text);
  button.addEventListener("click", () => { if (button.ariaDisabled !== "true") act(button); });
  return button;
}

/** Announce a text to screen readers, inside the open dialog if there is one: nothing behind it is announced. */
function say(text) {
  const dialog = [...document.querySelectorAll("dialog[open]")].at(-1);
  (dialog ?? document).querySelector("[role=status].said").textContent = text;
}

/** Open a dialog, scrolled to its top. */
function openDialog(dialog) {
  for (const said of dialog.querySelectorAll(".said")) said.textContent = "";
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

/** Return the focus when a dialog closes: to what opened it, or to what ``find`` returns if that was redrawn. */
function refocus(dialog, find) {
  dialog.addEventListener("close", () => {
    const now = document.activeElement;
    if (!now || now === document.body || dialog.contains(now)) find()?.focus();
  });
}

function options(select, skipped) {
  const others = state.alive.filter((cluster) => cluster !== skipped);
  select.replaceChildren(...others.map((cluster) => element("option", { value: cluster }, fullName(cluster))));
}

for (const button of document.querySelectorAll("dialog .close")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}

// Arrow keys move within a grid, which is a single Tab stop.
document.addEventListener("focusin", (event) => {
  const grid = event.target.closest?.(".grid");
  if (!grid || !event.target.matches(".thumb")) return;
  for (const thumb of grid.querySelectorAll('.thumb[tabindex="0"]')) thumb.tabIndex = -1;
  event.target.tabIndex = 0;
});
document.addEventListener("keydown", (event) => {
  const grid = event.target.closest?.(".grid");
  if (!grid || !event.target.matches(".thumb") || event.ctrlKey || event.metaKey || event.altKey) return;
  const thumbs = [...grid.querySelectorAll(".thumb")];
  const place = thumbs.indexOf(event.target);
  // The first picture may span two rows: take the fullest row.
  const lengths = new Map();
  for (const thumb of thumbs) lengths.set(thumb.offsetTop, (lengths.get(thumb.offsetTop) ?? 0) + 1);
  const across = Math.max(...lengths.values());
  const goals = { ArrowLeft: place - 1, ArrowRight: place + 1, ArrowUp: place - across, ArrowDown: place + across };
  const goal = { ...goals, Home: 0, End: thumbs.length - 1 }[event.key];
  if (goal === undefined) return;
  event.preventDefault();
  thumbs[Math.min(Math.max(goal, 0), thumbs.length - 1)].focus();
});

async function copyText(text, fallback, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // Some browsers deny the clipboard to pages opened from disk.
    if (fallback.select) fallback.select();
    else getSelection().selectAllChildren(fallback);
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => { button.textContent = before; }, 2500);
}

for (const button of document.querySelectorAll("[data-copies]")) {
  const source = byId(button.dataset.copies);
  button.addEventListener("click", () => copyText(source.textContent, source, button));
}

function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
