"""Training sets on disk: what the truth knows of each spectrum, in order, and the same bytes always."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

import broadline
from broadline import parts, pipeline
from broadline.errors import UsageError
from broadline.flags import UNCLASSIFIED
from broadline.lines import QUASARNET_LINES
from broadline.packing import pack
from broadline.representation import Representation
from broadline.simulation import survey
from broadline.simulation.recipe import RECIPES
from broadline.simulation.survey import Request, simulate
from broadline.training import dataset
from broadline.training import prepare as writing
from broadline.training.dataset import PreparedSet
from broadline.training.manifest import Summary
from broadline.training.prepare import prepare
from broadline.training.presets import PRESETS, Preset
from broadline.truth import QSO, match, read_truth_table
from conftest import Answer
from files import N_PIXELS, observed, quasar, room_for, star, write_plate, write_spec

N = 60
BATCH = 8
FLUX = Representation()
BOTH = Representation(channels="flux+error")
Bytes = dict[str, bytes]


def simulated(folder: Path, archive: str) -> Path:
    """A survey of 60 spectra in fields of at most 20 and 5, with sky and dead fibres."""
    mix = {"QSO": 0.5, "STAR": 0.3, "GALAXY": 0.2}
    recipe = replace(RECIPES[archive], mix=mix, sky=0.1, dead=0.1, repeats=0.25)
    with pytest.MonkeyPatch.context() as patch:
        small = {name: layout._replace(size=20) for name, layout in survey._LAYOUTS.items()}
        patch.setattr(survey, "_LAYOUTS", small)
        simulate(Request.of(archive, N, 5, recipe), folder, 1)
    return folder


@pytest.fixture(scope="module")
def boss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("boss"), "boss")


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_UNIT_FILES", 1)


def preset(representation: Representation = FLUX, **changes: Any) -> Preset:
    return replace(PRESETS["paper"], batch=BATCH, representation=representation, **changes)


def made(boss: Path, folder: Path, representation: Representation = FLUX, **options: Any) -> Summary:
    options = {"workers": 1, "truth": boss / "Superset_DR12Q.fits"} | options
    return prepare([boss], options.pop("truth"), folder, representation, **options)


@pytest.fixture(scope="module")
def whole(boss: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of the whole survey by its true classes, made in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_UNIT_FILES", 1)
        folder = tmp_path_factory.mktemp("sets") / "whole"
        made(boss, folder, truth=boss / "truth.parquet")
    return folder


def contents(folder: Path) -> Bytes:
    found = sorted(folder.rglob("*"))
    assert not [path for path in found if path.name.startswith(".")]
    return {path.name: path.read_bytes() for path in found}


def expected(boss: Path, truth: str, representation: Representation) -> dict[str, NDArray[Any]]:
    """What a set should hold, of spectra read one file after the other."""
    known = read_truth_table(boss / truth)
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in ("values", "rows", "names", "usable")}
    for spectra in broadline.read(boss):
        represented = representation(spectra)
        parts["values"].append(represented.values)
        parts["rows"].append(match(known, spectra.ids))
        parts["names"].append(spectra.ids["OBJID"])
        parts["usable"].append((represented.flags & UNCLASSIFIED) == 0)
    return {name: np.concatenate(part) for name, part in parts.items()}


# ---- what is in a set


@pytest.mark.parametrize("representation", [FLUX, BOTH], ids=["flux", "flux+error"])
@pytest.mark.parametrize("truth", ["truth.parquet", "Superset_DR12Q.fits"])
def test_a_set_holds_every_usable_spectrum_that_the_truth_knows_in_input_order(
    boss: Path, truth: str, representation: Representation, tmp_path: Path
) -> None:
    summary = made(boss, tmp_path, representation, truth=boss / truth)
    source, known = expected(boss, truth, representation), read_truth_table(boss / truth)
    kept = source["usable"] & (source["rows"] >= 0)
    assert summary.n_read == N
    assert summary.n_unusable == (~source["usable"]).sum() > 0
    assert summary.n_unmatched == (source["usable"] & (source["rows"] < 0)).sum()
    assert (summary.n_unmatched > 0) == (truth == "Superset_DR12Q.fits")  # which has no sky
    assert len(summary) == kept.sum()
    part = PreparedSet(tmp_path, preset(representation))
    assert part.names(part.rows) == source["names"][kept].tolist()
    x = np.concatenate([np.asarray(batch.x) for batch in part.ordered()])
    assert x.dtype == np.float32
    assert np.allclose(x, source["values"][kept], rtol=1e-3, atol=1e-6)
    rows = source["rows"][kept]
    for column, wanted in {
        "CLASS": known.kind,
        "Z": known.z,
        "CONFIDENCE": known.confidence,
        "BAL_FLAG": known.bal_flag,
        "BALNICITY": known.balnicity,
    }.items():
        assert np.array_equal(part.columns[column], wanted[rows], equal_nan=wanted.dtype.kind == "f"), column
    named = known.object[rows] > 0  # the sky is told apart by its place
    assert np.array_equal(part.columns["OBJECT"][named], known.object[rows][named])
    assert summary.n_doubtful == (known.confidence[rows] < 3).sum() > 0
    assert list(summary.classes.values()) == np.bincount(known.kind[rows], minlength=5).tolist()
    assert set(part.columns["PLATE"]) == {90000, 90001, 90002}


@pytest.mark.parametrize("archive", ["sdss", "lamost", "desi"])
def test_the_truth_of_every_simulated_archive_joins_its_spectra(archive: str, tmp_path: Path) -> None:
    folder = simulated(tmp_path / "survey", archive)
    summary = prepare([folder], folder / "truth.parquet", tmp_path / "set", FLUX, workers=1)
    assert (summary.n_read, summary.n_unmatched) == (N, 0)
    assert len(summary) == N - summary.n_unusable > 45


def write_parsed(folder: Path, n: int) -> tuple[Path, Path]:
    """QuasarNET's public files: n spectra on its grid, every third a star, and their truth."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    image = np.concatenate([rng.normal(0, 1, (n, 443)), np.ones((n, 443))], axis=1)
    keys = {
        "PLATE": np.full(n, 4055),
        "MJD": 55000 + np.arange(n) // 1000,
        "FIBERID": 1 + np.arange(n) % 1000,
    }
    ids = Table({"TARGETID": np.arange(n) // 2 + 1} | keys)
    hdus = [fits.PrimaryHDU(image.astype(np.float32)), fits.BinTableHDU(ids)]
    fits.HDUList(hdus).writeto(folder / "data.fits")
    is_star = np.arange(n) % 3 == 0
    truth = keys | {
        "THING_ID": np.arange(n) // 2 + 1,
        "Z_VI": np.where(is_star, 0, 2.5),
        "CLASS_PERSON": np.where(is_star, 1, 3),
        "Z_CONF_PERSON": np.full(n, 3),
        "BAL_FLAG_VI": np.zeros(n, dtype=int),
        "BI_CIV": np.zeros(n),
    }
    Table(truth).write(folder / "truth.fits")
    return folder / "data.fits", folder / "truth.fits"


def test_quasarnets_parsed_files_make_a_set(tmp_path: Path) -> None:
    data, truth = write_parsed(tmp_path / "parsed", 300)
    summary = prepare([data], truth, tmp_path / "set", FLUX)
    assert (summary.n_read, len(summary), summary.classes["STAR"]) == (300, 300, 100)
    part = PreparedSet(tmp_path / "set", preset())
    assert part.columns["OBJECT"].tolist() == (np.arange(300) // 2 + 1).tolist()
    assert part.names(np.array([0, 299])) == ["1", "150"]


def test_a_large_file_becomes_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, truth = write_parsed(tmp_path / "parsed", 700)
    prepare([data], truth, tmp_path / "one", FLUX)
    monkeypatch.setattr(writing, "_SHARD", 300 * 443 * 2)
    monkeypatch.setattr(writing, "_BATCH", 100)
    prepare([data], truth, tmp_path / "three", FLUX)
    one, three = (PreparedSet(tmp_path / name, preset()) for name in ("one", "three"))
    assert [shard["n"] for shard in three.shards] == [300, 300, 100]
    for a, b in zip(one.ordered(), three.ordered(), strict=True):
        assert np.array_equal(a.x, b.x) and np.array_equal(a.z, b.z, equal_nan=True)


def test_half_a_million_spectra_of_two_channels_fit_into_a_gigabyte(tmp_path: Path) -> None:
    data, truth = write_parsed(tmp_path / "parsed", 2000)
    prepare([data], truth, tmp_path / "set", BOTH)
    size = sum(path.stat().st_size for path in (tmp_path / "set").iterdir())
    assert size / 2000 * 500_000 < 1e9


def test_absurd_values_stay_finite(tmp_path: Path) -> None:
    flux, ivar = observed(np.stack([quasar(1.0), star()]))
    ivar[0, 1000:1100] = 1e-12
    flux[0, 1000:1100] = 1e6  # a million times the rest, and next to no weight: beyond what float16 holds
    write_plate(tmp_path / "spPlate-4055-55359.fits", flux, ivar)
    assert np.abs(FLUX(next(iter(broadline.read(tmp_path)))).values).max() > 65504
    table = {
        "PLATE": [4055] * 2,
        "MJD": [55359] * 2,
        "FIBERID": [1, 2],
        "CLASS": ["QSO", "STAR"],
        "Z": [1, 0],
    }
    pq.write_table(pa.table(table), tmp_path / "truth.parquet")
    prepare([tmp_path], tmp_path / "truth.parquet", tmp_path / "set", FLUX)
    (batch,) = PreparedSet(tmp_path / "set", preset()).ordered()
    assert np.abs(np.asarray(batch.x)).max() == 65504


# ---- the paper's drop rules


def with_ancillary(boss: Path, path: Path) -> int:
    """Write the superset with half of all stars targeted by an ancillary programme; return their number."""
    table = Table.read(boss / "Superset_DR12Q.fits")
    chosen = np.flatnonzero(table["CLASS_PERSON"] == 1)[::2]
    table["ANCILLARY_TARGET2"][chosen] = 1 << 20
    table.write(path)
    return len(chosen)


def test_ancillary_targets_are_left_out_unless_told_otherwise(boss: Path, tmp_path: Path) -> None:
    n = with_ancillary(boss, tmp_path / "superset.fits")
    plain = made(boss, tmp_path / "plain")
    without = made(boss, tmp_path / "without", truth=tmp_path / "superset.fits")
    kept = made(boss, tmp_path / "kept", truth=tmp_path / "superset.fits", keep_ancillary=True)
    assert 0 < without.n_ancillary <= n
    assert len(without) + without.n_ancillary == len(kept) == len(plain)
    assert kept.n_ancillary == 0
    marks = [
        PreparedSet(tmp_path / name, preset()).columns["ANCILLARY"].sum() for name in ("without", "kept")
    ]
    assert marks == [0, without.n_ancillary]


def test_a_spectrum_read_twice_is_counted(boss: Path, tmp_path: Path) -> None:
    plate = next(boss.rglob("spPlate*.fits"))
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / plate.name).write_bytes(plate.read_bytes())
    once = made(boss, tmp_path / "once")
    twice = prepare([boss, tmp_path / "copy"], boss / "Superset_DR12Q.fits", tmp_path / "twice", FLUX)
    assert once.n_repeated == 0
    assert twice.n_repeated == len(twice) - len(once) > 0


# ---- the same bytes


def test_two_workers_write_the_bytes_of_one(boss: Path, whole: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, float]] = []
    options = {"truth": boss / "truth.parquet", "workers": 2}
    summary = made(
        boss, tmp_path, on_unit=lambda so_far, done: steps.append((so_far.n_read, done)), **options
    )
    assert contents(tmp_path) == contents(whole)
    assert steps[-1] == (N, 1.0) and len(steps) > 3
    assert made(boss, whole, truth=boss / "truth.parquet") == summary  # finished: nothing is done again


@pytest.mark.parametrize("workers", [1, 2])
def test_a_command_that_was_killed_goes_on_to_the_same_bytes(
    workers: int, boss: Path, whole: Path, tmp_path: Path
) -> None:
    script = textwrap.dedent(f"""
        import os, signal, sys
        from pathlib import Path
        from broadline import pipeline
        from broadline.representation import Representation
        from broadline.training.prepare import prepare
        pipeline._UNIT_FILES = 1
        def die(summary, done):
            if done > 0.5:
                os.kill(os.getpid(), signal.SIGKILL)
        if __name__ == "__main__":
            boss, folder = map(Path, sys.argv[1:])
            truth = boss / "truth.parquet"
            prepare([boss], truth, folder, Representation(), workers={workers}, on_unit=die)
    """)
    (tmp_path / "script.py").write_text(script)
    folder = tmp_path / "set"
    process = subprocess.run([sys.executable, tmp_path / "script.py", boss, folder], timeout=60, check=False)
    assert process.returncode == -signal.SIGKILL
    (folder / ".values-000000-000.npy.123.part").write_bytes(b"half")
    with pytest.raises(UsageError, match="set is not finished: give its"):
        PreparedSet(folder, preset())
    done = {path.name: path.stat().st_mtime_ns for path in folder.glob("values*")}
    n_done = len(list((folder / ".parts").glob("0*.json")))
    steps: list[float] = []
    made(boss, folder, truth=boss / "truth.parquet", on_unit=lambda _, fraction: steps.append(fraction))
    assert contents(folder) == contents(whole)
    assert n_done >= 2 and len(steps) == len(list(boss.rglob("spPlate*"))) - n_done
    parts = sorted(done)[:n_done]
    assert parts and all((folder / name).stat().st_mtime_ns == done[name] for name in parts)


def test_a_store_of_the_spectra_gives_the_same_set(boss: Path, whole: Path, tmp_path: Path) -> None:
    pack([boss], tmp_path / "store", workers=1)
    made(tmp_path / "store", tmp_path / "set", truth=boss / "truth.parquet")
    ours, theirs = contents(tmp_path / "set"), contents(whole)
    assert ours.keys() == theirs.keys() and len(ours) > 3
    assert [name for name in ours if ours[name] != theirs[name]] == ["manifest.json"]  # files of other names


def test_a_full_disk_is_one_error_and_the_same_command_goes_on(
    boss: Path, whole: Path, tmp_path: Path
) -> None:
    options = {"truth": boss / "truth.parquet"}
    with (
        room_for(10_000),
        pytest.raises(UsageError, match=r"cannot write the set into .*same command goes on"),
    ):
        made(boss, tmp_path / "set", **options)
    assert not list((tmp_path / "set").glob("values*"))
    made(boss, tmp_path / "set", **options)
    assert contents(tmp_path / "set") == contents(whole)


# ---- learning from a set


def ids_of(part: PreparedSet, number: int) -> NDArray[np.int64]:
    return np.concatenate([batch.ids for batch in part.epoch(number)])


@pytest.fixture(params=[(256, 256), (3, 4)], ids=["one window", "many windows"])
def windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_CHUNK", request.param[0])
    monkeypatch.setattr(dataset, "_WINDOW", request.param[1])


def test_an_epoch_has_every_spectrum_once_in_whole_batches(whole: Path, windows: None) -> None:
    part = PreparedSet(whole, preset())
    batches = list(part.epoch(0))
    assert [len(batch.ids) for batch in batches] == [BATCH] * (len(part) // BATCH)
    seen = ids_of(part, 0)
    assert len(set(seen)) == len(seen) and set(seen) <= set(range(len(part)))
    values = np.concatenate([np.asarray(batch.x) for batch in part.ordered()])
    for batch in batches:
        assert np.array_equal(batch.x, values[batch.ids])
        assert np.array_equal(
            batch.z,
            np.where(part.columns["CLASS"] == QSO, part.columns["Z"], np.nan)[batch.ids],
            equal_nan=True,
        )


def test_seed_and_number_decide_the_order_of_an_epoch(whole: Path, windows: None) -> None:
    part = PreparedSet(whole, preset(), seed=1)
    assert np.array_equal(ids_of(part, 0), ids_of(PreparedSet(whole, preset(), seed=1), 0))
    assert not np.array_equal(ids_of(part, 0), ids_of(part, 1))
    assert not np.array_equal(ids_of(part, 0), ids_of(PreparedSet(whole, preset(), seed=2), 0))


def test_spectra_of_far_shards_meet_in_a_batch(whole: Path, windows: None) -> None:
    part = PreparedSet(whole, preset())
    plates = [set(part.columns["PLATE"][batch.ids]) for batch in part.epoch(0)]
    assert max(map(len, plates)) == 3
    neighbours = np.abs(np.diff(ids_of(part, 0))) == 1
    assert neighbours.mean() < 0.25


def test_a_subset_gives_its_own_spectra_and_no_others(whole: Path, windows: None) -> None:
    part = PreparedSet(whole, preset())
    rows = np.arange(1, len(part), 2)
    half = part.subset(rows[::-1])
    assert len(half) == len(rows) and len(part) > len(half)
    seen = ids_of(half, 0)
    assert len(seen) == len(rows) // BATCH * BATCH and set(seen) <= set(rows)
    assert np.array_equal(np.concatenate([batch.ids for batch in half.ordered()]), rows)
    with pytest.raises(ValueError, match="rows must be from 0 to"):
        part.subset(np.array([len(part)]))


@pytest.mark.parametrize("unsure", ["negative", "drop", "weight"])
def test_counts_are_those_of_all_targets(unsure: Any, whole: Path, windows: None) -> None:
    from broadline.training.objective import Targets, count

    part = PreparedSet(whole, preset(unsure=unsure)).subset(np.arange(37))
    parts = [batch.targets for batch in part.ordered()]
    import torch

    together = count(Targets(*(torch.cat(column) for column in zip(*parts, strict=True))), 13)
    counts = part.counts()
    assert counts.n_spectra == together.n_spectra == 37
    assert torch.allclose(counts.positives, together.positives) and counts.positives.sum() > 0
    assert torch.allclose(counts.negatives, together.negatives)


def labelled(folder: Path, **columns: list[Any]) -> Path:
    """A set of a star and one quasar after another at redshift 2.5, all of one look, with labels as told."""
    folder.mkdir()
    n = len(next(iter(columns.values()))) + 1
    pixels = np.stack([observed(quasar(2.5), seed=i) for i in range(n)])
    write_plate(folder / "spPlate-4055-55359.fits", pixels[:, 0], pixels[:, 1])
    table: dict[str, list[Any]] = {"PLATE": [4055] * n, "MJD": [55359] * n, "FIBERID": list(range(1, n + 1))}
    table |= {"CLASS": ["STAR"] + ["QSO"] * (n - 1), "Z": [0.0] + [2.5] * (n - 1)}
    table |= {name: [0, *values] for name, values in columns.items()}
    pq.write_table(pa.table(table), folder / "truth.parquet")
    prepare([folder], folder / "truth.parquet", folder / "set", FLUX)
    return folder / "set"


def test_labels_in_doubt_are_taught_as_the_preset_says_and_never_scored(tmp_path: Path) -> None:
    folder = labelled(tmp_path / "doubt", Z_CONF=[3, 2, 1])
    for unsure, boxes, weights in (
        ("negative", [True, False, False], [1, 1, 1]),
        ("drop", [True, True, True], [1, 0, 0]),
        ("weight", [True, True, True], [1, 0.4, 0.2]),
    ):
        (batch,) = PreparedSet(folder, preset(unsure=unsure)).ordered()
        civ = 1
        assert (batch.targets.box[1:, civ] >= 0).tolist() == boxes, unsure
        assert np.allclose(batch.targets.weight[1:, civ], weights), unsure
        assert (batch.firm >= 0.5).tolist() == [False, True, False, False]  # the star has confidence 0 too
        assert (batch.targets.box[0] == -1).all() and np.isnan(batch.z[0])


def test_absorption_is_taught_where_eye_and_index_agree_and_not_where_they_are_unknown(
    tmp_path: Path,
) -> None:
    folder = labelled(
        tmp_path / "bal", Z_CONF=[3] * 5, BAL_FLAG=[1, 0, 1, 0, -1], BI_CIV=[2000.0, 0.0, 0.0, 500.0, 0.0]
    )
    (batch,) = PreparedSet(folder, preset()).ordered()
    assert batch.bal[1:].tolist() == [1, 0, -1, -1, -1]
    bal = [line.bal for line in QUASARNET_LINES].index(True)
    assert batch.targets.weight[1:, bal].tolist() == [1, 1, 0, 0, 0]
    assert (batch.targets.box[:, bal] >= 0).tolist() == [False, True, False, False, False, False]


# ---- bad input


def test_a_set_for_another_representation_is_refused_by_name(whole: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"whole was made for another representation than that of preset broadline: "
        r"channels 'flux' instead of 'flux\+error'; prepare",
    ):
        PreparedSet(whole, PRESETS["broadline"])
    with pytest.raises(UsageError, match="empty 'zero' instead of 'as-published'"):
        PreparedSet(whole, preset(Representation(empty="as-published")))


@pytest.mark.parametrize("name", ["values-000001-000.npy", "truth-000001-000.parquet"])
@pytest.mark.parametrize("harm", ["byte", "short", "gone"])
def test_a_damaged_shard_is_named_on_opening(name: str, harm: str, whole: Path, tmp_path: Path) -> None:
    files = contents(whole)
    for other, content in files.items():
        (tmp_path / other).write_bytes(content)
    middle = len(files[name]) // 2
    if harm == "gone":
        (tmp_path / name).unlink()
    elif harm == "short":
        (tmp_path / name).write_bytes(files[name][:middle])
    else:
        (tmp_path / name).write_bytes(
            files[name][:middle] + bytes([files[name][middle] ^ 1]) + files[name][middle + 1 :]
        )
    with pytest.raises(UsageError, match=rf"{name} (is damaged|cannot be read)"):
        PreparedSet(tmp_path, preset())


def test_folders_that_are_no_sets_are_usage_errors(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no training set: it has no manifest\.json"):
        PreparedSet(tmp_path, preset())
    manifest = json.loads((whole / "manifest.json").read_text())
    for text in ("{", "[]", json.dumps({"format": 1}), json.dumps(manifest | {"shards": 3})):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(UsageError, match=r"manifest\.json is damaged"):
            PreparedSet(tmp_path, preset())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(UsageError, match="has format 2, which this version"):
        PreparedSet(tmp_path, preset())


def test_a_folder_that_holds_something_else_is_refused(boss: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds another set \(not the same: truth\); give a new folder"):
        made(boss, whole)
    with pytest.raises(UsageError, match="not the same: representation, keep_ancillary"):
        made(boss, whole, BOTH, truth=boss / "truth.parquet", keep_ancillary=True)
    with pytest.raises(UsageError, match="not the same: spectra"):
        prepare([next(boss.rglob("spPlate*"))], boss / "truth.parquet", whole, FLUX)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="is not empty; give a new folder"):
        made(boss, tmp_path)
    with pytest.raises(UsageError, match="is a file; give a new folder"):
        made(boss, tmp_path / "thesis.tex")


def altered(boss: Path, path: Path, change: Callable[[Table], None]) -> Path:
    table = Table.read(boss / "Superset_DR12Q.fits")
    change(table)
    table.write(path)
    return path


def no_match(table: Table) -> None:
    table["PLATE"] += 5


def no_quasar(table: Table) -> None:
    table["CLASS_PERSON"] = 1


def only_quasars(table: Table) -> None:
    table["CLASS_PERSON"] = 3


def quasars_elsewhere(table: Table) -> None:
    table["PLATE"][np.isin(table["CLASS_PERSON"], (3, 30))] += 5


def all_ancillary(table: Table) -> None:
    table["ANCILLARY_TARGET1"] = 1


NOTHING: dict[Callable[[Table], None], str] = {
    no_match: r"t\.fits knows none of the \d+ spectra \(its own \d+ it names by PLATE-MJD-FIBERID\)",
    no_quasar: r"t\.fits knows no quasar, .*add spectra of class QSO",
    only_quasars: r"t\.fits knows quasars only, .*add spectra of stars and galaxies",
    quasars_elsewhere: r"the spectra that .*t\.fits knows hold no quasar",
    all_ancillary: r"all \d+ spectra that .*t\.fits knows are of ancillary programmes",
}


@pytest.mark.parametrize("change", NOTHING)
def test_a_set_that_would_teach_nothing_is_refused_and_its_folder_is_free_again(
    change: Callable[[Table], None], boss: Path, tmp_path: Path
) -> None:
    truth = altered(boss, tmp_path / "t.fits", change)
    with pytest.raises(UsageError, match=NOTHING[change]):
        made(boss, tmp_path / "set", truth=truth)
    assert not (tmp_path / "set").exists() or not list((tmp_path / "set").iterdir())
    made(boss, tmp_path / "set")


def test_spectra_that_are_all_flagged_are_refused(tmp_path: Path) -> None:
    spectra = tmp_path / "spectra"
    spectra.mkdir()
    zero = np.zeros(N_PIXELS, dtype=np.float32)
    write_spec(spectra / "spec-4055-55359-0001.fits", zero, zero, fiber=1)
    table = {"OBJID": ["a", "b"], "CLASS": ["QSO", "STAR"], "Z": [1.0, 0.0]}
    pq.write_table(pa.table(table), tmp_path / "truth.parquet")
    with pytest.raises(
        UsageError, match="none of the 1 spectra can be used on the pixels from 3600 to 9984 Angstrom; FLAGS"
    ):
        prepare([spectra], tmp_path / "truth.parquet", tmp_path / "set", FLUX)
    (spectra / "spec-4055-55359-0002.fits").write_bytes(b"SIMPLE  = cut short")
    with pytest.raises(UsageError, match=r"none of the 2 spectra can be used .*, such as .*0002\.fits: "):
        prepare([spectra], tmp_path / "truth.parquet", tmp_path / "set", FLUX)


def test_an_unreadable_file_costs_its_own_spectra_alone(boss: Path, tmp_path: Path) -> None:
    broken = tmp_path / "spPlate-90000-58000.fits"
    broken.write_bytes(b"SIMPLE  = cut short")
    summary = prepare([broken, boss], boss / "truth.parquet", tmp_path / "set", FLUX)
    assert (summary.n_read, len(summary.notes)) == (N + 1, 1) and broken.name in summary.notes[0]


def test_a_part_of_a_set_without_quasars_cannot_be_learnt_from(whole: Path) -> None:
    part = PreparedSet(whole, preset())
    quasar_rows = np.flatnonzero(part.columns["CLASS"] == QSO)
    others = np.setdiff1d(part.rows, quasar_rows)
    for rows, said in ((others, "hold no quasar"), (quasar_rows, "hold quasars only")):
        with pytest.raises(UsageError, match=f"the {len(rows)} spectra of .*whole to learn from {said}"):
            next(iter(part.subset(rows).epoch(0)))


def test_a_shard_that_vanishes_while_learning_is_one_error(whole: Path, tmp_path: Path) -> None:
    for name, content in contents(whole).items():
        (tmp_path / name).write_bytes(content)
    part = PreparedSet(tmp_path, preset())
    (tmp_path / "values-000000-000.npy").unlink()
    with pytest.raises(UsageError, match=r"values-000000-000\.npy cannot be read any more"):
        list(part.epoch(0))


# ---- the command


def test_the_command_prints_what_became_of_the_spectra(
    boss: Path, tmp_path: Path, command: Callable[..., Answer]
) -> None:
    n = with_ancillary(boss, tmp_path / "t.fits")
    set_folder = tmp_path / "set"
    arguments = ["prepare", boss, "--truth", tmp_path / "t.fits", "-o", set_folder, "--workers", 1]
    answer = command(*arguments, "--preset", "broadline")
    assert answer.code == 0, answer.err
    summary = made(boss, set_folder, BOTH, truth=tmp_path / "t.fits")  # the same: nothing is done again
    assert f"{set_folder}: {len(summary)} of {N} spectra: " in answer.out
    assert f"{summary.classes['QSO']} QSO" in answer.out and f"{summary.classes['STAR']} STAR" in answer.out
    assert f"{summary.n_bal} are tagged BAL, {summary.n_doubtful} not firmly identified" in answer.out
    left = f"{summary.n_unusable} unusable, {summary.n_unmatched} not in the truth"
    assert f"left out: {left}, {summary.n_ancillary} of ancillary programmes" in answer.out
    assert 0 < summary.n_ancillary <= n
    refused = command(*arguments)
    assert refused.code == 2
    assert refused.err.startswith("broadline: folder") and refused.err.count("\n") == 1
    kept = command(*arguments[:-3], tmp_path / "kept", "--keep-ancillary")
    assert "0 of ancillary programmes" in kept.out


def test_an_interrupted_command_says_how_to_go_on(
    boss: Path, tmp_path: Path, command: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> Iterator[None]:
        os.kill(os.getpid(), signal.SIGINT)
        yield

    monkeypatch.setattr(parts, "_write_units", interrupt)
    answer = command("prepare", boss, "--truth", boss / "truth.parquet", "-o", tmp_path / "set")
    assert (answer.code, answer.err) == (
        130,
        f"broadline: interrupted; the same command goes on in {tmp_path / 'set'}\n",
    )
