"""What goes over the wire: tables in either form, and which form it is."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
from starlette.exceptions import HTTPException

from broadline.errors import UsageError
from broadline.frames import Layout, joined, lay_out, result_columns
from broadline.model import Model
from broadline.serve import arrow_stream, json_rows
from broadline.serve.limits import Limits

__all__ = ["MEDIA_TYPES", "Received", "accepted", "media_type", "read", "write"]

_FORMS = {json_rows.MEDIA_TYPE: json_rows, arrow_stream.MEDIA_TYPE: arrow_stream}
MEDIA_TYPES = tuple(_FORMS)


class Received(NamedTuple):
    """A table of spectra.

    Attributes
    ----------
    table : pyarrow.Table
    layout : Layout
        Where in it the spectra are.
    """

    table: pa.Table
    layout: Layout


def media_type(content_type: str) -> str:
    """Return the form of a body with this Content-Type, or answer 415."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in _FORMS:
        raise HTTPException(415, f"send {' or '.join(_FORMS)} as Content-Type, not {kind or 'nothing'!r}")
    return kind


def accepted(accept: str, sent: str) -> str:
    """Return the form that a request with this Accept asks for, or answer 406.

    It is that of the request's body, `sent`, where any will do.
    """
    forms = {kind: kind for kind in _FORMS} | {"": sent, "*/*": sent, "application/*": sent}
    best, chosen = 0.0, ""
    for choice in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in choice.split(";"))
        quality = next((_number(text[2:]) for text in parameters if text.startswith("q=")), 1.0)
        if kind in forms and quality > best:
            best, chosen = quality, forms[kind]
    if not chosen:
        raise HTTPException(406, f"answers are {' or '.join(_FORMS)}: ask for one of them in Accept")
    return chosen


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def read(body: bytes | bytearray, kind: str, model: Model, limits: Limits) -> Received:
    """Return the spectra in a body.

    Raises
    ------
    UsageError, TooLargeError
        If it holds something else, or more than is allowed.
    """
    table = _FORMS[kind].read(body, limits)
    # JSON has one name for each array; the fields beside them may be called as they like.
    names = {"flux": "flux", "ivar": "ivar", "wavelength": "wavelength", "mask": ""}
    layout = lay_out(table, names if kind == json_rows.MEDIA_TYPE else {})
    if there := sorted(set(layout.rest(table)).intersection(result_columns(model).names)):
        raise UsageError(
            f"the spectra have {', '.join(there)}, as the results will: send it under another name"
        )
    return Received(table, layout)


def write(received: Received, results: pa.Table, kind: str) -> bytes:
    """Return what was received with results in place of the spectra."""
    table = joined(received.table, received.layout.rest(received.table), results)
    content: bytes = _FORMS[kind].write(table)
    return content
