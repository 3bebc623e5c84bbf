"""The command line: thin, every command a few calls of the library."""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from broadline import launcher
from broadline.cli_candidates import candidates
from broadline.cli_classify import ArchiveName, CTh, CThBal, Empty, ModelName, classify, merge
from broadline.cli_evaluate import evaluate
from broadline.cli_inspect import inspect, verdicts
from broadline.cli_learn import learn
from broadline.cli_pack import pack
from broadline.cli_serve import serve
from broadline.cli_train import train, transfer
from broadline.errors import BroadlineError, StoppedError, UsageError
from broadline.progress import ProgressBar, say

app = typer.Typer(
    help="Classify survey spectra and measure their redshifts by finding the lines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models = typer.Typer(
    help="Models by name: list them, read their cards, import published weights.", no_args_is_help=True
)
app.add_typer(models, name="models")


def _version(show: bool) -> None:
    if show:
        from broadline import __version__

        typer.echo(f"broadline {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


app.command()(classify)


@app.command()
def show(
    spectrum: Annotated[str, typer.Argument(help="A file of spectra.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Figure to write [<OBJID>.png].")
    ] = None,
    row: Annotated[int, typer.Option(min=0, help="Which spectrum of the file.")] = 0,
    model: ModelName = "default",
    c_th: CTh = None,
    c_th_bal: CThBal = None,
    empty_bins: Empty = None,
    archive: ArchiveName = None,
) -> None:
    """Draw a spectrum as the network sees it, with the lines that it finds."""
    from broadline import pipeline
    from broadline.show import draw, pick

    chosen = pipeline.ModelChoice(model, "fp32", empty_bins, c_th, None, c_th_bal).load()
    spectra = pick(spectrum, row, archive)
    if spectra.notes:
        raise UsageError(spectra.notes[0])
    path = output or Path(f"{spectra.ids['OBJID'][0] or 'spectrum'}.png")
    if path.is_dir():
        raise UsageError(f"cannot write the figure {path}: it is a folder; give the name of a file in it")
    if not path.suffix:
        path = path.with_name(f"{path.name}.png")
    try:
        draw(spectra, chosen).savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write the figure {path}: {error}") from error
    typer.echo(f"wrote {path}")


@app.command()
def simulate(
    output: Annotated[Path, typer.Argument(help="Folder: new, empty, or begun by the same command.")],
    archive: Annotated[str, typer.Option(help="boss | sdss | lamost | desi")],
    n: Annotated[int, typer.Option("--n", help="Spectra.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    recipe: Annotated[
        Path | None, typer.Option(help="TOML file that changes mix, redshifts, S/N, ... [the archive's own].")
    ] = None,
    templates: Annotated[
        Path | None, typer.Option(help="Folder of template sets (docs/simulation.md) [none needed].")
    ] = None,
    files: Annotated[
        str | None, typer.Option(help="plates (many spectra a file) | spectra (one) [as the archive has].")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes [as many as cores].")] = None,
) -> None:
    """Simulate a survey: files as the archive has them, and catalogues of what is true.

    A command that was stopped goes on where it was when it is given again.
    """
    from broadline.simulation.recipe import RECIPES, read_recipe
    from broadline.simulation.survey import Request
    from broadline.simulation.survey import simulate as run

    changed = read_recipe(recipe, RECIPES[archive]) if recipe and archive in RECIPES else None
    request = Request.of(archive, n, seed, changed, templates, files)
    with ProgressBar("simulating") as progress:
        try:
            catalogues = run(request, output, workers, lambda done: progress.show(done, done / n))
        except KeyboardInterrupt:
            raise StoppedError(f"interrupted; the same command goes on in {output}") from None
    typer.echo(f"{output}: {n:,} spectra, {', '.join(path.name for path in catalogues)}")


@app.command()
def prepare(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs, or @LIST (a file of names).")],
    truth: Annotated[
        list[Path],
        typer.Option(help="What is known of them: a superset, a catalogue, a table. Repeat it for more."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder: new, empty, or begun by the same command.")
    ],
    keep_ancillary: Annotated[
        bool, typer.Option("--keep-ancillary", help="Keep targets of ancillary programmes.")
    ] = False,
    rest_is_other: Annotated[
        bool,
        typer.Option("--rest-is-other", help="The truth lists quasars alone: what it lacks is none."),
    ] = False,
    preset: Annotated[
        str, typer.Option(help="What `train` is to teach with it: broadline | paper | paper-code | vgg-a ...")
    ] = "paper",
    archive: ArchiveName = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes [as many as cores].")] = None,
) -> None:
    """Make a training set: spectra as a network eats them, with what is known of them.

    A command that was stopped goes on where it was when it is given again.
    """
    from broadline.training.prepare import prepare as run
    from broadline.training.presets import PRESETS

    if preset not in PRESETS:
        raise UsageError(f"there is no preset {preset!r}; there are {', '.join(PRESETS)}")
    with ProgressBar() as progress:
        try:
            summary = run(
                paths,
                truth,
                output,
                PRESETS[preset].representation,
                rest_is_other=rest_is_other,
                keep_ancillary=keep_ancillary,
                archive=archive,
                workers=workers,
                on_unit=lambda so_far, fraction: progress.show(so_far.n_read, fraction),
            )
        except KeyboardInterrupt:
            raise StoppedError(f"interrupted; the same command goes on in {output}") from None
    classes = ", ".join(f"{n:,} {name or 'unidentified'}" for name, n in summary.classes.items() if n)
    typer.echo(f"{output}: {len(summary):,} of {summary.n_read:,} spectra: {classes}")
    typer.echo(
        f"of these {summary.n_bal:,} are tagged BAL, {summary.n_doubtful:,} not firmly identified, "
        f"{summary.n_repeated:,} have the name of another one"
    )
    typer.echo(
        f"left out: {summary.n_unusable:,} unusable, {summary.n_unmatched:,} not in the truth, "
        f"{summary.n_ancillary:,} of ancillary programmes"
    )
    for note in summary.notes[:20]:
        say(f"unusable: {note}")


app.command()(merge)
app.command()(train)
app.command()(transfer)
app.command()(evaluate)
app.command()(candidates)
app.command()(pack)
app.command()(learn)
app.command()(inspect)
app.command()(verdicts)
app.command()(serve)


@models.command("list")
def models_list() -> None:
    """List the models that can be named."""
    from broadline.named_models import list_models, user_folder

    known = list_models()
    for name, path in known.items():
        typer.echo(f"{name:<16} {path}")
    if not known:
        typer.echo(
            f"no models yet; `broadline models import WEIGHTS.h5 --name NAME` puts one into {user_folder()}"
        )


@models.command("show")
def models_show(model: Annotated[str, typer.Argument(help="A model's name or file.")]) -> None:
    """Print a model's card: what it is, what it was trained on, how it decides."""
    from broadline.named_models import load_model

    loaded = load_model(model)
    facts = {"sha256": loaded.sha256} | loaded.recipe.describe()
    for key, value in (*facts.items(), *loaded.recipe.card.items()):  # a card may use the same words
        typer.echo(f"{key + ':':<14} {value}")


@models.command("import")
def models_import(
    weights: Annotated[
        Path, typer.Argument(help="Published Keras weights (.h5), or a broadline model (.onnx).")
    ],
    name: Annotated[str | None, typer.Option(help="Name to use it by [the file's].")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write instead.")] = None,
    empty_bins: Empty = None,
) -> None:
    """Turn published weights into a model file and give it a name."""
    from broadline.named_models import import_weights

    typer.echo(f"wrote {import_weights(weights, name, output, empty_bins)}")


def _complain(error: BroadlineError) -> None:
    """Print an error; of several processes each prints its own, for the others may not have it."""
    if launcher.rank() == 0:
        say(f"broadline: {error}")
    elif not isinstance(error, StoppedError):
        typer.echo(f"broadline, process {launcher.rank() + 1} of {launcher.size()}: {error}", err=True)


_INTERRUPTED = 130  # the exit code that typer and shells make of an interrupt from the keyboard


def main() -> None:
    """Run the command line; an error meant for the user is one line and exit code 2."""
    # What astropy has to say of damaged headers is told by FLAGS and the summary.
    warnings.filterwarnings("ignore", module=r"astropy\.io\.fits")
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # batch systems interrupt so
    try:
        app(prog_name="broadline")
    except BroadlineError as error:
        _complain(error)
        sys.exit(_INTERRUPTED if isinstance(error, StoppedError) else 2)
    except SystemExit as leaving:
        if leaving.code == _INTERRUPTED:
            say("broadline: interrupted; nothing was written")
        raise
