"""Redrock's own fits to the real spectra, as a column beside ours in docs/model.md.

    PYTHON benchmarks/redrock_peer.py DATA --galaxy FILE -o redrock.parquet [--limit N]

PYTHON belongs to an environment of its own that holds redrock, desispec and broadline (no torch). DATA holds
``real/manifest.csv`` and the files it names, and redrock's templates under ``templates/redrock``; these lack
galaxies, whose template is FILE: rrtemplate-GALAXY-None-v2.6.fits, or rrtemplate-galaxy.fits of an early
commit of desihub/redrock-templates. Spectra that are scored come first, then sky fibres, then the others;
the output is written anew every few spectra, so that a run that was stopped is worth what it did.

Flux, ivar and wavelengths are those that broadline reads. All of redrock's library is called as its script
for BOSS plates calls it, in one process: every template at every redshift, then the three best minima of
each. Files of SDSS tell the resolution of each pixel (wdisp), and it goes in as a band matrix as there; all
others get a Gaussian of one pixel, about what LAMOST (R = 1800) and DESI (0.8 Angstrom pixels) have.

`read_verdicts` gives such a table the form that the tables of `real_sky` and `model` are made from.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse
from astropy.io import fits
from numpy.typing import NDArray

import broadline
from broadline.flags import UNCLASSIFIED
from broadline.spectra import LATTICE_STEP, Spectra, lattice_wavelength
from real_sky import Key, Labels, Mask, Verdicts, read_labels

#: What redrock-templates 0.10 lists as its default, but the galaxies.
TEMPLATES = (
    "QSO-LOZ-v1.1",
    "QSO-HIZ-v1.1",
    *(f"STAR-{kind}-v0.1" for kind in ("A", "B", "CV", "F", "G", "K", "M", "WD")),
)
#: Diagonals of a resolution matrix on each side of the first, as for dispersions of 1 to 2 pixels there.
HALF_WIDTH = 4
#: Pixels (1e-4 in log10 wavelength, or 0.8 Angstrom): sigma of the resolution where a file does not tell.
DISPERSION = 1.0
SAVE_EVERY = 10

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Item:
    """One spectrum on the grid that all of its kind share; flux and ivar are 0 where it has no pixels."""

    key: Key
    name: str
    flux: Floats
    ivar: Floats
    sigma: Floats


# ---- spectra


def read_items(data: Path, bounds: tuple[float, float]) -> tuple[dict[str, Floats], list[tuple[str, Item]]]:
    """Return wavelength grids by name, and every usable spectrum with the name of its grid.

    SDSS, BOSS, eBOSS and LAMOST share a lattice of pixels: their spectra need no resampling to lie on one
    grid, on which templates are computed once. `bounds` (Angstrom) is what the templates cover at all their
    redshifts; redrock refuses pixels beyond.
    """
    low, high = (np.log10(bound) / LATTICE_STEP for bound in bounds)
    first, last = int(np.ceil(low + 1)), int(np.floor(high - 1))
    grids = {"lattice": lattice_wavelength(first, last - first + 1)}
    items = []
    for batch in broadline.read(data / "real"):
        start = np.log10(batch.wavelength[0]) / LATTICE_STEP
        on_lattice = np.allclose(batch.wavelength, lattice_wavelength(round(start), len(batch.wavelength)))
        name = "lattice" if on_lattice else f"{batch.wavelength[0]:g}-{batch.wavelength[-1]:g}"
        wave = grids.setdefault(name, batch.wavelength)
        place = round(start) - first if on_lattice else 0
        origin = first if on_lattice else 0
        items += [(name, item) for item in _items(batch, data, place, origin, len(wave))]
    return grids, items


def _items(batch: Spectra, data: Path, place: int, origin: int, n_pixels: int) -> Iterator[Item]:
    """Yield the spectra of a batch, moved by `place` pixels, so that lattice pixel `origin` is the first."""
    old = np.arange(max(0, -place), min(len(batch.wavelength), n_pixels - place))
    for i in np.flatnonzero((batch.flags & UNCLASSIFIED) == 0):
        flux, ivar = np.zeros((2, n_pixels))
        sigma = np.full(n_pixels, DISPERSION)
        flux[old + place], ivar[old + place] = batch.flux[i, old], batch.ivar[i, old]
        source = Path(batch.ids["SOURCE"][i])
        if batch.ids["ARCHIVE"][i] == "sdss" and (told := dispersion(source)):
            pixels, values = told[0] - origin, told[1]
            inside = (pixels >= 0) & (pixels < n_pixels)
            sigma[pixels[inside]] = values[inside]
        key = (source.relative_to(data).as_posix(), max(int(batch.ids["ROW"][i]), 0))
        yield Item(key, str(batch.ids["OBJID"][i]), flux, ivar, sigma)


def dispersion(path: Path) -> tuple[NDArray[np.int64], Floats] | None:
    """Return lattice pixels and the sigma of the resolution there (pixels), of a spec file that tells it."""
    with fits.open(path) as hdus:
        names = {name.lower(): name for name in hdus[1].columns.names}
        if "wdisp" not in names:
            return None
        loglam, sigma = (np.asarray(hdus[1].data[names[key]], np.float64) for key in ("loglam", "wdisp"))
    return np.round(loglam / LATTICE_STEP).astype(np.int64), np.where(sigma > 1e-5, sigma, DISPERSION)


def resolution(sigma: Floats) -> scipy.sparse.dia_matrix:
    """Return the band matrix of a Gaussian resolution with these sigmas (pixels), rows of sum 1."""
    n = len(sigma)
    steps = np.arange(-HALF_WIDTH, HALF_WIDTH + 1)
    kernel = np.exp(-0.5 * (steps[:, None] / sigma) ** 2)
    kernel /= kernel.sum(axis=0)
    columns = np.zeros((len(steps), n))  # dia_matrix stores element (i, j) in column j
    for row, step in enumerate(steps):
        here = np.arange(max(0, -step), min(n, n - step))
        columns[row, here + step] = kernel[row, here]
    return scipy.sparse.dia_matrix((columns, steps), shape=(n, n))


# ---- redrock


def load_templates(folder: Path, galaxy: Path) -> list[Any]:
    """Return redrock's templates; early galaxy files lack keywords that today's redrock asks for."""
    from redrock.templates import Template

    templates = [Template(str(folder / f"rrtemplate-{name}.fits.gz")) for name in TEMPLATES]
    with fits.open(galaxy) as hdus:
        header, flux = hdus[0].header, np.asarray(hdus[0].data, dtype=np.float64)
    if header.get("VERSION") == "2.6":
        return [Template(str(galaxy)), *templates]
    wave = header["CRVAL1"] + header["CDELT1"] * np.arange(header["NAXIS1"])
    redshifts = 10 ** np.arange(np.log10(1 - 0.005), np.log10(1 + 1.7), 3e-4) - 1  # redrock's for galaxies
    early = {"spectype": "GALAXY", "subtype": "", "igm_model": "None", "version": header["RRVER"]}
    return [Template(redshifts=redshifts, wave=wave, flux=flux, **early), *templates]


def fit(item: Item, wave: Floats, templates: Sequence[Any]) -> dict[str, Any]:
    """Return the best fit to a spectrum, and the processor time (s) that it took."""
    from redrock.targets import DistTargetsCopy, Spectrum, Target
    from redrock.zfind import zfind

    matrix = resolution(item.sigma)
    spectrum = Spectrum(wave, item.flux, item.ivar.copy(), matrix, matrix.tocsr(), band="all")
    start = time.process_time()
    _, found = zfind(DistTargetsCopy([Target(0, [spectrum])]), templates)
    best = found[found["znum"] == 0][0]
    return {
        "OBJID": item.name,
        "SOURCE": item.key[0],
        "ROW": item.key[1],
        "SPECTYPE": str(best["spectype"]),
        "SUBTYPE": str(best["subtype"]),
        "Z": float(best["z"]),
        "ZERR": float(best["zerr"]),
        "ZWARN": int(best["zwarn"]),
        "CHI2": float(best["chi2"]),
        "DELTACHI2": float(best["deltachi2"]),
        "SECONDS": time.process_time() - start,
    }


def importance(labels: Labels) -> NDArray[np.int64]:
    """Return 0 for spectra that are scored, 1 for sky fibres, 2 for the others."""
    return np.where(labels.scored, 0, np.where(labels.kind == "SKY", 1, 2))


def write(path: Path, rows: Sequence[Mapping[str, Any]], about: Mapping[str, str]) -> None:
    """Write the rows aside, and rename."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    pq.write_table(pa.Table.from_pylist(list(rows), metadata=about), aside)
    aside.replace(path)


def run(data: Path, galaxy: Path, output: Path, limit: int | None) -> None:
    """Fit all spectra, the important ones first, and write the table again and again."""
    import redrock
    from redrock.templates import DistTemplate

    chatter = contextlib.redirect_stdout(io.StringIO())
    with chatter:
        templates = load_templates(data / "templates" / "redrock", galaxy)
    ends = [(x.minwave * (1 + x.redshifts.max()), x.maxwave * (1 + x.redshifts.min())) for x in templates]
    grids, items = read_items(data, (max(low for low, _ in ends), min(high for _, high in ends)))
    order = importance(read_labels(data, [item.key for _, item in items]))
    chosen = [items[i] for i in np.argsort(order, kind="stable")[:limit]]
    about = {"redrock": redrock.__version__, "galaxies": f"{galaxy.name} {templates[0].version}"}
    rows: list[dict[str, Any]] = []
    started = time.perf_counter()
    for name, wave in grids.items():
        here = [item for grid, item in chosen if grid == name]
        if not here:
            continue
        with chatter:
            ready = [DistTemplate(template, {"all": wave}) for template in templates]
            fit(here[0], wave, ready)  # compiles what redrock compiles
        for item in here:
            with chatter:
                rows.append(fit(item, wave, ready))
            if len(rows) % SAVE_EVERY == 0:
                write(output, rows, about)
                print(f"{len(rows)} of {len(chosen)}, {time.perf_counter() - started:.0f} s", flush=True)
    write(output, rows, about)
    seconds = np.array([row["SECONDS"] for row in rows])
    print(
        f"{len(rows)} spectra; processor time: median {np.median(seconds):.2f} s, mean {seconds.mean():.2f} s"
    )


# ---- beside our own models


def read_verdicts(path: Path, keys: Sequence[Key], name: str = "redrock", warned: bool = False) -> Verdicts:
    """Return what a table of this script says of the spectra `keys`, in their order.

    Parameters
    ----------
    path : Path
    keys : sequence of (str, int)
        Files relative to DATA and rows in them, as from `real_sky.run_broadline`.
    name : str
        Of the column.
    warned : bool
        Take the best fit for the answer even where redrock warns (ZWARN is not 0). Else only those fits
        whose SPECTYPE is QSO without any warning are quasars.

    Notes
    -----
    Spectra that the table lacks are not classified, and no quasars: they count as missed. Redrock says
    nothing of broad absorption.
    """
    columns = pq.read_table(path).to_pydict()
    place = {key: i for i, key in enumerate(zip(columns["SOURCE"], columns["ROW"], strict=True))}
    rows = np.array([place.get(key, -1) for key in keys], dtype=np.int64)
    fitted: Mask = rows >= 0
    trusted = fitted & ((np.array(columns["ZWARN"])[rows] == 0) | warned)
    none = np.empty((len(keys), 0))
    return Verdicts(
        name=name,
        classified=fitted,
        is_qso=trusted & (np.array(columns["SPECTYPE"])[rows] == "QSO"),
        is_bal=np.zeros(len(keys), dtype=np.bool_),
        z=np.where(fitted, np.array(columns["Z"])[rows], np.nan),
        z_err=np.where(fitted, np.array(columns["ZERR"])[rows], np.nan),
        c=none,
        z_line=none,
        flags=np.zeros(len(keys), dtype=np.int64),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--galaxy", type=Path, required=True, help="redrock's template for galaxies")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="fit so many spectra only")
    options = parser.parse_args()
    run(options.data, options.galaxy, options.output, options.limit)


if __name__ == "__main__":
    main()
