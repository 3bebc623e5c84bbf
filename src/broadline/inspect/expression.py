"""Filters such as ``Z > 2.1 & SN_MEDIAN < 2``: parsed here, never run as code.

    filter     = term ("|" term)*
    term       = factor ("&" factor)*
    factor     = "!" factor | "(" filter ")" | COLUMN comparison value | COLUMN "has" FLAG | COLUMN
    comparison = "<" | "<=" | ">" | ">=" | "==" | "=" | "!="
    value      = number | true | false | text, in quotes if it is no plain word

A column alone stands for a logical that is true. Comparisons with a missing value are false.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.evaluation.shares import Mask
from broadline.flags import Flag

__all__ = ["LONGEST", "select"]

#: Characters of a filter, at most; brackets may not be nested deeper than a person would.
LONGEST = 1000
_DEEPEST = 20

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<word>[A-Za-z_][\w\]\[.-]*)"
    r"|\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|(?P<sign><=|>=|==|!=|&&|\|\||[<>=&|!~()]))"
)
_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
}
_LOGICAL = {"true": 1.0, "false": 0.0}
_END = ("end", "")


def select(text: str, columns: Mapping[str, NDArray[Any]]) -> Mask:
    """Return the rows that a filter keeps, shape (n,).

    Parameters
    ----------
    text : str
        As the grammar above has it; case of names does not matter.
    columns : mapping of str to ndarray, each of shape (n,)
        By upper-case name.

    Raises
    ------
    UsageError
        If it is no filter, or has a column or flag that is not there; the message says where.
    """
    if len(text) > LONGEST:
        raise UsageError(f"a filter has at most {LONGEST} characters, not {len(text)}")
    return _Parser(_tokens(text), columns).whole()


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, at, text = [], 0, text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise UsageError(f"the filter cannot be read at {text[at:].strip()[:20]!r}")
        kind = found.lastgroup or ""
        tokens.append(("text" if kind in ("double", "single") else kind, found[kind]))
        at = found.end()
    return tokens


class _Parser:
    """Recursive descent, one method a rule of the grammar."""

    def __init__(self, tokens: list[tuple[str, str]], columns: Mapping[str, NDArray[Any]]) -> None:
        self.tokens = tokens
        self.columns = columns
        self.at = 0
        self.depth = 0

    @property
    def next(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else _END

    def take(self) -> tuple[str, str]:
        token = self.next
        self.at += 1
        return token

    def accept(self, *signs: str) -> bool:
        if self.next[0] == "sign" and self.next[1] in signs:
            self.at += 1
            return True
        return False

    def whole(self) -> Mask:
        rows = self.filter()
        if self.next != _END:
            raise UsageError(f"the filter ends before {self.next[1]!r}; join conditions by & or |")
        return rows

    def filter(self) -> Mask:
        rows = self.term()
        while self.accept("|", "||"):
            rows = rows | self.term()
        return rows

    def term(self) -> Mask:
        rows = self.factor()
        while self.accept("&", "&&"):
            rows = rows & self.factor()
        return rows

    def factor(self) -> Mask:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise UsageError(f"the filter is nested more than {_DEEPEST} deep")
        rows = self._factor()
        self.depth -= 1
        return rows

    def _factor(self) -> Mask:
        if self.accept("!", "~"):
            return ~self.factor()
        if self.accept("("):
            rows = self.filter()
            if not self.accept(")"):
                raise UsageError("the filter lacks a closing bracket")
            return rows
        name, column = self.column()
        kind, said = self.next
        if kind == "word" and said.lower() == "has":
            self.take()
            return self.has(name, column)
        if kind == "sign" and said in _COMPARE:
            self.take()
            return self.compare(name, column, _COMPARE[said])
        if column.dtype.kind == "U":
            raise UsageError(f"the filter needs a comparison after {name}, such as {name} == 'text'")
        return np.asarray(np.nan_to_num(column) > 0)

    def column(self) -> tuple[str, NDArray[Any]]:
        kind, said = self.take()
        if kind != "word":
            raise UsageError(f"the filter needs the name of a column where it has {said or 'its end'!r}")
        if said.upper() not in self.columns:
            raise UsageError(f"the catalogue has no column {said!r}")
        return said.upper(), self.columns[said.upper()]

    def has(self, name: str, column: NDArray[Any]) -> Mask:
        _, said = self.take()
        if said.upper() not in Flag.__members__ or column.dtype.kind not in "iuf":
            raise UsageError(f"{name} has {said or 'what'}? Flags are {', '.join(Flag.__members__)}")
        return np.asarray((np.nan_to_num(column).astype(np.int64) & int(Flag[said.upper()])) != 0)

    def compare(self, name: str, column: NDArray[Any], than: Callable[[Any, Any], Any]) -> Mask:
        kind, said = self.take()
        if column.dtype.kind == "U":
            if kind not in ("word", "text", "number"):
                raise UsageError(f"the filter needs a text to compare {name} with")
            return np.asarray(than(column, np.str_(said)))
        if kind == "word" and said.lower() in _LOGICAL:
            value = _LOGICAL[said.lower()]
        elif kind == "number":
            value = float(said)
        else:
            raise UsageError(f"{name} holds numbers: it cannot be compared with {said or 'nothing'!r}")
        # Names stay whole numbers: floating point would lose the last digits of the long ones.
        whole = column.dtype.kind in "iu" and said.lstrip("+-").isdigit()
        rows: Mask = np.asarray(than(column, int(said) if whole else value), dtype=bool)
        return np.asarray(rows & np.isfinite(column))
