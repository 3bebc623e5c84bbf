"""`broadline serve`: the library's results, whoever else asks, and one clear answer to bad requests."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import broadline
from broadline import classify_table
from broadline.flags import Flag
from broadline.frames import result_columns
from broadline.model import Model
from broadline.representation import Represented
from broadline.serve import batcher as batching
from broadline.serve import wire
from broadline.serve.batcher import BATCH
from broadline.serve.limits import Limits
from broadline.web import LOOPBACK, BearerGuard, listen
from conftest import Answer
from files import write_spec
from serving import ARROW, JSON, N_PIXELS, TOKEN, lists, send, serving, spectra, stream, table_in, wait_until

HOSTILE = "<script>alert(1)</script>\"'\x00\r\nX-Evil: 1\u202e=cmd|' /C calc'!A0"
SMALL = Limits(n_bytes=400_000, n_spectra=300, seconds=60)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return broadline.load_model(tiny_model, threads=1)


@pytest.fixture(scope="module")
def client(model: Model) -> Iterator[httpx2.Client]:
    with serving(model) as client:
        yield client


@pytest.fixture(scope="module")
def small(model: Model) -> Iterator[httpx2.Client]:
    """A server that takes on little."""
    with serving(model, SMALL) as client:
        yield client


class Gate:
    """A model's network that waits to be let on, and keeps count."""

    def __init__(self, model: Model) -> None:
        self.run = model.run
        self.open = threading.Event()
        self.sizes: list[int] = []

    def __call__(self, values: Any) -> Any:
        self.sizes.append(len(values))
        assert self.open.wait(30)
        return self.run(values)


@pytest.fixture
def gate(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(model)
    monkeypatch.setattr(model, "run", gate)
    yield gate
    gate.open.set()


def as_json(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table, NaN as null."""
    rows = table.to_pylist()
    for row in rows:
        for name, values in row.items():
            if isinstance(values, list):
                row[name] = [None if value is None or math.isnan(value) else value for value in values]
    return rows


# ---- what it answers


def nested(table: pa.Table) -> pa.Table:
    names = ["flux", "ivar", "wavelength"]
    inner = pa.StructArray.from_arrays([table[name].chunk(0) for name in names], names)
    return table.drop_columns(names).append_column("spectrum", inner)


def with_mask(table: pa.Table) -> pa.Table:
    mask = np.zeros((len(table), N_PIXELS), dtype=np.int32)
    mask[:, 1000:1200] = 1
    return table.append_column("mask", lists(mask))


def in_batches(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(0, 3), table.slice(3)])


@pytest.mark.parametrize("change", [lambda table: table, nested, with_mask, in_batches])
def test_a_table_gives_what_the_library_gives(
    client: httpx2.Client, tiny_model: Path, change: Callable[[pa.Table], pa.Table]
) -> None:
    table = change(spectra(7))
    assert table_in(send(client, table)).equals(classify_table(table, tiny_model))


def test_json_gives_the_same_values_as_a_table(client: httpx2.Client, tiny_model: Path) -> None:
    table = spectra(5)
    expected = classify_table(table, tiny_model).to_pylist()
    answer = send(client, as_json(table))
    assert answer.headers["content-type"] == JSON and answer.json() == expected


def test_wavelengths_may_be_logarithms_in_some_spectra(client: httpx2.Client) -> None:
    rows = as_json(spectra(4))
    plain = send(client, rows).json()
    for row in rows[::2]:
        row["loglam"] = np.log10(row.pop("wavelength")).tolist()
    assert send(client, rows).json() == plain


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("", None),
        ("*/*", None),
        ("application/*;q=0.5, text/html", None),
        (ARROW, ARROW),
        (JSON, JSON),
        (f"{JSON};q=0.2, {ARROW};q=0.9", ARROW),
        (f"{JSON}, {ARROW}", JSON),
    ],
)
def test_either_form_is_answered_in_the_form_asked_for(
    client: httpx2.Client, accept: str, given: str | None
) -> None:
    table = spectra(2)
    for body, sent in ((table, ARROW), (as_json(table), JSON)):
        answer = send(client, body, Accept=accept)
        rows = table_in(answer).to_pylist() if (given or sent) == ARROW else answer.json()
        assert [row["TARGETID"] for row in rows] == table["TARGETID"].to_pylist()


def test_what_else_is_sent_comes_back_as_it_was(client: httpx2.Client) -> None:
    given = [
        {"id": HOSTILE, "SOURCE": "../../etc/passwd", "n": 2**63 - 1, "x": 0.1, "yes": True, "mixed": 1},
        {"id": "", "SOURCE": None, "n": -(2**63), "x": None, "yes": None, "mixed": "one", "mask": None},
    ]
    rows = [row | more for row, more in zip(as_json(spectra(2)), given, strict=True)]
    answer = send(client, rows)
    assert answer.headers["x-content-type-options"] == "nosniff" and "x-evil" not in answer.headers
    given[0] |= {"mixed": "1", "mask": None}  # values of different types come back as text
    assert [{name: row[name] for name in given[1]} for row in answer.json()] == given
    back = table_in(send(client, rows, Accept=ARROW))
    assert back["id"].to_pylist() == [HOSTILE, ""] and back.schema.field("n").type == pa.int64()


def test_a_bad_spectrum_is_a_flagged_row_in_its_place(client: httpx2.Client) -> None:
    good = as_json(spectra(1))[0]
    lost, unread = Flag.NO_DATA, Flag.NO_DATA | Flag.UNREADABLE
    changes: list[tuple[dict[str, Any], int]] = [
        ({}, 0),
        ({"flux": None}, lost),
        ({"ivar": []}, lost),
        ({"ivar": [0] * N_PIXELS}, lost),
        ({"flux": good["flux"][:-1]}, unread),
        ({"wavelength": good["wavelength"][:10]}, unread),
        ({"wavelength": [None] * N_PIXELS}, Flag.NO_DATA | Flag.BAD_WAVELENGTH),
        ({"wavelength": good["wavelength"][:5] * 300}, Flag.NO_DATA | Flag.BAD_WAVELENGTH),
        ({"wavelength": [20 * x for x in good["wavelength"]]}, Flag.NO_COVERAGE),
        ({"flux": [1] * N_PIXELS}, Flag.CONSTANT_FLUX),
        ({"flux": [None, *good["flux"][1:]]}, Flag.NON_FINITE),
        ({"flux": [10**300, *good["flux"][1:]]}, Flag.NON_FINITE),
        ({}, 0),
    ]
    rows = send(client, [good | change for change, _ in changes]).json()
    quality = Flag.LOW_SN | Flag.FEW_PIXELS | Flag.CONFLICTING_LINES
    assert [row["FLAGS"] & ~quality for row in rows] == [int(flags) for _, flags in changes]
    assert [row["IS_QSO"] is None for row in rows] == [bool(flags & ~Flag.NON_FINITE) for _, flags in changes]
    assert rows[0] == rows[-1] == send(client, [good]).json()[0]


def test_numbers_beyond_all_bounds_are_no_numbers(client: httpx2.Client) -> None:
    text = json.dumps(as_json(spectra(1)))
    text = re.sub(r'"flux": \[[^,]+', '"extra": 1e999, "flux": [1e999', text)
    (row,) = send(client, text.encode(), **{"Content-Type": JSON}).json()
    assert row["FLAGS"] & Flag.NON_FINITE and row["extra"] is None and row["IS_QSO"] is not None


def test_no_spectra_give_no_rows_of_the_same_columns(client: httpx2.Client, model: Model) -> None:
    assert send(client, []).json() == []
    empty = table_in(send(client, spectra(1).slice(0, 0)))
    assert len(empty) == 0 and empty.schema.names == ["TARGETID", *result_columns(model).names]


def test_a_request_of_several_batches_keeps_its_order(client: httpx2.Client, tiny_model: Path) -> None:
    table = pa.concat_tables([spectra(20, seed) for seed in range(0, 560, 20)]).combine_chunks()
    assert len(table) > 2 * BATCH
    assert table_in(send(client, table)).equals(classify_table(table, tiny_model))


def test_the_card_is_what_models_show_says(
    client: httpx2.Client, command: Callable[..., Answer], tiny_model: Path
) -> None:
    card = client.get("/model").json()
    shown = dict(
        re.split(r":\s+", line, maxsplit=1) for line in command("models", "show", tiny_model).out.splitlines()
    )
    further = card.pop("card")
    assert card | further == shown | {"broadline": broadline.__version__}


def test_health_is_told_without_a_token(client: httpx2.Client) -> None:
    with httpx2.Client(base_url=client.base_url) as stranger:
        assert stranger.get("/health").json() == {"status": "ok"}


# ---- many at once


@pytest.fixture
def handed_in(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many spectra each piece has that waits, or has waited, for the network."""
    sizes: list[int] = []
    plain = batching.Batcher.submit

    def submit(self: batching.Batcher, spectra: Represented) -> Any:
        sizes.append(len(spectra.flags))
        return plain(self, spectra)

    monkeypatch.setattr(batching.Batcher, "submit", submit)
    return sizes


def test_requests_that_come_while_the_network_is_at_work_share_its_next_call(
    client: httpx2.Client, gate: Gate, handed_in: list[int], tiny_model: Path
) -> None:
    tables = [spectra(1 + i % 3, seed=100 * i) for i in range(12)]
    with ThreadPoolExecutor(13) as pool:
        first = pool.submit(send, client, spectra(1))
        wait_until(lambda: gate.sizes == [1])
        others = [pool.submit(send, client, table) for table in tables]
        wait_until(lambda: len(handed_in) == 13)
        gate.open.set()
        answers = [other.result() for other in others]
        assert first.result().status_code == 200
    assert gate.sizes == [1, sum(map(len, tables))]
    for table, answer in zip(tables, answers, strict=True):
        # To the bytes what each gives alone: spectra of a batch do not touch one another.
        assert table_in(answer).equals(classify_table(table, tiny_model))


def test_a_call_of_the_network_has_no_more_than_a_batch(
    client: httpx2.Client, gate: Gate, handed_in: list[int]
) -> None:
    many = pa.concat_tables([spectra(20)] * 9).combine_chunks()  # 180 spectra
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(send, client, spectra(1))
        wait_until(lambda: gate.sizes == [1])
        others = [pool.submit(send, client, many) for _ in range(5)]
        wait_until(lambda: len(handed_in) == 6)
        gate.open.set()
        assert {other.result().status_code for other in [first, *others]} == {200}
    assert gate.sizes == [1] + 5 * [180] and 180 < BATCH < 360


def test_the_network_waits_for_requests_that_are_being_read_but_not_long(
    client: httpx2.Client, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, read_on = threading.Event(), threading.Event()
    plain = wire.read

    def slow(body: bytes, *others: Any) -> Any:
        if b"slow" in body:
            reading.set()
            assert read_on.wait(30)
        return plain(body, *others)

    monkeypatch.setattr(wire, "read", slow)
    monkeypatch.setattr(batching, "_PATIENCE", 0.3)
    one = as_json(spectra(1))
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        send(client, one)
        alone = time.monotonic() - began
        other = pool.submit(send, client, [one[0] | {"name": "slow"}])
        assert reading.wait(30)
        began = time.monotonic()
        assert send(client, one).status_code == 200  # although the other is still being read
        beside = time.monotonic() - began
        read_on.set()
        assert other.result().status_code == 200
    assert alone < 0.3 <= beside


def test_what_fails_fails_alone_and_the_server_goes_on(
    client: httpx2.Client, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(values: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(model, "run", broken)
        answer = send(client, spectra(1))
    assert answer.status_code == 500 and "log" in answer.json()["error"]
    assert send(client, spectra(1)).status_code == 200


def test_no_part_of_an_answer_waits_for_the_receipt_of_another() -> None:
    with listen(0) as listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# ---- who gets in


@pytest.mark.parametrize("path", ["/classify", "/model", "/openapi.json", "/", "/nothing"])
@pytest.mark.parametrize(
    "given",
    [{}, {"Authorization": "Bearer"}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}],
)
def test_without_the_right_token_nothing_is_told(
    client: httpx2.Client, path: str, given: dict[str, str]
) -> None:
    with httpx2.Client(base_url=client.base_url, headers=given) as stranger:
        answer = stranger.post(path, content=b"[]", headers={"Content-Type": JSON})
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert "token" in answer.json()["error"] and TOKEN not in answer.text


def test_another_name_for_this_machine_is_refused(client: httpx2.Client, model: Model) -> None:
    assert client.get("/model", headers={"Host": "evil.example:80"}).status_code == 421
    assert client.get("/model", headers={"Host": "localhost:8000"}).status_code == 200
    with serving(model, hosts=None) as public:
        assert public.get("/model", headers={"Host": "spectra.example"}).status_code == 200


# ---- bad requests


def changed(**change: Any) -> bytes:
    return json.dumps([as_json(spectra(1))[0] | change]).encode()


def lacking(name: str) -> bytes:
    row = as_json(spectra(1))[0]
    del row[name]
    return json.dumps([row]).encode()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no JSON"),
        (b"[{", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"[" * 100_000, "in one another"),
        (b'[{"a":' * 100_000, "in one another"),
        (b"{}", "list of spectra"),
        (b"[1, 2]", "list of spectra"),
        (b'[{"flux": [NaN]}]', "NaN is no JSON: write null"),
        (b'[{"flux": [-Infinity]}]', "-Infinity is no JSON"),
        (b"[{}]", "lacks flux"),
        (lacking("ivar"), "spectrum 0 (counted from 0) lacks ivar"),
        (lacking("wavelength"), "lacks wavelength or loglam"),
        (changed(flux="1,2,3"), "flux of spectrum 0"),
        (changed(flux=5), "no list of numbers"),
        (changed(ivar=[[1, 2]]), "ivar of spectrum 0"),
        (changed(ivar=[True]), "no list of numbers"),
        (changed(wavelength=["4000"]), "wavelength of spectrum 0"),
        (changed(loglam=[{}]), "loglam of spectrum 0"),
        (changed(flux=[10**400]), "beyond 1e308"),
        (changed(Z=2.0, FLAGS=1), "have FLAGS, Z, as the results will: send it under another name"),
        (changed(FLUX=[1.0]), "'FLUX' holds a list"),
        (changed(deep={"a": 1}), "'deep' holds a list or an object"),
        (changed(name="\ud800"), "half a Unicode character"),
        (changed(**{"\udfff": 1}), "half a Unicode character"),
    ],
)
def test_malformed_json_is_refused_in_one_sentence(client: httpx2.Client, body: bytes, says: str) -> None:
    answer = send(client, body, **{"Content-Type": JSON})
    assert answer.status_code == 400 and says in answer.json()["error"], answer.text
    assert len(answer.text) < 300 and "\n" not in answer.text


def null_lists(n: int) -> pa.Table:
    """A column of one list of nulls, which take no room in a stream."""
    offsets = np.array([0, n], dtype=np.int32)
    column = pa.ListArray.from_arrays(offsets, pa.nulls(n))
    return pa.table({"flux": column, "ivar": column, "wavelength": column})


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "no whole Arrow stream"),
        (b"\x00\xff" * 500, 400, "no whole Arrow stream"),
        (b"PAR1 but no more", 400, "no whole Arrow stream"),
        (stream(spectra(3))[:-40_000], 400, "no whole Arrow stream"),
        (stream(spectra(3))[:300], 400, "no whole Arrow stream"),
        (stream(spectra(3), compression="zstd"), 400, "write it uncompressed"),
        (stream(spectra(3), compression="lz4"), 400, "write it uncompressed"),
        (stream(pa.table({"x": [1]})), 400, "no columns of spectra"),
        (stream(spectra(1).append_column("Z", pa.array([1.0]))), 400, "send it under another name"),
        (stream(spectra(1).append_column("flux", spectra(1)["flux"])), 400, "two columns called 'flux'"),
        (stream(spectra(1).set_column(1, "flux", pa.array([["a", "b"]]))), 400, "not of numbers"),
        (stream(null_lists(2**31 - 1)), 413, "numbers at most"),
    ],
)
def test_a_malformed_stream_is_refused_in_one_sentence(
    client: httpx2.Client, body: bytes, status: int, says: str
) -> None:
    answer = send(client, body, **{"Content-Type": ARROW})
    assert answer.status_code == status and says in answer.json()["error"], answer.text
    assert len(answer.text) < 500 and "\n" not in answer.text


def test_no_damage_to_a_stream_hurts_the_server(client: httpx2.Client) -> None:
    whole, rng = stream(spectra(2)), random.Random(7)
    statuses = []
    for _ in range(100):
        body = bytearray(whole)
        for _ in range(rng.choice((1, 3, 30))):
            # Headers and offsets rather than pixels
            body[rng.choice((rng.randrange(1500), rng.randrange(len(body))))] = rng.randrange(256)
        answer = send(client, bytes(body), **{"Content-Type": ARROW})
        assert answer.status_code in (200, 400, 413), answer.text
        statuses.append(answer.status_code)
    assert {200, 400} <= set(statuses) and client.get("/health").status_code == 200


def test_text_has_no_form_for_what_json_lacks(client: httpx2.Client) -> None:
    table = spectra(1).append_column("when", pa.array([b"\xff"]))
    answer = send(client, table, Accept=JSON)
    assert answer.status_code == 400 and "ask for an Arrow stream" in answer.json()["error"]
    assert table_in(send(client, table))["when"].to_pylist() == [b"\xff"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": JSON, "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": JSON, "Accept": "text/html"}, 406),
        ({"Content-Type": JSON, "Accept": f"{JSON};q=0"}, 406),
        ({"Content-Type": f"{JSON}; charset=utf-8", "Accept": f"{JSON};q=x, */*"}, 200),
    ],
)
def test_forms_that_are_not_had_are_refused(
    client: httpx2.Client, headers: dict[str, str], status: int
) -> None:
    answer = send(client, b"[]", **headers)
    assert answer.status_code == status and (
        status == 200 or JSON in answer.json()["error"] or "encod" in answer.text.lower()
    )


def test_other_paths_and_methods_are_refused(client: httpx2.Client) -> None:
    assert client.get("/classify").status_code == 405 and client.get("/classify").headers["allow"] == "POST"
    assert client.post("/model").status_code == 405
    assert client.get("/classify/").status_code == client.get("/../etc/passwd").status_code == 404
    assert client.get("/nothing").json() == {"error": "Not Found"}


# ---- limits


def in_pieces(body: bytes) -> Iterator[bytes]:
    """A body that does not say how long it is."""
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


@pytest.mark.parametrize(("kind", "most"), [(ARROW, SMALL.n_bytes), (JSON, SMALL.n_json_bytes)])
def test_an_oversized_body_is_refused_whether_or_not_it_says_its_size(
    small: httpx2.Client, kind: str, most: int
) -> None:
    headers = {"Content-Type": kind}
    for content in (b" " * (most + 1), in_pieces(b" " * (most + 1))):
        answer = small.post("/classify", content=content, headers=headers)
        assert answer.status_code == 413 and f"{most:,} bytes" in answer.json()["error"]
    assert small.post("/classify", content=in_pieces(b" " * most), headers=headers).status_code == 400
    with connected(small, 10**19) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def test_too_many_spectra_are_refused(small: httpx2.Client) -> None:
    short = {"flux": [1.0, 2.0], "ivar": [1.0, 1.0], "wavelength": [5000.0, 5001.0]}
    most = SMALL.n_spectra
    for n, status in ((most, 200), (most + 1, 413)):
        for body in ([short] * n, pa.Table.from_pylist([short] * n)):
            assert send(small, body).status_code == status
    names = [short | {f"name {i}": 1 for i in range(j, j + 30)} for j in range(0, 300, 30)]
    assert send(small, names).status_code == 413


def test_a_request_that_takes_too_long_is_told_to_come_again(model: Model, gate: Gate) -> None:
    with serving(model, Limits(seconds=1)) as client:
        began = time.monotonic()
        late = send(client, spectra(2))
        assert time.monotonic() - began < 10
        assert late.status_code == 503 and late.headers["retry-after"] == "1"
        assert "not done within 1 s" in late.json()["error"]
        gate.open.set()
        assert send(client, spectra(2)).status_code == 200


def test_a_body_that_does_not_arrive_is_not_waited_for(model: Model) -> None:
    with serving(model, Limits(seconds=1)) as client, connected(client, 1000) as connection:
        connection.sendall(b"[")
        connection.settimeout(10)
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


@contextmanager
def connected(client: httpx2.Client, length: int) -> Iterator[socket.socket]:
    """A connection on which a request has begun."""
    host, port = client.base_url.host, client.base_url.port
    assert port is not None
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(request_head(length))
        yield connection


def request_head(length: int) -> bytes:
    lines = [
        "POST /classify HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {TOKEN}",
        f"Content-Type: {JSON}",
        f"Content-Length: {length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_full_server_says_when_to_come_again(small: httpx2.Client) -> None:
    body = b" " * SMALL.n_json_bytes
    with ExitStack() as stack:
        # Four of the largest bodies fit in; those of JSON are a quarter. Some may find that a request below
        # has taken their room, and are refused.
        for _ in range(4 * 4 + 4):
            stack.enter_context(connected(small, len(body)))
        wait_until(lambda: send(small, body, **{"Content-Type": JSON}).status_code == 503)
        refused = send(small, body, **{"Content-Type": JSON})
        assert refused.headers["retry-after"] == "1" and "busy" in refused.json()["error"]
        assert small.get("/health").status_code == 200
    wait_until(lambda: send(small, body, **{"Content-Type": JSON}).status_code == 400)


# ---- the examples


def examples(language: str) -> list[str]:
    docs = Path(__file__).resolve().parents[1] / "docs" / "serve.md"
    return re.findall(rf"```{language}\n(.*?)```", docs.read_text(), re.DOTALL)


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_the_example_with_curl_gives_a_row(client: httpx2.Client) -> None:
    (script,) = (text for text in examples("sh") if "curl" in text)
    script = script.replace("http://127.0.0.1:8000", str(client.base_url))
    done = subprocess.run(
        ["sh", "-c", script], env={"BROADLINE_TOKEN": TOKEN, **os.environ}, capture_output=True, check=True
    )
    (row,) = json.loads(done.stdout)
    assert row["name"] == "A" and row["FLAGS"] & Flag.FEW_PIXELS


def test_the_examples_in_python_give_what_the_library_gives(
    client: httpx2.Client,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("requests")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROADLINE_TOKEN", TOKEN)
    write_spec(tmp_path / "spec-3586-55181-0046.fits")
    pq.write_table(spectra(300), tmp_path / "spectra.parquet")
    with_json, with_arrow = (
        text.replace("http://127.0.0.1:8000", str(client.base_url)) for text in examples("python")
    )
    exec(with_json, {})
    expected = broadline.load_model(tiny_model).classify(broadline.read("spec-3586-55181-0046.fits"))
    said = capsys.readouterr().out.split()
    assert said[:2] == [expected["OBJID"][0], str(expected["IS_QSO"][0])]
    assert float(said[2]) == pytest.approx(expected["Z"][0], rel=1e-6)
    names: dict[str, Any] = {}
    exec(with_arrow, names)
    assert names["catalogue"].equals(
        classify_table(pq.read_table("spectra.parquet").slice(0, 256), tiny_model)
    )


# ---- the command


@contextmanager
def started(model: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    """The command in a process of its own, and a client of it."""
    arguments = [sys.executable, "-m", "broadline", "serve", "--model", str(model), "--port", "0", *options]
    process = subprocess.Popen(
        [*arguments, "--token", TOKEN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        link = re.search(r"http://\S+", line)
        assert link and TOKEN not in line
        with httpx2.Client(
            base_url=link[0],
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=60,
            limits=httpx2.Limits(max_connections=None),
        ) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


def test_an_end_waits_for_what_is_under_way(tiny_model: Path) -> None:
    body = json.dumps(as_json(spectra(2))).encode()
    with started(tiny_model, "--threads", "1") as (process, client):
        expected = send(client, body, **{"Content-Type": JSON}).json()
        with connected(client, len(body)) as connection:
            connection.sendall(body[:1000])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: refuses(client))
            connection.sendall(body[1000:])
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, content = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200") and json.loads(content) == expected
        assert process.wait(20) == 0 and process.stderr is not None and process.stderr.read() == ""


def refuses(client: httpx2.Client) -> bool:
    assert client.base_url.port is not None
    try:
        socket.create_connection((client.base_url.host, client.base_url.port), timeout=5).close()
    except ConnectionError:
        return True
    return False


def peak_memory(process: subprocess.Popen[str]) -> int:
    """The greatest resident memory (bytes) that a process has had."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def test_fifty_clients_at_once_get_their_own_results_and_memory_is_bounded(tiny_model: Path) -> None:
    tables = [spectra(3, seed=10 * i) for i in range(50)]
    expected = [classify_table(table, tiny_model) for table in tables]
    big = [pa.concat_tables([table] * 8).combine_chunks() for table in tables]  # 0.6 MB
    refused: list[str] = []

    with started(tiny_model, "--threads", "1", "--max-mb", "1") as (process, client):

        def small(number: int) -> None:
            for _ in range(2):
                assert table_in(send(client, tables[number])).equals(expected[number])

        def large(number: int) -> None:
            while True:
                answer = send(client, big[number])
                if answer.status_code == 200:
                    break
                assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
                refused.append(answer.json()["error"])
                time.sleep(0.2)
            result = table_in(answer)
            assert result.slice(21).combine_chunks().equals(expected[number].combine_chunks())

        with ThreadPoolExecutor(50) as pool:
            list(pool.map(small, range(50)))
            before = peak_memory(process)
            list(pool.map(large, range(50)))
        # four bodies of 1 MB fit in at once, seven of these: the others have waited outside
        assert peak_memory(process) - before < 60e6
    assert refused and all("busy" in reason for reason in refused)


def test_a_taken_port_is_one_sentence_with_its_cure(command: Callable[..., Answer], tiny_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = command("serve", "--model", tiny_model, "--port", port)
    assert answer.code == 2 and f"cannot listen on port {port}" in answer.err and "--port" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--model", "nothing"), "no model called 'nothing'"),
        (("--model", "nothing.onnx"), "no model file nothing.onnx"),
        (("--token", "short"), "16 letters"),
        (("--token", "with spaces and\ttabs in it"), "16 letters"),
        (("--host", ""), "--host"),
        (("--host", "host.invalid"), "cannot listen on host.invalid"),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1"),  # documentation's, no machine's
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    command: Callable[..., Answer], tiny_model: Path, options: tuple[str, ...], says: str
) -> None:
    model = () if "--model" in options else ("--model", tiny_model)
    answer = command("serve", *model, "--port", 0, *options)
    assert answer.code == 2 and says in answer.err and "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("host", "names"),
    [("127.0.0.1", LOOPBACK), ("127.0.0.2", LOOPBACK | {"127.0.0.2"}), ("0.0.0.0", None)],
)
def test_an_address_that_others_reach_must_be_given_and_is_warned_of(
    command: Callable[..., Answer],
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    names: frozenset[str] | None,
) -> None:
    served: list[BearerGuard] = []
    monkeypatch.setattr("broadline.web.run", lambda app, listening, grace: served.append(app))
    options = () if host == "127.0.0.1" else ("--host", host)
    answer = command("serve", "--model", tiny_model, "--port", 0, *options)
    assert answer.code == 0 and served[0].hosts == names
    assert ("encrypted" in answer.err) == (names is None)
    token = re.search(r"token: (\S{43});", answer.out)  # 256 bits, new each time
    assert token and served[0].is_token(token[1])
