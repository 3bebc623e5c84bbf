"""Data for transfer: labels by membership of quasar catalogues, objects by their places, splits of sizes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from broadline.errors import UsageError
from broadline.named_models import load_model
from broadline.networks.vgg import ConvNetConfig
from broadline.training import dataset, presets
from broadline.training import prepare as writing
from broadline.training.dataset import PreparedSet
from broadline.training.labels import numbered
from broadline.training.manifest import Summary, read_manifest, shard_paths
from broadline.training.prepare import prepare
from broadline.training.presets import PRESETS
from broadline.training.splits import Sizes, leakage, read_splits, sized_split
from broadline.truth import CLASSES
from conftest import Answer
from files import N_PIXELS, observed, quasar, star, write_plate, write_spec

VGG = PRESETS["vgg-a"]
PLATE, MJD, AGAIN = 4055, 55359, 55400
N = 12  # fibres of a plate, the first of a quasar, and so on


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plate observed twice: fibres 1, 3, 5 ... on quasars at z 2, the others on stars, the last on sky."""
    folder = tmp_path_factory.mktemp("survey")
    for mjd in (MJD, AGAIN):
        spectra = [observed(star() if i % 2 else quasar(2.0), seed=mjd + i) for i in range(N)]
        flux, ivar = (np.stack(each) for each in zip(*spectra, strict=True))
        objtype = ["QSO"] * (N - 1) + ["SKY"]
        write_plate(folder / f"spPlate-{PLATE}-{mjd}.fits", flux, ivar, mjd=mjd, objtype=objtype)
    return folder


def catalogue(path: Path, fibers: list[int], mjd: int = MJD, **columns: Any) -> Path:
    """A table of these fibres as quasars at z 2."""
    n = len(fibers)
    table = {"PLATE": [PLATE] * n, "MJD": [mjd] * n, "FIBERID": fibers, "CLASS": ["QSO"] * n, "Z": [2.0] * n}
    pq.write_table(pa.table(table | columns), path)
    return path


def dr14q(path: Path, fibers: list[int], again: list[int], **columns: Any) -> Path:
    """DR14Q with a row for each quasar, at its first visit; of those in `again` the second is listed too."""
    n = len(fibers)
    seen = np.isin(fibers, again)
    table = {
        "THING_ID": np.array(fibers) + 700,
        "PLATE": [PLATE] * n,
        "MJD": [MJD] * n,
        "FIBERID": fibers,
        "Z": [2.0] * n,
        "SOURCE_Z": ["VI"] * n,
        "PLATE_DUPLICATE": np.where(seen, PLATE, -1)[:, None] * [1, -1],
        "MJD_DUPLICATE": np.where(seen, AGAIN, -1)[:, None] * [1, -1],
        "FIBERID_DUPLICATE": np.where(seen, fibers, -1)[:, None] * [1, -1],
    }
    Table(table | columns).write(path)
    return path


def made(
    survey: Path, truth: Path | list[Path], folder: Path, rest_is_other: bool = True
) -> tuple[Summary, PreparedSet]:
    summary = prepare([survey], truth, folder, VGG.representation, rest_is_other=rest_is_other, workers=1)
    return summary, PreparedSet(folder, VGG)


# ---- who is a quasar


def test_what_a_catalogue_of_quasars_does_not_list_is_firmly_other(survey: Path, tmp_path: Path) -> None:
    summary, part = made(survey, catalogue(tmp_path / "q.parquet", [1, 3]), tmp_path / "set")
    kind, z = part.columns["CLASS"], part.columns["Z"]
    assert [CLASSES[i] for i in kind] == ["QSO", "OTHER"] * 2 + ["OTHER"] * (2 * N - 6)
    assert np.array_equal(z, np.where(kind == CLASSES.index("QSO"), 2.0, np.nan), equal_nan=True)
    assert (part.columns["CONFIDENCE"] == 3).all() and summary.n_doubtful == 0
    assert summary.classes == {"": 0, "QSO": 2, "STAR": 0, "GALAXY": 0, "OTHER": 2 * N - 4}
    (batch,) = part.ordered()
    assert (batch.targets.box[:, 0] >= 0).tolist() == (kind == 1).tolist()
    assert (batch.targets.weight == 1).all()


def test_fibres_on_the_sky_are_no_objects_and_are_left_out(survey: Path, tmp_path: Path) -> None:
    summary, part = made(survey, catalogue(tmp_path / "q.parquet", [1, 3]), tmp_path / "set")
    assert summary.n_unmatched == 2
    assert len(part) == 2 * (N - 1)


def test_every_visit_that_dr14q_lists_is_a_positive(survey: Path, tmp_path: Path) -> None:
    summary, part = made(survey, dr14q(tmp_path / "DR14Q.fits", [1, 3, 5], [3]), tmp_path / "set")
    listed = part.columns["CLASS"] == CLASSES.index("QSO")
    assert np.flatnonzero(listed).tolist() == [0, 2, 4, N - 1 + 2]
    assert summary.n_listed == [4]
    assert part.columns["OBJECT"][listed].tolist() == [701, 703, 705, 703]


def test_quasars_of_ancillary_programmes_stay_as_nobody_knows_which_others_are(
    survey: Path, tmp_path: Path
) -> None:
    columns = {f"ANCILLARY_TARGET{i}": [0, i - 1] for i in (1, 2)}
    truth = dr14q(tmp_path / "DR14Q.fits", [1, 3], [], **columns)
    summary, part = made(survey, truth, tmp_path / "set")
    assert (summary.n_ancillary, summary.classes["QSO"]) == (0, 2)
    assert part.columns["ANCILLARY"].sum() == 1


def test_a_spectrum_in_any_of_several_catalogues_is_a_quasar(survey: Path, tmp_path: Path) -> None:
    one = catalogue(tmp_path / "dr1.parquet", [1, 3], Z_CONF=[2, 3])
    two = catalogue(tmp_path / "dr2.parquet", [1, 5], Z=[2.001, 2.0])
    summary, part = made(survey, [one, two], tmp_path / "set")
    assert np.flatnonzero(part.columns["CLASS"] == 1).tolist() == [0, 2, 4]
    assert part.columns["Z"][0] == 2.001  # of the more confident
    assert summary.n_listed == [2, 2]


def test_tables_that_name_spectra_in_different_ways_are_joined(survey: Path, tmp_path: Path) -> None:
    one = catalogue(tmp_path / "dr1.parquet", [1])
    place = {"RA": [12.0], "DEC": [-3.0 + 0.5 / 3600], "CLASS": ["QSO"], "Z": [2.0]}
    pq.write_table(pa.table({"OBJID": ["nobody"], **place}), tmp_path / "dr2.parquet")
    summary, part = made(survey, [one, tmp_path / "dr2.parquet"], tmp_path / "set")
    assert np.flatnonzero(part.columns["CLASS"] == 1).tolist() == [0, 2, N - 1 + 2]
    assert summary.n_listed == [1, 2]


def test_complete_tables_are_joined_too(survey: Path, tmp_path: Path) -> None:
    one = catalogue(tmp_path / "quasars.parquet", [1, 3])
    two = catalogue(tmp_path / "stars.parquet", [2], CLASS=["STAR"], Z=[0.0])
    summary, part = made(survey, [one, two], tmp_path / "set", rest_is_other=False)
    assert [CLASSES[i] for i in part.columns["CLASS"]] == ["QSO", "STAR", "QSO"]
    assert summary.n_unmatched == 2 * N - 3


CONTRADICTIONS: dict[str, tuple[dict[str, list[Any]], str]] = {
    "class": ({"CLASS": ["STAR"], "Z": [0.0]}, r"STAR at z 0 in .*two\.parquet"),
    "redshift": ({"Z": [2.5]}, r"QSO at z 2\.5 in .*two\.parquet"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_tables_that_contradict_each_other_are_refused_and_the_folder_is_free_again(
    case: str, survey: Path, tmp_path: Path
) -> None:
    change, said = CONTRADICTIONS[case]
    one = catalogue(tmp_path / "one.parquet", [1, 3])
    other = catalogue(tmp_path / "other.parquet", [2], CLASS=["STAR"], Z=[0.0])
    two = catalogue(tmp_path / "two.parquet", [3], **change)
    match = rf"spectrum 4055-55359-0003 is firmly QSO at z 2 in .*one\.parquet and {said}; leave it in one"
    with pytest.raises(UsageError, match=match):
        made(survey, [one, other, two], tmp_path / "set", rest_is_other=False)
    assert not list((tmp_path / "set").iterdir())
    doubtful = catalogue(tmp_path / "two.parquet", [3], Z_CONF=[2], **change)
    made(survey, [one, other, doubtful], tmp_path / "set", rest_is_other=False)


def test_a_firm_class_without_a_firm_redshift_is_enough_for_networks_without_lines(
    survey: Path, tmp_path: Path
) -> None:
    truth = catalogue(tmp_path / "q.parquet", [1, 3, 5], Z_CONF=[3, 2, 1])
    made(survey, truth, tmp_path / "set")
    (batch,) = PreparedSet(tmp_path / "set", VGG).ordered()
    assert batch.targets.weight[[0, 2, 4, 1], 0].tolist() == [1, 1, 0, 1]
    lines = replace(PRESETS["paper"], representation=VGG.representation, unsure="drop")
    (batch,) = PreparedSet(tmp_path / "set", lines).ordered()
    assert batch.targets.weight[[0, 2, 4, 1], 0].tolist() == [1, 0, 0, 1]


# ---- which spectra are of one object


def test_spectra_at_one_place_are_of_one_object_that_bears_the_name_there_is(
    survey: Path, tmp_path: Path
) -> None:
    _, part = made(survey, dr14q(tmp_path / "DR14Q.fits", [1, 3], []), tmp_path / "set")
    first, second = np.split(part.columns["OBJECT"], 2)
    assert first.tolist() == second.tolist() and len(set(first.tolist())) == N - 1
    assert (first[0], first[2]) == (701, 703) and (np.delete(first, [0, 2]) < 0).all()


ARCSEC = 1 / 3600
PLACES: dict[str, tuple[list[tuple[float, float]], list[int], list[int]]] = {
    "near": ([(10, 0), (10 + 0.9 * ARCSEC, 0)], [-1, -1], [0, 0]),
    "far": ([(10, 0), (10 + 1.1 * ARCSEC, 0)], [-1, -1], [0, 1]),
    "at high declination": ([(10, 60), (10 + 1.8 * ARCSEC, 60)], [-1, -1], [0, 0]),
    "across 0 h": ([(0.3 * ARCSEC, 5), (360 - 0.3 * ARCSEC, 5)], [-1, -1], [0, 0]),
    "a chain": ([(10, 0), (10, 1.6 * ARCSEC), (10, 0.8 * ARCSEC)], [-1, -1, -1], [0, 0, 0]),
    "one has a name": ([(10, 0), (10, 0)], [-1, 42], [42, 42]),
    "both have names": ([(10, 0), (10, 0)], [41, 42], [41, 42]),
    "the first name": ([(10, 0), (10, 0), (10, 0)], [41, -1, 42], [41, 41, 42]),
    "a number that follows from a name": ([(10, 0), (10, 0), (20, 0)], [-1, -77, -78], [0, 0, -78]),
    "no place": ([(np.nan, np.nan), (np.nan, np.nan), (10, -9999)], [-1, -1, 7], [0, 1, 7]),
}


@pytest.mark.parametrize("case", PLACES)
def test_objects_without_a_name_are_known_by_their_place(case: str) -> None:
    places, objects, wanted = PLACES[case]
    ra, dec = np.array(places).T
    number = numbered(np.array(objects), ra, dec)
    for i, one in enumerate(wanted):
        if one > 1 or one < 0:
            assert number[i] == one
        else:
            assert number[i] < -(10**18)  # no number that any name leads to
        assert [number[i] == other for other in number] == [one == other for other in wanted]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 99))
def test_as_many_objects_are_found_as_there_are_places(where: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    place = np.array(where)
    ra, dec = 100 + place * 0.01, 30 + rng.uniform(-0.4, 0.4, len(place)) * ARCSEC
    number = numbered(np.full(len(place), -1), ra, dec)
    assert len(set(number.tolist())) == len(set(where))
    assert len(set(zip(number.tolist(), where, strict=True))) == len(set(where))


def test_sets_that_number_objects_by_name_alone_can_still_be_read(survey: Path, tmp_path: Path) -> None:
    _, part = made(survey, dr14q(tmp_path / "DR14Q.fits", [1, 3], []), tmp_path / "set")
    (tmp_path / "set" / "objects.npy").unlink()
    with pytest.raises(UsageError, match=r"objects\.npy cannot be read"):
        PreparedSet(tmp_path / "set", VGG)
    manifest = read_manifest(tmp_path / "set")
    del manifest["objects"], manifest["counts"]["n_listed"]
    for shard in manifest["shards"]:
        path = shard_paths(tmp_path / "set", shard)[1]
        pq.write_table(pq.read_table(path).drop_columns(["RA", "DEC"]), path)
        shard["sha256"][1] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "set" / "manifest.json").write_text(json.dumps(manifest))
    old = PreparedSet(tmp_path / "set", VGG)
    assert len(old) == len(part) and old.columns["OBJECT"].tolist()[:3] == [701, -1, 703]


# ---- long spectra


def parsed(folder: Path, n: int) -> tuple[Path, Path]:
    """QuasarNET's parsed files: n spectra, and which of them are quasars."""
    image = np.concatenate(
        [np.random.default_rng(1).normal(0, 1, (n, 443)), np.ones((n, 443))], axis=1, dtype=np.float32
    )
    ids = {"PLATE": np.full(n, PLATE), "MJD": np.full(n, MJD), "FIBERID": np.arange(1, n + 1)}
    table = fits.BinTableHDU(Table({"TARGETID": np.arange(n) + 1} | ids))
    fits.HDUList([fits.PrimaryHDU(image), table]).writeto(folder / "data.fits")
    return folder / "data.fits", catalogue(folder / "q.parquet", list(range(1, n, 3)))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 spectra of 2048 pixels in shards of at most 100."""
    folder = tmp_path_factory.mktemp("long")
    data, truth = parsed(folder, 200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_SHARD", 100 * 2048 * 2)
        patch.setattr(writing, "_BATCH", 20)
        prepare([data], truth, folder / "set", VGG.representation, rest_is_other=True, workers=1)
    return folder / "set"


def test_shards_are_bounded_in_bytes_however_many_pixels_there_are(long: Path, tmp_path: Path) -> None:
    part = PreparedSet(long, VGG)
    assert [shard["n"] for shard in part.shards] == [100, 100]
    assert writing._SHARD == 1 << 24  # 4,096 spectra of 2048 pixels


def test_windows_are_bounded_in_bytes_however_many_pixels_there_are(
    long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_CHUNK", 20)
    monkeypatch.setattr(dataset, "_WINDOW", 10)
    part = PreparedSet(long, replace(VGG, batch=8))
    sizes: list[int] = []
    real = PreparedSet.values

    def spy(self: PreparedSet, rows: NDArray[np.int64], *rest: Any) -> Any:
        sizes.append(len(rows))
        return real(self, rows, *rest)

    monkeypatch.setattr(PreparedSet, "values", spy)
    seen = np.concatenate([batch.ids for batch in part.epoch(0)])
    assert len(set(seen.tolist())) == 200
    assert max(sizes) * 2048 <= 20 * 10 * 443 < 2 * max(sizes) * 2048
    assert np.array_equal(np.concatenate(list(part.order(0))), seen)


# ---- what is refused


def test_a_catalogue_of_quasars_alone_needs_the_option_and_other_tables_must_not_have_it(
    survey: Path, tmp_path: Path
) -> None:
    quasars = catalogue(tmp_path / "q.parquet", [1, 3])
    with pytest.raises(UsageError, match=r"q\.parquet knows quasars only, .* with --rest-is-other"):
        made(survey, quasars, tmp_path / "set", rest_is_other=False)
    both = catalogue(tmp_path / "both.parquet", [1, 2], CLASS=["QSO", "STAR"], Z=[2.0, 0.0])
    with pytest.raises(UsageError, match=r"both\.parquet says itself .*leave --rest-is-other"):
        made(survey, [quasars, both], tmp_path / "set")
    none = catalogue(tmp_path / "none.parquet", [2], CLASS=["STAR"], Z=[0.0])
    with pytest.raises(UsageError, match=r"none\.parquet knows no quasar"):
        made(survey, none, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_catalogue_that_matches_nothing_is_an_error_beside_others_too(survey: Path, tmp_path: Path) -> None:
    good = catalogue(tmp_path / "good.parquet", [1, 3])
    far = catalogue(tmp_path / "far.parquet", [1, 3], mjd=50000)
    match = rf"far\.parquet knows none of the {2 * N} spectra \(its own 2 it names by PLATE-MJD-FIBERID\)"
    for truth in ([far], [good, far]):
        with pytest.raises(UsageError, match=match):
            made(survey, truth, tmp_path / "set")
        assert not list((tmp_path / "set").iterdir())


def test_other_catalogues_or_another_rule_make_another_set(survey: Path, tmp_path: Path) -> None:
    one, two = catalogue(tmp_path / "1.parquet", [1, 3]), catalogue(tmp_path / "2.parquet", [1, 5])
    made(survey, [one, two], tmp_path / "set")
    with pytest.raises(UsageError, match=r"another set \(not the same: truth\)"):
        made(survey, [one], tmp_path / "set")
    both = catalogue(tmp_path / "both.parquet", [1, 2], CLASS=["QSO", "STAR"], Z=[2.0, 0.0])
    with pytest.raises(UsageError, match=r"another set \(not the same: truth, rest_is_other, keep_ancillary"):
        made(survey, [both], tmp_path / "set", rest_is_other=False)


def test_spectra_that_do_not_overlap_the_grid_are_refused_by_its_range(tmp_path: Path) -> None:
    infrared = (np.log10(9500) + 1e-4 * np.arange(N_PIXELS)).astype(np.float32)
    for i in (1, 2):
        write_spec(tmp_path / f"spec-4055-55359-000{i}.fits", x=infrared, fiber=i)
    truth = catalogue(tmp_path / "q.parquet", [1])
    with pytest.raises(
        UsageError, match="none of the 2 spectra can be used on the pixels from 3839 to 8915 A"
    ):
        made(tmp_path, truth, tmp_path / "set")


def test_a_set_made_for_another_grid_is_refused_in_words(long: Path) -> None:
    there, here = r"\(2048 log pixels, 3839-8915 Angstrom\)", r"\(443 log pixels, 3600-9984 Angstrom\)"
    with pytest.raises(UsageError, match=f"preset paper: grid {there} instead of {here}"):
        PreparedSet(long, PRESETS["paper"])


# ---- the commands


def test_the_command_takes_several_catalogues_and_the_preset_says_how_spectra_are_represented(
    survey: Path, tmp_path: Path, command: Callable[..., Answer]
) -> None:
    one, two = catalogue(tmp_path / "1.parquet", [1, 3]), catalogue(tmp_path / "2.parquet", [1, 5])
    arguments = ["prepare", survey, "--truth", one, "--truth", two, "-o", tmp_path / "set", "--workers", 1]
    answer = command(*arguments, "--rest-is-other", "--preset", "vgg-a")
    assert answer.code == 0, answer.err
    assert f"{2 * N - 2} of {2 * N} spectra: 3 QSO, {2 * N - 5} OTHER" in answer.out
    assert PreparedSet(tmp_path / "set", VGG).columns["CLASS"].shape == (2 * N - 2,)
    refused = command(*arguments, "--preset", "vgg-a")
    assert refused.code == 2 and "--rest-is-other" in refused.err
    unknown = command(*arguments, "--preset", "vgg-z")
    assert unknown.code == 2 and "no preset 'vgg-z'; there are paper" in unknown.err


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A net that learns 2048 pixels in no time, and is not compiled, which would take longer."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    network = ConvNetConfig(stages=(), hidden=(4,))
    preset = replace(PRESETS["mlp"], name="tiny", network=network, batch=16, epochs=1, rate=1e-3)
    monkeypatch.setattr(presets, "PRESETS", {"tiny": preset, "paper": PRESETS["paper"]})


def train(command: Callable[..., Answer], folder: Path, *options: object) -> Answer:
    common = ["--preset", "tiny", "--precision", "fp32", "-o", folder]
    return command("train", *options, *common)


def test_scores_on_the_test_part_are_printed_and_stay_on_the_card(
    long: Path, tmp_path: Path, command: Callable[..., Answer], tiny: None
) -> None:
    options = [long, "--validation", 40, "--test", 0.3]
    answer = train(command, tmp_path / "run", *options)
    assert answer.code == 0, answer.err
    wrote, scores, leaks = answer.out.splitlines()
    assert wrote == f"wrote {tmp_path / 'run' / 'model.onnx'}"
    assert leaks.startswith("leakage: 0 objects are in more than one part")
    model = load_model(tmp_path / "run" / "model.onnx")
    part = PreparedSet(long, replace(presets.PRESETS["tiny"], batch=200))
    (split,) = read_splits(tmp_path / "run" / "splits.parquet", part.columns["OBJECT"])
    assert [len(rows) for rows in split.parts.values()] == [100, 40, 60]
    (batch,) = part.subset(split.test).ordered()
    called, quasar = model.probability(batch.x.numpy()) > 0.5, np.isfinite(batch.z)
    f1 = 2 * (called & quasar).sum() / (called.sum() + quasar.sum())
    assert float(model.recipe.card["test_f1"]) == pytest.approx(f1, rel=1e-4)
    names = ("loss", "precision", "recall", "f1")
    assert scores == "on test: " + ", ".join(f"{name} {model.recipe.card[f'test_{name}']}" for name in names)
    content = model.content
    assert train(command, tmp_path / "run", *options).out == answer.out  # scored once
    assert load_model(tmp_path / "run" / "model.onnx").content == content


def test_several_splits_with_test_parts_have_a_table_of_each(
    long: Path, tmp_path: Path, command: Callable[..., Answer], tiny: None
) -> None:
    options = [long, "--validation", 0.2, "--test", 0.2, "--splits", 2, "--seed", 3]
    answer = train(command, tmp_path / "run", *options)
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    rows = ["split-00", "split-01", "mean", "rms"]
    assert [line.split()[0] for line in lines[1:5]] == [line.split()[0] for line in lines[7:11]] == rows
    assert lines[5] == "on test" and lines[0].split() == lines[6].split()
    objects = PreparedSet(long, presets.PRESETS["tiny"]).columns["OBJECT"]
    for i, split in enumerate(read_splits(tmp_path / "run" / "splits.parquet", objects)):
        wanted = sized_split(objects, Sizes(0.2, 0.2), 3 + i)
        assert np.array_equal(split.test, wanted.test) and np.array_equal(split.training, wanted.training)
    assert [line.split(":")[0] for line in lines[11:]] == [f"leakage of {name}" for name in rows[:2]]


def test_the_papers_split_by_spectrum_is_an_option_and_says_how_much_leaks(
    survey: Path, tmp_path: Path, command: Callable[..., Answer], tiny: None
) -> None:
    fibers = [1, 3, 5, 7, 9, 11]
    _, part = made(survey, dr14q(tmp_path / "DR14Q.fits", fibers, fibers), tmp_path / "set")
    options = [tmp_path / "set", "--validation", 4, "--test", 6, "--by-spectrum", "--labels", 8]
    answer = train(command, tmp_path / "run", *options)
    assert answer.code == 0, answer.err
    (split,) = read_splits(tmp_path / "run" / "splits.parquet", part.columns["OBJECT"])
    leaks = leakage(split, part.columns["OBJECT"])
    assert split.by_spectrum and len(split.training) == 8 and leaks.objects > 0
    assert answer.out.splitlines()[-1] == f"leakage: {leaks}"
    card = load_model(tmp_path / "run" / "model.onnx").recipe.card
    assert card["leakage"] == str(leaks)
    assert card["epochs"] == "1 of 1 with 8 spectra each"  # in a batch of 8


IMPOSSIBLE: dict[str, tuple[list[object], str]] = {
    "too large": (["--validation", 100, "--test", 100], "leave none of 200 to learn from"),
    "no size": (["--validation", 0], "parts of a positive size"),
    "too many labels": (["--labels", 161], "holds 160 spectra, not 161"),
    "no quasar": (
        ["--validation", 2, "--seed", 2],
        "the 2 spectra of the validation part of a split hold no",
    ),
    "twice": (["--validation", 9, "--split", "FILE"], "for random splits, or --split FILE for given ones"),
    "another grid": (["--preset", "paper"], "was made for another representation than that of preset paper"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_split_that_cannot_be_is_one_clear_error(
    case: str, long: Path, tmp_path: Path, command: Callable[..., Answer], tiny: None
) -> None:
    options, message = IMPOSSIBLE[case]
    answer = command("train", long, "--preset", "tiny", "-o", tmp_path / "run", *options)
    assert answer.code == 2 and message in answer.err and answer.err.count("\n") == 1, answer.err
    assert not (tmp_path / "run").exists()


def test_simulations_in_memory_are_not_split(tmp_path: Path, command: Callable[..., Answer]) -> None:
    for option in (["--validation", 9], ["--test", 9], ["--by-spectrum"], ["--labels", 9]):
        answer = command("train", "--in-memory", 9, "-o", tmp_path / "run", *option)
        assert answer.code == 2 and "divide a prepared SET" in answer.err
