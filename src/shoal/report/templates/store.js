// The user's edits: a list of steps, replayed from the start after every change; undo drops the last step.
const K = data.sizes.length;
const KEY = `shoal-report-${data.key}`;
const watchers = [];
let steps = [];
let kept = true;
let state = null;

/** Rank of each image in its original cluster, from 0 (most central) to 1: the order within merged clusters. */
const outwards = new Float32Array(images.n);
for (let start = 0, end; start < images.n; start = end) {
  for (end = start; end < images.n && images.cluster[end] === images.cluster[start]; end++);
  for (let i = start; i < end; i++) outwards[i] = (i - start) / (end - start);
}

function played() {
  const into = Array.from({ length: K }, (_, cluster) => cluster);
  const names = new Map([...data.names.entries()].filter(([, name]) => name));
  const moved = new Map();
  const from = steps.findLastIndex((step) => step.kind === "reset") + 1;
  for (const step of steps.slice(from)) {
    if (step.kind === "rename") names.set(step.cluster, step.name);
    if (step.kind === "move") for (const i of step.images) moved.set(i, step.cluster);
    if (step.kind === "merge") into.forEach((goal, i) => { if (goal === step.from) into[i] = step.into; });
  }
  return { into, names, moved, count: steps.length - from };
}

function derived() {
  const { into, names, moved, count } = played();
  const sizes = new Array(K).fill(0);
  const members = Array.from({ length: K }, () => []);
  into.forEach((goal, cluster) => { sizes[goal] += data.sizes[cluster]; });
  const cluster = images.cluster.map((own, i) => {
    const goal = moved.get(i) ?? own;
    return goal < 0 ? -1 : into[goal];
  });
  for (const i of moved.keys()) {
    if (images.cluster[i] >= 0) sizes[into[images.cluster[i]]] -= 1;
    sizes[cluster[i]] += 1;
  }
  cluster.forEach((own, i) => { if (own >= 0) members[own].push(i); });
  const alive = into.map((_, i) => i).filter((i) => into[i] === i && !data.merged.includes(i));
  for (const own of alive) members[own].sort((a, b) => outwards[a] - outwards[b] || a - b);
  return { into, names, cluster, sizes, members, alive, count };
}

function nameOf(cluster) {
  return state.names.get(cluster) || data.majorities[cluster] || `Cluster ${cluster}`;
}

/** The cluster that a cluster is part of now. */
function presentCluster(cluster) {
  return state.into[cluster];
}

/** Whether images of the cluster are on this page. */
function isShown(cluster) {
  return state.members[cluster].length > 0;
}

/** The name with the cluster's number, unless it is the number. */
function fullName(cluster) {
  const name = nameOf(cluster);
  return name === `Cluster ${cluster}` ? name : `${name} (cluster ${cluster})`;
}

function changed() {
  state = derived();
  try {
    if (steps.length) localStorage.setItem(KEY, JSON.stringify(steps));
    else localStorage.removeItem(KEY);
  } catch {
    kept = false; // no storage for pages opened from disk, or it is full
  }
  for (const watcher of watchers) watcher();
}

function take(step) {
  steps.push(step);
  changed();
}

function undo() {
  steps.pop();
  changed();
}

function sound(step) {
  const known = (cluster) => Number.isInteger(cluster) && cluster >= 0 && cluster < K;
  const shown = (i) => Number.isInteger(i) && i >= 0 && i < images.n;
  if (step?.kind === "reset") return true;
  if (step?.kind === "rename") return known(step.cluster) && typeof step.name === "string";
  if (step?.kind === "merge") return known(step.from) && known(step.into);
  return step?.kind === "move" && known(step.cluster) && Array.isArray(step.images) && step.images.every(shown);
}

function restore() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    if (Array.isArray(found) && found.every(sound)) steps = found;
  } catch {
    kept = false;
  }
  state = derived();
}
restore();
