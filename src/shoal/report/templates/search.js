// Search by part of an id.
const query = byId("query");
const results = byId("results");
const showResults = pagedGrid(results.querySelector(".pictures"), "Images found");
const lowered = images.ids.map((id) => id.toLowerCase());
let found = [];
let waiting = 0;

function search() {
  clearTimeout(waiting);
  const part = query.value.trim().toLowerCase();
  found = part ? [...lowered.keys()].filter((i) => lowered[i].includes(part)) : [];
  results.hidden = !part;
  byId("results-title").textContent = found.length ? `${imagesText(found.length)} found` : "Nothing found";
  results.querySelector(".select").hidden = !found.length;
  if (part) showResults(found);
  if (part) say(byId("results-title").textContent);
}

function clearSearch() {
  query.value = "";
  search();
  query.focus();
}

query.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(search, 120);
});
query.addEventListener("keydown", (event) => { if (event.key === "Escape") clearSearch(); });
query.form.addEventListener("submit", (event) => {
  event.preventDefault();
  search();
  if (found.length) showImage(found[0]);
});
results.querySelector(".clear").addEventListener("click", clearSearch);
results.querySelector(".select").addEventListener("click", () => {
  select(found);
  showSelection();
});
