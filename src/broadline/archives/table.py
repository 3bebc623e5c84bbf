"""Spectra of no particular survey: tables of one spectrum.

CSV, ECSV, text in columns, FITS table or Parquet; text and FITS also gzipped. Columns are found by name
(`SYNONYMS`, any case). Text needs a line with the names before the data, commented or not; comments before
the data such as ``# AIRORVAC = air`` are heeded. Wavelengths without a unit are Angstrom, in vacuum unless
the file says otherwise (AIRORVAC 'air', VACUUM false, AIR true) or the user does (archive ``table-air``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.io import ascii as text_tables
from astropy.io import fits
from astropy.table import Table
from astropy.table.meta import get_header_from_yaml
from numpy.typing import NDArray

from broadline.air import air_to_vacuum
from broadline.archives.base import Archive, Head, open_fits, read_bytes
from broadline.archives.singles import Single, ascending, gather, place, stack
from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.spectra import Spectra

__all__ = [
    "ARCHIVES",
    "NEVER",
    "SYNONYMS",
    "complete",
    "in_reach",
    "is_air",
    "per_wavelength",
    "reach",
    "read_table",
    "roles_of",
    "stem",
    "unit_of",
]

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
NEVER = re.compile(r"(?!)")
_PER_WAVELENGTH = (
    u.erg / u.s / u.cm**2 / u.AA,
    u.erg / u.s / u.AA,
    u.erg / u.s / u.cm**2 / u.AA / u.sr,
)


# -- wavelengths, shared with the other archives -------------------------------------------------------------


def roles_of(names: Sequence[str]) -> dict[str, str]:
    """Return which of the columns called `names` is the wavelength, the flux, the ivar and the error."""
    known = {name.strip().lower(): name for name in reversed(names)}
    found = {kind: [known[name] for name in synonyms if name in known] for kind, synonyms in SYNONYMS.items()}
    return {kind: names[0] for kind, names in found.items() if names}


def complete(roles: Collection[str]) -> bool:
    """Tell whether there is all that makes a spectrum."""
    return {"wavelength", "flux"} <= set(roles) and not {"ivar", "error"}.isdisjoint(roles)


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
    roles = roles_of(names)
    if not complete(roles) or len(row) != len(names):
        return False
    values = dict(zip(names, row, strict=True))
    return all(_is_number(values[name]) for kind, name in roles.items() if kind in ("wavelength", "flux"))


def _recognise_parquet(head: Head) -> bool:
    from pyarrow import parquet, types

    schema = parquet.read_schema(head.path)
    roles = roles_of(schema.names)
    return complete(roles) and all(types.is_floating(schema.field(name).type) for name in roles.values())


def _spectrum_hdu(hdus: fits.HDUList) -> fits.BinTableHDU | None:
    """Return the first table whose columns are those of one spectrum: numbers, or arrays in a single row."""
    for hdu in hdus:
        if isinstance(hdu, fits.BinTableHDU):
            roles = roles_of(hdu.columns.names)
            formats = [hdu.columns[name].format for name in roles.values()]
            shape = r"\d*[DEIJK]" if hdu.header["NAXIS2"] == 1 else "1?[DEIJK]"
            if complete(roles) and all(re.fullmatch(shape, text) for text in formats):
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
        for name in roles_of(hdu.columns.names).values():
            table[name] = np.asarray(hdu.data[name]).ravel()
            table[name].unit = hdu.columns[name].unit
    return table


def _load_parquet(path: Path) -> Table:
    """Return the columns of a spectrum, with units and metadata where astropy wrote them."""
    from pyarrow import parquet

    roles = roles_of(parquet.read_schema(path).names)
    if not complete(roles):
        raise _lacking(path, parquet.read_schema(path).names)
    columns = parquet.read_table(path, columns=list(roles.values()))
    notes = (columns.schema.metadata or {}).get(b"table_meta_yaml")  # not Table.read: that needs pandas
    header = get_header_from_yaml(notes.decode().split("\n")) if notes else {"datatype": []}
    table = Table({name: columns[name].to_numpy() for name in roles.values()}, meta=header.get("meta"))
    for column in header["datatype"]:
        if column["name"] in table.colnames:
            table[column["name"]].unit = column.get("unit")
    return table


def _load(path: Path) -> Table:
    head = Head(path)
    if head.is_fits:
        return _load_fits(path)
    if head.start.startswith(b"PAR1"):
        return _load_parquet(path)
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


def unit_of(column: Any) -> Any:
    """Return the unit of a column, None if it has none that is understood."""
    unit = u.Unit(column.unit if column.unit is not None else "", parse_strict="silent")
    return None if isinstance(unit, u.UnrecognizedUnit) or unit == u.dimensionless_unscaled else unit


def _angstrom(path: Path, table: Table, name: str) -> NDArray[np.float64]:
    values = _values(path, table, name)
    unit = str(table[name].unit or "").strip()
    with np.errstate(all="ignore"):  # what is not finite is found, and named, by `place`
        if name.lower() == "loglam":
            return np.asarray(10.0**values)
        if unit.lower() in ("", "a", "ang", "angstrom", "angstroms"):  # to astropy, A is Ampere
            return values
        try:
            return np.asarray((values * u.Unit(unit)).to_value(u.AA, u.spectral()))
        except (ValueError, TypeError) as error:
            reason = f"unit {unit!r} of column {name} is not one of wavelength"
            raise ReadError(path, reason, Flag.BAD_WAVELENGTH) from error


def per_wavelength(path: Path, unit: Any, wavelength: NDArray[np.float64]) -> NDArray[np.float64]:
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


def reach(flux: NDArray[Any], ivar: NDArray[Any]) -> float:
    """Return the unit of flux, a power of ten, that suits float32: in erg/s/cm2/A the ivar overflows."""
    good = np.abs(flux[np.isfinite(flux) & (ivar > 0) & (flux != 0)])
    size = float(np.median(good)) if len(good) else 1.0
    return 1.0 if 1e-6 < size < 1e6 else float(10.0 ** np.floor(np.log10(size)))


def in_reach(flux: NDArray[np.float64], ivar: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return flux and ivar in the unit that `reach` finds."""
    scale = reach(flux, ivar)
    return flux / scale, ivar * scale**2


def _flux_and_ivar(
    path: Path, table: Table, roles: Mapping[str, str], wavelength: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[Any]]:
    flux, unit = _values(path, table, roles["flux"]), unit_of(table[roles["flux"]])
    kind = "ivar" if "ivar" in roles else "error"
    spread, spread_unit = _values(path, table, roles[kind]), unit_of(table[roles[kind]])
    if kind == "ivar":
        ivar = spread * _ratio(path, spread_unit, None if unit is None else unit**-2)
    else:
        spread = spread * _ratio(path, spread_unit, unit)
        # An error of 0, or a missing one, marks a pixel without a measurement.
        ivar = np.divide(1.0, spread**2, out=np.zeros_like(spread), where=spread > 0)
    factor = per_wavelength(path, unit, wavelength)
    return in_reach(flux * factor, ivar / factor**2)


def is_air(meta: Mapping[str, Any]) -> bool:
    """Tell whether header or metadata say that wavelengths are those in air."""
    says = {str(key).upper(): str(value).strip().upper() for key, value in meta.items()}
    return (
        says.get("AIRORVAC", "").startswith("AIR")
        or says.get("VACUUM", "") in ("F", "FALSE", "0")
        or says.get("AIR", "") in ("T", "TRUE", "1")
    )


def stem(path: Path) -> str:
    """Return a file's name without the endings of tables and compression."""
    return re.sub(r"(\.(csv|ecsv|dat|txt|fits?|parquet))?(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _read_one_table(archive: str, path: Path, air: bool) -> Single | Spectra:
    table = _load(path)
    roles = roles_of(table.colnames)
    if not complete(roles):
        raise _lacking(path, table.colnames)
    if len(table) == 0:
        raise ReadError(path, "the table has no rows")
    wavelength = _angstrom(path, table, roles["wavelength"])
    ascending(path, wavelength)
    flux, ivar = _flux_and_ivar(path, table, roles, wavelength)
    if air or is_air(table.meta):
        wavelength = air_to_vacuum(wavelength)
    return place(archive, path, wavelength, flux, ivar, 0, {"OBJID": stem(path)})


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
    item = _read_one_table("table", path, air)
    return stack("table", [item]) if isinstance(item, Single) else item


def _table_archive(name: str, title: str, air: bool) -> Archive:
    return Archive(
        name=name,
        title=title,
        file_name=NEVER,
        recognise=(lambda head: False) if air else _recognise_table,
        read=lambda paths, batch: gather(name, paths, batch, partial(_read_one_table, name, air=air)),
    )


ARCHIVES = (
    _table_archive(
        "table", "tables of one spectrum: CSV, ECSV, text, FITS or Parquet with named columns", False
    ),
    _table_archive("table-air", "the same, with wavelengths in air (only when asked for)", True),
)
