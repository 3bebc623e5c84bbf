"""Run a network on represented spectra: ONNX Runtime by default, torch for bfloat16."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from broadline.errors import ModelError
from broadline.networks.architecture import Outputs, QuasarNETConfig

__all__ = ["OnnxRuntime", "Outputs", "Precision", "Runtime", "TorchRuntime"]

Precision = Literal["fp32", "bf16"]

# Spectra in one call of the network: larger batches fall out of the processor's cache.
_CHUNK = 128

_Image = NDArray[np.float32]


class Runtime(Protocol):
    """Anything that turns represented spectra into line finder output."""

    def __call__(self, values: _Image) -> Outputs[_Image]:
        """Return what the finders say, each (n, n_lines, n_boxes), for spectra (n, *config.input_shape)."""
        ...


def _by_chunk(run: Runtime, values: _Image, config: QuasarNETConfig) -> Outputs[_Image]:
    shape = (len(values), config.n_lines, config.n_boxes)
    filled = tuple(np.empty(shape, np.float32) for _ in config.heads)
    for start in range(0, len(values), _CHUNK):
        rows = slice(start, start + _CHUNK)
        for whole, part in zip(filled, run(values[rows]), strict=False):  # a head that is not there is None
            whole[rows] = part
    return Outputs(*filled)


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
        self.config: QuasarNETConfig | None = None

    def __call__(self, values: _Image) -> Outputs[_Image]:
        """Return what the finders say, each (n, n_lines, n_boxes), for spectra (n, *config.input_shape)."""
        assert self.config is not None
        return _by_chunk(self._run, values, self.config)

    def _run(self, values: _Image) -> Outputs[_Image]:
        assert self.config is not None
        return Outputs(*self.session.run(list(self.config.heads), {"spectra": values}))


class TorchRuntime:
    """The torch network with batch normalisation folded; bfloat16 is faster on recent processors.

    Parameters
    ----------
    config : QuasarNETConfig
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
        self, config: QuasarNETConfig, content: bytes, precision: Precision, threads: int | None = None
    ) -> None:
        try:
            import torch
        except ImportError as error:
            raise ModelError(f"precision {precision} needs torch: pip install 'broadline[train]'") from error
        from broadline.networks.graph import parameters_of
        from broadline.networks.quasarnet import QuasarNET

        if threads is not None:
            torch.set_num_threads(threads)
        self.config = config
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        network = QuasarNET.from_parameters(config, parameters_of(content)).folded()
        self.network = network.to(self.dtype)

    def __call__(self, values: _Image) -> Outputs[_Image]:
        """Return what the finders say, each (n, n_lines, n_boxes), for spectra (n, *config.input_shape)."""
        return _by_chunk(self._run, values, self.config)

    def _run(self, values: _Image) -> Outputs[_Image]:
        import torch

        with torch.inference_mode():
            heads = self.network(torch.from_numpy(values).to(self.dtype))
            return Outputs(*(head.float().numpy() for head in heads if head is not None))
