"""A study joins catalogues to the truth: every row is somewhere, and what cannot be told is said."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broadline.catalogue import rows as catalogue_rows
from broadline.decision import Rule
from broadline.errors import UsageError
from broadline.evaluation.catalogues import read_catalogue
from broadline.evaluation.join import read_study
from broadline.evaluation.study import Study
from broadline.flags import Flag
from broadline.lines import LEGACY_LINES, LINES, QUASARNET_LINES
from broadline.named_models import load_model
from broadline.training.splits import Split, write_splits
from broadline.writers import CatalogueWriter

META = {
    "version": "1.2",
    "model": "mine",
    "model_sha256": "0" * 64,
    "rule": "c_th=0.3 l_min=2 c_th_bal=0.5",
    "command": "broadline classify spectra -o catalogue.fits",
}
KINDS = ("parquet", "fits", "fits.gz", "csv", "ecsv")
#: A spectrum is `fiber` of plate 4055; the truth of each: class, redshift, object.
PERSON = {1: 3, 2: 3, 3: 1, 4: 4, 5: 30, 6: 0}
Z_VI = {1: 2.0, 2: 1.0, 3: 0.0, 4: 0.5, 5: 2.5, 6: -1.0}
THING = {1: 11, 2: 12, 3: 13, 4: 14, 5: 15, 6: -1}
CALLED = {1: True, 2: False, 3: True, 4: True, 5: True, 6: False}
FOUND = {1: 2.001, 2: 0.3, 3: 3.0, 4: 0.5, 5: 2.5, 6: 1.0}


def named(fiber: list[int]) -> dict[str, Any]:
    return {"PLATE": [4055] * len(fiber), "MJD": [55359] * len(fiber), "FIBERID": fiber}


def superset(path: Path, fiber: list[int] | None = None, **changes: Any) -> Path:
    """A DR12Q superset of some fibres."""
    fiber = [*PERSON] if fiber is None else fiber
    columns = named(fiber) | {
        "THING_ID": [THING[i] for i in fiber],
        "CLASS_PERSON": [PERSON[i] for i in fiber],
        "Z_VI": [Z_VI[i] for i in fiber],
        "Z_CONF_PERSON": [3 if PERSON[i] else 0 for i in fiber],
        "ANCILLARY_TARGET1": [0] * len(fiber),
        "BAL_FLAG_VI": [int(PERSON[i] == 30) for i in fiber],
        "BI_CIV": [900.0 if PERSON[i] == 30 else 0.0 for i in fiber],
        "PSFMAG": np.full((len(fiber), 5), 20.5) + np.arange(5),
        "Z_PIPE": [Z_VI[i] + 0.1 for i in fiber],
    }
    file = path / "superset.fits"
    Table({name: np.array(values) for name, values in (columns | changes).items()}).write(
        file, overwrite=True
    )
    return file


def catalogue(file: Path, fiber: list[int] | None = None, meta: Any = META, **changes: Any) -> Path:
    """A catalogue of broadline's of some fibres, in which `changes` replace columns."""
    fiber = [*PERSON] if fiber is None else fiber
    n = len(fiber)
    ids: dict[str, Any] = named(fiber) | {
        "ARCHIVE": ["boss"] * n,
        "SOURCE": [f"plate/spec-4055-55359-{i:04d}.fits" for i in fiber],
        "ROW": [0] * n,
        "OBJID": [f"4055-55359-{i:04d}" for i in fiber],
        "RA": [10.0 + i for i in fiber],
        "DEC": [0.0] * n,
    }
    results: dict[str, Any] = {
        "IS_QSO": [CALLED[i] for i in fiber],
        "Z": [FOUND[i] for i in fiber],
        "Z_ERR": [0.01 * i for i in fiber],
        "P_QSO": [0.1 * i for i in fiber],
        **{f"C_{line.name}": [0.01 * i + 0.1 * k for i in fiber] for k, line in enumerate(QUASARNET_LINES)},
    }
    flags = changes.pop("flags", [0] * n)
    lines = changes.pop("lines", QUASARNET_LINES)
    for name, values in changes.items():
        (ids if name in ids or name in ("TARGETID", "OBSID") else results)[name] = values
    kinds = {"ARCHIVE": object, "SOURCE": object, "OBJID": object}
    table = catalogue_rows(
        {name: np.array(values, dtype=kinds.get(name)) for name, values in ids.items()},
        np.array(flags, dtype=np.uint32),
        np.arange(n, dtype=np.float32),
        {
            name: np.array(values)
            for name, values in results.items()
            if name[2:] in {x.name for x in lines} or name[:2] != "C_"
        },
        lines,
    )
    with CatalogueWriter(file, lines, meta) as writer:
        writer.append(table)
    return file


def study_of(path: Path, **options: Any) -> Study:
    return read_study([catalogue(path / "catalogue.parquet", **options)], superset(path))


def split_file(path: Path, *splits: tuple[list[int], list[int]], objects: list[int] | None = None) -> Path:
    """Splits of objects in training and validation; the prepared set has a row of each object."""
    things = objects or [i for i in THING.values() if i > 0]
    parts = [
        Split(*(np.array([things.index(i) for i in sorted(part)], dtype=np.int64) for part in split))
        for split in splits
    ]
    write_splits(path / "splits.parquet", parts, np.array(things))
    return path / "splits.parquet"


def accounted(study: Study) -> bool:
    """Every row of the catalogues is in the study, or counted under one reason."""
    counts = study.counts
    left_out = counts.n_unmatched + counts.n_ancillary + counts.n_learnt + counts.n_repeated
    return counts.n_rows == len(study.sample) + left_out


# ---- what is in a study


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_has_the_verdicts_of_any_file_beside_the_truth(kind: str, tmp_path: Path) -> None:
    study = read_study([catalogue(tmp_path / f"mine.{kind}")], superset(tmp_path))
    sample = study.sample
    assert sample.quasar.tolist() == list(CALLED.values())
    assert sample.z.tolist() == list(FOUND.values())
    assert sample.truth.tolist() == ["QSO", "QSO", "STAR", "GALAXY", "QSO", ""]
    assert sample.z_truth[:5].tolist() == [2.0, 1.0, 0.0, 0.5, 2.5] and np.isnan(sample.z_truth[5])
    assert sample.confidence is not None and sample.confidence.tolist() == [3, 3, 3, 3, 3, 0]
    assert sample.bal is not None and sample.bal.tolist() == [0, 0, 0, 0, 1, 0]
    assert sample.balnicity is not None and sample.balnicity.tolist() == [0, 0, 0, 0, 900, 0]
    assert sample.c is not None and sample.c.dtype == np.float32 and sample.c.shape == (6, 6)
    assert np.allclose(sample.c[0], [0.01, 0.11, 0.21, 0.31, 0.41, 0.51])
    assert sample.c_bal is not None and np.allclose(sample.c_bal, 0.6 + 0.01 * np.arange(1, 7))
    assert sample.p_qso is not None and np.allclose(sample.p_qso, 0.1 * np.arange(1, 7))
    assert sample.z_err is not None and np.allclose(sample.z_err, 0.01 * np.arange(1, 7))
    assert sample.sn is not None and sample.sn.tolist() == [0, 1, 2, 3, 4, 5]
    assert sample.p_z is None and sample.p_bal is None
    assert sample.magnitude is not None and (sample.magnitude == 23.5).all()  # the i band
    assert np.allclose(study.other_z["Z_PIPE"][:5], [2.1, 1.1, 0.1, 0.6, 2.6])
    assert study.names[0] == "4055-55359-0001"
    assert study.source[5] == "plate/spec-4055-55359-0006.fits" and (study.row == 0).all()
    assert study.lines == QUASARNET_LINES and study.n_splits == 1
    stated = Rule(0.3, 2, 0.5) if kind != "csv" else Rule()  # CSV has no room for metadata
    assert study.rule == stated
    assert any("rule" in reason for reason in study.absent) == (kind == "csv")
    assert accounted(study) and not study.simulated and not study.quasars_only


def test_provenance_names_files_and_model_but_no_folders(tmp_path: Path) -> None:
    about = study_of(tmp_path).about
    assert about["catalogues"] == "catalogue.parquet" and about["truth"] == "superset.fits (inspected)"
    assert about["model"] == "mine" and about["rule"] == META["rule"]
    assert str(tmp_path) not in " ".join(about.values())


def test_spectra_without_result_are_kept_as_not_called(tmp_path: Path) -> None:
    flags = [0, int(Flag.NO_DATA), 0, int(Flag.LOW_SN), 0, int(Flag.UNREADABLE)]
    for kind in KINDS:
        path = catalogue(tmp_path / f"c.{kind}", flags=flags, IS_QSO=[True] * 6)
        study = read_study([path], superset(tmp_path))
        assert study.counts.n_unclassified == 2
        assert study.sample.quasar.tolist() == [True, False, True, True, True, False]
        assert np.isnan(study.sample.z[[1, 5]]).all() and study.sample.z[3] == 0.5
        assert study.sample.c is not None and np.isnan(study.sample.c[[1, 5]]).all()


def test_lines_have_the_wavelengths_of_the_model_that_was_used(tmp_path: Path, tiny_model: Path) -> None:
    digest = hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    command = f"broadline classify --model {tiny_model} spectra -o x.fits"
    for sha, found in ((digest, True), ("1" * 64, False)):
        meta = META | {"model_sha256": sha, "command": command}
        study = read_study([catalogue(tmp_path / "c.fits", meta=meta)], superset(tmp_path))
        assert (study.boxes is not None) == found
        assert any("ripple" in reason for reason in study.absent) != found
    model = load_model(tiny_model)
    study = read_study(
        [catalogue(tmp_path / "c.fits", meta=META | {"model_sha256": digest, "command": command})],
        superset(tmp_path),
    )
    assert study.boxes == (model.representation.grid, 13) and study.lines == model.lines


def test_a_model_with_fewer_lines_and_no_bal_finder_has_a_study_too(tmp_path: Path) -> None:
    lines = [LINES["MGII"], LINES["LYA"]]
    study = study_of(tmp_path, lines=lines)
    assert study.lines == tuple(lines) and study.sample.c_bal is None
    assert study.sample.c is not None and np.allclose(study.sample.c[0], [0.31, 0.01])
    assert any("broad absorption" in reason for reason in study.absent)


# ---- tables of others


def test_quasarnet_in_the_dr16q_superset_is_a_catalogue(tmp_path: Path) -> None:
    columns = named([1, 2, 3, 5]) | {
        "IS_QSO_QN": [1, 1, 0, -1],
        "Z_QN": [2.0, 1.0, -1.0, -1.0],
        "Z": [9.0] * 4,
        "IS_QSO_FINAL": [1] * 4,
    }
    path = tmp_path / "DR16Q_Superset_v3.fits"
    Table({name: np.array(values) for name, values in columns.items()}).write(path)
    study = read_study([path], superset(tmp_path))
    assert study.sample.quasar.tolist() == [True, True, False, False]
    assert study.sample.z[:2].tolist() == [2.0, 1.0] and np.isnan(study.sample.z[2:]).all()
    assert study.counts.n_unclassified == 1  # -1: it was not run
    assert study.sample.c is None and study.lines == ()
    assert study.names.tolist() == [f"4055-55359-000{i}" for i in (1, 2, 3, 5)]
    assert {reason.split(":")[0] for reason in study.absent} >= {
        "scores against the threshold",
        "scores of broad absorption",
        "the reliability of P_QSO",
        "how good the errors of redshifts are",
        "scores against signal-to-noise ratio",
    }


@pytest.mark.parametrize("layout", ["qnall", "desi-qn"])
def test_the_layouts_of_other_programs_are_catalogues(layout: str, tmp_path: Path) -> None:
    fiber = [1, 2, 3, 4, 5]
    table = pq.read_table(catalogue(tmp_path / "c.parquet", fiber, TARGETID=[*range(101, 106)]))
    with CatalogueWriter(tmp_path / "c.fits", QUASARNET_LINES, META, layout) as writer:
        template = catalogue_rows({}, np.zeros(0, np.uint32), np.zeros(0, np.float32), {})
        columns = [
            table[n] if n in table.column_names else pa.nulls(5, template.schema.field(n).type)
            for n in template.column_names
        ]
        writer.append(pa.table(columns, schema=template.schema))
    truth = superset(tmp_path, fiber)
    if layout == "desi-qn":
        truth = tmp_path / "truth.parquet"
        kinds = ["QSO", "QSO", "STAR", "GALAXY", "QSO"]
        pq.write_table(
            pa.table({"TARGETID": [*range(101, 106)], "CLASS": kinds, "Z": [Z_VI[i] for i in fiber]}), truth
        )
    study = read_study([tmp_path / "c.fits"], truth)
    assert study.sample.quasar.tolist() == [CALLED[i] for i in fiber]
    assert np.allclose(study.sample.z, [FOUND[i] for i in fiber])
    assert study.sample.c is not None and np.allclose(study.sample.c[0], [0.01, 0.11, 0.21, 0.31, 0.41, 0.51])
    assert study.sample.c_bal is not None and study.sample.c_bal[0] == np.float32(0.61)


# ---- who is left out


def test_every_row_is_in_the_study_or_counted_for_one_reason(tmp_path: Path) -> None:
    ancillary = {"ANCILLARY_TARGET1": [0, 1 << 40, 0, 0, 0]}
    truth = superset(tmp_path, [1, 2, 3, 4, 6], **ancillary)
    path = catalogue(tmp_path / "c.parquet", [1, 2, 3, 3, 5])
    study = read_study([path], truth)
    counts = {field.name: getattr(study.counts, field.name) for field in fields(study.counts)}
    assert counts == {
        "n_rows": 5,
        "n_unmatched": 1,  # 5
        "n_ancillary": 1,  # 2
        "n_learnt": 0,
        "n_unclassified": 0,
        "n_unseen": 2,  # 4 and 6
        "n_repeated": 1,  # 3
    }
    assert study.names.tolist() == ["4055-55359-0001", "4055-55359-0003"] and accounted(study)
    kept = read_study([path], truth, keep_ancillary=True)
    assert len(kept.sample) == 3 and kept.counts.n_ancillary == 0


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12))
def test_no_row_is_lost_whatever_the_order_and_the_repeats(tmp_path: Path, fiber: list[int]) -> None:
    study = read_study([catalogue(tmp_path / "c.parquet", fiber)], superset(tmp_path))
    assert accounted(study)
    assert study.counts.n_repeated == len(fiber) - len(set(fiber))
    assert study.counts.n_unseen == 6 - len(set(fiber))
    order = [int(name[-1]) for name in study.names]
    assert order == list(dict.fromkeys(fiber))
    assert study.sample.truth.tolist() == [
        {1: "STAR", 3: "QSO", 30: "QSO", 4: "GALAXY", 0: ""}[PERSON[i]] for i in order
    ]


def test_each_catalogue_keeps_the_validation_part_of_its_own_split(tmp_path: Path) -> None:
    splits = split_file(tmp_path, ([11, 12, 13], [14, 15]), ([14, 15], [11, 12]))
    paths = [catalogue(tmp_path / f"{i}.parquet") for i in range(2)]
    study = read_study(paths, superset(tmp_path), splits=splits)
    assert [name[-1] for name in study.names] == ["4", "5", "1", "2"]
    assert study.split.tolist() == [0, 0, 1, 1] and study.n_splits == 2
    assert study.counts.n_learnt == 8  # 13 is in neither part of the second split, 6 in none of the set
    assert accounted(study)
    assert [part.truth.tolist() for part in study.parts()] == [["GALAXY", "QSO"], ["QSO", "QSO"]]
    everything = read_study(paths, superset(tmp_path))
    assert len(everything.sample) == 12 and everything.counts.n_learnt == 0


def test_where_a_split_has_a_test_part_that_alone_is_scored_on(tmp_path: Path) -> None:
    things = np.array([11, 12, 13, 14, 15])
    split = Split(np.array([0, 1]), np.array([2]), np.array([3, 4]))
    write_splits(tmp_path / "splits.parquet", [split], things)
    path = catalogue(tmp_path / "c.parquet")
    study = read_study([path], superset(tmp_path), splits=tmp_path / "splits.parquet")
    assert [name[-1] for name in study.names] == ["4", "5"]


def test_of_a_split_by_spectrum_objects_that_were_learnt_from_are_never_scored_on(tmp_path: Path) -> None:
    visits = np.array([11, 12, 13, 14, 15, 14])  # object 14 was seen twice, and is in both parts
    split = Split(np.array([0, 1, 2, 3]), np.array([4, 5]), by_spectrum=True)
    write_splits(tmp_path / "splits.parquet", [split], visits)
    path = catalogue(tmp_path / "c.parquet")
    study = read_study([path], superset(tmp_path), splits=tmp_path / "splits.parquet")
    assert [name[-1] for name in study.names] == ["5"]


def test_a_catalogue_of_learnt_objects_alone_is_leakage(tmp_path: Path) -> None:
    splits = split_file(tmp_path, ([11, 12, 13], [14, 15]))
    path = catalogue(tmp_path / "c.parquet", [1, 2, 3])
    with pytest.raises(UsageError, match=r"c\.parquet holds nothing but objects .* learnt from: none of 3"):
        read_study([path], superset(tmp_path), splits=splits)


def test_there_must_be_a_split_for_each_catalogue(tmp_path: Path) -> None:
    splits = split_file(tmp_path, ([11, 12, 13], [14, 15]))
    paths = [catalogue(tmp_path / f"{i}.parquet") for i in range(2)]
    with pytest.raises(UsageError, match=r"splits\.parquet holds 1 splits, for 2 catalogues"):
        read_study(paths, superset(tmp_path), splits=splits)
    with pytest.raises(UsageError, match=r"0\.parquet cannot be read as a file of splits"):
        read_study(paths, superset(tmp_path), splits=paths[0])


def test_objects_that_the_truth_does_not_number_keep_to_their_side_of_a_split(tmp_path: Path) -> None:
    from broadline.truth import match, read_truth_table

    alone = {"THING_ID": [-1] * 6}
    known = read_truth_table(superset(tmp_path, **alone))
    things = known.object[match(known, {n: np.array(v) for n, v in named([*PERSON]).items()})].tolist()
    splits = split_file(tmp_path, (things[:4], things[4:]), objects=things)
    study = read_study([catalogue(tmp_path / "c.fits")], superset(tmp_path, **alone), splits=splits)
    assert [name[-1] for name in study.names] == ["5", "6"]
    assert len(set(study.sample.objects.tolist())) == 2
    assert any("same object" in reason for reason in study.absent)


# ---- joined by other names


def test_spectra_without_common_names_are_joined_by_position(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    columns = {
        "RA": [11.0, 12.0, 13.0002],
        "DEC": [0.0] * 3,
        "CLASS": ["QSO", "STAR", "STAR"],
        "Z": [2.0, 0, 0],
    }
    pa.csv.write_csv(pa.table(columns), truth)
    study = read_study([catalogue(tmp_path / "c.parquet")], truth)
    assert study.sample.truth.tolist() == ["QSO", "STAR", "STAR"]
    assert study.counts.n_unmatched == 3 and study.counts.n_unseen == 0


def test_visits_to_a_desi_target_are_spectra_of_their_own(tmp_path: Path) -> None:
    truth = tmp_path / "truth.parquet"
    target = 39627658000000001
    pq.write_table(pa.table({"TARGETID": [target], "CLASS": ["QSO"], "Z": [2.0]}), truth)
    nowhere = {"PLATE": [-1] * 4, "MJD": [-1] * 4, "FIBERID": [-1] * 4}
    where = {"SOURCE": ["a", "a", "b", "a"], "ROW": [0, 1, 0, 0]}
    ids = {"TARGETID": [target] * 4, "OBJID": [str(target)] * 4}
    same = {"Z": [2.0] * 4, "IS_QSO": [True] * 4}
    path = catalogue(tmp_path / "c.parquet", [1, 2, 3, 4], **nowhere, **where, **ids, **same)
    study = read_study([path], truth)
    assert len(study.sample) == 3 and study.counts.n_repeated == 1
    assert len(set(study.sample.objects.tolist())) == 1
    assert study.names.tolist() == [str(target)] * 3


# ---- bad input


def test_a_truth_of_other_spectra_is_refused(tmp_path: Path) -> None:
    path = catalogue(tmp_path / "c.parquet", [1, 2], FIBERID=[901, 902])
    with pytest.raises(UsageError, match=r"superset\.fits knows none of the 2 spectra of .*c\.parquet"):
        read_study([path], superset(tmp_path))
    ancillary = superset(tmp_path, ANCILLARY_TARGET1=[1] * 6)
    with pytest.raises(UsageError, match=r"all 6 spectra of .* are of ancillary programmes"):
        read_study([catalogue(tmp_path / "c.parquet")], ancillary)


def test_a_truth_without_confidences_and_absorption_leaves_those_parts_out(tmp_path: Path) -> None:
    truth = tmp_path / "truth.parquet"
    columns = named([1, 2, 3]) | {"CLASS": ["QSO", "QSO", "STAR"], "Z": [2.0, 1.0, 0.0]}
    pq.write_table(pa.table(columns), truth)
    study = read_study([catalogue(tmp_path / "c.parquet")], truth)
    assert study.sample.confidence is None and study.sample.bal is None and study.sample.balnicity is None
    assert study.sample.magnitude is None and study.other_z == {}
    assert study.sample.firm.all()
    said = " / ".join(study.absent)
    for words in ("does not rate", "neither tags nor balnicities", "no PSFMAG", "no THING_ID"):
        assert f"truth.parquet {words}" in said or f"truth.parquet has {words}" in said


def test_a_truth_of_quasars_only_cannot_tell_purity(tmp_path: Path) -> None:
    columns = named([1, 2, 5]) | {"Z": [2.0, 1.0, 2.5], "SOURCE_Z": ["VI"] * 3, "Z_PIPE": [2.0] * 3}
    truth = tmp_path / "DR14Q.fits"
    Table({name: np.array(values) for name, values in columns.items()}).write(truth)
    study = read_study([catalogue(tmp_path / "c.parquet")], truth)
    assert study.quasars_only and study.counts.n_unmatched == 3
    assert any(reason.startswith("purity: all that DR14Q.fits knows") for reason in study.absent)
    both = study_of(tmp_path)
    assert not both.quasars_only and not any("purity" in reason for reason in both.absent)


def test_a_truth_without_quasars_cannot_tell_completeness(tmp_path: Path) -> None:
    study = read_study([catalogue(tmp_path / "c.parquet")], superset(tmp_path, [3, 4]))
    assert not study.quasars_only
    assert any(reason.startswith("completeness: superset.fits knows no quasar") for reason in study.absent)
    unsure = superset(tmp_path, Z_CONF_PERSON=[2] * 6)
    study = read_study([catalogue(tmp_path / "c.parquet")], unsure)
    assert not study.quasars_only
    assert any(
        reason.startswith("purity and completeness: superset.fits is sure of none") for reason in study.absent
    )


def test_redshifts_that_are_none_are_said_and_never_near_anything(tmp_path: Path) -> None:
    truth = superset(tmp_path, Z_VI=[np.nan, 1.0, 0.0, -1.0, 2.5, -1.0])
    path = catalogue(tmp_path / "c.fits", Z=[2.0, 1.0, 0.0, 0.5, np.nan, 1.0])
    study = read_study([path], truth)
    assert np.isnan(study.sample.z[4]) and study.sample.quasar[4] and not study.sample.near[[0, 4]].any()
    said = " / ".join(study.absent)
    assert "the redshift of 2 secure quasars and galaxies" in said
    assert "the redshift of 1 spectra that are called quasars" in said


@pytest.mark.parametrize(
    "change",
    [{"IS_QSO": [True, False]}, {"Z": [2.0, 2.2]}, {"Z": [2.0, np.nan]}],
    ids=["class", "redshift", "none"],
)
def test_rows_of_a_spectrum_that_contradict_each_other_are_refused(change: Any, tmp_path: Path) -> None:
    path = catalogue(tmp_path / "c.parquet", [1, 1], SOURCE=["spec.fits", "spPlate.fits"], **change)
    with pytest.raises(UsageError, match=r"c\.parquet contradicts itself in 1 rows: it has 4055-55359-0001"):
        read_study([path], superset(tmp_path))


def test_of_rows_of_a_spectrum_that_agree_the_first_is_kept(tmp_path: Path) -> None:
    path = catalogue(tmp_path / "c.parquet", [2, 1, 1], Z=[0.3, 2.0, 2.001])
    study = read_study([path], superset(tmp_path))
    assert study.sample.z.tolist() == [0.3, 2.0] and study.counts.n_repeated == 1
    stars = catalogue(tmp_path / "c.parquet", [3, 3], IS_QSO=[False, False], Z=[0.3, 3.0])
    assert read_study([stars], superset(tmp_path)).counts.n_repeated == 1  # no redshift of a star counts


def test_catalogues_of_different_lines_are_not_joined(tmp_path: Path) -> None:
    few = catalogue(tmp_path / "few.parquet", lines=[LINES["LYA"]])
    all_lines = catalogue(tmp_path / "all.parquet", lines=LEGACY_LINES)
    with pytest.raises(
        UsageError, match=r"few\.parquet and .*all\.parquet have confidences of different lines"
    ):
        read_study([few, all_lines], superset(tmp_path))


def test_what_is_no_catalogue_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no,table\nat,all\n")
    (tmp_path / "nothing").touch()
    (tmp_path / "half.parquet").write_bytes(catalogue(tmp_path / "c.parquet").read_bytes()[:300])
    pq.write_table(pa.table({"IS_QSO": [True], "Z": [1.0]}), tmp_path / "nameless.parquet")
    pq.write_table(pa.table(named([1]) | {"Z": [1.0]}), tmp_path / "verdictless.parquet")
    pq.write_table(pa.table(named([1]) | {"IS_QSO": ["yes"], "Z": [1.0]}), tmp_path / "words.parquet")
    for kind in KINDS:
        catalogue(tmp_path / f"empty.{kind}", [])
    messages: dict[str, str] = {
        "text": "no catalogue: it has no columns IS_QSO and Z or IS_QSO_QN and Z_QN",
        "nothing": "cannot be read as a catalogue",
        "half.parquet": "cannot be read as a catalogue",
        "nameless.parquet": "names no spectra: add columns of one of these kinds",
        "verdictless.parquet": "no catalogue",
        "words.parquet": "column IS_QSO does not hold numbers",
        "missing": "cannot read the catalogue",
        **{f"empty.{kind}": "catalogue without rows" for kind in KINDS},
    }
    for name, message in messages.items():
        with pytest.raises(UsageError, match=f"{name}.*{message}|{message}.*{name}"):
            read_catalogue(tmp_path / name)
    with pytest.raises(UsageError, match="there is no catalogue to evaluate"):
        read_study([], superset(tmp_path))


def test_a_damaged_truth_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the truth table"):
        read_study([catalogue(tmp_path / "c.parquet")], tmp_path / "none.fits")
