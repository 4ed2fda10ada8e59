// Learning from the answers: what would change is shown, and kept only if it is accepted.
const proposal = byId("proposal");
const learned = { file: null, busy: false };

byId("learn").addEventListener("click", async ({ target }) => {
  if (target.ariaDisabled === "true" || learned.busy) return;
  learned.busy = true;
  target.setAttribute("aria-busy", "true");
  say("Learning from the answers.");
  await attempt(async () => {
    while (outbox.length) await pause(100); // Answers on their way count too.
    drawProposal(await post("/api/learn", {}));
  });
  learned.busy = false;
  target.removeAttribute("aria-busy");
});

function drawProposal({ file, n_changed: n, how, flows, sample, clusters }) {
  learned.file = file;
  const names = new Map((clusters ?? []).map((cluster) => [cluster.number, cluster.name]));
  const nameIn = (cluster) => [...(cluster === NOWHERE ? [] : [swatch(cluster)]), state.clusters.has(cluster) || cluster === NOWHERE ? nameOf(cluster) : names.get(cluster) || `Cluster ${cluster}`];
  proposal.querySelector("h2").textContent = n ? `${imagesText(n)} would change cluster` : "Nothing would change";
  byId("how").textContent = [how.replace(/\.*$/, "."), n ? "Nothing is kept until you accept it." : ""].join(" ");
  byId("accept").parentElement.hidden = !n;
  byId("flows").replaceChildren(...flows.slice(0, 40).map(([from, to, count]) => element("li", {}, element("b", {}, grouped(count)), element("span", {}, ...nameIn(from)), element("span", { "aria-label": "to" }, "→"), element("span", {}, ...nameIn(to)))));
  byId("sample").replaceChildren(...sample.map(([row, from, to]) => {
    const shown = thumb(row);
    shown.tabIndex = 0;
    return element("li", {}, shown, element("small", {}, ...nameIn(from), element("span", { "aria-label": "to" }, "→"), ...nameIn(to)));
  }));
  openDialog(proposal);
}

byId("accept").addEventListener("click", async () => {
  const answer = await attempt(() => post("/api/accept", { file: learned.file }));
  proposal.close();
  if (!answer) return;
  await attempt(async () => {
    await loadConfidence();
    await takeAnswer(answer);
  });
  Object.assign(quiz, { queue: [], past: [], answered: 0, changed: 0 });
  say("The clusters follow the answers now.");
  openQuestions();
});
refocus(proposal, () => byId("learn"));
