"""What names stand for: files, folders, globs, lists, and one row for every spectrum in their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import broadline
from broadline import pipeline
from broadline.errors import ReadError, UsageError
from broadline.inputs import UNKNOWN, expand
from files import gzipped, loglam, observed, quasar, write_plate, write_results, write_spec, write_spspec


def spec(path: Path, fiber: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_spec(path, fiber=fiber)


def csv(path: Path) -> Path:
    """A table of one spectrum, of no survey."""
    wave = 10.0 ** loglam(400, 36000)
    lines = [f"{w:.3f},{1 + i % 7},2.0" for i, w in enumerate(wave)]
    path.write_text("wave,flux,ivar\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """A folder with spectra on two levels, and with files that are none."""
    for folder, fibers in (("b", (7, 3)), ("a", (5,)), (".", (9,))):
        for fiber in fibers:
            spec(tmp_path / folder / f"spec-4055-55359-{fiber:04d}.fits", fiber)
    (tmp_path / "notes.md").write_text("observed in clouds")
    return tmp_path


def names(inputs: object) -> list[str]:
    return [path.name for path, _ in inputs.files]  # type: ignore[attr-defined]


def test_a_folder_is_searched_recursively_in_the_order_of_names(survey: Path) -> None:
    found = [path.relative_to(survey).as_posix() for path, _ in expand([survey]).files]
    assert found == [
        "spec-4055-55359-0009.fits",
        "a/spec-4055-55359-0005.fits",
        "b/spec-4055-55359-0003.fits",
        "b/spec-4055-55359-0007.fits",
    ]


def test_files_keep_the_order_in_which_they_are_named(survey: Path) -> None:
    order = [survey / "b/spec-4055-55359-0007.fits", survey / "spec-4055-55359-0009.fits", survey / "a"]
    assert names(expand(order)) == [
        "spec-4055-55359-0007.fits",
        "spec-4055-55359-0009.fits",
        "spec-4055-55359-0005.fits",
    ]


def test_globs_are_expanded_in_the_order_of_names(survey: Path) -> None:
    assert names(expand([f"{survey}/b/*.fits"])) == ["spec-4055-55359-0003.fits", "spec-4055-55359-0007.fits"]
    assert len(expand([f"{survey}/**/spec*.fits"]).files) == 4


def test_a_file_whose_name_has_brackets_is_no_glob(tmp_path: Path) -> None:
    path = spec(tmp_path / "spec[1].fits", 1)
    assert expand([path]).files == [(path, "sdss")]


def test_a_list_names_files_folders_and_globs_and_has_comments(survey: Path) -> None:
    wanted = survey / "wanted.txt"
    wanted.write_text(f"# mine\n{survey}/b/*0007.fits\n\n  {survey}/a  \n")
    assert names(expand([f"@{wanted}"])) == ["spec-4055-55359-0007.fits", "spec-4055-55359-0005.fits"]


@pytest.mark.parametrize("content", ["", "# nothing\n\n"], ids=["empty", "comments"])
def test_a_list_that_names_nothing_is_a_usage_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(content)
    with pytest.raises(UsageError, match="names no file"):
        expand([f"@{tmp_path}/list"])


def test_a_list_that_is_not_text_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match=r"cannot read the list .*list"):
        expand([f"@{tmp_path}/list"])
    with pytest.raises(UsageError, match="cannot read the list"):
        expand([f"@{tmp_path}/none"])


def test_a_file_named_twice_is_read_once(survey: Path) -> None:
    inputs = expand([survey, survey / "a", f"{survey}/b/*.fits"])
    assert len(inputs.files) == 4
    assert inputs.repeated == 3


def test_a_relative_and_an_absolute_name_are_the_same_file(
    survey: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(survey)
    inputs = expand(["a", survey / "a", "./a/spec-4055-55359-0005.fits"])
    assert inputs.files == [(Path("a/spec-4055-55359-0005.fits"), "sdss")]
    assert inputs.repeated == 2


def test_names_that_stand_for_nothing_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "poor").mkdir()
    (tmp_path / "poor" / "spZbest-4055-55359.fits").touch()
    for name, message in {
        "no such": "no such file or folder: .*no such",
        "*.fits": r"no file matches .*\*\.fits",
        "empty": "folder .*empty holds no file",
        "poor": "no spectra found in .*poor; 1 files there are of other kinds, such as spZbest",
    }.items():
        with pytest.raises(UsageError, match=message):
            expand([tmp_path / name])
    with pytest.raises(UsageError, match="name files, folders"):
        expand([])


def test_an_unknown_archive_is_a_usage_error_that_lists_the_known_ones(survey: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown archive 'sloan'.*sdss, sdss-plate.*lamost.*desi"):
        expand([survey], "sloan")


def test_results_and_calibration_in_a_folder_are_left_out(tmp_path: Path) -> None:
    flux, ivar = observed(quasar(1.0))
    write_plate(tmp_path / "spPlate-4055-55359.fits", flux[None], ivar[None])
    write_results(tmp_path / "spZbest-4055-55359.fits", ["QSO"], [1.0], [0], [1])
    write_results(tmp_path / "spZall-4055-55359.fits", ["QSO"], [1.0], [0], [1])
    (tmp_path / "redrock-0-100-thru20210505.fits").touch()
    inputs = expand([tmp_path])
    assert names(inputs) == ["spPlate-4055-55359.fits"]
    assert len(inputs.skipped) == 3


def test_a_file_without_spectra_is_left_out_of_a_folder_but_not_when_named(tmp_path: Path) -> None:
    good = spec(tmp_path / "spec-4055-55359-0001.fits", 1)
    table = tmp_path / "targets.csv"
    table.write_text("name,priority\nx,1\n")
    inputs = expand([tmp_path])
    assert inputs.files == [(good, "sdss")] and inputs.skipped == [table]
    inputs = expand([table, good])
    assert [kind for _, kind in inputs.files] == [UNKNOWN, "sdss"]
    assert list(inputs.faults) == [table] and isinstance(inputs.faults[table], ReadError)


def test_forcing_an_archive_reads_every_file_with_it(tmp_path: Path) -> None:
    path = write_spec(tmp_path / "spec-4055-55359-0001.fits", fiber=1)
    assert expand([path]).files == [(path, "sdss")]
    assert expand([path], "lamost").files == [(path, "lamost")]
    (batch,) = broadline.read(path, archive="table")
    assert batch.ids["ARCHIVE"].tolist() == ["table"]
    assert np.count_nonzero(batch.ivar) == 4600


def test_a_companion_is_read_where_its_archive_is_forced(tmp_path: Path) -> None:
    path = tmp_path / "spZbest-4055-55359.fits"
    flux, ivar = observed(quasar(1.0))
    write_plate(path, flux[None], ivar[None])
    assert expand([tmp_path], "sdss-plate").files == [(path, "sdss-plate")]


def test_every_archive_is_found_and_every_spectrum_is_in_input_order(
    tmp_path: Path, tiny_model: Path
) -> None:
    flux, ivar = observed(quasar(1.0))
    paths = [
        spec(tmp_path / "spec-4055-55359-0002.fits", 2),
        csv(tmp_path / "mine.csv"),
        write_plate(tmp_path / "spPlate-4055-55359.fits", np.stack([flux] * 3), np.stack([ivar] * 3)),
        gzipped(spec(tmp_path / "spec-4055-55359-0001.fits", 1)),
        write_spspec(tmp_path / "spSpec-52235-0750-459.fit", flux[:3850], np.ones(3850)),
    ]
    (tmp_path / "broken.fits").write_bytes(b"SIMPLE  = nothing")
    paths.insert(2, tmp_path / "broken.fits")
    table = broadline.load_model(tiny_model).classify(broadline.read(paths))
    expected = [0, 1, 2, 3, 3, 3, 4, 5]
    assert table["SOURCE"].tolist() == [str(paths[i]) for i in expected]
    kinds = ["sdss", "table", UNKNOWN, *["sdss-plate"] * 3, "sdss", "sdss-dr7"]
    assert table["ARCHIVE"].tolist() == kinds
    assert table["ROW"].tolist()[3:6] == [0, 1, 2]
    # One spectrum gives one row whatever the batch; grouping files of an archive would change the order.
    for batch in (1, 2):
        again = broadline.load_model(tiny_model).classify(broadline.read(paths, batch=batch))
        assert again["SOURCE"].tolist() == table["SOURCE"].tolist()


def test_a_unit_of_work_holds_consecutive_files_of_one_archive(tmp_path: Path) -> None:
    paths = [spec(tmp_path / f"spec-4055-55359-{i:04d}.fits", i) for i in (1, 2)]
    paths.insert(1, csv(tmp_path / "mine.csv"))
    units = pipeline.plan(expand(paths))
    assert [(unit.archive, unit.paths) for unit in units] == [
        ("sdss", (paths[0],)),
        ("table", (paths[1],)),
        ("sdss", (paths[2],)),
    ]
    assert [unit.n_bytes for unit in units] == [path.stat().st_size for path in paths]


def test_a_unit_of_work_is_closed_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [spec(tmp_path / f"spec-4055-55359-{i:04d}.fits", i) for i in range(1, 8)]
    monkeypatch.setattr(pipeline, "_UNIT_FILES", 3)
    assert [len(unit.paths) for unit in pipeline.plan(expand(paths))] == [3, 3, 1]
    monkeypatch.setattr(pipeline, "_UNIT_BYTES", paths[0].stat().st_size + 1)
    units = pipeline.plan(expand(paths))
    assert [len(unit.paths) for unit in units] == [2, 2, 2, 1]
    assert [path for unit in units for path in unit.paths] == paths


def test_the_cameras_of_one_exposure_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b0", "b1", "r0", "r1", "z0", "z1"):
        (tmp_path / f"cframe-{name}-00012345.fits").touch()
    monkeypatch.setattr(pipeline, "_UNIT_BYTES", 0)  # each unit is full at once
    units = pipeline.plan(expand([tmp_path]))
    frames = [[path.name[7:9] for path in unit.paths] for unit in units]
    assert frames == [["b0", "r0", "z0"], ["b1", "r1", "z1"]]


def test_linked_folders_are_followed_once_even_when_they_lead_back(tmp_path: Path) -> None:
    elsewhere, tree = tmp_path / "elsewhere", tmp_path / "tree"
    for folder in (elsewhere, tree):
        folder.mkdir()
    write_spec(elsewhere / "spec-0001-60000-0001.fits", fiber=1)
    (tree / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(tree)
    assert [path.name for path, _ in expand([tree]).files] == ["spec-0001-60000-0001.fits"]


def test_a_file_called_fits_in_a_folder_that_is_none_is_lost_to_no_one(tmp_path: Path) -> None:
    write_spec(tmp_path / "spec-0001-60000-0001.fits", fiber=1)
    (tmp_path / "copy-of-something.fits").write_text("Not found")
    (tmp_path / "empty.fits").touch()
    inputs = expand([tmp_path])
    assert len(inputs.files) == 3
    assert sorted(path.name for path in inputs.faults) == ["copy-of-something.fits", "empty.fits"]
    assert not inputs.skipped
