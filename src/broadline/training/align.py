"""Learning from two archives at once: batches of both, and their features made alike by Deep CORAL."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from broadline.errors import UsageError
from broadline.training.objective import Targets
from broadline.training.presets import Preset
from broadline.training.simulated import Examples

if TYPE_CHECKING:
    from broadline.training.fit import TrainingData

__all__ = ["Aligned", "Cycled", "Pair", "aligned", "closed", "coral", "joined"]


# ---- the distance


@dataclass(frozen=True, slots=True)
class Aligned(Preset):
    """A preset for batches of a `Pair`, whose halves are made alike.

    Attributes
    ----------
    alignment : float
        Weight of `coral` beside the cross-entropy. Sun & Saenko (2016), section 4.1, choose it so that the
        two are about equal at the end of training.
    """

    alignment: float = 1.0


def aligned(preset: Preset, alignment: float) -> Aligned:
    """Return a preset with alignment.

    Raises
    ------
    UsageError
        If the weight is not positive. (Without alignment, give `fit` the preset and a `Pair`: the archives
        are pooled then.)
    """
    if not alignment > 0:
        raise UsageError(f"the weight of alignment is above 0, not {alignment}")
    return Aligned(**{each.name: getattr(preset, each.name) for each in fields(Preset)}, alignment=alignment)


def coral(source: Tensor, target: Tensor, source_weight: Tensor, target_weight: Tensor) -> Tensor:
    """Return the CORAL distance between the features of two samples.

    Sun & Saenko (2016, arXiv:1607.01719), equations 1 to 3: the squared Frobenius norm of the difference of
    the covariances, over four times the square of the number of features.

    Parameters
    ----------
    source, target : Tensor, shape (n, n_features) and (m, n_features)
    source_weight, target_weight : Tensor, shape (n,) and (m,)
        1 for what counts, 0 for what does not.
    """
    # In bfloat16 the difference of two covariances that are nearly equal would be rounding.
    with torch.autocast(source.device.type, enabled=False):
        difference = _covariance(source.float(), source_weight) - _covariance(target.float(), target_weight)
    return difference.square().sum() / (4 * source.shape[1] ** 2)


def _covariance(x: Tensor, weight: Tensor) -> Tensor:
    centre = (weight @ x) / weight.sum().clamp(min=1)
    deviation = (x - centre) * weight[:, None]
    return deviation.T @ deviation / (weight.sum() - 1).clamp(min=1)


# ---- the batches


class Cycled:
    """Training data in epochs of a given length, as many passes over the data as that takes.

    Runs that learn from samples of different size are thereby given the same steps, and early stopping
    counts the same epochs.

    Parameters
    ----------
    data : TrainingData
    batch : int
        Spectra in each of its batches.
    n_batches : int
        Of an epoch.

    Raises
    ------
    UsageError
        If there is less than a batch of data.
    """

    def __init__(self, data: TrainingData, batch: int, n_batches: int) -> None:
        if len(data) < batch:
            raise UsageError(f"{len(data)} spectra are less than a batch of {batch}: give more")
        self.data, self.batch, self.n_batches = data, batch, n_batches
        self._passes = -(-n_batches // (len(data) // batch))

    def moved(self, move: Callable[[TrainingData], TrainingData]) -> Cycled:
        """Return this with what `move` makes of its data, such as the same on a GPU."""
        return Cycled(move(self.data), self.batch, self.n_batches)

    def __len__(self) -> int:
        return self.n_batches * self.batch

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Return what some spectra are called."""
        return self.data.names(rows)

    def epoch(self, number: int) -> Generator[Examples, None, None]:
        """Yield the batches of an epoch; the last pass is cut."""
        left = self.n_batches
        for i in range(number * self._passes, (number + 1) * self._passes):
            with closed(self.data.epoch(i)) as batches:
                for batch in islice(batches, left):
                    yield batch
                    left -= 1


class Pair:
    """Two archives as one: batches of which the first half is of the source and the second of the target.

    An epoch goes through the larger of the two once, and over the smaller one again and again.

    Parameters
    ----------
    source, target : TrainingData
    batch : int
        Spectra in each batch of theirs, and of this; even.
    n_batches : int, optional
        Of an epoch, instead of as many as the larger has twice.

    Raises
    ------
    UsageError
        If one has less than a batch of data.
    """

    def __init__(
        self, source: TrainingData, target: TrainingData, batch: int, n_batches: int | None = None
    ) -> None:
        if batch % 2:
            raise UsageError(f"a batch of {batch} cannot be half of one archive and half of another")
        # Two batches of an archive and two of the other would make four: of each, one makes two.
        each = -(-n_batches // 2) if n_batches else max(len(source), len(target)) // batch
        self._n_batches = n_batches or 2 * each
        self.batch = batch
        self.source, self.target = Cycled(source, batch, each), Cycled(target, batch, each)

    def moved(self, move: Callable[[TrainingData], TrainingData]) -> Pair:
        """Return this with what `move` makes of both archives, such as the same on a GPU."""
        return Pair(move(self.source.data), move(self.target.data), self.batch, self._n_batches)

    def __len__(self) -> int:
        return self._n_batches * self.batch

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Return what some spectra are called, the source's first; ids of the target are below 0."""
        of_target = rows < 0
        return self.source.names(rows[~of_target]) + self.target.names(~rows[of_target])

    def epoch(self, number: int) -> Generator[Examples, None, None]:
        """Yield the batches of an epoch, the same for the same number."""
        left, half = self._n_batches, self.batch // 2
        with closed(self.source.epoch(number)) as source, closed(self.target.epoch(number)) as target:
            for ours, theirs in zip(source, target, strict=True):
                theirs = theirs._replace(ids=~theirs.ids)
                for rows in (slice(half), slice(half, self.batch))[:left]:
                    left -= 1
                    yield joined(ours.part(rows), theirs.part(rows))


def joined(first: Examples, second: Examples) -> Examples:
    """Return two batches as one."""
    y = Targets(*(torch.cat(parts) for parts in zip(first.targets, second.targets, strict=True)))
    return Examples(
        torch.cat([first.x, second.x]),
        y,
        np.concatenate([first.z, second.z]),
        np.concatenate([first.firm, second.firm]),
        np.concatenate([first.bal, second.bal]),
        np.concatenate([first.ids, second.ids]),
    )


@contextmanager
def closed(batches: Iterator[Examples]) -> Iterator[Iterator[Examples]]:
    """Close a generator at the end, and with it the thread that reads ahead for it."""
    try:
        yield batches
    finally:
        if isinstance(batches, Generator):
            batches.close()
