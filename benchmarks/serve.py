"""Throughput of `broadline serve` beside the library on the same spectra, in turns.

    python benchmarks/serve.py [--rounds 5] [--threads 1] [-o docs/serve.md]

Spectra of 4600 pixels on one grid, as BOSS has them, made from noise; the model that comes with the package.
Needs the extras serve and dev.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
import pyarrow as pa

import broadline
from broadline.serve import arrow_stream
from markers import write_between

N_PIXELS, BATCH, JSON_SPECTRA, TOKEN = 4600, 256, 64, secrets.token_urlsafe(32)
ARROW, JSON = "application/vnd.apache.arrow.stream", "application/json"


def spectra(n: int) -> pa.Table:
    rng = np.random.default_rng(0)
    flux = rng.normal(3, 1, (n, N_PIXELS)).astype(np.float32)
    ivar = rng.gamma(4, 0.25, (n, N_PIXELS)).astype(np.float32)
    loglam = np.tile((3.553 + 1e-4 * np.arange(N_PIXELS)).astype(np.float32), (n, 1))
    offsets = np.arange(n + 1, dtype=np.int32) * N_PIXELS
    columns = {"flux": flux, "ivar": ivar, "loglam": loglam}
    return pa.table(
        {name: pa.ListArray.from_arrays(offsets, image.ravel()) for name, image in columns.items()}
    )


def text(table: pa.Table) -> bytes:
    """Return spectra as a program writes them that knows how many digits there are."""
    rows = [
        {name: [float(f"{x:.7g}") for x in values] for name, values in row.items()}
        for row in table.to_pylist()
    ]
    return json.dumps(rows).encode()


@contextmanager
def server(threads: int) -> Iterator[httpx2.Client]:
    command = [sys.executable, "-m", "broadline", "serve", "--port", "0", "--threads", str(threads)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"BROADLINE_TOKEN": TOKEN}
    )
    try:
        assert process.stdout is not None
        link = re.search(r"http://\S+", process.stdout.readline())
        assert link
        with httpx2.Client(
            base_url=link[0], headers={"Authorization": f"Bearer {TOKEN}"}, timeout=600
        ) as client:
            yield client
    finally:
        process.terminate()
        process.wait()


def rate(client: httpx2.Client, body: bytes, kind: str, n_spectra: int, clients: int, requests: int) -> float:
    """Return spectra a second of some clients that send one request after another."""

    def ask(_: int) -> None:
        client.post("/classify", content=body, headers={"Content-Type": kind}).raise_for_status()

    with ThreadPoolExecutor(clients) as pool:
        began = time.perf_counter()
        list(pool.map(ask, range(requests)))
        return n_spectra * requests / (time.perf_counter() - began)


def library(table: pa.Table, threads: int, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        broadline.classify_table(table, batch=BATCH, threads=threads)
    return len(table) * repeats / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    table = spectra(BATCH)
    whole, one, few = (
        arrow_stream.write(table),
        arrow_stream.write(table.slice(0, 1)),
        text(table.slice(0, JSON_SPECTRA)),
    )
    name = f"classify_table, batch {BATCH}"
    with server(options.threads) as client:
        contenders: dict[str, Callable[[], float]] = {
            name: lambda: library(table, options.threads, 8),
            f"Arrow, {BATCH} spectra a request, 1 client": lambda: rate(client, whole, ARROW, BATCH, 1, 8),
            f"Arrow, {BATCH} spectra a request, 4 clients": lambda: rate(client, whole, ARROW, BATCH, 4, 8),
            "Arrow, 1 spectrum a request, 50 clients": lambda: rate(client, one, ARROW, 1, 50, 500),
            f"JSON, {JSON_SPECTRA} spectra a request, 4 clients": lambda: rate(
                client, few, JSON, JSON_SPECTRA, 4, 8
            ),
            "Arrow, 1 spectrum a request, 1 client": lambda: rate(client, one, ARROW, 1, 1, 50),
        }
        for contender in contenders.values():
            contender()  # models loaded, grids known
        rates: dict[str, list[float]] = {what: [] for what in contenders}
        for _ in range(options.rounds):
            for what, contender in contenders.items():
                rates[what].append(contender())
    lines = [
        f"    python benchmarks/serve.py --rounds {options.rounds} --threads {options.threads}",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{time.strftime('%Y-%m-%d')}, load {os.getloadavg()[1]:.1f}; medians (ranges) of {options.rounds} "
        f"rounds in turns; a spectrum is {len(whole) / BATCH / 1e3:.0f} kB in Arrow, "
        f"{len(few) / JSON_SPECTRA / 1e3:.0f} kB in JSON.",
        "",
        "| what | spectra a second | of the library's | must reach |",
        "|---|---|---|---|",
    ]
    for what, each in rates.items():
        shares = [rate / base for rate, base in zip(each, rates[name], strict=True)]
        share = (
            f"{100 * statistics.median(shares):.0f} ({100 * min(shares):.0f} to {100 * max(shares):.0f}) %"
        )
        goal = ">= 80 %" if f"{BATCH} spectra" in what and "4 clients" in what else ""
        speed = f"{statistics.median(each):,.0f} ({min(each):,.0f} to {max(each):,.0f})"
        lines.append(f"| {what} | {speed} | {'' if what == name else share} | {goal} |")
    print("\n".join(lines))
    if options.output:
        write_between(options.output, "serve.py", "\n".join(lines))


if __name__ == "__main__":
    main()
