"""What a network is taught and scored by: line finders, or quasars against all else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from broadline.decision import Rule
from broadline.lines import QUASARNET_LINES
from broadline.networks.architecture import Outputs, QuasarNETConfig
from broadline.networks.convnet import ConvNet
from broadline.networks.quasarnet import QuasarNET
from broadline.networks.vgg import ConvNetConfig
from broadline.recipe import Recipe
from broadline.training.align import Aligned, coral
from broadline.training.objective import (
    Counts,
    Targets,
    certain,
    equation_1,
    inflation,
    likelihood,
    targets,
)
from broadline.training.presets import Preset
from broadline.training.simulated import Examples
from broadline.training.validation import Everyone, classified, validate

__all__ = ["AlignedTask", "LineTask", "QuasarTask", "Task", "task_of"]


class Task(Protocol):
    """A kind of network, what it is asked, and what it is told.

    Attributes
    ----------
    preset : Preset
    shown : tuple of str
        Scores that people want to see while it learns.
    """

    preset: Preset
    shown: tuple[str, ...]

    def network(self) -> QuasarNET | ConvNet:
        """Return a network with random weights."""
        ...

    def targets(
        self, z: NDArray[np.float64], quasar: NDArray[np.bool_], bal: NDArray[np.int8], firm: NDArray[Any]
    ) -> Targets:
        """Return what the network should say of spectra, as `objective.targets` takes truth."""
        ...

    def outputs(self, network: Any, x: Tensor) -> Any:
        """Return what of the network the loss is told, a batch long: the logits, for one."""
        ...

    def loss(self, outputs: Any, y: Targets) -> Tensor:
        """Return how far off the outputs of a batch are."""
        ...

    def validate(
        self, network: nn.Module, examples: Iterable[Examples], everyone: Everyone = list
    ) -> dict[str, float]:
        """Return scores on held-out examples, the loss among them; of all that `everyone` has."""
        ...

    def merit(self, scores: Mapping[str, float]) -> float:
        """Return the number that is the greater, the better a network is."""
        ...

    def recipe(self, card: dict[str, str]) -> Recipe:
        """Return all of a model but its parameters."""
        ...


def task_of(preset: Preset, counts: Counts | None = None) -> Task:
    """Return the task of a preset; the loss "sample" needs the counts of the sample."""
    if isinstance(preset.network, QuasarNETConfig):
        return LineTask(preset, counts)
    return AlignedTask(preset) if isinstance(preset, Aligned) else QuasarTask(preset)


@dataclass(slots=True)
class LineTask:
    """Find lines: the objective of Busca & Balland (2018), or ours."""

    preset: Preset
    counts: Counts | None = None
    shown: tuple[str, ...] = ("purity", "completeness", "nmad")

    @property
    def config(self) -> QuasarNETConfig:
        """The network's configuration."""
        assert isinstance(self.preset.network, QuasarNETConfig)
        return self.preset.network

    def network(self) -> QuasarNET:
        """Return a network with random weights."""
        return QuasarNET(self.config)

    def targets(
        self, z: NDArray[np.float64], quasar: NDArray[np.bool_], bal: NDArray[np.int8], firm: NDArray[Any]
    ) -> Targets:
        """Return boxes, offsets and weights (`objective.targets`)."""
        grid, unsure = self.preset.representation.grid, self.preset.unsure
        return targets(z, quasar, bal, QUASARNET_LINES, grid, self.config.n_boxes, firm, unsure)

    def outputs(self, network: QuasarNET, x: Tensor) -> Outputs[Tensor]:
        """Return the logits."""
        return network.logits(x)

    def loss(self, outputs: Outputs[Tensor], y: Targets) -> Tensor:
        """Return equation 1 in the preset's normalisation, or our likelihood."""
        logits, offset, log_sigma = outputs
        preset, stretch = self.preset, self.config.offset_range
        if preset.loss == "likelihood":
            assert log_sigma is not None
            return likelihood(
                logits, offset, log_sigma, y, offset_range=stretch, offset_weight=preset.offset_weight
            )
        assert preset.loss != "cross-entropy"
        return equation_1(logits, offset, y, preset.loss, self.counts, offset_range=stretch)

    def validate(
        self, network: nn.Module, examples: Iterable[Examples], everyone: Everyone = list
    ) -> dict[str, float]:
        """Return loss, purity, completeness and redshift errors (`validation.validate`)."""
        # Networks with errors are deflated when they are calibrated: they are scored as they will be used.
        taken_off = inflation(self.config) if self.config.sigma else 0.0
        assert isinstance(network, QuasarNET)
        return validate(network, examples, self.loss, self.preset.representation.grid, taken_off, everyone)

    def merit(self, scores: Mapping[str, float]) -> float:
        """Return minus the loss."""
        return -scores["loss"]

    def recipe(self, card: dict[str, str]) -> Recipe:
        """Return a recipe with the paper's rule."""
        preset = self.preset
        return Recipe(preset.name, preset.network, preset.representation, QUASARNET_LINES, Rule(), card)


@dataclass(slots=True)
class QuasarTask:
    """Tell quasars from all else: Podsztavek, Skoda & Tvrdik (2021), section 3."""

    preset: Preset
    shown: tuple[str, ...] = ("f1", "precision", "recall")

    def network(self) -> ConvNet:
        """Return a network with random weights."""
        assert isinstance(self.preset.network, ConvNetConfig)
        return ConvNet(self.preset.network)

    def targets(
        self, z: NDArray[np.float64], quasar: NDArray[np.bool_], bal: NDArray[np.int8], firm: NDArray[Any]
    ) -> Targets:
        """Return a single box, which quasars are in, and weights."""
        inside, weight = certain(quasar, firm, self.preset.unsure)
        return Targets(
            torch.from_numpy(np.where(inside, 0, -1).astype(np.int64)[:, None]),
            torch.zeros((len(inside), 1)),
            torch.from_numpy(weight.astype(np.float32)[:, None]),
        )

    def outputs(self, network: ConvNet, x: Tensor) -> Any:
        """Return the logits."""
        return network.logits(x)

    def loss(self, outputs: Any, y: Targets) -> Tensor:
        """Return the binary cross-entropy, its mean over the weights."""
        return _cross_entropy(outputs, y)

    def validate(
        self, network: nn.Module, examples: Iterable[Examples], everyone: Everyone = list
    ) -> dict[str, float]:
        """Return loss, precision, recall and F1 at a probability of one half (`validation.classified`)."""
        assert isinstance(network, ConvNet)
        return classified(network, examples, _cross_entropy, everyone)

    def merit(self, scores: Mapping[str, float]) -> float:
        """Return minus the loss, or F1, as the preset wants."""
        return scores["f1"] if self.preset.monitor == "f1" else -scores["loss"]

    def recipe(self, card: dict[str, str]) -> Recipe:
        """Return a recipe that calls quasar what has a probability above one half."""
        preset = self.preset
        return Recipe(preset.name, preset.network, preset.representation, (), Rule(c_th=0.5), card)


@dataclass(slots=True)
class AlignedTask(QuasarTask):
    """Tell quasars from all else by features that two archives share: Deep CORAL.

    Sun & Saenko (2016, arXiv:1607.01719), equation 6. The loss is the cross-entropy over both halves of a
    batch of an `align.Pair`, whose labels are both known, and the weighted CORAL distance between their
    features. These are what the last hidden layer gives, before dropout: the layer that tells classes is
    aligned in the publication, and here it is a single number.

    Quasars do not count for the distance. There are forty times as many in one archive as in the other, and
    the covariances of everything would be made alike by making quasars look like all else.
    """

    preset: Aligned

    def outputs(self, network: ConvNet, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, and the features that they are made of."""
        return network.logits_and_hidden(x)

    def loss(self, outputs: tuple[Tensor, Tensor], y: Targets) -> Tensor:
        """Return the cross-entropy, and the weighted distance between the halves."""
        logits, features = outputs
        half, other = len(logits) // 2, y.weight[:, 0] * (y.box[:, 0] < 0)
        distance = coral(features[:half], features[half:], other[:half], other[half:])
        return _cross_entropy(logits, y) + self.preset.alignment * distance


def _cross_entropy(logits: Tensor, y: Targets) -> Tensor:
    """Return the binary cross-entropy, its mean over the weights."""
    quasar, weight = (y.box[:, 0] >= 0).float(), y.weight[:, 0]
    cost = functional.binary_cross_entropy_with_logits(logits.float(), quasar, weight, reduction="sum")
    return cost / weight.sum().clamp(min=1e-6)
