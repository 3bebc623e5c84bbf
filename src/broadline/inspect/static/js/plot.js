// The spectrum: flux, error, masks, overlays, and lines that move with the redshift.
import { style } from "./dom.js";
import { fluxRange, overlay, smooth } from "./spectrum.js";

const LABELS = 3; // rows of names above the spectrum
const ROW = 13; // height of one, CSS pixels
const GRAB = 6; // a line is grabbed from so near, CSS pixels
const FASTEST = 1.2; // zoom of one notch of the wheel

export class SpectrumPlot {
  /**
   * @param place element that the plot fills
   * @param about constants of the project: lines, marks, composite, forest, rule
   * @param moved called with the redshift while lines are dragged
   * @param pointed called with (wavelength, flux) under the pointer, or nothing
   */
  constructor(place, about, moved, pointed) {
    this.place = place;
    this.about = about;
    this.moved = moved;
    this.pointed = pointed;
    this.z = 0;
    this.width = 5;
    this.shown = { error: true, model: false, composite: false, stars: false };
    this.pixels = null;
    this.finders = [];
    this.plot = null;
    new ResizeObserver(() => this.resize()).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.plot?.redraw());
  }

  /** Show a spectrum, or say why there is none. */
  show(spectrum, z) {
    this.pixels = spectrum.pixels ?? null;
    this.finders = spectrum.lines;
    this.z = z;
    this.place.querySelector(".nothing")?.remove();
    if (!this.pixels) {
      this.plot?.destroy();
      this.plot = null;
      const said = document.createElement("div");
      said.className = "nothing";
      said.textContent = spectrum.missing;
      this.place.append(said);
      return;
    }
    this.plot ??= this.made();
    this.fill();
    this.whole();
  }

  setRedshift(z) {
    this.z = z;
    if (!this.plot) return;
    if (this.shown.composite) this.fill();
    else this.plot.redraw(false, false);
  }

  setSmoothing(width) {
    this.width = width;
    this.fill();
  }

  toggle(what) {
    this.shown[what] = !this.shown[what];
    this.fill();
    return this.shown[what];
  }

  /** Show all wavelengths. */
  whole() {
    if (!this.plot) return;
    const { wavelength } = this.pixels;
    this.range(wavelength[0], wavelength[wavelength.length - 1]);
  }

  /** Show a window about a wavelength. */
  near(wavelength, half) {
    if (this.plot) this.range(wavelength - half, wavelength + half);
  }

  /** Zoom about a wavelength, that in the middle if none is given. */
  zoom(factor, about = null) {
    if (!this.plot) return;
    const { min, max } = this.plot.scales.x;
    const centre = about ?? (min + max) / 2;
    this.range(centre - (centre - min) * factor, centre + (max - centre) * factor);
  }

  range(from, to) {
    const { wavelength } = this.pixels;
    const first = wavelength[0], last = wavelength[wavelength.length - 1];
    const span = Math.min(Math.max(to - from, 20), last - first);
    const start = Math.min(Math.max(from, first), last - span);
    const [low, high] = fluxRange(this.pixels, this.mean, start, start + span);
    this.plot.batch(() => {
      this.plot.setScale("x", { min: start, max: start + span });
      this.plot.setScale("y", { min: low, max: high });
    });
  }

  fill() {
    if (!this.plot) return;
    const { wavelength, flux, error, model } = this.pixels;
    const nothing = new Array(wavelength.length).fill(null);
    const { mean, sigma } = smooth(this.pixels, this.width);
    this.mean = mean;
    const raw = Array.from(flux, (value, i) => (Number.isFinite(error[i]) ? value : null));
    const above = mean.map((value, i) => (value === null ? null : value + sigma[i]));
    const below = mean.map((value, i) => (value === null ? null : value - sigma[i]));
    const fit = model && Array.from(model, (value) => (Number.isFinite(value) ? value : null));
    this.plot.setData(
      [
        Array.from(wavelength),
        this.width > 1 ? raw : nothing,
        this.shown.error ? above : nothing,
        this.shown.error ? below : nothing,
        mean,
        this.shown.model && fit ? fit : nothing,
        this.shown.composite ? overlay(this.pixels, this.z, this.about.composite, this.about.forest) : nothing,
      ],
      false,
    );
    this.plot.redraw();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.place;
    if (this.plot && width && height) this.plot.setSize({ width, height });
  }

  made() {
    const line = (name, width, dash) => ({ stroke: () => style(name), width, dash, points: { show: false } });
    const axis = (label, size) => ({
      label, labelSize: 18, labelGap: 0, size, stroke: () => style("--quiet"), font: "12px system-ui, sans-serif",
      labelFont: "12px system-ui, sans-serif",
      grid: { stroke: () => style("--grid"), width: 1 }, ticks: { stroke: () => style("--rule"), width: 1 },
    });
    const plot = new uPlot(
      {
        width: this.place.clientWidth || 600,
        height: this.place.clientHeight || 300,
        padding: [LABELS * ROW + 8, 12, 0, 0],
        scales: { x: { time: false, auto: false }, y: { auto: false } },
        axes: [axis("observed wavelength, vacuum (Å)", 34), axis("flux density per Å, in the file's unit", 52)],
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, y: false, points: { show: false } },
        series: [
          {}, line("--raw", 0.7), line("--band", 0), line("--band", 0), line("--flux", 1.1), line("--model", 1.4),
          line("--composite", 1.6, [9, 4]),
        ],
        bands: [{ series: [2, 3], fill: () => style("--band") }],
        hooks: {
          drawClear: [(u) => this.drawMasks(u), (u) => this.drawMarks(u)],
          draw: [(u) => this.drawFinders(u)],
          setCursor: [(u) => this.point(u)],
        },
      },
      [[0, 1], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]],
      this.place,
    );
    this.listen(plot);
    return plot;
  }

  // ---- what is drawn beside the curves

  drawMasks(u) {
    const { wavelength, masked } = this.pixels;
    const { ctx, bbox } = u;
    ctx.save();
    ctx.fillStyle = style("--masked");
    for (const [first, last] of masked) {
      const left = Math.max(u.valToPos(wavelength[first], "x", true) - 1, bbox.left);
      const right = Math.min(u.valToPos(wavelength[last], "x", true) + 1, bbox.left + bbox.width);
      if (right > left) ctx.fillRect(left, bbox.top, right - left, bbox.height);
    }
    ctx.restore();
  }

  /** Lines of the redshift at hand, dashed, behind the spectrum so that narrow ones stay in sight. */
  drawMarks(u) {
    const { ctx, bbox } = u, ratio = devicePixelRatio;
    ctx.save();
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    ctx.textBaseline = "alphabetic";
    const taken = Array.from({ length: LABELS }, () => []);
    for (const mark of this.marks()) {
      const x = u.valToPos(mark.wavelength * (1 + this.z), "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = ctx.fillStyle = style(mark.absorbs ? "--star" : "--mark");
      ctx.lineWidth = ratio;
      ctx.setLineDash(mark.absorbs ? [2 * ratio, 4 * ratio] : [6 * ratio, 4 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      this.label(ctx, mark.text, x, bbox, taken, ratio);
    }
    ctx.restore();
  }

  /** Where each finder sees its line, as triangles. */
  drawFinders(u) {
    const { ctx } = u, ratio = devicePixelRatio;
    ctx.save();
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "alphabetic";
    ctx.setLineDash([]);
    const spoken = Array.from({ length: LABELS }, () => []);
    for (const finder of this.finders) this.drawFinder(u, finder, spoken, ratio);
    ctx.restore();
  }

  marks() {
    return this.about.marks.filter((mark) => !mark.absorbs || this.shown.stars);
  }

  /** Write a name in the first row where it meets no other; leave it out if there is none. */
  label(ctx, text, x, bbox, taken, ratio) {
    const half = ctx.measureText(text).width / 2 + 3 * ratio;
    const row = taken.findIndex((places) => places.every(([from, to]) => x + half < from || x - half > to));
    if (row < 0) return;
    taken[row].push([x - half, x + half]);
    ctx.fillText(text, x, bbox.top - (4 + row * ROW) * ratio);
  }

  drawFinder(u, finder, taken, ratio) {
    const known = this.about.lines.find((line) => line.name === finder.name);
    if (!known || finder.z === null || finder.confidence === null) return;
    const { ctx, bbox } = u;
    const found = finder.confidence > (known.bal ? this.about.rule.c_th_bal : this.about.rule.c_th);
    const x = u.valToPos(known.wavelength * (1 + finder.z), "x", true);
    if (!found || x < bbox.left || x > bbox.left + bbox.width) return;
    ctx.fillStyle = style(known.bal ? "--absorbed" : "--found");
    const size = (known.bal ? 9 : 6) * ratio;
    ctx.strokeStyle = ctx.fillStyle;
    ctx.lineWidth = 2 * ratio;
    ctx.beginPath();
    ctx.moveTo(x - size, bbox.top);
    ctx.lineTo(x + size, bbox.top);
    ctx.lineTo(x, bbox.top + 1.6 * size);
    ctx.closePath();
    if (known.bal) ctx.stroke(); // hollow, about that of the emission line in the same place
    else ctx.fill();
    this.say(u, `${known.text} ${finder.confidence.toFixed(2)}`, x, taken, ratio);
  }

  /** Write beside a triangle, on the side where there is room, in the first row that is free there. */
  say(u, text, x, taken, ratio) {
    const { ctx, bbox } = u, width = ctx.measureText(text).width + 4 * ratio, gap = 7 * ratio;
    const start = x + gap + width < bbox.left + bbox.width ? x + gap : x - gap - width;
    const row = Math.max(taken.findIndex((places) => places.every(([from, to]) => start + width < from || start > to)), 0);
    taken[row].push([start, start + width]);
    const y = bbox.top + (11 + row * (ROW + 1)) * ratio, ink = ctx.fillStyle;
    ctx.globalAlpha = 0.85;
    ctx.fillStyle = style("--panel");
    ctx.fillRect(start, y - 10 * ratio, width, ROW * ratio);
    ctx.globalAlpha = 1;
    ctx.fillStyle = ink;
    ctx.textAlign = "left";
    ctx.fillText(text, start + 2 * ratio, y);
  }

  // ---- the mouse

  point(u) {
    const { left, idx } = u.cursor;
    if (left < 0 || idx === null || idx === undefined) this.pointed();
    else this.pointed(u.posToVal(left, "x"), this.mean[idx]);
  }

  /** Whether a line is at a place across the plot (CSS pixels). */
  lineAt(left) {
    return this.marks().some((mark) => Math.abs(this.plot.valToPos(mark.wavelength * (1 + this.z), "x") - left) < GRAB);
  }

  listen(plot) {
    const over = plot.over;
    over.addEventListener("mousemove", (event) => {
      if (!event.buttons) over.classList.toggle("on-line", event.shiftKey || this.lineAt(event.offsetX));
    });
    over.addEventListener("mousedown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      document.activeElement?.blur();
      if (event.shiftKey || this.lineAt(event.offsetX)) this.dragLines(event);
      else this.dragRange(event);
    });
    over.addEventListener("dblclick", () => this.whole());
    over.addEventListener("wheel", (event) => {
      event.preventDefault();
      const factor = event.deltaY > 0 ? FASTEST : 1 / FASTEST;
      if (event.shiftKey) this.stretch(factor);
      else this.zoom(factor, plot.posToVal(event.offsetX, "x"));
    }, { passive: false });
  }

  /** Lines follow the pointer: the redshift keeps what was grabbed under it. */
  dragLines(event) {
    const left = this.plot.over.getBoundingClientRect().left;
    const at = (moved) => this.plot.posToVal(moved.clientX - left, "x");
    const rest = at(event) / (1 + this.z);
    this.drag((moved) => this.moved(at(moved) / rest - 1));
  }

  dragRange(event) {
    const { min, max } = this.plot.scales.x;
    const width = (max - min) / this.plot.over.clientWidth;
    this.drag((moved) => {
      const by = (event.clientX - moved.clientX) * width;
      this.range(min + by, max + by);
    });
  }

  drag(move) {
    const stop = () => {
      removeEventListener("mousemove", move);
      removeEventListener("mouseup", stop);
    };
    addEventListener("mousemove", move);
    addEventListener("mouseup", stop);
  }

  stretch(factor) {
    const { min, max } = this.plot.scales.y;
    const middle = (min + max) / 2;
    this.plot.setScale("y", { min: middle + (min - middle) * factor, max: middle + (max - middle) * factor });
  }
}
