"""Columns of FITS tables are those that astropy reads, however they lie in the file."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from broadline.archives.fits_file import _as_they_lie, columns_of

N = 7
COLUMNS = {
    "targetid": ("K", np.arange(N) - 2**60),
    "RA": ("D", np.linspace(0, 359, N)),
    "Fiber": ("J", np.arange(N)[::-1]),
    "OBJTYPE": ("5A", np.array(["TGT", " SKY", "", "GALAX", "sky", "TGT", "TGT"])),
    "MAG": ("5E", np.arange(5 * N).reshape(N, 5)),
    "NOT_WANTED": ("I", np.arange(N)),
}
WANTED = frozenset(["TARGETID", "RA", "FIBER", "OBJTYPE", "MAG", "NOT_THERE"])


def written(path: Path, **more: Any) -> Path:
    columns = [fits.Column(name, kind, array=values) for name, (kind, values) in COLUMNS.items()]
    columns += [fits.Column(name, **column) for name, column in more.items()]
    table = fits.BinTableHDU.from_columns(columns, name="FIBERMAP")
    fits.HDUList([fits.PrimaryHDU(np.zeros((3, 4))), table]).writeto(path)
    return path


@pytest.mark.parametrize(
    ("name", "more", "lies"),
    [
        ("plain.fits", {}, True),
        ("packed.fits.gz", {}, False),
        (
            "scaled.fits",
            {"MJD": {"format": "E", "array": np.linspace(0, 1, N), "bscale": 0.5}},
            False,
        ),
        ("unsigned.fits", {"BITS": {"format": "J", "array": np.arange(N), "bzero": 2**31}}, False),
        ("heap.fits", {"LIST": {"format": "PJ()", "array": np.array([[1]] * N, dtype=object)}}, False),
    ],
)
def test_columns_are_those_that_astropy_reads(
    name: str, more: dict[str, Any], lies: bool, tmp_path: Path
) -> None:
    with fits.open(written(tmp_path / name, **more), memmap=False) as hdus:
        wanted = WANTED | set(more)
        assert (_as_they_lie(hdus[1], wanted) is not None) == lies
        found = columns_of(hdus[1], wanted)
        assert set(found) == (set(COLUMNS) | set(more) | {"TARGETID", "FIBER"}) - {
            "targetid",
            "Fiber",
            "NOT_WANTED",
        }
        for column, values in found.items():
            expected = np.asarray(hdus[1].data[column])
            if column == "OBJTYPE":
                assert values.tolist() == [text.strip() for text in expected.tolist()]
            elif column == "LIST":
                assert [value.tolist() for value in values] == [value.tolist() for value in expected]
            else:
                np.testing.assert_array_equal(values, expected)


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_a_table_that_is_cut_short_fails_as_it_does_with_astropy(tmp_path: Path) -> None:
    path = written(tmp_path / "cut.fits")
    path.write_bytes(path.read_bytes()[: 100 - 2880])
    with fits.open(path, memmap=False) as hdus, pytest.raises((TypeError, OSError, ValueError)):
        columns_of(hdus[1], WANTED)


@pytest.mark.parametrize("name", ["plain.fits", "packed.fits.gz"])
def test_a_damaged_character_costs_no_row(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "whole.fits")
    damaged = path.read_bytes().replace(b"GALAX", b"GAL\xffX")
    (tmp_path / name).write_bytes(gzip.compress(damaged) if name.endswith("gz") else damaged)
    with fits.open(tmp_path / name, memmap=False) as hdus:
        found = columns_of(hdus[1], WANTED)
    assert found["OBJTYPE"].tolist() == ["TGT", "SKY", "", "GAL\ufffdX", "sky", "TGT", "TGT"]
    assert found["TARGETID"].tolist() == COLUMNS["targetid"][1].tolist()
