"""Spectra one should look at: figures 2 and A1 to A4 of Busca & Balland (2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from broadline.evaluation.bal import annotated
from broadline.evaluation.drawing import canvas, note_simulated, style
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import Floats, Mask
from broadline.evaluation.study import Study
from broadline.lookup import Lookup
from broadline.show import flux_text, panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from broadline.model import Model
    from broadline.spectra import Spectra

__all__ = ["Gallery", "galleries"]

_COLUMN = 3  # spectra in a column
_LETTERS = 6.5  # points
_HIGH_Z = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """Spectra side by side.

    Attributes
    ----------
    name, title, caption : str
        As of a `figures.Plot`.
    figure : Figure
    names : tuple of str
        Of the spectra shown, in the order of reading: along the rows.
    rows : tuple of int
        Theirs in the study.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    names: tuple[str, ...]
    rows: tuple[int, ...]


class _Choice(NamedTuple):
    """What a gallery is to show: columns of rows of the study, under their headings."""

    name: str
    title: str
    caption: str
    columns: Mapping[str, Sequence[int]]


def galleries(study: Study, paths: Sequence[str | Path], model: Model) -> tuple[Gallery, ...]:
    """Return galleries of those spectra of a study whose files are at hand.

    Which spectra are shown depends on the study and the files there are. Those of a kind are ordered by their
    surest line; of a spectrum that is in several splits the first row is taken. Only files of chosen spectra
    are read.

    Parameters
    ----------
    study : Study
    paths : sequence of str or Path
        Files and folders that hold the spectra, wherever they were when the catalogue was made: a file is
        known by the end of its path. If empty, `Study.source` as it stands.
    model : Model
        That made the catalogues; confidences and lines drawn are its own, titles are the study's.

    Raises
    ------
    UsageError
        If none of the spectra is there.
    """
    files = Lookup.of(study.source.tolist(), paths)
    there = (source in files.place for source in study.source.tolist())
    eligible = _eligible(study, np.fromiter(there, dtype=bool, count=len(study.source)))
    choices = [choose(study, eligible) for choose in _CHOICES]
    drawn = [choice for choice in choices if any(choice.columns.values())]
    chosen = {row for choice in drawn for rows in choice.columns.values() for row in rows}
    spectra = _read(study, files, chosen)
    with style():
        return tuple(
            gallery for choice in drawn if (gallery := _gallery(study, choice, spectra, model)) is not None
        )


# ---- which


def _eligible(study: Study, at_hand: Mask) -> Mask:
    """Return the rows that may be chosen: secure annotations that are called quasar, each spectrum once."""
    rows = at_hand & study.sample.firm & study.sample.quasar
    names = study.names[rows]
    first = np.zeros(len(names), dtype=bool)
    first[np.unique(names, return_index=True)[1]] = True
    rows[rows] = first
    return rows


def _ordered(rows: Mask, *values: Floats) -> list[int]:
    """Return the numbers of rows from the lowest value to the highest; further values part those alike."""
    found = np.flatnonzero(rows)
    order = np.lexsort([np.nan_to_num(value[found]) for value in reversed(values)])
    return [int(row) for row in found[order]]


def _surest(sample: Sample) -> Floats:
    if sample.c is None:
        return np.zeros(len(sample))
    strength = sample.strength(1)
    return np.where(np.isfinite(strength), strength, 0).astype(np.float64)


def _extremes(rows: list[int]) -> dict[str, Sequence[int]]:
    """Return the least and the most confident of rows that are ordered so."""
    if len(rows) < 2:
        return {"": rows}
    half = min(_COLUMN, (len(rows) + 1) // 2)
    return {"least confident": rows[:half], "most confident": rows[half:][::-1][:_COLUMN]}


def _middle(rows: list[int]) -> list[int]:
    return rows[len(rows) // 2 : len(rows) // 2 + 1]


def _figure_2(study: Study, eligible: Mask) -> _Choice:
    sample = study.sample
    rows = eligible & sample.annotated("QSO") & sample.near & (sample.z_truth >= _HIGH_Z)
    bal = annotated(sample)
    if bal is not None and sample.c_bal is not None:
        absorbed = rows & bal.both & (sample.c_bal > study.rule.c_th_bal)
        rows = absorbed if absorbed.any() else rows
    nothing = np.zeros(len(sample))
    found = nothing if sample.c is None else (sample.c > study.rule.c_th).sum(axis=1).astype(np.float64)
    clear = nothing if sample.sn is None else sample.sn
    return _Choice(
        "fig2_example",
        "A quasar and its lines",
        "Busca & Balland (2018), figure 2: the quasar beyond z = 2, if possible with broad absorption, of "
        "which most lines are found, and of those alike the one with the highest S/N. Lines are drawn where "
        "their finders see them, with their confidences; those below the threshold are grey.",
        {"": _ordered(rows, found, clear)[-1:]},
    )


def _figure_a1(study: Study, eligible: Mask) -> _Choice:
    return _Choice(
        "figA1_stars",
        "Annotated STAR, called quasar",
        "Busca & Balland (2018), figure A1. Left, the least confident, where the lines found are likely "
        "noise; right, the most confident, where features should be visible.",
        _extremes(_ordered(eligible & study.sample.annotated("STAR"), _surest(study.sample))),
    )


def _figure_a2(study: Study, eligible: Mask) -> _Choice:
    sample = study.sample
    rows = eligible & sample.annotated("GALAXY")
    wrong, right = (_ordered(rows & near, _surest(sample))[::-1] for near in (~sample.near, sample.near))
    return _Choice(
        "figA2_galaxies",
        "Annotated GALAXY, called quasar",
        "Busca & Balland (2018), figure A2: the most confident with a wrong redshift, and with the right "
        "one, which are galaxies with broad lines if the network is right.",
        {"wrong redshift": wrong[:_COLUMN], "right redshift": right[:_COLUMN]},
    )


def _figure_a3(study: Study, eligible: Mask) -> _Choice:
    sample = study.sample
    return _Choice(
        "figA3_discrepant",
        "Annotated QSO, with another redshift",
        "Busca & Balland (2018), figure A3: quasars found with a redshift more than 6000 km/s from the "
        "annotated one. Of the most confident (right) the annotation may be wrong.",
        _extremes(_ordered(eligible & sample.annotated("QSO") & ~sample.near, _surest(sample))),
    )


def _figure_a4(study: Study, eligible: Mask) -> _Choice:
    sample = study.sample
    bal = annotated(sample)
    kinds: dict[str, Sequence[int]] = {}
    if bal is not None and sample.c_bal is not None:
        found = eligible & (sample.c_bal > study.rule.c_th_bal)
        c_bal = sample.c_bal.astype(np.float64)
        flagged = np.zeros(len(sample), dtype=bool) if sample.bal is None else sample.bal == 1
        one = bal.either & ~bal.both
        missed = _ordered(
            eligible & bal.both & ~found, c_bal if sample.balnicity is None else sample.balnicity
        )
        kinds = {
            "flag and balnicity, found": _middle(_ordered(found & bal.both, c_bal)),
            "flag alone, found": _middle(_ordered(found & one & flagged, c_bal)),
            "balnicity alone, found": _middle(_ordered(found & one & ~flagged, c_bal)),
            "neither, but called BAL": _middle(_ordered(found & bal.neither, c_bal)),
            "missed, typical": _middle(missed),
            "missed, strongest": missed[-1:] if len(missed) > 1 else [],
        }
    return _Choice(
        "figA4_bal",
        "Broad absorption",
        "Busca & Balland (2018), figure A4: found with flag and balnicity, with one of the two, and with "
        "neither (a false positive), each with the median confidence of its kind; missed, with the median "
        "balnicity and with the highest.",
        kinds,
    )


_CHOICES: tuple[Callable[[Study, Mask], _Choice], ...] = (
    _figure_2,
    _figure_a1,
    _figure_a2,
    _figure_a3,
    _figure_a4,
)


# ---- where


def _read(study: Study, files: Lookup, rows: Iterable[int]) -> dict[int, Spectra]:
    """Return the spectra of some rows of the study, each as a batch of one."""
    wanted: dict[str, dict[int, int]] = {}
    for row in sorted(rows):
        wanted.setdefault(str(study.source[row]), {})[int(study.row[row])] = row
    return {
        of_file[row]: spectrum
        for source, of_file in wanted.items()
        for row, spectrum in files.read(source, of_file).items()
    }


# ---- drawing


def _gallery(study: Study, choice: _Choice, spectra: Mapping[int, Spectra], model: Model) -> Gallery | None:
    columns = {
        words: [row for row in rows if row in spectra] for words, rows in choice.columns.items() if rows
    }
    columns = {words: rows for words, rows in columns.items() if rows}
    if not columns:
        return None
    cells = _cells(columns)
    n_rows, n_columns = 1 + max(i for i, _ in cells), 1 + max(j for _, j in cells)
    figure, grid = canvas(n_rows, n_columns, (1 + 5.5 * n_columns, 0.6 + 2.7 * n_rows))
    for axes in grid.flat:
        axes.set_visible(False)
    for place, (words, row) in cells.items():
        axes = grid[place]
        axes.set_visible(True)
        panel(axes, spectra[row], model, _LETTERS)
        _entitle(axes, study, row, words)
    figure.supxlabel("observed wavelength, vacuum (Å)", fontsize=10)
    figure.supylabel(flux_text(model), fontsize=10)
    if study.simulated:
        note_simulated(figure)
    order = [cells[place][1] for place in sorted(cells)]
    names = tuple(str(study.names[row]) for row in order)
    return Gallery(choice.name, choice.title, choice.caption, figure, names, tuple(order))


def _cells(columns: Mapping[str, Sequence[int]]) -> dict[tuple[int, int], tuple[str, int]]:
    """Return what is in each cell (row, column): heading and row of the study."""
    if len(columns) <= 2:
        return {
            (i, j): (words, row)
            for j, (words, rows) in enumerate(columns.items())
            for i, row in enumerate(rows)
        }
    single = [(words, row) for words, rows in columns.items() for row in rows]
    return {divmod(i, 2): cell for i, cell in enumerate(single)}


def _entitle(axes: Axes, study: Study, row: int, words: str) -> None:
    """Write above a panel what the study says of the spectrum."""
    sample = study.sample
    z = f"z$_{{ann}}$ = {sample.z_truth[row]:.3f}, z$_{{pred}}$ = {sample.z[row]:.3f}"
    name = str(study.names[row]).replace("$", r"\$")  # it is no formula
    text = f"{name}: {sample.truth[row]}, {z}"
    more = [words] if words else []
    if sample.truth[row] == "QSO":
        if sample.bal is not None and sample.bal[row] >= 0:
            more.append(f"BAL flag {sample.bal[row]}")
        if sample.balnicity is not None and sample.balnicity[row] >= 0:
            more.append(f"BI$_{{CIV}}$ = {sample.balnicity[row]:.0f} km s$^{{-1}}$")
    axes.set_title("\n".join([text, ", ".join(more)]), fontsize=8, pad=7 * _LETTERS)
