"""Writing files: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_aside"]


def write_aside(path: Path, content: bytes | memoryview) -> None:
    """Write a file under a hidden name beside its own, and rename it: it is there whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
