// Thumbnails: asked for in batches, the latest wanted first, and kept up to a number of bytes.
const MAX_BYTES = 96 * 2 ** 20;
const BATCH = 60;
const IN_FLIGHT = 2;
const PIXELATED_UP_TO = 20;
/** Size of a canvas whose picture is not there yet. */
const FRAME = { width: 1, height: 1 };
const bitmaps = new Map();
const wanted = new Map();
const thumbs = { bytes: 0, asking: 0 };

function paint(canvas) {
  const i = Number(canvas.dataset.shows);
  const bitmap = bitmaps.get(i);
  if (bitmap === undefined) return want(i, canvas);
  // Most recently used last.
  bitmaps.delete(i);
  bitmaps.set(i, bitmap);
  if (bitmap === null) {
    [canvas.width, canvas.height] = [1, 1];
    return canvas.classList.add("unread");
  }
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.classList.remove("unread");
  return canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

function want(i, canvas) {
  if (!wanted.has(i)) wanted.set(i, new Set());
  wanted.get(i).add(canvas);
  queueMicrotask(fetchThumbs);
}

/** The rows that were wanted last and are still to be shown. */
function nextBatch() {
  for (const [i, canvases] of wanted) {
    for (const canvas of canvases) if (canvas.dataset.shows !== String(i) || !canvas.isConnected) canvases.delete(canvas);
    if (!canvases.size) wanted.delete(i);
  }
  return [...wanted.keys()].slice(-BATCH).map((i) => {
    const canvases = wanted.get(i);
    wanted.delete(i);
    return [i, canvases];
  });
}

async function fetchThumbs() {
  if (thumbs.asking >= IN_FLIGHT || !wanted.size || link.lost) return;
  const batch = nextBatch();
  if (!batch.length) return;
  thumbs.asking += 1;
  try {
    const answer = await ask(`/api/thumbs?of=${state.key}&rows=${batch.map(([i]) => i)}`);
    const made = await Promise.all(parts(await answer.arrayBuffer()).map(decoded));
    batch.forEach(([i, canvases], at) => {
      keep(i, made[at]);
      for (const canvas of canvases) if (canvas.dataset.shows === String(i)) paint(canvas);
    });
  } catch (error) {
    for (const [i, canvases] of batch) wanted.set(i, canvases);
    if (isPassing(error)) lost(error);
    else setTimeout(fetchThumbs, 2000);
    return;
  } finally {
    thumbs.asking -= 1;
  }
  fetchThumbs();
}

/** Each part is preceded by its length. */
function parts(buffer) {
  const lengths = new DataView(buffer);
  const found = [];
  for (let at = 0; at < buffer.byteLength;) {
    const length = lengths.getUint32(at, true);
    found.push(new Uint8Array(buffer, at + 4, length));
    at += 4 + length;
  }
  return found;
}

async function decoded(bytes) {
  if (!bytes.length) return null;
  return createImageBitmap(new Blob([bytes], { type: "image/webp" })).catch(() => null);
}

function keep(i, bitmap) {
  if (bitmaps.has(i)) return;
  bitmaps.set(i, bitmap ?? null);
  if (bitmap && Math.max(bitmap.width, bitmap.height) <= PIXELATED_UP_TO) document.body.classList.add("pixelated");
  thumbs.bytes += bytesOf(bitmap);
  for (const [oldest, other] of bitmaps) {
    if (thumbs.bytes <= MAX_BYTES) return;
    bitmaps.delete(oldest);
    thumbs.bytes -= bytesOf(other);
    other?.close();
  }
}

function bytesOf(bitmap) {
  return bitmap ? 4 * bitmap.width * bitmap.height : 0;
}

/** After the server was gone. */
function retryPictures() {
  fetchThumbs();
  if (unnamed.size) fetchingIds ||= setTimeout(fetchIds, 60);
}
