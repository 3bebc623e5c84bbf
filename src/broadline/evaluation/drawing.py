"""How figures look and how they are written: one style, without pyplot; the same bytes every time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.evaluation.shares import Floats, Shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "BAND",
    "COMPLETENESS",
    "FORMATS",
    "GREY",
    "OTHERS",
    "PURITY",
    "THRESHOLDS",
    "Ribbon",
    "as_percent",
    "canvas",
    "intervals",
    "legend",
    "note_simulated",
    "save",
    "style",
    "zoom",
]

Place = Literal["best", "upper left"]

# Colour-blind-safe (Okabe & Ito 2008).
PURITY, COMPLETENESS, GREY = "#0072B2", "#D55E00", "#777777"
#: For what is neither purity nor completeness, such as other classifiers.
OTHERS = ("#000000", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
#: Thresholds of curves.
THRESHOLDS: Floats = np.arange(1, 100) / 100
#: Opacity of bands.
BAND = 0.25
#: Suffixes of the files that `save` writes.
FORMATS = ("pdf", "png")

_WIDTH, _HEIGHT = 5.0, 3.6  # inches: printed in a column of 3.5 the letters are of 6 to 7 points
_STYLE: dict[str, object] = {
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,
}
# What a file would else say of the day and the program that made it.
_METADATA: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


def style() -> AbstractContextManager[None]:
    """Return a context in which figures look the same whatever the settings of the user."""
    from matplotlib import style

    return style.context(_STYLE, after_reset=True)


def canvas(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (_WIDTH, _HEIGHT), share: bool = False
) -> tuple[Figure, NDArray[Any]]:
    """Return a figure and its axes, shape (rows, columns); with `share` they have the same limits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False)


def note_simulated(figure: Figure) -> None:
    """Write above the figure that nothing in it is real."""
    figure.suptitle("simulated survey", x=0.995, ha="right", fontsize=8, style="italic", color=GREY)


def as_percent(axis: Axis) -> None:
    """Label shares, which are drawn as fractions, in percent; their unit belongs into the axis label."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.6g}"))


def legend(axes: Axes, title: str = "", place: Place = "best") -> None:
    """Draw a legend whose text stays legible where lines run behind it."""
    drawn = axes.legend(
        loc=place, title=title, alignment="left", frameon=True, framealpha=0.85, edgecolor="none"
    )
    drawn.get_title().set_fontsize(8)


def zoom(axes: Axes, *values: Floats) -> None:
    """Show shares from a little below the lowest to a little above 1."""
    known = np.concatenate([np.ravel(x) for x in values])
    lowest = min(float(known[np.isfinite(known)].min(initial=1.0)), 0.995)
    room = 1 - lowest
    axes.set_ylim(max(lowest - 0.08 * room, -0.02), 1 + 0.05 * room)


@dataclass(frozen=True, slots=True, eq=False)
class Ribbon:
    """A curve and the band about it; NaN where it is not known."""

    value: Floats
    low: Floats
    high: Floats

    def draw(self, axes: Axes, x: Floats, color: str, dashes: str = "-", label: str | None = None) -> None:
        """Draw curve and band, if there is anything of the curve."""
        if np.isfinite(self.value).any():
            axes.plot(x, self.value, color=color, linestyle=dashes, label=label)
            axes.fill_between(x, self.low, self.high, color=color, alpha=BAND, linewidth=0)


def intervals(
    axes: Axes, x: Floats, shares: Shares, color: str, marker: str = "o", label: str | None = None
) -> None:
    """Draw shares that have rows with their credible intervals (`shares.credible_interval`)."""
    known = shares.n > 0
    if not known.any():
        return
    value, (low, high) = shares.value, shares.interval
    axes.errorbar(
        x[known],
        value[known],
        yerr=[(value - low)[known], (high - value)[known]],
        fmt=marker,
        markersize=4,
        elinewidth=1,
        color=color,
        label=label,
    )


def save(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write figures as PDF and as PNG of 150 dots an inch, aside first and then renamed.

    Bytes depend on what is drawn alone: no dates, no settings of the user.

    Parameters
    ----------
    figures : mapping of str to Figure
        By file stem.
    folder : Path
        It is made if it is not there.

    Returns
    -------
    list of Path
        Two files a figure, in the order of the figures.

    Raises
    ------
    UsageError
        If a file cannot be written.
    """
    written = []
    for stem, figure in figures.items():
        with style():  # constrained layout would move things a little each time that the figure is written
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        for suffix in FORMATS:
            path = folder / f"{stem}.{suffix}"
            try:
                _write(figure, path, suffix)
            except OSError as error:
                raise UsageError(f"cannot write the figure {path}: {error.strerror or error}") from error
            written.append(path)
    return written


def _write(figure: Figure, path: Path, suffix: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with style():
            figure.savefig(aside, format=suffix, dpi=150, metadata=_METADATA[suffix])
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
