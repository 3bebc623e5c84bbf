"""Presets: a network and how it is trained, as plain data that is saved with the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from broadline.errors import UsageError
from broadline.grid import TRANSFER_LOG
from broadline.networks.architecture import Network, QuasarNETConfig
from broadline.networks.vgg import NETS, ConvNetConfig
from broadline.representation import Representation

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True, slots=True)
class Preset:
    """Everything that decides a training run but the data.

    Attributes
    ----------
    name : str
    network : QuasarNETConfig or ConvNetConfig
    representation : Representation
    loss : {"sample", "batch", "spectrum", "likelihood", "cross-entropy"}
        `objective.equation_1` in one of its normalisations, or `objective.likelihood`; binary cross-entropy
        for a ConvNet.
    offset_weight : float
        Of the offsets in "likelihood".
    epochs : int
    batch : int
        Spectra a step.
    rate : float
        Learning rate; with "cosine" the highest.
    schedule : {"constant", "cosine"}
        Constant, or a warm-up over the first 3 % of steps and half a cosine down to a hundredth.
    amsgrad : bool
    weight_decay : float
    averaging : float
        Decay a step of the running mean of the weights that is saved; 0 for none.
    unsure : {"negative", "drop", "weight"}
        What spectra without a firm label teach (`objective.targets`).
    monitor : {"loss", "f1"}
        What says on validation which weights are best; "f1" for a ConvNet alone.
    patience : int, optional
        Epochs without better weights after which training ends; None for all of them.
    """

    name: str
    network: Network
    representation: Representation = field(default_factory=Representation)
    loss: Literal["sample", "batch", "spectrum", "likelihood", "cross-entropy"] = "sample"
    offset_weight: float = 0.03
    epochs: int = 100
    batch: int = 256
    rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    amsgrad: bool = True
    weight_decay: float = 0.0
    averaging: float = 0.0
    unsure: Literal["negative", "drop", "weight"] = "negative"
    monitor: Literal["loss", "f1"] = "loss"
    patience: int | None = None

    @property
    def finders(self) -> QuasarNETConfig:
        """The network, for what needs one with line finders.

        Raises
        ------
        UsageError
            If it is another one.
        """
        if not isinstance(self.network, QuasarNETConfig):
            raise UsageError(
                f"preset {self.name} has no line finders, which this needs; train it on a prepared set"
            )
        return self.network

    def training(self) -> dict[str, Any]:
        """Return how the network is trained, all but itself and its input, as plain JSON types."""
        return {key: value for key, value in asdict(self).items() if key not in ("network", "representation")}

    def to_dict(self) -> dict[str, Any]:
        """Return the preset as plain JSON types."""
        return self.training() | {
            "network": self.network.to_dict(),
            "representation": self.representation.to_dict(),
        }


def _transfer(name: str, network: ConvNetConfig) -> Preset:
    return Preset(
        name,
        network,
        Representation(TRANSFER_LOG, "conserving", "minmax"),
        loss="cross-entropy",
        amsgrad=False,
        unsure="drop",
        patience=1,
    )


#: paper: Busca & Balland (2018), section 3, to the letter. paper-code: their published weights' network and
#: the loss of the code since 2020. broadline: ours; docs/model.md says what each choice gave.
#: vgg-a to vgg-e and mlp: Podsztavek, Skoda & Tvrdik (2021), section 3, at the width of their code;
#: vgg-a-full at that of Simonyan & Zisserman.
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset("paper", QuasarNETConfig()),
            Preset(
                "paper-code",
                QuasarNETConfig(hidden_activation="norm-relu", offset_range=(-0.1, 1.1)),
                loss="spectrum",
            ),
            Preset(
                "broadline",
                QuasarNETConfig(
                    hidden=256,
                    hidden_activation="norm-relu",
                    n_boxes=52,
                    offset_range=(-0.1, 1.1),
                    channels=2,
                    sigma=True,
                ),
                Representation(channels="flux+error"),
                loss="likelihood",
                rate=2e-3,
                schedule="cosine",
                amsgrad=False,
                weight_decay=1e-4,
                averaging=0.999,
                unsure="weight",
            ),
            _transfer("mlp", ConvNetConfig(stages=NETS["mlp"])),
            *(_transfer(f"vgg-{net}", ConvNetConfig(stages=NETS[net])) for net in NETS if net != "mlp"),
            _transfer("vgg-a-full", ConvNetConfig(stages=NETS["a"], filters=64, hidden=(4096, 4096))),
        )
    }
)
