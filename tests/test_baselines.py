"""Baselines: the decision trees branch by branch, what is inspected, and files of fits and of calls."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from broadline.decision import Rule
from broadline.errors import ReadError, UsageError
from broadline.evaluation import baselines, metrics
from broadline.evaluation.baselines import Fits, Verdict, read_baseline, settle
from broadline.evaluation.fits_read import Calls, read_answers
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import Share
from broadline.flags import Flag
from broadline.simulation.recipe import RECIPES
from broadline.simulation.survey import Request, simulate
from broadline.truth import GALAXY, OTHER, QSO, STAR, UNKNOWN

NAN = math.nan
LIGHT = 299_792.458
_LETTERS = {"Q": QSO, "S": STAR, "G": GALAXY, "?": OTHER}
TREES = {
    "DR14Q": baselines.dr14q,
    "script": baselines.authors_script,
    "DR16Q": lambda fits: baselines.dr16q(fits, np.zeros(len(fits.z), bool), np.full(len(fits.z), NAN)),
}
EVERY_TREE = pytest.mark.parametrize("tree", TREES)


def five(classes: str, z: float = 0.5, zwarning: int = 0) -> Fits:
    """One spectrum whose five best fits are of the classes that the letters stand for."""
    kind = np.array([[_LETTERS[letter] for letter in classes]], dtype=np.int8)
    return Fits(kind, np.full((1, 5), z), np.array([zwarning]), np.array([True]))


def leaf(verdict: Verdict) -> str:
    """Where a single spectrum ended: VI, QSO, STAR (z set to 0), or GALAXY (z kept)."""
    assert verdict.inspected is not None
    assert not (verdict.inspected & verdict.quasar).any()
    if verdict.inspected[0]:
        return "VI"
    return "QSO" if verdict.quasar[0] else "STAR" if verdict.z[0] == 0 else "GALAXY"


# ---- the trees, branch by branch


@EVERY_TREE
@pytest.mark.parametrize("zwarning", [0, 4])
def test_branch_1_a_best_fit_star_is_a_star_whatever_else_fits(tree: str, zwarning: int) -> None:
    assert leaf(TREES[tree](five("SQQQQ", 3.9, zwarning))) == "STAR"


@EVERY_TREE
@pytest.mark.parametrize("zwarning", [0, 4])
def test_branch_2_a_galaxy_below_redshift_1_is_a_galaxy_whatever_else_fits(tree: str, zwarning: int) -> None:
    assert leaf(TREES[tree](five("GSSSS", 0.999, zwarning))) == "GALAXY"
    assert leaf(TREES[tree](five("GQQQQ", 0.999, zwarning))) == "GALAXY"


@pytest.mark.parametrize("tree", ["DR14Q", "script"])
@pytest.mark.parametrize("z", [1.0, 1.3])
def test_branch_3_of_dr14q_a_galaxy_from_redshift_1_needs_two_alternate_galaxies(tree: str, z: float) -> None:
    assert leaf(TREES[tree](five("GQGQG", z))) == "GALAXY"
    assert leaf(TREES[tree](five("GQGQQ", z))) == "VI"
    assert leaf(TREES[tree](five("GQQQQ", z, 4))) == "VI"


@pytest.mark.parametrize("z", [1.0, 1.3])
def test_branch_3_of_dr16q_a_galaxy_from_redshift_1_needs_one_alternate_galaxy(z: float) -> None:
    assert leaf(TREES["DR16Q"](five("GQQQG", z))) == "GALAXY"
    assert leaf(TREES["DR16Q"](five("GQQSS", z))) == "VI"


@EVERY_TREE
def test_branch_4_a_quasar_without_warning_is_a_quasar_with_fewer_than_two_alternate_stars(tree: str) -> None:
    for classes in ("QQQQQ", "QGGGG", "QSGGQ"):
        assert leaf(TREES[tree](five(classes, 2.0))) == "QSO"


@pytest.mark.parametrize(("tree", "where"), [("DR14Q", "STAR"), ("script", "VI"), ("DR16Q", "STAR")])
def test_branch_4_a_quasar_without_warning_and_with_two_alternate_stars(tree: str, where: str) -> None:
    assert leaf(TREES[tree](five("QSQSQ", 2.0))) == where
    assert leaf(TREES[tree](five("QSSSS", 2.0))) == where


@EVERY_TREE
def test_branch_5_a_quasar_with_warning_and_two_alternate_stars_is_a_star(tree: str) -> None:
    assert leaf(TREES[tree](five("QSGSG", 2.0, 4))) == "STAR"
    assert leaf(TREES[tree](five("QSGGG", 2.0, 4))) == "VI"


@pytest.mark.parametrize(("tree", "where"), [("DR14Q", "VI"), ("script", "STAR"), ("DR16Q", "VI")])
def test_branch_5_of_the_script_alone_holds_for_any_leftover_class(tree: str, where: str) -> None:
    assert leaf(TREES[tree](five("GSSQQ", 1.2, 4))) == where
    assert leaf(TREES[tree](five("?SSQQ", 1.2, 4))) == where
    assert leaf(TREES[tree](five("GSSQQ", 1.2, 0))) == "VI"


def test_branch_5_of_the_script_leaves_galaxies_of_branch_3_alone() -> None:
    assert leaf(TREES["script"](five("GSSGG", 1.2, 4))) == "GALAXY"


@EVERY_TREE
def test_branch_6_what_is_left_is_inspected(tree: str) -> None:
    assert leaf(TREES[tree](five("QQQQQ", 2.0, 4))) == "VI"
    assert leaf(TREES[tree](five("?QQQQ", 2.0))) == "VI"
    assert leaf(TREES[tree](five("GQQQQ", NAN))) == "VI"


def test_branch_5_of_dr16q_inspects_quasars_beyond_redshift_3_5() -> None:
    assert leaf(TREES["DR16Q"](five("QQQQQ", 3.5))) == "QSO"
    assert leaf(TREES["DR16Q"](five("QQQQQ", 3.51))) == "VI"
    assert leaf(TREES["DR16Q"](five("QSSQQ", 3.51))) == "STAR"
    assert leaf(TREES["DR14Q"](five("QQQQQ", 3.51))) == "QSO"


@pytest.mark.parametrize(
    ("is_qso", "z_qn", "where"),
    [(True, 1.99, "QSO"), (True, 2.0, "VI"), (True, NAN, "VI"), (False, 1.0, "VI")],
)
def test_branch_6_of_dr16q_believes_quasarnet_below_redshift_2(is_qso: bool, z_qn: float, where: str) -> None:
    for fits_ in (five("QQQQQ", 0.9, 4), five("QQQQQ", 3.9), five("GQQQQ", 1.2)):
        verdict = baselines.dr16q(fits_, np.array([is_qso]), np.array([z_qn]))
        assert leaf(verdict) == where
        if where == "QSO":
            assert verdict.z[0] == z_qn


def test_branch_6_of_dr16q_does_not_touch_what_the_tree_has_decided() -> None:
    sure = np.array([True]), np.array([1.0])
    assert leaf(baselines.dr16q(five("SQQQQ"), *sure)) == "STAR"
    assert leaf(baselines.dr16q(five("GQQQQ"), *sure)) == "GALAXY"
    assert baselines.dr16q(five("QQQQQ", 2.5), *sure).z[0] == 2.5


@pytest.mark.parametrize(
    ("classes", "zwarning", "called"),
    [("QSSSS", 0, True), ("QQQQQ", 4, False), ("GQQQQ", 0, False), ("SQQQQ", 0, False), ("?QQQQ", 0, False)],
)
def test_auto_is_a_best_fit_qso_without_warning(classes: str, zwarning: int, called: bool) -> None:
    verdict = baselines.auto(five(classes, 4.5, zwarning))
    assert verdict.quasar.tolist() == [called]
    assert verdict.z.tolist() == [4.5]
    assert verdict.inspected is None


@EVERY_TREE
def test_the_best_fit_alone_is_not_enough_for_a_tree(tree: str) -> None:
    whole = five("QQQQQ")
    best = Fits(whole.kind[:, :1], whole.z[:, :1], whole.zwarning, whole.known)
    with pytest.raises(UsageError, match="best fit alone"):
        TREES[tree](best)
    assert baselines.auto(best).quasar.all()


# ---- what must hold of any fits

one_fit = st.tuples(
    st.lists(st.sampled_from([QSO, STAR, GALAXY, OTHER]), min_size=5, max_size=5),
    st.sampled_from([0.01, 0.99, 1.0, 1.7, 3.5, 3.6]),
    st.sampled_from([0, 4, 16]),
    st.booleans(),
    st.sampled_from(["QSO", "STAR", "GALAXY", ""]),
    st.sampled_from([0, 2, 3]),
    st.booleans(),
    st.sampled_from([0.3, 1.99, 2.6]),
)
many_fits = st.lists(one_fit, min_size=1, max_size=30)
some = settings(max_examples=40)


def studied(rows: Sequence[tuple[Any, ...]]) -> tuple[Fits, Sample]:
    kind, z, zwarning, known, truth, confidence, called, z_qn = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    whole = Fits(
        np.where(known[:, None], kind, UNKNOWN).astype(np.int8),
        np.where(known[:, None], np.repeat(z[:, None], 5, axis=1), NAN),
        zwarning * known,
        known,
    )
    annotated = np.where(truth == "", NAN, 0.7)
    return whole, Sample(z=z_qn, truth=truth, z_truth=annotated, called=called, confidence=confidence)


def verdicts(fits_: Fits, sample: Sample) -> dict[str, Verdict]:
    return {
        "auto": baselines.auto(fits_),
        "DR14Q": baselines.dr14q(fits_),
        "script": baselines.authors_script(fits_),
        "DR16Q": baselines.dr16q(fits_, sample.quasar, sample.z),
        "agreement": baselines.agreement(sample, baselines.auto(fits_)),
    }


@some
@given(many_fits)
def test_no_tree_inspects_what_is_best_fit_by_a_star(rows: list[tuple[Any, ...]]) -> None:
    fits_, sample = studied(rows)
    for name in ("DR14Q", "script", "DR16Q"):
        verdict = verdicts(fits_, sample)[name]
        assert verdict.inspected is not None
        assert not (verdict.inspected & (fits_.kind[:, 0] == STAR)).any()
        assert not (verdict.quasar & (fits_.kind[:, 0] == STAR)).any()


@some
@given(many_fits)
def test_inspected_spectra_are_always_right(rows: list[tuple[Any, ...]]) -> None:
    fits_, sample = studied(rows)
    for verdict in verdicts(fits_, sample).values():
        if verdict.inspected is None:
            continue
        seen = settle(sample, verdict).sample.take(verdict.inspected)
        score = metrics.score(seen)
        assert score.purity.k == score.purity.n
        assert score.completeness.k == score.completeness.n == seen.annotated("QSO").sum()


@some
@given(many_fits)
def test_spectra_without_fits_are_neither_called_nor_inspected_and_are_counted(
    rows: list[tuple[Any, ...]],
) -> None:
    fits_, sample = studied(rows)
    for verdict in verdicts(fits_, sample).values():
        baseline = settle(sample, verdict)
        assert baseline.n_unknown == (~fits_.known).sum()
        assert not baseline.sample.quasar[~fits_.known].any()
        if baseline.inspected is not None and verdict.inspected is not None:
            assert not verdict.inspected[~fits_.known].any()
            assert baseline.inspected == Share(int(verdict.inspected.sum()), int(fits_.known.sum()))


@some
@given(many_fits)
def test_a_verdict_does_not_depend_on_the_other_rows(rows: list[tuple[Any, ...]]) -> None:
    together = verdicts(*studied(rows))
    for i, row in enumerate(rows):
        for name, alone in verdicts(*studied([row])).items():
            assert together[name].quasar[i] == alone.quasar[0]
            np.testing.assert_equal(together[name].z[i], alone.z[0])


@some
@given(many_fits)
def test_the_script_is_never_less_complete_than_the_printed_tree_on_quasars_that_fit_best(
    rows: list[tuple[Any, ...]],
) -> None:
    fits_, sample = studied(rows)
    best = fits_.kind[:, 0] == QSO
    scores = [
        metrics.score(settle(sample, verdicts(fits_, sample)[name]).sample.take(best)).completeness.k
        for name in ("DR14Q", "script")
    ]
    assert scores[0] <= scores[1]


@some
@given(many_fits)
def test_dr16q_inspects_no_more_with_quasarnet_than_without(rows: list[tuple[Any, ...]]) -> None:
    fits_, sample = studied(rows)
    without, with_qn = TREES["DR16Q"](fits_), verdicts(fits_, sample)["DR16Q"]
    assert without.inspected is not None
    assert with_qn.inspected is not None
    assert not (with_qn.inspected & ~without.inspected).any()


# ---- inspection beside confidences, and agreement


def test_two_lines_are_accepted_one_is_inspected_and_none_is_no_quasar() -> None:
    c = np.array([[0.9, 0.41, 0.0], [0.9, 0.4, 0.0], [0.4, 0.4, 0.4], [NAN, NAN, NAN]], dtype=np.float32)
    sample = Sample(z=[2.0, 1.0, 1.0, NAN], truth=["STAR", "QSO", "QSO", "QSO"], z_truth=[0, 2, 2, 2], c=c)  # type: ignore[arg-type]
    baseline = settle(sample, baselines.two_lines(sample, Rule(c_th=0.4)))
    assert baseline.sample.quasar.tolist() == [True, True, False, False]
    np.testing.assert_equal(baseline.sample.z, [2.0, 2.0, 1.0, NAN])
    assert baseline.inspected == Share(1, 4)
    assert baseline.sample.c is None


def test_two_lines_cannot_be_counted_without_confidences() -> None:
    sample = Sample(z=[1.0], truth=["QSO"], z_truth=[1.0], called=[True])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no confidences"):
        baselines.two_lines(sample, Rule())


@pytest.mark.parametrize(
    ("called", "other", "dv", "known", "where"),
    [
        (True, True, 5999, True, "QSO"),
        (True, True, -5999, True, "QSO"),
        (True, True, 6001, True, "VI"),
        (True, True, -6001, True, "VI"),  # the sign does not matter
        (True, True, NAN, True, "VI"),
        (True, False, 0, True, "VI"),
        (False, True, 0, True, "VI"),
        (False, False, 9000, True, "none"),
        (True, False, 0, False, "none"),
    ],
)
def test_a_catalogue_and_a_pipeline_agree_in_class_and_within_6000_km_s_or_an_expert_looks(
    called: bool, other: bool, dv: float, known: bool, where: str
) -> None:
    z_other = 1.5
    z = z_other + dv * (1 + z_other) / LIGHT
    sample = Sample(z=[z], truth=["QSO"], z_truth=[4.0], called=[called])  # type: ignore[arg-type]
    pipeline = Verdict(np.array([other]), np.array([z_other]), np.array([known]))
    verdict = baselines.agreement(sample, pipeline)
    assert verdict.inspected is not None
    assert (bool(verdict.quasar[0]), bool(verdict.inspected[0])) == (where == "QSO", where == "VI")
    np.testing.assert_equal(verdict.z, sample.z)


def test_a_baseline_keeps_the_truth_and_loses_the_confidences_of_the_study() -> None:
    sample = Sample(
        z=np.array([1.0]),
        truth=np.array(["QSO"]),
        z_truth=np.array([1.0]),
        called=np.array([True]),
        c=np.array([[0.9]]),
        p_qso=np.array([0.9]),
        sn=np.array([3.0]),
        bal=np.array([1]),
    )
    baseline = settle(sample, baselines.auto(five("GQQQQ"))).sample
    assert baseline.c is baseline.p_qso is None
    assert baseline.bal is not None
    assert baseline.sn is not None
    assert (baseline.bal[0], baseline.sn[0], baseline.z_truth[0]) == (1, 3.0, 1.0)


def test_no_share_is_inspected_of_no_known_spectra() -> None:
    sample = Sample(z=[1.0], truth=["QSO"], z_truth=[1.0], called=[True])  # type: ignore[arg-type]
    nobody = np.array([False])
    share = settle(sample, Verdict(nobody, np.array([NAN]), nobody, nobody)).inspected
    assert share is not None
    assert math.isnan(share.value)


# ---- a simulated survey


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("survey")
    mix = {"QSO": 0.5, "STAR": 0.3, "GALAXY": 0.2}
    simulate(Request.of("boss", 400, 5, replace(RECIPES["boss"], mix=mix)), folder, 1)
    return folder


def columns(folder: Path) -> dict[str, Any]:
    return pq.read_table(folder / "truth.parquet").to_pydict()


def names(folder: Path) -> dict[str, np.ndarray]:
    table = columns(folder)
    return {name: np.array(table[name]) for name in ("PLATE", "MJD", "FIBERID")}


@pytest.fixture(scope="module")
def study(survey: Path) -> Sample:
    """What the survey's inspector said, beside a catalogue that knows the truth of every other spectrum."""
    table = columns(survey)
    person = np.array(table["CLASS_PERSON"])
    truth = np.select(
        [person == 1, person == 4, (person == 3) | (person == 30)], ["STAR", "GALAXY", "QSO"], ""
    )
    z, z_vi = np.array(table["TRUE_Z"]), np.array(table["Z_VI"])
    other = np.arange(len(person)) % 2 == 0
    return Sample(
        z=np.where(np.isnan(z) | ~other, 1.0, z),
        truth=truth,
        z_truth=np.where(z_vi > -1, z_vi, NAN),
        called=(np.array(table["TRUE_CLASS"]) == "QSO") & other,
        confidence=np.array(table["Z_CONF_PERSON"]),
    )


def test_purity_and_completeness_of_auto_are_those_of_a_plain_loop(survey: Path, study: Sample) -> None:
    table = columns(survey)
    right = right_quasars = called = quasars = 0
    for i in range(len(table["Z_VI"])):
        if table["Z_CONF_PERSON"][i] != 3 or table["CLASS_PERSON"][i] not in (1, 3, 4, 30):
            continue
        quasar = table["CLASS_PERSON"][i] in (3, 30)
        is_auto = table["FIT_CLASS"][i][0] == "QSO" and table["FIT_ZWARNING"][i][0] == 0
        z_vi = table["Z_VI"][i]
        near = abs(LIGHT * (table["FIT_Z"][i][0] - z_vi) / (1 + z_vi)) < 6000
        quasars += quasar
        called += is_auto
        right += is_auto and near and (quasar or table["CLASS_PERSON"][i] == 4)
        right_quasars += is_auto and near and quasar
    baseline = read_baseline(survey / "truth.parquet", names(survey), study)["auto"]
    score = metrics.score(baseline.sample)
    assert 0 < right < called
    assert 0 < right_quasars < quasars
    assert score.purity == Share(right, called)
    assert score.completeness == Share(right_quasars, quasars)
    assert (baseline.inspected, baseline.n_unknown) == (None, 0)


def test_the_tree_of_dr14q_is_that_of_a_plain_loop(survey: Path, study: Sample) -> None:
    table = columns(survey)
    called, z, n_inspected = [], [], 0
    for kinds, fit_z, zwarning, truth, z_truth in zip(
        table["FIT_CLASS"], table["FIT_Z"], table["FIT_ZWARNING"], study.truth, study.z_truth, strict=True
    ):
        stars, galaxies = kinds[1:].count("STAR"), kinds[1:].count("GALAXY")
        if kinds[0] == "STAR" or (kinds[0] == "QSO" and stars >= 2):
            said = (False, 0.0)
        elif kinds[0] == "GALAXY" and (fit_z[0] < 1 or galaxies >= 2):
            said = (False, fit_z[0])
        elif kinds[0] == "QSO" and zwarning[0] == 0:
            said = (True, fit_z[0])
        else:
            said = (truth == "QSO", z_truth)
            n_inspected += 1
        called.append(said[0])
        z.append(said[1])
    baseline = read_baseline(survey / "truth.parquet", names(survey), study)["auto+VI"]
    assert baseline.sample.quasar.tolist() == called
    np.testing.assert_allclose(baseline.sample.z, z, rtol=1e-12)
    assert baseline.inspected == Share(n_inspected, len(called))
    assert n_inspected > 0


def test_inspection_makes_auto_more_complete(survey: Path, study: Sample) -> None:
    found = read_baseline(survey / "truth.parquet", names(survey), study)
    share = {name: metrics.score(baseline.sample).completeness.k for name, baseline in found.items()}
    assert share["auto"] < share["auto+VI"] <= share["auto+VI, authors' script"]
    assert list(found) == ["auto", "auto+VI", "auto+VI, authors' script", "DR16Q", "catalogue & auto+VI"]


def test_the_folder_of_a_survey_is_read_for_its_spzall_files_and_says_what_truth_parquet_says(
    survey: Path,
) -> None:
    ids = names(survey)
    mixed = np.random.default_rng(1).permutation(len(ids["PLATE"]))
    ids = {name: column[mixed] for name, column in ids.items()}
    tree, table = read_answers(survey, ids), read_answers(survey / "truth.parquet", ids)
    assert isinstance(tree, Fits)
    assert isinstance(table, Fits)
    assert tree.known.all()
    np.testing.assert_array_equal(tree.kind, table.kind)
    np.testing.assert_array_equal(tree.zwarning, table.zwarning)
    np.testing.assert_allclose(tree.z, table.z, rtol=1e-6)
    assert len(np.unique(tree.kind)) == 3


@pytest.mark.parametrize("kind", ["spZbest", "specObj"])
def test_files_of_the_best_fit_alone_give_auto_and_no_tree(survey: Path, study: Sample, kind: str) -> None:
    path = next(survey.rglob(f"{kind}-*.fits"))
    found = read_baseline(path, names(survey), study)
    assert list(found) == ["auto", "catalogue & auto+VI"]
    whole = read_baseline(survey, names(survey), study)["auto"].sample
    known = ~np.isnan(found["auto"].sample.z)
    assert found["auto"].n_unknown == (~known).sum()
    np.testing.assert_array_equal(found["auto"].sample.quasar, whole.quasar & known)


def test_a_single_spzall_file_does_not_know_the_other_visit(survey: Path, study: Sample) -> None:
    path = sorted(survey.rglob("spZall-*.fits"))[0]
    found = read_baseline(path, names(survey), study)["auto+VI"]
    other = names(survey)["MJD"] != int(path.stem.split("-")[2])
    assert found.n_unknown == other.sum() > 0
    assert not found.sample.quasar[other].any()
    assert np.isnan(found.sample.z[other]).all()
    assert found.inspected is not None
    assert found.inspected.n == (~other).sum()


# ---- files


def write_spzall(path: Path, rows: Sequence[tuple[int, str, float, int]], plate: int = 3586) -> Path:
    """Rows of (fibre, class, redshift, warning), as the archive writes them."""
    fiber, kind, z, warning = zip(*rows, strict=True)
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("PLATE", "J", array=np.full(len(rows), plate)),
            fits.Column("MJD", "J", array=np.full(len(rows), 55181)),
            fits.Column("FIBERID", "J", array=fiber),
            fits.Column("CLASS", "6A", array=[text.ljust(6) for text in kind]),
            fits.Column("Z", "E", array=z),
            fits.Column("ZWARNING", "J", array=warning),
        ]
    )
    fits.HDUList([fits.PrimaryHDU(), table, fits.ImageHDU(np.zeros((2, 3)))]).writeto(path)
    return path


def fibers(*numbers: int, plate: int = 3586) -> dict[str, np.ndarray]:
    n = len(numbers)
    return {"PLATE": np.full(n, plate), "MJD": np.full(n, 55181), "FIBERID": np.array(numbers)}


def sample_of(n: int, called: bool = True) -> Sample:
    return Sample(z=np.ones(n), truth=np.full(n, "QSO"), z_truth=np.full(n, 2.0), called=np.full(n, called))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_of_the_134_fits_of_a_fibre_the_first_five_count(tmp_path: Path, suffix: str) -> None:
    second = [(2, kind, 1.2, 4) for kind in ["GALAXY", "QSO", "", "STAR", "GALAXY"] + ["STAR"] * 129]
    rows = [(1, "QSO", 2.0 - i / 1000, i) for i in range(134)] + second
    path = write_spzall(tmp_path / f"spZall-3586-55181.fits{suffix}", rows)
    found = read_answers(path, fibers(2, 3, 1))
    assert isinstance(found, Fits)
    assert found.kind.tolist() == [[GALAXY, QSO, OTHER, STAR, GALAXY], [UNKNOWN] * 5, [QSO] * 5]
    assert found.known.tolist() == [True, False, True]
    assert found.zwarning.tolist() == [4, 0, 0]
    np.testing.assert_allclose(found.z[2], [2.0, 1.999, 1.998, 1.997, 1.996], rtol=1e-6)


def test_plates_that_nobody_asked_for_are_not_even_opened(tmp_path: Path) -> None:
    write_spzall(tmp_path / "spZall-3586-55181.fits", [(1, "QSO", 2.0, 0)] * 5)
    (tmp_path / "spZall-9999-55181.fits").write_bytes(b"SIMPLE  = no")
    assert read_answers(tmp_path, fibers(1)).known.all()
    with pytest.raises(UsageError, match="none of the plates"):
        read_answers(tmp_path, fibers(1, plate=1234))


def test_spzall_comes_before_spzbest(tmp_path: Path) -> None:
    write_spzall(tmp_path / "spZall-3586-55181.fits", [(1, "STAR", 2.0, 0)] * 5)
    write_spzall(tmp_path / "spZbest-3586-55181.fits", [(1, "QSO", 2.0, 0)])
    found = read_answers(tmp_path, fibers(1))
    assert isinstance(found, Fits)
    assert found.kind.tolist() == [[STAR] * 5]


def test_rows_repeated_now_and_then_are_no_second_fits(tmp_path: Path) -> None:
    rows = [(1, "QSO", 2.0, 0), (2, "STAR", 0.0, 0), (1, "GALAXY", 0.3, 0)]
    path = write_spzall(tmp_path / "specObj.fits", rows)
    found = read_answers(path, fibers(1, 2))
    assert isinstance(found, Fits)
    assert found.kind.tolist() == [[QSO], [STAR]]


def test_a_fibre_with_fewer_than_five_fits_leaves_the_best_alone_of_all(tmp_path: Path) -> None:
    rows = [(1, kind, 2.0, 0) for kind in ("QSO", "STAR", "STAR", "STAR", "STAR")] + [(2, "STAR", 0.0, 0)]
    found = read_answers(write_spzall(tmp_path / "spZall-3586-55181.fits", rows), fibers(2, 1))
    assert isinstance(found, Fits)
    assert found.kind.tolist() == [[STAR], [QSO]]


def test_rows_of_no_fibre_do_not_count_as_one_with_too_few_fits(tmp_path: Path) -> None:
    rows = [(1, "QSO", 2.0, 0)] * 5 + [(-1, "STAR", 0.0, 0)]
    found = read_answers(write_spzall(tmp_path / "spZall-3586-55181.fits", rows), fibers(1, -1))
    assert isinstance(found, Fits)
    assert found.kind.tolist() == [[QSO] * 5, [UNKNOWN] * 5]


def test_the_order_of_fits_survives_fibres_that_are_mixed(tmp_path: Path) -> None:
    rows = [(fiber, "QSO", 3.0 - i / 100 + fiber / 1e5, 0) for i in range(9) for fiber in range(1, 101)]
    found = read_answers(write_spzall(tmp_path / "spZall-3586-55181.fits", rows), fibers(*range(1, 101)))
    expected = 3.0 - np.arange(5) / 100 + np.arange(1, 101)[:, None] / 1e5
    np.testing.assert_allclose(found.z, expected, rtol=1e-6)


@pytest.mark.parametrize("hdu", ["REDSHIFTS", "ZBEST"])
def test_redrock_is_told_by_target_and_gives_its_best_fit(tmp_path: Path, hdu: str) -> None:
    target = np.array([39627652591521181, 39627652591521183, 39627652591521182])
    table = {"TARGETID": target, "Z": [2.0, 0.0, 0.7], "ZWARN": [0, 0, 4], "SPECTYPE": ["QSO", "STAR", "QSO"]}
    whole = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(Table(table), name=hdu)])
    whole.append(fits.BinTableHDU(Table({"TARGETID": target, "FLUX_R": [1.0, 1.0, 1.0]}), name="FIBERMAP"))
    whole.writeto(tmp_path / "redrock-1-2.fits")
    ids = {"TARGETID": np.append(target[::-1], 39627652591521180)}
    for place in (tmp_path, tmp_path / "redrock-1-2.fits"):
        found = read_baseline(place, ids, sample_of(4))
        assert list(found) == ["auto", "catalogue & auto+VI"]
        assert found["auto"].sample.quasar.tolist() == [False, False, True, False]
        np.testing.assert_equal(found["auto"].sample.z, [0.7, 0.0, 2.0, NAN])
        assert found["auto"].n_unknown == 1


def test_the_superset_of_dr16q_says_what_quasarnet_said(tmp_path: Path) -> None:
    table = {**fibers(1, 2, 3, 4), "IS_QSO_QN": [1, 0, -1, 1], "Z_QN": [2.1, -1.0, -1.0, 1.1], "Z": [9.0] * 4}
    Table({**table, "IS_QSO": [1] * 4}).write(tmp_path / "DR16Q_Superset_v3.fits")
    found = read_baseline(tmp_path / "DR16Q_Superset_v3.fits", fibers(4, 3, 2, 1), sample_of(4))
    assert list(found) == ["DR16Q_Superset_v3"]
    baseline = found["DR16Q_Superset_v3"]
    assert baseline.sample.quasar.tolist() == [True, False, False, True]
    np.testing.assert_equal(baseline.sample.z, [1.1, NAN, NAN, 2.1])
    assert (baseline.n_unknown, baseline.inspected) == (1, None)


def catalogue() -> pa.Table:
    """Five rows of a catalogue of ours; the last has no result, and the fourth no name."""
    return pa.table(
        {
            "PLATE": pa.array([3586, 3586, 3586, None, 3586], pa.int32()),
            "MJD": pa.array([55181, 55181, 55181, None, 55181], pa.int32()),
            "FIBERID": pa.array([1, 2, 3, None, 5], pa.int32()),
            "TARGETID": pa.nulls(5, pa.int64()),
            "IS_QSO": [True, False, True, True, None],
            "Z": [1.5, 0.2, 2.5, 3.0, None],
            "P_QSO": pa.array([0.9, 0.1, 0.8, 0.7, None], pa.float32()),
            "NEEDS_VI": [False, False, True, False, None],
            "C_LYA": pa.array([0.4, 0.1, 0.3, 0.2, None], pa.float32()),
            "C_CIV": pa.array([0.9, 0.0, 0.6, 0.2, None], pa.float32()),
            "C_BAL_CIV": pa.array([0.7, 0.0, 0.1, 0.2, None], pa.float32()),
            "FLAGS": pa.array([int(Flag.LOW_SN), 0, 0, 0, int(Flag.NO_DATA)], pa.int32()),
        }
    )


@pytest.mark.parametrize("kind", ["parquet", "csv", "ecsv", "fits", "fits.gz"])
def test_another_catalogue_of_ours_comes_with_its_confidences(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"mine.{kind}"
    table = catalogue()
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "csv":
        pa_csv.write_csv(table, path)
    else:
        wanted = [name for name in table.column_names if name != "TARGETID"]
        masked = {}
        for name in wanted:
            missing = np.array(table[name].is_null())
            blank: Any = False if table[name].type == pa.bool_() else -1
            filled = table[name].fill_null(pa.scalar(blank, table[name].type)).to_numpy()
            masked[name] = np.ma.MaskedArray(filled, missing)
        Table(masked).write(path)
    ids = {**fibers(3, 5, 1, -1, 2), "TARGETID": np.full(5, -1)}
    found = read_baseline(path, ids, sample_of(5))
    baseline = found["mine"]
    assert list(found) == ["mine"]
    assert baseline.sample.quasar.tolist() == [True, False, True, False, False]
    np.testing.assert_allclose(baseline.sample.z, [2.5, NAN, 1.5, NAN, 0.2])
    assert baseline.n_unknown == 2
    assert baseline.sample.c is not None
    assert baseline.sample.c_bal is not None
    assert baseline.sample.p_qso is not None
    np.testing.assert_allclose(baseline.sample.c[:, 0], [0.3, NAN, 0.4, NAN, 0.1], rtol=1e-6)
    np.testing.assert_allclose(baseline.sample.strength(1)[[0, 2, 4]], [0.6, 0.9, 0.1], rtol=1e-6)
    np.testing.assert_allclose(baseline.sample.c_bal[[0, 2, 4]], [0.1, 0.7, 0.0], rtol=1e-6)
    np.testing.assert_allclose(baseline.sample.p_qso[[0, 2, 4]], [0.8, 0.9, 0.1], rtol=1e-6)


def test_a_table_of_ids_calls_and_redshifts_is_enough(tmp_path: Path) -> None:
    (tmp_path / "theirs.csv").write_text("obsid,is_qso,z\n7,1,1.5\n8,0,\n9,1,-1\n")
    found = read_baseline(tmp_path / "theirs.csv", {"OBSID": np.array([9, 8, 7])}, sample_of(3))["theirs"]
    assert found.sample.quasar.tolist() == [True, False, True]
    np.testing.assert_equal(found.sample.z, [NAN, NAN, 1.5])
    assert found.sample.c is None
    assert found.n_unknown == 0


def test_a_target_id_is_never_rounded(tmp_path: Path) -> None:
    target = 39627652591521181  # no double has this value
    table = pa.table({"TARGETID": [target, None], "IS_QSO": [True, False], "Z": [1.0, 2.0]})
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_answers(tmp_path / "t.parquet", {"TARGETID": np.array([target, target - 1])})
    assert isinstance(found, Calls)
    assert found.known.tolist() == [True, False]


def test_the_first_of_several_rows_for_a_spectrum_counts(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("TARGETID,IS_QSO,Z\n7,1,1.5\n8,1,0.5\n7,0,0.1\n")
    found = read_answers(tmp_path / "t.csv", {"TARGETID": np.array([7, 7])})
    assert found.z.tolist() == [1.5, 1.5]


# ---- what cannot be read


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("TARGETID,COLOUR\n7,1\n", "neither fits nor a catalogue"),
        ("PLATE,IS_QSO,Z\n7,1,1.0\n", "no names in common"),
        ("TARGETID,IS_QSO,Z\n99,1,1.0\n", "knows none of the 1 spectra"),
        ("TARGETID,IS_QSO,Z\n,1,1.0\n", "no names in common"),
    ],
)
def test_a_table_that_says_nothing_of_the_spectra_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(UsageError, match=said):
        read_answers(tmp_path / "t.csv", {"TARGETID": np.array([7])})


def test_a_table_that_holds_words_where_numbers_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("TARGETID,IS_QSO,Z\n7,maybe,1.0\n")
    with pytest.raises(ReadError, match=r"t\.csv"):
        read_answers(tmp_path / "t.csv", {"TARGETID": np.array([7])})


@pytest.mark.parametrize("kind", ["csv", "ecsv"])
def test_classes_that_are_numbers_are_not_guessed_at(tmp_path: Path, kind: str) -> None:
    table = Table({"TARGETID": [7], "CLASS": [3], "Z": [1.0], "ZWARNING": [0]})
    table.write(tmp_path / f"t.{kind}", format=f"ascii.{kind}")
    with pytest.raises(ReadError, match="where classes should"):
        read_answers(tmp_path / f"t.{kind}", {"TARGETID": np.array([7])})


def test_a_folder_without_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no spZall, spZbest or redrock"):
        read_answers(tmp_path, fibers(1))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="no such file"):
        read_answers(tmp_path / "gone.fits", fibers(1))


@pytest.mark.parametrize("size", [10, 3000, 6000])
def test_a_file_cut_short_is_named_and_no_part_of_it_counts(tmp_path: Path, size: int) -> None:
    path = write_spzall(
        tmp_path / "spZall-3586-55181.fits", [(1 + i // 134, "QSO", 2.0, 0) for i in range(1340)]
    )
    path.write_bytes(path.read_bytes()[:size])
    for place in (path, tmp_path):
        with pytest.raises((ReadError, UsageError), match="spZall-3586-55181"):
            read_answers(place, fibers(1))


def test_the_pipeline_catalogue_of_a_real_plate_gives_auto(data: Path) -> None:
    path = data / "catalogues" / "picca" / "spAll-plate3655.fits.gz"
    if not path.exists():
        pytest.skip("no spAll of plate 3655")
    table = Table.read(path)
    ids = {name: np.asarray(table[name]) for name in ("PLATE", "MJD", "FIBERID")}
    found = read_baseline(path, ids, sample_of(len(table)))
    kind = np.char.strip(np.asarray(table["CLASS"]).astype(str))
    assert found["auto"].sample.quasar.tolist() == ((kind == "QSO") & (table["ZWARNING"] == 0)).tolist()
    assert "auto+VI" not in found


# ---- size


def test_six_hundred_thousand_spectra_take_the_trees_about_a_second() -> None:
    n = 600_000
    random = np.random.default_rng(3)
    whole = Fits(
        random.integers(QSO, OTHER, (n, 5)).astype(np.int8),
        random.uniform(0, 5, (n, 5)),
        4 * (random.random(n) < 0.1),
        np.ones(n, dtype=bool),
    )
    sample = sample_of(n, called=False)
    start = time.process_time()
    assert len(verdicts(whole, sample)) == 5
    assert time.process_time() - start < 3  # 0.3 s on an idle core
