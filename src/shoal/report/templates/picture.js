// Pictures of images, painted when they come into view, as canvases and as buttons that open the image.
const inView = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    inView.unobserve(target);
    paint(target);
  }
}, { rootMargin: "300px" });

function picture(i) {
  const canvas = element("canvas", { ...FRAME, "aria-hidden": "true" });
  canvas.dataset.shows = i;
  inView.observe(canvas);
  return canvas;
}

/** A button with the picture that opens the image; ``stray`` adds a frame. */
function thumb(i, stray = false) {
  const button = element("button", { type: "button", class: stray ? "thumb stray" : "thumb", tabindex: -1, "data-image": i }, picture(i));
  nameAfter(button, i);
  return button;
}

/** Fill a grid with pictures; the first one is its Tab stop. */
function fill(grid, thumbs) {
  if (thumbs.length) thumbs[0].tabIndex = 0;
  grid.replaceChildren(...thumbs);
  return grid;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-image]");
  if (button) showImage(Number(button.dataset.image));
});
