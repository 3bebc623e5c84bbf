"""Files of simulated BOSS and SDSS surveys: read back to the bit, by us and by others; truth that joins."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from specutils import Spectrum

import broadline
from broadline.archives import identify
from broadline.archives.sdss import read_spec_astropy, read_spec_fast
from broadline.errors import UsageError
from broadline.flags import Flag
from broadline.simulation.files.sdss import write_plate, write_results, write_spectra
from broadline.simulation.files.sdss_tables import sdss_name, write_catalogues
from broadline.simulation.instruments import INSTRUMENTS
from broadline.simulation.pointing import COLUMNS, N_FITS, Pointing
from broadline.simulation.scene import Scene
from conftest import DATA
from files import COMBINEREJ, room_for

N = 12
SKY = 4  # the row of the sky fibre
EXTRACT = DATA / "catalogues" / "superset_dr12q_extract.fits"
Table = dict[str, NDArray[Any]]
EVERY = pytest.mark.parametrize("archive", ["boss", "sdss"])


def truth(n: int = N, seed: int = 0) -> Table:
    """A table of targets, one of them sky, with values that differ from row to row."""
    rng = np.random.default_rng(seed)
    table: Table = {
        name: rng.integers(1, 100, (n, length) if length else n) if code[0] != "U" else np.full(1, "")
        for name, (code, length) in COLUMNS.items()
    }
    kinds = np.array(["QSO", "STAR", "GALAXY"])[rng.integers(0, 3, (n, N_FITS))]
    table |= {
        "THING_ID": 1000 * (seed + 1) + np.arange(n),
        "FIBER": np.arange(1, n + 1),
        "RA": rng.uniform(0, 360, n),
        "DEC": rng.uniform(-30, 80, n),
        "PSFMAG": rng.uniform(17, 22, (n, 5)),
        "SN": rng.uniform(1, 9, n),
        "TRUE_CLASS": np.array(["QSO", "STAR"] * n)[:n],
        "TRUE_SUBCLASS": np.full(n, "x"),
        "CLASS_PERSON": np.array([3, 1, 30, 4] * n)[:n],
        "FIT_CLASS": kinds,
        "FIT_SUBCLASS": np.where(kinds == "QSO", "BROADLINE", "F5"),
        "FIT_Z": rng.uniform(0, 4, (n, N_FITS)),
        "FIT_RCHI2": np.sort(rng.uniform(1, 2, (n, N_FITS)), axis=1),
        "FIT_ZWARNING": np.zeros((n, N_FITS)),
    }
    table["TRUE_CLASS"][SKY], table["THING_ID"][SKY], table["CLASS_PERSON"][SKY] = "SKY", -1, 0
    return table


def pointing_of(archive: str, seed: int = 0) -> Pointing:
    instrument = INSTRUMENTS[archive]
    first, size = instrument.window
    rng = np.random.default_rng(seed)
    scene = Scene(first, rng.uniform(1, 3, (N, size)).astype(np.float32), {})
    observed = instrument.observe(scene, rng.uniform(1, 9, N), rng)
    observed.ivar[2, 2000:], observed.and_mask[2, 2000:] = 0, 1 << 24  # its red arm is lost
    observed.ivar[3], observed.and_mask[3] = 0, 1 << 24  # and here everything
    return Pointing(archive, 7, 1, instrument, observed, truth())


@pytest.fixture(scope="module")
def pointings() -> dict[str, Pointing]:
    return {archive: pointing_of(archive) for archive in ("boss", "sdss")}


@pytest.fixture(scope="module")
def surveys(pointings: dict[str, Pointing], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {archive: tmp_path_factory.mktemp(archive) for archive in pointings}
    for archive, pointing in pointings.items():
        for write in (write_plate, write_results, write_spectra):
            write(pointing, folders[archive])
    return folders


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def verified(path: Path) -> fits.HDUList:
    """Open a file in which astropy finds nothing to complain about."""
    hdus = fits.open(path)
    hdus.verify("exception")
    assert path.stat().st_size == hdus[-1].fileinfo()["datLoc"] + hdus[-1].fileinfo()["datSpan"]
    return hdus


# ---- names


def test_files_of_boss_have_the_archives_names(surveys: dict[str, Path]) -> None:
    spectra = {f"spectra/lite/90007/spec-90007-58365-{fiber:04d}.fits" for fiber in range(1, N + 1)}
    plates = {"90007/spPlate-90007-58365.fits"}
    results = {f"90007/v5_7_0/{kind}-90007-58365.fits" for kind in ("spZbest", "spZall")}
    assert set(contents(surveys["boss"])) == spectra | plates | results


def test_results_of_sdss_lie_beside_the_plate_as_it_has_no_run1d(surveys: dict[str, Path]) -> None:
    names = [path.name for path in sorted((surveys["sdss"] / "90007").iterdir())]
    assert names == [f"{kind}-90007-58365.fits" for kind in ("spPlate", "spZall", "spZbest")]


@EVERY
def test_the_same_pointing_gives_the_same_bytes(
    archive: str, surveys: dict[str, Path], tmp_path: Path
) -> None:
    again = pointing_of(archive)
    for write in (write_plate, write_results, write_spectra):
        write(again, tmp_path)
    assert contents(tmp_path) == contents(surveys[archive])


def test_another_pointing_gives_other_bytes(surveys: dict[str, Path], tmp_path: Path) -> None:
    write_plate(pointing_of("boss", seed=1), tmp_path)
    ((name, content),) = contents(tmp_path).items()
    assert content != contents(surveys["boss"])[name]


def test_no_file_can_be_taken_for_an_observation(surveys: dict[str, Path]) -> None:
    for path in surveys["boss"].rglob("*.fits"):
        assert fits.getheader(path)["ORIGIN"] == "broadline simulation"


def test_a_pointing_of_another_archive_is_refused(pointings: dict[str, Pointing], tmp_path: Path) -> None:
    wrong = replace(pointings["boss"], archive="desi")
    for write in (write_plate, write_results, write_spectra):
        with pytest.raises(ValueError, match="no SDSS files of 'desi'"):
            write(wrong, tmp_path)
    assert contents(tmp_path) == {}


# ---- plates


@EVERY
def test_a_plate_comes_back_to_the_bit(
    archive: str, pointings: dict[str, Pointing], surveys: dict[str, Path]
) -> None:
    pointing, path = pointings[archive], surveys[archive] / "90007" / "spPlate-90007-58365.fits"
    assert identify(path).name == "sdss-plate"
    (spectra,) = broadline.read(path)
    observed = pointing.observed
    assert spectra.flux.tobytes() == observed.flux.tobytes()
    assert spectra.ivar.tobytes() == observed.ivar.tobytes()
    assert (spectra.ivar[observed.and_mask & COMBINEREJ != 0] == 0).all()
    assert np.allclose(spectra.wavelength, pointing.instrument.wavelength, rtol=1e-12)
    assert np.flatnonzero(spectra.flags & Flag.SKY_FIBRE).tolist() == [SKY]
    assert np.array_equal(spectra.ids["RA"], pointing.table["RA"])
    assert spectra.ids["OBJID"][:2].tolist() == ["90007-58365-0001", "90007-58365-0002"]


@EVERY
def test_a_plate_has_the_archives_hdus(
    archive: str, pointings: dict[str, Pointing], surveys: dict[str, Path]
) -> None:
    observed, table = pointings[archive].observed, pointings[archive].table
    with verified(surveys[archive] / "90007" / "spPlate-90007-58365.fits") as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["IVAR", "ANDMASK", "ORMASK", "WAVEDISP", "PLUGMAP", "SKY"]
        images = (observed.flux, observed.ivar, observed.and_mask, observed.and_mask, observed.wdisp)
        for i, image in enumerate(images):
            assert hdus[i].data.dtype.newbyteorder("=") == image.dtype
            assert np.array_equal(hdus[i].data, image)
        assert np.array_equal(hdus["SKY"].data, observed.sky)
        plug = hdus["PLUGMAP"].data
        assert np.array_equal(plug["FIBERID"], table["FIBER"])
        assert plug["OBJTYPE"].tolist() == ["QSO"] * SKY + ["SKY"] + ["QSO"] * (N - SKY - 1)
        assert np.array_equal(plug["MAG"], table["PSFMAG"])
        targets = plug["BOSS_TARGET1"] if archive == "boss" else plug["PRIMTARGET"]
        assert np.flatnonzero(targets == 0).tolist() == [SKY]
        header = hdus[0].header
        assert (header["PLATEID"], header["MJD"], header["COEFF1"]) == (90007, 58365, 1e-4)
        assert header["COEFF0"] == {"boss": 3.5530, "sdss": 3.5801}[archive]
        assert (header["RUN2D"], header["EXPTIME"]) == {"boss": ("v5_7_0", 3600), "sdss": ("26", 2700)}[
            archive
        ]


def test_the_middle_of_a_plate_at_ra_0_is_not_at_180(pointings: dict[str, Pointing], tmp_path: Path) -> None:
    table = {**pointings["boss"].table, "RA": np.array([359.5, 0.5] * (N // 2)), "DEC": np.full(N, 10.0)}
    write_plate(replace(pointings["boss"], table=table), tmp_path)
    header = fits.getheader(next(tmp_path.rglob("spPlate*")))
    assert min(header["RA"], 360 - header["RA"]) < 1e-6
    assert header["DEC"] == pytest.approx(10, abs=1e-3)


@pytest.mark.filterwarnings("ignore")  # it grumbles at the headers and units of real files just so
@EVERY
def test_specutils_reads_plates_and_spectra(
    archive: str, pointings: dict[str, Pointing], surveys: dict[str, Path]
) -> None:
    pointing = pointings[archive]
    plate = Spectrum.read(surveys[archive] / "90007" / "spPlate-90007-58365.fits", format="SDSS spPlate")
    assert np.array_equal(plate.flux.value, pointing.observed.flux)
    assert plate.flux.unit.to_string() == "1e-17 erg / (Angstrom s cm2)"
    assert np.array_equal(plate.uncertainty.array, pointing.observed.ivar)
    # specutils counts the pixels of any spPlate from 1 where the archive counts from 0.
    wavelength = pointing.instrument.wavelength * 10**1e-4
    assert np.allclose(plate.spectral_axis.to_value("Angstrom"), wavelength, rtol=1e-7)
    path = surveys[archive] / "spectra" / "lite" / "90007" / "spec-90007-58365-0002.fits"
    for known in ({"format": "SDSS-III/IV spec"}, {}):  # it is recognised without being told, too
        single = Spectrum.read(path, **known)
        good = np.flatnonzero(pointing.observed.ivar[1])
        assert np.array_equal(single.flux.value, pointing.observed.flux[1, good[0] : good[-1] + 1])


# ---- results


@EVERY
def test_truth_of_a_plate_is_the_pipelines_best_fit(
    archive: str, pointings: dict[str, Pointing], surveys: dict[str, Path]
) -> None:
    table = pointings[archive].table
    found = broadline.read_truth(surveys[archive] / "90007" / "spPlate-90007-58365.fits")
    assert found["CLASS"].tolist() == table["FIT_CLASS"][:, 0].tolist()
    assert np.array_equal(found["Z"], table["FIT_Z"][:, 0].astype(np.float32))
    assert found["OBJID"].tolist() == [f"90007-58365-{fiber:04d}" for fiber in table["FIBER"]]


def test_spzbest_and_spzall_have_the_fits_in_order(
    pointings: dict[str, Pointing], surveys: dict[str, Path]
) -> None:
    table = pointings["boss"].table
    with verified(surveys["boss"] / "90007" / "v5_7_0" / "spZbest-90007-58365.fits") as hdus:
        best = hdus[1].data
        assert (hdus[1].name, hdus[0].header["VERS1D"]) == ("", "v5_7_0")
        assert np.array_equal(best["THING_ID"], table["THING_ID"])
        assert np.array_equal(best["FIBERID"], table["FIBER"])
        assert best["SUBCLASS"].tolist() == table["FIT_SUBCLASS"][:, 0].tolist()
        assert best["RCHI2DIFF"] == pytest.approx(table["FIT_RCHI2"][:, 1] - table["FIT_RCHI2"][:, 0])
        for row, kinds, z in zip(best, table["FIT_CLASS"], table["FIT_Z"], strict=True):
            others = np.flatnonzero(kinds != "QSO")
            expected = (kinds[others[0]], np.float32(z[others[0]])) if len(others) else ("", 0)
            assert (row["CLASS_NOQSO"], row["Z_NOQSO"]) == expected
    with verified(surveys["boss"] / "90007" / "v5_7_0" / "spZall-90007-58365.fits") as hdus:
        every = hdus[1].data
        assert (hdus[0].header["DIMS0"], hdus[0].header["DIMS1"]) == (N_FITS, N)
        assert np.array_equal(every["FIBERID"], np.repeat(table["FIBER"], N_FITS))
        assert np.array_equal(every["Z"], table["FIT_Z"].ravel().astype(np.float32))
        assert np.array_equal(every["CLASS"], table["FIT_CLASS"].ravel())
        assert np.array_equal(every["OBJTYPE"] == "SKY", np.repeat(np.arange(N) == SKY, N_FITS))
        assert (every["RCHI2DIFF"][N_FITS - 1 :: N_FITS] == 0).all()


# ---- spec files


def specs(surveys: dict[str, Path], archive: str) -> list[Path]:
    return sorted((surveys[archive] / "spectra" / "lite" / "90007").iterdir())


@EVERY
def test_spec_files_come_back_to_the_bit_through_both_readers(
    archive: str, pointings: dict[str, Pointing], surveys: dict[str, Path]
) -> None:
    pointing = pointings[archive]
    observed, table = pointing.observed, pointing.table
    lowest = round(np.log10(pointing.instrument.wavelength[0]) * 1e4)
    for row, path in enumerate(specs(surveys, archive)):
        good = np.flatnonzero(observed.ivar[row])
        first, last = (good[0], good[-1]) if len(good) else (0, observed.ivar.shape[1] - 1)
        for single in (read_spec_fast(path), read_spec_astropy(path)):
            assert single is not None
            assert single.first == lowest + first
            assert single.flux.tobytes() == observed.flux[row, first : last + 1].tobytes()
            assert single.ivar.tobytes() == observed.ivar[row, first : last + 1].tobytes()
            assert bool(single.flags & Flag.SKY_FIBRE) == (row == SKY)
            assert single.ids["OBJID"] == f"90007-58365-{row + 1:04d}"
            assert (single.ids["RA"], single.ids["DEC"]) == (table["RA"][row], table["DEC"][row])
            assert single.ids["THING_ID"] == table["THING_ID"][row]


def test_a_spec_file_ends_with_its_data(pointings: dict[str, Pointing], surveys: dict[str, Path]) -> None:
    paths = specs(surveys, "boss")
    whole = pointings["boss"].observed.flux.shape[1]
    with verified(paths[2]) as lost_arm, verified(paths[3]) as lost_spectrum:
        assert len(lost_arm[1].data) <= 2000
        assert lost_arm[1].data["ivar"][[0, -1]].all()
        assert len(lost_spectrum[1].data) == whole


@EVERY
def test_a_spec_file_has_the_archives_hdus(
    archive: str, pointings: dict[str, Pointing], surveys: dict[str, Path]
) -> None:
    observed, table = pointings[archive].observed, pointings[archive].table
    with verified(specs(surveys, archive)[1]) as hdus:
        names = ["COADD", {"boss": "SPALL", "sdss": "SPECOBJ"}[archive], "SPZLINE"]
        assert [hdu.name for hdu in hdus[1:]] == names
        header, pixels, result, lines = hdus[0].header, hdus[1].data, hdus[2].data, hdus[3].data
        columns = ["flux", "loglam", "ivar", "and_mask", "or_mask", "wdisp", "sky", "model"]
        assert (hdus[1].columns.names, hdus[1].columns.formats) == (columns, list("EEEJJEEE"))
        good = np.flatnonzero(observed.ivar[1])
        part = slice(good[0], good[-1] + 1)
        for name in ("and_mask", "wdisp", "sky", "model"):
            assert np.array_equal(pixels[name], getattr(observed, name)[1, part]), name
        assert np.array_equal(pixels["or_mask"], pixels["and_mask"])
        assert header["COEFF0"] == pytest.approx(pixels["loglam"][0], abs=1e-6)
        named = {name: header[name] for name in ("PLATEID", "MJD", "FIBERID", "THING_ID")}
        assert named == {"PLATEID": 90007, "MJD": 58365, "FIBERID": 2, "THING_ID": 1001}
        assert header["PLUG_RA"] == pytest.approx(table["RA"][1], abs=1e-12)
        assert header["PLUG_DEC"] == pytest.approx(table["DEC"][1], abs=1e-12)
        assert len(result) == 1
        assert (result["CLASS"][0], result["SURVEY"][0]) == (table["FIT_CLASS"][1, 0], archive)
        assert set(lines["FIBERID"]) == {2}
        assert dict(zip(lines["LINENAME"], lines["LINEWAVE"], strict=True))["H_beta"] == 4862.68


@pytest.mark.skipif(not EXTRACT.exists(), reason="real data not present (set BROADLINE_TEST_DATA)")
def test_columns_of_spec_files_have_the_types_of_a_real_one(surveys: dict[str, Path]) -> None:
    real = DATA / "real" / "boss" / "BoquanErwinChen_SDSS_Spectrum" / "spec-4055-55359-0010.fits"
    with fits.open(real) as known, fits.open(specs(surveys, "boss")[0]) as ours:
        assert repr(ours[1].columns.dtype) == repr(known[1].columns.dtype)
        assert repr(ours[3].columns.dtype) == repr(known[3].columns.dtype)
        formats = dict(zip(known[2].columns.names, known[2].columns.formats, strict=True))
        for column in ours[2].columns:
            if column.name not in ("SURVEY", "INSTRUMENT", "SOURCETYPE", "RUN2D", "RUN1D"):
                assert column.format == formats[column.name], column.name
        assert set(ours[0].header) <= set(known[0].header) | {"ORIGIN", "WCSDIM"}


# ---- catalogues


@EVERY
def test_a_folder_of_a_survey_is_read_as_its_spectra_alone(
    archive: str, pointings: dict[str, Pointing], tmp_path: Path
) -> None:
    for write, found in ((write_plate, "sdss-plate"), (write_spectra, "sdss")):
        folder = tmp_path / found
        write(pointings[archive], folder)
        write_results(pointings[archive], folder)
        write_catalogues([visits()], folder, archive)
        batches = list(broadline.read(folder))
        assert sum(len(batch) for batch in batches) == N
        assert {name for batch in batches for name in batch.ids["ARCHIVE"]} == {found}


def visits(n: int = N, seed: int = 0, number: int = 7) -> Table:
    """Both visits to a field: all objects, then the second, third and sixth again."""
    first = {
        "PLATE": np.full(n, 90_000 + number),
        "MJD": np.full(n, 58_000),
        **typed(truth(n, seed)),
    }
    again = {name: column[[1, 2, 5]] for name, column in first.items()}
    again["MJD"], again["FIBER"] = again["MJD"] + 365, np.array([1, 2, 3])
    again["SN"] = np.array([20.0, 0.1, 0.1], dtype=np.float32)
    table = {name: np.concatenate([first[name], again[name]]) for name in first}
    return {**table, "FIBERID": table["FIBER"]}


def typed(table: Table) -> Table:
    return {name: table[name].astype(code) for name, (code, _) in COLUMNS.items()}


Catalogues = dict[str, fits.FITS_rec]


@pytest.fixture(scope="module")
def catalogues(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Catalogues]:
    def make(archive: str) -> Catalogues:
        folder = tmp_path_factory.mktemp(archive)
        paths = write_catalogues(iter([visits(), visits(seed=1, number=8)]), folder / "new", archive)
        names = ["Superset_DR12Q.fits", "specObj-dr14.fits", "DR14Q_v4_4.fits"]
        assert paths == [folder / "new" / name for name in names]
        assert sorted(contents(folder / "new")) == sorted(names)
        return {path.name.split("_")[0].split("-")[0]: verified(path)[1].data for path in paths}

    return make


def test_the_superset_lists_every_spectrum_of_a_target(catalogues: Callable[[str], Catalogues]) -> None:
    superset = catalogues("boss")["Superset"]
    table = visits()
    target = table["TRUE_CLASS"] != "SKY"
    assert len(superset) == 2 * (N + 3 - 1)
    head = superset[: N + 2]
    for name in ("RA", "DEC", "THING_ID", "PLATE", "MJD", "FIBERID", "Z_VI", "CLASS_PERSON"):
        assert np.array_equal(head[name], table[name][target]), name
    for name in ("Z_CONF_PERSON", "BAL_FLAG_VI", "BI_CIV", "PSFMAG"):
        assert np.array_equal(head[name], table[name][target]), name
    assert np.array_equal(head["Z_PIPE"], table["FIT_Z"][target, 0].astype(np.float32))
    assert head["PSFFLUX"] == pytest.approx(10 ** (0.4 * (22.5 - table["PSFMAG"][target])), rel=1e-5)
    assert (superset["BOSS_TARGET1"] == 1 << 40).all()


@pytest.mark.skipif(not EXTRACT.exists(), reason="real data not present (set BROADLINE_TEST_DATA)")
def test_the_superset_has_the_columns_of_the_real_one_and_two_more(tmp_path: Path) -> None:
    ours = write_catalogues([visits()], tmp_path, "boss")[0]
    with fits.open(EXTRACT) as real, fits.open(ours) as hdus:
        assert hdus[1].name == real[1].name
        formats = [(column.name, column.format) for column in real[1].columns]
        assert [(c.name, c.format) for c in hdus[1].columns[:-2]] == formats
        assert hdus[1].columns.names[-2:] == ["BAL_FLAG_VI", "BI_CIV"]


@pytest.mark.skipif(not EXTRACT.exists(), reason="real data not present (set BROADLINE_TEST_DATA)")
def test_names_are_those_that_sdss_gave_where_the_last_digit_is_not_in_doubt() -> None:
    real = fits.getdata(EXTRACT, 1)
    ra, dec = np.asarray(real["RA"], float), np.asarray(real["DEC"], float)
    seconds = ra / 15 * 360_000
    clear = np.abs(seconds - np.rint(seconds)) > 0.002
    assert clear.sum() > 0.95 * len(real)
    assert sdss_name(ra, dec)[clear].astype(str).tolist() == real["SDSS_NAME"][clear].tolist()


@given(st.floats(0, 359.9999999), st.floats(-89.9, 89.9))
def test_a_name_says_where_the_object_is(ra: float, dec: float) -> None:
    (name,) = sdss_name(np.array([ra]), np.array([dec])).astype(str)
    assert len(name) == 18
    found = 15 * (int(name[:2]) + int(name[2:4]) / 60 + float(name[4:9]) / 3600)
    angle = int(name[10:12]) + int(name[12:14]) / 60 + float(name[14:]) / 3600
    assert -1e-7 < ra - found < 15 * 0.0100001 / 3600
    assert -1e-7 < abs(dec) - angle < 0.1000001 / 3600
    assert name[9] == ("-" if dec < 0 else "+")


@EVERY
def test_specobj_lists_every_spectrum(archive: str, catalogues: Callable[[str], Catalogues]) -> None:
    listed = catalogues(archive)["specObj"]
    table = visits()
    assert len(listed) == 2 * (N + 3)
    head = listed[: N + 3]
    for name in ("PLATE", "MJD", "FIBERID", "THING_ID"):
        assert np.array_equal(head[name], table[name]), name
    assert head["CLASS"].tolist() == table["FIT_CLASS"][:, 0].tolist()
    assert np.array_equal(head["SN_MEDIAN_ALL"], table["SN"])
    assert set(listed["SURVEY"]) == {archive} and set(listed["INSTRUMENT"]) == {archive.upper()}
    assert set(listed["RUN2D"]) == {{"boss": "v5_7_0", "sdss": "26"}[archive]}
    assert head["SOURCETYPE"][SKY] == "SKY" and (head["SOURCETYPE"] == "SKY").sum() == 1
    # The second visit to object 1 is deeper, those to 2 and 5 are not; sky is nobody's best spectrum.
    primary = [int(row not in (1, SKY, 13, 14)) for row in range(N + 3)]
    assert head["SPECPRIMARY"].tolist() == primary
    assert head["SPECBOSS" if archive == "boss" else "SPECLEGACY"].tolist() == primary
    assert not head["SPECLEGACY" if archive == "boss" else "SPECBOSS"].any()
    assert head["NSPECOBS"].tolist() == [2 if row in (1, 2, 5, 12, 13, 14) else 1 for row in range(N + 3)]


@EVERY
def test_specobjid_is_text_and_unique_and_packed_as_in_sdss(
    archive: str, catalogues: Callable[[str], Catalogues]
) -> None:
    listed = catalogues(archive)["specObj"]
    assert listed.columns["SPECOBJID"].format == "22A"
    numbers = [int(text) for text in listed["SPECOBJID"]]
    assert len(set(numbers)) == len(numbers)
    number = numbers[3]
    assert number >> 50 == 90_007 % (1 << 14)
    assert number >> 38 & 0xFFF == listed["FIBERID"][3]
    assert (number >> 24 & 0x3FFF) + 50_000 == listed["MJD"][3]
    assert number >> 10 & 0x3FFF == {"boss": 700, "sdss": 26}[archive]


def test_a_warned_visit_is_not_the_primary_one(tmp_path: Path) -> None:
    table = visits()
    table["FIT_ZWARNING"][12, 0] = 4  # the deeper visit to object 1
    listed = fits.getdata(write_catalogues([table], tmp_path, "boss")[1], 1)
    assert listed["SPECPRIMARY"][[1, 12]].tolist() == [1, 0]


@EVERY
def test_dr14q_has_a_row_for_each_quasar_and_its_other_visits_beside_it(
    archive: str, catalogues: Callable[[str], Catalogues]
) -> None:
    quasars, table = catalogues(archive)["DR14Q"], visits()
    head = quasars[quasars["PLATE"] == 90_007]
    assert len(quasars) == 2 * len(head)
    # Objects 0, 2, 6, 8 and 10 were called quasars (4 is sky); only 2 of them was seen again.
    assert head["THING_ID"].tolist() == [1000, 1002, 1006, 1008, 1010]
    assert head["N_SPEC"].tolist() == [0, 1, 0, 0, 0]
    here, there = (f"N_SPEC_{name}" for name in (archive.upper(), {"boss": "SDSS", "sdss": "BOSS"}[archive]))
    assert np.array_equal(head[here], head["N_SPEC"]) and not head[there].any()
    for name, other in (("PLATE", 90_007), ("MJD", 58_365), ("FIBERID", 2)):
        column = head[f"{name}_DUPLICATE"]
        assert column.shape == (5, 51)
        assert column[1, 0] == other
        assert (np.delete(column.ravel(), 51) == -1).all()
    assert head["SPECTRO_DUPLICATE"].shape == (5, 51)
    assert head["SPECTRO_DUPLICATE"][1, 0] == head["SPECTRO"][1] == archive.upper()
    assert not (np.delete(head["SPECTRO_DUPLICATE"].ravel(), 51) != "").any()
    assert np.array_equal(head["Z"], table["Z_VI"][[0, 2, 6, 8, 10]])
    assert set(head["SOURCE_Z"]) == {"VI"}
    assert np.array_equal(head["BI_CIV"], table["BI_CIV"][[0, 2, 6, 8, 10]])


def test_in_dr14q_a_visit_at_which_it_was_called_a_quasar_stands_for_an_object(tmp_path: Path) -> None:
    table = visits()
    table["CLASS_PERSON"][12] = 30  # object 1, at first taken for a star
    table["Z_VI"][12] = np.nan
    table["CLASS_PERSON"][13] = 4  # object 2, at first taken for a quasar
    quasars = fits.getdata(write_catalogues([table], tmp_path, "boss")[2], 1)
    row = quasars[quasars["THING_ID"] == 1001][0]
    assert (row["MJD"], row["MJD_DUPLICATE"][0]) == (58_365, 58_000)
    assert (row["SOURCE_Z"], row["Z"], row["Z_VI"]) == ("PIPE", row["Z_PIPE"], -1)
    row = quasars[quasars["THING_ID"] == 1002][0]
    assert (row["MJD"], row["MJD_DUPLICATE"][0]) == (58_000, 58_365)


def test_catalogues_do_not_depend_on_how_rows_were_divided(tmp_path: Path) -> None:
    parts = [visits(), visits(seed=1, number=8)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    one = write_catalogues(parts, tmp_path / "a", "boss")
    two = write_catalogues([whole], tmp_path / "b", "boss")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    chunk = visits(1000)

    def peak(n: int) -> int:
        tracemalloc.start()
        write_catalogues((chunk for _ in range(n)), tmp_path, "boss")
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(1)  # what is computed once
    assert peak(12) < 1.2 * peak(3)


def test_without_tables_there_are_no_catalogues(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no table"):
        write_catalogues([], tmp_path, "boss")
    assert contents(tmp_path) == {}


def test_a_survey_without_quasars_has_an_empty_dr14q(tmp_path: Path) -> None:
    table = visits()
    table["CLASS_PERSON"][:] = 1
    with verified(write_catalogues([table], tmp_path, "boss")[2]) as hdus:
        assert len(hdus[1].data) == 0
        assert hdus[1].data["PLATE_DUPLICATE"].shape == (0, 51)


# ---- disks that are full


@pytest.mark.parametrize("write", [write_plate, write_results, write_spectra])
def test_on_a_full_disk_no_half_file_is_left(
    write: Callable[[Pointing, Path], None], pointings: dict[str, Pointing], tmp_path: Path
) -> None:
    with room_for(5000), pytest.raises(UsageError, match=r"90007.*\.fits: cannot be written .*make room"):
        write(pointings["boss"], tmp_path)
    assert contents(tmp_path) == {}


def test_a_full_disk_leaves_the_spec_files_that_were_whole(
    pointings: dict[str, Pointing], surveys: dict[str, Path], tmp_path: Path
) -> None:
    ivar = pointings["boss"].observed.ivar.copy()
    ivar[:3, 2000:] = 0  # short spectra, as the third is in any case
    pointing = replace(pointings["boss"], observed=replace(pointings["boss"].observed, ivar=ivar))
    room = specs(surveys, "boss")[2].stat().st_size + 5000
    with room_for(room), pytest.raises(UsageError, match=r"spec-90007-58365-0004\.fits"):
        write_spectra(pointing, tmp_path)
    assert sorted(Path(name).name for name in contents(tmp_path)) == [
        f"spec-90007-58365-{fiber:04d}.fits" for fiber in (1, 2, 3)
    ]


def test_a_full_disk_leaves_no_catalogue(tmp_path: Path) -> None:
    with room_for(20_000), pytest.raises(UsageError, match=r"\.fits: cannot be written"):
        write_catalogues((visits() for _ in range(5)), tmp_path, "boss")
    assert contents(tmp_path) == {}


def test_tables_that_fail_leave_no_catalogue_and_keep_their_error(tmp_path: Path) -> None:
    def tables() -> Iterator[Table]:
        yield visits()
        raise OSError("the third disk is gone")

    with pytest.raises(OSError, match="the third disk"):
        write_catalogues(tables(), tmp_path, "boss")
    assert contents(tmp_path) == {}


def test_a_folder_that_is_a_file_is_named(pointings: dict[str, Pointing], tmp_path: Path) -> None:
    (tmp_path / "survey").write_text("")
    with pytest.raises(UsageError, match="survey"):
        write_plate(pointings["boss"], tmp_path / "survey")
