"""The numbers of a report: every metric of a study with its uncertainty, and the paper's beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from broadline.decision import Rule
from broadline.evaluation.bal import bal_score
from broadline.evaluation.metrics import bands, composition, crossing, curve, score, uncertain
from broadline.evaluation.redshifts import pull, redshift_scatter, repeats, ripple
from broadline.evaluation.reliability import compare, reliabilities
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import Share, over_splits
from broadline.evaluation.study import Baseline, Study

__all__ = ["Number", "Section", "results"]

_THRESHOLDS = np.linspace(0.0, 0.99, 100)
_THREE = Rule(c_th=0.6, l_min=3)  # section 4.1
_FEWEST = 100  # quasars from which a ripple is measured


@dataclass(frozen=True, slots=True)
class Number:
    """A result.

    Attributes
    ----------
    key, label : str
        Its name for machines, and for people.
    text : str
        Value, uncertainty, counts.
    paper : str
        What Busca & Balland (2018) found, "" where they say nothing.
    values : mapping of str to number or list
        Value, counts, interval, splits.
    """

    key: str
    label: str
    text: str
    paper: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Section:
    """Results that belong together.

    Attributes
    ----------
    title : str
    numbers : tuple of Number
    note : str
    grid : tuple of tuple of str
        How they are shown, heads first, if not as a list.
    """

    title: str
    numbers: tuple[Number, ...]
    note: str = ""
    grid: tuple[tuple[str, ...], ...] = ()


class _Row(NamedTuple):
    """How a measured quantity is shown: numbers in `unit` times `scale`, with so many digits."""

    key: str
    label: str
    paper: str = ""
    unit: str = ""
    digits: int = 0


_QUASARS = (
    _Row("purity", "purity", "99.51 ± 0.03 % (above 0.4)"),
    _Row("completeness", "completeness", "99.52 ± 0.03 % (above 0.4)"),
    _Row("crossing_1", "purity = completeness, 1 line", "about 99.5 %", "%", 2),
    _Row("crossing_threshold_1", "... at the threshold", "near 0.4", "", 2),
    _Row("crossing_2", "purity = completeness, 2 lines", "similar", "%", 2),
    _Row("crossing_threshold_2", "... at the threshold", "near 0.1", "", 2),
    _Row("purity_3", "purity, 3 lines above 0.6", "above 99.9 %"),
    _Row("completeness_3", "completeness, 3 lines above 0.6", "below 45 %"),
)
_WRONG = (
    _Row("star", "called quasar, annotated STAR", "0.27 ± 0.02 %"),
    _Row("galaxy", "called quasar, annotated GALAXY", "0.19 ± 0.03 %"),
    _Row("galaxy_right", "... of these with the right redshift", "over 80 %"),
    _Row("other", "called quasar, annotated as something else"),
    _Row("wrong_z", "called quasar, annotated QSO with another redshift", "0.14 ± 0.01 %"),
    _Row("missed", "annotated QSO, not called", "0.33 ± 0.02 %"),
    _Row("missed_z", "annotated QSO, called with another redshift", "0.14 ± 0.01 %"),
)
_REDSHIFTS = (
    _Row("catastrophic", "wrong redshift, of annotated quasars called", "0.2 %"),
    _Row("dv_mean", "dv within 6000 km/s: mean", "8 km/s", "km/s"),
    _Row("dv_std", "... standard deviation", "664 km/s", "km/s"),
    _Row("dv_nmad", "... NMAD", "", "km/s"),
    _Row("dv_mean_all", "dv of all: mean", "", "km/s"),
    _Row("dv_std_all", "... standard deviation", "", "km/s"),
    _Row("dv_nmad_all", "... NMAD", "", "km/s"),
)
_BAL = (
    _Row("bal_pseudo_completeness", "pseudo-completeness: accuracy for BAL quasars", "98.0 ± 0.4 %"),
    _Row("bal_pseudo_purity", "pseudo-purity", "77 ± 1 %"),
    _Row("bal_non_bal", "accuracy for quasars without BAL", "97.0 ± 0.2 %"),
    _Row("bal_balnicity", "median BI of CIV, all", "936 km/s", "km/s"),
    _Row("bal_missed", "median BI of CIV, missed", "122 km/s", "km/s"),
    _Row("bal_dv_std", "dv of quasars called BAL, within 6000 km/s: standard deviation", "797 km/s", "km/s"),
    _Row("bal_catastrophic", "wrong redshift, of annotated quasars called BAL", "0.2 %"),
)
_PROBABILITIES = (
    _Row("ece_p_qso", "expected calibration error of P_QSO", digits=4),
    _Row("ece_p_z", "expected calibration error of P_Z", digits=4),
    _Row("ece_p_bal", "expected calibration error of P_BAL", digits=4),
    _Row("pull_std", "pull of Z_ERR, dv within 6000 km/s: standard deviation", digits=2),
    _Row("pull_nmad", "... NMAD", digits=2),
)
_UNCERTAIN = (
    _Row("uncertain", "annotated with a confidence below 3", "about 2 %"),
    _Row("tentative", "... with a redshift all the same", "more than half"),
    _Row("called", "... called quasar", "20 %"),
    _Row("agree", "... at the tentative redshift, of those called", "over 60 %"),
)
#: What a truth of quasars alone says nothing of.
_NEEDS_OTHERS = {"purity", "purity_3", "star", "galaxy", "galaxy_right", "other"} | {
    f"crossing_{part}{l_min}" for part in ("", "threshold_") for l_min in (1, 2)
}
_ONE = "Shares are followed by their 95 % credible interval (Jeffreys' prior) and the counts."
_MANY = "Numbers are the mean over {n} splits with the rms about it; counts are of all splits together."
_OTHERS = (
    "Spectra sent to inspection take the annotated class and redshift. Differences are the catalogue's value "
    "minus the other's, with the middle 95 % of a paired bootstrap by object."
)


def results(study: Study) -> tuple[Section, ...]:
    """Return all numbers of a study. A metric of no rows is missing, not 0 or 1."""
    whole = _measured(study.sample, study.rule)
    parts = [_measured(part, study.rule) for part in study.parts()] if study.n_splits > 1 else []
    if study.quasars_only:
        for each in (whole, *parts):
            for key in _NEEDS_OTHERS:
                each.pop(key, None)
    rule = study.rule
    note = (_MANY.format(n=len(parts)) if parts else _ONE) + (
        f" Quasars are called by {rule.l_min} line{'s' * (rule.l_min > 1)} above {rule.c_th:g}, secure "
        "annotations count."
    )
    sections = (
        Section("Quasars", (*_rows(_QUASARS, whole, parts), *_bootstrap(study)), note),
        _others(study),
        Section("What is wrong, and what is missed", _rows(_WRONG, whole, parts)),
        Section("Redshifts", (*_rows(_REDSHIFTS, whole, parts), *_ripples(study))),
        Section(
            "Broad absorption", _rows(_BAL, whole, parts), f"Called BAL are quasars above {rule.c_th_bal:g}."
        ),
        Section("Probabilities and errors", _rows(_PROBABILITIES, whole, parts)),
        Section("Spectra without a secure annotation", _rows(_UNCERTAIN, whole, parts)),
        Section("Repeat observations", tuple(_repeats(study))),
    )
    return tuple(section for section in sections if section.numbers)


# ---- measuring


def _measured(sample: Sample, rule: Rule) -> dict[str, Share | float]:
    """Return everything that can be told of one sample; a share of nothing and NaN are not there."""
    found, parts, scatter = score(sample), composition(sample), redshift_scatter(sample)
    out: dict[str, Share | float | None] = {
        "purity": found.purity,
        "completeness": found.completeness,
        "catastrophic": found.catastrophic,
    }
    out |= {row.key: getattr(parts, row.key) for row in _WRONG}
    for suffix, moments in (("", scatter.right), ("_all", scatter.all)):
        out |= {f"dv_{name}{suffix}": getattr(moments, name) for name in ("mean", "std", "nmad")}
    if sample.c is not None:
        three = score(sample.at(_THREE))
        out |= {"purity_3": three.purity, "completeness_3": three.completeness}
        for l_min in (1, 2):
            cross = crossing(curve(sample, _THRESHOLDS, l_min))
            if cross:
                out[f"crossing_{l_min}"] = 100 * cross.value
                out[f"crossing_threshold_{l_min}"] = cross.threshold
    bal = bal_score(sample, rule.c_th_bal)
    if bal:
        out |= {
            "bal_pseudo_completeness": bal.pseudo_completeness,
            "bal_pseudo_purity": bal.pseudo_purity,
            "bal_non_bal": bal.non_bal,
            "bal_balnicity": bal.median_balnicity,
            "bal_missed": bal.median_missed,
            "bal_dv_std": bal.redshifts.right.std,
            "bal_catastrophic": bal.redshifts.catastrophic,
        }
    out |= {f"ece_{name}": each.ece for name, each in reliabilities(sample).items()}
    if pulls := pull(sample):
        out |= {"pull_std": pulls.right.std, "pull_nmad": pulls.right.nmad}
    if unsure := uncertain(sample):
        out |= {row.key: getattr(unsure, row.key) for row in _UNCERTAIN}
    return {key: value for key, value in out.items() if value is not None and math.isfinite(_value(value))}


def _value(measured: Share | float) -> float:
    return measured.value if isinstance(measured, Share) else measured


# ---- writing


def _rows(
    rows: Sequence[_Row],
    whole: Mapping[str, Share | float],
    parts: Sequence[Mapping[str, Share | float]] = (),
) -> tuple[Number, ...]:
    return tuple(
        _number(row, whole[row.key], [part[row.key] for part in parts if row.key in part])
        for row in rows
        if row.key in whole
    )


def _number(row: _Row, whole: Share | float, parts: Sequence[Share | float] = ()) -> Number:
    """Return a quantity with its scatter over splits, or a share with its interval."""
    values: dict[str, Any] = {"value": _value(whole)}
    share = isinstance(whole, Share)
    scale, digits, unit = (100, 2, "%") if share else (1, row.digits, row.unit)
    text = f"{scale * _value(whole):.{digits}f}"
    if parts:
        each = [_value(part) for part in parts]
        spread = over_splits(each)
        mean, rms = float(spread.mean), float(spread.rms)
        values |= {"splits": each, "mean": mean, "rms": rms}
        text = f"{scale * mean:.{digits}f} ± {scale * rms:.{digits}f}"
    text = f"{text} {unit}".strip()
    if isinstance(whole, Share):
        low, high = whole.interval
        values |= {"k": whole.k, "n": whole.n, "low": low, "high": high}
        interval = "" if parts else f" [{100 * low:.2f}, {100 * high:.2f}]"
        text = f"{text}{interval}, {whole.k:,} of {whole.n:,}"
    return Number(row.key, row.label, text, row.paper, values)


def _bootstrap(study: Study) -> Iterator[Number]:
    """Yield the bootstrap errors of purity and completeness, for a single catalogue."""
    if study.n_splits > 1:
        return
    found = bands(study.sample)
    for name, band in (("purity", found.purity), ("completeness", found.completeness)):
        std = float(band.std[0])
        if math.isfinite(std) and not (name == "purity" and study.quasars_only):
            label = f"{name}: standard deviation of a bootstrap by object"
            yield Number(f"{name}_bootstrap", label, f"{100 * std:.2f} %", "", {"value": std})


_PAPERS = {"auto": ("99.14 %", "94.98 %"), "auto+VI": ("99.17 %", "99.26 %")}
_MEASURES = ("purity", "completeness", "catastrophic", "inspected")
_HEAD = ("", "purity", "completeness", "wrong redshift", "inspected")
_HEAD_DIFFERENCES = ("purity: ours minus theirs", "completeness: ours minus theirs")


def _others(study: Study) -> Section:
    """Return other classifiers as one table, and their numbers."""
    numbers: list[Number] = []
    grid: list[tuple[str, ...]] = [(*_HEAD, *_HEAD_DIFFERENCES)]
    ours = {number.key: number for number in _measures(study, study.sample, None, "")}
    grid.append(("this catalogue", *(_cell(ours.get(key)) for key in _MEASURES), "", ""))
    for name, baseline in study.baselines.items():
        measured = _measures(study, baseline.sample, baseline.inspected, name)
        found = {number.key: number for number in (*measured, *_differences(study, baseline))}
        keys = (*_MEASURES, "purity_difference", "completeness_difference")
        grid.append((name, *(_cell(found.get(key)) for key in keys)))
        if unknown := baseline.n_unknown:
            found["unknown"] = Number("unknown", "says nothing of", f"{unknown:,}", "", {"value": unknown})
            grid.append((f"... says nothing of {unknown:,} spectra: they count as not called",))
        key = "".join(letter if letter.isalnum() else "_" for letter in name.lower())
        numbers += [
            Number(f"{key}.{each.key}", f"{name}: {each.label}", each.text, each.paper, each.values)
            for each in found.values()
        ]
    return Section("Other classifiers on the same spectra", tuple(numbers), _OTHERS, tuple(grid))


def _measures(study: Study, sample: Sample, inspected: Share | None, name: str) -> tuple[Number, ...]:
    purity, completeness = _PAPERS.get(name, ("", ""))
    rows = (
        _Row("purity", "purity", purity),
        _Row("completeness", "completeness", completeness),
        _Row("catastrophic", "wrong redshift, of annotated quasars called"),
        _Row("inspected", "sent to inspection"),
    )
    found = score(sample)
    shares = {"purity": found.purity, "completeness": found.completeness, "catastrophic": found.catastrophic}
    if study.quasars_only:
        del shares["purity"]
    if inspected is not None:
        shares["inspected"] = inspected
    return _rows(rows, {key: share for key, share in shares.items() if share.n})


def _cell(number: Number | None) -> str:
    if number is None:
        return ""
    return number.text + (f" (paper: {number.paper})" if number.paper else "")


def _differences(study: Study, baseline: Baseline) -> Iterator[Number]:
    """Yield by how much the catalogue differs from a baseline, and the chance of that."""
    found = compare(study.sample, baseline.sample)
    for what, one in (("purity", found.purity), ("completeness", found.completeness)):
        if math.isfinite(one.std) and not (what == "purity" and study.quasars_only):
            low, high = f"{100 * one.low:+.2f}", f"{100 * one.high:+.2f}"
            text = f"{100 * one.value:+.2f} [{low}, {high}] %, p = {one.p_value:.2g}"
            values = {"value": one.value, "low": one.low, "high": one.high, "p": one.p_value}
            yield Number(f"{what}_difference", f"difference in {what}", text, "", values)
    for what, test in (("quasars", found.quasars), ("others", found.others)):
        if math.isfinite(test.p_value):
            text = f"{test.only_one:,} and {test.only_other:,}, p = {test.p_value:.2g} (McNemar)"
            values = {"only_ours": test.only_one, "only_theirs": test.only_other, "p": test.p_value}
            label = f"{what} that the catalogue alone has right, and that it alone has right"
            yield Number(f"{what}_mcnemar", label, text, "", values)


def _ripples(study: Study) -> Iterator[Number]:
    if study.boxes is None:
        return
    grid, n_boxes = study.boxes
    for line in study.lines:
        if line.bal or not math.isfinite(line.wavelength):
            continue
        wave = ripple(study.sample, line, grid, n_boxes)
        if wave.n >= _FEWEST and math.isfinite(wave.amplitude):
            text = f"{wave.amplitude:.0f} ± {wave.error:.0f} km/s, of {wave.n:,} quasars"
            values = {"value": wave.amplitude, "error": wave.error, "n": wave.n, "chance": wave.chance}
            label = f"ripple of dv at the boxes of {line.name}: amplitude"
            yield Number(f"ripple_{line.name.lower()}", label, text, "", values)


def _repeats(study: Study) -> Iterator[Number]:
    if study.n_splits > 1:  # splits hold the same spectra again
        return
    found = repeats(study.sample)
    if found is None or not found.n_pairs:
        return
    measured: dict[str, Share | float] = {
        "same_class": found.same_class,
        "conflict": found.conflict,
        "std": found.std,
        "nmad": found.nmad,
    }
    rows = (
        _Row("same_class", "same verdict twice, of pairs"),
        _Row("conflict", "redshifts that disagree, of pairs both called quasar"),
        _Row("std", "scatter of one redshift, from pairs: standard deviation", "", "km/s"),
        _Row("nmad", "... NMAD", "", "km/s"),
    )
    known = {key: value for key, value in measured.items() if math.isfinite(_value(value))}
    yield from (
        Number(f"repeats.{each.key}", each.label, each.text, each.paper, each.values)
        for each in _rows(rows, known)
    )
