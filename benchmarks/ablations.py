"""What each choice of the preset `broadline` gives: trainings without it, over seeds. Rows of docs/model.md.

    python benchmarks/ablations.py DATA --runs FOLDER [--templates DIR] [--n 30000] [--epochs 8] [--seeds 3]
                                   [--only NAME ...] [-o docs/model.md]

Each training is far shorter than that of the model in the package: differences count, not levels. A run that
is in FOLDER is not repeated, and one that was stopped goes on. Every network is scored at the threshold at
which its purity equals its completeness on one half of 20,000 simulated BOSS targets that none has seen; what
is said of simulated ones is said of the other half. DATA holds the real spectra; none is trained on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.calibration import quasar_features
from broadline.decision import CONFLICT_KMS, Rule, velocity
from broadline.evaluation.redshifts import ripple_of
from broadline.evaluation.reliability import reliability
from broadline.lines import LINES
from broadline.model import Model, save_model
from broadline.networks.architecture import Outputs
from broadline.networks.graph import parameters_of
from broadline.pipeline import ModelChoice
from broadline.progress import say
from broadline.simulation.library import TRAINING, build_library
from broadline.simulation.recipe import RECIPES
from broadline.simulation.stream import Library
from broadline.training.calibrate import deflated, findings, fit_calibration
from broadline.training.fit import fit
from broadline.training.presets import PRESETS, Preset
from broadline.training.simulated import GAPS, INSTRUMENTS, Examples, Simulated
from markers import write_between
from real_sky import NOTHING, Score, called, nulls, read_labels, run_broadline, sets, table

HELD_OUT, HELD_OUT_SEED = 20_000, 700_001
OURS = PRESETS["broadline"]
#: BAL quasars found are compared where so many of the others are rejected.
REJECTED = 0.97


@dataclass(frozen=True)
class Variant:
    """A preset and its data, different from ours in one respect."""

    text: str
    preset: Preset = OURS
    instruments: Mapping[str, float] = field(default_factory=lambda: INSTRUMENTS)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    gaps: bool = True


def _network(**changes: Any) -> Preset:
    return replace(OURS, network=replace(OURS.network, **changes))


VARIANTS = {
    "ours": Variant("all of it"),
    "boxes": Variant("13 boxes a line instead of 52", _network(n_boxes=13)),
    "hidden": Variant("100 hidden units instead of 256", _network(hidden=100)),
    "error": Variant(
        "flux alone, without the channel of errors",
        replace(_network(channels=1), representation=PRESETS["paper"].representation),
    ),
    "likelihood": Variant(
        "loss of the code since 2020 (no errors of offsets, BAL finder as in the paper)",
        replace(_network(sigma=False), loss="spectrum"),
    ),
    "averaging": Variant("weights not averaged", replace(OURS, averaging=0.0)),
    "schedule": Variant(
        "constant learning rate (1e-3), AMSGrad, as the paper",
        replace(OURS, schedule="constant", rate=1e-3, amsgrad=True, weight_decay=0.0),
    ),
    "negative": Variant("what nobody is sure of taught to be no quasar", replace(OURS, unsure="negative")),
    "drop": Variant("what nobody is sure of left out", replace(OURS, unsure="drop")),
    "boss": Variant("noise and coverage of BOSS alone", instruments={"boss": 1.0}),
    "sky": Variant("no sky fibres", recipe={"sky": 0.0}),
    "odd": Variant(
        "no displaced lines, no missing stretches", recipe={"displaced": 0.0, "narrow_line": 0.0}, gaps=False
    ),
    "paper-code": Variant("preset paper-code on the same data", PRESETS["paper-code"]),
    "paper": Variant("preset paper on the same data", PRESETS["paper"]),
}


# ---- one training


@lru_cache(maxsize=2)
def _library(n: int, seed: int, templates: str | None, recipe: tuple[tuple[str, Any], ...]) -> Library:
    return build_library(n, replace(TRAINING, **dict(recipe)), seed, templates)


@lru_cache(maxsize=1)
def _held_out(templates: str | None) -> Library:
    recipe = replace(RECIPES["boss"], repeats=0.0, dead=0.0)
    return build_library(HELD_OUT, recipe, HELD_OUT_SEED, templates, training_mix=False)


def train(name: str, seed: int, folder: Path, options: argparse.Namespace) -> Path:
    """Train a variant; return its model file, with the even threshold as its rule."""
    variant = VARIANTS[name]
    library = _library(
        options.n, 1_000_000 + 1000 * seed, options.templates, tuple(sorted(variant.recipe.items()))
    )
    gaps = GAPS if variant.gaps else 0.0
    data = Simulated(library, variant.preset, seed, variant.instruments, gaps=gaps)
    check = Simulated(_held_out(options.templates), variant.preset, 1, {"boss": 1.0}, like_training=False)
    few = [batch for batch, _ in zip(check.epoch(0), range(8), strict=False)]
    counts = data.counts() if variant.preset.loss == "sample" else None
    path = fit(variant.preset, data, few, folder, epochs=options.epochs, seed=seed, counts=counts)
    last = Model(path.with_name("last.onnx").read_bytes())
    model = deflated(last) if last.recipe.finders.sigma else last
    first, _ = _halves(variant.preset, options.templates)
    rule = Rule(c_th=min(0.999, max(0.001, even_threshold(*_said(model, first)))))
    return save_model(folder / "scored.onnx", replace(model.recipe, rule=rule), parameters_of(model.content))


def _halves(preset: Preset, templates: str | None) -> tuple[list[Examples], list[Examples]]:
    check = Simulated(_held_out(templates), preset, 2, {"boss": 1.0}, like_training=False)
    batches = list(check.epoch(0))
    return batches[::2], batches[1::2]


# ---- its scores


def _said(model: Model, batches: list[Examples]) -> tuple[NDArray[Any], ...]:
    """Return best confidence, z, confidence of BAL, z and confidence of MgII; z_true, firmness, BAL label."""
    parts = []
    for batch in batches:
        found, verdict = model.judge(batch.x.numpy())
        mgii = [line.name for line in model.lines].index("MGII")
        columns = (
            found.c[:, :6].max(axis=1),
            verdict.z,
            found.c[:, 6],
            found.z[:, mgii],
            found.c[:, mgii],
            batch.z,
            batch.firm,
            batch.bal,
        )
        parts.append(np.stack(columns, axis=1))
    return tuple(np.concatenate(parts).T)


def even_threshold(
    best: Any, z: Any, c_bal: Any, z_mgii: Any, c_mgii: Any, truth: Any, firm: Any, bal: Any
) -> float:
    """Return the confidence above which as many are called quasars as there are."""
    sure = firm >= 0.5
    order = np.argsort(-best[sure])
    n = int((sure & np.isfinite(truth)).sum())
    return float(best[sure][order[min(n, len(order) - 1)]])


def simulated_scores(model: Model, batches: list[Examples]) -> dict[str, float]:
    """Return the scores on held-out simulated BOSS targets."""
    best, z, c_bal, z_mgii, c_mgii, truth, firm, bal = _said(model, batches)
    quasar, sure = np.isfinite(truth), firm >= 0.5
    found = best > model.rule.c_th
    dv = velocity(z, np.nan_to_num(truth))
    right = found & quasar & (np.abs(dv) < CONFLICT_KMS)
    errors = dv[right & sure]
    scores = {
        "purity": (right & sure).sum() / (found & sure).sum(),
        "completeness": (right & sure).sum() / (quasar & sure).sum(),
        "catastrophic": (found & sure & quasar & ~right).sum() / (found & sure & quasar).sum(),
        "nmad": 1.4826 * np.median(np.abs(errors - np.median(errors))),
        "std": errors.std(),
    }
    level = np.quantile(c_bal[right & sure & (bal == 0)], REJECTED)
    scores["bal"] = float(np.mean(c_bal[right & sure & (bal == 1)] > level))
    grid, line = model.representation.grid, LINES["MGII"]
    seen = right & sure & (c_mgii > 0.5)
    where = grid.position(line.wavelength * (1 + truth[seen])) / grid.size * model.recipe.finders.n_boxes
    wave = ripple_of(where, velocity(z_mgii[seen], truth[seen]))
    return {name: float(value) for name, value in scores.items()} | {"ripple": float(wave.amplitude)}


def calibration_scores(model: Model, fitted: list[Examples], held: list[Examples]) -> dict[str, float]:
    """Return the ECE of the best confidence taken as it is, and of P_QSO fitted on the other half."""
    calibration = fit_calibration(findings(model, fitted), "")
    found = findings(model, held)
    sure = found.firm >= 0.5
    quasar = np.isfinite(found.truth)[sure]
    x = quasar_features(found.c, found.z_lines, found.z, found.z_err)
    p = calibration.probability("qso", x)[sure]
    raw = found.c.max(axis=1)[sure].astype(float)
    return {"ece_raw": reliability(raw, quasar).ece, "ece": reliability(p, quasar).ece}


def real_scores(data: Path, path: Path) -> dict[str, float]:
    """Return how many real quasars are right, and how many of what is none is called quasar."""
    keys, verdicts = run_broadline(data, ModelChoice(str(path), empty="zero"), "ablation")
    labels = read_labels(data, keys)
    groups = sets(labels)
    everything = Score.of(labels, verdicts, groups["BOSS + eBOSS + SDSS"])
    star, sky = labels.kind == "STAR", labels.kind == "SKY"
    lamost = next(rows for name, rows in nulls(labels).items() if "LAMOST" in name and "test" in name)
    return {
        "real_right": _count(everything.completeness),
        "real_stars": _count(called(labels, verdicts, star & groups["BOSS + eBOSS + SDSS"])),
        "real_sky": _count(called(labels, verdicts, sky)),
        "real_lamost": _count(called(labels, verdicts, lamost)),
    }


def _count(cell: str) -> float:
    return float(cell.split("/")[0])


class Ensemble:
    """The mean of what several networks say, as one network says it."""

    def __init__(self, models: list[Model]) -> None:
        self.runs = [model.run for model in models]

    def __call__(self, values: NDArray[np.float32]) -> Outputs[NDArray[np.float32]]:
        """Return the mean of all heads."""
        said = [run(values) for run in self.runs]
        return Outputs(*(np.mean([each[i] for each in said], axis=0) for i in range(len(said[0]))))


def ensemble_scores(paths: list[Path], templates: str | None) -> dict[str, float]:
    """Return the scores of several seeds together on the simulated targets, at their own even threshold."""
    models = [Model(path.read_bytes()) for path in paths]
    model = Model(paths[0].read_bytes())
    model.run = Ensemble(models)
    first, second = _halves(OURS, templates)
    model.rule = replace(model.rule, c_th=even_threshold(*_said(model, first)))
    return simulated_scores(model, second)


# ---- the table

COLUMNS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "purity": ("purity %", lambda x: f"{100 * x:.2f}"),
    "completeness": ("completeness %", lambda x: f"{100 * x:.2f}"),
    "catastrophic": ("wrong z %", lambda x: f"{100 * x:.2f}"),
    "nmad": ("NMAD km/s", lambda x: f"{x:.0f}"),
    "std": ("std km/s", lambda x: f"{x:.0f}"),
    "bal": (f"BAL found at {100 * REJECTED:.0f} % rejected, %", lambda x: f"{100 * x:.1f}"),
    "ripple": ("ripple km/s", lambda x: f"{x:.0f}"),
    "real_right": ("real quasars right, of 272", lambda x: f"{x:.1f}"),
    "real_sky": ("real sky called, of 77", lambda x: f"{x:.1f}"),
    "real_lamost": ("LAMOST stars called, of 144", lambda x: f"{x:.1f}"),
}


def text_of(scores: Mapping[str, list[dict[str, float]]]) -> str:
    """Return the table: mean and rms over seeds."""
    rows = []
    for name, runs in scores.items():
        cells = []
        for key, (_, write) in COLUMNS.items():
            values = np.array([run[key] for run in runs if key in run])
            cells.append(f"{write(values.mean())} ± {write(values.std())}" if len(values) else NOTHING)
        rows.append((VARIANTS[name].text if name in VARIANTS else name, len(runs), *cells))
    return table(("instead", "seeds", *(title for title, _ in COLUMNS.values())), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--templates")
    parser.add_argument("--n", type=int, default=30_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    scores: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for name in options.only:
            folder = options.runs / f"{name}-{seed}"
            done = folder / "scores.json"
            if not done.exists():
                path = train(name, seed, folder, options)
                model, (first, second) = (
                    Model(path.read_bytes()),
                    _halves(VARIANTS[name].preset, options.templates),
                )
                found = simulated_scores(model, second) | real_scores(options.data, path)
                if model.recipe.finders.sigma:
                    found |= calibration_scores(model, first, second)
                done.write_text(json.dumps(found))
            scores.setdefault(name, []).append(json.loads(done.read_text()))
            say(f"{name} {seed}: {scores[name][-1]}")
    seeds = [options.runs / f"ours-{seed}" / "scored.onnx" for seed in range(options.seeds)]
    if "ours" in scores:
        scores["ensemble of these seeds, all of it"] = [ensemble_scores(seeds, options.templates)]
    text = text_of(scores)
    ours = scores.get("ours", [])
    if ours and "ece" in ours[0]:
        raw, p = (np.mean([run[key] for run in ours]) for key in ("ece_raw", "ece"))
        text += f"\n\nECE of the best confidence taken as a probability {raw:.4f}, of `P_QSO` {p:.4f}."
    text += (
        f"\n\n{options.n:,} clean spectra, {options.epochs} epochs; mean ± rms over seeds. All but the real "
        "columns: simulated."
    )
    print(text)
    if options.output:
        write_between(options.output, "ablations.py", text)


if __name__ == "__main__":
    main()
