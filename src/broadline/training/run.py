"""A whole training: data, fit, calibration, model file. What `broadline train` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from broadline.model import Model
from broadline.simulation.library import TRAINING, build_library
from broadline.simulation.recipe import RECIPES
from broadline.training.calibrate import calibrated, findings, fit_calibration
from broadline.training.fit import Progress, fit
from broadline.training.presets import Preset
from broadline.training.simulated import Simulated

__all__ = ["calibrate_in_memory", "train_in_memory"]

_HELD_OUT = 20_000
# Libraries of one run differ by these: training, validation, calibration.
_SEEDS = (1, 500_001, 900_001)


def train_in_memory(
    preset: Preset,
    folder: Path,
    n: int,
    *,
    epochs: int | None = None,
    seed: int = 0,
    templates: str | None = None,
    precision: str = "bf16",
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
    epochs, seed, precision
        As `fit` takes them.
    templates : str, optional
        Templates folder.
    on_library, on_step : callable, optional
        Told of spectra made and to be made, and of each step.
    """
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
        seed=seed,
        precision=precision,
        card=card,
        on_step=on_step,
    )
    return calibrate_in_memory(path, preset, seed, templates) if preset.network.sigma else path


def calibrate_in_memory(path: Path, preset: Preset, seed: int, templates: str | None) -> Path:
    """Calibrate a model on a held-out simulation of BOSS quasar targets, in place.

    That sample has the mix of classes, redshifts and S/N of the paper's; probabilities hold for such a mix.
    """
    recipe = replace(RECIPES["boss"], repeats=0.0, dead=0.0)
    library = build_library(2 * _HELD_OUT, recipe, seed + _SEEDS[2], templates, training_mix=False)
    source = Simulated(library, preset, seed + 2, {"boss": 1.0}, like_training=False)
    model = Model(path.read_bytes())
    fitted_on = f"{len(library):,} held-out simulated BOSS targets"
    found = findings(model, source.epoch(0))
    calibration = fit_calibration(found, fitted_on)
    return calibrated(model, calibration, path, {"calibrated_on": fitted_on})
