"""Quasars from template files: eigenspectra, composites and emission-line templates."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from broadline.simulation.absorption import LYMAN_SERIES, effective_optical_depth
from broadline.simulation.quasar import FIRST, N_PIXELS, parametric
from broadline.simulation.scene import Rest
from broadline.spectra import LATTICE_STEP, lattice_wavelength

__all__ = ["Basis", "QuasarTemplates"]

Array = NDArray[np.float32]

#: Eigenspectra: name, file, does it contain the mean Lya forest, and up to which rest wavelength (Angstrom)
#: it is used: beyond, few spectra made it and it is noisy. Redrock's HIZ was built from spectra
#: corrected for it (Brodzeller et al. 2023, AJ 166, 66); the others from spectra as observed.
EIGENSPECTRA = (
    ("redrock-HIZ", "redrock/rrtemplate-QSO-HIZ-v1.1.fits*", False, 4000.0),
    ("redrock-LOZ", "redrock/rrtemplate-QSO-LOZ-v1.1.fits*", False, 11000.0),
    ("spEigenQSO-55732", "sdss_eigenspectra/spEigenQSO-55732.fits*", True, 5600.0),
    ("spEigenQSO-58596", "sdss_eigenspectra/spEigenQSO-58596.fits*", True, 3700.0),
    ("spEigenQSO-EMPCA", "sdss_eigenspectra/spEigenQSO-EMPCA-cleaned.fits*", True, 5300.0),
    ("Yip2004", "yip/qso_eigenspec_Yip2004_global.fits*", True, 11000.0),
)
#: Composites of two columns or more. Selsing's is corrected for the forest.
COMPOSITES = (
    ("VandenBerk2001", "qso/selsing/VandenBerk2001.dat*", True),
    ("Selsing2016", "qso/selsing/Selsing2015.dat*", False),
    ("Francis1991", "qso/selsing/Francis1991.dat*", True),
)
#: Emission-line template of Temple, Hewett & Banerji (2021), MNRAS 508, 737: columns wavelength, median
#: lines, continuum, lines of peaky and of windy quasars, narrow lines.
EMISSION = "qsogen/qsosed_emlines_20210625.dat*"

#: Shares of the kinds in the mixture.
SHARES = {"parametric": 0.35, "lines": 0.15, "eigenspectra": 0.42, "composite": 0.08}


@dataclass(frozen=True, slots=True)
class Basis:
    """Shapes on the lattice, and the coefficients that quasars have on them.

    Attributes
    ----------
    name : str
    start : int
        First pixel, counted from `FIRST`.
    shapes : ndarray of float32, shape (n_shapes, n_pixels)
    coefficients : ndarray of float32, shape (n_library, n_shapes)
        Fits to the library's quasars; of a composite, 1.
    has_forest : bool
        Whether the shapes contain the mean Lya forest.
    """

    name: str
    start: int
    shapes: Array
    coefficients: Array
    has_forest: bool

    def covers(self, z: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where the basis covers most of 3,800-9,200 Angstrom observed, with a forest that suits.

        The forest in a basis is that of the quasars it was made of, few of them beyond z = 2.9.
        """
        low = 10 ** (LATTICE_STEP * (FIRST + self.start))
        high = low * 10 ** (LATTICE_STEP * self.shapes.shape[1])
        suits = (low * (1 + z) < 4300) & (high * (1 + z) > 8200)
        return np.asarray(suits & ((z < 2.9) | (not self.has_forest)))


def _find(folder: Path, pattern: str) -> Path | None:
    return next(iter(sorted(folder.glob(pattern))), None)


def _on_lattice(log_wavelength: NDArray[Any], shapes: NDArray[Any]) -> tuple[int, Array]:
    """Return the first pixel (from `FIRST`) and shapes moved to the lattice, cut to its range."""
    place = np.asarray(log_wavelength, dtype=np.float64) / LATTICE_STEP - FIRST
    filled = np.flatnonzero(np.any(np.asarray(shapes) != 0, axis=0))  # some sets are padded with zeros
    start, stop = max(0, int(np.ceil(place[filled[0]]))), min(N_PIXELS, int(place[filled[-1]]) + 1)
    pixel = np.arange(start, stop)
    return start, np.stack([np.interp(pixel, place, shape) for shape in shapes]).astype(np.float32)


def _read_eigenspectra(path: Path) -> tuple[int, Array]:
    with fits.open(path) as hdus:
        header = hdus[0].header
        if "CRVAL1" in header and "CDELT1" in header:
            first, step = header["CRVAL1"], header["CDELT1"]
        elif "COEFF0" in header:
            first, step = header["COEFF0"], header["COEFF1"]
        else:
            table = hdus[1].data
            wave = np.ravel(table["WAVE"]).astype(np.float64)
            shapes = np.asarray(table["PCA"], dtype=np.float64).reshape(-1, len(wave))[:10]
            return _on_lattice(np.log10(wave), shapes)
        shapes = np.asarray(hdus[0].data, dtype=np.float64)
    return _on_lattice(first + step * np.arange(shapes.shape[1]), shapes)


def _read_columns(path: Path) -> NDArray[np.float64]:
    columns: NDArray[np.float64] = np.genfromtxt(path, comments="#", invalid_raise=False)
    return columns[np.isfinite(columns[:, :2]).all(axis=1) & (columns[:, 0] > 0)]


def _join(flux: Array, inner: Array, start: int) -> None:
    """Put `inner` (n, m) into `flux` from pixel `start`, scaling what lies beside it to meet it."""
    stop = start + inner.shape[1]
    edge = 60
    low, high = flux[:, start : start + edge].mean(axis=1), flux[:, stop - edge : stop].mean(axis=1)
    left, right = inner[:, :edge].mean(axis=1), inner[:, -edge:].mean(axis=1)
    left, right = np.maximum(left, 1e-6), np.maximum(right, 1e-6)
    flux[:, :start] *= (left / np.maximum(low, 1e-12))[:, None]
    flux[:, stop:] *= (right / np.maximum(high, 1e-12))[:, None]
    flux[:, start:stop] = inner


class QuasarTemplates:
    """Quasars drawn from the template files in a folder; see `mix`.

    Real coefficients are not in the files. They are fitted to a library of parametric quasars; a new quasar
    has those of one, c_i, moved along the difference of two others, c_i + u (c_j - c_k), all three of about
    the redshift asked for. What comes out negative is drawn nearer to c_i, and at last
    replaced by quasar i. Outside its coverage a template is continued by quasar i.

    Parameters
    ----------
    folder : Path
        Holds ``redrock``, ``sdss_eigenspectra``, ``yip``, ``qso`` and ``qsogen``, as far as they are there.
    n_library : int
        Size of the library of parametric quasars.

    Warns
    -----
    UserWarning
        For every set that is missing, with what is used in its place.
    """

    def __init__(self, folder: Path, n_library: int = 600) -> None:
        folder = Path(folder)
        rng = np.random.default_rng(2001)
        self._z = np.sort(rng.uniform(0.02, 6.0, n_library))
        self._library = parametric(n_library, self._z, rng)
        self.eigenspectra: list[Basis] = []
        self.composites: list[Basis] = []
        self.missing: list[str] = []
        for name, pattern, forest, longest in EIGENSPECTRA:
            path = _find(folder, pattern)
            if path is None:
                self._miss(name, folder / pattern, "the other eigenspectra, or parametric quasars")
                continue
            start, shapes = _read_eigenspectra(path)
            shapes = shapes[:, : int(np.log10(longest) / LATTICE_STEP) - FIRST - start]
            self.eigenspectra.append(self._fitted(name, start, shapes, forest))
        for name, pattern, forest in COMPOSITES:
            path = _find(folder, pattern)
            if path is None:
                self._miss(name, folder / pattern, "the other composites, or parametric quasars")
                continue
            columns = _read_columns(path)
            columns = columns[columns[:, 1] > 0]
            start, shapes = _on_lattice(np.log10(columns[:, 0]), columns[None, :, 1])
            one = np.ones((n_library, 1), dtype=np.float32)
            self.composites.append(Basis(name, start, shapes, one, forest))
        self._emission: Array | None = None
        path = _find(folder, EMISSION)
        if path is None:
            self._miss("qsogen emission lines", folder / EMISSION, "the line table of the parametric quasars")
        else:
            columns = _read_columns(path)
            start, shapes = _on_lattice(np.log10(columns[:, 0]), columns[:, [1, 3, 4, 5]].T / columns[:, 2])
            self._emission = np.zeros((4, N_PIXELS), dtype=np.float32)
            self._emission[:, start : start + shapes.shape[1]] = shapes

    def _miss(self, name: str, path: Path, instead: str) -> None:
        self.missing.append(name)
        warnings.warn(f"quasar templates {name} not found ({path}): {instead} used instead", stacklevel=3)

    def _fitted(self, name: str, start: int, shapes: Array, has_forest: bool) -> Basis:
        """Return a basis with its coefficients fitted to the library where both show the same light."""
        wave = lattice_wavelength(FIRST + start, shapes.shape[1])
        use = wave > (1030 if has_forest else 950)
        target = self._library.flux[:, start : start + shapes.shape[1]].astype(np.float64)
        if has_forest:  # of their own redshift, or of the lowest at which the basis was observed
            observed = wave[None, :] * (1 + np.clip(self._z, 2.2, 4.0))[:, None]
            depth = effective_optical_depth(observed / LYMAN_SERIES[0][0] - 1)
            target *= np.exp(-depth * (wave < LYMAN_SERIES[0][0]))
        target = target[:, use]
        weight = 1 / np.median(target, axis=0)
        design = (shapes[:, use] * weight[None, :]).astype(np.float64)
        fit, *_ = np.linalg.lstsq(design.T[::4], (target * weight[None, :]).T[::4], rcond=1e-6)
        return Basis(name, start, shapes, fit.T.astype(np.float32), has_forest)

    def _library_rows(
        self, z: NDArray[np.float64], rng: np.random.Generator, count: int
    ) -> NDArray[np.int64]:
        """Return rows of the library of about the redshifts asked for, shape (count, n)."""
        near = np.searchsorted(self._z, z)
        reach = max(3, len(self._z) // 20)
        rows = near[None, :] + rng.integers(-reach, reach + 1, (count, len(z)))
        return np.asarray(np.clip(rows, 0, len(self._z) - 1), dtype=np.int64)

    def from_basis(self, basis: Basis, z: NDArray[np.float64], rng: np.random.Generator) -> Rest:
        """Return quasars of one basis (eigenspectra or composite)."""
        i, j, k = self._library_rows(z, rng, 3)
        n = len(z)
        source = self._library
        flux = source.flux[i]
        c = basis.coefficients
        step = rng.uniform(-0.5, 0.5, n).astype(np.float32)[:, None]
        kind = np.full(n, basis.name, dtype=object)
        forest = np.full(n, basis.has_forest)
        truth: dict[str, NDArray[Any]] = {name: column[i].copy() for name, column in source.truth.items()}
        if len(c[0]) > 1:
            # What a spectrograph sees of it, 3,600-10,400 Angstrom above the Lyman limit, must be positive.
            wave = lattice_wavelength(FIRST + basis.start, basis.shapes.shape[1])[None, :]
            seen = (wave > np.maximum(3600 / (1 + z), 915)[:, None]) & (wave < (10400 / (1 + z))[:, None])
            inner = (c[i] + step * (c[j] - c[k])) @ basis.shapes
            for shrink in (0.4, 0.0):
                bad = np.flatnonzero(np.any((inner <= 0) & seen, axis=1))
                if not len(bad):
                    break
                step[bad] *= shrink
                inner[bad] = (c[i[bad]] + step[bad] * (c[j[bad]] - c[k[bad]])) @ basis.shapes
            good = ~np.any((inner <= 0) & seen, axis=1)
            inner = np.maximum(inner, 0.02 * np.abs(inner).mean(axis=1, keepdims=True))
            kind[~good], forest[~good] = "parametric", False
        else:
            slope = rng.normal(0, 0.3, n).astype(np.float32)[:, None]
            x = np.log(lattice_wavelength(FIRST + basis.start, basis.shapes.shape[1]) / 2500)
            inner = basis.shapes * np.exp(slope * x[None, :].astype(np.float32))
            good = np.ones(n, dtype=bool)
        drawn = flux[good]
        _join(drawn, inner[good], basis.start)
        flux[good] = drawn
        for name in ("EBV", "CIV_BLUESHIFT", "LINE_FWHM", "HOST"):  # unknown, but of the library's quasar
            truth[name][good] = np.nan
        return Rest(FIRST, flux, {**truth, "KIND": kind, "HAS_FOREST": forest})

    def from_lines(self, n: int, z: NDArray[np.float64], rng: np.random.Generator) -> Rest:
        """Return parametric continua with lines of the emission-line template, peaky to windy."""
        if self._emission is None:
            return parametric(n, z, rng)
        share = np.clip(rng.normal(0, 0.5, n), -1, 1)
        weights = np.stack(
            [1 - np.abs(share), np.clip(share, 0, 1), np.clip(-share, 0, 1), rng.lognormal(0, 0.6, n) * 0.5],
            axis=1,
        )
        weights[:, :3] *= 10 ** rng.normal(0, 0.15, n)[:, None]
        lines = weights.astype(np.float32) @ self._emission
        rest = parametric(n, z, rng, lines=np.maximum(lines, -0.5))
        blueshift = np.full(n, np.nan)
        kind = np.full(n, "qsogen-lines", dtype=object)
        return Rest(
            rest.first,
            rest.flux,
            {**rest.truth, "KIND": kind, "CIV_BLUESHIFT": blueshift, "LINE_FWHM": blueshift},
        )

    def mix(
        self,
        n: int,
        z: NDArray[np.float64],
        rng: np.random.Generator,
        type2: NDArray[np.bool_],
        displaced: NDArray[np.bool_],
    ) -> Rest:
        """Return quasars in the proportions of `SHARES`; `type2` and `displaced` ones are parametric."""
        shares = dict(SHARES)
        shares["lines"] *= self._emission is not None
        shares["eigenspectra"] *= bool(self.eigenspectra)
        shares["composite"] *= bool(self.composites)
        share = np.array(list(shares.values()))
        kind = rng.choice(len(share), n, p=share / share.sum())
        kind[type2 | displaced] = 0
        source = np.full(n, -1)  # basis of each row; -1 none
        bases = [*self.eigenspectra, *self.composites]
        for code, group in ((2, self.eigenspectra), (3, self.composites)):
            rows = np.flatnonzero(kind == code)
            if not len(rows):
                continue
            able = np.stack([basis.covers(z[rows]) for basis in group], axis=1)
            pick = np.argmax(np.where(able, rng.random(able.shape), -1), axis=1)
            offset = 0 if code == 2 else len(self.eigenspectra)
            source[rows] = np.where(able.any(axis=1), pick + offset, -1)
            kind[rows[~able.any(axis=1)]] = 0
        parts: list[tuple[NDArray[np.int64], Rest]] = []
        rows = np.flatnonzero(kind == 0)
        parts.append(
            (rows, parametric(len(rows), z[rows], rng, narrow_line=type2[rows], displaced=displaced[rows]))
        )
        rows = np.flatnonzero(kind == 1)
        parts.append((rows, self.from_lines(len(rows), z[rows], rng)))
        for number, basis in enumerate(bases):
            rows = np.flatnonzero(source == number)
            parts.append((rows, self.from_basis(basis, z[rows], rng)))
        flux = np.empty((n, N_PIXELS), dtype=np.float32)
        truth: dict[str, NDArray[Any]] = {
            name: np.empty(n, dtype=column.dtype) for name, column in parts[0][1].truth.items()
        }
        for rows, rest in parts:
            flux[rows] = rest.flux
            for name, column in rest.truth.items():
                truth[name][rows] = column
        return Rest(FIRST, flux, truth)
