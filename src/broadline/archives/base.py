"""What every archive module is built from: the Archive record, a first look at a file, guarded reading."""

from __future__ import annotations

import gzip
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from broadline.errors import ReadError
from broadline.patience import patiently_each
from broadline.spectra import Spectra

__all__ = [
    "GZIP",
    "Archive",
    "Head",
    "fault_of",
    "masked_ivar",
    "object_name",
    "open_fits",
    "read_bytes",
    "read_files",
    "truth_table",
]

GZIP = b"\x1f\x8b"
_COMBINEREJ = np.int32(1 << 25)


class Head:
    """The first look at a file: enough to tell which archive wrote it.

    Attributes
    ----------
    path : Path
    start : bytes
        The first 8 FITS blocks (23,040 bytes), decompressed.
    hdu_names : tuple of str
        Upper-case EXTNAMEs of all HDUs ("" where there is none); empty if the file is not FITS.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def start(self) -> bytes:
        """The first 23,040 bytes, decompressed."""
        with self.path.open("rb") as stream:
            start = stream.read(8 * 2880)
        if start[:2] == GZIP:
            start = zlib.decompressobj(wbits=31).decompress(start, 8 * 2880)
        return start

    @property
    def is_fits(self) -> bool:
        """Whether it begins as FITS files do."""
        return self.start.startswith(b"SIMPLE  =")

    def card(self, keyword: str) -> str:
        """Return the raw value field of a card of the primary header, or "" if it is not there."""
        end = re.search(rb"END {77}", self.start)
        header = self.start[: end.end()] if end else self.start
        for offset in range(0, len(header), 80):
            if header[offset : offset + 10] == keyword.ljust(8).encode() + b"= ":
                return header[offset + 10 : offset + 80].decode("ascii", "replace").split("/")[0].strip(" '")
        return ""

    @cached_property
    def hdu_names(self) -> tuple[str, ...]:
        """Upper-case EXTNAMEs, "" where there is none."""
        if not self.is_fits:
            return ()
        with open_fits(self.path) as hdus:
            return tuple(hdu.name.upper() for hdu in hdus)

    @cached_property
    def columns(self) -> tuple[frozenset[str], ...]:
        """Upper-case column names of each table HDU, in file order."""
        if not self.is_fits:
            return ()
        with open_fits(self.path) as hdus:
            tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
            return tuple(frozenset(name.upper() for name in hdu.columns.names) for hdu in tables)


@dataclass(frozen=True)
class Archive:
    """One kind of survey file: how to know it, read it, and read the truth beside it.

    Attributes
    ----------
    name : str
        The value of ARCHIVE in the catalogue and of ``--archive``.
    title : str
        A line for people.
    file_name : re.Pattern
        File names that are surely of this kind, so that the file need not be opened to know.
    recognise : callable
        Head -> bool, for all other names.
    read : callable
        (paths, batch) -> iterator of Spectra of at most `batch` rows, in the order of paths and rows.
        It never raises for a bad file: see `read_files`.
    truth : callable or None
        path -> Table with columns SOURCE, ROW, OBJID, CLASS, Z, ZWARNING, one row a spectrum.
    group : callable or None
        path -> a key that files read as one share, where the archive has such files.
    fitted : callable or None
        (path, row) -> wavelength (vacuum Angstrom) and flux of the pipeline's best fit to a spectrum.
    """

    name: str
    title: str
    file_name: re.Pattern[str]
    recognise: Callable[[Head], bool]
    read: Callable[[Sequence[Path], int], Iterator[Spectra]]
    truth: Callable[[Path], Table] | None = None
    group: Callable[[Path], str] | None = None
    fitted: Callable[[Path, int], tuple[NDArray[np.float64], NDArray[np.float32]]] | None = None


def open_fits(path: Path) -> fits.HDUList:
    """Open a FITS file, plain or gzipped, without memory mapping and without astropy's header warnings.

    Truncation is reported when the data are read, as an error.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        hdus = fits.open(path, memmap=False, ignore_missing_simple=False)
        len(hdus)  # reads all headers now, so that their faults show here
    return hdus


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if it is gzipped."""
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == GZIP else content


def fault_of(path: Path, error: Exception) -> ReadError:
    """Return `error`, met while reading `path`, as a ReadError that says in a few words what is wrong."""
    if isinstance(error, ReadError):
        return error
    if isinstance(error, PermissionError):
        return ReadError(path, "permission denied; make the file readable")
    if isinstance(error, FileNotFoundError):
        return ReadError(path, "no such file")
    text = " ".join(str(error).split())
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return ReadError(path, f"the gzip stream is broken or cut short ({text}); fetch the file again")
    if isinstance(error, KeyError):
        missing = re.sub(r"\"Keyword '(.+)' not found\.\"", r"header keyword \1", text)
        return ReadError(path, f"it has no {missing}, which this layout needs")
    if isinstance(error, MemoryError):
        return ReadError(path, "its header asks for more memory than there is; fetch the file again")
    if "No SIMPLE card" in text:
        return ReadError(path, "it is not a FITS file, whatever its name says")
    if re.search("cannot reshape|buffer is (too small|smaller)|truncated|requested size", text):
        return ReadError(path, f"it is cut short, or its header lies about its size ({text}); fetch it again")
    return ReadError(path, text or type(error).__name__)


def read_files(
    archive: str, paths: Sequence[Path], read_file: Callable[[Path], Iterator[Spectra]]
) -> Iterator[Spectra]:
    """Yield the spectra of each file; a file that fails becomes flagged rows in its place.

    The guard catches every Exception on purpose: the bytes of a damaged file can raise anything in the
    libraries below, and one damaged file must not cost the others their rows. What a reader itself catches in
    the middle of a file, it passes on if `is_passing`.
    """
    for path in paths:
        try:
            yield from patiently_each(path, read_file)
        except Exception as error:
            yield Spectra.unreadable(archive, fault_of(path, error))


def masked_ivar(ivar: NDArray[np.float32], and_mask: NDArray[Any]) -> NDArray[np.float32]:
    """Return `ivar` with 0 where SDSS's and_mask has COMBINEREJ, rejected in every exposure combined.

    Bit 25 is the one that the authors of QuasarNET mask; the other bits mostly warn of pixels whose ivar
    already says how good they are (bit 23, BRIGHTSKY, alone marks far more pixels than it spoils).
    """
    bits = and_mask.astype(np.int32)  # to the machine's order of bytes first, else that is done many times
    rejected = (bits & _COMBINEREJ) != 0
    return np.where(rejected, np.float32(0), ivar) if rejected.any() else ivar


def object_name(plate: int, mjd: int, fiber: SupportsInt) -> str:
    """Return the name under which SDSS files a spectrum: PLATE-MJD-FIBER."""
    return f"{plate:04d}-{mjd:05d}-{int(fiber):04d}"


def truth_table(source: Path, **columns: Any) -> Table:
    """Return what an archive knows about its spectra as a Table that starts with SOURCE and ROW.

    Parameters
    ----------
    source : Path
        The file of spectra.
    **columns : array_like
        At least OBJID, CLASS, Z (NaN if unknown) and ZWARNING (-1 if the archive has none); ROW if not 0.
    """
    n = len(columns["OBJID"])
    table = Table(
        {"SOURCE": [str(source)] * n, "ROW": columns.pop("ROW", np.zeros(n, dtype=np.int64)), **columns}
    )
    table["Z"] = np.asarray(table["Z"], dtype=np.float64)
    return table
