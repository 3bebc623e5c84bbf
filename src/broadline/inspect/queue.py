"""Which spectra to look at, and in which order: ranked by what a verdict on them is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from broadline.decision import CONFLICT_KMS, velocity
from broadline.evaluation.fits_read import Fits, read_answers
from broadline.evaluation.shares import Floats, Ints, Mask
from broadline.flags import NO_TARGET, Flag
from broadline.inspect.subjects import Subjects
from broadline.truth import CLASSES, FIRM, QSO, UNKNOWN, match, read_truth_table

__all__ = [
    "BORDERLINE",
    "QUEUES",
    "REASONS",
    "WEIGHTS",
    "Opinion",
    "Ranking",
    "Reason",
    "control_sample",
    "pipeline",
    "rank",
    "truth",
]


class Reason(IntFlag):
    """Why a spectrum deserves a look, one bit each."""

    SINGLE_LINE = 1 << 0
    LOW_P_Z = 1 << 1
    MISSED = 1 << 2
    CONFLICT = 1 << 3
    PIPELINE = 1 << 4
    TRUTH = 1 << 5
    BAL = 1 << 6
    CONTROL = 1 << 7


#: What the page says of them.
REASONS: Mapping[Reason, str] = {
    Reason.SINGLE_LINE: "one line only",
    Reason.LOW_P_Z: "redshift unsure",
    Reason.MISSED: "quasar missed?",
    Reason.CONFLICT: "lines disagree",
    Reason.PIPELINE: "pipeline disagrees",
    Reason.TRUTH: "truth disagrees",
    Reason.BAL: "borderline BAL",
    Reason.CONTROL: "random control",
}
#: What each adds to the probability that the catalogue is wrong.
WEIGHTS: Mapping[Reason, float] = {
    Reason.TRUTH: 0.5,
    Reason.PIPELINE: 0.5,
    Reason.CONFLICT: 0.5,
    Reason.SINGLE_LINE: 0.3,
    Reason.BAL: 0.2,
}
#: Broad absorption is borderline where P_BAL is between these.
BORDERLINE = (0.2, 0.8)
#: Names of queues and the words for them; beside these there are those of `Reason`, in lower case.
QUEUES: Mapping[str, str] = {"ranked": "Ranked", "all": "All spectra"}

_SURE_P_Z, _PERHAPS_QSO = 0.9, 0.1
_NEAR_THRESHOLD = 0.1  # confidence, where nothing is calibrated
_CONTROLS, _EVERY = 200, 10


class Opinion(NamedTuple):
    """What somebody else says of the spectra; every array is of shape (n,).

    Attributes
    ----------
    kind : ndarray of int8
        As numbered in `broadline.truth.CLASSES`; UNKNOWN where nothing is said.
    z : ndarray of float64
        NaN where there is none.
    firm : ndarray of bool
        Sure enough to contradict the catalogue.
    """

    kind: NDArray[np.int8]
    z: Floats
    firm: Mask


def pipeline(path: Path, subjects: Subjects) -> Opinion:
    """Return what another classifier says, as `fits_read.read_answers` reads it; firm without a warning."""
    answers = read_answers(path, subjects.catalogue.ids)
    if isinstance(answers, Fits):
        kind, z = answers.kind[:, 0], answers.z[:, 0]
        return Opinion(kind, z, answers.known & (kind != UNKNOWN) & (answers.zwarning == 0))
    kind = np.where(answers.quasar, QSO, UNKNOWN).astype(np.int8)
    return Opinion(kind, answers.z, answers.known)


def truth(path: Path, subjects: Subjects) -> Opinion:
    """Return what a truth table says, as `truth.read_truth_table` reads it; firm with full confidence."""
    known = read_truth_table(path)
    row = match(known, subjects.catalogue.ids)
    there = row >= 0
    kind = np.where(there, known.kind[row], UNKNOWN).astype(np.int8)
    z = np.where(there, known.z[row], np.nan)
    return Opinion(kind, z, there & (known.confidence[row] == FIRM) & (kind != UNKNOWN))


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Why each spectrum deserves a look and what that is worth.

    Attributes
    ----------
    reasons : ndarray of uint32, shape (n,)
        Sums of `Reason`.
    worth : ndarray of float64, shape (n,)
        The probability that the catalogue is wrong, and `WEIGHTS` for the reasons; 0 of what is no target
        (`flags.NO_TARGET`), which has no class to rule on.
    controls : ndarray of int64
        Rows drawn at random from those called quasar, in random order, so that whatever part of them has
        been ruled on from its beginning is a random sample too.
    opinions : mapping of str to Opinion
        By "pipeline" and "truth table", those that were given.
    """

    reasons: NDArray[np.uint32]
    worth: Floats
    controls: Ints
    opinions: Mapping[str, Opinion] = field(default_factory=dict)

    def queue(self, name: str) -> Ints:
        """Return the rows of a queue in the order in which they are shown.

        Parameters
        ----------
        name : str
            "ranked": all with a reason, those worth most first, and a random control in every tenth place.
            "all": the catalogue as it is. Otherwise a reason's name in lower case.

        Raises
        ------
        KeyError
            If there is no such queue.
        """
        if name == "all":
            return np.arange(len(self.worth))
        if name == "control":
            return self.controls
        wanted = ~np.uint32(Reason.CONTROL) if name == "ranked" else np.uint32(Reason[name.upper()])
        rows = np.flatnonzero(self.reasons & wanted)
        rows = rows[np.argsort(-self.worth[rows], kind="stable")]
        return _interleaved(rows, self.controls) if name == "ranked" else rows


def rank(subjects: Subjects, opinions: Mapping[str, Opinion] | None = None) -> Ranking:
    """Return why each spectrum of a catalogue deserves a look.

    Parameters
    ----------
    subjects : Subjects
    opinions : mapping of str to Opinion, optional
        By "pipeline" and "truth table".
    """
    opinions = opinions or {}
    called, classified = subjects.catalogue.called, ~subjects.catalogue.unclassified
    wrong = _wrong(subjects)
    controls = control_sample(subjects)
    flags = np.nan_to_num(subjects.columns.get("FLAGS", np.zeros(len(subjects)))).astype(np.int64)
    single = (
        subjects.mask("NEEDS_VI") if "NEEDS_VI" in subjects.columns else called & (_n_lines(subjects) == 1)
    )
    masks: dict[Reason, Mask] = {
        Reason.SINGLE_LINE: single,
        Reason.LOW_P_Z: called & (wrong > 1 - _SURE_P_Z),
        Reason.MISSED: ~called & (wrong > _PERHAPS_QSO),
        Reason.CONFLICT: (flags & int(Flag.CONFLICTING_LINES)) != 0,
        Reason.BAL: called & _borderline(subjects),
        Reason.CONTROL: np.isin(np.arange(len(subjects)), controls),
    }
    for name, reason in (("pipeline", Reason.PIPELINE), ("truth table", Reason.TRUTH)):
        if name in opinions:
            masks[reason] = _differs(subjects, opinions[name])
    reasons = np.zeros(len(subjects), dtype=np.uint32)
    worth = wrong.copy()
    for reason, mask in masks.items():
        reasons[mask & classified] |= np.uint32(reason)
        worth[mask] += WEIGHTS.get(reason, 0.0)
    of_target = classified & ((flags & int(NO_TARGET)) == 0)
    return Ranking(reasons, np.where(of_target, worth, 0.0), controls, opinions)


def _wrong(subjects: Subjects) -> Floats:
    """Return the probability that class or redshift is wrong, from confidences where it is not calibrated."""
    return np.nan_to_num(
        np.where(subjects.catalogue.called, 1 - _sure(subjects, "p_z"), _sure(subjects, "p_qso"))
    )


def _sure(subjects: Subjects, name: str) -> Floats:
    values = subjects.number(name)
    return subjects.strength if values is None else values


def _n_lines(subjects: Subjects) -> Ints:
    if subjects.catalogue.c is None:
        return np.zeros(len(subjects), dtype=np.int64)
    return np.asarray((np.nan_to_num(subjects.catalogue.c) > subjects.rule.c_th).sum(axis=1))


def _borderline(subjects: Subjects) -> Mask:
    p_bal, c_bal = subjects.number("p_bal"), subjects.catalogue.c_bal
    if p_bal is not None:
        return np.asarray((p_bal > BORDERLINE[0]) & (p_bal < BORDERLINE[1]))
    if c_bal is None:
        return np.zeros(len(subjects), dtype=bool)
    return np.asarray(np.abs(np.nan_to_num(c_bal) - subjects.rule.c_th_bal) < _NEAR_THRESHOLD)


def _differs(subjects: Subjects, opinion: Opinion) -> Mask:
    """Return where a firm opinion has another class, or for quasars another redshift.

    A galaxy that is called quasar at the galaxy's redshift may well have broad lines (Busca & Balland 2018,
    section 4.1): it is no contradiction.
    """
    called, z = subjects.catalogue.called, subjects.catalogue.z
    near = np.abs(velocity(z, opinion.z)) < CONFLICT_KMS
    quasar, galaxy = opinion.kind == QSO, opinion.kind == CLASSES.index("GALAXY")
    agrees = np.where(called, (quasar | galaxy) & near, ~quasar)
    return np.asarray(opinion.firm & ~agrees)


def control_sample(subjects: Subjects) -> Ints:
    """Return the control sample, which is the same whenever the same catalogue is opened.

    A tenth of those called quasar, `_CONTROLS` at most: nothing is learnt from it, and the rest is to remain.
    """
    called = np.flatnonzero(subjects.catalogue.called)
    random = np.random.default_rng(int(subjects.sha256[:16], 16))
    return random.permutation(called)[: min(_CONTROLS, -(-len(called) // _EVERY))]


def _interleaved(ranked: Ints, controls: Ints) -> Ints:
    """Return ranked rows with a control in every tenth place as long as there are both, then the rest.

    Controls have no other place, whatever they are worth: those ruled on would else be the hard ones of them.
    """
    others = ranked[~np.isin(ranked, controls)]
    n = min(len(controls), len(others) // (_EVERY - 1))
    places = (_EVERY - 1) * np.arange(1, n + 1)
    return np.concatenate([np.insert(others, places, controls[:n]), controls[n:]])
