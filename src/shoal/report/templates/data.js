// The data of the page, as written by contents.py; it never changes.
const data = JSON.parse(byId("data").textContent);

function bytes(text) {
  const raw = atob(text);
  const found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found;
}

function column(name, Type) {
  return new Type(bytes(data.columns[name]).buffer);
}

const images = {
  n: data.ids.length,
  ids: data.ids,
  cluster: column("cluster", Int32Array),
  label: column("label", Int32Array),
  confidence: column("confidence", Float32Array),
  cell: column("cell", Int32Array),
  place: column("place", Uint16Array),
  neighbours: column("neighbours", Int32Array),
};
const OFF_THE_MAP = 65535;

/** An id as in the tables: stray bytes of a name that is not UTF-8 are escaped. */
function spelt(id) {
  return id.replace(/\p{Surrogate}/gu, (stray) => `\\u${stray.charCodeAt(0).toString(16)}`);
}

function className(i) {
  return images.label[i] < 0 ? "" : data.classes[images.label[i]];
}

function describe(i) {
  const name = className(i);
  return name ? `${images.ids[i]} · ${name}` : images.ids[i];
}

function writeName(target, i) {
  target.textContent = describe(i);
}

/** Name an element after an image. */
function nameAfter(target, i) {
  target.ariaLabel = target.title = describe(i);
}

function neighboursOf(i) {
  return [...images.neighbours.subarray(8 * i, 8 * i + 8)].filter((other) => other >= 0);
}
