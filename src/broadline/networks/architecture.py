"""What QuasarNET is made of, as plain data: layers, sizes, activations, and the shapes of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Convolution", "Parameters", "QuasarNETConfig", "check_parameters"]

#: Parameters by name, float32, in torch's layout: convolutions (filters, channels, 1, width), dense layers
#: (out, in).
Parameters = Mapping[str, NDArray[np.float32]]


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
    """

    n_pixels: int = 443
    convolutions: tuple[Convolution, ...] = (Convolution(),) * 4
    hidden: int = 100
    hidden_activation: Literal["sigmoid", "norm-relu"] = "sigmoid"
    n_lines: int = 7
    n_boxes: int = 13
    offset_range: tuple[float, float] = (0.0, 1.0)
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        if self.hidden_activation not in ("sigmoid", "norm-relu"):
            raise ValueError(f"hidden_activation is 'sigmoid' or 'norm-relu', not {self.hidden_activation!r}")
        if self.lengths[-1] < 1:
            raise ValueError(f"{self.n_pixels} pixels are too few for {len(self.convolutions)} convolutions")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Pixels before each convolution and after the last: (443, 217, 104, 48, 20) for the paper."""
        lengths = [self.n_pixels]
        for convolution in self.convolutions:
            lengths.append(convolution.length(lengths[-1]))
        return tuple(lengths)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter by name, in the order of computation."""
        shapes: dict[str, tuple[int, ...]] = {}
        channels = 1
        for i, convolution in enumerate(self.convolutions):
            shapes[f"convolutions.{i}.weight"] = (convolution.filters, channels, 1, convolution.width)
            shapes[f"convolutions.{i}.bias"] = (convolution.filters,)
            shapes |= _norm_shapes(f"norms.{i}", convolution.filters)
            channels = convolution.filters
        shapes["hidden.weight"] = (self.hidden, channels * self.lengths[-1])
        shapes["hidden.bias"] = (self.hidden,)
        if self.hidden_activation == "norm-relu":
            shapes |= _norm_shapes("hidden_norm", self.hidden)
        for head in ("confidence", "offset"):
            shapes[f"{head}.weight"] = (self.n_lines * self.n_boxes, self.hidden)
            shapes[f"{head}.bias"] = (self.n_lines * self.n_boxes,)
        return shapes

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON types; `from_dict` is its inverse."""
        return asdict(self)

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


def _norm_shapes(name: str, n: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (n,) for part in ("weight", "bias", "running_mean", "running_var")}


def check_parameters(config: QuasarNETConfig, parameters: Parameters) -> None:
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
