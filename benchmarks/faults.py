"""Every fault of a long run, made to happen: what becomes of the spectra and of the bytes (docs/scale.md).

    python benchmarks/faults.py [--folder DIR] [--n 1000] [--kills 20] [-o docs/scale.md]

Simulated spec files are classified into a catalogue folder by the command itself, in processes of its own,
with units of ten files so that there are many. Each fault begins with the same files under the same names. In
the end the folder is merged into a CSV file, whose checksum is compared with that of an undisturbed run.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from broadline.progress import say
from markers import write_between

BROADLINE = [sys.executable, "-c", "from broadline.cli import main; main()"]
SCRIPT = """\
import errno, os, signal, time, zlib
from pathlib import Path
from broadline import cli, patience, pipeline
from broadline.archives import sdss
pipeline._UNIT_FILES = 10
{before}
if __name__ == "__main__":
    cli.main()
"""
#: A reader that dies of one file, as one may that is written in C.
CRASH = """
read = sdss._read_one
def crash(path):
    if path.name == "{name}":
        os.kill(os.getpid(), signal.SIGKILL)
    return read(path)
sdss._read_one = crash
"""
#: Storage on which every tenth file fails at first.
FLAKY = """
read, failed = sdss._read_one, set()
def flaky(path):
    if zlib.crc32(path.name.encode()) % 10 == 0 and path not in failed:
        failed.add(path)
        raise OSError(errno.EIO, "Input/output error")
    return read(path)
sdss._read_one, patience._WAITS = flaky, (0.05,)
"""
#: Seconds that a worker may take over a unit where a read never ends.
STALL = 10
#: A slow disk.
SLOW = """
read = sdss._read_one
def slow(path):
    time.sleep(0.1)
    return read(path)
sdss._read_one = slow
"""


class Row(NamedTuple):
    """A row of the table."""

    fault: str
    codes: str
    rows: int
    flagged: str
    verdict: str


class Bench:
    """Runs the command in one place, which is made anew for each fault."""

    def __init__(self, folder: Path, survey: Path) -> None:
        self.place = folder / "work"
        self.survey = survey
        self.out = self.place / "out"
        self.reference: list[str] = []

    def anew(self) -> list[Path]:
        """Return the files of a fresh copy of the survey."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.survey, self.place / "in")
        return sorted((self.place / "in").iterdir())

    def start(self, *options: object, before: str = "") -> subprocess.Popen[bytes]:
        """Start the command; `before` is run in every process first."""
        script = self.place / "run.py"
        script.write_text(SCRIPT.format(before=before))
        how = options if "--cluster" in options else ("--workers", 2, *options)
        arguments = ["classify", self.place / "in", "-o", self.out, *how]
        log = (self.place / "said.txt").open("ab")
        return subprocess.Popen(
            [sys.executable, script, *map(str, arguments)], stdout=log, stderr=log, cwd=self.place
        )

    def finish(self, *options: object, before: str = "") -> int:
        """Run the command to its end; return the exit code."""
        return self.start(*options, before=before).wait(600)

    def wait_for(self, n_parts: int, process: subprocess.Popen[bytes]) -> None:
        """Wait until that many parts are there, or the command has ended."""
        while process.poll() is None and len(list(self.out.glob("parts/part-*"))) < n_parts:
            time.sleep(0.005)

    def worker(self) -> int:
        """Return the process of a worker that has done a unit lately."""
        lines = (self.out / "log.jsonl").read_text().splitlines()
        done = [json.loads(line) for line in lines if '"event": "done"' in line]
        return int(done[-1]["worker"].split(":")[1])

    def merged(self) -> list[str]:
        """Return the lines of the merged catalogue."""
        target = self.place / "out.csv"
        subprocess.run([*BROADLINE, "merge", self.out, "-o", target], check=True, stdout=subprocess.DEVNULL)
        return target.read_text().splitlines()

    def row(self, fault: str, codes: list[int], expected: Collection[str] = ()) -> Row:
        """Compare the catalogue with the undisturbed one, but for files that are `expected` to be flagged."""
        lines = self.merged()
        self.reference = self.reference or lines
        flagged = {row["SOURCE"].split("/")[-1] for row in csv.DictReader(lines) if int(row["FLAGS"]) & 2}
        others = [
            sha256("\n".join(x for x in text if not any(name in x for name in expected)).encode()).hexdigest()
            for text in (lines, self.reference)
        ]
        right = flagged == set(expected) and others[0] == others[1] and len(lines) == len(self.reference)
        verdict = "identical" if not expected else "identical but for the flagged"
        entry = Row(
            fault,
            ", ".join(map(str, codes)),
            len(lines) - 1,
            str(len(flagged)),
            f"{verdict}, `{others[0][:12]}`" if right else "DIFFERS",
        )
        say(" | ".join(map(str, entry)))
        return entry


def undisturbed(bench: Bench, kills: int) -> Row:
    """Nothing happens."""
    bench.anew()
    return bench.row("none", [bench.finish()])


def worker_killed(bench: Bench, kills: int, *options: object, what: str = "a worker") -> Row:
    """Workers are killed while they work, three times."""
    bench.anew()
    process = bench.start(*options)
    n = 0
    for i in range(3):
        bench.wait_for(5 + 15 * i, process)
        if process.poll() is None:
            try:
                os.kill(bench.worker(), signal.SIGKILL)
                n += 1
            except ProcessLookupError:
                pass
    return bench.row(f"{what} killed -9, {n} times", [process.wait(600)])


def dask_worker_killed(bench: Bench, kills: int) -> Row:
    """The same, of Dask."""
    return worker_killed(bench, kills, "--cluster", "local:2", what="a Dask worker")


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


@contextmanager
def dask_cluster(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler and two workers; yields the scheduler."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    address = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = ["distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", "--nthreads", "1", "--no-dashboard"]
    commands = [["distributed.cli.dask_scheduler", *address], worker, worker]
    processes = [subprocess.Popen([sys.executable, "-m", *command], **quiet) for command in commands]  # type: ignore[call-overload]
    try:
        yield processes[0]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def scheduler_lost(bench: Bench, kills: int) -> Row:
    """The scheduler is killed; the command is given again with another."""
    bench.anew()
    codes = []
    for lose in (True, False):
        port = free_port()
        with dask_cluster(port) as scheduler:
            process = bench.start("--cluster", f"tcp://127.0.0.1:{port}")
            if lose:
                bench.wait_for(10, process)
                scheduler.kill()
            codes.append(process.wait(600))
    return bench.row("scheduler killed -9, given again", codes)


def main_killed(bench: Bench, kills: int) -> Row:
    """The command itself is killed at random moments, and given again."""
    bench.anew()
    for _ in range(kills):
        n_done = len(list(bench.out.glob("parts/part-*")))
        process = bench.start()
        bench.wait_for(n_done + random.randint(0, 4), process)
        time.sleep(random.uniform(0, 0.1))
        process.kill()
        process.wait()
    return bench.row(f"command killed -9 at random, {kills} times", [bench.finish()])


def while_running(bench: Bench, fault: str, change: Callable[[Path], object], *options: object) -> Row:
    """Something happens to the last file while the command runs."""
    files = bench.anew()
    process = bench.start(*options)
    bench.wait_for(1, process)
    change(files[-1])
    return bench.row(fault, [process.wait(600)], {files[-1].name})


def deleted(bench: Bench, kills: int) -> Row:
    """A file goes away."""
    return while_running(bench, "a file deleted while running", Path.unlink)


def truncated(bench: Bench, kills: int) -> Row:
    """A file is cut short."""
    return while_running(bench, "a file cut short while running", lambda path: os.truncate(path, 50_000))


def stalled(bench: Bench, kills: int) -> Row:
    """Reading a file never ends: a pipe stands where it was."""
    files = bench.anew()
    middle = files[len(files) // 2]
    middle.unlink()
    os.mkfifo(middle)
    code = bench.finish("--stall", STALL)
    return bench.row(f"a read that never ends (`--stall {STALL}`)", [code], {middle.name})


def crashing(bench: Bench, kills: int) -> Row:
    """A file kills whoever reads it."""
    files = bench.anew()
    name = files[len(files) // 2].name
    code = bench.finish(before=CRASH.format(name=name))
    return bench.row("a file that kills its reader", [code], {name})


def flaky(bench: Bench, kills: int) -> Row:
    """Storage fails for a while."""
    bench.anew()
    return bench.row("EIO on every tenth file, for a while", [bench.finish(before=FLAKY)])


def disk_full(bench: Bench, kills: int) -> Row:
    """The disk under the folder is full; it is enlarged, and the command given again."""
    bench.anew()
    bench.out.mkdir()
    size = MODEL.stat().st_size + 400_000
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(bench.out)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0:
        try:
            first = bench.finish()
            subprocess.run(["mount", "-o", "remount,size=1g", str(bench.out)], check=True)
            return bench.row("disk full (a small tmpfs, then a larger one)", [first, bench.finish()])
        finally:
            subprocess.run(["umount", str(bench.out)], check=True)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))"
    return bench.row("disk full (no file larger than 8 kB)", [bench.finish(before=limit), bench.finish()])


def two_at_once(bench: Bench, kills: int) -> Row:
    """The same command is given twice at a time."""
    bench.anew()
    first = bench.start(before=SLOW)
    bench.wait_for(1, first)
    second = bench.finish()
    return bench.row("given twice at once", [first.wait(600), second])


FAULTS = (
    undisturbed,
    worker_killed,
    dask_worker_killed,
    scheduler_lost,
    main_killed,
    deleted,
    truncated,
    disk_full,
    stalled,
    crashing,
    flaky,
    two_at_once,
)
MODEL = Path(__file__).parents[1] / "src" / "broadline" / "models" / "default.onnx"


def main() -> None:
    """Make every fault happen and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work, and to keep the simulated spectra")
    parser.add_argument("--n", type=int, default=1000, help="spectra")
    parser.add_argument("--kills", type=int, default=20, help="times that the command is killed")
    parser.add_argument("--only", nargs="*", help="faults, by the names of the functions here")
    parser.add_argument("-o", "--output", type=Path, help="page to put the table into")
    options = parser.parse_args()
    os.environ["SOURCE_DATE_EPOCH"] = "1535000000"
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        simulated = folder / "survey"
        arguments = ["--archive", "boss", "--n", options.n, "--seed", 7, "--files", "spectra"]
        subprocess.run([*BROADLINE, "simulate", simulated, *map(str, arguments)], check=True)
        survey = folder / "spectra"
        survey.mkdir(exist_ok=True)
        for path in (simulated / "spectra").rglob("spec-*.fits"):
            shutil.copy(path, survey)
        bench = Bench(folder, survey)
        chosen = [
            fault for fault in FAULTS if not options.only or fault.__name__ in ("undisturbed", *options.only)
        ]
        rows = [fault(bench, options.kills) for fault in chosen]
    text = [
        f"{options.n:,} spectra in {-(-options.n // 10):,} units of 10 files.",
        "",
        "| fault | exit codes | rows | flagged | catalogue, compared with the undisturbed one |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]
    print("\n".join(text))
    if options.output:
        write_between(options.output, "faults.py", "\n".join(text))
    if any(row.verdict == "DIFFERS" for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
