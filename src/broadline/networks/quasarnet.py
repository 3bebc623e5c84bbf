"""QuasarNET in torch, for training and for classifying in bfloat16 or on a GPU."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from broadline.networks.architecture import Outputs, Parameters, QuasarNETConfig, check_parameters

__all__ = ["QuasarNET"]


class QuasarNET(nn.Module):
    """The network of Busca & Balland (2018), figure 1.

    Convolutions are written as (1 x width) over an image in channels-last memory: faster than a
    one-dimensional convolution on CPUs, with the same numbers.

    Parameters
    ----------
    config : QuasarNETConfig
    """

    def __init__(self, config: QuasarNETConfig) -> None:
        super().__init__()
        self.config = config
        channels = [config.channels, *(layer.filters for layer in config.convolutions)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels[i], layer.filters, (1, layer.width), (1, layer.stride))
            for i, layer in enumerate(config.convolutions)
        )
        # Keras' defaults, with which the published weights were trained: it keeps 0.99 of the running mean.
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(layer.filters, eps=config.epsilon, momentum=0.01) for layer in config.convolutions
        )
        self.hidden = nn.Linear(channels[-1] * config.lengths[-1], config.hidden)
        if config.hidden_activation == "norm-relu":
            self.hidden_norm = nn.BatchNorm1d(config.hidden, eps=config.epsilon, momentum=0.01)
        self.confidence = nn.Linear(config.hidden, config.n_lines * config.n_boxes)
        self.offset = nn.Linear(config.hidden, config.n_lines * config.n_boxes)
        if config.sigma:
            self.log_sigma = nn.Linear(config.hidden, config.n_lines * config.n_boxes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, spectra: Tensor) -> Tensor:
        """Return the vector that all finders share, (n, *config.input_shape) -> (n, hidden)."""
        image = spectra[:, None] if self.config.channels == 1 else spectra
        # (n, channels, 1, pixels); a single channel has the same bytes in either memory format.
        x = image[:, :, None, :].to(memory_format=torch.channels_last)
        for layer, convolution, norm in zip(
            self.config.convolutions, self.convolutions, self.norms, strict=True
        ):
            if any(layer.padding):
                x = nn.functional.pad(x, layer.padding)
            x = torch.relu(norm(convolution(x)))
        x = self.hidden(x.flatten(1))
        if self.config.hidden_activation == "norm-relu":
            return torch.relu(self.hidden_norm(x))
        return torch.sigmoid(x)

    def logits(self, spectra: Tensor) -> Outputs[Tensor]:
        """Return confidence and offset before their sigmoids, and log_sigma (None without that head)."""
        x = self.features(spectra)
        shape = (-1, self.config.n_lines, self.config.n_boxes)
        log_sigma = self.log_sigma(x).view(shape) if self.config.sigma else None
        return Outputs(self.confidence(x).view(shape), self.offset(x).view(shape), log_sigma)

    def forward(self, spectra: Tensor) -> Outputs[Tensor]:
        """Return confidence in (0, 1), offset in `config.offset_range`, and log_sigma."""
        confidence, offset, log_sigma = self.logits(spectra)
        low, high = self.config.offset_range
        return Outputs(torch.sigmoid(confidence), low + (high - low) * torch.sigmoid(offset), log_sigma)

    def parameters_by_name(self) -> dict[str, NDArray[np.float32]]:
        """Return all parameters and running statistics as arrays, as the model file stores them."""
        state = self.state_dict()
        return {name: state[name].detach().cpu().contiguous().numpy() for name in self.config.shapes()}

    @classmethod
    def from_parameters(cls, config: QuasarNETConfig, parameters: Parameters) -> QuasarNET:
        """Return a network with the given parameters, ready to go on training or to classify.

        Raises
        ------
        ValueError
            If the parameters do not fit the configuration.
        """
        check_parameters(config, parameters)
        network = cls(config)
        state: Mapping[str, Tensor] = {name: torch.tensor(value) for name, value in parameters.items()}
        network.load_state_dict(dict(state), strict=False)
        return network

    def folded(self) -> QuasarNET:
        """Return a copy for classifying: batch normalisation merged into the layers before it."""
        network = QuasarNET.from_parameters(self.config, self.parameters_by_name()).eval()
        for i, (convolution, norm) in enumerate(zip(network.convolutions, network.norms, strict=True)):
            network.convolutions[i] = nn.utils.fuse_conv_bn_eval(convolution, norm)  # type: ignore[type-var,arg-type]
            network.norms[i] = nn.Identity()
        if self.config.hidden_activation == "norm-relu":
            network.hidden = nn.utils.fuse_linear_bn_eval(network.hidden, network.hidden_norm)
            network.hidden_norm = nn.Identity()  # type: ignore[assignment]
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
