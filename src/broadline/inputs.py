"""What the user names -> files, each with its archive: files, folders, globs and lists."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from broadline import archives
from broadline.archives import pack
from broadline.errors import ReadError, UsageError
from broadline.spectra import Spectra

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["Inputs", "expand", "read", "read_truth"]

_SUFFIX = re.compile(r".*\.(fits?|fits?\.fz|csv|ecsv|parquet|arrow|dat|txt|dr\d+)(\.gz)?", re.IGNORECASE)
# Files that survey folders hold beside their spectra: results, calibration and photometry.
_COMPANION = re.compile(
    r"(spZ(best|all|line)|spFlux|spCFrame|spFrame|spSky|photo(Pos|Mat)|redrock|rrdetails|zbest|zmtl|qso_(qn|mgii)"
    r"|emline|tile-qa|exposure-qa|fiberflat|sky-|stdstars|fluxcalib|psf-|preproc|frame-|sframe|spAll|specObj"
    r"|superset|truth|dr\d+q|README|manifest)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Files in the order in which their spectra appear in the catalogue.

    Attributes
    ----------
    files : list of (Path, str)
        Each file with the name of its archive.
    faults : dict of Path to ReadError
        Files of no archive, because they could not be opened or made sense of; they are in `files` too, and
        become flagged rows.
    skipped : list of Path
        Files found in a folder that hold no spectra.
    repeated : int
        Files named more than once; each is read once.
    """

    files: list[tuple[Path, str]] = field(default_factory=list)
    faults: dict[Path, ReadError] = field(default_factory=dict)
    skipped: list[Path] = field(default_factory=list)
    repeated: int = 0


#: The archive name of files that belong to none.
UNKNOWN = "unknown"


def expand(names: Sequence[str | Path], archive: str | None = None) -> Inputs:
    """Return the files that `names` stand for.

    Parameters
    ----------
    names : sequence of str or Path
        Files, folders (searched recursively, in the order of their names), globs, or ``@LIST``, a text file
        with one such name a line.
    archive : str, optional
        Take every file for one of this archive instead of finding out.

    Raises
    ------
    UsageError
        If a name stands for nothing, a folder holds no spectra, or the archive is unknown.
    """
    if archive is not None:
        archives.get(archive)
    if not names:
        raise UsageError("no input: name files, folders, globs or @LIST")
    files: dict[Path, str] = {}
    faults: dict[Path, ReadError] = {}
    skipped: list[Path] = []
    repeated = 0
    seen: set[Path] = set()
    for path, found in _candidates(names):
        if (whole := path.absolute()) in seen:
            repeated += 1
            continue
        seen.add(whole)
        if found and archive is None and _COMPANION.match(path.name):
            skipped.append(path)
            continue
        try:
            kind = archive or _archive_of(path, found)
        except ReadError as error:
            kind, faults[path] = UNKNOWN, error
        if kind is None:
            skipped.append(path)
        else:
            files[path] = kind
    if not files:
        raise UsageError(f"no spectra found in {', '.join(map(str, names))}{_hint(skipped)}")
    return Inputs(_companions_together(list(files.items())), faults, skipped, repeated)


def _archive_of(path: Path, found: bool) -> str | None:
    """Return the archive of a file; None if it was found in a folder and holds no spectra."""
    archive = archives.identify(path)
    if archive is None and not found:
        raise ReadError(path, "it is no file of spectra that broadline knows; --archive forces a reader")
    return archive.name if archive else None


def _candidates(names: Iterable[str | Path], depth: int = 0) -> Iterator[tuple[Path, bool]]:
    """Yield each file behind the names, and whether it was found in a folder rather than named."""
    for name in names:
        text = str(name)
        path = Path(text).expanduser()
        if text.startswith("@") and depth == 0:
            yield from _candidates(_lines(Path(text[1:]).expanduser()), depth=1)
        elif path.is_dir():
            entries = list(_walk(path))
            if not entries:
                raise UsageError(f"folder {path} holds no file that could be a spectrum (.fits, .csv, ...)")
            yield from ((entry, True) for entry in entries)
        elif path.exists():
            yield path, False
        elif glob.has_magic(text):
            matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (a Path cannot be absolute)
            if not matches:
                raise UsageError(f"no file matches {text}")
            yield from _candidates(matches, depth=1)
        else:
            raise UsageError(f"no such file or folder: {path}")


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the list {path}: {error}") from error
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise UsageError(f"the list {path} names no file")
    return names


def _walk(folder: Path) -> Iterator[Path]:
    entered: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        if (place := os.path.realpath(root)) in entered:  # a link back up would never end
            folders.clear()
            continue
        entered.add(place)
        if pack.MANIFEST in names:  # it lists what there should be
            folders.clear()
            yield from pack.shards(Path(root))
            continue
        folders.sort()
        for name in sorted(names):
            if _SUFFIX.fullmatch(name) and not name.startswith("."):
                yield Path(root, name)


def _refuse(error: OSError) -> None:
    raise UsageError(f"cannot list the folder {error.filename}: {error.strerror}; mend that") from error


def _hint(skipped: Sequence[Path]) -> str:
    if not skipped:
        return ""
    return f"; {len(skipped)} files there are of other kinds, such as {skipped[0].name}"


def _companions_together(files: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Bring files whose spectra are read as one (the cameras of a DESI cframe) behind the first of them."""
    groups: dict[str, list[tuple[Path, str]]] = {}
    for path, name in files:
        group = archives.ARCHIVES[name].group if name != UNKNOWN else None
        groups.setdefault(group(path) if group else str(path), []).append((path, name))
    return [entry for members in groups.values() for entry in members]


def read(
    names: str | Path | Sequence[str | Path], archive: str | None = None, batch: int = 256
) -> Iterator[Spectra]:
    """Yield the spectra of some files, in input order, in batches that share a wavelength grid.

    Parameters
    ----------
    names : path or sequence of paths
        Files, folders, globs, or ``@LIST`` (see `expand`).
    archive : str, optional
        Take every file for one of this archive.
    batch : int
        Spectra a batch, at most.

    Raises
    ------
    UsageError
        If a name stands for nothing. A file that cannot be read raises nothing: it yields flagged rows.
    """
    inputs = expand([names] if isinstance(names, str | Path) else names, archive)
    for kind, group in groupby(inputs.files, key=lambda file: file[1]):
        yield from read_group(kind, [path for path, _ in group], batch, inputs.faults)


def read_group(
    kind: str, paths: Sequence[Path], batch: int, faults: dict[Path, ReadError]
) -> Iterator[Spectra]:
    """Yield the spectra of files of one archive, and flagged rows in the place of those known to be bad."""
    for at_fault, group in groupby(paths, key=faults.__contains__):
        if at_fault:
            yield from (Spectra.unreadable(kind, faults[path]) for path in group)
        else:
            yield from archives.read(archives.get(kind), list(group), batch)


def read_truth(names: str | Path | Sequence[str | Path], archive: str | None = None) -> Table:
    """Return what the archives themselves say of some spectra: class, redshift, warning; one row each.

    Parameters
    ----------
    names : path or sequence of paths
    archive : str, optional

    Returns
    -------
    Table
        Columns SOURCE, ROW, OBJID, CLASS, Z (NaN if unknown), ZWARNING (-1 if there is none), and the
        archive's own.

    Raises
    ------
    UsageError
        If a name stands for nothing.
    ReadError
        If a file has no truth; the message names it.
    """
    from astropy.table import vstack

    tables = []
    for path, kind in expand([names] if isinstance(names, str | Path) else names, archive).files:
        reader = archives.get(kind).truth if kind != UNKNOWN else None
        if reader is None:
            raise ReadError(path, "nothing is known of the truth for this kind of file")
        tables.append(reader(path))
    return vstack(tables, metadata_conflicts="silent")
