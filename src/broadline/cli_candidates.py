"""The command `candidates`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["candidates"]


def candidates(
    catalogue: Annotated[Path, typer.Argument(help="What `broadline classify` wrote.")],
    known: Annotated[
        Path, typer.Option(help="The quasars that are known: DR14Q, LAMOST's catalogue, any truth table.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="List for inspection: .csv, .ecsv, .fits or .parquet.")
    ],
    pipeline: Annotated[
        Path | None, typer.Option(help="The survey pipeline's classes: spZall, specObj, redrock files.")
    ] = None,
    verdicts: Annotated[
        Path | None, typer.Option(help="The list of an earlier run with CLASS filled in by an expert.")
    ] = None,
) -> None:
    """List spectra called quasar that are not known as such, the most probable first.

    Counts are those of Podsztavek, Skoda & Tvrdik (2021), section 4: before inspection, and after it.
    """
    from broadline.errors import UsageError
    from broadline.evaluation import candidates as finding
    from broadline.evaluation.catalogues import read_catalogue
    from broadline.evaluation.fits_read import Calls, read_answers
    from broadline.truth import read_truth_table

    found = read_catalogue(catalogue)
    quasar, confusion = finding.listed(found, read_truth_table(known))
    rows = finding.candidates(found, quasar)
    fits = None
    if pipeline is not None:
        answers = read_answers(pipeline, found.ids)
        if isinstance(answers, Calls):
            raise UsageError(f"{pipeline} says who is a quasar, not which class each spectrum has")
        fits = answers
    typer.echo(_said("before inspection", confusion))
    if fits is not None:
        table = finding.cross_table(rows, fits)
        typer.echo("the pipeline calls them " + ", ".join(f"{name} {n:,}" for name, n in table.items()))
    if verdicts is not None:
        after, confirmed = finding.inspected(found, rows, confusion, read_truth_table(verdicts))
        typer.echo(_said("after inspection", after))
        typer.echo(f"confirmed: {confirmed.k:,} of {confirmed.n:,} inspected")
    finding.write_candidates(output, found, rows, fits)
    typer.echo(f"wrote {len(rows):,} candidates to {output}")


def _said(when: str, confusion: object) -> str:
    from broadline.evaluation.candidates import Confusion

    assert isinstance(confusion, Confusion)
    return (
        f"{when}: called and known {confusion.right:,}, missed {confusion.missed:,}, called alone "
        f"{confusion.wrong:,}, neither {confusion.other:,}; precision "
        f"{100 * confusion.precision.value:.2f} %, recall {100 * confusion.recall.value:.2f} %, "
        f"F1 {confusion.f1:.4f}"
    )
