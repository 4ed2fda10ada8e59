{
  /** What a screen reader would read without a name. */
  unnamed() {
    const kinds = "button, input, select, textarea, a[href], [role=img], [role=group], [role=region], [role=toolbar]";
    const named = (e) => e.ariaLabel || e.title || e.textContent.trim() || e.labels?.length
      || e.getAttribute("aria-labelledby")?.split(" ").every((id) => document.getElementById(id)?.textContent.trim());
    return [...document.querySelectorAll(`${kinds}, svg:not([aria-hidden]), canvas:not([aria-hidden])`)]
      .filter((e) => e.checkVisibility() && !named(e))
      .map((e) => e.outerHTML.slice(0, 120));
  },

  /** Levels of the headings of the page, and of each open dialog. */
  headings() {
    const levels = (root) => [...root.querySelectorAll("h1, h2, h3, h4")]
      .filter((e) => e.checkVisibility() && e.closest("dialog, body") === root)
      .map((e) => Number(e.tagName[1]));
    return [document.body, ...document.querySelectorAll("dialog[open]")].map(levels);
  },

  /** Text whose contrast is below 4.5 (WCAG 2.2, 1.4.3), by its colours. */
  contrast() {
    const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const painted = (colours) => {
      for (const colour of colours) {
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
      }
      return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const luminance = (rgb) => rgb.map((v) => linear(v / 255)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const grounds = (e) => (e ? [...grounds(e.parentElement), getComputedStyle(e).backgroundColor] : ["white"]);
    const poor = {};
    for (const e of document.querySelectorAll("body *")) {
      const text = [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
      if (!text && !e.matches("input, select, textarea")) continue;
      if (!e.checkVisibility() || e.closest("[aria-disabled=true], canvas, svg, .hidden-text")) continue;
      const under = painted(grounds(e));
      const over = painted([...grounds(e), getComputedStyle(e).color]);
      const [light, dark] = [luminance(under), luminance(over)].sort((a, b) => b - a);
      const ratio = (light + 0.05) / (dark + 0.05);
      if (ratio < 4.5) poor[`${e.tagName}.${e.className} ${over} on ${under}`] = ratio.toFixed(2);
    }
    return poor;
  },
}
