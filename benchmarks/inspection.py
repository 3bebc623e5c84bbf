"""Times of the inspection page: 100,000 rows opened, filtered and sorted; from a key to the next spectrum.

    python benchmarks/inspection.py SURVEY   # what `broadline simulate --files spectra` wrote

Needs the extras inspect and dev, and for the keys a chromium on the PATH.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS, KEYS = 100_000, 30
_NEXT = """(key) => new Promise((done) => {
  const name = document.querySelector("#name"), began = performance.now();
  const drawn = () => requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
  new MutationObserver(drawn).observe(name, { childList: true });
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
})"""


def classified(survey: Path, folder: Path) -> Path:
    """Classify a survey, and repeat its rows with other names and probabilities until there are `ROWS`."""
    small = folder / "small.parquet"
    command = [sys.executable, "-c", "from broadline.cli import main; main()", "classify"]
    subprocess.run([*command, survey / "spectra", "-o", small], check=True, stdout=subprocess.DEVNULL)
    table = pq.read_table(small)
    big = pa.concat_tables([table] * (ROWS // len(table) + 1)).slice(0, ROWS)
    random = np.random.default_rng(0).beta(8, 1, ROWS).astype(np.float32)
    names = pa.array([f"{i:06d}" for i in range(ROWS)])
    big = big.set_column(big.schema.get_field_index("P_Z"), "P_Z", pa.array(random))
    big = big.set_column(big.schema.get_field_index("OBJID"), "OBJID", names)
    pq.write_table(big.replace_schema_metadata(table.schema.metadata), folder / "catalogue.parquet")
    return folder / "catalogue.parquet"


def median(work: Callable[[], object], n: int = 7) -> float:
    """Return the median time of some work (ms)."""
    times = []
    for _ in range(n):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * float(np.median(times))


def keys(link: str, key: str) -> list[float]:
    """Return the times (ms) from a key to the next spectrum on the screen."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(
            executable_path=path, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto(link)
        page.wait_for_selector("#strip canvas")
        times = []
        for _ in range(KEYS):
            page.wait_for_timeout(300)  # as fast as a person may be
            times.append(float(page.evaluate(_NEXT, key)))
        browser.close()
    return times


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        catalogue = classified(Path(sys.argv[1]), Path(temporary))
        command = [
            sys.executable,
            "-u",
            "-c",
            "from broadline.cli import main; main()",
            "inspect",
            str(catalogue),
        ]
        began = time.perf_counter()
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found
        print(f"start, {ROWS:,} rows: {time.perf_counter() - began:.1f} s")
        with httpx2.Client(base_url=found[0], timeout=60) as client:
            asks = {
                "ranked queue": "api/queue?name=ranked",
                "catalogue filtered and sorted": "api/queue?name=all&filter=Z>2.1%26SN_MEDIAN<9&sort=Z",
                "progress of all queues": "api/queues",
                "one spectrum": "api/spectrum/77",
            }
            for what, path in asks.items():
                answer = client.get(path).raise_for_status()
                taken = median(lambda path=path: client.get(path))  # type: ignore[misc]
                print(f"{what}: {taken:.0f} ms, {len(answer.content) / 1e3:.0f} kB")
        if shutil.which("chromium"):
            for key, what in (("j", "next"), ("Enter", "verdict stored, and next")):
                times = keys(found[0], key)
                print(f"{what}: median {np.median(times):.0f} ms, slowest of {KEYS} {max(times):.0f} ms")
        server.kill()


if __name__ == "__main__":
    main()
