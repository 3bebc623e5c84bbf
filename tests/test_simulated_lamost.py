"""Files of simulated LAMOST surveys: what was simulated comes back, by any reader of real ones."""

from __future__ import annotations

import csv
import gzip
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from broadline.archives import lamost as archive
from broadline.archives.base import Head
from broadline.errors import UsageError
from broadline.flags import Flag
from broadline.simulation.files.lamost import identity_columns, write_spectra
from broadline.simulation.files.lamost_tables import write_catalogues
from broadline.simulation.instrument import COMBINEREJ, NODATA
from broadline.simulation.instruments import LAMOST
from broadline.simulation.pointing import COLUMNS, Pointing
from broadline.simulation.scene import Scene
from broadline.spectra import Spectra
from conftest import real_files
from files import room_for

(ARCHIVE,) = archive.ARCHIVES
N = 24
SKY, DEAD = 3, 4
# Cards of real files that a simulated one does not have: weather, detectors, and how calibration went.
UNKNOWN = {"TEMPCCDB", "TEMPCCDR", "MOONPHA", "TEMP_AIR", "TEMP_FP", "DEWPOINT", "DUST", "HUMIDITY"}
UNKNOWN |= {
    "WINDD",
    "WINDS",
    "SKYLEVEL",
    "SCAMEAN",
    "SKYCHI2",
    "SCHI2MIN",
    "SCHI2MAX",
    "NSTD",
    "FSTAR",
    "FCBY",
}


def pointing(number: int = 37, visit: int = 0, n: int = N, seed: int = 1) -> Pointing:
    """A spectrograph of quasars and stars of z and magnitudes at random; one fibre on sky, one broken."""
    rng = np.random.default_rng([number, visit, seed])
    first, size = LAMOST.window
    observed = LAMOST.observe(Scene(first, np.full((n, size), 3, np.float32), {}), rng.uniform(1, 9, n), rng)
    observed.flux[DEAD], observed.ivar[DEAD], observed.and_mask[DEAD] = 0, 0, NODATA
    table = {name: np.zeros((n, length) if length else n, code) for name, (code, length) in COLUMNS.items()}
    table["THING_ID"][:] = 10_000 * number + np.arange(n)
    table["FIBER"][:] = np.arange(n) + 5
    table["RA"][:], table["DEC"][:] = rng.uniform(0, 360, n), rng.uniform(-9, 80, n)
    table["PSFMAG"][:] = rng.uniform(16, 21, (n, 5))
    table["PSFMAG"][5, 0] = 0
    table["TRUE_CLASS"][:] = table["FIT_CLASS"][:, 0] = np.where(np.arange(n) % 2, "QSO", "STAR")
    table["FIT_SUBCLASS"][:, 0] = np.where(np.arange(n) % 2, "BROADLINE", "K5V (1234)")
    table["FIT_Z"][:, 0] = table["TRUE_Z"][:] = np.where(np.arange(n) % 2, rng.uniform(0, 5, n), 1e-4)
    table["FIT_Z_ERR"][:] = 2e-4
    table["FIT_ZWARNING"][6, 0], table["FIT_ZWARNING"][8, 0] = 4, 16
    table["CLASS_PERSON"][:] = np.where(np.arange(n) % 2, np.where(np.arange(n) % 3, 3, 30), 1)
    table["Z_CONF_PERSON"][:] = 3
    table["Z_CONF_PERSON"][7] = 2
    table["BAL_FLAG_VI"][:] = table["CLASS_PERSON"] == 30
    table["Z_VI"][:] = table["TRUE_Z"]
    for row, what in ((SKY, "SKY"), (DEAD, "DEAD")):
        table["THING_ID"][row], table["CLASS_PERSON"][row] = -1, 0
        table["TRUE_CLASS"][row], table["TRUE_SUBCLASS"][row] = "SKY", what
    return Pointing("lamost", number, visit, LAMOST, observed, table)


def chunk(one: Pointing) -> dict[str, Any]:
    return {**one.table, **identity_columns(one)}


def written(folder: Path, one: Pointing) -> list[Path]:
    """The files of a pointing, by fibre."""
    write_spectra(one, folder)
    return sorted(folder.rglob("*.fits.gz"))


def read(paths: list[Path]) -> Spectra:
    (spectra,) = ARCHIVE.read(paths, 1000)
    return spectra


@pytest.fixture(scope="module")
def one() -> Pointing:
    return pointing()


@pytest.fixture(scope="module")
def paths(one: Pointing, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return written(tmp_path_factory.mktemp("survey"), one)


# -- spectra -------------------------------------------------------------------------------------------------


def test_a_file_lies_where_the_archive_keeps_it_and_has_a_name_of_the_archive(paths: list[Path]) -> None:
    assert len(paths) == N
    assert paths[0].parts[-4:] == ("spectra", "58003", "BLSIM00002", "spec-58003-BLSIM00002_sp06-005.fits.gz")
    assert all(ARCHIVE.file_name.fullmatch(path.name) and ARCHIVE.recognise(Head(path)) for path in paths)


def test_flux_and_ivar_come_back_to_the_bit_and_masked_pixels_with_an_ivar_of_0(
    one: Pointing, paths: list[Path]
) -> None:
    spectra, n_pixels = read(paths), len(LAMOST.wavelength)
    start = np.searchsorted(spectra.wavelength, LAMOST.wavelength[0] - 0.1)  # batches have empty margins
    pixels = slice(start, start + n_pixels)
    np.testing.assert_allclose(spectra.wavelength[pixels], LAMOST.wavelength, rtol=1e-12)
    np.testing.assert_array_equal(spectra.flux[:, pixels], one.observed.flux)
    np.testing.assert_array_equal(spectra.ivar[:, pixels], one.observed.ivar)
    assert not spectra.ivar[:, pixels][one.observed.and_mask != 0].any()
    assert (one.observed.and_mask[:DEAD] & COMBINEREJ).any()


def test_identity_comes_back(one: Pointing, paths: list[Path]) -> None:
    ids, columns = read(paths).ids, identity_columns(one)
    for name in ("LMJD", "PLANID", "SPID", "FIBERID", "OBSID"):
        assert ids[name].tolist() == columns[name].tolist(), name
    for name in ("RA", "DEC"):
        np.testing.assert_allclose(ids[name], one.table[name], atol=6e-7)


def test_fibres_on_sky_and_broken_ones_are_flagged_and_no_others(paths: list[Path]) -> None:
    flags = read(paths).flags
    assert flags[SKY] & Flag.SKY_FIBRE and flags[DEAD] & Flag.BAD_FIBRE
    assert not np.delete(flags, [SKY, DEAD]).any()


def test_truth_is_what_the_pipeline_said_and_a_warning_is_the_class_unknown(
    one: Pointing, paths: list[Path]
) -> None:
    rows = [archive.truth(path)[0] for path in paths]
    doubted = {SKY, DEAD, 6}  # 8 has many outliers alone
    for i, row in enumerate(rows):
        assert row["CLASS"] == ("" if i in doubted else one.table["FIT_CLASS"][i, 0])
        z = np.nan if i in doubted else one.table["FIT_Z"][i, 0]
        np.testing.assert_allclose(row["Z"], z, atol=6e-9)


def test_a_header_says_what_is_known_of_its_spectrum(one: Pointing, paths: list[Path]) -> None:
    header = fits.getheader(paths[0])
    expected = {
        "FILENAME": "spec-58003-BLSIM00002_sp06-005.fits",
        "OBSID": 506005,
        "LMJD": 58003,
        "MJD": 58002,
        "DATE-OBS": "2017-09-06T14:00:00",
        "OBJNAME": "370000",
        "OBJTYPE": "QSO",
        "FIBERTYP": "Obj",
        "SUBCLASS": "K5V",
        "NSKIES": 1,
        "COEFF0": 3.5682,
        "ORIGIN": "broadline simulation",
        "OFFSET": False,
        "DC-FLAG": 1,
    }
    assert {name: header[name] for name in expected} == expected
    for i, band in enumerate("UGRIZ"):
        assert header[f"MAG{i + 1}"] == pytest.approx(one.table["PSFMAG"][0, i], abs=0.0051)
        assert header[f"SNR{band}"] == pytest.approx(identity_columns(one)[f"SNR{band}"][0], abs=0.0051)
    assert fits.getheader(paths[5])["MAG1"] == 99
    assert [fits.getheader(paths[i])["FIBERTYP"] for i in (SKY, DEAD)] == ["Sky", "Dead"]
    assert [fits.getheader(paths[i])[name] for i in (6,) for name in ("CLASS", "SUBCLASS", "Z", "Z_ERR")] == [
        "Unknown",
        "Non",
        -9999,
        -9999,
    ]


def test_signal_to_noise_is_the_median_in_the_band(one: Pointing) -> None:
    wavelength, observed = LAMOST.wavelength, one.observed
    red = np.abs(wavelength - 6261) < 691
    expected = [
        np.median(f[red] * np.sqrt(i[red])) for f, i in zip(observed.flux, observed.ivar, strict=True)
    ]
    np.testing.assert_allclose(identity_columns(one)["SNRR"], expected, rtol=0.01)


def test_the_image_has_the_rows_of_the_archive(one: Pointing, paths: list[Path]) -> None:
    with fits.open(paths[1]) as hdus:
        assert len(hdus) == 1 and hdus[0].name == "Flux"
        data = hdus[0].data
    assert data.dtype == ">f4" and data.shape == (5, len(LAMOST.wavelength))
    np.testing.assert_allclose(data[2], LAMOST.wavelength, rtol=1e-7)
    mask = one.observed.and_mask[1]
    np.testing.assert_array_equal(data[3], 1.0 * ((mask & COMBINEREJ) > 0) + 32.0 * ((mask & NODATA) > 0))
    np.testing.assert_array_equal(data[4], data[3])


def test_files_conform_to_the_standard(paths: list[Path]) -> None:
    with fits.open(paths[0]) as hdus:
        hdus.verify("exception")
    content = gzip.decompress(paths[0].read_bytes())
    assert len(content) % 2880 == 0
    assert max(map(len, content[: content.index(b"END   ")].split(b"\n"))) % 80 == 0


def test_headers_have_the_cards_of_real_files_of_the_release(paths: list[Path], data: Path) -> None:
    real = [fits.getheader(path) for path in real_files("lamost_lr_image5")]
    dr5 = next(header for header in real if header.get("DATA_V") == "LAMOST DR5")
    ours = fits.getheader(paths[0])
    assert set(dr5) - set(ours) - {""} == UNKNOWN
    assert set(ours) <= set(dr5)
    for keyword in set(ours) - {"COMMENT", "CELL_ID", "X_VALUE", "Y_VALUE"}:
        assert type(ours[keyword]) is type(dr5[keyword]), keyword


def test_two_visits_are_other_files_of_other_numbers(tmp_path: Path) -> None:
    both = [pointing(visit=visit) for visit in (0, 1)]
    for each in both:
        write_spectra(each, tmp_path)
    assert len({path.name for path in tmp_path.rglob("*.gz")}) == 2 * N
    assert len(set(np.concatenate([identity_columns(each)["OBSID"] for each in both]))) == 2 * N


def test_numbers_of_spectra_are_unique_among_pointings() -> None:
    small = pointing(n=12)
    many = [identity_columns(replace(small, number=n, visit=v))["OBSID"] for n in range(40) for v in (0, 1)]
    assert len(set(np.concatenate(many))) == 12 * 80


def test_the_same_pointing_gives_the_same_bytes_at_any_time(tmp_path: Path, paths: list[Path]) -> None:
    again = written(tmp_path, pointing())
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
    assert paths[0].read_bytes()[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\x03"  # no name, no time


def test_a_full_disk_is_a_usage_error_and_leaves_no_half_file(tmp_path: Path, one: Pointing) -> None:
    with room_for(20_000), pytest.raises(UsageError, match=r"spec-58003-BLSIM00002_sp06-005\.fits\.gz"):
        write_spectra(one, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# -- catalogues ----------------------------------------------------------------------------------------------


NUMBERS = (0, 31, 62, 89)  # nights 58000, 58003, 58006, 58008


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("catalogues") / "new"
    chunks = [chunk(pointing(number)) for number in NUMBERS]
    names = [path.name for path in write_catalogues(iter(chunks), folder)]
    quasars = [f"lamost_{release}_quasars.fits" for release in ("dr1", "dr23", "dr45")]
    assert names == ["dr5_v3.csv.gz", *quasars]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    return folder, chunks


def rows_of(folder: Path) -> list[dict[str, str]]:
    with gzip.open(folder / "dr5_v3.csv.gz", "rt") as stream:
        return list(csv.DictReader(stream, delimiter="|"))


def test_the_general_catalogue_has_the_columns_of_dr5(survey: tuple[Path, Any]) -> None:
    columns = (
        "obsid designation obsdate lmjd mjd planid spid fiberid ra dec snru snrg snrr snri snrz objtype "
        "class subclass z z_err magtype mag1 mag2 mag3 mag4 mag5 mag6 mag7 tsource fibertype tfrom tcomment "
        "offsets offset_v ra_obs dec_obs"
    )
    assert " ".join(rows_of(survey[0])[0]) == columns


def test_the_general_catalogue_has_a_row_a_target_which_its_file_repeats(tmp_path: Path) -> None:
    one = pointing()
    headers = [fits.getheader(path) for path in written(tmp_path, one)]
    write_catalogues([chunk(one)], tmp_path)
    rows = rows_of(tmp_path)
    headers = [header for header in headers if header["FIBERTYP"] == "Obj"]
    assert len(rows) == len(headers) == N - 2
    same = (
        "obsid lmjd mjd planid spid fiberid ra dec snru snrg snrr snri snrz objtype class subclass z z_err "
    )
    same += "magtype mag1 mag2 mag3 mag4 mag5 mag6 mag7 tsource tfrom tcomment offset_v ra_obs dec_obs"
    for row, header in zip(rows, headers, strict=True):
        for name in same.split():
            value = header[name.upper()]
            assert (row[name] == value) if isinstance(value, str) else (float(row[name]) == value), name
        assert "LAMOST " + row["designation"] == header["DESIG"]
        assert row["obsdate"] == header["DATE-OBS"][:10]
        assert (row["offsets"], row["fibertype"]) == ("False", "Obj")


def test_designations_are_the_position_cut_off(tmp_path: Path) -> None:
    one = pointing()
    one.table["RA"][:2], one.table["DEC"][:2] = (353.539185, 0.0), (28.867067, -0.5)
    write_catalogues([chunk(one)], tmp_path)
    assert [row["designation"] for row in rows_of(tmp_path)[:2]] == [
        "J233409.40+285201.4",
        "J000000.00-003000.0",
    ]


def test_quasar_catalogues_hold_what_an_inspector_was_sure_of_by_thirds_of_the_survey(
    survey: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, chunks = survey
    for release, numbers in {"dr1": [0], "dr23": [1], "dr45": [2, 3]}.items():
        data = fits.getdata(folder / f"lamost_{release}_quasars.fits")
        parts = [chunks[i] for i in numbers]
        sure = [np.isin(p["CLASS_PERSON"], (3, 30)) & (p["Z_CONF_PERSON"] == 3) for p in parts]
        assert sum(map(sum, sure)) == len(data) > 0
        pairs = {"ObsID": "OBSID", "RA": "RA", "Dec": "DEC", "planID": "PLANID", "spID": "SPID"}
        pairs |= {"fiberID": "FIBERID", "z_vi": "Z_VI", "BAL_flag": "BAL_FLAG_VI"}
        for theirs, ours in pairs.items():
            expected = np.concatenate([p[ours][s] for p, s in zip(parts, sure, strict=True)])
            assert data[theirs].tolist() == expected.tolist()
        assert (data["zWarning"] == 0).all() and (data["Mi_z2"] == -9999).all()


def test_labels_are_found_as_the_transfer_learning_paper_finds_them(survey: tuple[Path, Any]) -> None:
    """By (MJD + 1, plan, spectrograph, fibre) of the quasars among the rows of the general catalogue."""
    folder, chunks = survey
    quasars = set()
    for path in folder.glob("*.fits"):
        data = fits.getdata(path)
        quasars |= set(zip(data["mjd"] + 1, data["planid"], data["spid"], data["fiberid"], strict=True))
    rows = rows_of(folder)
    keys = [(int(r["lmjd"]), r["planid"], int(r["spid"]), int(r["fiberid"])) for r in rows]
    labels = [key in quasars for key in keys]
    assert sum(labels) == len(quasars)
    sure = [(c["CLASS_PERSON"] >= 3) & (c["Z_CONF_PERSON"] == 3) for c in chunks]
    target = [c["TRUE_CLASS"] != "SKY" for c in chunks]
    assert labels == np.concatenate([s[t] for s, t in zip(sure, target, strict=True)]).tolist()


def test_catalogues_do_not_depend_on_the_chunks(tmp_path: Path, survey: tuple[Path, list[Any]]) -> None:
    folder, chunks = survey
    whole = {name: np.concatenate([c[name] for c in chunks]) for name in chunks[0]}
    for path in write_catalogues([whole], tmp_path):
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_chunks_are_read_once_and_not_kept(tmp_path: Path) -> None:
    columns: list[weakref.ref[np.ndarray]] = []

    def chunks() -> Iterator[dict[str, Any]]:
        for _ in range(5):
            assert sum(column() is not None for column in columns) <= 1
            made = chunk(pointing(n=12))
            columns.append(weakref.ref(made["FIT_RCHI2"]))
            yield made
            del made

    write_catalogues(chunks(), tmp_path)
    assert len(rows_of(tmp_path)) == 5 * 10


def test_a_survey_of_one_night_without_quasars_has_empty_quasar_catalogues(tmp_path: Path) -> None:
    one = pointing()
    one.table["CLASS_PERSON"][:] = 1
    write_catalogues([chunk(one)], tmp_path)
    for path in tmp_path.glob("*.fits"):
        data = fits.getdata(path)
        assert len(data) == 0 and "z_vi" in data.names


def test_no_table_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no table"):
        write_catalogues([], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("room", [10, 2000, 8000])
def test_a_full_disk_leaves_no_half_catalogue(
    tmp_path: Path, room: int, survey: tuple[Path, list[Any]]
) -> None:
    _, chunks = survey
    with room_for(room), pytest.raises(UsageError, match=r"make room"):
        write_catalogues(chunks * 3, tmp_path)
    for path in tmp_path.iterdir():
        assert path.suffix == ".fits"  # those were complete before
        fits.getdata(path)
