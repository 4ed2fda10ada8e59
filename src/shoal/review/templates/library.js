// The clusters and which image is in which, as the server has them.
const images = { n: 0, confidence: null, place: null, date: null, fixed: null };
const state = { version: -1, title: "", key: "", cluster: new Int32Array(0), clusters: new Map(), alive: [], nowhere: 0, answers: 0, undoable: false, has: {}, folders: [] };
const watchers = [];
const OFF_THE_MAP = 65535;
const NOWHERE = -1;

function takeClusters({ version, clusters, nowhere, answers, undoable }) {
  Object.assign(state, { version, nowhere, answers, undoable });
  state.clusters = new Map(clusters.map((cluster) => [cluster.number, cluster]));
  state.alive = clusters.map((cluster) => cluster.number);
}

/** Where an image is; browsers keep it, and another layer may have other rows. */
const urlOf = (row) => `/image/${row}?of=${state.key}`;

function tellWatchers() {
  for (const watcher of watchers) watcher();
}

/** Everything anew: at the start, and when another tab has changed something. */
async function refresh() {
  const found = await getJson("/api/state");
  await Promise.all([loadLabels(), loadConfidence()]);
  takeClusters(found);
  reached();
  tellWatchers();
}

async function loadLabels() {
  [state.cluster, images.fixed] = await Promise.all([getNumbers("/api/column/label", Int32Array), getNumbers("/api/column/fixed", Uint8Array)]);
}

/** What the server answers to a decision. */
async function takeAnswer(answer) {
  if (answer.since !== state.version) return refresh(); // Another tab was faster.
  answer.changed.rows.forEach((row, at) => { state.cluster[row] = answer.changed.labels[at]; });
  takeClusters(answer);
  images.fixed = await getNumbers("/api/column/fixed", Uint8Array);
  tellWatchers();
  return answer;
}

/** How sure the clusters are of their images; it changes when something is learned. */
async function loadConfidence() {
  images.confidence = await getNumbers("/api/column/confidence", Float32Array);
}

async function loadPlaces() {
  if (state.has.map) images.place = await getNumbers("/api/column/place", Uint16Array);
}

/** When each image was taken, which takes the server a while at the first time. */
async function loadDates() {
  images.date ??= await getNumbers("/api/column/date", Int32Array);
}

function nameOf(cluster) {
  if (cluster === NOWHERE) return "Nowhere";
  return state.clusters.get(cluster)?.name || `Cluster ${cluster}`;
}

/** The name with the cluster's number, unless it is the number. */
function fullName(cluster) {
  const name = nameOf(cluster);
  return cluster === NOWHERE || name === `Cluster ${cluster}` ? name : `${name} (cluster ${cluster})`;
}

function sizeOf(cluster) {
  return cluster === NOWHERE ? state.nowhere : state.clusters.get(cluster)?.size ?? 0;
}

/** The name with its sign. */
function sign(cluster) {
  return cluster === NOWHERE ? [nameOf(cluster)] : [swatch(cluster), nameOf(cluster)];
}

function isShown(cluster) {
  return sizeOf(cluster) > 0;
}

function presentCluster(cluster) {
  return state.clusters.has(cluster) ? cluster : null;
}
