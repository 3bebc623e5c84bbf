"""Noise and calibration of real instruments, and how like them the simulated ones are.

    python benchmarks/measure_instruments.py DATA [--figure FIGURE.png]

DATA holds ``real/manifest.csv`` and the files it names. Only rows with ``use=instrument`` are opened. Of the
sky fibres, which stand on ten SDSS plates, only those of the first five by plate number are used; the
others are left for testing. Printed first: the tables stored in ``broadline.simulation.instrument``; then
real beside simulated.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy.ndimage import percentile_filter

import broadline
from broadline.grid import QUASARNET_LOG
from broadline.resample import binned
from broadline.simulation.instrument import Instrument, Observed
from broadline.simulation.instruments import BOSS, LAMOST, SDSS
from broadline.simulation.scene import Scene
from broadline.spectra import LATTICE_STEP, lattice_wavelength

FIRST, N_PIXELS = 35500, 4700  # lattice window that holds every SDSS and BOSS spectrum
WAVELENGTH = lattice_wavelength(FIRST, N_PIXELS)
BUILD_PLATES = 5
RANGES = (
    *((3800, 4200), (4200, 5000), (5000, 5550), (5550, 5610), (5610, 6050), (6050, 7200)),
    *((7200, 8000), (8000, 8800), (8800, 9200), (9300, 10200)),
)
LAGS = [*range(1, 11), 20, 40, 80]

Floats = NDArray[np.floating[Any]]
Sample = dict[str, Floats]


# ---- real


def choose(data: Path) -> dict[str, list[Path]]:
    """Return the files that may be measured: standards of BOSS and SDSS, sky fibres to build on, LAMOST."""
    with (data / "real" / "manifest.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["use"] == "instrument"]
    sky = [row for row in rows if row["truth_class"] == "SKY"]
    plates = sorted({int(row["plate"]) for row in sky})[:BUILD_PLATES]
    stars = [row for row in rows if row["truth_class"] != "SKY"]
    chosen = {
        "boss": [row for row in stars if row["survey"] in ("boss", "eboss")],
        "sdss": [row for row in stars if row["survey"] == "sdss"],
        "sky": [row for row in sky if int(row["plate"]) in plates],
        "lamost": [row for row in stars if row["survey"] == "lamost"],
    }
    print(f"sky fibres of plates {plates}: {len(chosen['sky'])} of {len(sky)}")
    return {name: [data / row["path"] for row in rows] for name, rows in chosen.items()}


def load(paths: list[Path]) -> Sample:
    """Return the columns of SDSS files on one lattice, NaN where a file has no pixels."""
    sample = {
        name: np.full((len(paths), N_PIXELS), np.nan) for name in ("flux", "ivar", "sky", "wdisp", "and_mask")
    }
    for row, path in enumerate(paths):
        with fits.open(path, memmap=False, ignore_missing_end=True) as hdus:
            table = hdus[1].data
            index = np.rint(table["loglam"] / LATTICE_STEP).astype(int) - FIRST
            for name, column in sample.items():
                column[row, index] = table[name]
    return sample


def near(wavelength: Floats, centre: float, width: float) -> NDArray[np.bool_]:
    return np.asarray(np.abs(np.log(wavelength / centre)) < width)


def photons(sample: Sample, instrument: Instrument) -> None:
    """Print what reproduces the tables of an instrument, read noise given."""
    print(f"\n{instrument.name}: wavelength, electrons, sky continuum, wdisp: measured (stored)")
    for centre in instrument.nodes:
        steep = centre < 3650 or 5750 < centre < 6300 or centre > 10300
        pixels = near(WAVELENGTH, centre, 0.004 if steep else 0.012)
        ivar, sky = sample["ivar"][:, pixels], sample["sky"][:, pixels]
        variance = 1 / np.where(ivar > 0, ivar, np.nan)
        light = sky + np.maximum(sample["flux"][:, pixels], 0)
        # variance = light / E + (R / E)^2, solved for E
        electrons = (light + np.sqrt(light**2 + 4 * variance * instrument.read_noise**2)) / (2 * variance)
        found = (
            np.nanmedian(np.nanmedian(electrons, axis=1)),
            np.nanmedian(np.nanpercentile(sky, 20, axis=1)),
            np.nanmedian(sample["wdisp"][:, pixels]),
        )
        stored = [float(instrument.table(name, centre)) for name in ("electrons", "sky", "wdisp")]
        print(f"{centre:8.0f}", *(f"{a:9.3g} ({b:.3g})" for a, b in zip(found, stored, strict=True)))


def bright(flux: Floats, ivar: Floats, wavelength: Floats, instrument: Instrument) -> None:
    """Print the shape of electrons from stars so bright that only their own photons count."""
    unit = np.median(flux, axis=1, keepdims=True)
    # S/N^2 counts electrons; divided by the flux, electrons for one unit of it.
    counts = np.where((ivar > 0) & (flux > 0), flux * ivar * unit, np.nan)
    found = np.array([np.nanmedian(counts[:, near(wavelength, c, 0.004)]) for c in instrument.nodes])
    stored = instrument.table("electrons", instrument.nodes)
    at = int(np.argmax(stored))
    print(
        f"\n{instrument.name}: wavelength, electrons relative to those at {instrument.nodes[at]:.0f} A: ",
        end="",
    )
    print("measured (stored)")
    for row in zip(instrument.nodes, found / found[at], stored / stored[at], strict=True):
        print("{:8.0f} {:9.3g} ({:.3g})".format(*row))


def sky_lines(sample: Sample, n: int = 84) -> None:
    """Print the strongest lines of the median sky: vacuum wavelength and flux."""
    sky, wdisp = np.nanmedian(sample["sky"], axis=0), np.nanmedian(sample["wdisp"], axis=0)
    continuum = percentile_filter(np.nan_to_num(sky), 20, 121)
    line = np.nan_to_num(sky - continuum)
    peaks = [i for i in range(5, N_PIXELS - 5) if line[i] > 0 and line[i] == line[i - 4 : i + 5].max()]
    peaks = sorted(sorted(peaks, key=lambda i: -line[i] / np.sqrt(max(continuum[i], 1.0)))[:n])
    pixel = WAVELENGTH * np.log(10) * LATTICE_STEP
    print(f"\nsky lines of {len(sample['sky'])} spectra: wavelength, flux")
    print(
        "; ".join(
            f"{WAVELENGTH[i]:.1f} {line[i] * np.sqrt(2 * np.pi) * wdisp[i] * pixel[i]:.0f}" for i in peaks
        )
    )


# ---- simulated


def simulate(instrument: Instrument, flux: Floats | float, sn: float, n: int, seed: int = 1) -> Sample:
    """Return `n` simulated spectra of one scene, on the lattice of `load`."""
    first, size = instrument.window
    scene = Scene(first, np.broadcast_to(np.float32(flux), (n, size)).copy(), {})
    observed: Observed = instrument.observe(scene, np.full(n, sn), np.random.default_rng(seed))
    begin = round(np.log10(instrument.wavelength[0]) / LATTICE_STEP) - FIRST
    sample = {}
    for name in ("flux", "ivar", "sky", "wdisp", "and_mask"):
        values = np.full((n, N_PIXELS), np.nan)
        values[:, begin : begin + observed.flux.shape[1]] = getattr(observed, name)
        sample[name] = values
    return sample


# ---- compared


def pulls(sample: Sample) -> tuple[Floats, Floats]:
    """Return flux * sqrt(ivar), NaN where ivar is 0: on pixels, and on the 443 bins of QuasarNET."""
    flux, ivar = (np.nan_to_num(sample[name]).astype(np.float32) for name in ("flux", "ivar"))
    coarse, coarse_ivar, _ = binned(flux, ivar, WAVELENGTH, QUASARNET_LOG)
    fine = np.where(ivar > 0, flux * np.sqrt(ivar), np.nan)
    return fine, np.where(coarse_ivar > 0, coarse * np.sqrt(coarse_ivar), np.nan)


def autocorrelation(values: Floats, lags: list[int]) -> list[float]:
    power = np.nanmean(values**2)
    return [float(np.nanmean(values[:, lag:] * values[:, :-lag]) / power) for lag in lags]


def kurtosis(values: Floats) -> float:
    values = values[np.isfinite(values)]
    values = values - values.mean()
    return float((values**4).mean() / (values**2).mean() ** 2 - 3)


def masked_share(ivar: Floats) -> float:
    """Return the share of pixels with ivar 0 between the first and the last good one of each spectrum."""
    good = np.nan_to_num(ivar) > 0
    inside = np.maximum.accumulate(good, axis=1) & np.maximum.accumulate(good[:, ::-1], axis=1)[:, ::-1]
    return float(1 - good.sum() / inside.sum())


def describe(name: str, sample: Sample) -> None:
    """Print what sky fibres look like."""
    fine, coarse = pulls(sample)
    offsets = np.nanmean(coarse, axis=1)
    flat = coarse - offsets[:, None]
    each = np.nanstd(coarse, axis=1)
    masked = masked_share(sample["ivar"])
    share = np.mean((np.nan_to_num(sample["and_mask"]).astype(int) >> 25) & 1)
    print(f"\n{name}: {len(fine)} spectra; masked {masked:.4f}, COMBINEREJ {share:.5f}")
    print(f"  coarse pulls: std {np.nanstd(coarse):.3f}, of their means {offsets.std():.3f}", end="")
    print(f"; std a spectrum {np.round(np.percentile(each, [10, 50, 90]), 2)}")
    print(f"  lags on 443 bins           {LAGS}")
    print(f"  autocorrelation            {np.round(autocorrelation(coarse, LAGS), 3)}")
    print(f"    means subtracted         {np.round(autocorrelation(flat, LAGS), 3)}")
    print(f"  on pixels, lags 1 2 3 5 10 {np.round(autocorrelation(fine, [1, 2, 3, 5, 10]), 3)}")
    bins = QUASARNET_LOG.centres
    for low, high in RANGES:
        some, few = (
            fine[:, (low < WAVELENGTH) & (high > WAVELENGTH)],
            coarse[:, (bins > low) & (bins < high)],
        )
        print(f"  {low}-{high}: pixels std {np.nanstd(some):.3f} kurtosis {kurtosis(some):6.2f}", end="")
        print(f"; bins std {np.nanstd(few):.3f} kurtosis {kurtosis(few):6.2f}")


def curves(real: Sample, simulated: Sample) -> None:
    """Print the median sigma, its scatter of shape, and the sky, real and simulated."""
    print(
        "\n  wavelength: sigma / sigma at 6620 A (scatter of ln), 95th percentile / median of sigma;", end=""
    )
    print(" real | simulated")
    centres = np.geomspace(3850, 9100, 14)
    both = []
    for sample in (real, simulated):
        sigma = np.where(sample["ivar"] > 0, sample["ivar"], np.nan) ** -0.5
        windows = [sigma[:, near(WAVELENGTH, centre, 0.012)] for centre in (*centres, 6620)]
        median = np.array([np.nanmedian(w, axis=1) for w in windows])
        bright = np.array(
            [np.nanmedian(np.nanpercentile(w, 95, axis=1) / np.nanmedian(w, axis=1)) for w in windows]
        )
        shape = np.log(median) - np.nanmean(np.log(median), axis=0)
        both.append((np.exp(np.nanmedian(shape, axis=1)), np.nanstd(shape, axis=1), bright))
    for i, centre in enumerate(centres):
        print(f"  {centre:6.0f}", *(f"| {s[i] / s[-1]:.2f} ({e[i]:.2f}) {b[i]:.2f}" for s, e, b in both))


def neighbours(name: str, flux: Floats, ivar: Floats, wavelength: Floats) -> None:
    """Print the scatter of each pixel about the mean of its neighbours, in sigma: 1 for white noise."""
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma = np.sqrt(1 / ivar[:, 1:-1] + 0.25 / ivar[:, 2:] + 0.25 / ivar[:, :-2])
        pull = (flux[:, 1:-1] - 0.5 * (flux[:, 2:] + flux[:, :-2])) / sigma
    pull[~np.isfinite(sigma) | ~np.isfinite(pull)] = np.nan
    text = []
    for low, high in ((3750, 4200), (4200, 5500), (5500, 6100), (6100, 7200), (7200, 8800), (8800, 9100)):
        few = pull[:, (wavelength[1:-1] > low) & (wavelength[1:-1] < high)]
        text.append(f"{low}: {1.4826 * np.nanmedian(np.abs(few)):.2f}")
    print(f"  {name:18}", ", ".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--figure", type=Path, help="draw sky fibres and stars, real above simulated")
    options = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # statistics of pixels that no spectrum covers
    files = choose(options.data)
    real = {name: load(files[name]) for name in ("boss", "sdss", "sky")}
    photons(real["boss"], BOSS)
    photons(real["sky"], SDSS)
    lamost = next(broadline.read(files["lamost"]))
    bright(lamost.flux, lamost.ivar, lamost.wavelength, LAMOST)
    sky_lines(real["boss"])
    dark = simulate(SDSS, 0.0, 1.0, 400)
    describe("real SDSS sky fibres", real["sky"])
    describe("simulated SDSS sky fibres", dark)
    describe("simulated BOSS sky fibres", simulate(BOSS, 0.0, 1.0, 400))
    curves(real["sky"], dark)
    wavelength = lattice_wavelength(*BOSS.window)
    starlight = np.interp(wavelength, (3600, 5000, 6500, 8400, 10400), (27, 26, 20, 14, 10))  # an F star
    star = simulate(BOSS, starlight, 35.0, 27)
    print("\nBOSS standards | simulated")
    curves(real["boss"], star)
    print(f"masked: {masked_share(real['boss']['ivar']):.4f} | {masked_share(star['ivar']):.4f}")
    print("\nscatter about neighbours (stars of high S/N)")
    for name in ("boss", "sdss"):
        neighbours(f"real {name}", real[name]["flux"], real[name]["ivar"], WAVELENGTH)
    neighbours("simulated boss", star["flux"], star["ivar"], WAVELENGTH)
    neighbours("real lamost", lamost.flux, lamost.ivar, lamost.wavelength)
    cold = simulate(LAMOST, 20.0, 60.0, 128)
    neighbours("simulated lamost", cold["flux"], cold["ivar"], WAVELENGTH)
    print(f"lamost masked: {masked_share(lamost.ivar):.4f} | {masked_share(cold['ivar']):.4f}")
    if options.figure:
        draw(options.figure, real, dark, star)


def draw(path: Path, real: dict[str, Sample], dark: Sample, star: Sample) -> None:
    """Write a figure: sky fibres and BOSS standards, real on the left and simulated on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 14), layout="constrained")
    axes = figure.subplots(6, 2, sharex=True)
    for row in range(4):
        for column, sample in enumerate((real["sky"], dark)):
            axes[row, column].plot(WAVELENGTH, sample["flux"][3 * row], lw=0.4)
            axes[row, column].plot(WAVELENGTH, np.sqrt(1 / np.maximum(sample["ivar"][3 * row], 1e-9)), lw=0.5)
            axes[row, column].set_ylim(-4, 5)
    for row in range(4, 6):
        for column, sample in enumerate((real["boss"], star)):
            flux, ivar = sample["flux"][5 * row], sample["ivar"][5 * row]
            axes[row, column].plot(WAVELENGTH, flux / np.nanmedian(flux), lw=0.4)
            sigma = np.sqrt(1 / np.maximum(ivar, 1e-9)) / np.nanmedian(flux)
            axes[row, column].plot(WAVELENGTH, 10 * sigma, lw=0.5)
            axes[row, column].set_ylim(0, 2.5)
    axes[0, 0].set_title("real")
    axes[0, 1].set_title("simulated")
    figure.supxlabel("vacuum wavelength (Angstrom)")
    figure.supylabel(
        "flux and sigma (1e-17 erg / s / cm2 / A); last two rows relative to the median, sigma x 10"
    )
    figure.savefig(path, dpi=70)


if __name__ == "__main__":
    main()
