"""Training: epochs of examples in, a model file out. Resumable, and the same bits for the same seed."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import lightning_fabric
import numpy as np
import torch
from torch import Tensor

from broadline.decision import CONFLICT_KMS, Rule, velocity
from broadline.errors import UsageError
from broadline.finders import decode
from broadline.grid import Grid
from broadline.lines import QUASARNET_LINES
from broadline.model import save_model
from broadline.networks.architecture import Outputs
from broadline.networks.quasarnet import QuasarNET
from broadline.recipe import Recipe
from broadline.training.objective import Counts, Targets, equation_1, inflation, likelihood
from broadline.training.prepare import write_aside
from broadline.training.presets import Preset
from broadline.training.simulated import Examples

__all__ = ["SCORES", "Progress", "TrainingData", "best_scores", "fit", "validate"]

_CHECKPOINT, _LOG = "checkpoint.pt", "log.csv"
#: Names of what `validate` returns. others_called: of stars and galaxies; catastrophic: of quasars.
SCORES = ("loss", "purity", "completeness", "others_called", "catastrophic", "std", "nmad")
_WARM_UP = 0.03  # of all steps
_LOWEST = 0.01  # of the learning rate, at the end
_INTACT = "the checkpoint of the epoch before is intact"


class TrainingData(Protocol):
    """What `fit` learns from."""

    def __len__(self) -> int:
        """Return the number of spectra."""
        ...

    def epoch(self, number: int) -> Iterator[Examples]:
        """Yield the batches of an epoch, the same for the same number."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: after each step, and with the scores of validation after each epoch."""

    epoch: int
    step: int
    n_steps: int
    loss: float
    scores: dict[str, float] | None = None


def fit(
    preset: Preset,
    data: TrainingData,
    validation: Sequence[Examples],
    folder: Path,
    *,
    epochs: int | None = None,
    seed: int = 0,
    precision: str = "bf16",
    counts: Counts | None = None,
    fingerprint: str | None = None,
    card: dict[str, str] | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Path:
    """Train a network and return its model file; go on where an earlier run in the folder was stopped.

    Parameters
    ----------
    preset : Preset
    data : TrainingData
    validation : sequence of Examples
        The best epoch is the one of least loss on these.
    folder : Path
        Gets ``model.onnx`` (the best epoch), ``last.onnx``, ``log.csv`` and ``checkpoint.pt``.
    epochs : int, optional
        Instead of the preset's.
    seed : int
    precision : {"bf16", "fp32"}
    counts : Counts, optional
        Of the whole sample, for the loss "sample".
    fingerprint : str, optional
        Of the data, if these are not decided by preset and seed: a checkpoint of others is refused.
    card : dict of str to str, optional
        Goes into the model file.
    on_step : callable, optional
        Told of each step.

    Raises
    ------
    UsageError
        If there is less than a batch of data, the folder holds a checkpoint of another run or a damaged one,
        or cannot be written, or the loss is not finite. Checkpoints stay as they are.
    """
    run = _Run(preset, data, folder, epochs or preset.epochs, seed, precision, counts, card or {})
    if fingerprint:
        run.request["fingerprint"] = fingerprint
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for epoch in range(run.resume(), run.epochs):
            loss = run.train(epoch, on_step)
            grid = preset.representation.grid
            scores = validate(run.averaged, validation, run.loss, grid, run.inflation)
            if not math.isfinite(scores["loss"]):
                raise UsageError(
                    f"the loss on validation is {scores['loss']} after epoch {epoch}; {_INTACT}: use a lower "
                    "learning rate"
                )
            run.finish_epoch(epoch, loss, scores)
            if on_step:
                on_step(Progress(epoch, run.step, run.n_steps, loss, scores))
    except OSError as error:
        raise UsageError(
            f"cannot write into {folder}: {error}; the last checkpoint is intact, start again to go on"
        ) from error
    return folder / "model.onnx"


class _Run:
    """The state of a training run."""

    def __init__(
        self,
        preset: Preset,
        data: TrainingData,
        folder: Path,
        epochs: int,
        seed: int,
        precision: str,
        counts: Counts | None,
        card: dict[str, str],
    ) -> None:
        self.preset, self.data, self.folder, self.epochs = preset, data, folder, epochs
        self.card = card
        self.n_steps = epochs * (len(data) // preset.batch)
        if not self.n_steps:
            raise UsageError(f"{len(data)} spectra are less than a batch of {preset.batch}: give more")
        self.request = {
            "preset": preset.to_dict(),
            "epochs": epochs,
            "seed": seed,
            "precision": precision,
            "n_spectra": len(data),
        }
        self.fabric = lightning_fabric.Fabric(
            accelerator="auto", devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true"
        )
        device = self.fabric.device
        self.counts = counts and Counts(
            counts.positives.to(device), counts.negatives.to(device), counts.n_spectra
        )
        torch.manual_seed(seed)
        self.network = QuasarNET(preset.network).to(device)
        self.averaged = self.network
        if preset.averaging:
            self.averaged = QuasarNET(preset.network).to(device)
            self.averaged.load_state_dict(self.network.state_dict())
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), preset.rate, weight_decay=preset.weight_decay, amsgrad=preset.amsgrad
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self.forward = torch.compile(self.network.logits)
        # Networks with errors are deflated when they are calibrated: they are scored as they will be used.
        self.inflation = inflation(preset.network) if preset.network.sigma else 0.0
        self.step, self.best = 0, math.inf

    def _rate(self, step: int) -> float:
        if self.preset.schedule == "constant":
            return 1.0
        warm = max(1, round(_WARM_UP * self.n_steps))
        if step < warm:
            return (step + 1) / warm
        share = min(1.0, (step - warm) / max(1, self.n_steps - warm))
        return _LOWEST + (1 - _LOWEST) * 0.5 * (1 + math.cos(math.pi * share))

    def loss(self, outputs: Outputs[Tensor], y: Targets) -> Tensor:
        """Return the preset's loss."""
        preset = self.preset
        logits, offset, log_sigma = outputs
        stretch = preset.network.offset_range
        if preset.loss != "likelihood":
            return equation_1(logits, offset, y, preset.loss, self.counts, offset_range=stretch)
        assert log_sigma is not None
        return likelihood(
            logits, offset, log_sigma, y, offset_range=stretch, offset_weight=preset.offset_weight
        )

    def train(self, epoch: int, on_step: Callable[[Progress], None] | None) -> float:
        """Go through one epoch; return the mean loss."""
        self.network.train()
        total, n = 0.0, 0
        for batch in self.data.epoch(epoch):
            x = batch.x.to(self.fabric.device)
            y = Targets(*(part.to(self.fabric.device) for part in batch.targets))
            with self.fabric.autocast():
                outputs = self.forward(x)
            loss = self.loss(outputs, y)
            value = float(loss.detach())
            if not math.isfinite(value):
                ids = ", ".join(map(str, batch.ids))
                raise UsageError(
                    f"the loss is {value} at step {self.step} of epoch {epoch}, on rows {ids} of the "
                    f"training set; {_INTACT}: use a lower learning rate, or look at these spectra"
                )
            self.optimiser.zero_grad(set_to_none=True)
            self.fabric.backward(loss)
            self.optimiser.step()
            self.schedule.step()
            self._average()
            self.step += 1
            total, n = total + value, n + 1
            if on_step:
                on_step(Progress(epoch, self.step, self.n_steps, total / n))
        return total / max(n, 1)

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights, and statistics of batch normalisation, a little."""
        if self.averaged is self.network:
            return
        decay = min(self.preset.averaging, (1 + self.step) / (10 + self.step))
        kept, new = self.averaged.state_dict(), self.network.state_dict()
        names = [name for name, value in kept.items() if value.is_floating_point()]
        torch._foreach_lerp_([kept[name] for name in names], [new[name] for name in names], 1 - decay)

    def finish_epoch(self, epoch: int, loss: float, scores: dict[str, float]) -> None:
        """Save models, log and checkpoint."""
        self.save(self.folder / "last.onnx", epoch, scores)
        if scores["loss"] < self.best:
            self.best = scores["loss"]
            self.save(self.folder / "model.onnx", epoch, scores)
        row = {"epoch": epoch, "step": self.step, "seconds": round(time.time()), "train_loss": loss} | scores
        _log(self.folder / _LOG, row)
        state = {
            "request": self.request,
            "epoch": epoch + 1,
            "step": self.step,
            "best": self.best,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        content = io.BytesIO()  # torch's own error on a full disk would tell nobody
        torch.save(state, content)
        write_aside(self.folder / _CHECKPOINT, content.getbuffer())

    def resume(self) -> int:
        """Load the checkpoint, if there is one; return the epoch to go on with."""
        path = self.folder / _CHECKPOINT
        if not path.exists():
            return 0
        try:
            state = torch.load(path, map_location=self.fabric.device, weights_only=True)
            names = self.request | state["request"]
            different = [name for name in names if state["request"].get(name) != self.request.get(name)]
            if not different:
                self.network.load_state_dict(state["network"])
                self.averaged.load_state_dict(state["averaged"])
                self.optimiser.load_state_dict(state["optimiser"])
                self.schedule.load_state_dict(state["schedule"])
                self.step, self.best = int(state["step"]), float(state["best"])
                return int(state["epoch"])
        except Exception as error:  # torch raises anything at all on a damaged file
            raise UsageError(f"{path} is damaged ({_first_line(error)}); remove it to start anew") from error
        raise UsageError(
            f"{path} is of another run (not the same: {', '.join(different)}); give a new folder"
        )

    def save(self, path: Path, epoch: int, scores: dict[str, float]) -> None:
        card = self.card | {
            "preset": self.preset.name,
            "epochs": f"{epoch + 1} of {self.epochs} with {len(self.data):,} spectra each",
            **{f"validation_{key}": f"{value:.5g}" for key, value in scores.items()},
        }
        preset = self.preset
        recipe = Recipe(preset.name, preset.network, preset.representation, QUASARNET_LINES, Rule(), card)
        save_model(path, recipe, self.averaged.parameters_by_name())


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _log(path: Path, row: dict[str, float]) -> None:
    """Add the row of an epoch; what an earlier run that was stopped said of it, and of later ones, goes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row))
    writer.writeheader()
    writer.writerows(known for known in _logged(path) if int(known["epoch"]) < row["epoch"])
    writer.writerow(row)
    write_aside(path, text.getvalue().encode())


def _logged(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def best_scores(folder: Path) -> dict[str, float]:
    """Return the scores on validation (see `validate`) of the best epoch of a run, from its log."""
    best = min(_logged(folder / _LOG), key=lambda row: float(row["loss"]))
    return {name: float(best[name]) for name in SCORES}


@torch.no_grad()
def validate(
    network: QuasarNET,
    examples: Sequence[Examples],
    loss: Callable[[Outputs[Tensor], Targets], Tensor],
    grid: Grid,
    inflation: float = 0.0,
) -> dict[str, float]:
    """Return loss, purity, completeness and redshift errors (km/s) on examples, at the paper's rule.

    `inflation` is taken off the logits of confidences first, as `calibrate.deflated` does for good.
    Quasars count with a firm label only (`Examples.firm` of half or more); stars and galaxies always.
    """
    network.eval()
    device = next(network.parameters()).device
    low, high = network.config.offset_range
    losses, parts = [], []
    for batch in examples:
        outputs = network.logits(batch.x.to(device))
        losses.append(float(loss(outputs, Targets(*(part.to(device) for part in batch.targets)))))
        c, z = decode(
            torch.sigmoid(outputs.confidence - inflation).float().cpu().numpy(),
            (low + (high - low) * torch.sigmoid(outputs.offset)).float().cpu().numpy(),
            QUASARNET_LINES,
            grid,
        )
        best = c[:, :6].argmax(axis=1)
        rows = np.arange(len(c))
        parts.append(np.stack([c[rows, best], z[rows, best], batch.z, batch.firm], axis=1))
    c, z, truth, firm = np.concatenate(parts).T
    quasar, counted = np.isfinite(truth), firm >= 0.5
    called = c > Rule().c_th
    dv = velocity(z, np.nan_to_num(truth))
    right = called & quasar & (np.abs(dv) < CONFLICT_KMS)
    n_called, n_quasar = (called & counted).sum(), (quasar & counted).sum()
    errors = dv[right & counted]
    values = (
        np.mean(losses),
        (right & counted).sum() / max(n_called, 1),
        (right & counted).sum() / max(n_quasar, 1),
        (called & counted & ~quasar).sum() / max((counted & ~quasar).sum(), 1),
        (called & counted & quasar & ~right).sum() / max(n_quasar, 1),
        np.std(errors) if len(errors) else math.nan,
        1.4826 * np.median(np.abs(errors - np.median(errors))) if len(errors) else math.nan,
    )
    return {name: float(value) for name, value in zip(SCORES, values, strict=True)}
