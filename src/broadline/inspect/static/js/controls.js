// What stands in the header and below the spectrum, made once: exports, columns to sort by, overlays.
import { element, fill } from "./dom.js";

const OVERLAYS = { error: "error (e)", model: "model (m)", composite: "quasar (o)", stars: "stars (a)" };

/** Links to what can be taken away, and a button that brings verdicts from a file. */
export function drawExports(exports, bring) {
  const links = exports.map(({ text, ...properties }) =>
    element(properties.href ? "a" : "button", properties, text));
  const chosen = element("input", { type: "file", accept: ".csv,.parquet,.fits,.ecsv", hidden: true, id: "bring" });
  chosen.addEventListener("change", async () => {
    const [file] = chosen.files;
    if (file) await bring(file);
    chosen.value = "";
  });
  const way = bring ? [element("label", { for: "bring", title: "Verdicts from a file" }, "Import"), chosen] : [];
  fill("exports", ...links, ...way);
}

export function drawColumns(names) {
  fill("sort", element("option", { value: "" }, "queue's order"), ...names.map((name) => element("option", { value: name }, name)));
}

export function drawOverlays(choose) {
  fill("overlays", ...Object.entries(OVERLAYS).map(([name, text]) => element(
    "button", { id: `overlay-${name}`, "aria-pressed": String(name === "error"), onclick: () => choose(name) }, text)));
}
