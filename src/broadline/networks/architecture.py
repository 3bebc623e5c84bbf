"""What networks are made of, as plain data: layers, sizes, activations, and shapes of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from broadline.networks.vgg import ConvNetConfig

__all__ = [
    "Convolution",
    "Network",
    "Outputs",
    "Parameters",
    "QuasarNETConfig",
    "check_parameters",
    "network_from_dict",
]

_Array = TypeVar("_Array")

#: Parameters by name, float32, in torch's layout: convolutions (filters, channels, 1, width), dense layers
#: (out, in).
Parameters = Mapping[str, NDArray[np.float32]]

# Fields that came after the first model files. They are stored only where they differ from these defaults, so
# that a network of the first kind still gives the same file, byte for byte.
_LATER: dict[str, Any] = {"channels": 1, "sigma": False}


class Outputs(NamedTuple, Generic[_Array]):
    """What the line finders say: arrays or tensors of shape (n, n_lines, n_boxes).

    Attributes
    ----------
    confidence : array
    offset : array
        Position of the line's centre, from the left edge of the box in units of its length.
    log_sigma : array, optional
        Natural logarithm of the 1-sigma error of the offset, in the same units; None for a network
        without that head.
    """

    confidence: _Array
    offset: _Array
    log_sigma: _Array | None = None


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution over pixels, followed by batch normalisation and a rectifier.

    Attributes
    ----------
    filters, width, stride : int
    padding : (int, int)
        Zeros added on the left and on the right.
    """

    filters: int = 100
    width: int = 10
    stride: int = 2
    padding: tuple[int, int] = (0, 0)

    def length(self, n_pixels: int) -> int:
        """Return the number of output pixels for `n_pixels` input pixels."""
        return (n_pixels + sum(self.padding) - self.width) // self.stride + 1


@dataclass(frozen=True, slots=True)
class QuasarNETConfig:
    """The network of Busca & Balland (2018), figure 1, with every size a parameter.

    Attributes
    ----------
    n_pixels : int
        Pixels of a represented spectrum.
    convolutions : tuple of Convolution
    hidden : int
        Units of the fully connected layer.
    hidden_activation : {"sigmoid", "norm-relu"}
        The paper prints sigmoid units; all its published weights have batch normalisation and a rectifier.
    n_lines, n_boxes : int
    offset_range : (float, float)
        What the sigmoid of an offset unit is stretched to: (0, 1) in the paper, (-0.1, 1.1) in later weights.
    epsilon : float
        Added to variances in batch normalisation.
    channels : int
        1 for the normalised flux alone, input (n, n_pixels); with more the input is (n, channels, n_pixels).
        With 2, the second channel is the error of the first.
    sigma : bool
        True for a third head, the logarithm of the offset's error (see `Outputs`).
    """

    n_pixels: int = 443
    convolutions: tuple[Convolution, ...] = (Convolution(),) * 4
    hidden: int = 100
    hidden_activation: Literal["sigmoid", "norm-relu"] = "sigmoid"
    n_lines: int = 7
    n_boxes: int = 13
    offset_range: tuple[float, float] = (0.0, 1.0)
    epsilon: float = 1e-3
    channels: int = 1
    sigma: bool = False

    def __post_init__(self) -> None:
        if self.hidden_activation not in ("sigmoid", "norm-relu"):
            raise ValueError(f"hidden_activation is 'sigmoid' or 'norm-relu', not {self.hidden_activation!r}")
        if self.channels < 1:
            raise ValueError(f"a network needs at least one channel, not {self.channels}")
        if self.lengths[-1] < 1:
            raise ValueError(f"{self.n_pixels} pixels are too few for {len(self.convolutions)} convolutions")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Pixels before each convolution and after the last: (443, 217, 104, 48, 20) for the paper."""
        lengths = [self.n_pixels]
        for convolution in self.convolutions:
            lengths.append(convolution.length(lengths[-1]))
        return tuple(lengths)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one represented spectrum: (n_pixels,), or (channels, n_pixels)."""
        return (self.n_pixels,) if self.channels == 1 else (self.channels, self.n_pixels)

    @property
    def output_shape(self) -> tuple[int, int]:
        """Shape of what a head says of one spectrum."""
        return (self.n_lines, self.n_boxes)

    @property
    def outputs(self) -> type[Outputs[Any]]:
        """What holds the heads."""
        return Outputs

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads, the fields of `Outputs` that the network fills, in order."""
        return Outputs._fields if self.sigma else Outputs._fields[:2]

    def describe(self) -> str:
        """Return the network in words."""
        return (
            f"convolutions of {[layer.filters for layer in self.convolutions]} filters, "
            f"{self.hidden} hidden units ({self.hidden_activation}), {self.n_boxes} boxes, "
            f"offsets in {self.offset_range}"
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter by name, in the order of computation."""
        shapes: dict[str, tuple[int, ...]] = {}
        channels = self.channels
        for i, convolution in enumerate(self.convolutions):
            shapes[f"convolutions.{i}.weight"] = (convolution.filters, channels, 1, convolution.width)
            shapes[f"convolutions.{i}.bias"] = (convolution.filters,)
            shapes |= _norm_shapes(f"norms.{i}", convolution.filters)
            channels = convolution.filters
        shapes["hidden.weight"] = (self.hidden, channels * self.lengths[-1])
        shapes["hidden.bias"] = (self.hidden,)
        if self.hidden_activation == "norm-relu":
            shapes |= _norm_shapes("hidden_norm", self.hidden)
        for head in self.heads:
            shapes[f"{head}.weight"] = (self.n_lines * self.n_boxes, self.hidden)
            shapes[f"{head}.bias"] = (self.n_lines * self.n_boxes,)
        return shapes

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON types; `from_dict` is its inverse."""
        fields = asdict(self)
        return {key: value for key, value in fields.items() if key not in _LATER or value != _LATER[key]}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> QuasarNETConfig:
        """Return the configuration that `to_dict` described.

        Raises
        ------
        ValueError, TypeError, KeyError
            If a field is missing, unknown or impossible.
        """
        convolutions = tuple(
            Convolution(**{**layer, "padding": tuple(layer["padding"])}) for layer in fields["convolutions"]
        )
        rest = {key: value for key, value in fields.items() if key not in ("convolutions", "offset_range")}
        return cls(convolutions=convolutions, offset_range=tuple(fields["offset_range"]), **rest)


#: The architectures there are.
Network = QuasarNETConfig | ConvNetConfig


def network_from_dict(fields: dict[str, Any]) -> Network:
    """Return the network that the `to_dict` of its architecture described.

    Raises
    ------
    ValueError, TypeError, KeyError
        If a field is missing, unknown or impossible.
    """
    kind = fields.get("kind", "quasarnet")
    if kind == "convnet":
        return ConvNetConfig.from_dict(fields)
    if kind != "quasarnet":
        raise ValueError(f"network {kind!r} is not known to this version of broadline")
    return QuasarNETConfig.from_dict(fields)


def _norm_shapes(name: str, n: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (n,) for part in ("weight", "bias", "running_mean", "running_var")}


class _Shaped(Protocol):
    def shapes(self) -> dict[str, tuple[int, ...]]: ...


def check_parameters(config: _Shaped, parameters: Parameters) -> None:
    """Raise ValueError unless `parameters` has exactly the names and shapes of `config`, all finite."""
    shapes = config.shapes()
    if set(parameters) != set(shapes):
        raise ValueError(f"parameters that do not fit the network: {sorted(set(parameters) ^ set(shapes))}")
    for name, shape in shapes.items():
        if parameters[name].shape != shape:
            raise ValueError(
                f"parameter {name} has shape {parameters[name].shape}, the network needs {shape}"
            )
        if not np.isfinite(parameters[name]).all():
            raise ValueError(f"parameter {name} has values that are not finite")
