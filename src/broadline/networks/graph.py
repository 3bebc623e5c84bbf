"""Networks as ONNX graphs: parameters in, bytes out, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from broadline.networks.architecture import Network, Outputs, Parameters, QuasarNETConfig, check_parameters
from broadline.networks.vgg import ConvNetConfig, Score

__all__ = [
    "CONFIDENCE",
    "INPUT",
    "LOG_SIGMA",
    "OFFSET",
    "PROBABILITY",
    "build",
    "parameters_of",
]


INPUT = "spectra"
CONFIDENCE, OFFSET, LOG_SIGMA = Outputs._fields
(PROBABILITY,) = Score._fields
_OPSET = 17


def build(config: Network, parameters: Parameters, metadata: Mapping[str, str]) -> bytes:
    """Return the serialised ONNX model of a network.

    Input ``spectra`` (n, n_pixels), or (n, channels, n_pixels) for more channels than one. Outputs of a
    QuasarNET are ``confidence`` and ``offset`` (n, n_lines, n_boxes), sigmoids and the offset range applied,
    and ``log_sigma`` of the same shape where the network has it; of a ConvNet ``probability`` (n,).
    Parameters keep their names and are not folded, so that training can go on from the file; the runtime
    folds batch normalisation when it loads it.

    Parameters
    ----------
    config : QuasarNETConfig or ConvNetConfig
    parameters : mapping of str to ndarray of float32
    metadata : mapping of str to str
        Stored in the model's metadata_props.

    Raises
    ------
    ValueError
        If the parameters do not fit the configuration.
    """
    check_parameters(config, parameters)
    graph = _Graph()
    for name, value in parameters.items():
        graph.constant(name, np.asarray(value, dtype=np.float32))
    if isinstance(config, ConvNetConfig):
        _convnet(graph, config)
    else:
        _quasarnet(graph, config)
    return graph.serialise(config, metadata)


def _convnet(graph: _Graph, config: ConvNetConfig) -> None:
    x = graph.reshape(INPUT, (-1, 1, 1, config.n_pixels))
    convolution = 0
    for n in config.stages:
        for _ in range(n):
            name = f"convolutions.{convolution}"
            x = graph.node(
                "Conv", [x, f"{name}.weight", f"{name}.bias"], kernel_shape=[1, 3], pads=[0, 1, 0, 1]
            )
            x, convolution = graph.node("Relu", [x]), convolution + 1
        x = graph.node("MaxPool", [x], kernel_shape=[1, 2], strides=[1, 2])
    x = graph.node("Flatten", [x], axis=1)
    for i in range(len(config.hidden)):
        x = graph.node("Gemm", [x, f"hidden.{i}.weight", f"hidden.{i}.bias"], transB=1)
        x = graph.node("Relu", [x])
    x = graph.node("Sigmoid", [graph.node("Gemm", [x, "score.weight", "score.bias"], transB=1)])
    graph.reshape(x, (-1,), PROBABILITY)


def _quasarnet(graph: _Graph, config: QuasarNETConfig) -> None:
    # A convolution of height 1 over an image: the layout that runtimes have fast kernels for.
    x = graph.reshape(INPUT, (-1, config.channels, 1, config.n_pixels))
    for i, layer in enumerate(config.convolutions):
        left, right = layer.padding
        x = graph.node(
            "Conv",
            [x, f"convolutions.{i}.weight", f"convolutions.{i}.bias"],
            kernel_shape=[1, layer.width],
            strides=[1, layer.stride],
            pads=[0, left, 0, right],
        )
        x = graph.node("Relu", [graph.norm(x, f"norms.{i}", config.epsilon)])
    x = graph.node("Flatten", [x], axis=1)  # (channel, position) order
    x = graph.node("Gemm", [x, "hidden.weight", "hidden.bias"], transB=1)
    if config.hidden_activation == "norm-relu":
        x = graph.node("Relu", [graph.norm(x, "hidden_norm", config.epsilon)])
    else:
        x = graph.node("Sigmoid", [x])
    shape = (-1, config.n_lines, config.n_boxes)
    confidence = graph.node(
        "Sigmoid", [graph.node("Gemm", [x, "confidence.weight", "confidence.bias"], transB=1)]
    )
    offset = graph.node("Sigmoid", [graph.node("Gemm", [x, "offset.weight", "offset.bias"], transB=1)])
    low, high = config.offset_range
    if (low, high) != (0.0, 1.0):
        offset = graph.node("Mul", [offset, graph.constant("offset_span", np.float32(high - low))])
        offset = graph.node("Add", [offset, graph.constant("offset_low", np.float32(low))])
    graph.reshape(confidence, shape, CONFIDENCE)
    graph.reshape(offset, shape, OFFSET)
    if config.sigma:
        log_sigma = graph.node("Gemm", [x, "log_sigma.weight", "log_sigma.bias"], transB=1)
        graph.reshape(log_sigma, shape, LOG_SIGMA)


def parameters_of(content: bytes) -> dict[str, NDArray[np.float32]]:
    """Return the parameters inside a serialised ONNX model that `build` made, by name."""
    graph = onnx.load_model_from_string(content).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if "." in tensor.name}


class _Graph:
    """Nodes and constants as they are added; names of intermediate values are numbered."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def reshape(self, x: str, shape: tuple[int, ...], output: str = "") -> str:
        name = self.constant(f"shape_{len(self.nodes)}", np.array(shape, dtype=np.int64))
        return self.node("Reshape", [x, name], output)

    def norm(self, x: str, name: str, epsilon: float) -> str:
        parts = [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        return self.node("BatchNormalization", [x, *parts], epsilon=epsilon)

    def serialise(self, config: Network, metadata: Mapping[str, str]) -> bytes:
        def value(name: str, *shape: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])

        heads = [value(name, *config.output_shape) for name in config.heads]
        kind = "convnet" if isinstance(config, ConvNetConfig) else "quasarnet"
        graph = helper.make_graph(
            self.nodes, kind, [value(INPUT, *config.input_shape)], heads, self.constants
        )
        model = helper.make_model(
            graph, producer_name="broadline", opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))
