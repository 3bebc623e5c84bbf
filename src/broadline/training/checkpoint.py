"""Checkpoints: where a training run stands, in a file that is there whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from broadline.errors import UsageError
from broadline.files import write_aside

__all__ = ["load_checkpoint", "request_of", "save_checkpoint"]


def save_checkpoint(path: Path, request: dict[str, Any], state: dict[str, Any]) -> None:
    """Write the state of a run beside the request that it carries out, in place of an earlier one.

    Raises
    ------
    OSError
        If it cannot be written; the earlier one is intact.
    """
    content = io.BytesIO()  # torch's own error on a full disk would tell nobody
    torch.save({"request": request} | state, content)
    write_aside(path, content.getbuffer())


def request_of(path: Path) -> dict[str, Any]:
    """Return the request that a checkpoint carries out; nothing, if there is none that can be read."""
    try:
        request: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["request"]
    except Exception:  # whatever it is: `load_checkpoint` says what is wrong
        return {}
    return request


def load_checkpoint(
    path: Path, request: dict[str, Any], device: torch.device, restore: Callable[[dict[str, Any]], None]
) -> None:
    """Hand the state in a checkpoint, if there is one, to `restore`; code in the file is never run.

    Parameters
    ----------
    path : Path
    request : dict
        The same as when the checkpoint was saved.
    device : torch.device
        Where tensors are put.
    restore : callable
        Whatever it raises counts as damage.

    Raises
    ------
    UsageError
        If the checkpoint is damaged or of another request.
    """
    if not path.exists():
        return
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        names = request | state["request"]
        different = [name for name in names if state["request"].get(name) != request.get(name)]
        if not different:
            return restore(state)
    except Exception as error:  # torch raises anything at all on a damaged file
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"{path} is damaged ({reason}); remove it to start anew") from error
    raise UsageError(f"{path} is of another run (not the same: {', '.join(different)}); give a new folder")
