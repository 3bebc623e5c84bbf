"""Training: a run learns, repeats itself, survives what may befall it, and goes on to the same weights."""

from __future__ import annotations

import csv
import io
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

import broadline  # noqa: E402
from broadline.decision import velocity  # noqa: E402
from broadline.errors import UsageError  # noqa: E402
from broadline.flags import UNCLASSIFIED  # noqa: E402
from broadline.lines import QUASARNET_LINES  # noqa: E402
from broadline.model import Model  # noqa: E402
from broadline.named_models import load_model  # noqa: E402
from broadline.networks.architecture import Convolution, Outputs, QuasarNETConfig  # noqa: E402
from broadline.networks.graph import parameters_of  # noqa: E402
from broadline.networks.quasarnet import QuasarNET  # noqa: E402
from broadline.representation import Representation  # noqa: E402
from broadline.simulation.inspection import visual_scatter  # noqa: E402
from broadline.simulation.library import TRAINING, build_library  # noqa: E402
from broadline.simulation.stream import Library  # noqa: E402
from broadline.training import fit as fitting  # noqa: E402
from broadline.training import logs, presets, run, step, task  # noqa: E402
from broadline.training.dataset import PreparedSet  # noqa: E402
from broadline.training.fit import Progress, TrainingData, fit  # noqa: E402
from broadline.training.objective import Targets, count, inflation  # noqa: E402
from broadline.training.prepare import prepare  # noqa: E402
from broadline.training.presets import PRESETS, Preset  # noqa: E402
from broadline.training.run import train_prepared  # noqa: E402
from broadline.training.simulated import Examples, Simulated  # noqa: E402
from broadline.training.splits import Split, random_splits, read_splits, write_splits  # noqa: E402
from broadline.training.validation import validate  # noqa: E402
from conftest import Answer  # noqa: E402
from files import observed, quasar, room_for, write_spec  # noqa: E402

BATCH = 64
N_LINES = len(QUASARNET_LINES)
LAYERS = (Convolution(8, 10, 4), Convolution(8, 10, 4))
SMALL = QuasarNETConfig(convolutions=LAYERS, hidden=16, hidden_activation="norm-relu")
TINY = Preset("tiny", SMALL, loss="spectrum", epochs=2, batch=BATCH, rate=3e-3)
BOTH = Representation(channels="flux+error")
TINY_OURS = replace(
    PRESETS["broadline"],
    name="tiny-ours",
    network=replace(SMALL, channels=2, sigma=True),
    batch=BATCH,
    averaging=0.9,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these lose by more, and on a busy machine a lot."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been compiled, which takes ten seconds and more a network: here it runs as it is."""
    seen: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: seen.append(options) or function)
    return seen


@pytest.fixture(scope="module")
def library() -> Library:
    return build_library(2000, TRAINING, 1, workers=1)


class Kept(list[Examples]):
    """Batches as training data; number and seed of an epoch decide their order."""

    seed = 0

    def __len__(self) -> int:
        return sum(len(batch.ids) for batch in self)

    def epoch(self, number: int) -> Iterator[Examples]:
        batches = list(self)
        order = np.random.default_rng([self.seed, number]).permutation(len(batches))
        return (batches[i] for i in order)

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        return [f"no. {row}" for row in rows]


def simulated(library: Library, preset: Preset) -> tuple[Kept, list[Examples]]:
    """Some 1,300 spectra to learn from and 640 to be scored on."""
    batches = list(Simulated(library, preset, 3, {"boss": 1.0}).epoch(0))
    return Kept(batches[:-10]), batches[-10:]


@pytest.fixture(scope="module")
def sample(library: Library) -> tuple[Kept, list[Examples]]:
    return simulated(library, TINY)


@pytest.fixture(scope="module")
def ours(library: Library) -> tuple[Kept, list[Examples]]:
    return simulated(library, TINY_OURS)


def train(sample: tuple[TrainingData, Sequence[Examples]], folder: Path, **options: Any) -> Path:
    data, validation = sample
    return fit(options.pop("preset", TINY), data, validation, folder, **{"precision": "fp32"} | options)


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves behind, in a form that compares bit by bit."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    flat: list[bytes] = []

    def walk(item: Any) -> None:
        if isinstance(item, dict):
            for key in sorted(item, key=str):
                flat.append(str(key).encode())
                walk(item[key])
        elif isinstance(item, list | tuple):
            for each in item:
                walk(each)
        else:
            flat.append(item.numpy().tobytes() if isinstance(item, torch.Tensor) else repr(item).encode())

    walk(state)
    files = {name: (folder / name).read_bytes() for name in ("model.onnx", "last.onnx")}
    names = [path.name for path in folder.iterdir() if "tfevents" not in path.name]
    assert sorted(names) == sorted([*files, "checkpoint.pt", "log.csv"])
    return {"state": b"|".join(flat), "log": log_of(folder), **files}


class Killed(BaseException):
    """What no code that is to be killed may catch."""


def dies_at(step: int) -> Callable[[Progress], None]:
    def on_step(state: Progress) -> None:
        if state.step == step and state.scores is None:
            raise Killed

    return on_step


# ---- learning


def test_the_loss_goes_down_on_what_is_learnt_and_on_what_is_not(
    sample: tuple[Kept, list[Examples]], tmp_path: Path, compiled: list[Any]
) -> None:
    steps: list[Progress] = []
    path = train(sample, tmp_path, epochs=3, on_step=steps.append)
    log = log_of(tmp_path)
    for name in ("train_loss", "loss"):
        losses = [float(row[name]) for row in log]
        assert losses == sorted(losses, reverse=True) and losses[-1] < 0.8 * losses[0], name
    assert len(compiled) == 1  # the network, forwards and backwards
    n = len(list(sample[0]))
    assert [state.step for state in steps if state.scores is None] == list(range(1, 3 * n + 1))
    assert {state.n_steps for state in steps} == {3 * n}
    assert [state.scores["loss"] for state in steps if state.scores] == [float(row["loss"]) for row in log]
    card = load_model(path).recipe.card
    assert card["preset"] == "tiny" and card["epochs"] == f"3 of 3 with {len(sample[0]):,} spectra each"


LINE_FINDERS = [name for name, preset in PRESETS.items() if isinstance(preset.network, QuasarNETConfig)]


@pytest.mark.parametrize("name", LINE_FINDERS)
def test_every_preset_trains_from_the_command_line(
    name: str, tmp_path: Path, command: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_HELD_OUT", 256)
    options = ["--in-memory", 256, "--epochs", 1, "--precision", "fp32", "--preset", name]
    answer = command("train", "-o", tmp_path / "run", *options)
    assert (answer.code, answer.out) == (0, f"wrote {tmp_path / 'run' / 'model.onnx'}\n"), answer.err
    assert answer.err.startswith("epoch 1: loss ")
    model = load_model(tmp_path / "run" / "model.onnx")
    assert model.recipe.network == PRESETS[name].network
    assert (model.recipe.calibration is not None) == (name == "broadline")
    write_spec(tmp_path / "spec-4055-55359-0001.fits", *observed(quasar(2.5)))
    table = model.classify(broadline.read(tmp_path / "spec-4055-55359-0001.fits"))
    assert np.isfinite(table["Z"][0]) and table["FLAGS"][0] & UNCLASSIFIED == 0


@pytest.mark.parametrize("name", LINE_FINDERS)
def test_every_preset_is_taught_the_quasars_of_which_inspectors_are_sure(name: str, library: Library) -> None:
    preset = replace(PRESETS[name], batch=BATCH)
    batch = next(Simulated(library, preset, 3).epoch(0))
    emission = torch.tensor([not line.bal for line in QUASARNET_LINES])
    taught = ((batch.targets.box >= 0) & (batch.targets.weight > 0))[:, emission].any(dim=1).numpy()
    sure = np.isfinite(batch.z) & (batch.firm >= 0.5)
    assert sure.sum() > 15 and taught[sure].all()
    assert not taught[~np.isfinite(batch.z)].any()


def test_annotated_redshifts_scatter_as_those_of_inspectors_and_all_else_stays(
    library: Library,
) -> None:
    true, said = (
        list(Simulated(library, TINY, 3, {"boss": 1.0}, like_training=False, annotated=annotated).epoch(0))
        for annotated in (False, True)
    )
    assert all(torch.equal(one.x, other.x) for one, other in zip(true, said, strict=True))
    z, firm = (np.concatenate([getattr(batch, name) for batch in true]) for name in ("z", "firm"))
    told = np.concatenate([batch.z for batch in said])
    np.testing.assert_array_equal(np.isfinite(told), np.isfinite(z))
    rows = (
        np.isfinite(z) & (z > 1) & (firm > 0.05) & (firm < 1)
    )  # of which the firmness tells the significance
    significance = 60 * (firm[rows] / (1 - firm[rows])) ** 0.25
    pull = velocity(told[rows], z[rows]) / visual_scatter(z[rows], significance)
    assert rows.sum() > 300
    assert pull.std() == pytest.approx(1, abs=4 / math.sqrt(2 * rows.sum()))
    assert abs(pull.mean()) < 4 / math.sqrt(rows.sum())


def test_the_loss_of_the_whole_sample_needs_its_counts_and_gets_them_in_memory(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def spy(preset: Preset, data: TrainingData, *_: Any, **options: Any) -> Path:
        given.update(options, data=data)
        return tmp_path

    monkeypatch.setattr(run, "fit", spy)
    monkeypatch.setattr(run, "_HELD_OUT", BATCH)
    monkeypatch.setattr(run, "build_library", lambda n, *_, **__: library)
    run.train_in_memory(replace(TINY, loss="sample"), tmp_path, 2000)
    batches = list(given["data"].epoch(0))
    together = count(joined(batches), SMALL.n_boxes)
    assert given["counts"].n_spectra == together.n_spectra == len(batches) * BATCH
    assert torch.equal(given["counts"].positives, together.positives)
    assert torch.equal(given["counts"].negatives, together.negatives)


def joined(batches: Sequence[Examples]) -> Targets:
    return Targets(*(torch.cat(column) for column in zip(*(batch.targets for batch in batches), strict=True)))


def test_the_weights_that_are_saved_are_the_running_mean(
    ours: tuple[Kept, list[Examples]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[step.Learner] = []

    class Seen(step.Learner):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            runs.append(self)

    monkeypatch.setattr(fitting, "Learner", Seen)
    torch.manual_seed(0)
    initial = QuasarNET(TINY_OURS.network).parameters_by_name()
    mean = {name: value.astype(np.float64) for name, value in initial.items()}

    def follow(state: Progress) -> None:
        if state.scores is None:
            decay = min(TINY_OURS.averaging, state.step / (9 + state.step))
            for name, value in runs[0].network.parameters_by_name().items():
                mean[name] += (1 - decay) * (value - mean[name])

    train(ours, tmp_path, preset=TINY_OURS, epochs=1, on_step=follow)
    saved = parameters_of((tmp_path / "last.onnx").read_bytes())
    last = runs[0].network.parameters_by_name()
    for name, value in mean.items():
        np.testing.assert_allclose(saved[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert np.abs(saved["hidden.weight"] - last["hidden.weight"]).max() > 1e-4


def test_the_best_epoch_is_kept_though_later_ones_are_worse_and_the_run_was_killed(
    sample: tuple[Kept, list[Examples]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([0.5, 0.3, 0.4])
    monkeypatch.setattr(task, "validate", lambda *a: validate(*a) | {"loss": next(losses)})
    with pytest.raises(Killed):
        train(sample, tmp_path, epochs=3, on_step=dies_at(2 * len(list(sample[0])) + 1))
    train(sample, tmp_path, epochs=3)
    cards = [load_model(tmp_path / name).recipe.card for name in ("model.onnx", "last.onnx")]
    assert [card["epochs"][:6] for card in cards] == ["2 of 3", "3 of 3"]
    assert logs.best_scores(tmp_path)["loss"] == 0.3


# ---- validation


def said(c: list[float], box: list[int]) -> Any:
    """A network that says the same of every line: how sure it is, and in which box, at its middle."""
    confidence = torch.full((len(c), N_LINES, 13), -20.0)
    rows = torch.arange(len(c))
    confidence[rows, 0, torch.tensor(box)] = torch.logit(torch.tensor(c))
    outputs = Outputs(confidence, torch.zeros_like(confidence))
    return SimpleNamespace(
        config=SMALL,
        eval=lambda: None,
        parameters=lambda: iter([confidence]),
        logits=lambda x: Outputs(*(part[x[:, 0].long()] for part in outputs[:2])),
    )


def test_validation_counts_by_hand() -> None:
    grid = TINY.representation.grid
    lya = QUASARNET_LINES[0].wavelength
    z_box = [float(grid.wavelength(np.array((box + 0.5) * grid.size / 13)) / lya - 1) for box in range(13)]
    # Right; wrong redshift; not found; a star found; a star not found; found but in doubt.
    c, box = [0.9, 0.8, 0.3, 0.7, 0.1, 0.9], [3, 3, 3, 5, 5, 2]
    z = np.array([z_box[3], z_box[4], z_box[3], np.nan, np.nan, z_box[2]])
    firm = np.array([1.0, 1, 1, 1, 1, 0.2])
    x = torch.arange(6.0)[:, None]
    empty = Targets(torch.zeros(6, N_LINES), torch.zeros(6, N_LINES), torch.ones(6, N_LINES))
    parts = [slice(0, 4), slice(4, 6)]
    examples = [
        Examples(x[p], Targets(*(t[p] for t in empty)), z[p], firm[p], np.zeros(6)[p], np.arange(6)[p])
        for p in parts
    ]
    losses = iter([torch.tensor(1.0), torch.tensor(3.0)])
    scores = validate(said(c, box), examples, lambda *_: next(losses), grid)
    assert scores["loss"] == 2
    assert scores["purity"] == pytest.approx(1 / 3)
    assert scores["completeness"] == pytest.approx(1 / 3)
    assert scores["others_called"] == 0.5
    assert scores["catastrophic"] == pytest.approx(1 / 3)
    assert scores["std"] == scores["nmad"] == pytest.approx(0, abs=1e-3)


def test_scores_without_any_right_redshift_have_no_spread() -> None:
    examples = Examples(torch.zeros(1, 1), *([None] * 5))._replace(  # type: ignore[arg-type]
        targets=Targets(*[torch.zeros(1, N_LINES)] * 3), z=np.array([np.nan]), firm=np.ones(1)
    )
    scores = validate(said([0.1], [0]), [examples], lambda *_: torch.tensor(1.0), TINY.representation.grid)
    assert (scores["purity"], scores["completeness"]) == (0, 0) and math.isnan(scores["std"])


def test_networks_with_errors_are_scored_by_the_probabilities_that_their_models_will_tell() -> None:
    star = Examples(torch.zeros(1, 1), *([None] * 5))._replace(  # type: ignore[arg-type]
        targets=Targets(*[torch.zeros(1, N_LINES)] * 3), z=np.array([np.nan]), firm=np.ones(1)
    )
    grid, cost = TINY.representation.grid, lambda *_: torch.tensor(1.0)
    assert validate(said([0.6], [0]), [star], cost, grid)["others_called"] == 1
    taken_off = inflation(TINY.network)
    assert 0.6 / (0.6 + 0.4 * TINY.network.n_boxes) < 0.4
    assert validate(said([0.6], [0]), [star], cost, grid, taken_off)["others_called"] == 0


# ---- the same again


def test_a_seed_decides_every_bit(sample: tuple[Kept, list[Examples]], tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(sample, tmp_path / name, epochs=1, seed=seed)
    a, b, c = (outcome(tmp_path / name) for name in "abc")
    assert a == b
    first, other = (parameters_of(each["model.onnx"])["hidden.weight"] for each in (a, c))
    assert np.abs(first - other).max() > 0.01


@pytest.fixture(scope="module")
def undisturbed(
    ours: tuple[Kept, list[Examples]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Two epochs of a network with averages, a schedule and error heads."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **_: function)
        train(ours, folder, preset=TINY_OURS, epochs=2)
    return outcome(folder)


@pytest.mark.parametrize("extra", [-5, 1, 7, 21], ids=lambda k: f"step {k} of epoch 2")
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    extra: int, ours: tuple[Kept, list[Examples]], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    n = len(list(ours[0]))
    assert n == 21
    with pytest.raises(Killed):
        train(ours, tmp_path, preset=TINY_OURS, epochs=2, on_step=dies_at(n + extra))
    assert (tmp_path / "checkpoint.pt").exists() == (extra > 0)
    steps: list[int] = []
    train(ours, tmp_path, preset=TINY_OURS, epochs=2, on_step=lambda state: steps.append(state.step))
    assert steps[0] == (n + 1 if extra > 0 else 1)
    assert outcome(tmp_path) == undisturbed
    train(ours, tmp_path, preset=TINY_OURS, epochs=2, on_step=dies_at(0))  # nothing is left to do
    assert outcome(tmp_path) == undisturbed


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_killed_between_its_model_and_its_checkpoint_goes_on_to_the_same_bits(
    epoch: int,
    ours: tuple[Kept, list[Examples]],
    undisturbed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved = []

    def die(*_: Any) -> None:
        saved.append(1)
        if len(saved) == epoch:
            raise Killed
        real(*_)

    real = torch.save
    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(Killed):
        train(ours, tmp_path, preset=TINY_OURS, epochs=2)
    assert len(log_of(tmp_path)) == epoch
    monkeypatch.setattr(torch, "save", real)
    train(ours, tmp_path, preset=TINY_OURS, epochs=2)
    assert outcome(tmp_path) == undisturbed


# ---- what may befall a run


def begun(ours: tuple[Kept, list[Examples]], folder: Path) -> dict[str, bytes]:
    """Train for one epoch of two; return the files."""
    with pytest.raises(Killed):
        train(ours, folder, preset=TINY_OURS, epochs=2, on_step=dies_at(22))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Spoilt(Kept):
    """The same, with a pixel that is no number in the fourth batch of the second epoch."""

    def epoch(self, number: int) -> Iterator[Examples]:
        for i, batch in enumerate(super().epoch(number)):
            x = batch.x.clone()
            if (number, i) == (1, 3):
                x[5, ..., 7] = math.nan
            yield batch._replace(x=x)


def test_a_loss_that_is_no_number_names_the_spectrum_and_leaves_the_checkpoint(
    ours: tuple[Kept, list[Examples]], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    row = list(ours[0].epoch(1))[3].ids[5]
    spoilt = (Spoilt(ours[0]), ours[1])
    files = begun(ours, tmp_path)
    with pytest.raises(UsageError, match=rf"loss is nan at step 24 of epoch 1, on no. {row}; the check"):
        train(spoilt, tmp_path, preset=TINY_OURS, epochs=2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    train(ours, tmp_path, preset=TINY_OURS, epochs=2)
    assert outcome(tmp_path) == undisturbed


def test_a_loss_on_validation_that_is_no_number_saves_nothing(
    ours: tuple[Kept, list[Examples]], tmp_path: Path
) -> None:
    files = begun(ours, tmp_path)
    broken = [batch._replace(x=batch.x * math.nan) for batch in ours[1]]
    with pytest.raises(UsageError, match="loss on validation is nan after epoch 1"):
        train((ours[0], broken), tmp_path, preset=TINY_OURS, epochs=2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("victim", ["last.onnx", "checkpoint.pt"])
def test_a_disk_that_fills_up_while_saving_leaves_the_previous_checkpoint(
    victim: str, ours: tuple[Kept, list[Examples]], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    files = begun(ours, tmp_path)
    assert len(files["checkpoint.pt"]) > len(files["last.onnx"])  # so that the disk can be full for one alone
    with (
        room_for(len(files[victim]) - 1),
        pytest.raises(UsageError, match=r"cannot write into .*the last checkpoint is intact"),
    ):
        train(ours, tmp_path, preset=TINY_OURS, epochs=2)
    assert {path.name for path in tmp_path.iterdir()} == set(files)
    assert (tmp_path / "checkpoint.pt").read_bytes() == files["checkpoint.pt"]
    train(ours, tmp_path, preset=TINY_OURS, epochs=2)
    assert outcome(tmp_path) == undisturbed


OTHERS: dict[str, dict[str, Any]] = {
    "preset": {"preset": replace(TINY_OURS, rate=1e-3)},
    "preset, epochs": {"preset": replace(TINY_OURS, network=replace(SMALL, channels=2)), "epochs": 3},
    "seed": {"seed": 1},
    "precision": {"precision": "bf16"},
    "fingerprint": {"fingerprint": "of other data"},
}


@pytest.fixture(scope="module")
def first_epoch(
    ours: tuple[Kept, list[Examples]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **_: function)
        return begun(ours, tmp_path_factory.mktemp("begun"))


def unpack(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("different", OTHERS)
def test_a_checkpoint_of_another_run_is_refused_by_what_differs(
    different: str, ours: tuple[Kept, list[Examples]], first_epoch: dict[str, bytes], tmp_path: Path
) -> None:
    unpack(first_epoch, tmp_path)
    options = {"preset": TINY_OURS, "epochs": 2} | OTHERS[different]
    with pytest.raises(UsageError, match=rf"is of another run \(not the same: {different}\); give a new"):
        train(ours, tmp_path, **options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first_epoch


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("evil"),)


def saved(state: object) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def without(name: str) -> Callable[[bytes], bytes]:
    def harm(content: bytes) -> bytes:
        state = torch.load(io.BytesIO(content), weights_only=True)
        del state[name]
        return saved(state)

    return harm


def other_shape(content: bytes) -> bytes:
    state = torch.load(io.BytesIO(content), weights_only=True)
    state["network"]["hidden.weight"] = torch.zeros(3, 3)
    return saved(state)


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "text": lambda _: b"not a checkpoint",
    "a list": lambda _: saved([1, 2]),
    "code": lambda _: pickle.dumps(_Evil(), protocol=2),
    "torch's code": lambda _: saved({"request": _Evil()}),
    "no network": without("network"),
    "no request": without("request"),
    "no epoch": without("epoch"),
    "other shape": other_shape,
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_checkpoint_is_one_clear_error(
    harm: str,
    ours: tuple[Kept, list[Examples]],
    first_epoch: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    files = first_epoch | {"checkpoint.pt": HARMS[harm](first_epoch["checkpoint.pt"])}
    unpack(files, tmp_path)
    with pytest.raises(UsageError, match=r"checkpoint\.pt is damaged \(.*remove it to start anew") as caught:
        train(ours, tmp_path, preset=TINY_OURS, epochs=2)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_less_data_than_a_batch_is_refused_before_anything_is_written(
    sample: tuple[Kept, list[Examples]], tmp_path: Path, command: Callable[..., Answer]
) -> None:
    few = Kept([])
    with pytest.raises(UsageError, match="0 spectra are less than a batch of 64: give more"):
        train((few, sample[1]), tmp_path / "run")
    answer = command("train", "--in-memory", 255, "-o", tmp_path / "run")
    assert (answer.code, answer.err) == (
        2,
        "broadline: 255 spectra are less than a batch of 256: give more\n",
    )
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_a_file_is_an_error(sample: tuple[Kept, list[Examples]], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"cannot write into .*thesis\.tex"):
        train(sample, tmp_path / "thesis.tex")


# ---- training on a prepared set


def write_set(folder: Path, batches: Sequence[Examples], representation: Representation) -> Path:
    """A prepared set of simulated spectra, two in a row of the same object."""
    folder.mkdir()
    x = np.concatenate([np.asarray(batch.x).reshape(len(batch.ids), -1)[:, :443] for batch in batches])
    z = np.concatenate([batch.z for batch in batches])
    n = len(z)
    names = {
        "PLATE": np.full(n, 4055),
        "MJD": 55000 + np.arange(n) // 1000,
        "FIBERID": 1 + np.arange(n) % 1000,
    }
    image = np.concatenate([x, np.ones_like(x)], axis=1)
    ids = Table({"TARGETID": np.arange(n)} | names)
    fits.HDUList([fits.PrimaryHDU(image), fits.BinTableHDU(ids)]).writeto(folder / "data.fits")
    is_quasar = np.isfinite(z)
    truth = names | {
        "THING_ID": np.arange(n) // 2 + 1,
        "Z_VI": np.where(is_quasar, z, 0),
        "CLASS_PERSON": np.where(is_quasar, 3, 1),
        "Z_CONF_PERSON": np.full(n, 3),
    }
    Table(truth).write(folder / "truth.fits")
    prepare([folder / "data.fits"], folder / "truth.fits", folder / "set", representation, workers=1)
    return folder / "set"


@pytest.fixture(scope="module")
def prepared(sample: tuple[Kept, list[Examples]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("prepared") / "flux", list(sample[0]), TINY.representation)


@pytest.fixture
def tiny_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"tiny": replace(TINY, loss="sample", epochs=1), "tiny-ours": TINY_OURS}
    monkeypatch.setattr(presets, "PRESETS", known)


def test_so_many_splits_are_so_many_models_and_a_table_of_their_scores(
    prepared: Path, tmp_path: Path, command: Callable[..., Answer], tiny_presets: None
) -> None:
    options = ["--preset", "tiny", "--precision", "fp32", "--splits", 3]
    answer = command("train", prepared, "-o", tmp_path, *options)
    assert answer.code == 0, answer.err
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert [path.name for path in folders] == ["split-00", "split-01", "split-02"]
    header, *rows = (line.split() for line in answer.out.splitlines())
    assert [row[0] for row in rows] == ["split-00", "split-01", "split-02", "mean", "rms"]
    for i, name in enumerate(header, start=1):
        values = [float(log_of(folder)[0][name]) for folder in folders]
        written = [float(row[i]) for row in rows]
        mean = sum(values) / 3
        rms = math.sqrt(sum((value - mean) ** 2 for value in values) / 3)
        assert written == pytest.approx([*values, mean, rms], rel=1e-3, abs=1e-5, nan_ok=True), name
        assert name != "loss" or rms > 0
    whole = PreparedSet(prepared, TINY)
    parts = read_splits(tmp_path / "splits.parquet", whole.columns["OBJECT"])
    for part, wanted in zip(parts, random_splits(whole.columns["OBJECT"], 3), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(part, wanted, strict=True))
    for i, folder in enumerate(folders):
        card = load_model(folder / "model.onnx").recipe.card
        assert card["trained_on"] == f"set (SHA-256 {whole.sha256}), split {i} of 3 (seed 0)"
        assert card["epochs"] == f"1 of 1 with {len(parts[i].training):,} spectra each"
    times = [path.stat().st_mtime_ns for path in tmp_path.rglob("*.onnx")]
    again = command("train", prepared, "-o", tmp_path, *options)
    assert again.out == answer.out  # all are finished: nothing is learnt again
    assert [path.stat().st_mtime_ns for path in tmp_path.rglob("*.onnx")] == times


def test_a_file_of_splits_repeats_a_run_bit_for_bit(
    prepared: Path, tmp_path: Path, command: Callable[..., Answer], tiny_presets: None
) -> None:
    common = ["train", prepared, "--preset", "tiny", "--precision", "fp32", "--seed", 4]
    one = command(*common, "-o", tmp_path / "one")
    assert one.out == f"wrote {tmp_path / 'one' / 'model.onnx'}\n", one.err
    two = command(*common, "-o", tmp_path / "two", "--split", tmp_path / "one" / "splits.parquet")
    assert two.code == 0, two.err
    first, second = (load_model(tmp_path / name / "model.onnx") for name in ("one", "two"))
    for name, value in parameters_of(first.content).items():
        assert np.array_equal(value, parameters_of(second.content)[name])
    assert "(splits.parquet)" in second.recipe.card["trained_on"]


def test_what_is_learnt_from_is_never_scored_on_and_counts_are_those_of_its_part(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def spy(
        preset: Preset, data: PreparedSet, validation: list[Examples], folder: Path, **options: Any
    ) -> Path:
        calls.append(options | {"data": data, "validation": validation})
        return fit(preset, data, validation, folder, **options)

    monkeypatch.setattr(run, "fit", spy)
    preset = replace(TINY, loss="sample", epochs=1)
    train_prepared(preset, tmp_path, prepared, splits=2, seed=8, precision="fp32")
    assert [call["seed"] for call in calls] == [call["data"].seed for call in calls] == [8, 9]
    assert len({call["fingerprint"] for call in calls}) == 2
    for call in calls:
        learnt, scored = call["data"].rows, np.concatenate([batch.ids for batch in call["validation"]])
        assert not set(learnt // 2) & set(scored // 2)  # two rows an object
        assert len(learnt) == pytest.approx(0.8 * len(call["data"].columns["Z"]), abs=1)
        together = count(joined(list(call["data"].ordered())), SMALL.n_boxes)
        assert call["counts"].n_spectra == len(learnt)
        assert torch.allclose(call["counts"].positives, together.positives)


def test_a_network_that_tells_errors_is_calibrated_on_the_validation_part(
    ours: tuple[Kept, list[Examples]], tmp_path: Path
) -> None:
    folder = write_set(tmp_path / "both", list(ours[0]), BOTH)
    preset = replace(TINY_OURS, epochs=1)
    (trained,) = train_prepared(preset, tmp_path / "run", folder, precision="fp32")
    model = load_model(trained.path)
    calibration = model.recipe.calibration
    n = len(
        read_splits(tmp_path / "run" / "splits.parquet", PreparedSet(folder, preset).columns["OBJECT"])[0][1]
    )
    assert calibration is not None and calibration.fitted_on == f"the {n} validation spectra"
    assert model.recipe.card["calibrated_on"] == calibration.fitted_on
    assert calibration.bal == (0, 0, 0)  # the truth says nothing of absorption
    assert trained.scores["loss"] == float(log_of(tmp_path / "run")[0]["loss"])
    content = trained.path.read_bytes()
    train_prepared(preset, tmp_path / "run", folder, precision="fp32")
    assert trained.path.read_bytes() == content  # a network is calibrated once


def test_a_set_for_another_representation_is_refused_by_name(
    prepared: Path, tmp_path: Path, command: Callable[..., Answer]
) -> None:
    answer = command("train", prepared, "-o", tmp_path / "run", "--preset", "broadline")
    assert answer.code == 2
    assert "was made for another representation than that of preset broadline" in answer.err
    assert "channels 'flux' instead of 'flux+error'" in answer.err and answer.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_another_split_in_the_same_folder_is_refused(prepared: Path, tmp_path: Path) -> None:
    train_prepared(replace(TINY, epochs=1), tmp_path, prepared, precision="fp32")
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    objects = PreparedSet(prepared, TINY).columns["OBJECT"]
    (split,) = random_splits(objects, 1)
    other = tmp_path.parent / f"{tmp_path.name}.parquet"
    write_splits(other, [Split(split.training, split.validation[1:])], objects)
    with pytest.raises(UsageError, match=r"is of another run \(not the same: fingerprint\)"):
        train_prepared(replace(TINY, epochs=1), tmp_path, prepared, splits=other, precision="fp32")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


IMPOSSIBLE: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "give a prepared SET to train on, or --in-memory N: one of the two"),
    "both": (
        ["SET", "--in-memory", "9"],
        "give a prepared SET to train on, or --in-memory N: one of the two",
    ),
    "two splits": (["SET", "--splits", "3", "--split", "FILE"], "not both"),
    "splits of none": (["--in-memory", "9", "--splits", "3"], "divide a prepared SET"),
    "templates": (["SET", "--templates", "."], "--templates is for --in-memory"),
    "no templates": (["--in-memory", "9", "--templates", "NONE"], "no templates folder NONE"),
    "no preset": (["SET", "--preset", "papre"], "no preset 'papre'; there are paper, paper-code, broadline"),
    "no set": (["NONE"], "NONE is no training set: it has no manifest.json"),
    "no splits": (["SET", "--preset", "paper", "--split", "NONE"], "NONE cannot be read as a file of splits"),
    "few": (["SET", "--preset", "paper", "--split", "FEW"], "100 spectra are less than a batch of 256: give"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_request_that_cannot_be_carried_out_is_one_clear_error(
    case: str, prepared: Path, tmp_path: Path, command: Callable[..., Answer]
) -> None:
    objects = PreparedSet(prepared, TINY).columns["OBJECT"]
    few = tmp_path / "few.parquet"
    write_splits(few, [Split(np.arange(100), np.arange(100, 200))], objects)
    names = {"SET": prepared, "FEW": few, "FILE": few}
    arguments, message = IMPOSSIBLE[case]
    answer = command("train", *(names.get(each, each) for each in arguments), "-o", tmp_path / "run")
    assert answer.code == 2 and message in answer.err and answer.err.count("\n") == 1, answer.err
    assert answer.err.startswith("broadline: ")
    assert not (tmp_path / "run").exists()


def test_a_model_that_was_trained_is_a_model_like_any_other(prepared: Path, tmp_path: Path) -> None:
    (trained,) = train_prepared(replace(TINY, epochs=1), tmp_path, prepared, precision="fp32")
    model = Model(trained.path.read_bytes())
    network = QuasarNET.from_parameters(SMALL, parameters_of(model.content)).eval()
    batch = next(PreparedSet(prepared, TINY).ordered())
    with torch.no_grad():
        confidence = network(batch.x).confidence.amax(dim=2).numpy()
    np.testing.assert_allclose(model.predict(batch.x.numpy()).c, confidence, atol=1e-5)
