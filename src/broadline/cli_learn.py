"""The command `learn`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from broadline.errors import StoppedError, UsageError
from broadline.progress import ProgressBar, say

if TYPE_CHECKING:
    from broadline.model import Model
    from broadline.training.presets import Preset
    from broadline.training.rehearsal import Rehearsal

__all__ = ["learn"]

_REFUSED = 1  # exit code of a candidate that got worse: the command did all that it was asked for
_SIMULATED = "simulated spectra"  # begins what a card says of training in memory


def learn(
    verdicts: Annotated[
        Path, typer.Option(help="What was ruled: a truth table, such as `broadline inspect` exports.")
    ],
    spectra: Annotated[
        list[str], typer.Option(help="Files, folders, globs, or @LIST (a file of names). Repeat it for more.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for model, gain and checkpoints.")],
    model: Annotated[str, typer.Option(help="The model to start from: a name or a file.")] = "default",
    preset: Annotated[
        str | None, typer.Option(help="The preset it was trained with [what its card says].")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="SET that it was trained on, to be rehearsed [simulation, if it was trained on that]."
        ),
    ] = None,
    split: Annotated[
        Path | None,
        typer.Option(help="splits.parquet of that training: what it held out is compared on [a new split]."),
    ] = None,
    templates: Annotated[
        Path | None, typer.Option(help="Folder of template sets for simulation [none needed].")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs at most [10].")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same weights.")] = 0,
    precision: Annotated[
        Literal["bf16", "fp32"] | None, typer.Option(help="Arithmetic [what the machine is faster with].")
    ] = None,
    archive: Annotated[
        str | None, typer.Option("--archive", help="Take every file for one of this archive.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes [as many as cores].")] = None,
) -> None:
    """Teach a model what an expert ruled, without forgetting; needs torch (pip install 'broadline[train]').

    Exit code 1: it got worse somewhere, so that there is no model.onnx, but a candidate.onnx to look at.
    A command that was stopped goes on after its last finished epoch when it is given again.
    """
    if templates is not None and (keep is not None or not templates.is_dir()):
        raise UsageError(
            "--templates is for simulation; --keep SET holds its spectra"
            if keep is not None
            else f"there is no templates folder {templates}; without --templates none is needed"
        )
    if split is not None and keep is None:
        raise UsageError("--split divides the SET of --keep: give both")
    try:
        from broadline.training.learn import learn as run
        from broadline.training.tune import EPOCHS
    except ImportError as error:
        raise UsageError(f"learning needs more packages: pip install 'broadline[train]' ({error})") from error
    from broadline.named_models import load_model

    start = load_model(model)
    with ProgressBar("reading") as progress:

        def rehearsal_of(how: Preset) -> Rehearsal:
            return _rehearsal(start, how, keep, split, templates, seed, progress)

        try:
            learnt = run(
                start,
                verdicts,
                spectra,
                output,
                rehearsal_of,
                preset=preset,
                archive=archive,
                workers=workers,
                epochs=epochs or EPOCHS,
                seed=seed,
                precision=precision,
                on_unit=lambda so_far, fraction: progress.show(so_far.n_read, fraction),
                on_step=progress.learn,
            )
        except KeyboardInterrupt:
            raise StoppedError(f"interrupted; the same command goes on in {output}") from None
    typer.echo(learnt.text)
    if learnt.model is None:
        say(f"broadline: {learnt.candidate} is there to be looked at; model {start.name} is the better one")
        raise typer.Exit(_REFUSED)
    typer.echo(f"wrote {learnt.model}")


def _rehearsal(
    start: Model,
    how: Preset,
    keep: Path | None,
    split: Path | None,
    templates: Path | None,
    seed: int,
    progress: ProgressBar,
) -> Rehearsal:
    """Return what is rehearsed: a set if one is given, or simulation if the model learnt from that."""
    from broadline.training.dataset import PreparedSet
    from broadline.training.rehearsal import FromSet, FromSimulation
    from broadline.training.splits import read_splits

    known = start.recipe.card.get("trained_on", "")
    if keep is not None:
        whole = PreparedSet(keep, how)
        if split is None:
            return FromSet(whole, seed=seed)
        parts = read_splits(split, whole.columns["OBJECT"])
        named = re.search(r"split (\d+) of", known)
        number = int(named[1]) if named else 0
        if number >= len(parts):
            raise UsageError(
                f"{split} holds {len(parts)} splits, and model {start.name} is of split {number}"
            )
        return FromSet(whole, parts[number], seed)
    if not known.startswith(_SIMULATED):
        raise UsageError(
            f"model {start.name} was not trained on simulated spectra, as far as its card tells: give the "
            "set that it was trained on with --keep, or what it knows is forgotten"
        )
    if "with template sets" in known and templates is None:
        say("note: the model was trained with template sets; without --templates it rehearses without them")
    return FromSimulation(
        how,
        seed,
        None if templates is None else str(templates),
        on_library=lambda done, n: progress.show(done, done / n),
    )
