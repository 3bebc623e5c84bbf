"""Small survey files with the layout of the real ones, written to order for tests."""

from __future__ import annotations

import gzip
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from broadline.lines import LINES

#: Lattice index, log10(wavelength / Angstrom) times 10^4, of the first pixel: 3573 Angstrom, as BOSS has it.
FIRST = 35531
N_PIXELS = 4600
COMBINEREJ = 1 << 25
BRIGHTSKY = 1 << 23

Array = NDArray[Any]


def loglam(n: int = N_PIXELS, first: int = FIRST) -> Array:
    """Lattice wavelengths as the archives store them: log10(Angstrom) in float32."""
    return ((first + np.arange(n)) * 1e-4).astype(np.float32)


def quasar(z: float, x: Array | None = None) -> Array:
    """A power law with broad emission lines (5000 km/s, heights 1.5 to 5 times the continuum)."""
    wave = 10 ** np.asarray(loglam() if x is None else x, dtype=np.float64)
    flux = 3 * (wave / 5000) ** -1.2
    for height, line in zip((5, 3, 1.5, 1.5, 1.5, 3), LINES.values(), strict=False):
        centre = line.wavelength * (1 + z)
        flux *= 1 + height * np.exp(-0.5 * ((wave - centre) / (centre * 5000 / 2.998e5)) ** 2)
    return flux.astype(np.float32)


def star(x: Array | None = None) -> Array:
    """A black body of 9000 K with narrow Balmer absorption, at redshift 0."""
    wave = 10 ** np.asarray(loglam() if x is None else x, dtype=np.float64)
    flux = 3 * (wave / 5000) ** -5 * np.expm1(1.4388e8 / (5000 * 9000)) / np.expm1(1.4388e8 / (wave * 9000))
    for centre in (4102.9, 4341.7, 4862.7, 6564.6):
        flux *= 1 - 0.6 * np.exp(-0.5 * ((wave - centre) / 8) ** 2)
    return flux.astype(np.float32)


def observed(flux: Array, sn: float = 8.0, seed: int = 0) -> tuple[Array, Array]:
    """The spectrum with noise of one size everywhere, and its ivar."""
    sigma = float(np.median(np.abs(flux))) / sn
    noise = np.random.default_rng(seed).normal(0, sigma, flux.shape)
    return (flux + noise).astype(np.float32), np.full(flux.shape, sigma**-2, dtype=np.float32)


def write_spec(path: Path, flux: Array | None = None, ivar: Array | None = None, **fields: Any) -> Path:
    """Write an SDSS spec lite file and return its path; see `spec_hdus` for the fields."""
    spec_hdus(flux, ivar, **fields).writeto(path, overwrite=True)
    return path


def spec_hdus(
    flux: Array | None = None,
    ivar: Array | None = None,
    *,
    x: Array | None = None,
    and_mask: Array | None = None,
    plate: int = 4055,
    mjd: int = 55359,
    fiber: int = 10,
    ra: float = 237.5,
    dec: float = 2.25,
    kind: str = "QSO",
    z: float = 2.0,
    zwarning: int = 0,
    objtype: str = "QSO",
    thing_id: int = 123456,
    names: Sequence[str] = ("COADD", "SPALL", "SPZLINE"),
    upper: bool = False,
    float_code: str = "E",
) -> fits.HDUList:
    """The HDUs of a spec file: header, a row a pixel, a row of the pipeline's results, a row a line.

    Parameters
    ----------
    flux, ivar : ndarray, shape (n_pixels,)
        A quasar at redshift `z` with noise if not given.
    x : ndarray, shape (n_pixels,)
        loglam; lattice pixels from `FIRST` if not given.
    names : sequence of str
        EXTNAMEs; "" leaves the name out. HDU 2 and 3 are there only if named here.
    upper : bool
        Column names of HDU 1 in upper case.
    float_code : str
        TFORM of the float columns of HDU 1.
    """
    if flux is None:
        flux, ivar = observed(quasar(z, x), seed=fiber)
    assert ivar is not None
    n = len(flux)
    x = loglam(n) if x is None else x
    zeros = np.zeros(n)
    primary = fits.PrimaryHDU()
    for key, value in {
        "COEFF0": float(x[0]) if n and np.isfinite(x[0]) else 0.0,
        "COEFF1": 1e-4,
        "PLATEID": plate,
        "MJD": mjd,
        "FIBERID": fiber,
        "PLUG_RA": ra,
        "PLUG_DEC": dec,
    }.items():
        primary.header[key] = value
    pixels = {
        "flux": (float_code, flux),
        "loglam": (float_code, x),
        "ivar": (float_code, ivar),
        "and_mask": ("J", zeros if and_mask is None else and_mask),
        "or_mask": ("J", zeros),
        "wdisp": (float_code, zeros + 1),
        "sky": (float_code, zeros),
        "model": (float_code, flux),
    }
    result = {
        "PLATE": ("J", [plate]),
        "TILE": ("J", [1]),
        "MJD": ("J", [mjd]),
        "FIBERID": ("J", [fiber]),
        "OBJTYPE": ("16A", [objtype]),
        "PLUG_RA": ("D", [ra]),
        "PLUG_DEC": ("D", [dec]),
        "CLASS": ("6A", [kind]),
        "SUBCLASS": ("21A", [""]),
        "Z": ("E", [z]),
        "Z_ERR": ("E", [1e-4]),
        "ZWARNING": ("J", [zwarning]),
        "THING_ID": ("J", [thing_id]),
        "THETA": ("5E", [np.arange(5)]),
    }
    emission = {"LINENAME": ("13A", ["Ly_alpha"]), "LINEWAVE": ("D", [1215.67]), "LINEZ": ("E", [z])}
    tables = (
        {key.upper() if upper else key: value for key, value in pixels.items()},
        result,
        emission,
    )
    return fits.HDUList([primary, *(_table(*both) for both in zip(names, tables, strict=False))])


def _table(name: str, columns: dict[str, tuple[str, Any]]) -> fits.BinTableHDU:
    cells = [fits.Column(key, code, array=np.asarray(values)) for key, (code, values) in columns.items()]
    return fits.BinTableHDU.from_columns(cells, name=name or None)


def write_plate(
    path: Path,
    flux: Array,
    ivar: Array,
    *,
    and_mask: Array | None = None,
    first: int = FIRST,
    plate: int = 4055,
    mjd: int = 55359,
    objtype: Sequence[str] | None = None,
    ra: Array | None = None,
    dec: Array | None = None,
) -> Path:
    """Write an spPlate file (flux, ivar, masks, dispersion, plug map, sky) and return its path."""
    n, n_pixels = flux.shape
    zeros = np.zeros((n, n_pixels), dtype=np.int32)
    primary = fits.PrimaryHDU(flux.astype(np.float32))
    for key, value in {"COEFF0": first * 1e-4, "COEFF1": 1e-4, "PLATEID": plate, "MJD": mjd}.items():
        primary.header[key] = value
    plug = {
        "OBJTYPE": ("16A", ["QSO"] * n if objtype is None else list(objtype)),
        "RA": ("D", np.arange(n) + 10.0 if ra is None else ra),
        "DEC": ("D", np.arange(n) - 5.0 if dec is None else dec),
        "FIBERID": ("J", np.arange(1, n + 1)),
    }
    fits.HDUList(
        [
            primary,
            fits.ImageHDU(ivar.astype(np.float32), name="IVAR"),
            fits.ImageHDU(zeros if and_mask is None else and_mask.astype(np.int32), name="ANDMASK"),
            fits.ImageHDU(zeros, name="ORMASK"),
            fits.ImageHDU(np.ones((n, n_pixels), dtype=np.float32), name="WAVEDISP"),
            _table("PLUGMAP", plug),
            fits.ImageHDU(zeros.astype(np.float32), name="SKY"),
        ]
    ).writeto(path, overwrite=True)
    return path


def write_results(
    path: Path,
    kind: Sequence[str],
    z: Sequence[float],
    zwarning: Sequence[int],
    fiber: Sequence[int],
    plate: int = 4055,
    mjd: int = 55359,
) -> Path:
    """Write an spZbest (a row a fibre) or spZall (several rows a fibre, best first) and return its path."""
    n = len(z)
    columns = {
        "PLATE": ("J", [plate] * n),
        "MJD": ("J", [mjd] * n),
        "FIBERID": ("J", fiber),
        "CLASS": ("6A", list(kind)),
        "Z": ("E", z),
        "ZWARNING": ("J", zwarning),
    }
    fits.HDUList([fits.PrimaryHDU(), _table("", columns)]).writeto(path, overwrite=True)
    return path


def write_spspec(
    path: Path, flux: Array, error: Array, *, and_mask: Array | None = None, first: int = FIRST, **cards: Any
) -> Path:
    """Write a DR7 spSpec file (rows flux, continuum-subtracted flux, error, mask, sky); return its path."""
    zeros = np.zeros_like(flux)
    primary = fits.PrimaryHDU(np.stack([flux, zeros, error, zeros, zeros]).astype(np.float32))
    standard = {
        "COEFF0": first * 1e-4,
        "COEFF1": 1e-4,
        "PLATEID": 750,
        "MJD": 52235,
        "FIBERID": 459,
        "RAOBJ": 12.5,
        "DECOBJ": -1.5,
        "OBJTYPE": "QSO",
        "SPEC_CLN": 3,
        "Z": 1.5,
        "Z_WARNIN": 0,
    }
    for key, value in (standard | cards).items():
        primary.header[key] = value
    masks = {"andMask": ("J", zeros if and_mask is None else and_mask), "orMask": ("J", zeros)}
    fits.HDUList([primary, _table("", masks)]).writeto(path, overwrite=True)
    return path


def gzipped(path: Path) -> Path:
    """Replace a file by its gzipped copy and return that one's path."""
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), 1))
    path.unlink()
    return packed


def unzipped(path: Path, folder: Path) -> Path:
    """Return a plain copy in `folder` of a file that may be gzipped."""
    content = path.read_bytes()
    plain = folder / path.name.removesuffix(".gz")
    plain.write_bytes(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    return plain


def set_card(path: Path, hdu: int, keyword: str, value: int) -> Path:
    """Overwrite the number on one header card, and nothing else, so that the header does not fit the data."""
    content = bytearray(path.read_bytes())
    with fits.open(path) as hdus:
        start = hdus[hdu].fileinfo()["hdrLoc"]
        end = hdus[hdu].fileinfo()["datLoc"]
    at = content.index(keyword.ljust(8).encode() + b"= ", start, end)
    content[at + 10 : at + 30] = f"{value:>20d}".encode()
    path.write_bytes(content)
    return path


def hdu_starts(path: Path) -> list[tuple[int, int]]:
    """Return where the header and the data of each HDU begin, in bytes."""
    with fits.open(path) as hdus:
        return [(hdu.fileinfo()["hdrLoc"], hdu.fileinfo()["datLoc"]) for hdu in hdus]


@contextmanager
def room_for(n_bytes: int) -> Iterator[None]:
    """No file may grow beyond `n_bytes`: to a program this is much like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
