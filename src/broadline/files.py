"""Writing files: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

__all__ = ["aside", "write_aside"]


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Give a hidden name beside a file's own, and rename what is written there: it is whole or not there.

    That holds for a machine that loses power too: what was written is on the disk before the name is.
    """
    hidden = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        yield hidden
        with hidden.open("rb") as stream:
            os.fsync(stream.fileno())
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)


def write_aside(path: Path, content: bytes | memoryview) -> None:
    """Write a file, aside first."""
    with aside(path) as hidden:
        hidden.write_bytes(content)
