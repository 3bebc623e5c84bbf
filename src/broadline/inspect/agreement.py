"""What several inspectors make of the same spectra: agreement, disputes, and what they settle on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from broadline.decision import CONFLICT_KMS, velocity
from broadline.evaluation.shares import Ints, Share
from broadline.inspect.rulings import Ruling, Verdict
from broadline.inspect.subjects import Subjects

__all__ = ["Agreement", "agreement", "cohen_kappa", "disputed", "purity", "same", "settled"]

Standing = Mapping[int, Sequence[Verdict]]

_BETWEEN = "; "


class Agreement(NamedTuple):
    """How two inspectors compare on the spectra that both have ruled on.

    Attributes
    ----------
    inspectors : (str, str)
    n : int
        Spectra.
    kappa : float
        `cohen_kappa` of their classes; NaN where it is not defined.
    same_kind : Share
    same_z : Share
        Within 6000 km/s, of those that both call QSO or both GALAXY.
    median_kms : float
        Median |dv| of these; NaN if there are none.
    """

    inspectors: tuple[str, str]
    n: int
    kappa: float
    same_kind: Share
    same_z: Share
    median_kms: float


def cohen_kappa(one: Sequence[str], other: Sequence[str]) -> float:
    """Return Cohen's kappa of two lists of classes, ``(p_o - p_e) / (1 - p_e)``.

    p_o is the share on which they agree, p_e that on which they would if each gave the same classes as
    often, but at random: Cohen (1960), Educational and Psychological Measurement 20, 37. NaN if there is
    nothing to compare, or both give one and the same class throughout.
    """
    n = len(one)
    if not n:
        return float("nan")
    observed = sum(a == b for a, b in zip(one, other, strict=True)) / n
    first, second = Counter(one), Counter(other)
    expected = sum(first[kind] * second[kind] for kind in first) / n**2
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def agreement(standing: Standing) -> list[Agreement]:
    """Return how each pair of inspectors compares, as far as two have ruled on the same spectra.

    Adjudications are left out: whoever makes them has seen the other verdicts.
    """
    blind = {row: [v for v in verdicts if not v.adjudicates] for row, verdicts in standing.items()}
    pairs: dict[tuple[str, str], list[tuple[Ruling, Ruling]]] = {}
    for verdicts in blind.values():
        for a, b in combinations(verdicts, 2):
            pairs.setdefault((a.inspector, b.inspector), []).append((a.ruling, b.ruling))
    return [_compared(names, rulings) for names, rulings in sorted(pairs.items())]


def _compared(names: tuple[str, str], rulings: Sequence[tuple[Ruling, Ruling]]) -> Agreement:
    kinds = [(a.kind, b.kind) for a, b in rulings]
    both = [a == b for a, b in kinds]
    apart = [
        _apart(a, b)
        for a, b in rulings
        if a.kind == b.kind and a.z is not None and b.z is not None and a.kind in ("QSO", "GALAXY")
    ]
    return Agreement(
        names,
        len(rulings),
        cohen_kappa([a for a, _ in kinds], [b for _, b in kinds]),
        Share(sum(both), len(both)),
        Share(sum(kms < CONFLICT_KMS for kms in apart), len(apart)),
        float(np.median(apart)) if apart else float("nan"),
    )


def _apart(a: Ruling, b: Ruling) -> float:
    """Return |dv| (km/s)."""
    assert a.z is not None and b.z is not None
    return float(abs(velocity(np.array(a.z), np.array(b.z))))


def same(a: Ruling, b: Ruling) -> bool:
    """Whether two rulings agree: one class and, of quasars and galaxies, redshifts within 6000 km/s."""
    if a.kind != b.kind:
        return False
    if a.kind not in ("QSO", "GALAXY") or a.z is None or b.z is None:
        return True
    return _apart(a, b) < CONFLICT_KMS


def disputed(standing: Standing) -> Ints:
    """Return the rows on which inspectors disagree and nobody has adjudicated, in order."""
    rows = [
        row
        for row, verdicts in standing.items()
        if not any(verdict.adjudicates for verdict in verdicts)
        and any(not same(a.ruling, b.ruling) for a, b in combinations(verdicts, 2))
    ]
    return np.array(rows, dtype=np.int64)


def settled(verdicts: Sequence[Verdict]) -> Ruling | None:
    """Return what the inspectors of one spectrum settle on; None if they disagree and nobody adjudicated.

    The last adjudication, if there is one. Otherwise, if all agree (`same`), their class, the median of
    their redshifts, the mean of their qualities rounded down (one who is unsure is heard), BAL if most say
    so, and all comments.
    """
    final = [verdict for verdict in verdicts if verdict.adjudicates]
    if final:
        return max(final, key=lambda verdict: verdict.version).ruling
    rulings = [verdict.ruling for verdict in verdicts]
    if any(not same(a, b) for a, b in combinations(rulings, 2)):
        return None
    z = [ruling.z for ruling in rulings if ruling.z is not None]
    return Ruling(
        rulings[0].kind,
        float(np.median(z)) if z else None,
        sum(ruling.quality for ruling in rulings) // len(rulings),
        2 * sum(ruling.bal for ruling in rulings) > len(rulings),
        _BETWEEN.join(ruling.comment for ruling in rulings if ruling.comment),
    )


def purity(subjects: Subjects, controls: NDArray[np.int64], standing: Standing) -> Share:
    """Return the share of the control sample, up to the first not ruled on, whose catalogue entry is right.

    What is ruled on further down was picked for another reason than its place, and is no random sample.
    Right is a quasar at a redshift within 6000 km/s, or a galaxy there: Busca & Balland (2018), section 4.1.
    Spectra that nobody could identify, and disputed ones, are left out.
    """
    k = n = 0
    for row in controls.tolist():
        if row not in standing:
            break
        ruling = settled(standing[row])
        if ruling is None or ruling.kind == "?":
            continue
        called = Ruling("QSO", float(subjects.catalogue.z[row]))
        n += 1
        k += ruling.kind in ("QSO", "GALAXY") and same(called, ruling._replace(kind="QSO"))
    return Share(k, n)
