"""FITS files opened so that damage shows at once, and what precedes it can still be used."""

from __future__ import annotations

import shutil
import warnings
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from gzip import BadGzipFile, GzipFile
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from broadline.archives.base import GZIP, fault_of
from broadline.archives.narrow import table_layout
from broadline.patience import is_passing

__all__ = ["FitsFile", "columns_of", "open_checked"]

# Unpacked files larger than this go to a temporary file: astropy would unpack anew at each step backwards.
_IN_MEMORY = 1 << 28


@dataclass(frozen=True)
class FitsFile:
    """A file as far as it could be opened, and what is wrong with it ("" if nothing is)."""

    path: Path
    hdus: dict[str, Any]
    fault: str


def _unpacked(path: Path, stack: ExitStack) -> tuple[IO[bytes], str]:
    """Return the file open for reading, unpacked if it is gzipped, and what is wrong with its gzip stream."""
    packed = stack.enter_context(path.open("rb"))
    zipped = packed.read(2) == GZIP
    packed.seek(0)
    if not zipped:
        return packed, ""
    unpacked = stack.enter_context(SpooledTemporaryFile(max_size=_IN_MEMORY))  # noqa: SIM115 (it closes with the stack)
    try:
        shutil.copyfileobj(GzipFile(fileobj=packed), unpacked, 1 << 15)  # what precedes a fault is kept
    except (EOFError, zlib.error, BadGzipFile) as error:
        return unpacked, fault_of(path, error).reason
    return unpacked, ""


def _cut_short(stream: IO[bytes], size: int, last: Any) -> str:
    """Return in words that bytes are missing after HDU `last`, or ""; astropy alone would only warn."""
    info = last.fileinfo()
    end = info["datLoc"] + info["datSpan"]
    if size < end:
        return f"it is cut short ({size} bytes where its headers promise {end} or more); fetch the file again"
    stream.seek(end)
    if stream.read(8) == b"XTENSION":
        return f"the header after HDU {last.name} is broken or cut short; fetch the file again"
    return ""


def open_checked(path: Path, stack: ExitStack) -> FitsFile:
    """Open a file for as long as `stack` lives; it never raises, so that what could be learnt is kept."""
    hdus: dict[str, Any] = {}
    fault = ""
    try:
        stream, fault = _unpacked(path, stack)
        size = stream.seek(0, 2)
        stream.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            listed = list(stack.enter_context(fits.open(stream, memmap=False)))
        hdus = {hdu.name.upper(): hdu for hdu in reversed(listed)}
        fault = fault or _cut_short(stream, size, listed[-1])
    except Exception as error:  # as in read_files
        if is_passing(error):
            raise
        fault = fault or fault_of(path, error).reason
    return FitsFile(path, hdus, fault)


def columns_of(hdu: Any, wanted: frozenset[str]) -> dict[str, NDArray[Any]]:
    """Return some columns of a binary table by their names in upper case; text is str, without blanks around.

    To get to know all the hundred columns of a table of fibres takes astropy as long as some hundred spectra
    take to be read: where none is scaled or of variable length, they are read as they lie in the file.
    """
    rows = _as_they_lie(hdu, wanted)
    if rows is None:
        rows = hdu.data
    names = [name for name in rows.dtype.names or () if name.upper() in wanted]
    columns = {name.upper(): np.asarray(rows[name]) for name in names}
    for name, column in columns.items():
        # A damaged character must not cost a table its rows.
        text = np.strings.decode(column, "ascii", "replace") if column.dtype.kind == "S" else column
        columns[name] = np.strings.strip(text) if text.dtype.kind == "U" else text
    return columns


def _as_they_lie(hdu: Any, wanted: frozenset[str]) -> NDArray[Any] | None:
    place = hdu.fileinfo()
    stream = place["file"]
    if stream is None or stream.compression:  # where each step backwards is unpacking anew
        return None
    stream.seek(place["hdrLoc"])
    header = stream.read(place["datLoc"] - place["hdrLoc"])
    layout = table_layout(header, wanted)
    if layout is None or b"TSCAL" in header or b"TZERO" in header:
        return None
    content = stream.read(layout.size)
    if len(content) < layout.size:
        return None  # astropy says what is wrong
    return np.frombuffer(content, layout.dtype, layout.rows)
