"""Representation: exactly what one network eats. Grid, resampling, normalisation; saved with the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from broadline.flags import Flag, mark
from broadline.grid import QUASARNET_LOG, Grid
from broadline.resample import binned, conserving
from broadline.spectra import Spectra

__all__ = ["CONSTANT", "Representation", "Represented", "together"]

_FEW = 0.1  # fraction of bins with data below which FEW_PIXELS is set
_MEDIAN_BINS = 7  # of the running median of "guarded"
_LOW_SN = 0.5  # median S/N per pixel below which LOW_SN is set
#: Relative scatter below which a spectrum counts as constant: the rounding of a float32 mean.
CONSTANT = 1e-6


class Represented(NamedTuple):
    """A batch in the form a network eats, with what was noticed on the way.

    Attributes
    ----------
    values : ndarray of float32, shape (n_spectra, grid.size) or (n_spectra, 2, grid.size)
    data : ndarray of bool, shape (n_spectra, grid.size)
        Bins that hold data.
    flags : ndarray of uint32, shape (n_spectra,)
        The reader's flags and those found here.
    sn_median : ndarray of float32, shape (n_spectra,)
        Median over bins with data of the signal-to-noise ratio per pixel of the spectrum's own grid
        (the bin's mean flux times the root of its mean ivar); NaN without data.
    """

    values: NDArray[np.float32]
    data: NDArray[np.bool_]
    flags: NDArray[np.uint32]
    sn_median: NDArray[np.float32]

    def rows(self, rows: NDArray[np.int64]) -> Represented:
        """Return some of the spectra."""
        return Represented(self.values[rows], self.data[rows], self.flags[rows], self.sn_median[rows])


def together(parts: Sequence[Represented]) -> Represented:
    """Return batches of one representation as one, in their order."""
    if len(parts) == 1:
        return parts[0]
    values, data, flags, sn_median = zip(*parts, strict=True)
    return Represented(*map(np.concatenate, (values, data, flags, sn_median)))


@dataclass(frozen=True, slots=True)
class Representation:
    """How spectra become network input.

    Attributes
    ----------
    grid : Grid
    resampling : {"binned", "conserving"}
        Inverse-variance weighted mean of the pixels in a bin (QuasarNET), or flux-conserving
        (Carnall 2017; the transfer-learning paper).
    normalisation : {"rms", "minmax", "guarded"}
        Subtract the weighted mean and divide by the weighted root-mean-square (Busca & Balland 2018,
        section 3), or scale to [-1, 1] (Podsztavek et al. 2021, section 2). One pixel hit by a cosmic ray
        sets the scale of all others then; "guarded" scales by the least and greatest of the running median
        over 7 bins instead, and cuts what lies beyond.
    empty : {"zero", "as-published"}
        Bins without data after normalisation: 0, or what the published codes leave there, the image of
        flux 0, which is -mean/rms. The latter imitates a spectral break at the edge of the coverage.
    channels : {"flux", "flux+error"}
        Flux alone, or with ``log(1 + sqrt(ivar) rms)`` beside it: how well each bin is known, 0 without data.
        For "rms" only.
    """

    grid: Grid = QUASARNET_LOG
    resampling: Literal["binned", "conserving"] = "binned"
    normalisation: Literal["rms", "minmax", "guarded"] = "rms"
    empty: Literal["zero", "as-published"] = "zero"
    channels: Literal["flux", "flux+error"] = "flux"

    def __post_init__(self) -> None:
        if self.channels == "flux+error" and self.normalisation != "rms":
            raise ValueError("the error channel is defined for the normalisation rms alone")

    def __call__(self, spectra: Spectra) -> Represented:
        """Return the representation of a batch; rows that have none are 0 and flagged, never dropped."""
        resample = binned if self.resampling == "binned" else conserving
        with np.errstate(over="ignore", invalid="ignore"):  # absurd fluxes overflow; they are flagged below
            flux, ivar, pixels = resample(spectra.flux, spectra.ivar, spectra.wavelength, self.grid)
        flux, ivar = flux.astype(np.float32, copy=False), ivar.astype(np.float32, copy=False)
        data = ivar > 0
        normalise = {"rms": _rms, "minmax": _minmax, "guarded": _guarded}[self.normalisation]
        values, constant, unit = normalise(flux, ivar, data)
        if self.empty == "zero":
            values *= data
        sn = _sn_median(flux, ivar, data, pixels)
        flags = spectra.flags | _quality(spectra, data, constant, sn)
        if self.channels == "flux+error":
            values = np.stack([values, np.log1p(np.sqrt(ivar) * unit)], axis=1)
        values[(flags & (Flag.NO_DATA | Flag.NO_COVERAGE | Flag.CONSTANT_FLUX)) != 0] = 0
        return Represented(values, data, flags, sn)

    def to_dict(self) -> dict[str, Any]:
        """Return the representation as plain JSON types; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Representation:
        """Return the representation that `to_dict` described.

        Raises
        ------
        ValueError, TypeError
            If a field is unknown or has an impossible value.
        """
        fields = dict(fields)
        representation = cls(Grid(**fields.pop("grid")), **fields)
        choices = {
            "resampling": ("binned", "conserving"),
            "normalisation": ("rms", "minmax", "guarded"),
            "empty": ("zero", "as-published"),
            "channels": ("flux", "flux+error"),
        }
        for name, allowed in choices.items():
            if getattr(representation, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, not {getattr(representation, name)!r}")
        return representation


_Image = NDArray[np.float32]
_Mask = NDArray[np.bool_]


def _rms(flux: _Image, ivar: _Image, data: _Mask) -> tuple[_Image, _Mask, _Image]:
    """Return ``(flux - mean) / rms``, both weighted by ivar, which rows are constant, and the rms."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        weight = ivar / ivar.sum(axis=1, keepdims=True)
        mean = np.einsum("ij,ij->i", flux, weight)[:, None]
        values = flux - mean
        rms = np.sqrt(np.einsum("ij,ij,ij->i", values, values, weight))[:, None]
        constant = ~(rms > CONSTANT * np.abs(mean)) & data.any(axis=1, keepdims=True)
        values /= rms
    unit = np.nan_to_num(rms, nan=0.0, posinf=0.0)
    return np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0), constant[:, 0], unit


def _minmax(flux: _Image, ivar: _Image, data: _Mask) -> tuple[_Image, _Mask, _Image]:
    """Return flux scaled so that the bins with data span [-1, 1], which are constant, and half the span."""
    return _scaled(flux, flux, data)


def _guarded(flux: _Image, ivar: _Image, data: _Mask) -> tuple[_Image, _Mask, _Image]:
    """Return what `_minmax` does, scaled by the running median: no hit of less than 4 bins moves it."""
    from scipy.ndimage import median_filter  # here, as most models need none, and it takes long to load

    # Bins without data take the mean of the others, which is beyond neither end.
    mean = (flux * data).sum(axis=1, keepdims=True) / np.maximum(data.sum(axis=1, keepdims=True), 1)
    smooth = median_filter(np.where(data, flux, mean), size=(1, _MEDIAN_BINS), mode="nearest")
    values, constant, unit = _scaled(flux, smooth, data)
    return np.clip(values, -1, 1), constant, unit


def _scaled(flux: _Image, by: _Image, data: _Mask) -> tuple[_Image, _Mask, _Image]:
    low = np.where(data, by, np.inf).min(axis=1, keepdims=True)
    high = np.where(data, by, -np.inf).max(axis=1, keepdims=True)
    span = high - low
    constant = ~(span > CONSTANT * np.abs(high)) & data.any(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = 2 * (flux - low) / span - 1
    return np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0), constant[:, 0], span / 2


def _sn_median(flux: _Image, ivar: _Image, data: _Mask, pixels: NDArray[np.float64]) -> _Image:
    per_pixel = np.sqrt(1 / np.maximum(pixels, 1)).astype(np.float32)
    sn = np.where(data, flux * np.sqrt(ivar) * per_pixel, np.inf).astype(np.float32)
    sn.sort(axis=1)  # bins without data go to the end
    count = data.sum(axis=1)
    rows = np.arange(len(sn))
    lower, upper = sn[rows, np.maximum(count - 1, 0) // 2], sn[rows, count // 2 * (count > 1)]
    return np.where(count > 0, 0.5 * (lower + upper), np.nan).astype(np.float32)


def _quality(spectra: Spectra, data: _Mask, constant: _Mask, sn: _Image) -> NDArray[np.uint32]:
    count = data.sum(axis=1)
    flags = np.zeros(len(data), dtype=np.uint32)
    mark(flags, (count > 0) & (count < _FEW * data.shape[1]), Flag.FEW_PIXELS)
    mark(flags, constant, Flag.CONSTANT_FLUX)
    mark(flags, sn < _LOW_SN, Flag.LOW_SN)
    bare = np.flatnonzero(count == 0)
    lit = (spectra.ivar[bare] > 0).any(axis=1)
    mark(flags, bare[lit], Flag.NO_COVERAGE)
    mark(flags, bare[~lit], Flag.NO_DATA)
    return flags
