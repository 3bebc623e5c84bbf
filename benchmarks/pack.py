"""Containers for a store of spectra, side by side: size, and time to read it.

    python benchmarks/pack.py --plates SURVEY [--specs SURVEY] [--folder FOLDER] [--rounds 5] [-o speed.md]

Surveys as ``broadline simulate --archive boss`` writes them, with one file a plate and with one a spectrum
(``--files spectra``). The plates are read once and written into each container in shards of one plate; then
the containers, the archive files themselves and the store of ``broadline pack`` take turns at being read as
batches of 256, every value added up so that mapped pages are fetched. Files lie in the page cache; what a
disk adds follows from the size. Times are of the processor, so that other programs hardly move them. Zarr
takes part if it is installed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import broadline
from broadline.named_models import load_model
from markers import write_between

BATCH = 256

Images = tuple[NDArray[np.float32], NDArray[np.float32]]
Write = Callable[[Path, list[Images]], None]
Read = Callable[[Path], Iterator[Images]]

# ---- containers: a shard is a folder, or a file, of flux and ivar


def write_npy(shard: Path, batches: list[Images]) -> None:
    shard.mkdir()
    for name, images in zip(("flux", "ivar"), zip(*batches, strict=True), strict=True):
        np.save(shard / f"{name}.npy", np.concatenate(images))


def read_npy(shard: Path) -> Iterator[Images]:
    flux, ivar = (np.load(shard / f"{name}.npy", mmap_mode="r") for name in ("flux", "ivar"))
    for start in range(0, len(flux), BATCH):
        yield flux[start : start + BATCH], ivar[start : start + BATCH]


def rows_of(images: Images) -> pa.RecordBatch:
    n, n_pixels = images[0].shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * n_pixels)
    return pa.record_batch(
        {
            name: pa.ListArray.from_arrays(offsets, pa.array(image.ravel()))
            for name, image in zip(("flux", "ivar"), images, strict=True)
        }
    )


def images_of(rows: pa.RecordBatch) -> Images:
    flux, ivar = (rows[name].flatten().to_numpy().reshape(len(rows), -1) for name in ("flux", "ivar"))
    return flux, ivar


def write_arrow(compression: str | None, shard: Path, batches: list[Images]) -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    schema = rows_of(batches[0]).schema
    with pa.ipc.new_file(str(shard), schema, options=options) as file:
        for images in batches:
            file.write_batch(rows_of(images))


def read_arrow(opened: Callable[[str], Any], shard: Path) -> Iterator[Images]:
    with opened(str(shard)) as source, pa.ipc.open_file(source) as file:
        for i in range(file.num_record_batches):
            yield images_of(file.get_batch(i))


def write_parquet(options: dict[str, Any], shard: Path, batches: list[Images]) -> None:
    schema = rows_of(batches[0]).schema
    with pq.ParquetWriter(shard, schema, use_dictionary=False, **options) as file:
        for images in batches:
            file.write_batch(rows_of(images), row_group_size=BATCH)


def read_parquet(shard: Path) -> Iterator[Images]:
    with pq.ParquetFile(shard) as file:
        for i in range(file.num_row_groups):
            rows = file.read_row_group(i, use_threads=False).combine_chunks().to_batches()[0]
            yield images_of(rows)


def write_zarr(compressors: Any, shard: Path, batches: list[Images]) -> None:
    import zarr

    group = zarr.create_group(shard)
    for name, images in zip(("flux", "ivar"), zip(*batches, strict=True), strict=True):
        whole = np.concatenate(images)
        padded = -(-len(whole) // BATCH) * BATCH  # a shard holds whole chunks
        array = group.create_array(
            name,
            shape=whole.shape,
            dtype=whole.dtype,
            chunks=(BATCH, whole.shape[1]),
            shards=(padded, whole.shape[1]),
            compressors=compressors,
        )
        array[:] = whole


def read_zarr(shard: Path) -> Iterator[Images]:
    import zarr

    group = zarr.open_group(shard, mode="r")
    flux, ivar = group["flux"], group["ivar"]
    for start in range(0, flux.shape[0], BATCH):
        yield flux[start : start + BATCH], ivar[start : start + BATCH]


CONTAINERS: dict[str, tuple[Write, Read]] = {
    "npy, mapped": (write_npy, read_npy),
    "Arrow IPC, mapped": (partial(write_arrow, None), partial(read_arrow, pa.memory_map)),
    "Arrow IPC, read": (partial(write_arrow, None), partial(read_arrow, pa.OSFile)),
    "Arrow IPC zstd, read": (partial(write_arrow, "zstd"), partial(read_arrow, pa.OSFile)),
    "Parquet, uncompressed": (partial(write_parquet, {"compression": "none"}), read_parquet),
    "Parquet, zstd": (partial(write_parquet, {"compression": "zstd"}), read_parquet),
    "Parquet, zstd, byte-stream split": (
        partial(write_parquet, {"compression": "zstd", "use_byte_stream_split": True}),
        read_parquet,
    ),
    "Zarr v3 sharded, uncompressed": (partial(write_zarr, None), read_zarr),
    "Zarr v3 sharded, zstd": (partial(write_zarr, "auto"), read_zarr),
}


# ---- measuring


def files_of(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def consume(batches: Iterator[Images]) -> int:
    """Touch every value; return the number of spectra."""
    n = 0
    for flux, ivar in batches:
        assert np.isfinite(flux.sum() + ivar.sum())
        n += len(flux)
    return n


def read_shards(read: Read, folder: Path) -> Iterator[Images]:
    for shard in sorted(folder.iterdir()):
        yield from read(shard)


def read_archive(paths: list[Path]) -> Iterator[Images]:
    for spectra in broadline.read(paths, batch=BATCH):
        yield spectra.flux, spectra.ivar


class Contender:
    """Something that holds spectra: where, and how it is read."""

    def __init__(self, name: str, files: list[Path], read: Callable[[], Iterator[Images]]) -> None:
        self.name, self.files, self.read = name, files, read
        self.n = consume(read())
        self.times: list[float] = []

    def turn(self) -> None:
        """Read everything once and note the time."""
        start = time.process_time()
        consume(self.read())
        self.times.append((time.process_time() - start) / self.n * 1e6)

    def row(self) -> str:
        """Return size and time as a row of a table."""
        size = sum(file.stat().st_size for file in self.files) / self.n / 1e3
        return f"| {self.name} | {size:.1f} | {shown_times(self.times)} |"


def shown_times(times: list[float]) -> str:
    return f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"


def containers(plates: list[Path], folder: Path) -> Iterator[Contender]:
    """Yield the containers with the spectra of some plates in them."""
    known = dict(CONTAINERS)
    try:
        import zarr  # noqa: F401
    except ImportError:
        known = {name: pair for name, pair in known.items() if "Zarr" not in name}
    for name in known:
        (folder / name).mkdir()
    for number, plate in enumerate(plates):
        batches = list(read_archive([plate]))
        for name, (write, _) in known.items():
            write(folder / name / f"{number:04d}", batches)
    for name, (_, read) in known.items():
        yield Contender(name, files_of(folder / name), partial(read_shards, read, folder / name))


def pack(paths: list[Path], store: Path) -> Contender:
    """Return the store that `broadline pack` makes of some files."""
    from broadline.packing import pack as run

    run(paths, store)
    return Contender("**the store of `broadline pack`**", files_of(store), partial(read_archive, [store]))


def represent(paths: list[Path], rounds: int) -> str:
    """Return the row of what a store of represented spectra would save besides."""
    model = load_model()
    times = []
    for _ in range(rounds):
        n, spent = 0, 0.0
        for spectra in broadline.read(paths, batch=BATCH):
            spectra.flux.sum(), spectra.ivar.sum()
            start = time.process_time()
            model.representation(spectra)
            spent += time.process_time() - start
            n += len(spectra)
        times.append(spent / n * 1e6)
    size = np.prod(model.recipe.network.input_shape) * 4 / 1e3
    what = f"rebin and renormalise: what a store of {size:.1f} kB would save besides"
    return f"| {what} | | {shown_times(times)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plates", type=Path, required=True)
    parser.add_argument("--specs", type=Path)
    parser.add_argument("--folder", type=Path, help="where the containers are made, some 8 times the spectra")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    plates = sorted(arguments.plates.rglob("spPlate-*.fits"))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        contenders = [Contender("archive: spPlate files", plates, partial(read_archive, plates))]
        if arguments.specs:
            specs = sorted(arguments.specs.rglob("spec-*.fits"))
            contenders.append(Contender("archive: spec files", specs, partial(read_archive, specs)))
        contenders += containers(plates, folder)
        contenders.append(pack(plates, folder / "store"))
        for _ in range(arguments.rounds):
            for contender in contenders:
                contender.turn()
        rows = [contender.row() for contender in contenders] + [represent(plates, arguments.rounds)]
        n = contenders[0].n
    text = "\n".join(
        [
            f"    python benchmarks/{' '.join([Path(sys.argv[0]).name, *shown(sys.argv[1:])])}",
            "",
            f"{platform.machine()}, {os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}; {n:,} spectra; "
            f"medians (ranges) of {arguments.rounds} rounds in turns.",
            "",
            "| container | kB a spectrum | us of processor a spectrum |",
            "|---|---|---|",
            *rows,
        ]
    )
    print(text)
    if arguments.output:
        write_between(arguments.output, "pack.py", text)


def shown(arguments: list[str]) -> list[str]:
    """Return the arguments without the folders of this machine."""
    return [Path(argument).name if "/" in argument else argument for argument in arguments]


if __name__ == "__main__":
    main()
