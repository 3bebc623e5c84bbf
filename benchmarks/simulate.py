"""Speed and memory of simulated surveys, on disk and in memory.

    python benchmarks/simulate.py [--n 20000] [--templates DIR] [-o docs/simulation.md]

Surveys go into a temporary folder; one is killed half-way, started again and compared by hash.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from broadline.simulation.library import build_library
from broadline.simulation.stream import Stream, batches
from broadline.training.simulated import INSTRUMENTS
from broadline.workers import available_cores
from classify import command
from markers import write_between
from real_sky import table


def digest(folder: Path) -> str:
    """Return a hash of the names and contents of all files under a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(str(path.relative_to(folder)).encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def request(folder: Path, archive: str, n: int, templates: Path | None, *more: str) -> list[str]:
    arguments = ["simulate", str(folder), "--archive", archive, "--n", str(n), "--seed", "1", *more]
    return arguments + (["--templates", str(templates)] if templates else [])


def on_disk(root: Path, n: int, templates: Path | None) -> list[tuple[str, str, str]]:
    rows = []
    for archive, more, goal in (
        ("boss", (), ">= 400 /s"),
        ("boss", ("--files", "spectra"), ""),
        ("sdss", (), ""),
        ("lamost", (), ""),
        ("desi", (), ""),
    ):
        size = n if goal else n // 4
        seconds, memory = command(*request(root / "survey", archive, size, templates, *more))
        kind = f"{archive} {' '.join(more)}".strip()
        rows.append((f"{size:,} spectra written, {kind}", f"{size / seconds:,.0f} /s", goal))
        rows.append(("... peak memory of all processes", f"{memory / 1e9:.2f} GB", "<= 3 GB"))
        shutil.rmtree(root / "survey")
    return rows


def killed(root: Path, n: int, templates: Path | None) -> tuple[str, str, str]:
    command(*request(root / "whole", "boss", n, templates))
    arguments = request(root / "killed", "boss", n, templates)
    run = subprocess.Popen(
        [sys.executable, "-c", "from broadline.cli import main; main()", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    parts = root / "killed" / ".parts"
    while len(list(parts.glob("*.npy"))) < 3 and run.poll() is None:
        time.sleep(0.05)
    subprocess.run(["pkill", f"-{signal.SIGKILL}", "-s", str(run.pid)], check=False)
    run.wait()
    done = len(list(parts.glob("*.npy")))
    command(*arguments)
    same = digest(root / "whole") == digest(root / "killed")
    fields = len(list((root / "whole").glob("9*")))
    return (
        f"killed with SIGKILL after {done} of {fields} fields, started again: same bytes",
        "yes" if same else "NO",
        "yes",
    )


def in_memory(n: int, templates: Path | None) -> list[tuple[str, str, str]]:
    start = time.perf_counter()
    library = build_library(n, seed=1, templates=str(templates) if templates else None)
    rows = [(f"library of {n:,} clean spectra", f"{n / (time.perf_counter() - start):,.0f} /s", "")]
    rows.append(("... size of a million", f"{library.flux.nbytes / n * 1e-3:.2f} GB", ""))
    rng = np.random.Generator(np.random.SFC64(0))
    for _ in range(2):  # the first epoch builds the curves of the instruments
        start = time.perf_counter()
        with Stream(batches(library, INSTRUMENTS, 256, rng)) as stream:
            count = sum(len(batch.rows) for batch in stream)
        rate = count / (time.perf_counter() - start)
    rows.append(("batches of 443 bins with fresh noise, four instruments", f"{rate:,.0f} /s", ">= 6,000 /s"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--templates", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = on_disk(root, options.n, options.templates)
        rows.append(killed(root, options.n // 2, options.templates))
    rows += in_memory(options.n, options.templates)
    with_sets = "with all template sets" if options.templates else "without templates"
    head = f"{available_cores()} cores, {with_sets}; wall time from command to finished catalogues.\n\n"
    text = head + table(("what", "measured", "must reach"), rows)
    print(text)
    if options.output:
        write_between(options.output, "simulate.py", text)


if __name__ == "__main__":
    main()
