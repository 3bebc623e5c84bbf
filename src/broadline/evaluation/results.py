"""The numbers of a report, with their uncertainties and counts, beside those of the paper."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from broadline.evaluation.measures import (
    BAL,
    NEEDS_OTHERS,
    PROBABILITIES,
    QUASARS,
    REDSHIFTS,
    UNCERTAIN,
    WRONG,
    Level,
    Measured,
    Row,
    measured,
)
from broadline.evaluation.metrics import bands, in_redshift_bins, score
from broadline.evaluation.redshifts import repeats, ripple
from broadline.evaluation.reliability import Difference, McNemar, compare
from broadline.evaluation.shares import Share, over_splits
from broadline.evaluation.study import Baseline, Study

__all__ = ["Number", "Section", "results"]

_FEWEST = 100  # quasars from which a ripple is measured


@dataclass(frozen=True, slots=True)
class Number:
    """A result.

    Attributes
    ----------
    key, label : str
        Its name for machines, and for people.
    text : str
        Value, uncertainty, unit, counts.
    paper : str
        What Busca & Balland (2018) found, "" where they say nothing.
    values : mapping of str to number, text or list
        Value, counts, interval or error, splits; shares as fractions.
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


_ONE = (
    "Shares are followed by their 95 % credible interval (Jeffreys' prior) and the counts; other numbers by "
    "their standard error (jackknife by object) and the number of spectra."
)
_MANY = (
    "Numbers are the mean over {n} splits ± the rms about it; counts are of all splits together, where a "
    "spectrum counts as often as it was held out."
)
_DV = "dv = c (z - z_ann) / (1 + z_ann), of secure annotations QSO that are called quasar."
_RIPPLE = (
    " The ripple is a wave in dv with the period of the network's boxes; without one the amplitude is 1.25 "
    "times its error on average, and the power, amplitude squared over its mean at neighbouring periods, 1."
)
_BOXED = "Called BAL: called quasar, with a BAL confidence above {:g}. BAL by annotation: flag and BI_CIV."
_HONEST = "The standard deviation of the pull is 1 if errors are honest."
_ALL_QUASARS = " Of quasars alone P_QSO and P_Z are bound to look too low."


def results(study: Study) -> tuple[Section, ...]:
    """Return all numbers of a study. A metric of no rows is missing, not 0 or 1."""
    split = study.n_splits > 1
    whole = measured(study.sample, study.rule, errors=not split)
    parts = [measured(part, study.rule) for part in study.parts()] if split else []
    if study.quasars_only:
        for each in (whole, *parts):
            for key in NEEDS_OTHERS:
                each.pop(key, None)
    note = f"{_called(study)} {_MANY.format(n=len(parts)) if split else _ONE}"
    ripples = tuple(_ripples(study))
    sections = (
        Section("Quasars", (*_rows(QUASARS, whole, parts), *_bootstrap(study)), note),
        *_others(study),
        Section("What is wrong, and what is missed", _rows(WRONG, whole, parts)),
        _in_bins(study),
        Section("Redshifts", (*_rows(REDSHIFTS, whole, parts), *ripples), _DV + (_RIPPLE if ripples else "")),
        Section("Broad absorption", _rows(BAL, whole, parts), _BOXED.format(study.rule.c_th_bal)),
        Section(
            "Probabilities and errors",
            _rows(PROBABILITIES, whole, parts),
            _HONEST + _ALL_QUASARS * study.quasars_only,
        ),
        Section("Spectra without a secure annotation", _rows(UNCERTAIN, whole, parts)),
        Section("Repeat observations", tuple(_repeats(study)), "Pairs of spectra of one object."),
    )
    return tuple(section for section in sections if section.numbers)


def _called(study: Study) -> str:
    """Return what makes a quasar, as far as the confidences bear it out."""
    sample, rule = study.sample, study.rule
    if sample.c is not None and np.array_equal(sample.at(rule).quasar, sample.quasar):
        lines = "1 line" if rule.l_min == 1 else f"{rule.l_min} lines"
        return f"Called quasar: at least {lines} with a confidence above {rule.c_th:g}."
    return "Called quasar: what the catalogue calls so."


# ---- writing


def _rows(rows: Sequence[Row], whole: Measured, parts: Sequence[Measured] = ()) -> tuple[Number, ...]:
    """Return quantities that there are; of splits, those that one of them has."""
    return tuple(
        _number(row, whole[row.key], [part.get(row.key) for part in parts])
        for row in rows
        if row.key in whole and (not parts or any(row.key in part for part in parts))
    )


def _number(row: Row, whole: Share | Level, parts: Sequence[Share | Level | None] = ()) -> Number:
    """Return a quantity with its scatter over splits, or its own interval or error."""
    unit = "%" if isinstance(whole, Share) else row.unit
    values: dict[str, Any] = {"value": whole.value} | ({"unit": unit} if unit not in ("", "%") else {})
    centre, error = whole.value, math.nan
    if parts:
        each = [None if part is None else part.value for part in parts]
        spread = over_splits([math.nan if value is None else value for value in each])
        centre, error = float(spread.mean), float(spread.rms)
        values |= {"splits": each, "mean": centre, "rms": error}
    elif isinstance(whole, Level):
        error = whole.error
        values |= {"error": error}
    text = _measurement(centre, error, unit, 2 if isinstance(whole, Share) else row.digits)
    if isinstance(whole, Share):
        low, high = whole.interval
        values |= {"k": whole.k, "n": whole.n, "low": low, "high": high}
        text += "" if parts else f" [{100 * low:.2f}, {100 * high:.2f}]"
        text += f", {whole.k:,} of {whole.n:,}"
    elif whole.n:
        values |= {"n": whole.n}
        text += f", of {whole.n:,}"
    return Number(row.key, row.label, text, row.paper, values)


def _measurement(value: float, error: float, unit: str, digits: int) -> str:
    """Return a value and its error, with as many digits as the error shows in, but no more than two more."""
    scale = 100 if unit == "%" else 1
    text = f"{scale * value:z.{digits}f}"
    if error > 0:
        digits = min(max(digits, -math.floor(math.log10(scale * error))), digits + 2)
        text = f"{scale * value:z.{digits}f} ± {scale * error:.{digits}f}"
    return f"{text} {unit}".strip()


def _bootstrap(study: Study) -> Iterator[Number]:
    """Yield the bootstrap errors of purity and completeness of a single catalogue, if anything is wrong."""
    if study.n_splits > 1:
        return
    found = bands(study.sample)
    for name, band in (("purity", found.purity), ("completeness", found.completeness)):
        std = float(band.std[0])
        if std > 0 and not (name == "purity" and study.quasars_only):
            label = f"standard error of the {name}, bootstrap by object"
            yield Number(f"{name}_bootstrap", label, f"{100 * std:.2g} %", "", {"value": std})


# ---- other classifiers

_PAPERS = {
    "auto": {"purity": "99.14 %", "completeness": "94.98 %"},
    "auto+VI": {"purity": "99.17 %", "completeness": "99.26 %", "inspected": "less than about 5 %"},
    "two lines, one line inspected": {
        "purity": "above 99.7 %",
        "completeness": "99.5 %",
        "inspected": "about 0.2 %",
    },
}
_MEASURES = {
    "purity": "purity",
    "completeness": "completeness",
    "catastrophic": "wrong redshift",
    "inspected": "inspected",
}
_TESTS = {
    "purity_difference": "purity (percentage points)",
    "completeness_difference": "completeness (percentage points)",
    "quasars_mcnemar": "quasars right here alone, there alone",
    "others_mcnemar": "others right here alone, there alone",
}
_BESIDE = (
    "Wrong redshift: of annotated quasars called. Spectra sent to inspection take the annotated class and "
    "redshift. Shares with their 95 % credible interval."
)
_AGAINST = (
    "This catalogue's value minus the other's, with the middle 95 % of a paired bootstrap by object (1000 "
    "resamples), and how many spectra only one of the two has right. p is the two-sided chance of as much if "
    "both are as good: by the bootstrap, never below 0.002, and by McNemar's exact test."
)


def _others(study: Study) -> tuple[Section, Section]:
    """Return other classifiers beside this catalogue, and what differs."""
    beside = {"this catalogue": _measures(study, "", None)}
    beside |= {name: _measures(study, name, baseline) for name, baseline in study.baselines.items()}
    against = {name: tuple(_differences(study, baseline)) for name, baseline in study.baselines.items()}
    if not study.baselines:
        beside = {}
    return (
        Section("Other classifiers on the same spectra", _flat(beside), _BESIDE, _grid(beside, _MEASURES)),
        Section("This catalogue against the others", _flat(against), _AGAINST, _grid(against, _TESTS)),
    )


def _flat(found: Mapping[str, tuple[Number, ...]]) -> tuple[Number, ...]:
    return tuple(
        Number(f"{name}.{each.key}", f"{name}: {each.label}", each.text, each.paper, each.values)
        for name, numbers in found.items()
        for each in numbers
    )


def _grid(found: Mapping[str, tuple[Number, ...]], columns: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """Return a table with a row for each name, without columns that nobody has anything for."""
    rows = {name: {number.key: number for number in numbers} for name, numbers in found.items()}
    shown = [key for key in columns if any(key in row for row in rows.values())]
    grid = [("", *(columns[key] for key in shown))]
    for name, row in rows.items():
        grid.append((name, *(_cell(row.get(key)) for key in shown)))
        if "unknown" in row:
            grid.append((f"... says nothing of {row['unknown'].text} spectra: they count as not called",))
    return tuple(grid)


def _cell(number: Number | None) -> str:
    if number is None:
        return ""
    return number.text + (f" (paper: {number.paper})" if number.paper else "")


def _measures(study: Study, name: str, baseline: Baseline | None) -> tuple[Number, ...]:
    found = score(study.sample if baseline is None else baseline.sample)
    shares = {"purity": found.purity, "completeness": found.completeness, "catastrophic": found.catastrophic}
    if study.quasars_only:
        del shares["purity"]
    if baseline is not None and baseline.inspected is not None:
        shares["inspected"] = baseline.inspected
    papers = _PAPERS.get(name, {})
    rows = [Row(key, label, papers.get(key, "")) for key, label in _MEASURES.items()]
    numbers = _rows(rows, {key: share for key, share in shares.items() if share.n})
    if baseline is None or not baseline.n_unknown:
        return numbers
    n = baseline.n_unknown
    return (*numbers, Number("unknown", "spectra it says nothing of", f"{n:,}", "", {"value": n}))


def _differences(study: Study, baseline: Baseline) -> Iterator[Number]:
    """Yield by how much the catalogue differs from a baseline, and the chance of that."""
    found = compare(study.sample, baseline.sample)
    for what, one in (("purity", found.purity), ("completeness", found.completeness)):
        if math.isfinite(one.std) and not (what == "purity" and study.quasars_only):
            yield _difference(what, one)
    for what, test in (("quasars", found.quasars), ("others", found.others)):
        if math.isfinite(test.p_value):
            yield _mcnemar(what, test)


def _difference(what: str, one: Difference) -> Number:
    value, low, high = (f"{100 * x:+z.2f}" for x in (one.value, one.low, one.high))
    values = {"value": one.value, "low": one.low, "high": one.high, "p": one.p_value}
    text = f"{value} [{low}, {high}], p = {one.p_value:.2g}"
    return Number(f"{what}_difference", f"difference in {what}", text, "", values)


def _mcnemar(what: str, test: McNemar) -> Number:
    values = {"only_here": test.only_one, "only_there": test.only_other, "p": test.p_value}
    text = f"{test.only_one:,}, {test.only_other:,}, p = {test.p_value:.2g}"
    return Number(f"{what}_mcnemar", _TESTS[f"{what}_mcnemar"], text, "", values)


# ---- in bins, ripple, repeats


def _in_bins(study: Study) -> Section:
    """Return the numbers of figure 7."""
    bins = in_redshift_bins(study.sample)
    kinds = {"completeness": bins.completeness}
    note = "Completeness in bins of the annotated redshift"
    if not study.quasars_only:
        kinds = {"purity": bins.purity} | kinds
        note += ", purity in bins of the redshift found"
    numbers: list[Number] = []
    grid: list[tuple[str, ...]] = [("redshift", *kinds)]
    for i, (low, high) in enumerate(zip(bins.edges[:-1], bins.edges[1:], strict=True)):
        found = {}
        for kind, shares in kinds.items():
            if shares.n[i]:
                row = Row(f"{kind}_z_{low}_{high}", f"{kind}, redshift {low} to {high}")
                found[kind] = _number(row, Share(int(shares.k[i]), int(shares.n[i])))
        if found:
            numbers += found.values()
            grid.append((f"{low} to {high}", *(_cell(found.get(kind)) for kind in kinds)))
    return Section("Redshift by redshift", tuple(numbers), f"{note} (figure 7).", tuple(grid))


def _ripples(study: Study) -> Iterator[Number]:
    if study.boxes is None:
        return
    grid, n_boxes = study.boxes
    for line in study.lines:
        if line.bal or not math.isfinite(line.wavelength):
            continue
        wave = ripple(study.sample, line, grid, n_boxes)
        if wave.n < _FEWEST or not math.isfinite(wave.amplitude):
            continue
        text = f"{_measurement(wave.amplitude, wave.error, 'km/s', 0)}, of {wave.n:,}"
        if math.isfinite(wave.power):
            text += f"; power {wave.power:.1f} ± {wave.power_error:.1f}, p = {wave.chance:.2g}"
        values = {"value": wave.amplitude, "unit": "km/s", "error": wave.error, "n": wave.n}
        values |= {"power": wave.power, "power_error": wave.power_error, "p": wave.chance}
        yield Number(
            f"ripple_{line.name.lower()}", f"ripple at the boxes of {line.name}: amplitude", text, "", values
        )


def _repeats(study: Study) -> Iterator[Number]:
    if study.n_splits > 1:  # splits hold the same spectra again
        return
    found = repeats(study.sample)
    if found is None or not found.n_pairs:
        return
    n = found.conflict.n - found.conflict.k
    known: Measured = {
        "same_class": found.same_class,
        "conflict": found.conflict,
        "std": Level(found.std, n),
        "nmad": Level(found.nmad, n),
    }
    rows = (
        Row("same_class", "both or neither called quasar"),
        Row("conflict", "not within 6000 km/s, of pairs both called quasar"),
        Row("std", "scatter of one redshift, from the others: standard deviation", "", "km/s"),
        Row("nmad", "... NMAD", "", "km/s"),
    )
    numbers = _rows(rows, {key: each for key, each in known.items() if math.isfinite(each.value)})
    yield from (
        Number(f"repeats.{each.key}", each.label, each.text, each.paper, each.values) for each in numbers
    )
