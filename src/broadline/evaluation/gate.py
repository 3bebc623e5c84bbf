"""Whether a model got worse anywhere: per redshift bin and class, beyond chance and by more than a trifle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.stats import binom

from broadline.decision import Rule
from broadline.evaluation.bal import CIV_SEEN, annotated
from broadline.evaluation.metrics import REDSHIFT_EDGES
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import Floats, Mask

__all__ = ["BAL_TRIFLE", "LEVEL", "TRIFLE", "Place", "overall", "places", "setbacks"]

#: Probability that a model which is as good everywhere is found worse somewhere.
LEVEL = 0.05
#: Share of the spectra of a place that may be lost whatever the test says.
TRIFLE = 0.005
#: The same of the BAL finder, whose threshold weighs the two kinds of mistakes against each other.
BAL_TRIFLE = 0.03


@dataclass(frozen=True, slots=True)
class Place:
    """What two models get right somewhere.

    Attributes
    ----------
    what : str
    n : int
        Spectra there.
    lost, won : int
        Right before alone, and after alone.
    trifle : float
        Share of them whose loss does not matter.
    """

    what: str
    n: int
    lost: int
    won: int
    trifle: float = TRIFLE

    @classmethod
    def of(cls, what: str, among: Mask, right: Sequence[Mask], trifle: float = TRIFLE) -> Place:
        """Return the place of the rows `among`, given which rows the two have right, before and after."""
        before, after = right
        lost, won = (among & before & ~after).sum(), (among & after & ~before).sum()
        return cls(what, int(among.sum()), int(lost), int(won), trifle)

    @property
    def loss(self) -> float:
        """Net share of the spectra that is lost; 0 where there are none."""
        return (self.lost - self.won) / max(self.n, 1)

    @property
    def p_value(self) -> float:
        """Probability of as many lost, of those that changed, if either way is as likely.

        McNemar's exact test (1947, Psychometrika 12, 153), one-sided. It takes spectra as independent.
        """
        return float(binom.sf(self.lost - 1, self.lost + self.won, 0.5))


def places(before: Sample, after: Sample, rules: tuple[Rule, Rule]) -> list[Place]:
    """Return where two models are compared on the same spectra, on secure annotations.

    Completeness in bins of the annotated redshift, and purity in bins of the redshift found (Busca & Balland
    2018, section 4.3): there the spectra are those that either model calls at such a redshift, and right is
    who does not call a spectrum wrongly there. Each class: quasars, BAL quasars, stars, galaxies, all else.
    BAL quasars called so, and quasars without troughs not called so.

    Parameters
    ----------
    before, after : Sample
        Row by row the same spectra.
    rules : (Rule, Rule)
        Of the two, for the threshold of broad absorption.
    """
    quasars, both = before.annotated("QSO"), (before, after)
    found, right = _found(both), _not_wrong(both)
    called = before.firm & (before.quasar | after.quasar)
    tried = [Place.of("quasars found", quasars, found), Place.of("purity", called, right)]
    rest = before.firm & ~quasars
    for kind, words in (("STAR", "stars"), ("GALAXY", "galaxies")):
        tried.append(Place.of(f"{words} not called wrongly", before.annotated(kind), right))
        rest &= ~before.annotated(kind)
    tried.append(Place.of("other spectra not called wrongly", rest, right))
    tried += _broad_absorption(before, after, rules)
    for low, high in pairwise(REDSHIFT_EDGES):
        where = f"at {low:.1f} <= z < {high:.1f}"
        rows = quasars & _between(before.z_truth, low, high)
        tried.append(Place.of(f"completeness {where}", rows, found))
        here = [x.quasar & _between(x.z, low, high) for x in both]
        right_here = [each | ~there for each, there in zip(right, here, strict=True)]
        tried.append(Place.of(f"purity {where}", called & (here[0] | here[1]), right_here))
    return tried


def overall(what: str, before: Sample, after: Sample) -> list[Place]:
    """Return quasars and all else as two places, for samples too small for more."""
    quasars, both = before.annotated("QSO"), (before, after)
    return [
        Place.of(f"{what}: quasars found", quasars, _found(both)),
        Place.of(f"{what}: others not called wrongly", before.firm & ~quasars, _not_wrong(both)),
    ]


def setbacks(tried: Sequence[Place], level: float = LEVEL) -> list[Place]:
    """Return where the loss is beyond chance and no trifle.

    Chance by the step-down procedure of Holm (1979, Scandinavian Journal of Statistics 6, 65): if nothing got
    worse, some place is returned with a probability of `level` at most, however many places there are.
    """
    order = sorted(tried, key=lambda place: place.p_value)
    worse = []
    for i, place in enumerate(order):
        if place.p_value > level / (len(order) - i):
            break
        worse.append(place)
    return [place for place in tried if place in worse and place.loss > place.trifle]


def _found(both: Sequence[Sample]) -> list[Mask]:
    """Return what each calls quasar at the right redshift."""
    return [x.quasar & x.near for x in both]


def _not_wrong(both: Sequence[Sample]) -> list[Mask]:
    """Return what each does not call quasar, or rightly so, as purity counts it."""
    return [~x.quasar | (x.near & (x.annotated("QSO") | x.annotated("GALAXY"))) for x in both]


def _between(z: Floats, low: float, high: float) -> Mask:
    return np.asarray((z >= low) & (z < high))


def _broad_absorption(before: Sample, after: Sample, rules: tuple[Rule, Rule]) -> Iterator[Place]:
    truth = annotated(before)
    if truth is None:
        return
    yield Place.of("BAL quasars found", truth.both, _found((before, after)))
    if before.c_bal is None or after.c_bal is None:
        return
    said = [
        before.quasar & (before.c_bal > rules[0].c_th_bal),
        after.quasar & (after.c_bal > rules[1].c_th_bal),
    ]
    yield Place.of("BAL quasars called BAL", truth.both, said, BAL_TRIFLE)
    plain = truth.neither & (before.z_truth > CIV_SEEN)
    yield Place.of("other quasars not called BAL", plain, [~x for x in said], BAL_TRIFLE)
