"""Verdicts out and in: the csv of desihub/prospect, and truth tables that evaluation and training read."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.evaluation.shares import Mask
from broadline.inspect.agreement import same, settled
from broadline.inspect.queue import control_sample
from broadline.inspect.rulings import KINDS, Given, Ruling, Verdict, inspector_name
from broadline.inspect.subjects import Subjects
from broadline.truth import CLASSES, UNKNOWN, match, read_truth_table

__all__ = [
    "ADJUDICATION",
    "BAL_COMMENT",
    "PROSPECT",
    "Read",
    "prospect_csv",
    "read_verdicts",
    "truth_csv",
    "truth_parquet",
]

#: Columns of prospect's files of verdicts, in their order (prospect 1.2 and later; ``vi_file_fields``).
PROSPECT = (
    "TARGETID",
    "EXPID",
    "NIGHT",
    "TILEID",
    "Spec_version",
    "Redrock_version",
    "Template_version",
    "Redrock_spectype",
    "Redrock_z",
    "Redrock_deltachi2",
    "VI_scanner",
    "VI_quality",
    "VI_issue",
    "VI_z",
    "VI_spectype",
    "VI_comment",
)
#: How prospect's inspectors note broad absorption.
BAL_COMMENT = "Broad absorption line quasar (BAL)"
#: How the comment of a verdict begins that settles what inspectors disagree on, for which there is no column.
ADJUDICATION = "[adjudication]"
#: Confidence of a truth table (Z_CONF) for each quality from 0 to 4, and a quality for each confidence.
_CONFIDENCE = (0, 1, 1, 3, 3)
_QUALITY = (0, 1, 2, 4)

# What spreadsheets take for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_IDS = ("PLATE", "MJD", "FIBERID", "THING_ID", "TARGETID", "OBSID", "OBJID", "RA", "DEC")


# ---- out


def prospect_csv(subjects: Subjects, standing: Mapping[int, Sequence[Verdict]]) -> bytes:
    """Return all verdicts that stand as prospect writes them, one line each, in the order they were given.

    The comment of an adjudication begins with `ADJUDICATION`. The columns of redrock hold what the catalogue
    says, and which version and model made it. VI_issue has R where the redshift and C where the class differs
    from that.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(PROSPECT)
    meta = subjects.catalogue.meta
    for row, verdicts in standing.items():
        called, z = bool(subjects.catalogue.called[row]), float(subjects.catalogue.z[row])
        for verdict in sorted(verdicts, key=lambda verdict: verdict.version):
            ruling = verdict.ruling
            writer.writerow(
                [
                    int(subjects.numbers[row]),
                    *(-1, -1, -1, -1),
                    meta.get("version", -1),
                    meta.get("model", -1),
                    "QSO" if called else "",
                    f"{z:.4f}" if called else "",
                    -1,
                    _inert(verdict.inspector),
                    ruling.quality,
                    _issue(called, z, ruling),
                    "" if ruling.z is None else f"{ruling.z:.5f}",
                    "" if ruling.kind == "?" else ruling.kind,
                    _inert(_comment(verdict)),
                ]
            )
    return stream.getvalue().encode()


def _issue(called: bool, z: float, ruling: Ruling) -> str:
    moved = called and ruling.z is not None and not same(Ruling("QSO", z), Ruling("QSO", ruling.z))
    return "R" * moved + "C" * (called != (ruling.kind == "QSO"))


def _comment(verdict: Verdict) -> str:
    """Return the comment, with what prospect has no columns for."""
    said = ADJUDICATION * verdict.adjudicates, BAL_COMMENT * verdict.ruling.bal, verdict.ruling.comment
    return " ".join(filter(None, said))


def _inert(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: an apostrophe before what would begin one."""
    return f"'{text}" if text[:1] in _FORMULA else text


def _as_written(text: str) -> str:
    return text[1:] if text[:1] == "'" and text[1:2] in _FORMULA else text


def _truth_table(subjects: Subjects, standing: Mapping[int, Sequence[Verdict]]) -> pa.Table:
    """Return what inspectors settled on, a row a spectrum, by the columns of a plain truth table.

    Spectra that are disputed, or that nobody could identify, have no class and confidence 0. QUEUE says which
    are of the control sample, drawn at random.
    """
    rows = np.array([*standing], dtype=np.int64)
    found = [settled(verdicts) for verdicts in standing.values()]
    known = [ruling is not None and ruling.kind != "?" for ruling in found]
    rulings = [ruling or Ruling("?", quality=0) for ruling in found]
    columns: dict[str, pa.Array] = {}
    for name in _IDS:
        if name in subjects.columns:
            values = subjects.columns[name][rows]
            columns[name] = pa.array(values, mask=_missing(values))
    columns |= {
        "CLASS": pa.array([r.kind if k else "" for r, k in zip(rulings, known, strict=True)], pa.string()),
        "Z": pa.array([r.z if k else None for r, k in zip(rulings, known, strict=True)], pa.float64()),
        "Z_CONF": pa.array(
            [_CONFIDENCE[r.quality] if k else 0 for r, k in zip(rulings, known, strict=True)], pa.int16()
        ),
        "BAL_FLAG": pa.array([int(r.bal) if r.kind == "QSO" else -1 for r in rulings], pa.int16()),
        "QUALITY": pa.array([r.quality for r in rulings], pa.int16()),
        "N_INSPECTORS": pa.array([len(verdicts) for verdicts in standing.values()], pa.int16()),
        "INSPECTORS": pa.array(
            [_inert(", ".join(verdict.inspector for verdict in verdicts)) for verdicts in standing.values()],
            pa.string(),
        ),
        "QUEUE": pa.array(
            np.where(np.isin(rows, control_sample(subjects)), "control", "ranked"), pa.string()
        ),
        "COMMENT": pa.array([_inert(r.comment) for r in rulings], pa.string()),
    }
    return pa.table(columns)


def _missing(values: NDArray[Any]) -> Mask:
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    return np.asarray(values == ("" if values.dtype.kind == "U" else -1))


def truth_parquet(subjects: Subjects, standing: Mapping[int, Sequence[Verdict]]) -> bytes:
    """Return what inspectors settled on as a Parquet file that `--truth` takes."""
    stream = io.BytesIO()
    pq.write_table(_truth_table(subjects, standing), stream)
    return stream.getvalue()


def truth_csv(subjects: Subjects, standing: Mapping[int, Sequence[Verdict]]) -> bytes:
    """Return what inspectors settled on as a CSV file that `--truth` takes."""
    stream = io.BytesIO()
    pa_csv.write_csv(_truth_table(subjects, standing), stream)
    return stream.getvalue()


# ---- in


class Read(NamedTuple):
    """Verdicts made elsewhere.

    Attributes
    ----------
    verdicts : list of (int, str, Ruling, bool)
        Row of the catalogue, inspector, ruling, and whether it settles what others disagree on.
    n_unmatched : int
        Those on spectra that the catalogue does not have.
    """

    verdicts: list[Given]
    n_unmatched: int


def read_verdicts(path: Path, subjects: Subjects, inspector: str | None = None) -> Read:
    """Return the verdicts of a file on the spectra of a catalogue.

    Parameters
    ----------
    path : Path
        A csv of prospect, or any truth table that `truth.read_truth_table` reads.
    subjects : Subjects
    inspector : str, optional
        Who made those of a truth table; its file name if not given. Files of prospect say it.

    Raises
    ------
    UsageError
        If it can be read as neither, or has a verdict that cannot be one; the message names the line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = csv.DictReader(stream)
            if {"TARGETID", "VI_scanner", "VI_quality"} <= set(lines.fieldnames or ()):
                return _from_prospect(path, lines, subjects)
    except (UnicodeDecodeError, csv.Error):
        pass  # no text, or no csv: it may be a table of another format
    except OSError as error:
        raise UsageError(f"cannot read the verdicts {path}: {error.strerror or error}") from error
    return _from_truth(path, subjects, inspector_name(inspector or path.stem))


def _from_prospect(path: Path, lines: csv.DictReader[str], subjects: Subjects) -> Read:
    """Return prospect's verdicts; where class or redshift is empty, the pipeline's was accepted."""
    rows: dict[int, list[int]] = {}
    for row, number in enumerate(subjects.numbers.tolist()):
        rows.setdefault(number, []).append(row)
    verdicts: list[Given] = []
    unmatched = 0
    for line in lines:
        said = {name: (line.get(name) or "").strip() for name in PROSPECT}
        if said["VI_quality"] in ("", "-1"):  # a comment alone
            continue
        try:
            number = int(said["TARGETID"])
            kind = (said["VI_spectype"] or said["Redrock_spectype"] or "?").upper()
            z = said["VI_z"] or said["Redrock_z"]
            comment = _as_written(said["VI_comment"])
            adjudicates = comment.startswith(ADJUDICATION)
            comment = comment.removeprefix(ADJUDICATION)
            ruling = Ruling(
                kind,
                float(z) if z and kind != "?" else None,
                int(float(said["VI_quality"])),
                BAL_COMMENT in comment,
                comment.replace(BAL_COMMENT, "").strip(),
            ).checked()
            inspector = inspector_name(_as_written(said["VI_scanner"]) or path.stem)
        except (ValueError, OverflowError, UsageError) as error:
            raise UsageError(f"{path.name}, line {lines.line_num}: {error}; mend that line") from error
        verdicts += [(row, inspector, ruling, adjudicates) for row in rows.get(number, ())]
        unmatched += number not in rows
    return Read(verdicts, unmatched)


def _from_truth(path: Path, subjects: Subjects, inspector: str) -> Read:
    known = read_truth_table(path)
    at = match(known, subjects.catalogue.ids)
    found = np.flatnonzero((at >= 0) & (known.kind[at] != UNKNOWN))
    verdicts: list[Given] = []
    for row, i in zip(found.tolist(), at[found].tolist(), strict=True):
        kind, z = CLASSES[known.kind[i]], float(known.z[i])
        kind = kind if kind in KINDS and (np.isfinite(z) or kind == "STAR") else "?"
        ruling = Ruling(
            kind,
            z if np.isfinite(z) else None,
            _QUALITY[known.confidence[i]],
            bool(kind == "QSO" and known.bal_flag[i] == 1),
        )
        verdicts.append((row, inspector, ruling.checked(), False))
    return Read(verdicts, len(known) - len(np.unique(at[at >= 0])))
