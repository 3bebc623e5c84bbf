"""`broadline simulate` and bad input: one clear line and exit code 2; what was done stays done."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broadline.errors import UsageError
from broadline.simulation import survey
from broadline.simulation.field import observe_field
from broadline.simulation.pointing import Pointing
from broadline.simulation.recipe import CLASSES, RECIPES, read_recipe
from broadline.simulation.survey import Request, simulate
from broadline.simulation.templates import SETS
from conftest import Answer
from files import room_for

Command = Callable[..., Answer]
FULL = 6
#: A survey of three fields; it needs a quasar, or some catalogues are empty.
USUAL = ("--archive", "boss", "--n", 15, "--seed", 3, "--workers", 1)


@pytest.fixture(autouse=True)
def small_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {name: layout._replace(size=FULL) for name, layout in survey._LAYOUTS.items()}
    monkeypatch.setattr(survey, "_LAYOUTS", small)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    simulate(Request.of("boss", 15, 3), folder, 1)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in found if path.name.startswith(".") or path.suffix == ".part"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def refused(answer: Answer, pattern: str) -> None:
    """A command ended with code 2 and one line that matches."""
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert line.startswith("broadline: ") and re.search(pattern, line), line


# ---- the command


def test_the_command_says_what_it_wrote_and_shows_no_bar_where_there_is_no_terminal(
    command: Command, whole: dict[str, bytes]
) -> None:
    answer = command("simulate", "out", *USUAL)
    files = "Superset_DR12Q.fits, specObj-dr14.fits, DR14Q_v4_4.fits, truth.parquet"
    assert answer == (0, f"out: 15 spectra, {files}\n", "")
    assert contents(Path("out")) == whole


def test_help_names_every_option(command: Command) -> None:
    answer = command("simulate", "--help")
    assert answer.code == 0
    for option in ("archive", "n", "seed", "recipe", "templates", "files", "workers"):
        assert re.search(rf"--{option}\b", answer.out), option
    assert "simulate" in command("--help").out


def test_a_finished_survey_is_not_written_again(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    first = command("simulate", "out", *USUAL)
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    monkeypatch.setattr(survey, "observe_field", None)
    assert command("simulate", "out", *USUAL) == first
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before


def in_field(number: int, error: BaseException) -> Callable[..., list[Pointing]]:
    """What `observe_field` is when something happens in the field of that number."""

    def observe(archive: str, field: int, *rest: Any) -> list[Pointing]:
        if field == number:
            raise error
        return observe_field(archive, field, *rest)

    return observe


def test_an_interrupted_command_says_so_and_goes_on(
    command: Command, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "observe_field", in_field(1, KeyboardInterrupt()))
    answer = command("simulate", "out", *USUAL)
    assert answer == (130, "", "broadline: interrupted; the same command goes on in out\n")
    monkeypatch.setattr(survey, "observe_field", in_field(0, AssertionError("field 0 is done")))
    assert command("simulate", "out", *USUAL).code == 0
    assert contents(Path("out")) == whole


OPTIONS = {
    "unknown archive": (("--archive", "sloan"), r"no archive 'sloan' to simulate; there are boss, sdss"),
    "unknown archive with a recipe": (("--archive", "sloan", "--recipe", "r.toml"), r"no archive 'sloan'"),
    "unknown kind of files": (("--files", "cubes"), r"boss has no files of kind 'cubes'; it has plates, sp"),
    "files that DESI has not": (
        ("--archive", "desi", "--files", "spectra"),
        r"desi has no .*; it has plates",
    ),
    "no spectra": (("--n", 0), r"n must be at least 1 .* not 0 and 3"),
    "fewer than none": (("--n", -5), r"n must be at least 1 .* not -5"),
    "negative seed": (("--seed", -1), r"seed at least 0, not 15 and -1"),
    "templates that are not there": (("--templates", "nowhere"), r"no templates folder nowhere"),
    "templates that are a file": (("--templates", "r.toml"), r"no templates folder r\.toml"),
    "recipe that is not there": (("--recipe", "no.toml"), r"cannot read the recipe no\.toml: .*No such file"),
    "recipe that is a folder": (("--recipe", "."), r"cannot read the recipe \."),
}


@pytest.mark.parametrize(("options", "message"), OPTIONS.values(), ids=OPTIONS.keys())
def test_an_impossible_option_is_named(options: tuple[Any, ...], message: str, command: Command) -> None:
    Path("r.toml").write_text("sky = 0.1")
    refused(command("simulate", "out", *USUAL, *options), message)
    assert not Path("out").exists()


BAD_RECIPES = {
    "shares that do not add up": (
        "mix = {QSO = 0.5, STAR = 0.4}",
        r"shares of mix must add up to 1, not 0\.9",
    ),
    "negative share": ("mix = {QSO = 1.5, STAR = -0.5}", r"mix\.QSO must lie between 0 and 1; it is 1\.5"),
    "share that is no number": ("mix = {QSO = nan}", r"mix\.QSO must lie between 0 and 1; it is nan"),
    "unknown class": ("mix = {QSO = 0.5, QUASAR = 0.5}", r"mix has no QUASAR; it knows QSO, STAR, GALAXY"),
    "unknown star": ("stars = {F = 0.5, Z9 = 0.5}", r"stars has no Z9; it knows O, B"),
    "stars that do not add up": ("stars = {F = 0.5}", r"shares of stars must add up to 1, not 0\.5"),
    "class without redshifts": ("redshifts.STAR = [[0, 1], [1, 1]]", r"redshifts has no STAR; it knows QSO"),
    "redshifts too high": ("redshifts.QSO = [[1, 1], [9, 1]]", r"QSO go from 1 to 9; .* cover 0\.01 to 6\.3"),
    "redshifts too low": ("redshifts.QSO = [[0, 1], [3, 1]]", r"redshifts\.QSO go from 0 to 3"),
    "far galaxies": ("redshifts.GALAXY = [[0, 1], [2, 1]]", r"redshifts\.GALAXY go .* cover 0 to 1\.25 only"),
    "redshifts that fall": ("redshifts.QSO = [[2, 1], [1, 1]]", r"redshifts\.QSO needs .* z rising"),
    "one redshift": ("redshifts.QSO = [[2, 1]]", r"redshifts\.QSO needs two or more"),
    "no redshifts": ("redshifts.QSO = []", r"redshifts\.QSO needs two or more"),
    "redshift that is no number": ("redshifts.QSO = [[nan, 1], [2, 1]]", r"redshifts\.QSO needs .* rising"),
    "density of nothing": ("redshifts.QSO = [[1, 0], [2, 0]]", r"redshifts\.QSO needs"),
    "infinite density": ("redshifts.QSO = [[1, inf], [2, 1]]", r"redshifts\.QSO needs"),
    "redshifts of three": ("redshifts.QSO = [[1, 1, 1], [2, 1, 1]]", r"redshifts\.QSO must be a list of \[z"),
    "redshifts of one": ("redshifts.QSO = [[1], [2]]", r"redshifts\.QSO must be a list of \[z, density\] pa"),
    "redshifts in words": ("redshifts.QSO = 'near'", r"redshifts\.QSO must be a list .* not 'near'"),
    "redshifts as a number": ("redshifts = 3", r"redshifts must be a table, not 3"),
    "mix as a list": ("mix = ['QSO']", r"mix must be a table, not \['QSO'\]"),
    "mix in words": ("mix = {QSO = 'all'}", r"mix\.QSO must be a number, not 'all'"),
    "mix of yes and no": ("mix = {QSO = true}", r"mix\.QSO must be a number, not True"),
    "sky in words": ("sky = 'blue'", r"sky must be a number, not 'blue'"),
    "sky more than all": ("sky = 1.5", r"sky must lie between 0 and 1; it is 1\.5"),
    "sky and dead more than all": ("sky = 0.7\ndead = 0.7", r"sky and dead fibres are 1\.4 of all"),
    "repeats below none": ("repeats = -0.1", r"repeats must lie between 0 and 1; it is -0\.1"),
    "no signal": ("sn_median = 0", r"sn_median must lie between 0\.01 and 1000; it is 0"),
    "endless signal": ("sn_highest = inf", r"sn_highest must lie between 0\.01 and 1000; it is inf"),
    "scatter of everything": ("sn_sigma = 50", r"sn_sigma must lie between 0 and 3; it is 50"),
    "factor of a stranger": ("sn_factor = {QUASAR = 2}", r"sn_factor has no QUASAR"),
    "factor of nothing": ("sn_factor = {QSO = 0}", r"sn_factor\.QSO must lie between 0\.01 and 100"),
    "unknown entry": ("skies = 0.1", r"has no entry skies; the entries are mix, redshifts, stars, sky"),
    "no TOML": ("sky: 0.1", r"cannot read the recipe r\.toml: "),
    "no text": ("# Ü", r"cannot read the recipe r\.toml: "),
}


@pytest.mark.parametrize(("text", "message"), BAD_RECIPES.values(), ids=BAD_RECIPES.keys())
def test_an_impossible_recipe_is_named_with_what_is_wrong(text: str, message: str, command: Command) -> None:
    Path("r.toml").write_bytes(text.encode("latin-1"))
    answer = command("simulate", "out", *USUAL, "--recipe", "r.toml")
    refused(answer, message)
    assert "r.toml" in answer.err
    assert not Path("out").exists()


def test_a_recipe_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("sky = 0.25\nredshifts.QSO = [[2, 1], [3, 2.5]]")
    base = RECIPES["sdss"].to_dict()
    base["redshifts"]["QSO"], base["sky"] = [[2, 1], [3, 2.5]], 0.25
    assert read_recipe(tmp_path / "r.toml", RECIPES["sdss"]).to_dict() == base


# ---- templates


def test_missing_templates_are_named_once_and_the_survey_is_written(command: Command) -> None:
    Path("templates").mkdir()
    answer = command("simulate", "out", *USUAL, "--templates", "templates")
    assert answer.code == 0 and "15 spectra" in answer.out
    lines = answer.err.splitlines()
    assert all(line.startswith("warning: ") for line in lines)
    for name, wanted in SETS.items():
        (line,) = (line for line in lines if f"{name!r}" in line)
        assert f"{wanted.instead} are used instead" in line and wanted.origin in line
    for name in ("redrock-HIZ", "VandenBerk2001", "qsogen emission lines"):
        (line,) = (line for line in lines if name in line)
        assert "used instead" in line
    assert len(lines) == len(set(lines))


def test_templates_of_classes_that_are_not_wanted_are_not_missed(command: Command) -> None:
    Path("other").mkdir()
    Path("r.toml").write_text("mix = {STAR = 1.0}")
    answer = command("simulate", "out", *USUAL, "--templates", "other", "--recipe", "r.toml")
    assert answer.code == 0
    assert "'redrock-stars'" in answer.err
    assert "quasar" not in answer.err and "galax" not in answer.err


def test_a_simulation_leaves_the_callers_warnings_as_they_are(tmp_path: Path) -> None:
    before = list(warnings.filters)
    simulate(Request.of("boss", 3), tmp_path / "out", 1)
    assert warnings.filters == before


# ---- folders that hold something


def test_a_folder_with_other_things_is_left_alone(command: Command) -> None:
    Path("out").mkdir()
    Path("out/thesis.doc").write_text("Chapter 1")
    refused(command("simulate", "out", *USUAL), r"folder out is not empty; give a new folder")
    assert [path.name for path in Path("out").iterdir()] == ["thesis.doc"]


def test_an_output_that_is_a_file_is_left_alone(command: Command) -> None:
    Path("out").write_text("Chapter 1")
    refused(command("simulate", "out", *USUAL), r"out is a file; give a new folder")
    refused(
        command("simulate", "out/deeper", *USUAL), r"cannot write the survey into out/deeper \(.*Not a dir"
    )
    assert Path("out").read_text() == "Chapter 1"


OTHERS = {
    "seed": (("--seed", 4), r"\(not the same: seed\)"),
    "size and archive": (("--n", 16, "--archive", "sdss"), r"\(not the same: archive, n, recipe\."),
    "files": (("--files", "spectra"), r"\(not the same: files\)"),
    "recipe": (("--recipe", "r.toml"), r"\(not the same: recipe\.sky, recipe\.repeats\)"),
    "templates": (("--templates", "."), r"\(not the same: templates\)"),
}


@pytest.mark.parametrize(("options", "message"), OTHERS.values(), ids=OTHERS.keys())
def test_another_simulation_is_left_alone_and_told_from_this_one(
    options: tuple[Any, ...], message: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "observe_field", in_field(0, KeyboardInterrupt()))
    command("simulate", "out", *USUAL)
    Path("r.toml").write_text("sky = 0.3\nrepeats = 0.5")
    before = Path("out/simulation.json").read_bytes()
    refused(command("simulate", "out", *USUAL, *options), "holds another simulation " + message)
    assert Path("out/simulation.json").read_bytes() == before


DAMAGES = {
    "empty": b"",
    "cut": b'{"request": {"seed"',
    "bytes": b"\xff\xfe\x00",
    "list": b"[]",
    "without request": b"{}",
    "request of another kind": b'{"request": 3, "finished": false, "catalogues": []}',
    "without an end": b'{"request": {}}',
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_state_is_named(content: bytes, command: Command) -> None:
    Path("out").mkdir()
    Path("out/simulation.json").write_bytes(content)
    refused(command("simulate", "out", *USUAL), r"out/simulation\.json is damaged; remove the folder")


def test_a_damaged_part_is_named_and_written_again(
    command: Command, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "observe_field", in_field(2, KeyboardInterrupt()))
    command("simulate", "out", *USUAL)
    monkeypatch.setattr(survey, "observe_field", observe_field)
    part = Path("out/.parts/field-0000001.npy")
    part.write_bytes(part.read_bytes()[:100])
    refused(command("simulate", "out", *USUAL), r"out/\.parts/field-0000001\.npy is damaged; remove it")
    part.unlink()
    assert command("simulate", "out", *USUAL).code == 0
    assert contents(Path("out")) == whole


def test_the_state_says_what_was_asked(command: Command) -> None:
    command("simulate", "out", *USUAL)
    state = json.loads(Path("out/simulation.json").read_text())
    assert state["finished"] is True and state["catalogues"][-1] == "truth.parquet"
    asked = {"archive": "boss", "n": 15, "seed": 3, "templates": None, "files": "plates"}
    assert {key: state["request"][key] for key in asked} == asked
    assert set(state["request"]["recipe"]["mix"]) == set(CLASSES)


# ---- disks that are full


@pytest.mark.parametrize("room", [600, 5000, 100_000])
def test_on_a_full_disk_the_same_command_goes_on_later(
    room: int, command: Command, whole: dict[str, bytes]
) -> None:
    with room_for(room):
        answer = command("simulate", "out", *USUAL)
    refused(answer, r"out.*File too large.*the same command goes on")
    assert command("simulate", "out", *USUAL).code == 0
    assert contents(Path("out")) == whole


def test_when_the_disk_is_full_in_the_end_no_field_is_simulated_again(
    command: Command, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(survey.pq.ParquetWriter, "write_table", full)
        refused(command("simulate", "out", *USUAL), r"into out \(.*No space left.*the same command goes on")
    assert not list(Path("out").glob(".*.part"))
    monkeypatch.setattr(survey, "observe_field", None)
    assert command("simulate", "out", *USUAL).code == 0
    assert contents(Path("out")) == whole


def test_the_library_raises_what_the_command_says(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no archive 'sloan'"):
        Request.of("sloan", 1)
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        simulate(Request.of("boss", 1), tmp_path / "out")
