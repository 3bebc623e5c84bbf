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

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from broadline.inspect.agreement import disputed, settled
from broadline.inspect.exchange import read_verdicts
from broadline.inspect.marks import MARKS
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


#: Parts of the panels that reach beyond the panels' margins.
_CUT_OFF = """() => [...document.querySelectorAll("aside:not([hidden])")].flatMap((aside) => {
  const edge = aside.getBoundingClientRect().right - parseFloat(getComputedStyle(aside).paddingRight) + 1;
  return [...aside.querySelectorAll("*")].filter((part) => part.getBoundingClientRect().right > edge)
    .map((part) => part.outerHTML.slice(0, 80));
})"""


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


_MARKED = """() => {
  const c = document.querySelector("#plot canvas"), over = document.querySelector("#plot .u-over");
  const hex = getComputedStyle(document.documentElement).getPropertyValue("--mark").trim();
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const frame = over.getBoundingClientRect(), at = c.getBoundingClientRect(), scale = c.width / at.width;
  const [left, top] = [(frame.x - at.x) * scale, (frame.y - at.y) * scale].map(Math.round);
  const [width, height] = [frame.width * scale, frame.height * scale].map(Math.floor);
  const p = c.getContext("2d").getImageData(left, top, width, height).data, found = [];
  for (let x = 0; x < width; x++) {
    let n = 0;
    for (let y = 0; y < height; y++) {
      const i = 4 * (y * width + x);
      n += Math.abs(p[i] - r) + Math.abs(p[i + 1] - g) + Math.abs(p[i + 2] - b) < 160;
    }
    if (n > height / 4) found.push(x / scale);
  }
  return found;
}"""


def test_all_lines_move_together_when_the_redshift_is_dragged_and_when_it_is_typed(
    browser: Browser, shared: str
) -> None:
    lines = np.array([mark.wavelength for mark in MARKS if not mark.absorbs])

    def unseen(page: Page, first: float, last: float, width: float) -> list[float]:
        """Return lines that should be drawn at the redshift of the page and are not."""
        place = (lines * (1 + redshift(page)) - first) / (last - first) * width
        found = np.array(page.evaluate(_MARKED))
        inside = place[(place > 5) & (place < width - 5)]
        assert len(inside) > 4
        return [x for x in inside if np.abs(found - x).min() > 2]

    with opened(browser, shared, "Together") as page:
        box = page.locator("#plot .u-over").bounding_box()
        assert box is not None
        y, left, width = box["y"] + box["height"] / 2, box["x"], box["width"]
        low, high = (wavelength(page, left + share * width, y) for share in (0.1, 0.9))
        scale = (high - low) / (0.8 * width)
        first = low - 0.1 * width * scale
        range_ = (first, first + width * scale, width)
        page.keyboard.press("z")
        page.keyboard.type("1.5")
        page.keyboard.press("Enter")
        expect(page.locator("#z")).to_have_value("1.50000")
        assert unseen(page, *range_) == []
        at = left + (2799.12 * 2.5 - first) / scale
        page.mouse.move(at, y)
        page.mouse.down()
        page.mouse.move(at - 90, y, steps=4)
        assert redshift(page) < 1.48  # while the button is still held
        assert unseen(page, *range_) == []
        page.mouse.up()
        page.mouse.move(left + 5, y)


def test_solutions_follow_one_another_by_a_key(browser: Browser, shared: str) -> None:
    with opened(browser, shared, "Solutions") as page:
        page.keyboard.press("f")
        page.keyboard.type(f"FIBERID == {SWAPPED[0] + 1}")
        page.keyboard.press("Enter")
        expect(page.locator("#place")).to_have_text("1 of 1")
        listed = [float(text.split()[0]) for text in page.locator("#solutions button").all_inner_texts()]
        assert len(listed) > 1
        shown = []
        for key in ["n"] * len(listed) + ["Shift+N"]:
            page.keyboard.press(key)
            page.wait_for_timeout(100)
            shown.append(round(redshift(page), 4))
        assert shown == [*listed[1:], listed[0], listed[-1]]
        page.keyboard.press("l")  # the surest line for another one
        expect(page.locator("#stored")).to_contain_text("Lyα taken for")


def test_the_view_is_smoothed_dragged_aside_and_left_for_a_neighbour(browser: Browser, shared: str) -> None:
    drawn = "() => document.querySelector('#plot canvas').toDataURL().length"
    with opened(browser, shared, "Moves") as page:
        before = page.evaluate(drawn)
        page.locator("#smoothing").fill("5")
        expect(page.locator("#smoothed")).to_have_text("31 px")
        page.wait_for_timeout(200)
        assert page.evaluate(drawn) != before
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowUp")
        box = page.locator("#plot .u-over").bounding_box()
        assert box is not None
        x, y = box["x"] + 0.31 * box["width"], box["y"] + 0.9 * box["height"]
        seen = wavelength(page, x, y)
        page.mouse.down()
        page.mouse.move(x + 60, y, steps=3)
        page.mouse.up()
        assert wavelength(page, x + 61, y) == pytest.approx(seen, abs=5)
        third = page.locator("#strip button").nth(2)
        title = third.get_attribute("title")
        third.click()
        expect(page.locator("#name")).to_have_text(title or "")
        expect(page.locator("#place")).to_have_text(re.compile("^3 of"))


def test_one_settles_by_keys_what_two_dispute(browser: Browser, served: Served, subjects: Subjects) -> None:
    with opened(browser, served.link, "Ann") as page:
        rows = [row_of(page)]
        accept(page)
        rows.append(row_of(page))
        accept(page)
    with opened(browser, served.link, "Ben") as page:
        for _ in rows:
            page.keyboard.press("u")
            accept(page)
        page.locator("#queues button", has_text="to adjudicate").click()  # his own are among the disputed
        expect(page.locator("#place")).to_have_text("1 of 2")
        expect(page.locator("#verdict")).to_contain_text("not settled yet")
        expect(page.locator("#others")).to_contain_text("Ann")
        page.keyboard.press("v")
        expect(page.locator("#stored")).to_contain_text("as Ann says")
        accept(page)
        expect(page.locator("#place")).to_have_text("2 of 2")
        page.keyboard.press("s")
        accept(page)
        expect(page.locator("#queues button", has_text="to adjudicate")).to_contain_text("0/0")
    served.kill()
    with Store(served.verdicts, subjects) as store:
        said = {row: (settled(store.on(row)), len(store.on(row))) for row in rows}
        assert {row: (r and r.kind, n) for row, (r, n) in said.items()} == dict(
            zip(sorted(rows), [("QSO", 3), ("STAR", 3)], strict=True)
        )
        assert disputed(store.standing()).size == 0


def test_a_second_server_on_the_same_project_is_refused_and_the_first_goes_on(
    browser: Browser, served: Served, subjects: Subjects, command: Callable[..., Answer]
) -> None:
    answer = command("inspect", subjects.catalogue.path, "--verdicts", served.verdicts)
    assert answer.code == 2 and "another program has" in answer.err and "Traceback" not in answer.err
    with opened(browser, served.link) as page:
        accept(page)


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
        assert (row, "Export") in [(of, inspector) for of, inspector, *_ in read]
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
        assert page.evaluate(_CUT_OFF) == []
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
        for width, height in ((1920, 1080), (1280, 720)):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate(_CUT_OFF) == []
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
    assert [(row, who, ruling.comment) for row, who, ruling, _ in found][:1] == [
        (rows[0], "Bo", '"faint", =1')
    ]
    assert [row for row, *_ in found] == rows
    with (tmp_path / "vi.csv").open(newline="") as stream:
        assert {len(line) for line in csv.reader(stream)} == {16}
