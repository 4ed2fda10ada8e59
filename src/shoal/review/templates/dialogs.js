// Two questions that many actions ask: which cluster, and what name.
const picker = byId("picker");
const namer = byId("namer");
const asked = { dialog: null, resolve: null, skipped: null };

/** Ask for one of the clusters; resolves to null if the dialog is closed. */
function pickCluster(title, skipped = null) {
  return askIn(picker, title, () => {
    asked.skipped = skipped;
    byId("picker-part").value = "";
    drawChoices();
    byId("picker-part").focus();
  });
}

/** Ask for a name, which may be empty; resolves to null if the dialog is closed. */
function askName(title, name) {
  return askIn(namer, title, () => {
    byId("namer-name").value = name;
    byId("namer-name").select();
  });
}

function askIn(dialog, title, prepare) {
  const before = document.activeElement;
  asked.resolve?.(null);
  asked.dialog = dialog;
  dialog.querySelector("h2").textContent = title;
  openDialog(dialog);
  prepare();
  return new Promise((resolve) => {
    asked.resolve = (value) => {
      asked.resolve = null;
      if (dialog.open) dialog.close();
      if (before?.isConnected) before.focus();
      resolve(value);
    };
  });
}

function drawChoices() {
  const part = byId("picker-part").value.trim().toLowerCase();
  const fitting = state.alive.filter((cluster) => cluster !== asked.skipped && fullName(cluster).toLowerCase().includes(part));
  const choice = (cluster) => element("li", {}, action("", () => asked.resolve(cluster), { class: "choice", "data-cluster": cluster }));
  byId("picker-list").replaceChildren(...fitting.slice(0, 200).map((cluster) => {
    const item = choice(cluster);
    item.firstChild.append(swatch(cluster), element("span", {}, nameOf(cluster)), element("small", {}, imagesText(sizeOf(cluster))));
    return item;
  }));
  picker.querySelector(".none").hidden = fitting.length > 0;
}

for (const dialog of [picker, namer]) dialog.addEventListener("close", () => { if (asked.dialog === dialog && !dialog.open) asked.resolve?.(null); });
byId("picker-part").addEventListener("input", drawChoices);
picker.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  picker.querySelector(".choice")?.click();
});
picker.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const choices = [...picker.querySelectorAll(".choice")];
  const goal = choices.indexOf(document.activeElement) + step;
  (goal < 0 ? byId("picker-part") : choices[Math.min(goal, choices.length - 1)])?.focus();
});
namer.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  asked.resolve?.(byId("namer-name").value.trim());
});

/** Say what went wrong, to everybody. */
function complain(text) {
  const note = byId("trouble");
  note.querySelector("p").textContent = text;
  note.hidden = false;
  say(text);
}
byId("trouble").querySelector("button").addEventListener("click", () => { byId("trouble").hidden = true; });
