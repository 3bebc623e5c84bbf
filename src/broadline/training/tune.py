"""Tuning: a model goes on learning, from verdicts, among what it knew; what it says is calibrated anew."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.lines import QUASARNET_LINES
from broadline.model import Model, save_model
from broadline.networks.architecture import QuasarNETConfig
from broadline.networks.graph import parameters_of
from broadline.recipe import Recipe
from broadline.simulation.inspection import VISUAL_SCATTER
from broadline.training.calibrate import deflated, findings, fit_calibration, kept_rule
from broadline.training.dataset import PreparedSet
from broadline.training.fit import Progress, fit
from broadline.training.manifest import shard_paths
from broadline.training.presets import PRESETS, Preset
from broadline.training.rehearsal import Mixed, Rehearsal
from broadline.training.splits import Objects, Sizes, sized_split
from broadline.training.transfer import start_from
from broadline.truth import FIRM, QSO

__all__ = [
    "CANDIDATE",
    "EPOCHS",
    "Parts",
    "Tuned",
    "divided",
    "open_verdicts",
    "refuse_one_sided",
    "tune",
    "tuning_preset",
]

#: How a model is tuned: learning rate relative to that of its training, epochs at most, epochs without a
#: better validation, steps of an epoch at least.
RATE, EPOCHS, PATIENCE, SHORTEST = 0.1, 10, 3, 30
#: Of the verdicts: what says when to stop and is calibrated on, and what tells the gain.
SIZES = Sizes(validation=0.15, test=0.2)
#: Spectra to calibrate on, and quasars and others among them, below which that is left.
ENOUGH, ENOUGH_OF_A_KIND = 300, 50
#: The file of the model that comes of it.
CANDIDATE = "candidate.onnx"


class Parts(NamedTuple):
    """Rows of a set of verdicts; no object is in two of them.

    Attributes
    ----------
    learnt, stopping, test : ndarray of int64
        Learnt from; deciding when to stop, and calibrated on; compared on.
    control : ndarray of int64
        Those shown at random, all of them: compared on.
    """

    learnt: NDArray[np.int64]
    stopping: NDArray[np.int64]
    test: NDArray[np.int64]
    control: NDArray[np.int64]


class Tuned(NamedTuple):
    """A candidate, and in words how it was calibrated."""

    model: Model
    note: str


def tuning_preset(start: Model, name: str | None = None, epochs: int = EPOCHS) -> Preset:
    """Return how a model is to be tuned: as it was trained, with smaller steps, and fewer.

    Parameters
    ----------
    start : Model
    name : str, optional
        Of the preset it was trained with, if its card does not say.
    epochs : int

    Raises
    ------
    UsageError
        If the model has no line finders or others than ours, or the preset is unknown or not of such a model.
    """
    network, card = start.recipe.network, start.recipe.card
    if not isinstance(network, QuasarNETConfig):
        raise UsageError(
            f"model {start.name} has no line finders, which verdicts on redshifts are learnt by: prepare a "
            "set with the verdicts as truth and give it to `broadline transfer`"
        )
    ours = [line.name for line in QUASARNET_LINES]
    if [line.name for line in start.lines] != ours:
        raise UsageError(f"model {start.name} has other line finders than {', '.join(ours)}")
    name = name or card.get("preset", "")
    if name not in PRESETS:
        said = (
            f"there is no preset {name!r}" if name else f"model {start.name} does not say how it was trained"
        )
        raise UsageError(f"{said}: name its preset with --preset; there are {', '.join(PRESETS)}")
    preset = PRESETS[name]
    fits = isinstance(preset.network, QuasarNETConfig) and preset.network.sigma == network.sigma
    if not fits:
        raise UsageError(
            f"model {start.name} was not trained with preset {name}: only one of the two tells errors of "
            "redshifts; name another with --preset"
        )
    return replace(
        preset,
        network=network,
        representation=start.representation,
        loss="batch" if preset.loss == "sample" else preset.loss,
        rate=RATE * preset.rate,
        epochs=epochs,
        patience=PATIENCE,
    )


# ---- the verdicts


def open_verdicts(folder: Path, preset: Preset) -> PreparedSet:
    """Return a set of verdicts: of a set that `prepare` wrote, the firm ones.

    A tag of broad absorption given at the screen teaches nothing, nor does its lack, until a balnicity agrees
    (`objective.bal_labels`): the page begins with the catalogue's own, which is accepted with the redshift.
    """
    whole = PreparedSet(folder, preset)
    return whole.subset(np.flatnonzero(whole.columns["CONFIDENCE"] == FIRM))


def divided(verdicts: PreparedSet, seed: int = 0) -> Parts:
    """Return the parts of a set of verdicts; of each class `SIZES` are held out.

    Visits to objects of the control sample that are not in it themselves are in no part.

    Raises
    ------
    UsageError
        If there is nothing to learn from, or one class alone.
    """
    rows, objects = verdicts.rows, verdicts.columns["OBJECT"]
    control = rows[_in_control(verdicts)[rows]]
    free = rows[~np.isin(objects[rows], objects[control])]
    quasar = verdicts.columns["CLASS"][free] == QSO
    refuse_one_sided(str(verdicts.folder), quasar)
    among_quasars = np.isin(objects[free], objects[free[quasar]])
    halves = [_split(free[rows], objects, seed) for rows in (among_quasars, ~among_quasars)]
    learnt, stopping, test = (np.sort(np.concatenate(pair)) for pair in zip(*halves, strict=True))
    return Parts(learnt, stopping, test, control)


def _split(rows: NDArray[np.int64], objects: Objects, seed: int) -> list[NDArray[np.int64]]:
    """Return rows to learn from, to stop by and to test on."""
    if not len(rows):
        return [rows] * 3
    split = sized_split(objects[rows], SIZES, seed)
    return [rows[part] for part in (split.training, split.validation, split.test)]


def _in_control(verdicts: PreparedSet) -> NDArray[np.bool_]:
    tables = [shard_paths(verdicts.folder, shard)[1] for shard in verdicts.shards]
    return np.concatenate(
        [np.asarray(pq.read_table(path, columns=["CONTROL"])["CONTROL"]) for path in tables]
    )


def refuse_one_sided(what: str, quasar: NDArray[np.bool_]) -> None:
    """Refuse verdicts of one class alone.

    Parameters
    ----------
    what : str
        Where they are from.
    quasar : ndarray of bool, shape (n,)
        Of those that can be learnt from.
    """
    if not len(quasar):
        raise UsageError(
            f"all firm verdicts of {what} are of its control sample, which is not learnt from: rule on "
            "others too, or leave its column QUEUE out"
        )
    if quasar.all() or not quasar.any():
        here, missing = ("quasars", "what is none") if quasar.all() else ("what is no quasar", "quasars")
        raise UsageError(
            f"the firm verdicts of {what} that can be learnt from are of {here} alone: rule on {missing} too"
        )


# ---- learning


def tune(
    start: Model,
    preset: Preset,
    verdicts: PreparedSet,
    parts: Parts,
    rehearsal: Rehearsal,
    folder: Path,
    about: str,
    seed: int = 0,
    precision: str | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Tuned:
    """Return the model that a start becomes; it is also in ``candidate.onnx``.

    Parameters
    ----------
    start : Model
    preset : Preset
        As `tuning_preset` gives it.
    verdicts : PreparedSet
        As `open_verdicts` gives it.
    parts : Parts
        Of these, `learnt` and `stopping` are read.
    rehearsal : Rehearsal
    folder : Path
    about : str
        The verdicts, for the card.
    seed, precision, on_step
        As `fit` takes them.
    """
    learnt, stopping = (verdicts.subset(rows, seed) for rows in (parts.learnt, parts.stopping))
    fingerprint = hashlib.sha256(f"{verdicts.sha256} {rehearsal.about}".encode())
    for rows in parts:
        fingerprint.update(rows.astype("<i8").tobytes() + b";")
    path = fit(
        preset,
        Mixed(learnt, rehearsal, preset.batch, SHORTEST),
        [*stopping.ordered(), *rehearsal.stopping()],
        folder / "tuning",
        seed=seed,
        precision=precision,
        fingerprint=fingerprint.hexdigest(),
        start=start_from(start, preset.network),
        card=_card(start, about, parts, rehearsal),
        on_step=on_step,
    )
    candidate = Model(path.read_bytes())
    if start.recipe.calibration:
        candidate = deflated(candidate)
    return _calibrated(start, candidate, stopping, rehearsal, folder)


def _card(start: Model, about: str, parts: Parts, rehearsal: Rehearsal) -> dict[str, str]:
    numbers = (
        f"{len(parts.learnt):,} firm verdicts learnt from, {len(parts.stopping):,} to stop and calibrate"
    )
    held = f"{len(parts.test):,} held out, {len(parts.control):,} of a control sample"
    learnt = f"{about}: {numbers}, {held}; rehearsed: {rehearsal.about}"
    card = start.recipe.card
    if earlier := card.get("learnt_from"):
        learnt += f"; before that {earlier}"
    known = {"trained_on": card["trained_on"]} if "trained_on" in card else {}
    return {"learnt_from": learnt, **known}


def _calibrated(
    start: Model, candidate: Model, held_out: PreparedSet, rehearsal: Rehearsal, folder: Path
) -> Tuned:
    """Calibrate a candidate on what it has not learnt from.

    On held-out verdicts and as many rehearsed spectra, or where there are too few verdicts on rehearsed ones
    alone: its confidences are others than those that the start's calibration and thresholds are for. Its
    thresholds are those that are the start's on rehearsed spectra.
    """
    recipe = replace(candidate.recipe, calibration=start.recipe.calibration, rule=start.rule)
    if not start.recipe.finders.sigma:
        note = f"the network tells no errors: nothing is calibrated, and c_th stays {start.rule.c_th:g}"
        return _saved(candidate, recipe, note, folder)
    n, enough = len(held_out), _enough(held_out.columns["CLASS"][held_out.rows] == QSO)
    kept = list(rehearsal.calibrating(n if enough else None))
    examples = [*held_out.ordered(), *kept] if enough else kept
    quasar = np.isfinite(np.concatenate([np.empty(0), *(batch.z for batch in examples)]))
    if not _enough(quasar):
        note = f"calibrated as the start: {len(quasar):,} held-out spectra are too few"
        return _saved(candidate, recipe, note, folder)
    on = f"{len(quasar):,} rehearsed spectra, as {n:,} held-out verdicts are too few"
    if enough:
        on = f"{n:,} held-out verdicts and {len(quasar) - n:,} rehearsed spectra"
    if not start.recipe.calibration:
        candidate = deflated(candidate)
    calibration = fit_calibration(findings(candidate, examples), on, VISUAL_SCATTER)
    known = list(rehearsal.calibrating(None))
    rule = kept_rule(start.rule, findings(start, known), findings(candidate, known))
    note = f"calibrated on {on}: c_th {rule.c_th:g}, of BAL {rule.c_th_bal:g}"
    return _saved(candidate, replace(recipe, calibration=calibration, rule=rule), note, folder)


def _enough(quasar: NDArray[np.bool_]) -> bool:
    fewest = min(int(quasar.sum()), int((~quasar).sum()))
    return len(quasar) >= ENOUGH and fewest >= ENOUGH_OF_A_KIND


def _saved(candidate: Model, recipe: Recipe, note: str, folder: Path) -> Tuned:
    recipe = replace(recipe, card=recipe.card | {"calibrated_on": note})
    path = save_model(folder / CANDIDATE, recipe, parameters_of(candidate.content))
    return Tuned(Model(path.read_bytes()), note)
