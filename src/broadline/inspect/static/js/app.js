// The page: one state, actions that change it, and panels that draw it.
import { Refused, Server } from "./api.js";
import { Cache } from "./cache.js";
import { drawColumns, drawExports, drawOverlays } from "./controls.js";
import { afterPaint, byId, fill, written } from "./dom.js";
import { asDraft, draftOf, identities, redshiftOf, withinReach } from "./draft.js";
import { Embedded } from "./embedded.js";
import { actionOf, helpLines } from "./keys.js";
import {
  drawFacts, drawFinders, drawHead, drawModel, drawOthers, drawQueues, drawSolutions, drawStrip, drawVerdict, openHelp,
  note, openName, openStatistics, say,
} from "./panels.js";
import { SpectrumPlot } from "./plot.js";
import { unpack } from "./spectrum.js";

const SMOOTHING = [1, 3, 5, 9, 15, 31]; // pixels
const AHEAD = 5, BEHIND = 2; // neighbours
const WINDOW = 400; // half of the window about a line, Angstrom

const embedded = byId("broadline-data");
const api = embedded ? new Embedded(JSON.parse(embedded.textContent)) : new Server();
const state = {
  queues: [], queue: "ranked", filter: "", sort: "", descending: false,
  rows: [], ruled: [], at: 0, spectrum: null, draft: null, solution: 0, other: 0, taken: 0, line: -1,
};
const cache = new Cache((row) => api.spectrum(row, adjudicating()));
let about, plot;

// ---- what is shown

const adjudicating = () => state.queue === "disputed";

/** Read the queue anew and show its first spectrum without a verdict, or the one asked for. */
async function openQueue(row = null) {
  const { queue: name, filter, sort, descending } = state;
  const found = await api.queue({ name, filter, sort, descending });
  state.rows = typeof found.rows === "string" ? unpack(found.rows, Int32Array) : found.rows;
  state.ruled = typeof found.ruled === "string" ? unpack(found.ruled, Uint8Array) : found.ruled;
  const asked = row === null ? -1 : state.rows.indexOf(row);
  await show(asked >= 0 ? asked : Math.max(firstOpen(0), 0));
  refreshQueues();
}

/** Count anew what is ruled on; nobody waits for it. */
function refreshQueues() {
  drawQueues(state.queues, state.queue, chooseQueue);
  api.queues().then((queues) => {
    state.queues = queues;
    drawQueues(queues, state.queue, chooseQueue);
  }, () => {});
}

/** The first place from `from` on without a verdict, or -1. */
function firstOpen(from) {
  for (let at = from; at < state.rows.length; at++) if (!state.ruled[at]) return at;
  return -1;
}

async function show(at) {
  if (!state.rows.length) {
    Object.assign(state, { spectrum: null, at: 0 });
    drawHead(state);
    for (const id of ["verdict", "solutions", "finders", "others", "facts", "strip"]) fill(id);
    const why = state.filter ? "No spectrum of this queue passes the filter." : "This queue is empty.";
    plot.show({ missing: why, lines: [] }, 0);
    return;
  }
  const spectrum = await cache.get(state.rows[at]);
  Object.assign(state, { at, spectrum, solution: 0, other: 0, taken: 0, line: -1, draft: draftOf(spectrum, about.kinds) });
  say("");
  plot.show(spectrum, state.draft.z ?? 0);
  drawHead(state);
  drawModel(Boolean(spectrum.pixels?.model));
  drawFacts(spectrum);
  drawFinders(spectrum, about, setRedshift);
  drawForm();
  afterPaint(() => {
    for (const near of neighbours()) cache.get(state.rows[near]).then(drawNeighbours, () => {});
    drawNeighbours();
  });
}

function drawForm() {
  drawVerdict({ ...state, adjudicating: adjudicating() }, about.kinds, change);
  drawOthers(state.spectrum);
  drawSolutions(state, chooseSolution);
}

/** The places about the one shown: they are in the strip, and fetched before they are asked for. */
function neighbours() {
  const n = Math.min(AHEAD + BEHIND + 1, state.rows.length);
  const first = Math.max(0, Math.min(state.at - BEHIND, state.rows.length - n));
  return Array.from({ length: n }, (_, i) => first + i);
}

let drawing = false;

/** Draw the strip once, however many neighbours have just arrived. */
function drawNeighbours() {
  if (drawing) return;
  drawing = true;
  afterPaint(() => {
    drawing = false;
    drawStrip(neighbours().map((at) => (
      { at, spectrum: cache.ready.get(state.rows[at]), current: at === state.at, ruled: state.ruled[at] })), go);
  });
}

// ---- what changes the verdict being made

function setRedshift(z) {
  if (!state.spectrum || !Number.isFinite(z)) return;
  state.draft.z = withinReach(z);
  plot.setRedshift(state.draft.z);
  drawForm();
}

function chooseSolution(i) {
  state.solution = i;
  setRedshift(state.spectrum.solutions[i].z);
}

function setKind(kind) {
  const { draft, spectrum } = state, z = redshiftOf(kind, draft.z, spectrum);
  draft.kind = kind;
  if (kind !== "QSO") draft.bal = false;
  if (z !== draft.z) setRedshift(z);
  else drawForm();
}

const change = {
  kind: setKind,
  quality: (n) => { state.draft.quality = n; drawForm(); },
  bal: () => { state.draft.bal = !state.draft.bal; drawForm(); },
  comment: (text) => { state.draft.comment = text; },
  typed: (text) => {
    const z = Number(text.trim().replace(",", "."));
    if (text.trim() && Number.isFinite(z)) setRedshift(z);
    else drawForm();
  },
  accept: () => run("accept"),
};

// ---- what keys and buttons do

const go = (at) => queued(() => show(at));

const actions = {
  async accept() {
    const { spectrum, draft, at } = state;
    if (!draft.kind) return say("Give a class first: q quasar, g galaxy, s star, u cannot be identified.");
    const verdict = {
      row: spectrum.row, kind: draft.kind, z: draft.kind === "?" ? null : draft.z, quality: draft.quality,
      bal: draft.bal, comment: draft.comment, seen: spectrum.version, adjudicates: adjudicating(),
      request: `${crypto.getRandomValues(new Uint32Array(4)).join("-")}`,
    };
    try {
      Object.assign(spectrum, await api.rule(verdict));
    } catch (error) {
      if (error.status !== 409) throw error;
      spectrum.version = error.answer.version;
      spectrum.verdict = error.answer.current;
      drawForm();
      const now = error.answer.current;
      return say(`Another tab has ruled on this spectrum since: ${now ? `${now.kind}, z ${written(now.z)}, quality ${now.quality}` : "taken back"}. Enter replaces that by what is shown here; j leaves it.`);
    }
    state.ruled[at] = 1;
    note(`stored: ${spectrum.name} ${draft.kind}${verdict.z === null ? "" : ` z ${written(verdict.z)}`}`);
    const next = firstOpen(at + 1);
    if (next >= 0) await show(next);
    else {
      await show(at);
      note(`${byId("stored").textContent}; the end of this queue${firstOpen(0) >= 0 ? ", but some before have no verdict" : ""}`);
    }
    refreshQueues();
  },
  async undo() {
    const undone = await api.undo();
    cache.forget(undone.row);
    const at = state.rows.indexOf(undone.row);
    if (at >= 0) {
      await show(at);
      state.ruled[at] = Number(state.spectrum.verdict !== null);
    }
    note(`taken back: ${at >= 0 ? state.spectrum.name : `row ${undone.row}, which is not in this queue`}`);
    refreshQueues();
  },
  async go(by) {
    const at = state.at + by;
    if (at < 0 || at >= state.rows.length) note(by > 0 ? "this is the last of the queue" : "this is the first of the queue");
    else await show(at);
  },
  async nextOpen() {
    const at = firstOpen(state.at + 1);
    if (at >= 0) await show(at);
    else note("all that follow have a verdict");
  },
  async nextQueue() {
    const names = state.queues.filter((queue) => queue.n || queue.name === state.queue).map((queue) => queue.name);
    await changeQueue(names[(names.indexOf(state.queue) + 1) % names.length]);
  },
  solution(by) {
    const n = state.spectrum.solutions.length;
    if (n) chooseSolution((state.solution + by + n) % n);
  },
  /** Begin with what each other inspector says in turn, so far as that may be seen. */
  takeOther() {
    const { others } = state.spectrum;
    if (!others.length) return note("there is no verdict of others to see");
    const taken = others[state.taken++ % others.length];
    state.draft = asDraft(taken);
    setRedshift(taken.z ?? 0);
    note(`as ${taken.inspector} says`);
  },
  /** Take the surest line for each of the other lines in turn. */
  reidentify() {
    const possible = identities(state.spectrum.lines, about.lines);
    if (!possible.length) return;
    state.other = (state.other + 1) % possible.length;
    const { from, to, z } = possible[state.other];
    setRedshift(z);
    note(`${from} taken for ${to}`);
  },
  kind: setKind,
  quality: change.quality,
  bal: change.bal,
  shift(kms) { setRedshift((1 + (state.draft.z ?? 0)) * (1 + kms / 299792.458) - 1); },
  comment() { byId("comment").focus(); },
  typeRedshift() { byId("z").select(); },
  filter() { byId("filter").select(); },
  zoom(factor) { plot.zoom(factor); },
  whole() { plot.whole(); },
  nextLine() {
    if (!state.spectrum.pixels) return;
    const { wavelength } = state.spectrum.pixels;
    const places = about.lines.filter((line) => !line.bal).map((line) => line.wavelength * (1 + (state.draft.z ?? 0)))
      .filter((place) => place > wavelength[0] && place < wavelength.at(-1));
    if (!places.length) return note("no line of the finders is within the spectrum at this redshift");
    state.line = (state.line + 1) % places.length;
    plot.near(places[state.line], WINDOW);
  },
  smoothing(by) {
    const slider = byId("smoothing");
    slider.value = String(Number(slider.value) + by);
    smoothed();
  },
  overlay(name) {
    const on = plot.toggle(name);
    byId(`overlay-${name}`).setAttribute("aria-pressed", String(on));
    if (name === "model" && on && !state.spectrum?.pixels?.model) note("the file of this spectrum has no model of the pipeline");
  },
  async statistics() { openStatistics(await api.statistics()); },
  help() { openHelp(helpLines()); },
};
const WITHOUT_SPECTRUM = new Set(["undo", "go", "nextQueue", "filter", "statistics", "help", "overlay", "smoothing"]);

let waiting = 0; // actions that have not ended
let line = Promise.resolve();
let ruling = false;

function failed(error) {
  if (!(error instanceof Refused)) console.error(error);
  say(error.message);
}

/** Do one thing after the other, so that no key acts on a spectrum that is not shown yet; at once if it can be. */
function queued(work) {
  const done = waiting++ ? line.then(work) : new Promise((resolve) => { resolve(work()); });
  line = done.catch(failed).finally(() => { waiting--; });
  return line;
}

function run(name, argument) {
  if (name === "accept") {
    if (ruling) return; // a second press must not rule on what nobody has seen
    ruling = true;
    queued(() => state.spectrum && actions.accept()).finally(() => { ruling = false; });
  } else {
    queued(() => (state.spectrum || WITHOUT_SPECTRUM.has(name) ? actions[name](argument) : undefined));
  }
}

// ---- queues, filters, names

async function changeQueue(name) {
  if (adjudicating() || name === "disputed") cache.clear(); // who may see what differs
  state.queue = name;
  await openQueue();
}

const chooseQueue = (name) => queued(() => changeQueue(name));

async function filtered() {
  const fault = byId("filter-said");
  try {
    fault.textContent = "";
    await openQueue();
  } catch (error) {
    if (error.status !== 400) throw error;
    fault.textContent = error.message;
  }
}

function listen() {
  document.addEventListener("keydown", (event) => {
    if (byId("dialog").open) return;
    const { target } = event;
    if (["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName) && target.type !== "range") {
      if (event.key === "Escape" && target.id === "z") target.value = state.draft.z?.toFixed(5) ?? "";
      if (event.key === "Escape" || event.key === "Enter") target.blur();
      return;
    }
    if ((event.key === "Enter" || event.key === " ") && target.closest("button, a, label")) return; // its own
    const found = actionOf(event);
    if (!found) return;
    event.preventDefault();
    if (event.repeat && !["shift", "zoom"].includes(found[0])) return;
    note("");
    run(...found);
  });
  // A button pressed by the mouse does not keep the keyboard, nor does one that a dialog gives it back to.
  document.addEventListener("click", (event) => event.target.closest("button, a")?.blur());
  byId("dialog").addEventListener("close", () => document.activeElement?.blur());
  byId("filter").addEventListener("change", (event) => {
    state.filter = event.target.value;
    queued(filtered);
  });
  byId("sort").addEventListener("change", (event) => {
    state.sort = event.target.value;
    queued(() => openQueue());
    event.target.blur();
  });
  byId("direction").addEventListener("click", (event) => {
    state.descending = !state.descending;
    event.target.textContent = state.descending ? "↓" : "↑";
    queued(() => openQueue());
  });
  byId("smoothing").addEventListener("input", smoothed);
  byId("help").addEventListener("click", () => run("help"));
  byId("agreement").addEventListener("click", () => run("statistics"));
  byId("inspector").addEventListener("click", () => openName(inspector(), take));
}

function smoothed() {
  const width = SMOOTHING[Number(byId("smoothing").value)];
  byId("smoothed").textContent = width === 1 ? "none" : `${width} px`;
  plot.setSmoothing(width);
}

const inspector = () => api.inspector ?? about.inspector;

/** Go on as another inspector. */
function take(name) {
  if (!name) return;
  api.inspector = name;
  try { sessionStorage.setItem("inspector", name); } catch { /* the name lasts as long as the page */ }
  byId("inspector").textContent = name;
  cache.clear();
  queued(() => openQueue(state.spectrum?.row ?? null));
}

/** Take in verdicts from a file of the user's. */
const bring = (file) => queued(async () => {
  const { n, unmatched } = await api.bring(file);
  cache.clear();
  await openQueue();
  note(`${n} verdicts taken from ${file.name}${unmatched ? `; ${unmatched} are on spectra that are not here` : ""}`);
});

async function begin() {
  about = await api.project();
  for (const name of ["wavelength", "flux"]) about.composite[name] = unpack(about.composite[name]);
  if (!embedded) api.inspector = sessionStorage.getItem("inspector");
  byId("inspector").textContent = inspector();
  document.title = `${about.catalogue} – broadline inspect`;
  drawColumns(Object.keys(about.columns));
  drawOverlays((name) => run("overlay", name));
  const pointed = (wavelength, flux) => {
    byId("cursor").textContent = wavelength === undefined || !state.draft ? "" :
      `${wavelength.toFixed(1)} Å, at rest ${(wavelength / (1 + (state.draft.z ?? 0))).toFixed(1)} Å, flux ${written(flux, 3)}`;
  };
  plot = new SpectrumPlot(byId("plot"), about, setRedshift, pointed);
  drawExports(api.exports(), api.bring && bring);
  listen();
  smoothed();
  if (embedded) for (const id of ["left", "agreement"]) byId(id).hidden = true;
  await openQueue();
}

queued(begin);
