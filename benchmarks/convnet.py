"""Speed and memory of the ConvNet of docs/transfer.md on this machine's processors: docs/speed.md.

    python benchmarks/convnet.py [-o docs/speed.md]

The preset vgg-a is trained by `fit` at its batch of 256, in bfloat16 where the processor multiplies in it and
in float32, beside the same network as one would write it at first, of `Conv1d` in float32. All take turns
(benchmarks/turns.py). Then, in the faster precision: how much
of a step is the network where spectra come from a set on disk; what classifying costs from spectra that are
represented already; and how much memory training on a set larger than that needs, by the preset mlp, which
reads the same and is done sooner. All sets hold random values.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from broadline.model import Model
from broadline.networks.vgg import ConvNetConfig
from broadline.training.dataset import PreparedSet
from broadline.training.fit import fit
from broadline.training.presets import PRESETS
from broadline.training.step import faster_precision
from turns import (
    CHILDREN,
    Child,
    Repeated,
    Row,
    machine,
    memory_row,
    ratio,
    report,
    run_child,
    steps_text,
    take_turns,
    write_random_set,
)

NAME = "vgg-a"
PRESET = PRESETS[NAME]
FASTER = faster_precision()
PRECISIONS = ("bf16", "fp32") if FASTER == "bf16" else ("fp32",)
OURS, NAIVE = {name: f"broadline {name}, compiled" for name in PRECISIONS}, "Conv1d, fp32"
NOT_RUN = "not run: this processor has no such instructions"


def naive(config: ConvNetConfig) -> nn.Sequential:
    """Return the network as one would write it at first."""

    def layers() -> Iterator[nn.Module]:
        channels = iter(config.channels)
        for n in config.stages:
            for _ in range(n):
                before, after = next(channels)
                yield from (nn.Conv1d(before, after, 3, padding=1), nn.ReLU())
            yield nn.MaxPool1d(2)
        yield nn.Flatten()
        sizes = (config.n_features, *config.hidden)
        for before, after in pairwise(sizes):
            yield from (nn.Linear(before, after), nn.ReLU(), nn.Dropout(config.dropout))
        yield nn.Linear(sizes[-1], 1)

    return nn.Sequential(*layers())


def child_naive(steps: int, rounds: int) -> None:
    """Train it on one random batch; tell the seconds a step of each round."""
    network = naive(PRESET.network)
    optimiser = torch.optim.Adam(network.parameters(), PRESET.rate)
    x = torch.randn(PRESET.batch, 1, PRESET.network.n_pixels)
    y = (torch.rand(PRESET.batch, 1) < 0.5).float()
    print("@ready", flush=True)
    for _ in range(rounds + 1):
        sys.stdin.readline()
        begin = time.perf_counter()
        for _ in range(steps):
            optimiser.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(network(x), y)
            loss.backward()
            optimiser.step()
        print(f"@{(time.perf_counter() - begin) / steps}", flush=True)


ALL_CHILDREN = CHILDREN | {"naive": child_naive}


def speed_rows(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Compare `fit` in both precisions and the first version, in turns."""
    children = {NAIVE: Child.of("naive", options.steps, options.rounds)}
    for precision, name in OURS.items():
        sizes = options.steps, precision, options.rounds
        children[name] = Child.of("fit", NAME, str(folder), "one batch", *sizes)
    for child in children.values():
        child.answer()
    times = take_turns(children, options.rounds)
    rows = []
    for name, seconds in times.items():
        rate = PRESET.batch / statistics.median(seconds)
        rows.append((name, f"{rate:,.0f} spectra/s; {steps_text(seconds)}", ""))
    for precision in ("bf16", "fp32"):
        goal = ">= 2 x" if precision == "bf16" else ""
        faster = f"{ratio(times[NAIVE], times[name]):.2f} x" if (name := OURS.get(precision)) else NOT_RUN
        rows.append((f"{precision} faster than {NAIVE}", faster, goal))
    return rows


def share_rows(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Compare steps on a set on disk with steps on one batch in memory, in turns."""
    kinds = {"one batch in memory": "one batch", f"{options.prepared:,} prepared spectra": "prepared"}
    children = {}
    for name, kind in kinds.items():
        steps = options.prepared // PRESET.batch
        children[name] = Child.of("fit", NAME, str(folder), kind, steps, FASTER, options.epoch_rounds)
        children[name].answer()
    times = take_turns(children, options.epoch_rounds)
    alone, disk = times.values()
    rows = [(name, steps_text(seconds), "") for name, seconds in times.items()]
    return [*rows, ("share of the network in a step", f"{100 * ratio(alone, disk):.1f} %", ">= 95 %")]


def inference_rows(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Time networks on represented spectra in memory, in turns."""
    first = next(PreparedSet(folder, PRESET).epoch(0))
    with tempfile.TemporaryDirectory() as place:
        content = fit(PRESET, Repeated(first, 1), [first], Path(place), epochs=1).read_bytes()
    x = first.x.numpy()
    models = {precision: Model(content, precision) for precision in PRECISIONS}
    times: dict[str, list[float]] = {precision: [] for precision in models}
    for _ in range(options.rounds + 1):
        for precision, model in models.items():
            begin = time.perf_counter()
            for _ in range(options.steps):
                model.run(x)
            times[precision].append((time.perf_counter() - begin) / options.steps / len(x))
    return [
        (
            f"classify a represented spectrum, {name}, batches of {len(x)}",
            _microseconds(each[1:]),
            "<= 300 us" if name == FASTER else "",
        )
        for name, each in times.items()
    ]


def _microseconds(seconds: list[float]) -> str:
    us = 1e6 * np.array(seconds)
    return f"{np.median(us):.0f} ({us.min():.0f}) us"


def main() -> None:
    if run_child(ALL_CHILDREN):
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--epoch-rounds", type=int, default=3, help="whole epochs, for shares")
    parser.add_argument("--prepared", type=int, default=20_000, help="spectra on disk, for shares")
    parser.add_argument("--memory", type=int, default=1_300_000, help="spectra on disk, for memory")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepared = write_random_set(root / "set", options.prepared, PRESET)
        rows = speed_rows(prepared, options)
        rows += share_rows(prepared, options)
        rows += inference_rows(prepared, options)
        rows.append(memory_row(root / "large", options.memory, "mlp", "<= 4 GB"))
    about = (
        f"{machine()}; medians (ranges, best) of "
        f"{options.rounds} rounds of {options.steps} steps in turns, of {options.epoch_rounds} epochs for "
        "shares."
    )
    report("convnet.py", options, about, rows)


if __name__ == "__main__":
    main()
