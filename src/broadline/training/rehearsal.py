"""Rehearsal: what a model has learnt before, so that it is not forgotten; and data to see that it was not."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from broadline.evaluation.sample import SURE
from broadline.simulation.library import TRAINING, build_library
from broadline.simulation.recipe import RECIPES
from broadline.simulation.stream import Library
from broadline.training.align import Cycled, joined
from broadline.training.dataset import PreparedSet
from broadline.training.fit import TrainingData
from broadline.training.presets import Preset
from broadline.training.simulated import INSTRUMENTS, Examples, Simulated
from broadline.training.splits import Sizes, Split, sized_split
from broadline.truth import CLASSES

__all__ = ["Annotated", "FromSet", "FromSimulation", "Mixed", "Rehearsal", "in_batches", "of_set"]

#: Examples, and the columns of an `evaluation.Sample` that say what is known of them.
Annotated = Iterable[tuple[Examples, Mapping[str, NDArray[Any]]]]

# Clean simulated spectra to rehearse, each seen with new noise at every visit; and to be compared on.
_LIBRARY, _REFERENCE = 20_000, 10_000
# Spectra that say when to stop, and at most to calibrate on, simulated or not.
_STOPPED_BY, _CALIBRATED_ON = 2048, 5000
# Libraries differ by these seeds, from those of trainings (`run`) too: rehearsal, stopping, calibration,
# reference.
_SEEDS = (2_000_001, 2_400_001, 2_600_001, 2_800_001)
# Of a set: the share that is held out if no split says which; and of that for stopping and calibration.
_HELD_OUT, _STOPPING, _CALIBRATING = 0.3, 0.1, 0.3
_MOST = 20_000  # spectra of a set to be compared on


class Rehearsal(Protocol):
    """Data like those that a model learnt from.

    Attributes
    ----------
    about : str
        For the card; it decides everything but the seed.
    """

    about: str

    def data(self, batch: int) -> TrainingData:
        """Return what is learnt again, in batches of this size."""
        ...

    def stopping(self) -> list[Examples]:
        """Return some held-out spectra that say when to stop."""
        ...

    def calibrating(self, n: int | None = None) -> Iterator[Examples]:
        """Return some `n` others to calibrate on, or as many as there are."""
        ...

    def reference(self) -> Annotated:
        """Return others again, for the comparison of models, with what is known of them."""
        ...


class FromSimulation:
    """Rehearsal of a model that was trained on simulated spectra: the same, made anew.

    Parameters
    ----------
    preset : Preset
    seed : int
    templates : str, optional
        Templates folder.
    instruments : mapping of str to float
        As `Simulated` takes them.
    on_library : callable, optional
        Told of spectra made and to be made, library by library.
    """

    def __init__(
        self,
        preset: Preset,
        seed: int = 0,
        templates: str | None = None,
        instruments: Mapping[str, float] = INSTRUMENTS,
        on_library: Callable[[int, int], None] | None = None,
    ) -> None:
        self.preset, self.seed, self.templates, self.instruments = preset, seed, templates, instruments
        self.on_library = on_library
        sets = "with template sets" if templates else "without template sets"
        noise = "" if instruments == INSTRUMENTS else f", as seen by {', '.join(instruments)}"
        self.about = f"simulated spectra: {_LIBRARY:,} clean ones ({sets}{noise})"

    def data(self, batch: int) -> Simulated:
        """Return what is learnt again, in batches of this size."""
        return self._seen(self._rehearsed, batch, 0)

    @cached_property
    def _rehearsed(self) -> Library:
        return self._library(_LIBRARY, 0)

    def stopping(self) -> list[Examples]:
        """Return some held-out spectra that say when to stop."""
        return list(self._seen(self._stopped_by, self.preset.batch, 1).epoch(0))

    @cached_property
    def _stopped_by(self) -> Library:
        return self._library(_STOPPED_BY, 1)

    def calibrating(self, n: int | None = None) -> Iterator[Examples]:
        """Return some `n` BOSS targets with redshifts as annotated, as all trainings are calibrated on."""
        library, boss = self._calibrated_on, {"boss": 1.0}
        seen = Simulated(library, self.preset, self.seed, boss, like_training=False, annotated=True)
        batches = None if n is None else max(1, n // self.preset.batch)
        return islice(seen.epoch(0), batches)

    @cached_property
    def _calibrated_on(self) -> Library:
        recipe = replace(RECIPES["boss"], repeats=0.0, dead=0.0)
        return build_library(
            _CALIBRATED_ON, recipe, self.seed + _SEEDS[2], self.templates, training_mix=False
        )

    def reference(self) -> Annotated:
        """Return the reference, each spectrum once."""
        library = self._compared
        for batch in self._seen(library, self.preset.batch, 3).epoch(0):
            quasar, truth = np.isfinite(batch.z), {k: v[batch.ids] for k, v in library.truth.items()}
            kind = np.where(quasar, "QSO", truth["CLASS"])
            yield (
                batch,
                {
                    "truth": kind,
                    "z_truth": np.where(quasar, batch.z, np.where(kind == "GALAXY", truth["Z"], 0.0)),
                    "confidence": np.where(batch.firm >= 0.5, SURE, 1),
                    "bal": batch.bal.astype(np.int64),
                    "object_id": batch.ids,
                },
            )

    @cached_property
    def _compared(self) -> Library:
        return self._library(_REFERENCE, 3)

    def _library(self, n: int, which: int) -> Library:
        tell = self.on_library
        on_chunk = (lambda done: tell(done, n)) if tell else None
        return build_library(n, TRAINING, self.seed + _SEEDS[which], self.templates, on_chunk=on_chunk)

    def _seen(self, library: Library, batch: int, which: int) -> Simulated:
        preset = replace(self.preset, batch=batch)
        return Simulated(library, preset, self.seed + _SEEDS[which], self.instruments)


class FromSet:
    """Rehearsal of a model that was trained on a prepared set.

    Parameters
    ----------
    whole : PreparedSet
    split : Split, optional
        That of the model's training. Without it a new one is made, and the model may have learnt from what it
        is compared on, which makes whatever it is compared with look worse.
    seed : int
    """

    def __init__(self, whole: PreparedSet, split: Split | None = None, seed: int = 0) -> None:
        objects = whole.columns["OBJECT"]
        split = split or sized_split(objects, Sizes(_HELD_OUT), seed)
        held = np.sort(np.concatenate([split.validation, split.test]))
        parts = sized_split(objects[held], Sizes(_CALIBRATING, _STOPPING), seed)
        self.whole, self.seed, self.learnt = whole, seed, split.training
        self._reference, self._calibrating, self._stopping = (
            held[rows] for rows in (parts.training, parts.validation, parts.test)
        )
        self.about = f"{len(self.learnt):,} spectra of {whole.folder.name} (SHA-256 {whole.sha256})"

    def data(self, batch: int) -> PreparedSet:
        """Return what is learnt again, in batches of this size."""
        return in_batches(self.whole.subset(self.learnt, self.seed), batch)

    def stopping(self) -> list[Examples]:
        """Return some held-out spectra that say when to stop."""
        return list(self._some(self._stopping, _STOPPED_BY).ordered())

    def calibrating(self, n: int | None = None) -> Iterator[Examples]:
        """Return some `n` held-out spectra to calibrate on, or as many as there are."""
        return self._some(self._calibrating, min(n or _CALIBRATED_ON, _CALIBRATED_ON)).ordered()

    def reference(self) -> Annotated:
        """Return the rest of the held-out spectra, or enough of them."""
        return of_set(self._some(self._reference, _MOST))

    def _some(self, rows: NDArray[np.int64], n: int) -> PreparedSet:
        order = np.random.default_rng(self.seed).permutation(len(rows))
        return self.whole.subset(rows[order[:n]])


def of_set(part: PreparedSet) -> Annotated:
    """Return the spectra of a prepared set in order, with what is known of them."""
    for batch in part.ordered():
        column = {name: values[batch.ids] for name, values in part.columns.items()}
        yield (
            batch,
            {
                "truth": np.array(CLASSES)[column["CLASS"]],
                "z_truth": column["Z"],
                "confidence": column["CONFIDENCE"].astype(np.int64),
                "bal": column["BAL_FLAG"].astype(np.int64),
                "balnicity": column["BALNICITY"].astype(np.float64),
                "object_id": column["OBJECT"],
            },
        )


def in_batches(part: PreparedSet, batch: int) -> PreparedSet:
    """Return a prepared set in batches of another size."""
    part = part.subset(part.rows)
    part.preset = replace(part.preset, batch=batch)
    return part


class Mixed:
    """New spectra among rehearsed ones: an epoch goes through them twice, if they fit into a quarter of it.

    Many times an epoch, few of them would be learnt by heart; and of batches that are half new, tasks that
    the new ones teach nothing of have half their weight. Either way what was known is forgotten.

    Parameters
    ----------
    new : PreparedSet
    rehearsal : Rehearsal
    batch : int
        A quarter of it is new at most.
    n_batches : int
        Of an epoch at least; it goes through the new spectra once if that takes more.
    """

    def __init__(self, new: PreparedSet, rehearsal: Rehearsal, batch: int, n_batches: int) -> None:
        most = batch // 4
        self.batch, self.n_batches = batch, max(n_batches, len(new) // most)
        n_new = min(most, math.ceil(2 * len(new) / self.n_batches), len(new))
        self.new = Cycled(in_batches(new, n_new), n_new, self.n_batches)
        kept = batch - n_new
        self.kept = Cycled(rehearsal.data(kept), kept, self.n_batches)

    def __len__(self) -> int:
        return self.n_batches * self.batch

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Return what some spectra are called, the new ones first; ids of rehearsed ones are below 0."""
        kept = rows < 0
        return self.new.names(rows[~kept]) + self.kept.names(~rows[kept])

    def epoch(self, number: int) -> Generator[Examples, None, None]:
        """Yield the batches of an epoch, the same for the same number."""
        with closing(self.new.epoch(number)) as new, closing(self.kept.epoch(number)) as kept:
            for ours, theirs in zip(new, kept, strict=True):
                yield joined(ours, theirs._replace(ids=~theirs.ids))
