"""The files of a training set, and what its manifest says.

A set is a folder. ``manifest.json`` names the representation, the counts and each shard with its checksums.
A shard ``NAME`` is ``values-NAME.npy``, float16 of shape (n, n_pixels) or (n, 2, n_pixels), and
``truth-NAME.parquet``, a row a spectrum (`COLUMNS`). ``objects.npy``, int64, numbers the object of each
spectrum of the set: where the truth has no name for it, by its place on the sky (`labels.numbered`). Targets
are not stored: networks of other boxes and lines learn from the same set.

float16 halves the set: 500,000 spectra of 443 pixels are 0.44 GB, of two channels 0.89 GB. Of published
weights on 300 real spectra it moves no confidence by more than 0.0006 and no line by more than 6 km/s.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.pipeline import MAX_NOTES
from broadline.truth import CLASSES

__all__ = ["COLUMNS", "FORMAT", "MANIFEST", "OBJECTS", "Summary", "one_sided", "read_manifest", "shard_paths"]

#: What a set knows of each spectrum: SPECTRUM (its OBJID), PLATE (-1 where there is none), RA and DEC
#: (degrees, NaN: unknown), FLAGS and SN (of the representation), and of the truth CLASS, Z (NaN: unknown),
#: CONFIDENCE (0-3), BAL_FLAG (-1: unknown), BALNICITY (km/s, NaN: unknown), OBJECT (negative where it has no
#: name), ANCILLARY and CONTROL (inspected because it was drawn at random).
COLUMNS = pa.schema(
    {
        "SPECTRUM": pa.string(),
        "PLATE": pa.int32(),
        "RA": pa.float64(),
        "DEC": pa.float64(),
        "FLAGS": pa.uint32(),
        "SN": pa.float32(),
        "CLASS": pa.dictionary(pa.int8(), pa.string()),
        "Z": pa.float64(),
        "CONFIDENCE": pa.int8(),
        "BAL_FLAG": pa.int8(),
        "BALNICITY": pa.float32(),
        "OBJECT": pa.int64(),
        "ANCILLARY": pa.bool_(),
        "CONTROL": pa.bool_(),
    }
)

#: Of the manifest.
FORMAT, MANIFEST = 1, "manifest.json"
#: The file of the objects.
OBJECTS = "objects.npy"


@dataclass(slots=True)
class Summary:
    """What became of the spectra that a set was made of; the counts in its manifest.

    Attributes
    ----------
    n_read : int
    n_unusable : int
        Left out because no network could classify them (`flags.UNCLASSIFIED`).
    n_unmatched : int
        Left out because the truth does not know them.
    n_ancillary : int
        Left out as targets of ancillary programmes.
    n_doubtful : int
        In the set, without a firm identification (confidence below 3).
    n_bal : int
        In the set, tagged as broad absorption line quasars.
    n_repeated : int
        In the set, of the same name as another one.
    n_listed : list of int
        Of those that can be used, how many each table of the truth knows.
    classes : dict of str to int
        Spectra in the set, by class.
    notes : list of str
        The reason for each file that could not be read, at most `pipeline.MAX_NOTES`.
    """

    n_read: int = 0
    n_unusable: int = 0
    n_unmatched: int = 0
    n_ancillary: int = 0
    n_doubtful: int = 0
    n_bal: int = 0
    n_repeated: int = 0
    n_listed: list[int] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(self.classes.values())

    def add(self, fields: dict[str, Any]) -> None:
        """Count what a unit of work did."""
        for name, value in fields.items():
            if name == "classes":
                self.classes = {key: self.classes[key] + value[key] for key in self.classes}
            elif name == "notes":
                self.notes.extend(value[: MAX_NOTES - len(self.notes)])
            elif name == "n_listed":
                self.n_listed = [sum(pair) for pair in zip_longest(self.n_listed, value, fillvalue=0)]
            else:
                setattr(self, name, getattr(self, name) + value)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON types."""
        return {name: getattr(self, name) for name in self.__slots__}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a set, also of one that is not finished.

    Raises
    ------
    UsageError
        If there is none, or it is damaged or of a format that is not known.
    """
    path = folder / MANIFEST
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        kinds = [type(state[key]) for key in ("request", "finished", "counts", "shards")]
        if kinds != [dict, bool, dict, list]:
            raise ValueError("it is not what `broadline prepare` writes")
        found = state["format"]
    except FileNotFoundError as error:
        raise UsageError(f"{folder} is no training set: it has no {MANIFEST}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}); prepare the set again in a new folder") from error
    if found != FORMAT:
        raise UsageError(f"{folder} has format {found}, which this version of broadline does not know")
    return state


def shard_paths(folder: Path, shard: dict[str, Any]) -> tuple[Path, Path]:
    """Return the files of a shard, given its entry in the manifest: values and truth."""
    return folder / f"values-{shard['name']}.npy", folder / f"truth-{shard['name']}.parquet"


def one_sided(quasar: NDArray[np.bool_]) -> str | None:
    """Return in words which class is missing; None if there are quasars and others."""
    if not quasar.any():
        return "no quasar, so nothing shows what one looks like: add spectra of class QSO"
    if quasar.all():
        return "quasars only, so nothing shows what is none: add spectra of stars and galaxies"
    return None
