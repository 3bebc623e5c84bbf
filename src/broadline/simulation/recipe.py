"""Recipe of a survey: what it points at, how far away that is, and how well it is seen."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.simulation.star_tables import MIX

__all__ = ["CLASSES", "RECIPES", "SurveyRecipe", "draw_redshifts", "read_recipe"]

#: Classes of targets, in the order of the mix.
CLASSES = ("QSO", "STAR", "GALAXY")

#: Redshifts that sources cover: the rest-frame windows of `quasar` and `galaxy`.
LIMITS = {"QSO": (0.01, 6.3), "GALAXY": (0.0, 1.25)}

#: Signal-to-noise ratios and their factors that make sense in single precision; scatter of the logarithm.
_SN_RANGE, _FACTOR_RANGE, _SIGMA_RANGE = (0.01, 1000.0), (0.01, 100.0), (0.0, 3.0)

#: A density by straight lines between (z, density) nodes.
Nodes = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class SurveyRecipe:
    """What a survey points at and how well it sees it; a TOML file may change any of it (`read_recipe`).

    Attributes
    ----------
    mix : mapping of str to float
        Shares of QSO, STAR and GALAXY among the targets; they add up to 1.
    stars : mapping of str to float
        Shares of the subclasses of stars (`star_tables.MIX` names them all); they add up to 1.
    redshifts : mapping of str to sequence of (float, float)
        For QSO and GALAXY, nodes (z, density) of a distribution of straight pieces.
    sky, dead : float
        Shares of all fibres that see empty sky, or nothing at all.
    repeats : float
        Share of the targets that are observed a second time, a year later.
    sn_median, sn_sigma, sn_highest : float
        Signal-to-noise ratio a pixel: lognormal of this median and scatter of the logarithm, cut. Beyond
        z = 4 it is that redward of Lya.
    sn_factor : mapping of str to float
        By how much a class is seen better than that.
    bal : float
        Probability of a trough in a quasar that is bright enough in CIV to show one (z > 1.35).
    narrow_line : float
        Share of narrow-line AGN among the quasars.
    displaced : float
        Share of quasars with displaced or double-peaked broad lines among the near ones (z < 1).

    Raises
    ------
    UsageError
        If an entry is of the wrong kind, unknown or impossible.
    """

    mix: Mapping[str, float]
    redshifts: Mapping[str, Nodes]
    stars: Mapping[str, float] = field(default_factory=lambda: dict(MIX))
    sky: float = 0.05
    dead: float = 0.002
    repeats: float = 0.03
    sn_median: float = 2.6
    sn_sigma: float = 0.9
    sn_highest: float = 60.0
    sn_factor: Mapping[str, float] = field(default_factory=dict)
    bal: float = 0.18
    narrow_line: float = 0.005
    displaced: float = 0.03

    def __post_init__(self) -> None:
        _check_kinds(self)
        _check_shares("mix", self.mix, CLASSES)
        _check_shares("stars", self.stars, tuple(MIX))
        _check_names("redshifts", self.redshifts, tuple(LIMITS))
        for name, limits in LIMITS.items():
            _check_nodes(name, self.redshifts.get(name, ()), limits)
        for name in ("sky", "dead", "repeats", "bal", "narrow_line", "displaced"):
            _check_range(name, getattr(self, name), (0, 1))
        if self.sky + self.dead > 1:
            raise UsageError(f"sky and dead fibres are {self.sky + self.dead:g} of all: more than there are")
        for name in ("sn_median", "sn_highest"):
            _check_range(name, getattr(self, name), _SN_RANGE)
        _check_range("sn_sigma", self.sn_sigma, _SIGMA_RANGE)
        _check_names("sn_factor", self.sn_factor, CLASSES)
        for name, value in self.sn_factor.items():
            _check_range(f"sn_factor.{name}", value, _FACTOR_RANGE)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON types."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_number, value))


def _check_kinds(recipe: SurveyRecipe) -> None:
    for name in (each.name for each in fields(recipe)):
        value = getattr(recipe, name)
        if name not in ("mix", "stars", "sn_factor", "redshifts"):
            if not _number(value):
                raise UsageError(f"{name} must be a number, not {value!r}")
            continue
        if not isinstance(value, Mapping):
            raise UsageError(f"{name} must be a table, not {value!r}")
        for key, each in value.items():
            if name != "redshifts" and not _number(each):
                raise UsageError(f"{name}.{key} must be a number, not {each!r}")
            if name == "redshifts" and not (isinstance(each, list | tuple) and all(map(_pair, each))):
                raise UsageError(f"{name}.{key} must be a list of [z, density] pairs, not {each!r}")


def _check_names(what: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if unknown := set(table) - set(known):
        raise UsageError(f"{what} has no {', '.join(sorted(unknown))}; it knows {', '.join(known)}")


def _check_range(what: str, value: float, limits: tuple[float, float]) -> None:
    low, high = limits
    if not low <= value <= high:
        raise UsageError(f"{what} must lie between {low:g} and {high:g}; it is {value:g}")


def _check_shares(what: str, shares: Mapping[str, float], known: tuple[str, ...]) -> None:
    _check_names(what, shares, known)
    for name, share in shares.items():
        _check_range(f"{what}.{name}", share, (0, 1))
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise UsageError(f"the shares of {what} must add up to 1, not {sum(shares.values()):g}")


def _check_nodes(name: str, nodes: Nodes, limits: tuple[float, float]) -> None:
    low, high = limits
    z, density = (np.array([node[i] for node in nodes], dtype=float) for i in (0, 1))
    rising = len(nodes) >= 2 and bool((np.diff(z) > 0).all())
    if not rising or not (density >= 0).all() or not 0 < density.sum() < np.inf:
        raise UsageError(f"redshifts.{name} needs two or more [z, density] pairs, z rising, density >= 0")
    if z[0] < low or z[-1] > high:
        raise UsageError(
            f"redshifts.{name} go from {z[0]:g} to {z[-1]:g}; the sources cover {low:g} to {high:g} only"
        )


def draw_redshifts(nodes: Nodes, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return redshifts from a density of straight pieces, by inverting its integral.

    Parameters
    ----------
    nodes : sequence of (float, float)
    n : int
    rng : numpy.random.Generator
    """
    z, density = (np.array([node[i] for node in nodes], dtype=np.float64) for i in (0, 1))
    fine = np.linspace(z[0], z[-1], 4001)
    level = np.interp(fine, z, density)
    cumulative = np.concatenate([[0], np.cumsum(0.5 * (level[1:] + level[:-1]))])
    return np.asarray(np.interp(rng.random(n), cumulative / cumulative[-1], fine))


def read_recipe(path: Path, base: SurveyRecipe) -> SurveyRecipe:
    """Return `base` with what a TOML file changes.

    Raises
    ------
    UsageError
        If the file cannot be read, or names something unknown or impossible.
    """
    try:
        changes = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read the recipe {path}: {error}") from error
    known = [each.name for each in fields(SurveyRecipe)]
    if unknown := set(changes) - set(known):
        raise UsageError(
            f"recipe {path} has no entry {', '.join(sorted(unknown))}; the entries are {', '.join(known)}"
        )
    if isinstance(changes.get("redshifts"), dict):
        changes["redshifts"] = {**base.redshifts, **changes["redshifts"]}
    try:
        return replace(base, **changes)
    except UsageError as error:
        raise UsageError(f"recipe {path}: {error}") from error


_GALAXIES: Nodes = ((0.0, 0.3), (0.1, 0.8), (0.35, 0.8), (0.55, 1.0), (0.7, 0.6), (0.9, 0.25), (1.2, 0.05))
_DISK_STARS = {
    **{"O": 0.002, "B": 0.01, "A": 0.09, "F": 0.31, "sdF": 0.02, "G": 0.27, "K": 0.19, "M": 0.08},
    **{"dMe": 0.01, "CARBON": 0.002, "DA": 0.008, "DB": 0.001, "WD+M": 0.004, "CV": 0.003},
}

#: The survey of each archive, by archive. Redshift distributions are round numbers in the shape of the
#: published ones.
#:
#: boss: the non-ancillary sample of Busca & Balland (2018), section 2, as inspected for DR12Q:
#: 39.2 % stars, 3.0 % galaxies, 55.9 % quasars, 1.8 % not firm.
#: sdss and lamost: table 1 of Podsztavek et al. (2021), quasars 14.5 % of SDSS DR14 and 0.35 % of LAMOST DR5;
#: the shares of stars and galaxies are round numbers.
#: desi: a dark-time quasar target sample of some 60 % quasars (Chaussidon et al. 2023), in round numbers.
RECIPES: Mapping[str, SurveyRecipe] = MappingProxyType(
    {
        "boss": SurveyRecipe(
            mix={"QSO": 0.57, "STAR": 0.40, "GALAXY": 0.03},
            redshifts={
                "QSO": (
                    *((0.1, 0.05), (0.4, 0.3), (0.8, 0.75), (1.1, 0.45), (1.5, 0.8), (1.7, 0.85), (2.0, 1.1)),
                    *((2.15, 2.6), (2.3, 4.5), (2.45, 4.2), (2.6, 3.0), (2.8, 2.1), (3.0, 1.8), (3.2, 1.2)),
                    *((3.5, 0.5), (3.8, 0.22), (4.2, 0.08), (5.0, 0.02), (6.0, 0.002)),
                ),
                "GALAXY": _GALAXIES,
            },
            sn_factor={"STAR": 1.3, "GALAXY": 1.2},
        ),
        "sdss": SurveyRecipe(
            mix={"QSO": 0.145, "STAR": 0.225, "GALAXY": 0.63},
            redshifts={
                "QSO": (
                    *((0.05, 0.1), (0.3, 0.5), (0.8, 1.3), (1.2, 1.7), (1.6, 2.1), (1.9, 2.1), (2.15, 2.4)),
                    *((2.3, 3.0), (2.5, 2.2), (2.8, 1.3), (3.2, 0.7), (3.8, 0.2), (5.0, 0.02)),
                ),
                "GALAXY": (
                    (0.0, 0.5),
                    (0.08, 2.5),
                    (0.15, 2.0),
                    (0.3, 1.0),
                    (0.5, 1.6),
                    (0.7, 0.7),
                    (1.0, 0.1),
                ),
            },
            stars={**_DISK_STARS, "F": 0.28, "DA": 0.03, "DC": 0.01, "WD+M": 0.002},
            sn_median=6.0,
            sn_sigma=0.8,
            sn_factor={"STAR": 2.0, "GALAXY": 1.3},
        ),
        "lamost": SurveyRecipe(
            mix={"QSO": 0.0035, "STAR": 0.9765, "GALAXY": 0.02},
            redshifts={
                "QSO": (
                    *((0.05, 0.3), (0.3, 1.3), (0.7, 1.3), (1.2, 1.6), (1.6, 1.8), (2.0, 1.3), (2.5, 0.9)),
                    *((3.0, 0.35), (4.0, 0.08), (5.0, 0.01)),
                ),
                "GALAXY": ((0.0, 0.5), (0.06, 2.5), (0.12, 1.5), (0.25, 0.3), (0.5, 0.05)),
            },
            stars=_DISK_STARS,
            sky=0.08,
            sn_median=6.0,
            sn_sigma=0.7,
            sn_highest=200.0,
            sn_factor={"STAR": 4.0, "GALAXY": 1.5},
        ),
        "desi": SurveyRecipe(
            mix={"QSO": 0.62, "STAR": 0.20, "GALAXY": 0.18},
            redshifts={
                "QSO": (
                    *((0.1, 0.05), (0.5, 0.4), (0.8, 0.9), (1.2, 1.3), (1.6, 1.5), (2.0, 1.2), (2.4, 0.8)),
                    *((2.8, 0.5), (3.2, 0.25), (3.6, 0.1), (4.5, 0.01)),
                ),
                "GALAXY": _GALAXIES,
            },
            sky=0.08,
            sn_median=1.6,
        ),
    }
)
