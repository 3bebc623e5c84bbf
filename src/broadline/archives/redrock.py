"""What redrock found: its own files, and the zbest files of its first versions."""

from __future__ import annotations

import re
from pathlib import Path

from broadline.archives.fits_file import FitsFile
from broadline.errors import ReadError

__all__ = ["REDROCK", "SPECTRA_NAME", "beside", "redshifts"]

#: HDUs with a row a target: TARGETID, Z, ZWARN, SPECTYPE.
REDROCK = ("REDSHIFTS", "ZBEST")
#: DESI files of spectra that redrock files are named after.
SPECTRA_NAME = re.compile(r"(?:coadd|spectra)-(?P<what>.+?)\.fits(\.gz)?")


def redshifts(file: FitsFile) -> list[tuple[int, str, float, int]]:
    """Return TARGETID, SPECTYPE, Z and ZWARN of each row of a redrock or zbest file."""
    if file.fault:
        raise ReadError(file.path, file.fault)
    table = next((file.hdus[name].data for name in REDROCK if name in file.hdus), None)
    if table is None:
        raise ReadError(file.path, f"it has no HDU {' or '.join(REDROCK)}, so it is no redrock file")
    spectype = [name.strip() for name in table["SPECTYPE"].tolist()]
    numbers = (table[name].tolist() for name in ("TARGETID", "Z", "ZWARN"))
    return [(target, kind, z, flag) for kind, target, z, flag in zip(spectype, *numbers, strict=True)]


def beside(path: Path) -> Path:
    """Return the redrock or zbest file that belongs to a coadd or spectra file."""
    match = SPECTRA_NAME.fullmatch(path.name)
    names = [f"{kind}-{match['what']}.fits" for kind in ("redrock", "zbest")] if match else []
    for name in (name + suffix for name in names for suffix in ("", ".gz")):
        if path.with_name(name).exists():
            return path.with_name(name)
    wanted = " or ".join(names) or "redrock file known by its name (coadd-* and spectra-* have one)"
    raise ReadError(path, f"there is no {wanted} beside it to take the truth from")
