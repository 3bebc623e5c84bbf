"""Batches of represented spectra for training, from clean ones in memory, with noise drawn anew each time."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from broadline.decision import SPEED_OF_LIGHT
from broadline.grid import QUASARNET_LOG
from broadline.lines import LINES
from broadline.representation import CONSTANT
from broadline.simulation import instrument
from broadline.simulation.coarse import Coarse, Exposed, blocks
from broadline.simulation.instruments import INSTRUMENTS

__all__ = ["Batch", "DrawSn", "Library", "Stream", "batches", "normalised"]

#: From rows of a library, the signal-to-noise ratio at which each is to be seen, shape (n_rows,).
DrawSn = Callable[[NDArray[np.int64], np.random.Generator], NDArray[Any]]

_GRID = QUASARNET_LOG
# What a library is checked in: so many rows at a time, lest the check take as much memory as the library.
_CHECKED = 1 << 14
_FASTEST = 25_000.0  # km / s: troughs of CIV are counted up to here (Weymann et al. 1991)


@dataclass(frozen=True, slots=True)
class Library:
    """Noise-free spectra on the bins of `QUASARNET_LOG`, and what is true of them.

    A million of them in float16 take 0.9 GB. Values below 6e-5 lose precision there: keep float16 spectra
    near 1, which changes nothing but for sky fibres (see `Coarse.observe`).

    Attributes
    ----------
    flux : ndarray of float32 or float16, shape (n_spectra, 443)
        Mean flux in each bin; 1e-17 erg / s / cm2 / Angstrom where it has no light (sky fibres), any unit
        elsewhere.
    truth : dict of str to ndarray, each of length n_spectra
        With CLASS and Z, the significance of features is told; other columns are the caller's.
    troughs : ndarray of int64, shape (n_troughs,), optional
        Spectra with broad absorption, rising; `truth` has a column Z then.
    bare : ndarray of float32 or float16, shape (n_troughs, 443), optional
        Their flux without it.

    Raises
    ------
    ValueError
        If a shape or type does not fit, or a flux is not finite.
    """

    flux: NDArray[np.float32] | NDArray[np.float16]
    truth: dict[str, NDArray[Any]]
    troughs: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    bare: NDArray[Any] = field(default_factory=lambda: np.empty((0, _GRID.size), dtype=np.float16))

    def __post_init__(self) -> None:
        if self.flux.ndim != 2 or self.flux.shape[1] != _GRID.size:
            raise ValueError(f"a library has spectra of {_GRID.size} bins; the shape is {self.flux.shape}")
        if self.flux.dtype not in (np.float32, np.float16):
            raise ValueError(f"a library holds float32 or float16, not {self.flux.dtype}")
        for start in range(0, len(self), _CHECKED):
            finite = np.isfinite(self.flux[start : start + _CHECKED]).all(axis=1)
            if not finite.all():
                raise ValueError(f"spectrum {start + int(finite.argmin())} of the library is not finite")
        if self.bare.shape != (len(self.troughs), _GRID.size):
            raise ValueError(f"bare has shape {self.bare.shape} for {len(self.troughs)} spectra with troughs")
        for name, column in self.truth.items():
            if len(column) != len(self):
                raise ValueError(f"column {name} has {len(column)} rows, the library {len(self)} spectra")

    def __len__(self) -> int:
        return len(self.flux)


class Batch(NamedTuple):
    """Spectra as a network eats them, those of one instrument after those of another.

    Attributes
    ----------
    values : ndarray of float32, shape (n_spectra, 443)
        As `Representation` of its default settings gives them.
    data : ndarray of bool, shape (n_spectra, 443)
        Bins that hold data.
    error : ndarray of float32, shape (n_spectra, 443)
        sqrt(ivar) rms: the signal-to-noise ratio of values of 1, 0 without data.
    rows : ndarray of int64, shape (n_spectra,)
        Which spectra of the library these are.
    sn : ndarray of float32, shape (n_spectra,)
        The median signal-to-noise ratio of a native pixel asked for; without meaning for sky fibres.
    significance, bal_significance : ndarray of float32, shape (n_spectra,)
        Noise-free chi2 of the features and of the CIV troughs, as in `inspection`; 0 without any.
    """

    values: NDArray[np.float32]
    data: NDArray[np.bool_]
    error: NDArray[np.float32]
    rows: NDArray[np.int64]
    sn: NDArray[np.float32]
    significance: NDArray[np.float32]
    bal_significance: NDArray[np.float32]


def _like_quasar_targets(rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
    return instrument.draw_sn(len(rows), rng)


def batches(
    library: Library,
    instruments: Mapping[str, float],
    batch: int,
    rng: np.random.Generator,
    draw_sn: DrawSn = _like_quasar_targets,
    gaps: float = 0.0,
) -> Iterator[Batch]:
    """Return one epoch: every spectrum of a library once, in random order, with noise of its own.

    Parameters
    ----------
    library : Library
    instruments : mapping of str to float
        Names from `INSTRUMENTS`, each with its share of the spectra; shares need not sum to 1.
    batch : int
        Spectra a batch; the last has what is left. From some 128 an instrument on, the cost is that of the
        arithmetic.
    rng : numpy.random.Generator
        It decides everything. `numpy.random.SFC64` is the fastest.
    draw_sn : callable
        The default is `instrument.draw_sn`.
    gaps : float
        Share of spectra that lack a stretch, as where an arm or an exposure failed.

    Raises
    ------
    ValueError
        If an instrument is unknown, a share or `batch` is impossible, or `draw_sn` returns what `Coarse` does
        not take.
    """
    unknown = sorted(set(instruments) - set(INSTRUMENTS))
    if unknown:
        raise ValueError(f"there is no instrument {unknown[0]!r}; there are {', '.join(INSTRUMENTS)}")
    share = np.array(list(instruments.values()), dtype=np.float64)
    if not (np.isfinite(share).all() and (share >= 0).all() and share.sum() > 0):
        raise ValueError(f"shares must be >= 0 and not all 0: {dict(instruments)}")
    if batch < 1:
        raise ValueError(f"a batch needs at least one spectrum, not {batch}")
    return _epoch(
        library, [_coarse(name) for name in instruments], share / share.sum(), batch, rng, draw_sn, gaps
    )


@lru_cache(maxsize=16)
def _coarse(name: str) -> Coarse:
    return Coarse(INSTRUMENTS[name], _GRID)


def _epoch(
    library: Library,
    cameras: list[Coarse],
    share: NDArray[np.float64],
    batch: int,
    rng: np.random.Generator,
    draw_sn: DrawSn,
    gaps: float,
) -> Iterator[Batch]:
    order = rng.permutation(len(library))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        sn = np.asarray(draw_sn(rows, rng), dtype=np.float32)
        values, error = np.empty((2, len(rows), _GRID.size), dtype=np.float32)
        data = np.empty(values.shape, dtype=np.bool_)
        seen_features, seen_troughs = np.empty((2, len(rows)), dtype=np.float32)
        ends = np.cumsum(rng.multinomial(len(rows), share))
        for camera, end, count in zip(cameras, ends, np.diff(ends, prepend=0), strict=True):
            for block in blocks(int(count)):
                part = slice(end - count + block.start, end - count + block.stop)
                clean = library.flux[rows[part]].astype(np.float32)
                seen = camera.expose(clean, sn[part], rng)
                if gaps:
                    _lose(seen, gaps, rng)
                data[part] = seen.data
                with np.errstate(over="ignore", invalid="ignore"):  # absurd fluxes have absurd significance
                    weight = seen.ivar * np.square(seen.scale)
                    seen_features[part] = np.einsum("ij,ij,ij->i", *[_features(clean)] * 2, weight)
                    seen_troughs[part] = _troughs(library, rows[part], clean, weight)
                normalised(seen, values[part], error[part])
        yield Batch(values, data, error, rows, sn, seen_features, seen_troughs)


def _lose(seen: Exposed, share: float, rng: np.random.Generator) -> None:
    """Take a stretch of 5 to 100 bins away from a share of spectra, in place."""
    rows = np.flatnonzero(rng.random(len(seen.flux)) < share)
    start = rng.integers(-50, _GRID.size, len(rows))[:, None]
    stop, at = start + rng.integers(5, 101, len(rows))[:, None], np.arange(_GRID.size)
    kept = (at < start) | (at >= stop)
    seen.flux[rows] *= kept
    seen.ivar[rows] *= kept
    seen.data[rows] &= kept


def _features(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return flux smoothed over 3 bins less flux smoothed over 71: what `inspection.significance` weighs."""
    total = np.zeros((len(clean), _GRID.size + 1), dtype=np.float32)
    np.cumsum(clean, axis=1, out=total[:, 1:])
    at = np.arange(_GRID.size)

    def smooth(half: int) -> NDArray[np.float32]:
        low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, _GRID.size)
        return np.asarray((total[:, high] - total[:, low]) / (high - low).astype(np.float32))

    return smooth(1) - smooth(35)


def _troughs(
    library: Library, rows: NDArray[np.int64], clean: NDArray[np.float32], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return chi2 of the CIV troughs: `inspection.bal_significance`."""
    out = np.zeros(len(rows), dtype=np.float32)
    if not len(library.troughs):
        return out
    place = np.minimum(np.searchsorted(library.troughs, rows), len(library.troughs) - 1)
    here = np.flatnonzero(library.troughs[place] == rows)
    depth = library.bare[place[here]].astype(np.float32) - clean[here]
    line = LINES["CIV"].wavelength * (1 + library.truth["Z"][rows[here]])
    ratio = _GRID.centres[None, :] / line[:, None]
    reach = (ratio > 1 - _FASTEST / SPEED_OF_LIGHT) & (ratio < 1)
    out[here] = np.einsum("ij,ij,ij->i", np.square(depth), reach, weight[here])
    return out


def normalised(seen: Exposed, values: NDArray[np.float32], error: NDArray[np.float32]) -> None:
    """Normalise spectra as `Representation` does ("rms", empty bins 0), which no scale of flux changes.

    Parameters
    ----------
    seen : Exposed
    values, error : ndarray of float32, shape (n_spectra, grid.size)
        Filled: see `Batch`.
    """
    flux, ivar, data, _ = seen
    total = np.maximum(ivar.sum(axis=1), np.finfo(np.float32).tiny)
    mean = np.einsum("ij,ij->i", flux, ivar) / total
    np.subtract(flux, mean[:, None], out=values)
    rms = np.sqrt(np.einsum("ij,ij,ij->i", values, values, ivar) / total)
    varies = rms > CONSTANT * np.abs(mean)
    values *= np.divide(1, rms, out=np.zeros_like(rms), where=varies)[:, None]
    values *= data
    np.sqrt(ivar, out=error)
    error *= rms[:, None]


T = TypeVar("T")
#: What waits: batches, each in a tuple of its own; at the end None, or what went wrong.
_Queue = queue.Queue[tuple[T] | BaseException | None]


class Stream(Iterator[T], Generic[T]):
    """Batches prepared ahead, in a thread: most of the work is numpy's, which lets others run meanwhile.

    Used as a context manager it ends its thread. An error of the source is raised where its batch was due.

    Parameters
    ----------
    source : iterator
        Such as `batches`; used in the thread alone.
    ahead : int
        So many batches may wait, >= 1.
    """

    def __init__(self, source: Iterator[T], ahead: int = 4) -> None:
        if ahead < 1:
            raise ValueError(f"at least one batch must be prepared ahead, not {ahead}")
        self._queue: _Queue[T] = queue.Queue(ahead)
        self._stop = threading.Event()
        # The thread knows the queue but not this object, so that it ends when nobody holds the stream.
        weakref.finalize(self, self._stop.set)
        self._thread = threading.Thread(
            target=_prepare, args=(source, self._queue, self._stop), name="broadline-stream", daemon=True
        )
        self._thread.start()

    def __next__(self) -> T:
        if self._stop.is_set():
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, tuple):
            return item[0]
        self._stop.set()
        if item is None:
            raise StopIteration
        raise item

    def close(self) -> None:
        """End the thread; batches that wait are dropped."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _prepare(source: Iterator[T], ready: _Queue[T], stop: threading.Event) -> None:
    try:
        for item in source:
            if not _hand_over((item,), ready, stop):
                return
        _hand_over(None, ready, stop)
    except BaseException as error:  # whatever it is, the reader must hear of it, or would wait for ever
        _hand_over(error, ready, stop)


def _hand_over(item: tuple[T] | BaseException | None, ready: _Queue[T], stop: threading.Event) -> bool:
    """Wait for room in the queue; return False if the reader has gone."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
