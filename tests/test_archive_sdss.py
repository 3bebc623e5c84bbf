"""What the SDSS readers promise, on files written here and on every real one."""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import broadline
from broadline.archives import ARCHIVES, get, identify, sdss
from broadline.archives.sdss import read_spec_astropy, read_spec_fast
from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.spectra import Spectra
from conftest import DATA, manifest, real_files
from files import (
    BRIGHTSKY,
    COMBINEREJ,
    FIRST,
    N_PIXELS,
    gzipped,
    loglam,
    observed,
    quasar,
    spec_hdus,
    unzipped,
    write_plate,
    write_results,
    write_spec,
    write_spspec,
)

SPEC = ("sdss_spec_lite", "sdss_spec_full", "sdss_spec_full_truncated")
NAME = "spec-4055-55359-0010.fits"
needs_data = pytest.mark.skipif(not manifest(), reason="real data not present (set BROADLINE_TEST_DATA)")


def rows_of(*formats: str) -> list[dict[str, str]]:
    return [row for row in manifest() if row["format"] in formats]


def read_one(path: Path, archive: str | None = None) -> Spectra:
    (spectra,) = broadline.read(path, archive)
    assert len(spectra) == 1
    return spectra


def assert_same_single(fast: Any, slow: Any) -> None:
    assert fast is not None
    assert fast.first == slow.first
    assert fast.flags == slow.flags
    # NaN equals NaN, 0.0 does not equal -0.0: the same bits.
    assert fast.flux.dtype == slow.flux.dtype.newbyteorder("=") == np.float32
    assert fast.flux.tobytes() == slow.flux.tobytes()
    assert fast.ivar.tobytes() == slow.ivar.tobytes()
    assert fast.ids.keys() == slow.ids.keys()
    for name, value in fast.ids.items():
        assert np.array_equal(value, slow.ids[name], equal_nan=isinstance(value, float)), name


# ---- real files


def check_real_spec(row: dict[str, str]) -> str:
    """Compare one real file with astropy and the manifest; return what is wrong, naming the file."""
    path = DATA / row["path"]
    hdus = sdss.open_fits(path)  # once, because this takes most of the time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sdss, "open_fits", lambda path: contextlib.nullcontext(hdus))
        slow, (truth,) = read_spec_astropy(path), sdss.truth(path)
    fast = read_spec_fast(path)
    assert_same_single(fast, slow)
    assert fast is not None
    ids = fast.ids
    wave = 10 ** ((fast.first + np.arange(len(fast.flux))) * 1e-4)
    name = f"{int(row['plate']):04d}-{int(row['mjd']):05d}-{int(row['fiber']):04d}"
    is_sky = row["objtype"] == "SKY"
    # SKY is the manifest's own word; the pipeline knows no such class
    kinds = ("STAR", "QSO", "GALAXY") if row["class_label"] == "SKY" else (row["class_label"],)
    promises = {
        "n_pix": len(fast.flux) == int(row["n_pix"]),
        "wave_min": abs(wave[0] - float(row["wave_min"])) < 0.01,
        "wave_max": abs(wave[-1] - float(row["wave_max"])) < 0.02,
        "name": ids["OBJID"] == truth["OBJID"] == name,
        "numbers": [ids[key] for key in ("PLATE", "MJD", "FIBERID")] == [int(x) for x in name.split("-")],
        "ra": abs(ids["RA"] - float(row["ra"])) < 2e-6,
        "dec": abs(ids["DEC"] - float(row["dec"])) < 2e-6,
        "objtype": bool(fast.flags & Flag.SKY_FIBRE) == is_sky == (row["truth_class"] == "SKY"),
        "class_label": truth["CLASS"] in kinds,
        "z_label": not row["z_label"] or abs(truth["Z"] - float(row["z_label"])) < 2e-6,
        "zwarning": int(truth["ZWARNING"]) == int(row["zwarning"]),
    }
    return " ".join([path.name, *(key for key, kept in promises.items() if not kept)])


@needs_data
def test_every_real_spec_file_reads_as_astropy_and_the_manifest_say() -> None:
    rows = rows_of(*SPEC)
    assert {row["format"] for row in rows} == set(SPEC)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        said = list(pool.map(check_real_spec, rows, chunksize=20))
    assert said == [Path(row["path"]).name for row in rows]


@needs_data
def test_unpacking_a_real_file_changes_nothing(tmp_path: Path) -> None:
    packed = [path for path in real_files(*SPEC) if path.suffix == ".gz"]
    for path in packed[:: len(packed) // 12]:
        plain = unzipped(path, tmp_path)
        assert_same_single(read_spec_fast(plain), read_spec_fast(path))
        assert_same_single(read_spec_fast(plain), read_spec_astropy(plain))


@needs_data
def test_real_truth_is_read_through_the_public_function() -> None:
    rows = rows_of("sdss_spec_lite")[:12]
    table = broadline.read_truth([DATA / row["path"] for row in rows])
    assert list(table["SOURCE"]) == [str(DATA / row["path"]) for row in rows]
    assert list(table["ZWARNING"]) == [int(row["zwarning"]) for row in rows]
    assert np.allclose(table["Z"], [float(row["z_label"]) for row in rows], atol=2e-6)


@needs_data
def test_the_real_dr7_file_reads_as_its_header_says() -> None:
    (row,) = rows_of("spspec_dr7")
    path = DATA / row["path"]
    assert identify(path) is ARCHIVES["sdss-dr7"]
    spectra = read_one(path)
    with fits.open(path) as hdus:
        flux, error, mask = hdus[0].data[0], hdus[0].data[2], hdus[6].data["andMask"]
    wavelength, values, ivar = spectra.wavelength, spectra.flux[0], spectra.ivar[0]
    first = int(np.argmin(abs(wavelength - float(row["wave_min"]))))
    pixels = slice(first, first + int(row["n_pix"]))
    assert abs(wavelength[pixels][-1] - float(row["wave_max"])) < 0.01
    assert np.array_equal(values[pixels], flux)
    good = (error > 0) & (mask & COMBINEREJ == 0)
    assert np.allclose(ivar[pixels], np.where(good, 1 / np.where(good, error, 1) ** 2, 0), rtol=1e-6)
    assert not ivar[:first].any() and not ivar[pixels.stop :].any()
    assert spectra.ids["OBJID"][0] == "0750-52235-0459"
    (truth,) = broadline.read_truth(path)
    assert (truth["CLASS"], int(truth["ZWARNING"])) == ("GALAXY", 0)
    assert abs(truth["Z"] - 0.020016) < 1e-6


# ---- spec files of every layout


def test_a_spec_file_gives_back_what_was_written(tmp_path: Path) -> None:
    flux, ivar = observed(quasar(2.5))
    path = write_spec(
        tmp_path / NAME, flux, ivar, plate=7, mjd=51234, fiber=3, ra=12.5, dec=-3.25, thing_id=99, kind="STAR"
    )
    spectra = read_one(path)
    wavelength, values, weights = spectra.wavelength, spectra.flux[0], spectra.ivar[0]
    first = round(np.log10(wavelength[0]) * 1e4)
    pixels = slice(FIRST - first, FIRST - first + N_PIXELS)
    assert np.array_equal(values[pixels], flux)
    assert np.array_equal(weights[pixels], ivar)
    assert np.count_nonzero(weights) == N_PIXELS
    assert np.allclose(np.log10(wavelength[pixels]), loglam(), atol=3e-7, rtol=0)
    ids = {name: column[0] for name, column in spectra.ids.items()}
    assert ids == {
        "ARCHIVE": "sdss",
        "SOURCE": str(path),
        "ROW": 0,
        "OBJID": "0007-51234-0003",
        "RA": 12.5,
        "DEC": -3.25,
        "PLATE": 7,
        "MJD": 51234,
        "FIBERID": 3,
        "THING_ID": 99,
    }
    assert spectra.flags[0] == 0
    (truth,) = broadline.read_truth(path)
    assert (truth["CLASS"], truth["Z"], truth["ZWARNING"]) == ("STAR", 2.0, 0)


FAST = {
    "as in DR12": {},
    "named as in DR8": {"names": ("COADD", "SPECOBJ", "SPZLINE")},
    "unnamed": {"names": ("", "", "")},
    "upper case": {"upper": True},
    "two HDUs": {"names": ("COADD", "SPALL")},
    "DR17 mask": {"and_mask": np.full(N_PIXELS, BRIGHTSKY)},
    "short": {"flux": quasar(1.0)[:3700], "ivar": np.ones(3700, np.float32)},
    "sky": {"objtype": "SKY"},
}


@pytest.mark.parametrize("fields", FAST.values(), ids=FAST.keys())
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_the_narrow_reader_equals_astropy(fields: dict[str, Any], packed: bool, tmp_path: Path) -> None:
    path = write_spec(tmp_path / NAME, **fields)
    path = gzipped(path) if packed else path
    assert_same_single(read_spec_fast(path), read_spec_astropy(path))


def scaled(path: Path) -> Path:
    hdus = spec_hdus()
    counts = np.rint((hdus[1].data["flux"] - 3.0) / 0.001).astype(np.int16)
    columns = [fits.Column("flux", "I", array=counts), *hdus[1].columns[1:]]
    hdus[1] = fits.BinTableHDU.from_columns(columns, name="COADD")
    hdus[1].header["TSCAL1"], hdus[1].header["TZERO1"] = 0.001, 3.0
    hdus.writeto(path)
    return path


def test_what_the_narrow_reader_does_not_know_is_read_by_astropy(tmp_path: Path) -> None:
    expected = read_spec_fast(write_spec(tmp_path / NAME))
    assert expected is not None
    alone = write_spec(tmp_path / "spec-4055-55359-0011.fits", fiber=10, names=("COADD",))
    double = write_spec(tmp_path / "spec-4055-55359-0012.fits", fiber=10, float_code="D")
    integers = scaled(tmp_path / "spec-4055-55359-0013.fits")
    for path in (alone, double, integers):
        assert read_spec_fast(path) is None
        single = read_spec_astropy(path)
        assert np.allclose(single.flux, expected.flux, atol=0.0006 if path is integers else 0)
        assert np.array_equal(single.ivar, expected.ivar)
        assert single.first == expected.first
        assert single.ids["OBJID"] == "4055-55359-0010"
        assert single.ids["RA"] == 237.5
        assert read_one(path).flags[0] == 0
    assert read_spec_astropy(alone).ids["THING_ID"] == -1
    with pytest.raises(ReadError, match=r"spec-4055-55359-0011\.fits: it has no row of pipeline results"):
        broadline.read_truth(alone)


def test_only_combinerej_masks_a_pixel(tmp_path: Path) -> None:
    mask = np.zeros(N_PIXELS, dtype=np.int64)
    for bit in range(31):
        mask[100 + bit] = 1 << bit
    mask[200] = COMBINEREJ | BRIGHTSKY
    for layout in ({}, {"float_code": "D"}):
        single = sdss._read_one(write_spec(tmp_path / NAME, and_mask=mask, **layout))
        assert np.flatnonzero(single.ivar == 0).tolist() == [125, 200]


def test_an_sdss_v_file_is_named_by_field_date_and_catalogue_id(tmp_path: Path) -> None:
    path = tmp_path / "spec-015000-59146-4375786564.fits"
    hdus = spec_hdus(upper=True)
    for keyword in ("PLATEID", "MJD", "FIBERID"):
        del hdus[0].header[keyword]
    kept = [column for column in hdus[2].columns if column.name not in ("PLATE", "MJD", "FIBERID")]
    hdus[2] = fits.BinTableHDU.from_columns(kept, name="SPALL")
    hdus.writeto(path)
    assert identify(path) is ARCHIVES["sdss"]
    spectra = read_one(path)
    assert spectra.ids["OBJID"][0] == "15000-59146-4375786564"
    assert (spectra.ids["PLATE"][0], spectra.ids["MJD"][0], spectra.ids["FIBERID"][0]) == (15000, 59146, -1)
    assert_same_single(read_spec_fast(path), read_spec_astropy(path))


@pytest.mark.parametrize(
    "x",
    [
        (loglam().astype(np.float64) + 5e-5),
        np.linspace(3.55, 4.02, N_PIXELS),
        loglam()[::-1],
        np.where(np.arange(N_PIXELS) == 77, np.nan, loglam()),
    ],
    ids=["between lattice points", "another step", "falling", "NaN"],
)
def test_wavelengths_off_the_lattice_are_flagged(x: np.ndarray, tmp_path: Path) -> None:
    spectra = read_one(write_spec(tmp_path / NAME, x=np.asarray(x, dtype=np.float32)))
    assert spectra.flags[0] & Flag.BAD_WAVELENGTH
    assert not spectra.ivar.any()
    (note,) = spectra.notes
    assert NAME in note and "lattice" in note


def test_a_spec_file_with_another_name_is_known_by_its_columns(tmp_path: Path) -> None:
    path = write_spec(tmp_path / "my favourite.fits")
    assert identify(path) is ARCHIVES["sdss"]
    assert read_one(path).ids["OBJID"][0] == "4055-55359-0010"


def test_files_of_unlike_length_share_a_batch_on_the_lattice(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    written = []
    for i, (first, n) in enumerate([(FIRST, 4600), (FIRST - 70, 4640), (35800, 3614)]):
        flux = rng.normal(5, 1, n).astype(np.float32)
        path = tmp_path / f"spec-4055-55359-{i + 1:04d}.fits"
        write_spec(path, flux, np.full(n, 2, np.float32), x=loglam(n, first), fiber=i + 1)
        written.append((first, flux))
    (spectra,) = broadline.read(tmp_path)
    origin = round(np.log10(spectra.wavelength[0]) * 1e4)
    for i, (first, flux) in enumerate(written):
        pixels = slice(first - origin, first - origin + len(flux))
        assert np.array_equal(spectra.flux[i, pixels], flux)
        assert np.count_nonzero(spectra.ivar[i]) == len(flux)


# ---- plates


@pytest.fixture
def plate(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A plate of five fibres, the third of them on the sky; what is in it."""
    both = [observed(quasar(0.5 + 0.7 * i), seed=i) for i in range(5)]
    flux, ivar = np.stack([b[0] for b in both]), np.stack([b[1] for b in both])
    ivar[1, 50:80] = 0
    mask = np.zeros(flux.shape, dtype=np.int32)
    mask[3, 1000:1010] = COMBINEREJ
    mask[3, 2000:2010] = BRIGHTSKY
    kinds = ["QSO", "QSO", "SKY", "GALAXY", "SPECTROPHOTO_STD"]
    path = write_plate(tmp_path / "spPlate-4055-55359.fits", flux, ivar, and_mask=mask, objtype=kinds)
    return path, flux, np.where(mask & COMBINEREJ, 0, ivar)


def test_a_plate_equals_the_spec_files_of_its_fibres(
    plate: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path, tiny_model: Path
) -> None:
    path, flux, ivar = plate
    folder = tmp_path / "spec"
    folder.mkdir()
    for i in range(5):
        write_spec(
            folder / f"spec-4055-55359-{i + 1:04d}.fits",
            flux[i],
            ivar[i],
            fiber=i + 1,
            ra=10.0 + i,
            dec=i - 5.0,
            objtype="SKY" if i == 2 else "QSO",
        )
    model = broadline.load_model(tiny_model)
    whole, single = (model.classify(broadline.read(x)) for x in (path, folder))
    assert list(whole["ROW"]) == [0, 1, 2, 3, 4]
    assert list(whole["ARCHIVE"]) == ["sdss-plate"] * 5
    for name in whole.colnames:
        if name not in ("ARCHIVE", "SOURCE", "ROW"):
            assert np.array_equal(whole[name].filled(), single[name].filled()), name


def test_a_plate_gives_masked_ivar_sky_fibres_and_positions(
    plate: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    path, flux, ivar = plate
    (spectra,) = broadline.read(path)
    assert np.array_equal(spectra.flux, flux)
    assert np.array_equal(spectra.ivar, ivar)
    assert np.allclose(np.log10(spectra.wavelength), (FIRST + np.arange(N_PIXELS)) * 1e-4, atol=1e-12, rtol=0)
    assert [bool(flag & Flag.SKY_FIBRE) for flag in spectra.flags] == [False, False, True, False, False]
    assert spectra.ids["RA"].tolist() == [10, 11, 12, 13, 14]
    assert spectra.ids["DEC"].tolist() == [-5, -4, -3, -2, -1]
    assert spectra.ids["OBJID"].tolist() == [f"4055-55359-{i:04d}" for i in range(1, 6)]


def test_batches_smaller_than_a_plate_cover_it_once_in_order(
    plate: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    path, flux, _ = plate
    batches = list(broadline.read(path, batch=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert np.array_equal(np.concatenate([batch.flux for batch in batches]), flux)
    assert np.concatenate([batch.ids["ROW"] for batch in batches]).tolist() == [0, 1, 2, 3, 4]
    assert np.concatenate([batch.ids["FIBERID"] for batch in batches]).tolist() == [1, 2, 3, 4, 5]


def test_a_gzipped_plate_is_the_same_plate(plate: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, _, _ = plate
    (plain,) = broadline.read(path)
    (packed,) = broadline.read(gzipped(path))
    assert np.array_equal(packed.flux, plain.flux) and np.array_equal(packed.ivar, plain.ivar)
    assert np.array_equal(packed.wavelength, plain.wavelength)
    assert np.array_equal(packed.flags, plain.flags)


@pytest.mark.parametrize("fraction", [0.001, 0.02, 0.1, 0.25, 0.4])
def test_a_truncated_plate_loses_no_row_and_raises_nothing(
    fraction: float, plate: tuple[Path, np.ndarray, np.ndarray]
) -> None:
    path, _, _ = plate
    (before,) = broadline.read(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    batches = list(broadline.read(path, batch=2))
    flags = np.concatenate([batch.flags for batch in batches])
    # one row for the file where not even the number of fibres is known
    assert len(flags) == (1 if fraction == 0.001 else 5)
    whole = flags & Flag.UNREADABLE == 0
    assert whole.tolist() == ([True, True, False, False, False] if fraction == 0.4 else [False] * len(flags))
    if whole.any():
        assert np.array_equal(batches[0].flux, before.flux[:2])
        assert np.array_equal(batches[0].ivar, before.ivar[:2])
        assert np.concatenate([batch.ids["ROW"] for batch in batches]).tolist() == [0, 1, 2, 3, 4]
        names = np.concatenate([batch.ids["OBJID"] for batch in batches])
        assert names.tolist() == before.ids["OBJID"].tolist()
    notes = [note for batch in batches for note in batch.notes]
    assert len(notes) == 1 and path.name in notes[0]


def test_truth_of_a_plate_comes_from_spzbest_beside_it(plate: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, _, _ = plate
    kinds, z, zwarning = ["QSO", "GALAXY", "STAR", "QSO", "STAR"], [1.5, 0.25, 0.0, 2.5, 0.0], [0, 4, 1, 0, 0]
    write_results(path.with_name("spZbest-4055-55359.fits"), kinds, z, zwarning, range(1, 6))
    # of the fits in spZall nothing is wanted where there is a spZbest
    write_results(path.with_name("spZall-4055-55359.fits"), ["STAR"] * 5, [9] * 5, [0] * 5, range(1, 6))
    table = broadline.read_truth(path)
    assert table["CLASS"].tolist() == kinds
    assert table["Z"].tolist() == z
    assert table["ZWARNING"].tolist() == zwarning
    assert table["ROW"].tolist() == [0, 1, 2, 3, 4]
    assert table["OBJID"].tolist() == [f"4055-55359-{i:04d}" for i in range(1, 6)]


def test_truth_of_a_plate_comes_from_the_best_fits_in_spzall_one_folder_down(
    plate: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    path, _, _ = plate
    folder = path.with_name("v5_13_2")
    folder.mkdir()
    kinds, z = ["QSO", "STAR"] * 5, [1.5, 0, 2.5, 0, 0.5, 0, 3.5, 0, 1.0, 0]
    results = write_results(
        folder / "spZall-4055-55359.fits", kinds, z, [0] * 10, np.repeat(np.arange(1, 6), 2)
    )
    gzipped(results)
    table = broadline.read_truth(path)
    assert table["CLASS"].tolist() == ["QSO"] * 5
    assert table["Z"].tolist() == [1.5, 2.5, 0.5, 3.5, 1.0]


def test_the_pipelines_model_of_a_fibre_is_its_row_in_the_spzbest_beside_the_plate(
    plate: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    path, flux, _ = plate
    fitted = get("sdss-plate").fitted
    assert fitted is not None
    with pytest.raises(ReadError, match="models are not beside it"):
        fitted(path, 2)
    results = write_results(
        path.with_name("spZbest-4055-55359.fits"), ["QSO"] * 5, [1.5] * 5, [0] * 5, range(1, 6)
    )
    with pytest.raises(ReadError, match="models are not beside it"):
        fitted(path, 2)  # as of a simulated survey
    with fits.open(results, mode="append") as hdus:
        hdus.append(fits.ImageHDU(flux * 2))  # HDU 2: the fits, on the plate's pixels
    wavelength, model = fitted(path, 2)
    assert np.array_equal(model, 2 * flux[2])
    (spectra,) = broadline.read(path)
    assert np.array_equal(wavelength, spectra.wavelength)


def test_the_pipelines_model_is_the_same_for_both_readers(tmp_path: Path) -> None:
    flux, ivar = observed(quasar(1.0))
    usual = write_spec(tmp_path / "spec-4055-55359-0001.fits", flux, ivar)
    gzip_, other = gzipped(shutil.copy(usual, tmp_path / "copy.fits")), tmp_path / "other.fits"
    with fits.open(usual) as hdus:  # another layout: and_mask of 64 bits
        table = Table(hdus[1].data)
        table["and_mask"] = table["and_mask"].astype(np.int64)
        fits.HDUList([hdus[0], fits.table_to_hdu(table), hdus[2]]).writeto(other)
    fitted = get("sdss").fitted
    assert fitted is not None
    for path in (usual, gzip_, other):
        wavelength, model = fitted(path, 0)
        np.testing.assert_array_equal(model, flux)  # these files have the flux as model
        np.testing.assert_allclose(wavelength, 10.0 ** loglam(), rtol=1e-6)


def test_a_plate_without_results_says_where_they_were_looked_for(
    plate: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    with pytest.raises(ReadError, match=r"no spZbest-4055-55359\.fits"):
        broadline.read_truth(plate[0])


def test_a_plate_under_another_name_is_known_by_its_content(
    plate: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    path = plate[0].rename(plate[0].with_name("coadded plate.fits"))
    assert identify(path) is ARCHIVES["sdss-plate"]


# ---- DR7


def test_a_dr7_file_gives_flux_ivar_and_truth(tmp_path: Path) -> None:
    flux = quasar(1.5)[:3850]
    error = np.full(3850, 0.5, dtype=np.float32)
    error[:10] = 0
    mask = np.zeros(3850, dtype=np.int64)
    mask[20], mask[21] = COMBINEREJ, BRIGHTSKY
    path = write_spspec(tmp_path / "spSpec-52235-0750-459.fit", flux, error, and_mask=mask)
    spectra = read_one(path)
    origin = round(np.log10(spectra.wavelength[0]) * 1e4)
    pixels = slice(FIRST - origin, FIRST - origin + 3850)
    assert np.array_equal(spectra.flux[0, pixels], flux)
    expected = np.full(3850, 4.0, dtype=np.float32)
    expected[:10] = expected[20] = 0
    assert np.array_equal(spectra.ivar[0, pixels], expected)
    assert spectra.ids["ARCHIVE"][0] == "sdss-dr7"
    assert spectra.ids["OBJID"][0] == "0750-52235-0459"
    assert (spectra.ids["RA"][0], spectra.ids["DEC"][0]) == (12.5, -1.5)
    assert spectra.flags[0] == 0
    (truth,) = broadline.read_truth(path)
    assert (truth["CLASS"], truth["Z"], truth["ZWARNING"]) == ("QSO", 1.5, 0)


def test_a_dr7_sky_fibre_is_flagged(tmp_path: Path) -> None:
    path = tmp_path / "spSpec-52235-0750-459.fit"
    write_spspec(path, quasar(1.5)[:3850], np.ones(3850), OBJTYPE="SKY")
    assert read_one(path).flags[0] & Flag.SKY_FIBRE


@pytest.mark.parametrize(
    ("code", "kind"), [(1, "STAR"), (2, "GALAXY"), (3, "QSO"), (4, "QSO"), (6, "STAR"), (0, "")]
)
def test_dr7_classes_are_put_into_words(code: int, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "spSpec-52235-0750-459.fit"
    write_spspec(path, quasar(1.5)[:100], np.ones(100), SPEC_CLN=code)
    (truth,) = broadline.read_truth(path)
    assert truth["CLASS"] == kind
