"""What simulated surveys hold: the recipe's sample, lines and noise as they should be, numbers all finite."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from broadline.lines import LINES
from broadline.simulation.field import observe_field
from broadline.simulation.instruments import INSTRUMENTS
from broadline.simulation.pointing import COLUMNS, Pointing
from broadline.simulation.recipe import CLASSES, LIMITS, RECIPES, SurveyRecipe
from broadline.simulation.sources import draw_classes, draw_sources
from broadline.simulation.star_tables import MIX
from broadline.simulation.survey import ARCHIVES

# ---- the sample is the recipe's


@pytest.fixture(scope="module")
def field() -> Pointing:
    return observe_field("boss", 0, 700, 0, replace(RECIPES["boss"], dead=0.02), 5)[0]


def within(count: int, n: int, share: float) -> bool:
    """Whether a count is what a share would give, in 999 of 1000 cases."""
    return bool(stats.binomtest(count, n, share).pvalue > 1e-3)


def test_the_classes_have_the_shares_of_the_recipe(field: Pointing) -> None:
    recipe, n = replace(RECIPES["boss"], dead=0.02), 700
    for name in CLASSES:
        share = recipe.mix[name] * (1 - recipe.sky - recipe.dead)
        assert within(int((field.table["TRUE_CLASS"] == name).sum()), n, share), name
    assert within(int((field.table["TRUE_SUBCLASS"] == "SKY").sum()), n, recipe.sky)
    assert within(int((field.table["TRUE_SUBCLASS"] == "DEAD").sum()), n, recipe.dead)
    drawn = draw_classes(recipe, 100_000, np.random.default_rng(1))
    assert within(int((drawn == "GALAXY").sum()), 100_000, 0.03 * (1 - 0.05 - 0.02))


@pytest.mark.parametrize(("sky", "dead"), [(0.9, 0.1), (1.0, 0.0), (0.0, 1.0)])
def test_all_fibres_may_be_without_a_target(sky: float, dead: float) -> None:
    recipe = replace(RECIPES["boss"], sky=sky, dead=dead)
    assert set(draw_classes(recipe, 1000, np.random.default_rng(0))) <= {"SKY", "DEAD"}


def test_the_redshifts_follow_the_nodes(field: Pointing) -> None:
    nodes = np.array(RECIPES["boss"].redshifts["QSO"])
    area = np.concatenate([[0], np.cumsum(0.5 * (nodes[1:, 1] + nodes[:-1, 1]) * np.diff(nodes[:, 0]))])

    def below(z: NDArray[np.float64]) -> NDArray[np.float64]:
        piece = np.clip(np.searchsorted(nodes[:, 0], z) - 1, 0, len(nodes) - 2)
        density = np.interp(z, nodes[:, 0], nodes[:, 1])
        part = 0.5 * (nodes[piece, 1] + density) * (z - nodes[piece, 0])
        return np.asarray((area[piece] + part) / area[-1])

    z = field.table["TRUE_Z"][field.table["TRUE_CLASS"] == "QSO"]
    assert len(z) > 300
    assert stats.kstest(z, below).pvalue > 0.01
    assert stats.kstest(z + 0.3, below).pvalue < 1e-6  # and it would notice


def test_magnitudes_tell_the_flux_in_the_files(field: Pointing) -> None:
    flux, wavelength = field.observed.flux.astype(np.float64), field.instrument.wavelength
    for band, (low, high) in {1: (3900, 5400), 2: (5600, 6900), 3: (6900, 8200)}.items():
        inside = (wavelength > low) & (wavelength < high)
        good = (field.table["SN"] > 8) & (field.observed.ivar[:, inside] > 0).all(axis=1)
        assert good.sum() > 20
        level = flux[good][:, inside].mean(axis=1) * 1e-17
        jansky = level * wavelength[inside].mean() ** 2 / 2.998e18 / 1e-23
        difference = field.table["PSFMAG"][good, band] + 2.5 * np.log10(jansky / 3631)
        assert np.abs(np.median(difference)) < 0.02 and np.abs(difference).max() < 0.2


def test_sky_fibres_are_nobodys_and_dead_ones_have_no_data(field: Pointing) -> None:
    table, observed = field.table, field.observed
    sky, dead = table["TRUE_CLASS"] == "SKY", table["TRUE_SUBCLASS"] == "DEAD"
    assert (table["THING_ID"][sky] == -1).all() and (table["THING_ID"][~sky] > 0).all()
    assert not table["CLASS_PERSON"][sky].any() and (table["Z_VI"][sky] == -1).all()
    assert not table["SN"][sky].any() and not table["PSFMAG"][sky].any()
    assert not observed.ivar[dead].any() and not observed.flux[dead].any() and observed.and_mask[dead].all()
    assert (observed.ivar[~dead] > 0).mean(axis=1).min() > 0.3
    assert len(np.unique(table["THING_ID"][~sky])) == (~sky).sum()


def test_the_lines_of_quasars_are_where_their_redshifts_say() -> None:
    rng = np.random.default_rng(3)
    recipe = replace(RECIPES["boss"], bal=0.0, narrow_line=0.0)
    z = rng.uniform(1.7, 2.3, 60)
    scene = draw_sources(recipe, np.full(60, "QSO"), INSTRUMENTS["boss"].window, rng, None, z).scene
    assert np.allclose(scene.truth["Z"], z, atol=4e-4)
    for name in ("CIV", "MGII"):
        speed = 299_792.458 * (scene.wavelength / (LINES[name].wavelength * (1 + z[:, None])) - 1)
        found = []
        for flux, v in zip(scene.flux, speed, strict=True):
            near = np.abs(v) < 9000
            smooth = np.convolve(flux, np.full(15, 1 / 15), "same")
            edges = (np.abs(v) > 8000) & near
            line = smooth - np.polynomial.Polynomial.fit(v[edges], smooth[edges], 1)(v)
            found.append(v[near][line[near].argmax()])
        assert np.mean(np.abs(found) < 2000) >= 0.95, (name, np.round(found))
        assert np.abs(np.median(found)) < 800


@pytest.mark.parametrize("archive", ARCHIVES)
def test_without_artefacts_the_noise_is_what_ivar_says(archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mix = {"QSO": 0.5, "STAR": 0.3, "GALAXY": 0.2}
    recipe = replace(RECIPES[archive], mix=mix, sky=0.15, dead=0.1)
    monkeypatch.setitem(INSTRUMENTS, archive, INSTRUMENTS[archive].perfect())
    for pointing in observe_field(archive, 0, 40, 10, recipe, 2):
        flux, ivar, model = (getattr(pointing.observed, x) for x in ("flux", "ivar", "model"))
        living = pointing.table["TRUE_SUBCLASS"] != "DEAD"
        assert (ivar[living] > 0).all()
        pull = ((flux - model) * np.sqrt(ivar))[living].astype(np.float64)
        assert np.mean(pull**2) == pytest.approx(1, abs=6 * np.sqrt(2 / pull.size))
        assert np.mean(pull) == pytest.approx(0, abs=6 / np.sqrt(pull.size))
        assert np.abs((pull**2).mean(axis=1) - 1).max() < 6 * np.sqrt(2 / pull.shape[1])


@pytest.mark.parametrize("z", [2.5, 4.0, 4.7, 5.2, 6.2])
def test_quasars_have_the_signal_to_noise_ratio_asked_where_their_light_comes_through(z: float) -> None:
    narrow = {**RECIPES["boss"].redshifts, "QSO": ((z - 0.02, 1.0), (z + 0.02, 1.0))}
    recipe = replace(
        RECIPES["boss"], mix={"QSO": 1.0}, redshifts=narrow, sky=0, dead=0, sn_median=4, sn_sigma=0, bal=0
    )
    (pointing,) = observe_field("boss", 0, 30, 0, recipe, 1)
    wavelength, observed = pointing.instrument.wavelength, pointing.observed
    ratio = (observed.model * np.sqrt(observed.ivar))[:, wavelength > 1216 * (1 + z) + 50]
    assert np.median(ratio[ratio > 0]) == pytest.approx(4, rel=0.25)


# ---- any recipe


def shares(names: tuple[str, ...]) -> st.SearchStrategy[dict[str, float]]:
    weights = st.lists(st.sampled_from([0, 0, 1, 3]), min_size=len(names), max_size=len(names))
    return weights.filter(any).map(
        lambda values: {name: value / sum(values) for name, value in zip(names, values, strict=True)}
    )


def nodes(limits: tuple[float, float]) -> st.SearchStrategy[tuple[tuple[float, float], ...]]:
    inside = st.lists(st.floats(*limits), min_size=2, max_size=4, unique=True).map(sorted)
    return inside.map(lambda z: tuple((value, 1.0) for value in z))


@st.composite
def recipes(draw: st.DrawFn) -> SurveyRecipe:
    sky = draw(st.floats(0, 1))
    return SurveyRecipe(
        mix=draw(shares(CLASSES)),
        stars=draw(shares(tuple(MIX))),
        redshifts={name: draw(nodes(limits)) for name, limits in LIMITS.items()},
        sky=sky,
        dead=draw(st.floats(0, 1 - sky)),
        repeats=draw(st.floats(0, 1)),
        sn_median=10 ** draw(st.floats(-2, 3)),
        sn_sigma=draw(st.floats(0, 3)),
        sn_highest=10 ** draw(st.floats(-2, 3)),
        sn_factor=draw(st.dictionaries(st.sampled_from(CLASSES), st.floats(0.01, 100))),
        bal=draw(st.floats(0, 1)),
        narrow_line=draw(st.floats(0, 1)),
    )


@settings(max_examples=60)
@given(recipe=recipes(), archive=st.sampled_from(ARCHIVES), seed=st.integers(0, 1 << 40))
def test_any_recipe_gives_finite_numbers(recipe: SurveyRecipe, archive: str, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        visits = observe_field(archive, 3, 6, round(6 * recipe.repeats), recipe, seed)
    for pointing in visits:
        observed = pointing.observed
        for name in ("flux", "ivar", "model", "sky", "wdisp"):
            assert np.isfinite(getattr(observed, name)).all(), name
        assert (observed.ivar >= 0).all()
        assert not observed.flux[(observed.ivar == 0) & (observed.and_mask >> 24 & 1 == 1)].any()
        for name in COLUMNS:
            column = pointing.table[name]
            assert column.dtype.kind == "U" or np.isfinite(column).all(), name
        assert set(pointing.table["TRUE_CLASS"]) <= {*CLASSES, "SKY"}
        assert (pointing.table["PSFMAG"] < 60).all()
