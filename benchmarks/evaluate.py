"""Time and memory of evaluating a catalogue of the size of BOSS.

    python benchmarks/evaluate.py [--n 500000] [--rows 3000] [--profile] [-o docs/evaluation.md]

Simulates and classifies a survey of ``--rows`` BOSS-like spectra with the model that comes with broadline,
then repeats its rows under new names, with noise in confidences and redshifts, until there are ``--n``. The
command ``broadline evaluate`` runs on that, in a process of its own, with truth and pipeline of the survey,
without galleries. ``--profile`` prints where the time went instead.
"""

from __future__ import annotations

import argparse
import os
import platform
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit, logit

from broadline.decision import SPEED_OF_LIGHT
from broadline.named_models import load_model
from markers import write_between

#: What issue D asks for.
MOST_SECONDS, MOST_GIB = 60, 4
#: How much rows of the same spectrum differ: in the logit of confidences, and in redshift (km/s).
NOISE, SCATTER = 0.5, 100.0
BROADLINE = [sys.executable, "-c", "from broadline.cli import main; main()"]


def broadline(*arguments: object) -> None:
    subprocess.run([*BROADLINE, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def replaced(table: pa.Table, columns: dict[str, Any]) -> pa.Table:
    """Return a table in which some columns have new values, of their own type."""
    for name, values in columns.items():
        i = table.column_names.index(name)
        known = pa.array(np.asarray(values), from_pandas=True)
        table = table.set_column(i, table.schema.field(i), known.cast(table.schema.field(i).type))
    return table


def repeated(table: pa.Table, n: int) -> tuple[pa.Table, np.ndarray]:
    """Return rows again and again, on plates of their own, and which repetition each is."""
    again = np.repeat(np.arange(-(-n // len(table))), len(table))[:n]
    rows = table.take(np.resize(np.arange(len(table)), n))
    plate = np.asarray(rows["PLATE"])
    plate = plate - plate.min() + 1 + again * (np.ptp(plate) + 1)
    columns: dict[str, Any] = {"PLATE": plate}
    if "THING_ID" in table.column_names:
        thing = np.asarray(rows["THING_ID"])
        columns["THING_ID"] = np.where(thing > 0, thing + again * (thing.max() + 1), thing)
    return replaced(rows, columns), again


def noisy(table: pa.Table, c_th: float) -> pa.Table:
    """Return a catalogue whose confidences and redshifts differ from row to row."""
    rng = np.random.default_rng(7)
    names = [name for name in table.column_names if name.startswith("C_")]
    columns: dict[str, Any] = {}
    for name in names:
        c = np.clip(np.asarray(table[name], dtype=np.float64), 1e-9, 1 - 1e-7)
        columns[name] = expit(logit(c) + rng.normal(0, NOISE, len(c))).astype(np.float32)
    emission = [columns[name] for name in names if name != "C_BAL_CIV"]
    columns["IS_QSO"] = np.max(emission, axis=0) > np.float32(c_th)
    z = np.asarray(table["Z"])
    columns["Z"] = z + rng.normal(0, SCATTER, len(z)) * (1 + z) / SPEED_OF_LIGHT
    return replaced(table, columns)


def make(folder: Path, n: int, n_rows: int) -> tuple[Path, Path]:
    """Write a catalogue of n rows and its truth."""
    survey, small = folder / "survey", folder / "small.parquet"
    broadline("simulate", survey, "--archive", "boss", "--n", n_rows, "--seed", 5)
    broadline("classify", survey, "-o", small)
    truth = pq.read_table(survey / "truth.parquet")
    # Row by row the truth's: the catalogue has them in the order of files, which need not be the truth's.
    catalogue = pq.read_table(small).sort_by([(name, "ascending") for name in ("PLATE", "MJD", "FIBERID")])
    truth = truth.sort_by([(name, "ascending") for name in ("PLATE", "MJD", "FIBERID")])
    catalogue = noisy(repeated(catalogue, n)[0], load_model("default").recipe.rule.c_th)
    paths = folder / "catalogue.parquet", folder / "truth.parquet"
    for path, table in zip(paths, (catalogue, repeated(truth, n)[0]), strict=True):
        pq.write_table(table, path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=500_000)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalogue, truth = make(folder, options.n, options.rows)
        arguments = ["evaluate", catalogue, "--truth", truth, "--baseline", truth, "-o", folder / "report"]
        if options.profile:
            profile(folder, arguments)
            return
        start = time.perf_counter()
        broadline(*arguments)
        seconds = time.perf_counter() - start
    # The largest of all children; those that made the catalogue are smaller.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
    body = [
        f"    python benchmarks/evaluate.py --n {options.n}",
        "",
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, "
        f"{time.strftime('%Y-%m-%d')}.",
        "",
        "| what | measured | must reach |",
        "|---|---|---|",
        f"| {options.n:,} rows, truth and pipeline to report | {seconds:.0f} s | <= {MOST_SECONDS} s |",
        f"| ... peak memory | {peak:.1f} GiB | <= {MOST_GIB} GiB |",
    ]
    print("\n".join(body))
    if options.output:
        write_between(options.output, "evaluate.py", "\n".join(body))


def profile(folder: Path, arguments: list[object]) -> None:
    """Print the functions in which an evaluation spends its time."""
    stats = folder / "stats"
    code = "import cProfile; from broadline.cli import main; cProfile.run('main()', sys.argv.pop(1))"
    command = [sys.executable, "-c", f"import sys; {code}", str(stats), *map(str, arguments)]
    subprocess.run(command, check=True)
    pstats.Stats(str(stats)).sort_stats("cumulative").print_stats(r"broadline|numpy|matplotlib", 70)


if __name__ == "__main__":
    main()
