"""Speed of training on one GPU: docs/speed.md.

    python benchmarks/gpu.py [--rows 8800000] [-o docs/speed.md]

Presets are trained by `fit` in bfloat16, compiled and captured, and not, on a set that lies on the GPU;
beside them the network of vgg-a as one would write it at first. Then an epoch of vgg-a on a set as large as
the LAMOST part of Podsztavek, Skoda & Tvrdik (2021), validated on 50,000 spectra as theirs; and one on a set
that is read from disk all along, as one that the GPU has no room for. All sets hold random values, the large
one the same 8,192 spectra again and again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from broadline.progress import say
from broadline.training import dataset, resident
from broadline.training.dataset import PreparedSet
from broadline.training.fit import Progress, ReadAgain, fit
from broadline.training.manifest import MANIFEST
from broadline.training.presets import PRESETS, Preset
from convnet import naive
from turns import Row, machine, report, write_random_set

SHARD = 8192
BATCHES = {"vgg-a": (256, 2048), "vgg-a-full": (256,), "paper-code": (256,), "broadline": (256,)}
VALIDATION = 50_000


def repeated_set(folder: Path, n: int, preset: Preset) -> PreparedSet:
    """Return a set of at least `n` spectra, a shard of random values many times over."""
    if not folder.exists():
        write_random_set(folder, SHARD, preset)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["shards"] = list(itertools.repeat(manifest["shards"][0], -(-n // SHARD)))
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return PreparedSet(folder, preset)


class Clock:
    """When the losses of steps were looked at, which waits for the GPU."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seen: list[list[tuple[int, float]]] = [[]]

    def __call__(self, progress: Progress) -> None:
        """Take the time; epochs are apart."""
        if progress.scores is None:
            self.seen[-1].append((progress.step, time.perf_counter()))
        else:
            self.seen.append([])

    @property
    def first(self) -> float:
        """Seconds until the first look."""
        return self.seen[0][0][1] - self.start

    def rates(self, batch: int) -> list[float]:
        """Return the spectra a second between looks, of the last epoch."""
        return [
            batch * (j - i) / (after - before)
            for (i, before), (j, after) in itertools.pairwise(self.seen[-2])
        ]


def timed(preset: Preset, data: PreparedSet, epochs: int) -> Clock:
    """Train; return when what was done."""
    torch.cuda.reset_peak_memory_stats()
    held_out = data.subset(np.arange(preset.batch))
    with tempfile.TemporaryDirectory() as place:
        clock = Clock()
        validation = ReadAgain(held_out.ordered)
        fit(
            preset,
            data,
            validation,
            Path(place),
            epochs=epochs,
            patience=epochs,
            precision="bf16",
            on_step=clock,
        )
    return clock


def eagerly(work: Callable[[], Clock]) -> Clock:
    """Do what is to be done without compiling."""
    torch.compiler.set_stance("force_eager")
    try:
        return work()
    finally:
        torch.compiler.set_stance("default")


def told(rates: list[float], clock: Clock | None = None) -> str:
    """Return median and range of rates, and when the first was there."""
    text = f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) spectra/s"
    return text + (f"; first steps after {clock.first:.0f} s" if clock else "")


def preset_rows(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Time the presets on sets that lie on the GPU."""
    for name in options.presets:
        for batch in BATCHES[name]:
            loss = "batch" if PRESETS[name].loss == "sample" else PRESETS[name].loss
            preset = replace(PRESETS[name], batch=batch, loss=loss)
            data = repeated_set(folder / name, options.steps * batch, preset)
            clock = timed(preset, data, 2)
            peak = torch.cuda.max_memory_allocated() / 1e9
            yield (f"{name}, batches of {batch}, compiled", told(clock.rates(batch), clock), "")
            yield ("... memory of the GPU, set included", f"{peak:.1f} GB", "")
            if batch == 256:
                slow = eagerly(lambda preset=preset, data=data: timed(preset, data, 2))
                yield (f"{name}, batches of {batch}, not compiled", told(slow.rates(batch), slow), "")
            torch.compiler.reset()


def naive_row(steps: int) -> Row:
    """Time vgg-a as one would write it at first, in float32 on one batch."""
    preset = PRESETS["vgg-a"]
    network = naive(preset.network).cuda()
    optimiser = torch.optim.Adam(network.parameters(), preset.rate)
    x = torch.randn(preset.batch, 1, preset.network.n_pixels, device="cuda")
    y = (torch.rand(preset.batch, 1, device="cuda") < 0.5).float()
    rates = []
    for _ in range(5):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(steps):
            optimiser.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(network(x), y).backward()
            optimiser.step()
        torch.cuda.synchronize()
        rates.append(preset.batch * steps / (time.perf_counter() - begin))
    return ("vgg-a of Conv1d, float32, one batch", told(rates[1:]), "")


def epoch_rows(folder: Path, n: int) -> Iterator[Row]:
    """Time all of an epoch of vgg-a on a set of the publication's size."""
    preset = PRESETS["vgg-a"]
    data = repeated_set(folder / "vgg-a", n, preset)
    held_out = data.subset(np.arange(min(VALIDATION, n)))
    with tempfile.TemporaryDirectory() as place:
        clock = Clock()
        torch.cuda.reset_peak_memory_stats()
        fit(preset, data, ReadAgain(held_out.ordered), Path(place), epochs=1, precision="bf16", on_step=clock)
        end = time.perf_counter()
    last = clock.seen[0][-1][1]
    peak = torch.cuda.max_memory_allocated() / 1e9
    named = f"vgg-a, {len(data):,} spectra: an epoch, the copy to the GPU and compiling included"
    said = f"{last - clock.start:.0f} s, of these {clock.first:.0f} s until the first 64 steps are done"
    yield (named, said, "")
    yield ("... within it", told(clock.rates(preset.batch)), "")
    yield (f"... validation on {len(held_out):,}, and the files", f"{end - last:.1f} s", "")
    yield ("... memory of the GPU, set included", f"{peak:.1f} GB", "")


def disk_row(folder: Path, options: argparse.Namespace) -> Row:
    """Time vgg-a on a set that is read from disk all along."""
    preset = PRESETS["vgg-a"]
    data = repeated_set(folder / "vgg-a", options.steps * preset.batch, preset)
    share, resident._SHARE = resident._SHARE, 0.0
    clock = timed(preset, data, 2)
    resident._SHARE = share
    return ("vgg-a, batches of 256, read from disk", told(clock.rates(preset.batch)), "")


def measured(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Measure; yield what is done."""
    yield naive_row(100)
    yield from preset_rows(folder, options)
    yield disk_row(folder, options)
    if options.rows:
        dataset._verify = lambda path, digest: None  # the same file a thousand times
        yield from epoch_rows(folder, options.rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=8_800_000, help="spectra of the large set; 0 for none")
    parser.add_argument("--presets", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--steps", type=int, default=640, help="of an epoch of the other sets")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU that torch can use here")
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for row in measured(Path(place), options):
            say(" | ".join(row))  # lent machines are taken back
            rows.append(row)
    about = (
        f"{torch.cuda.get_device_name()}; {machine()}; bfloat16; medians (ranges) between looks at 64 steps."
    )
    report("gpu.py", options, about, rows)


if __name__ == "__main__":
    main()
