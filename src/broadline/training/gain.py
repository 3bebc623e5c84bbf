"""What a model gained: its scores beside those of the model it started from, on the same spectra."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.calibration import bal_features, quasar_features
from broadline.decision import Rule
from broadline.evaluation.bal import annotated
from broadline.evaluation.measures import Level, Measured, measured
from broadline.evaluation.reliability import Comparison, McNemar, compare, mcnemar
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import Mask, Share
from broadline.model import Model
from broadline.training.rehearsal import Annotated

__all__ = ["Gain", "gain", "judged"]

_SHOWN = {
    "purity": "purity",
    "completeness": "completeness",
    "catastrophic": "catastrophic redshifts",
    "dv_nmad": "NMAD of dv",
    "bal_pseudo_completeness": "BAL quasars called BAL",
    "bal_non_bal": "others not called BAL",
    "ece_p_qso": "calibration error of P_QSO",
    "ece_p_z": "calibration error of P_Z",
}


def judged(model: Model, spectra: Annotated) -> Sample | None:
    """Return what a model says of spectra beside what is known of them; None if there are none."""
    emission = np.array([not line.bal for line in model.lines])
    parts: list[Mapping[str, NDArray[Any]]] = []
    for batch, known in spectra:
        (c, z, z_err), verdict = model.judge(batch.x.numpy())
        said = {"z": verdict.z, "called": verdict.is_qso, "c": c[:, emission]}
        if not emission.all():
            said["c_bal"] = c[:, ~emission].max(axis=1)
        if z_err is not None:
            said["z_err"] = verdict.z_err
        if calibration := model.recipe.calibration:
            x = quasar_features(c[:, emission], z[:, emission], verdict.z, verdict.z_err)
            said |= {f"p_{name}": calibration.probability(name, x) for name in ("qso", "z")}
            if "c_bal" in said:
                said["p_bal"] = calibration.probability("bal", bal_features(said["c_bal"]))
        parts.append({**said, **known})
    if not parts:
        return None
    return Sample(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


@dataclass(frozen=True, slots=True)
class Gain:
    """Two models on the same spectra.

    Attributes
    ----------
    n, n_quasars : int
        Spectra, and secure quasars among them.
    before, after : mapping of str to Share or Level
        As `measures.measured` names them.
    tests : Comparison
        After against before: McNemar's exact tests, and a paired bootstrap by object.
    bal : McNemar, optional
        Quasars whose broad absorption, or lack of it, is told after alone, and before alone.
    """

    n: int
    n_quasars: int
    before: Measured
    after: Measured
    tests: Comparison
    bal: McNemar | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types; NaN, which JSON lacks, is None."""
        scores = {
            when: {name: _fields(each) for name, each in found.items()}
            for when, found in (("before", self.before), ("after", self.after))
        }
        tests = asdict(self.tests) | ({"bal": asdict(self.bal)} if self.bal else {})
        fields = {"n": self.n, "n_quasars": self.n_quasars, **scores, "tests": tests}
        return {name: _finite(each) for name, each in fields.items()}

    def lines(self, title: str) -> list[str]:
        """Return a table: each score before and after with its 95 % interval, and the tests."""
        rows = [
            f"{words:<28}{_cell(name, self.before[name]):>26}{_cell(name, self.after[name]):>26}"
            for name, words in _SHOWN.items()
            if name in self.before and name in self.after
        ]
        head = f"{title}: {self.n:,} spectra, {self.n_quasars:,} quasars"
        return [head, f"{'':<28}{'before':>26}{'after':>26}", *rows, *self._tested()]

    def _tested(self) -> list[str]:
        out = []
        for name in ("purity", "completeness"):
            found = getattr(self.tests, name)
            if math.isfinite(found.p_value):
                change = f"{100 * found.value:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}] %"
                out.append(f"{name} changed by {change} (paired bootstrap, p {found.p_value:.2g})")
        pairs = {"quasars": self.tests.quasars, "others": self.tests.others, "broad absorption": self.bal}
        for name, test in pairs.items():
            if test and test.only_one + test.only_other:
                said = f"right after alone {test.only_one:,}, before alone {test.only_other:,}"
                out.append(f"{name}: {said} (McNemar, p {test.p_value:.2g})")
        return out


def gain(before: Sample, after: Sample, rules: tuple[Rule, Rule]) -> Gain:
    """Return the gain of one model over another, given what both say of the same spectra, and their rules."""
    return Gain(
        n=len(before),
        n_quasars=int(before.annotated("QSO").sum()),
        before=measured(before, rules[0], errors=True),
        after=measured(after, rules[1], errors=True),
        tests=compare(after, before),
        bal=_bal(before, after, rules),
    )


def _bal(before: Sample, after: Sample, rules: tuple[Rule, Rule]) -> McNemar | None:
    truth = annotated(before)
    if truth is None or before.c_bal is None or after.c_bal is None:
        return None
    known, right = truth.both | truth.neither, list[Mask]()
    for x, rule in zip((after, before), reversed(rules), strict=True):
        assert x.c_bal is not None
        right.append(((x.quasar & (x.c_bal > rule.c_th_bal)) == truth.both)[known])
    return mcnemar(*right)


def _fields(found: Share | Level) -> dict[str, float]:
    if isinstance(found, Level):
        return {"value": found.value, "error": found.error, "n": found.n}
    low, high = found.interval
    return {"value": found.value, "low": low, "high": high, "k": found.k, "n": found.n}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(name: str, found: Share | Level) -> str:
    if isinstance(found, Share):
        low, high = found.interval
        return f"{100 * found.value:.2f} [{100 * low:.2f}, {100 * high:.2f}] %"
    if name.startswith("ece"):
        return f"{found.value:.4f}"
    error = f" ± {found.error:.0f}" if math.isfinite(found.error) else ""
    return f"{found.value:.0f}{error} km/s"
