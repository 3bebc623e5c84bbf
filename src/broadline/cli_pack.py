"""The command `pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["pack"]


def pack(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs, or @LIST (a file of names).")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder: new, empty, or begun by the same command.")
    ],
    archive: Annotated[
        str | None, typer.Option("--archive", help="Take every file for one of this archive.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes [as many as cores].")] = None,
) -> None:
    """Copy spectra into a store that is quick to read again; every command takes it for the files.

    A command that was stopped goes on where it was when it is given again; given once more, it checks the
    store. Exit code 1: some files could not be read (their rows are in the store, flagged).
    """
    from broadline.errors import StoppedError
    from broadline.packing import pack as run
    from broadline.progress import ProgressBar, say

    with ProgressBar("packing") as progress:
        try:
            packed = run(
                paths,
                output,
                archive=archive,
                workers=workers,
                on_unit=lambda so_far, fraction: progress.show(so_far.n_spectra, fraction),
            )
        except KeyboardInterrupt:
            raise StoppedError(f"interrupted; the same command goes on in {output}") from None
    typer.echo(f"{output}: {packed.n_spectra:,} spectra, {packed.n_unreadable:,} unreadable")
    for note in packed.notes[:20]:
        say(f"flagged: {note}")
    if packed.n_unreadable:
        raise typer.Exit(1)
