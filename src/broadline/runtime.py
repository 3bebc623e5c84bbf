"""Run a network on represented spectra: ONNX Runtime by default, torch for bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from broadline.errors import ModelError
from broadline.networks.architecture import Network
from broadline.networks.vgg import ConvNetConfig

__all__ = ["OnnxRuntime", "Precision", "Runtime", "TorchRuntime"]

Precision = Literal["fp32", "bf16"]

# Spectra in one call of the network: larger batches fall out of the processor's cache.
_CHUNK = 128

_Image = NDArray[np.float32]
#: What all heads say: `architecture.Outputs` or `vgg.Score`.
Heads = Any


class Runtime(Protocol):
    """Anything that turns represented spectra into what a network says of them."""

    def __call__(self, values: _Image) -> Heads:
        """Return what the heads say, each (n, *config.output_shape), of spectra (n, *config.input_shape)."""
        ...


def _by_chunk(run: Callable[[_Image], Iterable[_Image]], values: _Image, config: Network) -> Heads:
    filled = [np.empty((len(values), *config.output_shape), np.float32) for _ in config.heads]
    for start in range(0, len(values), _CHUNK):
        rows = slice(start, start + _CHUNK)
        for whole, part in zip(filled, run(values[rows]), strict=True):
            whole[rows] = part
    heads: Heads = config.outputs(*filled)
    return heads


class OnnxRuntime:
    """The ONNX graph on the CPU in float32.

    Parameters
    ----------
    content : bytes
        Serialised ONNX model.
    threads : int, optional
        Threads it may use; all cores if not given.

    Raises
    ------
    ModelError
        If the content is no ONNX model that can be run.
    """

    def __init__(self, content: bytes, threads: int | None = None) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        try:
            self.session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # onnxruntime's own exception types are private
            raise ModelError(f"it is not an ONNX model that can be run ({str(error)[:120]})") from error
        self.config: Network | None = None

    def __call__(self, values: _Image) -> Heads:
        """Return what the heads say, each (n, *config.output_shape), of spectra (n, *config.input_shape)."""
        assert self.config is not None
        return _by_chunk(self._run, values, self.config)

    def _run(self, values: _Image) -> list[_Image]:
        assert self.config is not None
        said: list[_Image] = self.session.run(list(self.config.heads), {"spectra": values})
        return said


class TorchRuntime:
    """The torch network with batch normalisation folded; bfloat16 is faster on recent processors.

    Parameters
    ----------
    config : QuasarNETConfig or ConvNetConfig
    content : bytes
        Serialised ONNX model with the parameters.
    precision : {"fp32", "bf16"}
    threads : int, optional
        Threads it may use; all cores if not given.

    Raises
    ------
    ModelError
        If torch is not installed.
    """

    def __init__(
        self, config: Network, content: bytes, precision: Precision, threads: int | None = None
    ) -> None:
        try:
            import torch
        except ImportError as error:
            raise ModelError(f"precision {precision} needs torch: pip install 'broadline[train]'") from error
        from broadline.networks.convnet import ConvNet
        from broadline.networks.graph import parameters_of
        from broadline.networks.quasarnet import QuasarNET

        if threads is not None:
            torch.set_num_threads(threads)
        self.config = config
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        parameters = parameters_of(content)
        network: QuasarNET | ConvNet
        if isinstance(config, ConvNetConfig):
            network = ConvNet.from_parameters(config, parameters).folded()
        else:
            network = QuasarNET.from_parameters(config, parameters).folded()
        self.network = network.to(self.dtype)

    def __call__(self, values: _Image) -> Heads:
        """Return what the heads say, each (n, *config.output_shape), of spectra (n, *config.input_shape)."""
        return _by_chunk(self._run, values, self.config)

    def _run(self, values: _Image) -> list[_Image]:
        import torch

        with torch.inference_mode():
            heads = self.network(torch.from_numpy(values).to(self.dtype))
            return [head.float().numpy() for head in heads if head is not None]
