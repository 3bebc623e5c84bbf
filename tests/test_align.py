"""Two archives at once: the distance between their features, batches of both, and checks within an epoch."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from broadline.errors import UsageError  # noqa: E402
from broadline.named_models import load_model  # noqa: E402
from broadline.networks.convnet import ConvNet  # noqa: E402
from broadline.networks.graph import parameters_of  # noqa: E402
from broadline.training import task as tasks  # noqa: E402
from broadline.training.align import Cycled, Pair, aligned, coral  # noqa: E402
from broadline.training.fit import Progress, ReadAgain, fit  # noqa: E402
from broadline.training.simulated import Examples  # noqa: E402
from test_transfer import SMALL, Lines  # noqa: E402

BATCH = SMALL.batch


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these lose by more, and on a busy machine a lot."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(autouse=True)
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes longer than all that these tests teach."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


# ---- the distance


def ones(x: Any) -> Any:
    return torch.ones(len(x))


def test_the_distance_is_that_of_numpy_covariances() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((40, 5)), rng.standard_normal((60, 5)) * [1, 2, 3, 4, 5]
    expected = np.sum((np.cov(a.T) - np.cov(b.T)) ** 2) / (4 * 5**2)
    a, b = (torch.tensor(x, dtype=torch.float32) for x in (a, b))
    assert float(coral(a, b, ones(a), ones(b))) == pytest.approx(expected, rel=1e-4)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_the_distance_knows_no_mean_and_no_order(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    a = torch.tensor(rng.standard_normal((30, 4)), dtype=torch.float32)
    moved = a[torch.tensor(rng.permutation(30))] + shift
    assert float(coral(a, moved, ones(a), ones(a))) == pytest.approx(0, abs=1e-9)
    assert float(coral(a, 2 * moved, ones(a), ones(a))) > 0.01


def test_what_has_no_weight_does_not_count() -> None:
    rng = np.random.default_rng(1)
    a, b = (torch.tensor(rng.standard_normal((20, 3)), dtype=torch.float32) for _ in range(2))
    weight = torch.ones(20)
    weight[15:] = 0
    spoilt = a.clone()
    spoilt[15:] = 1000
    expected = coral(a[:15], b, torch.ones(15), ones(b))
    torch.testing.assert_close(coral(spoilt, b, weight, ones(b)), expected)


def test_half_a_batch_of_quasars_alone_has_a_distance_that_is_a_number() -> None:
    x = torch.randn(8, 3, requires_grad=True)
    distance = coral(x[:4], x[4:], torch.zeros(4), torch.ones(4))
    distance.backward()
    assert torch.isfinite(distance) and torch.isfinite(x.grad).all()


def test_lower_precision_around_it_does_not_change_the_distance() -> None:
    a = torch.randn(64, 16)
    b = a[:, torch.randperm(16)] * 1.001
    exact = coral(a, b, ones(a), ones(b))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(coral(a, b, ones(a), ones(b)), exact)


# ---- the task


def test_the_features_are_those_that_the_logits_are_made_of() -> None:
    task = tasks.task_of(aligned(SMALL, 1.0))
    network = task.network().eval()
    x = torch.randn(6, 64)
    logits, features = task.outputs(network, x)
    torch.testing.assert_close(logits, network.logits(x))
    torch.testing.assert_close(network.score(features)[:, 0], logits)
    assert features.shape == (6, 8)


def test_the_loss_is_cross_entropy_and_weighted_distance_of_what_is_no_quasar() -> None:
    data = Lines(32, 0)
    batch = data.examples(np.arange(32))
    logits, features = torch.randn(32), torch.randn(32, 8)
    plain = tasks.task_of(SMALL).loss(logits, batch.targets)
    other = torch.tensor(~data.quasar).float()
    distance = coral(features[:16], features[16:], other[:16], other[16:])
    for weight in (0.5, 20.0):
        loss = tasks.task_of(aligned(SMALL, weight)).loss((logits, features), batch.targets)
        torch.testing.assert_close(loss, plain + weight * distance)


def test_alignment_needs_a_weight() -> None:
    with pytest.raises(UsageError, match="above 0"):
        aligned(SMALL, 0.0)


def test_aligned_archives_have_features_that_are_more_alike(tmp_path: Path) -> None:
    source, target = Lines(256, 1, strength=3.0), Lines(256, 2)
    source.x *= 3.0
    check = [target.examples(np.arange(64))]
    distances = {}
    for name, preset in (("pooled", SMALL), ("aligned", aligned(SMALL, 30.0))):
        path = fit(preset, Pair(source, target, BATCH), check, tmp_path / name, precision="fp32")
        model = load_model(path)
        network = ConvNet.from_parameters(SMALL.network, parameters_of(model.content)).eval()
        told = tasks.task_of(aligned(SMALL, 1.0)).outputs
        (_, a), (_, b) = (told(network, torch.from_numpy(each.x)) for each in (source, target))
        weights = (torch.from_numpy(~each.quasar).float() for each in (source, target))
        distances[name] = coral(a, b, *weights).item()
    assert distances["aligned"] < 0.3 * distances["pooled"]


def test_an_aligned_model_is_a_plain_convnet(tmp_path: Path) -> None:
    source, target = Lines(64, 3), Lines(64, 4)
    preset = replace(aligned(SMALL, 0.7), epochs=1)
    path = fit(preset, Pair(source, target, BATCH), [target.examples(np.arange(32))], tmp_path)
    model = load_model(path)
    assert parameters_of(model.content).keys() == SMALL.network.shapes().keys()
    assert '"alignment": 0.7' in model.recipe.card["training"]
    with pytest.raises(UsageError, match="not the same: preset"):
        fit(
            replace(preset, alignment=0.8),
            Pair(source, target, BATCH),
            [target.examples(np.arange(32))],
            tmp_path,
        )


# ---- the batches


def ids(data: Any, number: int) -> list[list[int]]:
    return [batch.ids.tolist() for batch in data.epoch(number)]


def test_batches_are_half_of_each_archive() -> None:
    source, target = Lines(300, 0), Lines(100, 1)
    pair = Pair(source, target, BATCH)
    for batch in pair.epoch(2):
        ours, theirs = batch.ids[:16], ~batch.ids[16:]
        assert (ours >= 0).all() and (theirs >= 0).all()
        np.testing.assert_array_equal(batch.x[:16], source.x[ours])
        np.testing.assert_array_equal(batch.x[16:], target.x[theirs])
        np.testing.assert_array_equal(batch.targets.box[:16, 0] == 0, source.quasar[ours])
        np.testing.assert_array_equal(np.isfinite(batch.z[16:]), target.quasar[theirs])


def test_an_epoch_goes_through_the_larger_once_and_the_smaller_again_and_again() -> None:
    pair = Pair(Lines(320, 0), Lines(100, 1), BATCH)
    batches = ids(pair, 0)
    assert len(batches) == len(pair) // BATCH == 20
    seen = [row for batch in batches for row in batch]
    source, target = [row for row in seen if row >= 0], [~row for row in seen if row < 0]
    assert sorted(source) == list(range(320))
    # Three batches of 32 in each pass, so that four of 100 are left out of it.
    assert len(target) == 320 and np.bincount(target).max() <= 4 and len(set(target)) >= 96


@pytest.mark.parametrize("n", [1, 2, 7])
def test_an_epoch_is_as_long_as_wanted(n: int) -> None:
    pair, cycled = Pair(Lines(100, 0), Lines(64, 1), BATCH, n), Cycled(Lines(100, 0), BATCH, n)
    assert len(ids(pair, 0)) == len(ids(cycled, 0)) == n
    assert len(pair) == len(cycled) == n * BATCH


def test_passes_follow_one_another_and_no_two_epochs_are_alike() -> None:
    data = Lines(96, 0)
    cycled = Cycled(data, BATCH, 5)
    assert ids(cycled, 0) == [*ids(data, 0), *ids(data, 1)[:2]]
    assert ids(cycled, 1) == [*ids(data, 2), *ids(data, 3)[:2]]
    pair = Pair(data, data, BATCH, 5)
    assert ids(pair, 1) == ids(pair, 1) != ids(pair, 0)


def test_threads_that_read_ahead_are_ended_when_a_run_leaves_early() -> None:
    ended = []

    class Watched(Lines):
        def epoch(self, number: int) -> Any:
            try:
                yield from super().epoch(number)
            finally:
                ended.append(number)

    batches = Pair(Watched(320, 0), Watched(64, 1), BATCH).epoch(0)
    next(batches)
    batches.close()
    assert ended == [0, 0]


def test_spectra_of_both_archives_have_their_names() -> None:
    pair = Pair(Lines(64, 0), Lines(64, 1), BATCH)
    pair.source.data.names = lambda rows: [f"source {row}" for row in rows]  # type: ignore[method-assign]
    pair.target.data.names = lambda rows: [f"target {row}" for row in rows]  # type: ignore[method-assign]
    assert pair.names(np.array([3, ~3, ~0, 5])) == ["source 3", "source 5", "target 3", "target 0"]


def test_less_than_a_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="31 spectra are less than a batch of 32"):
        Pair(Lines(31, 0), Lines(64, 1), BATCH)
    with pytest.raises(UsageError, match="half of one archive"):
        Pair(Lines(64, 0), Lines(64, 1), 31)


def test_an_interrupted_run_on_two_archives_ends_with_the_same_weights(tmp_path: Path) -> None:
    preset = replace(aligned(SMALL, 1.0), network=replace(SMALL.network, dropout=0.5))
    pair, check = Pair(Lines(128, 5), Lines(64, 6), BATCH), [Lines(32, 7).examples(np.arange(32))]

    def killed(state: Progress) -> None:
        if (state.epoch, state.step % 8) == (1, 3) and state.scores is None:
            raise KeyboardInterrupt

    whole = fit(preset, pair, check, tmp_path / "whole", precision="fp32", check_every=2)
    with pytest.raises(KeyboardInterrupt):
        fit(preset, pair, check, tmp_path / "part", precision="fp32", check_every=2, on_step=killed)
    part = fit(preset, pair, check, tmp_path / "part", precision="fp32", check_every=2)
    for name in ("model.onnx", "last.onnx"):
        assert (whole.with_name(name)).read_bytes() == (part.with_name(name)).read_bytes(), name


# ---- checks within an epoch


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let validation find these F1, one a check."""

    def script(*values: float) -> list[float]:
        left = list(values)

        def said(*_: Any) -> dict[str, float]:
            return {"loss": 1.0, "precision": 0.5, "recall": 0.5, "f1": left.pop(0)}

        monkeypatch.setattr(tasks, "classified", said)
        return left

    return script


BY_F1 = replace(SMALL, monitor="f1", patience=1)


def run_for(folder: Path, **options: Any) -> Path:
    """Train for epochs of eight steps."""
    check = [Lines(32, 9).examples(np.arange(32))]
    return fit(BY_F1, Lines(8 * BATCH, 8), check, folder, precision="fp32", **options)


def test_the_best_check_of_an_epoch_is_what_is_kept_and_logged(scripted: Any, tmp_path: Path) -> None:
    left = scripted(0.1, 0.7, 0.2, 0.3)
    path = run_for(tmp_path, epochs=1, check_every=2)
    assert left == []  # after steps 2, 4 and 6, and at the end
    assert load_model(path).recipe.card["validation_f1"] == "0.7"
    assert load_model(tmp_path / "last.onnx").recipe.card["validation_f1"] == "0.3"
    assert [(row["epoch"], row["step"], row["f1"]) for row in rows_of(tmp_path)] == [("0", "4", "0.7")]


def test_the_best_weights_are_those_of_the_best_check(scripted: Any, tmp_path: Path) -> None:
    scripted(0.1, 0.9, 0.2)
    best = run_for(tmp_path / "checked", epochs=1, check_every=3)  # after steps 3, 6 and 8
    scripted(0.5)
    short = replace(BY_F1, epochs=1)
    data = Cycled(Lines(8 * BATCH, 8), BATCH, 6)
    six = fit(short, data, [Lines(32, 9).examples(np.arange(32))], tmp_path / "six", precision="fp32")
    for name, value in parameters_of(six.read_bytes()).items():
        np.testing.assert_array_equal(value, parameters_of(best.read_bytes())[name], err_msg=name)


def test_patience_counts_epochs_and_not_checks(scripted: Any, tmp_path: Path) -> None:
    # Better within the second epoch; the third has nothing better than the second's best, only as good.
    left = scripted(0.5, 0.1, 0.4, 0.6, 0.1, 0.2, 0.6, 0.6, 0.6, 0.9)
    run_for(tmp_path, epochs=9, check_every=3)
    assert left == [0.9]
    assert [row["f1"] for row in rows_of(tmp_path)] == ["0.5", "0.6", "0.6"]


def test_a_checkpoint_of_a_run_with_other_checks_is_refused(scripted: Any, tmp_path: Path) -> None:
    scripted(*[0.5] * 9)
    run_for(tmp_path, epochs=1, check_every=4)
    with pytest.raises(UsageError, match="not the same: check_every"):
        run_for(tmp_path, epochs=1)


def test_validation_may_be_read_anew_at_each_check(tmp_path: Path) -> None:
    held_out, reads = Lines(64, 9), []

    def read(first: int = 0, every: int = 1) -> Iterator[Examples]:
        reads.append(1)
        parts = [held_out.examples(np.arange(32)), held_out.examples(np.arange(32, 64))]
        return iter(parts[first::every])

    data = Lines(4 * BATCH, 8)
    again = fit(SMALL, data, ReadAgain(read), tmp_path / "read", precision="fp32", check_every=2)
    assert len(reads) == 2 * SMALL.epochs
    kept = fit(SMALL, data, list(read()), tmp_path / "kept", precision="fp32", check_every=2)
    assert again.read_bytes() == kept.read_bytes()


def test_validation_that_can_be_read_only_once_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ReadAgain"):
        fit(SMALL, Lines(64, 8), iter([Lines(32, 9).examples(np.arange(32))]), tmp_path)
