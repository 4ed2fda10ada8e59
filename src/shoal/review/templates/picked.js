// The selection: rows of images, with the bar that says what can be done with them.
const bar = byId("picked");
const picking = [];
let selected = new Set();

/** Select these images and no others. */
function select(rows) {
  selected = new Set(rows);
  drawPicked();
}

function addToSelection(rows) {
  for (const i of rows) selected.add(i);
  drawPicked();
}

function removeFromSelection(rows) {
  for (const i of rows) selected.delete(i);
  drawPicked();
}

function toggle(i) {
  if (selected.has(i)) removeFromSelection([i]);
  else addToSelection([i]);
}

function drawPicked() {
  bar.hidden = !selected.size;
  byId("n-picked").textContent = `${grouped(selected.size)} selected`;
  for (const watcher of picking) watcher();
}

/** The selected images, in the order of their rows. */
function pickedRows() {
  return [...selected].sort((a, b) => a - b);
}

async function movePicked(cluster) {
  const rows = pickedRows();
  if (!rows.length) return;
  select([]);
  await moveImages(rows, cluster);
}

const picks = {
  async move() {
    const cluster = await pickCluster(`Move ${imagesText(selected.size)} to`);
    if (cluster !== null) await movePicked(cluster);
  },
  async create() {
    const name = await askName(`New cluster of ${imagesText(selected.size)}`, "");
    if (name === null) return;
    const rows = pickedRows();
    select([]);
    const answer = await decide({ do: "new", images: rows, name });
    if (answer) say(`${fullName(answer.numbers[0])} was made of ${imagesText(rows.length)}.`);
  },
  async similar() {
    const rows = pickedRows();
    const answer = await attempt(() => post("/api/more", { rows, n: 300 }));
    if (!answer) return;
    showListed(`More like the ${imagesText(rows.length)} selected`, answer.rows, "Nearest first. Click those that belong with them, or drag a frame around them; then move them all.");
  },
  nowhere: () => movePicked(NOWHERE),
  async confirm() {
    const rows = pickedRows();
    select([]);
    if (await decide({ do: "confirm", images: rows })) say(`${imagesText(rows.length)} confirmed.`);
  },
  show: () => showListed(`${imagesText(selected.size)} selected`, pickedRows(), ""),
  clear() {
    select([]);
    say("No image is selected.");
  },
};

for (const button of bar.querySelectorAll("[data-pick]")) {
  button.addEventListener("click", () => picks[button.dataset.pick]());
}
