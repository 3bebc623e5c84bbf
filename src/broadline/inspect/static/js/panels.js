// The panels beside the spectrum: each draws one part of the state, and knows nothing of the others.
import { byId, element, fill, style, written } from "./dom.js";
import { thumbnail, velocity } from "./spectrum.js";

const QUALITY = ["nothing there", "signal, no known feature", "one strong feature", "probable", "secure"];
const NEAR = 6000; // km/s: one redshift
const PARTS = 90; // of a spectrum, in its thumbnail

/** Tell the user that something is wrong; nothing but the next spectrum takes it away. */
export function say(text) {
  byId("said").textContent = text;
  byId("said").hidden = !text;
}

/** Tell the user what was done. */
export function note(text) {
  byId("stored").textContent = text;
}

export function drawQueues(queues, chosen, choose) {
  fill("queues", ...queues.map((queue) => element(
    "button",
    { class: queue.n ? "" : "empty", "aria-pressed": String(queue.name === chosen), onclick: () => choose(queue.name) },
    element("span", {}, queue.text),
    element("span", { class: "count" }, `${queue.ruled}/${queue.n}`),
    element("progress", { max: Math.max(queue.n, 1), value: queue.ruled, title: `${queue.ruled} of ${queue.n} ruled on` }),
  )));
}

export function drawHead(state) {
  const { spectrum } = state;
  byId("name").textContent = spectrum ? spectrum.name : "nothing to inspect";
  byId("place").textContent = state.rows.length ? `${state.at + 1} of ${state.rows.length.toLocaleString("en")}` : "";
  const chip = (kind) => (text) => element("span", { class: `chip ${kind}` }, text);
  const flags = (spectrum?.flags ?? []).map((text) => text.split(":")[0].replaceAll("_", " ").toLowerCase());
  fill("reasons", ...(spectrum?.reasons ?? []).map(chip("reason")), ...flags.map(chip("flag")));
}

/** Say of the overlay that needs a file whether this one has it. */
export function drawModel(has) {
  const button = byId("overlay-model");
  button.classList.toggle("absent", !has);
  button.title = has ? "" : "the files of this spectrum have no model of the pipeline";
}

/** The verdict being made: buttons say what it is, and change it. */
export function drawVerdict({ spectrum, draft, adjudicating }, kinds, act) {
  const choice = (values, text, now, change, title) => element(
    "div", { class: "choice" },
    ...values.map((value) => element(
      "button",
      { "aria-pressed": String(value === now), onclick: () => change(value), title: title(value) },
      text(value),
    )),
  );
  const z = element("input", {
    id: "z", value: draft.z === null ? "" : draft.z.toFixed(5), inputMode: "decimal", autocomplete: "off",
    onchange: (event) => act.typed(event.target.value), "aria-label": "redshift",
  });
  const comment = element("input", {
    id: "comment", value: draft.comment, maxLength: 1000, placeholder: "comment (c)", autocomplete: "off",
    oninput: (event) => act.comment(event.target.value), "aria-label": "comment",
  });
  const standing = spectrum.verdict;
  fill(
    "verdict",
    choice(kinds, (kind) => ({ QSO: "Quasar", GALAXY: "Galaxy", STAR: "Star" })[kind] ?? kind, draft.kind, act.kind,
      (kind) => (kind === "?" ? "cannot be identified (u)" : `${kind} (${kind[0].toLowerCase()})`)),
    element("label", { class: "row" }, "z", z),
    choice([0, 1, 2, 3, 4], String, draft.quality, act.quality, (n) => `quality ${n}: ${QUALITY[n]}`),
    element("div", { class: "quiet" }, `quality ${draft.quality}: ${QUALITY[draft.quality]}`),
    element("div", { class: "row" },
      element("button", { "aria-pressed": String(draft.bal), onclick: act.bal, title: "broad absorption (b)" }, "BAL"),
      comment),
    element("button", { id: "accept", onclick: act.accept }, adjudicating ? "Settle it ⏎" : "Accept ⏎"),
    element("div", { class: standing ? "standing" : "quiet" }, standing
      ? `your verdict: ${said(standing)}`
      : adjudicating ? "not settled yet: v takes what others say"
      : spectrum.hidden ? `${spectrum.hidden} other verdict(s), hidden until yours is given` : "no verdict of yours yet"),
  );
}

const said = (verdict) =>
  [verdict.kind, verdict.z === null ? "" : `z ${written(verdict.z)}`, `quality ${verdict.quality}`,
    verdict.bal ? "BAL" : "", verdict.comment].filter(Boolean).join(", ");

export function drawOthers(spectrum) {
  fill("others", ...(spectrum.others.length ? [element("h2", {}, "Others")] : []), ...spectrum.others.map((verdict) =>
    element("div", {}, element("strong", {}, verdict.inspector), verdict.adjudicates ? " settled: " : ": ", said(verdict))));
}

export function drawSolutions({ spectrum, draft }, choose) {
  fill("solutions", ...spectrum.solutions.map((solution, i) => {
    const near = draft.z !== null && Math.abs(velocity(draft.z, solution.z)) < NEAR;
    return element("li", {}, element(
      "button", { "aria-pressed": String(near), onclick: () => choose(i) },
      element("span", {}, written(solution.z)),
      element("span", {}, solution.said_by),
      element("span", {}, solution.confidence === null ? "" : solution.confidence.toFixed(2)),
    ));
  }));
}

export function drawFinders(spectrum, about, choose) {
  const rows = spectrum.lines.map((finder) => {
    const line = about.lines.find((one) => one.name === finder.name);
    const found = finder.confidence > (line.bal ? about.rule.c_th_bal : about.rule.c_th);
    return element(
      "tr", { class: found ? "found" : "", onclick: () => finder.z !== null && choose(finder.z), title: "take its redshift" },
      element("td", {}, line.text),
      element("td", {}, element("meter", { min: 0, max: 1, value: finder.confidence ?? 0 })),
      element("td", { class: "number" }, written(finder.confidence, 2)),
      element("td", { class: "number" }, written(finder.z)),
    );
  });
  fill("finders", element("table", {}, element("tbody", {}, ...rows)));
}

export function drawFacts(spectrum) {
  const { pipeline } = spectrum;
  const own = pipeline ? [["Survey", `${pipeline.class} at z ${written(pipeline.z)}${pipeline.warning < 0 ? "" : `, warning ${pipeline.warning}`}`]] : [];
  const rows = [...own, ...Object.entries(spectrum.facts)].map(([name, value]) =>
    element("tr", {}, element("td", {}, name), element("td", {}, value)));
  fill("facts", ...spectrum.flags.map((text) => element("p", { class: "fault" }, text)),
    element("table", {}, element("tbody", {}, ...rows)));
}

/** The neighbours in the queue, each as a small picture. */
export function drawStrip(items, choose) {
  fill("strip", ...items.map(({ at, spectrum, current, ruled }) => {
    const canvas = spectrum?.pixels ? (spectrum.pixels.canvas ??= element("canvas")) : element("canvas");
    return element(
      "button", { "aria-current": String(current), onclick: () => choose(at), title: spectrum?.name ?? "" },
      canvas,
      element("span", { class: ruled ? "done" : "quiet" }, `${ruled ? "✓ " : ""}${at + 1}: ${spectrum ? brief(spectrum) : "…"}`),
    );
  }));
  for (const { spectrum } of items) if (spectrum?.pixels) drawSmall(spectrum.pixels);
}

const brief = ({ verdict, called, z }) =>
  verdict ? `${verdict.kind} ${written(verdict.z, 3)}` : called ? `z ${written(z, 3)}` : "no quasar";

/** Draw a spectrum's picture, if it has not been drawn in this size and colour. */
function drawSmall(pixels) {
  const { canvas } = pixels, ink = style("--flux");
  const width = Math.round(canvas.clientWidth * devicePixelRatio), height = Math.round(canvas.clientHeight * devicePixelRatio);
  if (canvas.width === width && canvas.height === height && pixels.ink === ink) return;
  Object.assign(canvas, { width, height });
  pixels.ink = ink;
  const values = thumbnail(pixels, PARTS);
  const seen = values.filter((value) => value !== null).sort((a, b) => a - b);
  const low = Math.min(seen[Math.floor(0.01 * seen.length)], 0), high = seen[Math.floor(0.99 * seen.length)];
  const context = canvas.getContext("2d");
  context.strokeStyle = ink;
  context.lineWidth = devicePixelRatio;
  context.beginPath();
  values.forEach((value, i) => {
    if (value === null) return;
    const y = (1 - (value - low) / (high - low || 1)) * (height - 4) + 2;
    context.lineTo((i / (values.length - 1)) * width, y);
  });
  context.stroke();
}

// ---- dialogs

/** Show a dialog; what it holds is made anew each time. */
export function open(...children) {
  const dialog = byId("dialog");
  const close = element("p", { class: "end" }, element("button", { onclick: () => dialog.close() }, "Close (Esc)"));
  dialog.replaceChildren(...children, close);
  if (!dialog.open) dialog.showModal();
}

export function openHelp(lines) {
  open(
    element("h2", {}, "Keys"),
    element("div", { class: "columns" }, ...lines.map(([keys, text]) =>
      element("div", {}, element("span", {}, element("kbd", {}, keys)), element("span", {}, text)))),
    element("p", { class: "quiet" },
      "Mouse: drag a dashed line (or anything with shift) to change the redshift; drag elsewhere to move, wheel to " +
      "zoom, with shift to stretch; double-click for the whole spectrum. Triangles: where finders see their lines. " +
      "Dashed: where lines are at the redshift at hand. Grey: masked pixels."),
  );
}

const percent = (share) => (share.value === null ? "–" : `${(100 * share.value).toFixed(1)} % (${share.k} of ${share.n})`);

export function openStatistics(statistics) {
  if (!statistics) return;
  const { purity, pairs } = statistics;
  const cell = (text, number = true) => element("td", { class: number ? "number" : "" }, text);
  const head = ["Inspectors", "spectra", "κ of class", "same class", "same redshift", "median |Δv|"];
  open(
    element("h2", {}, "Agreement and purity"),
    element("p", {}, `${statistics.n_spectra} spectra ruled on, ${statistics.n_double} by several inspectors, ` +
      `${statistics.n_disputed} to adjudicate. ` +
      Object.entries(statistics.inspectors).map(([name, n]) => `${name}: ${n}`).join(", ")),
    pairs.length ? element("table", {},
      element("thead", {}, element("tr", {}, ...head.map((text, i) => element("th", { class: i ? "number" : "" }, text)))),
      element("tbody", {}, ...pairs.map((pair) => element("tr", {},
        cell(pair.inspectors.join(" and "), false), cell(String(pair.n)), cell(written(pair.kappa, 3)),
        cell(percent(pair.same_kind)), cell(percent(pair.same_z)),
        cell(pair.median_kms === null ? "–" : `${pair.median_kms.toFixed(0)} km/s`))))) : element("p", { class: "quiet" },
      "No two inspectors have ruled on the same spectrum yet."),
    element("p", {}, purity.n
      ? `Purity of the catalogue: ${percent(purity)}, 95 % interval ${(100 * purity.low).toFixed(1)}–` +
        `${(100 * purity.high).toFixed(1)} %, from the random control sample of ${statistics.n_controls}.`
      : `Purity of the catalogue: rule on the random control sample (${statistics.n_controls} spectra) to know it.`),
    element("p", { class: "quiet" },
      "κ: Cohen's, of class. Same redshift: within 6000 km/s, of those with the same class QSO or GALAXY."),
  );
}

/** Ask for the inspector's name. */
export function openName(now, take) {
  const name = element("input", { value: now, maxLength: 40, "aria-label": "name" });
  const form = element("form", { class: "row", onsubmit: (event) => {
    event.preventDefault();
    byId("dialog").close();
    take(name.value.trim());
  } }, name, element("button", {}, "Take this name"));
  open(element("h2", {}, "Whose verdicts are these?"), form,
    element("p", { class: "quiet" }, "Each inspector has verdicts of their own; those of others are hidden until yours is given."));
  name.select();
}
