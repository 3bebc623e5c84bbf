"""Simulated surveys on disk: the request alone decides the bytes, and every spectrum joins its truth."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import broadline
from broadline.simulation import absorption, field, galaxy, instrument_curves, survey
from broadline.simulation.field import observe_field
from broadline.simulation.pointing import COLUMNS, Pointing
from broadline.simulation.recipe import RECIPES, SurveyRecipe
from broadline.simulation.survey import Request, simulate

FULL = 8  # fibres of a plate in these tests
N = 23  # two fields of 8 + 2 spectra, and three more
MANY = 200  # twenty fields
KINDS = [("boss", "plates"), ("sdss", "spectra"), ("lamost", "spectra"), ("desi", "plates")]
EVERY = pytest.mark.parametrize(("archive", "files"), KINDS)
Digests = dict[str, str]


@pytest.fixture(autouse=True, scope="module")
def small_fields() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        small = {name: layout._replace(size=FULL) for name, layout in survey._LAYOUTS.items()}
        patch.setattr(survey, "_LAYOUTS", small)
        yield


def mixed(archive: str) -> SurveyRecipe:
    """The archive's recipe, with every class, sky, dead fibres and second visits in a few spectra."""
    mix = {"QSO": 0.5, "STAR": 0.3, "GALAXY": 0.2}
    return replace(RECIPES[archive], mix=mix, sky=0.15, dead=0.1, repeats=0.25)


def request_of(archive: str, files: str | None = None, n: int = N, seed: int = 1) -> Request:
    return Request.of(archive, n, seed, mixed(archive), files=files)


def contents(folder: Path) -> Digests:
    """Every file below a folder; there is no file that was written aside, and no folder left empty."""
    found = sorted(folder.rglob("*"))
    assert not [path for path in found if path.name.startswith(".") or path.suffix == ".part"]
    assert all(any(path.iterdir()) for path in found if path.is_dir())
    files = (path for path in found if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Surveys written without interruption in this process."""
    root = tmp_path_factory.mktemp("surveys")

    def made(archive: str, files: str) -> Path:
        if not (root / archive / files).exists():
            simulate(request_of(archive, files), root / archive / files, 1)
        return root / archive / files

    return made


def truth(folder: Path) -> dict[str, NDArray[Any]]:
    table = pq.read_table(folder / "truth.parquet")
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


# ---- the request alone decides the bytes


@EVERY
def test_two_workers_write_the_bytes_of_one(
    archive: str, files: str, folders: Callable[[str, str], Path], tmp_path: Path
) -> None:
    steps: list[int] = []
    catalogues = simulate(request_of(archive, files), tmp_path / "two", 2, steps.append)
    assert steps == [10, 20, 23]
    assert contents(tmp_path / "two") == contents(folders(archive, files))
    assert all(path.parent == tmp_path / "two" and path.exists() for path in catalogues)


@pytest.mark.parametrize("threads", [1, 2])
def test_more_threads_write_the_bytes_of_one(threads: int, whole: Digests, tmp_path: Path) -> None:
    for kept in (galaxy._populations, absorption._log_scale, instrument_curves.bases_of, field._dark):
        kept.cache_clear()
    with threadpool_limits(threads):
        galaxy._populations()
        simulate(request_of("boss", "spectra", n=MANY), tmp_path, 1)
    assert contents(tmp_path) == whole


def test_another_seed_gives_other_spectra_and_other_targets(
    folders: Callable[[str, str], Path], tmp_path: Path
) -> None:
    simulate(request_of("boss", "plates", seed=2), tmp_path, 1)
    one, other = contents(folders("boss", "plates")), contents(tmp_path)
    assert one.keys() == other.keys()
    assert not [name for name in one if one[name] == other[name]]


def test_a_full_field_does_not_depend_on_the_size_of_the_survey(
    folders: Callable[[str, str], Path], tmp_path: Path
) -> None:
    simulate(request_of("boss", "plates", n=2 * N), tmp_path, 1)
    few, many = contents(folders("boss", "plates")), contents(tmp_path)
    full = [name for name in few if name.startswith(("90000/", "90001/"))]
    assert len(full) == 2 * 2 * 3  # plates, visits, kinds of files
    assert all(few[name] == many[name] for name in full)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_first_and_second_visits_together_are_as_many_spectra_as_asked(n: int, repeats: float) -> None:
    request = Request.of("boss", n, recipe=replace(RECIPES["boss"], repeats=repeats))
    fields = list(request.fields())
    first, second = (np.array([field[i] for field in fields]) for i in (1, 2))
    assert [field.number for field in fields] == list(range(len(fields)))
    assert first.sum() + second.sum() == n
    assert (first[:-1] == FULL).all() and 0 < first[-1] <= FULL
    assert (second <= first).all() and (np.abs(second - repeats * first) <= 1 + repeats).all()


def killed(folder: Path, how: signal.Signals, group: bool) -> tuple[int, str]:
    """Start the command in a process of its own and stop it at a random moment; return code and message."""
    recipe = folder.with_suffix(".toml")
    recipe.write_text("mix = {QSO = 0.5, STAR = 0.3, GALAXY = 0.2}\nsky = 0.15\ndead = 0.1\nrepeats = 0.25")
    script = folder.with_suffix(".py")
    script.write_text(
        "from broadline import cli\nfrom broadline.simulation import survey\n"
        f"survey._LAYOUTS = {{k: v._replace(size={FULL}) for k, v in survey._LAYOUTS.items()}}\n"
        "if __name__ == '__main__':\n    cli.main()"
    )
    arguments = ["simulate", folder, "--archive", "boss", "--n", MANY, "--seed", 1, "--recipe", recipe]
    process = subprocess.Popen(
        [sys.executable, script, *map(str, arguments), "--workers", "2", "--files", "spectra"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while len(list((folder / ".parts").glob("*.npy"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.1))
        (os.killpg if group else os.kill)(process.pid, how)
        _, said = process.communicate(timeout=20)  # until the workers have ended too: they hold the pipes
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Digests:
    folder = tmp_path_factory.mktemp("whole")
    simulate(request_of("boss", "spectra", n=MANY), folder, 1)
    return contents(folder)


@pytest.mark.parametrize(("how", "group"), [(signal.SIGKILL, False), (signal.SIGINT, True)])
def test_a_command_that_was_stopped_goes_on_to_the_same_bytes(
    how: signal.Signals, group: bool, whole: Digests, tmp_path: Path
) -> None:
    folder = tmp_path / "survey"
    code, said = killed(folder, how, group)
    if how == signal.SIGINT:
        assert (code, said) == (130, f"broadline: interrupted; the same command goes on in {folder}\n")
    else:
        assert code == -signal.SIGKILL
    assert not (folder / "truth.parquet").exists()
    assert sum(map(len, broadline.read(folder))) >= 30  # what there is can be read
    done: list[int] = []
    simulate(request_of("boss", "spectra", n=MANY), folder, 1, done.append)
    assert done[0] > 30 and done[-1] == MANY  # it did go on
    assert contents(folder) == whole


@EVERY
def test_what_a_kill_leaves_beside_the_files_is_gone_in_the_end(
    archive: str,
    files: str,
    folders: Callable[[str, str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail_in_field_1(archive: str, number: int, *rest: Any) -> list[Pointing]:
        if number == 1:
            raise MemoryError("a worker's end")
        return observe_field(archive, number, *rest)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(survey, "observe_field", fail_in_field_1)
        simulate(request_of(archive, files), tmp_path, 1)
    for name in contents(folders(archive, files)):  # as SIGKILL leaves any file that is being written
        path = tmp_path / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.part").write_bytes(b"half")
    (tmp_path / ".parts" / "field-0000001.part").write_bytes(b"half")
    simulate(request_of(archive, files), tmp_path, 1)
    assert contents(tmp_path) == contents(folders(archive, files))


def test_a_kill_before_the_first_or_after_the_last_step_is_no_obstacle(
    folders: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".simulation.json.part").write_text("{")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        simulate(request_of("boss", "plates"), tmp_path, 1)
    assert (tmp_path / ".parts").exists()
    again = simulate(request_of("boss", "plates"), tmp_path, 1)
    assert contents(tmp_path) == contents(folders("boss", "plates"))
    assert [path.name for path in again][-1] == "truth.parquet"


# ---- files join their truth


def identity(archive: str, table: dict[str, NDArray[Any]]) -> list[str]:
    """The names of spectra as the readers give them."""
    if archive in ("lamost", "desi"):
        return [str(value) for value in table["OBSID" if archive == "lamost" else "TARGETID"]]
    columns = (table["PLATE"], table["MJD"], table["FIBERID"])
    return [f"{plate}-{mjd}-{fiber:04d}" for plate, mjd, fiber in zip(*columns, strict=True)]


@pytest.mark.parametrize(("archive", "files"), [*KINDS, ("boss", "spectra"), ("sdss", "plates")])
def test_every_spectrum_is_read_back_and_found_in_the_truth(
    archive: str, files: str, folders: Callable[[str, str], Path]
) -> None:
    folder = folders(archive, files)
    table = truth(folder)
    batches = list(broadline.read(folder))
    names = [str(name) for batch in batches for name in batch.ids["OBJID"]]
    assert sorted(names) == sorted(identity(archive, table))
    assert len(names) == N
    position = {
        name: (ra, dec)
        for name, ra, dec in zip(identity(archive, table), table["RA"], table["DEC"], strict=True)
    }
    for batch in batches:
        expected = np.array([position[str(name)] for name in batch.ids["OBJID"]])
        assert np.allclose(batch.ids["RA"], expected[:, 0], atol=1e-6)
        assert np.allclose(batch.ids["DEC"], expected[:, 1], atol=1e-6)
    told = broadline.read_truth(folder)
    assert sorted(map(str, told["OBJID"])) == sorted(names)


@EVERY
def test_the_truth_has_the_columns_of_a_pointing_and_the_archives_names(
    archive: str, files: str, folders: Callable[[str, str], Path]
) -> None:
    schema = pq.read_schema(folders(archive, files) / "truth.parquet")
    own = {
        "desi": {"TARGETID", "TILEID", "PETAL_LOC", "NIGHT"},
        "lamost": {"LMJD", "PLANID", "SPID", "FIBERID", "OBSID", "SNRU", "SNRG", "SNRR", "SNRI", "SNRZ"},
    }
    assert set(schema.names) == set(COLUMNS) | own.get(archive, {"PLATE", "MJD", "FIBERID"})
    types = {"i8": pa.int64(), "i4": pa.int32(), "i2": pa.int16(), "f8": pa.float64(), "f4": pa.float32()}
    for name, (code, length) in COLUMNS.items():
        one = pa.bool_() if code == "?" else types.get(code, pa.string())
        assert schema.field(name).type == (pa.list_(one, length) if length else one), name
    assert b"none of these spectra is real" in schema.metadata[b"simulated"]


@EVERY
def test_a_second_visit_finds_the_same_objects(
    archive: str, files: str, folders: Callable[[str, str], Path]
) -> None:
    table = truth(folders(archive, files))
    target = table["THING_ID"] >= 0
    for start in (0, 10):  # two fields of ten
        first, second = np.arange(start, start + 8), np.arange(start + 8, start + 10)
        for row in second[target[second]]:
            (same,) = first[table["THING_ID"][first] == table["THING_ID"][row]]
            for name in ("RA", "DEC", "TRUE_CLASS", "TRUE_SUBCLASS", "TRUE_Z", "TRUE_BI_CIV", "PSFMAG"):
                assert np.array_equal(table[name][same], table[name][row]), name
            assert table["SN"][same] != table["SN"][row]
    assert len(set(table["THING_ID"][target])) < target.sum()
    where = np.stack([table["RA"], table["DEC"]], axis=1)
    assert len(np.unique(where, axis=0)) == N - 2 - 2  # second visits are to places already seen
