"""Labels: what truth tables say of spectra, what it says to be in none of them, and which share an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from broadline.decision import CONFLICT_KMS, velocity
from broadline.errors import UsageError
from broadline.flags import NO_TARGET
from broadline.positions import NEAR
from broadline.truth import CLASSES, FIRM, OTHER, QSO, Truth, match, read_truth_table
from broadline.truth_layouts import Columns

__all__ = ["ContradictionError", "Known", "Labels", "numbered", "read_known"]

#: The object of a spectrum that nothing tells apart from others but its place.
_UNNAMED = -1
# Far below the numbers that follow from names.
_FIRST_NUMBER = -(1 << 62)
# What a set says of a spectrum, and where a truth has it.
_FIELDS = {
    "CLASS": "kind",
    "Z": "z",
    "CONFIDENCE": "confidence",
    "BAL_FLAG": "bal_flag",
    "BALNICITY": "balnicity",
    "OBJECT": "object",
    "ANCILLARY": "ancillary",
    "CONTROL": "control",
}


class ContradictionError(UsageError):
    """Two tables say different things of one spectrum."""


class Labels(NamedTuple):
    """What is known of a batch of spectra.

    Attributes
    ----------
    known : ndarray of bool, shape (n,)
    columns : dict of str to ndarray, each of shape (n,)
        Those of `manifest.COLUMNS` that are from the truth; without meaning where nothing is known.
    listed : ndarray of bool, shape (n_tables, n)
        Which spectra each table knows.
    """

    known: NDArray[np.bool_]
    columns: dict[str, NDArray[Any]]
    listed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Known:
    """Truth tables, joined.

    Attributes
    ----------
    truths : tuple of Truth
    rest_is_other : bool
        What none of them knows is known to be no quasar.
    """

    truths: tuple[Truth, ...]
    rest_is_other: bool = False

    @property
    def source(self) -> str:
        """The names of the tables."""
        return " and ".join(str(truth.source) for truth in self.truths)

    def label(self, ids: Columns, flags: NDArray[np.uint32]) -> Labels:
        """Return what is known of a batch.

        Of several labels the most confident counts, and of equals that of the first table. With
        `rest_is_other` all others are OTHER, firmly and without a redshift, as in Podsztavek, Skoda & Tvrdik
        (2021), section 2. Fibres on the sky and bad ones, which no catalogue of objects lists, stay unknown.

        Parameters
        ----------
        ids : mapping of str to ndarray, each of shape (n,)
            `Spectra.ids`.
        flags : ndarray of uint32, shape (n,)

        Raises
        ------
        ContradictionError
            If two tables are firm about different classes of a spectrum, or redshifts more than 6000 km/s
            apart.
        """
        columns, best = _of_the_rest(ids, len(flags)), np.full(len(flags), -1)
        listed = np.zeros((len(self.truths), len(flags)), dtype=bool)
        for i, truth in enumerate(self.truths):
            row = match(truth, ids)
            self._refuse_contradictions(i, row, columns, best, ids)
            listed[i] = row >= 0
            better = listed[i] & ((best < 0) | (truth.confidence[row] > columns["CONFIDENCE"]))
            for name, attribute in _FIELDS.items():
                columns[name][better] = getattr(truth, attribute)[row[better]]
            best[better] = i
        if len(self.truths) > 1:  # what they call the objects without a name is not the same
            columns["OBJECT"][(best >= 0) & (columns["OBJECT"] < 0)] = _UNNAMED
        rest = self.rest_is_other & ((flags & np.uint32(NO_TARGET)) == 0)
        return Labels((best >= 0) | rest, columns, listed)

    def _refuse_contradictions(
        self, i: int, row: NDArray[np.int64], columns: Columns, best: NDArray[np.int64], ids: Columns
    ) -> None:
        truth = self.truths[i]
        both = (row >= 0) & (best >= 0) & (truth.confidence[row] == FIRM) & (columns["CONFIDENCE"] == FIRM)
        kind, z = truth.kind[row], truth.z[row]
        apart = np.abs(velocity(z, columns["Z"])) > CONFLICT_KMS
        wrong = np.flatnonzero(both & ((kind != columns["CLASS"]) | apart))
        if len(wrong):
            k = wrong[0]
            there, here = (
                f"{CLASSES[each]} at z {redshift:g} in {source}"
                for each, redshift, source in (
                    (columns["CLASS"][k], columns["Z"][k], self.truths[best[k]].source),
                    (kind[k], z[k], truth.source),
                )
            )
            raise ContradictionError(
                f"spectrum {ids['OBJID'][k]} is firmly {there} and {here}; leave it in one of them"
            )


def _of_the_rest(ids: Columns, n: int) -> dict[str, NDArray[Any]]:
    """Return the labels of spectra that no table knows."""
    thing = np.asarray(ids["THING_ID"] if "THING_ID" in ids else np.full(n, _UNNAMED), dtype=np.int64)
    return {
        "CLASS": np.full(n, OTHER, dtype=np.int8),
        "Z": np.full(n, np.nan),
        "CONFIDENCE": np.full(n, FIRM, dtype=np.int8),
        "BAL_FLAG": np.full(n, -1, dtype=np.int8),
        "BALNICITY": np.full(n, np.nan, dtype=np.float32),
        "OBJECT": np.where(thing > 0, thing, _UNNAMED),
        "ANCILLARY": np.zeros(n, dtype=bool),
        "CONTROL": np.zeros(n, dtype=bool),
    }


def read_known(paths: Sequence[Path], rest_is_other: bool = False) -> Known:
    """Return what some truth tables know together.

    Parameters
    ----------
    paths : sequence of Path
        See `truth.read_truth_table`.
    rest_is_other : bool
        As in `Known`; the tables must list quasars alone then, and else must not.

    Raises
    ------
    UsageError
        If a table is at fault, or all know no quasar, or what is not listed would get no label, or a wrong
        one.
    """
    known = Known(tuple(read_truth_table(path) for path in paths), rest_is_other)
    if not any((truth.kind == QSO).any() for truth in known.truths):
        raise UsageError(
            f"{known.source} knows no quasar, so nothing shows what one looks like: add spectra of class QSO"
        )
    others = [truth for truth in known.truths if not truth.quasars_only]
    if not others and not rest_is_other:
        raise UsageError(
            f"{known.source} knows quasars only, so nothing shows what is none: add spectra of stars and "
            "galaxies, or take all that it does not list for others, with --rest-is-other"
        )
    if others and rest_is_other:
        raise UsageError(
            f"{others[0].source} says itself which spectra are no quasars, and what it does not know may be "
            "anything: leave --rest-is-other, which is for catalogues of quasars alone"
        )
    return known


def numbered(
    objects: NDArray[np.int64], ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the object of each spectrum, as a number that is the same for all its spectra, shape (n,).

    Objects that have no name (negative) are those of other spectra within `positions.NEAR`, or of a chain of
    such, with the name of the first that has one.

    Parameters
    ----------
    objects : ndarray of int64, shape (n,)
        As `Labels.columns` has them.
    ra, dec : ndarray of float64, shape (n,)
        Degrees; not finite where unknown.
    """
    number = np.where(objects == _UNNAMED, _FIRST_NUMBER + np.arange(len(objects)), objects)
    known = np.flatnonzero(np.isfinite(ra) & (np.abs(dec) <= 90))
    nameless = number[known] < 0
    if not nameless.any():
        return number
    group = _groups(ra[known], dec[known])
    order = np.lexsort((nameless, group))  # stable
    leader = order[np.searchsorted(group[order], np.arange(group.max() + 1))]
    number[known[nameless]] = number[known[leader[group[nameless]]]]
    return number


def _groups(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the same number for places near to each other, from 0."""
    # Many visits to one place would be many pairs.
    places, place = np.unique(ra % 360 + 1j * dec, return_inverse=True)
    longitude, latitude = np.radians(places.real), np.radians(places.imag)
    x = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)
    chord = 2 * np.sin(np.radians(NEAR / 3600) / 2)
    pairs = cKDTree(np.stack(x, axis=1)).query_pairs(chord, output_type="ndarray")
    n = len(places)
    links = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return np.asarray(connected_components(links, directed=False)[1][place], dtype=np.int64)
