"""Instruments: noise-free spectra to spectra as the archive's pipeline would have written them.

The noise is that of counted photons: a pixel whose sky and source are S and F (1e-17 erg / s / cm2 / A) has
the variance ``(S + F) / E + (R / E)^2``, where E is the number of photo-electrons for one unit of flux and R
the read noise of all exposures and extracted rows. E(wavelength) is throughput, exposure and calibration in
one; S is a continuum and the lines of `SKY_LINES`. The numbers of BOSS, SDSS and LAMOST were measured on real
standard stars and sky fibres with ``benchmarks/measure_instruments.py``; no spectrum is stored. What a
perfect spectrograph and pipeline would not do is in `Defects`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator

from broadline.simulation.instrument_curves import (
    KERNEL,
    bases_of,
    brightness,
    random_calibration,
    random_fields,
    random_runs,
    smearing,
)
from broadline.simulation.scene import Scene
from broadline.spectra import LATTICE_STEP, lattice_wavelength

__all__ = ["COMBINEREJ", "NODATA", "Arm", "Defects", "Instrument", "Observed", "draw_sn"]

#: Bits of SDSS pixel masks (SPPIXMASK): no data, and rejected when the exposures were combined.
NODATA, COMBINEREJ = np.int32(1 << 24), np.int32(1 << 25)

_Image = NDArray[np.float32]
#: No spectrum has less noise from sky and read-out than this times the usual sigma, whatever `shape_scatter`.
QUIETEST = np.float32(0.3)


@dataclass(frozen=True, slots=True)
class Defects:
    """How large each artefact is; 0 switches it off. Where nothing else is said, a standard deviation.

    Attributes
    ----------
    overstated, overstated_bright : float
        By how much pipeline errors exceed the noise of single pixels: of bare sky (SDSS sky fibres have pulls
        of 0.88), and more where the source's photons dominate (standard stars).
    correlation : float
        Correlation of the noise of neighbouring pixels, from combining exposures on a new grid.
    ivar_level, ivar_shape : float
        Relative error of the pipeline's sigma: of a whole spectrum, and smooth in wavelength.
    sky_offset, sky_broad : float
        Residual of sky subtraction and scattered light, in sigma of a pixel of bare sky: constant through the
        spectrum, and varying over 15 to 60 bins of 1e-3 dex.
    sky_lines : float
        Residual of a sky line, relative to the line: its strength; its slope, from errors of width and place,
        is as large.
    grey_loss, blue_loss : float
        Light lost by a fibre off its target: half-normal, the second growing from red to blue (a gain, if
        it is negative).
    slope, curvature, ripple : float
        Relative error of flux calibration: linear and quadratic through the spectrum, and over 300 pixels.
    step, join : float
        Relative mismatch of the arms, and the wiggle where they meet.
    fringe : float
        Relative amplitude of fringes beyond 8000 Angstrom.
    spikes : float
        Cosmic-ray residues a spectrum that were not masked (Poisson mean).
    rejected, missing : float
        Masked runs (a pixel or two; 40 % anywhere, 40 % on sky lines, 20 % on [O I] 5577) and missing ranges
        (some 60 pixels) a spectrum (Poisson means).
    ragged : float
        Pixels without data at each end (mean).
    lost_arm : float
        Probability that an arm has no data.
    """

    overstated: float = 0.17
    overstated_bright: float = 0.3
    correlation: float = 0.07
    ivar_level: float = 0.05
    ivar_shape: float = 0.03
    sky_offset: float = 0.17
    sky_broad: float = 0.11
    sky_lines: float = 0.012
    grey_loss: float = 0.1
    blue_loss: float = 0.05
    slope: float = 0.05
    curvature: float = 0.03
    ripple: float = 0.01
    step: float = 0.02
    join: float = 0.02
    fringe: float = 0.005
    spikes: float = 0.03
    rejected: float = 1.0
    missing: float = 0.02
    ragged: float = 15.0
    lost_arm: float = 0.003

    def scaled(self, factor: float) -> Defects:
        """Return defects `factor` times as large; ``scaled(0)`` has none."""
        if not factor >= 0:
            raise ValueError(f"factor must be >= 0, not {factor}")
        return Defects(**{each.name: factor * getattr(self, each.name) for each in fields(self)})


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm or camera: the pixels from `first` to `last` (Angstrom, vacuum)."""

    name: str
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class Observed:
    """Spectra as the archive's pipeline would have them, on the instrument's pixels.

    Attributes
    ----------
    flux, ivar : ndarray of float32, shape (n_spectra, n_pixels)
        In the unit of the scene; ivar 0 where there are no data, flux 0 where there never were any.
    and_mask : ndarray of int32, shape (n_spectra, n_pixels)
        `COMBINEREJ` where a pixel was rejected, `NODATA` where there is none.
    wdisp : ndarray of float32, shape (n_spectra, n_pixels)
        Standard deviation of the line-spread function, in pixels of the instrument; read-only.
    sky : ndarray of float32, shape (n_spectra, n_pixels)
        Sky that was subtracted, 1e-17 erg / s / cm2 / Angstrom, in an exposure of the survey's usual depth.
    model : ndarray of float32, shape (n_spectra, n_pixels)
        Flux without noise and without what sky subtraction left, with the errors of flux calibration.
    scale : ndarray of float32, shape (n_spectra,)
        By how much the source must be brighter than the scene, 1e-17 erg / s / cm2 / Angstrom for its unit,
        to reach the signal-to-noise ratio asked in an exposure of the usual depth; 1 for empty sky.
    """

    flux: _Image
    ivar: _Image
    and_mask: NDArray[np.int32]
    wdisp: _Image
    sky: _Image
    model: _Image
    scale: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Instrument:
    """The facts of one spectrograph and its pipeline. Tables are interpolated in log wavelength.

    Attributes
    ----------
    name : str
    arms : tuple of Arm
        From blue to red, the wavelengths between which each arm's pixels stand in the archive's files.
    linear_step : float
        Angstrom a pixel, each arm on its own pixels; 0 for the SDSS lattice, arms joined.
    nodes : tuple of float
        Vacuum wavelengths of the tables that follow.
    electrons : tuple of float
        Photo-electrons a pixel for 1e-17 erg / s / cm2 / A, all exposures.
    sky : tuple of float
        Sky continuum, 1e-17 erg / s / cm2 / A.
    wdisp : tuple of float
        Standard deviation of the line-spread function, in 1e-4 dex.
    read_noise : float
        Electrons a pixel, all exposures and extracted rows.
    line_scale : float
        Strength of the sky lines relative to `SKY_LINES`.
    shape_scatter : float
        Scatter of ln of the true sigma's shape, known to the pipeline; four times as large at the ends.
    defects : Defects
    """

    name: str
    arms: tuple[Arm, ...]
    linear_step: float
    nodes: tuple[float, ...]
    electrons: tuple[float, ...]
    sky: tuple[float, ...]
    wdisp: tuple[float, ...]
    read_noise: float
    line_scale: float
    shape_scatter: float
    defects: Defects = field(default_factory=Defects)

    @property
    def wavelength(self) -> NDArray[np.float64]:
        """Pixel centres, vacuum Angstrom, shape (n_pixels,); for linear arms, one arm after the other."""
        if self.linear_step:
            step = self.linear_step
            return np.concatenate([a.first + step * np.arange(_count(a, step)) for a in self.arms])
        low, high = (round(np.log10(x) / LATTICE_STEP) for x in (self.arms[0].first, self.arms[-1].last))
        return lattice_wavelength(low, high - low + 1)

    @property
    def slices(self) -> dict[str, slice]:
        """The pixels of each arm."""
        if self.linear_step:
            ends = np.cumsum([0] + [_count(arm, self.linear_step) for arm in self.arms])
        else:
            joins = [arm.last for arm in self.arms[:-1]]
            ends = np.concatenate([[0], np.searchsorted(self.wavelength, joins), [len(self.wavelength)]])
        return {arm.name: slice(int(ends[i]), int(ends[i + 1])) for i, arm in enumerate(self.arms)}

    @property
    def window(self) -> tuple[int, int]:
        """Lattice index of the first pixel and number of pixels that a `Scene` must cover."""
        position = np.log10([self.wavelength.min(), self.wavelength.max(initial=0)]) / LATTICE_STEP
        margin = int(np.ceil(KERNEL * max(self.wdisp))) + 1
        return int(position[0]) - margin, int(np.ceil(position[1])) - int(position[0]) + 2 * margin + 1

    def table(self, name: str, wavelength: ArrayLike) -> NDArray[np.float64]:
        """Return the table `electrons`, `sky` or `wdisp` at some wavelengths (Angstrom)."""
        curve = PchipInterpolator(np.log(self.nodes), np.log(getattr(self, name)))
        x = np.clip(np.asarray(wavelength, dtype=np.float64), self.nodes[0], self.nodes[-1])
        return np.asarray(np.exp(curve(np.log(x))))

    def perfect(self) -> Instrument:
        """Return this instrument without defects: only noise, exactly as ivar says."""
        return replace(self, defects=self.defects.scaled(0))

    def observe(self, scene: Scene, sn: NDArray[Any], rng: np.random.Generator) -> Observed:
        """Return noise-free spectra as observed, with the noise that gives the signal-to-noise ratio asked.

        The noise is scaled, not the flux: the scene is taken for a source as bright as `sn` needs in an
        exposure of the usual depth, so that the source's own photons matter at high and not at low `sn`.

        Parameters
        ----------
        scene : Scene
            It must cover `window`.
        sn : ndarray, shape (n_spectra,)
            Median over pixels of the true signal-to-noise ratio a pixel, > 0. Ignored where the median flux
            is not positive (sky fibres): there the scene is taken in its own unit.
        rng : numpy.random.Generator

        Raises
        ------
        ValueError
            If the scene does not cover `window` or `sn` has another shape or is not positive.
        """
        sn = np.asarray(sn, dtype=np.float32)
        n = len(scene.flux)
        if sn.shape != (n,) or not (np.isfinite(sn) & (sn > 0)).all():
            raise ValueError(f"sn must be {n} positive numbers, one a spectrum; its shape is {sn.shape}")
        bases, defects = bases_of(self), self.defects
        model = self.smeared(scene)
        model *= random_calibration(bases, defects, n, rng)
        # What the pipeline knows: sky brightness and throughput of each spectrum.
        night = np.exp(rng.normal(0, [0.2, 0.3, 0.0], (n, 3))).astype(np.float32)
        sky = night[:, :2] @ bases.sky
        variance = night @ bases.variance
        shape = random_fields(bases.shape, self.shape_scatter, n, rng)
        np.maximum(np.add(shape, 1, out=shape), QUIETEST, out=shape)
        variance *= np.square(shape, out=shape)
        scale = brightness(model, variance, bases.electrons, sn)[:, None]
        source = np.maximum(model, 0)
        source *= scale
        source /= bases.electrons
        variance += source
        source /= variance
        sigma = np.sqrt(variance, out=variance)
        sigma /= scale
        noise = rng.standard_normal(model.shape, dtype=np.float32)
        if defects.correlation:
            noise[:, 1:] += np.float32(defects.correlation) * noise[:, :-1]
            noise /= np.float32(np.hypot(1, defects.correlation))
        if defects.overstated or defects.overstated_bright:
            source *= np.float32(defects.overstated_bright)  # now the source's share of the variance
            source += np.float32(1 + defects.overstated)
            noise /= source
        flux = noise
        flux *= sigma
        if bases.residual.size and any((defects.sky_offset, defects.sky_broad, defects.sky_lines)):
            loud = rng.lognormal(0, 0.3, (n, 1)) / scale  # some spectra are worse than others
            flux += (rng.standard_normal((n, len(bases.residual))) * loud).astype(np.float32) @ bases.residual
        flux += model
        if defects.ivar_level or defects.ivar_shape:
            error = random_fields(bases.smooth, defects.ivar_shape, n, rng)
            error += rng.normal(1, defects.ivar_level, (n, 1)).clip(0.5, 2)
            sigma_said = np.maximum(error, 0.3) * sigma
        else:
            sigma_said = sigma
        ivar = np.square(1 / sigma_said)
        and_mask = self._blemish(flux, ivar, sigma, rng)
        wdisp = np.broadcast_to(bases.wdisp, flux.shape)
        return Observed(flux, ivar, and_mask, wdisp, sky, model, scale[:, 0])

    def smeared(self, scene: Scene) -> _Image:
        """Return the scene seen through the line-spread function, on the instrument's pixels."""
        operator = smearing(self, scene.first, scene.flux.shape[1])
        return np.ascontiguousarray((operator @ np.ascontiguousarray(scene.flux.T)).T, dtype=np.float32)

    def _blemish(
        self, flux: _Image, ivar: _Image, sigma: _Image, rng: np.random.Generator
    ) -> NDArray[np.int32]:
        """Add cosmic rays and take data away, in place; return the mask."""
        defects, (n, n_pixels) = self.defects, flux.shape
        mask = np.zeros(flux.shape, dtype=np.int32)
        rows, columns = random_runs(rng, n, n_pixels, defects.spikes, 1.5)
        flux[rows, columns] += sigma[rows, columns] * (5 + rng.exponential(8, len(rows))).astype(np.float32)
        mask[random_runs(rng, n, n_pixels, defects.rejected, 1.5, bases_of(self).rejected)] |= COMBINEREJ
        mask[random_runs(rng, n, n_pixels, defects.missing, 60)] |= NODATA
        if defects.ragged:
            for end in (slice(None), slice(None, None, -1)):
                length = np.minimum(rng.exponential(defects.ragged, n), n_pixels // 10).astype(int)
                missing = np.arange(min(n_pixels, length.max(initial=0))) < length[:, None]
                mask[:, end][:, : missing.shape[1]][missing] |= NODATA
        arms = list(self.slices.values())
        for row in np.flatnonzero(rng.random(n) < defects.lost_arm):
            mask[row, arms[rng.integers(len(arms))]] |= NODATA
        ivar[mask != 0] = 0
        flux[(mask & NODATA) != 0] = 0
        return mask


def draw_sn(
    n: int, rng: np.random.Generator, median: float = 2.6, sigma: float = 0.9, highest: float = 60.0
) -> NDArray[np.float32]:
    """Return signal-to-noise ratios a pixel as in a sample of quasar targets: lognormal, cut at `highest`.

    Parameters
    ----------
    n : int
    rng : numpy.random.Generator
    median : float
    sigma : float
        Standard deviation of the natural logarithm.
    highest : float
    """
    return np.minimum(median * np.exp(sigma * rng.standard_normal(n)), highest).astype(np.float32)


def _count(arm: Arm, step: float) -> int:
    return round((arm.last - arm.first) / step) + 1
