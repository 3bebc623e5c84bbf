"""Spectra of no particular survey: tables of one spectrum, SDSS text files, and what specutils can read.

Archive ``table``: CSV, ECSV, text in columns, FITS table or Parquet; text and FITS also gzipped. Columns are
found by name (`SYNONYMS`, any case). Text needs a line with the names before the data, commented or not;
comments before the data such as ``# AIRORVAC = air`` are heeded. Wavelengths without a unit are Angstrom, in
vacuum unless the file says otherwise (AIRORVAC 'air', VACUUM false, AIR true) or the caller does.

Archive ``sdss-ascii``: DR9 coadds as text, ``spec-PLATE-MJD-FIBER.dr9[.gz]``: eleven columns, no header.

Archive ``specutils``: whatever `specutils.Spectrum.read` knows; only when asked for by name.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.io import ascii as text_tables
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from broadline.archives.base import (
    Archive,
    Head,
    Single,
    fault_of,
    lattice_index,
    masked_ivar,
    object_name,
    open_fits,
    read_bytes,
    read_files,
    stack,
)
from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.spectra import Spectra, identity, mend

__all__ = ["ARCHIVES", "SYNONYMS", "air_to_vacuum", "gather", "place", "read_table"]

#: Column names understood, in any case; the first one found counts.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "wavelength": ("wave", "wavelength", "lambda", "lam", "loglam"),
    "flux": ("flux", "flam"),
    "ivar": ("ivar",),
    "error": ("err", "error", "sigma", "flux_err", "flux_error", "uncertainty"),
}
_WANTED = "wavelength ({}), flux ({}), and ivar or error ({})".format(
    *(", ".join(SYNONYMS[kind]) for kind in ("wavelength", "flux", "error"))
)
_TEXT_NAME = re.compile(r".+\.(csv|ecsv|dat|txt)(\.gz)?", re.IGNORECASE)
_NEVER = re.compile(r"(?!)")
_SDSS_ASCII_NAME = re.compile(r"spec-(\d{4,5})-(\d{5})-(\d{4})\.dr9(\.gz)?")
_PER_WAVELENGTH = (
    u.erg / u.s / u.cm**2 / u.AA,
    u.erg / u.s / u.AA,
    u.erg / u.s / u.cm**2 / u.AA / u.sr,
)


# -- wavelengths, shared with the other archives -------------------------------------------------------------


def _refraction(vacuum: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the refractive index of standard air (15 C, 101325 Pa, 450 ppm CO2): Ciddor 1996, eq. 1."""
    wavenumber2 = (1e4 / vacuum) ** 2  # 1 / micron^2
    return 1 + 0.05792105 / (238.0185 - wavenumber2) + 0.00167917 / (57.362 - wavenumber2)


def air_to_vacuum(wavelength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the vacuum wavelengths of wavelengths in standard air.

    The refractive index is that of Ciddor (1996, Applied Optics 35, 1566), a function of vacuum wavelength;
    it is inverted by iteration to better than 1e-9 Angstrom. The formula of Morton (2000, ApJS 130, 403)
    agrees to 0.001. Below 2000 Angstrom wavelengths are quoted in vacuum by custom and stay as they are.

    Parameters
    ----------
    wavelength : ndarray of float64, any shape
        In air, Angstrom.
    """
    air = np.asarray(wavelength, dtype=np.float64)
    far = air >= 2000
    vacuum = np.where(far, air, 2000.0)
    start = vacuum.copy()
    for _ in range(4):  # each turn gains four digits
        vacuum = start * _refraction(vacuum)
    return np.where(far, vacuum, air)


def _ascending(path: Path, wavelength: NDArray[np.float64]) -> slice:
    """Return the slice that puts wavelengths into ascending order, or raise a ReadError if none does."""
    if len(wavelength) == 0:
        raise ReadError(path, "the spectrum has no pixels")
    order = slice(None, None, -1 if wavelength[0] > wavelength[-1] else 1)
    steps = np.diff(wavelength[order], prepend=0.0)  # the first is positive where the wavelengths are
    if not (np.isfinite(wavelength).all() and (steps > 0).all()):
        reason = "its wavelengths are not finite, positive and strictly monotonic"
        raise ReadError(path, reason, Flag.BAD_WAVELENGTH)
    return order


def place(
    archive: str,
    path: Path,
    wavelength: NDArray[np.float64],
    flux: NDArray[Any],
    ivar: NDArray[Any],
    flags: int,
    ids: dict[str, Any],
) -> Single | Spectra:
    """Return one spectrum on the SDSS lattice if its pixels lie there, else on its own grid.

    Parameters
    ----------
    archive : str
    path : Path
    wavelength : ndarray of float64, shape (n_pixels,)
        Vacuum Angstrom; descending is turned round.
    flux, ivar : ndarray, shape (n_pixels,)
    flags : int
    ids : dict of str to scalar
        Values for columns of `IDENTITY`.

    Raises
    ------
    ReadError
        With ``Flag.BAD_WAVELENGTH`` if the wavelengths are not finite, positive and strictly monotonic.
    """
    order = _ascending(path, wavelength)
    wavelength = wavelength[order]
    flux, ivar = flux[order].astype(np.float32), ivar[order].astype(np.float32)
    # The lattice is for optical spectra: a batch that spans decades of wavelength would not fit in memory.
    index = lattice_index(np.log10(wavelength)) if 1e3 < wavelength[0] < wavelength[-1] < 1e5 else None
    if index is not None:
        return Single(path, int(index[0]), flux, ivar, flags, ids)
    flux, ivar, mended = mend(flux[None], ivar[None])
    values: dict[str, Any] = {name: [value] for name, value in ids.items()}
    columns = identity(archive, [str(path)], **values)
    return Spectra(wavelength, flux, ivar, columns, mended | np.uint32(flags))


def gather(
    archive: str, paths: Sequence[Path], batch: int, read_one: Callable[[Path], Single | Spectra]
) -> Iterator[Spectra]:
    """Yield files of one spectrum each as batches, in their order; a file that fails becomes a flagged row.

    Neighbours share a batch if they lie on the lattice or have the same grid. The guard catches every
    Exception for the reason given in `read_files`.
    """
    held: list[Single | ReadError | Spectra] = []
    for path in paths:
        item: Single | ReadError | Spectra
        try:
            item = read_one(path)
        except Exception as error:
            item = fault_of(path, error)
        if held and (len(held) >= batch or not _alike(held[-1], item)):
            yield _together(archive, held)
            held = []
        held.append(item)
    if held:
        yield _together(archive, held)


def _alike(a: Single | ReadError | Spectra, b: Single | ReadError | Spectra) -> bool:
    if isinstance(a, Spectra) and isinstance(b, Spectra):
        return np.array_equal(a.wavelength, b.wavelength) and a.ids.keys() == b.ids.keys()
    return not isinstance(a, Spectra) and not isinstance(b, Spectra)


def _together(archive: str, items: Sequence[Single | ReadError | Spectra]) -> Spectra:
    own_grid = [item for item in items if isinstance(item, Spectra)]
    if not own_grid:
        return stack(archive, [item for item in items if not isinstance(item, Spectra)])
    return Spectra(
        own_grid[0].wavelength,
        np.concatenate([spectra.flux for spectra in own_grid]),
        np.concatenate([spectra.ivar for spectra in own_grid]),
        {name: np.concatenate([spectra.ids[name] for spectra in own_grid]) for name in own_grid[0].ids},
        np.concatenate([spectra.flags for spectra in own_grid]),
    )


# -- archive "table" -----------------------------------------------------------------------------------------


def _roles(names: Sequence[str]) -> dict[str, str]:
    """Return which of the columns called `names` is the wavelength, the flux, the ivar and the error."""
    known = {name.strip().lower(): name for name in reversed(names)}
    found = {kind: [known[name] for name in synonyms if name in known] for kind, synonyms in SYNONYMS.items()}
    return {kind: names[0] for kind, names in found.items() if names}


def _complete(roles: Mapping[str, str]) -> bool:
    return {"wavelength", "flux"} <= roles.keys() and bool({"ivar", "error"} & roles.keys())


def _fields(line: str) -> list[str]:
    fields = line.split(",") if "," in line else line.split()
    return [field.strip().strip("\"'") for field in fields]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _layout_of_text(lines: Sequence[str]) -> tuple[list[str], list[str], int, list[str]]:
    """Return the column names (or []), the first row, its line number, and the comments before it."""
    comments: list[str] = []
    names: list[str] = []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        if line.startswith("#"):
            comments.append(line.lstrip("# ").rstrip())
            continue
        row = _fields(line)
        if names or any(_is_number(field) for field in row):
            commented = (_fields(comment) for comment in reversed(comments))
            names = names or next((fields for fields in commented if len(fields) == len(row)), [])
            return names, row, number, comments
        names = row
    return names, [], len(lines), comments


def _recognise_text(head: Head) -> bool:
    lines = head.start.decode("utf-8", "replace").splitlines()
    names, row, _, _ = _layout_of_text(lines)
    roles = _roles(names)
    if not _complete(roles) or len(row) != len(names):
        return False
    values = dict(zip(names, row, strict=True))
    return all(_is_number(values[name]) for kind, name in roles.items() if kind in ("wavelength", "flux"))


def _recognise_parquet(head: Head) -> bool:
    from pyarrow import parquet, types

    schema = parquet.read_schema(head.path)
    roles = _roles(schema.names)
    return _complete(roles) and all(types.is_floating(schema.field(name).type) for name in roles.values())


def _spectrum_hdu(hdus: fits.HDUList) -> fits.BinTableHDU | None:
    """Return the first table whose columns are those of one spectrum: numbers, or arrays in a single row."""
    for hdu in hdus:
        if isinstance(hdu, fits.BinTableHDU):
            roles = _roles(hdu.columns.names)
            formats = [hdu.columns[name].format for name in roles.values()]
            shape = r"\d*[DEIJK]" if hdu.header["NAXIS2"] == 1 else "1?[DEIJK]"
            if _complete(roles) and all(re.fullmatch(shape, text) for text in formats):
                return hdu
    return None


def _recognise_table(head: Head) -> bool:
    """Tell from names and types, or the first lines, whether this is a spectrum; nothing else is read."""
    if head.is_fits:
        with open_fits(head.path) as hdus:
            return _spectrum_hdu(hdus) is not None
    if head.start.startswith(b"PAR1"):
        return _recognise_parquet(head)
    return _TEXT_NAME.fullmatch(head.path.name) is not None and _recognise_text(head)


def _load_text(content: bytes) -> Table:
    lines = content.decode("utf-8-sig", "replace").splitlines()
    if lines and lines[0].startswith("# %ECSV"):
        return text_tables.read(lines, format="ecsv", guess=False)
    names, row, start, comments = _layout_of_text(lines)
    if not row or not names:
        return Table(names=names or None)
    delimiter = "," if "," in lines[start] else r"\s"
    unique = [name if name not in names[:at] else f"{name}_{at}" for at, name in enumerate(names)]
    table = text_tables.read(
        lines[start:], format="no_header", names=unique, delimiter=delimiter, comment="#", guess=False
    )
    pairs = (re.fullmatch(r"(\w+)\s*[=:]\s*(.+)", comment) for comment in comments)
    table.meta.update({pair[1]: pair[2].strip(" '\"") for pair in pairs if pair})
    return table


def _load_fits(path: Path) -> Table:
    with open_fits(path) as hdus:
        hdu = _spectrum_hdu(hdus)
        if hdu is None:
            tables = [table for table in hdus if isinstance(table, fits.BinTableHDU)]
            raise _lacking(path, [name for table in tables for name in table.columns.names])
        table = Table(meta={**hdus[0].header, **hdu.header})
        for name in _roles(hdu.columns.names).values():
            table[name] = np.asarray(hdu.data[name]).ravel()
            table[name].unit = hdu.columns[name].unit
    return table


def _load(path: Path) -> Table:
    head = Head(path)
    if head.is_fits:
        return _load_fits(path)
    if head.start.startswith(b"PAR1"):
        return Table.read(path, format="parquet")
    return _load_text(read_bytes(path))


def _lacking(path: Path, names: Sequence[str]) -> ReadError:
    found = ", ".join(names) if names else "none"
    return ReadError(path, f"not one spectrum with named columns: wanted {_WANTED}; found {found}")


def _values(path: Path, table: Table, name: str) -> NDArray[np.float64]:
    """Return a column as numbers, NaN where they are missing."""
    try:
        values = np.ma.filled(np.ma.asarray(table[name]).astype(np.float64), np.nan)
    except (TypeError, ValueError) as error:
        raise ReadError(path, f"column {name} holds what is not a number ({error})") from error
    if values.ndim != 1:
        raise ReadError(path, f"column {name} has shape {values.shape}: one spectrum a file is expected")
    return np.asarray(values)


def _unit(column: Any) -> Any:
    """Return the unit of a column, None if it has none that is understood."""
    unit = u.Unit(column.unit if column.unit is not None else "", parse_strict="silent")
    return None if isinstance(unit, u.UnrecognizedUnit) or unit == u.dimensionless_unscaled else unit


def _angstrom(path: Path, table: Table, name: str) -> NDArray[np.float64]:
    values = _values(path, table, name)
    unit = str(table[name].unit or "").strip()
    with np.errstate(all="ignore"):  # what is not finite is found, and named, by `place`
        if name.lower() == "loglam":
            return np.asarray(10.0**values)
        if unit.lower().rstrip("s") in ("", "a", "ang", "angstrom"):  # to astropy, A is Ampere
            return values
        try:
            return np.asarray((values * u.Unit(unit)).to_value(u.AA, u.spectral()))
        except (ValueError, TypeError) as error:
            reason = f"unit {unit!r} of column {name} is not one of wavelength"
            raise ReadError(path, reason, Flag.BAD_WAVELENGTH) from error


def _per_wavelength(path: Path, unit: Any, wavelength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the factors, up to a constant, that turn a flux into a density per unit wavelength."""
    if isinstance(unit, u.LogUnit) or unit == u.mag:
        raise ReadError(path, f"flux in {unit} is not linear; convert it to a flux density")
    if unit is not None and not any(unit.is_equivalent(target) for target in _PER_WAVELENGTH):
        for target in _PER_WAVELENGTH:
            if unit.is_equivalent(target, u.spectral_density(wavelength[0] * u.AA)):
                factor = unit.to(target, np.ones(len(wavelength)), u.spectral_density(wavelength * u.AA))
                return np.asarray(factor / np.median(factor))
    return np.ones(len(wavelength))


def _ratio(path: Path, unit: Any, wanted: Any) -> float:
    """Return how many `wanted` one `unit` is; 1 where either is not known."""
    if unit is None or wanted is None:
        return 1.0
    if not unit.is_equivalent(wanted):
        raise ReadError(path, f"the uncertainty is in {unit}, which does not go with a flux in these units")
    return float(unit.to(wanted))


def _in_reach(flux: NDArray[np.float64], ivar: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return flux and ivar in a unit that suits float32: in erg/s/cm2/A the inverse variance overflows."""
    good = np.abs(flux[np.isfinite(flux) & (ivar > 0) & (flux != 0)])
    size = float(np.median(good)) if len(good) else 1.0
    scale = 1.0 if 1e-6 < size < 1e6 else 10.0 ** np.floor(np.log10(size))
    return flux / scale, ivar * scale**2


def _flux_and_ivar(
    path: Path, table: Table, roles: Mapping[str, str], wavelength: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[Any]]:
    flux, unit = _values(path, table, roles["flux"]), _unit(table[roles["flux"]])
    kind = "ivar" if "ivar" in roles else "error"
    spread, spread_unit = _values(path, table, roles[kind]), _unit(table[roles[kind]])
    if kind == "ivar":
        ivar = spread * _ratio(path, spread_unit, None if unit is None else unit**-2)
    else:
        spread = spread * _ratio(path, spread_unit, unit)
        # An error of 0, or a missing one, marks a pixel without a measurement.
        ivar = np.divide(1.0, spread**2, out=np.zeros_like(spread), where=spread > 0)
    factor = _per_wavelength(path, unit, wavelength)
    return _in_reach(flux * factor, ivar / factor**2)


def _is_air(meta: Mapping[str, Any]) -> bool:
    """Tell whether header or metadata say that wavelengths are those in air."""
    says = {str(key).upper(): str(value).strip().upper() for key, value in meta.items()}
    return (
        says.get("AIRORVAC", "").startswith("AIR")
        or says.get("VACUUM", "") in ("F", "FALSE", "0")
        or says.get("AIR", "") in ("T", "TRUE", "1")
    )


def _stem(path: Path) -> str:
    return re.sub(r"(\.(csv|ecsv|dat|txt|fits?|parquet))?(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _read_one_table(path: Path, air: bool = False) -> Single | Spectra:
    table = _load(path)
    roles = _roles(table.colnames)
    if not _complete(roles):
        raise _lacking(path, table.colnames)
    if len(table) == 0:
        raise ReadError(path, "the table has no rows")
    wavelength = _angstrom(path, table, roles["wavelength"])
    _ascending(path, wavelength)
    flux, ivar = _flux_and_ivar(path, table, roles, wavelength)
    if air or _is_air(table.meta):
        wavelength = air_to_vacuum(wavelength)
    return place("table", path, wavelength, flux, ivar, 0, {"OBJID": _stem(path)})


def read_table(path: Path, air: bool = False) -> Spectra:
    """Return the spectrum in a table with columns of wavelength, flux, and ivar or error.

    Parameters
    ----------
    path : Path
        CSV, ECSV, text, FITS or Parquet; text may be gzipped.
    air : bool, default False
        Take the wavelengths for those in air, whatever the file says.

    Returns
    -------
    Spectra
        One spectrum, n_pixels as in the file, or padded with ivar 0 where they lie on the SDSS lattice. Units
        that the file carries are heeded: wavelengths (or frequencies, energies) become vacuum Angstrom,
        densities per frequency become densities per wavelength; the scale of the flux is arbitrary.

    Raises
    ------
    ReadError
        If columns are missing, empty or not numbers, or (with ``Flag.BAD_WAVELENGTH``) the wavelengths are
        not finite, positive and strictly monotonic.
    """
    item = _read_one_table(path, air)
    return stack("table", [item]) if isinstance(item, Single) else item


# -- archives "sdss-ascii" and "specutils" -------------------------------------------------------------------


def _read_one_sdss_ascii(path: Path) -> Single | Spectra:
    """Return a DR9 text coadd: wave, flux, err, flux, loglam, ivar, and_mask, or_mask, wdisp, sky, model."""
    lines = read_bytes(path).decode("ascii", "replace").splitlines()
    rows = np.loadtxt(lines, ndmin=2) if any(lines) else np.empty((0, 11))
    if rows.shape[1] != 11:
        raise ReadError(path, f"expected 11 columns of numbers, not {rows.shape[1]}")
    ivar = masked_ivar(rows[:, 5].astype(np.float32), rows[:, 6].astype(np.int64))
    name = _SDSS_ASCII_NAME.fullmatch(path.name)
    ids: dict[str, Any] = {"OBJID": "", "PLATE": -1, "MJD": -1, "FIBERID": -1}
    if name is not None:
        plate, mjd, fiber = (int(text) for text in name.groups()[:3])
        ids = {"OBJID": object_name(plate, mjd, fiber), "PLATE": plate, "MJD": mjd, "FIBERID": fiber}
    flags = 0 if ids["OBJID"] else int(Flag.NO_IDENTITY)
    with np.errstate(over="ignore"):
        wavelength = 10.0 ** rows[:, 4]
    return place("sdss-ascii", path, wavelength, rows[:, 1], ivar, flags, ids)


def _recognise_sdss_ascii(head: Head) -> bool:
    row = head.start.split(b"\n", 1)[0].decode("ascii", "replace").split()
    if len(row) != 11 or not all(_is_number(field) for field in row):
        return False
    wave, loglam = float(row[0]), float(row[4])
    return wave > 0 and abs(np.log10(wave) - loglam) < 1e-4


def _read_specutils(path: Path) -> Iterator[Spectra]:
    try:
        import specutils
        from astropy.nddata import InverseVariance
    except ImportError as error:
        raise ReadError(path, "it needs the package specutils: pip install broadline[specutils]") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader: Any = specutils.Spectrum if hasattr(specutils, "Spectrum") else specutils.Spectrum1D
        spectrum = reader.read(path)
    if spectrum.uncertainty is None:
        raise ReadError(path, "specutils finds no uncertainty in it, without which it cannot be weighted")
    if spectrum.flux.ndim > 2:
        raise ReadError(path, f"flux of shape {spectrum.flux.shape}; one or two dimensions are expected")
    wavelength = spectrum.spectral_axis.to_value(u.AA, u.spectral())
    if _is_air(spectrum.meta.get("header", spectrum.meta)):
        wavelength = air_to_vacuum(wavelength)
    with np.errstate(all="ignore"):
        ivar = spectrum.uncertainty.represent_as(InverseVariance).array
    ivar = np.where(np.isfinite(ivar) & ~np.asarray(spectrum.mask or False), ivar, 0.0)
    axis = getattr(spectrum, "spectral_axis_index", None)
    axis = -1 if axis is None else axis
    flux, ivar = (np.atleast_2d(np.moveaxis(values, axis, -1)) for values in (spectrum.flux.value, ivar))
    yield _rows_on_one_grid(path, wavelength, flux, ivar, _unit(spectrum.flux))


def _rows_on_one_grid(
    path: Path, wavelength: NDArray[np.float64], flux: NDArray[Any], ivar: NDArray[Any], unit: Any
) -> Spectra:
    """Return the spectra (n_spectra, n_pixels) that one file holds on one grid."""
    order = _ascending(path, wavelength)
    factor = _per_wavelength(path, unit, wavelength)
    flux, ivar = _in_reach(flux * factor, ivar / factor**2)
    flux, ivar, flags = mend(flux[:, order].astype(np.float32), ivar[:, order].astype(np.float32))
    n_spectra = len(flux)
    objid = [_stem(path)] if n_spectra == 1 else [f"{_stem(path)}-{row}" for row in range(n_spectra)]
    ids = identity("specutils", [str(path)] * n_spectra, row=np.arange(n_spectra), OBJID=objid)
    return Spectra(wavelength[order], flux, ivar, ids, flags)


ARCHIVES = (
    Archive(
        name="sdss-ascii",
        title="SDSS DR9 coadds as text, one a file",
        file_name=_SDSS_ASCII_NAME,
        recognise=_recognise_sdss_ascii,
        read=lambda paths, batch: gather("sdss-ascii", paths, batch, _read_one_sdss_ascii),
    ),
    Archive(
        name="table",
        title="tables of one spectrum: CSV, ECSV, text, FITS or Parquet with named columns",
        file_name=_NEVER,
        recognise=_recognise_table,
        read=lambda paths, batch: gather("table", paths, batch, _read_one_table),
    ),
    Archive(
        name="specutils",
        title="any file that specutils can load (only when asked for)",
        file_name=_NEVER,
        recognise=lambda head: False,
        read=lambda paths, batch: read_files("specutils", paths, _read_specutils),
    ),
)
