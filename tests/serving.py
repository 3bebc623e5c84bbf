"""A server of a tiny model in this process, and spectra to send to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import uvicorn
from numpy.typing import NDArray

from broadline.model import Model
from broadline.serve.app import application
from broadline.serve.limits import Limits
from broadline.spectra import lattice_wavelength
from broadline.web import LOOPBACK, listen, new_token
from files import FIRST, observed, quasar

TOKEN = new_token()
ARROW, JSON = "application/vnd.apache.arrow.stream", "application/json"
N_PIXELS = 1500
WAVE = lattice_wavelength(FIRST, N_PIXELS)


@contextmanager
def serving(
    model: Model, limits: Limits | None = None, hosts: Collection[str] | None = LOOPBACK
) -> Iterator[httpx2.Client]:
    """Serve a model as the command does; yield a client that has the token."""
    config = uvicorn.Config(application(model, TOKEN, limits, hosts), log_level="critical", access_log=False)
    server, listening = uvicorn.Server(config), listen(0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    link = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with httpx2.Client(base_url=link, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
        yield client
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@cache
def spectra(n: int, seed: int = 0) -> pa.Table:
    """Quasars of various redshifts on one grid, with identifiers that no double holds."""
    pairs = [observed(quasar(0.3 + 0.1 * (i % 30), np.log10(WAVE)), seed=seed + i) for i in range(n)]
    flux, ivar = np.array(pairs).transpose(1, 0, 2)
    targets = np.arange(39627835576420141 + seed, 39627835576420141 + seed + n)
    columns = {"flux": lists(flux), "ivar": lists(ivar), "wavelength": lists(np.tile(WAVE, (n, 1)))}
    return pa.table({"TARGETID": targets, **columns})


def lists(image: NDArray[Any]) -> pa.Array:
    offsets = np.arange(len(image) + 1, dtype=np.int32) * image.shape[1]
    return pa.ListArray.from_arrays(offsets, image.ravel())


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def table_in(answer: httpx2.Response) -> pa.Table:
    assert answer.status_code == 200 and answer.headers["content-type"] == ARROW, answer.text
    return pa.ipc.open_stream(answer.content).read_all()


def send(client: httpx2.Client, body: pa.Table | Sequence[Any] | bytes, **headers: str) -> httpx2.Response:
    """Send a table as Arrow, a list as JSON; anything else as it is."""
    if isinstance(body, pa.Table):
        return client.post("/classify", content=stream(body), headers={"Content-Type": ARROW} | headers)
    if isinstance(body, bytes):
        return client.post("/classify", content=body, headers=headers)
    return client.post("/classify", json=body, headers=headers)


def wait_until(true: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
