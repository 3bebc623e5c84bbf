"""The OpenAPI document: what requests and answers look like, in words that programs read."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from broadline import __version__
from broadline.catalogue import columns
from broadline.frames import result_columns
from broadline.model import Model
from broadline.serve import arrow_stream, json_rows
from broadline.serve.limits import Limits

__all__ = ["document"]

_TEXT = {"type": "string"}
_FAULTS = {
    400: "The request is malformed.",
    401: "The token is missing or wrong.",
    406: "No form of the answer suits the request's Accept.",
    408: "The request did not arrive in time.",
    413: "The request is too large.",
    415: "The body is of another form than those described.",
    421: "The server goes by another name.",
    500: "The server failed.",
    503: "The server is busy, or was not done in time: send the request again later.",
}
_ANYWHERE = (401, 421, 500, 503)


def document(model: Model, limits: Limits) -> dict[str, Any]:
    """Return the document of a server.

    Parameters
    ----------
    model : Model
        Its lines are in the results.
    limits : Limits
    """
    forms = {
        json_rows.MEDIA_TYPE: {"schema": _spectra(model, limits), "example": [_EXAMPLE]},
        arrow_stream.MEDIA_TYPE: {"schema": _binary("The same as an Arrow table with columns of lists.")},
    }
    results = {
        json_rows.MEDIA_TYPE: {"schema": {"type": "array", "items": _result(model)}},
        arrow_stream.MEDIA_TYPE: {"schema": _binary("The same as an Arrow table.")},
    }
    classify = {
        "operationId": "classify",
        "summary": "Results of some spectra, one row each, in their order",
        "requestBody": {"required": True, "content": forms},
        "responses": _responses("Results, flagged where a spectrum cannot be classified.", results, *_FAULTS),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "broadline",
            "version": __version__,
            "description": f"Classifies spectra and measures redshifts, with the model {model.name}.",
            "license": {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
        },
        "paths": {
            "/classify": {"post": classify},
            "/model": {"get": _get("model", "The model: what it is and how it decides", _MODEL)},
            "/openapi.json": {"get": _get("openapi", "This document", {"type": "object"})},
            "/health": {"get": _get("health", "Whether the server is up", _HEALTH) | {"security": []}},
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
    }


_EXAMPLE = {
    "flux": [1.2, 1.1, None, 1.3],
    "ivar": [4.0, 4.1, 0.0, 3.9],
    "wavelength": [5000.0, 5001.2, 5002.3, 5003.5],
    "TARGETID": 39627835576420141,
}
_HEALTH = {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}
_MODEL = {
    "type": "object",
    "properties": {"card": {"type": "object", "additionalProperties": _TEXT}},
    "required": ["broadline", "name", "sha256", "network", "lines", "grid", "input", "rule", "card"],
    "additionalProperties": _TEXT,
}
_ERROR = {"type": "object", "properties": {"error": _TEXT}, "required": ["error"]}


def _spectra(model: Model, limits: Limits) -> dict[str, Any]:
    taken = result_columns(model).names
    spectrum = {
        "type": "object",
        "properties": {
            "flux": _pixels("Flux density per unit wavelength, in any unit; null: no value"),
            "ivar": _pixels("Inverse variance of the flux; 0: not to be used"),
            "wavelength": _pixels("Vacuum Angstrom"),
            "loglam": _pixels("Decimal logarithm of the same, in place of it"),
        },
        "required": ["flux", "ivar"],
        "anyOf": [{"required": ["wavelength"]}, {"required": ["loglam"]}],
        "additionalProperties": {
            "type": ["string", "number", "boolean", "null"],
            "description": "Whatever is to come back with the result, such as an identifier",
        },
        "propertyNames": {"not": {"enum": taken}},
    }
    return {"type": "array", "items": spectrum, "maxItems": limits.n_spectra}


def _pixels(description: str) -> dict[str, Any]:
    numbers = {"type": ["number", "null"]}
    return {"type": ["array", "null"], "items": numbers, "description": description}


def _result(model: Model) -> dict[str, Any]:
    names = result_columns(model).names
    described = {column.name: column for column in columns(model.lines) if column.name in names}
    properties: dict[str, Any] = {
        name: {"type": [_type(column.type), "null"], "description": column.description}
        for name, column in described.items()
    }
    properties["FLAGS"] = {"type": "integer", "description": described["FLAGS"].description}
    return {"type": "object", "properties": properties, "required": names}


def _type(kind: pa.DataType) -> str:
    if pt.is_string(kind):
        return "string"
    return "boolean" if pt.is_boolean(kind) else "integer" if pt.is_integer(kind) else "number"


def _binary(description: str) -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": description}


def _get(name: str, summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    content = {json_rows.MEDIA_TYPE: {"schema": schema}}
    return {"operationId": name, "summary": summary, "responses": _responses(summary, content, *_ANYWHERE)}


def _responses(description: str, content: dict[str, Any], *faults: int) -> dict[str, Any]:
    failed = {"content": {json_rows.MEDIA_TYPE: {"schema": _ERROR}}}
    return {
        "200": {"description": description, "content": content},
        **{str(status): {"description": _FAULTS[status]} | failed for status in faults},
    }
