"""The server of inspection: who gets in, what it answers, and that it bends under no request."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np
import pytest
import uvicorn
from astropy.io import fits
from starlette.testclient import TestClient

from broadline.errors import UsageError
from broadline.inspect.project import Project
from broadline.inspect.queue import rank
from broadline.inspect.rulings import Ruling
from broadline.inspect.server import LARGEST, STATIC, application
from broadline.inspect.spectrum import Viewer
from broadline.inspect.static_page import MODULES, static_page, write_static_page
from broadline.inspect.subjects import Subjects, read_subjects
from broadline.inspect.verdicts import Store
from broadline.lookup import Lookup
from broadline.web import listen, new_token
from conftest import Answer
from files import loglam, observed, quasar, room_for, write_spec
from inspected import STAR_CALLED, N, true_z, write_catalogue

TOKEN = new_token()
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"


@pytest.fixture(scope="module")
def subjects(to_inspect: Path) -> Subjects:
    return read_subjects(to_inspect)


@pytest.fixture
def viewer(subjects: Subjects, tmp_path: Path) -> Viewer:
    """A view of a copy of the spectra, to be spoilt."""
    folder = shutil.copytree(subjects.catalogue.path.parent / "spectra", tmp_path / "spectra")
    return Viewer(subjects, rank(subjects), Lookup.of(subjects.columns["SOURCE"].tolist(), [folder]))


@pytest.fixture
def project(subjects: Subjects, tmp_path: Path) -> Iterator[Project]:
    ranking = rank(subjects)
    lookup = Lookup.of(subjects.columns["SOURCE"].tolist(), [])
    with Store(tmp_path / "verdicts.sqlite", subjects) as store:
        yield Project(subjects, ranking, Viewer(subjects, ranking, lookup), store, "Ada")


@pytest.fixture
def client(project: Project) -> TestClient:
    return TestClient(application(project, TOKEN), base_url="http://127.0.0.1", raise_server_exceptions=False)


def at(path: str) -> str:
    return f"/{TOKEN}/{path}"


def said(row: int, kind: str = "QSO", z: float | None = 1.0, **more: Any) -> dict[str, Any]:
    """A verdict as the page sends it."""
    request = {"row": row, "kind": kind, "z": z, "quality": 4, "bal": False, "comment": "", "seen": 0}
    return request | {"adjudicates": False, "request": f"{row}-{time.monotonic_ns()}"} | more


def numbers(text: str, kind: str = "<f4") -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), dtype=kind)


# ---- who gets in


@pytest.mark.parametrize(
    "path", ["/", "/api/project", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", f"/{TOKEN}", "/x/api/queues"]
)
def test_without_the_right_token_nothing_is_told(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 403 and "token" in answer.json()["error"] and TOKEN not in answer.text


def test_another_name_for_this_machine_is_refused(client: TestClient) -> None:
    assert client.get(at("api/project"), headers={"Host": "evil.example:80"}).status_code == 421
    assert client.get(at("api/project"), headers={"Host": "localhost:8000"}).status_code == 200


def test_the_page_may_load_and_run_nothing_but_its_own(client: TestClient) -> None:
    answer = client.get(at(""))
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "http" not in answer.text.replace("http-equiv", "")  # no link leads elsewhere
    assert client.get(at("static/js/app.js")).headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize(
    "path",
    [
        "static/../server.py",
        "static/%2e%2e/server.py",
        "static/..%2fserver.py",
        "static//etc/passwd",
        "api/export/../../verdicts.sqlite",
        "api/export/..%2fverdicts.sqlite",
    ],
)
def test_no_path_leads_out_of_the_pages_folder(client: TestClient, path: str) -> None:
    answer = client.get(at(path))
    assert answer.status_code == 404 and "import" not in answer.text


def test_the_library_in_the_page_is_that_of_its_authors_with_its_licence() -> None:
    # sha256 of dist/uPlot.iife.min.js in the npm package uplot 1.6.32
    built = hashlib.sha256((STATIC / "vendor" / "uPlot.iife.min.js").read_bytes()).hexdigest()
    assert built == "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"
    assert "MIT License" in (STATIC / "vendor" / "LICENSE.uPlot").read_text()


# ---- what it answers


def test_a_spectrum_is_that_of_the_file(client: TestClient, subjects: Subjects) -> None:
    answer = client.get(at("api/spectrum/3")).json()
    with fits.open(str(subjects.columns["SOURCE"][3])) as hdus:
        flux, ivar, loglam = (np.asarray(hdus[1].data[name]) for name in ("flux", "ivar", "loglam"))
    np.testing.assert_array_equal(numbers(answer["flux"]), flux)
    np.testing.assert_allclose(numbers(answer["wavelength"]), 10.0**loglam, rtol=2e-6)
    np.testing.assert_allclose(numbers(answer["error"]), ivar**-0.5, rtol=1e-6)
    np.testing.assert_allclose(
        numbers(answer["model"]), flux, rtol=1e-6
    )  # these files have the flux as model
    assert answer["pipeline"] == {"class": "QSO", "z": pytest.approx(true_z(3), abs=1e-6), "warning": 0}
    drawn = ["random control"] * (3 in rank(subjects).controls)
    assert answer["reasons"] == ["redshift unsure", "lines disagree", *drawn]
    assert [one["name"] for one in answer["lines"]][:2] == ["LYA", "CIV"] and answer[
        "number"
    ] == "4055553590004"
    assert answer["facts"]["SN_MEDIAN"] == "8" and answer["missing"] == ""
    assert answer["flags"][0].startswith("CONFLICTING_LINES")


def test_masked_pixels_have_no_error(viewer: Viewer, tmp_path: Path) -> None:
    flux, ivar = observed(quasar(1.0))
    ivar[100:120] = flux[100:120] = 0
    ivar[:90] = flux[:90] = 0  # at the edge too, where it is no padding
    write_spec(tmp_path / "spectra" / "spec-4055-55359-0001.fits", flux, ivar, fiber=1)
    seen = viewer.spectrum(0)
    wavelength, error = numbers(seen["wavelength"]), numbers(seen["error"])
    np.testing.assert_allclose(wavelength[np.isfinite(error)], 10.0 ** loglam()[ivar > 0], rtol=2e-6)
    assert wavelength[0] <= 10.0 ** loglam()[0] * 1.00001 and len(wavelength) < len(flux) + 64


def test_a_queue_comes_filtered_sorted_and_with_what_is_ruled(client: TestClient, subjects: Subjects) -> None:
    client.post(at("api/verdict"), json=said(5))
    ask = {"name": "all", "filter": "Z > 0.6 & IS_QSO", "sort": "Z", "descending": "true"}
    answer = client.get(at("api/queue"), params=ask).json()
    rows, ruled = numbers(answer["rows"], "<i4"), numbers(answer["ruled"], "u1")
    z = subjects.catalogue.z
    assert answer["n"] == len(rows) == int((subjects.catalogue.called & (z > 0.6)).sum())
    assert (np.diff(z[rows]) <= 0).all() and rows[ruled == 1].tolist() == [5]
    for bad in ({"filter": "Z >"}, {"name": "nothing"}, {"sort": "NOTHING"}):
        refused = client.get(at("api/queue"), params=bad)
        assert refused.status_code == 400 and refused.json()["error"]


def test_every_column_sorts_and_filters_a_queue(client: TestClient, subjects: Subjects) -> None:
    columns = client.get(at("api/project")).json()["columns"]
    assert columns.keys() == subjects.columns.keys() and len(columns) > 30
    for name, kind in columns.items():
        values = subjects.columns[name]
        up, down = (
            numbers(client.get(at("api/queue"), params=ask).json()["rows"], "<i4")
            for ask in ({"name": "all", "sort": name}, {"name": "all", "sort": name, "descending": "true"})
        )
        assert sorted(up) == sorted(down) == list(range(N))
        known = values[up] if kind != "number" else values[up][np.isfinite(values[up].astype(float))]
        assert known.tolist() == sorted(known.tolist())
        known = values[down] if kind != "number" else values[down][np.isfinite(values[down].astype(float))]
        assert known.tolist() == sorted(known.tolist(), reverse=True)
        text = str(values[5]).lower() if kind == "logical" else f"'{values[5]}'"
        text = repr(values[5].item()) if kind == "number" else text
        answer = client.get(at("api/queue"), params={"name": "all", "filter": f"{name} == {text}"})
        assert answer.status_code == 200, answer.text
        assert numbers(answer.json()["rows"], "<i4").tolist() == np.flatnonzero(values == values[5]).tolist()


def test_progress_counts_ones_own_verdicts_in_each_queue(client: TestClient) -> None:
    client.post(at("api/verdict"), json=said(STAR_CALLED, "STAR", 0.0))
    progress = {queue["name"]: queue for queue in client.get(at("api/queues")).json()}
    assert (
        progress["single_line"]["ruled"] == 1 and progress["mine"]["n"] == 1 and progress["second"]["n"] == 0
    )
    other = {queue["name"]: queue for queue in client.get(at("api/queues?inspector=Ben")).json()}
    assert other["single_line"]["ruled"] == 0 and other["second"]["n"] == 1


def test_others_verdicts_are_hidden_until_ones_own_is_given(client: TestClient) -> None:
    client.post(at("api/verdict?inspector=Ben"), json=said(2, comment="mine alone"))
    before = client.get(at("api/spectrum/2"))
    assert before.json()["others"] == [] and before.json()["hidden"] == 1 and "mine alone" not in before.text
    assert client.get(at("api/spectrum/2?adjudicate=true")).json()["others"] == []  # nothing is disputed
    after = client.post(at("api/verdict"), json=said(2, "STAR", 0.0)).json()
    assert [other["inspector"] for other in after["others"]] == ["Ben"] and after["hidden"] == 0


def test_a_third_inspector_settles_what_two_dispute(client: TestClient, project: Project) -> None:
    row = int(project.ranking.controls[0])
    assert client.post(at("api/verdict?inspector=Cy"), json=said(row, adjudicates=True)).status_code == 400
    client.post(at("api/verdict"), json=said(row, "STAR", 0.0))
    client.post(at("api/verdict?inspector=Ben"), json=said(row))
    disputed = client.get(at("api/queue?name=disputed")).json()
    assert numbers(disputed["rows"], "<i4").tolist() == [row]
    assert numbers(disputed["ruled"], "u1").tolist() == [0]  # Ada's blind verdict settles nothing
    progress = {queue["name"]: queue for queue in client.get(at("api/queues")).json()}
    assert (progress["disputed"]["ruled"], progress["disputed"]["n"]) == (0, 1)
    seen = client.get(at(f"api/spectrum/{row}?adjudicate=true&inspector=Cy")).json()
    assert [other["inspector"] for other in seen["others"]] == ["Ada", "Ben"]
    assert client.post(at("api/verdict?inspector=Cy"), json=said(row, adjudicates=True)).status_code == 200
    assert client.get(at("api/queue?name=disputed")).json()["n"] == 0
    statistics = client.get(at("api/statistics")).json()
    assert statistics["pairs"][0]["n"] == 1 and statistics["n_double"] == 1
    assert statistics["purity"]["n"] == 1


def test_a_second_tab_is_told_of_the_firsts_verdict(client: TestClient) -> None:
    client.post(at("api/verdict"), json=said(2))
    refused = client.post(at("api/verdict"), json=said(2, "STAR", 0.0))
    assert refused.status_code == 409 and refused.json()["current"]["kind"] == "QSO"
    again = client.post(at("api/verdict"), json=said(2, "STAR", 0.0, seen=refused.json()["version"]))
    assert again.status_code == 200 and again.json()["verdict"]["kind"] == "STAR"


def test_undo_takes_back_and_then_has_nothing_to_take(client: TestClient) -> None:
    client.post(at("api/verdict"), json=said(2))
    undone = client.post(at("api/undo"))
    assert undone.json()["row"] == 2 and undone.json()["verdict"] is None
    assert client.post(at("api/undo")).status_code == 409


def test_verdicts_leave_and_come_back_through_the_page(client: TestClient) -> None:
    client.post(at("api/verdict"), json=said(2, comment=HOSTILE))
    sent = client.get(at("api/export/prospect.csv"))
    assert sent.headers["content-disposition"] == 'attachment; filename="catalogue-prospect.csv"'
    taken = client.post(at("api/import?inspector=Ben"), content=sent.content)
    assert taken.json() == {"n": 0, "unmatched": 0}  # Ada's, and they stand already
    truth = client.get(at("api/export/truth.parquet"))
    taken = client.post(at("api/import?inspector=Ben"), content=truth.content)
    assert taken.json() == {"n": 1, "unmatched": 0}
    assert client.get(at("api/spectrum/2")).json()["verdict"]["comment"] == HOSTILE
    assert client.get(at("api/export/secrets.csv")).status_code == 404


# ---- what goes wrong


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps(said(0, "QUASAR")).encode(),
        json.dumps(said(N)).encode(),
        json.dumps(said(-1)).encode(),
        json.dumps(said(2**70)).encode(),
        json.dumps(said(0, z=None)).encode(),
        json.dumps(said(0) | {"z": "1.0"}).encode(),
        json.dumps(said(0) | {"z": 1e999}).encode(),
        json.dumps(said(0) | {"quality": True}).encode(),
        json.dumps(said(0) | {"quality": 9}).encode(),
        json.dumps(said(0) | {"comment": 5}).encode(),
        json.dumps(said(0) | {"comment": "x" * 2000}).encode(),
    ],
)
def test_a_malformed_verdict_is_refused_and_stored_nowhere(
    client: TestClient, project: Project, body: bytes
) -> None:
    answer = client.post(at("api/verdict"), content=body)
    assert answer.status_code == 400 and answer.json()["error"]
    assert project.store.history() == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\xff" * 500,
        b"PAR1 but no more",
        b"TARGETID,VI_scanner,VI_quality\nx,y,z\n",
        b"SIMPLE  =" + b" " * 5000,
    ],
)
def test_a_malformed_upload_is_refused_and_stored_nowhere(
    client: TestClient, project: Project, body: bytes
) -> None:
    answer = client.post(at("api/import"), content=body)
    assert answer.status_code == 400 and answer.json()["error"]
    assert project.store.history() == []


def test_an_oversized_upload_is_refused_whether_or_not_it_says_its_size(client: TestClient) -> None:
    declared = client.post(at("api/import"), content=b"x", headers={"Content-Length": str(LARGEST + 1)})
    assert declared.status_code == 413

    def parts() -> Iterator[bytes]:
        for _ in range(LARGEST // 2**20 + 1):
            yield b"x" * 2**20

    assert client.post(at("api/import"), content=parts()).status_code == 413
    assert (
        client.post(at("api/import"), content=b"x", headers={"Content-Length": "9" * 5000}).status_code == 413
    )


@pytest.mark.parametrize("name", ["", " ", "x" * 41, "a\nb", "\x00"])
def test_a_name_that_can_be_none_is_refused(client: TestClient, name: str) -> None:
    answer = client.post(at(f"api/verdict?inspector={quote(name)}"), json=said(0))
    assert answer.status_code == 400 and "name" in answer.json()["error"]


def test_hostile_text_is_given_back_as_it_is_and_as_data(client: TestClient) -> None:
    client.post(at(f"api/verdict?inspector={quote('<b>Eve</b>')}"), json=said(2, comment=HOSTILE))
    answer = client.get(at(f"api/spectrum/2?inspector={quote('<b>Eve</b>')}"))
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["verdict"]["comment"] == HOSTILE
    assert client.get(at("api/export/prospect.csv")).headers["content-type"].startswith("text/csv")


def test_a_disk_that_fills_while_ruling_is_told_and_loses_nothing(client: TestClient) -> None:
    assert client.post(at("api/verdict"), json=said(1)).status_code == 200
    with room_for(1):
        full = client.post(at("api/verdict"), json=said(2))
    assert full.status_code == 507 and "not stored" in full.json()["error"]
    assert client.get(at("api/spectrum/1")).json()["verdict"]["kind"] == "QSO"
    assert client.post(at("api/verdict"), json=said(2)).status_code == 200


def test_spectra_that_are_gone_say_so_and_the_rest_can_be_seen(viewer: Viewer, tmp_path: Path) -> None:
    gone, broken = (tmp_path / "spectra" / f"spec-4055-55359-{fiber:04d}.fits" for fiber in (1, 2))
    gone.unlink()
    broken.write_bytes(broken.read_bytes()[:5000])
    assert "spec-4055-55359-0001" in viewer.spectrum(0)["missing"]
    assert viewer.spectrum(1)["missing"] and not viewer.spectrum(2)["missing"]
    sources = viewer.subjects.columns["SOURCE"].tolist()
    later = Viewer(viewer.subjects, viewer.ranking, Lookup.of(sources, [tmp_path / "spectra"]))
    assert "--spectra" in later.spectrum(0)["missing"]


def test_a_taken_port_is_one_sentence(
    command: Callable[..., Answer], subjects: Subjects, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = command(
            "inspect", subjects.catalogue.path, "--verdicts", tmp_path / "v.sqlite", "--port", port
        )
    assert (
        answer.code == 2 and f"cannot listen on port {port}" in answer.err and "Traceback" not in answer.err
    )


def test_spectra_that_are_all_gone_are_one_sentence(
    command: Callable[..., Answer], subjects: Subjects, tmp_path: Path
) -> None:
    sources = [str(tmp_path / name) for name in subjects.names]
    write_catalogue(tmp_path / "catalogue.parquet", subjects.names.tolist(), sources)
    answer = command("inspect", tmp_path / "catalogue.parquet")
    assert answer.code == 2 and "name the folder of the spectra" in answer.err


# ---- many at once


def test_fifty_clients_at_once_lose_and_double_no_verdict(project: Project, subjects: Subjects) -> None:
    config = uvicorn.Config(application(project, TOKEN), log_level="error", access_log=False)
    server = uvicorn.Server(config)
    listening = listen(0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    link = f"http://127.0.0.1:{listening.getsockname()[1]}/{TOKEN}/"
    rows = range(4)

    def inspect(number: int) -> None:
        with httpx2.Client(base_url=link, params={"inspector": f"inspector {number}"}, timeout=60) as client:
            assert client.get(f"api/spectrum/{number % N}").status_code == 200
            for row in rows:
                body = said(row, z=1 + number / 100, request=f"{number}-{row}")
                for _ in range(2):  # as a page does that got no answer
                    assert client.post("api/verdict", json=body).status_code == 200

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(inspect, range(50)))
    server.should_exit = True
    thread.join(20)
    stored = [(verdict.row, verdict.inspector) for verdict in project.store.history()]
    assert len(stored) == len(set(stored)) == 50 * len(rows)
    assert project.store.current(3, "inspector 7").ruling == Ruling("QSO", 1.07)  # type: ignore[union-attr]


# ---- the page without a server


def test_the_static_page_is_one_file_that_runs_its_own_script_alone(project: Project) -> None:
    spectrum = project.viewer.spectrum(0) | {"name": HOSTILE}
    page = static_page({"project": project.viewer.about("Ada"), "spectra": [spectrum]})
    assert HOSTILE not in page and "<script>alert" not in page
    assert "static/" not in page and "unsafe" not in page and "default-src 'none'" in page
    script = page.rsplit('<script type="module">', 1)[1].split("</script>")[0]
    assert "\nimport " not in script and "\nexport " not in script
    inside = page.split('id="broadline-data">')[1].split("</script>")[0]
    assert json.loads(inside)["spectra"][0]["name"] == HOSTILE


def test_every_module_of_the_page_is_in_the_static_one() -> None:
    assert sorted(MODULES) == sorted(path.stem for path in (STATIC / "js").glob("*.js"))


def test_the_static_page_is_written_by_the_command(
    command: Callable[..., Answer], subjects: Subjects, tmp_path: Path
) -> None:
    answer = command(
        "inspect", subjects.catalogue.path, "--static", tmp_path / "page.html", "--n", 3, "--name", "Ada"
    )
    assert answer.code == 0 and "wrote 3 spectra" in answer.out
    assert (tmp_path / "page.html").stat().st_size > 200_000
    with pytest.raises(UsageError, match="cannot write"):
        viewer = Viewer(subjects, rank(subjects), Lookup.of(subjects.columns["SOURCE"].tolist(), []))
        write_static_page(tmp_path / "none" / "page.html", viewer, np.array([0]), "Ada")
