"""Figures that Busca & Balland (2018) do not have: confusion, reliability, ripple, N(z), inspection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from broadline.evaluation.drawing import (
    GREY,
    OTHERS,
    PURITY,
    THRESHOLDS,
    as_percent,
    canvas,
    intervals,
    legend,
)
from broadline.evaluation.metrics import score
from broadline.evaluation.redshifts import ripple
from broadline.evaluation.reliability import reliabilities
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import Floats, Ints, Mask, Shares
from broadline.evaluation.study import Study
from broadline.grid import Grid
from broadline.lines import Line
from broadline.show import line_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Confusion",
    "confusion",
    "inspected",
    "over_inspection",
    "over_n_of_z",
    "over_phase",
    "over_probability",
    "table_of_classes",
]

#: Quasars at higher redshifts show the Lyman alpha forest.
_FOREST = 2.1
#: Quasars that it takes to show the ripple of a line, and bins of its phase.
_FEWEST, _PHASES = 30, 8
#: Quasars that it takes to show the ratio of a bin.
_SOLID = 10
_WORDS = {"p_qso": "P_QSO", "p_z": "P_Z", "p_bal": "P_BAL"}


# ---- confusion


@dataclass(frozen=True, slots=True, eq=False)
class Confusion:
    """Annotated against called, on secure annotations.

    Attributes
    ----------
    rows : tuple of str
        Annotated classes that there are: STAR, GALAXY, quasars below and from redshift 2.1, other.
    counts : ndarray of int64, shape (n_rows, 3)
        Called quasar with the right redshift (quasars and galaxies: ``|dv| < 6000 km/s``), called quasar
        otherwise, not called.
    """

    rows: tuple[str, ...]
    counts: Ints


def confusion(sample: Sample) -> Confusion:
    """Return the confusion matrix of a sample."""
    star, galaxy, quasar = (sample.annotated(kind) for kind in ("STAR", "GALAXY", "QSO"))
    far = sample.z_truth >= _FOREST
    groups = {
        "STAR": star,
        "GALAXY": galaxy,
        f"QSO, z < {_FOREST}": quasar & ~far,
        f"QSO, z ≥ {_FOREST}": quasar & far,
        "other": sample.firm & ~(star | galaxy | quasar),
    }
    right = sample.quasar & sample.near & (galaxy | quasar)
    columns: list[Mask] = [right, sample.quasar & ~right, ~sample.quasar]
    kept = {name: rows for name, rows in groups.items() if rows.any()}
    counts = [[int((rows & column).sum()) for column in columns] for rows in kept.values()]
    return Confusion(tuple(kept), np.array(counts, dtype=np.int64).reshape(-1, 3))


def table_of_classes(study: Study) -> Figure | None:
    """Draw the confusion matrix."""
    found = confusion(study.sample)
    if not found.rows:
        return None
    figure, ((axes,),) = canvas(size=(5.0, 0.9 + 0.55 * len(found.rows)))
    n = found.counts.sum(axis=1, keepdims=True)
    shares = found.counts / n
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    for (i, j), count in np.ndenumerate(found.counts):
        text = f"{count:,}\n{100 * shares[i, j]:.2f} %"
        if j == 0 and found.rows[i] in ("STAR", "other"):
            text = "(no redshift\nis right)"
        axes.text(
            j, i, text, ha="center", va="center", fontsize=8, color="white" if shares[i, j] > 0.6 else "black"
        )
    axes.set_xticks(range(3), ["called QSO,\nright z", "called QSO,\nwrong z", "not called\nQSO"])
    axes.set_yticks(
        range(len(found.rows)), [f"{name}\n(n = {m:,})" for name, (m,) in zip(found.rows, n, strict=True)]
    )
    axes.set_ylabel("annotated")
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    return figure


# ---- reliability


def over_probability(study: Study) -> Figure | None:
    """Draw the reliability diagrams of the probabilities that there are."""
    found = {name: each for name, each in reliabilities(study.sample).items() if each.n}
    if not found:
        return None
    figure, (row,) = canvas(1, len(found), (0.7 + 2.3 * len(found), 3.3), share=True)
    for axes, (name, each) in zip(row, found.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        intervals(axes, each.p, each.observed, PURITY)
        axes.set_title(f"{_WORDS[name]}: ECE {100 * each.ece:.2f} %\nn = {each.n:,}", fontsize=9)
        axes.set_xlabel(f"{_WORDS[name]} (%)")
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        as_percent(axes.xaxis)
        as_percent(axes.yaxis)
    row[0].set_ylabel("came true (%)")
    return figure


# ---- ripple


def over_phase(study: Study) -> Figure | None:
    """Draw the mean velocity against where in its box a line is, for each line.

    Over all quasars found with the line on the grid. Those whose redshift comes from the line first would
    show a wave where there is none: near the edge of a box a line is the surest only if noise has moved it
    inwards.
    """
    if study.boxes is None:
        return None
    grid, n_boxes = study.boxes
    emission = [line for line in study.lines if not line.bal]
    found = study.sample.annotated("QSO") & study.sample.quasar & study.sample.near
    part = study.sample.take(found)
    panels = []
    for line in emission:
        wave = ripple(part, line, grid, n_boxes)
        if wave.n >= _FEWEST:
            title = rf"{line_text(line.name)}: {wave.amplitude:.0f} $\pm$ {wave.error:.0f} km s$^{{-1}}$"
            panels.append((f"{title}\nn = {wave.n:,}", *_folded(part, line, grid, n_boxes)))
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, cells = canvas(rows, columns, (1.0 + 2.1 * columns, 0.6 + 1.9 * rows), share=True)
    for axes, (title, phase, mean, error) in zip(cells.flat, panels, strict=False):
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.errorbar(phase, mean, error, fmt="o", markersize=4, elinewidth=1, color=PURITY)
        axes.set_title(title, fontsize=9)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1])
    for axes in cells.flat[len(panels) :]:
        axes.remove()
    figure.supxlabel("place of the line within its box (boxes)", fontsize=10)
    figure.supylabel(r"mean $\Delta v$ (km s$^{-1}$)", fontsize=10)
    return figure


def _folded(sample: Sample, line: Line, grid: Grid, n_boxes: int) -> tuple[Floats, Floats, Floats]:
    """Return phases, mean dv (km/s) there, and its standard error; phases with fewer than 3 are left out."""
    place = grid.position((1 + sample.z_truth) * line.wavelength) * (n_boxes / grid.size)
    inside = (place >= 0) & (place < n_boxes)
    cell = np.floor(place[inside] % 1 * _PHASES).astype(np.int64)
    dv = sample.dv[inside]
    n = np.bincount(cell, minlength=_PHASES)
    some = np.maximum(n, 1)
    mean = np.bincount(cell, dv, _PHASES) / some
    squares = np.bincount(cell, (dv - mean[cell]) ** 2, _PHASES)
    error = np.sqrt(squares / np.maximum(n - 1, 1) / some)
    shown = n >= 3
    return ((np.arange(_PHASES) + 0.5) / _PHASES)[shown], mean[shown], error[shown]


# ---- N(z)


def over_n_of_z(study: Study) -> Figure | None:
    """Draw the redshift distribution of the quasars called, and of those annotated."""
    sample = study.sample
    true = sample.z_truth[sample.annotated("QSO")]
    called = sample.z[sample.firm & sample.quasar & np.isfinite(sample.z)]
    if not len(true):
        return None
    width = 0.1 if len(true) > 1000 else 0.25
    both = np.concatenate([true, called, [0.0]])
    edges = width * np.arange(np.floor(both.min() / width), np.floor(both.max() / width) + 2)
    n_true, n_called = (np.histogram(z, edges)[0] for z in (true, called))
    shown = n_true >= _SOLID
    figure, cells = canvas(1 + bool(shown.any()), 1, (5.0, 4.8 if shown.any() else 3.6))
    above = cells[0, 0]
    above.stairs(n_called, edges, color=PURITY, fill=True, alpha=0.5, label=f"called (n = {len(called):,})")
    above.stairs(n_true, edges, color="black", linewidth=1.2, label=f"annotated (n = {len(true):,})")
    above.set_ylabel(f"quasars per {width:g} in z")
    legend(above)
    cells[-1, 0].set_xlabel("redshift")
    if shown.any():
        below = cells[1, 0]
        below.axhline(1, color=GREY, linewidth=0.8)
        ratio = n_called[shown] / n_true[shown]
        below.plot((edges[:-1] + width / 2)[shown], ratio, ".", color=PURITY)
        below.set_xlim(above.get_xlim())
        reach = max(0.1, 1.1 * float(np.abs(ratio - 1).max()))
        below.set_ylim(max(1 - reach, 0), 1 + reach)
        below.set_ylabel("called / annotated")
    return figure


# ---- inspection


@dataclass(frozen=True, slots=True, eq=False)
class Inspected:
    """The scheme of section 5 against the threshold: two lines are accepted, one line is looked at.

    Attributes
    ----------
    share : Shares
        Spectra with exactly one line, of all: they are inspected.
    completeness : Shares
        As `Score.completeness`, with inspected spectra taken as right.
    """

    share: Shares
    completeness: Shares


def inspected(sample: Sample, thresholds: Floats) -> Inspected:
    """Return what is sent to inspection, and the completeness then (section 5), for each threshold."""
    one, two = sample.strength(1), sample.strength(2)
    quasars = sample.annotated("QSO")

    def above(strength: NDArray[np.floating], rows: Mask) -> Ints:
        ordered = np.sort(strength[rows])
        # In the precision of the confidences, as the rule itself compares.
        return len(ordered) - np.searchsorted(ordered, thresholds.astype(ordered.dtype), side="right")

    every = np.ones(len(sample), dtype=bool)
    looked_at = above(one, quasars) - above(two, quasars)
    right = looked_at + above(two, quasars & sample.near)
    ones = np.ones(len(thresholds), dtype=np.int64)
    return Inspected(
        Shares(above(one, every) - above(two, every), len(sample) * ones),
        Shares(right, int(quasars.sum()) * ones),
    )


def over_inspection(study: Study) -> Figure | None:
    """Draw the share of spectra that are inspected against the completeness reached."""
    if study.sample.c is None or not study.sample.annotated("QSO").any():
        return None
    figure, ((axes,),) = canvas()
    found = inspected(study.sample, THRESHOLDS)
    axes.plot(
        found.completeness.value, found.share.value, color=PURITY, label="two lines accepted, one inspected"
    )
    here = inspected(study.sample, np.array([study.rule.c_th]))
    label = f"the same at the threshold in use, {study.rule.c_th:.3g}"
    axes.plot(here.completeness.value, here.share.value, "o", color=PURITY, label=label)
    for i, (name, baseline) in enumerate(study.baselines.items()):
        reached = score(baseline.sample).completeness
        if baseline.inspected is not None and baseline.inspected.n and reached.n:
            marker = "sD^vPX"[i % 6]
            color = OTHERS[i % len(OTHERS)]
            place = (reached.value, baseline.inspected.value)
            axes.plot(*place, marker, color=color, label=name, clip_on=False)
    as_percent(axes.xaxis)
    as_percent(axes.yaxis)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("completeness (%)")
    axes.set_ylabel("spectra to inspect (%)")
    legend(axes)
    return figure
