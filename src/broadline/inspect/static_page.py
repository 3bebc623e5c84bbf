"""One file that holds the page, some spectra and nothing else: to send to a colleague."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from broadline.errors import UsageError
from broadline.evaluation.shares import Ints
from broadline.files import write_aside
from broadline.inspect.server import STATIC
from broadline.inspect.spectrum import Viewer

__all__ = ["MODULES", "write_static_page"]

#: The modules of the page, each after those that it imports.
MODULES = (
    *("dom", "spectrum", "api", "embedded", "keys", "cache", "draft"),
    *("panels", "controls", "plot", "app"),
)

# All imports are of names from these modules, and no name is in two: without these words they are one script.
_IMPORT = re.compile(r"^import\b[^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)
_LINKED = re.compile(r'^<(link rel="(stylesheet|modulepreload)"|script) .*\n', re.MULTILINE)


def write_static_page(path: Path, viewer: Viewer, rows: Ints, inspector: str) -> int:
    """Write the page with some spectra; return how many are in it, without those whose files are gone.

    Raises
    ------
    UsageError
        If none of the spectra is there, or the file cannot be written.
    """
    spectra = [viewer.spectrum(row) for row in rows.tolist()]
    there = [spectrum for spectrum in spectra if not spectrum["missing"]]
    if not there:
        raise UsageError(f"none of the {len(spectra)} spectra for {path} is there; name their folder")
    page = static_page({"project": viewer.about(inspector), "spectra": there})
    try:
        write_aside(path, page.encode())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return len(there)


def static_page(data: dict[str, Any]) -> str:
    """Return the page around some data; its policy lets it load nothing and run its own script alone."""
    parts = [(STATIC / "js" / f"{name}.js").read_text(encoding="utf-8") for name in MODULES]
    own = "\n".join(_EXPORT.sub("", _IMPORT.sub("", part)) for part in parts)
    library = (STATIC / "vendor" / "uPlot.iife.min.js").read_text(encoding="utf-8")
    styles = "\n".join(
        (STATIC / name).read_text(encoding="utf-8") for name in ("vendor/uPlot.min.css", "inspect.css")
    )
    # In a script, "<" could end it; JSON has it in strings alone, where it may be written like this.
    content = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; script-src {_hash(library)} {_hash(own)}; style-src {_hash(styles)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{styles}</style>\n'
        f'<script type="application/json" id="broadline-data">{content}</script>\n'
        f"<script>{library}</script>\n"
    )
    page = _LINKED.sub("", (STATIC / "index.html").read_text(encoding="utf-8"))
    before, after = page.split("</head>")
    body, end = after.split("</body>")
    return f'{before}{head}</head>{body}<script type="module">{own}</script>\n</body>{end}'


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
