"""DESI: coadd, spectra and cframe files to Spectra, and redrock or zbest files to truth.

Layouts: the DESI data model, https://desidatamodel.readthedocs.io. Wavelengths are vacuum Angstrom. The
cameras b, r and z overlap a little and lie on one linear lattice, 3600 + 0.8 k Angstrom, so that they merge
without resampling.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from broadline.archives.base import Archive, Head, fault_of, read_files
from broadline.archives.fits_file import FitsFile, columns_of, open_checked
from broadline.archives.redrock import REDROCK, SPECTRA_NAME, beside, redshifts
from broadline.errors import ReadError
from broadline.flags import Flag, mark
from broadline.patience import is_passing
from broadline.spectra import Spectra, identity, mend

__all__ = ["ARCHIVES", "merge", "read", "truth"]

_CFRAME = re.compile(r"cframe-(?P<camera>[brz])(?P<spectrograph>\d)-(?P<exposure>\d+)\.fits(\.gz)?")
# Prefixes of HDU names: three cameras, or all of them coadded, or the one camera of a frame.
_PREFIXES = ("B_", "R_", "Z_", "BRZ_", "")
_IMAGES = ("FLUX", "IVAR", "MASK", "WAVELENGTH")
# Pixels of two cameras are the same pixel if they agree to this fraction of one.
_TOLERANCE = 0.01
# A damaged header may promise any number of rows; no DESI file comes near this one.
_MOST_SPECTRA = 1_000_000
# In files of survey validation DESI_TARGET is 0 and the column of that phase holds the bits.
_TARGETING = ("DESI_TARGET", "SV3_DESI_TARGET", "SV2_DESI_TARGET", "SV1_DESI_TARGET", "CMX_TARGET")
_RA = ("TARGET_RA", "RA_TARGET", "FIBER_RA", "MEAN_FIBER_RA")
_DEC = ("TARGET_DEC", "DEC_TARGET", "FIBER_DEC", "MEAN_FIBER_DEC")
_STATUS = ("COADD_FIBERSTATUS", "FIBERSTATUS")
_FIBERMAP = frozenset(["TARGETID", "FIBER", "OBJTYPE", *_RA, *_DEC, *_STATUS, *_TARGETING])


def _promised(file: FitsFile) -> int:
    """Return how many spectra the headers promise; 1 if they do not say."""
    for kind in ("FLUX", "IVAR", "MASK", "FIBERMAP"):
        hdus = [file.hdus[prefix + kind] for prefix in _PREFIXES if prefix + kind in file.hdus]
        promised = max((int(hdu.header.get("NAXIS2", 0)) for hdu in hdus), default=0)
        if 0 < promised <= _MOST_SPECTRA:
            return promised
    return 1


_Fibres = Mapping[str, NDArray[Any]]  # columns of a FIBERMAP


@dataclass(frozen=True)
class _Camera:
    """One camera of a file, its rows still on disk."""

    wavelength: NDArray[np.float64]
    flux: Any
    ivar: Any
    mask: Any | None

    def read(self, rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint32]]:
        """Return flux, ivar and flags of some rows, masked pixels with ivar 0."""
        flux = np.array(self.flux.section[rows], dtype=np.float32)
        ivar = np.array(self.ivar.section[rows], dtype=np.float32)
        if self.mask is not None:
            ivar[self.mask.section[rows] != 0] = 0
        return mend(flux, ivar)


@dataclass(frozen=True)
class _Exposure:
    """The cameras of the same fibres, each with its first pixel on the common grid, and their identity."""

    source: Path
    wavelength: NDArray[np.float64]
    cameras: list[tuple[int, _Camera]]
    ids: dict[str, NDArray[Any]]
    flags: NDArray[np.uint32]

    def read(self, rows: slice) -> Spectra:
        """Return some rows, merged; if they cannot be read they keep their identity and carry no data."""
        flags = self.flags[rows].copy()
        ids = {name: column[rows] for name, column in self.ids.items()}
        try:
            parts = []
            for first, camera in self.cameras:
                flux, ivar, mended = camera.read(rows)
                parts.append((first, flux, ivar))
                flags |= mended
            return Spectra(self.wavelength, *merge(parts), ids, flags)
        except Exception as error:  # as in read_files: a damaged block must not cost the others their rows
            if is_passing(error):
                raise
            nothing = np.zeros((len(flags), 2), dtype=np.float32)
            flags |= np.uint32(Flag.UNREADABLE)
            note = str(fault_of(self.source, error))
            return Spectra(np.array([1.0, 2.0]), nothing, nothing, ids, flags, (note,))


def merge(
    parts: Sequence[tuple[int, NDArray[np.float32], NDArray[np.float32]]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the inverse-variance mean of cameras whose pixels coincide.

    Parameters
    ----------
    parts : sequence of (int, ndarray of float32, ndarray of float32)
        For each camera its first pixel on the common grid, its flux and its ivar, both of shape
        (n_spectra, n_pixels of that camera); finite, ivar not negative.

    Returns
    -------
    flux, ivar : ndarray of float32, shape (n_spectra, n_pixels)
        ``sum(flux * ivar) / sum(ivar)`` and ``sum(ivar)``; where one camera alone looked, its numbers.
        Both are 0 in gaps, and where cameras overlap without any weight.
    """
    n_pixels = max(first + flux.shape[1] for first, flux, _ in parts)
    flux = np.zeros((len(parts[0][1]), n_pixels), dtype=np.float32)
    ivar = np.zeros_like(flux)
    end = 0
    for first, new_flux, new_ivar in sorted(parts, key=lambda part: part[0]):
        stop = first + new_flux.shape[1]
        n_shared = min(max(end - first, 0), new_flux.shape[1])
        shared, alone = slice(first, first + n_shared), slice(first + n_shared, stop)
        old, new = ivar[:, shared].astype(np.float64), new_ivar[:, :n_shared].astype(np.float64)
        total = old + new
        weighted = flux[:, shared] * old + new_flux[:, :n_shared] * new
        flux[:, shared] = np.divide(weighted, total, out=np.zeros_like(total), where=total > 0)
        ivar[:, shared] = total
        flux[:, alone], ivar[:, alone] = new_flux[:, n_shared:], new_ivar[:, n_shared:]
        end = max(end, stop)
    return flux, ivar


def _camera(file: FitsFile, prefix: str) -> _Camera:
    """Return one camera of a file after checking that its parts fit together."""
    flux, ivar, wave = (file.hdus[prefix + kind] for kind in ("FLUX", "IVAR", "WAVELENGTH"))
    mask = file.hdus.get(prefix + "MASK")
    wavelength = np.asarray(wave.data, dtype=np.float64)
    shapes = {hdu.name: getattr(hdu, "shape", ()) for hdu in (flux, ivar, mask) if hdu is not None}
    shape = shapes[flux.name]
    if len(shape) != 2 or wavelength.shape != shape[1:] or set(shapes.values()) != {shape}:
        said = ", ".join(f"{name} {size}" for name, size in ({wave.name: wavelength.shape} | shapes).items())
        raise ReadError(file.path, f"shapes that do not fit together: {said}")
    if len(wavelength) < 2 or not np.isfinite(wavelength).all() or not (np.diff(wavelength) > 0).all():
        reason = f"{wave.name} is not at least two finite and strictly increasing numbers"
        raise ReadError(file.path, reason, Flag.BAD_WAVELENGTH)
    return _Camera(wavelength, flux, ivar, mask)


def _cameras(file: FitsFile) -> list[_Camera]:
    """Return the cameras of a file; any one of its HDUs tells that a camera should be there."""
    if file.fault:
        raise ReadError(file.path, file.fault)
    there = [prefix for prefix in _PREFIXES if any(prefix + kind in file.hdus for kind in _IMAGES)]
    if not there:
        raise ReadError(file.path, "no DESI spectra in it: no HDU FLUX, B_FLUX, R_FLUX, Z_FLUX or BRZ_FLUX")
    separate = [prefix for prefix in there if prefix in _PREFIXES[:3]]
    return [_camera(file, prefix) for prefix in separate or there[:1]]


def _lattice(path: Path, waves: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], list[int]]:
    """Return the grid that cameras share (Angstrom) and the position on it of each camera's first pixel."""
    if len(waves) == 1:
        return waves[0], [0]
    longest = max(waves, key=len)
    step = (longest[-1] - longest[0]) / (len(longest) - 1)
    origin = min(wave[0] for wave in waves)
    firsts = []
    for wave in waves:
        exact = (wave - origin) / step
        index = np.rint(exact)
        off = np.abs(exact - index).max()
        if off > _TOLERANCE or (np.diff(index) != 1).any():
            where = f"the one from {wave[0]:.6g} Angstrom is {off:.2g} pixel ({step:.6g} Angstrom each) off"
            raise ReadError(path, f"its cameras share no lattice of wavelengths: {where}, or skips pixels")
        firsts.append(int(index[0]))
    n_pixels = max(first + len(wave) for first, wave in zip(firsts, waves, strict=True))
    return origin + step * np.arange(n_pixels), firsts


def _column(table: _Fibres, names: Sequence[str], n: int, missing: Any) -> NDArray[Any] | None:
    """Return the first of the named columns that the table has, cut or filled to n rows."""
    name = next((name for name in names if name in table), None)
    if name is None:
        return None
    values = table[name][:n]
    column = np.full(n, missing, dtype=values.dtype if values.dtype.kind in "SU" else None)
    column[: len(values)] = values
    return column


def _targeting(table: _Fibres, n: int) -> NDArray[Any] | None:
    """Return for each row the first targeting mask that is not 0; -1 beyond the table."""
    masks = [mask for name in _TARGETING if (mask := _column(table, [name], n, -1)) is not None]
    for mask in masks[1:]:
        masks[0] = np.where(masks[0] == 0, mask, masks[0])
    return masks[0] if masks else None


def _identity(source: Path, table: _Fibres, n: int) -> tuple[dict[str, NDArray[Any]], NDArray[np.uint32]]:
    """Return the identity columns of n spectra, and NO_IDENTITY where the FIBERMAP has none."""
    found = {
        "TARGETID": _column(table, ["TARGETID"], n, -1),
        "RA": _column(table, _RA, n, np.nan),
        "DEC": _column(table, _DEC, n, np.nan),
        "FIBERID": _column(table, ["FIBER"], n, -1),
        "DESI_TARGET": _targeting(table, n),
    }
    columns = {name: column for name, column in found.items() if column is not None}
    known = np.arange(n) < len(table.get("TARGETID", ()))
    targetid = columns.setdefault("TARGETID", np.full(n, -1))
    columns["OBJID"] = np.where(known, targetid.astype(str), "")
    flags = np.where(known, 0, Flag.NO_IDENTITY).astype(np.uint32)
    return identity("desi", [str(source)] * n, row=np.arange(n), **columns), flags


def _mark_fibres(flags: NDArray[np.uint32], table: _Fibres) -> None:
    """Mark in place the fibres of which a FIBERMAP says that they saw the sky, or that they are bad."""
    objtype = _column(table, ["OBJTYPE"], len(flags), "")
    if objtype is not None:
        mark(flags, objtype == "SKY", Flag.SKY_FIBRE)
    status = _column(table, _STATUS, len(flags), 0)
    if status is not None:
        mark(flags, status != 0, Flag.BAD_FIBRE)


def _assemble(files: Sequence[FitsFile]) -> _Exposure:
    """Return the exposure that one file holds, or several which hold a camera each."""
    source = files[0].path
    cameras = [camera for file in files for camera in _cameras(file)]
    counts = {camera.flux.shape[0] for camera in cameras}
    if len(counts) > 1:
        raise ReadError(source, f"its cameras hold different numbers of spectra: {sorted(counts)}")
    n = counts.pop()
    wavelength, firsts = _lattice(source, [camera.wavelength for camera in cameras])
    maps = [file.hdus.get("FIBERMAP") for file in files]
    tables = [columns_of(hdu, _FIBERMAP) for hdu in maps if isinstance(hdu, fits.BinTableHDU)]
    ids, flags = _identity(source, tables[0] if tables else {}, n)
    for table in tables:
        _mark_fibres(flags, table)
    return _Exposure(source, wavelength, list(zip(firsts, cameras, strict=True)), ids, flags)


def _read_exposure(paths: Sequence[Path], batch: int, source: Path) -> Iterator[Spectra]:
    """Yield the merged spectra of one file, or of the camera files of one exposure."""
    with ExitStack() as stack:
        files = [open_checked(path, stack) for path in paths]
        try:
            exposure = _assemble(files)
        except Exception as error:
            fault = fault_of(source, error)
            reason = fault.reason if fault.path == source else f"{fault.path.name}: {fault.reason}"
            promised = max(_promised(file) for file in files)
            raise ReadError(source, reason, fault.flag, promised) from error
        n = len(exposure.flags)
        for start in range(0, n, batch):
            yield exposure.read(slice(start, min(start + batch, n)))


def _group(path: Path) -> str:
    """Return the key that the camera files of one spectrograph and exposure share; others stand alone."""
    frame = _CFRAME.fullmatch(path.name)
    return f"{path.parent}/cframe-{frame['spectrograph']}-{frame['exposure']}" if frame else str(path)


def _exposures(paths: Sequence[Path]) -> list[list[Path]]:
    """Return the paths, camera files of one spectrograph and exposure together in the place of the first."""
    groups: dict[tuple[str, int], list[Path]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for path in paths:
        key = _group(path)
        frame = _CFRAME.fullmatch(path.name)
        camera = (key, frame["camera"] if frame else "")
        # A camera named again begins another exposure: no file is dropped, or merged with itself.
        groups.setdefault((key, seen[camera]), []).append(path)
        seen[camera] += 1
    return list(groups.values())


def read(paths: Sequence[Path], batch: int) -> Iterator[Spectra]:
    """Yield the spectra of DESI coadd, spectra and cframe files, cameras merged, at most `batch` at a time.

    Parameters
    ----------
    paths : sequence of Path
        Those of the camera files (cframe) of one spectrograph and exposure that are in the list come out
        once, merged, in the place of the first of them, which is their SOURCE. No other file is read.
    batch : int
        At most this many rows are read and held at a time.
    """
    for group in _exposures(paths):
        yield from read_files("desi", group[:1], partial(_read_exposure, group, batch))


def _matched(exposure: _Exposure, fitted: Sequence[tuple[int, str, float, int]]) -> list[Any]:
    """Return for each spectrum the first row of its TARGETID, or one that says that there is none."""
    row_of = {str(row[0]): row for row in reversed(fitted)}
    ids = zip(exposure.ids["OBJID"], exposure.ids["TARGETID"].tolist(), strict=True)
    return [row_of.get(objid, (target, "", np.nan, -1)) for objid, target in ids]


def truth(path: Path) -> Table:
    """Return the class and redshift that redrock found, one row a spectrum.

    Parameters
    ----------
    path : Path
        A redrock or zbest file, whose rows are returned as they are; or a coadd or spectra file, for each row
        of which the redrock or zbest file of the same name beside it is searched for the same TARGETID.

    Returns
    -------
    Table
        SOURCE, ROW, OBJID, TARGETID, CLASS (redrock's SPECTYPE), Z and ZWARNING. A spectrum that redrock does
        not have, or whose TARGETID is not known, has CLASS "", Z NaN and ZWARNING -1.

    Raises
    ------
    ReadError
        If one of the files cannot be read, or no redrock or zbest file lies beside the spectra.
    """
    try:
        with ExitStack() as stack:
            file = open_checked(path, stack)
            if any(name in file.hdus for name in REDROCK):
                rows = redshifts(file)
                objid = [str(target) for target, *_ in rows]
            else:
                exposure = _assemble([file])
                rows = _matched(exposure, redshifts(open_checked(beside(path), stack)))
                objid = exposure.ids["OBJID"].tolist()
    except Exception as error:
        raise fault_of(path, error) from error
    names, types = ("TARGETID", "CLASS", "Z", "ZWARNING"), (np.int64, str, np.float64, np.int64)
    table = Table(rows=rows or None, names=names, dtype=types)
    who = [np.full(len(rows), str(path)), np.arange(len(rows)), np.array(objid, dtype=str)]
    table.add_columns(who, [0, 0, 0], ["SOURCE", "ROW", "OBJID"])
    return table


def _recognise(head: Head) -> bool:
    names = set(head.hdu_names)
    if any({f"{prefix}FLUX", f"{prefix}IVAR"} <= names for prefix in _PREFIXES[:4]):
        return True
    # frame and sframe files look like cframe files but are not flux-calibrated.
    return {"FLUX", "IVAR", "WAVELENGTH", "FIBERMAP"} <= names and "electron" not in head.card("BUNIT")


ARCHIVES = (
    Archive(
        name="desi",
        title="DESI coadd, spectra and cframe files",
        file_name=re.compile(f"{SPECTRA_NAME.pattern}|{_CFRAME.pattern}"),
        recognise=_recognise,
        read=read,
        truth=truth,
        group=_group,
    ),
)
