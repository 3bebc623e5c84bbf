"""The page's server: queues and spectra out, verdicts in."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from broadline.errors import UsageError
from broadline.inspect import exchange
from broadline.inspect.project import Project, plain
from broadline.inspect.rulings import Ruling, inspector_name
from broadline.inspect.verdicts import ConflictError, NotStoredError
from broadline.web import LinkGuard, TooLargeError

__all__ = ["LARGEST", "STATIC", "application"]

#: Bytes of a request: the verdicts on some 100,000 spectra as csv.
LARGEST = 16 * 1024 * 1024
STATIC = Path(__file__).with_name("static")

_LONGEST_REQUEST = 64
_EXPORTS: dict[str, tuple[str, Callable[..., bytes]]] = {
    "prospect.csv": ("text/csv", exchange.prospect_csv),
    "truth.csv": ("text/csv", exchange.truth_csv),
    "truth.parquet": ("application/vnd.apache.parquet", exchange.truth_parquet),
}


def application(project: Project, token: str) -> LinkGuard:
    """Return the server of a project, reached below ``/TOKEN/`` alone."""

    async def about(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(project.viewer.about, project.inspector))

    async def queues(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(project.progress, _inspector(request, project)))

    async def queue(request: Request) -> Response:
        asked, inspector = request.query_params, _inspector(request, project)

        def rows() -> dict[str, Any]:
            name = asked.get("name", "ranked")
            found = project.chosen(
                name,
                inspector,
                asked.get("filter", ""),
                asked.get("sort", ""),
                asked.get("descending") == "true",
            )
            ruled = project.ruled(name, inspector)[found]
            return {"n": len(found), "rows": _bytes(found, "<i4"), "ruled": _bytes(ruled, "u1")}

        return JSONResponse(await run_in_threadpool(rows))

    async def spectrum(request: Request) -> Response:
        adjudicating = request.query_params.get("adjudicate") == "true"
        row, inspector = request.path_params["row"], _inspector(request, project)
        return JSONResponse(await run_in_threadpool(project.view, row, inspector, adjudicating))

    async def verdict(request: Request) -> Response:
        said, inspector = await _json(request), _inspector(request, project)
        row, seen = _field(said, "row", int), _field(said, "seen", int)
        z = said.get("z")
        ruling = Ruling(
            _field(said, "kind", str),
            None if z is None else float(_field(said, "z", (int, float))),
            _field(said, "quality", int),
            _field(said, "bal", bool),
            _field(said, "comment", str),
        )
        adjudicates = said.get("adjudicates") is True
        name = _field(said, "request", str)[:_LONGEST_REQUEST]

        stored = await run_in_threadpool(project.rule, row, inspector, ruling, seen, adjudicates, name)
        return JSONResponse(stored)

    async def undo(request: Request) -> Response:
        inspector = _inspector(request, project)
        undone = await run_in_threadpool(project.store.undo, inspector)
        if undone is None:
            return JSONResponse({"error": "there is nothing to undo"}, 409)
        return JSONResponse({"row": undone.row} | project.verdicts(undone.row, inspector, False))

    async def statistics(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(project.statistics))

    async def export(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _EXPORTS:
            raise HTTPException(404, f"there is no export {name!r}; there are {', '.join(_EXPORTS)}")
        kind, write = _EXPORTS[name]
        content = await run_in_threadpool(lambda: write(project.subjects, project.store.standing()))
        stem = project.subjects.catalogue.path.stem.replace('"', "")
        ascii_stem = stem.encode("ascii", "replace").decode().replace("?", "_")
        disposition = f'attachment; filename="{ascii_stem}-{name}"'
        return Response(content, media_type=kind, headers={"Content-Disposition": disposition})

    async def bring(request: Request) -> Response:
        content, inspector = await request.body(), _inspector(request, project)

        def taken() -> dict[str, int]:
            with TemporaryDirectory() as folder:
                path = Path(folder) / "upload"
                path.write_bytes(content)
                read = exchange.read_verdicts(path, project.subjects, inspector)
            return {"n": project.store.rule_all(read.verdicts), "unmatched": read.n_unmatched}

        return JSONResponse(await run_in_threadpool(taken))

    async def page(request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    routes = [
        Route("/", page),
        Route("/api/project", about),
        Route("/api/queues", queues),
        Route("/api/queue", queue),
        Route("/api/spectrum/{row:int}", spectrum),
        Route("/api/verdict", verdict, methods=["POST"]),
        Route("/api/undo", undo, methods=["POST"]),
        Route("/api/statistics", statistics),
        Route("/api/export/{name}", export),
        Route("/api/import", bring, methods=["POST"]),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            UsageError: _said(400),
            TooLargeError: _said(413),
            NotStoredError: _said(507),
            ConflictError: _conflict,
            HTTPException: _http,
        },
    )
    return LinkGuard(app, token, LARGEST)


def _inspector(request: Request, project: Project) -> str:
    given = request.query_params.get("inspector")
    return inspector_name(given) if given is not None else project.inspector


async def _json(request: Request) -> dict[str, Any]:
    try:
        said = await request.json()
    except (ValueError, RecursionError) as error:
        raise UsageError("the request is no JSON") from error
    if not isinstance(said, dict):
        raise UsageError("the request is no JSON object")
    return said


def _field(said: dict[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    """Return a field of a request of the given type; a logical is no number here."""
    value = said.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"the request lacks {name!r}, or it is of the wrong type")
    if isinstance(value, int) and abs(value) > 2**53:
        raise UsageError(f"{name!r} is out of range")
    return value


Handler = Callable[[Request, Exception], Awaitable[Response]]


def _said(status: int) -> Handler:
    async def handler(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status)

    return handler


async def _conflict(request: Request, error: Exception) -> Response:
    assert isinstance(error, ConflictError)
    current = plain(error.current) if error.current else None
    return JSONResponse({"error": str(error), "version": error.version, "current": current}, 409)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


def _bytes(values: ArrayLike, kind: str) -> str:
    return base64.b64encode(np.asarray(values).astype(kind).tobytes()).decode()
