"""What the DESI reader promises, on files written here and on the real ones."""

from __future__ import annotations

import csv
import gzip
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from broadline.archives.base import Head
from broadline.archives.desi import ARCHIVES, merge, read, truth
from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.spectra import Spectra
from conftest import DATA, manifest, real_files

(ARCHIVE,) = ARCHIVES
STEP = 0.8
FIRST = {"B": 0, "R": 50, "Z": 100}  # lattice index of each camera's first pixel
N_PIXELS = 60  # of each camera, so that neighbours share 10
REAL = real_files("desi_coadd", "desi_spectra", "desi_coadd_nofibermap")


def wavelength(camera: str) -> np.ndarray:
    return 3600 + STEP * (FIRST[camera] + np.arange(N_PIXELS))


def camera_data(camera: str, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([FIRST[camera], n])
    return {
        "WAVELENGTH": wavelength(camera),
        "FLUX": rng.normal(1, 1, (n, N_PIXELS)).astype(np.float32),
        "IVAR": rng.uniform(0.1, 3, (n, N_PIXELS)).astype(np.float32),
        "MASK": np.zeros((n, N_PIXELS), dtype=np.uint32),
    }


def fibermap(n: int, drop: tuple[str, ...] = (), **columns: Any) -> fits.BinTableHDU:
    values: dict[str, Any] = {
        "TARGETID": 39627866878511000 + np.arange(n),
        "TARGET_RA": 150 + np.arange(n) / 7,
        "TARGET_DEC": -3 - np.arange(n) / 7,
        "OBJTYPE": np.full(n, "TGT"),
        "FIBER": 500 + np.arange(n),
        "COADD_FIBERSTATUS": np.zeros(n, dtype=np.int32),
        "DESI_TARGET": 1 << (1 + np.arange(n) % 40),
    }
    values = {name: value for name, value in (values | columns).items() if name not in drop}
    return fits.BinTableHDU(np.rec.fromarrays(list(values.values()), names=list(values)), name="FIBERMAP")


def hdus_of(cameras: dict[str, dict[str, np.ndarray]], mask_type: type = fits.ImageHDU) -> list[Any]:
    return [
        (mask_type if kind == "MASK" else fits.ImageHDU)(values, name=f"{camera}_{kind}")
        for camera, data in cameras.items()
        for kind, values in data.items()
    ]


def write(path: Path, *hdus: Any) -> Path:
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path, overwrite=True)
    return path


def write_coadd(path: Path, n: int = 5, cameras: str = "BRZ") -> Path:
    return write(path, fibermap(n), *hdus_of({camera: camera_data(camera, n) for camera in cameras}))


def write_cframe(path: Path, camera: str, n: int = 4, **columns: Any) -> Path:
    data = camera_data(camera, n)
    flux = fits.PrimaryHDU(data["FLUX"])
    flux.header["EXTNAME"] = "FLUX"
    flux.header["BUNIT"] = "10**-17 erg/(s cm2 Angstrom)"
    images = [fits.ImageHDU(data[kind], name=kind) for kind in ("IVAR", "MASK", "WAVELENGTH")]
    fits.HDUList([flux, *images, fibermap(n, **columns)]).writeto(path)
    return path


def write_redrock(path: Path, targetid: Any, name: str = "REDSHIFTS") -> Path:
    n = len(targetid)
    columns = {
        "TARGETID": np.asarray(targetid, dtype=np.int64),
        "Z": np.linspace(0.5, 3, n),
        "ZWARN": np.arange(n) * 4,
        "SPECTYPE": np.array(["QSO", "GALAXY", "STAR"] * n, dtype="S6")[:n],
    }
    return write(
        path, fits.BinTableHDU(np.rec.fromarrays(list(columns.values()), names=list(columns)), name=name)
    )


def all_of(paths: list[Path], batch: int = 1000) -> Spectra:
    """Read everything, as one batch."""
    batches = list(read(paths, batch))
    assert all(len(spectra) <= batch for spectra in batches)
    return Spectra(
        batches[0].wavelength,
        np.concatenate([spectra.flux for spectra in batches]),
        np.concatenate([spectra.ivar for spectra in batches]),
        {name: np.concatenate([spectra.ids[name] for spectra in batches]) for name in batches[0].ids},
        np.concatenate([spectra.flags for spectra in batches]),
        tuple(note for spectra in batches for note in spectra.notes),
    )


def expected(cameras: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge by hand in float64: wavelength, flux and ivar on the lattice points that any camera has."""
    wave = np.concatenate([data["WAVELENGTH"] for data in cameras])
    points, where = np.unique(np.rint((wave - 3600) / STEP).astype(int), return_inverse=True)
    n = len(cameras[0]["FLUX"])
    top, total = np.zeros((len(points), n)), np.zeros((len(points), n))
    good = [data["IVAR"].astype(float) * (data.get("MASK", 0) == np.zeros(1)) for data in cameras]
    products = [weight * data["FLUX"] for weight, data in zip(good, cameras, strict=True)]
    np.add.at(top, where, np.concatenate(products, axis=1).T)
    np.add.at(total, where, np.concatenate(good, axis=1).T)
    return 3600 + STEP * points, (top / np.where(total > 0, total, 1)).T, total.T


def assert_lost(spectra: Spectra, n: int, *words: str) -> None:
    """All n rows are there, say that they could not be read, carry no data, and a note says why."""
    assert len(spectra) == n
    assert (spectra.flags & (Flag.UNREADABLE | Flag.BAD_WAVELENGTH) != 0).all()
    assert not spectra.ivar.any()
    assert len(spectra.notes) == 1
    for word in words:
        assert word in spectra.notes[0]


@st.composite
def overlapping(draw: st.DrawFn) -> list[tuple[int, np.ndarray, np.ndarray]]:
    n = draw(st.integers(1, 3))
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        shape = (n, draw(st.integers(1, 9)))
        rng = np.random.default_rng(draw(st.integers(0, 1000)))
        ivar = (rng.uniform(0, 4, shape) * rng.integers(0, 2, shape)).astype(np.float32)
        parts.append((draw(st.integers(0, 12)), rng.normal(0, 9, shape).astype(np.float32), ivar))
    return parts


class TestMerge:
    @given(overlapping())
    def test_is_the_inverse_variance_mean(self, parts: Any) -> None:
        flux, ivar = merge(parts)
        for row, pixel in np.ndindex(*flux.shape):
            seen = [
                (f[row, pixel - k], i[row, pixel - k]) for k, f, i in parts if 0 <= pixel - k < f.shape[1]
            ]
            total = sum(float(weight) for _, weight in seen)
            assert ivar[row, pixel] == pytest.approx(total, rel=1e-6)
            if total > 0:
                mean = sum(float(value) * float(weight) for value, weight in seen) / total
                assert flux[row, pixel] == pytest.approx(mean, rel=1e-5, abs=1e-5)

    @given(overlapping())
    def test_conserves_weight_and_weighted_flux(self, parts: Any) -> None:
        flux, ivar = (values.astype(float) for values in merge(parts))
        assert ivar.sum() == pytest.approx(sum(i.sum(dtype=float) for _, _, i in parts), rel=1e-5)
        given_flux = sum((f.astype(float) * i).sum() for _, f, i in parts)
        assert (flux * ivar).sum() == pytest.approx(given_flux, rel=1e-4, abs=1e-3)

    @given(overlapping(), st.randoms(use_true_random=False))
    def test_does_not_depend_on_the_order_of_cameras(self, parts: Any, random: Any) -> None:
        shuffled = list(parts)
        random.shuffle(shuffled)
        for one, other in zip(merge(parts), merge(shuffled), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)

    def test_one_camera_is_unchanged_to_the_bit(self) -> None:
        data = camera_data("B", 3)
        flux, ivar = merge([(0, data["FLUX"], data["IVAR"])])
        assert (flux == data["FLUX"]).all()
        assert (ivar == data["IVAR"]).all()


class TestRecognition:
    @pytest.mark.parametrize(
        "name",
        [
            "coadd-5-169-thru20210419.fits",
            "coadd-main-dark-9144.fits.gz",
            "spectra-0-1.fits",
            "cframe-b3-00012345.fits.gz",
        ],
    )
    def test_names_of_the_archive_are_known(self, name: str) -> None:
        assert ARCHIVE.file_name.fullmatch(name)

    @pytest.mark.parametrize(
        "name",
        [
            "redrock-5-169.fits",
            "zbest-0-1.fits",
            "sframe-b3-00012345.fits",
            "cframe-x3-00012345.fits",
            "spec-1-2-3.fits",
        ],
    )
    def test_other_names_are_not(self, name: str) -> None:
        assert not ARCHIVE.file_name.fullmatch(name)

    @pytest.mark.parametrize("cameras", ["B", "RZ", "BRZ"])
    def test_any_camera_tells_a_file_of_another_name(self, tmp_path: Path, cameras: str) -> None:
        assert ARCHIVE.recognise(Head(write_coadd(tmp_path / "mine.fits", cameras=cameras)))

    def test_frames_of_another_name_are_known_by_content(self, tmp_path: Path) -> None:
        assert ARCHIVE.recognise(Head(write_cframe(tmp_path / "mine.fits", "B")))

    def test_uncalibrated_frames_and_other_files_are_not_taken(self, tmp_path: Path) -> None:
        frame = write_cframe(tmp_path / "sframe-b0-00000001.fits", "B")
        fits.setval(frame, "BUNIT", value="electron/Angstrom")
        assert not ARCHIVE.recognise(Head(frame))
        assert not ARCHIVE.recognise(Head(write_redrock(tmp_path / "r.fits", [1])))
        (tmp_path / "text.csv").write_text("wave,flux\n")
        assert not ARCHIVE.recognise(Head(tmp_path / "text.csv"))

    @pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
    def test_every_real_file_is_known_by_content(self, data: Path, path: Path) -> None:
        assert ARCHIVE.recognise(Head(path))


class TestCoadds:
    @pytest.mark.parametrize("cameras", ["B", "R", "Z", "BR", "RZ", "BZ", "BRZ", "ZRB"])
    def test_any_subset_of_cameras_merges_as_by_hand(self, tmp_path: Path, cameras: str) -> None:
        spectra = all_of([write_coadd(tmp_path / "coadd-1.fits", cameras=cameras)])
        wave, flux, ivar = expected([camera_data(camera, 5) for camera in cameras])
        at = np.rint((wave - spectra.wavelength[0]) / STEP).astype(int)
        np.testing.assert_allclose(spectra.wavelength[at], wave, atol=1e-8)
        np.testing.assert_allclose(spectra.flux[:, at], flux, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(spectra.ivar[:, at], ivar, rtol=1e-6)
        gap = np.delete(np.arange(len(spectra.wavelength)), at)
        assert len(gap) == (40 if sorted(cameras) == ["B", "Z"] else 0)
        assert not spectra.ivar[:, gap].any()
        assert spectra.flux.dtype == spectra.ivar.dtype == np.float32
        np.testing.assert_allclose(np.diff(spectra.wavelength), STEP, atol=1e-8)

    def test_another_step_is_found_from_the_data(self, tmp_path: Path) -> None:
        cameras = {camera: camera_data(camera, 2) for camera in "BR"}
        for data in cameras.values():
            data["WAVELENGTH"] = 4000 + (data["WAVELENGTH"] - 3600) * 1.25
        spectra = all_of([write(tmp_path / "coadd-1.fits", *hdus_of(cameras))])
        np.testing.assert_allclose(spectra.wavelength, 4000 + np.arange(110.0), atol=1e-8)

    def test_wavelengths_in_single_precision_share_the_lattice(self, tmp_path: Path) -> None:
        cameras = {camera: camera_data(camera, 2) for camera in "BRZ"}
        for data in cameras.values():
            data["WAVELENGTH"] = data["WAVELENGTH"].astype(np.float32)
        spectra = all_of([write(tmp_path / "coadd-1.fits", *hdus_of(cameras))])
        np.testing.assert_allclose(spectra.wavelength, 3600 + STEP * np.arange(160), atol=0.01 * STEP)
        assert (spectra.flags == Flag.NO_IDENTITY).all()

    def test_cameras_coadded_already_are_one_camera(self, tmp_path: Path) -> None:
        data = camera_data("B", 3)
        spectra = all_of([write(tmp_path / "coadd-1.fits", fibermap(3), *hdus_of({"BRZ": data}))])
        assert (spectra.flux == data["FLUX"]).all()
        assert not spectra.flags.any()

    @pytest.mark.parametrize("mask_type", [fits.ImageHDU, fits.CompImageHDU])
    @pytest.mark.parametrize("batch", [2, 100])
    def test_masked_pixels_have_no_weight(self, tmp_path: Path, mask_type: type, batch: int) -> None:
        cameras = {camera: camera_data(camera, 5) for camera in "BRZ"}
        rng = np.random.default_rng(3)
        for data in cameras.values():
            data["MASK"] = rng.choice([0, 0, 1, 512, 1 << 31], (5, N_PIXELS)).astype(np.uint32)
        spectra = all_of([write(tmp_path / "coadd-1.fits", *hdus_of(cameras, mask_type))], batch)
        _, flux, ivar = expected(list(cameras.values()))
        np.testing.assert_allclose(spectra.ivar, ivar, rtol=1e-6)
        np.testing.assert_allclose(spectra.flux[ivar > 0], flux[ivar > 0], rtol=1e-6, atol=1e-6)
        assert (spectra.ivar == 0).sum() > 100

    def test_a_file_without_masks_is_whole(self, tmp_path: Path) -> None:
        cameras = {camera: camera_data(camera, 5) for camera in "BRZ"}
        for data in cameras.values():
            del data["MASK"]
        spectra = all_of([write(tmp_path / "coadd-1.fits", *hdus_of(cameras))])
        np.testing.assert_allclose(spectra.ivar, expected(list(cameras.values()))[2], rtol=1e-6)

    def test_compressed_images_read_as_plain_ones(self, tmp_path: Path) -> None:
        cameras = {"B": camera_data("B", 5)}
        plain = all_of([write(tmp_path / "coadd-1.fits", *hdus_of(cameras))])
        images = [fits.ImageHDU(cameras["B"]["WAVELENGTH"], name="B_WAVELENGTH")] + [
            fits.CompImageHDU(
                cameras["B"][kind], name=f"B_{kind}", compression_type="GZIP_2", quantize_level=0
            )
            for kind in ("FLUX", "IVAR", "MASK")
        ]
        packed = all_of([write(tmp_path / "coadd-2.fits", *images)], batch=2)
        assert (packed.flux == plain.flux).all()
        assert (packed.ivar == plain.ivar).all()

    def test_what_is_no_measurement_is_masked_and_flagged(self, tmp_path: Path) -> None:
        cameras = {camera: camera_data(camera, 4) for camera in "BR"}
        cameras["B"]["FLUX"][0, 55] = np.nan  # a pixel that R has as well
        cameras["B"]["IVAR"][1, 3] = -1
        cameras["R"]["IVAR"][2, 7] = np.inf
        cameras["R"]["FLUX"][3, 7], cameras["R"]["MASK"][3, 7] = np.nan, 1
        spectra = all_of([write(tmp_path / "coadd-1.fits", fibermap(4), *hdus_of(cameras))])
        assert list(spectra.flags) == [Flag.NON_FINITE, Flag.NEGATIVE_IVAR, Flag.NON_FINITE, 0]
        assert np.isfinite(spectra.flux).all()
        assert spectra.flux[0, 55] == pytest.approx(cameras["R"]["FLUX"][0, 5])
        assert spectra.ivar[0, 55] == pytest.approx(cameras["R"]["IVAR"][0, 5])
        assert spectra.ivar[1, 3] == 0

    @pytest.mark.parametrize("batch", [1, 2, 4, 5, 6])
    @pytest.mark.parametrize("name", ["coadd-1.fits", "coadd-1.fits.gz"])
    def test_the_batch_changes_nothing(self, tmp_path: Path, batch: int, name: str) -> None:
        path = write_coadd(tmp_path / name)
        whole, parts = all_of([path]), all_of([path], batch)
        assert (whole.flux == parts.flux).all()
        assert (whole.ivar == parts.ivar).all()
        assert (whole.flags == parts.flags).all()
        for column, values in whole.ids.items():
            np.testing.assert_array_equal(values, parts.ids[column])

    def test_a_packed_file_reads_as_the_plain_one(self, tmp_path: Path) -> None:
        plain = write_coadd(tmp_path / "coadd-1.fits")
        packed = tmp_path / "coadd-1.fits.gz"
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        one, other = all_of([plain]), all_of([packed])
        assert (one.flux == other.flux).all()
        assert (one.ivar == other.ivar).all()

    def test_memory_is_bounded_by_the_batch(self, tmp_path: Path) -> None:
        n, n_pixels = 1500, 1500
        data = {"WAVELENGTH": 3600 + STEP * np.arange(n_pixels)}
        data |= {kind: np.ones((n, n_pixels), dtype=np.float32) for kind in ("FLUX", "IVAR")}
        path = write(tmp_path / "coadd-1.fits", *hdus_of({"B": data}))
        del data
        tracemalloc.start()
        assert sum(len(spectra) for spectra in read([path], 50)) == n
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.25 * path.stat().st_size

    def test_a_file_of_no_spectra_yields_no_rows(self, tmp_path: Path) -> None:
        path = tmp_path / "coadd-1.fits"
        write_coadd(path, n=1, cameras="B")
        with fits.open(path) as hdus:
            kept = [hdu for hdu in hdus[1:] if hdu.name == "B_WAVELENGTH"]
            empty = [
                fits.ImageHDU(np.zeros((0, N_PIXELS), "f4"), name=f"B_{kind}") for kind in ("FLUX", "IVAR")
            ]
            write(tmp_path / "coadd-2.fits", *kept, *empty)
        assert list(read([tmp_path / "coadd-2.fits"], 10)) == []


class TestIdentity:
    def test_comes_from_the_fibermap_by_row(self, tmp_path: Path) -> None:
        path = write_coadd(tmp_path / "coadd-1.fits")
        spectra = all_of([path])
        table = fibermap(5).data
        assert list(spectra.ids["TARGETID"]) == list(table["TARGETID"])
        assert list(spectra.ids["OBJID"]) == [str(targetid) for targetid in table["TARGETID"]]
        np.testing.assert_array_equal(spectra.ids["RA"], table["TARGET_RA"])
        np.testing.assert_array_equal(spectra.ids["DEC"], table["TARGET_DEC"])
        assert list(spectra.ids["FIBERID"]) == list(table["FIBER"])
        assert list(spectra.ids["DESI_TARGET"]) == list(table["DESI_TARGET"])
        assert list(spectra.ids["ROW"]) == list(range(5))
        assert set(spectra.ids["SOURCE"]) == {str(path)}
        assert set(spectra.ids["ARCHIVE"]) == {"desi"}
        assert not spectra.flags.any()

    @pytest.mark.parametrize("before", [True, False])
    def test_the_table_of_exposures_is_not_taken_for_it(self, tmp_path: Path, before: bool) -> None:
        exposures = fibermap(10, TARGETID=np.arange(10))
        exposures.name = "EXP_FIBERMAP"
        tables = [fibermap(5), exposures] if before else [exposures, fibermap(5)]
        spectra = all_of([write(tmp_path / "coadd-1.fits", *tables, *hdus_of({"B": camera_data("B", 5)}))])
        assert list(spectra.ids["TARGETID"]) == list(fibermap(5).data["TARGETID"])

    @pytest.mark.parametrize("batch", [1, 100])
    def test_rows_beyond_a_short_fibermap_have_none(self, tmp_path: Path, batch: int) -> None:
        path = write(tmp_path / "coadd-1.fits", fibermap(3), *hdus_of({"B": camera_data("B", 5)}))
        spectra = all_of([path], batch)
        assert list(spectra.flags) == [0, 0, 0, Flag.NO_IDENTITY, Flag.NO_IDENTITY]
        assert list(spectra.ids["TARGETID"][3:]) == [-1, -1]
        assert list(spectra.ids["OBJID"][3:]) == ["", ""]
        assert np.isnan(spectra.ids["RA"][3:]).all()
        assert (spectra.ivar > 0).all()

    def test_rows_of_a_long_fibermap_are_left_out(self, tmp_path: Path) -> None:
        spectra = all_of(
            [write(tmp_path / "coadd-1.fits", fibermap(9), *hdus_of({"B": camera_data("B", 5)}))]
        )
        assert len(spectra) == 5
        assert not spectra.flags.any()

    @pytest.mark.parametrize("tables", [[], [fits.ImageHDU(np.zeros((5, 2)), name="FIBERMAP")]])
    def test_without_a_fibermap_every_spectrum_is_still_a_row(
        self, tmp_path: Path, tables: list[Any]
    ) -> None:
        spectra = all_of([write(tmp_path / "coadd-1.fits", *tables, *hdus_of({"B": camera_data("B", 5)}))])
        assert list(spectra.flags) == [Flag.NO_IDENTITY] * 5
        assert list(spectra.ids["TARGETID"]) == [-1] * 5
        assert list(spectra.ids["OBJID"]) == [""] * 5

    def test_sky_fibres_and_bad_fibres_are_flagged(self, tmp_path: Path) -> None:
        table = fibermap(5, OBJTYPE=["TGT", "SKY", "", "BAD", "SKY"], COADD_FIBERSTATUS=[0, 0, 8, 0, 512])
        spectra = all_of([write(tmp_path / "coadd-1.fits", table, *hdus_of({"B": camera_data("B", 5)}))])
        assert list(spectra.flags) == [0, Flag.SKY_FIBRE, Flag.BAD_FIBRE, 0, Flag.SKY_FIBRE | Flag.BAD_FIBRE]

    def test_negative_targetids_are_kept(self, tmp_path: Path) -> None:
        table = fibermap(2, TARGETID=[-2713437, -1])
        spectra = all_of([write(tmp_path / "coadd-1.fits", table, *hdus_of({"B": camera_data("B", 2)}))])
        assert list(spectra.ids["TARGETID"]) == [-2713437, -1]
        assert list(spectra.ids["OBJID"]) == ["-2713437", "-1"]
        assert not spectra.flags.any()

    @pytest.mark.parametrize(("ra", "dec"), [("RA_TARGET", "DEC_TARGET"), ("FIBER_RA", "FIBER_DEC")])
    def test_older_names_of_columns_are_known(self, tmp_path: Path, ra: str, dec: str) -> None:
        drop = ("TARGET_RA", "TARGET_DEC", "COADD_FIBERSTATUS", "FIBER")
        table = fibermap(2, drop, **{ra: [1.5, 2.5], dec: [-1.5, 2.0], "FIBERSTATUS": [0, 3]})
        spectra = all_of([write(tmp_path / "coadd-1.fits", table, *hdus_of({"B": camera_data("B", 2)}))])
        assert list(spectra.ids["RA"]) == [1.5, 2.5]
        assert list(spectra.ids["DEC"]) == [-1.5, 2.0]
        assert "FIBERID" not in spectra.ids
        assert list(spectra.flags) == [0, Flag.BAD_FIBRE]

    @pytest.mark.parametrize(
        "column", ["SV1_DESI_TARGET", "SV2_DESI_TARGET", "SV3_DESI_TARGET", "CMX_TARGET"]
    )
    @pytest.mark.parametrize("placeholder", [True, False])
    def test_targeting_of_survey_validation_is_used(
        self, tmp_path: Path, column: str, placeholder: bool
    ) -> None:
        masks: dict[str, Any] = {column: [4, 0]}
        masks |= {"DESI_TARGET": [0, 1 << 32]} if placeholder else {}
        table = fibermap(2, () if placeholder else ("DESI_TARGET",), **masks)
        spectra = all_of([write(tmp_path / "coadd-1.fits", table, *hdus_of({"B": camera_data("B", 2)}))])
        assert list(spectra.ids["DESI_TARGET"]) == [4, 1 << 32 if placeholder else 0]


class TestFrames:
    def test_the_cameras_in_the_list_come_out_once_in_place_of_the_first(self, tmp_path: Path) -> None:
        frames = [write_cframe(tmp_path / f"cframe-{c.lower()}3-00000009.fits", c) for c in "RBZ"]
        before, between = write_coadd(tmp_path / "coadd-1.fits"), write_coadd(tmp_path / "coadd-2.fits")
        paths = [before, frames[0], between, *frames[1:]]
        batches = list(read(paths, 100))
        assert [set(batch.ids["SOURCE"]) for batch in batches] == [{str(path)} for path in paths[:3]]
        _, flux, ivar = expected([camera_data(camera, 4) for camera in "BRZ"])
        np.testing.assert_allclose(batches[1].flux, flux, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(batches[1].ivar, ivar, rtol=1e-6)
        assert list(batches[1].ids["TARGETID"]) == list(fibermap(4).data["TARGETID"])

    def test_files_that_were_not_named_are_not_read(self, tmp_path: Path) -> None:
        frames = {c: write_cframe(tmp_path / f"cframe-{c.lower()}3-00000009.fits", c) for c in "BRZ"}
        alone = all_of([frames["R"]])
        assert (alone.flux == camera_data("R", 4)["FLUX"]).all()
        pair = all_of([frames["B"], frames["Z"]])
        assert pair.wavelength[-1] == pytest.approx(wavelength("Z")[-1])
        assert not pair.ivar[:, 60:100].any()

    def test_spectrographs_exposures_and_folders_are_kept_apart(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        names = ["cframe-b3-00000009.fits", "cframe-r4-00000009.fits", "cframe-z3-00000010.fits"]
        paths = [write_cframe(tmp_path / name, name[7].upper()) for name in names]
        paths.append(write_cframe(tmp_path / "other" / "cframe-r3-00000009.fits", "R"))
        batches = list(read(paths, 100))
        assert [batch.ids["SOURCE"][0] for batch in batches] == [str(path) for path in paths]
        assert [len(batch.wavelength) for batch in batches] == [N_PIXELS] * 4

    @pytest.mark.parametrize("again", ["cframe-b3-00000009.fits", "cframe-b3-00000009.fits.gz"])
    def test_a_camera_given_twice_comes_out_twice_unmerged(self, tmp_path: Path, again: str) -> None:
        for name in {"cframe-b3-00000009.fits", again}:
            write_cframe(tmp_path / name, "B")
        spectra = all_of([tmp_path / "cframe-b3-00000009.fits", tmp_path / again])
        ivar = camera_data("B", 4)["IVAR"]
        assert (spectra.ivar == np.concatenate([ivar, ivar])).all()

    def test_trouble_of_a_fibre_in_any_camera_is_flagged(self, tmp_path: Path) -> None:
        b = write_cframe(tmp_path / "cframe-b3-00000009.fits.gz", "B", COADD_FIBERSTATUS=[0, 1, 0, 0])
        r = write_cframe(tmp_path / "cframe-r3-00000009.fits.gz", "R", COADD_FIBERSTATUS=[0, 0, 2, 0])
        assert list(all_of([b, r]).flags) == [0, Flag.BAD_FIBRE, Flag.BAD_FIBRE, 0]

    def test_a_broken_camera_is_named_and_all_rows_are_accounted_for(self, tmp_path: Path) -> None:
        b = write_cframe(tmp_path / "cframe-b3-00000009.fits", "B")
        r = tmp_path / "cframe-r3-00000009.fits"
        r.write_bytes(b"nothing of use")
        spectra = all_of([b, r])
        assert_lost(spectra, 4, "cframe-r3-00000009.fits")
        assert set(spectra.ids["SOURCE"]) == {str(b)}
        assert list(spectra.ids["ROW"]) == [0, 1, 2, 3]

    def test_cameras_of_different_numbers_of_fibres_do_not_merge(self, tmp_path: Path) -> None:
        b = write_cframe(tmp_path / "cframe-b3-00000009.fits", "B", n=4)
        r = write_cframe(tmp_path / "cframe-r3-00000009.fits", "R", n=6)
        assert_lost(all_of([b, r]), 6, "different numbers of spectra: [4, 6]")


def row_offset(path: Path, hdu: int, row: int) -> int:
    """Return where in the file the compressed tile of an image row begins."""
    with fits.open(path, disable_image_compression=True) as hdus:
        header, at = hdus[hdu].header, hdus[hdu].fileinfo()["datLoc"]
    content = path.read_bytes()
    _, offset = struct.unpack(">ii", content[at + row * header["NAXIS1"] :][:8])
    return int(at + header["NAXIS1"] * header["NAXIS2"] + offset)


class TestFaults:
    def test_cameras_off_the_common_lattice_are_refused(self, tmp_path: Path) -> None:
        cameras = {camera: camera_data(camera, 5) for camera in "BR"}
        cameras["R"]["WAVELENGTH"] += 0.3
        assert_lost(
            all_of([write(tmp_path / "coadd-1.fits", *hdus_of(cameras))]), 5, "share no lattice", "0.38 pixel"
        )

    def test_cameras_of_different_steps_are_refused(self, tmp_path: Path) -> None:
        cameras = {camera: camera_data(camera, 5) for camera in "BR"}
        cameras["R"]["WAVELENGTH"] = 3640 + 1.6 * np.arange(N_PIXELS)
        assert_lost(all_of([write(tmp_path / "coadd-1.fits", *hdus_of(cameras))]), 5, "share no lattice")

    @pytest.mark.parametrize("kind", ["IVAR", "MASK"])
    @pytest.mark.parametrize("shape", [(4, N_PIXELS), (5, N_PIXELS - 1), (N_PIXELS,)])
    def test_shapes_that_disagree_are_named(self, tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
        cameras = {camera: camera_data(camera, 5) for camera in "BR"}
        cameras["R"][kind] = np.ones(shape, dtype=cameras["R"][kind].dtype)
        spectra = all_of([write(tmp_path / "coadd-1.fits", fibermap(5), *hdus_of(cameras))])
        assert_lost(spectra, 5, "shapes", f"R_{kind} {shape}", "R_FLUX (5, 60)")

    def test_a_wavelength_of_another_length_is_named(self, tmp_path: Path) -> None:
        cameras = {"B": camera_data("B", 5)}
        cameras["B"]["WAVELENGTH"] = wavelength("B")[:-1]
        assert_lost(all_of([write(tmp_path / "coadd-1.fits", *hdus_of(cameras))]), 5, "B_WAVELENGTH (59,)")

    @pytest.mark.parametrize("kind", ["WAVELENGTH", "FLUX", "IVAR"])
    def test_a_missing_hdu_is_named(self, tmp_path: Path, kind: str) -> None:
        cameras = {camera: camera_data(camera, 5) for camera in "BZ"}
        del cameras["Z"][kind]
        assert_lost(
            all_of([write(tmp_path / "coadd-1.fits", fibermap(5), *hdus_of(cameras))]), 5, f"Z_{kind}"
        )

    @pytest.mark.parametrize("wrong", [np.nan, 3600.0])
    def test_wavelengths_that_do_not_increase_are_flagged(self, tmp_path: Path, wrong: float) -> None:
        cameras = {"B": camera_data("B", 5)}
        cameras["B"]["WAVELENGTH"] = np.where(np.arange(N_PIXELS) == 9, wrong, wavelength("B"))
        spectra = all_of([write(tmp_path / "coadd-1.fits", *hdus_of(cameras))])
        assert_lost(spectra, 5, "B_WAVELENGTH")
        assert (spectra.flags & Flag.BAD_WAVELENGTH != 0).all()

    def test_a_cut_anywhere_within_an_hdu_is_detected(self, tmp_path: Path) -> None:
        content = write_coadd(tmp_path / "whole.fits").read_bytes()
        with fits.open(tmp_path / "whole.fits") as hdus:
            starts = [hdu.fileinfo()["hdrLoc"] for hdu in hdus]
            header_ends = {hdu.name: hdu.fileinfo()["datLoc"] for hdu in hdus}
        path = tmp_path / "coadd-1.fits"
        for cut in {*range(100, len(content), 1440), *range(1, len(content), 4999), len(content) - 1} - set(
            starts
        ):
            path.write_bytes(content[:cut])
            known = cut >= header_ends["FIBERMAP"]
            assert_lost(all_of([path]), 5 if known else 1)

    def test_a_cut_between_hdus_of_one_camera_is_detected(self, tmp_path: Path) -> None:
        content = write_coadd(tmp_path / "whole.fits").read_bytes()
        with fits.open(tmp_path / "whole.fits") as hdus:
            cut = hdus["Z_IVAR"].fileinfo()["hdrLoc"]
        (tmp_path / "coadd-1.fits").write_bytes(content[:cut])
        assert_lost(all_of([tmp_path / "coadd-1.fits"]), 5, "Z_IVAR")

    def test_a_cut_before_the_spectra_loses_as_many_rows_as_the_fibermap_has(self, tmp_path: Path) -> None:
        exposures = fibermap(10)
        exposures.name = "EXP_FIBERMAP"
        path = write(tmp_path / "coadd-1.fits", exposures, fibermap(5), *hdus_of({"B": camera_data("B", 5)}))
        with fits.open(path) as hdus:
            cut = hdus["FIBERMAP"].fileinfo()["datLoc"] + 10
        path.write_bytes(path.read_bytes()[:cut])
        assert_lost(all_of([path]), 5, "cut short")

    @pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
    def test_a_gzip_stream_cut_short_is_detected(self, tmp_path: Path, share: float) -> None:
        packed = gzip.compress(write_coadd(tmp_path / "whole.fits", n=50).read_bytes())
        path = tmp_path / "coadd-1.fits.gz"
        path.write_bytes(packed[: int(share * len(packed))])
        assert_lost(all_of([path]), 50, "the gzip stream is broken")

    def test_a_cut_file_that_was_packed_afterwards_is_detected(self, tmp_path: Path) -> None:
        content = write_coadd(tmp_path / "whole.fits").read_bytes()
        path = tmp_path / "coadd-1.fits.gz"
        path.write_bytes(gzip.compress(content[:-3000]))
        assert_lost(all_of([path]), 5)

    @pytest.mark.parametrize("level", [0, 9])
    def test_a_flipped_bit_in_a_gzip_stream_is_detected(self, tmp_path: Path, level: int) -> None:
        content = write_coadd(tmp_path / "whole.fits", n=50).read_bytes()
        packed = bytearray(gzip.compress(content, level))
        packed[len(packed) // 2] ^= 4
        path = tmp_path / "coadd-1.fits.gz"
        path.write_bytes(packed)
        assert_lost(all_of([path]), 50, "the gzip stream is broken")

    def test_a_damaged_block_costs_only_its_own_rows(self, tmp_path: Path) -> None:
        data = camera_data("B", 6)
        images = [fits.ImageHDU(data[kind], name=f"B_{kind}") for kind in ("WAVELENGTH", "FLUX", "IVAR")]
        rng = np.random.default_rng(0)
        mask = fits.CompImageHDU(
            rng.integers(0, 2, data["MASK"].shape).astype("i4"), name="B_MASK", compression_type="GZIP_1"
        )
        path = write(tmp_path / "coadd-1.fits", fibermap(6), *images, mask)
        content = bytearray(path.read_bytes())
        at = row_offset(path, 5, row=2)
        content[at : at + 12] = b"\xff" * 12
        path.write_bytes(content)
        batches = list(read([path], 2))
        assert [len(batch) for batch in batches] == [2, 2, 2]
        assert [bool((batch.flags & Flag.UNREADABLE).all()) for batch in batches] == [False, True, False]
        assert not batches[1].ivar.any()
        assert str(path) in batches[1].notes[0]
        assert [row for batch in batches for row in batch.ids["ROW"]] == list(range(6))
        assert list(batches[1].ids["TARGETID"]) == list(fibermap(6).data["TARGETID"][2:4])

    @pytest.mark.parametrize("content", [b"", b"wave,flux\n1,2\n", b"\x1f\x8b", b"SIMPLE  ="])
    def test_what_is_no_fits_file_is_one_row(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "coadd-1.fits"
        path.write_bytes(content)
        assert_lost(all_of([path]), 1, str(path))

    def test_a_file_without_spectra_says_so(self, tmp_path: Path) -> None:
        assert_lost(all_of([write_redrock(tmp_path / "coadd-1.fits", [1, 2])]), 1, "no DESI spectra")

    def test_a_header_that_promises_the_impossible_costs_one_row(self, tmp_path: Path) -> None:
        path = write_coadd(tmp_path / "coadd-1.fits", cameras="B")
        card, wrong = (f"NAXIS2  = {n:20d}".encode() for n in (5, 90_000_000_000))
        path.write_bytes(path.read_bytes().replace(card, wrong))
        assert_lost(all_of([path]), 1, "cut short")

    def test_one_bad_file_does_not_cost_the_others(self, tmp_path: Path) -> None:
        good = [write_coadd(tmp_path / f"coadd-{i}.fits") for i in range(2)]
        batches = list(read([good[0], tmp_path / "missing.fits", good[1]], 100))
        assert [len(batch) for batch in batches] == [5, 1, 5]
        assert "no such file" in batches[1].notes[0]


class TestTruth:
    @pytest.mark.parametrize(("kind", "hdu"), [("redrock", "REDSHIFTS"), ("zbest", "ZBEST")])
    @pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
    def test_rows_are_matched_by_targetid(self, tmp_path: Path, kind: str, hdu: str, suffix: str) -> None:
        path = write_coadd(tmp_path / f"coadd-5-169{suffix}")
        targetid = fibermap(5).data["TARGETID"]
        write_redrock(tmp_path / f"{kind}-5-169{suffix}", [targetid[3], 77, targetid[0], targetid[4]], hdu)
        table = truth(path)
        assert list(table["SOURCE"]) == [str(path)] * 5
        assert list(table["ROW"]) == list(range(5))
        assert list(table["TARGETID"]) == list(targetid)
        assert list(table["OBJID"]) == [str(value) for value in targetid]
        assert list(table["CLASS"]) == ["STAR", "", "", "QSO", "QSO"]
        np.testing.assert_allclose(table["Z"], [0.5 + 2.5 * 2 / 3, np.nan, np.nan, 0.5, 3])
        assert list(table["ZWARNING"]) == [8, -1, -1, 0, 12]

    def test_a_spectra_file_has_one_row_a_spectrum(self, tmp_path: Path) -> None:
        table = fibermap(4, TARGETID=[9, 8, 9, -5])
        path = write(tmp_path / "spectra-0-1.fits", table, *hdus_of({"B": camera_data("B", 4)}))
        write_redrock(tmp_path / "redrock-0-1.fits", [8, 9])
        assert list(truth(path)["CLASS"]) == ["GALAXY", "QSO", "GALAXY", ""]

    def test_spectra_without_identity_match_nothing(self, tmp_path: Path) -> None:
        path = write(tmp_path / "coadd-1.fits", fibermap(1), *hdus_of({"B": camera_data("B", 3)}))
        write_redrock(tmp_path / "redrock-1.fits", [fibermap(1).data["TARGETID"][0], -1])
        table = truth(path)
        assert list(table["CLASS"]) == ["QSO", "", ""]
        assert list(table["OBJID"][1:]) == ["", ""]
        assert list(table["TARGETID"][1:]) == [-1, -1]

    @pytest.mark.parametrize("targetid", [[5, 3, 5], []])
    def test_a_redrock_file_itself_gives_its_rows(self, tmp_path: Path, targetid: list[int]) -> None:
        path = write_redrock(tmp_path / "anything.fits", targetid)
        table = truth(path)
        assert list(table["TARGETID"]) == targetid
        assert list(table["ROW"]) == list(range(len(targetid)))
        assert list(table["OBJID"]) == [str(value) for value in targetid]
        np.testing.assert_allclose(table["Z"], np.linspace(0.5, 3, len(targetid)))

    def test_redrock_is_preferred_to_the_older_zbest(self, tmp_path: Path) -> None:
        path = write_coadd(tmp_path / "coadd-1.fits", n=1)
        write_redrock(tmp_path / "redrock-1.fits", fibermap(1).data["TARGETID"])
        write_redrock(tmp_path / "zbest-1.fits", [0])
        assert list(truth(path)["CLASS"]) == ["QSO"]

    def test_no_redrock_file_is_an_error_that_names_what_was_sought(self, tmp_path: Path) -> None:
        with pytest.raises(ReadError, match=r"redrock-1\.fits or zbest-1\.fits"):
            truth(write_coadd(tmp_path / "coadd-1.fits"))
        with pytest.raises(ReadError, match="no redrock file"):
            truth(write_coadd(tmp_path / "mine.fits"))

    def test_a_damaged_redrock_file_is_an_error_not_an_absence(self, tmp_path: Path) -> None:
        path = write_coadd(tmp_path / "coadd-1.fits")
        beside = write_redrock(tmp_path / "redrock-1.fits", fibermap(5).data["TARGETID"])
        beside.write_bytes(beside.read_bytes()[:-100])
        with pytest.raises(ReadError, match="cut short"):
            truth(path)

    def test_the_archive_offers_it(self) -> None:
        assert ARCHIVE.truth is truth


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
class TestRealFiles:
    def test_every_spectrum_is_a_sound_row(self, data: Path, path: Path) -> None:
        spectra = all_of([path], batch=3)
        (row,) = [row for row in manifest() if DATA / row["path"] == path]
        assert len(spectra) == int(row["n_spectra"])
        assert np.isfinite(spectra.flux).all()
        assert np.isfinite(spectra.ivar).all()
        assert (spectra.ivar >= 0).all()
        np.testing.assert_allclose(spectra.wavelength, 3600 + 0.8 * np.arange(7781), atol=1e-6)
        assert not (spectra.flags & (Flag.UNREADABLE | Flag.NON_FINITE)).any()

    def test_identities_are_those_of_the_list(self, data: Path, path: Path) -> None:
        spectra = all_of([path])
        with (data / "real" / "desi_targets.csv").open() as stream:
            rows = [row for row in csv.DictReader(stream) if data / row["path"] == path]
        assert [int(row["row"]) for row in rows] == list(spectra.ids["ROW"])
        assert [int(row["targetid"] or -1) for row in rows] == list(spectra.ids["TARGETID"])
        np.testing.assert_allclose(
            [float(row["ra"] or np.nan) for row in rows], spectra.ids["RA"], rtol=1e-12
        )
        sky = (spectra.flags & Flag.SKY_FIBRE) != 0
        assert [row["objtype"] == "SKY" for row in rows] == list(sky)

    def test_merged_values_equal_a_computation_by_hand(self, data: Path, path: Path) -> None:
        spectra = all_of([path], batch=4)
        cameras = []
        with fits.open(path) as hdus:
            for camera in "BRZ":
                kinds = [
                    kind for kind in ("WAVELENGTH", "FLUX", "IVAR", "MASK") if f"{camera}_{kind}" in hdus
                ]
                cameras.append({kind: hdus[f"{camera}_{kind}"].data for kind in kinds})
        wave, flux, ivar = expected(cameras)
        np.testing.assert_allclose(spectra.wavelength, wave, atol=1e-6)
        np.testing.assert_allclose(spectra.ivar, ivar, rtol=1e-6)
        good = ivar > 0
        np.testing.assert_allclose(spectra.flux[good], flux[good], rtol=2e-6, atol=1e-6)
