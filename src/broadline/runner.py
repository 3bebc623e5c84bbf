"""Surveys into catalogue folders: units done by any engine; what is done is kept, and a run can go on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from broadline import __version__
from broadline.attempts import Attempts, Task
from broadline.errors import UsageError
from broadline.folder import CatalogueFolder, Record, write_part
from broadline.inputs import Inputs, expand
from broadline.journal import Journal
from broadline.model import Model
from broadline.patience import patiently
from broadline.pipeline import (
    STALL,
    ModelChoice,
    Summary,
    Unit,
    classify_unit,
    plan,
    provenance,
    threads_for,
    worker_context,
)
from broadline.workers import Engine, Pool, available_cores, worker_name
from broadline.writers import CatalogueWriter

__all__ = ["Done", "classify_folder", "merge"]


@dataclass(frozen=True, slots=True)
class Done:
    """What a run left.

    Attributes
    ----------
    summary : Summary
        Of the whole catalogue.
    journal : Journal, optional
        What this run did of it; None if there was nothing left to do.
    """

    summary: Summary
    journal: Journal | None


def classify_folder(
    names: Sequence[str | Path],
    output: Path,
    choice: ModelChoice,
    *,
    archive: str | None = None,
    workers: int | None = None,
    batch: int = 256,
    stall: float = STALL,
    cluster: str | None = None,
    on_inputs: Callable[[Inputs, Model], None] | None = None,
    on_unit: Callable[[Unit, Journal], None] | None = None,
) -> Done:
    """Classify all spectra behind some names into a catalogue folder, or go on with one.

    Parameters
    ----------
    names : sequence of str or Path
        Files, folders, globs, ``@LIST``.
    output : Path
        New or empty, or where the same was begun: then the files are those found at that time.
    choice : ModelChoice
    archive : str, optional
        Take every file for one of this archive.
    workers : int, optional
        Worker processes; as many as there are cores, or units, if not given.
    batch : int
        Spectra a batch: bounds the memory of each worker.
    stall : float
        Seconds that a worker may take over a unit before it is killed.
    cluster : str, optional
        ``tcp://HOST:PORT`` of a Dask scheduler, or ``local[:N]`` for one of N workers here, instead of worker
        processes.
    on_inputs, on_unit : callable, optional
        Told what was found, if the folder is new, and after each unit what was done.

    Raises
    ------
    UsageError, ModelError
        If the request cannot be carried out, the folder holds another or is being worked in, or cannot be
        written. What is done stays done, and the same call goes on.
    """
    folder = CatalogueFolder(output.expanduser().absolute())
    model = choice.load(1)
    with _in(folder), folder.claimed():
        request = _request(names, choice, model, archive, batch)
        held = folder.claimed_for(request)
        if held is None:
            inputs = expand(names, archive)
            if on_inputs:
                on_inputs(inputs, model)
            units = plan(inputs)
            relative = any(not path.is_absolute() for path, _ in inputs.files)
            request["directory"] = str(Path.cwd()) if relative else None
            held = folder.begin(request, provenance(model), model.lines, model.content, units)
        if summary := folder.finished():
            return Done(summary, None)
        if cluster and "://" in cluster and held["request"]["directory"] is not None:
            raise UsageError("workers of a cluster may run in another folder; give absolute names of spectra")
        return _run(folder, choice, _Means(workers, batch, stall, cluster), on_unit)


@dataclass(frozen=True, slots=True)
class _Means:
    """How units are to be done."""

    workers: int | None
    batch: int
    stall: float
    cluster: str | None


def _request(
    names: Sequence[str | Path], choice: ModelChoice, model: Model, archive: str | None, batch: int
) -> dict[str, Any]:
    """Return what decides the bytes, as JSON types."""
    about = provenance(model)
    return {
        "names": [str(name) for name in names],
        "archive": archive,
        "batch": batch,
        **{key: about[key] for key in ("version", "model_sha256", "precision", "rule", "empty_bins")},
    }


def _run(
    folder: CatalogueFolder,
    choice: ModelChoice,
    means: _Means,
    on_unit: Callable[[Unit, Journal], None] | None,
) -> Done:
    """Do all units that have no part yet, then write the manifest."""
    sizes = folder.unit_bytes()
    records = folder.records()
    journal = Journal(folder.path, len(sizes), int(sizes.sum()))
    for number in sorted(records):
        journal.add(int(sizes[number]), records[number].counts)
    waiting = ((number, unit) for number, unit in folder.units() if number not in records)
    with journal:
        if len(records) < len(sizes):
            with _engine(folder, choice, means, len(sizes) - len(records)) as engine:
                for number, (unit, record) in Attempts(waiting, engine, journal.note, journal.beat):
                    records[number] = record
                    journal.add(int(sizes[number]), record.counts)
                    if on_unit:
                        on_unit(unit, journal)
        summary = folder.finish(records)
    return Done(summary, journal)


def _engine(
    folder: CatalogueFolder, choice: ModelChoice, means: _Means, n_units: int
) -> AbstractContextManager[Engine[Task[Unit], Record | None]]:
    """Return what does the units, ready to start."""
    ours = replace(choice, name=str(folder.model))
    spectra = next(folder.units())[1].paths[0].parent
    seen = [folder.model, *([spectra] if spectra.exists() else [])]
    if means.cluster is not None:
        from broadline.cluster import DaskEngine

        return DaskEngine(means.cluster, PartWriter, (folder, ours, 1, means.batch, seen), means.stall)
    workers = min(means.workers or available_cores(), n_units)
    arguments = (folder, ours, threads_for(workers), means.batch, seen)
    return Pool(worker_context(choice, "broadline.runner"), PartWriter, arguments, workers, means.stall)


class PartWriter:
    """What a worker does with units of a catalogue folder: it holds the model, and writes parts.

    Parameters
    ----------
    folder : CatalogueFolder
    choice : ModelChoice
        Its name is the model's file in the folder.
    threads : int
        Threads the network may use.
    batch : int
        Spectra a batch.
    seen : sequence of Path
        What is there for the process that gives the units, and must be for this one.

    Raises
    ------
    UsageError
        If a worker elsewhere does not see these paths, or has another version of broadline.
    """

    def __init__(
        self, folder: CatalogueFolder, choice: ModelChoice, threads: int, batch: int, seen: Sequence[Path]
    ) -> None:
        warnings.simplefilter("ignore")  # the process that gives the units has told the user
        if hidden := [path for path in seen if not path.exists()]:
            raise UsageError(
                f"worker {worker_name()} does not see {hidden[0]}; put it on storage that all workers see"
            )
        self.folder = folder
        self.meta, self.lines = folder.about()
        if (ours := self.meta["version"]) != __version__:
            raise UsageError(
                f"worker {worker_name()} has broadline {__version__}, not {ours}; install that there"
            )
        self.model = choice.load(threads)
        self.batch = batch

    def __call__(self, task: Task[Unit]) -> Record | None:
        """Write the part of a unit and return its record; nothing of one that was only to be probed."""
        table, notes = classify_unit(task.unit, self.model, self.batch)
        if task.probe:
            return None
        summary = Summary()
        summary.add(table, notes)
        with _in(self.folder):
            return patiently(
                self.folder.path,
                lambda path: write_part(path, task.number, table, summary, self.meta, self.lines),
            )


def merge(folder: Path, output: Path, layout: str | None = None) -> int:
    """Write a finished catalogue folder as one file, part by part; return the number of rows.

    The bytes are those that `pipeline.classify` writes for the same request.

    Parameters
    ----------
    folder : Path
    output : Path
        The suffix chooses the format.
    layout : str, optional
        A drop-in layout instead of broadline's own columns.

    Raises
    ------
    UsageError
        If the folder is no catalogue folder, not finished, or not as it was written, or the file cannot be
        written.
    """
    source = CatalogueFolder(folder.expanduser())
    meta, lines = source.about()
    n_rows = 0
    with CatalogueWriter(output, lines, meta, layout) as writer:
        for table in source.tables():
            writer.append(table)
            n_rows += len(table)
    return n_rows


@contextmanager
def _in(folder: CatalogueFolder) -> Iterator[None]:
    """Say of a folder that cannot be written what is wrong, and that nothing done is lost."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot write into {folder.path} ({error.strerror or error}); "
            "once this is mended the same command goes on"
        ) from error
