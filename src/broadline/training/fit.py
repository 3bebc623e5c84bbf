"""Training: epochs of examples in, a model file out. Resumable, and the same bits for the same seed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from broadline.errors import StoppedError, UsageError
from broadline.model import save_model
from broadline.training.checkpoint import load_checkpoint, request_of, save_checkpoint
from broadline.training.logs import Log
from broadline.training.objective import Counts
from broadline.training.presets import Preset
from broadline.training.resident import resident
from broadline.training.simulated import Examples
from broadline.training.step import Learner, faster_precision
from broadline.training.transfer import Start

__all__ = ["Progress", "ReadAgain", "TrainingData", "fit"]

_INTACT = "the checkpoint of the epoch before is intact"
_LOOK = 64  # steps on a GPU between two looks at the loss, each of which makes it wait


class TrainingData(Protocol):
    """What `fit` learns from."""

    def __len__(self) -> int:
        """Return the number of spectra."""
        ...

    def epoch(self, number: int) -> Iterator[Examples]:
        """Yield the batches of an epoch, the same for the same number. A generator is closed at the end."""
        ...

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Return what some spectra are called, given their `Examples.ids`."""
        ...


@dataclass(frozen=True, slots=True)
class ReadAgain:
    """Examples that are read each time they are wanted: a validation set that need not fit into memory.

    Attributes
    ----------
    read : callable
        Given `first` and `every`, it returns an iterator over the batch of that number, from 0, and each
        `every`-th after it, such as `PreparedSet.ordered`.
    """

    read: Callable[[int, int], Iterator[Examples]]

    def __iter__(self) -> Iterator[Examples]:
        return self.read(0, 1)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: after steps, and with the scores of validation after each epoch.

    Attributes
    ----------
    epoch : int
        From 0.
    step, n_steps : int
        Steps done, and of the whole run.
    loss : float
        Mean over this epoch so far.
    scores : dict of str to float, optional
        See `task.Task.validate`. Of several checks in an epoch, those of the best.
    shown : tuple of str
        Of the scores, those that people want to see.
    stopped : bool
        Validation no longer improves, and no more epochs follow.
    """

    epoch: int
    step: int
    n_steps: int
    loss: float
    scores: dict[str, float] | None = None
    shown: tuple[str, ...] = ()
    stopped: bool = False


def fit(
    preset: Preset,
    data: TrainingData,
    validation: Iterable[Examples],
    folder: Path,
    *,
    epochs: int | None = None,
    patience: int | None = None,
    check_every: int | None = None,
    seed: int = 0,
    precision: str | None = None,
    counts: Counts | None = None,
    fingerprint: str | None = None,
    start: Start | None = None,
    card: dict[str, str] | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Path:
    """Train a network and return its model file; go on where an earlier run in the folder was stopped.

    Several processes (`processes.Processes`) train it together; the first alone writes.

    Parameters
    ----------
    preset : Preset
    data : TrainingData
    validation : iterable of Examples
        They say which weights are the best: those of least loss, or what the preset monitors. They are gone
        through at each check: a list, or, if that would not fit into memory, `ReadAgain`.
    folder : Path
        Gets ``model.onnx`` (the best weights), ``last.onnx``, ``log.csv`` and ``checkpoint.pt``, and
        TensorBoard's event files where that is installed.
    epochs : int, optional
        Instead of the preset's.
    patience : int, optional
        Stop after so many epochs, at least 1, without a better one; the preset's if not given. It may be
        another when the run goes on.
    check_every : int, optional
        Validate after so many steps of an epoch, too, and not at its end alone; the log then has the best
        check of each epoch. The code of Podsztavek, Skoda & Tvrdik (2021) does so after every step, with F1.
    seed : int
    precision : {"bf16", "fp32"}, optional
        If not given, that of the run in the folder, or else what the machine is faster with.
    counts : Counts, optional
        Of the whole sample, for the loss "sample".
    fingerprint : str, optional
        Of the data, if these are not decided by preset and seed: a checkpoint of others is refused.
    start : Start, optional
        Weights to start from, instead of random ones.
    card : dict of str to str, optional
        Goes into the model file.
    on_step : callable, optional
        Told of each step, on a GPU of each 64th, by the first process.

    Raises
    ------
    UsageError
        If there is less than a batch of data, the folder holds a checkpoint of another run or a damaged one,
        or cannot be written, or the loss is not finite. Checkpoints stay as they are.
    StoppedError
        If another process has ended, or says why all do.
    ValueError
        If the validation examples can be gone through only once.

    Warns
    -----
    UserWarning
        If the network cannot be compiled, which makes training slower.
    """
    if isinstance(validation, Iterator):
        raise ValueError("validation examples are gone through at each check: give a list, or ReadAgain")
    patience = patience or preset.patience
    run = _Run(preset, data, folder, epochs or preset.epochs, seed, precision, counts, start, card or {})
    if fingerprint:
        run.request["fingerprint"] = fingerprint
    if check_every:
        run.request["check_every"] = check_every
    if not run.processes.first:
        on_step = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run.resume()
        with Log(folder) as log:
            while run.goes_on(patience):
                loss = run.train(on_step, validation, check_every)
                best = run.finish_epoch(log, loss)
                if on_step:
                    stopped = run.epoch < run.epochs and not run.goes_on(patience)
                    on_step(run.progress(run.epoch - 1, loss, best.scores, stopped))
    except RuntimeError as error:
        if not run.processes.lost(error):
            raise
        raise StoppedError(f"another process has ended; the same command goes on in {folder}") from error
    except OSError as error:
        raise UsageError(
            f"cannot write into {folder}: {error}; the last checkpoint is intact, start again to go on"
        ) from error
    return folder / "model.onnx"


class _Losses:
    """The losses of an epoch, looked at several at a time.

    Attributes
    ----------
    total, n : float, int
        Sum and number of those that were looked at.
    batches : list of Examples
        Whose losses wait.
    """

    def __init__(self, at_once: int, device: torch.device) -> None:
        self.total, self.n = 0.0, 0
        self.batches: list[Examples] = []
        self._waiting = torch.zeros(at_once, device=device)

    def add(self, loss: Tensor, batch: Examples) -> bool:
        """Keep a loss; return True when it is time to look."""
        self._waiting[len(self.batches)] = loss
        self.batches.append(batch)
        return len(self.batches) == len(self._waiting)

    def look(self) -> tuple[int, float] | None:
        """Add up what waits; return number and loss of the first that is not finite, if there is one."""
        values = self._waiting[: len(self.batches)].tolist()
        for i, value in enumerate(values):
            if not math.isfinite(value):
                return i, value
            self.total, self.n = self.total + value, self.n + 1
        self.batches.clear()
        return None

    @property
    def mean(self) -> float:
        return self.total / max(self.n, 1)


@dataclass(frozen=True, slots=True)
class _Check:
    """What validation said after a step."""

    step: int
    scores: dict[str, float]
    merit: float


class _Run:
    """The state of a training run."""

    def __init__(
        self,
        preset: Preset,
        data: TrainingData,
        folder: Path,
        epochs: int,
        seed: int,
        precision: str | None,
        counts: Counts | None,
        start: Start | None,
        card: dict[str, str],
    ) -> None:
        self.preset, self.folder, self.epochs = preset, folder, epochs
        self.card = card | ({"started_from": start.source} if start else {})
        self.n_steps = epochs * (len(data) // preset.batch)
        if not self.n_steps:
            raise UsageError(f"{len(data)} spectra are less than a batch of {preset.batch}: give more")
        kept = request_of(folder / "checkpoint.pt")
        precision = precision or kept.get("precision") or faster_precision()
        self.request = {
            "preset": preset.to_dict(),
            "epochs": epochs,
            "seed": seed,
            "precision": precision,
            "n_spectra": len(data),
        } | (start.request if start else {})
        self.learner = Learner(preset, self.n_steps, seed, precision, counts, start)
        self.processes = self.learner.processes
        data = self.processes.share(data, preset.batch)
        self.data = resident(data, self.learner.device) if self.learner.gpu else data
        self.epoch, self.best, self.stale = 0, -math.inf, 0
        # Of this epoch, and the best merit before it.
        self.checks: list[_Check] = []
        self.before = -math.inf

    def goes_on(self, patience: int | None) -> bool:
        """Tell whether another epoch is due."""
        return self.epoch < self.epochs and (patience is None or self.stale < patience)

    def progress(
        self, epoch: int, loss: float, scores: dict[str, float] | None = None, stopped: bool = False
    ) -> Progress:
        shown = self.learner.task.shown
        return Progress(epoch, self.learner.step, self.n_steps, loss, scores, shown, stopped)

    def train(
        self,
        on_step: Callable[[Progress], None] | None,
        validation: Iterable[Examples],
        check_every: int | None,
    ) -> float:
        """Go through one epoch and check the network, at the end at least; return the mean loss."""
        self.learner.start_epoch()
        self.checks, self.before = [], self.best
        start, each = self.learner.step, self.n_steps // self.epochs
        losses = _Losses(_LOOK if self.learner.gpu else 1, self.learner.device)
        batches = self.data.epoch(self.epoch)
        try:
            for batch in batches:
                if losses.add(self.learner.learn(batch), batch):
                    self._look(losses)
                    if on_step:
                        on_step(self.progress(self.epoch, losses.mean))
                done = self.learner.step - start
                if check_every and done < each and done % check_every == 0:
                    self._look(losses)
                    self.check(validation)
                    self.learner.start_epoch()
        finally:
            if isinstance(batches, Generator):
                batches.close()  # or its thread lives on as long as an error is looked at
        self._look(losses)
        self.check(validation)
        return losses.mean

    def _look(self, losses: _Losses) -> None:
        """Refuse a loss that is not finite, naming the spectra with bad pixels, or else the whole batch."""
        if (found := losses.look()) is None:
            return
        i, value = found
        batch, step = losses.batches[i], self.learner.step - len(losses.batches) + i
        bad = ~torch.isfinite(batch.x.flatten(1)).all(dim=1).cpu().numpy()
        ids, bad = map(np.concatenate, zip(*self.processes.everyone([(batch.ids, bad)]), strict=True))
        names = ", ".join(self.data.names(ids[bad] if bad.any() else ids))
        self._end(
            f"the loss is {value} at step {step} of epoch {self.epoch}, on {names}; {_INTACT}: use a lower "
            "learning rate, or look at these spectra"
        )

    def check(self, validation: Iterable[Examples]) -> None:
        """Score the weights that would be saved now, and save them if they are the best."""
        task, step = self.learner.task, self.learner.step
        rank, n = self.processes.rank, self.processes.n
        if isinstance(validation, ReadAgain):
            mine = validation.read(rank, n)
        else:
            mine = islice(validation, rank, None, n)
        scores = task.validate(self.learner.averaged, mine, self.processes.everyone)
        scores = self.processes.decided(scores)  # rounded otherwise elsewhere, they could part the processes
        if not math.isfinite(scores["loss"]):
            when = "in" if step % (self.n_steps // self.epochs) else "after"
            self._end(
                f"the loss on validation is {scores['loss']} {when} epoch {self.epoch}; {_INTACT}: "
                "use a lower learning rate"
            )
        self.checks.append(_Check(step, scores, task.merit(scores)))
        if self.checks[-1].merit > self.best:
            self.best = self.checks[-1].merit
            self._save("model.onnx", scores)

    def _end(self, why: str) -> NoReturn:
        """Stop all processes, which have come to the same end; the first says why."""
        raise UsageError(why) if self.processes.first else StoppedError(why)

    def finish_epoch(self, log: Log, loss: float) -> _Check:
        """Save last weights, log and checkpoint; return the best check."""
        self._save("last.onnx", self.checks[-1].scores)
        best = max(self.checks, key=lambda check: check.merit)
        self.stale = 0 if best.merit > self.before else self.stale + 1
        self.epoch += 1
        if self.processes.first:
            log.add(self.epoch - 1, best.step, round(time.time()), loss, best.merit, best.scores)
            state = {"epoch": self.epoch, "best": self.best, "stale": self.stale} | self.learner.state()
            save_checkpoint(self.folder / "checkpoint.pt", self.request, state)
        return best

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        load_checkpoint(self.folder / "checkpoint.pt", self.request, self.learner.device, self._restore)
        self.processes.agree(self.request | {"steps done": self.learner.step})

    def _restore(self, state: dict[str, Any]) -> None:
        self.learner.restore(state)
        self.epoch, self.best, self.stale = int(state["epoch"]), float(state["best"]), int(state["stale"])

    def _save(self, name: str, scores: dict[str, float]) -> None:
        if not self.processes.first:
            return
        card = self.card | {
            "preset": self.preset.name,
            "training": json.dumps(self.preset.training()),
            "epochs": f"{self.epoch + 1} of {self.epochs} with {self.request['n_spectra']:,} spectra each",
            **{f"validation_{key}": f"{value:.5g}" for key, value in scores.items()},
        }
        recipe = self.learner.task.recipe(card)
        save_model(self.folder / name, recipe, self.learner.averaged.parameters_by_name())
