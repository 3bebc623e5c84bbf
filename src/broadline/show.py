"""The figure of one spectrum and its lines: figure 2 of Busca & Balland (2018)."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.flags import UNCLASSIFIED, describe
from broadline.inputs import read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from broadline.grid import Grid
    from broadline.model import Model
    from broadline.representation import Represented
    from broadline.spectra import Spectra

__all__ = ["apart", "draw", "flux_text", "line_text", "panel", "pick"]

_TEXT = {
    "LYA": r"Ly$\alpha$",
    "CIV": "C IV",
    "CIII": "C III]",
    "MGII": "Mg II",
    "HBETA": r"H$\beta$",
    "HALPHA": r"H$\alpha$",
    "BAL_CIV": "BAL",
}
_FOUND, _WEAK, _BAL = "#0072B2", "#999999", "#D55E00"  # colour-blind-safe (Okabe & Ito)
_LABEL = 1.36  # room that a label takes, in units of its size


def pick(path: str, row: int, archive: str | None = None) -> Spectra:
    """Return the spectrum in row `row` of what `path` stands for, as a batch of one.

    Raises
    ------
    UsageError
        If there are not that many spectra.
    """
    start = 0
    for spectra in read(path, archive):
        if row < start + len(spectra):
            return spectra[row - start : row - start + 1]
        start += len(spectra)
    raise UsageError(f"{path} holds {start} spectra: --row counts from 0 to {start - 1}")


def draw(spectra: Spectra, model: Model) -> Figure:
    """Return the figure of one spectrum: renormalised flux, and each line where its finder sees it.

    Lines above the model's threshold are drawn in colour with their confidence, the others greyed; bins
    without data are drawn grey at the value that the network is given there.

    Parameters
    ----------
    spectra : Spectra
        A batch of one.
    model : Model
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("observed wavelength, vacuum (Å)")
    axes.set_ylabel(flux_text(model))
    source = f"{spectra.ids['ARCHIVE'][0]} {spectra.ids['OBJID'][0] or Path(spectra.ids['SOURCE'][0]).name}"
    figure.suptitle(f"{source}: {panel(axes, spectra, model)}", fontsize=10)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper right", bbox_to_anchor=(1, -0.07), fontsize=8, frameon=False)
    return figure


def panel(axes: Axes, spectra: Spectra, model: Model, fontsize: float = 8) -> str:
    """Draw one spectrum as `draw` does, without labels of the axes; return the verdict in words.

    Parameters
    ----------
    axes : Axes
        Names and confidences of the lines are written above it: leave room of some 6 letters' heights.
    spectra : Spectra
        A batch of one.
    model : Model
    fontsize : float
        Of the names of lines, in points.
    """
    represented = model.representation(spectra)
    edges = model.representation.grid.edges
    axes.set_xlim(float(edges[0]), float(edges[-1]))
    flags = int(represented.flags[0])
    if flags & UNCLASSIFIED:
        reasons = [textwrap.fill(sentence, 90) for sentence in describe(flags)]
        axes.text(0.5, 0.5, "\n".join(reasons), transform=axes.transAxes, ha="center", va="center")
        axes.set_yticks([])
        return "not classified"
    _draw_flux(axes, represented, model.representation.grid)
    verdict = _draw_lines(axes, represented, model, fontsize)
    text = f"{verdict}, S/N {represented.sn_median[0]:.1f} per pixel"
    return f"{text}   [{model.name}, c_th = {model.rule.c_th:g}]"


def flux_text(model: Model) -> str:
    """Return what the flux of a model's figures is called."""
    return "renormalised flux" if model.representation.normalisation == "rms" else "scaled flux"


def _draw_flux(axes: Axes, represented: Represented, grid: Grid) -> None:
    values, data = represented.values[0], represented.data[0]
    values = values if values.ndim == 1 else values[0]  # flux is the first channel
    if not data.all():
        label = "bins without data, as the network gets them"
        empty = np.where(data, np.nan, values)
        axes.step(grid.centres, empty, where="mid", color=_WEAK, linewidth=1.6, label=label)
    axes.step(grid.centres, np.where(data, values, np.nan), where="mid", color="black", linewidth=0.8)
    # Whatever is two bins wide fits into the figure; a single bad bin may leave it.
    pairs = np.sort(np.lib.stride_tricks.sliding_window_view(values[data], 2), axis=1)
    shown = np.array([pairs[:, 1].min(), pairs[:, 0].max(), *values[~data]])
    room = max(float(np.ptp(shown)), 0.1)
    axes.set_ylim(float(shown.min()) - 0.1 * room, float(shown.max()) + 0.2 * room)


def _draw_lines(axes: Axes, represented: Represented, model: Model, fontsize: float) -> str:
    """Draw each line with its confidence; return the verdict in words."""
    (c, z, _), verdict = model.judge(represented.values)
    rest = np.array([line.wavelength for line in model.lines])
    position = rest * (1 + z[0])
    left, right = axes.get_xlim()
    inches = axes.get_window_extent().width / axes.figure.dpi
    gap = _LABEL * fontsize / 72 / inches
    places = left + (right - left) * apart((position - left) / (right - left), gap)
    seen = (position > left) & (position < right)  # broad absorption may be looked for outside
    for i in np.argsort(c[0]):
        if not seen[i]:
            continue
        line = model.lines[i]
        found = c[0, i] > (model.rule.c_th_bal if line.bal else model.rule.c_th)
        color = (_BAL if line.bal else _FOUND) if found else _WEAK
        width, dots, order = 1.2 if found else 0.7, ":" if line.bal else "--", 3 if line.bal else 2
        axes.axvline(position[i], color=color, linewidth=width, linestyle=dots, zorder=order)
        axes.plot(
            [position[i], places[i]],
            [1, 1.03],
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            color=color,
            linewidth=0.7,
        )
        axes.text(
            places[i],
            1.04,
            f"{line_text(line.name)} {c[0, i]:.2f}",
            transform=axes.get_xaxis_transform(),
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=fontsize,
            color=color,
        )
    if not verdict.is_qso[0]:
        return "not a quasar"
    kind = "quasar, BAL" if verdict.is_bal[0] else "quasar"
    return f"{kind}, z = {verdict.z[0]:.4f} from {line_text(model.lines[verdict.best_line[0]].name)}"


def line_text(line: str) -> str:
    """Return a line's name as figures write it."""
    return _TEXT.get(line, line)


def apart(x: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Return `x` with crowded values moved, both ways alike, until all are `gap` apart and within [0, 1]."""
    order = np.argsort(x)
    steps = gap * np.arange(len(x))
    # Without the steps the sorted positions need only be non-decreasing, and so is the mean of the running
    # maximum from the left and the running minimum from the right.
    free = x[order] - steps
    rising = 0.5 * (np.maximum.accumulate(free) + np.minimum.accumulate(free[::-1])[::-1])
    moved = np.empty_like(x)
    moved[order] = np.clip(rising, gap, 1 - gap - steps[-1]) + steps
    return moved
