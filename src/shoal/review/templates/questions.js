// Questions: one image and the clusters it may be in. The next one is shown at once; answers follow to the server.
const desk = byId("questions");
const AHEAD = 10;
const MOST_KNOWN = 1000;
const quiz = { queue: [], past: [], asked: new Set(), turn: 0, answered: 0, changed: 0, fetching: null, over: false };

/** Have questions at hand, none of them asked before. */
async function fetchQuestions() {
  const known = [...quiz.asked].slice(-MOST_KNOWN);
  quiz.fetching ??= attempt(() => getJson(`/api/questions?n=${AHEAD}&skipped=${known}`));
  const answer = await quiz.fetching;
  quiz.fetching = null;
  for (const question of answer ?? []) {
    if (quiz.asked.has(question.row)) continue;
    quiz.asked.add(question.row);
    quiz.queue.push(question);
  }
  quiz.over = Boolean(answer) && !quiz.queue.length;
}

async function openQuestions() {
  if (!quiz.queue.length) await fetchQuestions();
  drawQuestion();
}

function drawQuestion() {
  const question = quiz.queue[0];
  byId("question").hidden = !question;
  byId("no-question").hidden = Boolean(question) || !quiz.over;
  drawTally();
  if (!question) return;
  byId("name-new").hidden = true;
  const { row, candidates, why } = question;
  const large = byId("question-image");
  if (large.dataset.row !== String(row)) {
    large.dataset.row = row;
    large.replaceChildren(fullImage(row, "The image in question"));
  }
  writeName(byId("question-id"), row);
  byId("question-why").textContent = why;
  const open = candidates.filter(({ number: cluster }) => state.clusters.has(cluster));
  byId("candidates").replaceChildren(...open.map((candidate, at) => element("li", {}, candidateButton(question, candidate, at + 1))));
  if (!desk.hidden && !document.querySelector("dialog[open]")) byId("question-title").focus({ preventScroll: true });
  preload(quiz.queue[1]);
}

function candidateButton(question, { number: cluster, central }, key) {
  const button = action("", () => answer(question, { cluster }), { class: "candidate", "data-key": key, "aria-label": `${key}: ${fullName(cluster)}` });
  button.append(element("kbd", { "aria-hidden": "true" }, key), element("span", {}, swatch(cluster), nameOf(cluster)), element("span", { class: "few" }, ...central.map(picture)));
  return button;
}

function preload(question) {
  if (question) new Image().src = urlOf(question.row);
}

function drawTally() {
  const now = quiz.answered ? `, ${grouped(quiz.answered)} of them now; ${grouped(quiz.changed)} moved the image to another cluster` : "";
  byId("tally").textContent = `${grouped(state.answers)} ${state.answers === 1 ? "answer" : "answers"} so far${now}.`;
  byId("learn").textContent = `Learn from ${grouped(state.answers)} ${state.answers === 1 ? "answer" : "answers"}`;
  byId("learn").ariaDisabled = String(!state.answers);
}

/** Go on to the next question. */
async function goOn(entry) {
  quiz.past.push(entry);
  quiz.queue.shift();
  if (quiz.queue.length < 4 && !quiz.fetching) {
    const more = fetchQuestions();
    if (!quiz.queue.length) await more;
  }
  drawQuestion();
}

async function answer(question, reply) {
  if (quiz.queue[0] !== question) return;
  const entry = { question, sent: true };
  const before = state.cluster[question.row];
  const reached = decide({ do: "answer", image: question.row, ...reply });
  quiz.answered += 1;
  goOn(entry);
  const answered = await reached;
  if (!answered) quiz.answered -= 1;
  else if (state.cluster[question.row] !== before) {
    entry.changed = true;
    quiz.changed += 1;
  }
  drawTally();
}

async function undoAnswer() {
  const entry = quiz.past.pop();
  if (!entry) return undo();
  quiz.queue.unshift(entry.question);
  if (entry.sent) {
    quiz.answered -= 1;
    quiz.changed -= entry.changed ? 1 : 0;
    undo();
  }
  drawQuestion();
}

const replies = {
  none: () => answer(quiz.queue[0], { none_of: quiz.queue[0].candidates.map(({ number: cluster }) => cluster) }),
  nowhere: () => answer(quiz.queue[0], { cluster: NOWHERE }),
  skip: () => goOn({ question: quiz.queue[0], sent: false }),
  new() {
    byId("name-new").hidden = false;
    byId("new-name").value = "";
    byId("new-name").focus();
  },
  undo: undoAnswer,
};
for (const button of desk.querySelectorAll("[data-reply]")) button.addEventListener("click", () => { if (quiz.queue.length || button.dataset.reply === "undo") replies[button.dataset.reply](); });
byId("name-new").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = byId("new-name").value.trim();
  if (name) answer(quiz.queue[0], { new: name });
});
byId("new-name").addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  event.stopPropagation();
  byId("name-new").hidden = true;
  byId("question-title").focus();
});
watchers.push(drawTally);
