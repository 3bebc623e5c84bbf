"""A report: its numbers are those of the metrics, its page stands alone, and what is missing is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from broadline.cli import app
from broadline.decision import Rule
from broadline.evaluation import report
from broadline.evaluation.bal import bal_score
from broadline.evaluation.drawing import FORMATS
from broadline.evaluation.figures import FIGURES
from broadline.evaluation.join import read_study
from broadline.evaluation.measures import jackknife, perfect
from broadline.evaluation.metrics import (
    bands,
    composition,
    crossing,
    curve,
    in_redshift_bins,
    score,
    uncertain,
)
from broadline.evaluation.redshifts import pull, redshift_scatter, repeats, ripple
from broadline.evaluation.reliability import compare, reliabilities, reliability
from broadline.evaluation.report import markdown, write_report
from broadline.evaluation.results import Section, results
from broadline.evaluation.shares import over_splits
from broadline.evaluation.study import Baseline, Counts, Study
from broadline.named_models import load_model
from broadline.pipeline import ModelChoice, classify
from broadline.simulation.recipe import RECIPES
from broadline.simulation.survey import Request, simulate
from broadline.training.splits import Split, random_splits, write_splits
from conftest import Answer
from test_figures import sample_of, study_of

Command = Callable[..., Answer]
HOSTILE = '<script>alert("1")</script>&'
VOID = {"meta", "img", "br", "hr", "link"}


@pytest.fixture(scope="module")
def study() -> Study:
    return study_of(sample_of())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have one figure."""
    monkeypatch.setattr(report, "FIGURES", [plot for plot in FIGURES if plot.name == "confusion"])


def numbers(study: Study) -> dict[str, Any]:
    """What a report of a study says, by key."""
    return {number.key: number.values for section in results(study) for number in section.numbers}


def texts(study: Study) -> dict[str, str]:
    return {number.key: number.text for section in results(study) for number in section.numbers}


def written(study: Study, folder: Path) -> tuple[str, dict[str, Any]]:
    """The page of a report, and what it says to machines."""
    page = write_report(study, folder).page.read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return page, json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)


# ---- known answers


def test_shares_are_those_of_the_metrics_with_counts_and_interval(study: Study) -> None:
    found, parts, three = score(study.sample), composition(study.sample), score(study.sample.at(Rule(0.6, 3)))
    bal, unsure = bal_score(study.sample, study.rule.c_th_bal), uncertain(study.sample)
    assert bal is not None and unsure is not None
    expected = {
        "purity": found.purity,
        "completeness": found.completeness,
        "catastrophic": found.catastrophic,
        "purity_3": three.purity,
        "completeness_3": three.completeness,
        "star": parts.star,
        "galaxy": parts.galaxy,
        "galaxy_right": parts.galaxy_right,
        "other": parts.other,
        "wrong_z": parts.wrong_z,
        "missed": parts.missed,
        "missed_z": parts.missed_z,
        "bal_pseudo_purity": bal.pseudo_purity,
        "bal_pseudo_completeness": bal.pseudo_completeness,
        "bal_non_bal": bal.non_bal,
        "bal_catastrophic": bal.redshifts.catastrophic,
        "uncertain": unsure.uncertain,
    }
    said = numbers(study)
    for key, share in expected.items():
        low, high = share.interval
        wanted = {"value": share.value, "k": share.k, "n": share.n, "low": low, "high": high}
        assert said[key] == wanted, key


def test_other_numbers_are_those_of_the_metrics(study: Study) -> None:
    scatter, pulls = redshift_scatter(study.sample), pull(replace(study.sample, z_err=np.full(400, 0.002)))
    bal = bal_score(study.sample, study.rule.c_th_bal)
    assert bal is not None and pulls is not None
    said = numbers(replace(study, sample=replace(study.sample, z_err=np.full(400, 0.002))))
    thresholds = np.linspace(0, 0.99, 100)
    for l_min in (1, 2):
        cross = crossing(curve(study.sample, thresholds, l_min))
        assert cross is not None
        assert said[f"crossing_{l_min}"]["value"] == cross.value
        assert said[f"crossing_threshold_{l_min}"]["value"] == cross.threshold
    expected = {
        "dv_mean": scatter.right.mean,
        "dv_std": scatter.right.std,
        "dv_nmad": scatter.right.nmad,
        "dv_std_all": scatter.all.std,
        "pull_std": pulls.right.std,
        "pull_nmad": pulls.right.nmad,
        "bal_balnicity": bal.median_balnicity,
        "bal_missed": bal.median_missed,
        "bal_dv_std": bal.redshifts.right.std,
        **{f"ece_{name}": each.ece for name, each in reliabilities(study.sample).items()},
    }
    assert {key: said[key]["value"] for key in expected} == expected
    assert said["dv_std"]["n"] == scatter.right.n and said["dv_std_all"]["n"] == scatter.all.n
    assert said["dv_std"]["unit"] == "km/s" and "unit" not in said["pull_std"]


def test_errors_of_purity_and_completeness_are_those_of_the_bootstrap(study: Study) -> None:
    found, said = bands(study.sample), numbers(study)
    assert said["purity_bootstrap"]["value"] == found.purity.std[0]
    assert said["completeness_bootstrap"]["value"] == found.completeness.std[0]


def test_the_bins_of_figure_7_are_told_as_numbers(study: Study) -> None:
    bins, said = in_redshift_bins(study.sample), numbers(study)
    for i, low in enumerate(bins.edges[:-1]):
        for kind, shares in (("purity", bins.purity), ("completeness", bins.completeness)):
            key = f"{kind}_z_{low}_{bins.edges[i + 1]}"
            assert (key in said) == (shares.n[i] > 0)
            if key in said:
                assert (said[key]["k"], said[key]["n"]) == (shares.k[i], shares.n[i])


def test_ripples_come_with_power_and_chance() -> None:
    study = study_of(sample_of(3000))
    assert study.boxes is not None
    said = numbers(study)
    for line in study.lines[:4]:
        wave = ripple(study.sample, line, *study.boxes)
        found = said[f"ripple_{line.name.lower()}"]
        assert (found["value"], found["error"], found["n"]) == (wave.amplitude, wave.error, wave.n)
        assert (found["power"], found["p"]) == (wave.power, wave.chance)


def test_pairs_of_spectra_of_an_object_are_compared() -> None:
    sample = replace(sample_of(), object_id=np.arange(400) // 2)
    found, said = repeats(sample), numbers(study_of(sample))
    assert found is not None
    assert said["repeats.same_class"]["k"] == found.same_class.k
    assert said["repeats.std"]["value"] == found.std
    assert said["repeats.std"]["n"] == found.conflict.n - found.conflict.k
    assert not any(key.startswith("repeats") for key in numbers(study_of(sample, n_splits=2)))


# ---- errors


def test_the_jackknife_knows_the_error_of_a_mean_and_of_a_standard_deviation() -> None:
    sample = sample_of(4000)
    errors, right = jackknife(sample, Rule()), redshift_scatter(sample).right
    assert errors["dv_mean"] == pytest.approx(right.std / np.sqrt(right.n), rel=0.5)
    assert errors["dv_std"] == pytest.approx(right.std / np.sqrt(2 * right.n), rel=0.5)


def test_four_spectra_of_an_object_that_are_alike_count_as_one() -> None:
    sample = sample_of(1000)
    four = sample.take(np.repeat(np.arange(1000), 4))
    alone, together = (
        jackknife(replace(four, object_id=objects), Rule())["dv_nmad"]
        for objects in (np.arange(4000), np.repeat(np.arange(1000), 4))
    )
    assert 1.3 < together / alone < 3


def test_there_is_no_error_of_too_few_objects() -> None:
    assert jackknife(sample_of(39), Rule()) == {}
    assert "±" not in texts(study_of(sample_of(39)))["dv_mean"]


def test_perfect_probabilities_have_the_calibration_error_that_is_expected_of_them() -> None:
    random = np.random.default_rng(2)
    p = random.beta(0.2, 0.3, 1000)
    found = [reliability(p, random.random(1000) < p) for _ in range(200)]
    mean = np.mean([each.ece for each in found])
    assert perfect(found[0]) == pytest.approx(mean, rel=0.15)


def test_an_error_is_shown_with_digits_that_it_shows_in() -> None:
    study = study_of(sample_of(4000))
    error = numbers(study)["dv_nmad"]["error"]
    assert 1 < error < 100
    assert f" ± {error:.0f} km/s, of " in texts(study)["dv_nmad"]


# ---- what is missing


def test_a_metric_of_no_rows_is_missing() -> None:
    stars = numbers(study_of(sample_of().take(sample_of().truth == "STAR")))
    assert stars["purity"]["k"] == 0 and stars["purity"]["n"] > 0
    assert not {"completeness", "catastrophic", "missed", "dv_mean", "bal_non_bal"} & set(stars)
    assert not any(key.startswith(("completeness", "auto.completeness", "ripple")) for key in stars)


def test_where_nothing_is_sure_nothing_is_scored(tmp_path: Path, quick: None) -> None:
    unsure = study_of(replace(sample_of(), confidence=np.full(400, 2)))
    page, machine = written(unsure, tmp_path)
    assert set(machine["metrics"]) == {"uncertain", "tentative", "called", "agree", "auto.inspected"}
    assert "Scored are the secure annotations: none." in page


def test_of_quasars_alone_there_is_no_purity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "save", one_pixel)
    quasars = study_of(sample_of().take(sample_of().truth == "QSO"))
    page, machine = written(quasars, tmp_path)
    told = " ".join([*Page(page).tables, *Page(page).titles])
    assert "purity" not in told.replace("pseudo-purity", "").lower()
    assert not any("purity" in key for key in machine["metrics"] if key != "bal_pseudo_purity")
    assert not {"star", "galaxy", "crossing_1"} & set(machine["metrics"])
    assert machine["metrics"]["completeness"]["n"] == len(quasars.sample)
    assert "auto.completeness_difference" in machine["metrics"]


def test_a_catalogue_that_does_not_know_its_errors_is_not_asked_for_them(study: Study) -> None:
    unknown = dict.fromkeys(("c", "c_bal", "p_qso", "p_z", "p_bal"))
    bare = replace(study.sample, called=study.sample.quasar, **unknown)  # type: ignore[arg-type]
    said = numbers(replace(study, sample=bare, boxes=None))
    assert not any(key.startswith(("crossing", "bal", "ece", "pull", "ripple")) for key in said)
    assert "purity_3" not in said and "purity" in said


# ---- splits


def test_of_several_splits_numbers_are_mean_and_rms() -> None:
    study = study_of(sample_of(), n_splits=4)
    shares = [score(part).purity.value for part in study.parts()]
    levels = [redshift_scatter(part).right.nmad for part in study.parts()]
    said, shown = numbers(study), texts(study)
    for key, values in (("purity", shares), ("dv_nmad", levels)):
        spread = over_splits(values)
        assert said[key]["splits"] == values
        assert (said[key]["mean"], said[key]["rms"]) == (spread.mean, spread.rms)
        assert "error" not in said[key]
    whole, spread = score(study.sample).purity, over_splits(shares)
    assert said["purity"]["value"] == whole.value and "purity_bootstrap" not in said
    percent = f"{100 * spread.mean:.2f} ± {100 * spread.rms:.2f} %"
    assert shown["purity"] == f"{percent}, {whole.k:,} of {whole.n:,}"
    assert "mean over 4 splits" in results(study)[0].note


def test_a_split_that_lacks_something_is_left_out_of_the_mean() -> None:
    sample = sample_of(3000)
    split, galaxy = np.arange(3000) % 3, sample.truth == "GALAXY"
    study = study_of(replace(sample, called=sample.quasar & ~(galaxy & (split == 1))), n_splits=3)
    said = numbers(study)["galaxy_right"]
    assert said["splits"][1] is None
    assert said["mean"] == np.mean([said["splits"][0], said["splits"][2]])
    one = study_of(replace(sample, called=sample.quasar & ~(galaxy & (split > 0))), n_splits=3)
    assert "±" not in texts(one)["galaxy_right"] and "rms" not in machine(one)["galaxy_right"]


def test_a_number_that_no_split_has_is_missing() -> None:
    sample = sample_of()
    # Two quasars have a standard deviation, each alone has none.
    two = sample.take(np.flatnonzero(sample.annotated("QSO") & sample.near & sample.quasar)[:2])
    assert "dv_std" in numbers(study_of(two)) and "dv_std" not in numbers(study_of(two, n_splits=2))


def machine(study: Study) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(report._machine(study, results(study), ()))["metrics"]
    return said


# ---- other classifiers


def test_other_classifiers_stand_beside_the_catalogue() -> None:
    base = study_of(sample_of())
    auto = base.baselines["auto"]
    timid = Baseline(replace(auto.sample, called=auto.sample.quasar & (auto.sample.z > 2)), None, 7)
    study = replace(base, baselines={"auto": auto, "theirs (2)": timid})
    said = numbers(study)
    for name, baseline in study.baselines.items():
        found, test = score(baseline.sample), compare(study.sample, baseline.sample)
        assert said[f"{name}.purity"]["k"] == found.purity.k
        assert said[f"{name}.completeness"]["value"] == found.completeness.value
        assert said[f"{name}.completeness_difference"]["value"] == test.completeness.value
        assert said[f"{name}.completeness_difference"]["p"] == test.completeness.p_value
        assert said[f"{name}.quasars_mcnemar"]["only_there"] == test.quasars.only_other
    assert said["auto.inspected"]["n"] == 400 and "theirs (2).inspected" not in said
    assert said["theirs (2).unknown"] == {"value": 7}
    beside = next(section for section in results(study) if section.title.startswith("Other classifiers"))
    assert [row[0] for row in beside.grid] == [
        "",
        "this catalogue",
        "auto",
        "theirs (2)",
        "... says nothing of 7 spectra: they count as not called",
    ]
    assert "(paper: 94.98 %)" in beside.grid[2][2]


def test_without_other_classifiers_their_tables_are_missing(study: Study) -> None:
    titles = [section.title for section in results(replace(study, baselines={}))]
    assert not any("other" in title.lower() for title in titles)


# ---- the page


class Page(HTMLParser):
    """What a page consists of; an element that is not closed, or not open, is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.tables: list[str] = []
        self.titles: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        assert len(given) == len(attrs) and not any(name.startswith("on") for name in given)
        self.ids += [str(given["id"])] if "id" in given else []
        self.links += [str(given["href"])] if "href" in given else []
        self.sources += [str(given["src"])] if "src" in given else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "table" in self.open:
            self.tables.append(data)
        if {"h1", "h2", "title", "b", "nav"} & set(self.open):
            self.titles.append(data)


def one_pixel(figures: dict[str, Figure], folder: Path) -> None:
    """In place of files that take long to write."""
    for name in figures:
        (folder / f"{name}.png").write_bytes(b"\x89PNG")


@pytest.mark.parametrize("simulated", [True, False])
def test_a_page_of_a_simulated_survey_says_so_and_no_other(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulated: bool
) -> None:
    monkeypatch.setattr(report, "save", one_pixel)
    page, said = written(replace(study, simulated=simulated, absent=("a thing: nobody knows",)), tmp_path)
    assert said["simulated"] is simulated
    assert ("simulated" in page.split("</head>")[1].lower()) is simulated
    assert page.count(" Simulated survey.") == (len(FIGURES) if simulated else 0)
    assert page.count(">here, simulated<") == (page.count(">here") if simulated else 0)
    assert "a thing: nobody knows" in page and said["absent"] == ["a thing: nobody knows"]


def test_names_are_never_markup(study: Study, tmp_path: Path, quick: None) -> None:
    hostile = replace(
        study,
        baselines={f"{HOSTILE} $x^{{$": study.baselines["auto"]},
        about={HOSTILE: HOSTILE, "catalogues": "\udcff.fits", "model": "a\0b"},
        absent=(HOSTILE,),
    )
    page, said = written(hostile, tmp_path)
    found = Page(page)
    assert "script" not in found.tags and HOSTILE not in page
    assert page.count(escape(HOSTILE)) >= 5
    assert any(HOSTILE in text for text in found.tables)
    assert said["about"]["catalogues"] == "\udcff.fits" and f"{HOSTILE} $x^{{$.purity" in said["metrics"]
    assert "<script" not in markdown(results(hostile), hostile.simulated)
    table = report._table(Section(HOSTILE, (), HOSTILE, ((HOSTILE, HOSTILE),) * 2), True)
    assert "script" not in Page(table).tags and table.count(escape(HOSTILE)) == 7


def test_a_figure_of_an_earlier_report_does_not_stay(
    study: Study, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(study, tmp_path)
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"not of a report")
    assert (tmp_path / "confusion.png").exists() and (tmp_path / "confusion.pdf").exists()
    monkeypatch.setattr(report, "FIGURES", [plot for plot in FIGURES if plot.name == "n_of_z"])
    written(study, tmp_path)
    assert not (tmp_path / "confusion.png").exists() and not (tmp_path / "confusion.pdf").exists()
    assert mine.exists() and (tmp_path / "n_of_z.png").exists()


def test_a_dollar_sign_in_a_name_begins_no_formula(study: Study) -> None:
    costly = replace(study, baselines={"$x^{$": study.baselines["auto"]})
    for plot in FIGURES:
        if plot.name in ("fig3_threshold", "fig7_redshift", "inspection"):
            figure = plot.draw(costly)
            assert figure is not None
            figure.draw_without_rendering()
            assert r"\$x^{\$" in [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def test_a_table_in_markdown_has_as_many_cells_in_each_row(study: Study) -> None:
    unknown = replace(study.baselines["auto"], n_unknown=3)
    many = replace(study, baselines={"a|b": unknown})
    text = markdown(results(many), many.simulated)
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) > 5 and any("a\\|b" in table[3] for table in tables)
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1


def test_numbers_that_json_does_not_know_are_missing(study: Study, tmp_path: Path, quick: None) -> None:
    few = study_of(sample_of().take(np.arange(12)), n_splits=3)
    _, said = written(few, tmp_path)  # which refuses NaN
    assert said["metrics"]["purity"]["splits"]
    assert said["counts"]["n_rows"] == 12 and said["n_splits"] == 3


@pytest.mark.parametrize("where", ["file", "below a file"])
def test_a_folder_that_cannot_be_made_is_told_before_the_work(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(report, "results", None)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(report.UsageError, match=r"cannot write the report into .*; name another folder"):
        write_report(study, tmp_path / "file" / ("" if where == "file" else "report"))
    assert (tmp_path / "file").read_text() == "mine"


def test_all_rows_of_the_catalogues_are_accounted_for(study: Study, tmp_path: Path, quick: None) -> None:
    counts = Counts(1500, n_unmatched=1000, n_ancillary=90, n_repeated=10, n_unclassified=2, n_unseen=55)
    page, _ = written(replace(study, counts=counts), tmp_path)
    kinds = [int(study.sample.annotated(kind).sum()) for kind in ("QSO", "STAR", "GALAXY")]
    assert (
        "400 of 1,500 rows of the catalogue are compared with the truth; left out are 1,000 unknown to the "
        "truth, 90 of ancillary programmes, 10 repeated. Scored are the secure annotations: "
        "{} QSO, {} STAR, {} GALAXY. 2 spectra have no result and count as not called. 55 spectra of the "
        "truth are in no catalogue.".format(*kinds)
        in page
    )


# ---- the command


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small simulated survey, and its catalogue beside it."""
    folder = tmp_path_factory.mktemp("evaluated")
    mix = {"QSO": 0.6, "STAR": 0.3, "GALAXY": 0.1}
    simulate(Request.of("boss", 300, 5, replace(RECIPES["boss"], mix=mix)), folder / "survey", 1)
    classify([folder / "survey"], folder / "catalogue.parquet", ModelChoice("default"), workers=1)
    return folder


@pytest.fixture(scope="session")
def evaluated(survey: Path) -> tuple[Path, str]:
    """The report of the survey, with two of the figures, and what the command said."""
    truth = survey / "survey" / "truth.parquet"
    options = ["--truth", truth, "--baseline", truth, "--spectra", survey / "survey", "-o", survey / "report"]
    arguments = ["evaluate", survey / "catalogue.parquet", *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "FIGURES", [plot for plot in FIGURES if plot.name.startswith(("fig3", "fig7"))])
        done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return survey / "report", done.output


def test_the_command_writes_a_page_with_the_numbers_of_the_library(
    survey: Path, evaluated: tuple[Path, str]
) -> None:
    folder, said = evaluated
    found = score(read_study([survey / "catalogue.parquet"], survey / "survey" / "truth.parquet").sample)
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert found.purity.n > 100
    for name, share in (("purity", found.purity), ("completeness", found.completeness)):
        assert (metrics[name]["k"], metrics[name]["n"]) == (share.k, share.n)
        assert f"{name}: {100 * share.value:.2f} %" in said
    assert {"auto.purity", "auto+VI.inspected", "two lines, one line inspected.inspected"} <= set(metrics)
    assert "(a simulated survey)" in said and "of 300 rows of the catalogue are compared" in said


def test_the_page_is_whole_and_loads_nothing(evaluated: tuple[Path, str]) -> None:
    folder, _ = evaluated
    found = Page((folder / "index.html").read_text())
    assert len(set(found.ids)) == len(found.ids) > 4
    assert all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert len(found.sources) == len(found.ids)
    for link in found.links:
        assert link[1:] in found.ids if link.startswith("#") else (folder / link).is_file(), link
    files = {f"{name}.{kind}" for name in found.ids for kind in FORMATS} | {"index.html", "metrics.json"}
    assert {path.name for path in folder.iterdir()} == files
    assert "link" not in found.tags and "script" not in found.tags


def test_every_figure_of_a_simulated_survey_says_so(
    survey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Figure] = {}

    def keep(figures: dict[str, Figure], folder: Path) -> None:
        drawn.update(figures)
        one_pixel(figures, folder)

    monkeypatch.setattr(report, "save", keep)
    study = read_study([survey / "catalogue.parquet"], survey / "survey" / "truth.parquet")
    study = replace(study, names=np.strings.add("$^{$", study.names))  # which is no formula
    page = write_report(study, tmp_path, [survey / "survey"], load_model("default")).page.read_text()
    assert "fig2_example" in drawn and "fig3_threshold" in drawn
    for name, figure in drawn.items():
        words = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
        assert "simulated survey" in words, name
    drawn["fig2_example"].draw_without_rendering()
    assert page.count(" Simulated survey.") == len(drawn)
    names = set(study.names)
    shown = [unescape(text) for text in page.split("<code>")[1:]]
    assert sum(text.split("<")[0] in names for text in shown) > 2


def changed(path: Path, table: pa.Table, **columns: Any) -> Path:
    for name, values in columns.items():
        i = table.column_names.index(name)
        table = table.set_column(i, table.schema.field(i), pa.array(values).cast(table.schema.field(i).type))
    pq.write_table(table, path)
    return path


def test_several_catalogues_are_scored_where_they_did_not_learn(
    survey: Path, tmp_path: Path, quick: None, command: Command
) -> None:
    truth = pq.read_table(survey / "survey" / "truth.parquet")
    known = truth.filter(np.asarray(truth["TRUE_CLASS"]) != "SKY")
    objects = np.asarray(known["THING_ID"])
    splits = random_splits(objects, 2, 0.3)
    write_splits(tmp_path / "splits.parquet", splits, objects)
    timid = pq.read_table(survey / "catalogue.parquet")
    called = (timid["Z"].to_numpy() > 1) & np.asarray(timid["IS_QSO"].fill_null(False))
    catalogues = [survey / "catalogue.parquet", changed(tmp_path / "timid.parquet", timid, IS_QSO=called)]
    options = ["--truth", survey / "survey" / "truth.parquet", "--splits", tmp_path / "splits.parquet"]
    answer = command("evaluate", *catalogues, *options, "-o", tmp_path / "report")
    assert answer.code == 0, answer.err
    said = json.loads((tmp_path / "report" / "metrics.json").read_text())
    expected = []
    for path, split in zip(catalogues, splits, strict=True):
        study = read_study([path], options[1])
        held = np.isin(study.sample.object_id, objects[split.validation])
        expected.append(score(study.sample.take(held)).completeness)
    found = said["metrics"]["completeness"]
    assert found["splits"] == [share.value for share in expected]
    assert found["n"] == sum(share.n for share in expected) > 20
    assert expected[1].value < expected[0].value
    assert found["rms"] == pytest.approx((expected[0].value - expected[1].value) / 2)
    assert said["n_splits"] == 2 and said["counts"]["n_learnt"] > 100 and said["about"]["splits"]
    assert "not in the validation part of their split" in answer.out


def test_two_classifiers_of_one_name_are_told_apart(
    survey: Path, tmp_path: Path, quick: None, command: Command
) -> None:
    (tmp_path / "b").mkdir()
    theirs = tmp_path / "b" / "catalogue.parquet"
    theirs.write_bytes((survey / "catalogue.parquet").read_bytes())
    truth = survey / "survey" / "truth.parquet"
    options = ["--truth", truth, *("--baseline", survey / "catalogue.parquet"), *("--baseline", theirs)]
    answer = command("evaluate", survey / "catalogue.parquet", *options, "-o", tmp_path / "report")
    assert answer.code == 0, answer.err
    said = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert {"catalogue.purity", "catalogue (2).purity"} <= set(said["metrics"])
    assert said["about"]["other classifiers"] == "catalogue.parquet, catalogue.parquet"


# ---- what cannot be evaluated


def elsewhere(survey: Path, path: Path) -> Path:
    table = pq.read_table(survey / "catalogue.parquet")
    return changed(path / "elsewhere.parquet", table, PLATE=[1] * len(table))


def emptied(survey: Path, path: Path) -> Path:
    pq.write_table(pq.read_table(survey / "catalogue.parquet").slice(0, 0), path / "empty.parquet")
    return path / "empty.parquet"


def contradicting(survey: Path, path: Path) -> Path:
    table = pq.read_table(survey / "catalogue.parquet")
    other = changed(
        path / "other.parquet", table, IS_QSO=[not called for called in table["IS_QSO"].to_pylist()]
    )
    pq.write_table(pa.concat_tables([table, pq.read_table(other)]), path / "twice.parquet")
    return path / "twice.parquet"


def damaged(survey: Path, path: Path) -> Path:
    (path / "cut.parquet").write_bytes((survey / "catalogue.parquet").read_bytes()[:-100])
    return path / "cut.parquet"


def no_truth(survey: Path, path: Path) -> Path:
    (path / "sky.csv").write_text("PLATE,MJD,FIBERID,COLOUR\n1,2,3,blue\n")
    return path / "sky.csv"


def other_splits(survey: Path, path: Path) -> Path:
    objects = np.arange(10**6, 10**6 + 10)
    write_splits(path / "splits.parquet", [Split(np.arange(5), np.arange(5, 10))], objects)
    return path / "splits.parquet"


def a_file(survey: Path, path: Path) -> Path:
    (path / "file").write_text("")
    return path / "file"


def no_spectra(survey: Path, path: Path) -> Path:
    (path / "nothing").mkdir()
    return path / "nothing"


BAD: dict[str, tuple[str, Callable[[Path, Path], Path], str]] = {
    "no overlap": ("", elsewhere, "knows none of the 300 spectra"),
    "no rows": ("", emptied, "without rows"),
    "two verdicts": ("", contradicting, "contradicts itself in "),
    "damage": ("", damaged, "cut.parquet cannot be read as a catalogue"),
    "no catalogue": ("", no_truth, "is no catalogue"),
    "no such file": ("", lambda survey, path: path / "gone.fits", "gone.fits: No such file"),
    "no truth": ("--truth", no_truth, "is no truth table"),
    "gone truth": ("--truth", lambda survey, path: path / "gone.fits", "gone.fits: No such file"),
    "other splits": ("--splits", other_splits, "nothing but objects that its model may have learnt from"),
    "no splits": ("--splits", no_truth, "cannot be read as a file of splits"),
    "no overlap with another": ("--baseline", elsewhere, "knows none of the"),
    "no classifier": ("--baseline", no_truth, "holds neither fits nor a catalogue"),
    "no folder": ("-o", a_file, "cannot write the report into"),
    "no spectra": ("--spectra", no_spectra, "nothing"),
    "no model": ("--model", lambda survey, path: path / "gone.onnx", "gone.onnx"),
}


@pytest.mark.parametrize(("option", "make", "said"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_evaluated_is_one_line_and_no_report(
    option: str,
    make: Callable[[Path, Path], Path],
    said: str,
    survey: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
) -> None:
    monkeypatch.setattr(report, "FIGURES", ())
    given: dict[str, Path] = {"--truth": survey / "survey" / "truth.parquet", "-o": tmp_path / "report"}
    bad = make(survey, tmp_path)
    if option:
        given[option] = bad
    if option == "--model":
        given["--spectra"] = survey / "survey"
    words = [word for pair in given.items() for word in pair]
    answer = command("evaluate", survey / "catalogue.parquet" if option else bad, *words)
    assert answer.code == 2
    (line,) = (line for line in answer.err.splitlines() if line.startswith("broadline: "))
    assert said in line and answer.err.splitlines()[-1] == line
    assert answer.out == "" and not (tmp_path / "report" / "index.html").exists()
