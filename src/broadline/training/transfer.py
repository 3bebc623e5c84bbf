"""Transfer: training that starts from the weights of another model, whatever it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from broadline.errors import UsageError
from broadline.model import Model
from broadline.networks.architecture import Network
from broadline.networks.graph import parameters_of
from broadline.training.calibrate import inflated

__all__ = ["Start", "carried", "freeze", "groups", "start_from"]

#: Layers that see spectra; what is above them tells classes or lines.
_TRUNK = ("convolutions.", "norms.")


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Weights that a training starts from.

    Attributes
    ----------
    parameters : mapping of str to ndarray of float32
        Those that carry over, by name; all others start at random.
    left : tuple of str
        Parameters of the new network that nothing is carried to, and why.
    source : str
        The model they are from: name and SHA-256.
    trunk_rate : float
        Learning rate of the convolutions relative to that of the layers above; 0 freezes them.
    """

    parameters: Mapping[str, NDArray[np.float32]]
    left: tuple[str, ...]
    source: str
    trunk_rate: float = 1.0

    def load(self, network: nn.Module) -> None:
        """Put the weights into a network."""
        state = {name: torch.tensor(value) for name, value in self.parameters.items()}
        network.load_state_dict(state, strict=False)

    @property
    def request(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        return {"start": self.source, "trunk_rate": self.trunk_rate}


def carried(model: Model, network: Network) -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...]]:
    """Return the parameters of a model that a network can start from, and what does not carry over.

    Weights carry over where name and shape agree: step 3 of Podsztavek, Skoda & Tvrdik (2021), section 3, for
    networks that are alike; the trunk alone for others, such as line finders with other boxes. Confidences
    that were made probabilities are what they were when the model was trained.
    """
    whole = inflated(model) if model.recipe.calibration else model
    have, wanted = parameters_of(whole.content), network.shapes()
    kept = {name: have[name] for name, shape in wanted.items() if name in have and have[name].shape == shape}
    left = [
        f"{name}: {have[name].shape} there, {shape} here" if name in have else f"{name}: not there"
        for name, shape in wanted.items()
        if name not in kept
    ]
    return kept, tuple(left)


def start_from(model: Model, network: Network, trunk_rate: float = 1.0) -> Start:
    """Return the start that a model gives a network.

    Parameters
    ----------
    model : Model
    network : QuasarNETConfig or ConvNetConfig
    trunk_rate : float
        As in `Start`.

    Raises
    ------
    UsageError
        If no convolution or, in networks without any, no layer carries over.
    """
    if not 0 <= trunk_rate <= 1:
        raise UsageError(
            f"the trunk's learning rate is from 0 (frozen) to 1 times the other, not {trunk_rate}"
        )
    parameters, left = carried(model, network)
    convolutions = {name for name in network.shapes() if name.startswith("convolutions.")}
    if not parameters or (convolutions and not convolutions & parameters.keys()):
        reasons = "; ".join(left[:3])
        raise UsageError(
            f"nothing of model {model.name} fits this network ({reasons}); choose the preset that the model "
            "was trained with, or another model"
        )
    return Start(parameters, left, f"{model.name} (SHA-256 {model.sha256})", trunk_rate)


def groups(network: nn.Module, rate: float, start: Start | None) -> list[dict[str, Any]]:
    """Return what an optimiser changes, and how fast; frozen layers are told to need no gradient."""
    if start is None or start.trunk_rate == 1:
        return [{"params": list(network.parameters()), "lr": rate}]
    named = dict(network.named_parameters())
    trunk = [value for name, value in named.items() if name.startswith(_TRUNK)]
    above = [value for name, value in named.items() if not name.startswith(_TRUNK)]
    if start.trunk_rate == 0:
        for frozen in trunk:
            frozen.requires_grad_(False)
        return [{"params": above, "lr": rate}]
    return [{"params": trunk, "lr": rate * start.trunk_rate}, {"params": above, "lr": rate}]


def freeze(network: nn.Module) -> None:
    """Keep the statistics of frozen convolutions as they are."""
    for name, module in network.named_modules():
        if name.startswith(_TRUNK):
            module.eval()
