"""What the command line says on the way: the progress bar, notes and the summary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from broadline import launcher

if TYPE_CHECKING:
    from broadline.inputs import Inputs
    from broadline.journal import Journal
    from broadline.model import Model
    from broadline.pipeline import Summary, Unit
    from broadline.training.fit import Progress as Learnt

__all__ = ["ProgressBar", "report", "report_run", "say"]


class ProgressBar:
    """A progress bar with rate and time left on a terminal; nothing elsewhere. Used as a context manager.

    Parameters
    ----------
    title : str
        Stands before the bar until a method says otherwise.
    """

    def __init__(self, title: str = "reading") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=launcher.rank() > 0 or not console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task(title, total=1.0, rate="")
        self._validated = ""

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def start(self, inputs: Inputs, model: Model) -> None:
        """Say what is odd about the files and the model, before `pipeline.classify` begins with them."""
        if model.representation.empty == "as-published":
            say(f"note: model {model.name} fills bins without data as published; --empty-bins zero leaves 0")
        if inputs.repeated:
            say(f"note: {inputs.repeated} files were named more than once; each is read once")
        if inputs.skipped:
            names = ", ".join(path.name for path in inputs.skipped[:3])
            more = ", ..." if len(inputs.skipped) > 3 else ""
            say(f"note: left out {len(inputs.skipped)} files that hold no spectra ({names}{more})")

    def advance(self, unit: Unit, summary: Summary, fraction: float) -> None:
        """Show that a unit of `pipeline.classify` is done, and with it `fraction` (0 to 1) of the work."""
        self.bar.update(self.task, description=unit.archive)
        self.show(summary.n_spectra, fraction)

    def follow(self, unit: Unit, journal: Journal) -> None:
        """Show that a unit of `runner.classify_folder` is done, which may have begun with many that were."""
        rate = f"{journal.summary.n_spectra:,} spectra, {journal.rate:,.0f}/s"
        if not self.bar.tasks[0].completed:  # time left is reckoned from here on
            self.bar.reset(self.task, total=journal.n_bytes, completed=journal.bytes_done)
        self.bar.update(self.task, completed=journal.bytes_done, description=unit.archive, rate=rate)

    def learn(self, state: Learnt) -> None:
        """Show loss and last validation; the end of an epoch, which has scores, is said on its own line."""
        if state.scores:
            shown = [f"{key} {state.scores[key]:.4g}" for key in state.shown]
            self._validated = f", {', '.join(shown[:2])}"
            say(f"epoch {state.epoch + 1}: loss {state.loss:.4f}, on validation {', '.join(shown)}")
        if state.stopped:
            say(f"stopped after epoch {state.epoch + 1}: validation no longer improves")
        text = f"loss {state.loss:.4f}{self._validated}"
        self.bar.update(self.task, completed=state.step / state.n_steps, description="training", rate=text)

    def split(self, number: int, n_splits: int) -> None:
        """Show that a training on one of several splits, counted from 0, begins."""
        self._validated = ""
        if n_splits > 1:
            say(f"split {number + 1} of {n_splits}")

    def show(self, n_spectra: int, fraction: float) -> None:
        """Show that `n_spectra` are done, and with them `fraction` (0 to 1) of the work."""
        elapsed = self.bar.tasks[0].elapsed or 0
        rate = f"{n_spectra:,} spectra, {n_spectra / elapsed:,.0f}/s" if elapsed else ""
        self.bar.update(self.task, completed=fraction, rate=rate)


def report(summary: Summary, output: Path) -> None:
    """Print what became of the spectra of a catalogue; what is wrong with them goes to standard error."""
    typer.echo(
        f"{output}: {summary.n_spectra:,} spectra, {summary.n_qso:,} quasars ({summary.n_bal:,} BAL), "
        f"{summary.n_vi:,} for inspection, {summary.n_unreadable:,} unreadable"
    )
    for note in summary.notes[:20]:
        say(f"flagged: {note}")
    if len(summary.notes) > 20:
        say(f"... and more: the rows whose FLAGS have bit UNREADABLE ({summary.n_unreadable:,})")


def report_run(journal: Journal | None) -> None:
    """Print how a run into a catalogue folder went: rates, faults, and what took longest."""
    if journal is None:
        typer.echo("it was finished already; nothing was done")
        return
    typer.echo(
        f"{journal.seconds:,.1f} s, {journal.rate:,.0f} spectra/s, {journal.units:,} units; "
        f"{journal.retried} attempts made again, {journal.quarantined} files set aside"
    )
    if journal.slowest:
        slow = ", ".join(
            f"{number} ({seconds:.1f} s, {file})" for seconds, number, file in journal.slowest[:3]
        )
        typer.echo(f"slowest units: {slow}")


def say(text: str) -> None:
    """Print a line to standard error; of several processes the first alone does."""
    if launcher.rank() == 0:
        typer.echo(text, err=True)
