"""The gate: where a model is compared with the one before it, and what counts as worse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from broadline.decision import Rule
from broadline.evaluation.gate import BAL_TRIFLE, LEVEL, TRIFLE, Place, overall, places, setbacks
from broadline.evaluation.sample import Sample

RULES = (Rule(), Rule(c_th_bal=0.6))


def pair() -> tuple[Sample, Sample]:
    """Nine spectra, before and after."""
    truth = ["QSO", "QSO", "QSO", "QSO", "STAR", "STAR", "GALAXY", "GALAXY", "SKY"]
    known: dict[str, Any] = {
        "truth": np.array(truth),
        "z_truth": np.array([0.3, 2.2, 2.4, 2.3, 0, 0, 0.4, 0.4, 0]),
        "confidence": np.array([3, 3, 3, 1, 3, 3, 3, 3, 3]),
        "bal": np.array([0, 1, 0, 1, -1, -1, -1, -1, -1]),
    }
    before = {
        "z": np.array([0.3, 2.2, 2.4, 2.3, 2.1, 1.0, 0.4, 3.0, 1.0]),
        "called": np.array([1, 1, 0, 1, 1, 0, 1, 0, 0], dtype=bool),
        "c_bal": np.array([0, 0.9, 0, 0.9, 0, 0, 0, 0, 0]),
    }
    after = {
        "z": np.array([0.3, 1.2, 2.4, 2.3, 2.1, 1.0, 0.4, 3.0, 1.0]),
        "called": np.array([0, 1, 1, 0, 0, 1, 1, 1, 0], dtype=bool),
        "c_bal": np.array([0, 0.5, 0.7, 0.9, 0, 0, 0, 0, 0]),
    }
    return Sample(**known, **before), Sample(**known, **after)


def test_places_by_hand() -> None:
    found = {place.what: (place.n, place.lost, place.won) for place in places(*pair(), RULES)}
    assert len(found) == 5 + 3 + 22
    some = {what: counts for what, counts in found.items() if counts[0]}
    assert some == {
        # Found before: 0.3 and 2.2. After: 2.4; the fourth is not firm.
        "quasars found": (3, 2, 1),
        # Called by either: three quasars, two stars, two galaxies. Wrong before: a star; after: the quasar at
        # 1.2, the other star, the galaxy at 3.0.
        "purity": (7, 3, 1),
        "stars not called wrongly": (2, 1, 1),
        "galaxies not called wrongly": (2, 1, 0),
        "other spectra not called wrongly": (1, 0, 0),
        "BAL quasars found": (1, 1, 0),
        "BAL quasars called BAL": (1, 1, 0),
        "other quasars not called BAL": (1, 1, 0),  # z > 1.6 alone
        "completeness at 0.0 <= z < 0.5": (1, 1, 0),
        "completeness at 2.0 <= z < 2.5": (2, 1, 1),
        "purity at 0.0 <= z < 0.5": (2, 0, 0),
        "purity at 1.0 <= z < 1.5": (2, 2, 0),
        "purity at 2.0 <= z < 2.5": (3, 0, 1),
        "purity at 3.0 <= z < 3.5": (1, 1, 0),
    }
    two = [(place.what, place.n, place.lost, place.won) for place in overall("here", *pair())]
    assert two == [("here: quasars found", 3, 2, 1), ("here: others not called wrongly", 5, 2, 1)]


def test_without_broad_absorption_there_are_no_places_for_it() -> None:
    before, after = (
        Sample(z=x.z, truth=x.truth, z_truth=x.z_truth, called=x.called, confidence=x.confidence)
        for x in pair()
    )
    assert not [place.what for place in places(before, after, RULES) if "BAL" in place.what]


def test_the_p_value_is_that_of_a_fair_coin() -> None:
    assert Place("", 100, 6, 1).p_value == pytest.approx(8 / 128)  # 6 or 7 heads of 7
    assert Place("", 100, 0, 9).p_value == 1 and Place("", 100, 0, 0).p_value == 1


def test_worse_is_what_is_beyond_chance_for_so_many_places_and_no_trifle() -> None:
    equal = [Place(f"place {i}", 1000, 5, 5) for i in range(29)]
    # 2^-11 < 0.05 / 30 < 2^-9.
    assert setbacks([*equal, Place("lost", 1000, 11, 0)]) == [Place("lost", 1000, 11, 0)]
    assert setbacks([*equal, Place("chance", 1000, 9, 0)]) == []
    assert setbacks([Place("alone", 1000, 9, 0)]) == [Place("alone", 1000, 9, 0)]
    assert setbacks([Place("trifle", 100_000, 400, 0)]) == []
    assert setbacks([Place("no trifle", 100_000, 600, 0)])
    assert setbacks([Place("BAL", 1000, 20, 0, BAL_TRIFLE)]) == [] and setbacks([Place("BAL", 1000, 20, 0)])
    assert TRIFLE < BAL_TRIFLE


def test_holm_asks_less_of_the_next_place_once_one_is_worse() -> None:
    p = binom.sf(5, 6, 0.5)
    assert LEVEL / 3 > p > LEVEL / 4
    first, second = Place("first", 100, 30, 0), Place("second", 100, 6, 0)
    rest = [Place("equal", 100, 1, 1), Place("equal", 100, 2, 2)]
    assert setbacks([second, first, *rest]) == [second, first]
    assert setbacks([second, *rest, rest[0]]) == []


def test_a_model_that_is_as_good_everywhere_is_seldom_refused() -> None:
    rng = np.random.default_rng(3)
    changed = rng.poisson(12, (300, 30))
    lost = rng.binomial(changed, 0.5)
    refused = [
        bool(setbacks([Place("", 500, int(a), int(n - a), 0.0) for a, n in zip(*row, strict=True)]))
        for row in zip(lost, changed, strict=True)
    ]
    assert np.mean(refused) < LEVEL + 0.04
