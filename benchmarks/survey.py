"""The paper's results section on a simulated BOSS-like survey, and the same on real spectra: docs/results.md.

    python benchmarks/survey.py DATA --runs FOLDER [--templates DIR] [--n 60000] [--splits 10] [--epochs 10]
                                     [--long 100] [-o docs/results.md]

A survey with the classes of the paper is simulated and prepared; the preset paper-code is trained on random
splits of it, by object, and on one more for longer. Each network classifies the whole survey, and is scored
on what it has not learnt from; so is the model in the package, which learnt from another simulation. As in
the paper the weights are those after the last epoch: none are chosen on what they are scored on. What is in
FOLDER is not made again, and a command that was stopped goes on. Figures go into a folder beside the page.
DATA holds the real spectra; none is trained on.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from broadline.evaluation.baselines import read_baselines
from broadline.evaluation.join import read_study
from broadline.evaluation.report import Report, markdown, write_report
from broadline.evaluation.results import Section
from broadline.named_models import load_model
from broadline.progress import say
from markers import write_between
from real_sky import NOTHING

PRESET = "paper-code"
SEED = 20_000_001
BROADLINE = [sys.executable, "-c", "from broadline.cli import main; main()"]
#: Who said what the real spectra are, as the manifest tells it, and the title of that.
SOURCES = {"visual": "visual (plate 7102)", "pipeline": "pipeline", "curated": "curated catalogues"}
FIGURES, SPLITS = Path("figures") / "survey", "splits.parquet"


# ---- the commands, each once


def broadline(*arguments: object, codes: tuple[int, ...] = (0,)) -> None:
    """Run a command."""
    say(f"broadline {' '.join(map(str, arguments))}")
    code = subprocess.run([*BROADLINE, *map(str, arguments)]).returncode
    if code not in codes:
        raise SystemExit(code)


def once(done: Path, *arguments: object, codes: tuple[int, ...] = (0,)) -> Path:
    """Run a command, unless what it makes last is there; return that."""
    if not done.exists():
        broadline(*arguments, codes=codes)
    return done


def classified(spectra: Path, model: Path | str, catalogue: Path) -> Path:
    """Return the catalogue of a folder of spectra; exit code 1 is for those that cannot be read."""
    return once(catalogue, "classify", spectra, "--model", model, "-o", catalogue, codes=(0, 1))


def run(options: argparse.Namespace) -> dict[str, Report]:
    """Make survey, networks, catalogues and reports; return the reports by what was scored."""
    root: Path = options.runs
    survey, prepared = root / "survey", root / "set"
    truth = survey / "truth.parquet"
    templates = ("--templates", options.templates) if options.templates else ()
    simulate = ("simulate", survey, "--archive", "boss", "--n", options.n, "--seed", SEED, *templates)
    once(truth, *simulate)
    many, one = root / "splits", root / "long"
    if not (many / SPLITS).exists() or not (one / SPLITS).exists():
        broadline("prepare", survey, "--truth", truth, "-o", prepared)  # which goes on by itself
    train = ("train", prepared, "--preset", PRESET, "--epochs")
    once(many / SPLITS, *train, options.epochs, "--splits", options.splits, "-o", many)
    once(one / SPLITS, *train, options.long, "--seed", options.splits, "-o", one)
    places = [many / f"split-{i:02d}" for i in range(options.splits)]
    catalogues = [classified(survey, each / "last.onnx", each / "catalogue.parquet") for each in places]
    long = classified(survey, one / "last.onnx", one / "catalogue.parquet")
    ours = classified(survey, "default", root / "default.parquet")
    reports = {}
    for name, tables, splits, drawn_with in (
        (f"{options.splits} splits, {options.epochs} epochs", catalogues, many, str(places[0] / "last.onnx")),
        (f"one split, {options.long} epochs", [long], one, str(one / "last.onnx")),
        ("model `default`", [ours], None, "default"),
    ):
        say(f"report: {name}")
        study = read_study(tables, truth, splits=splits / SPLITS if splits else None)
        study = replace(study, baselines=read_baselines([truth], study))
        place = root / ("report-" + (splits.name if splits else "default"))
        reports[name] = write_report(study, place, [survey], load_model(drawn_with))
    return reports


# ---- real spectra


def real_truths(data: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield tables of what is known of SDSS, BOSS and eBOSS test spectra, by who said so."""
    with (data / "real" / "manifest.csv").open(newline="") as stream:
        entries = [row for row in csv.DictReader(stream) if row["use"] == "test" and row["plate"]]
    for source, title in SOURCES.items():
        rows = [row for row in entries if row["truth_source"] == source and row["truth_quality"] != "0"]
        rows = [row for row in rows if row["survey"] in ("sdss", "boss", "eboss")]
        columns = {name: np.array([int(row[old]) for row in rows]) for name, old in _NAMES.items()}
        table = pa.table(columns)
        table = table.append_column("CLASS", pa.array([row["truth_class"] for row in rows]))
        table = table.append_column("Z", pa.array([float(row["truth_z"] or "nan") for row in rows]))
        if source == "visual":
            flags = [int(row["truth_bal"] or -1) for row in rows]
            table = table.append_column("BAL_FLAG_VI", pa.array(flags))
        path = folder / f"{source}.csv"
        pa.csv.write_csv(table, path)
        yield title, path


_NAMES = {"PLATE": "plate", "MJD": "mjd", "FIBERID": "fiber"}


def run_real(options: argparse.Namespace) -> dict[str, Report]:
    """Score the model in the package on real spectra; return the reports by who labelled them."""
    root: Path = options.runs
    catalogue = classified(options.data / "real", "default", root / "real.parquet")
    reports = {}
    for title, truth in real_truths(options.data, root):
        reports[title] = write_report(read_study([catalogue], truth), root / f"report-{truth.stem}")
    return reports


# ---- the page


def beside(reports: Mapping[str, Report]) -> Iterator[Section]:
    """Yield the sections of several reports as one table each, but those that are tables already."""
    titles = dict.fromkeys(each.title for report in reports.values() for each in report.sections)
    for title in titles:
        found = [_numbers(report, title) for report in reports.values()]
        if not any(found):
            continue
        rows = dict.fromkeys(key for numbers in found for key in numbers)
        grid = [("", *reports, "Busca & Balland (2018)")]
        for key in rows:
            known = [numbers[key] for numbers in found if key in numbers]
            cells = [numbers[key][1] if key in numbers else NOTHING for numbers in found]
            grid.append((known[0][0], *cells, known[0][2]))
        if not any(row[-1] for row in grid[1:]):
            grid = [row[:-1] for row in grid]
        yield Section(title, (), "", tuple(grid))


def _numbers(report: Report, title: str) -> dict[str, tuple[str, str, str]]:
    """Return label, text and paper's number by key."""
    return {
        number.key: (number.label, number.text, number.paper)
        for section in report.sections
        if section.title == title and not section.grid
        for number in section.numbers
    }


def grids(report: Report) -> list[Section]:
    """Return the sections that have a table of their own."""
    return [section for section in report.sections if section.grid]


def figures(report: Report, page: Path) -> Iterator[str]:
    """Copy the figures beside the page; yield them with their captions."""
    folder = page.parent / FIGURES
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # In the order of the publication, then those beyond it.
    for each in sorted(report.figures, key=lambda shown: (not shown.name.startswith("fig"), shown.name)):
        shutil.copy(report.page.with_name(f"{each.name}.png"), folder)
        yield f"![{each.title}]({(FIGURES / each.name).as_posix()}.png)"
        yield f"**{each.title}.** {each.caption} Simulated survey."


def text_of(survey: Mapping[str, Report], real: Mapping[str, Report], page: Path | None) -> str:
    """Return the page."""
    many, *_, ours = survey.items()
    notes = [section.note for section in many[1].sections if section.note]
    parts = ["## A simulated survey", "**Simulated: but for the paper's, no number here is of the sky.**"]
    parts += [f"{name}: {report.summary}" for name, report in survey.items()]
    parts += [notes[0], markdown(beside(survey), simulated=True)]
    for name, report in (many, ours):
        parts += [f"## Tables of their own, simulated: {name}", markdown(grids(report), simulated=True)]
    if page:
        parts += [f"## Figures, simulated: {many[0]}", *figures(many[1], page)]
    parts += ["## Real spectra, model `default`", *(f"{name}: {each.summary}" for name, each in real.items())]
    parts += [markdown(_below(beside(real)), simulated=False)]
    return "\n\n".join(parts)


def _below(sections: Iterable[Section]) -> Iterator[Section]:
    """Yield sections under names that the page does not have yet."""
    for section in sections:
        yield replace(section, title=f"{section.title}, real spectra")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--templates", type=Path)
    parser.add_argument("--n", type=int, default=60_000)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--long", type=int, default=100, help="epochs of the one split trained for longer")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args(arguments)
    options.runs.mkdir(parents=True, exist_ok=True)
    text = text_of(run(options), run_real(options), options.output)
    print(text)
    if options.output:
        write_between(options.output, "survey.py", text)


if __name__ == "__main__":
    main()
