// Near-duplicates: groups of images, each with the one to keep.
const GROUPS = 12;
const copies = byId("duplicates");
const groupsOfCopies = { all: null };

const copiesPager = makePager("near-duplicates", (page) => {
  drawCopies(page);
  copies.scrollIntoView();
  say(`Page ${page + 1}`);
});
copies.querySelector(".groups").after(copiesPager.host);

async function openCopies() {
  groupsOfCopies.all ??= await attempt(() => getJson("/api/duplicates"));
  drawCopies(0);
}

function drawCopies(page) {
  const all = groupsOfCopies.all ?? [];
  const some = all.slice(page * GROUPS, (page + 1) * GROUPS);
  copies.querySelector(".groups").replaceChildren(...some.map((group, at) => groupOf(group.images, page * GROUPS + at + 1)));
  copies.querySelector(".none").hidden = all.length > 0;
  byId("n-copies").textContent = all.length ? `${grouped(all.length)} ${all.length === 1 ? "group" : "groups"} of nearly identical images.` : "";
  byId("pick-copies").hidden = !all.length;
  copiesPager.show(page, all.length, GROUPS);
}

function groupOf(members, place) {
  const items = members.map(({ row, keep, note }) => {
    const name = element("small");
    writeName(name, row);
    const item = element("li", {}, thumb(row), name);
    item.firstChild.tabIndex = 0;
    if (keep) item.append(element("strong", { class: "keep" }, "keep"));
    if (note) item.append(element("small", { class: "note" }, note));
    return item;
  });
  const spare = spareOf([{ images: members }]);
  const pickRest = action(`Select the ${spare.length === 1 ? "other" : `other ${grouped(spare.length)}`}`, () => pickSpare(spare), { class: "open" });
  return element("li", { class: "copies" }, element("ul", { class: "listing", "aria-label": `Group ${grouped(place)}: ${imagesText(members.length)}` }, ...items), pickRest);
}

/** All images of groups but those to keep; the first of a group without any is kept. */
function spareOf(groups) {
  return groups.flatMap(({ images: members }) => {
    const kept = members.some((member) => member.keep) ? members.filter((member) => member.keep) : members.slice(0, 1);
    return members.filter((member) => !kept.includes(member)).map((member) => member.row);
  });
}

function pickSpare(rows) {
  addToSelection(rows);
  say(`${grouped(selected.size)} selected`);
}
byId("pick-copies").addEventListener("click", () => pickSpare(spareOf(groupsOfCopies.all ?? [])));
