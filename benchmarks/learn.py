"""What verdicts are worth: purity and completeness against their number, ranked and at random. docs/learn.md.

    python benchmarks/learn.py --runs FOLDER [--seeds 5] [-o docs/learn.md --figures docs/figures]

The start is a network of a third of the usual width, trained briefly on simulated spectra with the noise and
coverage of BOSS alone. The survey to be learnt is a simulated DESI: fainter, of another mix and coverage. The
verdicts are those of the simulated inspector, with what he is not sure of and his mistakes; a spectrum that
he cannot identify costs a verdict and teaches nothing. Ranked are those first whose class or redshift is most
probably wrong, single lines, lines in conflict and borderline broad absorption before others. Each seed has
eight tenths of the survey to choose from, other divisions of the verdicts and another order of learning. All
is scored on another part of the survey, where the inspector could be sure, by what is true.

What is in FOLDER is not done again, and what was stopped goes on. By the cost of its parts a full run takes
some 3,600 seconds of processor time at float32, most of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from broadline.calibration import bal_features, quasar_features
from broadline.evaluation.drawing import (
    COMPLETENESS,
    GREY,
    PURITY,
    as_percent,
    canvas,
    legend,
    note_simulated,
    style,
)
from broadline.evaluation.gate import setbacks
from broadline.evaluation.metrics import score
from broadline.evaluation.redshifts import redshift_scatter
from broadline.inspect.queue import BORDERLINE, WEIGHTS, Reason
from broadline.model import Model
from broadline.progress import say
from broadline.simulation.inspection import VISUAL_SCATTER
from broadline.simulation.library import TRAINING, build_library
from broadline.simulation.recipe import RECIPES
from broadline.simulation.survey import Request, simulate
from broadline.training.calibrate import calibrated, deflated, findings, implied
from broadline.training.dataset import PreparedSet
from broadline.training.fit import fit
from broadline.training.gain import judged
from broadline.training.learn import compared
from broadline.training.prepare import prepare
from broadline.training.presets import PRESETS, Preset
from broadline.training.rehearsal import FromSimulation, of_set
from broadline.training.simulated import Simulated
from broadline.training.tune import PATIENCE, RATE, divided, open_verdicts, tune
from broadline.truth import QSO
from markers import write_between
from real_sky import table

BOSS = {"boss": 1.0}
ORDERS = ("ranked", "random")
VERDICTS = (30, 100, 300, 1000, 3000, 5600)
CHOICE = 0.8  # of the survey, a seed
SEEDS = {"start": 11_000_001, "pool": 21, "test": 22}
INSPECTED = ("CLASS_PERSON", "Z_CONF_PERSON", "Z_VI", "BAL_FLAG_VI", "THING_ID", "TARGETID")


def preset_of(options: argparse.Namespace) -> Preset:
    """Return ours at another width."""
    ours = PRESETS["broadline"]
    sizes = tuple(replace(layer, filters=options.filters) for layer in ours.finders.convolutions)
    network = replace(ours.finders, convolutions=sizes, hidden=128)
    return replace(ours, network=network, batch=128, epochs=options.epochs, averaging=0.99)


@dataclass(frozen=True)
class Run:
    """Which verdicts are learnt from: chosen how, how many (0: all), with which seed."""

    order: str
    n: int
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.order}-{self.n or 'all'}-{self.seed}"


class Experiment:
    """The start, the survey, and what is learnt from it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.preset = options, preset_of(options)
        how = replace(self.preset, rate=RATE * self.preset.rate, epochs=10, patience=PATIENCE)
        self.tuning = how

    @cached_property
    def rehearsal(self) -> FromSimulation:
        """What the start was trained on, made anew."""
        return FromSimulation(self.tuning, SEEDS["start"], instruments=BOSS)

    @cached_property
    def start(self) -> Model:
        """The model that does not know the survey; trained if that is not done."""
        folder = self.options.runs / "start"
        done = folder / "start.onnx"
        if not done.exists():
            library = build_library(self.options.n_start, TRAINING, SEEDS["start"])
            data = Simulated(library, self.preset, 1, BOSS)
            path = fit(self.preset, data, self.rehearsal.stopping(), folder, precision="fp32")
            model = deflated(Model(path.read_bytes()))
            found = findings(model, self.rehearsal.calibrating())
            calibration, rule = implied(found, "simulated BOSS targets", VISUAL_SCATTER)
            calibrated(model, calibration, rule, done, {})
        return Model(done.read_bytes())

    def _survey(self, name: str, n: int) -> Path:
        """Simulate a part of the survey."""
        folder: Path = self.options.runs / name
        simulate(Request.of("desi", n, SEEDS[name], RECIPES["desi"]), folder / "survey")
        return folder

    @cached_property
    def pool(self) -> PreparedSet:
        """The part to be ruled on, with what the inspector says, also of what he is not sure of."""
        folder = self._survey("pool", self.options.pool)
        said = folder / "inspected.parquet"
        if not said.exists():
            every = pq.read_table(folder / "survey" / "truth.parquet", columns=list(INSPECTED))
            # What is said of an object's first visit holds for the others too, however they look.
            _, first = np.unique(every["TARGETID"].to_numpy(), return_index=True)
            pq.write_table(every.take(np.sort(first)), said)
        prepare([folder / "survey"], said, folder / "set", self.preset.representation)
        return open_verdicts(folder / "set", self.preset)

    @cached_property
    def test(self) -> PreparedSet:
        """The part to be scored on, with what is true and whether an inspector could be sure of it."""
        folder = self._survey("test", self.options.test)
        truth = folder / "survey" / "truth.parquet"
        prepare([folder / "survey"], truth, folder / "set", self.preset.representation)
        return PreparedSet(folder / "set", self.preset)

    @cached_property
    def worth(self) -> NDArray[np.float64]:
        """What a verdict on each spectrum of the pool is worth, as in `inspect.queue`."""
        model, parts = self.start, []
        assert model.recipe.calibration
        probability = model.recipe.calibration.probability
        for batch in self.pool.subset(self._everything).ordered():
            (c, z, _), verdict = model.judge(batch.x.numpy())
            x = quasar_features(c[:, :6], z[:, :6], verdict.z, verdict.z_err)
            wrong = np.where(verdict.is_qso, 1 - probability("z", x), probability("qso", x))
            p_bal = probability("bal", bal_features(c[:, 6]))
            reasons = {
                Reason.CONFLICT: verdict.conflict,
                Reason.SINGLE_LINE: verdict.needs_vi,
                Reason.BAL: verdict.is_qso & (p_bal > BORDERLINE[0]) & (p_bal < BORDERLINE[1]),
            }
            parts.append(wrong + sum(WEIGHTS[reason] * mask for reason, mask in reasons.items()))
        return np.concatenate(parts)

    @property
    def _everything(self) -> NDArray[np.int64]:
        return np.arange(len(self.pool.columns["CLASS"]))

    def chosen(self, what: Run) -> NDArray[np.int64]:
        """Return the rows of the pool that are ruled on."""
        order = np.random.default_rng(what.seed).permutation(len(self._everything))
        there = order[: round(CHOICE * len(order))]
        if what.order == "ranked":
            there = there[np.argsort(-self.worth[there], kind="stable")]
        return there[: what.n or None]

    def run(self, what: Run) -> dict[str, Any]:
        """Learn, if that is not done; return scores."""
        folder = self.options.runs / "learnt" / what.name
        done = folder / "scores.json"
        if not done.exists():
            firm = np.intersect1d(self.chosen(what), self.pool.rows)
            verdicts = self.pool.subset(firm)
            found: dict[str, Any] = {"firm": len(firm)}
            quasar = self.pool.columns["CLASS"][firm] == QSO
            if quasar.any() and not quasar.all():
                parts = divided(verdicts, what.seed)
                about = f"{what.n} simulated verdicts"
                tuned = tune(
                    *(self.start, self.tuning, verdicts, parts, self.rehearsal, folder, about),
                    seed=what.seed,
                    precision="fp32",
                )
                _, tried = compared(self.start, tuned.model, verdicts, parts, self.rehearsal)
                found |= self.scores(tuned.model) | {"worse": [place.what for place in setbacks(tried)]}
            else:
                found |= self.scores(self.start) | {"worse": []}  # nothing can be learnt from one class
            done.parent.mkdir(parents=True, exist_ok=True)
            done.write_text(json.dumps(found))
        scores: dict[str, Any] = json.loads(done.read_text())
        say(f"{what.name}: {scores}")
        return scores

    def scores(self, model: Model) -> dict[str, float]:
        """Return the scores of a model on the part of the survey that nothing is learnt from."""
        sample = judged(model, of_set(self.test))
        assert sample is not None
        found = score(sample)
        return {
            "purity": found.purity.value,
            "completeness": found.completeness.value,
            "catastrophic": found.catastrophic.value,
            "nmad": redshift_scatter(sample).right.nmad,
        }


# ---- the text


def spread(values: list[float], digits: int = 2, factor: float = 100) -> str:
    """Return mean and standard deviation over seeds."""
    x = factor * np.array(values)
    return f"{x.mean():.{digits}f}" + (f" ± {x.std(ddof=1):.{digits}f}" if len(x) > 1 else "")


def results_table(start: Mapping[str, float], results: Mapping[tuple[int, str], list[dict[str, Any]]]) -> str:
    """Return a row a number of verdicts and way to choose them."""

    def cells(runs: list[Mapping[str, Any]]) -> list[str]:
        shares = [spread([run[name] for run in runs]) for name in ("purity", "completeness", "catastrophic")]
        return [*shares, spread([run["nmad"] for run in runs], 0, 1)]

    rows = [("0", "", *cells([start]), "", "")]
    for (n, order), runs in results.items():
        shipped = sum(not run["worse"] for run in runs)
        firm = spread([run["firm"] for run in runs], 0, 1)
        rows.append((f"{n:,}", order, *cells(list(runs)), firm, f"{shipped} of {len(runs)}"))
    header = ("verdicts", "chosen", "purity %", "completeness %", "catastrophic %", "NMAD km/s")
    return table((*header, "of these firm", "let go"), rows)


def figure(
    start: Mapping[str, float], results: Mapping[tuple[int, str], list[dict[str, Any]]], path: Path
) -> None:
    """Draw purity and completeness against verdicts; bars are the standard deviation over seeds."""
    with style():
        drawn, panels = canvas(2, 1, (5.0, 6.0), share=True)
        for axes, name, colour in zip(
            panels[:, 0], ("purity", "completeness"), (PURITY, COMPLETENESS), strict=True
        ):
            for order, marker, line in (("ranked", "o", "-"), ("random", "s", "--")):
                points = {
                    n: [run[name] for run in runs] for (n, how), runs in results.items() if how == order
                }
                axes.errorbar(
                    list(points),
                    [np.mean(values) for values in points.values()],
                    [np.std(values, ddof=1) if len(values) > 1 else 0 for values in points.values()],
                    color=colour,
                    marker=marker,
                    linestyle=line,
                    capsize=3,
                    label=order,
                )
            everything = [run[name] for (_, how), runs in results.items() if how == "all" for run in runs]
            axes.axhline(start[name], color=GREY, linestyle=":", label="start")
            if everything:
                axes.axhline(float(np.mean(everything)), color=GREY, label="all of the survey")
            as_percent(axes.yaxis)
            axes.set(xscale="log", ylabel=f"{name} (%)")
            legend(axes)
        panels[-1, 0].set_xlabel("verdicts")
        note_simulated(drawn)
        drawn.savefig(path, dpi=150)


def experiment(options: argparse.Namespace) -> str:
    """Do it all; return the text."""
    it = Experiment(options)
    start = it.scores(it.start)
    say(f"start: {start}")
    seeds = range(options.seeds)
    results: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for n in options.verdicts:
        for order in ORDERS:
            results[n, order] = [it.run(Run(order, n, seed)) for seed in seeds]
    n_all = round(CHOICE * len(it.worth))
    results[n_all, "all"] = [it.run(Run("random", 0, seed)) for seed in seeds]
    options.figures.mkdir(parents=True, exist_ok=True)
    figure(start, results, options.figures / "learn.png")
    text = (
        f"{results_table(start, results)}\n\nMean ± standard deviation over {options.seeds} seeds, on "
        f"{len(it.test):,} spectra that nothing was learnt from, where the inspector could be sure. Let go: "
        f"runs that the gate found worse nowhere. Networks of {options.filters} filters. Simulated."
    )
    if math.isfinite(reached := _as_good(start, results)):
        text += f" Ranked verdicts reach the mean of both scores that all verdicts reach at {reached:,.0f}."
    return text


def _as_good(start: Mapping[str, float], results: Mapping[tuple[int, str], list[dict[str, Any]]]) -> float:
    """Return the least number of ranked verdicts as good as all, within an rms of seeds; inf if none is."""

    def means(runs: list[dict[str, Any]]) -> NDArray[np.float64]:
        return np.array([(run["purity"] + run["completeness"]) / 2 for run in runs])

    (everything,) = (means(runs) for (_, order), runs in results.items() if order == "all")
    level = everything.mean() - everything.std()
    good = [n for (n, order), runs in results.items() if order == "ranked" and means(runs).mean() >= level]
    return min(good, default=math.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--verdicts", type=int, nargs="+", default=list(VERDICTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pool", type=int, default=14_000, help="spectra to choose from")
    parser.add_argument("--test", type=int, default=8_000, help="spectra to be scored on")
    parser.add_argument("--n-start", type=int, default=30_000, help="clean spectra the start learns from")
    parser.add_argument("--epochs", type=int, default=6, help="of the start")
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    options.runs, options.figures = options.runs.resolve(), options.figures or options.runs
    torch.compiler.set_stance("force_eager")  # compiling takes as long as many of these runs
    text = experiment(options)
    print(text)
    if options.output:
        shown = os.path.relpath(options.figures / "learn.png", options.output.parent)
        text += f"\n\n![Purity and completeness against the number of verdicts]({shown})"
        write_between(options.output, "learn.py", text)


if __name__ == "__main__":
    main()
