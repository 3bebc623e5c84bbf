"""Tables of one spectrum, SDSS text coadds and specutils files: columns, units, air, faults, real files."""

from __future__ import annotations

import csv
import gzip
import sys
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pyarrow
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.table.meta import get_yaml_from_table
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from broadline.air import air_to_vacuum
from broadline.archives import foreign, sdss_early, singles
from broadline.archives import table as tables
from broadline.archives.base import Head
from broadline.archives.table import read_table
from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.spectra import Spectra
from conftest import manifest, real_files

ARCHIVES = {archive.name: archive for module in (sdss_early, tables, foreign) for archive in module.ARCHIVES}
N = 50
WAVE = np.linspace(4000.0, 5000.0, N)
FLUX = np.random.default_rng(5).normal(3, 1, N)
IVAR = np.random.default_rng(6).uniform(0.5, 2, N)


def columns(**changes: Any) -> dict[str, Any]:
    values = {"wave": WAVE, "flux": FLUX, "ivar": IVAR, **changes}
    return {name: value for name, value in values.items() if value is not None}


def write_text(
    path: Path, names: list[str], values: list[Any], delimiter: str = ",", start: str = ""
) -> Path:
    lines = [delimiter.join(str(value) for value in row) for row in zip(*values, strict=True)]
    path.write_text("\n".join([*([start] if start else []), delimiter.join(names), *lines]) + "\n")
    return path


def write(path: Path, **changes: Any) -> Path:
    values = columns(**changes)
    return write_text(path, list(values), list(values.values()))


def read(name: str, *paths: Path, batch: int = 100) -> list[Spectra]:
    return list(ARCHIVES[name].read(paths, batch))


def recognised(path: Path) -> bool:
    return ARCHIVES["table"].recognise(Head(path))


def assert_is_the_spectrum(spectra: Spectra, rtol: float = 1e-6) -> None:
    np.testing.assert_allclose(spectra.wavelength, WAVE, rtol=1e-9)
    np.testing.assert_allclose(spectra.flux[0], FLUX, rtol=rtol)
    np.testing.assert_allclose(spectra.ivar[0], IVAR, rtol=rtol)
    assert spectra.flags.tolist() == [0]


# -- wavelengths in air --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("air", "vacuum"),
    [
        # NIST Atomic Spectra Database, wavelengths in air and vacuum (Angstrom); He-Ne: 632.991398 nm.
        (3933.663, 3934.777),  # Ca II K
        (4861.325, 4862.683),  # H beta
        (5006.843, 5008.240),  # [O III]
        (5889.950954, 5891.583264),  # Na D2
        (5895.924237, 5897.558147),  # Na D1
        (6328.165, 6329.914),  # He-Ne laser
        (6562.80, 6564.61),  # H alpha
        (8542.09, 8544.44),  # Ca II
    ],
)
def test_air_wavelengths_become_the_vacuum_wavelengths_of_the_line_lists(air: float, vacuum: float) -> None:
    assert air_to_vacuum(np.array([air]))[0] == pytest.approx(vacuum, abs=0.01)


@given(st.floats(3000, 10000))
def test_air_to_vacuum_inverts_the_refraction_of_air(vacuum: float) -> None:
    # Ciddor 1996, written once more and the other way round.
    s2 = (1e4 / vacuum) ** 2
    air = vacuum / (1 + 0.05792105 / (238.0185 - s2) + 0.00167917 / (57.362 - s2))
    assert air_to_vacuum(np.array([air]))[0] == pytest.approx(vacuum, abs=1e-8)


def test_air_to_vacuum_agrees_with_specutils() -> None:
    utils = pytest.importorskip("specutils.utils.wcs_utils")
    wave = np.linspace(3000, 10000, 50)
    for method in ("Ciddor1996", "Morton2000"):
        theirs = utils.air_to_vac(wave * u.AA, method=method).value
        np.testing.assert_allclose(air_to_vacuum(wave), theirs, atol=0.01)


def test_ultraviolet_wavelengths_are_vacuum_by_custom_and_order_is_kept() -> None:
    wave = np.arange(1000.0, 3000.0)
    vacuum = air_to_vacuum(wave)
    np.testing.assert_array_equal(vacuum[:1000], wave[:1000])
    assert (np.diff(vacuum) > 0).all()


# -- files and columns ---------------------------------------------------------------------------------------


def write_parquet(table: Table, path: Path) -> None:
    """Write with the metadata that astropy's own writer adds (which needs pandas)."""
    arrow = pyarrow.table({name: np.asarray(table[name]).tolist() for name in table.colnames})
    notes = "\n".join(get_yaml_from_table(table))
    parquet.write_table(arrow.replace_schema_metadata({"table_meta_yaml": notes}), path)


def write_as(kind: str, path: Path) -> Path:
    table = Table(columns())
    if kind in ("csv", "csv.gz"):
        write(path)
    elif kind == "ecsv":
        table.write(path, format="ascii.ecsv")
    elif kind == "dat":
        write_text(path, ["wave", "flux", "ivar"], [WAVE, FLUX, IVAR], "  ")
    elif kind == "txt":
        write_text(path, ["# wave", "flux", "ivar"], [WAVE, FLUX, IVAR], "\t", start="# a star")
    elif kind in ("fits", "fits.gz"):
        table.write(path, format="fits")
    else:
        write_parquet(table, path)
    if kind == "csv.gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


KINDS = ["csv", "csv.gz", "ecsv", "dat", "txt", "fits", "fits.gz", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_any_format_is_recognised_and_gives_the_spectrum(tmp_path: Path, kind: str) -> None:
    path = write_as(kind, tmp_path / f"my.star.{kind}")
    assert recognised(path)
    (spectra,) = read("table", path)
    assert_is_the_spectrum(spectra)
    found = {name: column[0] for name, column in spectra.ids.items()}
    assert {found[name] for name in ("ARCHIVE", "SOURCE", "OBJID")} == {"table", str(path), "my.star"}
    assert found["ROW"] == 0


@pytest.mark.parametrize(
    ("wavelength", "flux", "error"),
    [
        ("wave", "flux", "err"),
        ("Wavelength", "FLUX", "error"),
        ("LAMBDA", "flam", "sigma"),
        ("lam", "Flux", "flux_err"),
        ("WAVE", "FLUX", "FLUX_ERROR"),
        ("wave", "flux", "Uncertainty"),
    ],
)
def test_columns_go_by_their_documented_names_in_any_case(
    tmp_path: Path, wavelength: str, flux: str, error: str
) -> None:
    path = write_text(tmp_path / "a.csv", ["n", flux, error, wavelength], [range(N), FLUX, IVAR**-0.5, WAVE])
    assert recognised(path)
    assert_is_the_spectrum(read_table(path))


def test_ivar_counts_before_error_and_loglam_is_a_logarithm(tmp_path: Path) -> None:
    names = ["loglam", "flux", "err", "ivar"]
    path = write_text(tmp_path / "a.csv", names, [np.log10(WAVE), FLUX, FLUX, IVAR])
    assert_is_the_spectrum(read_table(path))


def test_one_row_of_arrays_is_a_spectrum_too(tmp_path: Path) -> None:
    Table({name: [value] for name, value in columns().items()}).write(tmp_path / "a.fits")
    assert recognised(tmp_path / "a.fits")
    assert_is_the_spectrum(read_table(tmp_path / "a.fits"))


def test_the_table_is_found_among_others_of_the_file(tmp_path: Path) -> None:
    hdus = [fits.PrimaryHDU(), fits.table_to_hdu(Table({"z": [1.0]})), fits.table_to_hdu(Table(columns()))]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    assert recognised(tmp_path / "a.fits")
    assert_is_the_spectrum(read_table(tmp_path / "a.fits"))


def test_pixels_on_the_lattice_of_sdss_share_batches(tmp_path: Path) -> None:
    wave = 10 ** (1e-4 * np.arange(36000, 36000 + N))
    paths = [
        write(tmp_path / "a.csv", wave=wave),
        write(tmp_path / "b.csv", wave=np.round(wave * 1.0023052, 3)),
    ]
    (spectra,) = read("table", *paths)
    assert len(spectra) == 2
    assert (spectra.ivar > 0).sum(axis=1).tolist() == [N, N]
    first = [spectra.wavelength[row > 0][0] for row in spectra.ivar]
    np.testing.assert_allclose(first, 10 ** (1e-4 * np.array([36000, 36010])))


def test_neighbours_with_one_grid_share_batches_and_all_come_in_order(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.csv", flux=FLUX + i) for i in range(3)]
    other = write(tmp_path / "other.csv", wave=WAVE + 1)
    (tmp_path / "bad.csv").write_text("")
    order = [*paths, other, paths[0], tmp_path / "bad.csv", paths[1]]
    batches = read("table", *order, batch=2)
    assert [len(batch) for batch in batches] == [2, 1, 1, 1, 1, 1]
    assert [source for batch in batches for source in batch.ids["SOURCE"]] == [str(path) for path in order]
    np.testing.assert_allclose(batches[0].flux[1], FLUX + 1, rtol=1e-6)


@given(st.permutations(range(3)))
def test_descending_wavelengths_are_turned_round_in_any_order_of_columns(order: list[int]) -> None:
    names, values = ["wave", "flux", "ivar"], [WAVE[::-1], FLUX[::-1], IVAR[::-1]]
    lines = [",".join(names[i] for i in order)]
    lines += [",".join(str(values[i][row]) for i in order) for row in range(N)]
    table = tables._load_text("\n".join(lines).encode())
    item = singles.place("table", Path("a"), *(np.asarray(table[name]) for name in names), 0, {"OBJID": ""})
    assert isinstance(item, Spectra)
    assert_is_the_spectrum(item)


# -- missing values ------------------------------------------------------------------------------------------


def test_missing_values_lose_their_pixels_only(tmp_path: Path) -> None:
    flux, err = [str(value) for value in FLUX], [str(value) for value in IVAR**-0.5]
    err[3], err[4], err[5], err[6] = "", "0", "inf", "-1"
    path = write_text(tmp_path / "a.csv", ["wave", "flux", "err"], [WAVE, flux, err])
    spectra = read_table(path)
    assert np.flatnonzero(spectra.ivar[0] == 0).tolist() == [3, 4, 5, 6]
    assert spectra.flags[0] == 0


def test_flux_that_is_not_finite_is_masked_and_flagged(tmp_path: Path) -> None:
    flux = FLUX.copy()
    flux[7] = np.nan
    spectra = read_table(write(tmp_path / "a.csv", flux=flux))
    assert np.flatnonzero(spectra.ivar[0] == 0).tolist() == [7]
    assert spectra.flags[0] == Flag.NON_FINITE


# -- units ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["nm", "micron", "Angstrom", "Hz", "eV", "0.1 nm"])
@pytest.mark.parametrize("kind", ["ecsv", "fits", "parquet"])
def test_wavelengths_in_any_unit_become_angstrom(tmp_path: Path, kind: str, unit: str) -> None:
    axis = (WAVE * u.AA).to(u.Unit(unit), u.spectral())
    table = Table({**columns(), "wave": axis})
    write_parquet(table, tmp_path / "a.parquet") if kind == "parquet" else table.write(tmp_path / f"a.{kind}")
    assert_is_the_spectrum(read_table(tmp_path / f"a.{kind}"))


@pytest.mark.parametrize("unit", ["A", "Angstroms", "ANG"])
def test_an_angstrom_by_another_name_is_an_angstrom(tmp_path: Path, unit: str) -> None:
    Table(columns()).write(tmp_path / "a.fits")
    fits.setval(tmp_path / "a.fits", "TUNIT1", value=unit, ext=1)
    assert_is_the_spectrum(read_table(tmp_path / "a.fits"))


def proportional(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.allclose(found / expected, np.median(found / expected), rtol=1e-5))


@pytest.mark.parametrize("unit", ["Jy", "mJy", "erg / (s cm2 Hz)", "W / (m2 Hz)"])
def test_flux_densities_per_frequency_become_densities_per_wavelength(tmp_path: Path, unit: str) -> None:
    flam = FLUX * 1e-17 * u.erg / u.s / u.cm**2 / u.AA
    err = IVAR**-0.5 * 1e-17 * flam.unit
    density = u.spectral_density(WAVE * u.AA)
    table = Table({"wave": WAVE * u.AA, "flux": flam.to(unit, density), "err": err.to("uJy", density)})
    table.write(tmp_path / "a.ecsv")
    spectra = read_table(tmp_path / "a.ecsv")
    assert proportional(spectra.flux[0], FLUX)
    np.testing.assert_allclose(spectra.flux[0] * np.sqrt(spectra.ivar[0]), FLUX * np.sqrt(IVAR), rtol=1e-5)


def test_fluxes_in_cgs_do_not_overflow(tmp_path: Path) -> None:
    spectra = read_table(write(tmp_path / "a.csv", flux=FLUX * 1e-20, ivar=IVAR * 1e40))
    assert np.isfinite(spectra.ivar).all()
    assert spectra.flags[0] == 0
    np.testing.assert_allclose(spectra.flux[0] * np.sqrt(spectra.ivar[0]), FLUX * np.sqrt(IVAR), rtol=1e-5)


def test_ivar_and_flux_of_different_units_are_brought_together(tmp_path: Path) -> None:
    flam = u.erg / u.s / u.cm**2 / u.AA
    table = Table({"wave": WAVE, "flux": FLUX * 1e-17 * flam, "ivar": IVAR / (1e-17 * flam) ** 2})
    table.write(tmp_path / "a.ecsv")
    spectra = read_table(tmp_path / "a.ecsv")
    np.testing.assert_allclose(spectra.flux[0] * np.sqrt(spectra.ivar[0]), FLUX * np.sqrt(IVAR), rtol=1e-5)


def test_magnitudes_are_refused(tmp_path: Path) -> None:
    Table(columns(flux=FLUX * u.mag)).write(tmp_path / "a.ecsv")
    with pytest.raises(ReadError, match="not linear"):
        read_table(tmp_path / "a.ecsv")


def test_an_uncertainty_that_does_not_go_with_the_flux_is_refused(tmp_path: Path) -> None:
    Table(columns(flux=FLUX * u.Jy, ivar=None, err=FLUX * u.s)).write(tmp_path / "a.ecsv")
    with pytest.raises(ReadError, match="does not go with"):
        read_table(tmp_path / "a.ecsv")


def test_a_unit_that_is_not_one_of_wavelength_is_flagged(tmp_path: Path) -> None:
    Table(columns(wave=WAVE * u.s)).write(tmp_path / "a.ecsv")
    (spectra,) = read("table", tmp_path / "a.ecsv")
    assert spectra.flags[0] & Flag.BAD_WAVELENGTH


# -- air or vacuum -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", [{"AIRORVAC": "air"}, {"VACUUM": False}, {"air": True}, {"AIR": "T"}])
@pytest.mark.parametrize("kind", ["ecsv", "fits", "txt", "parquet"])
def test_wavelengths_become_vacuum_where_the_file_says_air(
    tmp_path: Path, kind: str, meta: dict[str, Any]
) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "txt":
        ((key, value),) = meta.items()
        write_text(path, ["wave", "flux", "ivar"], [WAVE, FLUX, IVAR], " ", start=f"# {key} = {value}")
    elif kind == "parquet":
        write_parquet(Table(columns(), meta=meta), path)
    else:
        Table(columns(), meta=meta).write(path)
    np.testing.assert_allclose(read_table(path).wavelength, air_to_vacuum(WAVE), rtol=1e-9)


@pytest.mark.parametrize("meta", [{"AIRORVAC": "vac"}, {"VACUUM": True}, {"air": False}, {}])
def test_wavelengths_stay_where_the_file_says_vacuum_or_nothing(tmp_path: Path, meta: dict[str, Any]) -> None:
    Table(columns(), meta=meta).write(tmp_path / "a.ecsv")
    assert_is_the_spectrum(read_table(tmp_path / "a.ecsv"))


def test_wavelengths_become_vacuum_when_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv")
    np.testing.assert_allclose(read_table(path, air=True).wavelength, air_to_vacuum(WAVE), rtol=1e-9)


# -- what is not a spectrum ----------------------------------------------------------------------------------

NOT_SPECTRA = {
    "catalogue.csv": "name,ra,dec,flux\na,1,2,3\n",
    "README.csv": "This folder holds wave, flux and ivar of 3 stars\nsee the paper\n",
    "readme.txt": "The columns are\nwave flux ivar\n",
    "no_error.csv": "wave,flux\n4000,1\n",
    "numbers.txt": "4000 1 2\n4001 2 3\n",
    "words.csv": "wave,flux,ivar\nthe,second,line\n",
    "empty.csv": "",
    "header_only.csv": "wave,flux,ivar\n",
    "spectrum.py": "wave,flux,ivar\n4000,1,1\n4001,1,1\n",
}


@pytest.mark.parametrize("name", NOT_SPECTRA)
def test_what_is_not_a_spectrum_is_not_recognised(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(NOT_SPECTRA[name])
    assert not recognised(tmp_path / name)


def test_catalogues_in_fits_and_parquet_are_not_recognised(tmp_path: Path) -> None:
    catalogue = Table({"TARGETID": [1, 2], "FLUX": [1.0, 2.0], "IVAR": [1.0, 1.0]})
    many = Table({name: [value, value] for name, value in columns().items()})
    for number, table in enumerate((catalogue, many)):
        table.write(tmp_path / f"{number}.fits")
        write_parquet(table, tmp_path / f"{number}.parquet")
        assert not recognised(tmp_path / f"{number}.fits")
        assert not recognised(tmp_path / f"{number}.parquet")
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(tmp_path / "image.fits")
    assert not recognised(tmp_path / "image.fits")


def test_recognition_reads_the_beginning_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.csv")
    with path.open("a") as stream:
        stream.write("not,a,number\n" * 100_000)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("the whole file was read"))
    monkeypatch.setattr(tables, "read_bytes", lambda path: pytest.fail("the whole file was read"))
    assert recognised(path)


# -- faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"wave": np.where(np.arange(N) == 9, np.nan, WAVE)}, Flag.BAD_WAVELENGTH),
        ({"wave": np.where(np.arange(N) == 0, np.inf, WAVE)}, Flag.BAD_WAVELENGTH),
        ({"wave": np.where(np.arange(N) == 9, WAVE[8], WAVE)}, Flag.BAD_WAVELENGTH),
        ({"wave": np.roll(WAVE, 7)}, Flag.BAD_WAVELENGTH),
        ({"wave": WAVE - 4000}, Flag.BAD_WAVELENGTH),
        ({"wave": np.full(N, np.nan)}, Flag.BAD_WAVELENGTH),
        ({"wave": None, "loglam": WAVE}, Flag.BAD_WAVELENGTH),
        ({"flux": ["x"] * N}, Flag.UNREADABLE),
        ({"ivar": None}, Flag.UNREADABLE),
        ({"flux": None}, Flag.UNREADABLE),
        ({"wave": None}, Flag.UNREADABLE),
        ({"wave": [], "flux": [], "ivar": []}, Flag.UNREADABLE),
    ],
)
def test_a_fault_becomes_one_row_with_the_flag_that_names_it(
    tmp_path: Path, changes: dict[str, Any], flag: Flag
) -> None:
    (spectra,) = read("table", write(tmp_path / "a.csv", **changes))
    assert len(spectra) == 1
    assert spectra.flags[0] & flag
    assert str(tmp_path / "a.csv") in spectra.notes[0]


def test_a_table_without_error_says_which_columns_it_has_and_which_are_wanted(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"wanted .*ivar or error .*found wave, flux, quality"):
        read_table(write(tmp_path / "a.csv", ivar=None, quality=IVAR))
    Table(columns(ivar=None, quality=IVAR)).write(tmp_path / "a.fits")
    with pytest.raises(ReadError, match="found wave, flux, quality"):
        read_table(tmp_path / "a.fits")


@pytest.mark.parametrize("kind", KINDS)
def test_files_cut_short_are_flagged_or_shorter_and_never_raise(tmp_path: Path, kind: str) -> None:
    path = write_as(kind, tmp_path / f"a.{kind}")
    content = path.read_bytes()
    for kept in (0, 1, 40, len(content) // 2):
        path.write_bytes(content[:kept])
        (spectra,) = read("table", path)
        assert len(spectra) == 1
        # Half of a text is a text, and perhaps half of a spectrum.
        assert spectra.flags[0] & Flag.UNREADABLE or (kind in ("csv", "ecsv", "dat", "txt") and kept > 40)


@given(
    st.binary(max_size=400), st.sampled_from(["", "wave,flux,ivar\n", "# %ECSV 1.0\n", "PAR1", "SIMPLE  ="])
)
def test_any_bytes_give_one_row(tmp_path_factory: pytest.TempPathFactory, content: bytes, start: str) -> None:
    path = tmp_path_factory.mktemp("bytes") / "a.csv"
    path.write_bytes(start.encode() + content)
    (spectra,) = read("table", path)
    assert len(spectra) == 1


def test_a_fits_header_that_lies_about_the_rows_is_flagged(tmp_path: Path) -> None:
    Table(columns()).write(tmp_path / "a.fits")
    content = (tmp_path / "a.fits").read_bytes()
    (tmp_path / "a.fits").write_bytes(
        content.replace(b"NAXIS2  =                   50", b"NAXIS2  =              9999950")
    )
    (spectra,) = read("table", tmp_path / "a.fits")
    assert spectra.flags[0] & Flag.UNREADABLE


# -- SDSS coadds as text -------------------------------------------------------------------------------------


def write_ascii(path: Path, n: int = N, **changes: Any) -> Path:
    """Columns: wave, flux, err, flux, loglam, ivar, and_mask, or_mask, wdisp, sky, model."""
    loglam = np.round(3.555 + 1e-4 * np.arange(n), 4)
    rows = np.zeros((n, 11))
    rows[:, 0] = np.round(10**loglam, 3)
    rows[:, 1] = rows[:, 3] = FLUX[:n]
    rows[:, 4], rows[:, 5] = loglam, IVAR[:n]
    for column, value in changes.items():
        rows[:, int(column[1:])] = value
    formats = [".7G"] * 6 + [".0f"] * 2 + [".7G"] * 3
    text = "\n".join(" ".join(map(format, row, formats)) for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("suffix", ["dr9", "dr9.gz"])
def test_a_text_coadd_gives_the_spectrum_on_the_lattice_and_its_name_the_identity(
    tmp_path: Path, suffix: str
) -> None:
    path = write_ascii(tmp_path / f"spec-3808-55513-0892.{suffix}")
    assert ARCHIVES["sdss-ascii"].file_name.fullmatch(path.name)
    (spectra,) = read("sdss-ascii", path)
    good = spectra.ivar[0] > 0
    np.testing.assert_allclose(np.log10(spectra.wavelength[good]), 3.555 + 1e-4 * np.arange(N), rtol=1e-9)
    np.testing.assert_allclose(spectra.flux[0, good], FLUX, rtol=1e-5)
    assert [spectra.ids[name][0] for name in ("OBJID", "PLATE", "MJD", "FIBERID")] == [
        "3808-55513-0892", 3808, 55513, 892,
    ]  # fmt: skip
    assert spectra.flags[0] == 0


def test_pixels_rejected_in_the_combination_have_ivar_0_and_others_are_kept(tmp_path: Path) -> None:
    mask = np.zeros(N)
    mask[4] = 1 << 25
    mask[5] = 1 << 23
    or_mask = np.full(N, 1 << 25)
    (spectra,) = read("sdss-ascii", write_ascii(tmp_path / "spec-3808-55513-0892.dr9", c6=mask, c7=or_mask))
    assert (spectra.ivar > 0).sum() == N - 1


def test_a_renamed_text_coadd_is_recognised_but_has_no_identity(tmp_path: Path) -> None:
    path = write_ascii(tmp_path / "quasar.txt")
    assert ARCHIVES["sdss-ascii"].recognise(Head(path))
    assert not ARCHIVES["sdss-ascii"].recognise(Head(write_ascii(tmp_path / "other.txt", c4=1.0)))
    (spectra,) = read("sdss-ascii", path)
    assert spectra.flags[0] == Flag.NO_IDENTITY


@pytest.mark.parametrize(
    "text", ["", "\n\n", "1 2 3\n", "a b c d e f g h i j k\n", "3589.22 10 3 10 3.555 0.08\n"]
)
def test_text_of_another_layout_is_a_flagged_row(tmp_path: Path, text: str) -> None:
    (tmp_path / "spec-3808-55513-0892.dr9").write_text(text)
    (spectra,) = read("sdss-ascii", tmp_path / "spec-3808-55513-0892.dr9")
    assert spectra.flags[0] & Flag.UNREADABLE


# -- specutils -----------------------------------------------------------------------------------------------


@pytest.fixture
def spectrum_class() -> Any:
    specutils = pytest.importorskip("specutils")
    return getattr(specutils, "Spectrum", None) or specutils.Spectrum1D


def through_specutils(
    monkeypatch: pytest.MonkeyPatch, spectrum_class: Any, path: Path, **parts: Any
) -> Spectra:
    """Read a file whose loader returns a Spectrum of the given parts."""
    spectrum = spectrum_class(**parts)
    monkeypatch.setattr(spectrum_class, "read", lambda path: spectrum)
    (spectra,) = read("specutils", path)
    return spectra


FLAM = u.erg / u.s / u.cm**2 / u.AA


def uncertainty(kind: str, ivar: np.ndarray) -> Any:
    from astropy import nddata

    power = {"StdDevUncertainty": -0.5, "VarianceUncertainty": -1, "InverseVariance": 1}[kind]
    return getattr(nddata, kind)(ivar**power)


def test_a_file_that_specutils_writes_is_read(tmp_path: Path, spectrum_class: Any) -> None:
    spectrum = spectrum_class(
        spectral_axis=WAVE / 10 * u.nm, flux=FLUX * FLAM, uncertainty=uncertainty("StdDevUncertainty", IVAR)
    )
    spectrum.write(tmp_path / "a.fits", format="tabular-fits")
    (spectra,) = read("specutils", tmp_path / "a.fits")
    assert_is_the_spectrum(spectra)
    assert spectra.ids["OBJID"][0] == "a"


@pytest.mark.parametrize("kind", ["StdDevUncertainty", "VarianceUncertainty", "InverseVariance"])
@pytest.mark.parametrize("unit", ["nm", "GHz", "AA"])
def test_specutils_axes_and_uncertainties_of_any_kind_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spectrum_class: Any, kind: str, unit: str
) -> None:
    axis = (WAVE * u.AA).to(unit, u.spectral())
    mask = np.arange(N) == 3
    parts = {"spectral_axis": axis, "flux": FLUX * FLAM, "uncertainty": uncertainty(kind, IVAR), "mask": mask}
    spectra = through_specutils(monkeypatch, spectrum_class, tmp_path / "a.fits", **parts)
    np.testing.assert_allclose(spectra.wavelength, WAVE)
    np.testing.assert_allclose(spectra.flux[0], FLUX, rtol=1e-6)
    np.testing.assert_allclose(spectra.ivar[0], np.where(mask, 0, IVAR), rtol=1e-5)


def test_specutils_flux_of_two_dimensions_gives_a_row_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spectrum_class: Any
) -> None:
    flux, ivar = np.array([FLUX, FLUX + 1, FLUX + 2]), np.array([IVAR] * 3)
    parts = {
        "spectral_axis": WAVE * u.AA,
        "flux": flux * u.mJy,
        "uncertainty": uncertainty("InverseVariance", ivar),
    }
    spectra = through_specutils(monkeypatch, spectrum_class, tmp_path / "a.fits", **parts)
    assert spectra.ids["ROW"].tolist() == [0, 1, 2]
    assert spectra.ids["OBJID"].tolist() == ["a-0", "a-1", "a-2"]
    assert proportional(spectra.flux[2], (FLUX + 2) / WAVE**2)
    np.testing.assert_allclose(spectra.flux * np.sqrt(spectra.ivar), flux * np.sqrt(ivar), rtol=1e-5)


def test_specutils_spectra_without_uncertainty_or_with_three_dimensions_are_flagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spectrum_class: Any
) -> None:
    parts: dict[str, Any] = {"spectral_axis": WAVE * u.AA, "flux": FLUX * FLAM}
    spectra = through_specutils(monkeypatch, spectrum_class, tmp_path / "a.fits", **parts)
    assert "no uncertainty" in spectra.notes[0]
    cube = np.ones((2, 2, N))
    parts = {
        "spectral_axis": WAVE * u.AA,
        "flux": cube * FLAM,
        "uncertainty": uncertainty("InverseVariance", cube),
    }
    spectra = through_specutils(monkeypatch, spectrum_class, tmp_path / "a.fits", **parts)
    assert spectra.flags[0] & Flag.UNREADABLE


def test_without_specutils_the_row_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "specutils", None)
    (spectra,) = read("specutils", write(tmp_path / "a.csv"))
    assert spectra.flags[0] & Flag.UNREADABLE
    assert "pip install broadline[specutils]" in spectra.notes[0]


def test_specutils_is_never_chosen_by_content_and_a_file_it_cannot_read_is_flagged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv")
    assert not ARCHIVES["specutils"].recognise(Head(path))
    pytest.importorskip("specutils")
    (tmp_path / "b.bin").write_bytes(b"nothing")
    (spectra,) = read("specutils", tmp_path / "b.bin")
    assert spectra.flags[0] & Flag.UNREADABLE


# -- every real file -----------------------------------------------------------------------------------------


def rows_of(kind: str) -> list[dict[str, str]]:
    return [row for row in manifest() if row["format"] == kind]


@pytest.mark.parametrize(("name", "kind"), [("table", "desi_csv_merged"), ("sdss-ascii", "ascii_coadd_dr9")])
def test_real_files_have_the_pixels_of_the_manifest(data: Path, name: str, kind: str) -> None:
    paths = real_files(kind)
    batches = read(name, *paths, batch=7)
    assert [source for batch in batches for source in batch.ids["SOURCE"]] == [str(path) for path in paths]
    assert not any(batch.flags.any() for batch in batches)
    singles = [batch[row : row + 1] for batch in batches for row in range(len(batch))]
    for row, spectra in zip(rows_of(kind), singles, strict=True):
        good = spectra.ivar[0] > 0
        seen = spectra.wavelength[good if name == "sdss-ascii" else slice(None)]
        assert abs(good.sum() - float(row["good_frac"]) * int(row["n_pix"])) <= 0.0005 * int(row["n_pix"]) + 1
        np.testing.assert_allclose(seen[[0, -1]], [float(row["wave_min"]), float(row["wave_max"])], rtol=2e-3)
        if name == "table":
            assert len(seen) == int(row["n_pix"])
            assert spectra.ids["OBJID"][0] == Path(row["path"]).name.removesuffix(".csv.gz")
        else:
            found = [spectra.ids[key][0] for key in ("PLATE", "MJD", "FIBERID")]
            assert found == [int(row["plate"]), int(row["mjd"]), int(row["fiber"])]


def test_real_tables_are_recognised_and_real_catalogues_are_not(data: Path) -> None:
    assert all(recognised(path) for path in real_files("desi_csv_merged"))
    assert all(
        ARCHIVES["sdss-ascii"].file_name.fullmatch(path.name) for path in real_files("ascii_coadd_dr9")
    )
    assert not recognised(data / "real" / "manifest.csv")
    assert not any(recognised(path) for path in (data / "catalogues").rglob("*") if path.is_file())


def test_a_real_table_has_the_numbers_of_its_text(data: Path) -> None:
    path = real_files("desi_csv_merged")[0]
    rows = list(csv.reader(gzip.decompress(path.read_bytes()).decode().splitlines()))
    wave, flux, ivar = np.array(rows[1:], dtype=float).T
    spectra = read_table(path)
    np.testing.assert_allclose(spectra.wavelength, wave, rtol=1e-12)
    np.testing.assert_array_equal(spectra.flux[0], flux.astype("f4"))
    np.testing.assert_array_equal(spectra.ivar[0], ivar.astype("f4"))


def test_archive_table_air_converts_wavelengths_whatever_the_file_says(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv")
    (vacuum,) = ARCHIVES["table"].read([path], 10)
    (air,) = ARCHIVES["table-air"].read([path], 10)
    np.testing.assert_allclose(air.wavelength, air_to_vacuum(vacuum.wavelength), rtol=1e-12)
    assert air.ids["ARCHIVE"][0] == "table-air"
    assert not ARCHIVES["table-air"].recognise(Head(path))
