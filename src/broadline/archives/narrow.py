"""Just enough of FITS to read one known layout without a FITS library, and to notice that it is another."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BLOCK", "Cards", "TableLayout", "header_end", "table_layout"]

BLOCK = 2880
_END = b"END".ljust(80)
_KINDS = {"E": ">f4", "D": ">f8", "J": ">i4", "I": ">i2", "K": ">i8", "B": "u1", "L": "u1"}
_Field = tuple[str, str] | tuple[str, str, tuple[int]]


def header_end(content: bytes, start: int) -> int | None:
    """Return where the data of the HDU that starts at `start` begin, or None if its header is cut off."""
    at = content.find(_END, start)
    while at >= 0 and (at - start) % 80:
        at = content.find(_END, at + 1)
    return None if at < 0 else start + -(-(at - start + 80) // BLOCK) * BLOCK


class Cards:
    """A header in which numbers are looked up by keyword.

    Parameters
    ----------
    header : bytes
        Whole cards of 80 bytes.
    """

    def __init__(self, header: bytes) -> None:
        self.header = header

    def get(self, keyword: str) -> float | None:
        """Return the number that the keyword has, or None if it is not there or no number."""
        at = self.header.find(keyword.ljust(8).encode() + b"= ")
        if at < 0 or at % 80:
            return None
        try:
            return float(self.header[at + 10 : at + 80].split(b"/", 1)[0])
        except ValueError:
            return None


class TableLayout(NamedTuple):
    """Where some columns of a binary table lie.

    Attributes
    ----------
    dtype : dtype
        A record with just those columns, under their names in upper case.
    rows : int
    size : int
        Bytes of the table, without padding.
    kinds : dict of str to str
        The numpy type of each column.
    """

    dtype: np.dtype[Any]
    rows: int
    size: int
    kinds: dict[str, str]


# Headers of one width of row are compared, not hashed: they are 40 kB long, and mostly the last one again.
_known: dict[bytes, list[tuple[bytes, TableLayout | None]]] = {}
_MOST_KNOWN = 256


def table_layout(header: bytes, wanted: frozenset[str]) -> TableLayout | None:
    """Return where the wanted columns of a binary table lie; None if it scales columns or has a heap.

    Parameters
    ----------
    header : bytes
        Of the extension, from XTENSION to the end of its last block.
    wanted : frozenset of str
        Names of columns in upper case; those that are not there are left out.
    """
    known = _known.setdefault(header[:480], [])  # the mandatory cards: among them the width of a row
    for text, layout in known:
        if text == header:
            return layout
    layout = _read_layout(header, wanted)
    if sum(map(len, _known.values())) >= _MOST_KNOWN:
        _known.clear()
    _known.setdefault(header[:480], []).insert(0, (header, layout))
    return layout


def _read_layout(header: bytes, wanted: Iterable[str]) -> TableLayout | None:
    cards = _table_cards(header)
    try:
        width, rows, n_fields = (int(cards[key]) for key in ("NAXIS1", "NAXIS2", "TFIELDS"))
        if cards["XTENSION"] != "BINTABLE" or int(cards.get("PCOUNT", "0")) or "THEAP" in cards:
            return None
        fields = [_field(cards, i) for i in range(1, n_fields + 1)]
        table = np.dtype(fields)
    except (KeyError, ValueError, TypeError):
        return None
    if table.itemsize != width or rows < 0:
        return None
    places: Any = table.fields
    names = [name for name in table.names or () if name.upper() in wanted]
    dtype = np.dtype(
        {
            "names": [name.upper() for name in names],
            "formats": [places[name][0] for name in names],
            "offsets": [places[name][1] for name in names],
            "itemsize": width,
        }
    )
    return TableLayout(dtype, rows, width * rows, {name: dtype[name].str for name in dtype.names or ()})


def _table_cards(header: bytes) -> dict[str, str]:
    """Return the text of the cards that describe a table, by keyword; the first of several counts."""
    cards: dict[str, str] = {}
    for at in range(0, len(header), 80):
        if header[at + 8 : at + 10] != b"= ":
            continue
        card = header[at : at + 80].decode("ascii", "replace")
        text = card[10:].lstrip()
        value = text[1:].split("'")[0] if text.startswith("'") else text.split("/")[0]
        cards.setdefault(card[:8].rstrip(), value.strip())
    return cards


def _field(cards: dict[str, str], number: int) -> _Field:
    match = re.fullmatch(r"(\d*)([A-Z])", cards[f"TFORM{number}"])
    if match is None:
        raise ValueError("a column of variable length")
    # A scaled column is none of those read here: its name is hidden, its room is kept.
    scaled = f"TSCAL{number}" in cards or f"TZERO{number}" in cards
    name = "" if scaled else cards.get(f"TTYPE{number}", "")
    name, count = name or f"column {number}", int(match[1] or 1)
    if match[2] == "A":
        return (name, f"S{count}")
    kind = _KINDS[match[2]]
    return (name, kind) if count == 1 else (name, kind, (count,))
