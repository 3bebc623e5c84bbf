"""The figure of one spectrum and its lines: figure 2 of Busca & Balland (2018)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from broadline.decision import decide
from broadline.errors import UsageError
from broadline.flags import UNCLASSIFIED, describe
from broadline.inputs import read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from broadline.model import Model
    from broadline.spectra import Spectra

__all__ = ["draw", "pick"]

_TEXT = {
    "LYA": r"Ly$\alpha$",
    "CIV": "C IV",
    "CIII": "C III]",
    "MGII": "Mg II",
    "HBETA": r"H$\beta$",
    "HALPHA": r"H$\alpha$",
    "BAL_CIV": "C IV BAL",
}
_FOUND, _WEAK, _BAL = "#0072B2", "#999999", "#D55E00"  # colour-blind-safe (Okabe & Ito)


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

    Lines above the model's threshold are drawn dark with their confidence, the others greyed.

    Parameters
    ----------
    spectra : Spectra
        A batch of one.
    model : Model
    """
    from matplotlib.figure import Figure

    represented = model.representation(spectra)
    values = np.where(represented.data[0], represented.values[0], np.nan)
    grid = model.representation.grid
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.step(grid.centres, values, where="mid", color="black", linewidth=0.8)
    axes.set_xlim(grid.edges[0], grid.edges[-1])
    axes.set_xlabel("observed wavelength, vacuum (Å)")
    unit = "renormalised flux" if model.representation.normalisation == "rms" else "scaled flux"
    axes.set_ylabel(unit)
    good = values[np.isfinite(values)]
    if good.size:
        low, high = np.percentile(good, [0.5, 99.5])
        margin = 0.15 * (high - low) + 0.1
        axes.set_ylim(low - margin, high + 3 * margin)
    flags = int(represented.flags[0])
    source = f"{spectra.ids['ARCHIVE'][0]} {spectra.ids['OBJID'][0] or Path(spectra.ids['SOURCE'][0]).name}"
    if flags & UNCLASSIFIED:
        axes.set_title(f"{source}: not classified — {'; '.join(describe(flags))}", fontsize=10)
        return figure
    c, z = model.predict(represented.values)
    verdict = decide(c, z, model.lines, model.rule)
    for i in np.argsort(c[0]):
        line = model.lines[i]
        found = c[0, i] > (model.rule.c_th_bal if line.bal else model.rule.c_th)
        color = (_BAL if line.bal else _FOUND) if found else _WEAK
        x = line.wavelength * (1 + z[0, i])
        axes.axvline(x, color=color, linestyle=":" if line.bal else "--", linewidth=1.2 if found else 0.7)
        axes.annotate(
            f"{_TEXT.get(line.name, line.name)} {c[0, i]:.2f}",
            (x, 0.98 - 0.22 * line.bal),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="right",
            va="top",
            fontsize=9 if found else 7,
            color=color,
        )
    kind = "quasar" if verdict.is_qso[0] else "not a quasar"
    kind += ", BAL" if verdict.is_bal[0] else ""
    best = _TEXT.get(model.lines[verdict.best_line[0]].name, model.lines[verdict.best_line[0]].name)
    text = f"{source}: {kind}, z = {verdict.z[0]:.4f} from {best}, S/N {represented.sn_median[0]:.1f} per pixel"
    axes.set_title(f"{text}   [{model.name}, c_th = {model.rule.c_th:g}]", fontsize=10)
    return figure
