// Thumbnails, cut from sheets that are decoded when one of their images comes into view.
const MAX_OPEN = 32;
/** Size of a canvas with a picture. */
const FRAME = { width: data.sheet.width, height: data.sheet.height };
const openSheets = new Map();
const parsed = new Promise((resolve) => { addEventListener("DOMContentLoaded", resolve); });

function sheetOf(i) {
  const which = Math.floor(images.cell[i] / data.sheet.columns ** 2);
  const found = openSheets.get(which) ?? decoded(which);
  // Most recently used last.
  openSheets.delete(which);
  openSheets.set(which, found);
  if (openSheets.size > MAX_OPEN) {
    const [oldest, sheet] = openSheets.entries().next().value;
    openSheets.delete(oldest);
    sheet.then((bitmap) => bitmap.close());
  }
  return found;
}

/** The first sheet precedes this script, the others follow it. */
async function decoded(which) {
  if (document.readyState === "loading" && which > 0) await parsed;
  const text = document.querySelector(`script[data-sheet="${which}"]`).textContent;
  return createImageBitmap(new Blob([bytes(text.trim())], { type: "image/webp" }));
}

/** Position of an image on its sheet, as arguments of drawImage. */
function cellOf(i) {
  const { columns, width, height } = data.sheet;
  const place = images.cell[i] % columns ** 2;
  return [(place % columns) * width, Math.floor(place / columns) * height, width, height];
}

async function paint(canvas) {
  const i = Number(canvas.dataset.shows);
  const sheet = await sheetOf(i);
  if (Number(canvas.dataset.shows) !== i) return;
  [canvas.width, canvas.height] = [data.sheet.width, data.sheet.height];
  canvas.getContext("2d").drawImage(sheet, ...cellOf(i), 0, 0, canvas.width, canvas.height);
}
