"""broadline: classify survey spectra and measure their redshifts by finding the lines.

>>> import broadline
>>> model = broadline.load_model("my-model.onnx")          # doctest: +SKIP
>>> table = model.classify(broadline.read(["spectra/"]))   # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Flag", "Model", "Spectra", "__version__", "classify_table", "load_model", "read", "read_truth"]

if TYPE_CHECKING:
    from broadline.flags import Flag
    from broadline.frames import classify_table
    from broadline.inputs import read, read_truth
    from broadline.model import Model
    from broadline.named_models import load_model
    from broadline.spectra import Spectra

_HOME = {
    "Flag": "flags",
    "Model": "model",
    "Spectra": "spectra",
    "classify_table": "frames",
    "load_model": "named_models",
    "read": "inputs",
    "read_truth": "inputs",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first asked for, so that ``import broadline`` is instant."""
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"broadline.{_HOME[name]}"), name)
    raise AttributeError(f"module 'broadline' has no attribute {name!r}")
