// Arrays of one spectrum: unpacking, smoothing, the range to show, and the quasar laid over it.

const SPEED_OF_LIGHT = 299792.458; // km/s
const LYA = 1215.67; // Angstrom
const STEEPEST = 4; // powers of wavelength that the composite is multiplied by
const EVERY = 4; // pixels looked at for it

/** Numbers that the server packed as little-endian bytes in base64. */
export function unpack(text, Kind = Float32Array) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  return new Kind(bytes.buffer);
}

/** A spectrum's arrays; pixels without an error are masked. */
export function unpackSpectrum(spectrum) {
  if (spectrum.missing || spectrum.pixels) return spectrum;
  const error = unpack(spectrum.error);
  spectrum.pixels = {
    wavelength: unpack(spectrum.wavelength),
    flux: unpack(spectrum.flux),
    error,
    model: spectrum.model ? unpack(spectrum.model) : null,
    masked: runs(error),
  };
  return spectrum;
}

/** First and last index of each run of masked pixels. */
function runs(error) {
  const found = [];
  for (let i = 0; i < error.length; i++) {
    if (Number.isFinite(error[i])) continue;
    const first = i;
    while (i + 1 < error.length && !Number.isFinite(error[i + 1])) i++;
    found.push([first, i]);
  }
  return found;
}

/** Inverse-variance mean of flux over `width` pixels, and its error; null where all are masked. */
export function smooth({ flux, error }, width) {
  const n = flux.length;
  const weight = new Float64Array(n + 1), weighted = new Float64Array(n + 1);
  for (let i = 0; i < n; i++) {
    const w = Number.isFinite(error[i]) ? 1 / error[i] ** 2 : 0;
    weight[i + 1] = weight[i] + w;
    weighted[i + 1] = weighted[i] + (w ? w * flux[i] : 0);
  }
  const half = (width - 1) / 2, mean = new Array(n), sigma = new Array(n);
  for (let i = 0; i < n; i++) {
    const first = Math.max(0, i - half), last = Math.min(n, i + half + 1);
    const total = weight[last] - weight[first];
    const masked = !Number.isFinite(error[i]) && width === 1;
    mean[i] = total > 0 && !masked ? (weighted[last] - weighted[first]) / total : null;
    sigma[i] = mean[i] === null ? null : 1 / Math.sqrt(total);
  }
  return { mean, sigma };
}

/** Lowest and highest flux to show between two wavelengths: what is three pixels wide and no mere noise. */
export function fluxRange({ wavelength, error }, mean, from, to) {
  const errors = error.filter(Number.isFinite).sort();
  const loud = 4 * (errors[errors.length >> 1] || Infinity);
  let low = Infinity, high = -Infinity, n = 0, before = 0, last = 0;
  for (let i = 0; i < mean.length; i++) {
    const value = mean[i];
    if (value === null || wavelength[i] < from || wavelength[i] > to || !(error[i] < loud)) continue;
    if (++n >= 3) {
      low = Math.min(low, Math.max(before, last, value));
      high = Math.max(high, Math.min(before, last, value));
    }
    [before, last] = [last, value];
  }
  if (n < 3) return [-1, 1];
  const room = Math.max(high - low, 1e-3 * Math.abs(high), 1e-6);
  return [Math.min(low - 0.12 * room, 0), high + 0.15 * room];
}

/**
 * The composite quasar at a redshift on a spectrum's pixels: dimmed by the mean Lya forest, and times a power of
 * wavelength, which takes up slope and dust, that fits the pixels best.
 */
export function overlay({ wavelength, flux, error }, z, composite, forest) {
  const shape = placed(wavelength, z, composite, forest);
  const middle = wavelength[wavelength.length >> 1];
  let best = { gain: 0, scale: NaN, slope: 0 };
  for (let slope = -STEEPEST; slope <= STEEPEST; slope += 0.25) {
    let ff = 0, sf = 0;
    for (let i = 0; i < shape.length; i += EVERY) {
      if (!(error[i] > 0) || Number.isNaN(shape[i])) continue;
      const value = shape[i] * (wavelength[i] / middle) ** slope / error[i];
      ff += value * value;
      sf += (value * flux[i]) / error[i];
    }
    // By so much it lowers chi squared.
    if (sf > 0 && (sf * sf) / ff > best.gain) best = { gain: (sf * sf) / ff, scale: sf / ff, slope };
  }
  return Array.from(shape, (value, i) =>
    Number.isNaN(value) || Number.isNaN(best.scale) ? null : best.scale * value * (wavelength[i] / middle) ** best.slope);
}

/** A composite's flux on other wavelengths at a redshift; NaN where it has none. */
function placed(wavelength, z, composite, forest) {
  const shape = new Float64Array(wavelength.length).fill(NaN);
  let at = 0;
  for (let i = 0; i < wavelength.length; i++) {
    const rest = wavelength[i] / (1 + z);
    while (at + 1 < composite.wavelength.length && composite.wavelength[at + 1] < rest) at++;
    if (rest < composite.wavelength[0] || at + 1 >= composite.wavelength.length) continue;
    const share = (rest - composite.wavelength[at]) / (composite.wavelength[at + 1] - composite.wavelength[at]);
    shape[i] = composite.flux[at] * (1 - share) + composite.flux[at + 1] * share;
    if (rest < LYA) shape[i] *= Math.exp(-forest.scale * (wavelength[i] / LYA) ** forest.power);
  }
  return shape;
}

/** Means of `n` parts of a spectrum, for a thumbnail. */
export function thumbnail({ flux, error }, n) {
  const parts = [];
  for (let i = 0; i < n; i++) {
    let sum = 0, weight = 0;
    const last = Math.floor(((i + 1) * flux.length) / n);
    for (let k = Math.floor((i * flux.length) / n); k < last; k++) {
      if (!Number.isFinite(error[k])) continue;
      sum += flux[k] / error[k] ** 2;
      weight += 1 / error[k] ** 2;
    }
    parts.push(weight ? sum / weight : null);
  }
  return parts;
}

/** Velocity difference (km/s) of two redshifts. */
export function velocity(z, reference) {
  return (SPEED_OF_LIGHT * (z - reference)) / (1 + reference);
}
