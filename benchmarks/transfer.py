"""The experiment of Podsztavek, Skoda & Tvrdik (2021) on a simulated pair, with controls: docs/transfer.md.

    python benchmarks/transfer.py DATA --runs FOLDER [--only data selection full curves real]
                                  [-o docs/transfer.md --figures docs/figures]

LAMOST and SDSS are simulated with the mismatch of the publication's archives, labelled by membership of their
quasar catalogues, of which that of SDSS is made as incomplete as the real one was found to be. What is true
plays the inspector. Controls have the same labels, steps an epoch, epochs and patience as transfer has. What
is in FOLDER is not done again, and what was stopped goes on; the text is of all parts that are finished. DATA
holds the real spectra; nothing is trained or chosen on them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from astropy.table import Table
from numpy.typing import NDArray

from broadline.evaluation.candidates import Confusion
from broadline.evaluation.drawing import OTHERS, canvas, legend, note_simulated, style
from broadline.flags import UNCLASSIFIED
from broadline.model import Model, load_model
from broadline.pipeline import ModelChoice, classify
from broadline.progress import say
from broadline.simulation.recipe import RECIPES
from broadline.simulation.survey import Request, simulate
from broadline.training.align import Cycled, Pair, aligned
from broadline.training.dataset import PreparedSet
from broadline.training.fit import ReadAgain, TrainingData, fit
from broadline.training.logs import best_scores
from broadline.training.prepare import prepare
from broadline.training.presets import PRESETS, Preset
from broadline.training.splits import Sizes, Split, sized_split
from broadline.training.transfer import Start, start_from
from broadline.truth import QSO
from markers import write_between
from real_sky import NOTHING, one_epoch, read_labels, table

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

PARTS = ("data", "selection", "full", "curves", "real")
NETS = ("mlp", "vgg-a", "vgg-b", "vgg-d", "vgg-e")
LABELS = (100, 300, 1000, 3000, 10_000)
#: What is trained on the target, and in which words.
KINDS = {
    "transfer": "transfer: fine-tuned from the LAMOST model",
    "scratch": "scratch: from random weights",
    "pooled": "pooled: both archives, half a batch each",
    "coral": "aligned: pooled, with Deep CORAL",
    "per-step": "transfer, best F1 of checks within epochs",
}
CORAL = "coral"  # begins the kinds of runs with alignment; its weight ends them
FROM_SOURCE = ("transfer", "per-step")
SOURCE = "source: the LAMOST model as it is"
CURVES = ("transfer", "scratch", "pooled")
#: Steps of an epoch, at least: early stopping on a few labels would else stop after a few steps.
SHORTEST = 30
CHECK_EVERY = 20  # steps, where F1 is checked within epochs
SPLIT_SEED, SURVEY_SEEDS = 7, {"lamost": 1, "sdss": 2}


# ---- the pair of archives


def make(archive: str, options: argparse.Namespace) -> PreparedSet:
    """Return an archive as a training set; simulate and prepare what is not there."""
    folder, preset = options.runs / archive, PRESETS[options.net]
    recipe = RECIPES[archive]
    if archive == "lamost":
        others = 1 - options.source_quasars
        mix = {"QSO": options.source_quasars, "STAR": 0.98 * others, "GALAXY": 0.02 * others}
        recipe = replace(recipe, mix=mix)
    request = Request.of(archive, options.n[archive], SURVEY_SEEDS[archive], recipe, options.templates)
    simulate(request, folder / "survey")
    known = (
        [_listed_in_part(folder, options.uninspected)] if archive == "sdss" else _filled(folder / "survey")
    )
    prepare([folder / "survey"], known, folder / "set", preset.representation, rest_is_other=True)
    return PreparedSet(folder / "set", preset)


def _filled(survey: Path) -> list[Path]:
    """Return the quasar catalogues of LAMOST that list any."""
    return [path for path in sorted(survey.glob("lamost_dr*_quasars.fits")) if len(Table.read(path))]


def _listed_in_part(folder: Path, uninspected: float) -> Path:
    """Write the simulated DR14Q without quasars of which the inspector was not sure, or which he never saw.

    Of what the publication's network called quasar and DR14Q did not list, 1,164 were quasars beside 14,277
    that it lists: it lacks 7.5 %, most of them because they were no targets of quasar programmes.
    """
    path = folder / f"known-{uninspected:g}.fits"
    if not path.exists():
        truth = pq.read_table(folder / "survey" / "truth.parquet", columns=["THING_ID", "Z_CONF_PERSON"])
        sure = np.unique(np.asarray(truth["THING_ID"])[np.asarray(truth["Z_CONF_PERSON"]) >= 3])
        whole = Table.read(folder / "survey" / "DR14Q_v4_4.fits")
        seen = np.random.default_rng(SPLIT_SEED).random(len(whole)) >= uninspected
        aside = path.with_name(f".{path.stem}.part.fits")
        whole[np.isin(whole["THING_ID"], sure) & seen].write(aside, overwrite=True)
        aside.replace(path)
    return path


@dataclass
class Archives:
    """Both archives, how they are split, and what is true of the target."""

    options: argparse.Namespace

    @cached_property
    def source(self) -> PreparedSet:
        """LAMOST."""
        return make("lamost", self.options)

    @cached_property
    def target(self) -> PreparedSet:
        """SDSS."""
        return make("sdss", self.options)

    def folder(self, what: Run) -> Path:
        """Return where a training is."""
        return self.options.runs / "models" / what.name

    def split(self, whole: PreparedSet) -> Split:
        """Return the parts of an archive, the same for all runs."""
        sizes = Sizes(self.options.validation, self.options.test)
        return sized_split(whole.columns["OBJECT"], sizes, SPLIT_SEED)

    @cached_property
    def truth(self) -> dict[str, NDArray[Any]]:
        """TRUE_CLASS, TRUE_Z and the pipeline's class of each row of the target set."""
        columns = ["PLATE", "MJD", "FIBERID", "TRUE_CLASS", "TRUE_Z", "FIT_CLASS"]
        truth = pq.read_table(self.options.runs / "sdss" / "survey" / "truth.parquet", columns=columns)
        ids = zip(*(truth[name].to_pylist() for name in columns[:3]), strict=True)
        row = {f"{plate:04d}-{mjd}-{fiber:04d}": i for i, (plate, mjd, fiber) in enumerate(ids)}
        rows = [row[name.removeprefix("spec-")] for name in self.target.names(self.target.rows)]
        pipeline = np.array([fits[0] for fits in truth["FIT_CLASS"].to_pylist()])
        return {
            "quasar": (np.array(truth["TRUE_CLASS"]) == "QSO")[rows],
            "z": np.asarray(truth["TRUE_Z"])[rows],
            "pipeline": pipeline[rows],
            "listed": self.target.columns["CLASS"] == QSO,
        }


# ---- one training


@dataclass(frozen=True)
class Run:
    """A training: of which kind, which net, on how many labels of the target (0: all), with which seed."""

    kind: str
    net: str
    n: int
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.kind}-{self.net}-{self.n or 'all'}-{self.seed}"


def run(pair: Archives, what: Run) -> dict[str, Any]:
    """Train, if that is not done; return scores."""
    folder = pair.folder(what)
    done = folder / "scores.json"
    if not done.exists():
        if what.kind in FROM_SOURCE:
            run(pair, _source_of(what))
        start = time.monotonic()
        path = train_source(pair, what, folder) if what.kind == "source" else train(pair, what, folder)
        scores = {"validation": best_scores(folder), "seconds": time.monotonic() - start}
        scores |= score(pair, what, load_model(path), folder)
        done.write_text(json.dumps(scores))
    scores = json.loads(done.read_text())
    test = Confusion(**scores["test"])
    said = f"F1 {scores['validation']['f1']:.4f} on validation, {test.f1:.4f} on test"
    say(f"{what.name}: {said}, {scores['seconds']:.0f} s")
    return scores


def _source_of(what: Run) -> Run:
    return replace(what, kind="source", n=0)


def train_source(pair: Archives, what: Run, folder: Path) -> Path:
    """Train on LAMOST: step 2 of the publication, section 3."""
    preset = _preset(pair, what.net, 256 if len(pair.source) > 2560 else 64)
    whole = PreparedSet(pair.source.folder, preset, what.seed)
    split = pair.split(whole)
    return _fit(pair, preset, whole.subset(split.training), whole.subset(split.validation), folder, what.seed)


def train(pair: Archives, what: Run, folder: Path) -> Path:
    """Train on SDSS, in one of the ways that are compared; as many labels say when to stop."""
    whole = pair.split(pair.target)
    split = whole.limited(what.n, what.seed) if what.n else whole
    # A batch is a third of few labels, so that they are shuffled; and a power of two.
    batch = min(256, 2 ** int(math.log2(len(split.training) / 3)))
    n_batches = max(SHORTEST, len(split.training) // batch)
    preset = _preset(pair, what.net, batch)
    target = PreparedSet(pair.target.folder, preset, what.seed)
    order = np.random.default_rng(what.seed).permutation(len(split.validation))
    held_out = target.subset(split.validation[order[: what.n or None]])
    learnt = target.subset(split.training)
    data: TrainingData = Cycled(learnt, batch, n_batches)
    start, check_every = None, None
    if what.kind in FROM_SOURCE:
        model = load_model(pair.folder(_source_of(what)) / "model.onnx")
        start = start_from(model, preset.network)
    elif what.kind == "pooled" or what.kind.startswith(CORAL):
        other = PreparedSet(pair.source.folder, preset, what.seed)
        other = other.subset(pair.split(other).training)
        data = Pair(other, learnt, batch, n_batches)
    if what.kind == "per-step":
        preset, check_every = replace(preset, monitor="f1"), CHECK_EVERY
    elif what.kind.startswith(CORAL):
        preset = aligned(preset, float(what.kind.removeprefix(CORAL)))
    return _fit(pair, preset, data, held_out, folder, what.seed, start, check_every)


def _preset(pair: Archives, net: str, batch: int) -> Preset:
    return replace(PRESETS[net], batch=batch, epochs=pair.options.epochs, patience=pair.options.patience)


def _fit(
    pair: Archives,
    preset: Preset,
    data: TrainingData,
    held_out: PreparedSet,
    folder: Path,
    seed: int,
    start: Start | None = None,
    check_every: int | None = None,
) -> Path:
    sets = hashlib.sha256(f"{pair.source.sha256} {pair.target.sha256}".encode()).hexdigest()
    validation = ReadAgain(held_out.ordered)
    return fit(
        preset,
        data,
        validation,
        folder,
        seed=seed,
        fingerprint=sets,
        start=start,
        check_every=check_every,
    )


# ---- its scores


def probabilities(model: Model, part: PreparedSet) -> NDArray[np.float32]:
    """Return what a model says of each spectrum of a set."""
    return np.concatenate([model.probability(batch.x.numpy()) for batch in part.ordered()])


def confusion(called: Mask, listed: Mask) -> dict[str, int]:
    """Return the counts of `Confusion`."""
    cells = {"right": called & listed, "missed": ~called & listed, "wrong": called & ~listed}
    cells["other"] = ~called & ~listed
    return {name: int(cell.sum()) for name, cell in cells.items()}


def score(pair: Archives, what: Run, model: Model, folder: Path) -> dict[str, Any]:
    """Return the confusion on the test part before and after inspection; keep what is said of all spectra."""
    test = pair.split(pair.target).test
    rows = test if what.n else pair.target.rows
    p = probabilities(model, pair.target.subset(rows))
    np.save(folder / "probabilities.npy", p)
    called = np.zeros(len(pair.target), dtype=bool)
    called[rows] = p > model.rule.c_th
    listed, quasar = pair.truth["listed"], pair.truth["quasar"]
    # Inspectors look at what is called and not listed; nobody looks for what is missed.
    after = listed | (called & quasar)
    scores = {
        "test": confusion(called[test], listed[test]),
        "after": confusion(called[test], after[test]),
        "true": confusion(called[test], (listed | quasar)[test]),
    }
    if what.kind == "source":
        own = pair.source.subset(pair.split(pair.source).test)
        said = probabilities(model, own) > model.rule.c_th
        scores["own"] = confusion(said, pair.source.columns["CLASS"][own.rows] == QSO)
    return scores


def real(pair: Archives, what: Run, data: Path) -> dict[str, dict[str, int]]:
    """Return the confusion on real spectra of each archive, and how many were not classified."""
    folder = pair.folder(what)
    done = folder / "real.json"
    if not done.exists():
        catalogue = folder / "real.parquet"
        classify([data / "real"], catalogue, ModelChoice(str(folder / "model.onnx")))
        found = pq.read_table(catalogue, columns=["SOURCE", "ROW", "IS_QSO", "FLAGS"]).to_pydict()
        keys = [
            (Path(source).relative_to(data).as_posix(), 0 if row is None else row)
            for source, row in zip(found["SOURCE"], found["ROW"], strict=True)
        ]
        labels = read_labels(data, keys)
        seen = (np.array(found["FLAGS"]) & UNCLASSIFIED) == 0
        called = np.array([bool(x) for x in found["IS_QSO"]])
        counts = {}
        for archive in ("sdss", "boss", "eboss", "lamost"):
            known = (
                labels.scored & (labels.survey == archive) & np.isin(labels.kind, ("QSO", "STAR", "GALAXY"))
            )
            rows = one_epoch(labels, known & seen)
            counts[archive] = confusion(called[rows], labels.kind[rows] == "QSO")
            counts[archive]["unclassified"] = int((known & ~seen).sum())
        done.write_text(json.dumps(counts))
    counts = json.loads(done.read_text())
    say(f"{what.name} on real spectra: {counts}")
    return counts


# ---- the text


def spread(values: Iterable[float], digits: int = 4, factor: float = 1.0) -> str:
    """Return mean and standard deviation over the seeds that have a value."""
    x = factor * np.array(list(values))
    x = x[np.isfinite(x)]
    if not len(x):
        return NOTHING
    return f"{x.mean():.{digits}f}" + (f" ± {x.std(ddof=1):.{digits}f}" if len(x) > 1 else "")


def _each(runs: Sequence[dict[str, Any]], key: str, get: Callable[[Confusion], float]) -> list[float]:
    return [get(Confusion(**scores[key])) for scores in runs]


def data_table(pair: Archives) -> str:
    """Return table 1 of the publication: spectra and listed quasars of each part."""
    rows = []
    for name, whole in (("LAMOST", pair.source), ("SDSS", pair.target)):
        quasar = whole.columns["CLASS"] == QSO
        cells = [f"{len(part):,} ({quasar[part].sum():,})" for part in pair.split(whole).parts.values()]
        rows.append((name, *cells, f"{100 * quasar.mean():.2f}"))
    unlisted = pair.truth["quasar"] & ~pair.truth["listed"]
    share = unlisted.sum() / (unlisted | pair.truth["listed"]).sum()
    return (
        table(("archive", "training (quasars)", "validation", "test", "quasars %"), rows)
        + f"\n\nOf the quasars of SDSS {100 * share:.1f} % ({unlisted.sum():,}) are not in its catalogue."
    )


def selection_table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return the F1 of each net on validation."""
    rows = []
    for net, scores in runs.items():
        shapes = PRESETS[net].network.shapes().values()
        n = sum(math.prod(shape) for shape in shapes)
        found = spread(each["validation"]["f1"] for each in scores)
        rows.append((net, f"{n / 1e6:.2f}", found, spread((each["seconds"] for each in scores), 0)))
    return table(("net", "million parameters", "F1 on SDSS validation", "seconds"), rows)


def full_table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return the publication's result for each way, before and after inspection."""
    header = ("", "seeds", "right / missed / wrong", *("precision %", "recall %", "F1"))
    after = ("confirmed", "precision % after", "recall % after", "F1 after", "recall % of all quasars")
    rows = []
    for name, scores in runs.items():
        cells = [spread((each["test"][key] for each in scores), 0) for key in ("right", "missed", "wrong")]
        confirmed = spread((each["after"]["right"] - each["test"]["right"] for each in scores), 0)
        quality = [
            [
                spread(_each(scores, key, lambda found: found.precision.value), 2, 100),
                spread(_each(scores, key, lambda found: found.recall.value), 2, 100),
                spread(_each(scores, key, lambda found: found.f1)),
            ]
            for key in ("test", "after")
        ]
        whole = spread(_each(scores, "true", lambda found: found.recall.value), 2, 100)
        rows.append((name, len(scores), " / ".join(cells), *quality[0], confirmed, *quality[1], whole))
    return table((*header, *after), rows)


def curves_table(curves: dict[int, dict[str, list[float]]]) -> str:
    """Return F1 against the number of labels, and by how much transfer is better, seed by seed."""
    rows = []
    for n, by_kind in curves.items():
        cells = [spread(by_kind.get(kind, [])) for kind in CURVES]
        gain = [a - b for a, b in zip(by_kind.get("transfer", []), by_kind.get("scratch", []), strict=False)]
        rows.append((f"{n:,}", *cells, spread(gain)))
    return table(("labels", *CURVES, "transfer - scratch"), rows)


def candidates_table(pair: Archives, full: dict[str, list[Run]]) -> str:
    """Return what one way calls, of all SDSS spectra, that the catalogue lacks and another does not call.

    Two trainings from scratch say how many differ by chance.
    """
    new, quasar = ~pair.truth["listed"], pair.truth["quasar"]
    transfer, scratch = (
        [np.load(pair.folder(each) / "probabilities.npy") > 0.5 for each in full[KINDS[kind]]]
        for kind in ("transfer", "scratch")
    )
    cases = {
        "transfer, not scratch": list(zip(transfer, scratch, strict=True)),
        "scratch, not transfer": list(zip(scratch, transfer, strict=True)),
        "scratch, not scratch of another seed": list(pairwise(scratch)),
    }
    rows = []
    for name, pairs in cases.items():
        found = [one & ~other & new for one, other in pairs]
        rows.append(
            (
                name,
                spread(((one & new).sum() for one, _ in pairs), 0),
                spread((alone.sum() for alone in found), 1),
                spread(((alone & quasar).sum() for alone in found), 1),
            )
        )
    return table(("called by", "candidates", "called by it alone", "of these quasars"), rows)


def real_table(runs: dict[str, list[dict[str, dict[str, int]]]]) -> str:
    """Return precision and recall on real spectra by archive; of those without quasars, what is called."""
    rows = []
    for name, counts in runs.items():
        for archive in counts[0]:
            not_seen = [each[archive]["unclassified"] for each in counts]
            cells = [{k: v for k, v in each[archive].items() if k != "unclassified"} for each in counts]
            found = [Confusion(**cell) for cell in cells]
            wrong = np.mean([x.wrong for x in found])
            n_quasars, n = found[0].right + found[0].missed, found[0].wrong + found[0].other
            precision = spread((x.precision.value for x in found), 1, 100) if n_quasars else NOTHING
            recall = spread((x.recall.value for x in found), 1, 100) if n_quasars else NOTHING
            called = f"{spread((x.wrong for x in found), 1)} ({100 * wrong / max(n, 1):.1f} %)"
            rows.append((name, archive, n_quasars, n, precision, recall, called, not_seen[0]))
    header = ("model", "archive", "quasars", "others", "precision %", "recall %", "others called")
    return table((*header, "not covered"), rows)


# ---- figures


def curves_figure(curves: dict[int, dict[str, list[float]]], path: Path) -> None:
    """Draw F1 against labels; bars are the standard deviation over seeds."""
    with style():
        figure, ((axes,),) = canvas()
        for kind, colour in zip(CURVES, OTHERS, strict=False):
            mean = [np.mean(by_kind[kind]) for by_kind in curves.values()]
            bar = [np.std(by_kind[kind], ddof=1) for by_kind in curves.values()]
            axes.errorbar(list(curves), mean, bar, color=colour, marker="o", capsize=3, label=kind)
        axes.set(xscale="log", xlabel="SDSS labels", ylabel="F1 on the SDSS test part")
        legend(axes)
        note_simulated(figure)
        figure.savefig(path, dpi=150)


def discovered_figure(pair: Archives, what: Run, path: Path) -> str:
    """Draw quasars that a model finds, the catalogue lacks and the pipeline calls stars; say how many."""
    p, truth = np.load(pair.folder(what) / "probabilities.npy"), pair.truth
    candidate = (p > 0.5) & ~truth["listed"]
    kinds, counts = np.unique(truth["pipeline"][candidate], return_counts=True)
    said = ", ".join(f"{kind} {n:,}" for kind, n in zip(kinds, counts, strict=True))
    stars = np.flatnonzero(candidate & (truth["pipeline"] == "STAR"))
    found = stars[truth["quasar"][stars]]
    shown = found[np.argsort(-p[found])][:4]
    text = (
        f"Of the {candidate.sum():,} candidates of {what.name} in all SDSS spectra the pipeline calls "
        f"{said or 'none anything'}; of the {len(stars):,} stars among them {len(found):,} are quasars."
    )
    if not len(shown):
        return text
    with style():
        figure, panels = canvas(len(shown), 1, (5.0, 0.4 + 1.3 * len(shown)), share=True)
        centres = pair.target.preset.representation.grid.centres
        for row, axes in zip(shown, panels[:, 0], strict=True):
            (batch,) = pair.target.subset(np.array([row])).ordered()
            axes.plot(centres, batch.x[0].numpy(), color=OTHERS[0], linewidth=0.5)
            title = f"z = {truth['z'][row]:.2f}, called a star by the pipeline"
            axes.set_title(title, loc="right", fontsize=8)
        panels[-1, 0].set(xlabel="wavelength (Angstrom)", ylabel="flux, as scaled")
        note_simulated(figure)
        figure.savefig(path, dpi=150)
    return f"{text} {len(shown)} of them are in the figure."


# ---- all of it


def experiment(pair: Archives, options: argparse.Namespace) -> list[str]:
    """Do what is wanted; return the text of it, and of what was done before."""
    seeds, net = range(options.seeds), options.net
    nets = {
        net: [Run("scratch", net, 0, i) for i in seeds[: options.selection_seeds]] for net in options.nets
    }
    kinds = {CORAL: _best_coral(pair, options)}
    full = {text: [Run(kinds.get(kind, kind), net, 0, i) for i in seeds] for kind, text in KINDS.items()}
    n_all = len(pair.split(pair.target).training)
    sizes = [*(n for n in options.labels if n < n_all), 0]
    curves = {n: {kind: [Run(kind, net, n, i) for i in seeds] for kind in CURVES} for n in sizes}

    def due(part: str, runs: Iterable[Run], file: str = "scores.json") -> bool:
        return part in options.only or all((pair.folder(each) / file).exists() for each in runs)

    sections = ["### Data\n\n" + data_table(pair)]
    if due("selection", chain(*nets.values())):
        done = {name: [run(pair, each) for each in runs] for name, runs in nets.items()}
        sections.append("### Which net\n\n" + selection_table(done))
    if due("full", chain(*full.values())):
        sections += full_text(pair, full, options)
    if due("curves", chain(*(runs for by_kind in curves.values() for runs in by_kind.values()))):
        f1 = {
            n or n_all: {
                kind: _each([run(pair, each) for each in runs], "test", lambda found: found.f1)
                for kind, runs in by_kind.items()
            }
            for n, by_kind in curves.items()
        }
        curves_figure(f1, options.figures / "transfer-curves.png")
        sections.append("### Learning curves\n\n" + curves_table(f1))
    models = full | {SOURCE: [Run("source", net, 0, i) for i in seeds]}
    if due("real", chain(*models.values()), "real.json"):
        counts = {text: [real(pair, each, options.data) for each in runs] for text, runs in models.items()}
        sections.append("### Real spectra\n\n" + real_table(counts))
    return sections


def _best_coral(pair: Archives, options: argparse.Namespace) -> str:
    """Return the runs with alignment whose weight has the best F1 on the target's validation set."""
    trials = [Run(f"{CORAL}{weight:g}", options.net, 0, 0) for weight in options.coral]
    if "full" in options.only or all((pair.folder(each) / "scores.json").exists() for each in trials):
        return max(trials, key=lambda each: float(run(pair, each)["validation"]["f1"])).kind
    return trials[0].kind


def full_text(pair: Archives, full: dict[str, list[Run]], options: argparse.Namespace) -> list[str]:
    """Return the results with all labels."""
    done = {text: [run(pair, each) for each in runs] for text, runs in full.items()}
    sources = [run(pair, Run("source", options.net, 0, i)) for i in range(options.seeds)]
    own = [
        spread(_each(sources, "own", lambda found: found.f1)),
        spread(_each(sources, "own", lambda found: found.precision.value)),
        spread(_each(sources, "own", lambda found: found.recall.value)),
    ]
    shown = discovered_figure(pair, full[KINDS["transfer"]][0], options.figures / "transfer-discovered.png")
    return [
        "### Results on the test part\n\n" + full_table(done | {SOURCE: sources}),
        f"The weight of alignment, {full[KINDS[CORAL]][0].kind.removeprefix(CORAL)}, is the best of "
        f"{', '.join(f'{weight:g}' for weight in options.coral)} by F1 on validation, with one seed.",
        "On the test part of LAMOST itself the source model has F1 {}, precision {}, recall {}.".format(*own),
        f"### Candidates\n\n{candidates_table(pair, full)}\n\n{shown}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--templates")
    parser.add_argument("--lamost", type=int, default=40_000, help="spectra")
    parser.add_argument("--sdss", type=int, default=20_000, help="spectra")
    parser.add_argument("--source-quasars", type=float, default=0.0035, help="share in LAMOST")
    parser.add_argument("--uninspected", type=float, default=0.05, help="share of quasars that nobody saw")
    parser.add_argument("--validation", type=float, default=0.1, help="share, or spectra")
    parser.add_argument("--test", type=float, default=0.3, help="share, or spectra")
    parser.add_argument("--net", choices=NETS, default="vgg-a")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="to choose from")
    parser.add_argument("--labels", type=int, nargs="+", default=list(LABELS))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--patience", type=int, default=2)
    parser.add_argument(
        "--coral", type=float, nargs="+", default=[1, 30, 1000], help="weights to choose from"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--selection-seeds", type=int, default=1)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    options.n = {"lamost": options.lamost, "sdss": options.sdss}
    options.runs, options.figures = options.runs.resolve(), options.figures or options.runs
    torch.compiler.set_stance("force_eager")  # compiling takes as long as many of these runs
    text = "\n\n".join(experiment(Archives(options), options))
    text += (
        f"\n\nMean ± standard deviation over seeds; {options.net}; at most {options.epochs} epochs, patience "
        f"{options.patience}. All but the real spectra: simulated."
    )
    print(text)
    if options.output:
        write_between(options.output, "transfer.py", text)


if __name__ == "__main__":
    main()
