// Near-duplicates and outliers: pictures of images on this page, names of the others.
const GROUPS = 12;

function entry(item) {
  const inside = typeof item === "number" ? [thumb(item), element("small", {}, images.ids[item])] : [element("small", {}, item)];
  return element("li", {}, ...inside);
}

function copyEntry({ image, note, keep }) {
  const item = entry(image);
  if (keep) item.append(element("strong", { class: "keep" }, "keep"));
  if (note) item.append(element("small", { class: "note" }, note));
  return item;
}

function listing(members, label, entryOf = entry) {
  const list = element("ul", { class: "listing", "aria-label": label }, ...members.map(entryOf));
  for (const button of list.querySelectorAll(".thumb")) button.tabIndex = 0;
  return list;
}

function pagedLists(host, groups, label) {
  const lists = element("div", { class: "groups" });
  const pager = makePager(label, (page) => {
    turn(page);
    say(`Page ${page + 1}`);
  });
  function turn(page) {
    const first = page * GROUPS;
    lists.replaceChildren(...groups.slice(first, first + GROUPS).map(([name, members]) => listing(members, name, copyEntry)));
    pager.show(page, groups.length, GROUPS);
  }
  host.append(lists, pager.host);
  turn(0);
}

const duplicates = document.querySelector("#duplicates .pictures");
if (duplicates) {
  pagedLists(duplicates, data.duplicates.map((members, i) => [`Group ${i + 1}: ${imagesText(members.length)}`, members]), "near-duplicates");
}
const outliers = document.querySelector("#outliers .pictures");
if (outliers) {
  const rows = [];
  for (let i = 0; i < data.outliers.length; i += PER_PAGE) rows.push(["Outliers", data.outliers.slice(i, i + PER_PAGE)]);
  outliers.append(...rows.slice(0, 1).map(([name, members]) => listing(members, name)));
  if (rows.length > 1) outliers.append(restOf(rows.slice(1)));
}

function restOf(rows) {
  const n = rows.reduce((sum, [, members]) => sum + members.length, 0);
  const more = action(`Show ${grouped(n)} more`, () => more.replaceWith(...rows.map(([name, members]) => listing(members, name))));
  return more;
}
