"""Where the real spectra lie, and what the tests share."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("BROADLINE_TEST_DATA", ROOT.parent / "shared" / "data"))


def manifest() -> list[dict[str, str]]:
    """Rows of the manifest of real spectra; empty where the data are not present."""
    path = DATA / "real" / "manifest.csv"
    if not path.exists():
        return []
    with path.open() as stream:
        return list(csv.DictReader(stream))


def real_files(*formats: str, use: str | None = None) -> list[Path]:
    """Real files of the given manifest formats."""
    return [
        DATA / row["path"]
        for row in manifest()
        if row["format"] in formats and (use is None or row["use"] == use)
    ]


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the real data; tests that need it are skipped where it is not present."""
    if not (DATA / "real" / "manifest.csv").exists():
        pytest.skip("real data not present (set BROADLINE_TEST_DATA)")
    return DATA


@pytest.fixture(scope="session")
def golden(data: Path) -> Path:
    """Folder of the published weights and their golden files."""
    return data / "weights" / "quasarnp_test_files"
