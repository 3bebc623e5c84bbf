"""Colours of the inspection page: read with ease, and told apart by those who confuse some of them."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from broadline.inspect.server import STATIC

Colour = NDArray[np.float64]

#: What linear RGB becomes to the eyes: Machado, Oliveira & Fernandes (2009), IEEE TVCG 15, 1291, severity 1.
EYES: dict[str, Colour] = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])
WORDS = ("ink", "quiet", "fault", "good", "found", "weak", "absorbed", "mark", "star")
CURVES = ("flux", "model", "composite")
#: What lies over one another in the plot.
DRAWN = (*CURVES, "found", "absorbed", "mark", "star")


def palettes() -> dict[str, dict[str, Colour]]:
    """Return the colours of the style sheet in linear RGB, by scheme and name."""
    blocks = re.findall(r":root \{(.*?)\}", (STATIC / "inspect.css").read_text(), re.DOTALL)
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks)
    return {
        name: {colour: linear(text) for colour, text in found.items()}
        for name, found in (("light", light), ("dark", light | dark))
    }


def linear(text: str) -> Colour:
    c = np.array([int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a: Colour, b: Colour) -> float:
    """Return the contrast of two colours as WCAG 2.1 defines it."""
    low, high = sorted(float(XYZ[1] @ c) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: Colour) -> Colour:
    """Return CIE 1976 L*a*b* for D65."""
    t = XYZ @ rgb / WHITE
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_the_measures_are_those_of_worked_examples() -> None:
    white, black, red = linear("#ffffff"), linear("#000000"), linear("#ff0000")
    assert contrast(white, black) == pytest.approx(21)
    assert lab(red) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    green, khaki = linear("#00ff00"), EYES["deuteranopia"] @ linear("#00ff00")
    assert np.linalg.norm(lab(khaki.clip(0, 1)) - lab(green)) > 50


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read_and_told_apart_whoever_looks(scheme: str, eyes: str) -> None:
    seen = {name: (EYES[eyes] @ rgb).clip(0, 1) for name, rgb in palettes()[scheme].items()}
    for names, least in ((WORDS, 4.5), (CURVES, 3.0)):  # WCAG 2.1: text, and what is drawn
        poor = {name: contrast(seen[name], seen["panel"]) for name in names}
        assert {name: ratio for name, ratio in poor.items() if ratio < least} == {}
    assert contrast(seen["accent"], seen["accent-ink"]) >= 4.5
    apart = {
        (a, b): float(np.linalg.norm(lab(seen[a]) - lab(seen[b]))) for a, b in combinations(DRAWN, 2)
    }  # 2.3 is just noticeable
    same_thing = {("model", "absorbed")}  # a curve, and a triangle at the frame
    assert {pair: d for pair, d in apart.items() if d < 12 and pair not in same_thing} == {}
