// Training: one cursor for all panels.
const panels = [...document.querySelectorAll(".panel[data-lines]")].map((figure) => ({
  figure,
  lines: JSON.parse(figure.dataset.lines),
  drawing: figure.querySelector(":scope > svg"),
  values: figure.querySelectorAll("figcaption b"),
  epoch: figure.querySelector(".epoch"),
  cursor: figure.querySelector(".cursor"),
}));
const epochs = [...new Set(panels.flatMap((panel) => panel.lines.flat().map(([epoch]) => epoch)))].sort((a, b) => a - b);
const [firstX, lastX] = [44, 308];

function across(epoch) {
  const span = epochs.at(-1) - epochs[0] || 1;
  return firstX + ((epoch - epochs[0]) / span) * (lastX - firstX);
}

function nearest(values, epoch) {
  return values.reduce((best, value) => (Math.abs(value[0] - epoch) < Math.abs(best[0] - epoch) ? value : best));
}

function readOff(epoch) {
  for (const panel of panels) {
    panel.lines.forEach((values, i) => { panel.values[i].textContent = nearest(values, epoch ?? Infinity)[1]; });
    panel.epoch.textContent = epoch === null ? "" : `epoch ${nearest(panel.lines[0], epoch)[0]}`;
    panel.cursor.setAttribute("d", epoch === null ? "" : `M${across(epoch)} 10V152`);
  }
}

let reading = null;
for (const { figure, drawing } of panels) {
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * 320;
    reading = epochs.reduce((best, epoch) => (Math.abs(across(epoch) - x) < Math.abs(across(best) - x) ? epoch : best));
    readOff(reading);
  });
  drawing.addEventListener("pointerleave", () => readOff((reading = null)));
  figure.addEventListener("blur", () => readOff((reading = null)));
  figure.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const place = reading === null ? epochs.length - 1 : epochs.indexOf(reading) + step;
    reading = epochs[Math.min(Math.max(place, 0), epochs.length - 1)];
    readOff(reading);
  });
}
