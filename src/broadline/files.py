"""Writing files: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

__all__ = ["write_aside"]


def write_aside(path: Path, content: bytes | memoryview) -> None:
    """Write a file under a hidden name beside its own, and rename it: it is there whole or not at all.

    That holds for a machine that loses power too: what it wrote is on the disk before the name is.
    """
    aside = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        aside.write_bytes(content)
        with aside.open("rb") as stream:
            os.fsync(stream.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
