"""What every archive module is built from: the Archive record, guarded reading, and lattice batches."""

from __future__ import annotations

import gzip
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, SupportsInt

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.spectra import LATTICE_STEP, Spectra, identity, lattice_wavelength, mend

__all__ = [
    "GZIP",
    "Archive",
    "Head",
    "Single",
    "fault_of",
    "lattice_index",
    "masked_ivar",
    "object_name",
    "open_fits",
    "read_bytes",
    "read_files",
    "read_singles",
    "stack",
    "truth_table",
]

GZIP = b"\x1f\x8b"
_COMBINEREJ = np.int32(1 << 25)
# Batches of single-spectrum files start and end on multiples of this many lattice pixels, so that the
# resampling operator of one batch serves the next one too.
_WINDOW = 64


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
    """

    name: str
    title: str
    file_name: re.Pattern[str]
    recognise: Callable[[Head], bool]
    read: Callable[[Sequence[Path], int], Iterator[Spectra]]
    truth: Callable[[Path], Table] | None = None
    group: Callable[[Path], str] | None = None


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
        return ReadError(path, f"it has no {text}, which this layout needs")
    return ReadError(path, text or type(error).__name__)


def read_files(
    archive: str, paths: Sequence[Path], read_file: Callable[[Path], Iterator[Spectra]]
) -> Iterator[Spectra]:
    """Yield the spectra of each file; a file that fails becomes flagged rows in its place.

    The guard catches every Exception on purpose: the bytes of a damaged file can raise anything in the
    libraries below, and one damaged file must not cost the others their rows.
    """
    for path in paths:
        try:
            yield from read_file(path)
        except Exception as error:
            yield Spectra.unreadable(archive, fault_of(path, error))


def lattice_index(loglam: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return the lattice index of each pixel, or None if the pixels are not consecutive lattice points.

    Parameters
    ----------
    loglam : ndarray of float, shape (n_pixels,)
        log10 of the vacuum wavelength in Angstrom (float32 in the archives' files: good to 0.003 pixel).
    """
    if len(loglam) < 2 or not np.isfinite(loglam[0]):
        return None
    first = round(float(loglam[0]) / LATTICE_STEP)
    index = np.arange(first, first + len(loglam))
    # written so that a NaN anywhere makes it false
    consecutive = (np.abs(loglam - index * LATTICE_STEP) < 0.05 * LATTICE_STEP).all()
    return index if consecutive else None


class Single(NamedTuple):
    """What one file of one spectrum holds, if its pixels lie on the SDSS lattice."""

    path: Path
    first: int  # lattice index of the first pixel
    flux: NDArray[np.float32]  # (n_pixels,)
    ivar: NDArray[np.float32]  # (n_pixels,)
    flags: int
    ids: dict[str, Any]  # scalars for columns of IDENTITY


def stack(archive: str, items: Sequence[Single | ReadError]) -> Spectra:
    """Return single spectra as one batch on the lattice, padded with ivar 0; errors become flagged rows."""
    good = [item for item in items if isinstance(item, Single)]
    first = min((item.first for item in good), default=0) // _WINDOW * _WINDOW
    end = max((item.first + len(item.flux) for item in good), default=_WINDOW)
    n_pixels = -(-(end - first) // _WINDOW) * _WINDOW
    flux = np.zeros((len(items), n_pixels), dtype=np.float32)
    ivar = np.zeros_like(flux)
    flags = np.zeros(len(items), dtype=np.uint32)
    columns: dict[str, list[Any]] = {name: [] for name in (good[0].ids if good else ())}
    missing = {
        name: "" if name in ("OBJID", "PLANID") else np.nan if name in ("RA", "DEC") else -1
        for name in columns
    }
    for row, item in enumerate(items):
        if isinstance(item, Single):
            pixels = slice(item.first - first, item.first - first + len(item.flux))
            flux[row, pixels] = item.flux
            ivar[row, pixels] = item.ivar
            flags[row] = item.flags
        else:
            flags[row] = item.flag | Flag.NO_IDENTITY
        values = item.ids if isinstance(item, Single) else missing
        for name, column in columns.items():
            column.append(values[name])
    flux, ivar, mended = mend(flux, ivar)
    ids = identity(
        archive,
        [str(item.path) for item in items],
        row=np.where(flags & Flag.UNREADABLE, -1, 0),
        **columns,
    )
    notes = tuple(str(item) for item in items if isinstance(item, ReadError))
    return Spectra(lattice_wavelength(first, n_pixels), flux, ivar, ids, flags | mended, notes)


def read_singles(
    archive: str, paths: Sequence[Path], batch: int, read_one: Callable[[Path], Single]
) -> Iterator[Spectra]:
    """Yield batches of files of one spectrum each, on the lattice; a file that fails becomes a flagged row.

    Parameters
    ----------
    archive : str
    paths : sequence of Path
    batch : int
        Spectra a batch.
    read_one : callable
        Path -> Single; it may raise anything.
    """
    for start in range(0, len(paths), batch):
        yield stack(archive, [_guarded(path, read_one) for path in paths[start : start + batch]])


def _guarded(path: Path, read_one: Callable[[Path], Single]) -> Single | ReadError:
    try:
        return read_one(path)
    except Exception as error:  # see read_files
        return fault_of(path, error)


def masked_ivar(ivar: NDArray[np.float32], and_mask: NDArray[Any]) -> NDArray[np.float32]:
    """Return `ivar` with 0 where SDSS's and_mask has COMBINEREJ, rejected in every exposure combined.

    Bit 25 is the one that the authors of QuasarNET mask; the other bits mostly warn of pixels whose ivar
    already says how good they are (bit 23, BRIGHTSKY, alone would cost a twentieth of all pixels).
    """
    rejected = (and_mask & _COMBINEREJ) != 0
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
