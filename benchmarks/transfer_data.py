"""Table 1 and figure 1 of Podsztavek, Skoda & Tvrdik (2021), of any training sets: how archives differ.

    python benchmarks/transfer_data.py SET SET ... [--validation 50000 --test 100000] [--by-spectrum]
                                       [--seed 0] [--figures docs/figures] [-o docs/transfer.md]

A SET is a folder that `broadline prepare` wrote; archives are called as their folders are. Splits are those
of `broadline train` with the same options. The figure, transfer-data.png and .pdf, shows the training parts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from broadline.evaluation.drawing import COMPLETENESS, OTHERS, PURITY, as_percent, canvas, legend, save, style
from broadline.representation import Representation
from broadline.training.dataset import PreparedSet
from broadline.training.manifest import read_manifest
from broadline.training.presets import PRESETS
from broadline.training.splits import Leakage, Sizes, Split, leakage, sized_split
from broadline.truth import QSO
from markers import write_between
from real_sky import table

_WIDTH = 0.2  # of a bin of redshift


@dataclass(frozen=True)
class Archive:
    """A set, split."""

    name: str
    quasar: NDArray[np.bool_]
    z: NDArray[np.float64]
    split: Split
    leaks: Leakage


def read(folder: Path, sizes: Sizes, seed: int) -> Archive:
    """Return what is known of a set, whatever its representation."""
    fields = read_manifest(folder)["request"]["representation"]
    preset = replace(PRESETS["vgg-a"], representation=Representation.from_dict(fields))
    columns = PreparedSet(folder, preset).columns
    split = sized_split(columns["OBJECT"], sizes, seed)
    leaks = leakage(split, columns["OBJECT"])
    return Archive(folder.resolve().name, columns["CLASS"] == QSO, columns["Z"], split, leaks)


def counts(archives: Sequence[Archive]) -> str:
    """Return table 1, and what leaks."""
    parts = list(archives[0].split.parts)
    rows: list[list[object]] = []
    for each in archives:
        by_part = each.split.parts.values()
        rows.append([each.name, *(f"{len(rows):,}" for rows in by_part), f"{each.leaks.objects:,}"])
        rows.append(["of these quasars", *(f"{each.quasar[rows].sum():,}" for rows in by_part), ""])
    return table(["set", *parts, "objects in several parts"], rows)


def draw(archives: Sequence[Archive]) -> Figure:
    """Return figure 1: the shares of the classes, and the redshifts of the quasars."""
    colors = (PURITY, COMPLETENESS, *OTHERS)
    with style():
        figure, ((left, right),) = canvas(columns=2, size=(7.0, 3.0))
        height = 0.8 / len(archives)
        for i, (each, color) in enumerate(zip(archives, colors, strict=False)):
            rows = each.split.training
            quasar = each.quasar[rows]
            share = np.array([quasar.mean(), 1 - quasar.mean()])
            y = np.arange(2) - 0.4 + (i + 0.5) * height
            bars = left.barh(y, share, height, color=color, label=each.name)
            left.bar_label(bars, [f"{100 * x:.3g} %" for x in share], padding=3, fontsize=8)
            z = each.z[rows][quasar]
            z = z[np.isfinite(z)]
            edges = np.arange(0, max(1.0, z.max(initial=0)) + 2 * _WIDTH, _WIDTH)
            density, _ = np.histogram(z, edges, density=True)
            right.stairs(density, edges, color=color, label=f"{each.name} ({len(z):,} quasars)")
        left.set_yticks([0, 1], ["QSO", "Other"])
        left.invert_yaxis()
        left.set_xlim(0, 1.2)
        left.set_xticks(np.arange(0, 1.1, 0.25))
        as_percent(left.xaxis)
        left.set_xlabel("share of the training part (%)")
        right.set_xlabel("redshift of quasars")
        right.set_ylabel("density")
        right.set_xlim(0)
        legend(right)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sets", type=Path, nargs="+", metavar="SET")
    parser.add_argument("--validation", type=float, default=50_000, help="spectra, or a share")
    parser.add_argument("--test", type=float, default=100_000, help="spectra, or a share")
    parser.add_argument("--by-spectrum", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figures", type=Path, default=Path())
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    sizes = Sizes(options.validation, options.test, options.by_spectrum)
    archives = [read(folder, sizes, options.seed) for folder in options.sets]
    said = counts(archives)
    print(said)
    save({"transfer-data": draw(archives)}, options.figures)
    if options.output:
        figure = "![class shares and redshifts](figures/transfer-data.png)"
        write_between(options.output, "transfer_data.py", f"{said}\n\n{figure}")


if __name__ == "__main__":
    main()
