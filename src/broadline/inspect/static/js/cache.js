// Spectra that have been fetched: those shown of late, and the next ones before they are asked for.
import { unpackSpectrum } from "./spectrum.js";

const KEPT = 40; // spectra in memory

export class Cache {
  /** @param fetch from a row to the promise of its spectrum, as the server sends it */
  constructor(fetch) {
    this.fetch = fetch;
    this.coming = new Map(); // row -> promise of its spectrum
    this.ready = new Map(); // row -> spectrum, of those that have come
  }

  /** The promise of a spectrum, its arrays unpacked; one that failed is asked for again the next time. */
  get(row) {
    const known = this.coming.get(row) ?? this.ask(row);
    this.coming.delete(row); // the last used stands last
    this.coming.set(row, known);
    return known;
  }

  ask(row) {
    const coming = this.fetch(row).then(unpackSpectrum);
    coming.then(
      (spectrum) => this.coming.get(row) === coming && this.ready.set(row, spectrum),
      () => this.coming.get(row) === coming && this.forget(row),
    );
    if (this.coming.size >= KEPT) this.forget(this.coming.keys().next().value);
    return coming;
  }

  forget(row) {
    this.coming.delete(row);
    this.ready.delete(row);
  }

  clear() {
    this.coming.clear();
    this.ready.clear();
  }
}
