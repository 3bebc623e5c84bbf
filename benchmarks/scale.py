"""Survey scale: a million spectra for real, one file each, Dask, memory, and what fifty million would cost.

    python benchmarks/scale.py [--folder WORK] [--quasarnp CHECKOUT] [--workers 2]
                               [--sizes 10000 100000 1000000] [--specs 100000] [--desi 100000]
                               [--distinct 20000] [-o docs/scale.md]

Simulates surveys of BOSS (spPlate, and one file a spectrum) and DESI (coadds) of ``--distinct`` spectra at
most, and repeats their files under other names by hard links until there are as many spectra as wanted: every
one is read, classified and written, but what is read is in the page cache. The network is of the paper's
size, with random weights (time does not depend on their values). Every command runs as a process of its own;
memory is that of all its processes, each page counted once. Smaller numbers make a smoke run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from astropy.io import fits

from broadline.decision import Rule
from broadline.lines import LEGACY_LINES
from broadline.model import save_model
from broadline.networks.architecture import QuasarNETConfig
from broadline.recipe import Recipe
from broadline.representation import Representation
from broadline.training.step import faster_precision
from classify import anchor_row, command, quasarnp_rows, random_parameters, shown
from cost import Measured, cost_lines
from markers import write_between

Row = tuple[str, str, str]

CONFIG = QuasarNETConfig(hidden_activation="norm-relu", offset_range=(-0.1, 1.1))
TASKS = 2000  # that do nothing, to time the scheduler by


# ---- surveys


class Survey(NamedTuple):
    """Files of spectra.

    Attributes
    ----------
    folder : Path
    n : int
        Spectra.
    n_bytes : int
    """

    folder: Path
    n: int
    n_bytes: int


#: Archive, how it is simulated, its files of spectra, and how many spectra each of them has.
LAYOUTS = {
    "plates": ("boss", ["--files", "plates"], "spPlate-*.fits", lambda path: fits.getval(path, "NAXIS2")),
    "specs": ("boss", ["--files", "spectra"], "spec-*.fits", lambda path: 1),
    "desi": ("desi", [], "coadd-*.fits", lambda path: fits.getval(path, "NAXIS2", "FIBERMAP")),
}


def simulated(layout: str, n: int, root: Path) -> list[tuple[Path, int]]:
    """Return the files of a simulated survey of at least `n` spectra, each with its number of spectra."""
    archive, options, pattern, size = LAYOUTS[layout]
    folder = root / f"{layout}-{n}"
    command("simulate", folder, "--archive", archive, "--n", str(n), "--seed", "1", *options)
    return [(path, int(size(path))) for path in sorted(folder.rglob(pattern))]


def repeated(files: Sequence[tuple[Path, int]], n: int, folder: Path) -> Survey:
    """Return a survey of `n` spectra or a few more: the files again and again, by hard links."""
    shutil.rmtree(folder, ignore_errors=True)
    so_far = n_bytes = 0
    for again in count():
        place = folder / f"{again:04d}"
        place.mkdir(parents=True)
        for path, size in files:
            os.link(path, place / path.name)
            so_far, n_bytes = so_far + size, n_bytes + path.stat().st_size
            if so_far >= n:
                return Survey(folder, so_far, n_bytes)
    raise AssertionError


# ---- commands


class Run(NamedTuple):
    """A command that ran: seconds, and peak memory of all its processes in bytes."""

    seconds: float
    peak: int


def classified(survey: Survey, model: Path, output: Path, repeats: int, *options: str) -> Run:
    """Classify a survey into a catalogue folder, the best of some times; see that nothing is missing."""
    runs = []
    for _ in range(repeats):
        shutil.rmtree(output, ignore_errors=True)
        runs.append(Run(*command("classify", survey.folder, "-o", f"{output}/", "--model", model, *options)))
    merged = output.with_suffix(".parquet")
    command("merge", output, "-o", merged)
    if (found := pq.read_metadata(merged).num_rows) != survey.n:
        raise SystemExit(f"{merged} has {found:,} rows for {survey.n:,} spectra")
    return min(runs)


@contextmanager
def one_core() -> Iterator[None]:
    """Let what is started here run on a single core."""
    before, threads = os.sched_getaffinity(0), os.environ.get("OMP_NUM_THREADS")
    os.sched_setaffinity(0, {min(before)})
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        os.environ.pop("OMP_NUM_THREADS")
        if threads:
            os.environ["OMP_NUM_THREADS"] = threads


def child(kind: str, *arguments: str | int) -> float:
    """Return what a process of this script measures, in seconds."""
    line = [sys.executable, __file__, "--child", kind, json.dumps(arguments)]
    return float(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout.split("@")[-1])


def quasarnp(checkout: str, plate: str) -> float:
    """Return the seconds a spectrum that QuasarNP's own pipeline takes."""
    return quasarnp_rows(Path(checkout), random_parameters(CONFIG), CONFIG, Path(plate))[0]


def nothing() -> object:
    """Return a function that does nothing, as `DaskEngine` wants it made."""
    return lambda item: item


def dask_overhead(n_workers: int) -> float:
    """Return the processor time, in seconds, of scheduler and client for a unit of work.

    Both are in this process, and there is one of each however large a cluster is: more units a second they
    cannot hand out.
    """
    from broadline.cluster import DaskEngine

    with DaskEngine(f"local:{n_workers}", nothing, ()) as engine:

        def run(n: int) -> None:
            submitted = done = 0
            while done < n:
                while submitted < n and engine.has_room():
                    engine.submit(submitted)
                    submitted += 1
                done += len(engine.outcomes(60))

        run(10 * n_workers)  # until all are up
        start = time.process_time()
        run(TASKS)
        return (time.process_time() - start) / TASKS


CHILDREN = {"quasarnp": quasarnp, "dask": dask_overhead}


# ---- rows


def plate_rows(root: Path, model: Path, options: argparse.Namespace) -> list[Row]:
    """Return rows of the same layout at all sizes, and of Dask and QuasarNP beside it."""
    one = repeated(simulated("specs", 10, root)[:1], 1, root / "one")
    workers = ("--workers", str(options.workers))
    start = classified(one, model, root / "out", 3, *workers).seconds
    rows: list[Row] = [("a single spectrum: what the command takes to start and end", f"{start:.1f} s", "")]
    files = simulated("plates", min(options.distinct, max(options.sizes)), root)
    costs, beyond, others = [], [], []
    sizes = sorted(options.sizes)
    for n in sizes:
        survey, last = repeated(files, n, root / "plates"), n == sizes[-1]
        run = classified(survey, model, root / "out", 1 if last else 3, *workers)
        rows += run_rows(survey, "spPlate, fp32", run, "<= 140 s" if n == 1_000_000 else "")
        costs.append(run.seconds / survey.n)
        beyond.append((run.seconds - start) / survey.n)
        if n == sizes[len(sizes) // 2]:
            others += dask_rows(survey, root, model, run.seconds, options.workers)
            if options.quasarnp:
                others.append(peer_row(survey, files[0][0], root, model, options.quasarnp))
        if last:
            rows += bf16_rows(survey, root, model, workers)
    spread, with_start = (f"{max(each) / min(each):.2f} x" for each in (beyond, costs))
    rows.append(
        ("cost a spectrum, most against least of these sizes, start and end left out", spread, "<= 1.1 x")
    )
    rows.append(("... not left out", with_start, ""))
    return rows + others


def run_rows(survey: Survey, what: str, run: Run, goal: str) -> list[Row]:
    """Return rows of time and peak memory."""
    each = f"{run.seconds:.1f} s, {1e6 * run.seconds / survey.n:.0f} us each"
    memory = f"{run.peak / 1e9:.2f} GB"
    return [
        (f"{survey.n:,} spectra, {what}", each, goal),
        ("... peak memory of all processes", memory, "<= 1.5 GB"),
    ]


def bf16_rows(survey: Survey, root: Path, model: Path, workers: Sequence[str]) -> list[Row]:
    """Return rows in bfloat16, if the processor multiplies in it: emulated it says nothing."""
    what, goal = "spPlate, bf16", "<= 80 s" if survey.n >= 1_000_000 else ""
    if faster_precision() != "bf16":
        return [(f"{survey.n:,} spectra, {what}", "not run: this processor has no such instructions", goal)]
    run = classified(survey, model, root / "out", 1, *workers, "--precision", "bf16")
    return run_rows(survey, what, run, goal)


def dask_rows(survey: Survey, root: Path, model: Path, local: float, n: int) -> list[Row]:
    """Return rows of Dask workers against each other, and against as many local ones, which took `local`."""
    one, several = (
        classified(survey, model, root / "out", 1, "--cluster", f"local:{k}").seconds for k in (1, n)
    )
    about = f"Dask, {survey.n:,} spectra, {n} workers against"
    return [
        (f"{about} one", f"{one / several:.2f} x ({one:.1f} and {several:.1f} s)", ">= 1.8 x"),
        (f"{about} {n} local ones", f"{100 * (several / local - 1):+.0f} %", "< 10 %"),
    ]


def peer_row(survey: Survey, plate: Path, root: Path, model: Path, checkout: Path) -> Row:
    """Return a row of QuasarNP on the same files, each on one core; QuasarNP's start is not counted."""
    with one_core():
        ours = classified(survey, model, root / "out", 2, "--workers", "1").seconds / survey.n
        theirs = child("quasarnp", str(checkout), str(plate))
    text = f"{theirs / ours:.1f} x ({1e6 * theirs:.0f} against {1e6 * ours:.0f} us)"
    return "times faster than QuasarNP, one core each", text, ">= 15 x"


def survey_rows(root: Path, model: Path, options: argparse.Namespace) -> tuple[list[Row], Measured]:
    """Return rows of the other layouts, and what a DESI spectrum costs."""
    rows: list[Row] = []
    for layout, n, goal in (("specs", options.specs, "<= 25 s"), ("desi", options.desi, "<= 30 s")):
        distinct = min(options.distinct // 4, n)  # these take more room
        survey = repeated(simulated(layout, distinct, root), n, root / layout)
        run = classified(survey, model, root / "out", 2, "--workers", str(options.workers))
        what = {"specs": "spec files of one each, warm", "desi": "DESI coadds"}[layout]
        rows += run_rows(survey, what, run, goal if n == 100_000 else "")
    overhead = child("dask", options.workers)
    rows.append(("Dask, scheduler and client, processor time a unit", f"{1e3 * overhead:.2f} ms", ""))
    return rows, Measured(run.seconds * options.workers / survey.n, survey.n_bytes / survey.n, overhead)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="work folder, emptied [a temporary one]")
    parser.add_argument("--quasarnp", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--specs", type=int, default=100_000)
    parser.add_argument("--desi", type=int, default=100_000)
    parser.add_argument("--distinct", type=int, default=20_000)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        lines = measure(Path(folder), options)
    print("\n".join(lines))
    if options.output:
        write_between(options.output, "scale.py", "\n".join(lines))


def measure(root: Path, options: argparse.Namespace) -> list[str]:
    """Return the page between the markers."""
    recipe = Recipe("paper-size", CONFIG, Representation(), LEGACY_LINES, Rule(), {"origin": "random"})
    model = save_model(root / "paper-size.onnx", recipe, random_parameters(CONFIG))
    rows = [anchor_row(), *plate_rows(root, model, options)]
    others, measured = survey_rows(root, model, options)
    rows += [*others, anchor_row()]
    return [
        f"    python benchmarks/scale.py {' '.join(shown(options))}",
        "",
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, "
        f"{time.strftime('%Y-%m-%d')}; {options.workers} workers. Files are hard links to "
        f"{options.distinct:,} simulated spectra or fewer, all in the page cache.",
        "",
        "| what | measured | must reach |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "50 million DESI spectra on a cluster, on paper:",
        "",
        *cost_lines(measured),
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(f"@{CHILDREN[sys.argv[2]](*json.loads(sys.argv[3]))}")
    else:
        main()
