"""What the nets of Simonyan & Zisserman are made of in one dimension, as plain data: sizes and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = ["NETS", "ConvNetConfig", "Score"]

_Array = TypeVar("_Array")

_WIDTH = 3  # of all convolutions
_GROWTH = 8  # channels double from stage to stage up to so many times the first ones


class Score(NamedTuple, Generic[_Array]):
    """What a classifier of two classes says: arrays or tensors of shape (n,).

    Attributes
    ----------
    probability : array
        Of a quasar.
    """

    probability: _Array


@dataclass(frozen=True, slots=True)
class ConvNetConfig:
    """A net of Simonyan & Zisserman (2014, arXiv:1409.1556), table 1, over pixels of a spectrum.

    Stages of convolutions of width 3, each followed by a rectifier, and of pooling by two at their ends; then
    hidden layers with rectifiers and dropout, and one number.

    Attributes
    ----------
    n_pixels : int
        Pixels of a represented spectrum; a multiple of two to the number of stages.
    stages : tuple of int
        Convolutions of each stage; () for a multilayer perceptron.
    filters : int
        Of the first stage. They double from stage to stage, up to eight times as many: 64 in the publication,
        16 in the code of Podsztavek, Skoda & Tvrdik (2021).
    hidden : tuple of int
        Units of the hidden layers: 4096 twice in the publication, 1024 twice in that code.
    dropout : float
        Share of the hidden units left out in a training step.
    """

    n_pixels: int = 2048
    stages: tuple[int, ...] = (1, 1, 2, 2, 2)
    filters: int = 16
    hidden: tuple[int, ...] = (1024, 1024)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if min((1, *self.stages, *self.hidden, self.filters, self.n_pixels)) < 1:
            raise ValueError("stages, filters and hidden units are at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is from 0 to below 1, not {self.dropout}")
        if self.n_pixels % 2 ** len(self.stages):
            raise ValueError(f"{self.n_pixels} pixels cannot be halved {len(self.stages)} times")

    @property
    def channels(self) -> tuple[tuple[int, int], ...]:
        """Channels into and out of each convolution."""
        pairs, last = [], 1
        for stage, n in enumerate(self.stages):
            wide = self.filters * min(2**stage, _GROWTH)
            pairs += [(last if i == 0 else wide, wide) for i in range(n)]
            last = wide
        return tuple(pairs)

    @property
    def n_features(self) -> int:
        """Numbers that the last stage hands to the first hidden layer."""
        last = self.channels[-1][1] if self.stages else 1
        return int(last * self.n_pixels // 2 ** len(self.stages))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one represented spectrum."""
        return (self.n_pixels,)

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of what the network says, the fields of `Score`."""
        return Score._fields

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what a head says of one spectrum."""
        return ()

    @property
    def outputs(self) -> type[Score[Any]]:
        """What holds the heads."""
        return Score

    def describe(self) -> str:
        """Return the network in words."""
        return (
            f"stages of {list(self.stages)} convolutions, {self.filters} filters in the first, "
            f"hidden layers of {list(self.hidden)} units"
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter by name, in the order of computation."""
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (before, after) in enumerate(self.channels):
            shapes[f"convolutions.{i}.weight"] = (after, before, 1, _WIDTH)
            shapes[f"convolutions.{i}.bias"] = (after,)
        before = self.n_features
        for i, after in enumerate(self.hidden):
            shapes[f"hidden.{i}.weight"], shapes[f"hidden.{i}.bias"] = (after, before), (after,)
            before = after
        shapes["score.weight"], shapes["score.bias"] = (1, before), (1,)
        return shapes

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON types; `from_dict` is its inverse."""
        return {"kind": "convnet", **asdict(self)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ConvNetConfig:
        """Return the configuration that `to_dict` described.

        Raises
        ------
        ValueError, TypeError, KeyError
            If a field is missing, unknown or impossible.
        """
        rest = {key: value for key, value in fields.items() if key not in ("kind", "stages", "hidden")}
        return cls(stages=tuple(fields["stages"]), hidden=tuple(fields["hidden"]), **rest)


#: The stages of Simonyan & Zisserman's nets by their letter, and none for a multilayer perceptron.
NETS: Mapping[str, tuple[int, ...]] = {
    "mlp": (),
    "a": (1, 1, 2, 2, 2),
    "b": (2, 2, 2, 2, 2),
    "d": (2, 2, 3, 3, 3),
    "e": (2, 2, 4, 4, 4),
}
