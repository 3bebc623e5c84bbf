"""Recipe: everything about a model but its parameters, as it is stored in the model file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from broadline.calibration import Calibration
from broadline.decision import Rule
from broadline.errors import ModelError
from broadline.lines import Line
from broadline.networks.architecture import Network, QuasarNETConfig, network_from_dict
from broadline.networks.vgg import ConvNetConfig
from broadline.representation import Representation

__all__ = ["Recipe"]

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything about a model but its parameters; stored as JSON in the model file.

    Attributes
    ----------
    name : str
    network : QuasarNETConfig or ConvNetConfig
    representation : Representation
    lines : tuple of Line
        In the order of the network's finders; none for a ConvNet.
    rule : Rule
        The decision rule it was made for, unless the caller gives another. A ConvNet calls quasar what has
        a probability above c_th.
    card : dict of str to str
        For people: origin, what it was trained on, scores, known failures.
    calibration : Calibration, optional
        Without one there are no probabilities.
    """

    name: str
    network: Network
    representation: Representation
    lines: tuple[Line, ...]
    rule: Rule
    card: dict[str, str]
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if self.representation.grid.size != self.network.n_pixels:
            raise ValueError("the representation's grid and the network's input differ in size")
        if isinstance(self.network, ConvNetConfig):
            if self.lines:
                raise ValueError(f"{len(self.lines)} lines for a network without finders")
            return
        if len(self.lines) != self.network.n_lines:
            raise ValueError(f"{len(self.lines)} lines for a network of {self.network.n_lines} finders")
        if not any(not line.bal for line in self.lines):
            raise ValueError("a model needs at least one emission line")

    @property
    def finders(self) -> QuasarNETConfig:
        """The network, for what needs one with line finders.

        Raises
        ------
        ModelError
            If it is another one.
        """
        if not isinstance(self.network, QuasarNETConfig):
            raise ModelError(f"model {self.name} has no line finders: it tells quasars, not redshifts")
        return self.network

    def describe(self) -> dict[str, str]:
        """Return in words what the model is and how it decides; what `card` adds is of its making."""
        grid, rule = self.representation.grid, self.rule
        return {
            "name": self.name,
            "network": self.network.describe(),
            "lines": ", ".join(f"{line.name} {line.wavelength:g}" for line in self.lines) or "none",
            "grid": f"{grid.size} {grid.kind} pixels, {grid.edges[0]:.1f}-{grid.edges[-1]:.1f} Angstrom",
            "input": f"{self.representation.resampling}, {self.representation.normalisation}, "
            f"empty bins {self.representation.empty}",
            "rule": f"{rule.l_min} line(s) above {rule.c_th}, BAL above {rule.c_th_bal}"
            if self.lines
            else f"probability above {rule.c_th}",
        }

    def to_json(self) -> str:
        """Return the recipe as JSON; `from_json` is its inverse."""
        fields = {
            "format": _FORMAT,
            "name": self.name,
            "network": self.network.to_dict(),
            "representation": self.representation.to_dict(),
            "lines": [asdict(line) for line in self.lines],
            "rule": asdict(self.rule),
            "card": self.card,
        }
        if self.calibration:
            fields["calibration"] = self.calibration.to_dict()
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Return the recipe that `to_json` wrote.

        Raises
        ------
        ValueError, TypeError, KeyError
            If it is not such a text.
        """
        fields = json.loads(text)
        if fields["format"] != _FORMAT:
            raise ValueError(f"model format {fields['format']} is not known to this version of broadline")
        return cls(
            name=str(fields["name"]),
            network=network_from_dict(fields["network"]),
            representation=Representation.from_dict(fields["representation"]),
            lines=tuple(Line(**line) for line in fields["lines"]),
            rule=Rule(**fields["rule"]),
            card={str(key): str(value) for key, value in fields["card"].items()},
            calibration=Calibration.from_dict(fields["calibration"]) if "calibration" in fields else None,
        )
