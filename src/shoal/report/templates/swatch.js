// The sign of a cluster: one of ten colours in one of four shapes.
const SVG = document.querySelector(".brand svg").namespaceURI;

function swatch(cluster) {
  const shape = Math.floor(cluster / 10) % 4;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `swatch c${cluster % 10} s${shape}`);
  svg.setAttribute("viewBox", "-8 -8 16 16");
  svg.setAttribute("aria-hidden", "true");
  for (const name of shape > 1 ? ["", "hole"] : [""]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", "M0 0h0");
    path.setAttribute("class", name);
    svg.append(path);
  }
  return svg;
}
