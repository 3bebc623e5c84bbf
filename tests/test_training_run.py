"""Training: when it ends, what it says on the way; compiled, fed ahead and on a GPU it is the same."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from broadline.errors import UsageError  # noqa: E402
from broadline.lines import QUASARNET_LINES  # noqa: E402
from broadline.named_models import load_model  # noqa: E402
from broadline.networks.graph import parameters_of  # noqa: E402
from broadline.progress import ProgressBar  # noqa: E402
from broadline.training import dataset, logs, presets, resident, run, step, task  # noqa: E402
from broadline.training import fit as fitting  # noqa: E402
from broadline.training.align import Cycled, Pair  # noqa: E402
from broadline.training.dataset import PreparedSet  # noqa: E402
from broadline.training.fit import Progress, fit  # noqa: E402
from broadline.training.objective import targets  # noqa: E402
from broadline.training.presets import Preset  # noqa: E402
from broadline.training.run import train_prepared  # noqa: E402
from broadline.training.simulated import Examples, Simulated  # noqa: E402
from broadline.training.validation import validate  # noqa: E402
from conftest import Answer  # noqa: E402
from test_training import (  # noqa: E402
    BATCH,
    TINY,
    TINY_OURS,
    Kept,
    Killed,
    compiled,
    dies_at,
    log_of,
    one_thread,
    outcome,
    train,
    write_set,
)

__all__ = ["compiled", "one_thread"]  # fixtures of every test

N_BATCHES = 6


def examples(n: int, preset: Preset, seed: int) -> list[Examples]:
    """Batches of a line at z and noise: enough to learn something from."""
    rng = np.random.default_rng(seed)
    batches = []
    for i in range(n):
        z, quasar = rng.uniform(1.5, 4, BATCH), rng.random(BATCH) < 0.5
        x = rng.normal(size=(BATCH, *preset.network.input_shape)).astype(np.float16).astype(np.float32)
        pixel = np.log10((1 + z) * 1549 / 3600) / np.log10(10000 / 3600) * 443
        x.reshape(BATCH, -1)[np.arange(BATCH), pixel.astype(int)] += 10 * quasar
        grid, n_boxes = preset.representation.grid, preset.network.n_boxes
        y = targets(z, quasar, np.zeros(BATCH, dtype=np.int8), QUASARNET_LINES, grid, n_boxes)
        ids = np.arange(i * BATCH, (i + 1) * BATCH)
        nothing = np.zeros(BATCH, dtype=np.int8)
        batches.append(
            Examples(torch.from_numpy(x), y, np.where(quasar, z, np.nan), np.ones(BATCH), nothing, ids)
        )
    return batches


@pytest.fixture(scope="module")
def sample() -> tuple[Kept, list[Examples]]:
    return Kept(examples(N_BATCHES, TINY, 1)), examples(2, TINY, 2)


@pytest.fixture(scope="module")
def prepared(sample: tuple[Kept, list[Examples]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("prepared") / "flux", list(sample[0]), TINY.representation)


def losses(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Let validation find these losses, one an epoch."""
    left = iter(values)
    monkeypatch.setattr(task, "validate", lambda *a: validate(*a) | {"loss": next(left)})


# ---- when it ends


def test_without_patience_all_epochs_are_trained(
    sample: tuple[Kept, list[Examples]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses(monkeypatch, 0.1, 0.2, 0.3, 0.4, 0.5)
    states: list[Progress] = []
    train(sample, tmp_path, epochs=5, on_step=states.append)
    assert len(log_of(tmp_path)) == 5 and not any(state.stopped for state in states)


def test_a_run_stops_after_so_many_epochs_without_a_better_loss_and_keeps_the_best(
    sample: tuple[Kept, list[Examples]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses(monkeypatch, 0.5, 0.6, 0.4, 0.4, 0.7, 0.1)
    states: list[Progress] = []
    path = train(sample, tmp_path, epochs=6, patience=2, on_step=states.append)
    assert [row["epoch"] for row in log_of(tmp_path)] == ["0", "1", "2", "3", "4"]
    assert load_model(path).recipe.card["epochs"][:6] == "3 of 6"
    assert [state.epoch for state in states if state.stopped] == [4]
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    train(sample, tmp_path, epochs=6, patience=2)  # it would find 0.1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_run_whose_last_epoch_is_no_better_was_not_stopped_early(
    sample: tuple[Kept, list[Examples]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses(monkeypatch, 0.5, 0.6)
    states: list[Progress] = []
    train(sample, tmp_path, epochs=2, patience=1, on_step=states.append)
    assert len(log_of(tmp_path)) == 2 and not any(state.stopped for state in states)


def test_a_killed_run_remembers_for_how_long_nothing_was_better(
    sample: tuple[Kept, list[Examples]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses(monkeypatch, 0.5, 0.6, 0.7, 0.8)
    with pytest.raises(Killed):
        train(sample, tmp_path, epochs=6, patience=2, on_step=dies_at(2 * N_BATCHES + 1))
    train(sample, tmp_path, epochs=6, patience=2)
    assert len(log_of(tmp_path)) == 3


def test_more_patience_goes_on_to_the_bits_of_a_run_that_had_it_from_the_start(
    sample: tuple[Kept, list[Examples]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, patience in (("a", [1, 2]), ("b", [2])):
        losses(monkeypatch, 0.5, 0.6, 0.3, 0.4)
        for each in patience:
            train(sample, tmp_path / name, epochs=4, patience=each)
        assert len(log_of(tmp_path / name)) == 4
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


@pytest.fixture
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "PRESETS", {"tiny": replace(TINY, epochs=5)})


def test_the_command_stops_early_and_says_so(
    prepared: Path,
    tmp_path: Path,
    command: Callable[..., Answer],
    tiny_preset: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses(monkeypatch, 0.5, 0.6, 0.1)
    options = ["--preset", "tiny", "--precision", "fp32", "--patience", 1]
    answer = command("train", prepared, "-o", tmp_path / "run", *options)
    assert answer.code == 0, answer.err
    *_, last = answer.err.splitlines()
    assert last == "stopped after epoch 2: validation no longer improves"
    assert load_model(tmp_path / "run" / "model.onnx").recipe.card["epochs"][:6] == "1 of 5"


def test_an_interrupted_command_says_how_to_go_on_and_does(
    prepared: Path,
    tmp_path: Path,
    command: Callable[..., Answer],
    tiny_preset: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = logs.Log.add

    def interrupt(*arguments: Any) -> None:
        real(*arguments)
        if arguments[1] == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)  # where the interrupt arrives

    monkeypatch.setattr(logs.Log, "add", interrupt)
    arguments = ["train", prepared, "-o", tmp_path / "run", "--preset", "tiny", "--precision", "fp32"]
    answer = command(*arguments)
    *_, last = answer.err.splitlines()
    assert (answer.code, last) == (
        130,
        f"broadline: interrupted; the same command goes on in {tmp_path / 'run'}",
    )
    monkeypatch.setattr(logs.Log, "add", real)
    again = command(*arguments)
    assert again.code == 0
    assert [line[:8] for line in again.err.splitlines()] == ["epoch 2:", "epoch 3:", "epoch 4:", "epoch 5:"]


# ---- what it says on the way


def shown(bar: ProgressBar) -> str:
    return str(bar.bar.tasks[0].fields["rate"])


def test_the_bar_shows_the_loss_and_the_last_purity_and_completeness(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bar = ProgressBar("training")
    bar.learn(Progress(0, 1, 8, 2.5))
    assert shown(bar) == "loss 2.5000" and bar.bar.tasks[0].completed == 1 / 8
    scores = {"purity": 0.98761, "completeness": 0.9, "nmad": 300.2, "loss": 3.0}
    bar.learn(Progress(0, 4, 8, 2.25, scores, ("purity", "completeness", "nmad")))
    assert capsys.readouterr().err == (
        "epoch 1: loss 2.2500, on validation purity 0.9876, completeness 0.9, nmad 300.2\n"
    )
    bar.learn(Progress(1, 5, 8, 2.0))
    assert shown(bar) == "loss 2.0000, purity 0.9876, completeness 0.9"
    bar.split(1, 3)
    bar.learn(Progress(0, 1, 8, 2.5))
    assert shown(bar) == "loss 2.5000"
    assert capsys.readouterr().err == "split 2 of 3\n"


class FakeWriter:
    """What TensorBoard would be told."""

    made: ClassVar[list[FakeWriter]] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.scalars: list[tuple[str, float, int]] = []
        self.flushed = self.closed = 0
        self.made.append(self)

    def add_scalar(self, tag: str, value: float, epoch: int) -> None:
        self.scalars.append((tag, value, epoch))

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed += 1


def test_tensorboard_is_told_each_epoch_and_forgets_those_that_are_done_again(
    sample: tuple[Kept, list[Examples]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeWriter, "made", [])
    board = SimpleNamespace(SummaryWriter=FakeWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    with pytest.raises(Killed):
        train(sample, tmp_path, epochs=3, on_step=dies_at(N_BATCHES + 1))
    train(sample, tmp_path, epochs=3)
    train(sample, tmp_path, epochs=3)  # nothing is left to do, or to tell
    first, second = FakeWriter.made
    assert first.folder == second.folder == str(tmp_path)
    assert (first.purge_step, first.flushed, first.closed) == (0, 1, 1)
    assert (second.purge_step, second.flushed, second.closed) == (1, 2, 1)
    told = first.scalars + second.scalars
    for tag, column in (("training/loss", "train_loss"), ("validation/purity", "purity")):
        of_tag = [(value, epoch) for name, value, epoch in told if name == tag]
        assert of_tag == [(float(row[column]), int(row["epoch"])) for row in log_of(tmp_path)]


def test_tensorboard_reads_the_event_files(sample: tuple[Kept, list[Examples]], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(sample, tmp_path, epochs=2)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    values = [event.value for event in events.Scalars("validation/loss")]
    assert values == pytest.approx([float(row["loss"]) for row in log_of(tmp_path)])


def test_without_tensorboard_the_csv_log_is_all_there_is(
    sample: tuple[Kept, list[Examples]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(sample, tmp_path, epochs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint.pt",
        "last.onnx",
        "log.csv",
        "model.onnx",
    ]


# ---- compiled or not


class _BreaksBackwards(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise OSError(errno.ENOENT, "no such program", "g++")


def no_compile(*_: Any, **__: Any) -> Any:
    raise RuntimeError("compilation is not supported here")


def no_forward(function: Any, **_: Any) -> Any:
    def forward(x: Any) -> Any:
        function(x)  # far enough to have moved the statistics of batch normalisation
        raise RuntimeError("No working C++ compiler found\nand a page of advice")

    return forward


def no_backward(function: Any, **_: Any) -> Any:
    return lambda x: fitting_outputs(function(x))


def fitting_outputs(outputs: Any) -> Any:
    return outputs._replace(confidence=_BreaksBackwards.apply(outputs.confidence))


@pytest.mark.parametrize("broken", [no_compile, no_forward, no_backward])
def test_where_nothing_can_be_compiled_training_is_eager_and_says_so_once(
    broken: Any, sample: tuple[Kept, list[Examples]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(sample, tmp_path / "eager")
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match="slower, for the network cannot be compiled: .") as caught:
        train(sample, tmp_path / "broken")
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "eager")


def test_an_error_that_is_not_compilations_comes_again(
    sample: tuple[Kept, list[Examples]], tmp_path: Path
) -> None:
    short = Kept(batch._replace(x=batch.x[:, :100]) for batch in sample[0])
    with pytest.warns(UserWarning, match="cannot be compiled"), pytest.raises(RuntimeError, match="shape"):
        train((short, sample[1]), tmp_path)


# ---- which spectra a loss is not finite on


class Diverged(Kept):
    """The same, with a weight of a target that is no number in the third batch of the second epoch."""

    def epoch(self, number: int) -> Iterator[Examples]:
        for i, batch in enumerate(super().epoch(number)):
            weight = batch.targets.weight.clone()
            if (number, i) == (1, 2):
                weight[0] = torch.inf
            yield batch._replace(targets=batch.targets._replace(weight=weight))


def test_where_no_pixel_is_at_fault_the_whole_batch_is_named(
    sample: tuple[Kept, list[Examples]], tmp_path: Path
) -> None:
    batch = list(sample[0].epoch(1))[2]
    names = ", ".join(f"no. {row}" for row in batch.ids)
    match = rf"loss is (inf|nan) at step {N_BATCHES + 2} of epoch 1, on {names}; the checkpoint"
    with pytest.raises(UsageError, match=match):
        train((Diverged(sample[0]), sample[1]), tmp_path)


def test_spectra_of_a_set_are_named_as_their_files_name_them(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PreparedSet(prepared, TINY)
    real = PreparedSet._examples

    def spoilt(self: PreparedSet, rows: Any, values: Any) -> Examples:
        batch = real(self, rows, values)
        batch.x[torch.from_numpy(rows == 17)] = torch.nan
        return batch

    monkeypatch.setattr(PreparedSet, "_examples", spoilt)
    (name,) = whole.names(np.array([17]))
    with pytest.raises(UsageError, match=rf"loss is nan at step \d of epoch 0, on {name}; the checkpoint"):
        fit(TINY, whole, [], tmp_path, precision="fp32")
    assert not (tmp_path / "checkpoint.pt").exists()


def test_simulated_spectra_are_named_by_what_they_are() -> None:
    truth = {"CLASS": np.array(["STAR", "QSO", "GALAXY"]), "Z": np.array([0.0, 2.34567, 0.5])}
    data = SimpleNamespace(library=SimpleNamespace(truth=truth))
    names = Simulated.names(data, np.array([1, 0]))  # type: ignore[arg-type]
    assert names == ["QSO at z = 2.3457 (row 1)", "STAR at z = 0.0000 (row 0)"]


# ---- fed ahead


def same(one: Examples, other: Examples) -> bool:
    pairs = zip((one.x, *one.targets, *one[2:]), (other.x, *other.targets, *other[2:]), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def streaming() -> int:
    return sum(thread.name == "broadline-stream" for thread in threading.enumerate())


def test_batches_are_put_together_in_a_thread_that_ends_with_the_epoch(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = PreparedSet._examples

    def spy(*arguments: Any) -> Examples:
        seen.append(threading.current_thread().name)
        return real(*arguments)

    monkeypatch.setattr(PreparedSet, "_examples", spy)
    data, before = PreparedSet(prepared, TINY), streaming()
    ahead, direct = list(data.epoch(3)), list(data._batches(3))
    assert set(seen[: len(ahead)]) == {"broadline-stream"} and streaming() == before
    assert len(ahead) == N_BATCHES and all(map(same, ahead, direct))
    monkeypatch.setattr(dataset, "_AHEAD", 1)  # or all are done at once
    left = data.epoch(3)
    next(left)
    assert streaming() == before + 1
    left.close()
    assert streaming() == before
    with pytest.raises(Killed) as kept:  # and with it all that was under way
        fit(TINY, data, [], tmp_path, precision="fp32", on_step=dies_at(1))
    assert streaming() == before and kept


@pytest.mark.parametrize("window", [(256, 256), (8, 3), (5, 50)])
def test_the_order_of_an_epoch_is_known_without_reading_it(
    window: tuple[int, int], prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_CHUNK", window[0])
    monkeypatch.setattr(dataset, "_WINDOW", window[1])
    data = PreparedSet(prepared, TINY, seed=5).subset(np.arange(1, N_BATCHES * BATCH, 2))
    ids = [batch.ids for batch in data.epoch(2)]
    assert len(ids) == N_BATCHES // 2
    assert np.array_equal(list(data.order(2)), ids)


# ---- on a GPU, as far as a CPU can show it


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU pass for a GPU of a gigabyte."""
    monkeypatch.setattr(step, "is_gpu", lambda _: True)
    monkeypatch.setattr(resident, "free_memory", lambda _: 1 << 30)


def test_a_resident_set_gives_the_same_batches(prepared: Path) -> None:
    data = PreparedSet(prepared, TINY, seed=5).subset(np.arange(1, N_BATCHES * BATCH, 2))
    moved = resident.Resident(data, torch.device("cpu"))
    assert len(moved) == len(data) and moved.x.dtype == torch.float16
    for number in (0, 1):
        for one, other in zip(data.epoch(number), moved.epoch(number), strict=True):
            assert same(one, other) and one.x.dtype == other.x.dtype
    assert moved.names(data.rows[:3]) == data.names(data.rows[:3])


def test_a_set_is_moved_to_the_device_if_there_is_room(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, sample: tuple[Kept, list[Examples]]
) -> None:
    data, device = PreparedSet(prepared, TINY), torch.device("cpu")
    needed = len(data) * (2 * 443 + 16 * len(QUASARNET_LINES))
    monkeypatch.setattr(resident, "free_memory", lambda _: int(1.5 * needed))
    assert isinstance(resident.resident(data, device), resident.Resident)
    monkeypatch.setattr(resident, "free_memory", lambda _: int(1.4 * needed))
    assert resident.resident(data, device) is data
    assert resident.resident(sample[0], device) is sample[0]


def test_both_archives_are_moved_to_the_device(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "free_memory", lambda _: 1 << 30)
    data = PreparedSet(prepared, TINY)
    parts = data.subset(data.rows[::2]), data.subset(data.rows[1::2])
    for both in (Pair(*parts, BATCH, 3), Cycled(parts[0], BATCH, N_BATCHES)):
        moved = resident.resident(both, torch.device("cpu"))
        held = (moved.source.data, moved.target.data) if isinstance(moved, Pair) else (moved.data,)
        assert all(isinstance(part, resident.Resident) for part in held)
        assert len(moved) == len(both)
        for one, other in zip(both.epoch(1), moved.epoch(1), strict=True):
            assert same(one, other)


@pytest.mark.parametrize("preset", [replace(TINY, loss="batch"), replace(TINY_OURS, epochs=2)])
def test_the_path_of_gpus_learns_what_that_of_cpus_does(
    preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[Any]
) -> None:
    data = (Kept(examples(N_BATCHES, preset, 1)), examples(2, preset, 2))
    train(data, tmp_path / "cpu", preset=preset)
    monkeypatch.setattr(step, "is_gpu", lambda _: True)
    steps: list[Progress] = []
    train(data, tmp_path / "gpu", preset=preset, on_step=steps.append)
    assert compiled == [{}, {"mode": "reduce-overhead", "dynamic": False}]
    assert all(state.scores for state in steps)  # no look at the loss but at the end of an epoch
    one, other = (parameters_of((tmp_path / name / "last.onnx").read_bytes()) for name in ("cpu", "gpu"))
    for name, value in one.items():
        # Normalisation takes biases away again: rounding moves them about, and means with them.
        if not name.endswith(("running_mean", "convolutions.0.bias", "convolutions.1.bias", "hidden.bias")):
            np.testing.assert_allclose(other[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    for row, same_row in zip(log_of(tmp_path / "cpu"), log_of(tmp_path / "gpu"), strict=True):
        assert float(same_row["train_loss"]) == pytest.approx(float(row["train_loss"]), rel=1e-5)


def test_a_prepared_set_is_read_once_for_a_gpu(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: None
) -> None:
    reads: list[int] = []
    real = PreparedSet.values

    def spy(self: PreparedSet, rows: Any, *rest: Any) -> Any:
        reads.append(len(rows))
        return real(self, rows, *rest)

    monkeypatch.setattr(PreparedSet, "values", spy)
    data = PreparedSet(prepared, TINY)
    fit(TINY, data, list(data.ordered()), tmp_path, precision="fp32", epochs=3)
    assert sum(reads) == 2 * len(data)  # for validation, and for the device
    first, *_, last = (float(row["train_loss"]) for row in log_of(tmp_path))
    assert last < 0.97 * first


def dies_when_scored(state: Progress) -> None:
    if state.scores:
        raise Killed


@pytest.mark.parametrize("at_once", [2, 4, 64])
def test_on_a_gpu_a_loss_that_is_no_number_is_found_later_and_names_its_own_batch(
    at_once: int,
    sample: tuple[Kept, list[Examples]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: None,
) -> None:
    monkeypatch.setattr(fitting, "_LOOK", at_once)
    with pytest.raises(Killed):
        train(sample, tmp_path, on_step=dies_when_scored)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    row = list(sample[0].epoch(1))[2].ids[0]
    match = rf"at step {N_BATCHES + 2} of epoch 1, on no. {row}, no. "
    with pytest.raises(UsageError, match=match):
        train((Diverged(sample[0]), sample[1]), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


# ---- disks that are full


@pytest.mark.parametrize("victim", ["last.onnx", "model.onnx", "log.csv", "checkpoint.pt"])
def test_whichever_file_cannot_be_written_the_run_goes_on_to_the_same_bits(
    victim: str, sample: tuple[Kept, list[Examples]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(sample, tmp_path / "undisturbed")
    with pytest.raises(Killed):
        train(sample, tmp_path / "full", on_step=dies_at(N_BATCHES + 1))
    before = (tmp_path / "full" / "checkpoint.pt").read_bytes()
    real = Path.write_bytes

    def full(path: Path, content: Any) -> int:
        if path.name.startswith(f".{victim}"):
            real(path, bytes(content)[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match=r"cannot write into .*No space left on device; the last checkpoint"):
        train(sample, tmp_path / "full")
    monkeypatch.setattr(Path, "write_bytes", real)
    assert (tmp_path / "full" / "checkpoint.pt").read_bytes() == before
    assert not [path.name for path in (tmp_path / "full").iterdir() if path.name.startswith(".")]
    train(sample, tmp_path / "full")
    assert outcome(tmp_path / "full") == outcome(tmp_path / "undisturbed")


def test_a_disk_full_while_calibrating_leaves_a_model_that_the_same_command_calibrates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = replace(TINY_OURS, epochs=1)
    folder = write_set(tmp_path / "both", examples(N_BATCHES, preset, 1), preset.representation)
    real = run.calibrated

    def full(*_: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "calibrated", full)
    with pytest.raises(UsageError, match=r"cannot write .*model\.onnx.*not yet calibrated, start again"):
        train_prepared(preset, tmp_path / "run", folder, precision="fp32")
    assert load_model(tmp_path / "run" / "model.onnx").recipe.calibration is None
    monkeypatch.setattr(run, "calibrated", real)
    train_prepared(preset, tmp_path / "run", folder, precision="fp32")
    assert load_model(tmp_path / "run" / "model.onnx").recipe.calibration is not None


def test_a_checkpoint_of_another_network_is_refused_and_left_alone(
    sample: tuple[Kept, list[Examples]], tmp_path: Path
) -> None:
    train(sample, tmp_path, epochs=1)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = replace(TINY, network=replace(TINY.network, hidden=8))
    with pytest.raises(UsageError, match=r"checkpoint\.pt is of another run \(not the same: preset\)"):
        train(sample, tmp_path, preset=other, epochs=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
