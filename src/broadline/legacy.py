"""Published QuasarNET weights (full Keras models in HDF5) as broadline models, without Keras."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from broadline.decision import Rule
from broadline.errors import ModelError
from broadline.grid import QUASARNET_LOG, Grid
from broadline.lines import LEGACY_LINES
from broadline.networks.architecture import Convolution, QuasarNETConfig, check_parameters
from broadline.recipe import Recipe
from broadline.representation import Representation

__all__ = ["import_keras"]

_Layer = dict[str, Any]
_RESCALE = (-0.1, 1.1)  # what the published Lambda makes of a sigmoid: -0.1 + 1.2 x


def import_keras(path: Path) -> tuple[Recipe, dict[str, NDArray[np.float32]]]:
    """Return the recipe and parameters of a QuasarNET that Keras 2 saved as a full model.

    Layers are found by following the graph in ``model_config`` back from its outputs, never by name: a
    second model built in one session has other suffixes. No code in the file is ever run: a Lambda layer is
    accepted if its constants are those of the published rescaling, else refused.

    Parameters
    ----------
    path : Path
        An HDF5 file with attribute ``model_config`` and group ``model_weights``; a dataset ``model_grid``
        (Angstrom) gives the wavelength grid, else it is the 443-pixel grid of the paper.

    Raises
    ------
    ModelError
        If the file is not such a model; the message says what is wrong.

    Warns
    -----
    UserWarning
        If QuasarNP would decode this file wrongly.
    """
    try:
        with h5py.File(path, "r") as file:
            graph = _Graph(file)
            config, parameters = graph.read()
            grid = _grid(file, config.n_pixels)
            version = str(file.attrs.get("keras_version", "unknown"))
    except ModelError:
        raise
    except Exception as error:  # a damaged HDF5 file can raise anything in the library below
        raise ModelError(f"it is not a QuasarNET that Keras saved whole ({error})") from error
    lines = LEGACY_LINES[: config.n_lines]
    if config.n_lines not in (6, 7):
        raise ModelError(f"it has {config.n_lines} line finders; published weights have 7, or 6 without BAL")
    doubts = graph.quasarnp_doubts(config)
    if doubts:
        warnings.warn(f"QuasarNP decodes {path.name} wrongly: {'; '.join(doubts)}", stacklevel=2)
    check_parameters(config, parameters)
    card = {
        "origin": f"imported from Keras {version} weights",
        "file": path.name,
        "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "trained_on": "unknown: the file does not say",
        "lines": "the wavelengths of the published code (Halpha in air, CIV and MGII single members)",
        "empty_bins": "as published: bins without data keep the image of flux 0, -mean/rms",
        "quasarnp": "; ".join(doubts) or "decodes this file as broadline does",
    }
    representation = Representation(grid=grid, empty="as-published")
    return Recipe(path.stem, config, representation, lines, Rule(), card), parameters


def _grid(file: h5py.File, n_pixels: int) -> Grid:
    if "model_grid" not in file:
        return QUASARNET_LOG
    wave = np.asarray(file["model_grid"], dtype=np.float64)
    if len(wave) != n_pixels:
        raise ModelError(f"its grid has {len(wave)} pixels, its network takes {n_pixels}")
    for kind, x in (("log", np.log10(wave)), ("linear", wave)):
        step = np.diff(x)
        if np.allclose(step, step.mean(), rtol=1e-5):
            return Grid(kind, float(x[0]), float(step.mean()), n_pixels)  # type: ignore[arg-type]
    raise ModelError("its grid is equally spaced neither in wavelength nor in its logarithm")


class _Graph:
    """The layers of a Keras functional model, and the way from its outputs back to its input."""

    def __init__(self, file: h5py.File) -> None:
        if "model_config" not in file.attrs or "model_weights" not in file:
            raise ModelError(
                "it holds no full Keras model (model_config and model_weights); weights alone do not do"
            )
        config = json.loads(file.attrs["model_config"])["config"]
        self.weights = file["model_weights"]
        self.layers: dict[str, _Layer] = {layer["config"]["name"]: layer for layer in config["layers"]}
        self.outputs = [output[0] for output in config["output_layers"]]

    def inputs(self, layer: _Layer) -> list[_Layer]:
        nodes = layer["inbound_nodes"]
        return [self.layers[node[0]] for node in nodes[0]] if nodes else []

    def array(self, layer: _Layer, part: str) -> NDArray[np.float32]:
        name = layer["config"]["name"]
        return np.asarray(self.weights[f"{name}/{name}/{part}:0"], dtype=np.float32)

    def read(self) -> tuple[QuasarNETConfig, dict[str, NDArray[np.float32]]]:
        heads = [self._head(self.layers[name]) for name in self.outputs]
        self.trunk = self._trunk(heads[0][0])
        ranges = {head[2] for head in heads}
        if len(ranges) != 1:
            raise ModelError("its finders do not all rescale their offsets alike")
        pairs = [(box, offset) for box, offset, _ in heads]
        kernels = [[self.array(layer, "kernel") for layer in pair] for pair in pairs]
        n_boxes = kernels[0][0].shape[1]
        parameters, fields = self._read_trunk(self.trunk)
        for i, name in enumerate(("confidence", "offset")):
            parameters[f"{name}.weight"] = np.concatenate([kernel[i].T for kernel in kernels])
            parameters[f"{name}.bias"] = np.concatenate([self.array(pair[i], "bias") for pair in pairs])
        config = QuasarNETConfig(n_lines=len(heads), n_boxes=n_boxes, offset_range=ranges.pop(), **fields)
        return config, parameters

    def _head(self, output: _Layer) -> tuple[_Layer, _Layer, tuple[float, float]]:
        """Return a finder's confidence layer, offset layer, and the range of its offsets."""
        if output["class_name"] != "Concatenate" or len(self.inputs(output)) != 2:
            raise ModelError(f"output {output['config']['name']} does not join a confidence and an offset")
        box, offset = self.inputs(output)
        limits = (0.0, 1.0)
        if offset["class_name"] == "Lambda":
            _check_rescaling(offset)
            limits = _RESCALE
            (offset,) = self.inputs(offset)
        for layer in (box, offset):
            if layer["class_name"] != "Dense" or layer["config"]["activation"] != "sigmoid":
                raise ModelError(f"finder layer {layer['config']['name']} is not a dense layer of sigmoids")
        return box, offset, limits

    def _trunk(self, head: _Layer) -> list[_Layer]:
        """Return the layers from the input to the finders, dropout and input left out."""
        chain: list[_Layer] = []
        layer = head
        while inputs := self.inputs(layer):
            (layer,) = inputs
            chain.append(layer)
        return [layer for layer in reversed(chain) if layer["class_name"] not in ("Dropout", "InputLayer")]

    def _read_trunk(self, trunk: list[_Layer]) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        kinds = [layer["class_name"] for layer in trunk]
        depth = kinds.count("Conv1D")
        tail = kinds[3 * depth :]
        if kinds[: 3 * depth] != ["Conv1D", "BatchNormalization", "Activation"] * depth or depth == 0:
            raise ModelError(f"its layers are not convolutions with normalisation and activation: {kinds}")
        if tail not in (["Flatten", "Dense"], ["Flatten", "Dense", "BatchNormalization", "Activation"]):
            raise ModelError(f"its layers after the convolutions are not a QuasarNET's: {tail}")
        _require_relu(layer for layer in trunk if layer["class_name"] == "Activation")
        parameters: dict[str, NDArray[np.float32]] = {}
        convolutions = []
        first = self.layers[next(name for name, x in self.layers.items() if x["class_name"] == "InputLayer")]
        n_pixels = pixels = int(first["config"]["batch_input_shape"][1])
        for i in range(depth):
            layer, norm = trunk[3 * i], trunk[3 * i + 1]
            convolution = _convolution(layer, pixels)
            pixels = convolution.length(pixels)
            convolutions.append(convolution)
            # (width, channels, filters) -> (filters, channels, 1, width)
            parameters[f"convolutions.{i}.weight"] = self.array(layer, "kernel").transpose(2, 1, 0)[
                :, :, None
            ]
            parameters[f"convolutions.{i}.bias"] = self.array(layer, "bias")
            parameters |= self._norm(norm, f"norms.{i}")
        dense = trunk[3 * depth + 1]
        kernel = self.array(dense, "kernel")
        # Keras flattens (position, channel); broadline's graphs flatten (channel, position).
        kernel = kernel.reshape(pixels, -1, kernel.shape[1]).transpose(2, 1, 0).reshape(kernel.shape[1], -1)
        parameters["hidden.weight"], parameters["hidden.bias"] = kernel, self.array(dense, "bias")
        activation = "sigmoid"
        if len(tail) == 4:
            activation = "norm-relu"
            parameters |= self._norm(trunk[3 * depth + 2], "hidden_norm")
        elif dense["config"]["activation"] != "sigmoid":
            raise ModelError("its fully connected layer has neither sigmoids nor normalisation")
        epsilons = {
            layer["config"]["epsilon"] for layer in trunk if layer["class_name"] == "BatchNormalization"
        }
        if len(epsilons) != 1:
            raise ModelError("its normalisation layers differ in epsilon")
        fields = {
            "n_pixels": n_pixels,
            "convolutions": tuple(convolutions),
            "hidden": kernel.shape[0],
            "hidden_activation": activation,
            "epsilon": float(epsilons.pop()),
        }
        return parameters, fields

    def _norm(self, layer: _Layer, name: str) -> dict[str, NDArray[np.float32]]:
        parts = {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        }
        return {f"{name}.{ours}": self.array(layer, theirs) for ours, theirs in parts.items()}

    def quasarnp_doubts(self, config: QuasarNETConfig) -> list[str]:
        """Return the ways in which QuasarNP 0.2 would read or decode this file otherwise."""
        doubts = []
        if config.offset_range == _RESCALE and "lambda" not in self.layers:
            doubts.append(
                "no layer is called 'lambda', so it leaves out the offset rescaling (up to 2,000 km/s)"
            )
        if config.n_boxes != 13:
            doubts.append(f"it takes 13 boxes for granted, the file has {config.n_boxes}")
        if not math.isclose(config.epsilon, 1e-3):
            doubts.append(f"it takes epsilon 0.001 for granted, the file has {config.epsilon}")
        names = [
            layer["config"]["name"] for layer in self.trunk if layer["class_name"] == "BatchNormalization"
        ]
        later = [f"batch_normalization_{i}" for i in range(1, len(names) + 1)]
        if names not in (later, ["batch_normalization", *later[:-1]]):
            doubts.append("its normalisation layers are not numbered from 1, so it does not find them")
        return doubts


def _convolution(layer: _Layer, pixels: int) -> Convolution:
    config = layer["config"]
    (width,), (stride,), filters = config["kernel_size"], config["strides"], config["filters"]
    if config["padding"] == "valid":
        return Convolution(filters, width, stride)
    if config["padding"] != "same":
        raise ModelError(f"convolution {config['name']} has padding {config['padding']!r}")
    # TensorFlow's "same": as many zeros as ceil(pixels / stride) outputs need, the odd one on the right.
    total = max((math.ceil(pixels / stride) - 1) * stride + width - pixels, 0)
    return Convolution(filters, width, stride, (total // 2, total - total // 2))


def _require_relu(layers: Any) -> None:
    for layer in layers:
        if layer["config"]["activation"] != "relu":
            raise ModelError(f"activation {layer['config']['name']} is not a rectifier")


def _check_rescaling(layer: _Layer) -> None:
    """Refuse a Lambda unless its marshalled code holds the constants -0.1 and 1.2 of the published one."""
    function = layer["config"]["function"]
    text = function[0] if isinstance(function, list) else function
    code = base64.b64decode(text) if isinstance(text, str) else b""
    # In marshalled code a float constant is 'g' and eight little-endian bytes.
    published = [b"g" + struct.pack("<d", value) for value in (-0.1, 1.2)]
    if not all(constant in code for constant in published):
        raise ModelError(
            f"its Lambda layer {layer['config']['name']} is not the published rescaling -0.1 + 1.2 x; "
            "broadline does not run code from weight files"
        )
