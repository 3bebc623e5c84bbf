"""Where the real spectra lie, and what the tests share."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

# A shell that starts the tests in the background lets them, and all they start, ignore interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is the machine's matter.
settings.register_profile("broadline", deadline=None)
settings.load_profile("broadline")


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


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of a tiny QuasarNET with random parameters: it knows nothing, and answers variously."""
    import numpy as np

    from broadline.decision import Rule
    from broadline.lines import QUASARNET_LINES
    from broadline.model import save_model
    from broadline.networks.architecture import Convolution, QuasarNETConfig
    from broadline.recipe import Recipe
    from broadline.representation import Representation

    layers = (Convolution(6, 10, 4), Convolution(6, 10, 4))
    config = QuasarNETConfig(convolutions=layers, hidden=12, hidden_activation="norm-relu")
    random = np.random.default_rng(20180830)
    parameters = {}
    for name, shape in config.shapes().items():
        fan_in = int(np.prod(shape[1:]))
        values = random.normal(0, 1.5 / np.sqrt(fan_in) if fan_in > 1 else 0.1, shape)
        if name.endswith("running_var") or (name.endswith(".weight") and len(shape) == 1):
            values = random.uniform(0.5, 1.5, shape)
        if name == "confidence.bias":
            values = values - 4.0  # most boxes are unsure, some are not
        parameters[name] = values.astype(np.float32)
    recipe = Recipe(
        "tiny", config, Representation(), QUASARNET_LINES, Rule(), {"origin": "random parameters, for tests"}
    )
    return save_model(tmp_path_factory.mktemp("models") / "tiny.onnx", recipe, parameters)


@pytest.fixture(scope="session")
def to_inspect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue whose spectra lie beside it, and of which all is known (see `inspected`)."""
    from inspected import write_survey

    return write_survey(tmp_path_factory.mktemp("inspected"))


class Answer(NamedTuple):
    """What a command said: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run a command line in this process, as the installed script would."""
    import sys
    import warnings

    from broadline.cli import main

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main replaces it
        monkeypatch.setattr(sys, "argv", ["broadline", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main()
        code = leaving.value.code
        return Answer(code if isinstance(code, int) else int(code is not None), *capfd.readouterr())

    return run
