"""Candidates: spectra called quasar that a quasar catalogue does not list, for experts to look at."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table

from broadline.errors import UsageError
from broadline.evaluation.catalogues import Catalogue
from broadline.evaluation.fits_read import Fits
from broadline.evaluation.shares import Floats, Ints, Mask, Share
from broadline.truth import CLASSES, QSO, UNKNOWN, Truth, match

__all__ = ["Confusion", "candidates", "cross_table", "inspected", "listed", "write_candidates"]


@dataclass(frozen=True, slots=True)
class Confusion:
    """Spectra called quasar or not, against a list of quasars.

    Podsztavek, Skoda & Tvrdik (2021), section 4. Precision, recall and F1 of nothing are NaN.

    Attributes
    ----------
    right, missed, other, wrong : int
        Called and listed; listed alone; neither; called alone.
    """

    right: int
    missed: int
    other: int
    wrong: int

    @property
    def precision(self) -> Share:
        """Listed, of those called."""
        return Share(self.right, self.right + self.wrong)

    @property
    def recall(self) -> Share:
        """Called, of those listed."""
        return Share(self.right, self.right + self.missed)

    @property
    def f1(self) -> float:
        """The harmonic mean of the two."""
        n = 2 * self.right + self.wrong + self.missed
        return 2 * self.right / n if n else float("nan")


def listed(catalogue: Catalogue, known: Truth) -> tuple[Mask, Confusion]:
    """Return which spectra of a catalogue are listed as quasars, and the confusion with those called.

    Spectra without a result count as not called.

    Raises
    ------
    UsageError
        If none is listed.
    """
    row = match(known, catalogue.ids)
    quasar = (row >= 0) & (known.kind[row] == QSO)
    if not quasar.any():
        raise UsageError(
            f"{known.source} lists none of the {len(catalogue):,} spectra of {catalogue.path} as a quasar; "
            "give the quasar catalogue of this survey"
        )
    called = catalogue.called
    return quasar, Confusion(
        right=int((called & quasar).sum()),
        missed=int((~called & quasar).sum()),
        other=int((~called & ~quasar).sum()),
        wrong=int((called & ~quasar).sum()),
    )


def candidates(catalogue: Catalogue, quasar: Mask) -> Ints:
    """Return the rows that are called quasar and not listed, the most probable first."""
    rows = np.flatnonzero(catalogue.called & ~quasar)
    return rows[np.argsort(-_surety(catalogue)[rows], kind="stable")]


def _surety(catalogue: Catalogue) -> Floats:
    """Return P_QSO, or the best confidence, or nothing."""
    if "p_qso" in catalogue.numbers:
        return np.asarray(np.nan_to_num(catalogue.numbers["p_qso"], nan=-1.0))
    if catalogue.c is not None:
        return np.asarray(np.nan_to_num(catalogue.c, nan=-1.0).max(axis=1), dtype=np.float64)
    return np.zeros(len(catalogue))


def cross_table(rows: Ints, fits: Fits) -> dict[str, int]:
    """Return how many candidates the pipeline calls what, whatever its ZWARNING."""
    kind = np.where(fits.known[rows], fits.kind[rows, 0], UNKNOWN)
    names = {code: name or "not known" for code, name in enumerate(CLASSES)}
    return {names[code]: int((kind == code).sum()) for code in range(len(CLASSES)) if (kind == code).any()}


def inspected(
    catalogue: Catalogue, rows: Ints, confusion: Confusion, verdicts: Truth
) -> tuple[Confusion, Share]:
    """Return the confusion after inspection of the candidates, and the share that is confirmed.

    Candidates that an expert finds to be quasars count as called rightly, as in Podsztavek, Skoda & Tvrdik
    (2021), section 4; nobody has looked for quasars among the others, so that the recall is an upper limit.
    Candidates without a verdict stay wrong.

    Raises
    ------
    UsageError
        If there is a verdict on none.
    """
    row = match(verdicts, {name: values[rows] for name, values in catalogue.ids.items()})
    seen = (row >= 0) & (verdicts.kind[row] != UNKNOWN)
    if not seen.any():
        raise UsageError(f"{verdicts.source} has a verdict on none of {len(rows):,} candidates")
    confirmed = seen & (verdicts.kind[row] == QSO)
    n = int(confirmed.sum())
    corrected = Confusion(confusion.right + n, confusion.missed, confusion.other, confusion.wrong - n)
    return corrected, Share.of(confirmed, seen)


def write_candidates(path: Path, catalogue: Catalogue, rows: Ints, fits: Fits | None = None) -> None:
    """Write candidates as a table for inspection, ranked; CLASS is left empty for the expert's verdict.

    With CLASS filled in (QSO, STAR, GALAXY) the file is a truth table, which `inspected` takes.

    Raises
    ------
    UsageError
        If the suffix is not .csv, .ecsv, .fits or .parquet, or the file cannot be written.
    """
    table = Table({"RANK": np.arange(1, len(rows) + 1)})
    for name, values in catalogue.ids.items():
        table[name] = values[rows]
    table["SOURCE"], table["ROW"] = catalogue.source[rows], catalogue.row[rows]
    table["Z_FOUND"] = catalogue.z[rows]
    for name, values in catalogue.numbers.items():
        table[name.upper()] = values[rows]
    if fits is not None:
        table["PIPELINE_CLASS"] = np.array(CLASSES)[fits.kind[rows, 0]]
        table["PIPELINE_Z"], table["PIPELINE_ZWARNING"] = fits.z[rows, 0], fits.zwarning[rows]
    table["CLASS"] = np.full(len(rows), "", dtype="U6")
    table["Z"] = np.full(len(rows), np.nan)
    formats = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".fits": "fits", ".parquet": "parquet"}
    if path.suffix not in formats:
        raise UsageError(f"cannot write candidates as {path.suffix or 'no format'}: use {', '.join(formats)}")
    aside = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        table.write(aside, format=formats[path.suffix], overwrite=True)
        aside.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)
