"""Figures go into docs between markers, written by the script that printed them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_between"]


def write_between(path: Path, script: str, body: str) -> None:
    """Put `body` into a Markdown file between the markers of `script`; what is written outside them stays."""
    begin, end = f"<!-- {script}: begin -->", f"<!-- {script}: end -->"
    text = path.read_text() if path.exists() else f"{begin}\n{end}\n"
    if begin not in text or end not in text:
        raise SystemExit(f"{path} has no markers {begin} and {end}: add them where the figures belong")
    before, rest = text.split(begin, 1)
    path.write_text(f"{before}{begin}\n{body}\n{end}{rest.split(end, 1)[1]}")
