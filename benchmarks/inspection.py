"""Times of the inspection page: command and page opened, 100,000 rows, from a key to the next spectrum.

    python benchmarks/inspection.py SURVEY   # of `broadline simulate`: plates, or one file a spectrum

Needs the extras inspect and dev, and a chromium on the PATH. The spectra of the survey are repeated to fill
the catalogue, so their files are in the system's cache. Painted is when the browser has shown the spectrum,
which it does at a refresh of the screen, every 16 ms. Other work on the machine counts: the load is printed.
"""

from __future__ import annotations

import os
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
# From an event to the next spectrum: until the page has changed, and until that is painted.
_NEXT = """(act) => new Promise((done) => {
  const began = performance.now();
  const changed = () => {
    const first = performance.now() - began;
    requestAnimationFrame(() => setTimeout(() => done([first, performance.now() - began])));
  };
  new MutationObserver((_, observer) => { observer.disconnect(); changed(); })
    .observe(document.querySelector("#name"), { childList: true });
  const { key, queue } = act;
  if (key) document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  else for (const one of document.querySelectorAll("#queues button")) {
    if (one.textContent.includes(queue)) return one.click();
  }
})"""


def classified(survey: Path, folder: Path) -> Path:
    """Classify a survey, and repeat its rows with other names and probabilities until there are `ROWS`."""
    small = folder / "small.parquet"
    command = [sys.executable, "-m", "broadline", "classify"]
    subprocess.run([*command, survey, "-o", small], check=True, stdout=subprocess.DEVNULL)
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


def said(times: list[list[float]]) -> str:
    """Return medians of both times, and the slowest."""
    changed, painted = np.array(times).T
    return (
        f"page changed after {np.median(changed):.0f} ms, painted after {np.median(painted):.0f} ms "
        f"(medians of {len(times)}; slowest {painted.max():.0f} ms)"
    )


def in_a_browser(link: str) -> None:
    """Print what a person waits for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.goto("about:blank")
        began = time.perf_counter()
        page.goto(link)
        page.wait_for_selector("#strip canvas")
        print(f"page opened, first spectrum shown: {time.perf_counter() - began:.2f} s")
        for queue in ("All spectra", "Ranked"):
            page.wait_for_timeout(1000)
            print(f"queue {queue!r} opened: {said([page.evaluate(_NEXT, {'queue': queue})])}")
        for key, what in (("j", "next"), ("Enter", "verdict stored, and next")):
            times = []
            for _ in range(KEYS):
                page.wait_for_timeout(500)  # about as fast as a person may be
                times.append(page.evaluate(_NEXT, {"key": key}))
            print(f"{what}: {said(times)}")
        browser.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        catalogue = classified(Path(sys.argv[1]), Path(temporary))
        print(f"load of the machine: {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
        command = [sys.executable, "-u", "-m", "broadline", "inspect", str(catalogue)]
        began = time.perf_counter()
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found
        print(f"command until its link, {ROWS:,} rows: {time.perf_counter() - began:.1f} s")
        if shutil.which("chromium"):
            in_a_browser(found[0])
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
        server.kill()


if __name__ == "__main__":
    main()
