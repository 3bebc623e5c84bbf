"""Libraries of clean spectra for training: sources on the network's bins, made by worker processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from broadline.grid import QUASARNET_LOG
from broadline.ordered import Workers
from broadline.resample import binned
from broadline.simulation.instruments import INSTRUMENTS
from broadline.simulation.recipe import RECIPES, SurveyRecipe
from broadline.simulation.sources import draw_classes, draw_sources
from broadline.simulation.stream import Library
from broadline.workers import available_cores, prepare

__all__ = ["TRAINING", "build_library", "training_redshifts"]

_CHUNK = 2000
#: Clean light does not depend on who looks at it; the widest window serves all.
_WINDOW = INSTRUMENTS["boss"].window

#: What a network for all surveys is trained on: every class, and broad absorption, in plenty.
TRAINING: SurveyRecipe = replace(
    RECIPES["boss"],
    mix={"QSO": 0.56, "STAR": 0.30, "GALAXY": 0.14},
    sky=0.04,
    dead=0.0,
    repeats=0.0,
    bal=0.30,
    narrow_line=0.02,
    displaced=0.08,
    redshifts={
        "QSO": RECIPES["boss"].redshifts["QSO"],
        "GALAXY": ((0.0, 1.0), (0.2, 1.2), (0.5, 1.0), (0.8, 0.6), (1.2, 0.2)),
    },
)


class _Job(NamedTuple):
    recipe: SurveyRecipe
    seed: int
    templates: str | None
    training_mix: bool


@dataclass(frozen=True, slots=True)
class _Chunk:
    flux: NDArray[np.float16]
    truth: dict[str, NDArray[Any]]
    troughs: NDArray[np.int64]
    bare: NDArray[np.float16]


def training_redshifts(classes: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return redshifts for training: of 0.6 of the quasars flat in z or ln(1 + z); NaN (the recipe's) else.

    A network learns the redshift distribution it is shown as it learns everything else; flat ones keep it
    from preferring z = 2.3. Near quasars, of many kinds and with hosts, come in plenty.
    """
    n = len(classes)
    z = np.full(n, np.nan)
    which = rng.random(n)
    flat = (classes == "QSO") & (which < 0.25)
    z[flat] = rng.uniform(0.02, 5.2, int(flat.sum()))
    flat = (classes == "QSO") & (which >= 0.25) & (which < 0.5)
    z[flat] = np.expm1(rng.uniform(np.log1p(0.02), np.log1p(5.2), int(flat.sum())))
    flat = (classes == "QSO") & (which >= 0.5) & (which < 0.6)
    z[flat] = rng.uniform(0.01, 1.0, int(flat.sum()))
    return z


def build_library(
    n: int,
    recipe: SurveyRecipe = TRAINING,
    seed: int = 0,
    templates: str | None = None,
    workers: int | None = None,
    training_mix: bool = True,
    on_chunk: Callable[[int], None] | None = None,
) -> Library:
    """Return a library of clean spectra; the same for any number of workers.

    Parameters
    ----------
    n : int
    recipe : SurveyRecipe
    seed : int
    templates : str, optional
        Templates folder.
    workers : int, optional
        Processes; as many as cores if not given.
    training_mix : bool
        Redshifts of `training_redshifts`, or the recipe's alone.
    on_chunk : callable, optional
        Told the number of spectra made so far.

    Returns
    -------
    Library
        Median flux 1 (float16); truth CLASS, SUBCLASS, Z, BI_CIV, AI_CIV, LOBAL.
    """
    jobs = [(number, min(_CHUNK, n - start)) for number, start in enumerate(range(0, n, _CHUNK))]
    processes = min(workers or available_cores(), len(jobs))
    chunks: list[_Chunk] = []
    with ExitStack() as stack:
        job = _Job(recipe, seed, templates, training_mix)
        results: Iterable[tuple[tuple[int, int], _Chunk]]
        if processes > 1:
            context = prepare(["broadline.simulation.library"])
            results = stack.enter_context(Workers(context, jobs, _make, processes, _start, (job,)))
        else:
            _start(job)
            results = ((each, _make(each)) for each in jobs)
        for _, chunk in results:
            chunks.append(chunk)
            if on_chunk:
                on_chunk(sum(len(c.flux) for c in chunks))
    starts = np.cumsum([0, *(len(chunk.flux) for chunk in chunks)])
    truth = {name: np.concatenate([c.truth[name] for c in chunks]) for name in chunks[0].truth}
    troughs = np.concatenate([c.troughs + start for c, start in zip(chunks, starts, strict=False)])
    bare = np.concatenate([chunk.bare for chunk in chunks])
    return Library(np.concatenate([chunk.flux for chunk in chunks]), truth, troughs, bare)


_job: _Job | None = None


def _start(job: _Job) -> None:
    global _job
    warnings.simplefilter("ignore")
    _job = job


def _make(piece: tuple[int, int]) -> _Chunk:
    assert _job is not None
    number, size = piece
    rng = np.random.default_rng([_job.seed, number])
    classes = draw_classes(_job.recipe, size, rng)
    z = training_redshifts(classes, rng) if _job.training_mix else None
    sources = draw_sources(_job.recipe, classes, _WINDOW, rng, _job.templates, z)
    scene = sources.scene
    return _Chunk(
        _on_bins(scene.flux, scene.wavelength),
        scene.truth,
        sources.troughs,
        _on_bins(sources.bare, scene.wavelength),
    )


def _on_bins(flux: NDArray[np.float32], wavelength: NDArray[np.float64]) -> NDArray[np.float16]:
    mean, _, _ = binned(flux, np.ones_like(flux), wavelength, QUASARNET_LOG)
    return np.clip(mean, -6e4, 6e4).astype(np.float16)
