"""Figures: what they show is what the metrics say, what is not known is left out, bytes are repeatable."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from broadline.decision import Rule, velocity
from broadline.errors import UsageError
from broadline.evaluation.bal import bal_curve, bal_score
from broadline.evaluation.drawing import THRESHOLDS
from broadline.evaluation.figures import FIGURES, save
from broadline.evaluation.further_figures import confusion, inspected
from broadline.evaluation.galleries import Gallery, galleries
from broadline.evaluation.metrics import bands_of_curve, curve, in_redshift_bins, score
from broadline.evaluation.redshifts import redshift_scatter
from broadline.evaluation.reliability import reliabilities
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import Share, over_splits
from broadline.evaluation.study import Baseline, Counts, Study
from broadline.grid import QUASARNET_LOG
from broadline.lines import QUASARNET_LINES
from broadline.model import Model
from broadline.named_models import load_model
from broadline.packing import pack
from broadline.show import pick
from files import observed, quasar, write_plate, write_spec

PLOTS = {plot.name: plot for plot in FIGURES}
RULE = Rule(0.4, 1, 0.3)


def sample_of(n: int = 400, seed: int = 1) -> Sample:
    """A catalogue with everything, right mostly."""
    random = np.random.default_rng(seed)
    truth = random.choice(["QSO", "STAR", "GALAXY"], n, p=[0.6, 0.35, 0.05])
    z_truth = np.where(truth == "STAR", 0, random.uniform(0.3, 4, n))
    is_quasar = (truth == "QSO") ^ (random.random(n) < 0.04)
    dv = random.normal(20, 400, n) + 40_000 * (random.random(n) < 0.03)
    c = np.where(is_quasar[:, None], random.beta(3, 1, (n, 6)), random.beta(1, 12, (n, 6)))
    trough = (truth == "QSO") & (random.random(n) < 0.2)
    c_bal = np.where(trough, random.beta(3, 1, n), random.beta(1, 8, n))
    balnicity = np.where(trough, random.lognormal(6, 1, n), 0)
    return Sample(
        z=z_truth + dv * (1 + z_truth) / 299_792.458,
        truth=truth,
        z_truth=z_truth,
        c=c,
        c_bal=c_bal,
        bal=trough.astype(int),
        balnicity=balnicity,
        confidence=np.full(n, 3),
        p_qso=c.max(axis=1),
        p_z=c.max(axis=1) ** 2,
        p_bal=c_bal,
        sn=random.lognormal(1, 1, n),
        magnitude=random.normal(20, 1, n),
    )


def study_of(sample: Sample, n_splits: int = 1, **fields: Any) -> Study:
    """A study of some rows, with a baseline that calls nothing below redshift 1."""
    n = len(sample)
    numbers = np.arange(n)
    simple = replace(sample, called=sample.quasar & (sample.z_truth > 1), c=None, c_bal=None)
    random = np.random.default_rng(5)
    return Study(
        **{
            "sample": sample,
            "split": numbers % n_splits,
            "names": np.array([f"4055-55359-{i:04d}" for i in numbers]),
            "source": np.array([f"old/spec-4055-55359-{i:04d}.fits" for i in numbers]),
            "row": np.zeros(n, dtype=np.int64),
            "counts": Counts(n),
            "rule": RULE,
            "lines": QUASARNET_LINES,
            "simulated": True,
            "baselines": {"auto": Baseline(simple, Share(n // 10, n))},
            "other_z": {"Z_PCA": sample.z_truth * (1 + random.normal(0, 2e-3, n))},
            "boxes": (QUASARNET_LOG, 13),
            **fields,
        }
    )


@pytest.fixture(scope="module")
def study() -> Study:
    return study_of(sample_of())


def drawn(name: str, study: Study) -> Figure:
    figure = PLOTS[name].draw(study)
    assert figure is not None
    return figure


def labelled(axes: Axes) -> dict[str, Any]:
    return {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


# ---- what is drawn


def test_every_figure_has_a_name_of_its_own_and_says_what_it_shows(study: Study) -> None:
    assert len(PLOTS) == len(FIGURES)
    for plot in FIGURES:
        assert plot.title and plot.caption.endswith(".")
        figure = plot.draw(study)
        assert figure is not None, plot.name
        assert "simulated survey" in texts(figure), plot.name


def test_only_figures_of_simulated_surveys_say_so(study: Study) -> None:
    assert "simulated" not in texts(drawn("confusion", replace(study, simulated=False)))


def test_figure_3_shows_the_curves_of_one_and_two_lines(study: Study) -> None:
    axes = drawn("fig3_threshold", study).axes[0]
    lines = labelled(axes)
    for l_min, words in ((1, "1 line"), (2, "2 lines")):
        expected = curve(study.sample, THRESHOLDS, l_min)
        np.testing.assert_array_equal(lines[f"purity, {words}"].get_ydata(), expected.purity.value)
        np.testing.assert_array_equal(
            lines[f"completeness, {words}"].get_ydata(), expected.completeness.value
        )
    assert lines[f"in use: {RULE.c_th:.3g}"].get_xdata()[0] == RULE.c_th
    assert len(lines) == 5


def test_the_bands_of_one_catalogue_are_a_bootstrap_by_object(study: Study) -> None:
    band = drawn("fig3_threshold", study).axes[0].collections[0]
    heights = np.unique(band.get_paths()[0].vertices[:, 1])
    expected = bands_of_curve(study.sample, THRESHOLDS).purity
    assert heights.min() == expected.low.min() and heights.max() == expected.high.max()


def test_the_bands_of_several_catalogues_are_the_rms_over_splits() -> None:
    study = study_of(sample_of(), n_splits=4)
    axes = drawn("fig3_threshold", study).axes[0]
    spread = over_splits([curve(part, THRESHOLDS).purity.value for part in study.parts()])
    np.testing.assert_array_equal(labelled(axes)["purity, 1 line"].get_ydata(), spread.mean)
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == (spread.mean + spread.rms).max()
    assert "bands: rms of 4 splits" in texts(axes.figure)  # type: ignore[arg-type]
    bal = drawn("fig5_bal_threshold", study).axes[0]
    curves = [bal_curve(part, THRESHOLDS) for part in study.parts()]
    mean = over_splits([each.pseudo_purity.value for each in curves if each]).mean
    np.testing.assert_array_equal(labelled(bal)["pseudo-purity"].get_ydata(), mean)


def test_baselines_are_horizontal_lines_with_their_names(study: Study) -> None:
    figure = drawn("fig3_threshold", study)
    level = {line.get_ydata()[0] for line in figure.axes[0].lines if len(line.get_ydata()) == 2}
    scored = score(study.baselines["auto"].sample)
    assert {scored.purity.value, scored.completeness.value} <= level
    assert [text.get_text() for text in figure.axes[0].texts] == ["auto", "auto"]


def test_figure_4_counts_velocities_and_gives_their_moments(study: Study) -> None:
    figure = drawn("fig4_velocity", study)
    own, other = (patch for patch in figure.axes[0].patches if isinstance(patch, StepPatch))
    right = redshift_scatter(study.sample).right
    assert own.get_data().values.sum() == pytest.approx(1, abs=0.01)
    assert other.get_linestyle() in ("--", "dashed")
    words = f"mean {right.mean:+.0f}, std {right.std:.0f}, NMAD {right.nmad:.0f}"
    assert f"n = {right.n:,}" in texts(figure) and words in texts(figure)
    dv = velocity(study.other_z["Z_PCA"], study.sample.z_truth)
    found = dv[study.sample.annotated("QSO") & study.sample.quasar]
    assert f"std {found.std(ddof=1):.0f}" in texts(figure)


def test_figure_5_shows_what_section_4_2_defines(study: Study) -> None:
    lines = labelled(drawn("fig5_bal_threshold", study).axes[0])
    expected = bal_curve(study.sample, THRESHOLDS)
    assert expected is not None
    np.testing.assert_array_equal(lines["pseudo-purity"].get_ydata(), expected.pseudo_purity.value)
    np.testing.assert_array_equal(
        lines["pseudo-completeness"].get_ydata(), expected.pseudo_completeness.value
    )
    assert lines[f"in use: {RULE.c_th_bal:.3g}"].get_xdata()[0] == RULE.c_th_bal


def test_figure_6_counts_every_balnicity_once(study: Study) -> None:
    axes = drawn("fig6_balnicity", study).axes[0]
    expected = bal_score(study.sample, RULE.c_th_bal)
    assert expected is not None
    counts = [patch.get_data().values.sum() for patch in axes.patches if isinstance(patch, StepPatch)]
    assert counts == [len(expected.balnicity), len(expected.balnicity_missed)]
    assert [line.get_xdata()[0] for line in axes.lines] == [expected.median_balnicity, expected.median_missed]


def test_figure_7_shows_bins_that_have_rows_with_their_intervals(study: Study) -> None:
    above, below = drawn("fig7_redshift", study).axes
    bins = in_redshift_bins(study.sample)
    for axes, shares in ((above, bins.purity), (below, bins.completeness)):
        container = axes.containers[0]
        known = shares.n > 0
        np.testing.assert_array_equal(container[0].get_ydata(), shares.value[known])
        bars = container[2][0]
        assert isinstance(bars, LineCollection)
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, np.transpose(shares.interval)[known], atol=1e-12)
    assert 0 < known.sum() < 11
    assert [each.get_label() for each in above.containers] == ["catalogue", "auto"]


def test_the_confusion_matrix_counts_every_sure_spectrum_once() -> None:
    sample = Sample(
        z=np.array([2.5, 0.5, 2.5, 1.0, 0.5, 1.0, 2.0, 0.1]),
        truth=["QSO", "QSO", "QSO", "QSO", "GALAXY", "STAR", "STAR", "SKY"],
        z_truth=np.array([2.5, 2.1, 2.5, 1.0, 0.5, 0.0, 0.0, np.nan]),
        called=np.array([1, 1, 0, 1, 1, 1, 0, 0], dtype=bool),
        confidence=np.array([3, 3, 3, 3, 3, 3, 3, 3]),
    )
    found = confusion(sample)
    assert found.rows == ("STAR", "GALAXY", "QSO, z < 2.1", "QSO, z ≥ 2.1", "other")
    assert found.counts.tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1]]
    unsure = replace(sample, confidence=np.array([2, 2, 2, 2, 2, 3, 3, 2]))
    assert confusion(unsure).rows == ("STAR",)


def test_reliability_diagrams_name_their_calibration_error(study: Study) -> None:
    figure = drawn("reliability", study)
    found = reliabilities(study.sample)
    assert len(figure.axes) == 3
    for axes, each in zip(figure.axes, found.values(), strict=True):
        assert f"ECE {100 * each.ece:.2f} %" in axes.get_title()
        np.testing.assert_array_equal(axes.containers[0][0].get_ydata(), each.observed.value)


def test_redshifts_that_know_their_boxes_ripple() -> None:
    sample = sample_of(3000)
    place = QUASARNET_LOG.position((1 + sample.z_truth) * QUASARNET_LINES[1].wavelength) * 13 / 443
    wave = 900 * np.cos(2 * np.pi * place) * (1 + sample.z_truth) / 299_792.458
    figure = drawn("ripple", study_of(replace(sample, z=sample.z_truth + wave)))
    (panel,) = (axes for axes in figure.axes if axes.get_title().startswith("C IV"))
    assert panel.get_title().startswith("C IV: 900 ")
    heights = panel.containers[0][0].get_ydata()
    assert np.argmin(heights) in (3, 4) and heights.min() < -700


def test_n_of_z_counts_annotated_and_called_quasars(study: Study) -> None:
    above, below = drawn("n_of_z", study).axes
    called, true = (patch.get_data().values.sum() for patch in above.patches if isinstance(patch, StepPatch))
    assert true == study.sample.annotated("QSO").sum()
    assert called == (study.sample.firm & study.sample.quasar).sum()
    assert np.isfinite(below.lines[1].get_ydata()).all()


def test_one_line_is_inspected_and_two_are_accepted() -> None:
    confidences = np.zeros((5, 6))
    confidences[:4, 0] = 0.9  # one line
    confidences[1:4, 1] = (0.2, 0.9, 0.9)  # a second
    sample = Sample(
        z=np.array([1.0, 1.0, 1.0, 2.0, 1.0]),  # the fourth is wrong, and nobody looks at it
        truth=["QSO", "QSO", "QSO", "QSO", "STAR"],
        z_truth=np.array([2.0, 1.0, 1.0, 1.0, 0.0]),
        c=confidences,
    )
    found = inspected(sample, np.array([0.1, 0.5, 0.95]))
    assert found.share.k.tolist() == [1, 2, 0] and found.share.n.tolist() == [5, 5, 5]
    assert found.completeness.k.tolist() == [3, 3, 0] and found.completeness.n.tolist() == [4, 4, 4]


def test_inspection_shows_baselines_that_inspect(study: Study) -> None:
    lines = labelled(drawn("inspection", study).axes[0])
    baseline = study.baselines["auto"]
    assert baseline.inspected is not None
    (x,), (y,) = lines["auto"].get_xdata(), lines["auto"].get_ydata()
    assert (x, y) == (score(baseline.sample).completeness.value, baseline.inspected.value)
    silent = replace(study, baselines={"auto": replace(baseline, inspected=None)})
    assert "auto" not in labelled(drawn("inspection", silent).axes[0])


# ---- what is not known


WITHOUT: dict[str, tuple[Callable[[Study], Study], set[str]]] = {
    "rows": (lambda study: study_of(study.sample.take(np.zeros(len(study.sample), dtype=bool))), set(PLOTS)),
    "confidences": (
        lambda study: replace(study, sample=replace(study.sample, called=study.sample.quasar, c=None)),
        {"fig3_threshold", "inspection"},
    ),
    "a BAL finder": (
        lambda study: replace(study, sample=replace(study.sample, c_bal=None)),
        {"fig5_bal_threshold", "fig6_balnicity"},
    ),
    "balnicity": (
        lambda study: replace(study, sample=replace(study.sample, balnicity=None)),
        {"fig6_balnicity"},
    ),
    "any BAL": (
        lambda study: replace(study, sample=replace(study.sample, bal=None, balnicity=np.zeros(400))),
        {"fig6_balnicity"},
    ),
    "probabilities": (
        lambda study: replace(study, sample=replace(study.sample, p_qso=None, p_z=None, p_bal=None)),
        {"reliability"},
    ),
    "boxes": (lambda study: replace(study, boxes=None), {"ripple"}),
    "S/N and magnitude": (
        lambda study: replace(study, sample=replace(study.sample, sn=None, magnitude=np.full(400, np.nan))),
        {"signal_to_noise", "magnitude"},
    ),
    "quasars": (
        lambda study: study_of(study.sample.take(study.sample.truth == "STAR")),
        {"fig4_velocity", "fig6_balnicity", "ripple", "n_of_z", "inspection"},
    ),
    "sure annotations": (
        lambda study: study_of(replace(study.sample, confidence=np.full(400, 1))),
        set(PLOTS),
    ),
}


@pytest.mark.parametrize(("change", "missing"), WITHOUT.values(), ids=WITHOUT.keys())
def test_a_figure_of_nothing_is_not_drawn(
    change: Callable[[Study], Study], missing: set[str], study: Study
) -> None:
    poorer = change(study)
    assert {name for name, plot in PLOTS.items() if plot.draw(poorer) is None} == missing


def test_a_metric_without_rows_is_left_out_of_a_figure(study: Study) -> None:
    stars = study_of(study.sample.take(study.sample.truth == "STAR"))
    lines = labelled(drawn("fig3_threshold", stars).axes[0])
    assert {name.split(",")[0] for name in lines} == {"purity", "in use: 0.4"}
    assert not drawn("fig7_redshift", stars).axes[1].containers


def test_purity_is_not_shown_where_all_are_quasars(study: Study) -> None:
    quasars = study_of(study.sample.take(study.sample.truth == "QSO"))
    figure = drawn("fig3_threshold", quasars)
    assert not any("purity" in name for name in labelled(figure.axes[0]))
    assert len(figure.axes[0].texts) == 1
    (axes,) = drawn("fig7_redshift", quasars).axes
    assert axes.get_ylabel() == "completeness (%)" and axes.get_xlabel() == "annotated redshift"


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.filterwarnings("error")
def test_a_few_rows_are_drawn_without_complaint(n: int) -> None:
    few = study_of(sample_of().take(np.arange(n)))
    figures = {name: figure for name, plot in PLOTS.items() if (figure := plot.draw(few)) is not None}
    assert "confusion" in figures
    for figure in figures.values():
        figure.draw_without_rendering()


# ---- files


def test_figures_are_written_twice_with_the_same_bytes(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = []
    for day, size in (("0", 10), ("1000000000", 30)):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", day)  # what a file would take for now
        with matplotlib.rc_context({"font.size": size, "savefig.bbox": "tight"}):
            figures = {"one": drawn("fig6_balnicity", study)}
            paths = save(figures, tmp_path / day / "figures")
        contents.append([path.read_bytes() for path in paths])
    assert [path.name for path in paths] == ["one.pdf", "one.png"]
    assert contents[0] == contents[1]
    assert [path.read_bytes() for path in save(figures, tmp_path / "again")] == contents[1]
    assert contents[0][0].startswith(b"%PDF") and contents[0][1].startswith(b"\x89PNG")
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(path.name for path in paths)


def test_a_figure_that_cannot_be_written_leaves_nothing(study: Study, tmp_path: Path) -> None:
    (tmp_path / "one.pdf").mkdir()
    with pytest.raises(UsageError, match=r"cannot write the figure .*one\.pdf"):
        save({"one": drawn("confusion", study)}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["one.pdf"]


def test_figures_keep_away_from_pyplot() -> None:
    program = (
        "import sys; import broadline.evaluation.figures as f; f.style().__enter__(); import broadline.show"
    )
    code = f"{program}; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- galleries

#: annotation, redshifts annotated and found, best confidence, BAL flag, balnicity, BAL confidence
SPECTRA = (
    ("STAR", 0, 2.0, 0.5, 0, 0, 0.0),
    ("STAR", 0, 2.0, 0.9, 0, 0, 0.0),
    ("STAR", 0, 2.0, 0.7, 0, 0, 0.0),
    ("STAR", 0, 2.0, 0.1, 0, 0, 0.0),  # not called
    ("GALAXY", 0.5, 0.5, 0.8, 0, 0, 0.0),
    ("GALAXY", 0.5, 3.0, 0.9, 0, 0, 0.0),
    ("QSO", 2.0, 3.0, 0.6, 0, 0, 0.0),  # discrepant
    ("QSO", 2.5, 2.5, 0.9, 1, 900, 0.9),  # found with both
    ("QSO", 2.5, 2.5, 0.8, 1, 0, 0.9),  # the flag alone
    ("QSO", 2.5, 2.5, 0.8, 0, 300, 0.9),  # balnicity alone
    ("QSO", 2.5, 2.5, 0.8, 0, 0, 0.9),  # a false positive
    ("QSO", 2.5, 2.5, 0.8, 1, 50, 0.1),  # missed
    ("QSO", 2.5, 2.5, 0.8, 1, 200, 0.1),  # missed
    ("QSO", 2.5, 2.5, 0.8, 1, 2000, 0.1),  # missed, the strongest
    ("QSO", 2.5, 2.5, 0.9, 0, 0, 0.0),  # nothing special
)
SHOWN = {
    "fig2_example": [7],
    "figA1_stars": [0, 1, 2],  # along the rows: the least and the most confident, and the next
    "figA2_galaxies": [5, 4],
    "figA3_discrepant": [6],
    "figA4_bal": [7, 8, 9, 10, 12, 13],
}


@pytest.fixture(scope="module")
def few() -> Study:
    truth, z_truth, z, best, bal, balnicity, c_bal = (np.array(x) for x in zip(*SPECTRA, strict=True))
    c = np.zeros((len(z), 6))
    c[:, 0] = best
    sample = Sample(z=z, truth=truth, z_truth=z_truth, c=c, c_bal=c_bal, bal=bal, balnicity=balnicity)
    return study_of(sample)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return load_model(tiny_model, threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the spectra are now: files that are not to be shown cannot be read."""
    place = tmp_path_factory.mktemp("spectra") / "new"
    place.mkdir()
    needed = {row for rows in SHOWN.values() for row in rows}
    for i in range(len(SPECTRA)):
        path = place / f"spec-4055-55359-{i:04d}.fits"
        if i in needed:
            write_spec(path, *observed(quasar(2.5), seed=i))
        else:
            path.write_bytes(b"no spectrum")
    return place


@pytest.fixture(scope="module")
def found(few: Study, folder: Path, model: Model) -> dict[str, Gallery]:
    return {each.name: each for each in galleries(few, [folder], model)}


def test_galleries_show_the_spectra_that_the_paper_shows(found: dict[str, Gallery]) -> None:
    assert {name: list(each.rows) for name, each in found.items()} == SHOWN


def test_every_panel_says_what_is_known_of_its_spectrum(found: dict[str, Gallery], few: Study) -> None:
    for gallery in found.values():
        panels = [axes for axes in gallery.figure.axes if axes.get_visible()]
        assert gallery.names == tuple(few.names[list(gallery.rows)])
        for axes, row, name in zip(panels, gallery.rows, gallery.names, strict=True):
            title = axes.get_title()
            assert title.startswith(f"{name}: {few.sample.truth[row]}, ")
            assert f"= {few.sample.z_truth[row]:.3f}" in title and f"= {few.sample.z[row]:.3f}" in title
            assert axes.lines
    (title,) = (axes.get_title() for axes in found["fig2_example"].figure.axes)
    assert "BAL flag 1" in title and "= 900 km s" in title
    assert "missed, strongest" in found["figA4_bal"].figure.axes[5].get_title()
    assert "simulated survey" in texts(found["figA4_bal"].figure)


def test_a_spectrum_of_several_splits_is_shown_once(few: Study, folder: Path, model: Model) -> None:
    twice = np.tile(np.arange(len(SPECTRA)), 2)
    again = study_of(few.sample.take(twice), names=few.names[twice], source=few.source[twice])
    shown = {each.name: list(each.rows) for each in galleries(again, [folder], model)}
    assert shown == SHOWN


def test_spectra_of_a_plate_are_found_by_their_row(tmp_path: Path, few: Study, model: Model) -> None:
    flux, ivar = observed(np.stack([quasar(z) for z in (0.5, 1.5, 2.5)]))
    path = write_plate(tmp_path / "spPlate-4055-55359.fits", flux, ivar)
    rows, fibres = np.array([0, 1, 5]), np.array([2, 0, 1])
    source = np.full(3, "elsewhere/spPlate-4055-55359.fits")
    plate = study_of(few.sample.take(rows), names=few.names[rows], source=source, row=fibres)
    for gallery in galleries(plate, [tmp_path], model):
        for axes, row in zip(gallery.figure.axes, gallery.rows, strict=True):
            shown = model.representation(pick(str(path), int(fibres[row]))).values[0]
            np.testing.assert_array_equal(axes.lines[0].get_ydata(), shown)


def test_spectra_of_a_store_are_found_by_their_file_and_row(tmp_path: Path, few: Study, model: Model) -> None:
    rows, fibres = np.array([0, 1, 5]), np.array([2, 0, 1])
    paths = []
    for i, plate in enumerate((4055, 4056)):
        flux, ivar = observed(np.stack([quasar(z + i / 4) for z in (0.5, 1.5, 2.5)]))
        paths.append(write_plate(tmp_path / f"spPlate-{plate}-55359.fits", flux, ivar, plate=plate))
    pack(paths, tmp_path / "store", workers=1)  # both in one shard
    source = np.full(3, "elsewhere/spPlate-4056-55359.fits")
    study = study_of(few.sample.take(rows), names=few.names[rows], source=source, row=fibres)
    shown = galleries(study, [tmp_path / "store"], model)
    assert shown
    for gallery in shown:
        for axes, row in zip(gallery.figure.axes, gallery.rows, strict=True):
            seen = model.representation(pick(str(paths[1]), int(fibres[row]))).values[0]
            np.testing.assert_array_equal(axes.lines[0].get_ydata(), seen)


def test_spectra_that_are_not_there_are_not_chosen(few: Study, folder: Path, model: Model) -> None:
    there = [folder / f"spec-4055-55359-{i:04d}.fits" for i in (0, 7)]
    shown = {each.name: list(each.rows) for each in galleries(few, there, model)}
    assert shown == {"fig2_example": [7], "figA1_stars": [0], "figA4_bal": [7]}


def test_a_study_without_any_of_its_files_is_an_error(few: Study, tmp_path: Path, model: Model) -> None:
    write_spec(tmp_path / "spec-1-2-0003.fits")
    with pytest.raises(UsageError, match="name the folder of the spectra"):
        galleries(few, [tmp_path], model)
    with pytest.raises(UsageError, match=r"old/spec-4055-55359-0000\.fits"):
        galleries(few, [], model)


def test_a_study_without_mistakes_has_no_gallery_of_them(few: Study, folder: Path, model: Model) -> None:
    rows = np.array([7, 14])
    right = study_of(few.sample.take(rows), names=few.names[rows], source=few.source[rows])
    assert [each.name for each in galleries(right, [folder], model)] == ["fig2_example", "figA4_bal"]
