// Whether the server answers; changes that come from other tabs.
const banner = byId("banner");
const link = { lost: null, events: null, checking: 0 };

function lost(error) {
  link.lost = error;
  drawBanner();
  listen();
}

function reached() {
  if (!link.lost) return;
  link.lost = null;
  drawBanner();
  retryPictures();
}

function drawBanner() {
  banner.hidden = !link.lost;
  if (!link.lost) return;
  const waiting = outbox.length ? ` ${outbox.length === 1 ? "One change waits" : `${outbox.length} changes wait`} in this browser and will be sent as soon as it answers.` : "";
  const again = link.lost.status === 403
    ? "The server was started again: open the address that it printed."
    : "The server does not answer. Start shoal review again, with the same --port, and open the address that it prints.";
  banner.textContent = again + waiting;
}

/** Listen for changes, and try again for as long as the server is gone. */
function listen() {
  if (link.events && link.events.readyState !== EventSource.CLOSED) return;
  link.events = new EventSource("/api/events");
  link.events.addEventListener("message", (event) => checkVersion(...JSON.parse(event.data)));
  link.events.addEventListener("open", () => {
    if (!link.lost) return;
    attempt(refresh).then(() => deliver());
  });
  link.events.addEventListener("error", () => {
    if (link.leaving) return;
    // A refusal closes the stream for good; a request tells which it is.
    if (link.events.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
    attempt(async () => {
      await getJson("/api/ids?rows=0");
      reached();
    });
  });
}

/** Of this tab's own changes the answer tells more, so wait for it. */
function checkVersion(key, version) {
  clearTimeout(link.checking);
  if (key !== state.key) return location.reload();
  link.checking = setTimeout(() => {
    if (outbox.length) checkVersion(key, version);
    else if (version !== state.version) attempt(refresh);
  }, 150);
}

addEventListener("pagehide", () => {
  link.leaving = true;
  link.events?.close();
});
