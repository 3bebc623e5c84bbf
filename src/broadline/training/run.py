"""A whole training: data, fit, calibration, model file. What `broadline train` does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from broadline import launcher
from broadline.errors import UsageError
from broadline.model import Model, save_model
from broadline.networks.architecture import QuasarNETConfig
from broadline.networks.graph import parameters_of
from broadline.simulation.inspection import VISUAL_SCATTER
from broadline.simulation.library import TRAINING, build_library
from broadline.simulation.recipe import RECIPES
from broadline.training.calibrate import calibrated, deflated, findings, implied
from broadline.training.dataset import PreparedSet
from broadline.training.fit import Progress, ReadAgain, fit
from broadline.training.logs import best_scores
from broadline.training.manifest import one_sided
from broadline.training.objective import Counts
from broadline.training.presets import Preset
from broadline.training.simulated import Examples, Simulated
from broadline.training.splits import (
    Leakage,
    Sizes,
    Split,
    check,
    leakage,
    random_splits,
    read_splits,
    sized_split,
    write_splits,
)
from broadline.training.task import task_of
from broadline.training.transfer import Start
from broadline.truth import QSO

__all__ = ["Trained", "calibrate_in_memory", "score_table", "train_in_memory", "train_prepared"]

_HELD_OUT = 20_000
_TEST = "test_"  # begins what a card says of scores on the test part
# Libraries of one run differ by these: training, validation, calibration.
_SEEDS = (1, 500_001, 900_001)


class Trained(NamedTuple):
    """A model and how it did.

    Attributes
    ----------
    path : Path
        The model file.
    scores : dict of str to float
        Of its best epoch on validation (`task.Task.validate`).
    leakage : Leakage
        Of its split.
    test : dict of str to float, optional
        Its scores on the test part, if the split has one.
    """

    path: Path
    scores: dict[str, float]
    leakage: Leakage
    test: dict[str, float] | None = None


def train_prepared(
    preset: Preset,
    folder: Path,
    training_set: Path,
    *,
    splits: int | Path = 1,
    sizes: Sizes | None = None,
    labels: int | None = None,
    epochs: int | None = None,
    patience: int | None = None,
    seed: int = 0,
    precision: str | None = None,
    start: Start | None = None,
    on_split: Callable[[int, int], None] | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> list[Trained]:
    """Train on a set on disk, once for each split of it; return the models and their scores.

    Of several processes (`fit`) the first returns them, and the others nothing.

    Parameters
    ----------
    preset : Preset
    folder : Path
        For one split it gets the model, its log and checkpoints (`fit`); for more, ``split-00`` and so on in
        it do. ``splits.parquet`` says which spectra were learnt from (`splits.write_splits`).
    training_set : Path
        A folder that `prepare.prepare` wrote.
    splits : int or Path
        Random splits by `splits.random_splits`, as Busca & Balland (2018), section 3, make ten of: no object
        is both learnt from and scored on. Or a file of splits.
    sizes : Sizes, optional
        Make the random splits by `splits.sized_split` instead, with seeds from `seed` on.
    labels : int, optional
        Learn from so many spectra of the training part alone (`Split.limited`), in batches of no more.
    epochs, patience, precision, start
        As `fit` takes them.
    seed : int
        Of the random splits, and of the first network; the next ones have the next seeds.
    on_split, on_step : callable, optional
        Told of the number of a split, from 0, and of how many there are; and of each step.

    Raises
    ------
    UsageError
        If the set cannot be used (`dataset.PreparedSet`) or cannot be split, a part of a split lacks a class,
        or as `fit` raises it.
    """
    if labels:
        preset = replace(preset, batch=min(preset.batch, labels))
    whole = PreparedSet(training_set, preset)
    objects = whole.columns["OBJECT"]
    parts = _splits(whole, splits, sizes, labels, seed)
    places = [folder / f"split-{i:02d}" for i in range(len(parts))] if len(parts) > 1 else [folder]
    trained = []
    for i, (split, place) in enumerate(zip(parts, places, strict=True)):
        if on_split and launcher.rank() == 0:
            on_split(i, len(parts))
        source = splits.name if isinstance(splits, Path) else f"seed {seed}"
        known_as = f"split {i} of {len(parts)} ({source})"
        card = {"trained_on": f"{training_set.name} (SHA-256 {whole.sha256}), {known_as}"}
        leaks = leakage(split, objects)
        if split.by_spectrum:
            card["leakage"] = str(leaks)
        path, test = _train_split(
            whole, split, place, card, epochs, patience, seed + i, precision, start, on_step
        )
        if launcher.rank():
            continue
        scores = best_scores(place)
        trained.append(Trained(path, scores, leaks, test and {name: test[name] for name in scores}))
    if launcher.rank() == 0:
        write_splits(folder / "splits.parquet", parts, objects)
    return trained


def _splits(
    whole: PreparedSet, splits: int | Path, sizes: Sizes | None, labels: int | None, seed: int
) -> list[Split]:
    """Return the splits of a set that are wanted, each with both classes in each part."""
    objects, quasar = whole.columns["OBJECT"], whole.columns["CLASS"] == QSO
    if isinstance(splits, Path):
        parts = read_splits(splits, objects)
    elif sizes:
        parts = [sized_split(objects, sizes, seed + i) for i in range(splits)]
    else:
        parts = random_splits(objects, splits, seed=seed)
    if not parts:
        raise UsageError(f"{splits} holds no split: make the splits anew")
    if labels:
        parts = [split.limited(labels, seed + i) for i, split in enumerate(parts)]
    for split in parts:
        check(split, objects)
        for name, rows in split.parts.items():
            if one_sided(quasar[rows]):
                which = "quasars only" if quasar[rows[0]] else "no quasar"
                raise UsageError(
                    f"the {len(rows):,} spectra of the {name} part of a split hold {which}: make it larger, "
                    "or split with another seed"
                )
    return parts


def _train_split(
    whole: PreparedSet,
    split: Split,
    folder: Path,
    card: dict[str, str],
    epochs: int | None,
    patience: int | None,
    seed: int,
    precision: str | None,
    start: Start | None,
    on_step: Callable[[Progress], None] | None,
) -> tuple[Path, dict[str, float] | None]:
    preset = whole.preset
    data, held_out = whole.subset(split.training, seed), whole.subset(split.validation)
    counts = data.counts() if preset.loss == "sample" else None
    fingerprint = hashlib.sha256(whole.sha256.encode())
    for rows in split.parts.values():
        fingerprint.update(rows.astype("<i8").tobytes() + b";")
    path = fit(
        preset,
        data,
        ReadAgain(held_out.ordered),
        folder,
        epochs=epochs,
        patience=patience,
        seed=seed,
        precision=precision,
        counts=counts,
        fingerprint=fingerprint.hexdigest(),
        start=start,
        card=card,
        on_step=on_step,
    )
    if launcher.rank():  # the first process does the rest
        return path, None
    # Before it is calibrated, as validation scores it.
    test = _scored(path, whole.subset(split.test), counts) if len(split.test) else None
    if _tells_errors(preset) and not Model(path.read_bytes()).recipe.calibration:
        _calibrate(path, held_out.ordered(), f"the {len(held_out):,} validation spectra")
    return path, test


def _scored(path: Path, part: PreparedSet, counts: Counts | None) -> dict[str, float]:
    """Return the scores of a model on the test part. They stay on its card: once is enough."""
    model = Model(path.read_bytes())
    said = {name: value for name, value in model.recipe.card.items() if name.startswith(_TEST)}
    if not said:
        task = task_of(part.preset, counts)
        network = task.network().to("cuda" if torch.cuda.is_available() else "cpu")
        parameters = parameters_of(model.content)
        network.load_state_dict({name: torch.tensor(x) for name, x in parameters.items()}, strict=False)
        scores = task.validate(network, part.ordered())
        said = {f"{_TEST}{name}": f"{value:.5g}" for name, value in scores.items()}
        try:
            save_model(path, replace(model.recipe, card=model.recipe.card | said), parameters)
        except OSError as error:
            raise UsageError(
                f"cannot write {path}: {error}; the model is there, without its scores, start again to go on"
            ) from error
    return {name.removeprefix(_TEST): float(value) for name, value in said.items()}


def _tells_errors(preset: Preset) -> bool:
    return isinstance(preset.network, QuasarNETConfig) and preset.network.sigma


def score_table(trained: Sequence[Trained]) -> str:
    """Return the scores of several splits as a table, with their mean and rms scatter about it.

    Where there are test parts, a second table is of these.
    """
    places = [each.path.parent.name for each in trained]
    text = _table(places, [each.scores for each in trained])
    tests = [each.test for each in trained if each.test]
    return f"{text}\non test\n{_table(places, tests)}" if len(tests) == len(trained) else text


def _table(places: Sequence[str], scores: Sequence[dict[str, float]]) -> str:
    names = list(scores[0])
    values = np.array([[each[name] for name in names] for each in scores])
    rows = list(zip(places, values, strict=True))
    rows += [("mean", values.mean(axis=0)), ("rms", values.std(axis=0))]
    lines = [" " * 9 + "".join(f"{name:>14}" for name in names)]
    lines += [f"{name:<9}" + "".join(f"{value:>14.5g}" for value in row) for name, row in rows]
    return "\n".join(lines)


def train_in_memory(
    preset: Preset,
    folder: Path,
    n: int,
    *,
    epochs: int | None = None,
    patience: int | None = None,
    seed: int = 0,
    templates: str | None = None,
    precision: str | None = None,
    on_library: Callable[[int, int], None] | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Path:
    """Train on a simulation that never touches the disk; return the model file.

    Parameters
    ----------
    preset : Preset
    folder : Path
        Gets the model, its log and checkpoints (`fit`).
    n : int
        Clean spectra in the library; each gets new noise in every epoch.
    epochs, patience, seed, precision
        As `fit` takes them.
    templates : str, optional
        Templates folder.
    on_library, on_step : callable, optional
        Told of spectra made and to be made, and of each step.

    Raises
    ------
    UsageError
        As `fit` raises it.
    """
    assert preset.finders
    if n < preset.batch:
        raise UsageError(f"{n:,} spectra are less than a batch of {preset.batch}: give more")
    held_out = min(_HELD_OUT, max(n // 5, preset.batch))
    total = n + held_out
    made = [0]

    def library(size: int, which: int) -> Simulated:
        tell = (lambda done: on_library(made[0] + done, total)) if on_library else None
        source = build_library(size, TRAINING, seed + _SEEDS[which], templates, on_chunk=tell)
        made[0] += size
        return Simulated(source, preset, seed + which)

    data, validation = library(n, 0), list(library(held_out, 1).epoch(0))
    sets = "with template sets" if templates else "without template sets"
    card = {"trained_on": f"simulated spectra alone: a library of {n:,} clean ones ({sets}), seed {seed}"}
    path = fit(
        preset,
        data,
        validation,
        folder,
        epochs=epochs,
        patience=patience,
        seed=seed,
        precision=precision,
        counts=data.counts() if preset.loss == "sample" else None,
        card=card,
        on_step=on_step,
    )
    if launcher.rank() or not _tells_errors(preset):
        return path
    return calibrate_in_memory(path, preset, seed, templates)


def calibrate_in_memory(path: Path, preset: Preset, seed: int, templates: str | None) -> Path:
    """Calibrate a model on a held-out simulation of BOSS quasar targets, in place; once is enough.

    That sample has the mix of classes, redshifts and S/N of the paper's; probabilities hold for such a mix.
    The threshold becomes that of equal purity and completeness, that of broad absorption as
    `calibrate.bal_threshold` has it.
    """
    if Model(path.read_bytes()).recipe.calibration:
        return path
    recipe = replace(RECIPES["boss"], repeats=0.0, dead=0.0)
    library = build_library(2 * _HELD_OUT, recipe, seed + _SEEDS[2], templates, training_mix=False)
    source = Simulated(library, preset, seed + 2, {"boss": 1.0}, like_training=False, annotated=True)
    return _calibrate(path, source.epoch(0), f"{len(library):,} held-out simulated BOSS targets")


def _calibrate(path: Path, examples: Iterable[Examples], fitted_on: str) -> Path:
    """Calibrate a model that never was, on examples it has not learnt from, in place."""
    model = deflated(Model(path.read_bytes()))
    calibration, rule = implied(findings(model, examples), fitted_on, VISUAL_SCATTER)
    try:
        return calibrated(model, calibration, rule, path, {"calibrated_on": fitted_on})
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error}; the model is there, not yet calibrated, start again to go on"
        ) from error
