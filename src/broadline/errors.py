"""The errors a user can meet, each one sentence that names the culprit and the cure."""

from __future__ import annotations

from pathlib import Path

from broadline.flags import Flag

__all__ = ["BroadlineError", "ModelError", "ReadError", "StoppedError", "UsageError"]


class BroadlineError(Exception):
    """Base of all errors that broadline raises on purpose; its text is meant for the user."""


class UsageError(BroadlineError):
    """The request cannot be carried out as it stands (exit code 2)."""


class ModelError(BroadlineError):
    """A model file is missing, corrupt, foreign or not fit for the request (exit code 2)."""


class ReadError(BroadlineError):
    """A file of spectra cannot be read; it becomes flagged catalogue rows, never a crash.

    Parameters
    ----------
    path : Path
        The file at fault.
    reason : str
        What is wrong with it, in a few words.
    flag : Flag, default Flag.UNREADABLE
        The bit its rows carry.
    n_spectra : int, default 1
        How many spectra are lost with it, where that is known.
    """

    def __init__(self, path: Path, reason: str, flag: Flag = Flag.UNREADABLE, n_spectra: int = 1) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.flag = flag
        self.n_spectra = n_spectra

    def __reduce__(self) -> tuple[type[ReadError], tuple[Path, str, Flag, int]]:
        """Let the error travel between processes whole."""
        return type(self), (self.path, self.reason, self.flag, self.n_spectra)


class StoppedError(BroadlineError):
    """An interrupt from the keyboard that leaves something behind."""
