"""Files of simulated DESI surveys: what was simulated comes back, by any reader of real ones."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy.sparse import dia_array

from broadline.archives import desi as archive
from broadline.archives.base import Head
from broadline.errors import UsageError
from broadline.flags import Flag
from broadline.simulation.files.desi import identity_columns, write_coadd, write_truth
from broadline.simulation.files.desi_tables import write_catalogues
from broadline.simulation.instrument import COMBINEREJ, NODATA
from broadline.simulation.instruments import DESI
from broadline.simulation.pointing import COLUMNS, Pointing
from broadline.simulation.scene import Scene
from broadline.spectra import Spectra
from conftest import DATA
from files import room_for

(ARCHIVE,) = archive.ARCHIVES
N = 12
SKY, DEAD = 3, 4
TARGETS = [row for row in range(N) if row not in (SKY, DEAD)]
REAL = DATA / "real" / "desi" / "astropy_specutils" / "coadd-5-169-thru20210419.fits.gz"
FOLDER = "tiles/cumulative/90003/20170907"


def pointing(number: int = 37, visit: int = 0) -> Pointing:
    """A petal of quasars and galaxies; one fibre on sky, one broken."""
    rng = np.random.default_rng([number, visit])
    first, size = DESI.window
    observed = DESI.observe(Scene(first, np.full((N, size), 3, np.float32), {}), rng.uniform(1, 9, N), rng)
    observed.flux[DEAD], observed.ivar[DEAD], observed.and_mask[DEAD] = 0, 0, NODATA
    rng = np.random.default_rng(number)  # objects are the same at every visit
    table = {name: np.zeros((N, length) if length else N, code) for name, (code, length) in COLUMNS.items()}
    table["THING_ID"][:] = 10_000 * number + np.arange(N)
    table["FIBER"][:] = np.arange(N) + 1
    table["RA"][:], table["DEC"][:] = rng.uniform(0, 360, N), rng.uniform(-9, 80, N)
    table["PSFMAG"][:] = rng.uniform(16, 21, (N, 5))
    table["PSFMAG"][5, 1] = 0
    quasar = np.arange(N) % 2 == 1
    table["TRUE_CLASS"][:] = np.where(quasar, "QSO", "GALAXY")
    table["TRUE_SUBCLASS"][:] = np.where(quasar, "BROADLINE", "STARFORMING")
    table["TRUE_Z"][:] = rng.uniform(0, 5, N)
    table["TRUE_BI_CIV"][:], table["TRUE_LOBAL"][7] = rng.uniform(0, 9000, N), True
    table["FIT_CLASS"][:, 0], table["FIT_CLASS"][:, 1] = table["TRUE_CLASS"], "STAR"
    table["FIT_SUBCLASS"][:, 0] = "A"
    table["FIT_Z"][:] = rng.uniform(0, 5, (N, 5))
    table["FIT_Z_ERR"][:], table["FIT_DOF"][:] = 2e-4, 7000
    table["FIT_RCHI2"][:] = [1.0, 1.125, 1.25, 1.5, 2.0]
    table["FIT_ZWARNING"][6, 0] = 4
    for row, what in ((SKY, "SKY"), (DEAD, "DEAD")):
        table["THING_ID"][row] = -1
        table["TRUE_CLASS"][row], table["TRUE_SUBCLASS"][row] = "SKY", what
    return Pointing("desi", number, visit, DESI, observed, table)


def chunk(*visits: Pointing) -> dict[str, Any]:
    parts = [{**one.table, **identity_columns(one)} for one in visits]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.fixture(scope="module")
def one() -> Pointing:
    return pointing()


@pytest.fixture(scope="module")
def coadd(one: Pointing, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coadd with the redrock file beside it."""
    folder = tmp_path_factory.mktemp("survey") / "new"
    write_coadd(one, folder)
    write_truth(one, folder)
    (path,) = folder.rglob("coadd-*")
    return path


def read(path: Path) -> Spectra:
    (spectra,) = ARCHIVE.read([path], 1000)
    return spectra


# -- spectra -------------------------------------------------------------------------------------------------


def test_files_lie_where_the_archive_keeps_them_and_have_names_of_the_archive(coadd: Path) -> None:
    root = coadd.parents[4]
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert files == [f"{FOLDER}/{kind}-7-90003-thru20170907.fits" for kind in ("coadd", "redrock")]
    assert ARCHIVE.file_name.fullmatch(coadd.name) and ARCHIVE.recognise(Head(coadd))


def test_flux_and_ivar_come_back_to_the_bit_and_masked_pixels_with_an_ivar_of_0(
    one: Pointing, coadd: Path
) -> None:
    spectra = read(coadd)
    wavelength, slices = DESI.wavelength, DESI.slices
    lattice = np.rint((wavelength - 3600) / 0.8).astype(int)
    np.testing.assert_allclose(spectra.wavelength[lattice], wavelength, rtol=1e-12)
    parts = [
        (lattice[pixels.start], one.observed.flux[:, pixels], one.observed.ivar[:, pixels])
        for pixels in slices.values()
    ]
    flux, ivar = archive.merge(parts)
    np.testing.assert_array_equal(spectra.flux, flux)
    np.testing.assert_array_equal(spectra.ivar, ivar)
    alone = np.bincount(lattice)[lattice] == 1
    np.testing.assert_array_equal(spectra.flux[:, lattice[alone]], one.observed.flux[:, alone])
    assert not spectra.ivar[:, lattice[alone]][(one.observed.and_mask != 0)[:, alone]].any()


def test_identity_and_flags_come_back(one: Pointing, coadd: Path) -> None:
    spectra, columns = read(coadd), identity_columns(one)
    assert spectra.ids["TARGETID"].tolist() == columns["TARGETID"].tolist()
    assert spectra.ids["FIBERID"].tolist() == columns["FIBER"].tolist() == list(range(3500, 3500 + N))
    assert spectra.ids["RA"].tolist() == one.table["RA"].tolist()
    assert spectra.ids["DEC"].tolist() == one.table["DEC"].tolist()
    assert spectra.ids["DESI_TARGET"][TARGETS].tolist() == [4] * len(TARGETS)
    assert spectra.flags[SKY] & Flag.SKY_FIBRE and spectra.flags[DEAD] & Flag.BAD_FIBRE
    assert not spectra.flags[TARGETS].any()


def test_fibres_without_a_target_have_negative_numbers_of_their_own() -> None:
    ids = np.concatenate([identity_columns(pointing(number))["TARGETID"] for number in (0, 1, 10, 37)])
    assert len(set(ids.tolist())) == len(ids)
    assert (ids < 0).sum() == 8
    assert identity_columns(pointing())["TARGETID"][SKY] == -(90003 * 10_000 + 7003)


def test_hdus_are_those_of_real_files_with_their_types_and_units(coadd: Path, data: Path) -> None:
    with fits.open(coadd) as ours, fits.open(REAL) as real:
        ours.verify("exception")
        assert [hdu.name for hdu in ours] == [hdu.name for hdu in real]
        for mine, other in zip(ours[3:-1], real[3:-1], strict=True):
            assert mine.data.dtype == other.data.dtype, mine.name
            assert mine.data.shape[mine.data.ndim > 1 :] == other.data.shape[other.data.ndim > 1 :]
            assert mine.header.get("BUNIT") == other.header.get("BUNIT")
            assert mine.header.get("BZERO") == other.header.get("BZERO")
            if mine.name.endswith("WAVELENGTH"):
                np.testing.assert_allclose(mine.data, other.data, rtol=1e-12)
        for name in ("FIBERMAP", "EXP_FIBERMAP", "SCORES"):
            mine, other = ({c.name: c.format for c in file[name].columns} for file in (ours, real))
            missing = {column for column in other.keys() - mine.keys() if not column.startswith("TSNR2_")}
            assert all(column.startswith("SV3_") for column in missing)
            assert mine.keys() - other.keys() <= {"SCND_TARGET"}
            assert {column: mine[column] for column in mine.keys() & other.keys()}.items() <= other.items()


def test_a_program_that_reads_as_desispec_does_finds_everything(one: Pointing, coadd: Path) -> None:
    """By the part of EXTNAME before and after "_", as its read_spectra does."""
    found: dict[str, dict[str, Any]] = {}
    with fits.open(coadd, memmap=False) as hdus:
        for hdu in hdus[1:]:
            name = hdu.header["EXTNAME"]
            if name in ("FIBERMAP", "EXP_FIBERMAP", "SCORES"):
                found.setdefault(name, {})["table"] = Table(hdu.data)
                continue
            camera, kind = name.split("_")
            kinds = {"MASK": np.uint32, "WAVELENGTH": np.float64}
            found.setdefault(camera.lower(), {})[kind] = hdu.data.astype(kinds.get(kind, np.float32))
    for camera, pixels in DESI.slices.items():
        images, mask = found[camera], one.observed.and_mask[:, pixels]
        np.testing.assert_array_equal(images["WAVELENGTH"], DESI.wavelength[pixels])
        np.testing.assert_array_equal(images["FLUX"], one.observed.flux[:, pixels])
        np.testing.assert_array_equal(images["IVAR"], one.observed.ivar[:, pixels])
        np.testing.assert_array_equal(images["MASK"] == 2, mask == COMBINEREJ)
        np.testing.assert_array_equal(images["MASK"] & 256 != 0, mask & NODATA != 0)
        np.testing.assert_array_equal(images["MASK"] != 0, mask != 0)
        assert images["RESOLUTION"].shape == (N, 11, pixels.stop - pixels.start)
    assert {len(found[name]["table"]) for name in ("FIBERMAP", "SCORES")} == {N}
    twice = np.repeat(found["FIBERMAP"]["table"]["TARGETID"], 2)
    assert found["EXP_FIBERMAP"]["table"]["TARGETID"].tolist() == twice.tolist()


@pytest.mark.parametrize("camera", ["B", "R", "Z"])
def test_the_resolution_matrix_keeps_a_constant_and_blurs_a_line_by_wdisp(
    one: Pointing, coadd: Path, camera: str
) -> None:
    diagonals = fits.getdata(coadd, f"{camera}_RESOLUTION")
    assert (diagonals == diagonals[0]).all()
    n = diagonals.shape[2]
    # desispec.resolution.Resolution: offsets from 5 to -5.
    matrix = dia_array((diagonals[0].astype(float), np.arange(5, -6, -1)), shape=(n, n)).tocsr()
    np.testing.assert_allclose(matrix @ np.ones(n), 1, rtol=1e-6)
    line = matrix @ np.eye(n)[:, n // 3]
    x = np.arange(n) - n // 3
    sigma = one.observed.wdisp[0, DESI.slices[camera.lower()]][n // 3]
    assert line @ x == pytest.approx(0, abs=0.01)
    assert np.sqrt(line @ x**2 / line.sum()) == pytest.approx(sigma, rel=0.01)


def test_specutils_reads_the_coadd(one: Pointing, coadd: Path) -> None:
    specutils = pytest.importorskip("specutils")
    for options in ({"format": "DESI coadd"}, {}):
        cameras = specutils.SpectrumList.read(coadd, **options)
        assert len(cameras) == 3
        for spectrum, pixels in zip(cameras, DESI.slices.values(), strict=True):
            np.testing.assert_array_equal(spectrum.flux.value, one.observed.flux[:, pixels])
            np.testing.assert_array_equal(spectrum.uncertainty.array, one.observed.ivar[:, pixels])
            np.testing.assert_array_equal(spectrum.mask, one.observed.and_mask[:, pixels] != 0)
            np.testing.assert_allclose(spectrum.spectral_axis.value, DESI.wavelength[pixels])


def test_scores_are_flux_and_signal_to_noise_of_the_middle_of_each_camera(one: Pointing, coadd: Path) -> None:
    scores = fits.getdata(coadd, "SCORES")
    for camera, (low, high) in {"B": (4000, 5800), "R": (5800, 7600), "Z": (7600, 9800)}.items():
        with fits.open(coadd) as hdus:
            wavelength, flux, ivar = (hdus[f"{camera}_{x}"].data for x in ("WAVELENGTH", "FLUX", "IVAR"))
        inside = (wavelength >= low) & (wavelength < high)
        for row in range(N):
            f, i = flux[row, inside], ivar[row, inside]
            found = [scores[f"{x}_{camera}"][row] for x in ("INTEG_COADD_FLUX", "MEDIAN_COADD_FLUX")]
            np.testing.assert_allclose(found, [0.8 * f.sum(), np.median(f)], rtol=0.01, atol=0.01)
            snr = scores[f"MEDIAN_COADD_SNR_{camera}"][row]
            assert snr == pytest.approx(np.median(f * np.sqrt(i / 0.8)), rel=0.01, abs=0.01)


def test_the_fibermap_says_what_was_targeted(one: Pointing, coadd: Path) -> None:
    rows = fits.getdata(coadd, "FIBERMAP")
    assert [rows["OBJTYPE"][row] for row in (0, SKY, DEAD)] == ["TGT", "SKY", "BAD"]
    assert [rows["DESI_TARGET"][row] for row in (0, SKY, DEAD)] == [1 << 2, 1 << 32, 0]
    assert rows["COADD_FIBERSTATUS"].tolist() == [2 * (row == DEAD) for row in range(N)]
    assert rows["COADD_NUMEXP"].tolist() == [2 * (row != DEAD) for row in range(N)]
    for band, i in {"G": 1, "R": 2, "Z": 4}.items():
        expected = 10 ** (0.4 * (22.5 - one.table["PSFMAG"][:, i]))
        expected[one.table["PSFMAG"][:, i] == 0] = 0
        np.testing.assert_allclose(rows[f"FLUX_{band}"], expected, rtol=1e-6)
    assert set(rows["TILEID"]) == {90003} and set(rows["PETAL_LOC"]) == {7}
    assert len(set(rows["LOCATION"])) == N


def test_exposures_follow_each_other_in_the_night_and_make_up_the_coadd(coadd: Path) -> None:
    rows = fits.getdata(coadd, "EXP_FIBERMAP")
    assert set(rows["NIGHT"]) == {20170907}
    assert 58003 + 1 < rows["MJD"].min() < rows["MJD"].max() < 58003 + 1.6  # morning of the next day, UTC
    assert (rows["EXPID"][1::2] - rows["EXPID"][::2] == 1).all()
    total = rows["EXPTIME"].reshape(N, 2).sum(axis=1)
    alive = np.arange(N) != DEAD
    assert total[alive].tolist() == fits.getdata(coadd, "FIBERMAP")["COADD_EXPTIME"][alive].tolist()


def test_two_visits_are_other_files_of_the_same_targets(tmp_path: Path) -> None:
    both = [pointing(visit=visit) for visit in (0, 1)]
    for each in both:
        write_coadd(each, tmp_path)
    first, second = sorted(tmp_path.rglob("*.fits"))
    assert second.name == "coadd-7-90003-thru20180907.fits"
    assert read(first).ids["TARGETID"].tolist() == read(second).ids["TARGETID"].tolist()
    shots = [set(fits.getdata(path, "EXP_FIBERMAP")["EXPID"]) for path in (first, second)]
    assert not shots[0] & shots[1]


def test_the_same_pointing_gives_the_same_bytes(tmp_path: Path, coadd: Path) -> None:
    write_coadd(pointing(), tmp_path)
    write_truth(pointing(), tmp_path)
    for path in coadd.parent.iterdir():
        assert (tmp_path / FOLDER / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("write", "room"), [(write_coadd, 50_000), (write_truth, 9000)])
def test_a_full_disk_is_a_usage_error_and_leaves_no_half_file(
    tmp_path: Path, one: Pointing, write: Any, room: int
) -> None:
    with room_for(room), pytest.raises(UsageError, match=r"-7-90003-thru20170907\.fits"):
        write(one, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# -- redshifts -----------------------------------------------------------------------------------------------


def test_truth_beside_the_coadd_is_what_the_pipeline_said(one: Pointing, coadd: Path) -> None:
    found = archive.truth(coadd)
    assert found["TARGETID"].tolist() == identity_columns(one)["TARGETID"].tolist()
    assert found["CLASS"].tolist() == one.table["FIT_CLASS"][:, 0].tolist()
    assert found["Z"].tolist() == one.table["FIT_Z"][:, 0].tolist()
    assert found["ZWARNING"].tolist() == one.table["FIT_ZWARNING"][:, 0].tolist()


def test_redrock_files_have_the_columns_of_the_data_model(one: Pointing, coadd: Path) -> None:
    path = coadd.with_name(coadd.name.replace("coadd", "redrock"))
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "REDSHIFTS", "FIBERMAP"]
        columns = {column.name: column.format for column in hdus["REDSHIFTS"].columns}
        rows = hdus["REDSHIFTS"].data
        assert hdus["FIBERMAP"].data["TARGETID"].tolist() == rows["TARGETID"].tolist()
    expected = "TARGETID K CHI2 D COEFF 10D Z D ZERR D ZWARN K NPIXELS K SPECTYPE 6A SUBTYPE 20A NCOEFF K"
    assert " ".join(f"{name} {code}" for name, code in columns.items()) == f"{expected} DELTACHI2 D"
    assert (rows["CHI2"] == 7000).all() and (rows["DELTACHI2"] == 875).all()
    assert rows["NPIXELS"].tolist() == (one.observed.ivar > 0).sum(axis=1).tolist()
    assert rows["NCOEFF"][:2].tolist() == [10, 4]
    np.testing.assert_allclose(rows["ZERR"], 2e-4)


# -- catalogues ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("catalogues") / "new"
    chunks = [chunk(pointing(3), pointing(3, 1)), chunk(pointing(4)), chunk(pointing(12))]
    paths = write_catalogues(iter(chunks), folder)
    assert [path.name for path in paths] == ["zcatalog.fits", "truth.fits"]
    assert set(paths) == set(folder.iterdir())
    return folder, chunks


def test_the_redshift_catalogue_has_a_row_a_spectrum(survey: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, chunks = survey
    rows = fits.getdata(folder / "zcatalog.fits", "ZCATALOG")
    whole = {name: np.concatenate([part[name] for part in chunks]) for name in chunks[0]}
    assert len(rows) == 4 * N
    pairs = {"TARGETID": "TARGETID", "TILEID": "TILEID", "PETAL_LOC": "PETAL_LOC", "LASTNIGHT": "NIGHT"}
    pairs |= {"FIBER": "FIBER", "TARGET_RA": "RA", "TARGET_DEC": "DEC"}
    for theirs, ours in pairs.items():
        assert rows[theirs].tolist() == whole[ours].tolist(), theirs
    for theirs, ours in {"Z": "FIT_Z", "SPECTYPE": "FIT_CLASS", "ZWARN": "FIT_ZWARNING"}.items():
        assert rows[theirs].tolist() == whole[ours][:, 0].tolist(), theirs
    assert (rows["OBJTYPE"] == "TGT").sum() == 4 * len(TARGETS)


def test_the_truth_has_a_row_a_target_which_joins_the_redshifts(survey: tuple[Path, list[Any]]) -> None:
    folder, chunks = survey
    rows = fits.getdata(folder / "truth.fits", "TRUTH")
    assert len(set(rows["TARGETID"])) == len(rows) == 3 * len(TARGETS)
    true = {}
    for part in chunks:
        columns = ("TRUE_Z", "TRUE_CLASS", "TRUE_SUBCLASS", "TRUE_BI_CIV", "TRUE_LOBAL")
        true |= dict(
            zip(part["TARGETID"].tolist(), zip(*(part[c] for c in columns), strict=True), strict=True)
        )
    names = ("TRUEZ", "TRUESPECTYPE", "TRUESUBTYPE", "BI_CIV", "LOBAL")
    for row in rows:
        assert tuple(row[name] for name in names) == true[row["TARGETID"]]
    seen = fits.getdata(folder / "zcatalog.fits")
    assert set(seen["TARGETID"][seen["OBJTYPE"] == "TGT"]) == set(rows["TARGETID"])


def test_catalogues_do_not_depend_on_the_chunks(tmp_path: Path, survey: tuple[Path, list[Any]]) -> None:
    folder, chunks = survey
    whole = {name: np.concatenate([part[name] for part in chunks]) for name in chunks[0]}
    for path in write_catalogues([whole], tmp_path):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_chunks_are_read_once_and_not_kept(tmp_path: Path) -> None:
    columns: list[weakref.ref[np.ndarray]] = []

    def chunks() -> Iterator[dict[str, Any]]:
        for number in range(5):
            assert sum(column() is not None for column in columns) <= 1
            made = chunk(pointing(number))
            columns.append(weakref.ref(made["FIT_RCHI2"]))
            yield made
            del made

    write_catalogues(chunks(), tmp_path)
    assert len(fits.getdata(tmp_path / "zcatalog.fits")) == 5 * N


@pytest.mark.parametrize("room", [100, 9000])
def test_a_full_disk_leaves_no_half_catalogue(
    tmp_path: Path, room: int, survey: tuple[Path, list[Any]]
) -> None:
    with room_for(room), pytest.raises(UsageError, match=r"(zcatalog|truth)\.fits"):
        write_catalogues(survey[1], tmp_path)
    assert not list(tmp_path.iterdir())
