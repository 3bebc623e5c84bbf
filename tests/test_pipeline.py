"""From files to a catalogue: every row once, in order, the same bytes however the work is divided."""

from __future__ import annotations

import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import broadline
from broadline import pipeline
from broadline.attempts import Task
from broadline.errors import BroadlineError, ReadError
from broadline.flags import Flag
from broadline.pipeline import Classifier, ModelChoice, Summary, Unit, classify
from conftest import DATA, manifest
from files import FIRST, loglam, observed, quasar, star, write_plate, write_spec


@pytest.fixture
def survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine files in six units of work: spec files of unlike grids around a plate, one of them broken."""
    folder = tmp_path / "survey"
    folder.mkdir()
    for i in range(1, 8):
        n, first = 4600 - 40 * i, FIRST - 30 * i
        flux, ivar = observed(star(loglam(n, first)) if i == 3 else quasar(0.4 * i, loglam(n, first)), seed=i)
        write_spec(folder / f"spec-4055-55359-{i:04d}.fits", flux, ivar, x=loglam(n, first), fiber=i)
    (folder / "spec-4055-55359-0004.fits").write_bytes(b"SIMPLE  = cut short")
    both = [observed(quasar(0.3 + 0.5 * i), seed=20 + i) for i in range(5)]
    for name in ("spPlate-4055-55359.fits", "spec-4055-55359-0003b.fits"):
        write_plate(folder / name, np.stack([b[0] for b in both]), np.stack([b[1] for b in both]))
    monkeypatch.setattr(pipeline, "_UNIT_FILES", 2)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1535000000")
    return folder


def catalogue(folder: Path, output: Path, model: Path, **options: Any) -> pa.Table:
    classify([folder], output, ModelChoice(str(model)), **options)
    return pq.read_table(output)


def test_there_is_one_row_for_every_spectrum_in_input_order(
    survey: Path, tmp_path: Path, tiny_model: Path
) -> None:
    table = catalogue(survey, tmp_path / "out.parquet", tiny_model, workers=1)
    names = [Path(source).name for source in table["SOURCE"].to_pylist()]
    plate, spec = ["spPlate-4055-55359.fits"] * 5, [f"spec-4055-55359-{i:04d}.fits" for i in range(1, 8)]
    assert names == [*plate, *spec[:3], *["spec-4055-55359-0003b.fits"] * 5, *spec[3:]]
    assert table["ROW"].to_pylist() == [0, 1, 2, 3, 4, 0, 0, 0, 0, 1, 2, 3, 4, None, 0, 0, 0]
    # the plate under the other name is read as the same spectra
    assert table["Z"].to_pylist()[:5] == table["Z"].to_pylist()[8:13]


def test_the_bytes_are_the_same_for_one_worker_and_for_two(
    survey: Path, tmp_path: Path, tiny_model: Path
) -> None:
    for workers in (1, 2):
        catalogue(survey, tmp_path / f"{workers}.parquet", tiny_model, workers=workers)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_the_values_are_the_same_for_every_batch_size(survey: Path, tmp_path: Path, tiny_model: Path) -> None:
    whole = catalogue(survey, tmp_path / "whole.parquet", tiny_model, workers=1)
    for batch in (1, 2, 3):
        table = catalogue(survey, tmp_path / f"{batch}.parquet", tiny_model, workers=1, batch=batch)
        assert table.schema.names == whole.schema.names
        for name in whole.schema.names:
            ours, reference = table[name], whole[name]
            assert ours.is_null().equals(reference.is_null()), name
            if pa.types.is_floating(ours.type):
                # the network adds in another order in a batch of another size
                assert np.allclose(ours.to_numpy(), reference.to_numpy(), rtol=1e-5, equal_nan=True), name
            else:
                assert ours.equals(reference), name


def test_the_library_gives_what_the_pipeline_writes(survey: Path, tmp_path: Path, tiny_model: Path) -> None:
    written = catalogue(survey, tmp_path / "out.parquet", tiny_model, workers=1)
    table = broadline.load_model(tiny_model).classify(broadline.read(survey))
    assert table["SOURCE"].tolist() == written["SOURCE"].to_pylist()
    assert table["IS_QSO"].tolist() == written["IS_QSO"].to_pylist()
    assert np.allclose(table["Z"].filled(np.nan), written["Z"].to_numpy(), rtol=1e-5, equal_nan=True)
    assert table["FLAGS"].tolist() == written["FLAGS"].to_pylist()


def test_the_summary_counts_what_is_in_the_catalogue(survey: Path, tmp_path: Path, tiny_model: Path) -> None:
    fractions: list[float] = []
    units: list[Unit] = []

    def on_unit(unit: Unit, summary: Summary, fraction: float) -> None:
        units.append(unit)
        fractions.append(fraction)

    output = tmp_path / "out.parquet"
    summary = classify([survey], output, ModelChoice(str(tiny_model)), workers=1, on_unit=on_unit)
    table = pq.read_table(output)
    for number, name in ((summary.n_qso, "IS_QSO"), (summary.n_bal, "IS_BAL"), (summary.n_vi, "NEEDS_VI")):
        assert number == table[name].to_pylist().count(True)
    assert (summary.n_spectra, summary.n_unreadable, len(summary.notes)) == (17, 1, 1)
    assert 0 < summary.n_qso < 16  # else the test would prove little
    assert len(units) == 6
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_thresholds_given_with_the_model_are_used_in_every_worker(
    survey: Path, tmp_path: Path, tiny_model: Path
) -> None:
    choice = ModelChoice(str(tiny_model), c_th=0.0)
    summary = classify([survey], tmp_path / "out.parquet", choice, workers=2)
    assert summary.n_qso == 16


# ---- workers that are late, or die (functions of this module, so that the workers find them)


class LateFirst(Classifier):
    def __call__(self, task: Task[Unit]) -> Any:
        if task.unit.archive == "sdss-plate" and task.unit.paths[0].name.startswith("spPlate"):
            time.sleep(1.0)
        return super().__call__(task)


class Deadly(Classifier):
    """Dies of fibre 6, as a reader may that is written in C."""

    def __call__(self, task: Task[Unit]) -> Any:
        if any(path.name.endswith("0006.fits") and path not in task.unit.faults for path in task.unit.paths):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(task)


class DeadlyModel(Classifier):
    def __init__(self, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_unit_that_is_late_keeps_its_place(
    survey: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_turn = catalogue(survey, tmp_path / "1.parquet", tiny_model, workers=1)
    monkeypatch.setattr(pipeline, "Classifier", LateFirst)
    assert catalogue(survey, tmp_path / "2.parquet", tiny_model, workers=2).equals(in_turn)


def test_a_file_that_kills_its_worker_again_and_again_is_a_flagged_row_among_the_others(
    survey: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = catalogue(survey, tmp_path / "1.parquet", tiny_model, workers=2)
    monkeypatch.setattr(pipeline, "Classifier", Deadly)
    summary = classify([survey], tmp_path / "2.parquet", ModelChoice(str(tiny_model)), workers=2)
    table = pq.read_table(tmp_path / "2.parquet")
    assert table["SOURCE"].equals(healthy["SOURCE"])
    changed = np.flatnonzero(np.asarray(table["FLAGS"]) != np.asarray(healthy["FLAGS"]))
    assert [Path(table["SOURCE"][int(i)].as_py()).name for i in changed] == ["spec-4055-55359-0006.fits"]
    assert int(table["FLAGS"][int(changed[0])].as_py()) & Flag.UNREADABLE
    assert summary.n_unreadable == 2 and "worker process was killed (SIGKILL)" in "".join(summary.notes)


def test_workers_that_die_as_they_start_end_the_run_and_nothing_is_written(
    survey: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "Classifier", DeadlyModel)
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(BroadlineError, match=r"end as soon as they start \(.*SIGKILL\).*--workers"):
        catalogue(survey, folder / "out.parquet", tiny_model, workers=2)
    assert not list(folder.iterdir())


# ---- real files


@pytest.mark.skipif(not manifest(), reason="real data not present (set BROADLINE_TEST_DATA)")
def test_every_real_spectrum_has_its_row(golden: Path, tmp_path: Path) -> None:
    expected = {str(DATA / row["path"]): int(row["n_spectra"]) for row in manifest()}
    summary = classify(
        [DATA / "real"], tmp_path / "out.parquet", ModelChoice(str(golden / "test_weights.h5")), workers=1
    )
    table = pq.read_table(tmp_path / "out.parquet")
    sources = table["SOURCE"].to_pylist()
    assert {source: sources.count(source) for source in set(sources)} == expected
    assert (summary.n_unreadable, summary.notes) == (0, [])
    flags = np.asarray(table["FLAGS"])
    assert not (flags & Flag.UNREADABLE).any()
    # each spectrum is in its file's place and its row's
    order = {source: i for i, source in enumerate(dict.fromkeys(sources))}
    places = [(order[source], row) for source, row in zip(sources, table["ROW"].to_pylist(), strict=True)]
    assert places == sorted(places) and len(set(places)) == len(places)


def test_a_fault_travels_to_a_worker_and_back_whole() -> None:
    fault = ReadError(Path("a/b.fits"), "it is cut short", Flag.NO_DATA, 7)
    back = pickle.loads(pickle.dumps(fault))
    assert (str(back), back.path, back.reason, back.flag, back.n_spectra) == (
        "a/b.fits: it is cut short",
        Path("a/b.fits"),
        "it is cut short",
        Flag.NO_DATA,
        7,
    )
