"""The nets of Simonyan & Zisserman over spectra in torch, for training and for classifying in bfloat16."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from broadline.networks.architecture import Parameters, check_parameters
from broadline.networks.vgg import ConvNetConfig, Score

__all__ = ["ConvNet"]


class ConvNet(nn.Module):
    """A quasar or not: the 1D-ConvNet of Podsztavek, Skoda & Tvrdik (2021), section 3, and its relatives.

    Convolutions are written as (1 x 3) over an image in channels-last memory, as in `quasarnet.QuasarNET`.
    Weights start as Glorot & Bengio (2010) propose, uniform; biases at 0.

    Parameters
    ----------
    config : ConvNetConfig
    """

    def __init__(self, config: ConvNetConfig) -> None:
        super().__init__()
        self.config = config
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, (1, 3), padding=(0, 1)) for before, after in config.channels
        )
        sizes = (config.n_features, *config.hidden)
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.score = nn.Linear(sizes[-1], 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.constant_(module.bias, 0.0)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, spectra: Tensor) -> Tensor:
        """Return what the last stage makes of spectra, (n, n_pixels) -> (n, n_features)."""
        x = spectra[:, None, None, :].to(memory_format=torch.channels_last)
        convolutions = iter(self.convolutions)
        for n in self.config.stages:
            for _ in range(n):
                x = torch.relu(next(convolutions)(x))
            x = nn.functional.max_pool2d(x, (1, 2))
        return x.flatten(1)

    def logits(self, spectra: Tensor) -> Tensor:
        """Return the logit of the probability of a quasar, (n, n_pixels) -> (n,)."""
        return self.logits_and_hidden(spectra)[0]

    def logits_and_hidden(self, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits, and what the last hidden layer says before dropout, (n, hidden)."""
        hidden = x = self.features(spectra)
        for layer in self.hidden:
            hidden = torch.relu(layer(x))
            x = nn.functional.dropout(hidden, self.config.dropout, self.training)
        return torch.as_tensor(self.score(x)[:, 0]), hidden

    def forward(self, spectra: Tensor) -> Score[Tensor]:
        """Return the probability of a quasar."""
        return Score(torch.sigmoid(self.logits(spectra)))

    def parameters_by_name(self) -> dict[str, NDArray[np.float32]]:
        """Return all parameters as arrays, as the model file stores them."""
        state = self.state_dict()
        return {name: state[name].detach().cpu().contiguous().numpy() for name in self.config.shapes()}

    @classmethod
    def from_parameters(cls, config: ConvNetConfig, parameters: Parameters) -> ConvNet:
        """Return a network with the given parameters, ready to go on training or to classify.

        Raises
        ------
        ValueError
            If the parameters do not fit the configuration.
        """
        check_parameters(config, parameters)
        network = cls(config)
        network.load_state_dict({name: torch.tensor(value) for name, value in parameters.items()})
        return network

    def folded(self) -> ConvNet:
        """Return a copy for classifying."""
        return ConvNet.from_parameters(self.config, self.parameters_by_name()).eval()
