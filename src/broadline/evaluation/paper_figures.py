"""Figures 3 to 7 of Busca & Balland (2018), and what is like them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from broadline.decision import CONFLICT_KMS, velocity
from broadline.evaluation.bal import bal_curve, bal_score
from broadline.evaluation.drawing import (
    COMPLETENESS,
    GREY,
    OTHERS,
    PURITY,
    THRESHOLDS,
    Ribbon,
    as_percent,
    canvas,
    intervals,
    legend,
    zoom,
)
from broadline.evaluation.metrics import (
    REDSHIFT_EDGES,
    Bins,
    bands_of_curve,
    curve,
    in_bins,
    in_redshift_bins,
    score,
)
from broadline.evaluation.redshifts import Moments, moments, redshift_scatter
from broadline.evaluation.shares import Floats, Shares, over_splits
from broadline.evaluation.study import Study
from broadline.show import apart

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "bal_over_threshold",
    "balnicity_of_missed",
    "over_magnitude",
    "over_redshift",
    "over_signal",
    "over_threshold",
    "velocities",
]

_MIDDLE = slice(9, 90)  # of the thresholds: what happens at both ends would hide the rest
_N_BINS = 10


# ---- figures 3 and 5: against the threshold


def over_threshold(study: Study) -> Figure | None:
    """Draw figure 3: purity and completeness against the threshold of a line."""
    if study.sample.c is None:
        return None
    figure, ((axes,),) = canvas()
    shown = []
    for l_min, dashes in zip((1, 2), ("-", "--"), strict=True):
        words = "1 line" if l_min == 1 else f"{l_min} lines"
        for kind, ribbon in _ribbons(study, l_min).items():
            if kind == "purity" and study.quasars_only:
                continue
            color = PURITY if kind == "purity" else COMPLETENESS
            ribbon.draw(axes, THRESHOLDS, color, dashes, f"{kind}, {words}")
            shown.append(ribbon.value[_MIDDLE])
    if not np.isfinite(shown).any():
        return None
    baselines = _of_baselines(study)
    zoom(axes, *shown, np.array([value for _, value, _ in baselines]))
    if baselines:
        _label_baselines(axes, baselines)
    label = "completeness (%)" if study.quasars_only else "purity, completeness (%)"
    _finish_threshold(axes, study.rule.c_th, label, study)
    axes.set_xlabel("threshold confidence of a line")
    return figure


def _ribbons(study: Study, l_min: int) -> dict[str, Ribbon]:
    """Return purity and completeness against threshold, with their bands."""
    if study.n_splits > 1:
        curves = [curve(part, THRESHOLDS, l_min) for part in study.parts()]
        return {
            "purity": _over_splits([x.purity for x in curves]),
            "completeness": _over_splits([x.completeness for x in curves]),
        }
    one, bands = curve(study.sample, THRESHOLDS, l_min), bands_of_curve(study.sample, THRESHOLDS, l_min)
    return {
        "purity": Ribbon(one.purity.value, bands.purity.low, bands.purity.high),
        "completeness": Ribbon(one.completeness.value, bands.completeness.low, bands.completeness.high),
    }


def _over_splits(shares: list[Shares]) -> Ribbon:
    spread = over_splits([x.value for x in shares])
    return Ribbon(spread.mean, spread.mean - spread.rms, spread.mean + spread.rms)


def _of_baselines(study: Study) -> list[tuple[str, float, str]]:
    """Return name, value and colour of each purity and completeness of other classifiers."""
    found = []
    for name, baseline in study.baselines.items():
        scored = score(baseline.sample)
        if scored.purity.n and not study.quasars_only:
            found.append((name, scored.purity.value, PURITY))
        if scored.completeness.n:
            found.append((name, scored.completeness.value, COMPLETENESS))
    return found


def _label_baselines(axes: Axes, baselines: list[tuple[str, float, str]]) -> None:
    """Draw baselines as horizontal lines, and their names right of the axes, apart from one another."""
    low, high = axes.get_ylim()
    gap = min(0.05, 0.9 / len(baselines))
    places = apart(np.array([(value - low) / (high - low) for _, value, _ in baselines]), gap)
    for place, (name, value, color) in zip(places, baselines, strict=True):
        axes.axhline(value, color=color, linewidth=0.8, zorder=1)
        axes.annotate(
            name,
            xy=(1, value),
            xycoords=axes.get_yaxis_transform(),
            xytext=(1.04, place),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=color,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
        )


def _finish_threshold(axes: Axes, threshold: float, label: str, study: Study) -> None:
    axes.axvline(threshold, color=GREY, linewidth=0.8, linestyle=":", label=f"in use: {threshold:.3g}")
    axes.set_xlim(0, 1)
    as_percent(axes.yaxis)
    axes.set_ylabel(label)
    band = f"bands: rms of {study.n_splits} splits" if study.n_splits > 1 else "bands: 95 %"
    legend(axes, band)


def bal_over_threshold(study: Study) -> Figure | None:
    """Draw figure 5: pseudo-purity and pseudo-completeness against the threshold of the BAL finder."""
    parts = study.parts() if study.n_splits > 1 else [study.sample]
    curves = [found for part in parts if (found := bal_curve(part, THRESHOLDS)) is not None]
    if not curves:
        return None
    figure, ((axes,),) = canvas()
    values = []
    for kind, color in (("pseudo_purity", PURITY), ("pseudo_completeness", COMPLETENESS)):
        shares = [getattr(each, kind) for each in curves]
        ribbon = _over_splits(shares) if len(shares) > 1 else Ribbon(shares[0].value, *shares[0].interval)
        ribbon.draw(axes, THRESHOLDS, color, label=kind.replace("_", "-"))
        values.append(ribbon.value)
    if not np.isfinite(values).any():
        return None
    zoom(axes, *(x[_MIDDLE] for x in values))
    _finish_threshold(axes, study.rule.c_th_bal, "pseudo-purity, pseudo-completeness (%)", study)
    axes.set_xlabel("threshold confidence of broad absorption")
    return figure


# ---- figure 4: velocities


def velocities(study: Study) -> Figure | None:
    """Draw figure 4: a histogram of velocity differences, other redshifts dashed."""
    sample = study.sample
    rows = sample.annotated("QSO") & sample.quasar
    series: list[tuple[str, Floats, Moments]] = []
    scatter = redshift_scatter(sample).right
    if scatter.n > 1:
        series.append(("catalogue", sample.dv[rows & sample.near], scatter))
    for name, z in study.other_z.items():
        dv = velocity(z, sample.z_truth)[rows]
        dv = dv[np.abs(dv) < CONFLICT_KMS]
        if len(dv) > 1:
            series.append((name, dv, moments(dv)))
    if not series or series[0][0] != "catalogue":
        return None
    from matplotlib.ticker import MaxNLocator

    figure, ((axes,),) = canvas()
    widest = max(each.std for _, _, each in series)
    reach = float(np.clip(500 * np.ceil(4 * widest / 500), 500, CONFLICT_KMS))
    edges = np.linspace(-reach, reach, 61)
    for i, (name, dv, each) in enumerate(series):
        axes.stairs(
            np.histogram(dv, edges)[0] / len(dv),
            edges,
            color=PURITY if i == 0 else OTHERS[(i - 1) % len(OTHERS)],
            fill=i == 0,
            alpha=0.5 if i == 0 else 1,
            linestyle="-" if i == 0 else "--",
            linewidth=1.2,
            label=f"{name} (n = {each.n:,})\nmean {each.mean:+.0f}, std {each.std:.0f}, NMAD {each.nmad:.0f}",
        )
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylim(0, axes.get_ylim()[1] * (1 + 0.2 * len(series)))  # the legend is above the peak
    as_percent(axes.yaxis)
    axes.set_xlabel(r"$\Delta v$ to the annotated redshift (km s$^{-1}$)")
    axes.set_ylabel(f"quasars per {edges[1] - edges[0]:.0f} km s$^{{-1}}$ (%)")
    legend(axes, place="upper left")
    return figure


# ---- figure 6: balnicity


def balnicity_of_missed(study: Study) -> Figure | None:
    """Draw figure 6: histograms of balnicity."""
    found = bal_score(study.sample, study.rule.c_th_bal)
    if found is None or not len(found.balnicity):
        return None
    figure, ((axes,),) = canvas()
    low, high = found.balnicity.min(), found.balnicity.max()
    edges = np.geomspace(low * 0.999, max(high, 1.5 * low) * 1.001, 25)
    for values, median, color, words in (
        (found.balnicity, found.median_balnicity, PURITY, "all found as quasars"),
        (found.balnicity_missed, found.median_missed, "#E69F00", "of these, not called BAL"),
    ):
        if not len(values):
            continue
        counts = np.histogram(values, edges)[0]
        label = f"{words} (n = {len(values):,}),\nmedian {median:.0f} km s$^{{-1}}$"
        axes.stairs(counts, edges, color=color, fill=True, alpha=0.6 if color == PURITY else 1, label=label)
        axes.axvline(median, color=color, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
    axes.set_xlabel(r"balnicity index of C IV (km s$^{-1}$)")
    axes.set_ylabel("quasars")
    legend(axes, place="upper left")
    return figure


# ---- figure 7 and its like: in bins


def over_redshift(study: Study) -> Figure | None:
    """Draw figure 7: purity and completeness in bins of redshift."""
    series = {"catalogue": in_redshift_bins(study.sample)}
    series |= {name: in_redshift_bins(each.sample) for name, each in study.baselines.items()}
    centres = (REDSHIFT_EDGES[:-1] + REDSHIFT_EDGES[1:]) / 2
    return _in_panels(study, series, ("redshift found", "annotated redshift"), centres, log=False)


def over_signal(study: Study) -> Figure | None:
    """Draw purity and completeness in bins of signal-to-noise ratio."""
    return _over_values(study, study.sample.sn, "median S/N per pixel", log=True)


def over_magnitude(study: Study) -> Figure | None:
    """Draw purity and completeness in bins of magnitude."""
    return _over_values(study, study.sample.magnitude, "magnitude", log=False)


def _over_values(study: Study, values: Floats | None, label: str, log: bool) -> Figure | None:
    """Draw purity and completeness in bins of equal count."""
    if values is None:
        return None
    known = values[study.sample.firm & np.isfinite(values)]
    if not len(known):
        return None
    # Edges that are values themselves: no bin is empty.
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _N_BINS + 1), method="lower"))
    if len(edges) < 2:
        return None
    edges[-1] = np.nextafter(edges[-1], np.inf)  # the last bin holds the highest value
    series = {"catalogue": in_bins(study.sample, values, edges)}
    series |= {name: in_bins(each.sample, values, edges) for name, each in study.baselines.items()}
    place = np.digitize(known, edges) - 1
    centres = np.array([np.median(known[place == i]) for i in range(len(edges) - 1)])
    return _in_panels(study, series, ("", label), centres, log=log and bool((centres > 0).all()))


def _in_panels(
    study: Study, series: dict[str, Bins], labels: tuple[str, str], centres: Floats, *, log: bool
) -> Figure | None:
    """Draw purity above completeness, the classifiers beside one another; of quasars alone no purity."""
    first = series["catalogue"]
    if not (first.purity.n.any() or first.completeness.n.any()):
        return None
    purity = {name: bins.purity for name, bins in series.items()}
    completeness = {name: bins.completeness for name, bins in series.items()}
    panels = [("purity", purity, labels[0]), ("completeness", completeness, labels[1])]
    panels = panels[study.quasars_only :]
    figure, cells = canvas(len(panels), 1, (5.0, 0.6 + 2.3 * len(panels)))
    for axes, (kind, shares, label) in zip(cells.flat, panels, strict=True):
        _panel(axes, shares, centres, log=log)
        axes.set_ylabel(f"{kind} (%)")
        axes.set_xlabel(label)
    if len(series) > 1:
        handles = {text: handle for axes in cells.flat for handle, text in _named(axes)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return figure


def _named(axes: Axes) -> Iterator[tuple[Artist, str]]:
    return zip(*axes.get_legend_handles_labels(), strict=True)


def _panel(axes: Axes, series: dict[str, Shares], centres: Floats, *, log: bool) -> None:
    from matplotlib.markers import CARETDOWNBASE
    from matplotlib.ticker import LogLocator

    x = np.log(centres) if log else centres
    step = 0.12 * float(np.diff(x).min(initial=np.inf)) if len(x) > 1 else 0.0
    places = [x + step * (i - (len(series) - 1) / 2) for i in range(len(series))]
    colors = [PURITY, *(OTHERS[i % len(OTHERS)] for i in range(len(series)))]
    zoom(axes, *_seen(list(series.values())))
    lowest = axes.get_ylim()[0]
    for i, (name, shares) in enumerate(series.items()):
        place = np.exp(places[i]) if log else places[i]
        intervals(axes, place, shares, colors[i], "osD^vPX"[i % 7], name)
        below = place[shares.value < lowest]
        if len(below):
            floor = np.full(len(below), lowest)
            axes.plot(below, floor, marker=CARETDOWNBASE, linestyle="", color=colors[i], clip_on=False)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    as_percent(axes.yaxis)


def _seen(series: list[Shares]) -> list[Floats]:
    """Return the shares by which the axes are scaled: others may be so low that nothing else is seen."""
    own = series[0]
    lowest = own.value[own.n > 0].min(initial=1.0)
    floor = lowest - max(2 * (1 - lowest), 0.1)
    low = own.interval[0][own.n > 0]
    quarter = np.quantile(low, [0.25]) if len(low) else low
    return [quarter, own.value, *(x.value[x.value > floor] for x in series[1:])]
