"""Bad input: a fault of a spectrum is a flagged row, one of the request is one line; nothing is half done."""

from __future__ import annotations

import gzip
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import broadline
from broadline.errors import ModelError
from broadline.flags import UNCLASSIFIED, Flag
from conftest import Answer
from files import gzipped, hdu_starts, loglam, observed, quasar, room_for, set_card, write_spec

Command = Callable[..., Answer]
BAD = "spec-4055-55359-0003.fits"
RESULTS = ("IS_QSO", "Z", "BEST_LINE", "N_LINES", "IS_BAL", "NEEDS_VI", "C_LYA", "Z_LYA", "C_BAL_CIV")


@pytest.fixture
def survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of four good spectra, with room for a bad one in the middle; the working folder is above."""
    folder = tmp_path / "in"
    folder.mkdir()
    for fiber in (1, 2, 4, 5):
        flux, ivar = observed(quasar(0.6 * fiber), seed=fiber)
        write_spec(folder / f"spec-4055-55359-{fiber:04d}.fits", flux, ivar, fiber=fiber)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROADLINE_MODELS", str(tmp_path / "models"))
    return folder


@pytest.fixture
def judge(survey: Path, tiny_model: Path, command: Command) -> Callable[..., dict[str, Any]]:
    """Classify with the bad file among the good; see that the good are as without it; return its row."""

    def run(code: int, flags: Flag, *, classified: bool = False, among: Path = survey) -> dict[str, Any]:
        bad = next((path for path in among.iterdir() if "-0003." in path.name), among / BAD)
        answer = command("classify", "in", "-o", "out.parquet", "--model", tiny_model, "--workers", 1)
        assert answer.code == code, answer.err
        assert "Traceback" not in answer.err
        if flags & Flag.UNREADABLE:
            assert f"in/{bad.name}: " in answer.err
            assert len(answer.err.splitlines()) == 1
        rows = pq.read_table("out.parquet")
        names = [Path(source).name for source in rows["SOURCE"].to_pylist()]
        assert names == sorted(path.name for path in among.iterdir())  # one row each, in order
        at = names.index(bad.name)
        aside = survey.parent / "aside"
        bad.rename(aside)
        assert command("classify", "in", "-o", "good.parquet", "--model", tiny_model).code == 0
        aside.rename(bad)
        good = pa.concat_tables([rows.slice(0, at), rows.slice(at + 1)])
        assert good.equals(pq.read_table("good.parquet").select(good.column_names))
        (row,) = rows.slice(at, 1).to_pylist()
        assert Flag(row["FLAGS"]) & flags == flags, Flag(row["FLAGS"])
        assert bool(row["FLAGS"] & UNCLASSIFIED) == (not classified)
        if not classified:
            assert {name: row[name] for name in RESULTS} == dict.fromkeys(RESULTS)
        else:
            assert None not in [row[name] for name in RESULTS]
        return row

    return run


Judge = Callable[..., dict[str, Any]]


# ---- files that cannot be read


def test_missing_path(survey: Path, tiny_model: Path, command: Command) -> None:
    answer = command("classify", "in", "no/such.fits", "-o", "out.parquet", "--model", tiny_model)
    assert answer == (2, "", "broadline: no such file or folder: no/such.fits\n")
    assert not Path("out.parquet").exists()


def test_file_that_vanishes_between_listing_and_reading(survey: Path, judge: Judge) -> None:
    (survey / BAD).symlink_to("nowhere")
    judge(1, Flag.UNREADABLE)


def test_empty_folder(survey: Path, tiny_model: Path, command: Command) -> None:
    Path("empty").mkdir()
    answer = command("classify", "in", "empty", "-o", "out.parquet", "--model", tiny_model)
    assert answer.code == 2
    assert answer.err == "broadline: folder empty holds no file that could be a spectrum (.fits, .csv, ...)\n"


def test_folder_named_like_a_file(survey: Path, tiny_model: Path, command: Command) -> None:
    (survey / BAD).mkdir()
    answer = command("classify", survey / BAD, "-o", "out.parquet", "--model", tiny_model)
    assert answer.code == 2 and "holds no file" in answer.err
    answer = command("classify", "in", "-o", "out.parquet", "--model", tiny_model)
    assert answer.code == 0 and "4 spectra" in answer.out


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 10000,
        b"hello\n",
        b"SIMPLE  = T",
        b"\x1f\x8b",
        b"\x1f\x8b\x08" + b"x" * 99,
        os.urandom(9999),
    ],
    ids=["empty", "zeros", "text", "a line of FITS", "gzip magic", "broken gzip", "noise"],
)
def test_not_fits(content: bytes, survey: Path, judge: Judge) -> None:
    (survey / BAD).write_bytes(content)
    judge(1, Flag.UNREADABLE | Flag.NO_IDENTITY)


def test_not_fits_and_of_no_known_name(survey: Path, tiny_model: Path, command: Command) -> None:
    Path("thesis.doc").write_text("Chapter 1")
    answer = command(
        "classify", "thesis.doc", "in", "-o", "out.parquet", "--model", tiny_model, "--workers", 1
    )
    assert answer.code == 1
    assert "thesis.doc: it is no file of spectra that broadline knows" in answer.err
    assert pq.read_table("out.parquet")["FLAGS"].to_pylist()[0] & Flag.UNREADABLE


CUTS = {
    "first header": lambda starts: 1000,
    "after the first header": lambda starts: starts[1][0],
    "header of HDU 1": lambda starts: starts[1][0] + 400,
    "before the data of HDU 1": lambda starts: starts[1][1],
    "data of HDU 1": lambda starts: (starts[1][1] + starts[2][0]) // 2,
    "last pixel of HDU 1": lambda starts: starts[1][1] + 32 * 4600 - 1,
    "header of HDU 2": lambda starts: starts[2][0] + 400,
    "before the data of HDU 2": lambda starts: starts[2][1],
    "data of HDU 2": lambda starts: starts[2][1] + 20,
}


@pytest.mark.parametrize("place", CUTS.values(), ids=CUTS.keys())
def test_truncated_fits(place: Callable[[list[tuple[int, int]]], int], survey: Path, judge: Judge) -> None:
    path = write_spec(survey / BAD, fiber=3)
    os.truncate(path, place(hdu_starts(path)))
    judge(1, Flag.UNREADABLE)


def test_fits_truncated_after_all_that_is_needed_is_read(survey: Path, judge: Judge) -> None:
    path = write_spec(survey / BAD, fiber=3)
    os.truncate(path, hdu_starts(path)[3][1] + 5)
    assert judge(0, Flag(0), classified=True)["OBJID"] == "4055-55359-0003"


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_gzip(fraction: float, survey: Path, judge: Judge) -> None:
    path = gzipped(write_spec(survey / BAD, fiber=3))
    os.truncate(path, int(path.stat().st_size * fraction))
    judge(1, Flag.UNREADABLE)


@pytest.mark.parametrize("n_rows", [10**6, 2 * 10**9, 4700, 4000, 2])
def test_header_that_lies_about_the_size(n_rows: int, survey: Path, judge: Judge) -> None:
    """A header that promises far too much, or less than there is."""
    set_card(write_spec(survey / BAD, fiber=3), 1, "NAXIS2", n_rows)
    judge(1, Flag.UNREADABLE)


@pytest.mark.parametrize("n_rows", [4601, -1])
def test_header_that_takes_other_bytes_for_pixels(n_rows: int, survey: Path, judge: Judge) -> None:
    set_card(write_spec(survey / BAD, fiber=3), 1, "NAXIS2", n_rows)
    judge(0, Flag.BAD_WAVELENGTH)


@pytest.mark.parametrize(
    ("keyword", "value"), [("NAXIS1", 48), ("TFIELDS", 3), ("TFIELDS", 99), ("NAXIS2", 0)]
)
def test_header_that_lies_about_the_columns(keyword: str, value: int, survey: Path, judge: Judge) -> None:
    """No nonsense: flagged, or the very numbers where the header's other cards leave no doubt of them."""
    path = write_spec(survey / BAD, fiber=3)
    (before,) = broadline.read(path)
    set_card(path, 1, keyword, value)
    (after,) = broadline.read(path)
    same = np.array_equal(after.flux[after.ivar > 0], before.flux[before.ivar > 0])
    assert same or after.flags[0] & (Flag.UNREADABLE | Flag.NO_DATA | Flag.BAD_WAVELENGTH)


WRONG = {
    "no table": [fits.ImageHDU(np.ones((3, 3)))],
    "no HDU": [],
    "other columns": [fits.BinTableHDU(np.rec.fromarrays([[1.0], [2.0]], names="ra,dec"))],
    "only wavelength and flux": [
        fits.BinTableHDU(np.rec.fromarrays([loglam(), loglam()], names="loglam,flux"))
    ],
}


@pytest.mark.parametrize("hdus", WRONG.values(), ids=WRONG.keys())
def test_wrong_hdu(hdus: list[Any], survey: Path, judge: Judge) -> None:
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(survey / BAD)
    judge(1, Flag.UNREADABLE)


def test_wrong_archive_forced(survey: Path, tiny_model: Path, command: Command) -> None:
    for archive in ("desi", "lamost", "sdss-plate", "sdss-dr7", "parsed"):
        options = ("--model", tiny_model, "--archive", archive, "--workers", 1)
        answer = command("classify", "in", "-o", "out.parquet", *options)
        assert answer.code == 1, archive
        assert "4 spectra" in answer.out and "4 unreadable" in answer.out
        assert len(answer.err.splitlines()) == 4 and "Traceback" not in answer.err


def test_unreadable_permissions(survey: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_spec(survey / BAD, fiber=3)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read anything
        original = Path.open

        def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
            if self.name == BAD:
                raise PermissionError(13, "Permission denied", str(self))
            return original(self, *arguments, **options)

        monkeypatch.setattr(Path, "open", refuse)
    judge(1, Flag.UNREADABLE)


def test_folder_that_may_not_be_listed(
    survey: Path, tiny_model: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its spectra would be missing without a word."""
    (survey / "secret").mkdir()
    original = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", refuse)
    answer = command("classify", "in", "-o", "out.parquet", "--model", tiny_model)
    assert answer.code == 2
    assert "cannot list the folder in/secret: Permission denied" in answer.err


def test_duplicates(survey: Path, tiny_model: Path, command: Command) -> None:
    names = ["in", "in/spec-4055-55359-0001.fits", "in/*2.fits", survey]
    answer = command("classify", *names, "-o", "out.parquet", "--model", tiny_model, "--workers", 1)
    assert answer.code == 0
    assert "4 spectra" in answer.out
    assert "6 files were named more than once; each is read once" in answer.err


def test_two_copies_of_a_spectrum_are_two_rows(survey: Path, tiny_model: Path, command: Command) -> None:
    (survey / "copy").mkdir()
    name = "spec-4055-55359-0001.fits"
    (survey / "copy" / name).write_bytes((survey / name).read_bytes())
    assert command("classify", "in", "-o", "out.parquet", "--model", tiny_model).code == 0
    rows = pq.read_table("out.parquet").to_pylist()
    assert len(rows) == 5
    one, other = (row for row in rows if row["SOURCE"].endswith(name))
    assert one.pop("SOURCE") != other.pop("SOURCE")
    assert one == other


# ---- spectra with faults


def spectrum(**changes: Callable[[np.ndarray], Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flux, ivar and loglam of a good spectrum, some changed."""
    flux, ivar = observed(quasar(1.8), seed=3)
    arrays = {"flux": flux, "ivar": ivar, "x": loglam()}
    for name, change in changes.items():
        arrays[name] = np.asarray(change(arrays[name].copy()), dtype=np.float32)
    return arrays["flux"], arrays["ivar"], arrays["x"]


def put(values: np.ndarray, where: Any, value: float) -> np.ndarray:
    values[where] = value
    return values


FAULTS: dict[str, tuple[dict[str, Any], Flag, bool]] = {
    "NaN flux": ({"flux": lambda f: put(f, [5, 2000], np.nan)}, Flag.NON_FINITE, True),
    "infinite flux": ({"flux": lambda f: put(f, slice(1000, 1100), -np.inf)}, Flag.NON_FINITE, True),
    "nothing but NaN": ({"flux": lambda f: f * np.nan}, Flag.NON_FINITE | Flag.NO_DATA, False),
    "NaN ivar": ({"ivar": lambda i: put(i, 7, np.nan)}, Flag.NON_FINITE, True),
    "infinite ivar": ({"ivar": lambda i: put(i, 7, np.inf)}, Flag.NON_FINITE, True),
    "one negative ivar": ({"ivar": lambda i: put(i, 7, -1)}, Flag.NEGATIVE_IVAR, True),
    "negative ivar": ({"ivar": lambda i: -i}, Flag.NEGATIVE_IVAR | Flag.NO_DATA, False),
    "zero ivar": ({"ivar": lambda i: 0 * i}, Flag.NO_DATA, False),
    "NaN flux where masked": (
        {"flux": lambda f: put(f, slice(9), np.nan), "ivar": lambda i: put(i, slice(9), 0)},
        Flag(0),
        True,
    ),
    "falling wavelength": ({"x": lambda x: x[::-1]}, Flag.BAD_WAVELENGTH, False),
    "wavelength that turns": ({"x": lambda x: put(x, 2000, x[1990])}, Flag.BAD_WAVELENGTH, False),
    "wavelength that stands still": ({"x": lambda x: put(x, 2000, x[1999])}, Flag.BAD_WAVELENGTH, False),
    "NaN wavelength": ({"x": lambda x: put(x, 0, np.nan)}, Flag.BAD_WAVELENGTH, False),
    "infinite wavelength": ({"x": lambda x: put(x, -1, np.inf)}, Flag.BAD_WAVELENGTH, False),
    "wavelength zero": ({"x": lambda x: 0 * x}, Flag.BAD_WAVELENGTH, False),
    "redward of the model's grid": ({"x": lambda x: loglam(first=41000)}, Flag.NO_COVERAGE, False),
    "blueward of the model's grid": ({"x": lambda x: loglam(first=30000)}, Flag.NO_COVERAGE, False),
    "good pixels outside the grid only": (
        {"ivar": lambda i: put(i, slice(20, None), 0)},
        Flag.NO_COVERAGE,
        False,
    ),
    "constant flux": ({"flux": lambda f: 0 * f + 3.3}, Flag.CONSTANT_FLUX, False),
    "zero flux": ({"flux": lambda f: 0 * f}, Flag.CONSTANT_FLUX | Flag.LOW_SN, False),
    "one good pixel": (
        {"ivar": lambda i: put(0 * i, 2000, 1)},
        Flag.FEW_PIXELS | Flag.CONSTANT_FLUX,
        False,
    ),
    "few good pixels": ({"ivar": lambda i: put(0 * i, slice(2000, 2100), 1)}, Flag.FEW_PIXELS, True),
    "flux that overflows": ({"flux": lambda f: np.clip(f * 1e37, -3e38, 3e38)}, Flag(0), False),
    "noise alone": ({"flux": lambda f: np.sin(np.arange(4600) ** 2) * 0.01}, Flag.LOW_SN, True),
}


@pytest.mark.parametrize(("changes", "flags", "classified"), FAULTS.values(), ids=FAULTS.keys())
def test_fault_of_a_spectrum(
    changes: dict[str, Any], flags: Flag, classified: bool, survey: Path, judge: Judge
) -> None:
    flux, ivar, x = spectrum(**changes)
    write_spec(survey / BAD, flux, ivar, x=x, fiber=3)
    row = judge(0, flags, classified=classified)
    if not flags & Flag.BAD_WAVELENGTH:
        assert row["OBJID"] == "4055-55359-0003"
    if flags == Flag(0):
        assert not row["FLAGS"] & (Flag.NON_FINITE | Flag.NEGATIVE_IVAR)


@pytest.mark.parametrize("n_pixels", [0, 1])
def test_zero_length_arrays(n_pixels: int, survey: Path, judge: Judge) -> None:
    flux, ivar, x = spectrum()
    write_spec(survey / BAD, flux[:n_pixels], ivar[:n_pixels], x=x[:n_pixels], fiber=3)
    judge(0, Flag.NO_DATA)


def test_mended_pixels_are_as_good_as_masked(survey: Path, judge: Judge) -> None:
    flux, ivar, x = spectrum(flux=lambda f: put(f, [50, 3000], np.nan), ivar=lambda i: put(i, 70, -3))
    write_spec(survey / BAD, flux, ivar, x=x, fiber=3)
    mended = judge(0, Flag.NON_FINITE | Flag.NEGATIVE_IVAR, classified=True)
    flux, ivar, x = spectrum(ivar=lambda i: put(i, [50, 70, 3000], 0))
    write_spec(survey / BAD, flux, ivar, x=x, fiber=3)
    masked = judge(0, Flag(0), classified=True)
    assert mended.pop("FLAGS") == masked.pop("FLAGS") | Flag.NON_FINITE | Flag.NEGATIVE_IVAR
    assert mended == masked


# ---- any damage at all

SMALL = {"flux": quasar(2.0)[:300], "ivar": np.ones(300, np.float32), "fiber": 3}
fuzz = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spec(tmp_path_factory.mktemp("intact") / BAD, **SMALL)


def content_of(intact: Path, name: str) -> bytes:
    content = intact.read_bytes()
    return gzip.compress(content, 1, mtime=0) if name.endswith(".gz") else content


def assert_one_row(path: Path, model: broadline.Model) -> None:
    batches = list(broadline.read(path))
    rows = model.classify(batches)
    assert rows["SOURCE"].tolist() == [str(path)]
    unreadable = bool(rows["FLAGS"][0] & Flag.UNREADABLE)
    assert unreadable <= bool([note for batch in batches for note in batch.notes])
    assert rows["Z"].mask[0] == bool(rows["FLAGS"][0] & UNCLASSIFIED)
    assert rows["Z"].mask[0] or np.isfinite(rows["Z"][0])


@fuzz
@given(
    damage=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=30
    ),
    header=st.booleans(),
    name=st.sampled_from([BAD, "mine.fits", BAD + ".gz"]),
)
def test_corrupt_bytes_give_one_row(
    damage: list[tuple[float, int]], header: bool, name: str, intact: Path, tmp_path: Path, tiny_model: Path
) -> None:
    content = bytearray(content_of(intact, name))
    end = min(5760, len(content)) if header else len(content)
    for place, value in damage:
        content[int(place * end)] = value
    path = tmp_path / name
    path.write_bytes(content)
    assert_one_row(path, broadline.load_model(tiny_model))


@fuzz
@given(
    fraction=st.floats(0, 1),
    tail=st.binary(max_size=100),
    name=st.sampled_from([BAD, "mine.fits", BAD + ".gz"]),
)
def test_truncation_anywhere_gives_one_row(
    fraction: float, tail: bytes, name: str, intact: Path, tmp_path: Path, tiny_model: Path
) -> None:
    content = content_of(intact, name)
    path = tmp_path / name
    path.write_bytes(content[: int(fraction * len(content))] + tail)
    assert_one_row(path, broadline.load_model(tiny_model))


# ---- the output


@pytest.mark.parametrize("suffix", ["parquet", "fits", "fits.gz", "ecsv", "csv"])
def test_full_disk(suffix: str, survey: Path, tiny_model: Path, command: Command) -> None:
    output = Path(f"out.{suffix}")
    output.write_text("the catalogue of last year")
    with room_for(500):
        answer = command("classify", "in", "-o", output, "--model", tiny_model, "--workers", 1)
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert str(output) in line and "disk is full" in line
    assert output.read_text() == "the catalogue of last year"
    assert sorted(path.name for path in survey.parent.iterdir()) == ["in", output.name]


def test_full_disk_for_a_figure(survey: Path, tiny_model: Path, command: Command) -> None:
    with room_for(500):
        answer = command("show", "in/spec-4055-55359-0001.fits", "-o", "a.png", "--model", tiny_model)
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert "cannot write the figure a.png" in line


def test_full_disk_for_a_model(survey: Path, tiny_model: Path, command: Command) -> None:
    with room_for(500):
        answer = command("models", "import", tiny_model, "--name", "mine")
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert "cannot write the model" in line and "mine.onnx" in line
    assert not list((survey.parent / "models").iterdir())


OUTPUTS = {
    "folder that is not there": ("no/out.parquet", r"no/out.parquet: the folder no does not exist"),
    "folder that is a file": ("afile/out.parquet", r"afile/out.parquet: afile is not a folder"),
    "folder itself": ("out.parquet", r"out.parquet: is a folder"),
}


@pytest.mark.parametrize(("output", "message"), OUTPUTS.values(), ids=OUTPUTS.keys())
def test_unwritable_output(
    output: str, message: str, survey: Path, tiny_model: Path, command: Command
) -> None:
    Path("afile").touch()
    if output == "out.parquet":
        Path(output).mkdir()
    answer = command("classify", "in", "-o", output, "--model", tiny_model)
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert line.startswith(f"broadline: {message}")


def test_output_folder_that_may_not_be_written_to(
    survey: Path, tiny_model: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.open

    def refuse(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if self.parent.name == "archive" and set(mode) & set("wxa"):
            raise PermissionError(13, "Permission denied", str(self))
        return original(self, mode, *arguments, **options)

    Path("archive").mkdir()
    monkeypatch.setattr(Path, "open", refuse)
    answer = command("classify", "in", "-o", "archive/out.parquet", "--model", tiny_model)
    assert answer.code == 2
    assert "archive/out.parquet: the folder" in answer.err and "may not be written to" in answer.err


def interrupted(survey: Path, tiny_model: Path, how: signal.Signals, workers: int, group: bool) -> Answer:
    """Classify a folder with a file that never ends in a process of its own, and stop it half-way."""
    os.mkfifo(survey / "spec-4056-55359-0001.fits")
    out = survey.parent / "out"
    out.mkdir()
    (out / "all.parquet").write_text("the catalogue of last year")
    arguments = ("classify", "in", "-o", "out/all.parquet", "--model", tiny_model, "--workers", workers)
    code = (
        "import sys; from broadline import cli, pipeline; pipeline._UNIT_FILES = 1\n"
        "if __name__ == '__main__':\n    cli.main()"
    )
    script = survey.parent / "broadline.py"
    script.with_name("run.py").write_text(code)
    process = subprocess.Popen(
        [sys.executable, script.with_name("run.py"), *map(str, arguments)],
        cwd=survey.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not list(out.glob(".*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.7)  # well into the work, or into the start of the workers
        (os.killpg if group else os.kill)(process.pid, how)
        said = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return Answer(process.returncode, *said)


@pytest.mark.parametrize(("workers", "group"), [(1, True), (2, True), (2, False)])
def test_interrupted_run_leaves_nothing(workers: int, group: bool, survey: Path, tiny_model: Path) -> None:
    """Control-C reaches the workers too; a signal from elsewhere does not."""
    answer = interrupted(survey, tiny_model, signal.SIGINT, workers, group)
    assert answer.code == 130
    assert "broadline: interrupted" in answer.err
    assert "Traceback" not in answer.err
    (only,) = (survey.parent / "out").iterdir()
    assert only.read_text() == "the catalogue of last year"


def test_killed_run_leaves_no_half_catalogue(survey: Path, tiny_model: Path) -> None:
    answer = interrupted(survey, tiny_model, signal.SIGKILL, 1, True)
    assert answer.code == -signal.SIGKILL
    assert (survey.parent / "out" / "all.parquet").read_text() == "the catalogue of last year"


# ---- models


def foreign_onnx() -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 443]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def with_broken_card(tiny: bytes) -> bytes:
    model = onnx.load_model_from_string(tiny)
    for entry in model.metadata_props:
        if entry.key == "broadline":
            entry.value = "{}"
    return bytes(model.SerializeToString())


def trap(path: Path) -> Any:
    """An object whose unpickling would write a file."""

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (path,)

    return Trap()


def zipped(path: Path, name: str, content: bytes) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path.read_bytes()


def hdf5(path: Path, **attributes: str) -> bytes:
    with h5py.File(path, "w") as file:
        file["weights"] = np.ones(3)
        file.attrs.update(attributes)
        file.create_group("model_weights")
    return path.read_bytes()


def bad_models(tiny: bytes, folder: Path, sprung: Path) -> dict[str, tuple[str, bytes, str]]:
    """Name -> the file's name, its content, and what is to be said of it."""
    bait = trap(sprung)
    return {
        "empty": ("m.onnx", b"", ""),
        "text": ("m.onnx", b"my best model\n" * 50, "not an ONNX model"),
        "half": ("m.onnx", tiny[: len(tiny) // 2], ""),
        "last byte lost": ("m.onnx", tiny[:-1], ""),
        "longer": ("m.onnx", tiny + b"\0", ""),
        "another program's": ("m.onnx", foreign_onnx(), "another program"),
        "broken card": ("m.onnx", with_broken_card(tiny), "damaged|card"),
        "pickle": ("m.pkl", pickle.dumps(bait), "pickle"),
        "old pickle": ("m.pt", pickle.dumps(bait, protocol=2), "pickle"),
        "ancient pickle": ("m.onnx", pickle.dumps(bait, protocol=0), "not an ONNX model"),
        "torch zip": ("m.onnx", zipped(folder / "z", "archive/data.pkl", pickle.dumps(bait)), "zip archive"),
        "keras zip": ("m.keras", zipped(folder / "z", "config.json", b"{}"), "zip archive"),
        "FITS": ("m.onnx", write_spec(folder / "s.fits", **SMALL).read_bytes(), "FITS"),
        "HDF5 of something": ("m.h5", hdf5(folder / "h"), "model_config"),
        "HDF5 with an empty Keras model": ("m.h5", hdf5(folder / "h", model_config="{}"), "Keras"),
        "HDF5 that is no JSON": ("m.h5", hdf5(folder / "h", model_config="x"), "Keras"),
        "half an HDF5": ("m.h5", hdf5(folder / "h")[:700], "Keras"),
    }


KINDS = (
    "empty",
    "text",
    "half",
    "last byte lost",
    "longer",
    "another program's",
    "broken card",
    "pickle",
    "old pickle",
    "ancient pickle",
    "torch zip",
    "keras zip",
    "FITS",
    "HDF5 of something",
    "HDF5 with an empty Keras model",
    "HDF5 that is no JSON",
    "half an HDF5",
)


@pytest.mark.parametrize("kind", KINDS)
def test_corrupt_or_foreign_model(kind: str, survey: Path, tiny_model: Path, command: Command) -> None:
    sprung = survey.parent / "sprung"
    name, content, message = bad_models(tiny_model.read_bytes(), survey.parent, sprung)[kind]
    Path(name).write_bytes(content)
    for arguments in (
        ("classify", "in", "-o", "out.parquet", "--model", name),
        ("show", "in/spec-4055-55359-0001.fits", "-o", "out.png", "--model", name),
        ("models", "import", name, "--name", "mine"),
        ("models", "show", name),
    ):
        answer = command(*arguments)
        assert answer.code == 2
        (line,) = answer.err.splitlines()
        assert line.startswith(f"broadline: {name}: ")
        assert any(part in line for part in message.split("|")), line
    assert not sprung.exists()
    assert not list(survey.parent.glob("out.*")) and not (survey.parent / "models").exists()


def test_a_model_with_one_bit_flipped_is_refused(tiny_model: Path) -> None:
    content = tiny_model.read_bytes()
    random = np.random.default_rng(5)
    for place in random.integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(random.integers(8))
        with pytest.raises(ModelError):
            broadline.Model(bytes(damaged))


def test_published_weights_cut_short_are_refused(golden: Path, tmp_path: Path) -> None:
    content = (golden / "test_weights.h5").read_bytes()
    path = tmp_path / "weights.h5"
    for fraction in (0.01, 0.3, 0.9):
        path.write_bytes(content[: int(fraction * len(content))])
        with pytest.raises(ModelError, match=r"weights\.h5: "):
            broadline.load_model(path)


def test_unreadable_model(
    survey: Path, tiny_model: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    answer = command("classify", "in", "-o", "out.parquet", "--model", tiny_model)
    assert answer.code == 2
    assert answer.err == f"broadline: {tiny_model}: Permission denied\n"
