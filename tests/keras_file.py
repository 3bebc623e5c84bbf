"""Writes HDF5 files as Keras 2 saves a QuasarNET whole, with names and sizes of the test's choosing."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

import h5py
import numpy as np


def rescaling(low: float = -0.1, span: float = 1.2) -> str:
    """Something that looks like the marshalled code of ``lambda x: low + span * x``."""
    return base64.b64encode(b"\xe3code" + b"".join(b"g" + struct.pack("<d", v) for v in (low, span))).decode()


def write_keras(
    path: Path,
    *,
    n_pixels: int = 120,
    filters: int = 4,
    depth: int = 2,
    hidden: int = 6,
    n_lines: int = 7,
    n_boxes: int = 13,
    padding: str = "valid",
    code: str | None = None,
    suffix: int = 0,
    epsilon: float = 1e-3,
    box_activation: str = "sigmoid",
    grid: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, dict[str, np.ndarray]]:
    """Write the file; return its weights by layer. `suffix` numbers layers as a later model in a session."""
    rng = np.random.default_rng(seed)
    layers: list[dict] = []
    weights: dict[str, dict[str, np.ndarray]] = {}

    def add(kind: str, name: str, inputs: list[str], config: dict, **arrays: np.ndarray) -> str:
        nodes = [[[source, 0, 0, {}] for source in inputs]] if inputs else []
        layers.append({"class_name": kind, "config": {"name": name, **config}, "inbound_nodes": nodes})
        weights[name] = {key: value.astype(np.float32) for key, value in arrays.items()}
        return name

    def norm(name: str, x: str, n: int) -> str:
        arrays = {k: rng.normal(size=n) for k in ("gamma", "beta", "moving_mean")}
        return add(
            "BatchNormalization",
            name,
            [x],
            {"epsilon": epsilon},
            **arrays,
            moving_variance=rng.gamma(2, 1, n),
        )

    x = add("InputLayer", f"input_{1 + suffix}", [], {"batch_input_shape": [None, n_pixels, 1]})
    channels, pixels = 1, n_pixels
    for i in range(depth):
        number = i + suffix * (depth + 1)
        config = {
            "filters": filters,
            "kernel_size": [10],
            "strides": [2],
            "padding": padding,
            "activation": "linear",
        }
        kernel = rng.normal(size=(10, channels, filters)) / 5
        x = add("Conv1D", f"conv_{number + 1}", [x], config, kernel=kernel, bias=rng.normal(size=filters))
        x = norm("batch_normalization" + (f"_{number}" if number else ""), x, filters)
        x = add("Activation", f"activation_{number}", [x], {"activation": "relu"})
        x = add("Dropout", f"dropout_{number}", [x], {"rate": 0.2})
        channels, pixels = filters, (pixels - 10) // 2 + 1 if padding == "valid" else -(-pixels // 2)
    x = add("Flatten", f"flatten_{suffix}", [x], {})
    kernel = rng.normal(size=(pixels * filters, hidden)) / 5
    x = add(
        "Dense",
        f"fc_common_{suffix}",
        [x],
        {"activation": "linear"},
        kernel=kernel,
        bias=rng.normal(size=hidden),
    )
    x = norm(f"batch_normalization_{depth + suffix * (depth + 1)}", x, hidden)
    x = add("Activation", f"fc_activation_{suffix}", [x], {"activation": "relu"})
    outputs = []
    for i in range(n_lines):
        pair = []
        for kind, activation in (("box", box_activation), ("offset", "sigmoid")):
            arrays = {"kernel": rng.normal(size=(hidden, n_boxes)), "bias": rng.normal(size=n_boxes)}
            pair.append(add("Dense", f"fc_{kind}_{i}", [x], {"activation": activation}, **arrays))
        if code is not None:
            name = "lambda" if i + suffix == 0 else f"lambda_{i + suffix * n_lines}"
            pair[1] = add(
                "Lambda", name, [pair[1]], {"function": [code, None, None], "function_type": "lambda"}
            )
        outputs.append(add("Concatenate", f"conc_box_{i}", pair, {"axis": -1}))
    # Keras lists layers by depth in the graph, not in the order of computation
    config = {"layers": layers[::-1], "output_layers": [[name, 0, 0] for name in outputs]}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": config})
        file.attrs["keras_version"] = "2.4.0"
        for name, arrays in weights.items():
            group = file.create_group(f"model_weights/{name}")
            for key, value in arrays.items():
                group[f"{name}/{key}:0"] = value
        if grid is not None:
            file["model_grid"] = grid
    return weights


def forward(
    weights: dict[str, dict[str, np.ndarray]], x: np.ndarray, rescale: tuple[float, float]
) -> np.ndarray:
    """Run the network of `write_keras` in float64, layer by layer as written; (n, lines, 2, boxes)."""
    outputs: dict[str, np.ndarray] = {}
    x = x[:, :, None].astype(np.float64)

    def relu_norm(y: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
        y = (y - w["moving_mean"]) / np.sqrt(w["moving_variance"] + 1e-3) * w["gamma"] + w["beta"]
        return np.maximum(y, 0)

    for name, arrays in weights.items():
        w = {key: value.astype(np.float64) for key, value in arrays.items()}
        if name.startswith("conv"):
            width = len(w["kernel"])
            starts = range(0, x.shape[1] - width + 1, 2)
            y = (
                np.stack([np.tensordot(x[:, s : s + width], w["kernel"], 2) for s in starts], axis=1)
                + w["bias"]
            )
        elif name.startswith("fc_common"):
            y = x.reshape(len(x), -1) @ w["kernel"] + w["bias"]
        elif name.startswith("batch_normalization"):
            x = relu_norm(y, w)
        elif name.startswith(("fc_box", "fc_offset")):
            outputs[name] = 1 / (1 + np.exp(-(x @ w["kernel"] + w["bias"])))
    low, high = rescale
    n_lines = len(outputs) // 2
    return np.stack(
        [
            np.stack([outputs[f"fc_box_{i}"], low + (high - low) * outputs[f"fc_offset_{i}"]], axis=1)
            for i in range(n_lines)
        ],
        axis=1,
    )
