"""Making a store of spectra: archive files read once, kept as their readers give them.

The files are described in `archives.pack`; a unit of work is a shard. `parts` lets a command that is given
again go on where it was; given once more, it checks all checksums and writes damaged shards anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from broadline import __version__
from broadline.archives.pack import FORMAT, MANIFEST, SCHEMA, block_of, read_manifest, shard_name
from broadline.errors import UsageError
from broadline.files import aside
from broadline.flags import Flag
from broadline.inputs import expand, read_group
from broadline.parts import Record, claim, described, fill, recorded, tidy, write_json
from broadline.pipeline import MAX_NOTES, Unit, plan

__all__ = ["Packed", "pack"]

# Spectra a block. `classify` reads as many at a time: the network adds in another order in other batches.
_BLOCK = 256


@dataclass(slots=True)
class Packed:
    """What a store holds.

    Attributes
    ----------
    n_spectra, n_unreadable : int
        Spectra, and those of them that could not be read.
    notes : list of str
        The reason for each file that could not be read, at most `pipeline.MAX_NOTES`.
    """

    n_spectra: int = 0
    n_unreadable: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Count a shard."""
        self.n_spectra += record["n"]
        self.n_unreadable += record["n_unreadable"]
        self.notes.extend(record["notes"][: MAX_NOTES - len(self.notes)])


def pack(
    names: Sequence[str | Path],
    folder: Path,
    *,
    archive: str | None = None,
    workers: int | None = None,
    on_unit: Callable[[Packed, float], None] | None = None,
) -> Packed:
    """Write all spectra behind some names into a store.

    The bytes depend on the spectra, not on the number of workers nor on how often the run was killed and
    started again.

    Parameters
    ----------
    names : sequence of str or Path
        Files, folders, globs, ``@LIST``.
    folder : Path
        New or empty, or one where the same was begun.
    archive : str, optional
        Take every file for one of this archive.
    workers : int, optional
        Processes; as many as there are cores, or units of work, if not given.
    on_unit : callable, optional
        Told after each unit what was done so far, and which fraction of the bytes that is.

    Raises
    ------
    UsageError
        If a name is at fault, or the folder holds something else, lies in one of the names or cannot be
        written; what is done stays done in the last case.
    """
    _keep_apart(names, folder)
    inputs = expand(names, archive)
    units = list(enumerate(plan(inputs)))
    request = {"version": __version__, "spectra": described(inputs)}
    packed = Packed()

    def count(record: Record, fraction: float) -> None:
        packed.add(record)
        if on_unit:
            on_unit(packed, fraction)

    try:
        fresh = {"format": FORMAT, "request": request, "finished": False, "shards": []}
        state = claim(folder, MANIFEST, "store", fresh, read_manifest)
        written = dict(enumerate(state["shards"])) if state["finished"] else recorded(folder)
        whole = {number: record for number, record in written.items() if _is_whole(folder, record)}
        for record in whole.values():
            packed.add(record)
        records = fill(units, whole, _Job(folder), workers, ["broadline.packing"], count)
        write_json(folder / MANIFEST, state | {"finished": True, "shards": records})
        tidy(folder)
    except OSError as error:
        raise UsageError(
            f"cannot write the store into {folder} ({error}); once this is mended the same command goes on"
        ) from error
    result = Packed()
    for record in records:
        result.add(record)
    return result


def _keep_apart(names: Sequence[str | Path], folder: Path) -> None:
    whole = folder.absolute()
    for name in names:
        if Path(name).is_dir() and whole.is_relative_to(Path(name).absolute()):
            raise UsageError(f"{folder} lies in {name}, which it would come to hold; give a folder elsewhere")


def _is_whole(folder: Path, record: Record) -> bool:
    path = folder / str(record["name"])
    return path.is_file() and _digest(path) == record["sha256"]


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Job(NamedTuple):
    folder: Path

    def write(self, number: int, unit: Unit) -> Record:
        """Write the shard of a unit, a block at a time; return its entry in the manifest."""
        path = self.folder / shard_name(number)
        packed = Packed()
        with (
            aside(path) as hidden,
            pa.OSFile(str(hidden), "wb") as sink,
            pa.ipc.new_file(sink, SCHEMA) as file,
        ):
            for spectra in read_group(unit.archive, unit.paths, _BLOCK, unit.faults):
                file.write_batch(block_of(spectra))
                unreadable = int(((spectra.flags & Flag.UNREADABLE) != 0).sum())
                packed.add({"n": len(spectra), "n_unreadable": unreadable, "notes": list(spectra.notes)})
        return {
            "name": path.name,
            "n": packed.n_spectra,
            "n_unreadable": packed.n_unreadable,
            "notes": packed.notes,
            "sha256": _digest(path),
        }
