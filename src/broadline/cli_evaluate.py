"""The command `evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broadline.progress import say

if TYPE_CHECKING:
    from broadline.evaluation.study import Study
    from broadline.model import Model

__all__ = ["evaluate"]


def evaluate(
    catalogues: Annotated[
        list[Path], typer.Argument(help="Catalogue; or one for each training/validation split, in order.")
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
    model: Annotated[
        str | None, typer.Option(help="Draws the lines of galleries [the catalogue's by name, or default].")
    ] = None,
    keep_ancillary: Annotated[
        bool, typer.Option("--keep-ancillary", help="Keep targets of ancillary programmes.")
    ] = False,
) -> None:
    """Compare a catalogue with the truth: numbers, figures and a page to open.

    All as in the results section of Busca & Balland (2018), and more. Exit code 0: the report is written. 2:
    the request cannot be carried out.
    """
    from broadline.evaluation.baselines import read_baselines
    from broadline.evaluation.join import read_study
    from broadline.evaluation.report import write_report

    say(f"reading {', '.join(path.name for path in catalogues)} and {truth.name}")
    study = read_study(catalogues, truth, splits=splits, keep_ancillary=keep_ancillary)
    drawn_with = _drawn_with(model, study) if spectra else None
    study = replace(
        study,
        baselines=read_baselines(baseline or [], study, on_file=lambda path: say(f"reading {path.name}")),
        about={**study.about, **_options(baseline, keep_ancillary)},
    )
    report = write_report(study, output, spectra or (), drawn_with, on_step=lambda step: say(f"  {step}"))
    typer.echo(report.summary)
    for section in report.sections:
        for number in section.numbers:
            if number.key in ("purity", "completeness"):
                typer.echo(f"{number.label}: {number.text}")
    typer.echo(f"wrote {report.page}" + (" (a simulated survey)" if study.simulated else ""))


def _drawn_with(name: str | None, study: Study) -> Model:
    """Return the model that draws lines into galleries, and say so if it did not make the catalogue."""
    from broadline.named_models import list_models, load_model

    made_by = study.about.get("model", "")
    model = load_model(name or (made_by if made_by in list_models() else "default"))
    if model.sha256 != study.about.get("model SHA-256"):
        say(f"note: galleries show what the model {model.name} finds, which did not make the catalogue")
    return model


def _options(baseline: list[Path] | None, keep_ancillary: bool) -> dict[str, str]:
    """Return what the provenance says of the request."""
    said = {"other classifiers": ", ".join(path.name for path in baseline)} if baseline else {}
    return said | ({"ancillary targets": "kept"} if keep_ancillary else {})
