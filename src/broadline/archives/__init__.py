"""Survey files <-> Spectra and truth: one module an archive, and the registry that tells them apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from broadline.archives import desi, foreign, lamost, pack, parsed, sdss, sdss_early, sdss_plate, table
from broadline.archives.base import Archive, Head, fault_of
from broadline.errors import ReadError, UsageError
from broadline.patience import patiently
from broadline.spectra import Spectra

__all__ = ["ARCHIVES", "get", "identify", "read"]

#: In the order in which a file is offered to them; the generic tables come last.
ARCHIVES: dict[str, Archive] = {
    archive.name: archive
    for module in (sdss, sdss_plate, sdss_early, lamost, desi, parsed, pack, table, foreign)
    for archive in module.ARCHIVES
}


_FITS_NAME = re.compile(r".*\.fits?(\.gz)?", re.IGNORECASE)


def get(name: str) -> Archive:
    """Return the archive called `name`.

    Raises
    ------
    UsageError
        If there is none; the message lists those there are.
    """
    if name not in ARCHIVES:
        raise UsageError(f"unknown archive {name!r}; choose one of {', '.join(ARCHIVES)}")
    return ARCHIVES[name]


def identify(path: Path) -> Archive | None:
    """Return the archive whose file `path` is, or None if it is of no kind known here.

    The name decides where it is unmistakable; else the content does.

    Raises
    ------
    ReadError
        If the file cannot be opened, is empty, or is FITS with broken headers.
    """
    for archive in ARCHIVES.values():
        if archive.file_name.fullmatch(path.name):
            return archive
    try:
        return patiently(path, _recognised)
    except Exception as error:
        raise fault_of(path, error) from error


def _recognised(path: Path) -> Archive | None:
    """Return the archive that knows a file by its content."""
    head = Head(path)
    found = next((archive for archive in ARCHIVES.values() if archive.recognise(head)), None)
    if found is None and _FITS_NAME.fullmatch(path.name) and not head.is_fits:
        raise ReadError(path, "it is not a FITS file, whatever its name says; fetch it again")
    return found


def read(archive: Archive, paths: Sequence[Path], batch: int) -> Iterator[Spectra]:
    """Yield batches of at most `batch` spectra from files of one archive, in input order."""
    for spectra in archive.read(paths, batch):
        if 0 < len(spectra) <= batch:
            yield spectra
            continue
        for start in range(0, len(spectra), batch):
            part = spectra[start : start + batch]
            yield replace(part, notes=()) if start else part  # each reason is told once
