"""How well a network does on held-out examples while it learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from broadline.decision import CONFLICT_KMS, Rule, velocity
from broadline.finders import decode
from broadline.grid import Grid
from broadline.lines import QUASARNET_LINES
from broadline.networks.architecture import Outputs
from broadline.networks.convnet import ConvNet
from broadline.networks.quasarnet import QuasarNET
from broadline.training.objective import Targets
from broadline.training.simulated import Examples

__all__ = ["Everyone", "classified", "validate"]

#: From what this process has seen, a list, what all processes have (`processes.Processes.everyone`).
Everyone = Callable[[list[Any]], list[Any]]

# others_called: of stars and galaxies; catastrophic: of quasars.
_SCORES = ("loss", "purity", "completeness", "others_called", "catastrophic", "std", "nmad")


@torch.no_grad()
def validate(
    network: QuasarNET,
    examples: Iterable[Examples],
    loss: Callable[[Outputs[Tensor], Targets], Tensor],
    grid: Grid,
    inflation: float = 0.0,
    everyone: Everyone = list,
) -> dict[str, float]:
    """Return loss, purity, completeness and redshift errors (km/s) on examples, at the paper's rule.

    `inflation` is taken off the logits of confidences first, as `calibrate.deflated` does for good.
    Quasars count with a firm label only (`Examples.firm` of half or more); stars and galaxies always.
    Several processes may each have some of the batches: the scores are of those that `everyone` has.
    """
    network.eval()
    device = next(network.parameters()).device
    low, high = network.config.offset_range
    seen = []
    for batch in examples:
        outputs = network.logits(batch.x.to(device))
        value = float(loss(outputs, Targets(*(part.to(device) for part in batch.targets))))
        c, z = decode(
            torch.sigmoid(outputs.confidence - inflation).float().cpu().numpy(),
            (low + (high - low) * torch.sigmoid(outputs.offset)).float().cpu().numpy(),
            QUASARNET_LINES,
            grid,
        )
        best = c[:, :6].argmax(axis=1)
        rows = np.arange(len(c))
        seen.append((value, np.stack([c[rows, best], z[rows, best], batch.z, batch.firm], axis=1)))
    losses, parts = zip(*everyone(seen), strict=True)
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
    return {name: float(value) for name, value in zip(_SCORES, values, strict=True)}


@torch.no_grad()
def classified(
    network: ConvNet,
    examples: Iterable[Examples],
    loss: Callable[[Tensor, Targets], Tensor],
    everyone: Everyone = list,
) -> dict[str, float]:
    """Return loss, precision, recall and F1 of the quasars called at a probability above one half.

    Spectra of weight 0 do not count. Where nothing is called precision is 0, where there is no quasar so is
    recall, and with either so is F1. Processes share batches as in `validate`.
    """
    network.eval()
    device = next(network.parameters()).device
    seen = []  # of each batch: loss times weight, weight; called and quasar, called, quasar
    for batch in examples:
        y = Targets(*(part.to(device) for part in batch.targets))
        logits = network.logits(batch.x.to(device))
        counted = y.weight[:, 0] > 0
        weight = float(y.weight.sum())
        called, quasar = (logits > 0) & counted, (y.box[:, 0] >= 0) & counted
        counts = [float(part.sum()) for part in (called & quasar, called, quasar)]
        seen.append(np.array([weight * float(loss(logits, y)), weight, *counts]))
    total, weights, right, n_called, n_quasar = sum(everyone(seen), np.zeros(5)).tolist()
    return {
        "loss": total / max(weights, 1e-6),
        "precision": right / max(n_called, 1),
        "recall": right / max(n_quasar, 1),
        "f1": 2 * right / max(n_called + n_quasar, 1),
    }
