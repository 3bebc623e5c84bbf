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
from broadline.truth import CLASSES, QSO, Truth, match, read_truth_table
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


WRITERS: dict[str, Callable[[Path, dict[str, Any]], Path]] = {
    "fits": write_fits,
    "parquet": write_parquet,
    "csv": write_csv,
    "ecsv": write_ecsv,
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


def test_the_simulators_truth_is_what_is_true_as_sure_as_its_inspector(tmp_path: Path) -> None:
    columns = {
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
    truth = read_truth_table(write_parquet(tmp_path / "truth.parquet", columns))
    assert (truth.layout, truth.by) == ("simulated", "TARGETID")
    labels = rows_of(truth, {"TARGETID": np.array(columns["TARGETID"])})
    assert labels["kind"] == ["QSO", "QSO", "STAR", "OTHER"]
    assert labels["z"] == [2.0, 3.0, 0.001, 0.0]
    assert labels["confidence"] == [3, 2, 3, 3]
    assert (labels["bal_flag"], labels["balnicity"]) == ([0, 1, 0, 0], [0, 800, 0, 0])
    assert labels["object"][:3] == [5, 6, 7]


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


@settings(max_examples=30, deadline=None)
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
