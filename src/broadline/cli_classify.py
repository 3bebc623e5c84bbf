"""The commands `classify` and `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from broadline.errors import StoppedError, UsageError
from broadline.progress import ProgressBar, report, report_run

if TYPE_CHECKING:
    from broadline.pipeline import ModelChoice

__all__ = ["ArchiveName", "CTh", "CThBal", "Empty", "ModelName", "classify", "merge"]

ModelName = Annotated[
    str, typer.Option("--model", help="A model's name (see `models list`) or file (.onnx, .h5).")
]
CTh = Annotated[float | None, typer.Option(help="Confidence above which a line is found [model's own: 0.4].")]
LMin = Annotated[int | None, typer.Option(help="Lines that make a quasar [model's own: 1].")]
CThBal = Annotated[
    float | None, typer.Option(help="Confidence above which a quasar is BAL [model's own: 0.4].")
]
ArchiveName = Annotated[
    str | None, typer.Option("--archive", help="Take every file for one of this archive.")
]
Empty = Annotated[
    str | None, typer.Option("--empty-bins", help="Bins without data: zero | as-published [model's own].")
]


def classify(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs, or @LIST (a file of names).")],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="Catalogue to write: .parquet, .fits, .ecsv or .csv; or a folder, for large surveys.",
        ),
    ],
    model: ModelName = "default",
    c_th: CTh = None,
    l_min: LMin = None,
    c_th_bal: CThBal = None,
    empty_bins: Empty = None,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="bf16 is faster and needs torch.")
    ] = "fp32",
    archive: ArchiveName = None,
    layout: Annotated[str | None, typer.Option(help="Drop-in layout: qnall | drq | desi-qn (FITS).")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes [as many as cores].")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Spectra a batch; bounds the memory of a worker.")] = 256,
    stall: Annotated[
        float, typer.Option(min=1, help="Seconds a worker may take over one unit of files.")
    ] = 600,
    cluster: Annotated[
        str | None,
        typer.Option(help="Dask scheduler, tcp://HOST:PORT, or local[:N] to start one; with a folder."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be read and how long it would take.")
    ] = False,
) -> None:
    """Classify spectra: one catalogue row for every spectrum, in input order.

    An output without a suffix, or that ends in "/", is a folder: its command, given again, goes on where it
    was stopped, and `merge` makes one file of it.

    Exit code 0: all spectra were read. 1: some could not be (they are in the catalogue, flagged). 2: the
    request cannot be carried out.
    """
    from broadline import pipeline

    choice = pipeline.ModelChoice(model, precision, empty_bins, c_th, l_min, c_th_bal)
    target = Path(output)
    if dry_run:
        from broadline.dry_run import rehearse

        typer.echo(rehearse(paths, choice, archive, workers, batch).describe())
    elif _is_file(output):
        if cluster:
            raise UsageError("--cluster needs a folder to write to, such as -o catalogue/")
        with ProgressBar() as progress:
            summary = pipeline.classify(
                paths,
                target,
                choice,
                archive=archive,
                layout=layout,
                workers=workers,
                batch=batch,
                stall=stall,
                on_inputs=progress.start,
                on_unit=progress.advance,
            )
        report(summary, target)
        if summary.n_unreadable:
            raise typer.Exit(1)
    else:
        if cluster and workers:
            raise UsageError(
                "--workers is for processes here; give --cluster local:N, or the cluster its own"
            )
        if layout:
            raise UsageError(f"{output} is a folder; --layout is for `broadline merge`, once it is finished")
        _classify_folder(paths, target, choice, archive, workers, batch, stall, cluster)


def _is_file(output: str) -> bool:
    """Tell whether an output is a file: it has a suffix, and is no folder that could be a catalogue."""
    from broadline.writers import SUFFIXES

    target = Path(output)
    known = target.name.lower().endswith(SUFFIXES)
    return bool(target.suffix) and not output.endswith("/") and (known or not target.is_dir())


def _classify_folder(
    paths: list[str],
    folder: Path,
    choice: ModelChoice,
    archive: str | None,
    workers: int | None,
    batch: int,
    stall: float,
    cluster: str | None,
) -> None:
    from broadline.runner import classify_folder

    with ProgressBar() as progress:
        try:
            done = classify_folder(
                paths,
                folder,
                choice,
                archive=archive,
                workers=workers,
                batch=batch,
                stall=stall,
                cluster=cluster,
                on_inputs=progress.start,
                on_unit=progress.follow,
            )
        except KeyboardInterrupt:
            raise StoppedError(f"interrupted; the same command goes on in {folder}") from None
    report(done.summary, folder)
    report_run(done.journal)
    if done.summary.n_unreadable:
        raise typer.Exit(1)


def merge(
    folder: Annotated[Path, typer.Argument(help="Folder that `classify` has finished.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Catalogue to write: .parquet, .fits, .ecsv or .csv.")
    ],
    layout: Annotated[str | None, typer.Option(help="Drop-in layout: qnall | drq | desi-qn (FITS).")] = None,
) -> None:
    """Make one file of a catalogue folder: the same as `classify` would have written."""
    from broadline.runner import merge as run

    typer.echo(f"{output}: {run(folder, output, layout):,} spectra")
