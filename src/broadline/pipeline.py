"""Files -> catalogue: units of files, worker processes, results written in input order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from broadline import __version__
from broadline.errors import BroadlineError, ReadError
from broadline.flags import Flag
from broadline.inputs import Inputs, expand, read_group
from broadline.runtime import Precision

if TYPE_CHECKING:
    import pyarrow as pa

    from broadline.model import Model

__all__ = ["ModelChoice", "Summary", "Unit", "classify", "plan"]

_UNIT_BYTES = 64 << 20
_UNIT_FILES = 512


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model classifies and how; small, so that it travels to worker processes.

    Attributes
    ----------
    name : str
        As `broadline.load_model` takes it.
    precision : {"fp32", "bf16"}
    empty : {"zero", "as-published"}, optional
        What bins without data hold.
    c_th, l_min, c_th_bal : float, int, float, optional
        The decision rule (`broadline.decision.Rule`). What is not given is the model's own.
    """

    name: str
    precision: Precision = "fp32"
    empty: str | None = None
    c_th: float | None = None
    l_min: int | None = None
    c_th_bal: float | None = None

    def load(self, threads: int | None = None) -> Model:
        """Return the model, set up as chosen."""
        from broadline.model import load_model

        model = load_model(self.name, precision=self.precision, threads=threads)
        given = {"c_th": self.c_th, "l_min": self.l_min, "c_th_bal": self.c_th_bal}
        changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        model.rule = replace(model.rule, **changes)
        if self.empty is not None:
            model.fill_empty_bins(self.empty)
        return model


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work: some files of one archive.

    Attributes
    ----------
    archive : str
    paths : tuple of Path
    n_bytes : int
        Size of the files on disk.
    faults : dict of Path to ReadError
        What is known to be wrong with them already.
    """

    archive: str
    paths: tuple[Path, ...]
    n_bytes: int
    faults: dict[Path, ReadError] = field(default_factory=dict)


@dataclass(slots=True)
class Summary:
    """What a run did.

    Attributes
    ----------
    n_spectra, n_qso, n_bal, n_vi, n_unreadable : int
        Catalogue rows: all, called quasar, called BAL, sent to inspection, not readable.
    notes : list of str
        The reason for each file that could not be read, at most `MAX_NOTES`.
    """

    n_spectra: int = 0
    n_qso: int = 0
    n_bal: int = 0
    n_vi: int = 0
    n_unreadable: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, table: pa.Table, notes: Sequence[str]) -> None:
        """Count the rows of one unit."""
        import pyarrow.compute as pc

        self.n_spectra += table.num_rows
        for name, column in (("n_qso", "IS_QSO"), ("n_bal", "IS_BAL"), ("n_vi", "NEEDS_VI")):
            setattr(self, name, getattr(self, name) + (pc.sum(table[column]).as_py() or 0))
        unreadable = (np.asarray(table["FLAGS"]) & Flag.UNREADABLE) != 0
        self.n_unreadable += int(unreadable.sum())
        self.notes.extend(notes[: MAX_NOTES - len(self.notes)])


#: Reasons kept for the summary; every row keeps its flag.
MAX_NOTES = 1000


def plan(inputs: Inputs) -> list[Unit]:
    """Return the units of work for some inputs, in input order.

    A unit holds consecutive files of one archive, up to 64 MB or 512 files, never part of a file; files that
    are read as one stay together.
    """
    from broadline.archives import ARCHIVES

    units: list[Unit] = []
    paths: list[Path] = []
    n_bytes, kind, key = 0, "", ""

    def close() -> None:
        if paths:
            faults = {path: inputs.faults[path] for path in paths if path in inputs.faults}
            units.append(Unit(kind, tuple(paths), n_bytes, faults))

    for path, name in inputs.files:
        group = ARCHIVES[name].group if name in ARCHIVES else None
        this_key = group(path) if group else str(path)
        full = n_bytes >= _UNIT_BYTES or len(paths) >= _UNIT_FILES
        if name != kind or (full and this_key != key):
            close()
            paths, n_bytes, kind = [], 0, name
        key = this_key
        paths.append(path)
        n_bytes += _size(path)
    close()
    return units


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # the reader will say what is wrong


def classify_unit(unit: Unit, model: Model, batch: int) -> _Result:
    """Return the catalogue rows of a unit and the reasons for files that could not be read.

    A pure function of its arguments and the files: any engine may run it, anywhere, again.
    """
    import pyarrow as pa

    tables: list[pa.Table] = []
    notes: list[str] = []
    for spectra in read_group(unit.archive, unit.paths, batch, unit.faults):
        tables.append(model.classify_batch(spectra))
        notes.extend(spectra.notes)
    return pa.concat_tables(tables), notes


_Result = tuple["pa.Table", list[str]]
_worker: tuple[Model, int] | None = None


def _start_worker(choice: ModelChoice, threads: int, batch: int) -> None:
    global _worker
    warnings.simplefilter("ignore")  # the parent process has loaded this model too, and told the user
    _worker = (choice.load(threads), batch)


def _work(unit: Unit) -> _Result:
    assert _worker is not None
    return classify_unit(unit, *_worker)


def available_cores() -> int:
    """Return the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Workers:
    """Worker processes that classify units. At most two units a worker are under way at a time.

    Use as a context manager.
    """

    def __init__(
        self, context: BaseContext, units: Sequence[Unit], choice: ModelChoice, n: int, batch: int
    ) -> None:
        threads = max(1, available_cores() // n)
        self.others = set(multiprocessing.active_children())
        self.pool = ProcessPoolExecutor(n, context, _start_worker, (choice, threads, batch))
        self.waiting = iter(units)
        self.queue: deque[tuple[Unit, Future[_Result]]] = deque()
        self.at_once = 2 * n

    def _submit(self) -> None:
        if (unit := next(self.waiting, None)) is not None:
            with _deaf_children():
                self.queue.append((unit, self.pool.submit(_work, unit)))

    def __enter__(self) -> _Workers:
        try:
            for _ in range(self.at_once):
                self._submit()
        except BaseException:
            self._abandon()
            raise
        return self

    def __iter__(self) -> Iterator[tuple[Unit, _Result]]:
        """Yield each unit with its rows, in input order."""
        while self.queue:
            unit, future = self.queue.popleft()
            try:
                result = future.result()
            except BrokenProcessPool as error:
                raise BroadlineError(
                    "a worker process was killed, perhaps for lack of memory; try fewer --workers"
                ) from error
            self._submit()
            yield unit, result

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.pool.shutdown()
        else:
            self._abandon()

    def _abandon(self) -> None:
        """End the workers where they are, and wait until they have ended: what they share goes with this."""
        workers = set(multiprocessing.active_children()) - self.others
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
        self.pool.shutdown(cancel_futures=True)


def _prepare_workers(choice: ModelChoice) -> BaseContext:
    """Return how workers are started: as copies of one process that imports all they need, where that is had.

    That process starts here and imports while this one loads the model. A plain fork of this one would
    inherit its threads in an unknown state.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver, resource_tracker

    context = multiprocessing.get_context("forkserver")
    needed = ["broadline.model", "broadline.catalogue", "broadline.archives", "onnxruntime"]
    context.set_forkserver_preload(needed + ["broadline.networks.quasarnet"] * (choice.precision != "fp32"))
    resource_tracker.ensure_running()  # first: where it starts, it unblocks interrupts
    with _deaf_children():
        forkserver.ensure_running()
    return context


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Let processes started inside never hear of an interrupt from the keyboard: this one ends them.

    An interrupt meanwhile is raised at the end, as a process half started could not be ended.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    interrupts: list[object] = []
    handler = signal.signal(signal.SIGINT, lambda *call: interrupts.append(call))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if interrupts:
        raise KeyboardInterrupt


def classify(
    names: Sequence[str | Path],
    output: Path,
    choice: ModelChoice,
    *,
    archive: str | None = None,
    layout: str | None = None,
    workers: int | None = None,
    batch: int = 256,
    on_inputs: Callable[[Inputs, Model], None] | None = None,
    on_unit: Callable[[Unit, Summary, float], None] | None = None,
) -> Summary:
    """Classify all spectra behind some names into one catalogue file.

    Parameters
    ----------
    names : sequence of str or Path
        Files, folders, globs, ``@LIST``.
    output : Path
        The suffix chooses the format.
    choice : ModelChoice
    archive : str, optional
        Take every file for one of this archive.
    layout : str, optional
        A drop-in layout instead of broadline's own columns.
    workers : int, optional
        Worker processes; as many as there are cores, or units, if not given.
    batch : int
        Spectra a batch: bounds the memory of each worker.
    on_inputs, on_unit : callable, optional
        Told what was found, and after each unit what was done and which fraction of the bytes that is.

    Returns
    -------
    Summary

    Raises
    ------
    UsageError, ModelError
        If the request cannot be carried out; nothing is written then.
    """
    from broadline.writers import CatalogueWriter

    inputs = expand(names, archive)
    units = plan(inputs)
    workers = min(workers or available_cores(), len(units))
    summary = Summary()
    total = sum(unit.n_bytes for unit in units) or 1
    done = 0
    with ExitStack() as stack:
        context = _prepare_workers(choice) if workers > 1 else None
        model = choice.load(1 if context else None)
        if on_inputs:
            on_inputs(inputs, model)
        writer = stack.enter_context(CatalogueWriter(output, model.lines, provenance(model), layout))
        results: Iterable[tuple[Unit, _Result]]
        if context:
            results = stack.enter_context(_Workers(context, units, choice, workers, batch))
        else:
            results = ((unit, classify_unit(unit, model, batch)) for unit in units)
        for unit, (table, notes) in results:
            writer.append(table)
            summary.add(table, notes)
            done += unit.n_bytes
            if on_unit:
                on_unit(unit, summary, done / total)
    return summary


def provenance(model: Model) -> dict[str, str]:
    """Return what a catalogue says of its making: version, model, rule, command and date."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    weights = model.recipe.card.get("file_sha256")  # of imported weights: a checksum that can be looked up
    return {
        "version": __version__,
        "model": model.name,
        "model_sha256": model.sha256,
        "precision": model.precision,
        "rule": f"c_th={model.rule.c_th} l_min={model.rule.l_min} c_th_bal={model.rule.c_th_bal}",
        "empty_bins": model.representation.empty,
        # of imported weights, the file they came from: its checksum can be looked up
        **(
            {"weights_sha256": model.recipe.card["file_sha256"]} if "file_sha256" in model.recipe.card else {}
        ),
        **({"weights_sha256": weights} if weights else {}),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": now.isoformat(timespec="seconds"),
    }
