"""The command `evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from broadline.progress import say

__all__ = ["evaluate"]


def evaluate(
    catalogues: Annotated[
        list[Path], typer.Argument(help="Catalogue; or one for each training/validation split.")
    ],
    truth: Annotated[
        Path, typer.Option(help="What is known: DR12Q superset, DR14Q, DR16Q, truth.parquet, any table.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the report.")],
    baseline: Annotated[
        list[Path] | None,
        typer.Option(help="Another classifier: spZall files, truth.parquet of a simulation, a catalogue."),
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="splits.parquet of the training: keep what was not learnt from.")
    ] = None,
    spectra: Annotated[
        list[Path] | None, typer.Option(help="Where the spectra lie: for galleries of them.")
    ] = None,
    model: Annotated[str, typer.Option(help="What galleries draw lines with.")] = "default",
    keep_ancillary: Annotated[
        bool, typer.Option("--keep-ancillary", help="Keep targets of ancillary programmes.")
    ] = False,
) -> None:
    """Compare a catalogue with the truth: numbers, figures and a page to open.

    All as in the results section of Busca & Balland (2018), and more.
    """
    from broadline.evaluation.baselines import read_baseline, settle, two_lines
    from broadline.evaluation.join import read_study
    from broadline.evaluation.report import write_report
    from broadline.evaluation.results import results
    from broadline.evaluation.study import Baseline
    from broadline.model import load_model

    drawn_with = load_model(model) if spectra else None
    say(f"reading {', '.join(path.name for path in catalogues)} and {truth.name}")
    study = read_study(catalogues, truth, splits=splits, keep_ancillary=keep_ancillary)
    found: dict[str, Baseline] = {}
    for path in baseline or []:
        say(f"reading {path.name}")
        found |= read_baseline(path, study.ids, study.sample)
    if study.sample.c is not None:
        scheme = two_lines(study.sample, study.rule)
        found["two lines, one line inspected"] = settle(study.sample, scheme)
    study = replace(study, baselines=found)
    page = write_report(study, output, spectra or (), drawn_with, on_step=lambda step: say(f"  {step}"))
    for number in results(study)[0].numbers[:2]:
        typer.echo(f"{number.label}: {number.text}")
    typer.echo(f"wrote {page}" + (" (a simulated survey)" if study.simulated else ""))
