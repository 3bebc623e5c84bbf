"""Surveys on disk: fields simulated by worker processes, files and truth written, resumable."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from broadline import __version__
from broadline.errors import UsageError
from broadline.ordered import Workers
from broadline.simulation.field import observe_field
from broadline.simulation.files import desi, desi_tables, lamost, lamost_tables, sdss, sdss_tables
from broadline.simulation.instruments import INSTRUMENTS
from broadline.simulation.one_thread import one_thread
from broadline.simulation.pointing import Pointing
from broadline.simulation.recipe import CLASSES, RECIPES, SurveyRecipe
from broadline.simulation.sources import draw_sources
from broadline.workers import available_cores, prepare

__all__ = ["ARCHIVES", "Files", "Request", "simulate"]

Files = Literal["plates", "spectra"]
Table = dict[str, NDArray[Any]]

_STATE = "simulation.json"
_PARTS = ".parts"


class _Layout(NamedTuple):
    """How an archive keeps its files."""

    size: int  # fibres of a plate, spectrograph or petal
    identity: Callable[[Pointing], Mapping[str, NDArray[Any]]]
    writers: Mapping[str, tuple[Callable[[Pointing, Path], None], ...]]  # by `Files`, the usual kind first
    catalogues: Callable[[Iterable[Mapping[str, NDArray[Any]]], Path], list[Path]]


def _plate_identity(pointing: Pointing) -> Table:
    fiber = pointing.table["FIBER"]
    plate, mjd = (np.full(len(fiber), value, np.int32) for value in (pointing.plate, pointing.mjd))
    return {"PLATE": plate, "MJD": mjd, "FIBERID": fiber.astype(np.int32)}


def _sdss(archive: str, size: int) -> _Layout:
    writers = {
        "plates": (sdss.write_plate, sdss.write_results),
        "spectra": (sdss.write_spectra, sdss.write_results),
    }
    return _Layout(size, _plate_identity, writers, partial(sdss_tables.write_catalogues, archive=archive))


_LAYOUTS: Mapping[str, _Layout] = {
    "boss": _sdss("boss", 1000),
    "sdss": _sdss("sdss", 640),
    "lamost": _Layout(
        250, lamost.identity_columns, {"spectra": (lamost.write_spectra,)}, lamost_tables.write_catalogues
    ),
    "desi": _Layout(
        500,
        desi.identity_columns,
        {"plates": (desi.write_coadd, desi.write_truth)},
        desi_tables.write_catalogues,
    ),
}
#: Archives whose surveys can be simulated.
ARCHIVES = tuple(_LAYOUTS)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be simulated: everything that decides the bytes.

    Attributes
    ----------
    archive : {"boss", "sdss", "lamost", "desi"}
    n : int
        Spectra.
    seed : int
    recipe : SurveyRecipe
    templates : str, optional
        Templates folder.
    files : {"plates", "spectra"}, optional
        Many spectra a file, or one; what the archive is most used with if not given.
    """

    archive: str
    n: int
    seed: int
    recipe: SurveyRecipe
    templates: str | None = None
    files: str | None = None

    @classmethod
    def of(
        cls,
        archive: str,
        n: int,
        seed: int = 0,
        recipe: SurveyRecipe | None = None,
        templates: str | Path | None = None,
        files: str | None = None,
    ) -> Request:
        """Return a request that has been checked.

        Raises
        ------
        UsageError
            If the archive is unknown, has no such files, the numbers are impossible or the templates are not
            there.
        """
        if archive not in _LAYOUTS:
            raise UsageError(f"there is no archive {archive!r} to simulate; there are {', '.join(ARCHIVES)}")
        known = _LAYOUTS[archive].writers
        if files is not None and files not in known:
            raise UsageError(f"{archive} has no files of kind {files!r}; it has {', '.join(known)}")
        if n < 1 or seed < 0:
            raise UsageError(f"n must be at least 1 and the seed at least 0, not {n} and {seed}")
        if templates is not None and not Path(templates).is_dir():
            raise UsageError(f"there is no templates folder {templates}; without --templates none is needed")
        place = None if templates is None else str(templates)
        return cls(archive, n, seed, recipe or RECIPES[archive], place, files or next(iter(known)))

    def fields(self) -> Iterator[_Field]:
        """Yield the fields that make the survey, first visits and second visits together `n` spectra."""
        full, left, number = _LAYOUTS[self.archive].size, self.n, 0
        while left:
            size = min(full, math.ceil(left / (1 + self.recipe.repeats)))
            again = left - size if size < full else min(round(self.recipe.repeats * size), left - size)
            yield _Field(number, size, again)
            left, number = left - size - again, number + 1

    def to_dict(self) -> dict[str, Any]:
        """Return the request as plain JSON types."""
        return {
            "version": __version__,
            "archive": self.archive,
            "n": self.n,
            "seed": self.seed,
            "templates": self.templates,
            "files": self.files,
            "recipe": self.recipe.to_dict(),
        }


class _Field(NamedTuple):
    number: int
    size: int
    again: int


def simulate(
    request: Request,
    folder: Path,
    workers: int | None = None,
    on_field: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write a simulated survey: files of spectra and truth catalogues, as the archive would have them.

    The bytes depend on the request alone, not on the number of workers or threads nor on how often the run
    was killed and started again.

    Parameters
    ----------
    request : Request
    folder : Path
        New or empty, or one where the same request was begun.
    workers : int, optional
        Processes; as many as there are cores, or fields, if not given.
    on_field : callable, optional
        Told the number of spectra done so far, after each field.

    Returns
    -------
    list of Path
        The catalogues; ``truth.parquet`` holds everything that is known (`pointing.COLUMNS`), a row a
        spectrum.

    Raises
    ------
    UsageError
        If the folder holds something else, or cannot be written; in that case what is done stays done.
    """
    try:
        state = _claim(request, folder)
        if not state["finished"]:
            _simulate(request, folder, state, workers, on_field)
        shutil.rmtree(folder / _PARTS, ignore_errors=True)
    except OSError as error:
        raise UsageError(
            f"cannot write the survey into {folder} ({error}); once this is mended the same command goes on"
        ) from error
    return [folder / name for name in state["catalogues"]]


def _simulate(
    request: Request,
    folder: Path,
    state: dict[str, Any],
    workers: int | None,
    on_field: Callable[[int], None] | None,
) -> None:
    """Do what is left to do of a survey."""
    fields = list(request.fields())
    parts = folder / _PARTS
    parts.mkdir(exist_ok=True)
    waiting = [field for field in fields if not _part(parts, field).exists()]
    done = request.n - sum(field.size + field.again for field in waiting)
    try:
        with closing(_write_fields(request, folder, waiting, workers)) as written:
            for n_spectra in written:
                done += n_spectra
                if on_field:
                    on_field(done)
        catalogues = _LAYOUTS[request.archive].catalogues(_tables(parts, fields), folder)
        catalogues.append(_write_truth(_tables(parts, fields), folder / "truth.parquet"))
    except UsageError as error:
        raise UsageError(f"{error}; the same command goes on where this one was") from error
    state |= {"finished": True, "catalogues": [path.name for path in catalogues]}
    _write_state(state, folder)


def _write_fields(
    request: Request, folder: Path, waiting: list[_Field], workers: int | None
) -> Generator[int, None, None]:
    """Write fields, in worker processes if there are several; yield the number of spectra of each."""
    if request.templates and waiting:  # loads them once, so that the user hears of missing sets once
        window, rng = INSTRUMENTS[request.archive].window, np.random.default_rng(0)
        shown = [name for name in CLASSES if request.recipe.mix.get(name)]
        draw_sources(request.recipe, np.array(shown * 8), window, rng, request.templates)
    n = min(workers or available_cores(), len(waiting))
    if n > 1:
        context = prepare(["broadline.simulation.survey"])
        with Workers(context, waiting, _work, n, _start, (request, folder)) as results:
            for _, n_spectra in results:
                yield n_spectra
    else:
        for field in waiting:
            yield _write_field(request, folder, field)


def _claim(request: Request, folder: Path) -> dict[str, Any]:
    """Return the state of a survey in a folder, which becomes this request's if it was empty."""
    wanted: dict[str, Any] = json.loads(json.dumps(request.to_dict()))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / _STATE).exists():
        state = _read_state(folder)
        if different := list(_differences(state["request"], wanted)):
            raise UsageError(
                f"folder {folder} holds another simulation (not the same: {', '.join(different)}); "
                "give a new folder"
            )
        return state
    if any(path != _aside(folder / _STATE) for path in folder.iterdir()):
        raise UsageError(f"folder {folder} is not empty; give a new folder")
    state = {"request": wanted, "finished": False, "catalogues": []}
    _write_state(state, folder)
    return state


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text())
        kinds = [type(state[key]) for key in ("request", "finished", "catalogues")]
        if kinds != [dict, bool, list]:
            raise ValueError("it is not what a simulation writes")
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / _STATE} is damaged; remove the folder, or give a new one") from error
    return state


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    """Yield the names of what is not the same in two requests."""
    for key, value in wanted.items():
        other = found.get(key)
        if key == "recipe" and isinstance(other, dict):
            yield from (f"recipe.{name}" for name in _differences(other, value))
        elif other != value:
            yield key


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _write_state(state: dict[str, Any], folder: Path) -> None:
    aside = _aside(folder / _STATE)
    aside.write_text(json.dumps(state, indent=1) + "\n")
    aside.replace(folder / _STATE)


# ---- in the workers

_job: tuple[Request, Path] | None = None


def _start(request: Request, folder: Path) -> None:
    global _job
    _job = (request, folder)


def _work(field: _Field) -> int:
    assert _job is not None
    return _write_field(*_job, field)


@one_thread
def _write_field(request: Request, folder: Path, field: _Field) -> int:
    """Write the files of a field, then its part of the truth: what has a part is finished. Return spectra."""
    layout = _LAYOUTS[request.archive]
    assert request.files is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the user has been told which templates are missing
        visits = observe_field(request.archive, *field, request.recipe, request.seed, request.templates)
    tables = []
    for pointing in visits:
        for write in layout.writers[request.files]:
            write(pointing, folder)
        tables.append({**pointing.table, **layout.identity(pointing)})
    merged = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    dtype = [(name, column.dtype.str, column.shape[1:]) for name, column in merged.items()]
    records = np.empty(len(merged["THING_ID"]), dtype=dtype)
    for name, column in merged.items():
        records[name] = column
    path = _part(folder / _PARTS, field)
    aside = path.with_suffix(".part")
    with aside.open("wb") as stream:
        np.save(stream, records, allow_pickle=False)
    aside.replace(path)
    return len(records)


def _part(parts: Path, field: _Field) -> Path:
    return parts / f"field-{field.number:07d}.npy"


# ---- catalogues


def _tables(parts: Path, fields: Iterable[_Field]) -> Iterator[Table]:
    for field in fields:
        path = _part(parts, field)
        try:
            records = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UsageError(f"{path} is damaged; remove it") from error
        yield {name: records[name] for name in records.dtype.names}


def _write_truth(tables: Iterable[Table], path: Path) -> Path:
    """Write all columns of all tables as Parquet; columns of several values become lists of fixed length."""
    aside = _aside(path)
    writer: pq.ParquetWriter | None = None
    try:
        for table in tables:
            columns = {name: _arrow(column) for name, column in table.items()}
            part = pa.table(columns)
            if writer is None:
                meta = {b"simulated": b"broadline: none of these spectra is real"}
                writer = pq.ParquetWriter(aside, part.schema.with_metadata(meta), compression="zstd")
            writer.write_table(part.cast(writer.schema))
        if writer is not None:
            writer.close()
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _arrow(column: NDArray[Any]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(column).reshape(-1))
    return flat if column.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, column.shape[1])
