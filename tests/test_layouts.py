"""Tables in the shape that other programs read: what they need of them, from their own sources."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.table import Table

from broadline import writers
from broadline.catalogue import rows
from broadline.errors import UsageError
from broadline.flags import Flag
from broadline.layouts import LAYOUTS
from broadline.lines import LEGACY_LINES, QUASARNET_LINES, Line
from broadline.spectra import identity
from broadline.writers import CatalogueWriter
from conftest import ROOT

META = {"version": "0.1.0", "model": "slim", "model_sha256": "ab" * 32}
EMISSION = ("LYA", "CIV", "CIII", "MGII", "HBETA", "HALPHA")


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    """A header that had to be cut, or cells astropy cannot show, would be a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def sdss(
    n: int, sn: Any = 1.0, is_qso: Any = True, is_bal: Any = False, flags: Any = 0, **ids: Any
) -> pa.Table:
    """Rows of SDSS spectra: plate 7000, fibres from 1, each another object."""
    who = {
        "PLATE": np.full(n, 7000),
        "MJD": np.full(n, 56000),
        "FIBERID": np.arange(1, n + 1),
        "THING_ID": np.arange(100, 100 + n),
        "RA": np.linspace(10, 11, n),
        "DEC": np.linspace(-1, 1, n) + 0.1,
    }
    return classified(identity("sdss", ["f"] * n, **(who | ids)), n, sn, is_qso, is_bal, flags)


def desi(
    n: int, sn: Any = 1.0, is_qso: Any = True, is_bal: Any = False, flags: Any = 0, **ids: Any
) -> pa.Table:
    """Rows of DESI spectra."""
    who = {
        "TARGETID": np.arange(n) + 39_627_635_744_379_137,
        "DESI_TARGET": np.full(n, 4),
        "RA": np.linspace(10, 11, n),
        "DEC": np.linspace(-1, 1, n) + 0.1,
    }
    return classified(identity("desi", ["f"] * n, **(who | ids)), n, sn, is_qso, is_bal, flags)


def classified(who: dict[str, Any], n: int, sn: Any, is_qso: Any, is_bal: Any, flags: Any) -> pa.Table:
    results = {
        "IS_QSO": np.broadcast_to(is_qso, n).copy(),
        "IS_BAL": np.broadcast_to(is_bal, n).copy(),
        "Z": 1.0 + np.arange(n) / 7,
    }
    for i, name in enumerate((*EMISSION, "BAL_CIV")):
        results[f"C_{name}"] = np.full(n, (i + 1) / 10, np.float32)
        results[f"Z_{name}"] = np.arange(n) + i / 3
    sn = np.broadcast_to(np.float32(sn), n).copy()
    return rows(who, np.broadcast_to(np.uint32(flags), n).copy(), sn, results)


def written(path: Path, layout: str, *parts: pa.Table, lines: tuple[Line, ...] = QUASARNET_LINES) -> Any:
    with CatalogueWriter(path, lines, META, layout) as writer:
        for part in parts:
            writer.append(part)
    with fits.open(path, memmap=False) as hdus:
        hdus.verify("exception")
        return hdus[1].copy()


# --- qnall ---------------------------------------------------------------------------------------------


def test_qnall_has_every_row_in_the_columns_of_quasarnet(tmp_path: Path) -> None:
    hdu = written(
        tmp_path / "qn.fits", "qnall", sdss(3, is_qso=[True, False, True]), sdss(1, flags=Flag.NO_DATA)
    )
    kinds = [(c.name, c.format) for c in hdu.columns]
    assert kinds == [
        ("THING_ID", "K"),
        ("PLATE", "J"),
        ("MJD", "J"),
        ("FIBERID", "J"),
        ("ZBEST", "D"),
        ("IS_QSO", "K"),
        ("IN_TRAIN", "K"),
        ("C_LINES", "6D"),
        ("Z_LINES", "6D"),
        ("C_LINES_BAL", "1D"),
        ("Z_LINES_BAL", "1D"),
    ]
    data = hdu.data
    assert data["THING_ID"].tolist() == [100, 101, 102, 100]
    assert data["IS_QSO"].tolist() == [1, 0, 1, 0]
    assert data["IN_TRAIN"].tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(data["ZBEST"], [1.0, 1 + 1 / 7, 1 + 2 / 7, np.nan])
    np.testing.assert_array_equal(data["C_LINES"][1], np.float32([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    np.testing.assert_array_equal(data["Z_LINES"][1], 1 + np.arange(6) / 3)
    assert data["C_LINES_BAL"].ravel()[0] == np.float32(0.7)
    assert np.isnan(data["C_LINES"][3]).all()


def test_qnall_header_has_the_models_own_wavelengths_of_all_seven_lines(tmp_path: Path) -> None:
    header = written(tmp_path / "qn.fits", "qnall", sdss(1), lines=LEGACY_LINES).header
    keywords = [*(f"LINE_{i}" for i in range(6)), "LINE_BAL_0"]
    assert [header[k] for k in keywords] == [line.wavelength for line in LEGACY_LINES]
    names = ["LYA", "CIV(1548)", "CIII(1909)", "MgII(2796)", "Hbeta", "Halpha", "CIV(1548)"]
    assert [header.comments[k] for k in keywords] == names


def test_qnall_takes_the_lines_in_its_own_order_not_in_the_models(tmp_path: Path) -> None:
    part = sdss(1)
    with CatalogueWriter(tmp_path / "qn.fits", QUASARNET_LINES[::-1], META, "qnall") as writer:
        writer.append(part)
    assert fits.getdata(tmp_path / "qn.fits")["C_LINES"][0, 0] == np.float32(0.1)


# --- drq -----------------------------------------------------------------------------------------------


def picca_drq(path: Path) -> Table:
    """What picca's DrqCatalogue keeps: its reads and cuts, in our words."""
    table = Table.read(path, hdu="CATALOG")
    for name in ("RA", "DEC", "Z", "THING_ID", "PLATE", "MJD", "FIBERID", "BAL_FLAG_VI", "BI_CIV"):
        assert not hasattr(table[name], "mask") or not table[name].mask.any(), name
    keep = (table["THING_ID"] > 0) & (table["RA"] != table["DEC"]) & (table["RA"] != 0) & (table["DEC"] != 0)
    np.radians(table["RA"], out=table["RA"])
    return table[keep]


def test_drq_holds_the_quasars_as_picca_reads_them(tmp_path: Path) -> None:
    is_qso, is_bal = [True, False, True], [False, False, True]
    hdu = written(
        tmp_path / "drq.fits", "drq", sdss(3, is_qso=is_qso, is_bal=is_bal), sdss(1, flags=Flag.UNREADABLE)
    )
    kinds = [(c.name, c.format) for c in hdu.columns]
    ids = [("THING_ID", "K"), ("PLATE", "J"), ("MJD", "J"), ("FIBERID", "J")]
    assert kinds == [*ids, ("Z", "D"), ("RA", "D"), ("DEC", "D"), ("BI_CIV", "I"), ("BAL_FLAG_VI", "I")]
    table = picca_drq(tmp_path / "drq.fits")
    assert table["THING_ID"].tolist() == [100, 102]
    assert table["FIBERID"].tolist() == [1, 3]
    assert table["Z"].tolist() == [1.0, 1 + 2 / 7]
    assert table["BI_CIV"].tolist() == table["BAL_FLAG_VI"].tolist() == [0, 1]
    assert [hdu.header[k] for k in ("NINPUT", "NQSO", "NDROP", "NREPEAT", "NSTANDIN")] == [4, 2, 0, 0, 0]


def test_drq_keeps_the_spectrum_of_highest_signal_of_each_object_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "ROW_GROUP", 2)
    thing = [5, 6, 5, 7, 6, 5, 7]
    table = sdss(7, sn=[1.0, 9.0, 3.0, 2.0, 1.0, np.nan, 2.0], THING_ID=thing)
    hdu = written(tmp_path / "drq.fits", "drq", table)
    assert hdu.data["THING_ID"].tolist() == [6, 5, 7]
    assert hdu.data["FIBERID"].tolist() == [2, 3, 4]
    assert hdu.header["NREPEAT"] == 4


@pytest.mark.parametrize("thing", [[-1, 0, 8], [-1, -7, 8]])
def test_drq_keeps_quasars_without_thing_id_under_the_number_of_their_spectrum(
    thing: list[int], tmp_path: Path
) -> None:
    hdu = written(tmp_path / "drq.fits", "drq", sdss(3, THING_ID=thing))
    assert hdu.data["THING_ID"].tolist() == [7000_56000_0001, 7000_56000_0002, 8]
    assert hdu.header["NSTANDIN"] == 2
    assert len(picca_drq(tmp_path / "drq.fits")) == 3


def test_drq_counts_the_quasars_that_picca_could_not_place(tmp_path: Path) -> None:
    table = sdss(4, RA=[1, np.nan, 1, 1], DEC=[2, 2, np.nan, 2], FIBERID=[1, 2, 3, -1])
    header = written(tmp_path / "drq.fits", "drq", table).header
    assert [header[k] for k in ("NAXIS2", "NINPUT", "NQSO", "NDROP")] == [1, 4, 4, 3]


def test_drq_never_gives_two_spectra_one_made_up_number(tmp_path: Path) -> None:
    table = sdss(3, THING_ID=[-1, -1, 5], MJD=[56001, 56000, 56000], FIBERID=[1, 10001, 10002])
    hdu = written(tmp_path / "drq.fits", "drq", table)
    assert hdu.data["THING_ID"].tolist() == [7000_56001_0001, 5]
    assert hdu.header["NDROP"] == 1


def test_drq_of_desi_spectra_is_the_zcatalog_that_picca_reads(tmp_path: Path) -> None:
    targets = [39627635744379137, -5, -1, -5]
    table = desi(4, sn=[1, 2, 3, 1], TARGETID=targets)
    hdu = written(tmp_path / "drq.fits", "drq", table)
    assert hdu.name == "ZCATALOG"
    assert [(c.name, c.format) for c in hdu.columns] == [
        ("TARGETID", "K"),
        ("RA", "D"),
        ("DEC", "D"),
        ("Z", "D"),
    ]
    assert hdu.data["TARGETID"].tolist() == [39627635744379137, -5]
    assert [hdu.header[k] for k in ("NINPUT", "NQSO", "NDROP", "NREPEAT")] == [4, 4, 1, 1]


def test_drq_does_not_mix_surveys(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="PLATE and TARGETID together; classify the archives in separate runs"
    ):
        written(tmp_path / "drq.fits", "drq", sdss(2), desi(2))
    assert list(tmp_path.iterdir()) == []


# --- desi-qn -------------------------------------------------------------------------------------------


def test_desi_qn_has_every_row_in_the_columns_of_desispec_and_then_ours(tmp_path: Path) -> None:
    hdu = written(
        tmp_path / "qso_qn.fits", "desi-qn", desi(2, is_qso=[True, False]), desi(1, flags=Flag.NO_DATA)
    )
    assert hdu.name == "QN_RR"
    lines = ("LYA", "CIV", "CIII", "MgII", "Hbeta", "Halpha")
    assert [(c.name, c.format) for c in hdu.columns] == [
        ("TARGETID", "K"),
        ("RA", "D"),
        ("DEC", "D"),
        ("DESI_TARGET", "K"),
        ("SPECTYPE_RR", "6A"),
        ("Z_RR", "D"),
        ("IS_QSO_QN_NEW_RR", "L"),
        ("Z_QN", "E"),
        *((f"C_{name}", "E") for name in lines),
        *((f"Z_{name}", "E") for name in lines),
        ("Z_NEW", "D"),
        ("ZERR_NEW", "E"),
        ("ZWARN_NEW", "K"),
        ("SPECTYPE_NEW", "6A"),
        ("SUBTYPE_NEW", "3A"),
        ("CHI2_NEW", "E"),
        ("DELTACHI2_NEW", "E"),
        ("COEFF_NEW", "10E"),
        ("C_CIV_BAL", "E"),
        ("Z_CIV_BAL", "E"),
        ("IS_QSO_QN", "L"),
    ]
    data = hdu.data
    first = 39627635744379137
    assert data["TARGETID"].tolist() == [first, first + 1, first]
    assert data["DESI_TARGET"].tolist() == [4, 4, 4]
    assert data["IS_QSO_QN"].tolist() == [True, False, False]
    np.testing.assert_array_equal(data["Z_QN"], np.float32([1.0, 1 + 1 / 7, np.nan]))
    for i, name in enumerate((*lines, "CIV_BAL")):
        np.testing.assert_array_equal(data[f"C_{name}"], np.float32([(i + 1) / 10, (i + 1) / 10, np.nan]))
        np.testing.assert_array_equal(data[f"Z_{name}"], np.float32([i / 3, 1 + i / 3, np.nan]))


def test_desi_qn_never_makes_a_pipeline_overwrite_a_redshift(tmp_path: Path) -> None:
    written(tmp_path / "qso_qn.fits", "desi-qn", desi(5))
    quasarnet = Table.read(tmp_path / "qso_qn.fits", hdu="QN_RR")
    redrock = np.arange(5.0)
    new = quasarnet["IS_QSO_QN_NEW_RR"]  # as fastspecfit and the LSS catalogues use it
    redrock[new] = quasarnet["Z_NEW"][new]
    assert redrock.tolist() == [0, 1, 2, 3, 4]


def test_desi_qn_has_no_redrock_in_it(tmp_path: Path) -> None:
    written(tmp_path / "qso_qn.fits", "desi-qn", desi(2))
    table = Table.read(tmp_path / "qso_qn.fits", hdu="QN_RR")
    for name in table.colnames:
        if name.endswith(("_RR", "_NEW")) and name != "IS_QSO_QN_NEW_RR":
            assert table[name].mask.all(), name
    assert np.ma.getdata(table["ZWARN_NEW"]).tolist() == [-1, -1]


def test_desi_qn_rows_without_identity_select_no_target(tmp_path: Path) -> None:
    hdu = written(tmp_path / "qso_qn.fits", "desi-qn", desi(2, TARGETID=[5, -1], DESI_TARGET=[4, -1]))
    assert hdu.data["TARGETID"].tolist() == [5, -1]
    assert hdu.data["DESI_TARGET"].tolist() == [4, 0]


def test_desi_qn_header_names_the_program_and_the_model(tmp_path: Path) -> None:
    header = written(tmp_path / "qso_qn.fits", "desi-qn", desi(1)).header
    assert (header["DEPNAM00"], header["DEPVER00"]) == ("broadline", "0.1.0")
    assert (header["DEPNAM01"], header["DEPVER01"]) == ("QN_MODEL_FILE", "slim")
    assert header["MODELSHA"] == META["model_sha256"]


# --- all -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_the_same_however_the_rows_came(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "ROW_GROUP", 4)
    table = desi(11) if layout == "desi-qn" else sdss(11)
    written(tmp_path / "one.fits", layout, table)
    written(tmp_path / "two.fits", layout, table.slice(0, 1), table.slice(1, 9), table.slice(10))
    assert (tmp_path / "one.fits").read_bytes() == (tmp_path / "two.fits").read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_without_rows_is_a_table_without_rows(layout: str, tmp_path: Path) -> None:
    assert len(written(tmp_path / "a.fits.gz", layout).data) == 0


@pytest.mark.parametrize(("layout", "table"), [("qnall", desi(2)), ("desi-qn", sdss(2))])
def test_a_layout_that_the_archive_cannot_fill_is_refused_at_once(
    layout: str, table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "ROW_GROUP", 2)
    refused = pytest.raises(UsageError, match=f"{layout} needs spectra with .* none of the first 2 has it")
    with refused, CatalogueWriter(tmp_path / "a.fits", QUASARNET_LINES, META, layout) as writer:
        writer.append(table)
        pytest.fail("more spectra were asked for")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lamost_spectra_fit_no_layout(layout: str, tmp_path: Path) -> None:
    table = classified(identity("lamost", ["f"], OBSID=[5]), 1, 1.0, True, False, 0)
    with pytest.raises(UsageError, match=f"the layout {layout} needs"):
        written(tmp_path / "a.fits", layout, table)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", ["qnall", "desi-qn"])
def test_a_model_without_the_lines_is_refused_before_any_work(layout: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{layout} has the line MGII, which this model does not look for"):
        CatalogueWriter(tmp_path / "a.fits", [x for x in QUASARNET_LINES if x.name != "MGII"], META, layout)


@pytest.mark.parametrize("name", ["a.parquet", "a.ecsv", "a.csv"])
def test_a_layout_is_a_fits_table(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{name}: the layout drq is a FITS table"):
        CatalogueWriter(tmp_path / name, QUASARNET_LINES, META, "drq")


def test_an_unknown_layout_is_refused_with_those_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no layout 'zmtl'; use one of qnall, drq, desi-qn"):
        CatalogueWriter(tmp_path / "a.fits", QUASARNET_LINES, META, "zmtl")


def test_the_documentation_has_every_layout_and_its_columns(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "catalogue.md").read_text()
    sections = text.split("\n### ")[1:]
    assert [section.split(":")[0].strip("`") for section in sections] == list(LAYOUTS)
    for section, layout in zip(sections, LAYOUTS, strict=True):
        for i, table in enumerate((sdss(1), desi(1))):
            if i != (layout == "desi-qn") and layout != "drq":
                continue
            for name in written(tmp_path / "a.fits", layout, table).columns.names:
                of_line = name.startswith(("C_", "Z_")) and name[2:] in (*EMISSION, "MgII", "Hbeta", "Halpha")
                assert (name[2:] if of_line else name) in section, name
