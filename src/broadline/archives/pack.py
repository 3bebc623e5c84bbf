"""Stores of spectra as `broadline pack` makes them, for repeated passes: ``broadline-store.json`` and shards.

A shard is an uncompressed Arrow IPC file that any Arrow library reads. A record batch of it is a block:
spectra that share a wavelength grid, as the archive's own reader gave them, so that what is computed from
them is the same bit for bit. Columns: FLUX and IVAR (lists of float32, a pixel each), FLAGS, and identity
(`spectra.IDENTITY`; null where the archive has no such column). WAVELENGTH (list of float64, vacuum Angstrom)
and NOTES (reasons for files that could not be read) stand in the first row of a block alone.

``broadline-store.json`` lists the shards in input order, each with its number of spectra and SHA-256, and
says whether the store is finished.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from broadline.archives.base import Archive, Head, fault_of, read_files
from broadline.errors import ReadError, UsageError
from broadline.spectra import IDENTITY, Spectra, legible

__all__ = [
    "ARCHIVES",
    "FORMAT",
    "MANIFEST",
    "SCHEMA",
    "block_of",
    "read_manifest",
    "shard_name",
    "shards",
    "sources",
    "spectra_of",
]

#: Of a store, and the file that makes a folder one.
FORMAT, MANIFEST = 1, "broadline-store.json"

_NAME = re.compile(r"shard-\d{6}\.arrow")
_KEY = b"broadline_store"
_MAGIC = b"ARROW1"

#: Of a shard.
SCHEMA = pa.schema(
    {
        "FLUX": pa.list_(pa.float32()),
        "IVAR": pa.list_(pa.float32()),
        "FLAGS": pa.uint32(),
        **{
            name: pa.string() if kind is str else pa.from_numpy_dtype(kind) for name, kind in IDENTITY.items()
        },
        "WAVELENGTH": pa.list_(pa.float64()),
        "NOTES": pa.list_(pa.string()),
    },
    metadata={_KEY: str(FORMAT)},
)


# ---- the folder


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:06d}.arrow"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a store, also of one that is not finished.

    Raises
    ------
    UsageError
        If it is damaged, or of a format that is not known.
    """
    path = folder / MANIFEST
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        if [type(state[key]) for key in ("request", "finished", "shards")] != [dict, bool, list]:
            raise ValueError("it is not what `broadline pack` writes")
        found = state["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}); pack the spectra again into a new folder") from error
    if found != FORMAT:
        raise UsageError(f"{folder} has format {found}, which this version of broadline does not know")
    return state


def shards(folder: Path) -> list[Path]:
    """Return the shards of a store, those too that have gone, in the order of the spectra.

    Raises
    ------
    UsageError
        If the store is not finished, or its manifest cannot be read.
    """
    state = read_manifest(folder)
    if not state["finished"]:
        raise UsageError(f"the store {folder} is not finished: give its `broadline pack` command again")
    return [folder / str(shard["name"]) for shard in state["shards"]]


def _listed(path: Path) -> int:
    """Return how many spectra a shard holds as its store says; 1 if that is not known."""
    try:
        state = read_manifest(path.parent)
        return next(int(shard["n"]) for shard in state["shards"] if shard["name"] == path.name)
    except (UsageError, StopIteration, KeyError, TypeError, ValueError):
        return 1


# ---- a block


def block_of(spectra: Spectra) -> pa.RecordBatch:
    """Return a batch of spectra, at least one, as a block."""
    n, n_pixels = spectra.flux.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * n_pixels)
    first: list[Any] = [None] * (n - 1)
    columns = {
        "FLUX": pa.ListArray.from_arrays(offsets, pa.array(spectra.flux.ravel())),
        "IVAR": pa.ListArray.from_arrays(offsets, pa.array(spectra.ivar.ravel())),
        "FLAGS": pa.array(spectra.flags),
        "WAVELENGTH": pa.array([spectra.wavelength, *first], SCHEMA.field("WAVELENGTH").type),
        "NOTES": pa.array([list(map(_text, spectra.notes)), *first], SCHEMA.field("NOTES").type),
    }
    for name in IDENTITY:
        kind = SCHEMA.field(name).type
        values = spectra.ids.get(name)
        if values is None:
            columns[name] = pa.nulls(n, kind)
        else:
            columns[name] = pa.array(legible(values) if kind == pa.string() else values, kind)
    return pa.record_batch([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _text(note: str) -> str:
    return str(legible(np.array([note], dtype=object))[0])


def spectra_of(block: pa.RecordBatch) -> Spectra:
    """Return the spectra of a block; flux and ivar are views of it."""
    n = len(block)
    wavelength = block["WAVELENGTH"][0].values.to_numpy()
    flux, ivar = (_image(block[name], n, len(wavelength)) for name in ("FLUX", "IVAR"))
    ids = {
        name: block[name].to_numpy(zero_copy_only=False) for name in IDENTITY if block[name].null_count < n
    }
    notes = tuple(block["NOTES"][0].as_py())
    return Spectra(wavelength, flux, ivar, ids, block["FLAGS"].to_numpy(), notes)


def _image(column: pa.ListArray, n: int, n_pixels: int) -> NDArray[np.float32]:
    image: NDArray[np.float32] = column.flatten().to_numpy().reshape(n, n_pixels)
    return image


# ---- a shard


@contextmanager
def _opened(path: Path, columns: tuple[str, ...] = ()) -> Iterator[pa.ipc.RecordBatchFileReader]:
    """Open a shard, all columns or some.

    Blocks are read, not mapped: that costs little more, and a disk that fails raises an error then instead of
    ending the process.
    """
    chosen = [SCHEMA.get_field_index(name) for name in columns] or None
    with pa.OSFile(str(path)) as stream:
        try:
            # The footer is the last thing that is written.
            file = pa.ipc.open_file(stream, options=pa.ipc.IpcReadOptions(included_fields=chosen))
        except pa.ArrowInvalid as error:
            raise ReadError(path, f"it is cut short, or no Arrow file ({error}); pack again") from error
        found = (file.schema.metadata or {}).get(_KEY, b"").decode()
        if not found:
            raise ReadError(path, "it is an Arrow file of another program, no shard of `broadline pack`")
        if found != str(FORMAT):
            raise ReadError(path, f"it has format {found}, which this version of broadline does not know")
        yield file


def _read_shard(path: Path) -> Iterator[Spectra]:
    """Yield the blocks of a shard; of one that is damaged, those before the damage."""
    n = 0
    try:
        with _opened(path) as file:
            for number in range(file.num_record_batches):
                block = file.get_batch(number)
                block.validate()
                spectra = spectra_of(block)
                yield spectra
                n += len(spectra)
    except Exception as error:  # the bytes of a damaged file can raise anything
        fault = fault_of(path, error)
        raise ReadError(path, fault.reason, fault.flag, max(1, _listed(path) - n)) from error


def sources(path: Path) -> set[str]:
    """Return the files whose spectra a shard holds, as the SOURCE column names them.

    Raises
    ------
    ReadError
        If it cannot be read.
    """
    try:
        with _opened(path, ("SOURCE",)) as file:
            column = file.read_all()["SOURCE"]
    except Exception as error:
        raise fault_of(path, error) from error
    return set(column.unique().to_pylist())


def _recognise(head: Head) -> bool:
    if not head.start.startswith(_MAGIC):
        return False
    with pa.OSFile(str(head.path)) as stream:
        return _KEY in (pa.ipc.open_file(stream).schema.metadata or {})


ARCHIVES = (
    Archive(
        name="pack",
        title="stores of spectra made by `broadline pack`",
        file_name=_NAME,
        recognise=_recognise,
        read=lambda paths, batch: read_files("pack", paths, _read_shard),
    ),
)
