"""The OpenAPI document of the server is true: schemathesis sends what it allows and what it forbids."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import broadline
from broadline.serve.limits import Limits
from serving import TOKEN, serving

pytest.importorskip("schemathesis")

# A body with too many spectra is refused as too large, which schemathesis does not take for a refusal.
_CONFIG = """
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "405", "406", "413", "415"]
"""


def test_the_server_does_what_its_document_says(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(_CONFIG)
    run = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"
    options = ["--max-examples", "25", "--generation-deterministic", "--no-color", "--continue-on-failure"]
    paths = [*sys.path, str(Path(__file__).parent)]
    hooks = {"SCHEMATHESIS_HOOKS": "arrow_for_schemathesis", "PYTHONPATH": os.pathsep.join(paths)}
    limits = Limits(n_spectra=20)
    with serving(broadline.load_model(tiny_model, threads=1), limits) as client:
        asked = [f"{client.base_url}/openapi.json", "-H", f"Authorization: Bearer {TOKEN}"]
        done = subprocess.run(
            [sys.executable, "-c", run, "run", *asked, *options],
            cwd=tmp_path,
            env=os.environ | hooks,
            capture_output=True,
            text=True,
            timeout=300,
        )
    said = done.stdout[:3000] + done.stdout[-2000:] + done.stderr
    assert done.returncode == 0, said
    assert "Tested: 3" in said and int(re.findall(r"(\d+) generated", said)[0]) > 60, said
