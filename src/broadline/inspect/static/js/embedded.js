// A page that stands alone: spectra are in it, verdicts are kept by the browser and leave it as a csv.
import { Refused } from "./api.js";

const COLUMNS = [
  "TARGETID", "EXPID", "NIGHT", "TILEID", "Spec_version", "Redrock_version", "Template_version",
  "Redrock_spectype", "Redrock_z", "Redrock_deltachi2", "VI_scanner", "VI_quality", "VI_issue", "VI_z",
  "VI_spectype", "VI_comment",
];
const BAL = "Broad absorption line quasar (BAL)";

export class Embedded {
  constructor(data) {
    this.data = data;
    this.inspector = data.project.inspector;
    this.place = `broadline ${data.project.sha256}`;
    try {
      this.rows = JSON.parse(localStorage.getItem(this.place)) ?? [];
    } catch {
      this.rows = []; // the browser keeps nothing for files: verdicts last as long as the page
    }
  }

  /** What stands: the last of each spectrum that is not taken back. */
  get standing() {
    return new Map(this.rows.map((row) => [row.row, row]));
  }

  keep(rows) {
    try {
      localStorage.setItem(this.place, JSON.stringify(rows));
    } catch {
      if (this.kept) throw new Refused("the browser has no room for the verdict; download the csv", 507, {});
    }
    this.rows = rows;
    this.kept = true;
  }

  async project() { return this.data.project; }

  async queues() {
    const ruled = this.standing.size;
    return [{ name: "ranked", text: "Chosen", n: this.data.spectra.length, ruled }];
  }

  async queue() {
    const rows = this.data.spectra.map((spectrum) => spectrum.row);
    const standing = this.standing;
    return { n: rows.length, rows, ruled: rows.map((row) => Number(standing.has(row))) };
  }

  async spectrum(row) {
    const spectrum = this.data.spectra.find((one) => one.row === row);
    return { ...spectrum, ...this.verdict(row) };
  }

  verdict(row) {
    const verdict = this.standing.get(row) ?? null;
    return { verdict, version: 0, others: [], hidden: 0 };
  }

  async rule(verdict) {
    this.keep([...this.rows, { ...verdict, inspector: this.inspector }]);
    return this.verdict(verdict.row);
  }

  async undo() {
    const last = this.rows.at(-1);
    if (!last) throw new Refused("there is nothing to undo", 409, {});
    this.keep(this.rows.slice(0, -1));
    return { row: last.row, ...this.verdict(last.row) };
  }

  statistics() { return null; }

  exports() {
    return [{ text: "VI csv", onclick: () => this.download() }];
  }

  download() {
    const url = URL.createObjectURL(new Blob([this.csv()], { type: "text/csv" }));
    const link = document.createElement("a");
    link.href = url;
    link.download = `${this.data.project.catalogue}-${this.inspector}-prospect.csv`;
    link.click();
    URL.revokeObjectURL(url);
  }

  /** As prospect writes verdicts, and as the command `broadline verdicts` reads them. */
  csv() {
    const lines = [...this.standing.values()].map((verdict) => {
      const spectrum = this.data.spectra.find((one) => one.row === verdict.row);
      const { called, z, number } = spectrum, { version, model } = this.data.project;
      const far = called && verdict.z !== null && Math.abs((verdict.z - z) / (1 + z)) * 299792.458 >= 6000;
      const issue = (far ? "R" : "") + (called !== (verdict.kind === "QSO") ? "C" : "");
      const comment = [verdict.bal ? BAL : "", verdict.comment].filter(Boolean).join(" ");
      return [
        number, -1, -1, -1, -1, version, model, called ? "QSO" : "", called ? z.toFixed(4) : "", -1,
        inert(verdict.inspector), verdict.quality, issue, verdict.z === null ? "" : verdict.z.toFixed(5),
        verdict.kind === "?" ? "" : verdict.kind, inert(comment),
      ].map(quoted).join(",");
    });
    return [COLUMNS.join(","), ...lines, ""].join("\n");
  }
}

/** A text that no spreadsheet takes for a formula. */
const inert = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
const quoted = (cell) => (/[",\n\r]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell));
