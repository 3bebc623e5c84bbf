"""Candidates: what is called quasar and not known as one, counted as the second paper counts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from broadline.errors import UsageError
from broadline.evaluation.candidates import Confusion, candidates, inspected, listed, write_candidates
from broadline.evaluation.catalogues import read_catalogue
from broadline.truth import read_truth_table

# Ten spectra: six called, of which four are listed; one more listed.
CALLED = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
KNOWN = [0, 1, 2, 3, 6]
P_QSO = [0.9, 0.8, 0.9, 0.99, 0.6, 0.95, 0.2, 0.1, 0.0, 0.0]


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    path = tmp_path / "cat.fits"
    n = len(CALLED)
    columns = {"PLATE": np.full(n, 7000), "MJD": np.full(n, 56000), "FIBERID": np.arange(1, n + 1)}
    table = Table(columns | {"IS_QSO": np.array(CALLED, bool), "Z": np.full(n, 2.0), "P_QSO": P_QSO})
    table.write(path)
    return path


def truth(path: Path, fibres: list[int], kinds: list[str]) -> Path:
    columns = {"PLATE": [7000] * len(fibres), "MJD": [56000] * len(fibres), "FIBERID": fibres}
    Table(columns | {"CLASS": kinds, "Z": [2.0] * len(fibres)}).write(path, format="ascii.csv")
    return path


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return truth(tmp_path / "known.csv", [row + 1 for row in KNOWN], ["QSO"] * len(KNOWN))


def test_the_numbers_of_the_paper_follow_from_its_counts() -> None:
    before = Confusion(right=14_277, missed=170, other=84_330, wrong=1_223)
    assert before.precision.value == pytest.approx(0.9211, abs=5e-5)
    assert before.recall.value == pytest.approx(0.9882, abs=5e-5)
    assert before.f1 == pytest.approx(0.9535, abs=5e-5)
    after = Confusion(right=14_277 + 1_164, missed=170, other=84_330, wrong=1_223 - 1_164)
    assert after.precision.value == pytest.approx(0.996, abs=5e-4)
    assert after.recall.value == pytest.approx(0.989, abs=5e-4)


def test_confusion_is_counted_by_hand(catalogue: Path, known: Path) -> None:
    _, confusion = listed(read_catalogue(catalogue), read_truth_table(known))
    assert confusion == Confusion(right=4, missed=1, other=3, wrong=2)
    assert np.isnan(Confusion(0, 0, 5, 0).f1) and np.isnan(Confusion(0, 0, 5, 0).precision.value)


def test_candidates_are_those_not_listed_the_most_probable_first(catalogue: Path, known: Path) -> None:
    found = read_catalogue(catalogue)
    quasar, _ = listed(found, read_truth_table(known))
    assert candidates(found, quasar).tolist() == [5, 4]


def test_candidates_that_an_expert_confirms_were_called_rightly(
    catalogue: Path, known: Path, tmp_path: Path
) -> None:
    found = read_catalogue(catalogue)
    quasar, confusion = listed(found, read_truth_table(known))
    verdicts = read_truth_table(truth(tmp_path / "verdicts.csv", [5, 6], ["QSO", "STAR"]))
    after, confirmed = inspected(found, candidates(found, quasar), confusion, verdicts)
    assert after == Confusion(right=5, missed=1, other=3, wrong=1)
    assert (confirmed.k, confirmed.n) == (1, 2)
    none = read_truth_table(truth(tmp_path / "none.csv", [400], ["QSO"]))
    with pytest.raises(UsageError, match="verdict on none of 2 candidates"):
        inspected(found, candidates(found, quasar), confusion, none)


def test_a_list_with_classes_filled_in_is_a_truth_table(
    catalogue: Path, known: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    out = tmp_path / "list.csv"
    answer = command("candidates", catalogue, "--known", known, "-o", out)
    assert answer.code == 0, answer.err
    assert "called alone 2" in answer.out and "wrote 2 candidates" in answer.out
    table = Table.read(out, format="ascii.csv")
    assert table["FIBERID"].tolist() == [6, 5] and table["RANK"].tolist() == [1, 2]
    table["CLASS"] = ["QSO", "GALAXY"]
    table["Z"] = [2.0, 0.3]
    verdicts = tmp_path / "verdicts.csv"
    table.write(verdicts, format="ascii.csv")
    answer = command("candidates", catalogue, "--known", known, "--verdicts", verdicts, "-o", out)
    assert answer.code == 0, answer.err
    assert "confirmed: 1 of 2 inspected" in answer.out
    assert "after inspection: called and known 5, missed 1, called alone 1, neither 3" in answer.out


@pytest.mark.parametrize("suffix", [".csv", ".ecsv", ".fits", ".parquet"])
def test_lists_are_written_in_every_format(catalogue: Path, tmp_path: Path, suffix: str) -> None:
    found = read_catalogue(catalogue)
    path = tmp_path / f"list{suffix}"
    write_candidates(path, found, np.array([5, 4]))
    read = pq.read_table(path).to_pydict() if suffix == ".parquet" else Table.read(path)
    assert list(read["FIBERID"]) == [6, 5]
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_impossible_requests_are_one_sentence(
    catalogue: Path, known: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    other = truth(tmp_path / "other.csv", [400], ["QSO"])
    answer = command("candidates", catalogue, "--known", other, "-o", tmp_path / "list.csv")
    assert answer.code == 2 and "lists none of the 10 spectra" in answer.err
    answer = command("candidates", catalogue, "--known", known, "-o", tmp_path / "list.txt")
    assert answer.code == 2 and ".parquet" in answer.err
    answer = command(
        "candidates", catalogue, "--known", known, "--pipeline", catalogue, "-o", tmp_path / "list.csv"
    )
    assert answer.code == 2 and "not which class" in answer.err
