"""The commands `inspect` and `verdicts`."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broadline.errors import UsageError

if TYPE_CHECKING:
    from broadline.inspect.spectrum import Viewer
    from broadline.inspect.subjects import Subjects

__all__ = ["inspect", "verdicts"]

_MISSING = "inspection needs more packages: pip install 'broadline[inspect]' ({})"

Catalogue = Annotated[Path, typer.Argument(help="What `broadline classify` wrote.")]
Name = Annotated[str | None, typer.Option(help="Whose verdicts these are [the user's name].")]


def inspect(
    catalogue: Catalogue,
    spectra: Annotated[
        list[Path] | None,
        typer.Option(help="Files or folders of the spectra; repeat it for more [where the catalogue says]."),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="What is known of them: spectra that differ from it are ranked high.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="The survey pipeline's results: spZall, redrock, a catalogue.")
    ] = None,
    verdicts: Annotated[
        Path | None, typer.Option(help="The file of verdicts [CATALOGUE.verdicts.sqlite].")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on [any free one].")] = 0,
    name: Name = None,
    static: Annotated[
        Path | None, typer.Option(help="Write a page that needs no server instead, for a colleague (.html).")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Spectra in that page, those ranked highest.")] = 50,
) -> None:
    """Open a page on this machine where experts rule on spectra, those that are most worth it first.

    Verdicts are kept in one file beside the catalogue, each before the next spectrum is shown.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError(_MISSING.format(error)) from error
    from broadline.inspect.marks import composite
    from broadline.inspect.project import Project
    from broadline.inspect.rulings import inspector_name
    from broadline.inspect.server import application
    from broadline.inspect.static_page import write_static_page
    from broadline.inspect.subjects import read_subjects
    from broadline.inspect.verdicts import Store, default_path
    from broadline.web import HOST, listen, new_token, run

    inspector = inspector_name(name or getpass.getuser())
    subjects = read_subjects(catalogue)
    viewer = _viewer(subjects, spectra or [], truth, baseline)
    if static is not None:
        written = write_static_page(static, viewer, viewer.ranking.queue("ranked")[:n], inspector)
        typer.echo(
            f"wrote {written} spectra to {static}; verdicts made there come in by `broadline verdicts --add`"
        )
        return
    with Store(verdicts or default_path(catalogue), subjects) as store, listen(port) as listening:
        project = Project(subjects, viewer.ranking, viewer, store, inspector)
        composite()  # takes a third of a second, for which the first page would wait
        token, number = new_token(), listening.getsockname()[1]
        typer.echo(f"open http://{HOST}:{number}/{token}/ (no other link lets in; Ctrl-C ends)")
        run(application(project, token), listening)


def _viewer(subjects: Subjects, spectra: list[Path], truth: Path | None, baseline: Path | None) -> Viewer:
    from broadline.inspect import queue
    from broadline.inspect.spectrum import Viewer
    from broadline.lookup import Lookup

    opinions = {}
    if baseline is not None:
        opinions["pipeline"] = queue.pipeline(baseline, subjects)
    if truth is not None:
        opinions["truth table"] = queue.truth(truth, subjects)
    lookup = Lookup.of(subjects.columns["SOURCE"].tolist(), spectra)
    return Viewer(subjects, queue.rank(subjects, opinions), lookup)


def verdicts(
    file: Annotated[Path, typer.Argument(help="The file of verdicts that `broadline inspect` keeps.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help=".csv: all verdicts, for desihub/prospect. .parquet: what they agree on, a truth table.",
        ),
    ] = None,
    add: Annotated[
        list[Path] | None,
        typer.Option(help="Take in verdicts: a csv of prospect, or any truth table. Repeat it for more."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Who made those of a truth table [its file's name].")
    ] = None,
    catalogue: Annotated[
        Path | None, typer.Option(help="The catalogue, if it has moved [where it was].")
    ] = None,
) -> None:
    """Take verdicts of inspectors out of their file, or into it; say how far they agree."""
    from broadline.files import write_aside
    from broadline.inspect import exchange
    from broadline.inspect.agreement import agreement, disputed
    from broadline.inspect.subjects import read_subjects
    from broadline.inspect.verdicts import Store, catalogue_of

    formats: dict[str, Callable[..., bytes]] = {
        ".csv": exchange.prospect_csv,
        ".parquet": exchange.truth_parquet,
    }
    if output is not None and output.suffix not in formats:
        raise UsageError(f"cannot write verdicts as {output.suffix or 'no format'}: use {', '.join(formats)}")
    subjects = read_subjects(catalogue or catalogue_of(file))
    with Store(file, subjects) as store:
        for path in add or []:
            read = exchange.read_verdicts(path, subjects, name)
            new = store.rule_all(read.verdicts)
            typer.echo(
                f"{path}: {new:,} new verdicts, {read.n_unmatched:,} on spectra that are not in the catalogue"
            )
        standing = store.standing()
    n = sum(len(said) for said in standing.values())
    typer.echo(f"{n:,} verdicts on {len(standing):,} spectra; {len(disputed(standing)):,} to adjudicate")
    for pair in agreement(standing):
        typer.echo(
            f"{' and '.join(pair.inspectors)}: {pair.n:,} spectra, kappa of class {pair.kappa:.3f}, "
            f"same redshift {pair.same_z.k:,} of {pair.same_z.n:,}"
        )
    if output is not None:
        try:
            write_aside(output, formats[output.suffix](subjects, standing))
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror or error}") from error
        typer.echo(f"wrote {output}")
