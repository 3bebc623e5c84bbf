"""Several processes train one network: what they learn is what one learns, and they end together.

The processes are real, and talk to each other through gloo on 127.0.0.1; this file is what they run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from broadline import launcher  # noqa: E402
from broadline.errors import BroadlineError, StoppedError, UsageError  # noqa: E402
from broadline.model import save_model  # noqa: E402
from broadline.named_models import load_model  # noqa: E402
from broadline.networks.architecture import QuasarNETConfig  # noqa: E402
from broadline.networks.graph import parameters_of  # noqa: E402
from broadline.networks.vgg import ConvNetConfig  # noqa: E402
from broadline.training import task as tasks  # noqa: E402
from broadline.training.align import Pair, aligned  # noqa: E402
from broadline.training.dataset import PreparedSet  # noqa: E402
from broadline.training.fit import TrainingData, fit  # noqa: E402
from broadline.training.objective import Counts  # noqa: E402
from broadline.training.presets import PRESETS, Preset  # noqa: E402
from broadline.training.processes import Processes  # noqa: E402
from broadline.training.simulated import Examples  # noqa: E402
from broadline.training.step import Learner  # noqa: E402
from broadline.training.transfer import start_from  # noqa: E402
from conftest import ROOT  # noqa: E402
from test_training import TINY, TINY_OURS, Kept, Killed, compiled, log_of, one_thread, write_set  # noqa: E402

__all__ = ["compiled", "one_thread"]  # fixtures of every test

BATCH, N_BATCHES = 32, 4
VGG = replace(
    PRESETS["vgg-a"],
    network=ConvNetConfig(stages=(1, 1), filters=4, hidden=(16,), dropout=0.0),
    unsure="weight",
)
#: Every loss there is, with networks of every kind.
TAUGHT = {
    "sample": PRESETS["paper"],
    "batch": replace(TINY, loss="batch"),
    "spectrum": TINY,
    "likelihood": TINY_OURS,
    "cross-entropy": VGG,
    "aligned": aligned(VGG, 1.0),
}
TAUGHT = {name: replace(preset, batch=BATCH, epochs=2, unsure="weight") for name, preset in TAUGHT.items()}
FITTED = ("sample", "likelihood", "cross-entropy")
COUNTS = Counts(torch.full((7,), 40.0), torch.full((7,), 900.0), BATCH * N_BATCHES)


def examples(preset: Preset, seed: int, n_batches: int = N_BATCHES) -> list[Examples]:
    """Batches of noise under labels of all kinds, most of the quasars and doubts in their first halves."""
    rng, batches = np.random.default_rng(seed), []
    early = np.arange(BATCH) < BATCH // 2
    for i in range(n_batches):
        z, quasar = rng.uniform(1.5, 4, BATCH), rng.random(BATCH) < np.where(early, 0.8, 0.2)
        firm = np.where(early & (rng.random(BATCH) < 0.5), 0.3, 1.0)
        bal = np.where(quasar, rng.integers(-1, 2, BATCH), 0).astype(np.int8)
        x = rng.normal(size=(BATCH, *preset.network.input_shape)).astype(np.float32)
        y = tasks.task_of(preset).targets(z, quasar, bal, firm)
        ids = np.arange(i * BATCH, (i + 1) * BATCH)
        batches.append(Examples(torch.from_numpy(x), y, np.where(quasar, z, np.nan), firm, bal, ids))
    return batches


class Until(Kept):
    """Data that end the run, in all processes, before an epoch."""

    last = 99

    def epoch(self, number: int) -> Iterator[Examples]:
        if number == self.last:
            raise Killed
        return super().epoch(number)


def data_of(preset: Preset, last: int = 99) -> TrainingData:
    data = Until(examples(preset, 1))
    data.last = last
    return Pair(data, Kept(examples(preset, 2)), BATCH) if preset.loss == "aligned" else data


def learn(name: str, folder: Path, *, last: int = 99, **options: Any) -> Path:
    """Train as a case says, validated on three batches."""
    preset = TAUGHT[name]
    options = {"precision": "fp32", "counts": COUNTS if preset.loss == "sample" else None} | options
    return fit(preset, data_of(preset, last), examples(preset, 9, 3), folder, **options)


# ---- what the processes run


def gradients(folder: Path) -> None:
    """Keep loss, gradients and statistics of a step of every loss, in double precision."""
    for name, preset in TAUGHT.items():
        learner = Learner(preset, 8, 0, "fp32", COUNTS if preset.loss == "sample" else None)
        learner.network.double()
        batch = next(iter(learner.processes.share(data_of(preset), BATCH).epoch(0)))
        learner.start_epoch()
        found = {"loss": learner.learn(batch._replace(x=batch.x.double())).numpy()}
        found |= {key: value.grad.numpy() for key, value in learner.network.named_parameters()}
        found |= {key: value.numpy() for key, value in learner.network.named_buffers()}
        if learner.processes.first:
            np.savez(folder / f"{name}.npz", **found)


def weights(folder: Path) -> None:
    """Train a network of each kind."""
    for name in FITTED:
        learn(name, folder / name)


def transferred(folder: Path, model: Path) -> None:
    """Train from a model, whose trunk is frozen."""
    start = start_from(load_model(model), TAUGHT["likelihood"].network, trunk_rate=0.0)
    learn("likelihood", folder / "transferred", start=start)


def halves(folder: Path) -> None:
    """Begin a run, and go on with one that was begun."""
    with pytest.raises(Killed):
        learn("likelihood", folder / "begun", last=1)
    learn("likelihood", folder / "begun-by-one")


def parted(folder: Path) -> None:
    """Train with scores that tell the first process to stop after two epochs, and the other to go on."""
    losses = iter([0.5, 0.6, 0.7] if launcher.rank() == 0 else [0.5, 0.4, 0.3])
    before = tasks.validate
    tasks.validate = lambda *a: before(*a) | {"loss": next(losses)}
    learn("spectrum", folder / "parted", epochs=3, patience=1)
    tasks.validate = before


def spoilt(folder: Path) -> None:
    """Train on data of which a spectrum in the second half of a batch, the other process's, is no number."""
    preset = TAUGHT["spectrum"]
    batches = examples(preset, 1)
    batches[2].x[BATCH - 3, 7] = torch.nan
    try:
        fit(preset, Kept(batches), batches[:1], folder / "spoilt", precision="fp32")
    except BroadlineError as error:
        (folder / f"spoilt-{launcher.rank()}").write_text(f"{type(error).__name__}: {error}")


def abandoned(folder: Path) -> None:
    """Train until one process is killed."""

    class Deadly(Kept):
        def epoch(self, number: int) -> Iterator[Examples]:
            for i, batch in enumerate(super().epoch(number)):
                if i == 2 and launcher.rank() == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

    preset = TAUGHT["spectrum"]
    try:
        fit(
            preset,
            Deadly(examples(preset, 1)),
            examples(preset, 9, 1),
            folder / "abandoned",
            precision="fp32",
        )
    except StoppedError as error:
        (folder / "abandoned-0").write_text(str(error))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.compile = lambda function, **_: function
    gradients(folder)
    weights(folder)
    transferred(folder, folder / "source.onnx")
    halves(folder)
    parted(folder)
    spoilt(folder)
    abandoned(folder)


# ---- the processes


def environment(**more: object) -> dict[str, str]:
    """What processes of this test see; nothing is compiled in them."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    here = {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return os.environ | here | {name: str(value) for name, value in more.items()}


def free_port() -> int:
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        return int(end.getsockname()[1])


def finished(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Return what processes leave: exit code and output. None outlives this, nor five minutes."""
    end = time.monotonic() + 300
    try:
        said = [each.communicate(timeout=end - time.monotonic()) for each in processes]
    finally:
        for each in processes:
            each.kill()
    return [(each.returncode, *texts) for each, texts in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave behind, as `main` has it; the first half of a run is one process's."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **_: function)
        with pytest.raises(Killed):
            learn("likelihood", folder / "begun-by-one", last=1)
    shutil.copy(folder / "begun-by-one" / "last.onnx", folder / "source.onnx")
    told = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, folder],
            env=environment(**told, MASTER_PORT=port, RANK=rank, LOCAL_RANK=rank),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    first, other = finished(processes)
    assert first[0] == 0, first[2]
    assert other[0] == -signal.SIGKILL, other[2]  # by its own hand
    return folder


@pytest.fixture(scope="module")
def one(two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process leaves behind, and what it makes of a run that two began."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **_: function)
        gradients(folder)
        weights(folder)
        transferred(folder, two / "source.onnx")
        learn("likelihood", two / "begun")
    return folder


# ---- what is learnt


@pytest.mark.parametrize("name", TAUGHT)
def test_gradients_and_statistics_are_those_of_the_whole_batch_for_every_loss(
    name: str, one: Path, two: Path
) -> None:
    whole, shared = np.load(one / f"{name}.npz"), np.load(two / f"{name}.npz")
    assert set(whole) == set(shared)
    scale = max(np.abs(whole[key]).max() for key in whole if key.startswith(("conv", "hidden")))
    assert scale > 1e-3
    # In double precision: but for the order of sums, which a float32 part of the ConvNets' losses may round.
    tolerance = 1e-12 if isinstance(TAUGHT[name].network, QuasarNETConfig) else 1e-6
    for key in whole:
        np.testing.assert_allclose(shared[key], whole[key], rtol=1e-6, atol=tolerance * scale, err_msg=key)


def learnt(path: Path) -> NDArray[np.float32]:
    """Return the parameters that a model has, but those that nothing teaches.

    Batch normalisation takes away the bias of the layer before it. Its gradient is rounding, of which Adam
    makes whole steps; running means follow them.
    """
    parameters = parameters_of(path.read_bytes())
    idle = [name for name in parameters if name.endswith("running_mean")]
    if idle:
        idle += [name for name in parameters if re.fullmatch(r"convolutions\.\d\.bias", name)]
        idle += ["hidden.bias"] if "hidden_norm.weight" in parameters else []
    return np.concatenate([value.ravel() for name, value in parameters.items() if name not in idle])


def apart(name: str, one: Path, other: Path) -> float:
    """Return how far two models are from each other, as a share of how far one is from its beginning."""
    torch.manual_seed(0)
    network = tasks.task_of(TAUGHT[name]).network()
    save_model(other / "initial.onnx", load_model(other / "last.onnx").recipe, network.parameters_by_name())
    start, a, b = (learnt(path) for path in (other / "initial.onnx", one / "last.onnx", other / "last.onnx"))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a - start))


#: In another order of summation the last digits of float32 differ: by 1e-7 of what is summed up. Adam divides
#: each gradient by its own size, however small: of the paper's network, whose sigmoid lets little through to
#: the convolutions at first, some gradients are hardly more than such digits, and those weights part.
NEAR = {"sample": 0.01, "likelihood": 1e-5, "cross-entropy": 1e-5}


@pytest.mark.parametrize("name", FITTED)
def test_two_processes_learn_the_weights_that_one_learns_from_the_whole_batch(
    name: str, one: Path, two: Path
) -> None:
    for row, other in zip(log_of(one / name), log_of(two / name), strict=True):
        assert float(other["train_loss"]) == pytest.approx(float(row["train_loss"]), rel=1e-5)
        assert float(other["loss"]) == pytest.approx(float(row["loss"]), rel=1e-3)  # with those running means
    assert apart(name, one / name, two / name) < NEAR[name]


def test_two_processes_start_from_a_model_and_freeze_its_trunk_as_one_does(one: Path, two: Path) -> None:
    assert apart("likelihood", one / "transferred", two / "transferred") < NEAR["likelihood"]
    source, last = (
        parameters_of(path.read_bytes()) for path in (two / "source.onnx", two / "transferred" / "last.onnx")
    )
    name = "norms.0.running_var"
    assert not np.array_equal(source["hidden.weight"], last["hidden.weight"])
    assert np.array_equal(source[name], last[name])


@pytest.mark.parametrize("begun", ["begun", "begun-by-one"])
def test_a_run_goes_on_with_another_number_of_processes(begun: str, one: Path, two: Path) -> None:
    assert [row["epoch"] for row in log_of(two / begun)] == ["0", "1"]
    assert apart("likelihood", one / "likelihood", two / begun) < NEAR["likelihood"]


def test_dropout_draws_other_units_for_the_rows_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for rank in range(2):
        learner = Learner(replace(VGG, batch=BATCH), 1, 0, "fp32")
        learner.processes.rank = rank
        learner.start_epoch()
        drawn.append(torch.rand(8))
    assert not torch.equal(*drawn)


# ---- how it ends


def test_all_processes_stop_when_the_first_one_does(two: Path) -> None:
    assert [row["loss"] for row in log_of(two / "parted")] == ["0.5", "0.6"]


def test_a_loss_that_is_no_number_stops_all_and_the_first_names_the_spectrum(two: Path) -> None:
    first, other = ((two / f"spoilt-{rank}").read_text() for rank in range(2))
    assert first.startswith("UsageError: the loss is nan at step 0 of epoch 0, on no. 93; ")
    assert other.startswith("StoppedError: ")
    assert not (two / "spoilt" / "checkpoint.pt").exists()


def test_a_process_that_is_killed_ends_the_others(two: Path) -> None:
    assert (two / "abandoned-0").read_text().startswith("another process has ended; the same command goes on")


def test_one_process_of_a_launcher_is_like_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = learn("likelihood", tmp_path / "alone").read_bytes()
    for name, value in {
        "TORCHELASTIC_RUN_ID": "test",
        "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1",
        "RANK": "0",
    }.items():
        monkeypatch.setenv(name, value)
    assert learn("likelihood", tmp_path / "launched").read_bytes() == alone
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv("RANK", "3")  # a batch system's
    assert launcher.rank() == 0


# ---- what is refused, and what is read


def processes_of(n: int, rank: int = 0) -> Processes:
    processes = Processes("fp32")
    processes.n, processes.rank = n, rank
    return processes


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(UsageError, match="a batch of 32 spectra cannot be divided among 3 processes"):
        processes_of(3).share(data_of(TAUGHT["spectrum"]), BATCH)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(launcher, "here", lambda: 4)
    with pytest.raises(UsageError, match="4 processes were started for 2 GPUs"):
        Processes("fp32")


def test_processes_that_were_told_other_things_are_refused_by_what_differs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, theirs = {"seed": 1, "steps done": 8}, {"seed": 1, "steps done": 0}
    monkeypatch.setattr(Processes, "everyone", lambda _, items: [*items, theirs])
    with pytest.raises(UsageError, match=r"not of one mind \(steps done\)"):
        processes_of(2).agree(mine)
    processes_of(2).agree(theirs)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    preset = PRESETS["paper-code"]
    batches = examples(preset, 5, 20)
    return write_set(tmp_path_factory.mktemp("prepared") / "flux", batches, preset.representation)


def test_a_process_reads_its_own_rows_of_a_set_and_all_rows_are_some_process_s(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = PreparedSet.values

    def counted(self: PreparedSet, rows: NDArray[np.int64]) -> Any:
        read.append(len(rows))
        return real(self, rows)

    monkeypatch.setattr(PreparedSet, "values", counted)
    data = PreparedSet(prepared, replace(PRESETS["paper-code"], batch=BATCH), seed=3)
    whole = list(data.epoch(1))
    assert sum(read) == len(whole) * BATCH == 640
    read.clear()
    parts = [list(processes_of(4, rank).share(data, BATCH).epoch(1)) for rank in range(4)]
    assert read == [160] * 4
    for batch, *shares in zip(whole, *parts, strict=True):
        assert np.array_equal(np.concatenate([share.ids for share in shares]), batch.ids)
        assert torch.equal(torch.cat([share.x for share in shares]), batch.x)
    read.clear()
    held_out = [[batch.ids for batch in data.ordered(rank, 3)] for rank in range(3)]
    dealt = [ids for turn in zip_longest(*held_out) for ids in turn if ids is not None]
    assert np.array_equal(np.concatenate(dealt), data.rows) and sum(read) == len(data)


# ---- the command


def test_the_launched_command_trains_on_splits_and_speaks_with_one_voice(
    prepared: Path, tmp_path: Path
) -> None:
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    command = ["-m", "broadline", "train", prepared, "-o", tmp_path / "run", "--preset", "paper-code"]
    options = ["--precision", "fp32", "--epochs", "1", "--splits", "2", "--labels", "64"]
    process = subprocess.Popen(
        [sys.executable, *launch, *command, *options],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    ((code, out, err),) = finished([process])
    assert code == 0, err
    assert out.count("split-00") == out.count("mean") == 1
    said = [line for line in err.splitlines() if line.startswith(("epoch", "split"))]
    assert [line.split(":")[0] for line in said] == ["split 1 of 2", "epoch 1", "split 2 of 2", "epoch 1"]
    assert load_model(tmp_path / "run" / "split-01" / "model.onnx").recipe.card["preset"] == "paper-code"
    assert len(log_of(tmp_path / "run" / "split-01")) == 1
    assert (tmp_path / "run" / "splits.parquet").exists()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
