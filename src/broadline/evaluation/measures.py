"""All that is told of a sample of verdicts, and how it is called: shares, and other numbers with errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from broadline.decision import Rule
from broadline.evaluation.bal import bal_score
from broadline.evaluation.metrics import composition, crossing, curve, score, uncertain
from broadline.evaluation.redshifts import Moments, pull, redshift_scatter
from broadline.evaluation.reliability import Reliability, reliabilities
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import Floats, Ints, Share

__all__ = [
    "BAL",
    "NEEDS_OTHERS",
    "PROBABILITIES",
    "QUASARS",
    "REDSHIFTS",
    "UNCERTAIN",
    "WRONG",
    "Level",
    "Measured",
    "Row",
    "jackknife",
    "measured",
    "perfect",
]

_THRESHOLDS: Floats = np.linspace(0.0, 0.99, 100)
_THREE = Rule(c_th=0.6, l_min=3)  # section 4.1
_GROUPS = 20  # of the jackknife


class Row(NamedTuple):
    """How a measured quantity is shown: in `unit`, with so many digits; shares are always in percent."""

    key: str
    label: str
    paper: str = ""
    unit: str = ""
    digits: int = 0


QUASARS = (
    Row("purity", "purity", "99.51 ± 0.03 % (1 line above 0.4)"),
    Row("completeness", "completeness", "99.52 ± 0.03 % (1 line above 0.4)"),
    Row("crossing_1", "1 line: where purity and completeness are equal", "about 99.5 %", "%", 2),
    Row("crossing_threshold_1", "... threshold there", "about 0.4", "", 2),
    Row("crossing_2", "2 lines: where purity and completeness are equal", "similar", "%", 2),
    Row("crossing_threshold_2", "... threshold there", "near 0.1", "", 2),
    Row("purity_3", "3 lines above 0.6: purity", "above 99.9 %"),
    Row("completeness_3", "... completeness", "below 45 %"),
)
WRONG = (
    Row("star", "annotated STAR, of those called quasar", "0.27 ± 0.02 %"),
    Row("galaxy", "annotated GALAXY, of those called quasar", "0.19 ± 0.03 %"),
    Row("galaxy_right", "... with the right redshift, of these", "over 80 %"),
    Row("other", "annotated as something else, of those called quasar"),
    Row("wrong_z", "annotated QSO at another redshift, of those called quasar", "0.14 ± 0.01 %"),
    Row("missed", "not called quasar, of those annotated QSO", "0.33 ± 0.02 %"),
    Row("missed_z", "called at another redshift, of those annotated QSO", "0.14 ± 0.01 %"),
)
REDSHIFTS = (
    Row("catastrophic", "|dv| not below 6000 km/s", "below 0.2 %"),
    Row("dv_mean", "dv of the others: mean", "8 km/s", "km/s"),
    Row("dv_std", "... standard deviation", "664 km/s (661 in sections 4.2, 5)", "km/s"),
    Row("dv_nmad", "... NMAD", "", "km/s"),
    Row("dv_mean_all", "dv of all: mean", "", "km/s"),
    Row("dv_std_all", "... standard deviation", "", "km/s"),
    Row("dv_nmad_all", "... NMAD", "", "km/s"),
)
BAL = (
    Row("bal_pseudo_completeness", "pseudo-completeness: accuracy for BAL quasars", "98.0 ± 0.4 %"),
    Row("bal_pseudo_purity", "pseudo-purity", "77 ± 1 %"),
    Row("bal_non_bal", "accuracy for quasars without BAL, z > 1.6", "97.0 ± 0.2 %"),
    Row("bal_balnicity", "median of BI_CIV > 0, quasars called", "936 km/s", "km/s"),
    Row("bal_missed", "... those of them not called BAL", "122 km/s", "km/s"),
    Row("bal_catastrophic", "|dv| not below 6000 km/s, quasars called BAL", "about 0.2 %"),
    Row("bal_dv_std", "... dv of the others: standard deviation", "797 km/s", "km/s"),
)
PROBABILITIES = (
    Row("ece_p_qso", "expected calibration error of P_QSO", digits=4),
    Row("ece_p_qso_perfect", "... of perfect probabilities, on average", digits=4),
    Row("ece_p_z", "expected calibration error of P_Z", digits=4),
    Row("ece_p_z_perfect", "... of perfect probabilities, on average", digits=4),
    Row("ece_p_bal", "expected calibration error of P_BAL", digits=4),
    Row("ece_p_bal_perfect", "... of perfect probabilities, on average", digits=4),
    Row("pull_mean", "pull dz / Z_ERR, |dv| < 6000 km/s: mean", digits=2),
    Row("pull_std", "... standard deviation", digits=2),
    Row("pull_nmad", "... NMAD", digits=2),
)
UNCERTAIN = (
    Row("uncertain", "annotated with a confidence below 3", "about 2 %"),
    Row("tentative", "with a redshift all the same, of these", "more than half"),
    Row("called", "called quasar, of these", "20 %"),
    Row("agree", "... within 6000 km/s of the tentative redshift, where there is one", "over 60 %"),
)
#: What a truth of quasars alone says nothing of.
NEEDS_OTHERS = {"purity", "purity_3", "star", "galaxy", "galaxy_right", "other"} | {
    f"crossing_{part}{l_min}" for part in ("", "threshold_") for l_min in (1, 2)
}


# ---- measuring


class Level(NamedTuple):
    """A number that is no share of rows.

    Attributes
    ----------
    value : float
    n : int
        Rows it is measured from; 0 if it is where two curves cross.
    error : float
        Standard error; NaN if it is not known.
    """

    value: float
    n: int = 0
    error: float = math.nan


Measured = Mapping[str, Share | Level]


def measured(sample: Sample, rule: Rule, *, errors: bool = False) -> dict[str, Share | Level]:
    """Return what can be told of a sample by name; what would be of no rows is not there.

    Parameters
    ----------
    sample : Sample
    rule : Rule
        For the threshold of broad absorption.
    errors : bool
        Levels have errors by `jackknife`.
    """
    levels, spread = _levels(sample, rule), jackknife(sample, rule) if errors else {}
    found: dict[str, Share | Level] = dict(_shares(sample, rule))
    found |= {name: level._replace(error=spread.get(name, math.nan)) for name, level in levels.items()}
    for name, each in reliabilities(sample).items():
        found[f"ece_{name}"] = Level(each.ece, each.n)
        found[f"ece_{name}_perfect"] = Level(perfect(each), each.n)
    return {name: each for name, each in found.items() if math.isfinite(each.value)}


def _shares(sample: Sample, rule: Rule) -> dict[str, Share]:
    found, parts = score(sample), composition(sample)
    shares = {name: getattr(found, name) for name in ("purity", "completeness", "catastrophic")}
    shares |= {row.key: getattr(parts, row.key) for row in WRONG}
    if sample.c is not None:
        three = score(sample.at(_THREE))
        shares |= {"purity_3": three.purity, "completeness_3": three.completeness}
    if bal := bal_score(sample, rule.c_th_bal):
        shares |= {
            "bal_pseudo_completeness": bal.pseudo_completeness,
            "bal_pseudo_purity": bal.pseudo_purity,
            "bal_non_bal": bal.non_bal,
            "bal_catastrophic": bal.redshifts.catastrophic,
        }
    if unsure := uncertain(sample):
        shares |= {row.key: getattr(unsure, row.key) for row in UNCERTAIN}
    return shares


def _levels(sample: Sample, rule: Rule) -> dict[str, Level]:
    scatter = redshift_scatter(sample)
    levels = _moments("dv", scatter.right) | {
        f"{name}_all": level for name, level in _moments("dv", scatter.all).items()
    }
    if sample.c is not None:
        for l_min in (1, 2):
            if cross := crossing(curve(sample, _THRESHOLDS, l_min)):
                levels[f"crossing_{l_min}"] = Level(cross.value)
                levels[f"crossing_threshold_{l_min}"] = Level(cross.threshold)
    if bal := bal_score(sample, rule.c_th_bal):
        levels["bal_balnicity"] = Level(bal.median_balnicity, len(bal.balnicity))
        levels["bal_missed"] = Level(bal.median_missed, len(bal.balnicity_missed))
        levels["bal_dv_std"] = Level(bal.redshifts.right.std, bal.redshifts.right.n)
    if pulls := pull(sample):
        levels |= _moments("pull", pulls.right)
    return levels


def _moments(name: str, found: Moments) -> dict[str, Level]:
    return {f"{name}_{kind}": Level(getattr(found, kind), found.n) for kind in ("mean", "std", "nmad")}


def jackknife(sample: Sample, rule: Rule) -> dict[str, float]:
    """Return standard errors of levels, by leaving out one of 20 groups of objects at a time.

    ``error^2 = (G - 1) / G sum_g (x_g - mean(x))^2``: the delete-a-group jackknife (Kott 2001, Journal of
    Official Statistics 17, 521). All spectra of an object are left out together; the error itself is known to
    16 %. There are none for fewer than two objects a group, nor of what a part of the sample does not have.
    """
    objects = sample.objects
    n = int(objects.max(initial=-1)) + 1
    if n < 2 * _GROUPS:
        return {}
    group: Ints = (np.random.default_rng(0).permutation(n) % _GROUPS)[objects]
    parts = [_levels(sample.take(group != i), rule) for i in range(_GROUPS)]
    errors = {}
    for name in set.intersection(*(set(part) for part in parts)):
        x = np.array([part[name].value for part in parts])
        errors[name] = float(np.sqrt((_GROUPS - 1) / _GROUPS * ((x - x.mean()) ** 2).sum()))
    return errors


def perfect(found: Reliability) -> float:
    """Return the expected calibration error that perfect probabilities would have on average.

    The mean deviation of a binomial number, ``E|k - n p| = 2 v (1 - p) P(k = v)`` with v the integer above
    n p (de Moivre; Diaconis & Zabell 1991, Statistical Science 6, 284), of each bin, over all rows.
    """
    if not found.n:
        return math.nan
    n, p = found.observed.n, np.clip(found.p, 0, 1)
    above = np.floor(n * p) + 1
    return float((2 * above * (1 - p) * binom.pmf(above, n, p)).sum() / found.n)
