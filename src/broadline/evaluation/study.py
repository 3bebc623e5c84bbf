"""A study: verdicts of catalogues beside the truth and other classifiers. A report is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.decision import Rule
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import Floats, Ints, Share
from broadline.grid import Grid
from broadline.lines import Line

__all__ = ["Baseline", "Counts", "Study"]


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """What another classifier says of the spectra of a study.

    Attributes
    ----------
    sample : Sample
        Row by row that of the study, with the classifier's verdicts; confidences only if it has any.
    inspected : Share, optional
        Spectra that it sends to an expert, who is taken to be right, of those it knows; None if it knows no
        inspection.
    n_unknown : int
        Spectra of the study that it says nothing of. They count as not called quasar: quasars among them are
        missed.
    """

    sample: Sample
    inspected: Share | None = None
    n_unknown: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the rows of the catalogues.

    Attributes
    ----------
    n_rows : int
        In the catalogues.
    n_unmatched : int
        Not in the study: the truth does not know them.
    n_ancillary : int
        Not in the study: targets of ancillary programmes.
    n_learnt : int
        Not in the study: not in the validation part of the split of their catalogue.
    n_unclassified : int
        In the study as not called quasar: the catalogue has no result for them.
    n_unseen : int
        Spectra of the truth that are in no catalogue.
    n_repeated : int
        Not in the study: the same catalogue has the spectrum already, with the same verdict.
    """

    n_rows: int
    n_unmatched: int = 0
    n_ancillary: int = 0
    n_learnt: int = 0
    n_unclassified: int = 0
    n_unseen: int = 0
    n_repeated: int = 0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Study:
    """All that a report needs, row by row.

    Attributes
    ----------
    sample : Sample
        The rows of all catalogues that the truth knows, one catalogue after another.
    split : ndarray of int64, shape (n,)
        The number of the catalogue that a row is from: each comes from a split of its own.
    names : ndarray of str, shape (n,)
        What a spectrum is called.
    source : ndarray of str, row : ndarray of int64, shape (n,)
        The file that holds it, and its row there.
    counts : Counts
    ids : mapping of str to ndarray, shape (n,)
        What spectra are named by, those columns that all catalogues have.
    rule : Rule
        By which quasars and BALs were called.
    baselines : mapping of str to Baseline
        By name, such as "auto".
    other_z : mapping of str to ndarray of float64, shape (n,)
        Further redshifts of the truth by name, such as "Z_PCA"; NaN where unknown.
    lines : tuple of Line
        Of the columns of `sample.c`, then the BAL line.
    boxes : (Grid, int), optional
        Grid and number of boxes of the model, if it is at hand.
    simulated : bool
        True if the truth is that of a simulated survey: every page says so.
    about : dict of str to str
        Provenance: catalogues, truth, model, versions.
    absent : tuple of str
        What cannot be told, each with its reason, in words for the reader.
    """

    sample: Sample
    split: Ints
    names: NDArray[np.str_]
    source: NDArray[np.str_]
    row: Ints
    counts: Counts
    rule: Rule
    lines: tuple[Line, ...]
    simulated: bool
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    other_z: Mapping[str, Floats] = field(default_factory=dict)
    ids: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    boxes: tuple[Grid, int] | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    @property
    def n_splits(self) -> int:
        """Number of catalogues."""
        return int(self.split.max(initial=-1)) + 1

    @property
    def quasars_only(self) -> bool:
        """True if all that is scored are quasars: no purity, as nothing else could be mistaken for one."""
        scored = self.sample.truth[self.sample.firm]
        return len(scored) > 0 and bool((scored == "QSO").all())

    def parts(self) -> list[Sample]:
        """Return the sample of each catalogue."""
        return [self.sample.take(self.split == i) for i in range(self.n_splits)]

    def take(self, values: NDArray[Any], i: int) -> NDArray[Any]:
        """Return the part of an array of shape (n, ...) that belongs to catalogue `i`."""
        return np.asarray(values[self.split == i])
