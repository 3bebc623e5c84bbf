"""Speed, memory and precision of training on this machine's processors: docs/speed.md.

    python benchmarks/train.py [--peer PYTHON] [-o docs/speed.md]

The network of the preset paper-code at its batch of 256 is trained by `fit`, in bfloat16 and in float32, and
by Keras, if PYTHON belongs to an environment with TensorFlow. All stay alive and take turns, a round of steps
each, so that what else the machine does hits all alike; never do two compute at once. Then: how much of a
step is the network; how much memory half a million prepared spectra need; and whether bfloat16 ends where
float32 does. The sets on disk hold random values, which cost what others do. Some 15 minutes on two cores;
every size is an option.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from broadline.training.fit import Progress, fit
from broadline.training.presets import PRESETS
from broadline.training.simulated import Simulated
from markers import write_between
from real_sky import table
from turns import (
    CHILDREN,
    Child,
    Row,
    machine,
    memory_row,
    ratio,
    run_child,
    simulated,
    steps_text,
    take_turns,
    write_random_set,
)

PRESET_NAME = "paper-code"
PRESET = PRESETS[PRESET_NAME]
SCORED = {"purity": "purity", "completeness": "completeness", "nmad": "NMAD of redshifts"}

#: The same network, loss and optimiser, as a Keras user would write them. Takes steps a round and a policy.
KERAS = """
import sys, time
import numpy as np
import keras
import tensorflow as tf
from keras import layers

steps, policy = int(sys.argv[1]), sys.argv[2]
batch, n_pixels, n_lines, n_boxes = 256, 443, 7, 13
keras.mixed_precision.set_global_policy(policy)


def loss(truth, said):
    y, x = truth[:, :n_boxes], truth[:, n_boxes:]
    p, offset = tf.clip_by_value(said[:, :n_boxes], 1e-7, 1 - 1e-7), said[:, n_boxes:]
    seen = tf.reduce_sum(y, axis=1) + 1e-7
    empty = tf.reduce_sum(1 - y, axis=1) + 1e-7
    return (
        -tf.reduce_sum(y * tf.math.log(p), axis=1) / seen
        - tf.reduce_sum((1 - y) * tf.math.log(1 - p), axis=1) / empty
        + tf.reduce_sum(y * tf.square(x - offset), axis=1) / seen
    )


class Clock(keras.callbacks.Callback):
    def on_train_batch_begin(self, step, logs=None):
        if step == 0:
            self.begin = time.perf_counter()

    def on_train_batch_end(self, step, logs=None):
        self.end = time.perf_counter()


image = keras.Input((n_pixels, 1))
h = image
for _ in range(4):
    h = layers.Conv1D(100, 10, strides=2)(h)
    h = layers.ReLU()(layers.BatchNormalization()(h))
h = layers.Dense(100)(layers.Flatten()(h))
h = layers.ReLU()(layers.BatchNormalization()(h))
heads = []
for _ in range(n_lines):
    confidence = layers.Dense(n_boxes, activation="sigmoid", dtype="float32")(h)
    offset = layers.Dense(n_boxes, activation="sigmoid", dtype="float32")(h)
    offset = layers.Rescaling(1.2, -0.1, dtype="float32")(offset)
    heads.append(layers.Concatenate(dtype="float32")([confidence, offset]))
model = keras.Model(image, heads)
# Compiled by XLA, Keras' own choice, it is slower on CPUs.
model.compile(keras.optimizers.Adam(1e-3, amsgrad=True), loss=[loss] * n_lines, jit_compile=False)

rng = np.random.default_rng(0)
x = rng.standard_normal((steps * batch, n_pixels, 1), dtype=np.float32)
box = rng.integers(-5, n_boxes, (n_lines, steps * batch))
y = (box[..., None] == np.arange(n_boxes)).astype(np.float32)
y = list(np.concatenate([y, y * rng.random(y.shape, dtype=np.float32)], axis=2))
print(f"@Keras {keras.__version__}, TensorFlow {tf.__version__}", flush=True)
for _ in sys.stdin:
    clock = Clock()
    model.fit(x, y, batch_size=batch, epochs=1, shuffle=False, verbose=0, callbacks=[clock])
    print(f"@{(clock.end - clock.begin) / steps}", flush=True)
"""


# ---- what runs in processes of their own


def child_scores(size: int, epochs: int, seeds: int) -> None:
    """Train small networks in both precisions from the same seeds; tell their final scores."""
    import torch

    validation = list(simulated(PRESET, max(size // 2, PRESET.batch), 500_001).epoch(0))
    library = simulated(PRESET, size, 1).library
    scores: dict[str, list[dict[str, float]]] = {"bf16": [], "fp32": []}
    for seed, precision in itertools.product(range(seeds), scores):
        torch.compiler.reset()  # else each network counts as one more shape of the first
        seen: list[dict[str, float]] = []

        def note(progress: Progress, seen: list[dict[str, float]] = seen) -> None:
            if progress.scores:
                seen.append(progress.scores)

        with tempfile.TemporaryDirectory() as place:
            data = Simulated(library, PRESET, seed)
            fit(
                PRESET,
                data,
                validation,
                Path(place),
                epochs=epochs,
                seed=seed,
                precision=precision,
                on_step=note,
            )
        scores[precision].append(seen[-1])
    print(f"@{json.dumps(scores)}", flush=True)


#: As `turns.CHILDREN`, and of this benchmark.
ALL_CHILDREN = CHILDREN | {"scores": child_scores}


# ---- rows of the table


def speed_rows(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Compare `fit` in both precisions and Keras, in turns."""
    children, versions = {}, ""
    for precision in ("bf16", "fp32"):
        child = Child.of(
            "fit", PRESET_NAME, str(folder), "one batch", options.steps, precision, options.rounds
        )
        child.answer()
        children[f"broadline {precision}, compiled"] = child
    if options.peer:
        for policy in ("float32", "mixed_bfloat16"):
            child = Child([str(options.peer), "-c", KERAS, str(options.steps), policy])
            versions = child.answer()
            children[f"{versions}, {policy}"] = child
    times = take_turns(children, options.rounds)
    rows = []
    for name, seconds in times.items():
        rate = PRESET.batch / statistics.median(seconds)
        rows.append((name, f"{rate:,.0f} spectra/s; {steps_text(seconds)}", ""))
    ours, own = (times[f"broadline {precision}, compiled"] for precision in ("bf16", "fp32"))
    rows.append(("bf16 faster than its own fp32", f"{ratio(own, ours):.2f} x", ">= 1.8 x"))
    if not versions:
        return [*rows, ("bf16 faster than Keras", "not run: no --peer", ">= 1.5 x")]
    for policy, goal in (("float32", ">= 1.5 x"), ("mixed_bfloat16", "")):
        faster = ratio(times[f"{versions}, {policy}"], ours)
        rows.append((f"bf16 faster than Keras, {policy}", f"{faster:.2f} x", goal))
    return rows


def share_rows(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Compare steps on data as they come with steps on one batch in memory, in turns."""
    kinds = {
        "one batch in memory": ("one batch", options.in_memory // PRESET.batch),
        f"{options.prepared:,} prepared spectra": ("prepared", 0),
        f"{options.in_memory:,} simulated spectra with fresh noise": ("simulated", options.in_memory),
    }
    children = {}
    for name, (kind, size) in kinds.items():
        children[name] = Child.of("fit", PRESET_NAME, str(folder), kind, size, "bf16", options.epoch_rounds)
        children[name].answer()
    times = take_turns(children, options.epoch_rounds)
    (_, alone), *others = times.items()
    rows = [(name, steps_text(seconds), "") for name, seconds in times.items()]
    for name, seconds in others:
        share = 100 * ratio(alone, seconds)
        rows.append((f"share of the network in a step, {name}", f"{share:.1f} %", ">= 95 %"))
    return rows


def precision_rows(options: argparse.Namespace) -> list[Row]:
    """Compare final scores on validation of small trainings in both precisions."""
    child = Child.of("scores", options.library, options.epochs, options.seeds)
    scores = json.loads(child.answer())
    child.close()
    rows = []
    for key, name in SCORED.items():
        fast, exact = (np.array([each[key] for each in scores[kind]]) for kind in ("bf16", "fp32"))
        scale, unit = (1, " km/s") if key == "nmad" else (100, " %")
        text = " against ".join(
            f"{scale * each.mean():.2f} ± {scale * each.std(ddof=1):.2f}{unit}" for each in (fast, exact)
        )
        error = np.sqrt((fast.var(ddof=1) + exact.var(ddof=1)) / options.seeds)
        apart = abs(fast.mean() - exact.mean()) / error
        rows.append((f"{name}, bf16 against fp32", f"{text}: {apart:.1f} errors of the mean", "<= 2"))
    return rows


def report(options: argparse.Namespace, given: Sequence[str]) -> str:
    """Return what goes into the document, under the command with the options that were given."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepared = write_random_set(root / "set", options.prepared, PRESET)
        rows = speed_rows(prepared, options)
        rows += share_rows(prepared, options)
        rows.append(memory_row(root / "large", options.memory, PRESET_NAME, "<= 3 GB"))
    rows += precision_rows(options)
    about = (
        f"{machine()}; medians (ranges) of "
        f"{options.rounds} rounds of {options.steps} steps in turns, of {options.epoch_rounds} epochs for "
        f"shares. Scores: {options.seeds} seeds, {options.epochs} epochs of {options.library:,} simulated "
        "spectra, ± the scatter of seeds."
    )
    command = f"    python benchmarks/train.py {' '.join(given)}".rstrip()
    return "\n".join([command, "", about, "", table(("what", "measured", "must reach"), rows)])


def shown(options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    """Return the options that are not as by default, paths without their folders."""
    given = {name: value for name, value in vars(options).items() if value != parser.get_default(name)}
    texts = {name: value.name if isinstance(value, Path) else value for name, value in given.items()}
    return [f"--{name.replace('_', '-')} {text}" for name, text in texts.items()]


def main() -> None:
    if run_child(ALL_CHILDREN):
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a Python with TensorFlow and Keras")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40, help="of a round")
    parser.add_argument("--epoch-rounds", type=int, default=3, help="whole epochs, for shares")
    parser.add_argument("--prepared", type=int, default=100_000, help="spectra on disk, for shares")
    parser.add_argument("--in-memory", type=int, default=50_000, help="simulated spectra, for shares")
    parser.add_argument("--memory", type=int, default=500_000, help="spectra on disk, for memory")
    parser.add_argument("--library", type=int, default=20_000, help="simulated spectra, for scores")
    parser.add_argument("--epochs", type=int, default=6, help="of each training, for scores")
    parser.add_argument("--seeds", type=int, default=3, help="for scores; two at least")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    text = report(options, shown(options, parser))
    print(text)
    if options.output:
        write_between(options.output, "train.py", text)


if __name__ == "__main__":
    main()
