"""The report of a study: numbers, figures, galleries; one page that needs nothing else, and JSON."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from broadline.errors import UsageError
from broadline.evaluation.figures import FIGURES, save
from broadline.evaluation.galleries import galleries
from broadline.evaluation.results import Section, results
from broadline.evaluation.study import Study
from broadline.files import write_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from broadline.model import Model

__all__ = ["markdown", "write_report"]

_SIMULATED = "Simulated survey: no number on this page is a measurement on the sky."
_STYLE = """
:root { color-scheme: light dark; --line: #8888; --soft: #8882; --warn: #D55E00; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; }
tr { border-bottom: 1px solid var(--line); } thead th { font-weight: 600; }
div.wide { overflow-x: auto; }
figure { margin: 2rem 0; } figure img { max-width: 100%; background: #fff; }
figcaption, .note { opacity: .85; font-size: .9rem; } code { font-size: .85rem; overflow-wrap: anywhere; }
.simulated { border: 2px solid var(--warn); padding: .5rem 1rem; font-weight: 600; }
nav { font-size: .9rem; } details { font-size: .85rem; }
"""


class _Shown(NamedTuple):
    """A figure of the page."""

    name: str
    title: str
    caption: str
    figure: Figure
    spectra: tuple[str, ...] = ()


def write_report(
    study: Study,
    folder: Path,
    spectra: Sequence[str | Path] = (),
    model: Model | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Path:
    """Write the report of a study; return its page.

    Parameters
    ----------
    study : Study
    folder : Path
        Gets ``index.html``, ``metrics.json`` and each figure as PDF and PNG.
    spectra : sequence of str or Path
        Where the spectra lie, for the galleries; none without.
    model : Model, optional
        What the galleries draw lines with; needed for them.
    on_step : callable, optional
        Told in words what is being done.

    Raises
    ------
    UsageError
        If the folder cannot be written, or none of the study's spectra lies there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        on_step("numbers")
        sections = results(study)
        shown = []
        for plot in FIGURES:
            on_step(plot.title.lower())
            figure = plot.draw(study)
            if figure is not None:
                shown.append(_Shown(plot.name, plot.title, plot.caption, figure))
        if spectra and model is not None:
            on_step("galleries of spectra")
            shown += [
                _Shown(each.name, each.title, each.caption, each.figure, each.names)
                for each in galleries(study, spectra, model)
            ]
        on_step("figures to files")
        save({each.name: each.figure for each in shown}, folder)
        write_aside(folder / "metrics.json", _machine(study, sections).encode())
        page = folder / "index.html"
        write_aside(page, _page(study, sections, shown, folder).encode())
    except OSError as error:
        raise UsageError(f"cannot write the report into {folder}: {error.strerror or error}") from error
    return page


def _machine(study: Study, sections: Iterable[Section]) -> str:
    """Return metrics.json: every number by its key, with counts and provenance."""
    content: dict[str, Any] = {
        "simulated": study.simulated,
        "n_spectra": len(study.sample),
        "n_splits": study.n_splits,
        "counts": asdict(study.counts),
        "rule": asdict(study.rule),
        "about": dict(study.about),
        "absent": list(study.absent),
        "metrics": {
            number.key: {**_finite(number.values), "label": number.label, "paper": number.paper}
            for section in sections
            for number in section.numbers
        },
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values without NaN, which JSON does not know: what is missing is not there."""
    return {
        key: value for key, value in values.items() if not isinstance(value, float) or math.isfinite(value)
    }


# ---- the page


def _page(study: Study, sections: Iterable[Section], shown: Iterable[_Shown], folder: Path) -> str:
    shown = list(shown)
    body = [
        "<h1>broadline: evaluation of a quasar catalogue</h1>",
        f'<p class="simulated">{_SIMULATED}</p>' if study.simulated else "",
        f"<p>{escape(_sentence(study))}</p>",
        _absent(study),
        *(_table(section) for section in sections),
        "<h2>Figures</h2>",
        "<nav><ul>",
        *(f'<li><a href="#{each.name}">{escape(each.title)}</a></li>' for each in shown),
        "</ul></nav>",
        *(_figure(each, study, folder) for each in shown),
        _provenance(study),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
    title = "broadline report, simulated survey" if study.simulated else "broadline report"
    text = "\n".join(part for part in body if part)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<title>{title}</title></head>\n<body>\n{text}\n'
        "</body></html>\n"
    )


def _sentence(study: Study) -> str:
    """Return what was compared with what, and what became of all rows."""
    counts = study.counts
    left_out = (
        (counts.n_unmatched, "unknown to the truth"),
        (counts.n_ancillary, "targets of ancillary programmes"),
        (counts.n_learnt, "not in the validation part of their split"),
        (counts.n_repeated, "repeated rows"),
    )
    text = f"{len(study.sample):,} of {counts.n_rows:,} catalogue rows are compared with the truth"
    for number, words in left_out:
        text += f"; {number:,} {words} are left out" if number else ""
    text += f"; {counts.n_unclassified:,} have no result and count as not called" * (
        counts.n_unclassified > 0
    )
    text += f". {counts.n_unseen:,} spectra of the truth are in no catalogue" * (counts.n_unseen > 0)
    lost = study.sample.n_lost
    text += f". {lost:,} secure annotations lack a redshift and are not scored" * (lost > 0)
    return text + "."


def _absent(study: Study) -> str:
    if not study.absent:
        return ""
    return (
        "<p>Not told here:</p><ul>" + "".join(f"<li>{escape(text)}</li>" for text in study.absent) + "</ul>"
    )


def _table(section: Section) -> str:
    head, *rows = _cells(section)
    note = f'<p class="note">{escape(section.note)}</p>' if section.note else ""
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "\n".join(f"<tr>{''.join(_data(row, len(head)))}</tr>" for row in rows)
    table = f"<table><thead><tr>{titles}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f'<h2>{escape(section.title)}</h2>{note}\n<div class="wide">{table}</div>'


def _data(row: Sequence[str], n: int) -> Iterator[str]:
    for i, cell in enumerate(row):
        span = f' colspan="{n - i}"' if i == len(row) - 1 and len(row) < n else ""
        yield f"<td{span}>{escape(cell)}</td>"


def _cells(section: Section) -> list[tuple[str, ...]]:
    """Return the table of a section, heads first; the paper's column only where it says something."""
    if section.grid:
        return list(section.grid)
    if any(number.paper for number in section.numbers):
        rows = [(number.label, number.text, number.paper) for number in section.numbers]
        return [("", "here", "Busca & Balland (2018)"), *rows]
    return [("", "here"), *((number.label, number.text) for number in section.numbers)]


def _figure(each: _Shown, study: Study, folder: Path) -> str:
    image = base64.b64encode((folder / f"{each.name}.png").read_bytes()).decode()
    caption = f"<b>{escape(each.title)}.</b> {escape(each.caption)}"
    if study.simulated:
        caption += " Simulated survey."
    caption += f' <a href="{each.name}.pdf">PDF</a>'
    if each.spectra:
        names = ", ".join(f"<code>{escape(name)}</code>" for name in each.spectra)
        caption += f"<details><summary>spectra, in the order of reading</summary>{names}</details>"
    source = f"data:image/png;base64,{image}"
    return (
        f'<figure id="{each.name}"><img src="{source}" alt="{escape(each.title)}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _provenance(study: Study) -> str:
    rows = "\n".join(
        f"<tr><td>{escape(name)}</td><td><code>{escape(value)}</code></td></tr>"
        for name, value in study.about.items()
    )
    return f"<h2>Provenance</h2><table><tbody>\n{rows}\n</tbody></table>"


# ---- for documents


def markdown(study: Study) -> str:
    """Return the numbers of a study as Markdown tables."""
    return "\n\n".join(_markdown(results(study)))


def _markdown(sections: Iterable[Section]) -> Iterator[str]:
    for section in sections:
        head, *rows = _cells(section)
        yield f"### {section.title}"
        if section.note:
            yield section.note
        lines = [head, ("---",) * len(head), *(row + ("",) * (len(head) - len(row)) for row in rows)]
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines)
