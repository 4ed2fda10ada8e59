// Talking to the server.
class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

/** The answer to a request; too many of them are asked again a little later. */
async function ask(path, settings = {}) {
  const answer = await fetch(path, { credentials: "same-origin", ...settings });
  if (answer.status === 429) {
    await pause(500);
    return ask(path, settings);
  }
  if (answer.ok) return answer;
  const found = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, found.error ?? `The server answered ${answer.status} ${answer.statusText}`);
}

async function getJson(path) {
  return (await ask(path)).json();
}

async function post(path, body) {
  const headers = { "Content-Type": "application/json", "X-Shoal": state.key };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

/** Whether this page shows a layer that is not under review any more; then the one that is takes its place. */
function isOutdated(error) {
  const outdated = error instanceof Refused && error.status === 409;
  if (outdated) location.reload();
  return outdated;
}

/** Little-endian numbers, as ``Type`` holds them on every computer that a browser runs on. */
async function getNumbers(path, Type) {
  return new Type(await (await ask(path)).arrayBuffer());
}

/** Whether the same request may succeed later: the server does not run, or was started again with another token. */
function isPassing(error) {
  return !(error instanceof Refused) || error.status === 403 || error.status === 503;
}

/** Run what a click has begun; what the server refuses is said in its own words. */
async function attempt(act) {
  try {
    return await act();
  } catch (error) {
    if (isPassing(error)) lost(error);
    else if (!isOutdated(error)) complain(error.message);
    return null;
  }
}
