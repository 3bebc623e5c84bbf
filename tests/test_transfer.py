"""Training that starts from another model: what carries over, what is frozen, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broadline.errors import UsageError
from broadline.grid import Grid
from broadline.model import Model, save_model
from broadline.named_models import load_model
from broadline.networks.graph import parameters_of
from broadline.networks.vgg import ConvNetConfig
from broadline.representation import Representation

torch = pytest.importorskip("torch")

from broadline.networks.convnet import ConvNet  # noqa: E402
from broadline.networks.quasarnet import QuasarNET  # noqa: E402
from broadline.training import task as tasks  # noqa: E402
from broadline.training.fit import fit  # noqa: E402
from broadline.training.presets import PRESETS, Preset  # noqa: E402
from broadline.training.simulated import Examples  # noqa: E402
from broadline.training.transfer import start_from  # noqa: E402

GRID = Grid("log", float(np.log10(4000.0)), 4e-3, 64)
SMALL = Preset(
    "small",
    ConvNetConfig(n_pixels=64, stages=(1, 2), filters=4, hidden=(8,), dropout=0.0),
    Representation(GRID, "conserving", "minmax"),
    loss="cross-entropy",
    batch=32,
    epochs=3,
    rate=3e-3,
    amsgrad=False,
    unsure="drop",
)


class Lines:
    """Spectra with a line, or without, at noise of one."""

    def __init__(self, n: int, seed: int, strength: float = 4.0, preset: Preset = SMALL) -> None:
        rng = np.random.default_rng(seed)
        self.preset, self.quasar = preset, rng.random(n) < 0.5
        self.x = rng.standard_normal((n, 64)).astype(np.float32)
        place = rng.integers(5, 59, n)
        for i in np.flatnonzero(self.quasar):
            self.x[i, place[i] - 2 : place[i] + 3] += strength

    def __len__(self) -> int:
        return len(self.x)

    def names(self, rows: Any) -> list[str]:
        return [str(row) for row in rows]

    def epoch(self, number: int) -> Any:
        order = np.random.default_rng(number).permutation(len(self))
        for start in range(0, len(order) - self.preset.batch + 1, self.preset.batch):
            yield self.examples(order[start : start + self.preset.batch])

    def examples(self, rows: Any) -> Examples:
        quasar, n = self.quasar[rows], len(rows)
        z, bal = np.where(quasar, 1.0, np.nan), np.zeros(n, dtype=np.int8)
        y = tasks.task_of(self.preset).targets(z, quasar, bal, np.ones(n))
        return Examples(torch.from_numpy(self.x[rows]), y, z, np.ones(n), bal, np.asarray(rows))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Model:
    data, held_out = Lines(1024, 0), Lines(256, 1)
    folder = tmp_path_factory.mktemp("source")
    path = fit(SMALL, data, [held_out.examples(np.arange(256))], folder, precision="fp32")
    return load_model(path)


def test_a_convnet_learns_to_tell_spectra_with_lines(source: Model) -> None:
    fresh = Lines(500, 2)
    called = source.probability(fresh.x) > 0.5
    assert np.mean(called == fresh.quasar) > 0.95
    assert float(source.recipe.card["validation_f1"]) > 0.95
    assert source.lines == () and source.rule.c_th == 0.5


def test_training_starts_where_the_source_ended(source: Model, tmp_path: Path) -> None:
    start = start_from(source, SMALL.network)
    assert start.left == () and start.parameters.keys() == SMALL.network.shapes().keys()
    still = replace(SMALL, rate=0.0, epochs=1)
    data = Lines(256, 3)
    path = fit(still, data, [data.examples(np.arange(64))], tmp_path, precision="fp32", start=start)
    for name, value in parameters_of(path.read_bytes()).items():
        np.testing.assert_array_equal(value, parameters_of(source.content)[name], err_msg=name)
    assert load_model(path).recipe.card["started_from"] == f"small (SHA-256 {source.sha256})"


def test_transfer_needs_fewer_steps_than_a_fresh_start(source: Model, tmp_path: Path) -> None:
    few, fresh = Lines(64, 4, 3.0), Lines(800, 5, 3.0)
    short = replace(SMALL, epochs=1)
    right = {}
    for name, start in (("scratch", None), ("transfer", start_from(source, SMALL.network))):
        check = [few.examples(np.arange(64))]
        path = fit(short, few, check, tmp_path / name, precision="fp32", start=start)
        right[name] = np.mean((load_model(path).probability(fresh.x) > 0.5) == fresh.quasar)
    assert right["transfer"] > right["scratch"] + 0.1


@pytest.mark.parametrize("trunk_rate", [0.0, 0.1])
def test_the_trunk_learns_at_its_own_rate_or_not_at_all(
    source: Model, tmp_path: Path, trunk_rate: float
) -> None:
    data, before = Lines(256, 6), parameters_of(source.content)
    moved = {}
    for rate in (trunk_rate, 1.0):
        start = start_from(source, SMALL.network, rate)
        folder = tmp_path / str(rate)
        path = fit(replace(SMALL, epochs=1), data, [data.examples(np.arange(64))], folder, start=start)
        after = parameters_of(path.read_bytes())
        moved[rate] = {name: float(np.abs(after[name] - before[name]).max()) for name in before}
    trunk, head = "convolutions.0.weight", "score.weight"
    assert moved[trunk_rate][head] > 0.5 * moved[1.0][head]
    assert moved[trunk_rate][trunk] <= 1.5 * trunk_rate * moved[1.0][trunk]
    assert (moved[trunk_rate][trunk] == 0) == (trunk_rate == 0)


def test_frozen_batch_normalisation_keeps_its_statistics(tmp_path: Path) -> None:
    from broadline.training.step import Learner

    preset = PRESETS["paper-code"]
    torch.manual_seed(0)
    network = QuasarNET(preset.finders)
    from broadline.decision import Rule
    from broadline.lines import QUASARNET_LINES
    from broadline.recipe import Recipe

    recipe = Recipe("lines", preset.network, preset.representation, QUASARNET_LINES, Rule(), {})
    path = save_model(tmp_path / "lines.onnx", recipe, network.parameters_by_name())
    learner = Learner(preset, 10, 0, "fp32", start=start_from(load_model(path), preset.network, 0.0))
    learner.start_epoch()
    before = learner.network.norms[0].running_mean.clone()
    learner.network.logits(torch.randn(8, 443) + 5)
    assert torch.equal(learner.network.norms[0].running_mean, before)
    assert not learner.network.hidden_norm.running_mean.eq(0).all()


def test_the_trunk_of_line_finders_carries_over_to_more_boxes(tmp_path: Path) -> None:
    from broadline.decision import Rule
    from broadline.lines import QUASARNET_LINES
    from broadline.recipe import Recipe

    preset = PRESETS["paper-code"]
    recipe = Recipe("lines", preset.network, preset.representation, QUASARNET_LINES, Rule(), {})
    path = save_model(tmp_path / "lines.onnx", recipe, QuasarNET(preset.finders).parameters_by_name())
    start = start_from(load_model(path), replace(preset.finders, n_boxes=26))
    assert {"convolutions.3.weight", "norms.3.running_var", "hidden.weight"} <= start.parameters.keys()
    assert len(start.left) == 4 and all("boxes" not in text for text in start.left)
    assert start.left[0] == "confidence.weight: (91, 100) there, (182, 100) here"


def test_a_model_of_another_architecture_is_refused(source: Model) -> None:
    with pytest.raises(UsageError, match="nothing of model small fits"):
        start_from(source, PRESETS["paper"].network)
    with pytest.raises(UsageError, match="frozen"):
        start_from(source, SMALL.network, 2.0)


def test_a_checkpoint_of_a_run_with_another_start_is_refused(source: Model, tmp_path: Path) -> None:
    data = Lines(64, 7)
    check = [data.examples(np.arange(64))]
    fit(replace(SMALL, epochs=1), data, check, tmp_path, precision="fp32")
    start = start_from(source, SMALL.network)
    with pytest.raises(UsageError, match="start"):
        fit(replace(SMALL, epochs=1), data, check, tmp_path, precision="fp32", start=start)


def test_an_interrupted_transfer_ends_with_the_same_weights(source: Model, tmp_path: Path) -> None:
    preset = replace(SMALL, network=replace(SMALL.network, dropout=0.5))
    data = Lines(128, 8, preset=preset)
    check = [data.examples(np.arange(64))]
    start = start_from(source, preset.network, 0.5)

    def killed(state: Any) -> None:
        if state.epoch == 1 and state.scores is None:
            raise KeyboardInterrupt

    whole = fit(preset, data, check, tmp_path / "whole", precision="fp32", start=start)
    with pytest.raises(KeyboardInterrupt):
        fit(preset, data, check, tmp_path / "part", precision="fp32", start=start, on_step=killed)
    part = fit(preset, data, check, tmp_path / "part", precision="fp32", start=start)
    assert parameters_of(part.read_bytes()).keys() == parameters_of(whole.read_bytes()).keys()
    for name, value in parameters_of(whole.read_bytes()).items():
        np.testing.assert_array_equal(value, parameters_of(part.read_bytes())[name], err_msg=name)


def test_the_best_weights_by_f1_are_kept_where_the_preset_says_so(tmp_path: Path) -> None:
    task = tasks.task_of(replace(SMALL, monitor="f1"))
    assert task.merit({"loss": 9.0, "f1": 0.8}) > task.merit({"loss": 0.1, "f1": 0.7})
    plain = tasks.task_of(SMALL)
    assert plain.merit({"loss": 0.1, "f1": 0.7}) > plain.merit({"loss": 9.0, "f1": 0.8})


def test_scores_of_a_known_classifier_are_as_counted_by_hand() -> None:
    network = ConvNet(SMALL.network)
    data = Lines(4, 9)
    data.quasar = np.array([True, True, False, False])
    batch = data.examples(np.arange(4))
    logits = torch.tensor([2.0, -1.0, 3.0, -2.0])
    network.logits = lambda x: logits  # type: ignore[method-assign]
    scores = tasks.task_of(SMALL).validate(network, [batch])
    assert (scores["precision"], scores["recall"], scores["f1"]) == (0.5, 0.5, 0.5)
    p = 1 / (1 + np.exp(-logits.numpy()))
    expected = -np.mean([np.log(p[0]), np.log(p[1]), np.log(1 - p[2]), np.log(1 - p[3])])
    assert scores["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_command_says_what_does_not_carry_over(
    source: Model, tmp_path: Path, command: Callable[..., Any]
) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(source.content)
    answer = command("transfer", tmp_path / "no-set", "--from", path, "-o", tmp_path / "run")
    assert answer.code == 2 and "no preset 'small'" in answer.err
    answer = command(
        "transfer", tmp_path / "no-set", "--from", path, "--preset", "vgg-a", "-o", tmp_path / "run"
    )
    assert answer.code == 2 and "nothing of model small fits" in answer.err
