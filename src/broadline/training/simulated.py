"""Training data from a library of clean spectra: noise anew at each visit, labels as an expert gives them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from broadline.decision import SPEED_OF_LIGHT
from broadline.lines import QUASARNET_LINES
from broadline.simulation.inspection import visual_scatter
from broadline.simulation.instrument import draw_sn
from broadline.simulation.stream import Batch, Library, Stream, batches
from broadline.training.objective import Counts, Targets, count, targets
from broadline.training.presets import Preset

__all__ = ["GAPS", "INSTRUMENTS", "Examples", "Simulated"]

#: Who looks at the spectra: a model for all surveys sees every coverage and every shape of noise.
INSTRUMENTS: Mapping[str, float] = {"boss": 0.58, "sdss": 0.18, "lamost": 0.14, "desi": 0.10}

#: Significance of the features at which half of the inspectors are sure (facts measured by `inspection`).
_SEEN = 60.0

#: Share of the spectra to learn from that lack a stretch.
GAPS = 0.1

#: Below this redshift narrow-line quasars are as often called galaxies.
_NEAR = 0.9


def _dimness(library: Library, quasar: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return how much fainter than red bins the median bin of a distant quasar is, dark with the forest.

    The S/N of a quasar is that redward of Lya, as in `field`; instruments take it of the median pixel.
    """
    out = np.ones(len(library), dtype=np.float32)
    for rows in np.array_split(np.flatnonzero(quasar & (library.truth["Z"] > 3.2)), 64):
        flux = library.flux[rows].astype(np.float32)
        bright = np.quantile(flux, 0.8, axis=1) if len(rows) else flux[:, 0]
        out[rows] = np.clip(1.3 * np.median(flux, axis=1) / np.maximum(bright, 1e-3), 1e-3, 1)
    return out


class Examples(NamedTuple):
    """A batch to learn from, or to be scored on.

    Attributes
    ----------
    x : Tensor, shape (n, n_pixels) or (n, channels, n_pixels)
        Network input.
    targets : Targets
    z : ndarray of float64, shape (n,)
        Redshift of quasars as annotated, or true; NaN for all else.
    firm : ndarray of float64, shape (n,)
        Probability that an inspector is sure of the label.
    bal : ndarray of int8, shape (n,)
        1, 0 or -1 (ambiguous).
    ids : ndarray of int64, shape (n,)
        Rows of the training set.
    """

    x: Tensor
    targets: Targets
    z: NDArray[np.float64]
    firm: NDArray[np.float64]
    bal: NDArray[np.int8]
    ids: NDArray[np.int64]

    def part(self, rows: slice) -> Examples:
        """Return some of them."""
        y = Targets(*(part[rows] for part in self.targets))
        return Examples(self.x[rows], y, self.z[rows], self.firm[rows], self.bal[rows], self.ids[rows])


class Simulated:
    """Epochs of simulated examples; the same number gives the same examples.

    Parameters
    ----------
    library : Library
    preset : Preset
    seed : int
    instruments : mapping of str to float
    like_training : bool
        S/N with bright galaxies, stars and near quasars in plenty, and some spectra with a stretch missing;
        or as of BOSS quasar targets.
    gaps : float
        Share of the former that lack a stretch.
    annotated : bool
        Redshifts scatter about the true ones as those of inspectors do (`inspection.visual_scatter`).
    """

    def __init__(
        self,
        library: Library,
        preset: Preset,
        seed: int,
        instruments: Mapping[str, float] = INSTRUMENTS,
        like_training: bool = True,
        gaps: float = GAPS,
        annotated: bool = False,
    ) -> None:
        self.annotated = annotated
        self.like_training, self.gaps = like_training, gaps if like_training else 0.0
        self.library, self.preset, self.seed, self.instruments = library, preset, seed, instruments
        truth = library.truth
        quasar, subclass = truth["CLASS"] == "QSO", truth["SUBCLASS"]
        # Galaxies with broad lines are quasars to most experts; near narrow-line quasars are not to all.
        seyfert = ~quasar & (subclass == "BROADLINE")
        self._quasar = quasar | seyfert
        near = quasar & (subclass == "NLAGN") & (truth["Z"] < _NEAR)
        self._doubt = np.where(near, 0.0, np.where(seyfert, 0.5, 1.0))
        self._dimness = _dimness(library, quasar)
        self._galaxy, self._star = truth["CLASS"] == "GALAXY", truth["CLASS"] == "STAR"

    def __len__(self) -> int:
        return len(self.library)

    def epoch(self, number: int) -> Generator[Examples, None, None]:
        """Yield every spectrum of the library once, with noise of its own; batches of less are left out."""
        rng = np.random.Generator(np.random.SFC64([self.seed, number]))
        source = batches(self.library, self.instruments, self.preset.batch, rng, self._sn, self.gaps)
        whole = (batch for batch in source if len(batch.rows) == self.preset.batch)
        scatter = np.random.Generator(np.random.SFC64([self.seed, number, 1])) if self.annotated else None
        with Stream((self.examples(batch, scatter) for batch in whole), 6) as stream:
            yield from stream

    def counts(self) -> Counts:
        """Return the counts of one epoch; others differ from it by the draw of noise alone."""
        n_boxes = self.preset.finders.n_boxes
        parts = (count(batch.targets, n_boxes) for batch in self.epoch(0))
        positives, negatives, n = zip(*parts, strict=True)
        return Counts(torch.stack(positives).sum(dim=0), torch.stack(negatives).sum(dim=0), sum(n))

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Return what some spectra of the library are: it has no names for them."""
        truth = self.library.truth
        return [
            f"{kind} at z = {z:.4f} (row {row})"
            for kind, z, row in zip(truth["CLASS"][rows], truth["Z"][rows], rows, strict=True)
        ]

    def examples(self, batch: Batch, scatter: np.random.Generator | None = None) -> Examples:
        """Return a batch with its targets; `scatter` draws what inspectors' redshifts are off."""
        truth, rows = self.library.truth, batch.rows
        quasar = self._quasar[rows]
        firm = np.where(quasar, 1 / (1 + (_SEEN / np.maximum(batch.significance, 1e-3)) ** 4), 1.0)
        firm *= self._doubt[rows]
        seen = batch.bal_significance > _SEEN
        broad, any_trough = truth["BI_CIV"][rows] > 0, truth["AI_CIV"][rows] > 0
        bal = np.where(broad & seen, 1, np.where(any_trough | broad, -1, 0)).astype(np.int8)
        z = np.where(quasar, truth["Z"][rows], np.nan)
        preset = self.preset
        grid, n_boxes = preset.representation.grid, preset.finders.n_boxes
        # Probabilities are weights; where a label is firm or not, it is so if most inspectors are sure.
        sure = firm if preset.unsure == "weight" else firm >= 0.5
        y = targets(z, quasar, bal, QUASARNET_LINES, grid, n_boxes, sure, preset.unsure)
        x = batch.values
        if preset.representation.channels == "flux+error":
            x = np.stack([x, np.log1p(batch.error)], axis=1)
        if scatter:
            kms = visual_scatter(z, np.maximum(batch.significance, 1e-3))
            z = z + (1 + z) * kms / SPEED_OF_LIGHT * scatter.standard_normal(len(z))
        return Examples(torch.from_numpy(x), y, z, firm, bal, rows)

    def _sn(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
        """Return S/N as of quasar targets, with bright galaxies, stars and near quasars in plenty."""
        z = self.library.truth["Z"][rows]
        sn = draw_sn(len(rows), rng)
        if not self.like_training:
            return sn
        bright = rng.random(len(rows))
        sn *= np.where(self._galaxy[rows] & (bright < 0.5), 5, 1).astype(np.float32)
        sn *= np.where(self._star[rows] & (bright < 0.35), 6, 1).astype(np.float32)
        sn *= np.where(self._quasar[rows] & (z < 0.5) & (bright < 0.5), 4, 1).astype(np.float32)
        return sn * self._dimness[rows]
