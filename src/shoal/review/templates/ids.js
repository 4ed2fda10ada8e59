// The names of images, fetched when they are shown. They reach the page as text and as attributes only, never as HTML.
const MAX_IDS = 20_000;
const IDS_AT_ONCE = 1000;
const idOf = new Map();
const unnamed = new Map();
let fetchingIds = 0;

function describe(i) {
  return idOf.get(i) ?? `Image ${grouped(i + 1)}`;
}

/** Write into an element by ``write``, now and once the name is known. */
function whenNamed(i, write) {
  write(describe(i));
  if (idOf.has(i)) return;
  if (!unnamed.has(i)) unnamed.set(i, []);
  unnamed.get(i).push(write);
  fetchingIds ||= setTimeout(fetchIds, 60);
}

async function fetchIds() {
  const rows = [...unnamed.keys()].slice(-IDS_AT_ONCE);
  await attempt(async () => {
    await loadIds(rows);
    for (const i of rows) {
      for (const write of unnamed.get(i) ?? []) write(describe(i));
      unnamed.delete(i);
    }
    trim(unnamed, MAX_IDS);
  });
  fetchingIds = unnamed.size && !link.lost ? setTimeout(fetchIds, 60) : 0;
}

async function loadIds(rows) {
  const missing = rows.filter((i) => !idOf.has(i));
  for (let first = 0; first < missing.length; first += IDS_AT_ONCE) {
    const some = missing.slice(first, first + IDS_AT_ONCE);
    const names = await getJson(`/api/ids?rows=${some}`);
    some.forEach((i, at) => idOf.set(i, names[at]));
  }
  trim(idOf, MAX_IDS);
}

/** Forget the oldest entries of a map beyond a number. */
function trim(entries, most) {
  for (const key of entries.keys()) {
    if (entries.size <= most) return;
    entries.delete(key);
  }
}

function writeName(target, i) {
  target.dataset.named = i;
  whenNamed(i, (text) => { if (target.dataset.named === String(i)) target.textContent = text; });
}

/** Name an element after an image. */
function nameAfter(target, i) {
  target.dataset.named = i;
  whenNamed(i, (text) => { if (target.dataset.named === String(i)) target.ariaLabel = target.title = text; });
}
