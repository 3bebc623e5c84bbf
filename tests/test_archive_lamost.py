"""LAMOST low-resolution files: layouts, masks, identity, faults, and every real file."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from broadline.archives import lamost
from broadline.archives.base import Head
from broadline.archives.singles import Single
from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.spectra import Spectra
from conftest import DATA, manifest, real_files

(ARCHIVE,) = lamost.ARCHIVES
N = 300
CARDS: dict[str, Any] = {
    "TELESCOP": "LAMOST",
    "OBSID": 740103003,
    "LMJD": 58575,
    "PLANID": "HD103621N361936B01",
    "SPID": 3,
    "FIBERID": 7,
    "RA": 158.161915,
    "DEC": -35.877876,
    "OBJTYPE": "Star",
    "FIBERTYP": "Obj",
    "VACUUM": True,
    "COEFF0": 3.5682,
    "COEFF1": 0.0001,
    "CLASS": "GALAXY",
    "Z": 0.1234,
}
FORMATS = ("lamost_lr_image5", "lamost_lr_image5_nowave")
ROWS = [row for row in manifest() if row["format"] in FORMATS]


def image(seed: int = 1) -> np.ndarray:
    """Five rows as in the archive, the third one garbage."""
    rng = np.random.default_rng(seed)
    rows = np.ones((5, N), dtype=np.float32)
    rows[0] = rng.normal(100, 5, N)
    rows[1] = rng.uniform(0.01, 0.1, N)
    rows[3:] = 0
    return rows


def write(path: Path, rows: np.ndarray, **cards: Any) -> Path:
    hdu = fits.PrimaryHDU(rows)
    hdu.header.update({key: value for key, value in {**CARDS, **cards}.items() if value is not None})
    hdu.writeto(path)
    return path


def write_table(
    path: Path, wavelength: np.ndarray, rows: np.ndarray, per_pixel: bool = False, **cards: Any
) -> Path:
    """The layout from DR10 on: the columns of one row of arrays, or one row a pixel."""
    data = {"FLUX": rows[0], "IVAR": rows[1], "WAVELENGTH": wavelength, "ANDMASK": rows[3], "ORMASK": rows[4]}
    code = "E" if per_pixel else f"{len(wavelength)}E"
    columns = [fits.Column(k, code, array=v if per_pixel else v[None]) for k, v in data.items()]
    primary = fits.PrimaryHDU()
    primary.header.update({**CARDS, **cards})
    del primary.header["COEFF0"], primary.header["COEFF1"]
    fits.HDUList([primary, fits.BinTableHDU.from_columns(columns, name="COADD")]).writeto(path)
    return path


def read(*paths: Path, batch: int = 100) -> list[Spectra]:
    return list(ARCHIVE.read(paths, batch))


def covered(spectra: Spectra, row: int = 0) -> np.ndarray:
    return spectra.wavelength[spectra.ivar[row] > 0]


# -- names and content ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "spec-55859-F5902_sp08-057.fits",
        "spec-55859-F5902_sp08-057.fits.gz",
        "spec-55863-GAC_105N29_B1_sp01-002.fits.gz",
        "spec-56944-EG025338N015809M01_sp06-214.fits",
        "spec-56266-GAC080N32-V4+1_sp15-012.fits",
    ],
)
def test_names_of_lamost_files_are_known(name: str) -> None:
    assert ARCHIVE.file_name.fullmatch(name)


@pytest.mark.parametrize("name", ["spec-4055-55359-0006.fits", "spec-015252-59278-4593560452.fits", "a.fits"])
def test_names_of_sdss_files_are_not_taken_for_lamost(name: str) -> None:
    assert not ARCHIVE.file_name.fullmatch(name)


def test_a_renamed_file_is_recognised_by_its_content(tmp_path: Path) -> None:
    assert ARCHIVE.recognise(Head(write(tmp_path / "a.fits", image())))
    assert ARCHIVE.recognise(
        Head(write_table(tmp_path / "b.fits", 10 ** (3.57 + 1e-4 * np.arange(N)), image()))
    )


def test_files_of_others_and_medium_resolution_are_not_recognised(tmp_path: Path) -> None:
    assert not ARCHIVE.recognise(Head(write(tmp_path / "a.fits", image(), TELESCOP="SDSS 2.5-M")))
    path = write_table(tmp_path / "b.fits", 5000.0 + np.arange(N), image())
    fits.setval(path, "EXTNAME", value="COADD_B", ext=1)
    assert not ARCHIVE.recognise(Head(path))
    (tmp_path / "c.txt").write_text("LAMOST")
    assert not ARCHIVE.recognise(Head(tmp_path / "c.txt"))


# -- the two layouts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_wavelengths_come_from_the_coefficients_not_from_the_third_row(tmp_path: Path, kind: str) -> None:
    rows = image().astype(kind)
    (spectra,) = read(write(tmp_path / "a.fits", rows))
    np.testing.assert_allclose(covered(spectra), 10 ** (3.5682 + 1e-4 * np.arange(N)), rtol=1e-9)
    np.testing.assert_array_equal(spectra.flux[spectra.ivar > 0], rows[0].astype("f4"))
    np.testing.assert_array_equal(spectra.ivar[spectra.ivar > 0], rows[1].astype("f4"))


@pytest.mark.parametrize("per_pixel", [False, True])
def test_the_table_layout_gives_what_the_image_layout_gives(tmp_path: Path, per_pixel: bool) -> None:
    rows = image()
    wavelength = 10 ** (3.5682 + 1e-4 * np.arange(N))
    (table,) = read(write_table(tmp_path / "b.fits", wavelength, rows, per_pixel))
    (plain,) = read(write(tmp_path / "a.fits", rows))
    np.testing.assert_array_equal(table.wavelength, plain.wavelength)
    np.testing.assert_array_equal(table.flux, plain.flux)
    np.testing.assert_array_equal(table.ivar, plain.ivar)
    assert all(table.ids[name][0] == plain.ids[name][0] for name in table.ids if name != "SOURCE")


def test_gzipped_files_are_read_like_plain_ones(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.fits", image())
    packed = tmp_path / "a.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    (spectra,) = read(plain, packed)
    np.testing.assert_array_equal(spectra.flux[0], spectra.flux[1])
    assert not spectra.flags.any()


def test_batches_hold_at_most_batch_spectra_in_input_order(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.fits", image(i), OBSID=i + 1) for i in range(5)]
    batches = read(*paths, batch=2)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [objid for batch in batches for objid in batch.ids["OBJID"]] == ["1", "2", "3", "4", "5"]


# -- air -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["image", "table"])
def test_wavelengths_in_air_become_vacuum_on_a_grid_of_their_own(tmp_path: Path, layout: str) -> None:
    air = 10 ** (3.5682 + 1e-4 * np.arange(N))
    path = tmp_path / "b.fits"
    path = (
        write(path, image(), VACUUM=False)
        if layout == "image"
        else write_table(path, air, image(), VACUUM=False)
    )
    batches = read(write(tmp_path / "a.fits", image()), path, write(tmp_path / "c.fits", image()))
    assert [batch.ids["SOURCE"][0][-6] for batch in batches] == ["a", "b", "c"]
    shift = batches[1].wavelength / air - 1
    assert len(batches[1].wavelength) == N
    assert ((shift > 2.75e-4) & (shift < 2.9e-4)).all()


def test_neighbours_in_air_with_one_grid_share_a_batch(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.fits", image(i), VACUUM=False) for i in range(3)]
    batches = read(*paths, batch=2)
    assert [len(batch) for batch in batches] == [2, 1]
    np.testing.assert_array_equal(batches[0].flux[1], image(1)[0])


def test_a_step_other_than_the_lattice_keeps_its_own_grid(tmp_path: Path) -> None:
    (spectra,) = read(write(tmp_path / "a.fits", image(), COEFF1=0.00013))
    np.testing.assert_allclose(spectra.wavelength, 10 ** (3.5682 + 1.3e-4 * np.arange(N)))


# -- masks and filler ----------------------------------------------------------------------------------------


def test_pixels_bad_in_every_exposure_have_ivar_0_and_those_bad_in_some_are_kept(tmp_path: Path) -> None:
    rows = image()
    rows[3, 10] = 1
    rows[4, 10:20] = 64
    (spectra,) = read(write(tmp_path / "a.fits", rows))
    assert (spectra.ivar > 0).sum() == N - 1
    assert spectra.ivar[0, np.flatnonzero(spectra.flux[0])[10]] == 0


def test_zeros_at_the_ends_and_in_runs_are_filler_whatever_their_ivar(tmp_path: Path) -> None:
    rows = image()
    rows[0, :3] = 0
    rows[0, -1] = 0  # with an ivar of its own
    rows[0, 100:102] = 0
    rows[1, 100:102] = 0.08
    (spectra,) = read(write(tmp_path / "a.fits", rows))
    assert (spectra.ivar > 0).sum() == N - 3 - 1 - 2


def test_a_lone_zero_among_data_and_repeated_ivar_of_data_are_kept(tmp_path: Path) -> None:
    rows = image()
    rows[0, 50] = 0
    rows[1, 60:90] = 0.05
    (spectra,) = read(write(tmp_path / "a.fits", rows))
    assert (spectra.ivar > 0).sum() == N


def test_a_spectrum_of_nothing_but_zeros_has_no_data(tmp_path: Path) -> None:
    rows = image()
    rows[0] = 0
    (spectra,) = read(write(tmp_path / "a.fits", rows))
    assert len(spectra) == 1
    assert not spectra.ivar.any()


def test_pixels_that_are_not_finite_are_masked_and_flagged(tmp_path: Path) -> None:
    rows = image()
    rows[0, 5] = np.nan
    rows[1, 6] = -1
    (spectra,) = read(write(tmp_path / "a.fits", rows))
    assert spectra.flags[0] == Flag.NON_FINITE | Flag.NEGATIVE_IVAR
    assert (spectra.ivar > 0).sum() == N - 2


# -- identity and flags --------------------------------------------------------------------------------------


def test_the_identity_is_that_of_the_header(tmp_path: Path) -> None:
    (spectra,) = read(write(tmp_path / "a.fits", image()))
    found = {name: column[0] for name, column in spectra.ids.items()}
    expected = {name: CARDS[name] for name in ("OBSID", "LMJD", "PLANID", "SPID", "FIBERID", "RA", "DEC")}
    assert found == expected | {
        "ARCHIVE": "lamost",
        "SOURCE": str(tmp_path / "a.fits"),
        "ROW": 0,
        "OBJID": "740103003",
    }


@pytest.mark.parametrize("fiber", [7, "7", "007"])
def test_without_obsid_the_name_is_made_of_the_plan_and_fibre(tmp_path: Path, fiber: int | str) -> None:
    (spectra,) = read(write(tmp_path / "a.fits", image(), OBSID=None, FIBERID=fiber))
    assert spectra.ids["OBJID"][0] == "58575-HD103621N361936B01-sp03-007"
    assert spectra.ids["OBSID"][0] == -1
    assert spectra.ids["FIBERID"][0] == 7


def test_a_keyword_named_in_a_comment_is_not_taken_for_the_keyword(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image())
    with fits.open(path, mode="update") as hdus:
        hdus[0].header.insert("OBSID", ("COMMENT", "where OBSID   = 5 and COEFF0  = 3.6 would be"))
    (spectra,) = read(path)
    assert spectra.ids["OBJID"][0] == "740103003"
    assert covered(spectra)[0] == pytest.approx(10**3.5682)


def test_a_header_without_identity_is_flagged_and_its_spectrum_still_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image(), OBSID=None, PLANID=None, RA=None, DEC="unknown")
    (spectra,) = read(path)
    assert spectra.flags[0] == Flag.NO_IDENTITY
    assert np.isnan([spectra.ids["RA"][0], spectra.ids["DEC"][0]]).all()
    assert (spectra.ivar > 0).sum() == N


@pytest.mark.parametrize(
    ("cards", "flag"),
    [
        ({"FIBERTYP": "Sky"}, Flag.SKY_FIBRE),
        ({"OBJTYPE": "sky"}, Flag.SKY_FIBRE),
        ({"FIBERTYP": "Dead"}, Flag.BAD_FIBRE),
        ({"FIBERTYP": "PosErr"}, Flag.BAD_FIBRE),
        ({"FIBERTYP": "Unused"}, Flag.BAD_FIBRE),
        ({"FIBERTYP": "F-Std"}, 0),
    ],
)
def test_fibres_on_sky_and_bad_fibres_are_flagged(tmp_path: Path, cards: dict[str, str], flag: int) -> None:
    (spectra,) = read(write(tmp_path / "a.fits", image(), **cards))
    assert spectra.flags[0] == flag


# -- faults --------------------------------------------------------------------------------------------------


def damaged(tmp_path: Path) -> dict[str, Path]:
    good = write(tmp_path / "good.fits", image()).read_bytes()
    cards = {"COEFF0": None}
    paths = {
        "no_coeff0": write(tmp_path / "no_coeff0.fits", image(), **cards),
        "four_rows": write(tmp_path / "four_rows.fits", image()[:4]),
        "one_dimension": write(tmp_path / "one_dimension.fits", image()[0]),
    }
    contents = {
        "empty": b"",
        "header_cut": good[:1000],
        "data_cut": good[:-4000],
        "noise": bytes(range(256)) * 40,
        "text": b"SIMPLE  = it is not",
        "gzip_cut": gzip.compress(good)[:-500],
        "lie": good.replace(b"NAXIS1  =                  300", b"NAXIS1  =           1000000000"),
        "negative": good.replace(b"NAXIS1  =                  300", b"NAXIS1  =                 -300"),
        "bitpix": good.replace(b"BITPIX  =                  -32", b"BITPIX  =                  -33"),
    }
    for name, content in contents.items():
        paths[name] = tmp_path / f"{name}.fits"
        paths[name].write_bytes(content)
    return paths | {"missing": tmp_path / "missing.fits", "folder": tmp_path}


def test_every_damaged_file_becomes_one_flagged_row_in_its_place(tmp_path: Path) -> None:
    good = write(tmp_path / "fine.fits", image())
    bad = damaged(tmp_path)
    paths = [path for one in bad.values() for path in (one, good)]
    rows = [
        (source, flag)
        for s in read(*paths, batch=4)
        for source, flag in zip(s.ids["SOURCE"], s.flags, strict=True)
    ]
    assert [source for source, _ in rows] == [str(path) for path in paths]
    assert all(flag & (Flag.UNREADABLE | Flag.BAD_WAVELENGTH) for _, flag in rows[::2])
    assert not any(flag for _, flag in rows[1::2])


def test_a_cut_file_says_how_many_bytes_it_lacks(tmp_path: Path) -> None:
    (spectra,) = read(damaged(tmp_path)["data_cut"])
    assert "cut short" in spectra.notes[0]
    assert str(2880 + 20 * N) in spectra.notes[0]


@pytest.mark.parametrize(
    "cards", [{"COEFF0": None}, {"COEFF0": 300000.0}, {"COEFF1": 0.0}, {"COEFF1": -1e-4}, {"COEFF0": "x"}]
)
def test_coefficients_that_are_no_wavelengths_are_flagged_as_such(
    tmp_path: Path, cards: dict[str, Any]
) -> None:
    (spectra,) = read(write(tmp_path / "a.fits", image(), **cards))
    assert spectra.flags[0] & Flag.BAD_WAVELENGTH
    assert "COEFF0" in spectra.notes[0]


@pytest.mark.parametrize("bad", [np.nan, 3700.0])
def test_wavelengths_of_a_table_that_do_not_increase_are_flagged(tmp_path: Path, bad: float) -> None:
    wavelength = 10 ** (3.5682 + 1e-4 * np.arange(N))
    wavelength[7] = bad
    (spectra,) = read(write_table(tmp_path / "a.fits", wavelength, image()))
    assert spectra.flags[0] & Flag.BAD_WAVELENGTH


def test_a_table_without_ivar_is_unreadable_and_says_so(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.fits", 5000.0 + np.arange(N), image())
    with fits.open(path, mode="update") as hdus:
        hdus[1].columns.change_name("IVAR", "NOISE")
    (spectra,) = read(path)
    assert spectra.flags[0] & Flag.UNREADABLE
    assert "IVAR" in spectra.notes[0]


def test_an_empty_table_is_unreadable(tmp_path: Path) -> None:
    (spectra,) = read(write_table(tmp_path / "a.fits", np.zeros(0), np.zeros((5, 0)), per_pixel=True))
    assert spectra.flags[0] & Flag.UNREADABLE


# -- truth ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "kind", "z"),
    [
        ({}, "GALAXY", 0.1234),
        ({"CLASS": "Unknown", "Z": -9999}, "", np.nan),
        ({"CLASS": "qso", "Z": 2}, "QSO", 2.0),
        ({"CLASS": "STAR", "Z": -0.0002}, "STAR", -0.0002),
        ({"CLASS": None, "Z": None}, "", np.nan),
    ],
)
def test_truth_is_class_and_redshift_of_the_header(
    tmp_path: Path, cards: dict[str, Any], kind: str, z: float
) -> None:
    path = write(tmp_path / "a.fits", image(), **cards)
    table = lamost.truth(path)
    assert table.colnames == ["SOURCE", "ROW", "OBJID", "CLASS", "Z", "ZWARNING"]
    (row,) = table
    np.testing.assert_equal(
        (row["SOURCE"], row["ROW"], row["OBJID"], row["CLASS"], row["Z"], row["ZWARNING"]),
        (str(path), 0, "740103003", kind, z, -1),
    )


def test_truth_of_a_file_that_is_not_fits_is_a_read_error(tmp_path: Path) -> None:
    (tmp_path / "a.fits").write_bytes(b"nothing of the kind")
    with pytest.raises(ReadError, match="not a FITS file"):
        lamost.truth(tmp_path / "a.fits")


# -- every real file -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(data: Path) -> list[Path]:
    return real_files(*FORMATS)


def test_real_files_all_read_without_a_flag_and_in_order(real: list[Path]) -> None:
    batches = read(*real)
    assert [source for batch in batches for source in batch.ids["SOURCE"]] == [str(path) for path in real]
    assert not any(batch.flags.any() or batch.notes for batch in batches)


def test_real_files_are_known_by_name_or_content(real: list[Path]) -> None:
    assert all(ARCHIVE.file_name.fullmatch(path.name) or ARCHIVE.recognise(Head(path)) for path in real)


def test_real_files_have_the_pixels_and_identity_of_the_manifest(real: list[Path]) -> None:
    for row, path in zip(ROWS, real, strict=True):
        item = lamost._read_one(path)
        assert isinstance(item, Single)
        loglam = 1e-4 * (item.first + np.array([0, len(item.flux) - 1]))
        assert len(item.flux) == int(row["n_pix"])
        # Within 0.04: three files carry wavelengths a sixtieth of a pixel off their own coefficients.
        np.testing.assert_allclose(10**loglam, [float(row["wave_min"]), float(row["wave_max"])], atol=0.04)
        np.testing.assert_allclose(
            [item.ids["RA"], item.ids["DEC"]], [float(row["ra"]), float(row["dec"])], atol=1e-5
        )
        assert (str(item.ids["LMJD"]), item.ids["PLANID"]) == (row["mjd"], row["plate"])
        assert f"sp{item.ids['SPID']:02d}-{item.ids['FIBERID']:03d}" == row["fiber"]


def test_real_files_lose_no_more_pixels_than_documented(real: list[Path]) -> None:
    lost = 0
    for path in real:
        item = lamost._read_one(path)
        lost += int(((fits.getdata(path)[1] > 0) & (item.ivar == 0)).sum())
    assert lost == 1596


def test_the_narrow_reader_agrees_with_astropy_on_every_real_file(real: list[Path]) -> None:
    taken = 0
    for path in real:
        narrow = lamost._read_narrow(path, lamost.read_bytes(path))
        if narrow is None:
            assert fits.getheader(path)["BITPIX"] != -32
            continue
        taken += 1
        slow = lamost._read_with_astropy(path)
        assert isinstance(narrow, Single)
        assert isinstance(slow, Single)
        np.testing.assert_array_equal(narrow.flux, slow.flux)
        np.testing.assert_array_equal(narrow.ivar, slow.ivar)
        assert (narrow.first, narrow.flags, narrow.ids) == (slow.first, slow.flags, slow.ids)
    assert taken >= 282


def test_truth_of_real_files_is_that_of_the_manifest(real: list[Path]) -> None:
    for row in ROWS:
        (found,) = lamost.truth(DATA / row["path"])
        label = row["class_label"].upper()
        z = float(row["z_label"]) if row["z_label"] else np.nan
        assert found["CLASS"] == ("" if label == "UNKNOWN" else label)
        np.testing.assert_allclose(found["Z"], np.nan if z < -1 else z, atol=1e-6)
