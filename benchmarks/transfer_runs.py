"""A pair of simulated archives and the trainings on them that benchmarks/transfer.py compares."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow.parquet as pq
import torch
from astropy.table import Table
from numpy.typing import NDArray

from broadline.evaluation.candidates import Confusion
from broadline.flags import UNCLASSIFIED
from broadline.inputs import expand, read_group
from broadline.model import Model
from broadline.named_models import load_model
from broadline.networks.convnet import ConvNet
from broadline.networks.graph import parameters_of
from broadline.pipeline import plan
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
from real_sky import one_epoch, read_labels

Mask = NDArray[np.bool_]
CORAL = "coral"  # begins the kinds of runs with alignment; its weight ends them
FROM_SOURCE = ("transfer", "per-step")
CHECK_EVERY = 20  # steps, where F1 is checked within epochs
REAL = ("sdss", "boss", "eboss", "lamost")
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


class Beside:
    """Trainings beside each other, each in a worker process; on one GPU, or on many cores.

    Parameters
    ----------
    pair : Archives
    workers : int
    """

    def __init__(self, pair: Archives, workers: int) -> None:
        self.workers, self._started = workers, dict[Run, Future[None]]()
        pair.source, pair.target  # noqa: B018 (made before workers look for them)
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, context, _begin, (pair.options, workers))

    def start(self, runs: Iterable[Run]) -> list[Future[None]]:
        """Queue trainings that are not yet; a source model is to be done before what begins from it."""
        runs = list(runs)
        for each in runs:
            if each not in self._started:
                self._started[each] = self._pool.submit(_run, each)
        return [self._started[each] for each in runs]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Wait for all; the first that failed is told, and ends those that have not begun."""
        try:
            if kind is None:
                for each in as_completed(self._started.values()):
                    each.result()
        finally:
            self._pool.shutdown(cancel_futures=True)


_pair: Archives


def _begin(options: argparse.Namespace, workers: int) -> None:
    global _pair
    _pair = Archives(options)
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))
    torch.compiler.set_stance("force_eager")  # compiling takes as long as many of these runs


def _run(what: Run) -> None:
    run(_pair, what)
    if "real" in _pair.options.only and not what.n:
        real(_pair, what, _pair.options.data)


def _source_of(what: Run) -> Run:
    return replace(what, kind="source", n=0)


def train_source(pair: Archives, what: Run, folder: Path) -> Path:
    """Train on LAMOST: step 2 of the publication, section 3."""
    split = pair.split(pair.source)
    preset = _preset(pair, what.net, pair.options.batch)
    whole = PreparedSet(pair.source.folder, preset, what.seed)
    return _fit(pair, preset, whole.subset(split.training), whole.subset(split.validation), folder, what.seed)


def train(pair: Archives, what: Run, folder: Path) -> Path:
    """Train on SDSS, in one of the ways that are compared; as many labels say when to stop.

    An epoch has as many steps with few labels as with all: early stopping would else stop after a few steps.
    Their batches are smaller and noisier, so that twice as many epochs and as much patience are allowed.
    """
    whole = pair.split(pair.target)
    split = whole.limited(what.n, what.seed) if what.n else whole
    batch = _few(what.n, pair.options.batch) if what.n else pair.options.batch
    n_batches = len(whole.training) // pair.options.batch
    preset = _preset(pair, what.net, batch, 2 if what.n else 1)
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


def _few(n_labels: int, batch: int) -> int:
    """Return what a batch holds of few labels: a power of two, about as many as there are batches of them."""
    return min(batch, 2 ** int(math.log2(n_labels) / 2))


def _preset(pair: Archives, net: str, batch: int, longer: int = 1) -> Preset:
    epochs, patience = longer * pair.options.epochs, longer * pair.options.patience
    return replace(PRESETS[net], batch=batch, epochs=epochs, patience=patience)


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
    """Return what a model says of each spectrum of a set, on a GPU where there is one."""
    batches = (batch.x for batch in part.ordered())
    if not torch.cuda.is_available():
        return np.concatenate([model.probability(x.numpy()) for x in batches])
    network = ConvNet.from_parameters(model.recipe.network, parameters_of(model.content)).cuda().eval()
    with torch.no_grad():
        return np.concatenate([network(x.cuda()).probability.cpu().numpy() for x in batches])


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


class RealSpectra(NamedTuple):
    """Real spectra with labels, represented: arrays of a row each."""

    values: NDArray[np.float32]
    flags: NDArray[np.uint32]
    source: NDArray[np.str_]
    row: NDArray[np.int64]


def read_real(pair: Archives, data: Path) -> RealSpectra:
    """Return the real spectra of all archives; they are read once, and kept."""
    path = pair.options.runs / "real.npz"
    if not path.exists():
        representation = PRESETS[pair.options.net].representation
        parts = []
        for unit in plan(expand([data / "real"])):
            for spectra in read_group(unit.archive, unit.paths, 256, unit.faults):
                seen, ids = representation(spectra), spectra.ids
                source = [Path(name).relative_to(data).as_posix() for name in ids["SOURCE"]]
                parts.append((seen.values, seen.flags, source, ids["ROW"]))
        whole = RealSpectra(*map(np.concatenate, zip(*parts, strict=True)))
        aside = path.with_name(f".{os.getpid()}.npz")
        np.savez(aside, **whole._asdict())
        aside.replace(path)
    with np.load(path) as file:
        return RealSpectra(*(file[name] for name in RealSpectra._fields))


def real(pair: Archives, what: Run, data: Path) -> dict[str, dict[str, int]]:
    """Return the confusion on real spectra of each archive, and how many were not classified."""
    folder = pair.folder(what)
    done = folder / "real.json"
    if not done.exists():
        spectra = read_real(pair, data)
        labels = read_labels(data, list(zip(spectra.source.tolist(), spectra.row.tolist(), strict=True)))
        seen = (spectra.flags & UNCLASSIFIED) == 0
        model = load_model(folder / "model.onnx")
        called = model.probability(spectra.values) > model.rule.c_th
        counts = {}
        for archive in REAL:
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
