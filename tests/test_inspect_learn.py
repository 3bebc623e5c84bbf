"""From the page to a better model, as a person goes: classify, rule by keyboard, export, learn, classify."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from playwright.sync_api import Browser, expect

pytest.importorskip("torch")

from broadline.named_models import load_model
from conftest import Answer
from test_inspect_page import CHROMIUM, Served, accept, browser, opened
from test_learn import World, compiled, gains, learn, one_thread, tiny_presets, world

__all__ = ["browser", "compiled", "learn", "one_thread", "tiny_presets", "world"]  # fixtures

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to show the page in")
N = 60  # verdicts
FIRST = 20_000  # TARGETID of the first spectrum of the survey


@pytest.fixture
def catalogue(world: World, command: Callable[..., Answer], tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "catalogue.parquet"
    assert command("classify", world.survey, "-o", path, "--model", world.start).code == 0
    yield path


def test_verdicts_given_on_the_page_teach_the_model(
    browser: Browser,
    catalogue: Path,
    world: World,
    learn: Callable[..., Answer],
    command: Callable[..., Answer],
    tmp_path: Path,
) -> None:
    called = np.array(pq.read_table(catalogue, columns=["IS_QSO"])["IS_QSO"])
    assert called[world.false].mean() > 0.7, "the start takes them for quasars"
    ruled = []
    with Served(catalogue, tmp_path / "verdicts.sqlite") as running, opened(browser, running.link) as page:
        for _ in range(N):
            row = int(page.locator("#name").inner_text()) - FIRST
            ruled.append(row)
            if world.verdicts["CLASS"][row] == "STAR":
                page.keyboard.press("s")
                expect(page.locator("#z")).to_have_value("0.00000")
            page.keyboard.press("4")
            accept(page)
        with page.expect_download() as download:
            page.get_by_text("Truth csv").click()
        download.value.save_as(tmp_path / "truth.csv")
    table = Table.read(tmp_path / "truth.csv")
    control = np.array([word == "control" for word in table["QUEUE"]])
    assert len(table) == N == len(set(ruled)) and control.sum() == N // 10
    longer = (*world.rehearsed(), "--epochs", 30)  # few verdicts teach little in an epoch
    assert learn(tmp_path / "truth.csv", tmp_path / "better", *longer).code in (0, 1)
    card = load_model(tmp_path / "better" / "candidate.onnx").recipe.card
    assert card["learnt_from"].startswith("truth.csv (SHA-256 ")
    assert f", {control.sum()} of a control sample; rehearsed: " in card["learnt_from"]
    assert gains(tmp_path / "better")["gains"]["control sample"]["n"] == control.sum()
    # Of the spectra that nobody ruled on, more of those that only look like quasars are told from them.
    after = tmp_path / "after.parquet"
    better = tmp_path / "better" / "candidate.onnx"
    assert command("classify", world.survey, "-o", after, "--model", better).code == 0
    called_after = np.array(pq.read_table(after, columns=["IS_QSO"])["IS_QSO"])
    others = world.false & ~np.isin(np.arange(len(called)), ruled)
    assert called_after[others].mean() < called[others].mean() - 0.2
