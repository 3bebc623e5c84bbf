"""Files -> catalogue: units of files, worker processes, results written in input order."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from broadline import __version__
from broadline.attempts import Attempts, Task
from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.inputs import Inputs, expand, read_group
from broadline.ordered import in_order
from broadline.runtime import Precision
from broadline.workers import Pool, available_cores, prepare

if TYPE_CHECKING:
    import pyarrow as pa

    from broadline.model import Model

__all__ = [
    "STALL",
    "Classifier",
    "ModelChoice",
    "Summary",
    "Unit",
    "classify",
    "classify_unit",
    "plan",
    "provenance",
    "threads_for",
    "worker_context",
]

#: Seconds after which a worker that is not done with a unit (a second or a few, mostly) is held to be stuck.
STALL = 600.0

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
        from broadline.named_models import load_model

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
    sizes : tuple of int
        Bytes of each file on disk.
    faults : dict of Path to ReadError
        What is known to be wrong with them already.
    """

    archive: str
    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    faults: dict[Path, ReadError] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(self.sizes)

    def pieces(self) -> list[Unit]:
        """Return its files one by one, but together where they are read as one."""
        from broadline.archives import ARCHIVES

        group = ARCHIVES[self.archive].group if self.archive in ARCHIVES else None
        files = zip(self.paths, self.sizes, strict=True)
        shares = [list(share) for _, share in groupby(files, key=lambda file: (group or str)(file[0]))]
        return [
            replace(self, paths=tuple(p), sizes=tuple(s)) for p, s in (zip(*x, strict=True) for x in shares)
        ]

    def without(self, guilty: Sequence[tuple[Unit, str]]) -> Unit:
        """Return the unit with some of its pieces not to be read, each for a reason: one flagged row each."""
        faults = {u.paths[0]: ReadError(u.paths[0], f"set aside: {reason}") for u, reason in guilty}
        beside = {path for piece, _ in guilty for path in piece.paths[1:]}
        kept = [file for file in zip(self.paths, self.sizes, strict=True) if file[0] not in beside]
        paths, sizes = zip(*kept, strict=True)
        return replace(self, paths=paths, sizes=sizes, faults=self.faults | faults)


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
        self._note(notes)

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """Count what another summary has counted, given as `to_dict` returns it."""
        for name, value in counts.items():
            if name != "notes":
                setattr(self, name, getattr(self, name) + value)
        self._note(counts["notes"])

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and notes as JSON types."""
        return asdict(self)

    def _note(self, notes: Sequence[str]) -> None:
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
    sizes: list[int] = []
    n_bytes, kind, key = 0, "", ""

    def close() -> None:
        if paths:
            faults = {path: inputs.faults[path] for path in paths if path in inputs.faults}
            units.append(Unit(kind, tuple(paths), tuple(sizes), faults))

    for path, name in inputs.files:
        group = ARCHIVES[name].group if name in ARCHIVES else None
        this_key = group(path) if group else str(path)
        full = n_bytes >= _UNIT_BYTES or len(paths) >= _UNIT_FILES
        if name != kind or (full and this_key != key):
            close()
            paths, sizes, n_bytes, kind = [], [], 0, name
        key = this_key
        paths.append(path)
        sizes.append(_size(path))
        n_bytes += sizes[-1]
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

    from broadline.catalogue import schema

    tables = [schema(model.lines).empty_table()]  # files may hold no spectra
    notes: list[str] = []
    for spectra in read_group(unit.archive, unit.paths, batch, unit.faults):
        tables.append(model.classify_batch(spectra))
        notes.extend(spectra.notes)
    return pa.concat_tables(tables), notes


_Result = tuple["pa.Table", list[str]]


class Classifier:
    """What a worker process does with units: it holds the model.

    Parameters
    ----------
    choice : ModelChoice
    threads : int
        Threads the network may use.
    batch : int
        Spectra a batch.
    """

    def __init__(self, choice: ModelChoice, threads: int, batch: int) -> None:
        warnings.simplefilter("ignore")  # the parent process has loaded this model too, and told the user
        self.model = choice.load(threads)
        self.batch = batch

    def __call__(self, task: Task[Unit]) -> _Result | None:
        """Return the rows of a unit and its notes; nothing of one that was only to be probed."""
        result = classify_unit(task.unit, self.model, self.batch)
        return None if task.probe else result


def worker_context(choice: ModelChoice, *modules: str) -> BaseContext:
    """Return how worker processes that classify are started, with further modules that they need."""
    needed = ["broadline.named_models", "broadline.catalogue", "broadline.archives", "onnxruntime", *modules]
    return prepare(needed + ["broadline.networks.quasarnet"] * (choice.precision != "fp32"))


def threads_for(workers: int) -> int:
    """Return how many threads each of some worker processes here may use."""
    return max(1, available_cores() // workers)


def classify(
    names: Sequence[str | Path],
    output: Path,
    choice: ModelChoice,
    *,
    archive: str | None = None,
    layout: str | None = None,
    workers: int | None = None,
    batch: int = 256,
    stall: float = STALL,
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
    stall : float
        Seconds that a worker process may take over a unit. A file that stops or kills workers again and again
        becomes a flagged row; where there is one process alone it stops or kills that.
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
        context = worker_context(choice) if workers > 1 else None
        model = choice.load(1 if context else None)
        if on_inputs:
            on_inputs(inputs, model)
        writer = stack.enter_context(CatalogueWriter(output, model.lines, provenance(model), layout))
        results: Iterable[tuple[Unit, _Result]]
        if context:
            arguments = (choice, threads_for(workers), batch)
            pool = Pool[Task[Unit], _Result | None](context, Classifier, arguments, workers, stall)
            attempts = Attempts(enumerate(units), stack.enter_context(pool), window=2 * workers)
            results = in_order(attempts)
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
        **({"weights_sha256": weights} if weights else {}),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": now.isoformat(timespec="seconds"),
    }
