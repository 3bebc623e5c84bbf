"""Which of several processes this is: `torchrun` starts them, and tells each."""

from __future__ import annotations

import os

__all__ = ["here", "rank", "size"]


def rank() -> int:
    """Return the number of this process, from 0; 0 for one that was started alone."""
    return _told("RANK", 0)


def size() -> int:
    """Return how many processes there are, on all machines."""
    return _told("WORLD_SIZE", 1)


def here() -> int:
    """Return how many of them are on this machine."""
    return _told("LOCAL_WORLD_SIZE", 1)


def _told(name: str, alone: int) -> int:
    # Other launchers and batch systems set variables of the same names, also where nothing was launched.
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else alone
