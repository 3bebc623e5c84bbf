"""What `Instrument.observe` and `Coarse` share: curves computed once an instrument, and random parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from broadline.simulation.one_thread import one_thread
from broadline.simulation.sky_lines import SKY_LINES
from broadline.spectra import LATTICE_STEP

if TYPE_CHECKING:
    from broadline.simulation.instrument import Defects, Instrument

__all__ = [
    "KERNEL",
    "Bases",
    "bases_of",
    "brightness",
    "random_calibration",
    "random_fields",
    "random_runs",
    "smearing",
]

#: The line-spread function ends at so many standard deviations.
KERNEL = 5.0

_Image = NDArray[np.float32]
_Basis = NDArray[np.float32]
# Widths in pixels below which a line is narrower than the lattice of a Scene can carry (DESI's red camera).
_NARROWEST = 0.4
# Sky lines weaker than this leave residuals below the noise.
_WEAK_LINE = 60.0


@dataclass(frozen=True, slots=True)
class Bases:
    """Curves on the instrument's pixels; a random field is random numbers @ a basis (n_rows, n_pixels).

    Attributes
    ----------
    electrons : ndarray of float32, shape (n_pixels,)
        Photo-electrons for a flux of 1e-17 erg / s / cm2 / Angstrom, the unit of all fluxes here.
    wdisp : ndarray of float32, shape (n_pixels,)
        Standard deviation of the line-spread function, in the instrument's pixels.
    sky : ndarray of float32, shape (2, n_pixels)
        Flux of continuum and lines.
    variance : ndarray of float32, shape (3, n_pixels)
        Of sky continuum, sky lines and read noise, for a source of flux 0.
    smooth : ndarray of float32, shape (n_rows, n_pixels)
        A basis of unit variance, correlated over some 400 pixels.
    shape : ndarray of float32, shape (n_rows, n_pixels)
        The same, larger at the ends.
    calibration : ndarray of float32, shape (n_rows, n_pixels)
        The relative errors of `random_calibration`.
    one_sided : int
        So many first rows of `calibration` only ever lose light.
    residual : ndarray of float32, shape (n_rows, n_pixels)
        Flux left by sky subtraction.
    rejected : ndarray of float64, shape (n_pixels,)
        Cumulative probability of the place of masked runs.
    """

    electrons: _Basis
    wdisp: _Basis
    sky: _Basis
    variance: _Basis
    smooth: _Basis
    shape: _Basis
    calibration: _Basis
    one_sided: int
    residual: _Basis
    rejected: NDArray[np.float64]


@lru_cache(maxsize=16)
@one_thread
def bases_of(instrument: Instrument) -> Bases:
    """Return the curves of an instrument; those of the last 16 are kept."""
    wavelength, defects = instrument.wavelength, instrument.defects
    x = np.log10(wavelength) / LATTICE_STEP
    electrons, continuum, wdisp = (instrument.table(t, wavelength) for t in ("electrons", "sky", "wdisp"))
    lattice_pixel = wavelength * np.log(10) * LATTICE_STEP
    lines: list[NDArray[np.float64]] = []
    left: list[NDArray[np.float64]] = []
    for centre, strength in SKY_LINES:
        u = (x - np.log10(centre) / LATTICE_STEP) / wdisp
        profile = np.exp(-0.5 * u**2) / (np.sqrt(2 * np.pi) * wdisp * lattice_pixel)
        lines.append(instrument.line_scale * strength * profile)
        if strength > _WEAK_LINE:
            left += [lines[-1], lines[-1] * u]
    sky = np.stack([continuum, np.sum(lines, axis=0)])
    read = (instrument.read_noise / electrons) ** 2
    quiet = np.sqrt(continuum / electrons + read)
    residual = [defects.sky_offset * quiet]
    residual += [row * defects.sky_broad * np.sqrt(0.5) * quiet for row in (*_bumps(x, 90), *_bumps(x, 350))]
    residual += [defects.sky_lines * row for row in left]
    t = 2 * (x - x.min()) / np.ptp(x) - 1
    calibration = [np.full_like(t, defects.grey_loss), defects.blue_loss * (1 - t)]
    calibration += [defects.slope * t, defects.curvature * (1.5 * t**2 - 0.5)]
    calibration += [defects.ripple * row for row in _bumps(x, 300)]
    for arm in instrument.arms[:-1]:
        u = np.log(wavelength / arm.last) / 0.008
        calibration += [defects.step * 0.5 * (1 + np.tanh(u)), defects.join * u * np.exp(0.5 - 0.5 * u**2)]
    red = defects.fringe / (1 + np.exp(-(wavelength - 8200) / 150))
    phase = 2 * np.pi * 8.5e5 / wavelength  # a period of 75 A at 8000 A
    calibration += [red * np.cos(phase), red * np.sin(phase)]
    oxygen = np.exp(-(((wavelength - 5578.9) / 2.0) ** 2))  # the line that pipelines reject most
    smooth = _bumps(x, 400)
    ends = 1 + 3 * (np.exp((x.min() - x) / 250) + np.exp((x - x.max()) / 250))
    in_pixels = wdisp * lattice_pixel / instrument.linear_step if instrument.linear_step else wdisp
    return Bases(
        electrons.astype(np.float32),
        in_pixels.astype(np.float32),
        sky.astype(np.float32),
        np.stack([*(sky / electrons), read]).astype(np.float32),
        smooth.astype(np.float32),
        (ends * smooth).astype(np.float32),
        np.stack(calibration).astype(np.float32),
        2,
        np.stack(residual).astype(np.float32),
        np.cumsum(0.4 / len(x) + 0.4 * sky[1] / sky[1].sum() + 0.2 * oxygen / oxygen.sum()),
    )


def _bumps(x: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Return Gaussians `length` pixels apart whose random sums have unit variance everywhere."""
    centres = np.arange(x.min() - length, x.max() + 2 * length, length)
    rows = np.exp(-0.5 * ((x - centres[:, None]) / (0.8 * length)) ** 2)
    return np.asarray(rows / np.sqrt((rows**2).sum(axis=0)))


@lru_cache(maxsize=16)
def smearing(instrument: Instrument, first: int, n_pixels: int) -> csr_array:
    """Return the line-spread function and the resampling, from lattice pixels to the instrument's.

    Parameters
    ----------
    instrument : Instrument
    first, n_pixels : int
        Lattice index of the scene's first pixel, and how many it has.

    Returns
    -------
    csr_array of float32, shape (instrument's pixels, n_pixels)
        The last 16 are kept.

    Raises
    ------
    ValueError
        If the scene does not cover `Instrument.window`.
    """
    low, size = instrument.window
    if first > low or first + n_pixels < low + size:
        raise ValueError(
            f"the scene covers lattice pixels {first} to {first + n_pixels - 1}, {instrument.name} needs "
            f"{low} to {low + size - 1}: make the scene on Instrument.window"
        )
    wavelength = instrument.wavelength
    x = np.log10(wavelength) / LATTICE_STEP
    sigma = np.maximum(instrument.table("wdisp", wavelength), _NARROWEST)[:, None]
    half = int(np.ceil(KERNEL * sigma.max()))
    index = np.rint(x).astype(int)[:, None] + np.arange(-half, half + 1)
    weight = np.exp(-0.5 * ((index - x[:, None]) / sigma) ** 2)
    weight[np.abs(index - x[:, None]) > KERNEL * sigma] = 0
    weight /= weight.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(len(x)), index.shape[1])
    keep = weight.ravel() > 0
    entries = (weight.ravel()[keep].astype(np.float32), (rows[keep], index.ravel()[keep] - first))
    return csr_array(entries, shape=(len(x), n_pixels))


# ---- random parts


def random_fields(basis: _Basis, amplitude: float, n: int, rng: np.random.Generator) -> _Image:
    """Return random fields of standard deviation `amplitude`, shape (n, n_pixels)."""
    return (amplitude * rng.standard_normal((n, len(basis)))).astype(np.float32) @ basis


def random_calibration(bases: Bases, defects: Defects, n: int, rng: np.random.Generator) -> _Image:
    """Return what flux calibration and fibre placement multiply spectra by: (n, n_pixels), at least 0.1."""
    draws = rng.standard_normal((n, len(bases.calibration))).astype(np.float32)
    draws[:, : bases.one_sided] = -np.abs(draws[:, : bases.one_sided])
    factor = draws @ bases.calibration
    factor += 1
    np.maximum(factor, 0.1, out=factor)
    return factor


def brightness(
    model: _Image, dark: _Image, electrons: _Basis, sn: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return by how much to brighten each source so that its median S/N a pixel is `sn`.

    With u = scale * flux, a pixel has S/N = u / sqrt(dark + u / electrons). Solved for the scale a pixel: S/N
    grows with it, so that the median of the pixels' scales is the scale of the median S/N.

    Parameters
    ----------
    model, dark : ndarray of float32, shape (n_spectra, n_pixels)
        Flux, and the variance that it would have without the source's photons.
    electrons : ndarray of float32, shape (n_pixels,)
    sn : ndarray of float32, shape (n_spectra,)

    Returns
    -------
    ndarray of float32, shape (n_spectra,)
        1 where the median flux is not positive.
    """
    part = slice(None, None, 3)
    flux, dark, electrons = model[:, part], dark[:, part], electrons[part]
    half = (0.5 * sn**2)[:, None] / electrons
    u = half + np.sqrt(half**2 + (sn**2)[:, None] * dark)
    # A bright line's pixel needs little, one without flux infinitely much.
    with np.errstate(over="ignore"):
        scale = np.median(np.divide(u, flux, out=np.full_like(u, np.inf), where=flux > 0), axis=1)
    return np.where(np.isfinite(scale), scale, 1).astype(np.float32)


def random_runs(
    rng: np.random.Generator,
    n: int,
    n_pixels: int,
    rate: float,
    mean_length: float,
    cumulative: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of random runs of pixels, `rate` a row, of geometric length.

    Parameters
    ----------
    rng : numpy.random.Generator
    n, n_pixels : int
        Rows and columns.
    rate : float
        Poisson mean of the runs in a row.
    mean_length : float
        In pixels, >= 1; a run ends with its row.
    cumulative : ndarray of float64, shape (n_pixels,), optional
        Cumulative probability of the first pixel; all are as likely if not given.

    Returns
    -------
    rows, columns : ndarray of int64, shape (n_hits,)
        A pixel may be hit more than once.
    """
    count = rng.poisson(rate * n)
    row, start = rng.integers(0, n, count), rng.integers(0, n_pixels, count)
    if cumulative is not None:
        start = np.minimum(np.searchsorted(cumulative, rng.random(count)), n_pixels - 1)
    length = rng.geometric(1 / mean_length, count)
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    columns = np.repeat(start, length) + within
    inside = columns < n_pixels
    return np.repeat(row, length)[inside], columns[inside]
