"""Learning from verdicts: it mends what was wrong, forgets nothing or is not let go, and says what it did."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from broadline.lines import LINES  # noqa: E402
from broadline.model import Model, load_model  # noqa: E402
from broadline.training import presets, rehearsal, tune  # noqa: E402
from broadline.training.prepare import prepare  # noqa: E402
from broadline.training.run import train_prepared  # noqa: E402
from broadline.training.splits import Sizes  # noqa: E402
from conftest import Answer  # noqa: E402
from test_training import TINY, compiled, one_thread  # noqa: E402

__all__ = ["compiled", "one_thread"]  # fixtures of every test

PRESET = replace(TINY, rate=1e-2, epochs=12)
GRID = PRESET.representation.grid
Array = NDArray[Any]


@pytest.fixture(scope="module", autouse=True)
def tiny_presets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presets, "PRESETS", {"tiny": PRESET})
        patch.setattr(tune, "PRESETS", {"tiny": PRESET})
        yield


def spectra(kind: Array, z: Array, seed: int) -> Array:
    """Noise; quasars have CIV at z, and so has what looks like one, with a dip to its right that none has."""
    rng, pixels = np.random.default_rng(seed), np.arange(GRID.size)
    flux = rng.normal(size=(len(kind), GRID.size))
    at = GRID.position(LINES["CIV"].wavelength * (1 + z))[:, None]
    line = 8 * np.exp(-0.5 * ((pixels - at) / 3) ** 2)
    dip = 8 * np.exp(-0.5 * ((pixels - at - 14) / 3) ** 2)
    return flux + np.where((kind != "STAR")[:, None], line, 0) - np.where((kind == "FALSE")[:, None], dip, 0)


def write(folder: Path, kind: Array, z: Array, seed: int) -> dict[str, Array]:
    """Write spectra as QuasarNET's parsed files; return their names."""
    folder.mkdir(exist_ok=True)
    n = len(kind)
    names = {"PLATE": np.full(n, 4000 + seed), "MJD": np.full(n, 55000), "FIBERID": 1 + np.arange(n)}
    image = np.concatenate([spectra(kind, z, seed), np.ones((n, GRID.size))], axis=1)
    ids = Table({"TARGETID": 10_000 * seed + np.arange(n)} | names)
    fits.HDUList([fits.PrimaryHDU(image), fits.BinTableHDU(ids)]).writeto(folder / f"data-{seed}.fits")
    return names


class World:
    """A start model, the set it learnt from, and a survey with spectra that it takes for quasars."""

    def __init__(self, root: Path) -> None:
        rng = np.random.default_rng(0)
        kind, z = rng.choice(["QSO", "STAR"], 4000), rng.uniform(1.5, 4, 4000)
        names = write(root / "old", kind, z, 1)
        truth = names | {"CLASS": kind, "Z": np.where(kind == "QSO", z, 0)}
        Table(truth).write(root / "truth.csv")
        prepare([root / "old"], root / "truth.csv", root / "set", PRESET.representation, workers=1)
        sizes = Sizes(0.3)
        (trained,) = train_prepared(PRESET, root / "run", root / "set", sizes=sizes, precision="fp32")
        self.root, self.set, self.start = root, root / "set", trained.path
        self.split = root / "run" / "splits.parquet"
        kind, z = rng.choice(["QSO", "STAR", "FALSE"], 600), rng.uniform(1.5, 4, 600)
        self.survey = root / "new"
        self.verdicts = write(self.survey, kind, z, 2) | {
            "CLASS": np.where(kind == "QSO", "QSO", "STAR"),
            "Z": np.where(kind == "QSO", np.round(z, 3), 0),
            "Z_CONF": np.full(600, 3),
        }
        self.false = kind == "FALSE"

    def ruled(self, path: Path, rows: Array | None = None, **columns: Any) -> Path:
        """Write verdicts on some rows of the survey."""
        table = Table(self.verdicts | columns)
        (table if rows is None else table[rows]).write(path)
        return path

    def model(self) -> Model:
        return load_model(self.start)

    def rehearsed(self) -> list[object]:
        return ["--keep", self.set, "--split", self.split]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **_: function)
        made = World(tmp_path_factory.mktemp("world"))
    torch.set_num_threads(n)
    return made


Learn = Callable[..., Answer]


@pytest.fixture
def learn(world: World, command: Callable[..., Answer]) -> Learn:
    def run(verdicts: Path, folder: Path, *options: object) -> Answer:
        rest = options or world.rehearsed()
        given = ["--verdicts", verdicts, "--spectra", world.survey, "--model", world.start, "-o", folder]
        return command("learn", *given, "--precision", "fp32", "--workers", 1, *rest)

    return run


def test_it_mends(world: World, learn: Learn, tmp_path: Path) -> None:
    import time

    t = time.time()
    answer = learn(world.ruled(tmp_path / "v.csv"), tmp_path / "out")
    print(answer.out, answer.err, answer.code, time.time() - t)
    print(json.loads((tmp_path / "out/gain.json").read_text())["worse"])
    t = time.time()
    few = np.random.default_rng(1).permutation(600)[:20]
    answer = learn(world.ruled(tmp_path / "f.csv", few), tmp_path / "few")
    print(answer.out, answer.err, answer.code, time.time() - t)
    t = time.time()
    low = np.flatnonzero((world.verdicts["Z"] < 2.5) )
    with pytest.MonkeyPatch.context() as patch:
        class Alone(rehearsal.Mixed):
            def epoch(self, number):
                yield from self.new.epoch(number)
        patch.setattr(tune, "Mixed", Alone)
        answer = learn(world.ruled(tmp_path / "a.csv", low), tmp_path / "alone")
    print(answer.out, answer.err, answer.code, time.time() - t)
    assert 0
