"""What the command line promises: exit codes, one line for each fault, the files it writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table

from broadline import __version__
from conftest import Answer
from files import observed, quasar, write_plate, write_spec

Command = Callable[..., Answer]
SCRIPT = Path(sys.executable).with_name("broadline")


def script(*arguments: object, folder: Path) -> Answer:
    """Run the installed script in a process of its own."""
    done = subprocess.run(
        [SCRIPT, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "BROADLINE_MODELS": str(folder / "models")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the working one, with a plate of six quasars in it and no model that has a name."""
    both = [observed(quasar(0.3 + 0.5 * i), seed=i) for i in range(6)]
    plate = tmp_path / "in" / "spPlate-4055-55359.fits"
    plate.parent.mkdir()
    write_plate(plate, np.stack([b[0] for b in both]), np.stack([b[1] for b in both]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROADLINE_MODELS", str(tmp_path / "models"))
    return tmp_path


# ---- exit codes and streams, in a process of its own


def test_exit_code_0_and_one_line_when_all_spectra_were_read(survey: Path, tiny_model: Path) -> None:
    answer = script("classify", "in", "-o", "out.parquet", "--model", tiny_model, folder=survey)
    assert answer.code == 0
    assert answer.err == ""  # no progress, no control characters, nothing
    pattern = r"out\.parquet: 6 spectra, \d quasars \(\d BAL\), \d for inspection, 0 unreadable\n"
    assert re.fullmatch(pattern, answer.out)
    assert len(pq.read_table(survey / "out.parquet")) == 6


def test_exit_code_1_and_a_summary_when_a_file_is_unreadable(survey: Path, tiny_model: Path) -> None:
    (survey / "in" / "spec-4055-55359-0007.fits").write_text("not FITS")
    answer = script(
        "classify", "in", "-o", "out.parquet", "--model", tiny_model, "--workers", 2, folder=survey
    )
    assert answer.code == 1
    assert "7 spectra" in answer.out and "1 unreadable" in answer.out
    (line,) = answer.err.splitlines()
    assert "in/spec-4055-55359-0007.fits: it is not a FITS file" in line
    assert len(pq.read_table(survey / "out.parquet")) == 7


def test_exit_code_2_and_one_line_when_a_file_is_missing(survey: Path, tiny_model: Path) -> None:
    answer = script("classify", "in/x.fits", "-o", "out.csv", "--model", tiny_model, folder=survey)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "broadline: no such file or folder: in/x.fits\n"
    assert not (survey / "out.csv").exists()


def test_asking_for_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, broadline.cli\nsys.argv = ['broadline', 'classify', '--help']\n"
        "try:\n    broadline.cli.main()\nexcept SystemExit:\n    pass\n"
        "print(sorted(set(sys.modules) & {'onnxruntime', 'astropy', 'pyarrow', 'matplotlib', 'scipy'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_torch_is_not_needed_to_classify(survey: Path, tiny_model: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\nimport broadline.cli\n"
        f"sys.argv = ['broadline', 'classify', 'in', '-o', 'out.csv', '--model', {str(tiny_model)!r}]\n"
        "broadline.cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=survey, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---- the rest in this process


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("classify",),
        ("show",),
        ("models",),
        ("models", "list"),
        ("models", "show"),
        ("models", "import"),
    ],
    ids=" ".join,
)
def test_every_command_has_help(arguments: tuple[str, ...], command: Command) -> None:
    for option in ("--help", "-h"):
        answer = command(*arguments, option)
        assert answer.code == 0
        assert answer.out.startswith("Usage: broadline")
        assert answer.err == ""


def test_the_version_is_printed(command: Command) -> None:
    assert command("--version") == (0, f"broadline {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (("clasify", "in"), "classify"),
        (("classify", "in", "-o", "o.csv", "--modle", "x"), "--model"),
        (("models", "lst"), "list"),
        (("classify", "in"), "--output"),
        (("classify", "-o", "o.csv"), "paths"),
        (("classify", "in", "-o", "o.csv", "--precision", "fp8"), "bf16"),
        (("classify", "in", "-o", "o.csv", "--workers", "0"), "greater than or equal to 1"),
        (("classify", "in", "-o", "o.csv", "--batch", "many"), "--batch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_slip_of_the_pen_is_met_with_exit_code_2_and_the_cure(
    arguments: tuple[str, ...], cure: str, survey: Path, command: Command
) -> None:
    answer = command(*arguments)
    assert answer.code == 2
    assert cure.lower() in answer.err.lower()
    assert "Traceback" not in answer.err
    assert not (survey / "o.csv").exists()


USAGE = {
    "unknown model name": (("--model", "nosuch"), "out.csv", r"no model called 'nosuch'.*models import"),
    "missing model file": (("--model", "dir/m.onnx"), "out.csv", r"no model file dir/m\.onnx"),
    "unknown suffix": ((), "out.txt", r"out\.txt: .*\.parquet, \.fits"),
    "unknown layout": (("--layout", "sql"), "out.fits", r"no layout 'sql'.*qnall, drq, desi-qn"),
    "layout that is not FITS": (("--layout", "drq"), "out.csv", r"out\.csv: the layout drq is a FITS table"),
    "layout of other spectra": (("--layout", "desi-qn"), "out.fits", r"desi-qn needs spectra with TARGETID"),
    "unknown archive": (("--archive", "sloan"), "out.csv", r"unknown archive 'sloan'.*sdss-plate"),
    "threshold above 1": (("--c-th", "40"), "out.csv", r"c_th is a confidence between 0 and 1, not 40"),
    "BAL threshold below 0": (("--c-th-bal", "-1"), "out.csv", r"c_th_bal is a confidence between 0 and 1"),
    "no line at all": (("--l-min", "0"), "out.csv", r"l_min is .* at least 1, not 0"),
    "empty bins of a third kind": (("--empty-bins", "one"), "out.csv", r"zero.*as-published.*not 'one'"),
}


@pytest.mark.parametrize(("options", "output", "message"), USAGE.values(), ids=USAGE.keys())
def test_a_request_that_cannot_be_met_is_one_line_with_the_cure(
    options: tuple[str, ...], output: str, message: str, survey: Path, tiny_model: Path, command: Command
) -> None:
    model = () if "--model" in options else ("--model", tiny_model)
    answer = command("classify", "in", "-o", output, *model, *options)
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert re.match(f"broadline: .*{message}", line), line
    assert not (survey / output).exists()
    assert not list(survey.glob(".broadline*"))


def test_the_model_to_use_unless_told_is_called_default(
    survey: Path, tiny_model: Path, command: Command
) -> None:
    answer = command("classify", "in", "-o", "out.csv")
    if answer.code == 2:  # a broadline that comes without a model says how to get one
        assert re.match(r"broadline: no model called 'default'.*`broadline models import", answer.err)
    assert command("models", "import", tiny_model, "--name", "default").code == 0
    assert command("classify", "in", "-o", "out.csv").code == 0


@pytest.mark.parametrize("suffix", ["parquet", "fits", "fits.gz", "ecsv", "csv"])
def test_the_suffix_chooses_the_format(suffix: str, survey: Path, tiny_model: Path, command: Command) -> None:
    assert command("classify", "in", "-o", f"out.{suffix}", "--model", tiny_model).code == 0
    assert command("classify", "in", "-o", "reference.parquet", "--model", tiny_model).code == 0
    path = survey / f"out.{suffix}"
    if suffix == "parquet":
        table = Table(pq.read_table(path).to_pydict())
    else:
        table = Table.read(path, format="fits" if "fits" in suffix else f"ascii.{suffix}")
    reference = pq.read_table(survey / "reference.parquet")
    assert table.colnames == reference.column_names
    assert len(table) == 6
    assert np.array_equal(np.asarray(table["FIBERID"], dtype=int), [1, 2, 3, 4, 5, 6])
    expected = np.asarray(reference["Z"])
    assert np.allclose(np.asarray(table["Z"], dtype=float), expected, rtol=1e-12)
    calls = [str(value) for value in table["IS_QSO"]]
    assert calls == [str(value) for value in reference["IS_QSO"].to_pylist()]


@pytest.mark.parametrize(("layout", "extension"), [("qnall", 1), ("drq", "CATALOG")])
def test_layouts_are_tables_that_other_programs_read(
    layout: str, extension: int | str, survey: Path, tiny_model: Path, command: Command
) -> None:
    answer = command("classify", "in", "-o", "out.fits", "--model", tiny_model, "--layout", layout)
    assert answer.code == 0
    table = fits.getdata(survey / "out.fits", extension)
    assert {"THING_ID", "PLATE", "MJD", "FIBERID"} <= set(table.names)
    assert set(table["PLATE"]) <= {4055}


def column(path: Path, name: str) -> np.ndarray:
    return np.asarray(pq.read_table(path)[name])


def test_thresholds_decide_what_is_a_quasar(survey: Path, tiny_model: Path, command: Command) -> None:
    def classify(output: str, *options: str) -> None:
        assert command("classify", "in", "-o", output, "--model", tiny_model, *options).code == 0

    classify("own.parquet")
    lines = ("LYA", "CIV", "CIII", "MGII", "HBETA", "HALPHA")
    c = np.stack([column(survey / "own.parquet", f"C_{name}") for name in lines], axis=1)
    best, second = np.sort(c, axis=1)[:, [-1, -2]].T
    between = f"{np.median(best):.4f}"
    for i, (options, expected) in enumerate(
        {
            (): best > 0.4,
            ("--c-th", "0"): np.ones(6, dtype=bool),
            ("--c-th", "1"): np.zeros(6, dtype=bool),
            ("--c-th", between): best > float(between),
            ("--c-th", between, "--l-min", "2"): second > float(between),
            ("--c-th", "0", "--l-min", "7"): np.zeros(6, dtype=bool),
        }.items()
    ):
        classify(f"{i}.parquet", *options)
        assert column(survey / f"{i}.parquet", "IS_QSO").tolist() == expected.tolist(), options
    assert 0 < (best > float(between)).sum() < 6  # else it would prove nothing
    # what the network says does not depend on the rule
    assert np.array_equal(column(survey / "1.parquet", "C_LYA"), c[:, 0])


def test_bal_has_a_threshold_of_its_own(survey: Path, tiny_model: Path, command: Command) -> None:
    for threshold, expected in (("0", 6), ("1", 0)):
        options = ("--c-th", "0", "--c-th-bal", threshold)
        assert command("classify", "in", "-o", "out.parquet", "--model", tiny_model, *options).code == 0
        assert column(survey / "out.parquet", "IS_BAL").sum() == expected


def test_what_was_left_out_or_named_twice_is_noted(survey: Path, tiny_model: Path, command: Command) -> None:
    (survey / "in" / "spZbest-4055-55359.fits").touch()
    answer = command("classify", "in", "in/spPlate-4055-55359.fits", "-o", "out.csv", "--model", tiny_model)
    assert answer.code == 0
    assert "1 files were named more than once" in answer.err
    assert "left out 1 files that hold no spectra (spZbest-4055-55359.fits)" in answer.err
    assert "6 spectra" in answer.out


def test_the_summary_names_at_most_twenty_unreadable_files(
    survey: Path, tiny_model: Path, command: Command
) -> None:
    for i in range(25):
        (survey / "in" / f"spec-1-{i}.csv").touch()
        (survey / "in" / f"spec-4055-55359-{i:04d}.fits").touch()
    answer = command("classify", "in", "-o", "out.csv", "--model", tiny_model, "--workers", "1")
    assert answer.code == 1
    named = [line for line in answer.err.splitlines() if "spec-4055" in line]
    assert len(named) == 20
    assert "(25)" in answer.err.splitlines()[-1]


# ---- show


def test_show_writes_a_figure_of_the_row_asked_for(survey: Path, tiny_model: Path, command: Command) -> None:
    plate = "in/spPlate-4055-55359.fits"
    assert command("show", plate, "--model", tiny_model, "--row", "2") == (
        0,
        "wrote 4055-55359-0003.png\n",
        "",
    )
    content = (survey / "4055-55359-0003.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.rstrip(b"\x00").endswith(b"IEND\xaeB`\x82")
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    assert width > 1000 and height > 400
    assert command("show", plate, "--model", tiny_model, "--row", "3", "-o", "b.png").code == 0
    assert (survey / "b.png").read_bytes() != content


def test_show_takes_the_format_from_the_suffix(survey: Path, tiny_model: Path, command: Command) -> None:
    answer = command("show", "in/spPlate-4055-55359.fits", "--model", tiny_model, "-o", "a.pdf")
    assert answer.code == 0
    assert (survey / "a.pdf").read_bytes().startswith(b"%PDF")


def test_show_draws_a_spectrum_without_data(survey: Path, tiny_model: Path, command: Command) -> None:
    write_spec(survey / "spec-4055-55359-0007.fits", np.ones(4600, np.float32), np.zeros(4600))
    answer = command("show", "spec-4055-55359-0007.fits", "--model", tiny_model, "-o", "a.png")
    assert (answer.code, answer.err) == (0, "")
    assert (survey / "a.png").stat().st_size > 1000


SHOW = {
    "row out of range": (
        ("in/spPlate-4055-55359.fits", "--row", "6"),
        r"holds 6 spectra: --row counts .* to 5",
    ),
    "missing file": (("in/nosuch.fits",), r"no such file or folder: in/nosuch\.fits"),
    "unreadable file": (("broken.fits",), r"broken\.fits: "),
    "folder that is not there": (("in/spPlate-4055-55359.fits", "-o", "no/a.png"), r".*figure no/a\.png"),
    "folder instead of a file": (("in/spPlate-4055-55359.fits", "-o", "in"), r".*figure in"),
    "unknown format": (("in/spPlate-4055-55359.fits", "-o", "a.xyz"), r".*figure a\.xyz.*png"),
    "unknown archive": (("in/spPlate-4055-55359.fits", "--archive", "sloan"), r"unknown archive 'sloan'"),
    "threshold above 1": (("in/spPlate-4055-55359.fits", "--c-th", "2"), r"c_th is a confidence"),
}


@pytest.mark.parametrize(("arguments", "message"), SHOW.values(), ids=SHOW.keys())
def test_show_says_in_one_line_what_it_cannot_do(
    arguments: tuple[str, ...], message: str, survey: Path, tiny_model: Path, command: Command
) -> None:
    (survey / "broken.fits").write_bytes(b"SIMPLE  = broken")
    before = sorted(survey.rglob("*"))
    answer = command("show", *arguments, "--model", tiny_model)
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert re.search(message, line), line
    assert sorted(survey.rglob("*")) == before


def test_show_needs_a_model_that_exists(survey: Path, command: Command) -> None:
    answer = command("show", "in/spPlate-4055-55359.fits", "--model", "nosuch")
    assert answer.code == 2
    assert "no model called 'nosuch'" in answer.err


# ---- models


def test_a_model_is_imported_listed_shown_and_used_by_its_name(
    survey: Path, tiny_model: Path, command: Command
) -> None:
    file = survey / "models" / "mine.onnx"
    assert "mine" not in command("models", "list").out
    assert command("models", "import", tiny_model, "--name", "mine") == (0, f"wrote {file}\n", "")
    assert re.search(rf"^mine +{re.escape(str(file))}$", command("models", "list").out, re.MULTILINE)
    card = dict(re.findall(r"^([\w_]+): +(.*)$", command("models", "show", "mine").out, re.MULTILINE))
    assert card["name"] == "mine"
    assert re.fullmatch("[0-9a-f]{64}", card["sha256"])
    assert card["lines"].startswith("LYA 1215.67, CIV 1549.06")
    assert card["grid"] == "443 log pixels, 3600.0-9984.0 Angstrom"
    assert card["rule"] == "1 line(s) above 0.4, BAL above 0.4"
    assert card["origin"] == "random parameters, for tests"
    assert command("classify", "in", "-o", "a.parquet", "--model", "mine").code == 0
    assert command("classify", "in", "-o", "b.parquet", "--model", tiny_model).code == 0
    assert np.array_equal(column(survey / "a.parquet", "Z"), column(survey / "b.parquet", "Z"))


def test_published_weights_are_imported_and_their_way_with_empty_bins_is_told(
    survey: Path, golden: Path, command: Command
) -> None:
    weights = golden / "test_weights.h5"
    assert command("models", "import", weights, "--name", "slim").code == 0
    shown = command("models", "show", "slim").out
    assert "LYA 1215.67" in shown  # the card says more of the lines, and does not hide them
    assert "as published" in shown
    told = command("classify", "in", "-o", "a.parquet", "--model", "slim")
    assert told.code == 0
    assert "fills bins without data as published" in told.err
    quiet = command("classify", "in", "-o", "b.parquet", "--model", "slim", "--empty-bins", "zero")
    assert (quiet.code, quiet.err) == (0, "")
    assert command("models", "import", weights, "--name", "zeroed", "--empty-bins", "zero").code == 0
    assert command("classify", "in", "-o", "c.parquet", "--model", "zeroed").err == ""
    assert command("classify", "in", "-o", "d.parquet", "--model", weights).code == 0
    c = [column(survey / f"{x}.parquet", "C_LYA") for x in "abcd"]
    assert np.array_equal(c[0], c[3]) and np.array_equal(c[1], c[2])
    # A warning of the library is one line too.
    other = command("models", "import", golden / "test_weights_6_layer.h5", "--name", "six")
    assert other.code == 0
    assert all(line.startswith("warning: ") for line in other.err.splitlines())


MODELS = {
    "missing weights": (("import", "nosuch.h5"), r"no model file nosuch\.h5"),
    "name with a slash": (("import", "MODEL", "--name", "a/b"), r"name is made of letters.*'a/b'"),
    "output under a file": (
        ("import", "MODEL", "-o", "afile/m.onnx"),
        r"cannot write the model afile/m\.onnx",
    ),
    "empty bins of a third kind": (("import", "MODEL", "--empty-bins", "one"), r"not 'one'"),
    "unknown model shown": (("show", "nosuch"), r"no model called 'nosuch'"),
}


@pytest.mark.parametrize(("arguments", "message"), MODELS.values(), ids=MODELS.keys())
def test_models_say_in_one_line_what_they_cannot_do(
    arguments: tuple[str, ...], message: str, survey: Path, tiny_model: Path, command: Command
) -> None:
    (survey / "afile").touch()
    given = [str(tiny_model) if argument == "MODEL" else argument for argument in arguments]
    answer = command("models", *given)
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert re.search(message, line), line
    assert not list(survey.rglob("*.onnx"))


def test_without_models_the_list_says_how_to_get_one(survey: Path, command: Command) -> None:
    answer = command("models", "list")
    assert answer.code == 0
    assert ".onnx" in answer.out or "broadline models import" in answer.out
