"""The page of inspection as a person uses it, in a browser: keys, mouse, two tabs, a server that dies."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from broadline.inspect.exchange import read_verdicts
from broadline.inspect.queue import rank
from broadline.inspect.subjects import Subjects, read_subjects
from broadline.inspect.verdicts import Store
from conftest import Answer
from inspected import SWAPPED, N, true_kind, true_z, write_catalogue

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "<img src=x onerror=alert(1)><script>alert(1)</script>"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to show the page in")


PATIENCE = 60_000  # ms: machines may be busy with other things
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS, timeout=PATIENCE)
        yield launched
        launched.close()


class Served:
    """A running `broadline inspect`: its link, its process, its file of verdicts."""

    def __init__(self, catalogue: Path, verdicts: Path, *options: str) -> None:
        self.verdicts = verdicts
        command = [
            sys.executable,
            "-u",
            "-c",
            "from broadline.cli import main; main()",
            "inspect",
            str(catalogue),
        ]
        self.process = subprocess.Popen(
            [*command, "--verdicts", str(verdicts), "--name", "Ada", *options],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self.process.stdout is not None
        found = re.search(r"http://\S+", self.process.stdout.readline())
        assert found, "the server did not start"
        self.link = found[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def served(to_inspect: Path, tmp_path: Path) -> Iterator[Served]:
    """A server of one's own, to be killed."""
    with Served(to_inspect, tmp_path / "verdicts.sqlite") as running:
        yield running


@pytest.fixture(scope="module")
def shared(to_inspect: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The link of a server for all tests, each with an inspector of its own."""
    with Served(to_inspect, tmp_path_factory.mktemp("shared") / "verdicts.sqlite") as running:
        yield running.link


@pytest.fixture
def subjects(to_inspect: Path) -> Subjects:
    return read_subjects(to_inspect)


@contextmanager
def opened(
    browser: Browser, link: str, name: str = "", size: tuple[int, int] = (1280, 720), scheme: str = "light"
) -> Iterator[Page]:
    """A page, on which nothing may be wrong that its console would tell, or run that is not its own."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)  # type: ignore[arg-type]
    if name:
        context.add_init_script(f"sessionStorage.setItem('inspector', '{name}')")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: faults.append(f"dialog {dialog.message}"))
    page.goto(link)
    expect(page.locator("#place")).to_have_text(re.compile("of"))
    yield page
    context.close()
    # A refused request is told by the browser too; that is no fault of the page.
    assert [fault for fault in faults if "Failed to load resource" not in fault] == []


def row_of(page: Page) -> int:
    return int(page.locator("#name").inner_text().rsplit("-", 1)[1]) - 1


def redshift(page: Page) -> float:
    return float(page.locator("#z").input_value())


def accept(page: Page, key: str = "Enter") -> None:
    """Press accept and wait until the verdict is stored."""
    name = page.locator("#name").inner_text()
    page.keyboard.press(key)
    expect(page.locator("#stored")).to_contain_text(f"stored: {name}")


def history(served: Served, subjects: Subjects) -> dict[int, tuple[str, float | None, int]]:
    """End the server as hard as can be, and return what is in its file."""
    served.kill()
    with Store(served.verdicts, subjects) as store:
        return {
            v.row: (v.ruling.kind, v.ruling.z, v.ruling.quality)
            for said in store.standing().values()
            for v in said
        }


def test_twenty_spectra_are_ruled_on_by_keyboard_alone(
    browser: Browser, served: Served, subjects: Subjects
) -> None:
    ruled = []
    with opened(browser, served.link) as page:
        for number in range(20):
            row = row_of(page)
            ruled.append(row)
            if true_kind(row) == "STAR":
                page.keyboard.press("s")
                expect(page.locator("#z")).to_have_value("0.00000")
            elif row in SWAPPED:
                page.keyboard.press("n")
                expect(page.locator("#z")).to_have_value(f"{true_z(row):.5f}")
            page.keyboard.press(str(number % 5))
            accept(page, "Enter" if number % 2 else " ")
        expect(page.locator("#queues button").first).to_contain_text("20/")
    stored = history(served, subjects)  # killed: all is there
    assert sorted(stored) == sorted(ruled) and ruled == rank(subjects).queue("ranked")[:20].tolist()
    for number, row in enumerate(ruled):
        kind, z, quality = stored[row]
        assert (kind, quality) == (true_kind(row), number % 5)
        assert z == pytest.approx(true_z(row), abs=1e-3)


def wavelength(page: Page, x: float, y: float) -> float:
    """Return the wavelength that the page shows for a place."""
    page.mouse.move(x, y)
    expect(page.locator("#cursor")).to_contain_text("Å")
    return float(page.locator("#cursor").inner_text().split(" Å")[0])


def test_lines_follow_the_mouse_and_the_redshift_with_them(browser: Browser, shared: str) -> None:
    with opened(browser, shared, "Drag") as page:
        box = page.locator("#plot .u-over").bounding_box()
        assert box is not None
        y = box["y"] + box["height"] / 2
        left, right = (wavelength(page, box["x"] + share * box["width"], y) for share in (0.25, 0.75))
        scale = (right - left) / (0.5 * box["width"])  # Angstrom per pixel

        def place(at: float) -> float:
            return box["x"] + 0.25 * box["width"] + (at - left) / scale

        before = redshift(page)
        line = 2799.12 * (1 + before)
        if not left < line < right:
            page.keyboard.press("z")
            page.keyboard.type("1.0")
            page.keyboard.press("Enter")
            before, line = 1.0, 2 * 2799.12
        page.mouse.move(place(line), y)  # MgII itself
        page.mouse.down()
        page.mouse.move(place(line) + 80, y, steps=5)
        page.mouse.up()
        assert 1 + redshift(page) == pytest.approx((1 + before) * (line + 80 * scale) / line, rel=1e-3)
        page.keyboard.down("Shift")  # anywhere
        start = redshift(page)
        at = wavelength(page, place(left) + 5, y)
        page.mouse.down()
        page.mouse.move(place(left) + 45, y, steps=5)
        page.mouse.up()
        page.keyboard.up("Shift")
        assert 1 + redshift(page) == pytest.approx((1 + start) * (at + 40 * scale) / at, rel=1e-3)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        seen = wavelength(page, place(left), y)
        page.mouse.wheel(0, -300)  # zooming in keeps what is under the mouse
        page.mouse.move(place(left) + 1, y)
        assert wavelength(page, place(left), y) == pytest.approx(seen, abs=3)
        page.mouse.dblclick(place(left), y)
        assert wavelength(page, place(right), y) == pytest.approx(right, abs=10)


def test_undo_and_reload_show_what_stands(browser: Browser, shared: str) -> None:
    with opened(browser, shared, "Undo") as page:
        accept(page)
        second = row_of(page)
        accept(page)
        page.keyboard.press("Backspace")
        expect(page.locator("#stored")).to_contain_text("taken back")
        assert row_of(page) == second
        expect(page.locator("#verdict")).to_contain_text("no verdict of yours yet")
        page.reload()
        expect(page.locator("#place")).to_have_text(re.compile("^2 of"))
        assert row_of(page) == second
        page.keyboard.press("k")
        expect(page.locator("#place")).to_have_text(re.compile("^1 of"))
        expect(page.locator("#verdict")).to_contain_text("your verdict: QSO")
        page.keyboard.press("k")
        expect(page.locator("#stored")).to_contain_text("first of the queue")


def test_verdicts_are_exported_from_the_page(
    browser: Browser, shared: str, subjects: Subjects, tmp_path: Path
) -> None:
    with opened(browser, shared, "Export") as page:
        row = row_of(page)
        accept(page)
        with page.expect_download() as download:
            page.get_by_text("VI csv").click()
        download.value.save_as(tmp_path / "vi.csv")
        read = read_verdicts(tmp_path / "vi.csv", subjects).verdicts
        assert (row, "Export") in [(of, inspector) for of, inspector, _ in read]
        with page.expect_file_chooser() as chooser:
            page.get_by_text("Import").click()
        chooser.value.set_files(tmp_path / "vi.csv")
        expect(page.locator("#stored")).to_contain_text("0 verdicts taken from vi.csv")


def test_hostile_text_is_shown_and_not_run(browser: Browser, subjects: Subjects, tmp_path: Path) -> None:
    names = [f"{HOSTILE}-{row + 1}" for row in range(N)]
    write_catalogue(tmp_path / "hostile.parquet", names, subjects.columns["SOURCE"].tolist())
    with (
        Served(tmp_path / "hostile.parquet", tmp_path / "v.sqlite") as served,
        opened(browser, served.link) as page,
    ):
        expect(page.locator("#name")).to_contain_text(HOSTILE)
        page.keyboard.press("c")
        page.keyboard.type(HOSTILE)
        page.keyboard.press("Enter")
        accept(page)
        page.locator("#inspector").click()
        page.locator("dialog input").fill("<b>Eve</b>")
        page.keyboard.press("Enter")
        expect(page.locator("#inspector")).to_have_text("<b>Eve</b>")
        page.keyboard.press("k")
        expect(page.locator("#place")).to_have_text(re.compile("^1 of"))
        accept(page)
        page.keyboard.press("k")
        expect(page.locator("#others")).to_contain_text(HOSTILE)
        page.keyboard.press("r")
        expect(page.locator("dialog")).to_contain_text("<b>Eve</b>")
        assert page.locator("img, b, header script").count() == 0


def test_a_second_tab_is_told_of_what_the_first_ruled(browser: Browser, shared: str) -> None:
    with opened(browser, shared, "Tabs") as one, opened(browser, shared, "Tabs") as other:
        row = row_of(one)
        assert row_of(other) == row
        accept(one)
        other.keyboard.press("u")
        other.keyboard.press("Enter")
        expect(other.locator("#said")).to_contain_text("Another tab has ruled on this spectrum since: QSO")
        assert row_of(other) == row
        accept(other)
        other.keyboard.press("k")
        expect(other.locator("#verdict")).to_contain_text("your verdict: ?")


def test_a_verdict_that_cannot_be_stored_stays_on_the_page(browser: Browser, served: Served) -> None:
    with opened(browser, served.link) as page:
        name = page.locator("#name").inner_text()
        served.kill()
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("the server does not answer")
        expect(page.locator("#name")).to_have_text(name)
        expect(page.locator("#verdict")).to_contain_text("quality 2")


def test_filters_choose_and_a_spectrum_without_a_class_is_not_accepted(browser: Browser, shared: str) -> None:
    with opened(browser, shared, "Filter") as page:
        page.get_by_text("All spectra").click()
        expect(page.locator("#place")).to_have_text(f"1 of {N}")
        page.keyboard.press("f")
        page.keyboard.type("IS_QSO = false & SN_MEDIAN")
        page.keyboard.press("Enter")
        expect(page.locator("#place")).to_have_text(
            f"1 of {sum(true_kind(row) == 'STAR' for row in range(N)) - 1}"
        )
        assert true_kind(row_of(page)) == "STAR"
        expect(page.locator("#verdict button[aria-pressed=true]").first).to_have_text(
            "Star"
        )  # the survey's own
        page.keyboard.press("f")
        page.keyboard.type("Z >")
        page.keyboard.press("Enter")
        expect(page.locator("#filter-said")).to_contain_text("compared")


def test_a_name_is_asked_for_and_others_verdicts_are_hidden_until_ones_own(
    browser: Browser, shared: str
) -> None:
    with opened(browser, shared, "Blind one") as page:
        accept(page)
    with opened(browser, shared, "x") as page:
        page.locator("#inspector").click()
        page.locator("dialog input").fill("Blind two")
        page.keyboard.press("Enter")
        expect(page.locator("#inspector")).to_have_text("Blind two")
        expect(page.locator("#verdict")).to_contain_text("hidden until yours is given")
        assert "Blind one" not in page.content()
        accept(page)
        page.keyboard.press("k")
        expect(page.locator("#others")).to_contain_text("Blind one")
        page.keyboard.press("r")
        expect(page.locator("dialog")).to_contain_text("Blind one and Blind two")
        page.keyboard.press("Escape")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080)])
def test_all_that_is_needed_is_in_sight(
    browser: Browser, shared: str, size: tuple[int, int], scheme: str, tmp_path: Path
) -> None:
    with opened(browser, shared, "Look", size, scheme) as page:
        for key in "moa":
            page.keyboard.press(key)
        expect(page.locator("#strip canvas")).to_have_count(8)
        page.screenshot(path=tmp_path / "page.png")
        for part in (
            "#name",
            "#accept",
            "#z",
            "#solutions",
            "#plot canvas",
            "#strip",
            "#filter",
            "#sort",
            "#help",
        ):
            box = page.locator(part).bounding_box()
            assert box and box["x"] >= 0 and box["x"] + box["width"] <= size[0], part
            assert box["y"] >= 0 and box["y"] + min(box["height"], 40) <= size[1], part
        drawn = page.evaluate(
            """() => { const c = document.querySelector("#plot canvas");
            const p = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
            return new Set(new Uint32Array(p.buffer)).size; }"""
        )
        assert drawn > 20  # colours: something is drawn
        page.keyboard.press("?")
        expect(page.locator("dialog")).to_contain_text("accept what is shown and go on")


def test_the_static_page_gives_verdicts_that_come_back(
    browser: Browser, command: Callable[..., Answer], subjects: Subjects, tmp_path: Path
) -> None:
    answer = command(
        "inspect", subjects.catalogue.path, "--static", tmp_path / "p.html", "--n", 5, "--name", "Bo"
    )
    assert answer.code == 0, answer.err
    with opened(browser, (tmp_path / "p.html").as_uri()) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        rows = []
        for _ in range(2):
            rows.append(row_of(page))
            page.keyboard.press("c")
            page.keyboard.type('"faint", =1')
            page.keyboard.press("Enter")
            accept(page)
        page.keyboard.press("Backspace")
        expect(page.locator("#stored")).to_contain_text("taken back")
        accept(page)
        with page.expect_download() as download:
            page.get_by_text("VI csv").click()
        download.value.save_as(tmp_path / "vi.csv")
        assert [url for url in asked if not url.startswith("blob:")] == []
        page.reload()
        expect(page.locator("#place")).to_have_text("3 of 5")  # kept by the browser
    found = read_verdicts(tmp_path / "vi.csv", subjects).verdicts
    assert [(row, who, ruling.comment) for row, who, ruling in found][:1] == [(rows[0], "Bo", '"faint", =1')]
    assert [row for row, _, _ in found] == rows
    with (tmp_path / "vi.csv").open(newline="") as stream:
        assert {len(line) for line in csv.reader(stream)} == {16}
