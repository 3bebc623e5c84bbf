"""A store of spectra stands for its files: the same spectra, and the same catalogue, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import broadline
from broadline import packing, parts, pipeline
from broadline.archives import pack as archive
from broadline.errors import UsageError
from broadline.flags import Flag
from broadline.inputs import expand, read_group
from broadline.packing import Packed, pack
from broadline.pipeline import ModelChoice, classify, plan
from broadline.show import pick
from broadline.spectra import Spectra
from conftest import DATA, Answer, manifest
from files import FIRST, loglam, observed, quasar, room_for, star, write_plate, write_spec

N_BIG = 300  # fibres of the larger plate: more than a block
N_ALL = N_BIG + 4 + 5 + 2


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two plates of unlike grids, spec files of unlike ranges, one of them broken, tables on own grids."""
    folder = tmp_path_factory.mktemp("survey")
    base = [observed(quasar(0.1 * i, loglam(600)), seed=i) for i in range(30)]
    flux, ivar = (np.tile(np.stack(images), (N_BIG // 30, 1)) for images in zip(*base, strict=True))
    write_plate(folder / "spPlate-4055-55359.fits", flux, ivar, objtype=["SKY", *["QSO"] * (N_BIG - 1)])
    few = [observed(quasar(0.5 + i, loglam(700, FIRST + 50)), seed=40 + i) for i in range(4)]
    flux, ivar = (np.stack(images) for images in zip(*few, strict=True))
    ivar[1], flux[2, 5] = 0, np.nan
    write_plate(folder / "spPlate-4056-55360.fits", flux, ivar, first=FIRST + 50, plate=4056)
    for i in range(5):
        x = loglam(4600 - 40 * i, FIRST - 30 * i)
        flux, ivar = observed(star(x) if i == 3 else quasar(0.4 * i, x), seed=i)
        write_spec(folder / f"spec-4055-55359-{i:04d}.fits", flux, ivar, x=x, fiber=i)
    (folder / "spec-4055-55359-0001.fits").write_bytes(b"SIMPLE  = cut short")
    for i, n in enumerate((900, 1000)):
        wave = np.linspace(3700, 9000, n)
        flux, ivar = observed(quasar(1.0 + i, np.log10(wave)), seed=60 + i)
        np.savetxt(
            folder / f"t{i}.csv", np.stack([wave, flux, ivar], 1), "%.9g", ",", header="wave,flux,ivar"
        )
    return folder


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_UNIT_FILES", 2)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1535000000")


@pytest.fixture
def store(survey: Path, tmp_path: Path) -> Path:
    pack([survey], tmp_path / "store", workers=1)
    return tmp_path / "store"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def units_of(*names: Path) -> Iterator[Spectra]:
    """The batches of some files as `classify` reads them, unit by unit."""
    for unit in plan(expand(names)):
        yield from read_group(unit.archive, unit.paths, 256, unit.faults)


def catalogue(names: list[Path], output: Path, model: Path, **options: Any) -> pa.Table:
    classify(names, output, ModelChoice(str(model)), **({"workers": 1} | options))
    return pq.read_table(output)


def same(ours: Spectra, theirs: Spectra) -> None:
    for name in ("wavelength", "flux", "ivar", "flags"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), name
    assert ours.ids.keys() == theirs.ids.keys() and ours.notes == theirs.notes
    for name, column in ours.ids.items():
        assert column.dtype == theirs.ids[name].dtype
        np.testing.assert_array_equal(column, theirs.ids[name], name)


# ---- the same spectra


def test_a_store_gives_the_batches_of_the_files_themselves_bit_for_bit(survey: Path, store: Path) -> None:
    read, kept = list(units_of(survey)), list(broadline.read(store))
    assert sum(map(len, read)) == N_ALL and len({len(batch.wavelength) for batch in read}) > 3
    assert sum(len(batch.notes) for batch in kept) == 1
    assert {flag for batch in kept for flag in Flag if (batch.flags & flag).any()} >= {
        Flag.SKY_FIBRE,
        Flag.NON_FINITE,
        Flag.UNREADABLE,
    }
    for ours, theirs in zip(kept, read, strict=True):
        same(ours, theirs)


@pytest.mark.parametrize("batch", [256, 64])
def test_a_store_gives_the_same_catalogue_bit_for_bit(
    batch: int, survey: Path, store: Path, tmp_path: Path, tiny_model: Path
) -> None:
    theirs = catalogue([survey], tmp_path / "files.parquet", tiny_model, batch=batch)
    ours = catalogue([store], tmp_path / "store.parquet", tiny_model, batch=batch)
    assert ours.equals(theirs) and theirs.num_rows == N_ALL
    assert str(survey / "t0.csv") in ours["SOURCE"].to_pylist()
    assert ours["ROW"].to_pylist()[:N_BIG] == list(range(N_BIG))


@pytest.mark.skipif(not manifest(), reason="real data not present (set BROADLINE_TEST_DATA)")
def test_real_spectra_of_every_archive_come_back_as_they_were(tmp_path: Path) -> None:
    first: dict[str, Path] = {}
    for row in manifest():
        first.setdefault(row["format"], DATA / row["path"])
    names = list(first.values())
    pack(names, tmp_path / "store", workers=1)
    for ours, theirs in zip(broadline.read(tmp_path / "store"), units_of(*names), strict=True):
        same(ours, theirs)


def test_a_file_name_that_is_not_unicode_is_kept_as_the_catalogue_writes_it(tmp_path: Path) -> None:
    folder = tmp_path / "survey"
    folder.mkdir()
    name = os.fsdecode(b"spec-4055-55359-\xff.fits")
    write_spec(folder / "spec-4055-55359-0001.fits").rename(folder / name)
    pack([folder], tmp_path / "store", workers=1)
    (batch,) = broadline.read(tmp_path / "store")
    assert batch.ids["SOURCE"][0].endswith(r"spec-4055-55359-\udcff.fits")


def test_any_arrow_library_reads_a_shard(survey: Path, store: Path) -> None:
    with pa.ipc.open_file(store / "shard-000000.arrow") as file:
        table = file.read_all()
    (first, *_) = broadline.read(survey)
    assert table["FLUX"][0].as_py() == first.flux[0].tolist()
    assert table["WAVELENGTH"][0].as_py() == first.wavelength.tolist()
    assert table["OBJID"][0].as_py() == "4055-55359-0001"


def test_a_store_is_packed_from_a_store(store: Path, tmp_path: Path) -> None:
    pack([store], tmp_path / "again", workers=1)
    for ours, theirs in zip(broadline.read(tmp_path / "again"), broadline.read(store), strict=True):
        same(ours, theirs)


# ---- the same bytes


def test_the_bytes_do_not_depend_on_the_number_of_workers(survey: Path, store: Path, tmp_path: Path) -> None:
    done: list[float] = []
    packed = pack([survey], tmp_path / "two", workers=2, on_unit=lambda _, fraction: done.append(fraction))
    assert contents(tmp_path / "two") == contents(store)
    assert len(done) == 5 and done == sorted(done) and done[-1] == 1.0
    assert (packed.n_spectra, packed.n_unreadable, len(packed.notes)) == (N_ALL, 1, 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_command_that_was_killed_goes_on_to_the_same_bytes(
    workers: int, survey: Path, store: Path, tmp_path: Path
) -> None:
    script = textwrap.dedent(f"""
        import os, signal, sys
        from pathlib import Path
        from broadline import pipeline
        from broadline.packing import pack
        pipeline._UNIT_FILES = 2
        def die(packed, done):
            if done > 0.5:
                os.kill(os.getpid(), signal.SIGKILL)
        if __name__ == "__main__":
            pack([sys.argv[1]], Path(sys.argv[2]), workers={workers}, on_unit=die)
    """)
    (tmp_path / "script.py").write_text(script)
    folder = tmp_path / "killed"
    command = [sys.executable, tmp_path / "script.py", survey, folder]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    with pytest.raises(UsageError, match=r"killed is not finished: give its `broadline pack` command again"):
        expand([folder])
    (folder / ".shard-000003.arrow.0.part").write_bytes(b"half")
    recorded = [path.stem for path in (folder / ".parts").glob("*.json")]
    written = {number: (folder / f"shard-{number}.arrow").stat().st_mtime_ns for number in recorded}
    pack([survey], folder, workers=1)
    assert contents(folder) == contents(store)
    assert written and all(
        (folder / f"shard-{number}.arrow").stat().st_mtime_ns == time for number, time in written.items()
    )


def test_the_same_command_again_mends_a_finished_store_and_touches_nothing_else(
    survey: Path, store: Path, tmp_path: Path
) -> None:
    whole = contents(store)
    (store / "shard-000001.arrow").unlink()
    damaged = bytearray((store / "shard-000002.arrow").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (store / "shard-000002.arrow").write_bytes(damaged)
    before = (store / "shard-000000.arrow").stat().st_mtime_ns
    packed = pack([survey], store, workers=1)
    assert contents(store) == whole and packed.n_spectra == N_ALL
    assert (store / "shard-000000.arrow").stat().st_mtime_ns == before


def test_the_manifest_lists_every_shard_with_its_spectra(store: Path) -> None:
    state = json.loads((store / archive.MANIFEST).read_text())
    names = [shard["name"] for shard in state["shards"]]
    assert names == sorted(path.name for path in store.glob("*.arrow"))
    assert sum(shard["n"] for shard in state["shards"]) == N_ALL


# ---- what can be wrong


def test_other_spectra_or_another_folder_are_refused_and_nothing_is_touched(
    survey: Path, store: Path, tmp_path: Path
) -> None:
    before = contents(store)
    with pytest.raises(UsageError, match=r"holds another store .not the same: spectra.; give a new folder"):
        pack([survey / "t0.csv"], store)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="foreign is not empty; give a new folder"):
        pack([survey], foreign)
    with pytest.raises(UsageError, match=r"thesis\.tex is a file; give a new folder"):
        pack([survey], foreign / "thesis.tex")
    with pytest.raises(UsageError, match=r"lies in .* which it would come to hold; give a folder elsewhere"):
        pack([survey], survey / "store")
    assert not (survey / "store").exists()
    assert contents(store) == before and len(contents(foreign)) == 1


def test_a_manifest_that_is_damaged_or_of_another_format_is_one_error(store: Path) -> None:
    path = store / archive.MANIFEST
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"format": 2}))
    with pytest.raises(UsageError, match="store has format 2, which this version of broadline does not know"):
        expand([store])
    for text in ("", "[]", '{"format": 1}', path.read_text()[:-30]):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"is damaged .*; pack the spectra again into a new folder"):
            expand([store])


@pytest.mark.parametrize("fault", ["cut short", "gone", "empty", "other format", "another program's"])
def test_a_damaged_shard_is_flagged_rows_for_all_its_spectra_and_the_rest_is_read(
    fault: str, store: Path
) -> None:
    shard = store / "shard-000000.arrow"
    if fault == "gone":
        shard.unlink()
    elif fault in ("cut short", "empty"):
        shard.write_bytes(shard.read_bytes()[: 100_000 if fault == "cut short" else 0])
    else:
        schema = archive.SCHEMA.with_metadata({"broadline_store": "2"} if fault == "other format" else None)
        with pa.ipc.new_file(shard, schema):
            pass
    read = list(broadline.read(store))
    lost = [batch for batch in read if batch.ids["ARCHIVE"][0] == "pack"]
    assert sum(map(len, read)) == N_ALL and sum(map(len, lost)) == N_BIG + 4
    assert all((batch.flags & Flag.UNREADABLE).all() for batch in lost)
    says = {
        "cut short": "it is cut short, or no Arrow file",
        "empty": "it is cut short, or no Arrow file",
        "gone": "no such file",
        "other format": "it has format 2, which this version",
        "another program's": "an Arrow file of another program",
    }
    assert lost[0].notes[0].startswith(f"{shard}: ") and says[fault] in lost[0].notes[0]


def test_of_a_shard_damaged_in_the_middle_the_blocks_before_are_kept(store: Path, survey: Path) -> None:
    shard = store / "shard-000000.arrow"
    content = bytearray(shard.read_bytes())
    with pa.ipc.open_file(shard) as file:
        assert file.num_record_batches == 3  # of 256, 44 and 4 spectra
        size = file.get_batch(0).nbytes
    head = content.index(b"\xff" * 4, size // 2)  # of the second block: so every message begins
    content[head + 8 : head + 200] = bytes(192)
    shard.write_bytes(content)
    first, *rest = broadline.read(store)
    same(first, next(broadline.read(survey)))
    assert (rest[0].flags & Flag.UNREADABLE).all()
    assert len(rest[0]) == 48 and len(first) + sum(map(len, rest)) == N_ALL


def test_an_arrow_file_of_another_program_is_no_spectrum(tmp_path: Path, survey: Path) -> None:
    with pa.ipc.new_file(tmp_path / "x.arrow", pa.schema({"a": pa.int8()})):
        pass
    with pytest.raises(UsageError, match=r"no spectra found in .*x\.arrow"):
        expand([tmp_path])


def test_a_shard_is_known_without_its_store(store: Path, tmp_path: Path) -> None:
    (store / "shard-000000.arrow").rename(tmp_path / "alone.arrow")
    assert expand([tmp_path / "alone.arrow"]).files == [(tmp_path / "alone.arrow", "pack")]


def test_a_full_disk_is_one_error_and_the_same_command_goes_on(
    survey: Path, store: Path, tmp_path: Path
) -> None:
    with (
        room_for(100_000),
        pytest.raises(UsageError, match=r"cannot write the store into .*same command goes on"),
    ):
        pack([survey], tmp_path / "full", workers=1)
    assert not list((tmp_path / "full").glob("*.arrow")) and not list((tmp_path / "full").glob(".*.part"))
    pack([survey], tmp_path / "full", workers=1)
    assert contents(tmp_path / "full") == contents(store)


# ---- the commands


def test_the_command_says_what_was_packed_and_what_could_not_be_read(
    survey: Path, tmp_path: Path, command: Callable[..., Answer]
) -> None:
    answer = command("pack", survey, "-o", tmp_path / "store", "--workers", 1)
    assert answer.code == 1
    assert answer.out == f"{tmp_path / 'store'}: {N_ALL} spectra, 1 unreadable\n"
    assert answer.err.startswith(f"flagged: {survey / 'spec-4055-55359-0001.fits'}: ")
    good = command("pack", survey / "t0.csv", "-o", tmp_path / "good")
    assert (good.code, good.err) == (0, "")
    refused = command("pack", survey, "-o", tmp_path / "good")
    assert refused.code == 2 and refused.err.count("\n") == 1


def test_an_interrupted_command_says_how_to_go_on(
    survey: Path, tmp_path: Path, command: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> Iterator[None]:
        os.kill(os.getpid(), signal.SIGINT)
        yield

    monkeypatch.setattr(parts, "_write_units", interrupt)
    answer = command("pack", survey, "-o", tmp_path / "store")
    assert (answer.code, answer.err) == (
        130,
        f"broadline: interrupted; the same command goes on in {tmp_path / 'store'}\n",
    )


def test_show_finds_a_spectrum_of_a_store_by_its_row(survey: Path, store: Path) -> None:
    same(pick(str(store), N_BIG + 3), pick(str(survey / "spPlate-4056-55360.fits"), 3))


def test_a_block_holds_no_more_than_a_batch(store: Path) -> None:
    assert packing._BLOCK == 256
    for path in store.glob("*.arrow"):
        with pa.ipc.open_file(path) as file:
            assert all(len(file.get_batch(i)) <= 256 for i in range(file.num_record_batches))
    assert Packed().n_spectra == 0
