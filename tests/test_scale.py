"""Catalogue folders: whatever befalls a run, every spectrum has its row and the bytes are the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

import broadline.cluster
from broadline import attempts, pipeline, runner
from broadline.attempts import Task
from broadline.errors import BroadlineError, UsageError
from broadline.flags import Flag
from broadline.folder import CatalogueFolder
from broadline.journal import Journal
from broadline.pipeline import ModelChoice, Unit, classify
from broadline.runner import Done, PartWriter, classify_folder, merge
from conftest import Answer
from files import observed, quasar, star, write_plate, write_spec

Run = Callable[..., Done]
N_UNITS, N_SPECTRA = 6, 14


@pytest.fixture(scope="module")
def spectra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine spec files and a plate of five, in six units of work."""
    folder = tmp_path_factory.mktemp("survey")
    for i in range(1, 10):
        flux, ivar = observed(star() if i == 3 else quasar(0.3 * i), seed=i)
        write_spec(folder / f"spec-4055-55359-{i:04d}.fits", flux, ivar, fiber=i)
    both = [observed(quasar(0.3 + 0.5 * i), seed=20 + i) for i in range(5)]
    write_plate(
        folder / "spPlate-4055-55359.fits", np.stack([b[0] for b in both]), np.stack([b[1] for b in both])
    )
    return folder


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_UNIT_FILES", 2)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1535000000")
    monkeypatch.setattr(sys, "argv", ["broadline", "classify"])


@pytest.fixture
def run(spectra: Path, tmp_path: Path, tiny_model: Path) -> Run:
    """Classify into a folder called out."""

    def run(names: Path = spectra, folder: Path = tmp_path / "out", **options: Any) -> Done:
        return classify_folder([names], folder, ModelChoice(str(tiny_model)), **{"workers": 1} | options)

    return run


@pytest.fixture(scope="module")
def finished(spectra: Path, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A catalogue folder made without disturbance, to be looked at only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_UNIT_FILES", 2)
        patch.setenv("SOURCE_DATE_EPOCH", "1535000000")
        patch.setattr(sys, "argv", ["broadline", "classify"])
        folder = tmp_path_factory.mktemp("undisturbed") / "out"
        classify_folder([spectra], folder, ModelChoice(str(tiny_model)), workers=2)
    return folder


@pytest.fixture(scope="module")
def undisturbed(finished: Path) -> dict[str, bytes]:
    return contents(finished)


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a catalogue folder that is the same however it was made."""
    paths = [folder / name for name in ("request.json", "plan.parquet", "manifest.json", "model.onnx")]
    paths += [*(folder / "parts").iterdir(), *folder.glob(".*.part")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def table_of(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / "parts").glob("*.parquet"))])


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def kinds(folder: Path) -> list[str]:
    return [event["event"] for event in events(folder)]


class StopError(Exception):
    """What ends a run in the middle, in these tests."""


def after(n: int) -> Callable[[Unit, Journal], None]:
    """Something to be told of units that ends the run at the n-th."""
    seen: list[Unit] = []

    def on_unit(unit: Unit, journal: Journal) -> None:
        seen.append(unit)
        assert journal.units_done >= len(seen)
        if len(seen) == n:
            raise StopError

    return on_unit


# ---- what is in a folder


def test_a_finished_folder_holds_a_part_for_each_unit_and_a_manifest_of_them(
    finished: Path, tmp_path: Path, spectra: Path, tiny_model: Path
) -> None:
    folder = finished
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [unit["unit"] for unit in manifest["units"]] == list(range(N_UNITS))
    assert sum(unit["rows"] for unit in manifest["units"]) == N_SPECTRA
    assert manifest["counts"]["n_spectra"] == N_SPECTRA
    schemas = []
    for unit in manifest["units"]:
        content = (folder / unit["file"]).read_bytes()
        assert sha256(content).hexdigest() == unit["sha256"]
        part = pq.read_table(pa.BufferReader(content))
        schemas.append(part.schema.remove_metadata())
        about = part.schema.metadata
        assert len(part) == unit["rows"]
        assert json.loads(about[b"broadline.unit"])["unit"] == unit["unit"]
        assert about[b"broadline.date"] == b"2018-08-23T04:53:20+00:00"
        assert about[b"broadline.model_sha256"].decode() == sha256(tiny_model.read_bytes()).hexdigest()
    assert all(schema == schemas[0] for schema in schemas)
    classify([spectra], tmp_path / "one.parquet", ModelChoice(str(tiny_model)), workers=1)
    one = pq.read_table(tmp_path / "one.parquet")
    whole = pyarrow.dataset.dataset(folder / "parts").to_table()
    assert whole.select(one.schema.names).equals(one)
    assert {p.name for p in folder.iterdir() if p.name[0] != "."} == {
        *(
            "request.json",
            "plan.parquet",
            "model.onnx",
            "parts",
            "manifest.json",
            "log.jsonl",
            "progress.json",
        )
    }


def test_dask_reads_the_parts_as_one_table(finished: Path) -> None:
    dataframe = pytest.importorskip("dask.dataframe")
    frame = dataframe.read_parquet(finished / "parts")
    assert frame.npartitions == N_UNITS
    assert frame["Z"].compute(scheduler="sync").tolist() == table_of(finished)["Z"].to_pylist()


@pytest.mark.parametrize("suffix", ["fits", "parquet", "ecsv"])
def test_a_merged_folder_is_the_file_that_classify_writes(
    suffix: str, finished: Path, tmp_path: Path, spectra: Path, tiny_model: Path
) -> None:
    classify([spectra], tmp_path / f"one.{suffix}", ModelChoice(str(tiny_model)), workers=1)
    assert merge(finished, tmp_path / f"merged.{suffix}") == N_SPECTRA
    assert (tmp_path / f"merged.{suffix}").read_bytes() == (tmp_path / f"one.{suffix}").read_bytes()


def test_a_merged_folder_may_have_a_layout(
    finished: Path, tmp_path: Path, spectra: Path, tiny_model: Path
) -> None:
    classify([spectra], tmp_path / "one.fits", ModelChoice(str(tiny_model)), layout="drq", workers=1)
    merge(finished, tmp_path / "merged.fits", "drq")
    assert (tmp_path / "merged.fits").read_bytes() == (tmp_path / "one.fits").read_bytes()


def test_the_log_and_the_progress_file_say_what_happened(finished: Path) -> None:
    assert (kinds(finished)[0], kinds(finished)[-1]) == ("begin", "end")
    for kind in ("started", "done"):
        assert {e["unit"] for e in events(finished) if e["event"] == kind} == set(range(N_UNITS))
    done = [event for event in events(finished) if event["event"] == "done"]
    assert all(event["seconds"] > 0 and ":" in event["worker"] for event in done)
    progress = json.loads((finished / "progress.json").read_text())
    assert progress["state"] == "finished" and progress["spectra"] == N_SPECTRA
    assert progress["units"] == {"done": N_UNITS, "total": N_UNITS}
    assert progress["bytes"]["done"] == progress["bytes"]["total"] > 0


# ---- going on


def test_a_run_that_was_stopped_goes_on_and_does_no_part_again(
    run: Run, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    with pytest.raises(StopError):
        run(on_unit=after(3))
    folder = tmp_path / "out"
    assert not (folder / "manifest.json").exists()
    before = {path.name: path.stat() for path in (folder / "parts").glob("*.parquet")}
    assert 3 <= len(before) < N_UNITS
    (folder / "parts" / ".part-00000005.parquet.0.part").write_bytes(b"half")  # as a kill leaves it
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"time": "2026')
    run()
    assert contents(folder) == undisturbed
    for name, stat in before.items():
        assert (folder / "parts" / name).stat().st_mtime_ns == stat.st_mtime_ns
    again = (folder / "log.jsonl").read_text().splitlines()
    starts = [i for i, line in enumerate(again) if '"event": "begin"' in line]
    assert len(starts) == 2
    assert json.loads(again[starts[1]])["units_done"] == len(before)


def test_a_finished_folder_is_left_as_it_is(run: Run, finished: Path) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.name != ".lock"}

    before = times()
    again = run(folder=finished)
    assert again.journal is None and again.summary.n_spectra == N_SPECTRA
    assert times() == before


def test_files_that_have_gone_since_the_start_become_flagged_rows(
    run: Run, spectra: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(spectra, tmp_path / "copy")
    with pytest.raises(StopError):
        run(copy, on_unit=after(1), workers=1)
    for path in copy.glob("spec-*-000[89].fits"):
        path.unlink()
    write_spec(copy / "spec-4055-55359-0000.fits")  # one that came later is not in the plan
    done = run(copy)
    table = table_of(tmp_path / "out")
    assert len(table) == N_SPECTRA
    lost = [
        Path(s).name
        for s, f in zip(table["SOURCE"].to_pylist(), table["FLAGS"].to_pylist(), strict=True)
        if f & 2
    ]
    assert lost == ["spec-4055-55359-0008.fits", "spec-4055-55359-0009.fits"]
    assert done.summary.n_unreadable == 2 and "no such file" in done.summary.notes[0]


def test_a_part_that_was_damaged_since_is_done_again(
    run: Run, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    with pytest.raises(StopError):
        run(on_unit=after(4))
    part = next((tmp_path / "out" / "parts").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    run()
    assert contents(tmp_path / "out") == undisturbed


def test_a_file_that_was_bad_from_the_start_is_known_to_the_plan(
    run: Run, spectra: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(spectra, tmp_path / "copy")
    (copy / os.fsdecode(b"bad-\xff.fits")).write_text("no FITS")
    done = run(copy)
    assert done.summary.n_unreadable == 1 and done.summary.n_spectra == N_SPECTRA + 1
    plan = pq.read_table(tmp_path / "out" / "plan.parquet")
    (fault,) = [fault for fault in plan["fault"].to_pylist() if fault]
    assert "not a FITS file" in fault


def test_files_without_spectra_make_empty_parts(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    write_plate(folder / "spPlate-4055-55359.fits", np.zeros((0, 4600)), np.zeros((0, 4600)))
    done = run(folder)
    assert len(table_of(tmp_path / "out")) == done.summary.n_spectra


# ---- requests that are refused


def test_another_request_in_the_same_folder_is_refused(run: Run, spectra: Path, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        run(on_unit=after(1))
    with pytest.raises(UsageError, match=r"another catalogue \(not the same: batch\)"):
        run(batch=7)
    with pytest.raises(UsageError, match=r"another catalogue \(not the same: names\)"):
        run(spectra / "spPlate-4055-55359.fits")


def test_a_folder_of_other_things_is_refused_and_left_as_it_is(run: Run, spectra: Path) -> None:
    before = sorted(spectra.iterdir())
    with pytest.raises(UsageError, match=r"holds other things \(.*\); give a new folder"):
        run(folder=spectra)
    assert sorted(spectra.iterdir()) == before


def test_two_commands_at_once_in_a_folder_are_refused(run: Run) -> None:
    def second(*_: object) -> None:
        with pytest.raises(UsageError, match="another command is at work in"):
            run()
        raise StopError

    with pytest.raises(StopError):
        run(on_unit=second)


def test_names_given_from_elsewhere_are_another_request(
    spectra: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(spectra)
    choice = ModelChoice(str(tiny_model))
    with pytest.raises(StopError):
        classify_folder(
            ["spPlate-4055-55359.fits", "."], tmp_path / "out", choice, workers=1, on_unit=after(1)
        )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"not the same: directory"):
        classify_folder(["spPlate-4055-55359.fits", "."], tmp_path / "out", choice)


def test_a_folder_that_is_not_finished_is_not_merged(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no catalogue folder"):
        merge(tmp_path, tmp_path / "out.fits")
    with pytest.raises(StopError):
        run(on_unit=after(2))
    with pytest.raises(UsageError, match=r"is not finished; give its `classify` command again"):
        merge(tmp_path / "out", tmp_path / "out.fits")
    assert not list(tmp_path.glob("*.fits"))


def test_a_part_that_is_not_as_it_was_written_is_not_merged(
    run: Run, tmp_path: Path, finished: Path, undisturbed: dict[str, bytes]
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    part = tmp_path / "out" / "parts" / "part-00000002.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    with pytest.raises(UsageError, match=r"part-00000002.parquet is not as it was written; remove it and"):
        merge(tmp_path / "out", tmp_path / "out.fits")
    assert not list(tmp_path.glob("*.fits"))
    part.unlink()
    (tmp_path / "out" / "manifest.json").unlink()
    run()
    assert contents(tmp_path / "out") == undisturbed


# ---- workers that die or stall (classes of this module, so that the workers find them)


def holds(task: Task[Unit], name: str) -> bool:
    return any(path.name == name and path not in task.unit.faults for path in task.unit.paths)


class Deadly(PartWriter):
    """Dies of fibre 6, as a reader may that is written in C; and falls over fibre 2."""

    def __call__(self, task: Task[Unit]) -> Any:
        if holds(task, "spec-4055-55359-0006.fits"):
            os.kill(os.getpid(), signal.SIGKILL)
        if holds(task, "spec-4055-55359-0002.fits"):
            raise ZeroDivisionError("a bug")
        return super().__call__(task)


class DeadlyTogether(PartWriter):
    """Dies of fibres 6 and 7 together, but of neither alone."""

    def __call__(self, task: Task[Unit]) -> Any:
        if holds(task, "spec-4055-55359-0006.fits") and holds(task, "spec-4055-55359-0005.fits"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(task)


class NeverWorks(PartWriter):
    def __call__(self, task: Task[Unit]) -> Any:
        raise ZeroDivisionError("a bug")


class NeverReads(PartWriter):
    def __call__(self, task: Task[Unit]) -> Any:
        if len(task.unit.faults) < len(task.unit.paths):
            raise ZeroDivisionError("a bug")
        return super().__call__(task)


def test_a_worker_that_is_killed_loses_nothing(
    run: Run, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    killed: list[int] = []

    def kill(*_: object) -> None:
        if len(killed) < 2:
            killed.append(multiprocessing.active_children()[0].pid or 0)
            os.kill(killed[-1], signal.SIGKILL)

    done = run(on_unit=kill, workers=2)
    assert len(killed) == 2 and done.summary.n_unreadable == 0
    assert contents(tmp_path / "out") == undisturbed


def test_files_that_kill_or_fail_their_worker_are_set_aside_and_the_run_finishes(
    run: Run, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PartWriter", Deadly)
    done = run()
    folder = tmp_path / "out"
    table = table_of(folder)
    flagged = {
        Path(source).name
        for source, flags in zip(table["SOURCE"].to_pylist(), table["FLAGS"].to_pylist(), strict=True)
        if flags & Flag.UNREADABLE
    }
    assert flagged == {"spec-4055-55359-0006.fits", "spec-4055-55359-0002.fits"}
    assert len(table) == N_SPECTRA and done.summary.n_unreadable == 2
    assert any(
        "0006.fits: set aside: its worker process was killed (SIGKILL)" in n for n in done.summary.notes
    )
    assert any("0002.fits: set aside: ZeroDivisionError: a bug" in note for note in done.summary.notes)
    assert done.journal and done.journal.quarantined == 2
    quarantined = [event for event in events(folder) if event["event"] == "quarantined"]
    assert {Path(event["file"]).name for event in quarantined} == flagged
    assert all(event["reason"] for event in quarantined)
    same = [name for name, content in contents(folder).items() if undisturbed.get(name) == content]
    assert len([name for name in same if name.startswith("parts/")]) == N_UNITS - 2  # no other is touched


def test_a_unit_that_fails_though_none_of_its_files_does_is_set_aside_whole(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PartWriter", DeadlyTogether)
    done = run()
    assert len(table_of(tmp_path / "out")) == N_SPECTRA and done.summary.n_unreadable == 2
    assert "searched" in kinds(tmp_path / "out")


def test_a_file_that_stalls_its_worker_is_set_aside(
    run: Run, spectra: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(spectra, tmp_path / "copy")
    (copy / "spec-4055-55359-0005.fits").unlink()
    os.mkfifo(copy / "spec-4055-55359-0005.fits")
    monkeypatch.setattr(attempts, "_TRIES", 1)
    monkeypatch.setattr(attempts, "_PROBES", 1)
    done = run(copy, stall=5.0)
    assert len(table_of(tmp_path / "out")) == N_SPECTRA
    (note,) = done.summary.notes
    assert note.endswith("spec-4055-55359-0005.fits: set aside: it was not done after 5 s")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (NeverWorks, r"unit \d fails even with none of its files read: ZeroDivisionError: a bug"),
        (NeverReads, r"nothing can be done: every file so far failed, ZeroDivisionError: a bug"),
    ],
)
def test_a_run_in_which_nothing_works_ends(
    kind: type[PartWriter], message: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PartWriter", kind)
    with pytest.raises(BroadlineError, match=message):
        run()
    assert json.loads((tmp_path / "out" / "progress.json").read_text())["state"] == "failed"


# ---- Dask


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Dask cluster of one worker, all in this process, but spoken to as if it were elsewhere."""
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(protocol="tcp", host="127.0.0.1", silence_logs=60, **options) as here:
        yield here


class Slow(PartWriter):
    def __call__(self, task: Task[Unit]) -> Any:
        time.sleep(0.3)
        return super().__call__(task)


def test_dask_writes_the_same_bytes(run: Run, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    pytest.importorskip("distributed")
    done = run(cluster="local:2")
    assert contents(tmp_path / "out") == undisturbed
    assert done.journal and done.journal.units_done == N_UNITS
    workers = {event["worker"] for event in events(tmp_path / "out") if event["event"] == "done"}
    assert len(workers) == 2 and not any(str(os.getpid()) in worker for worker in workers)


def test_dask_workers_may_join_and_leave(
    run: Run,
    cluster: Any,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "PartWriter", Slow)
    sizes = iter([3, 1])

    def scale(*_: object) -> None:
        if n := next(sizes, None):
            cluster.scale(n)

    run(cluster=cluster.scheduler_address, on_unit=scale)
    assert contents(tmp_path / "out") == undisturbed


def test_a_lost_scheduler_ends_the_run_and_the_same_command_goes_on(
    run: Run,
    cluster: Any,
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "PartWriter", Slow)
    with pytest.raises(BroadlineError, match=r"the scheduler tcp://.* was lost; give the command again"):
        run(cluster=cluster.scheduler_address, on_unit=lambda *_: cluster.close())
    assert not (tmp_path / "out" / "manifest.json").exists()
    run()
    assert contents(tmp_path / "out") == undisturbed


class SeesNothing(PartWriter):
    def __init__(self, folder: CatalogueFolder, *rest: Any) -> None:
        super().__init__(replace(folder, path=Path("/elsewhere")), *rest[:-1], [Path("/elsewhere")])


def test_dask_workers_that_do_not_see_the_folder_end_the_run(
    run: Run, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PartWriter", SeesNothing)
    with pytest.raises(UsageError, match=r"does not see /elsewhere; put it on storage that all workers see"):
        run(cluster=cluster.scheduler_address)


def test_a_cluster_needs_absolute_names_and_a_scheduler_that_answers(
    run: Run, spectra: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(broadline.cluster, "_ANSWER", 0.5)
    with pytest.raises(UsageError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9"):
        run(cluster="tcp://127.0.0.1:9")
    monkeypatch.chdir(spectra.parent)
    with pytest.raises(UsageError, match=r"another catalogue \(not the same: names\)"):
        run(Path(spectra.name), cluster="tcp://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"give absolute names of spectra"):
        run(Path(spectra.name), spectra.parent / "relative", cluster="tcp://127.0.0.1:9")


def test_without_dask_the_error_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"needs Dask: pip install 'broadline\[cluster\]'"):
        run(cluster="local:1")


# ---- commands in processes of their own


def start(
    tmp_path: Path, spectra: Path, model: Path, *options: object, before: str = ""
) -> subprocess.Popen[str]:
    """Start the command in a process of its own, a unit two files as in the tests above."""
    script = tmp_path / "script.py"
    # The command in the provenance is that of the tests above.
    script.write_text(
        f"import types\nfrom broadline import cli, pipeline\n{before}\n"
        "pipeline.sys = types.SimpleNamespace(argv=['broadline', 'classify'])\n"
        "pipeline._UNIT_FILES = 2\nif __name__ == '__main__':\n    cli.main()"
    )
    arguments = ("classify", spectra, "-o", "out", "--model", model, "--workers", 2, *options)
    return subprocess.Popen(
        [sys.executable, script, *map(str, arguments)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> Answer:
    try:
        said = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return Answer(process.returncode, *said)


def wait_for(path: Path, pattern: str, n: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 40
    while len(list(path.glob(pattern))) < n and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def test_a_command_killed_at_random_moments_ends_with_the_bytes_of_one_that_was_not(
    spectra: Path, tmp_path: Path, tiny_model: Path, undisturbed: dict[str, bytes]
) -> None:
    for n_parts in (1, 3):
        process = start(tmp_path, spectra, tiny_model)
        wait_for(tmp_path / "out" / "parts", "part-*", n_parts, process)
        time.sleep(random.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        assert end(process).code in (-signal.SIGKILL, 0)
    answer = end(start(tmp_path, spectra, tiny_model))
    assert (answer.code, answer.err) == (0, "")
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_how_to_go_on(
    how: signal.Signals, spectra: Path, tmp_path: Path, tiny_model: Path
) -> None:
    copy = shutil.copytree(spectra, tmp_path / "copy")
    (copy / "spec-4055-55359-0009.fits").unlink()
    os.mkfifo(copy / "spec-4055-55359-0009.fits")  # the last unit never ends
    process = start(tmp_path, copy, tiny_model)
    wait_for(tmp_path / "out" / "parts", "part-*", N_UNITS - 1, process)
    os.kill(process.pid, how)
    answer = end(process)
    assert (answer.code, answer.err) == (130, "broadline: interrupted; the same command goes on in out\n")
    assert json.loads((tmp_path / "out" / "progress.json").read_text())["state"] == "interrupted"


def test_a_full_disk_is_told_and_the_same_command_goes_on(
    spectra: Path, tmp_path: Path, tiny_model: Path, undisturbed: dict[str, bytes]
) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    answer = end(start(tmp_path, spectra, tiny_model, before=full))
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert "cannot write into" in line and "once this is mended the same command goes on" in line
    answer = end(start(tmp_path, spectra, tiny_model))
    assert (answer.code, answer.err) == (0, "")
    assert contents(tmp_path / "out") == undisturbed


# ---- the command


def test_the_command_tells_what_it_did_and_that_some_were_flagged(
    spectra: Path, tmp_path: Path, tiny_model: Path, command: Callable[..., Answer]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "spec-4055-55359-0007.fits").write_text("not FITS")
    shutil.copy(spectra / "spPlate-4055-55359.fits", tmp_path / "in")
    options = (
        "-o",
        f"{tmp_path}/out.fits/",
        "--model",
        tiny_model,
        "--workers",
        1,
    )  # the slash makes a folder
    answer = command("classify", tmp_path / "in", *options)
    assert answer.code == 1
    assert "6 spectra" in answer.out and "2 units; 0 attempts made again" in answer.out
    assert "slowest units: " in answer.out
    assert "spec-4055-55359-0007.fits: it is not a FITS file" in answer.err
    again = command("classify", tmp_path / "in", *options)
    assert again.code == 1 and "it was finished already" in again.out
    merged = command("merge", tmp_path / "out.fits", "-o", tmp_path / "all.csv")
    assert merged == (0, f"{tmp_path / 'all.csv'}: 6 spectra\n", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "out", "--layout", "drq"), r"out is a folder; --layout is for `broadline merge`"),
        (("-o", "out.fits", "--cluster", "local"), r"--cluster needs a folder to write to"),
        (
            ("-o", "out", "--cluster", "local", "--workers", 2),
            r"--workers is for processes here; give --cluster",
        ),
        (("-o", "out", "--cluster", "nearby"), r"--cluster nearby: give tcp://HOST:PORT"),
        (("-o", "out", "--model", "nosuch"), r"no model called 'nosuch'"),
    ],
)
def test_requests_that_cannot_be_met(
    options: tuple[str, ...],
    message: str,
    spectra: Path,
    tmp_path: Path,
    tiny_model: Path,
    command: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = () if "--model" in options else ("--model", tiny_model)
    answer = command("classify", spectra, *options, *model)
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert message in line
    answer = command("classify", "nosuch.fits", "-o", "new", "--model", tiny_model)
    assert answer.code == 2 and not Path("new").exists()


def test_a_dry_run_tells_what_there_is_and_writes_nothing(
    spectra: Path, tmp_path: Path, tiny_model: Path, command: Callable[..., Answer]
) -> None:
    options = ("-o", tmp_path / "out", "--model", tiny_model, "--dry-run", "--workers", 1)
    answer = command("classify", spectra, *options)
    assert (answer.code, answer.err) == (0, "")
    head, plate, spec, total = answer.out.splitlines()
    assert head.split() == ["archive", "files", "units", "MB"]
    assert plate.split()[:3] == ["sdss-plate", "1", "1"] and spec.split()[:3] == ["sdss", "9", "5"]
    size = sum(path.stat().st_size for path in spectra.iterdir())
    assert total.startswith(f"{size / 1e6:,.1f} MB would take about ")
    assert not list(tmp_path.iterdir())
