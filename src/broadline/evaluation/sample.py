"""What every metric is computed from: verdicts beside the truth, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.decision import CONFLICT_KMS, Rule, velocity
from broadline.errors import UsageError
from broadline.evaluation.shares import Floats, Ints, Mask

__all__ = ["SURE", "Sample"]

#: Z_CONF_PERSON of a secure annotation (Busca & Balland 2018, section 2).
SURE = 3

_KINDS = ("QSO", "STAR", "GALAXY")
# Columns that are not numbers with a fraction: kinds of arrays that will do, and what they become.
_TYPES: dict[str, tuple[str, type | None]] = {
    "truth": ("USO", np.str_),
    "called": ("b", np.bool_),
    "confidence": ("iu", np.int64),
    "bal": ("iub", np.int64),
    "object_id": ("iuUSO", None),
}
_MISTAKEN = {*_KINDS, "", "NONE", "NAN"}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sample:
    """A catalogue's verdicts beside the truth: one row a spectrum, repeats of an object included.

    A spectrum without result is a row that is not called, with redshift and confidences NaN.

    Attributes
    ----------
    z : ndarray of float64, shape (n,)
        Redshift of the catalogue, whether the row is called quasar or not; NaN where there is none.
    truth : ndarray of str, shape (n,)
        Annotated class: "QSO" (BAL or not), "STAR", "GALAXY", any other text for what is none of them,
        "" for unknown.
    z_truth : ndarray of float64, shape (n,)
        Annotated redshift; NaN where there is none.
    called : ndarray of bool, shape (n,), optional
        Called quasar. Not given, it follows from `c` by the nominal rule of Busca & Balland (2018),
        section 4.1.
    c : ndarray of float, shape (n, n_lines), optional
        Confidences of the emission lines, so that thresholds can be scanned.
    c_bal : ndarray of float, shape (n,), optional
        Confidence of the broad absorption finder.
    confidence : ndarray of int64, shape (n,), optional
        Confidence of the annotation: 1 to 3 as Z_CONF_PERSON, 0 for not even a guess, -1 for unknown. Not
        given, every annotation is taken as secure.
    bal : ndarray of int64, shape (n,), optional
        Visual BAL flag: 1, 0, or -1 for unknown.
    balnicity : ndarray of float64, shape (n,), optional
        Balnicity index of CIV (km/s); NaN or negative for unknown.
    object_id : ndarray of int or str, shape (n,), optional
        The same for all spectra of an object; -1 or "" for unknown. Rows without are objects of their own.
    p_qso, p_z, p_bal, z_err, sn, magnitude : ndarray of float64, shape (n,), optional
        Probabilities, error of z, signal-to-noise ratio and magnitude; NaN where there is none.
    quasar : ndarray of bool, shape (n,)
        What `called` says, or else `c`.

    Raises
    ------
    ValueError
        For columns of another length or type, and masked arrays.
    UsageError
        For a redshift of -1 or below or infinite (unknown is NaN), a probability outside 0 to 1, a class that
        looks misspelt, or neither `called` nor `c`.
    """

    z: Floats
    truth: NDArray[np.str_]
    z_truth: Floats
    called: Mask | None = None
    c: NDArray[np.floating[Any]] | None = None
    c_bal: NDArray[np.floating[Any]] | None = None
    confidence: Ints | None = None
    bal: Ints | None = None
    balnicity: Floats | None = None
    object_id: NDArray[Any] | None = None
    p_qso: Floats | None = None
    p_z: Floats | None = None
    p_bal: Floats | None = None
    z_err: Floats | None = None
    sn: Floats | None = None
    magnitude: Floats | None = None
    quasar: Mask = field(init=False)

    def __post_init__(self) -> None:
        for name, value in self._given():
            object.__setattr__(self, name, _array(name, value, len(self.z)))
        self._check()
        called = self.called
        if called is None:
            called = self.strength(Rule().l_min) > Rule().c_th
        object.__setattr__(self, "quasar", called)

    def __len__(self) -> int:
        return len(self.z)

    def _given(self) -> Iterator[tuple[str, Any]]:
        for column in fields(self):
            if column.init and (value := getattr(self, column.name)) is not None:
                yield column.name, value

    def _check(self) -> None:
        if self.called is None and self.c is None:
            raise UsageError("nothing says which spectra are called quasar: give called or confidences")
        for name in ("z", "z_truth"):
            value = getattr(self, name)
            bad = np.flatnonzero((value <= -1) | np.isinf(value))
            if len(bad):
                text = f"{name} of row {bad[0]} is {value[bad[0]]}: no redshift; mark unknown ones with NaN"
                raise UsageError(text)
        for name in ("p_qso", "p_z", "p_bal"):
            value = getattr(self, name)
            if value is not None and bool(((value < 0) | (value > 1)).any()):
                raise UsageError(f"{name} is a probability between 0 and 1; mark unknown ones with NaN")
        others = np.unique(self.truth[~self._is(*_KINDS, "")])
        mistaken = [str(name) for name in others if name.strip().upper() in _MISTAKEN]
        if mistaken:
            text = f"annotated class {mistaken[0]!r} is not understood: give QSO, STAR, GALAXY, another name"
            raise UsageError(f"{text}, or '' for unknown")

    def strength(self, l_min: int) -> NDArray[np.floating[Any]]:
        """Return the threshold below which at least `l_min` lines are found, shape (n,).

        The l_min-th highest confidence; -inf where there are not as many lines.

        Raises
        ------
        UsageError
            If there are no confidences, or `l_min` is below 1.
        """
        l_min = Rule(l_min=l_min).l_min
        if self.c is None:
            raise UsageError("this catalogue has no confidences: its thresholds cannot be scanned")
        if l_min > self.c.shape[1]:
            return np.full(len(self), -np.inf, self.c.dtype)
        known = np.where(np.isnan(self.c), -np.inf, self.c).astype(self.c.dtype, copy=False)
        return np.asarray(np.partition(known, -l_min, axis=1)[:, -l_min])

    def at(self, rule: Rule) -> Sample:
        """Return the sample with quasars called by a rule (section 4.1): more than c_th in l_min lines."""
        return replace(self, called=self.strength(rule.l_min) > rule.c_th)

    def take(self, rows: Mask | Ints) -> Sample:
        """Return some rows."""
        return replace(self, **{name: value[rows] for name, value in self._given()})

    def annotated(self, kind: str) -> Mask:
        """Return the secure annotations of a class, shape (n,)."""
        rows: Mask = self.firm & (self.truth == kind)
        return rows

    @property
    def firm(self) -> Mask:
        """Rows that are scored: securely annotated (section 4.1), quasars and galaxies with a redshift."""
        firm: Mask = self._secure & ~self._lost
        return firm

    @property
    def n_lost(self) -> int:
        """Rows annotated securely as quasar or galaxy, but without a redshift: they are not scored."""
        return int((self._secure & self._lost).sum())

    @property
    def _secure(self) -> Mask:
        known = ~self._is("")
        return known if self.confidence is None else known & (self.confidence == SURE)

    @property
    def _lost(self) -> Mask:
        return self._is("QSO", "GALAXY") & np.isnan(self.z_truth)

    def _is(self, *kinds: str) -> Mask:
        # np.isin would sort half a million texts.
        found: Mask = np.logical_or.reduce([self.truth == kind for kind in kinds])
        return found

    @property
    def dv(self) -> Floats:
        """Velocity difference to the annotated redshift (km/s), NaN where one of the two is unknown."""
        return velocity(self.z, self.z_truth)

    @property
    def near(self) -> Mask:
        """Rows with the annotated redshift: ``|dv| < 6000 km/s``."""
        near: Mask = np.abs(self.dv) < CONFLICT_KMS
        return near

    @property
    def objects(self) -> Ints:
        """Number of each row's object, from 0, shape (n,)."""
        if self.object_id is None:
            return np.arange(len(self))
        unknown = self.object_id == ("" if self.object_id.dtype.kind == "U" else -1)
        number = np.unique(self.object_id, return_inverse=True)[1].astype(np.int64)
        number[unknown] = len(self) + np.arange(int(unknown.sum()))
        return np.unique(number, return_inverse=True)[1].astype(np.int64)


def _array(name: str, value: Any, n: int) -> NDArray[Any]:
    """Return a column as its own type, and nothing that would have to be guessed."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array: fill what is missing first")
    array = np.asarray(value)
    if array.ndim != (2 if name == "c" else 1) or len(array) != n:
        raise ValueError(f"{name} has shape {array.shape}, for {n} spectra")
    kinds, kind = _TYPES.get(name, ("fiu", np.float64))
    if array.size and array.dtype.kind not in kinds:
        raise ValueError(f"{name} cannot be of type {array.dtype}")
    if array.dtype.kind == "O" and not all(isinstance(value, str) for value in array):
        raise ValueError(f"{name} holds what is not text: write '' for unknown")
    if name in ("c", "c_bal") and array.dtype == np.float32:
        return array  # a threshold means the same then as where the rule was applied
    if kind is None:
        kind = np.int64 if array.dtype.kind in "iu" else np.str_
    return array.astype(kind, copy=False)
