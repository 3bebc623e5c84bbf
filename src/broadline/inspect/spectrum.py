"""One spectrum as the page gets it: pixels, solutions, reasons, and what its survey knows of it."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from broadline import archives
from broadline.errors import ReadError
from broadline.evaluation.shares import Mask
from broadline.flags import describe
from broadline.inputs import UNKNOWN
from broadline.inspect.marks import MARKS, composite
from broadline.inspect.queue import REASONS, Ranking
from broadline.inspect.rulings import KINDS
from broadline.inspect.subjects import Solution, Subjects, solutions
from broadline.lookup import Lookup
from broadline.show import line_text
from broadline.simulation.absorption import effective_optical_depth
from broadline.spectra import Spectra
from broadline.truth import CLASSES

__all__ = ["Viewer", "packed"]

# What stands elsewhere on the page, or says nothing to a person.
_NOT_SHOWN = ("ARCHIVE", "OBJID", "FLAGS", "BEST_LINE", "IS_QSO", "IS_BAL", "NEEDS_VI")
_WHERE = ("SOURCE", "ROW")  # long, and of least interest
_FILES = 64
_PADDING = 64  # pixels at either end of a batch, at most (`archives.singles`)
_COLUMNS = {"i": "number", "u": "number", "f": "number", "b": "logical", "U": "text"}


def packed(values: ArrayLike) -> str:
    """Return numbers as the page unpacks them: little-endian float32, in base64."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()


class Viewer:
    """What there is to see of the spectra of a catalogue.

    Parameters
    ----------
    subjects : Subjects
    ranking : Ranking
    lookup : Lookup
        Where the spectra are.
    """

    def __init__(self, subjects: Subjects, ranking: Ranking, lookup: Lookup) -> None:
        self.subjects = subjects
        self.ranking = ranking
        self.lookup = lookup
        # Of plates and coadds, whose files tell of many spectra.
        self._pipeline = lru_cache(_FILES)(self._pipeline_of)

    def about(self, inspector: str) -> dict[str, Any]:
        """Return what is the same for all spectra: columns, lines, marks, the composite quasar, thresholds.

        Parameters
        ----------
        inspector : str
            Whose verdicts those are that do not say otherwise.
        """
        wavelength, flux = composite()
        subjects, rule = self.subjects, self.subjects.rule
        columns = sorted(subjects.columns.items())
        return {
            "catalogue": subjects.catalogue.path.name,
            "sha256": subjects.sha256,
            "version": subjects.catalogue.meta.get("version", "-1"),
            "model": subjects.catalogue.meta.get("model", "-1"),
            "n": len(subjects),
            "inspector": inspector,
            "kinds": KINDS,
            "columns": {name: _COLUMNS[values.dtype.kind] for name, values in columns},
            "lines": [
                {"name": line.name, "text": _text(line.name), "wavelength": line.wavelength, "bal": line.bal}
                for line in subjects.lines
            ],
            "marks": [mark._asdict() for mark in MARKS],
            "composite": {"wavelength": packed(wavelength), "flux": packed(flux)},
            "forest": {"scale": float(effective_optical_depth(0.0)), "power": _forest_power()},
            "rule": {"c_th": rule.c_th, "c_th_bal": rule.c_th_bal},
        }

    def spectrum(self, row: int) -> dict[str, Any]:
        """Return all that is to be seen of a spectrum; without its pixels, "missing" says why.

        Parameters
        ----------
        row : int
            Of the catalogue.
        """
        subjects = self.subjects
        pixels, said = self._pixels(row)
        own = self._from_file(row)
        others = [
            Solution(float(opinion.z[row]), float("nan"), f"{name}: {CLASSES[opinion.kind[row]]}")
            for name, opinion in self.ranking.opinions.items()
        ]
        if own:
            others.append(Solution(own["z"], float("nan"), f"survey: {own['class']}"))
        reasons = int(self.ranking.reasons[row])
        return {
            "row": row,
            "name": str(subjects.names[row]),
            "number": str(subjects.numbers[row]),  # JavaScript has no whole numbers of 64 bits
            **pixels,
            "missing": said,
            "called": bool(subjects.catalogue.called[row]),
            "z": _number(subjects.catalogue.z[row]),
            "bal": "IS_BAL" in subjects.columns and bool(np.nan_to_num(subjects.columns["IS_BAL"][row]) > 0),
            "reasons": [text for reason, text in REASONS.items() if reasons & reason],
            "worth": _number(self.ranking.worth[row]),
            "solutions": [
                {"z": one.z, "confidence": _number(one.confidence), "said_by": _text(one.said_by)}
                for one in solutions(subjects, row, others)
            ],
            "lines": [
                {
                    "name": line.name,
                    "confidence": _number(subjects.columns[f"C_{line.name}"][row]),
                    "z": _number(subjects.columns[f"Z_{line.name}"][row]),
                }
                for line in subjects.lines
            ],
            "flags": describe(int(np.nan_to_num(subjects.columns["FLAGS"][row])))
            if "FLAGS" in subjects.columns
            else [],
            "pipeline": own,
            "facts": self._facts(row),
        }

    def _pixels(self, row: int) -> tuple[dict[str, Any], str]:
        source, place = str(self.subjects.columns["SOURCE"][row]), int(self.subjects.columns["ROW"][row])
        path = self.lookup.path(source)
        if path is None:
            return {}, f"the file {source} is not among those given with --spectra"
        spectra = self.lookup.read(source, [max(place, 0)]).get(max(place, 0))
        if spectra is None or spectra.notes:
            said = spectra.notes[0] if spectra is not None else f"{path} has no spectrum in row {place}"
            return {}, said
        if not (spectra.ivar > 0).any():
            return {}, "no pixel of this spectrum holds data"
        kept = _unpadded(spectra)
        wavelength, flux, ivar = spectra.wavelength[kept], spectra.flux[0, kept], spectra.ivar[0, kept]
        with np.errstate(divide="ignore"):
            error = np.where(ivar > 0, 1 / np.sqrt(ivar), np.nan)
        pixels = {"wavelength": packed(wavelength), "flux": packed(flux), "error": packed(error)}
        model = _model(self.lookup, source, max(place, 0), wavelength)
        return pixels | ({"model": packed(model)} if model is not None else {}), ""

    def _from_file(self, row: int) -> dict[str, Any] | None:
        """Return what the survey's pipeline wrote beside the spectrum, if it did."""
        known = self._pipeline(str(self.subjects.columns["SOURCE"][row]))
        return known.get(int(self.subjects.columns["ROW"][row]))

    def _pipeline_of(self, source: str) -> Mapping[int, dict[str, Any]]:
        """Return the pipeline's class, redshift and warning by row of a file; nothing if it has none."""
        path = self.lookup.path(source)
        kind = UNKNOWN if path is None else self.lookup.inputs.files[self.lookup.place[source][1]][1]
        reader = archives.get(kind).truth if kind != UNKNOWN else None
        if path is None or reader is None:
            return {}
        try:
            table = reader(path)
        except (ReadError, OSError):
            return {}
        return {
            int(line["ROW"]): {
                "class": str(line["CLASS"]),
                "z": float(line["Z"]),
                "warning": int(line["ZWARNING"]),
            }
            for line in table
            if math.isfinite(line["Z"])
        }

    def _facts(self, row: int) -> dict[str, str]:
        """Return the row of the catalogue in words, without what stands elsewhere on the page."""
        lines = {f"{kind}_{line.name}" for line in self.subjects.lines for kind in "CZ"}
        shown = [name for name in self.subjects.columns if name not in lines and name not in _NOT_SHOWN]
        shown.sort(key=lambda name: name in _WHERE)
        facts = {name: _written(self.subjects.columns[name][row]) for name in shown}
        return {name: said for name, said in facts.items() if said}


def _unpadded(spectra: Spectra) -> Mask:
    """Return the pixels without those that fill a batch up at its ends: few, and without flux or error."""
    seen = np.flatnonzero((spectra.ivar[0] > 0) | (spectra.flux[0] != 0))
    kept = np.ones(len(spectra.wavelength), dtype=bool)
    if len(seen):
        kept[: seen[0] if seen[0] < _PADDING else 0] = False
        kept[seen[-1] + 1 if len(kept) - seen[-1] <= _PADDING else len(kept) :] = False
    return kept


def _model(
    lookup: Lookup, source: str, row: int, wavelength: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return the pipeline's best fit on the pixels of a spectrum; None if the survey's files have none."""
    path, kind = lookup.inputs.files[lookup.place[source][1]]
    reader = archives.get(kind).fitted if kind != UNKNOWN else None
    if reader is None:
        return None
    try:
        at, model = reader(path, row)
    except (ReadError, OSError):
        return None
    return np.asarray(np.interp(wavelength, at, model, left=np.nan, right=np.nan))


def _forest_power() -> float:
    """Return the exponent of the optical depth of the Lya forest in 1 + z."""
    deep = effective_optical_depth(np.array([0.0, 1.0]))
    return float(np.log2(deep[1] / deep[0]))


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _written(value: Any) -> str:
    """Return a value as the page shows it; "" if it is missing."""
    if isinstance(value, np.floating):
        digits = 4 if value.dtype.itemsize == 4 else 8
        return f"{value:.{digits}g}" if np.isfinite(value) else ""
    return "" if isinstance(value, np.integer) and value == -1 else str(value)


_PLAIN = {"LYA": "Ly\u03b1", "HBETA": "H\u03b2", "HALPHA": "H\u03b1"}


def _text(line: str) -> str:
    """Return a line's name as the page writes it, where no mathematics is set."""
    return _PLAIN.get(line, line_text(line))
