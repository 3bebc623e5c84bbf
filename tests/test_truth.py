"""Truth tables of several layouts say the same thing in the same words, and join to the right spectra."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.simulation.files.fits_parts import ORIGIN
from broadline.truth import CLASSES, QSO, STAR, Truth, match, read_truth_table
from files import gzipped

#: A superset of five spectra of four objects: star, quasar, the same again, BAL quasar, and nothing.
SUPERSET: dict[str, list[float]] = {
    "THING_ID": [11, 12, 12, 13, -1],
    "PLATE": [4055, 4055, 7102, 4055, 4055],
    "MJD": [55359, 55359, 56666, 55359, 55359],
    "FIBERID": [1, 2, 900, 3, 4],
    "Z_VI": [0.0, 2.1, 2.11, 1.9, -1.0],
    "CLASS_PERSON": [1, 3, 3, 30, 0],
    "Z_CONF_PERSON": [3, 3, 2, 3, 0],
    "ANCILLARY_TARGET1": [0, 1 << 40, 0, 0, 0],
    "ANCILLARY_TARGET2": [0, 0, 0, 2, 0],
}
DR12Q: dict[str, list[float]] = {"BAL_FLAG_VI": [0, 0, 0, 1, 0], "BI_CIV": [0, 12.5, 0, 3000, 0]}
PLAIN: dict[str, list[Any]] = {"CLASS": ["QSO", "STAR", "galaxy ", "SKY", ""], "Z": [2.5, 0, 0.3, 0, 1.0]}
SPECTRA = {name: np.array(SUPERSET[name]) for name in ("PLATE", "MJD", "FIBERID")}


def write_fits(path: Path, columns: dict[str, Any]) -> Path:
    Table({name: np.asarray(column) for name, column in columns.items()}).write(
        path, format="fits", overwrite=True
    )
    return path


def write_parquet(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def write_csv(path: Path, columns: dict[str, Any]) -> Path:
    pa.csv.write_csv(pa.table(columns), path)
    return path


def write_ecsv(path: Path, columns: dict[str, Any]) -> Path:
    Table(columns).write(path, format="ascii.ecsv", overwrite=True)
    return path


def write_ecsv_with_commas(path: Path, columns: dict[str, Any]) -> Path:
    Table(columns).write(path, format="ascii.ecsv", delimiter=",", overwrite=True)
    return path


WRITERS: dict[str, Callable[[Path, dict[str, Any]], Path]] = {
    "fits": write_fits,
    "parquet": write_parquet,
    "csv": write_csv,
    "ecsv": write_ecsv,
    "commas.ecsv": write_ecsv_with_commas,
}


def rows_of(truth: Truth, spectra: dict[str, NDArray[Any]] = SPECTRA) -> dict[str, list[Any]]:
    """The labels of some spectra, all of which the truth must know."""
    rows = match(truth, spectra)
    assert (rows >= 0).all()
    labels = {
        name: getattr(truth, name)[rows].tolist() for name in ("z", "confidence", "bal_flag", "balnicity")
    }
    return labels | {
        "kind": [CLASSES[i] for i in truth.kind[rows]],
        "object": truth.object[rows].tolist(),
        "ancillary": truth.ancillary[rows].tolist(),
    }


# ---- layouts


def test_the_codes_of_the_dr12q_superset_have_their_meaning(tmp_path: Path) -> None:
    truth = read_truth_table(write_fits(tmp_path / "superset.fits", SUPERSET | DR12Q))
    assert (truth.layout, truth.by, len(truth), truth.n_repeated) == ("inspected", "PLATE-MJD-FIBERID", 5, 0)
    labels = rows_of(truth)
    assert labels["kind"] == ["STAR", "QSO", "QSO", "QSO", ""]
    assert labels["z"][:4] == [0.0, 2.1, 2.11, 1.9] and np.isnan(labels["z"][4])
    assert labels["confidence"] == [3, 3, 2, 3, 0]
    assert labels["ancillary"] == [False, True, False, True, False]
    assert labels["bal_flag"] == [0, 0, 0, 1, 0]
    assert labels["balnicity"] == [0, 12.5, 0, 3000, 0]


def test_spectra_of_an_object_share_its_number_and_those_of_none_stand_alone(tmp_path: Path) -> None:
    columns = SUPERSET | {"THING_ID": [11, 12, 12, -1, -1]}
    found = rows_of(read_truth_table(write_fits(tmp_path / "superset.fits", columns)))["object"]
    assert found[:3] == [11, 12, 12]
    assert found[3] < 0 and found[4] < 0 and found[3] != found[4]


def test_without_bal_columns_only_the_class_tells_of_absorption(tmp_path: Path) -> None:
    labels = rows_of(read_truth_table(write_fits(tmp_path / "superset.fits", SUPERSET)))
    assert labels["bal_flag"] == [-1, -1, -1, 1, -1]
    assert np.isnan(labels["balnicity"]).all()


def test_quasarnets_truth_file_is_read_as_it_is(tmp_path: Path) -> None:
    columns = {name: column for name, column in (SUPERSET | DR12Q).items() if "ANCILLARY" not in name}
    plain = rows_of(read_truth_table(write_fits(tmp_path / "truth.fits", columns)))
    assert plain["kind"] == ["STAR", "QSO", "QSO", "QSO", ""]
    assert not any(plain["ancillary"])
    packed = rows_of(read_truth_table(gzipped(tmp_path / "truth.fits")))
    assert str(packed) == str(plain)


def test_a_real_extract_of_the_superset_is_read(data: Path) -> None:
    truth = read_truth_table(data / "catalogues" / "superset_dr12q_extract.fits")
    assert (truth.layout, len(truth), truth.n_repeated) == ("inspected", 73, 0)
    assert np.bincount(truth.kind).tolist() == [0, 48, 22, 3]
    assert (truth.confidence == 3).all() and np.isfinite(truth.z[truth.kind == QSO]).all()
    assert (truth.bal_flag == 1).sum() == 3


DR14Q: dict[str, Any] = {
    "RA": [10.0, 20.0, 30.0],
    "DEC": [0.0, 5.0, -5.0],
    "THING_ID": [11, 12, -1],
    "PLATE": [4055, 4055, 7102],
    "MJD": [55359, 55359, 56666],
    "FIBERID": [1, 2, 900],
    "Z": [2.0, 2.5, 3.0],
    "SOURCE_Z": ["VI", "PIPE", "VI"],
    "Z_VI": [2.0, -1.0, 3.0],
    "Z_PIPE": [2.01, 2.5, 0.3],
    "Z_PCA": [2.02, -1.0, 3.01],
    "ANCILLARY_TARGET1": [0, 0, 1],
    "ANCILLARY_TARGET2": [0, 0, 0],
    "BI_CIV": [0.0, 500.0, -1.0],
    "PSFMAG": np.array([[9.0, 9, 9, 19.5, 9], [9, 9, 9, 20.5, 9], [9, 9, 9, 0.0, 9]]),
}


def test_every_row_of_dr14q_is_a_quasar_as_sure_as_any_other(tmp_path: Path) -> None:
    truth = read_truth_table(write_fits(tmp_path / "DR14Q_v4_4.fits", DR14Q))
    assert (truth.layout, truth.rated, truth.quasars_only) == ("dr14q", False, True)
    assert (truth.kind == QSO).all() and truth.z.tolist() == [2.0, 2.5, 3.0]
    assert truth.confidence.tolist() == [3, 3, 3]
    assert truth.bal_flag.tolist() == [-1, -1, -1] and truth.knows_bal
    assert truth.balnicity[:2].tolist() == [0, 500] and np.isnan(truth.balnicity[2])
    assert truth.ancillary.tolist() == [False, False, True]
    assert set(truth.other_z) == {"Z_VI", "Z_PIPE", "Z_PCA"}
    assert truth.other_z["Z_PCA"][0] == 2.02 and np.isnan(truth.other_z["Z_PCA"][1])
    assert truth.magnitude is not None
    assert truth.magnitude[:2].tolist() == [19.5, 20.5] and np.isnan(truth.magnitude[2])


def test_other_visits_to_a_quasar_of_dr14q_are_spectra_of_the_same_object(tmp_path: Path) -> None:
    visits = {
        "PLATE_DUPLICATE": np.array([[500, 501], [-1, -1], [502, 0]]),
        "MJD_DUPLICATE": np.array([[52000, 52001], [-1, -1], [52002, 0]]),
        "FIBERID_DUPLICATE": np.array([[7, 8], [-1, -1], [9, 0]]),
    }
    truth = read_truth_table(write_fits(tmp_path / "DR14Q_v4_4.fits", DR14Q | visits))
    assert len(truth) == 6
    spectra = {
        "PLATE": np.array([4055, 500, 501, 4055, 7102, 502]),
        "MJD": np.array([55359, 52000, 52001, 55359, 56666, 52002]),
        "FIBERID": np.array([1, 7, 8, 2, 900, 9]),
    }
    labels = rows_of(truth, spectra)
    assert labels["z"] == [2.0, 2.0, 2.0, 2.5, 3.0, 3.0]
    assert labels["object"][:4] == [11, 11, 11, 12]
    assert labels["object"][4] == labels["object"][5] > 10**12  # it has no THING_ID
    assert truth.magnitude is not None and (truth.magnitude[match(truth, spectra)][:3] == 19.5).all()


def test_a_real_extract_of_dr14q_is_read(data: Path) -> None:
    truth = read_truth_table(data / "catalogues" / "picca" / "DRQ_Pk1D.fits")
    assert truth.layout == "dr14q" and truth.quasars_only and not truth.knows_bal
    assert len(truth) >= 8 and np.isfinite(truth.z).all() and len(set(truth.object.tolist())) == 8


DR16Q: dict[str, list[Any]] = {
    "PLATE": [4055] * 6,
    "MJD": [55359] * 6,
    "FIBERID": [1, 2, 3, 4, 5, 6],
    "THING_ID": [1, 2, 3, 4, 5, 6],
    "CLASS_PERSON": [3, 30, 1, 0, 0, 0],
    "Z_VI": [2.0, 2.5, 0.0, -1, -1, -1],
    "Z_CONF": [3, 2, 3, 0, 0, 0],
    "IS_QSO_10K": [-1, -1, -1, 1, 0, -1],
    "Z_10K": [-1, -1, -1, 1.5, -1, -1],
    "Z_CONF_10K": [-1, -1, -1, 3, 3, -1],
    "IS_QSO_FINAL": [1, 1, 0, 1, 0, 1],
    "Z": [2.0, 2.5, 0.0, 1.5, 0.1, 2.2],
    "SOURCE_Z": ["VI", "VI", "VI", "VI", "PIPE", "PIPE"],
    "Z_PIPE": [2.0, 2.5, 0.0, 1.5, 0.1, 2.2],
    "IS_QSO_QN": [1, 1, 0, 1, 0, 1],
    "Z_QN": [2.0, 2.5, -1, 1.5, -1, 2.2],
}


def test_of_the_dr16q_superset_only_what_somebody_inspected_is_truth(tmp_path: Path) -> None:
    truth = read_truth_table(write_fits(tmp_path / "DR16Q_Superset_v3.fits", DR16Q))
    assert (truth.layout, truth.rated, truth.quasars_only) == ("dr16q-superset", True, False)
    assert (truth.key % 10**4).tolist() == [1, 2, 3, 4, 5]  # the sixth is a quasar of QuasarNET's alone
    assert [CLASSES[i] for i in truth.kind] == ["QSO", "QSO", "STAR", "QSO", "OTHER"]
    assert truth.z[:4].tolist() == [2.0, 2.5, 0.0, 1.5] and np.isnan(truth.z[4])
    assert truth.confidence.tolist() == [3, 2, 3, 3, 3]
    assert truth.bal_flag.tolist() == [-1, 1, -1, -1, -1]
    assert truth.other_z["Z_QN"][0] == 2.0 and np.isnan(truth.other_z["Z_QN"][2])


def test_dr16q_itself_is_a_list_of_quasars_though_it_has_the_columns_of_its_superset(tmp_path: Path) -> None:
    visits = {f"{name}_DUPLICATE": np.full((6, 2), -1) for name in ("PLATE", "MJD", "FIBERID")}
    truth = read_truth_table(write_fits(tmp_path / "DR16Q_v4.fits", DR16Q | visits))
    assert (truth.layout, len(truth), truth.quasars_only, truth.rated) == ("dr14q", 6, True, False)
    assert truth.z.tolist() == DR16Q["Z"]


def test_dr12q_itself_knows_quasars_and_their_absorption(tmp_path: Path) -> None:
    columns = {name: SUPERSET[name] for name in ("PLATE", "MJD", "FIBERID", "THING_ID", "Z_VI")}
    truth = read_truth_table(write_fits(tmp_path / "DR12Q.fits", columns | DR12Q | {"Z_PCA": [2.0] * 5}))
    assert (truth.layout, truth.rated, truth.quasars_only, truth.knows_bal) == ("dr12q", False, True, True)
    labels = rows_of(truth)
    assert labels["bal_flag"] == [0, 0, 0, 1, 0] and labels["balnicity"] == [0, 12.5, 0, 3000, 0]
    assert list(truth.other_z) == ["Z_PCA"]


def test_redrock_is_sure_where_it_has_no_warning(tmp_path: Path) -> None:
    columns = {
        "TARGETID": [39627658, 39627659, -777, 39627660],
        "Z": [2.0, 0.5, 0.7, 0.0],
        "ZWARN": [0, 4, 0, 0],
        "SPECTYPE": ["QSO", "GALAXY", "GALAXY", "STAR"],
    }
    path = tmp_path / "redrock-0-100-thru20210505.fits"
    table = fits.BinTableHDU(Table(columns), name="REDSHIFTS")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    truth = read_truth_table(path)
    assert (truth.layout, truth.by, truth.rated, truth.knows_bal) == ("redrock", "TARGETID", True, False)
    labels = rows_of(truth, {"TARGETID": np.array(columns["TARGETID"])})
    assert labels["kind"] == ["QSO", "GALAXY", "", "STAR"]  # a negative number is no target
    assert labels["confidence"] == [3, 1, 0, 3]
    assert labels["object"] == columns["TARGETID"]


LAMOST: dict[str, list[Any]] = {
    "ObsID": [201001, 201002, 201003],
    "Designation": ["001234.56+010203.4", "011234.56+010203.4", "021234.56+010203.4"],
    "RA": [3.144, 18.144, 33.144],
    "Dec": [1.0343, 1.0343, 1.0343],
    "MJD": [56000, 56000, 56000],
    "fiberID": [1, 2, 3],
    "z_vi": [1.5, 2.5, -9999.0],
    "zWarning": [0, 1, 0],
    "BAL_flag": [0, 1, -9999],
}


def test_lamost_quasars_with_one_line_have_a_firm_class_alone(tmp_path: Path) -> None:
    truth = read_truth_table(write_fits(tmp_path / "lamost_dr45_quasars.fits", LAMOST))
    assert (truth.layout, truth.by, truth.quasars_only, truth.rated) == ("lamost", "OBSID", True, True)
    labels = rows_of(truth, {"OBSID": np.array(LAMOST["ObsID"])})
    assert labels["kind"] == ["QSO"] * 3
    assert labels["z"][:2] == [1.5, 2.5] and np.isnan(labels["z"][2])
    assert labels["confidence"] == [3, 2, 3] and labels["bal_flag"] == [0, 1, -1]


def test_lamost_quasars_known_by_designation_are_found_by_position(tmp_path: Path) -> None:
    columns = {"designation": LAMOST["Designation"], "ra": LAMOST["RA"], "dec": LAMOST["Dec"], "z": [1, 2, 3]}
    truth = read_truth_table(write_csv(tmp_path / "quasars.csv", columns))
    assert (truth.layout, truth.by, truth.rated) == ("lamost", "position", False)
    ids = {"OBSID": np.array([5, 6]), "RA": np.array([33.144, 18.1]), "DEC": np.array([1.0343, 1.0343])}
    assert [truth.z[row] if row >= 0 else None for row in match(truth, ids)] == [3, None]


SIMULATED: dict[str, list[Any]] = {
    "THING_ID": [5, 6, 7, -1],
    "TARGETID": [5, 6, 7, -900001],
    "TRUE_CLASS": ["QSO", "QSO", "STAR", "SKY"],
    "TRUE_Z": [2.0, 3.0, 0.001, 0.0],
    "TRUE_BI_CIV": [0.0, 800.0, 0.0, 0.0],
    "CLASS_PERSON": [1, 30, 1, 0],  # the first one was mistaken for a star
    "Z_VI": [0.0, 3.1, 0.0, -1.0],
    "Z_CONF_PERSON": [3, 2, 3, 0],
    "BAL_FLAG_VI": [0, 1, 0, 0],
    "BI_CIV": [0.0, 700.0, 0.0, 0.0],
}


def test_the_simulators_truth_is_what_is_true_as_sure_as_its_inspector(tmp_path: Path) -> None:
    truth = read_truth_table(write_parquet(tmp_path / "truth.parquet", SIMULATED))
    assert (truth.layout, truth.by) == ("simulated", "TARGETID")
    assert truth.simulated
    labels = rows_of(truth, {"TARGETID": np.array(SIMULATED["TARGETID"])})
    assert labels["kind"] == ["QSO", "QSO", "STAR", "OTHER"]
    assert labels["z"] == [2.0, 3.0, 0.001, 0.0]
    assert labels["confidence"] == [3, 2, 3, 3]
    assert (labels["bal_flag"], labels["balnicity"]) == ([0, 1, 0, 0], [0, 800, 0, 0])
    assert labels["object"][:3] == [5, 6, 7]


def test_the_inspector_of_a_simulated_survey_may_be_wrong_and_never_looks_at_sky(tmp_path: Path) -> None:
    fits_of_five = {"FIT_Z": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(20.0)), 5)}
    path = write_parquet(tmp_path / "truth.parquet", SIMULATED | fits_of_five)
    truth = read_truth_table(path, inspected=True)
    assert truth.simulated and truth.rated and truth.knows_bal and not truth.quasars_only
    assert truth.key.tolist() == [5, 6, 7]
    assert [CLASSES[i] for i in truth.kind] == ["STAR", "QSO", "STAR"]
    assert truth.z.tolist() == [0.0, 3.1, 0.0] and truth.confidence.tolist() == [3, 2, 3]
    assert truth.bal_flag.tolist() == [0, 1, 0] and truth.balnicity.tolist() == [0, 700, 0]
    assert truth.other_z["TRUE_Z"].tolist() == [2.0, 3.0, 0.001]
    assert truth.other_z["Z_PIPE"].tolist() == [0, 5, 10]  # the best of five fits


def test_catalogues_of_a_simulated_survey_say_that_they_are(tmp_path: Path) -> None:
    for origin, simulated in ((ORIGIN[1], True), ("SDSS", False)):
        primary = fits.PrimaryHDU(header=fits.Header([("ORIGIN", origin)]))
        table = fits.BinTableHDU(Table({name: np.array(values) for name, values in SUPERSET.items()}))
        fits.HDUList([primary, table]).writeto(tmp_path / "superset.fits", overwrite=True)
        assert read_truth_table(tmp_path / "superset.fits").simulated is simulated


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("by", ["PLATE-MJD-FIBERID", "TARGETID", "OBSID", "OBJID"])
def test_a_plain_table_may_be_of_any_kind_and_name_spectra_in_any_way(
    kind: str, by: str, tmp_path: Path
) -> None:
    names: dict[str, list[Any]] = {name: SUPERSET[name] for name in ("PLATE", "MJD", "FIBERID")}
    if by != "PLATE-MJD-FIBERID":
        names = {by: [39627658, 8, 1 << 60, 3, 4] if by != "OBJID" else ["b", "a c", "7", "007", "x-y"]}
    truth = read_truth_table(WRITERS[kind](tmp_path / "mine", names | PLAIN))
    assert (truth.layout, truth.by) == ("plain", by)
    labels = rows_of(truth, {name: np.array(column) for name, column in names.items()})
    assert labels["kind"] == ["QSO", "STAR", "GALAXY", "OTHER", ""]
    assert labels["z"] == [2.5, 0, 0.3, 0, 1]
    assert labels["confidence"] == [3, 3, 3, 3, 0]
    assert labels["bal_flag"] == [-1] * 5 and np.isnan(labels["balnicity"]).all()
    assert len(set(labels["object"])) == 5


def test_a_plain_table_may_say_more(tmp_path: Path) -> None:
    more = {
        "objid": ["a", "b", "c", "d", "e"],
        "thing_id": [1, 1, 2, 3, 4],
        "z_conf": [1, 2, 3, 3, 3],
        "bal_flag": [1, 0, 0, 0, 0],
        "bi_civ": [10.0, 0, 0, 0, 0],
        "ancillary": [0, 0, 1, 0, 0],
    }
    truth = read_truth_table(write_csv(tmp_path / "mine.csv", more | PLAIN))
    labels = rows_of(truth, {"OBJID": np.array(more["objid"], dtype=object)})
    assert labels["object"] == [1, 1, 2, 3, 4]
    assert labels["confidence"] == [1, 2, 3, 3, 0]
    assert labels["bal_flag"] == [1, 0, 0, 0, 0] and labels["balnicity"][0] == 10
    assert labels["ancillary"] == [False, False, True, False, False]


@pytest.mark.parametrize("kind", ["parquet", "csv", "ecsv"])
def test_missing_values_are_not_known(kind: str, tmp_path: Path) -> None:
    columns: dict[str, Any] = {"OBJID": ["a", "b"], "CLASS": ["QSO", None], "Z": [None, 1.0]}
    if kind == "ecsv":
        columns["CLASS"] = MaskedColumn(["QSO", "x"], mask=[False, True])
        columns["Z"] = MaskedColumn([9.0, 1.0], mask=[True, False])
    truth = read_truth_table(WRITERS[kind](tmp_path / "mine", columns))
    assert [CLASSES[i] for i in truth.kind] == ["QSO", ""]
    assert np.isnan(truth.z[0]) and truth.z[1] == 1
    assert truth.confidence.tolist() == [3, 0]


# ---- joining


@settings(max_examples=30)
@given(st.permutations(range(5)), st.lists(st.integers(0, 6), max_size=12))
def test_the_order_of_the_table_and_of_the_spectra_does_not_matter(
    order: list[int], wanted: list[int]
) -> None:
    truth = _truth_of(order)
    fiber = np.array(wanted, dtype=np.int32)
    rows = match(
        truth, {"PLATE": np.full(len(fiber), 9), "MJD": np.full(len(fiber), 50000), "FIBERID": fiber}
    )
    assert [truth.z[row] if row >= 0 else None for row in rows] == [i / 10 if i < 5 else None for i in wanted]


def _truth_of(order: list[int]) -> Truth:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        columns = {"PLATE": [9] * 5, "MJD": [50000] * 5, "FIBERID": order, "CLASS": ["QSO"] * 5}
        return read_truth_table(
            write_parquet(Path(folder) / "t.parquet", columns | {"Z": [i / 10 for i in order]})
        )


def test_plate_date_and_fibre_must_all_agree(tmp_path: Path) -> None:
    truth = read_truth_table(write_fits(tmp_path / "superset.fits", SUPERSET))
    for name in SPECTRA:
        for step in (-1, 1):
            near = SPECTRA | {name: SPECTRA[name] + step}
            assert not set(np.flatnonzero(match(truth, near) >= 0)) - {0, 1, 3, 4}
            assert match(truth, near)[2] == -1


def test_spectra_without_a_name_match_nothing(tmp_path: Path) -> None:
    columns = {"OBJID": ["", "a"], "CLASS": ["QSO", "STAR"], "Z": [1.0, 0.0]}
    truth = read_truth_table(write_parquet(tmp_path / "t.parquet", columns))
    assert len(truth) == 1
    assert match(truth, {"OBJID": np.array(["", "a", "b"], dtype=object)}).tolist() == [-1, 0, -1]
    by_plate = read_truth_table(write_fits(tmp_path / "superset.fits", SUPERSET))
    nowhere = {name: np.array([-1]) for name in SPECTRA}
    assert match(by_plate, nowhere).tolist() == [-1]
    assert match(by_plate, {"OBJID": np.array(["4055-55359-0001"], dtype=object)}).tolist() == [-1]
    huge = {"PLATE": np.array([4055]), "MJD": np.array([55358]), "FIBERID": np.array([10_001])}
    assert match(by_plate, huge).tolist() == [-1]  # not fibre 1 of the day after


def plain_at(path: Path, ra: list[float], dec: list[float], **more: Any) -> Truth:
    n = len(ra)
    columns = {"RA": ra, "DEC": dec, "CLASS": ["QSO"] * n, "Z": [float(i) for i in range(n)]}
    return read_truth_table(write_parquet(path / "t.parquet", columns | more))


def places(*where: tuple[float, float]) -> dict[str, NDArray[Any]]:
    ra, dec = np.array(where).T
    return {"RA": ra, "DEC": dec}


ARCSEC = 1 / 3600


def test_without_names_the_nearest_within_an_arcsecond_counts(tmp_path: Path) -> None:
    truth = plain_at(tmp_path, [0.0, 10.0, 10.0 + 1.2 * ARCSEC], [60.0, 0.0, 0.0])
    assert truth.by == "position"
    seen = places(
        (10.0 + 0.5 * ARCSEC, 0.0),
        (10.0 + 0.7 * ARCSEC, 0.0),
        (10.0, 0.99 * ARCSEC),
        (10.0, 1.01 * ARCSEC),
        (360 - 1.5 * ARCSEC, 60.0),  # a degree of right ascension is half as long there
        (np.nan, 0.0),
        (10.0, -9999.0),
    )
    assert match(truth, seen).tolist() == [1, 2, 1, -1, 0, -1, -1]


def test_a_spectrum_with_a_name_is_not_looked_for_by_position(tmp_path: Path) -> None:
    truth = plain_at(tmp_path, [10.0], [0.0], PLATE=[4055], MJD=[55359], FIBERID=[1])
    names = {"PLATE": np.array([4055, 4055, -1]), "MJD": np.full(3, 55359), "FIBERID": np.array([1, 2, 3])}
    assert match(truth, names | places(*[(10.0, 0.0)] * 3)).tolist() == [0, -1, 0]
    assert match(truth, {"OBSID": np.array([7]), **places((10.0, 0.0))}).tolist() == [0]


def test_names_of_ones_own_do_not_hinder_a_join_by_position(tmp_path: Path) -> None:
    truth = plain_at(tmp_path, [10.0, 20.0], [0.0, 0.0], OBJID=["J0040+00", "J0120+00"])
    ids = {"OBJID": np.array(["4055-55359-0001", "J0120+00"], dtype=object)}
    assert match(truth, ids).tolist() == [-1, 1]
    assert match(truth, ids | places((10.0, 0.0), (50.0, 0.0))).tolist() == [0, 1]


def test_of_several_spectra_at_a_place_the_most_confident_speaks_for_the_object(tmp_path: Path) -> None:
    names = {"OBSID": [1, 2, 3], "THING_ID": [9, 9, 9], "Z_CONF": [1, 3, 2]}
    truth = plain_at(tmp_path, [10.0] * 3, [0.0] * 3, **names)
    assert match(truth, places((10.0, 0.0))).tolist() == [1]


def test_positions_that_are_no_numbers_are_not_used(tmp_path: Path) -> None:
    columns = {"OBJID": ["a"], "RA": ["00:40:00"], "DEC": ["+01:00:00"], "CLASS": ["QSO"], "Z": [1.0]}
    truth = read_truth_table(write_csv(tmp_path / "t.csv", columns))
    assert match(truth, {"OBJID": np.array(["b"]), **places((10.0, 1.0))}).tolist() == [-1]


def test_long_names_keep_their_digits_where_others_are_missing(tmp_path: Path) -> None:
    targets = [39628438587408321, 39628438587408322, None]
    columns = {"TARGETID": targets, "CLASS": ["QSO", "STAR", "STAR"], "Z": [2.0, 0.0, 0.0]}
    for kind in ("parquet", "csv"):
        truth = read_truth_table(WRITERS[kind](tmp_path / kind, columns))
        assert truth.key.tolist() == targets[:2] and truth.kind.tolist() == [QSO, STAR]


def test_an_object_without_number_is_the_same_in_another_table_of_its_spectra(tmp_path: Path) -> None:
    alone = SUPERSET | {"THING_ID": [-1] * 5}
    whole = read_truth_table(write_fits(tmp_path / "superset.fits", alone))
    part = read_truth_table(
        write_fits(tmp_path / "part.fits", {name: values[2:] for name, values in alone.items()})
    )
    rows = match(whole, {name: column[2:] for name, column in SPECTRA.items()})
    assert (
        whole.object[rows].tolist()
        == part.object[match(part, {n: c[2:] for n, c in SPECTRA.items()})].tolist()
    )
    assert len(set(whole.object.tolist())) == 5 and (whole.object < -1).all()


# ---- repeated rows


def repeated(tmp_path: Path, **changes: Any) -> Path:
    columns: dict[str, Any] = {
        "OBJID": ["b", "a", "a"],
        "CLASS": ["STAR", "QSO", "QSO"],
        "Z": [0.0, 2.0, 2.01],
        "Z_CONF": [3, 3, 3],
    }
    return write_parquet(tmp_path / "t.parquet", columns | changes)


def test_of_rows_that_agree_the_first_is_kept(tmp_path: Path) -> None:
    truth = read_truth_table(repeated(tmp_path))
    assert (truth.key.tolist(), truth.z.tolist(), truth.n_repeated) == (["a", "b"], [2.0, 0.0], 1)


def test_of_rows_for_one_spectrum_the_most_confident_is_kept(tmp_path: Path) -> None:
    truth = read_truth_table(repeated(tmp_path, CLASS=["STAR", "STAR", "QSO"], Z_CONF=[3, 2, 3]))
    assert CLASSES[truth.kind[0]] == "QSO" and truth.z[0] == 2.01


@pytest.mark.parametrize("change", [{"CLASS": ["STAR", "QSO", "STAR"]}, {"Z": [0.0, 2.0, 2.1]}])
def test_firm_rows_that_contradict_each_other_are_refused(change: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"t\.parquet contradicts itself in 1 rows: OBJID a is firmly QSO at z 2"
    ):
        read_truth_table(repeated(tmp_path, **change))
    read_truth_table(repeated(tmp_path, **change, Z_CONF=[3, 2, 2]))  # doubts may


# ---- bad input


def test_tables_of_no_known_layout_are_usage_errors(tmp_path: Path) -> None:
    bad: dict[str, tuple[dict[str, Any], str]] = {
        "foreign": ({"RA": [1.0], "PLATE": [1]}, "no truth table that broadline knows.*CLASS_PERSON"),
        "nameless": ({"CLASS": ["QSO"], "Z": [1.0], "PLATE": [1]}, "names no spectra: it needs PLATE-MJD"),
        "empty": ({"OBJID": [""], "CLASS": ["QSO"], "Z": [1.0]}, "names no spectra: OBJID is empty"),
        "rowless": (
            {"OBJID": np.zeros(0, str), "CLASS": np.zeros(0, str), "Z": np.zeros(0)},
            "names no spectra: it has no rows; leave it out",
        ),
        "class": ({"OBJID": ["a"], "CLASS": ["QSR"], "Z": [1.0]}, "has a class 'QSR'; write QSO"),
        "text": ({"OBJID": ["a"], "CLASS": ["QSO"], "Z": ["high"]}, "column Z does not hold numbers"),
    }
    for name, (columns, message) in bad.items():
        for kind, write in WRITERS.items():
            with pytest.raises(UsageError, match=f"{name}.*{message}"):
                read_truth_table(write(tmp_path / f"{name}.{kind}", columns))


def test_files_that_are_no_tables_are_usage_errors(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(tmp_path / "image.fits")
    (tmp_path / "empty").touch()
    (tmp_path / "bytes").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "half.parquet").write_bytes(repeated(tmp_path).read_bytes()[:300])
    whole = write_fits(tmp_path / "whole.fits", {name: column * 2000 for name, column in SUPERSET.items()})
    (tmp_path / "half.fits").write_bytes(whole.read_bytes()[:9000])
    (tmp_path / "half.fits.gz").write_bytes(gzipped(whole).read_bytes()[:400])
    for name in ("image.fits", "empty", "bytes", "half.parquet", "half.fits", "half.fits.gz", "none", "."):
        with pytest.raises(UsageError, match=name):
            read_truth_table(tmp_path / name)
