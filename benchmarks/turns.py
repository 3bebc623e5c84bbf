"""What benchmarks of training share: contenders in processes of their own that take turns, and data for them.

A script that uses it hands `run_child` its own command line first: it starts itself again for each contender.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from broadline.training.dataset import PreparedSet
from broadline.training.fit import Progress, TrainingData, fit
from broadline.training.manifest import COLUMNS, FORMAT, MANIFEST, Summary, shard_paths
from broadline.training.presets import PRESETS, Preset
from broadline.training.run import train_prepared
from broadline.training.simulated import Examples, Simulated
from broadline.truth import CLASSES
from classify import shown
from markers import write_between
from real_sky import table

PAUSE = 0.5  # seconds between rounds, for threads to go to sleep
_SHARD = 8192

Row = tuple[str, str, str]
#: What a process does, by name; arguments are what JSON has.
Children = dict[str, Callable[..., None]]


# ---- a set of random values


def write_random_set(folder: Path, n: int, preset: Preset) -> Path:
    """Write what `prepare` would of `n` spectra, all noise, six of ten quasars; return the folder."""
    folder.mkdir()
    rng = np.random.Generator(np.random.SFC64(n))
    shards = []
    for number, start in enumerate(range(0, n, _SHARD)):
        size = min(_SHARD, n - start)
        shard: dict[str, Any] = {"name": f"{number:06d}-000", "n": size, "sha256": []}
        paths = shard_paths(folder, shard)
        values = rng.standard_normal((size, *preset.network.input_shape), np.float32)
        np.save(paths[0], values.astype(np.float16))
        pq.write_table(_random_truth(start, size, rng), paths[1])
        shard["sha256"] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        shards.append(shard)
    request = {"representation": preset.representation.to_dict()}
    state = {"format": FORMAT, "request": request, "finished": True, "counts": Summary().to_dict()}
    (folder / MANIFEST).write_text(json.dumps(state | {"shards": shards}))
    return folder


def _random_truth(start: int, n: int, rng: np.random.Generator) -> pa.Table:
    number = np.arange(start, start + n)
    kind = np.where(rng.random(n) < 0.6, CLASSES.index("QSO"), CLASSES.index("STAR")).astype(np.int8)
    columns = {
        "SPECTRUM": [str(i) for i in number],
        "PLATE": np.zeros(n, np.int32),
        "RA": np.full(n, np.nan),
        "DEC": np.full(n, np.nan),
        "FLAGS": np.zeros(n, np.uint32),
        "SN": np.ones(n, np.float32),
        "CLASS": pa.DictionaryArray.from_arrays(kind, list(CLASSES)),
        "Z": rng.uniform(0, 5, n),
        "CONFIDENCE": np.full(n, 3, np.int8),
        "BAL_FLAG": np.zeros(n, np.int8),
        "BALNICITY": np.zeros(n, np.float32),
        "OBJECT": number,
        "ANCILLARY": np.zeros(n, np.bool_),
        "CONTROL": np.zeros(n, np.bool_),
    }
    return pa.table(columns, schema=COLUMNS)


# ---- what runs in processes of their own


@dataclass(frozen=True)
class Repeated:
    """One batch in memory, again and again: nothing but the network costs time."""

    batch: Examples
    steps: int

    def __len__(self) -> int:
        return self.steps * len(self.batch.ids)

    def epoch(self, number: int) -> Iterator[Examples]:
        """Yield the batch."""
        return itertools.repeat(self.batch, self.steps)

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Return what spectra are called."""
        return [str(row) for row in rows]


class Rounds:
    """Training data whose every epoch waits until it is asked for, and tells the seconds a step of the last.

    The clock runs from the call of `epoch` to the last step: what comes before the first batch counts,
    validation and checkpoints do not.
    """

    def __init__(self, data: TrainingData) -> None:
        self.data, self.told = data, "ready"
        self.begin, self.steps = 0.0, 0

    def __len__(self) -> int:
        return len(self.data)

    def epoch(self, number: int) -> Iterator[Examples]:
        """Wait for a line, then yield the epoch of the data."""
        self.tell()
        sys.stdin.readline()
        self.begin, self.steps = time.perf_counter(), 0
        yield from self.data.epoch(number)

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Return what the data call their spectra."""
        return self.data.names(rows)

    def tell(self) -> None:
        """Print what the last round took."""
        print(f"@{self.told}", flush=True)

    def on_step(self, progress: Progress) -> None:
        """Take the time."""
        if progress.scores is None:
            self.steps += 1
            self.told = str((time.perf_counter() - self.begin) / self.steps)


def child_fit(preset_name: str, folder: str, data: str, size: int, precision: str, rounds: int) -> None:
    """Train for some rounds on a set on disk, on one batch of it for `size` steps, or on simulations."""
    source: TrainingData
    preset = replace(PRESETS[preset_name], patience=rounds + 2)  # no stopping before all rounds are done
    prepared = PreparedSet(Path(folder), preset)
    first = next(prepared.epoch(0))
    if data == "one batch":
        source = Repeated(first, size)
    elif data == "prepared":
        source = prepared
    else:
        source = simulated(preset, size, 1)
    held = Rounds(source)
    with tempfile.TemporaryDirectory() as place:
        fit(preset, held, [first], Path(place), epochs=rounds + 1, precision=precision, on_step=held.on_step)
    held.tell()


def child_memory(preset_name: str, folder: str) -> None:
    """Train for an epoch as `broadline train` does; tell the process's peak of resident memory, in bytes."""
    with tempfile.TemporaryDirectory() as place:
        train_prepared(PRESETS[preset_name], Path(place), Path(folder), epochs=1)
    status = Path("/proc/self/status").read_text()
    print(f"@{1024 * int(status.split('VmHWM:')[1].split()[0])}", flush=True)


def simulated(preset: Preset, n: int, seed: int) -> Simulated:
    """Return simulated training data of a library without template sets."""
    from broadline.simulation.library import build_library

    return Simulated(build_library(n, seed=seed), preset, seed)


#: Those that every benchmark has.
CHILDREN: Children = {"fit": child_fit, "memory": child_memory}


def run_child(children: Children) -> bool:
    """Do what the command line tells a child to do; False if this is none."""
    if sys.argv[1:2] != ["--child"]:
        return False
    warnings.filterwarnings("error", module=r"broadline\.")  # such as that nothing could be compiled
    children[sys.argv[2]](*json.loads(sys.argv[3]))
    return True


class Child:
    """A process that answers lines with lines; all else that it prints is shown only if it fails."""

    def __init__(self, command: Sequence[str]) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            # Both frameworks would take a GPU if there were one.
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    @classmethod
    def of(cls, kind: str, *arguments: str | int) -> Child:
        """Return a child of the script that runs, by name."""
        return cls([sys.executable, sys.argv[0], "--child", kind, json.dumps(arguments)])

    def answer(self) -> str:
        """Return the next answer."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("@"):
                return line[1:].strip()
        self.process.wait()
        self.errors.seek(0)
        raise SystemExit(f"{' '.join(self.process.args)[:200]}\n{self.errors.read().decode()[-4000:]}")

    def round(self) -> float:
        """Return the seconds a step of a round."""
        assert self.process.stdin
        print("go", file=self.process.stdin, flush=True)
        seconds = float(self.answer())
        time.sleep(PAUSE)
        return seconds

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def take_turns(children: dict[str, Child], rounds: int) -> dict[str, list[float]]:
    """Return seconds a step of every round of children that are ready; the first, uncounted, compiles."""
    for child in children.values():
        child.round()
    times: dict[str, list[float]] = {name: [] for name in children}
    for _ in range(rounds):
        for name, child in children.items():
            times[name].append(child.round())
    for child in children.values():
        child.close()
    return times


def machine() -> str:
    """Return what and when this runs on."""
    cores, version = len(os.sched_getaffinity(0)), importlib.metadata.version("torch")
    return (
        f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, torch {version}, "
        f"{time.strftime('%Y-%m-%d')}"
    )


def report(script: str, options: argparse.Namespace, about: str, rows: Sequence[Row]) -> None:
    """Print the command, what it ran on and what it measured; and write that into the document wanted."""
    command = f"    python benchmarks/{script} {' '.join(shown(options))}"
    text = "\n".join([command, "", about, "", table(("what", "measured", "must reach"), rows)])
    print(text)
    if options.output:
        write_between(options.output, script, text)


def steps_text(seconds: Sequence[float]) -> str:
    """Return median and range of milliseconds a step."""
    ms = [1e3 * each for each in seconds]
    return f"{statistics.median(ms):.1f} ({min(ms):.1f} to {max(ms):.1f}) ms a step"


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return the median over rounds of how many times longer one took than the other beside it."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def memory_row(folder: Path, n: int, preset_name: str, goal: str) -> Row:
    """Return the peak memory of an epoch on a set of `n` spectra, which is written and deleted."""
    child = Child.of("memory", preset_name, str(write_random_set(folder, n, PRESETS[preset_name])))
    peak = int(child.answer())
    child.close()
    shutil.rmtree(folder)
    return f"peak memory, training on {n:,} prepared spectra", f"{peak / 1e9:.2f} GB", goal
