"""Models by name: those of the package, and a user's own."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from broadline.errors import ModelError
from broadline.model import Model, save_model, serialise
from broadline.runtime import Precision

__all__ = ["DEFAULT", "find_model", "import_weights", "list_models", "load_model", "user_folder"]

#: The model that is used when none is named.
DEFAULT = "default"

_HDF5 = b"\x89HDF\r\n\x1a\n"


def user_folder() -> Path:
    """Return the folder of a user's own named models (``BROADLINE_MODELS``, or the user's data folder)."""
    if folder := os.environ.get("BROADLINE_MODELS"):
        return Path(folder)
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "broadline" / "models"


def list_models() -> dict[str, Path]:
    """Return named models and their files: those of the package, then the user's, which take precedence."""
    folders = (Path(__file__).parent / "models", user_folder())
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.onnx"))}


def find_model(name: str | Path) -> Path:
    """Return the file of a model, given as `load_model` takes it.

    Raises
    ------
    ModelError
        If there is no such model.
    """
    path = Path(name).expanduser()
    known = list_models()
    if path.is_file():
        return path
    if str(name) in known:
        return known[str(name)]
    raise ModelError(_no_such_model(str(name), path, known))


def load_model(
    name: str | Path = DEFAULT, *, precision: Precision = "fp32", threads: int | None = None
) -> Model:
    """Load a model by name or from a file.

    Parameters
    ----------
    name : str or Path
        A name that ``broadline models list`` shows, a model file, or published Keras weights (``.h5``).
    precision : {"fp32", "bf16"}
    threads : int, optional
        Threads the network may use; all cores if not given.

    Raises
    ------
    ModelError
        If there is no such model, or its file is corrupt or foreign; the message names it and the cure.
    """
    path = find_model(name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    try:
        if content.startswith(_HDF5):
            from broadline.legacy import import_keras

            content = serialise(*import_keras(path))
        return Model(content, precision, threads)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _no_such_model(name: str, path: Path, known: dict[str, Path]) -> str:
    if path.suffix or path.parent != Path():
        return f"no model file {path}"
    choice = f"known models: {', '.join(known)}" if known else "no models are installed yet"
    cure = f"broadline models import WEIGHTS.h5 --name {name}"
    return f"no model called {name!r}; {choice}. Import published weights with `{cure}`, or give a file"


def import_weights(weights: Path, name: str | None, output: Path | None, empty: str | None) -> Path:
    """Write published weights as a model file, into the user's folder unless `output` is given.

    Parameters
    ----------
    weights : Path
        Keras weights (.h5) or a model file (.onnx).
    name : str, optional
        The model's name; the file's if not given.
    output : Path, optional
        A file to write instead of one in the user's folder.
    empty : {"zero", "as-published"}, optional
        What bins without data hold from now on.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ModelError
        If the weights cannot be read, or the file cannot be written.
    """
    from broadline.networks.graph import parameters_of

    model = load_model(weights)
    recipe = replace(model.recipe, name=name or model.name)
    if empty is not None:
        model.fill_empty_bins(empty)
        card = recipe.card | {"empty_bins": f"{empty}, chosen at import"}
        recipe = replace(recipe, representation=model.representation, card=card)
    if not re.fullmatch(r"[\w.+-]+", recipe.name):
        raise ModelError(
            f"a model's name is made of letters, digits, '.', '_', '+' and '-', not {recipe.name!r}"
        )
    path = output or user_folder() / f"{recipe.name}.onnx"
    try:
        return save_model(path, recipe, parameters_of(model.content))
    except OSError as error:
        raise ModelError(f"cannot write the model {path}: {error.strerror}") from error
