"""Faults of storage that pass leave no trace in the catalogue; those that stay are told."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import broadline
from broadline import patience
from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.patience import is_passing, patiently, patiently_each
from broadline.spectra import Spectra
from files import gzipped, observed, quasar, write_plate, write_spec


class Storage:
    """Makes opening or reading some file fail a number of times, from the given read on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits: list[float] = []
        self.failures = 0
        self.spared = 0
        self.error = errno.EIO
        monkeypatch.setattr(patience.time, "sleep", self.waits.append)
        real_open, real_bytes, storage = Path.open, Path.read_bytes, self

        def open_(path: Path, *arguments: Any, **options: Any) -> Any:
            storage.fail(path)
            return real_open(path, *arguments, **options)

        def read_bytes(path: Path) -> bytes:
            storage.fail(path)
            return real_bytes(path)

        monkeypatch.setattr(Path, "open", open_)
        monkeypatch.setattr(Path, "read_bytes", read_bytes)

    def fail(self, path: Path) -> None:
        if "bad" in path.parent.name and self.failures:
            if self.spared:
                self.spared -= 1
                return
            self.failures -= 1
            raise OSError(self.error, "Input/output error", str(path))


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Storage:
    return Storage(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spec file, one that only astropy can read, a gzipped one and a table of text."""
    folder = tmp_path / "bad"
    folder.mkdir()
    write_spec(folder / "spec-4055-55359-0001.fits")
    write_spec(folder / "spec-4055-55359-0002.fits", float_code="D")
    gzipped(write_spec(folder / "spec-4055-55359-0003.fits"))
    wave = np.linspace(3700, 9000, 2000)
    rows = "\n".join(f"{w},{1 + w / 5000},1" for w in wave)
    (folder / "spectrum.csv").write_text(f"wavelength,flux,ivar\n{rows}\n")
    return folder


def same(a: list[Spectra], b: list[Spectra]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x.flux, y.flux) and np.array_equal(x.ivar, y.ivar) and np.array_equal(x.flags, y.flags)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("code", ["EIO", "ESTALE", "ETIMEDOUT", "ECONNRESET"])
def test_spectra_are_the_same_if_the_storage_fails_for_a_while(
    code: str, folder: Path, storage: Storage
) -> None:
    healthy = list(broadline.read(folder))
    assert not storage.waits
    storage.failures, storage.error = 3, getattr(errno, code)
    assert same(list(broadline.read(folder)), healthy)
    assert storage.failures == 0 and len(storage.waits) == 3
    assert storage.waits == sorted(storage.waits)  # longer and longer


def test_a_plate_that_fails_in_the_middle_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [observed(quasar(0.3 + 0.1 * i), seed=i) for i in range(9)]
    path = tmp_path / "spPlate-4055-55359.fits"
    write_plate(path, np.stack([b[0] for b in both]), np.stack([b[1] for b in both]))
    healthy = list(broadline.read(path, batch=2))
    waits: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", waits.append)
    read = fits.file._File.readarray
    reads = [0]

    def readarray(*arguments: Any, **options: Any) -> Any:
        reads[0] += 1
        if reads[0] in (9, 20):  # in the third batch; then in it again, or after it
            raise OSError(errno.EIO, "Input/output error")
        return read(*arguments, **options)

    monkeypatch.setattr(fits.file._File, "readarray", readarray)
    assert same(list(broadline.read(path, batch=2)), healthy)
    assert len(waits) == 2


def test_a_file_that_keeps_failing_is_a_flagged_row_that_says_so(folder: Path, storage: Storage) -> None:
    storage.failures = 100
    (first, *_) = broadline.read(folder / "spec-4055-55359-0001.fits")
    assert first.flags[0] & Flag.UNREADABLE
    assert first.notes[0].endswith("Input/output error, 4 times in 10.5 s")


def test_a_file_that_is_not_there_or_cut_short_is_not_waited_for(folder: Path, storage: Storage) -> None:
    path = folder / "spec-4055-55359-0001.fits"
    path.write_bytes(path.read_bytes()[:9000])
    assert all(spectra.flags[0] & Flag.UNREADABLE for spectra in broadline.read(path))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        patiently(path, Path.read_bytes)
    assert not storage.waits


def test_what_was_yielded_is_not_yielded_again(storage: Storage) -> None:
    attempts = [0]

    def read(path: Path) -> Iterator[int]:
        attempts[0] += 1
        for i in range(6):
            if i == 2 * attempts[0] and attempts[0] < 3:
                raise OSError(errno.ESTALE, "Stale file handle")
            yield i

    assert list(patiently_each(Path("x"), read)) == list(range(6))
    assert attempts == [3]


def test_a_fault_of_storage_is_known_whatever_it_was_wrapped_in() -> None:
    try:
        try:
            raise OSError(errno.ETIMEDOUT, "Connection timed out")
        except OSError as error:
            raise ReadError(Path("x"), "it cannot be read") from error
    except ReadError as error:
        assert is_passing(error)
    assert not is_passing(OSError("no number"))
    assert not is_passing(ReadError(Path("x"), "it is cut short"))
