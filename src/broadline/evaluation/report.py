"""The report of a study: numbers, figures, galleries; one page that needs nothing else, and JSON."""

from __future__ import annotations

import base64
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from broadline.errors import UsageError
from broadline.evaluation.drawing import FORMATS
from broadline.evaluation.figures import FIGURES, save
from broadline.evaluation.galleries import galleries
from broadline.evaluation.results import Section, results
from broadline.evaluation.study import Study
from broadline.files import write_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from broadline.model import Model

__all__ = ["Report", "Shown", "markdown", "write_report"]

_SIMULATED = "Simulated survey: but for the paper's, no number on this page is a measurement on the sky."
# Nothing is loaded from anywhere: pictures are in the page, and the links are to the files beside it.
_SECURITY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --line: #8888; --warn: #D55E00; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; }
tr { border-bottom: 1px solid var(--line); } tbody th { font-weight: inherit; min-width: 8rem; }
.wide { overflow-x: auto; }
figure { margin: 2rem 0; } figure img { max-width: 100%; background: #fff; }
figcaption, .note { font-size: .9rem; } code { font-size: .85rem; overflow-wrap: anywhere; }
.simulated { border: 2px solid var(--warn); padding: .5rem 1rem; font-weight: 600; }
nav { font-size: .9rem; } details { font-size: .85rem; }
"""


class Shown(NamedTuple):
    """A figure of the page.

    Attributes
    ----------
    name : str
        Of its files.
    title, caption : str
    figure : Figure
    spectra : tuple of str
        Names of those it shows.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    spectra: tuple[str, ...] = ()


class Report(NamedTuple):
    """What was written.

    Attributes
    ----------
    page : Path
    summary : str
        What was compared with what, and what became of all rows.
    sections : tuple of Section
    figures : tuple of Shown
    """

    page: Path
    summary: str
    sections: tuple[Section, ...]
    figures: tuple[Shown, ...]


def write_report(
    study: Study,
    folder: Path,
    spectra: Sequence[str | Path] = (),
    model: Model | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Report:
    """Write the report of a study.

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
    _make(folder)
    on_step("numbers")
    sections = results(study)
    shown = [*_figures(study, on_step)]
    if spectra and model is not None:
        on_step("galleries of spectra")
        shown += [
            Shown(each.name, each.title, each.caption, each.figure, each.names)
            for each in galleries(study, spectra, model)
        ]
    on_step("files")
    page, machine = folder / "index.html", folder / "metrics.json"
    _forget(machine, {each.name for each in shown})
    save({each.name: each.figure for each in shown}, folder)
    _write(machine, _machine(study, sections, shown))
    _write(page, _page(study, sections, shown, folder))
    return Report(page, _summary(study), sections, tuple(shown))


def _make(folder: Path) -> None:
    """Make the folder, and see that it can be written to: better known before the work than after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(folder, error) from error


def _write(path: Path, text: str) -> None:
    try:
        # Names of files may hold bytes that are no text: they become \udcXX, which JSON takes for an escape.
        write_aside(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise _unwritable(path.parent, error) from error


def _forget(machine: Path, drawn: set[str]) -> None:
    """Delete the figures of an earlier report that are not drawn anew: they would be taken for this one's."""
    try:
        earlier = json.loads(machine.read_text())["figures"]
    except (OSError, ValueError, KeyError, TypeError):  # none, or no report of ours
        return
    for name in set(earlier) - drawn:
        for kind in FORMATS:
            machine.with_name(f"{Path(name).name}.{kind}").unlink(missing_ok=True)


def _unwritable(folder: Path, error: OSError) -> UsageError:
    said = error.strerror or error
    return UsageError(f"cannot write the report into {folder}: {said}; name another folder")


def _figures(study: Study, on_step: Callable[[str], None]) -> Iterator[Shown]:
    for plot in FIGURES:
        on_step(f"figure {plot.name}")
        figure = plot.draw(study)
        if figure is not None:
            title = plot.title.replace("Purity and c", "C") if study.quasars_only else plot.title
            yield Shown(plot.name, title, plot.caption, figure)


def _machine(study: Study, sections: Iterable[Section], shown: Iterable[Shown]) -> str:
    """Return metrics.json: every number by its key, with counts and provenance."""
    content: dict[str, Any] = {
        "simulated": study.simulated,
        "n_spectra": len(study.sample),
        "n_splits": study.n_splits,
        "counts": asdict(study.counts),
        "rule": asdict(study.rule),
        "about": dict(study.about),
        "absent": list(study.absent),
        "figures": [each.name for each in shown],
        "metrics": {
            number.key: {"label": number.label, **_finite(number.values), "paper": number.paper}
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


def _page(study: Study, sections: Iterable[Section], shown: Sequence[Shown], folder: Path) -> str:
    title = "broadline: evaluation of a quasar catalogue" + ", simulated survey" * study.simulated
    body = [
        f"<h1>{title}</h1>",
        f'<p class="simulated">{escape(_SIMULATED)}</p>' if study.simulated else "",
        f"<p>{escape(_summary(study))}</p>",
        _absent(study),
        *(_table(section, study.simulated) for section in sections),
        _contents(shown),
        *(_figure(each, study, folder) for each in shown),
        _provenance(study),
    ]
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_SECURITY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
    ]
    above, below = ("\n".join(part for part in parts if part) for parts in (head, body))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n{above}\n</head>\n'
        f"<body>\n<main>\n{below}\n</main>\n</body>\n</html>\n"
    )


def _contents(shown: Sequence[Shown]) -> str:
    if not shown:
        return ""
    items = "\n".join(f'<li><a href="#{each.name}">{escape(each.title)}</a></li>' for each in shown)
    return f'<h2>Figures</h2>\n<nav aria-label="Figures"><ul>\n{items}\n</ul></nav>'


def _summary(study: Study) -> str:
    """Return what was compared with what, and what became of all rows."""
    counts, sample = study.counts, study.sample
    left_out = (
        (counts.n_unmatched, "unknown to the truth"),
        (counts.n_ancillary, "of ancillary programmes"),
        (counts.n_learnt, "not in the validation part of their split"),
        (counts.n_repeated, "repeated"),
    )
    said = "; left out are " + ", ".join(f"{n:,} {words}" for n, words in left_out if n)
    kinds = [(kind, int(sample.annotated(kind).sum())) for kind in ("QSO", "STAR", "GALAXY")]
    kinds.append(("of other classes", int(sample.firm.sum()) - sum(n for _, n in kinds)))
    secure = ", ".join(f"{n:,} {kind}" for kind, n in kinds if n) or "none"
    of = f"{study.n_splits} catalogues" if study.n_splits > 1 else "the catalogue"
    parts = [
        f"{len(sample):,} of {counts.n_rows:,} rows of {of} are compared with the truth"
        + said * any(n for n, _ in left_out),
        f"Scored are the secure annotations: {secure}",
        f"{sample.n_lost:,} more lack a redshift and are not scored" * (sample.n_lost > 0),
        f"{counts.n_unclassified:,} spectra have no result and count as not called"
        * (counts.n_unclassified > 0),
        f"{counts.n_unseen:,} spectra of the truth are in no catalogue" * (counts.n_unseen > 0),
    ]
    return "".join(f"{part}. " for part in parts if part).strip()


def _absent(study: Study) -> str:
    if not study.absent:
        return ""
    return (
        "<p>Not told here:</p>\n<ul>" + "".join(f"<li>{escape(text)}</li>" for text in study.absent) + "</ul>"
    )


def _table(section: Section, simulated: bool) -> str:
    head, *rows = _cells(section, simulated)
    note = f'<p class="note">{escape(section.note)}</p>\n' if section.note else ""
    titles = "".join(f'<th scope="col">{escape(cell)}</th>' if cell else "<td></td>" for cell in head)
    body = "\n".join(f"<tr>{''.join(_data(row, len(head)))}</tr>" for row in rows)
    table = f"<table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return f"<h2>{escape(section.title)}</h2>\n{note}{_scrolled(section.title, table)}"


def _scrolled(title: str, table: str) -> str:
    """Return a table that scrolls where it is too wide, by keyboard too."""
    return f'<div class="wide" role="region" aria-label="{escape(title)}" tabindex="0">{table}</div>'


def _data(row: Sequence[str], n: int) -> Iterator[str]:
    span = f' colspan="{n}"' if len(row) == 1 < n else ""
    yield f'<th scope="row"{span}>{escape(row[0])}</th>'
    yield from (f"<td>{escape(cell)}</td>" for cell in row[1:])


def _cells(section: Section, simulated: bool) -> list[tuple[str, ...]]:
    """Return the table of a section, heads first; the paper's column only where it says something."""
    if section.grid:
        return list(section.grid)
    here = "here, simulated" if simulated else "here"
    if any(number.paper for number in section.numbers):
        rows = [(number.label, number.text, number.paper) for number in section.numbers]
        return [("", here, "Busca & Balland (2018)"), *rows]
    return [("", here), *((number.label, number.text) for number in section.numbers)]


def _figure(each: Shown, study: Study, folder: Path) -> str:
    image = base64.b64encode((folder / f"{each.name}.png").read_bytes()).decode()
    caption = f"<b>{escape(each.title)}.</b> {escape(each.caption)}"
    if study.simulated:
        caption += " Simulated survey."
    caption += "".join(f' <a href="{each.name}.{kind}">{kind.upper()}</a>' for kind in FORMATS)
    if each.spectra:
        names = ", ".join(f"<code>{escape(name)}</code>" for name in each.spectra)
        caption += f"<details><summary>spectra, in the order of reading</summary>{names}</details>"
    return (
        f'<figure id="{each.name}">\n<img src="data:image/png;base64,{image}" alt="{escape(each.title)}">\n'
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )


def _provenance(study: Study) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td><code>{escape(value)}</code></td></tr>'
        for name, value in study.about.items()
    )
    if not rows:
        return ""
    table = f"<table>\n<tbody>\n{rows}\n</tbody>\n</table>"
    return f"<h2>Provenance</h2>\n{_scrolled('Provenance', table)}"


# ---- for documents


def markdown(sections: Iterable[Section], simulated: bool) -> str:
    """Return sections as Markdown: titles, notes and tables."""
    return "\n\n".join(_markdown(sections, simulated))


def _markdown(sections: Iterable[Section], simulated: bool) -> Iterator[str]:
    for section in sections:
        head, *rows = _cells(section, simulated)
        yield f"### {section.title}"
        if section.note:
            yield section.note
        lines = [head, ("---",) * len(head), *(row + ("",) * (len(head) - len(row)) for row in rows)]
        yield "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)


def _plain(cell: str) -> str:
    """Return text as a cell of a Markdown table, in which names are no markup."""
    return escape(" ".join(cell.split()), quote=False).replace("|", "\\|")
