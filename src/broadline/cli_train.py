"""The commands `train` and `transfer`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from broadline import launcher
from broadline.errors import StoppedError, UsageError
from broadline.progress import ProgressBar, say

if TYPE_CHECKING:
    from broadline.training.run import Trained
    from broadline.training.splits import Sizes

__all__ = ["train", "transfer"]

_VALIDATION = 0.2  # share of spectra
_MISSING = "training needs more packages: pip install 'broadline[train]' ({})"

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for model, log and checkpoints.")]
Splits = Annotated[
    int | None,
    typer.Option(min=1, help="Train on so many random splits of SET, each in a folder of its own [1]."),
]
SplitFile = Annotated[
    Path | None,
    typer.Option("--split", help="Train on the splits in a file, such as splits.parquet of another run."),
]
Validation = Annotated[
    float | None,
    typer.Option(help="Hold out so many spectra (below 1: their share) to say which weights are best [0.2]."),
]
Test = Annotated[float, typer.Option(help="Hold out so many more, to score the result alone.")]
BySpectrum = Annotated[
    bool, typer.Option("--by-spectrum", help="Let visits to an object be in several parts, and say how many.")
]
Labels = Annotated[
    int | None, typer.Option(min=2, help="Learn from so many of the training spectra only [all].")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs [the preset's].")]
Patience = Annotated[
    int | None,
    typer.Option(min=1, help="Stop after so many epochs without a better validation [the preset's]."),
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same weights.")]
Precision = Annotated[
    Literal["bf16", "fp32"] | None, typer.Option(help="Arithmetic [what the machine is faster with].")
]


def train(
    output: Output,
    training_set: Annotated[
        Path | None, typer.Argument(metavar="SET", help="Folder that `broadline prepare` wrote.")
    ] = None,
    in_memory: Annotated[
        int | None,
        typer.Option("--in-memory", min=1, help="Instead: so many simulated spectra, never on disk."),
    ] = None,
    preset: Annotated[str, typer.Option(help="broadline | paper | paper-code | vgg-a ...")] = "broadline",
    splits: Splits = None,
    split: SplitFile = None,
    validation: Validation = None,
    test: Test = 0.0,
    by_spectrum: BySpectrum = False,
    labels: Labels = None,
    epochs: Epochs = None,
    patience: Patience = None,
    seed: Seed = 0,
    templates: Annotated[
        Path | None, typer.Option(help="Folder of template sets for --in-memory [none needed].")
    ] = None,
    precision: Precision = None,
) -> None:
    """Train a network; needs torch (pip install 'broadline[train]').

    A command that was stopped goes on after its last finished epoch when it is given again. Several processes
    train together when `torchrun` starts them: torchrun --nproc-per-node N -m broadline train ...
    """
    if (training_set is None) == (in_memory is None):
        raise UsageError("give a prepared SET to train on, or --in-memory N: one of the two")
    if in_memory is not None and (splits or split or validation or test or by_spectrum or labels):
        raise UsageError(
            "--splits, --split, --validation, --test, --by-spectrum and --labels divide a prepared SET; "
            "--in-memory simulates its own validation"
        )
    sizes = _sizes(splits, split, validation, test, by_spectrum)
    if training_set is not None and templates is not None:
        raise UsageError("--templates is for --in-memory; a prepared SET holds its spectra")
    if templates is not None and not templates.is_dir():
        raise UsageError(f"there is no templates folder {templates}; without --templates none is needed")
    try:
        from broadline.training.presets import PRESETS
        from broadline.training.run import train_in_memory, train_prepared
    except ImportError as error:
        raise UsageError(_MISSING.format(error)) from error
    if preset not in PRESETS:
        raise UsageError(f"there is no preset {preset!r}; there are {', '.join(PRESETS)}")
    with ProgressBar("simulating" if in_memory else "training") as progress:
        try:
            if in_memory is not None:
                path = train_in_memory(
                    PRESETS[preset],
                    output,
                    in_memory,
                    epochs=epochs,
                    patience=patience,
                    seed=seed,
                    templates=None if templates is None else str(templates),
                    precision=precision,
                    on_library=lambda done, total: progress.show(done, done / total),
                    on_step=progress.learn,
                )
                said = f"wrote {path}"
            else:
                assert training_set is not None
                trained = train_prepared(
                    PRESETS[preset],
                    output,
                    training_set,
                    splits=split or splits or 1,
                    sizes=sizes,
                    labels=labels,
                    epochs=epochs,
                    patience=patience,
                    seed=seed,
                    precision=precision,
                    on_split=progress.split,
                    on_step=progress.learn,
                )
                said = _said(trained)
        except KeyboardInterrupt:
            raise StoppedError(f"interrupted; the same command goes on in {output}") from None
    _tell(said)


def transfer(
    training_set: Annotated[
        Path, typer.Argument(metavar="SET", help="Folder that `broadline prepare` wrote.")
    ],
    source: Annotated[str, typer.Option("--from", help="The model to start from: a name or a file.")],
    output: Output,
    preset: Annotated[str | None, typer.Option(help="Another preset than the model's own.")] = None,
    trunk_rate: Annotated[
        float,
        typer.Option(help="Learning rate of the convolutions relative to the rest; 0 freezes them."),
    ] = 1.0,
    splits: Splits = None,
    split: SplitFile = None,
    validation: Validation = None,
    test: Test = 0.0,
    by_spectrum: BySpectrum = False,
    labels: Labels = None,
    epochs: Epochs = None,
    patience: Patience = None,
    seed: Seed = 0,
    precision: Precision = None,
) -> None:
    """Train on an archive what was learnt on another: start from a model's weights.

    Weights carry over where shapes agree; what does not is listed, and starts at random.
    """
    sizes = _sizes(splits, split, validation, test, by_spectrum)
    try:
        from broadline.training.presets import PRESETS
        from broadline.training.run import train_prepared
        from broadline.training.transfer import start_from
    except ImportError as error:
        raise UsageError(_MISSING.format(error)) from error
    from broadline.named_models import load_model

    model = load_model(source)
    name = preset or model.recipe.card.get("preset", "")
    if name not in PRESETS:
        known = ", ".join(PRESETS)
        raise UsageError(f"there is no preset {name!r}; there are {known}. Name one with --preset")
    start = start_from(model, PRESETS[name].network, trunk_rate)
    say(f"{len(start.parameters)} parameters carry over from {model.name}")
    for text in start.left:
        say(f"starts at random: {text}")
    with ProgressBar("training") as progress:
        try:
            trained = train_prepared(
                PRESETS[name],
                output,
                training_set,
                splits=split or splits or 1,
                sizes=sizes,
                labels=labels,
                epochs=epochs,
                patience=patience,
                seed=seed,
                precision=precision,
                start=start,
                on_split=progress.split,
                on_step=progress.learn,
            )
        except KeyboardInterrupt:
            raise StoppedError(f"interrupted; the same command goes on in {output}") from None
    _tell(_said(trained))


def _sizes(
    splits: int | None, split: Path | None, validation: float | None, test: float, by_spectrum: bool
) -> Sizes | None:
    """Return what the user wants of the sizes of splits."""
    from broadline.training.splits import Sizes

    sized = validation is not None or test or by_spectrum
    if split and (splits or sized):
        raise UsageError(
            "give --splits N, --validation, --test and --by-spectrum for random splits, or --split FILE for "
            "given ones, not both"
        )
    return Sizes(_VALIDATION if validation is None else validation, test, by_spectrum) if sized else None


def _tell(text: str) -> None:
    if launcher.rank() == 0:
        typer.echo(text)


def _said(trained: Sequence[Trained]) -> str:
    """Return what to tell of the models; nothing where another process has them."""
    from broadline.training.run import score_table

    if not trained:
        return ""
    lines = [score_table(trained) if len(trained) > 1 else f"wrote {trained[0].path}"]
    for each in trained:
        if each.test and len(trained) == 1:
            lines.append("on test: " + ", ".join(f"{name} {value:.5g}" for name, value in each.test.items()))
        if each.test or each.leakage.objects:
            where = f" of {each.path.parent.name}" if len(trained) > 1 else ""
            lines.append(f"leakage{where}: {each.leakage}")
    return "\n".join(lines)
