"""Learning from verdicts: it mends what was wrong, forgets nothing or is not let go, and says what it did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
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

from broadline.decision import CONFLICT_KMS, Rule, velocity  # noqa: E402
from broadline.errors import UsageError  # noqa: E402
from broadline.lines import LINES, QUASARNET_LINES  # noqa: E402
from broadline.model import Model, save_model  # noqa: E402
from broadline.named_models import load_model  # noqa: E402
from broadline.networks.graph import parameters_of  # noqa: E402
from broadline.networks.quasarnet import QuasarNET  # noqa: E402
from broadline.networks.vgg import ConvNetConfig  # noqa: E402
from broadline.recipe import Recipe  # noqa: E402
from broadline.simulation.library import TRAINING, build_library  # noqa: E402
from broadline.simulation.stream import Library  # noqa: E402
from broadline.spectra import Spectra  # noqa: E402
from broadline.training import fit as fitting  # noqa: E402
from broadline.training import presets, rehearsal, tune  # noqa: E402
from broadline.training.dataset import PreparedSet  # noqa: E402
from broadline.training.prepare import prepare  # noqa: E402
from broadline.training.run import train_prepared  # noqa: E402
from broadline.training.simulated import Examples  # noqa: E402
from broadline.training.splits import Sizes, read_splits  # noqa: E402
from broadline.truth import QSO  # noqa: E402
from conftest import Answer  # noqa: E402
from keras_file import write_keras  # noqa: E402
from test_training import (  # noqa: E402
    SMALL,
    TINY,
    TINY_OURS,
    Killed,
    compiled,
    one_thread,
)

__all__ = ["compiled", "one_thread"]  # fixtures of every test

PRESET = replace(TINY_OURS, name="tiny", rate=5e-3, epochs=10)
GRID = PRESET.representation.grid
Array = NDArray[Any]


@pytest.fixture(scope="module", autouse=True)
def tiny_presets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        known = {"tiny": PRESET, "no-errors": TINY}
        patch.setattr(presets, "PRESETS", known)
        patch.setattr(tune, "PRESETS", known)
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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs so short that hardly anything is learnt."""
    monkeypatch.setattr(tune, "SHORTEST", 1)


def gains(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "gain.json").read_text())
    return found


def right(model: Model, kind: str, seed: int) -> float:
    """The share of 300 new spectra of a kind that a model has right."""
    z = np.random.default_rng(seed).uniform(1.5, 4, 300)
    flux = spectra(np.full(300, kind), z, seed).astype(np.float32)
    wave = GRID.centres
    ids, flags = {"OBJID": np.arange(300).astype(str)}, np.zeros(300, dtype=np.uint32)
    seen = Spectra(wave, flux, np.ones_like(flux), ids, flags)
    _, verdict = model.judge(model.representation(seen).values)
    if kind != "QSO":
        return float(np.mean(~verdict.is_qso))
    return float(np.mean(verdict.is_qso & (np.abs(velocity(verdict.z, z)) < CONFLICT_KMS)))


# ---- what is learnt


def test_a_systematic_error_is_mended_and_nothing_is_forgotten(
    world: World, learn: Learn, tmp_path: Path
) -> None:
    verdicts = world.ruled(tmp_path / "verdicts.csv")
    answer = learn(verdicts, tmp_path / "out")
    assert answer.code == 0, answer.out + answer.err
    start, model = world.model(), load_model(tmp_path / "out" / "model.onnx")
    assert (tmp_path / "out" / "candidate.onnx").read_bytes() == model.content
    assert right(start, "FALSE", 7) < 0.3 and right(model, "FALSE", 7) > 0.8
    for kind in ("QSO", "STAR"):
        assert right(model, kind, 8) > right(start, kind, 8) - 0.02 > 0.9, kind
    found = gains(tmp_path / "out")
    assert found["shipped"] and not found["worse"]
    held_out = found["gains"]["held-out verdicts"]
    assert held_out["n"] == 120
    assert held_out["before"]["purity"]["value"] < 0.6 < 0.85 < held_out["after"]["purity"]["value"]
    assert held_out["tests"]["others"]["p_value"] < 1e-6 and held_out["tests"]["purity"]["low"] > 0.2
    assert found["gains"]["reference"]["n"] > 600
    assert "held-out verdicts: 120 spectra" in answer.out and answer.out.endswith(
        f"wrote {tmp_path / 'out' / 'model.onnx'}\n"
    )


def test_the_card_says_what_was_learnt_from_and_on_top_of_what(
    world: World, learn: Learn, tmp_path: Path, quick: None
) -> None:
    verdicts, few = world.ruled(tmp_path / "verdicts.csv"), np.arange(30)
    assert learn(verdicts, tmp_path / "out", *world.rehearsed(), "--epochs", 1).code in (0, 1)
    digest = hashlib.sha256(verdicts.read_bytes()).hexdigest()
    model = load_model(tmp_path / "out" / "candidate.onnx")
    card = model.recipe.card
    assert card["learnt_from"].startswith(
        f"verdicts.csv (SHA-256 {digest}): 390 firm verdicts learnt from, 90 to stop and calibrate, "
        "120 held out, 0 of a control sample; rehearsed: "
    )
    sha256 = PreparedSet(world.set, PRESET).sha256
    assert card["learnt_from"].endswith(f"spectra of set (SHA-256 {sha256})")
    assert card["started_from"] == f"tiny (SHA-256 {world.model().sha256})"
    assert card["trained_on"] == world.model().recipe.card["trained_on"]
    again = world.ruled(tmp_path / "more.csv", few)
    options = [*world.rehearsed(), "--epochs", 1, "--model", tmp_path / "out" / "candidate.onnx"]
    assert learn(again, tmp_path / "again", *options).code in (0, 1)
    card = load_model(tmp_path / "again" / "candidate.onnx").recipe.card
    assert card["started_from"] == f"tiny (SHA-256 {model.sha256})"
    assert (
        card["learnt_from"].startswith("more.csv")
        and f"before that verdicts.csv (SHA-256 {digest})" in (card["learnt_from"])
    )


class NothingKept(rehearsal.Mixed):
    """Verdicts without rehearsal."""

    def epoch(self, number: int) -> Iterator[Any]:  # type: ignore[override]
        yield from self.new.epoch(number)


def test_without_rehearsal_it_forgets_and_is_not_let_go(
    world: World, learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the quasars of this survey none is distant, and what looks like distant ones are stars.
    far = world.verdicts["Z"] > 2.7
    kind, z = np.where(far, "STAR", world.verdicts["CLASS"]), np.where(far, 0, world.verdicts["Z"])
    verdicts = world.ruled(tmp_path / "verdicts.csv", CLASS=kind, Z=z)
    monkeypatch.setattr(tune, "RATE", 1.0)
    monkeypatch.setattr(tune, "Mixed", NothingKept)
    monkeypatch.setattr(rehearsal.FromSet, "stopping", lambda *_: [])
    answer = learn(verdicts, tmp_path / "out", *world.rehearsed(), "--epochs", 4)
    assert answer.code == 1
    found = gains(tmp_path / "out")
    assert not found["shipped"] and not (tmp_path / "out" / "model.onnx").exists()
    assert (tmp_path / "out" / "candidate.onnx").exists()
    assert "quasars found" in found["worse"]
    assert {"completeness at 3.0 <= z < 3.5", "completeness at 3.5 <= z < 4.0"} & set(found["worse"])
    assert "not shipped, for it got worse (of 32 places, level 5 % in all):\n" in answer.out
    assert "\n  quasars found: " in answer.out
    assert answer.err.splitlines()[-1].endswith("model tiny is the better one")


def test_an_epoch_goes_through_the_verdicts_twice_or_a_quarter_of_each_batch_is_verdicts(
    world: World, tmp_path: Path
) -> None:
    kept = rehearsal.FromSet(PreparedSet(world.set, PRESET))
    whole = PreparedSet(world.set, PRESET)
    for n, n_new, n_batches in ((10, 1, 30), (45, 3, 30), (200, 14, 30), (1500, 16, 93)):
        mixed = rehearsal.Mixed(whole.subset(np.arange(n)), kept, 64, 30)
        batches = list(mixed.epoch(3))
        assert len(batches) == n_batches and len(mixed) == 64 * n_batches
        for batch in batches:
            new = batch.ids[batch.ids >= 0]
            assert len(batch.ids) == len(batch.x) == 64 and len(np.unique(new)) == n_new
            assert np.isin(new, np.arange(n)).all() and np.isin(~batch.ids[n_new:], kept.learnt).all()
        seen = np.concatenate([batch.ids for batch in batches])
        visits = np.bincount(seen[seen >= 0], minlength=n)
        assert visits.max() <= max(3, 30 / n) and np.mean(visits > 0) > 0.95, n
    names = mixed.names(np.array([5, ~7, 6]))
    assert names == [*whole.names(np.array([5, 6])), *whole.names(np.array([7]))]


def test_training_goes_on_from_the_confidences_that_the_loss_made(
    world: World, learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not from the probabilities that calibration made of them, which the loss would have to undo."""
    start = world.model()
    assert start.recipe.calibration
    monkeypatch.setattr(tune, "RATE", 0.0)
    learn(world.ruled(tmp_path / "v.csv"), tmp_path / "out", *world.rehearsed(), "--epochs", 1)
    last, candidate = (
        parameters_of((tmp_path / "out" / name).read_bytes())["confidence.bias"]
        for name in ("tuning/last.onnx", "candidate.onnx")
    )
    before = parameters_of(start.content)["confidence.bias"]
    emission = np.repeat([not line.bal for line in QUASARNET_LINES], SMALL.n_boxes)
    np.testing.assert_allclose(candidate, before, rtol=0, atol=1e-6)
    np.testing.assert_allclose((last - before)[emission], np.log(SMALL.n_boxes), rtol=1e-6)
    np.testing.assert_array_equal(last[~emission], before[~emission])


# ---- which verdicts


def opened(world: World, folder: Path, rows: Array | None = None, **columns: Any) -> PreparedSet:
    path = world.ruled(folder / "verdicts.csv", rows, **columns)
    prepare([world.survey], path, folder / "set", PRESET.representation, workers=1)
    return tune.open_verdicts(folder / "set", PRESET)


def test_objects_are_in_one_part_each_and_of_both_classes_some_are_learnt(
    world: World, tmp_path: Path
) -> None:
    things = 1 + np.arange(600) // 3
    kind = np.where(np.arange(600) < 12, "QSO", "STAR")  # few quasars
    whole = opened(world, tmp_path, CLASS=kind, Z=np.where(kind == "QSO", 2, 0), THING_ID=things)
    parts = tune.divided(whole, seed=4)
    assert sorted(np.concatenate(parts)) == list(range(600))
    objects = [set(whole.columns["OBJECT"][rows]) for rows in parts]
    assert not set.union(*objects[:1]) & set.union(*objects[1:]) and not objects[1] & objects[2]
    assert len(parts.stopping) == pytest.approx(90, abs=6) and len(parts.test) == pytest.approx(120, abs=6)
    for rows in (parts.learnt, parts.stopping, parts.test):
        assert 0 < (whole.columns["CLASS"][rows] == QSO).sum() < len(rows)


def test_a_control_sample_is_compared_on_and_never_learnt_from(
    world: World, learn: Learn, tmp_path: Path, quick: None
) -> None:
    queue = np.where(np.arange(600) % 10 == 0, "Control", "single_line")
    things = 1 + np.arange(600) // 2
    whole = opened(world, tmp_path, QUEUE=queue, THING_ID=things)
    parts = tune.divided(whole)
    assert parts.control.tolist() == list(range(0, 600, 10))
    others = np.concatenate(parts[:3])
    assert sorted(others) == [i for i in range(600) if i % 10 > 1]  # nor are other visits to these objects
    learn(tmp_path / "verdicts.csv", tmp_path / "out", *world.rehearsed(), "--epochs", 1)
    found = gains(tmp_path / "out")["gains"]
    assert found["control sample"]["n"] == 60
    before = found["control sample"]["before"]["purity"]
    called = 60 - np.sum(world.verdicts["CLASS"][::10] == "STAR") + world.false[::10].sum()
    assert before["n"] == pytest.approx(called, abs=4)  # the start calls all that look like quasars
    assert before["k"] / before["n"] == pytest.approx(1 - world.false[::10].sum() / called, abs=0.1)


def test_verdicts_that_are_not_firm_are_left_out(world: World, tmp_path: Path) -> None:
    confidence = np.arange(600) % 4
    whole = opened(world, tmp_path, Z_CONF=confidence)
    assert whole.rows.tolist() == np.flatnonzero(confidence == 3).tolist()


def test_a_tag_of_broad_absorption_teaches_where_it_agrees_with_a_measured_balnicity(
    world: World, tmp_path: Path
) -> None:
    flag, index = np.arange(600) % 3 - 1, np.where(np.arange(600) % 2, 0.0, 900.0)
    for name, measured in (("alone", {}), ("measured", {"BI_CIV": index})):
        (tmp_path / name).mkdir()
        whole = opened(world, tmp_path / name, BAL_FLAG=flag, **measured)
        labels = np.concatenate([batch.bal for batch in whole.ordered()])
        agreed = np.where((flag >= 0) & (flag == (index > 0)), flag, -1)
        np.testing.assert_array_equal(labels, agreed if measured else -1)


# ---- calibration


def test_it_is_calibrated_on_held_out_verdicts_too_if_there_are_enough_of_them(
    world: World, learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    start, options = world.model().recipe, [*world.rehearsed(), "--epochs", 1]
    assert start.calibration
    verdicts = world.ruled(tmp_path / "verdicts.csv")
    seen: list[int] = []
    real = tune.findings
    monkeypatch.setattr(tune, "findings", lambda model, examples: real(model, noted(examples, seen)))

    def recipe(name: str) -> Recipe:
        seen.clear()
        answer = learn(verdicts, tmp_path / name, *options)
        found = load_model(tmp_path / name / "candidate.onnx").recipe
        assert found.calibration and found.card["calibrated_on"] in answer.out
        return found

    few = recipe("few")
    on = "360 rehearsed spectra, as 90 held-out verdicts are too few"
    assert few.calibration and few.calibration.fitted_on == on
    assert len(seen) == 3 * 360 and seen[:360] == seen[360:720] == seen[720:]  # then both, for thresholds
    assert (
        few.card["calibrated_on"]
        == f"calibrated on {on}: c_th {few.rule.c_th:g}, of BAL {few.rule.c_th_bal:g}"
    )
    monkeypatch.setattr(tune, "ENOUGH", 90)
    monkeypatch.setattr(tune, "ENOUGH_OF_A_KIND", 30)
    enough = recipe("enough")
    on = "90 held-out verdicts and 90 rehearsed spectra"
    assert enough.calibration and enough.calibration.fitted_on == on and len(seen) == 90 + 90 + 2 * 360
    whole = tune.open_verdicts(tmp_path / "enough" / "set", PRESET)
    assert seen[:90] == tune.divided(whole).stopping.tolist()
    assert enough.calibration.qso != few.calibration.qso != start.calibration.qso
    known = PreparedSet(world.set, PRESET)
    split = read_splits(world.split, known.columns["OBJECT"])[0]
    rehearsed = list(rehearsal.FromSet(known, split).calibrating())
    called = [
        real(model, rehearsed).c.max(axis=1) > model.rule.c_th
        for model in (world.model(), load_model(tmp_path / "enough" / "candidate.onnx"))
    ]
    assert abs(int(called[1].sum()) - int(called[0].sum())) <= 3  # thresholds have three digits
    monkeypatch.setattr(tune, "ENOUGH", 1000)
    none = recipe("none")
    assert (none.calibration, none.rule) == (start.calibration, start.rule)
    assert none.card["calibrated_on"] == "calibrated as the start: 360 held-out spectra are too few"


def noted(examples: Iterable[Examples], seen: list[int]) -> Iterator[Examples]:
    for batch in examples:
        seen.extend(batch.ids.tolist())
        yield batch


# ---- going on


def test_a_killed_run_goes_on_to_the_same_model_and_a_finished_one_says_it_again(
    world: World, learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    verdicts, options = world.ruled(tmp_path / "verdicts.csv"), [*world.rehearsed(), "--epochs", 3]
    whole = learn(verdicts, tmp_path / "whole", *options)
    real, times = fitting.save_checkpoint, []

    def die(*arguments: Any) -> None:
        real(*arguments)
        times.append(1)
        if len(times) == 2:
            raise Killed

    monkeypatch.setattr(fitting, "save_checkpoint", die)
    with pytest.raises(Killed):
        learn(verdicts, tmp_path / "killed", *options)
    assert not (tmp_path / "killed" / "candidate.onnx").exists()
    again = learn(verdicts, tmp_path / "killed", *options)
    assert len(times) == 3  # one epoch was left
    for name in ("candidate.onnx", "gain.txt", "gain.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert again.code == whole.code
    monkeypatch.setattr(tune, "fit", None)
    last = learn(verdicts, tmp_path / "killed", *options)
    assert (last.code, last.out) == (again.code, again.out)


def test_a_folder_that_holds_something_else_is_left_alone(world: World, learn: Learn, tmp_path: Path) -> None:
    verdicts = world.ruled(tmp_path / "verdicts.csv")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    answer = learn(verdicts, tmp_path / "full")
    assert refused(answer, f"folder {tmp_path / 'full'} is not empty; give a new folder")
    (tmp_path / "model.onnx").write_text("mine")
    answer = learn(verdicts, tmp_path / "model.onnx")
    assert refused(answer, f"{tmp_path / 'model.onnx'} is a file; give a new folder")
    assert (tmp_path / "model.onnx").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "learn.json").write_text(json.dumps({"seed": 7}))
    answer = learn(verdicts, tmp_path / "other")
    assert answer.code == 2 and "holds another run (not the same: version, verdicts, model" in answer.err


# ---- what is rehearsed


@pytest.fixture(scope="module")
def library() -> Library:
    return build_library(320, TRAINING, 1, workers=1)


@pytest.fixture
def small_libraries(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "build_library", lambda *_, **__: library)


def start_of(folder: Path, trained_on: str) -> Path:
    """A model of random weights."""
    torch.manual_seed(1)
    network = QuasarNET(PRESET.network)
    card = {"preset": "tiny", "trained_on": trained_on}
    recipe = Recipe("random", PRESET.network, PRESET.representation, QUASARNET_LINES, Rule(), card)
    return save_model(folder / "random.onnx", recipe, network.parameters_by_name())


def test_a_model_trained_on_simulation_rehearses_simulation(
    world: World, command: Callable[..., Answer], tmp_path: Path, small_libraries: None, quick: None
) -> None:
    model = start_of(
        tmp_path, "simulated spectra alone: a library of 400,000 clean ones (with template sets)"
    )
    verdicts = world.ruled(tmp_path / "verdicts.csv")
    given = ["--verdicts", verdicts, "--spectra", world.survey, "--model", model, "-o", tmp_path / "out"]
    answer = command("learn", *given, "--epochs", 1, "--precision", "fp32", "--workers", 1)
    assert answer.code in (0, 1), answer.err
    assert answer.err.startswith("note: the model was trained with template sets; without --templates")
    card = load_model(tmp_path / "out" / "candidate.onnx").recipe.card
    assert card["learnt_from"].endswith("simulated spectra: 20,000 clean ones (without template sets)")
    assert card["trained_on"].startswith("simulated spectra alone")
    assert gains(tmp_path / "out")["gains"]["reference"]["n"] == 320


def test_of_a_simulated_reference_all_is_known_that_scores_need(small_libraries: None) -> None:
    kept = rehearsal.FromSimulation(PRESET)
    library = kept._compared
    parts = [(batch, known) for batch, known in kept.reference()]
    ids = np.concatenate([batch.ids for batch, _ in parts])
    kind, z, confidence = (
        np.concatenate([known[name] for _, known in parts]) for name in ("truth", "z_truth", "confidence")
    )
    assert sorted(ids) == list(range(320))
    truth, sub = library.truth["CLASS"][ids], library.truth["SUBCLASS"][ids]
    broad = (truth == "GALAXY") & (sub == "BROADLINE")  # quasars to some
    np.testing.assert_array_equal(kind, np.where(broad, "QSO", truth))
    shining = np.isin(kind, ("QSO", "GALAXY"))
    np.testing.assert_allclose(z[shining], library.truth["Z"][ids][shining])
    assert (z[~shining] == 0).all() and (confidence[kind == "STAR"] == 3).all()
    assert {1, 3} == set(confidence[kind == "QSO"])


def test_of_a_set_nothing_is_compared_on_that_was_learnt_from_or_stopped_by(world: World) -> None:
    whole = PreparedSet(world.set, PRESET)
    split = read_splits(world.split, whole.columns["OBJECT"])[0]
    kept = rehearsal.FromSet(whole, split)
    assert kept.learnt.tolist() == split.training.tolist()
    stopping = np.concatenate([batch.ids for batch in kept.stopping()])
    calibrating = np.concatenate([batch.ids for batch in kept.calibrating()])
    reference = np.concatenate([batch.ids for batch, _ in kept.reference()])
    together = np.concatenate([stopping, calibrating, reference])
    assert sorted(together) == split.validation.tolist()
    assert len(np.concatenate([batch.ids for batch in kept.calibrating(50)])) == 50


# ---- bad input


def refused(answer: Answer, *words: str) -> bool:
    assert answer.code == 2, answer
    (line,) = answer.err.splitlines()
    assert all(each in line for each in words), line
    return line.startswith("broadline: ")


def test_verdicts_that_teach_nothing_are_refused_in_one_sentence(
    world: World, learn: Learn, tmp_path: Path
) -> None:
    quasars = np.flatnonzero(world.verdicts["CLASS"] == "QSO")
    elsewhere = world.verdicts["PLATE"] + 9
    cases: dict[str, tuple[Path, str]] = {
        "alone": (world.ruled(tmp_path / "1.csv", quasars), "are of quasars alone: rule on what is none too"),
        "none": (
            world.ruled(tmp_path / "2.csv", CLASS=np.full(600, "STAR"), Z=np.zeros(600)),
            "are of what is no quasar alone: rule on quasars too",
        ),
        "unsure": (world.ruled(tmp_path / "3.csv", Z_CONF=np.full(600, 2)), "no firm verdict (confidence 3)"),
        "elsewhere": (world.ruled(tmp_path / "4.csv", PLATE=elsewhere), "knows none of the 600 spectra"),
        "control": (
            world.ruled(tmp_path / "5.csv", QUEUE=np.full(600, "control")),
            "are of its control sample, which is not learnt from",
        ),
    }
    for name, (path, words) in cases.items():
        assert refused(learn(path, tmp_path / name), str(path), words), name
    (tmp_path / "6.csv").write_text("NAME,VERDICT\na,good\n")
    assert refused(learn(tmp_path / "6.csv", tmp_path / "f"), "6.csv is no truth table that broadline knows")
    assert refused(learn(tmp_path / "7.csv", tmp_path / "g"), "7.csv", "No such file")


def test_models_that_cannot_be_tuned_are_refused_in_one_sentence(
    world: World, learn: Learn, tmp_path: Path, command: Callable[..., Answer]
) -> None:
    verdicts, out = world.ruled(tmp_path / "verdicts.csv"), tmp_path / "out"

    def tried(model: object, *options: object) -> Answer:
        return learn(verdicts, out, "--model", model, *options)

    write_keras(tmp_path / "weights.h5", n_pixels=443, n_boxes=13)
    assert refused(tried(tmp_path / "weights.h5"), "does not say how it was trained: name its preset with")
    assert refused(tried(world.start, "--preset", "no"), "there is no preset 'no'", "tiny, no-errors")
    assert refused(tried(world.start, "--preset", "no-errors"), "was not trained with preset no-errors")
    unknown = start_of(tmp_path, "dr12 (SHA-256 0), split 0 of 1 (seed 0)")
    assert refused(tried(unknown, "--seed", 0), "not trained on simulated spectra", "with --keep")
    with pytest.raises(UsageError, match=r"has no line finders, .* `broadline transfer`"):
        tune.tuning_preset(convnet())
    assert refused(tried(world.start, "--split", world.split), "--split divides the SET of --keep")
    assert not out.exists()


def convnet() -> Any:
    """As much as is asked of a ConvNet."""
    recipe = Recipe("net", ConvNetConfig(n_pixels=443, stages=()), PRESET.representation, (), Rule(), {})
    return SimpleNamespace(name="net", recipe=recipe)
