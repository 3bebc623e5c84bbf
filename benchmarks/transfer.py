"""The experiment of Podsztavek, Skoda & Tvrdik (2021) on a simulated pair, with controls: docs/transfer.md.

    python benchmarks/transfer.py DATA --runs FOLDER [--only data selection full curves real] [--workers 1]
                                  [-o docs/transfer.md --figures docs/figures]

LAMOST and SDSS are simulated with the mismatch of the publication's archives, labelled by membership of their
quasar catalogues, of which that of SDSS is made as incomplete as the real one was found to be. What is true
plays the inspector. Controls have the same labels, steps an epoch, epochs and patience as transfer has. What
is in FOLDER is not done again, and what was stopped goes on; the text is of all parts that are finished. DATA
holds the real spectra; nothing is trained or chosen on them.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from broadline.evaluation.candidates import Confusion
from broadline.evaluation.drawing import OTHERS, canvas, legend, note_simulated, style
from broadline.training.presets import PRESETS
from broadline.truth import QSO
from markers import write_between
from real_sky import NOTHING, table
from transfer_runs import CORAL, Archives, Beside, Run, real, run

PARTS = ("data", "selection", "full", "curves", "real")
NETS = ("mlp", "vgg-a", "vgg-b", "vgg-d", "vgg-e")
LABELS = (100, 300, 1000, 3000, 10_000)
#: What is trained on the target, and in which words.
KINDS = {
    "transfer": "transfer: fine-tuned from the LAMOST model",
    "scratch": "scratch: from random weights",
    "pooled": "pooled: both archives, half a batch each",
    "coral": "aligned: pooled, with Deep CORAL",
    "per-step": "transfer, best F1 of checks within epochs",
}
SOURCE = "source: the LAMOST model as it is"
CURVES = ("transfer", "scratch", "pooled")


# ---- the text


def spread(values: Iterable[float], digits: int = 4, factor: float = 1.0) -> str:
    """Return mean and standard deviation over the seeds that have a value."""
    x = factor * np.array(list(values))
    x = x[np.isfinite(x)]
    if not len(x):
        return NOTHING
    return f"{x.mean():.{digits}f}" + (f" ± {x.std(ddof=1):.{digits}f}" if len(x) > 1 else "")


def _each(runs: Sequence[dict[str, Any]], key: str, get: Callable[[Confusion], float]) -> list[float]:
    return [get(Confusion(**scores[key])) for scores in runs]


def data_table(pair: Archives) -> str:
    """Return table 1 of the publication: spectra and listed quasars of each part."""
    rows = []
    for name, whole in (("LAMOST", pair.source), ("SDSS", pair.target)):
        quasar = whole.columns["CLASS"] == QSO
        cells = [f"{len(part):,} ({quasar[part].sum():,})" for part in pair.split(whole).parts.values()]
        rows.append((name, *cells, f"{100 * quasar.mean():.2f}"))
    unlisted = pair.truth["quasar"] & ~pair.truth["listed"]
    share = unlisted.sum() / (unlisted | pair.truth["listed"]).sum()
    return (
        table(("archive", "training (quasars)", "validation", "test", "quasars %"), rows)
        + f"\n\nOf the quasars of SDSS {100 * share:.1f} % ({unlisted.sum():,}) are not in its catalogue."
    )


def selection_table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return the F1 of each net on validation."""
    rows = []
    for net, scores in runs.items():
        shapes = PRESETS[net].network.shapes().values()
        n = sum(math.prod(shape) for shape in shapes)
        found = spread(each["validation"]["f1"] for each in scores)
        rows.append((net, f"{n / 1e6:.2f}", found, spread((each["seconds"] for each in scores), 0)))
    return table(("net", "million parameters", "F1 on SDSS validation", "seconds"), rows)


def full_table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return the publication's result for each way, before and after inspection."""
    header = ("", "seeds", "right / missed / wrong", *("precision %", "recall %", "F1"))
    after = ("confirmed", "precision % after", "recall % after", "F1 after", "recall % of all quasars")
    rows = []
    for name, scores in runs.items():
        cells = [spread((each["test"][key] for each in scores), 0) for key in ("right", "missed", "wrong")]
        confirmed = spread((each["after"]["right"] - each["test"]["right"] for each in scores), 0)
        quality = [
            [
                spread(_each(scores, key, lambda found: found.precision.value), 2, 100),
                spread(_each(scores, key, lambda found: found.recall.value), 2, 100),
                spread(_each(scores, key, lambda found: found.f1)),
            ]
            for key in ("test", "after")
        ]
        whole = spread(_each(scores, "true", lambda found: found.recall.value), 2, 100)
        rows.append((name, len(scores), " / ".join(cells), *quality[0], confirmed, *quality[1], whole))
    return table((*header, *after), rows)


def curves_table(curves: dict[int, dict[str, list[float]]]) -> str:
    """Return F1 against the number of labels, and by how much transfer is better, seed by seed."""
    rows = []
    for n, by_kind in curves.items():
        cells = [spread(by_kind.get(kind, [])) for kind in CURVES]
        gain = [a - b for a, b in zip(by_kind.get("transfer", []), by_kind.get("scratch", []), strict=False)]
        rows.append((f"{n:,}", *cells, spread(gain)))
    return table(("labels", *CURVES, "transfer - scratch"), rows)


def candidates_table(pair: Archives, full: dict[str, list[Run]]) -> str:
    """Return what one way calls, of all SDSS spectra, that the catalogue lacks and another does not call.

    Two trainings from scratch say how many differ by chance.
    """
    new, quasar = ~pair.truth["listed"], pair.truth["quasar"]
    transfer, scratch = (
        [np.load(pair.folder(each) / "probabilities.npy") > 0.5 for each in full[KINDS[kind]]]
        for kind in ("transfer", "scratch")
    )
    cases = {
        "transfer, not scratch": list(zip(transfer, scratch, strict=True)),
        "scratch, not transfer": list(zip(scratch, transfer, strict=True)),
        "scratch, not scratch of another seed": list(pairwise(scratch)),
    }
    rows = []
    for name, pairs in cases.items():
        found = [one & ~other & new for one, other in pairs]
        rows.append(
            (
                name,
                spread(((one & new).sum() for one, _ in pairs), 0),
                spread((alone.sum() for alone in found), 1),
                spread(((alone & quasar).sum() for alone in found), 1),
            )
        )
    return table(("called by", "candidates", "called by it alone", "of these quasars"), rows)


def real_table(runs: dict[str, list[dict[str, dict[str, int]]]]) -> str:
    """Return precision and recall on real spectra by archive; of those without quasars, what is called."""
    rows = []
    for name, counts in runs.items():
        for archive in counts[0]:
            not_seen = [each[archive]["unclassified"] for each in counts]
            cells = [{k: v for k, v in each[archive].items() if k != "unclassified"} for each in counts]
            found = [Confusion(**cell) for cell in cells]
            wrong = np.mean([x.wrong for x in found])
            n_quasars, n = found[0].right + found[0].missed, found[0].wrong + found[0].other
            precision = spread((x.precision.value for x in found), 1, 100) if n_quasars else NOTHING
            recall = spread((x.recall.value for x in found), 1, 100) if n_quasars else NOTHING
            called = f"{spread((x.wrong for x in found), 1)} ({100 * wrong / max(n, 1):.1f} %)"
            rows.append((name, archive, n_quasars, n, precision, recall, called, not_seen[0]))
    header = ("model", "archive", "quasars", "others", "precision %", "recall %", "others called")
    return table((*header, "not covered"), rows)


# ---- figures


def curves_figure(curves: dict[int, dict[str, list[float]]], path: Path) -> None:
    """Draw F1 against labels; bars are the standard deviation over seeds."""
    with style():
        figure, ((axes,),) = canvas()
        for kind, colour in zip(CURVES, OTHERS, strict=False):
            mean = [np.mean(by_kind[kind]) for by_kind in curves.values()]
            bar = [np.std(by_kind[kind], ddof=1) for by_kind in curves.values()]
            axes.errorbar(list(curves), mean, bar, color=colour, marker="o", capsize=3, label=kind)
        axes.set(xscale="log", xlabel="SDSS labels", ylabel="F1 on the SDSS test part")
        legend(axes)
        note_simulated(figure)
        figure.savefig(path, dpi=150)


def discovered_figure(pair: Archives, what: Run, path: Path) -> str:
    """Draw quasars that a model finds, the catalogue lacks and the pipeline calls stars; say how many."""
    p, truth = np.load(pair.folder(what) / "probabilities.npy"), pair.truth
    candidate = (p > 0.5) & ~truth["listed"]
    kinds, counts = np.unique(truth["pipeline"][candidate], return_counts=True)
    said = ", ".join(f"{kind} {n:,}" for kind, n in zip(kinds, counts, strict=True))
    stars = np.flatnonzero(candidate & (truth["pipeline"] == "STAR"))
    found = stars[truth["quasar"][stars]]
    shown = found[np.argsort(-p[found])][:4]
    text = (
        f"Of the {candidate.sum():,} candidates of {what.name} in all SDSS spectra the pipeline calls "
        f"{said or 'none anything'}; of the {len(stars):,} stars among them {len(found):,} are quasars."
    )
    if not len(shown):
        return text
    with style():
        figure, panels = canvas(len(shown), 1, (5.0, 0.4 + 1.3 * len(shown)), share=True)
        centres = pair.target.preset.representation.grid.centres
        for row, axes in zip(shown, panels[:, 0], strict=True):
            (batch,) = pair.target.subset(np.array([row])).ordered()
            axes.plot(centres, batch.x[0].numpy(), color=OTHERS[0], linewidth=0.5)
            title = f"z = {truth['z'][row]:.2f}, called a star by the pipeline"
            axes.set_title(title, loc="right", fontsize=8)
        panels[-1, 0].set(xlabel="wavelength (Angstrom)", ylabel="flux, as scaled")
        note_simulated(figure)
        figure.savefig(path, dpi=150)
    return f"{text} {len(shown)} of them are in the figure."


# ---- all of it


def experiment(pair: Archives, options: argparse.Namespace) -> list[str]:
    """Do what is wanted; return the text of it, and of what was done before."""
    seeds, net = range(options.seeds), options.net
    nets = {
        net: [Run("scratch", net, 0, i) for i in seeds[: options.selection_seeds]] for net in options.nets
    }
    n_all = len(pair.split(pair.target).training)
    sizes = [*(n for n in options.labels if n < n_all), 0]
    curves = {n: {kind: [Run(kind, net, n, i) for i in seeds] for kind in CURVES} for n in sizes}
    full = {text: [Run(kind, net, 0, i) for i in seeds] for kind, text in KINDS.items()}
    if not options.per_step:
        del full[KINDS["per-step"]]
    if options.workers > 1:
        train_beside(pair, options, nets, full, curves)
    full[KINDS[CORAL]] = _coral_runs(pair, options)

    def due(part: str, runs: Iterable[Run], file: str = "scores.json") -> bool:
        return part in options.only or all((pair.folder(each) / file).exists() for each in runs)

    sections = ["### Data\n\n" + data_table(pair)]
    if due("selection", chain(*nets.values())):
        done = {name: [run(pair, each) for each in runs] for name, runs in nets.items()}
        sections.append("### Which net\n\n" + selection_table(done))
    if due("full", chain(*full.values())):
        sections += full_text(pair, full, options)
    f1 = {
        n or n_all: {
            kind: _each([run(pair, each) for each in runs], "test", lambda found: found.f1)
            for kind, runs in by_kind.items()
        }
        for n, by_kind in curves.items()
        if due("curves", chain(*by_kind.values()))
    }
    if len(f1) > 1:
        path = options.figures / "transfer-curves.png"
        curves_figure(f1, path)
        link = _link(path, "F1 against the number of labels", options)
        sections.append(f"### Learning curves\n\n{curves_table(f1)}{link}")
    models = full | {SOURCE: [Run("source", net, 0, i) for i in seeds]}
    if due("real", chain(*models.values()), "real.json"):
        counts = {text: [real(pair, each, options.data) for each in runs] for text, runs in models.items()}
        sections.append("### Real spectra\n\n" + real_table(counts))
    return sections


def _link(figure: Path, words: str, options: argparse.Namespace) -> str:
    """Return the line of the document that shows a figure, if there is a document."""
    return f"\n\n![{words}]({os.path.relpath(figure, options.output.parent)})" if options.output else ""


def train_beside(
    pair: Archives,
    options: argparse.Namespace,
    nets: dict[str, list[Run]],
    full: dict[str, list[Run]],
    curves: dict[int, dict[str, list[Run]]],
) -> None:
    """Train what is wanted, several at a time: what others wait for first, learning curves last."""
    parts = options.only
    with Beside(pair, options.workers) as beside:
        sources = [Run("source", options.net, 0, i) for i in range(options.seeds)]
        awaited = beside.start(sources if {"full", "curves"} & set(parts) else [])
        if "full" in parts:
            awaited += beside.start(_coral_trials(options))
            beside.start(full[KINDS["scratch"]] + full[KINDS["pooled"]])
        if "selection" in parts:
            beside.start(chain(*nets.values()))
        for each in awaited:
            each.result()
        if "full" in parts:
            full[KINDS[CORAL]] = _coral_runs(pair, options)
            beside.start(chain(*full.values()))
        if "curves" in parts:
            beside.start(chain(*(runs for by_kind in curves.values() for runs in by_kind.values())))


def _coral_trials(options: argparse.Namespace) -> list[Run]:
    return [Run(f"{CORAL}{weight:g}", options.net, 0, 0) for weight in options.coral]


def _coral_runs(pair: Archives, options: argparse.Namespace) -> list[Run]:
    """Return the runs with alignment whose weight has the best F1 on the target's validation set."""
    trials = _coral_trials(options)
    best = trials[0]
    if "full" in options.only or all((pair.folder(each) / "scores.json").exists() for each in trials):
        best = max(trials, key=lambda each: float(run(pair, each)["validation"]["f1"]))
    return [replace(best, seed=i) for i in range(options.seeds)]


def full_text(pair: Archives, full: dict[str, list[Run]], options: argparse.Namespace) -> list[str]:
    """Return the results with all labels."""
    done = {text: [run(pair, each) for each in runs] for text, runs in full.items()}
    sources = [run(pair, Run("source", options.net, 0, i)) for i in range(options.seeds)]
    own = [
        spread(_each(sources, "own", lambda found: found.f1)),
        spread(_each(sources, "own", lambda found: found.precision.value)),
        spread(_each(sources, "own", lambda found: found.recall.value)),
    ]
    path = options.figures / "transfer-discovered.png"
    shown = discovered_figure(pair, full[KINDS["transfer"]][0], path)
    shown += _link(path, "Quasars that the pipeline calls stars", options) * shown.endswith("in the figure.")
    return [
        "### Results on the test part\n\n" + full_table(done | {SOURCE: sources}),
        f"The weight of alignment, {full[KINDS[CORAL]][0].kind.removeprefix(CORAL)}, is the best of "
        f"{', '.join(f'{weight:g}' for weight in options.coral)} by F1 on validation, with one seed.",
        "On the test part of LAMOST itself the source model has F1 {}, precision {}, recall {}.".format(*own),
        f"### Candidates\n\n{candidates_table(pair, full)}\n\n{shown}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--templates")
    parser.add_argument("--lamost", type=int, default=40_000, help="spectra")
    parser.add_argument("--sdss", type=int, default=20_000, help="spectra")
    parser.add_argument("--source-quasars", type=float, default=0.0035, help="share in LAMOST")
    parser.add_argument("--uninspected", type=float, default=0.05, help="share of quasars that nobody saw")
    parser.add_argument("--validation", type=float, default=0.1, help="share, or spectra")
    parser.add_argument("--test", type=float, default=0.3, help="share, or spectra")
    parser.add_argument("--net", choices=NETS, default="vgg-a")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="to choose from")
    parser.add_argument(
        "--per-step",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also stop by F1 within epochs",
    )
    parser.add_argument("--labels", type=int, nargs="+", default=list(LABELS))
    parser.add_argument("--batch", type=int, default=256, help="spectra, at most")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--patience", type=int, default=2)
    parser.add_argument(
        "--coral", type=float, nargs="+", default=[1, 30, 1000], help="weights to choose from"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--selection-seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time")
    parser.add_argument("--figures", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    options.n = {"lamost": options.lamost, "sdss": options.sdss}
    options.runs, options.figures = options.runs.resolve(), options.figures or options.runs
    options.figures.mkdir(parents=True, exist_ok=True)
    torch.compiler.set_stance("force_eager")  # compiling takes as long as many of these runs
    text = "\n\n".join(experiment(Archives(options), options))
    text += (
        f"\n\nMean ± standard deviation over seeds; {options.net}; batches of at most {options.batch}, "
        f"at most {options.epochs} epochs, patience {options.patience}. All but the real spectra: simulated."
    )
    print(text)
    if options.output:
        write_between(options.output, "transfer.py", text)


if __name__ == "__main__":
    main()
