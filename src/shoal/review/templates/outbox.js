// Decisions on their way to the server: kept in the browser until it has them, each with a key, so that none counts twice.
const outbox = [];
let delivering = false;
const shelf = () => `shoal-review ${state.key} `;

/** Where entries are kept; without storage they live as long as the page. */
function storage() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}

function shelve(entry) {
  try {
    storage()?.setItem(shelf() + entry.key, JSON.stringify({ at: entry.at, decisions: entry.decisions }));
  } catch {
    // The storage is full.
  }
}

/** What an earlier page could not deliver. */
function restoreOutbox() {
  const names = Object.keys(storage() ?? {}).filter((name) => name.startsWith(shelf()));
  const entries = names.flatMap((name) => {
    try {
      const { at, decisions } = JSON.parse(storage().getItem(name));
      return Array.isArray(decisions) ? [{ key: name.slice(shelf().length), at, decisions }] : [];
    } catch {
      return [];
    }
  });
  outbox.push(...entries.sort((a, b) => a.at - b.at));
}

/** Send decisions, after those before them; resolves to the server's answer, or to null if it refuses. */
function decide(...decisions) {
  const entry = { key: crypto.randomUUID(), at: Date.now(), decisions };
  const answered = new Promise((resolve) => { entry.resolve = resolve; });
  outbox.push(entry);
  shelve(entry);
  drawSaving();
  deliver();
  return answered;
}

async function deliver() {
  if (delivering) return;
  delivering = true;
  while (outbox.length) {
    const answer = await delivered(outbox[0]);
    if (answer === undefined) await pause(1500);
    else {
      const entry = outbox.shift();
      storage()?.removeItem(shelf() + entry.key);
      drawSaving();
      entry.resolve?.(answer);
    }
  }
  delivering = false;
}

/** The answer; null if the decision is refused, undefined if it is to be sent again. */
async function delivered(entry) {
  try {
    const answer = await post("/api/decide", { key: entry.key, decisions: entry.decisions });
    reached();
    await takeAnswer(answer);
    return answer;
  } catch (error) {
    if (isPassing(error)) {
      lost(error);
      return undefined;
    }
    if (isOutdated(error)) return new Promise(() => {}); // It waits on the shelf for its own layer.
    complain(error.message);
    return null;
  }
}

async function moveImages(rows, cluster) {
  const answer = await decide({ do: "move", images: rows, cluster });
  if (answer) say(`${imagesText(rows.length)} moved to ${fullName(cluster)}.`);
  return answer;
}

async function undo() {
  if (!state.undoable && !outbox.length) return say("There is nothing to undo.");
  const answer = await decide({ do: "undo" });
  if (answer) say("The last change was undone.");
  return answer;
}
