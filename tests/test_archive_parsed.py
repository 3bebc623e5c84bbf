"""QuasarNET's parsed files: grid, identity, blocks of rows, truth by plate-mjd-fibre, and damaged files."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from broadline.archives import parsed
from broadline.archives.base import Head
from broadline.errors import ReadError
from broadline.flags import Flag
from broadline.grid import QUASARNET_LOG
from broadline.spectra import Spectra

(ARCHIVE,) = parsed.ARCHIVES
N = 7


def pixels(n: int = N, dtype: str = "f4") -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.hstack([rng.normal(2, 1, (n, 443)), rng.uniform(0, 5, (n, 443))]).astype(dtype)


def columns(n: int = N) -> dict[str, np.ndarray]:
    return {
        "TARGETID": np.arange(n) + 400_000_001,
        "PLATE": np.full(n, 7102),
        "MJD": np.full(n, 56666),
        "FIBERID": np.arange(n) + 1,
    }


def bintable(values: dict[str, Any]) -> fits.BinTableHDU:
    code = {"i": "K", "f": "D"}
    return fits.BinTableHDU.from_columns(
        [fits.Column(k, code[np.asarray(v).dtype.kind], array=np.asarray(v)) for k, v in values.items()]
    )


def write(path: Path, image: np.ndarray | None = None, **changes: Any) -> Path:
    image = pixels() if image is None else image
    table = bintable({**columns(len(image)), **changes})
    fits.HDUList([fits.PrimaryHDU(image), table]).writeto(path)
    return path


def write_truth(path: Path, **changes: Any) -> Path:
    known = columns()
    known["THING_ID"] = known.pop("TARGETID")
    known |= {
        "Z_VI": np.linspace(0.1, 3.1, N),
        "CLASS_PERSON": np.array([1, 3, 30, 4, 0, 3, 99]),
        "Z_CONF_PERSON": np.array([3, 3, 2, 1, 0, 3, 3]),
        "BAL_FLAG_VI": np.array([0, 0, 1, 0, 0, 0, 0]),
        "BI_CIV": np.array([0.0, 0.0, 1234.5, 0.0, 0.0, 0.0, 0.0]),
    }
    known = {k: v for k, v in {**known, **changes}.items() if v is not None}
    fits.HDUList([fits.PrimaryHDU(), bintable(known)]).writeto(path)
    return path


def read(*paths: Path, batch: int = 100) -> list[Spectra]:
    return list(ARCHIVE.read(paths, batch))


# -- reading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_flux_and_ivar_are_the_two_halves_of_a_row(tmp_path: Path, dtype: str) -> None:
    image = pixels(dtype=dtype)
    (spectra,) = read(write(tmp_path / "data.fits", image))
    np.testing.assert_array_equal(spectra.flux, image[:, :443].astype("f4"))
    np.testing.assert_array_equal(spectra.ivar, image[:, 443:].astype("f4"))
    assert spectra.flux.dtype == np.float32
    assert not spectra.flags.any()


def test_rebinning_on_quasarnets_grid_changes_nothing(tmp_path: Path) -> None:
    (spectra,) = read(write(tmp_path / "data.fits"))
    np.testing.assert_array_equal(QUASARNET_LOG.bins(spectra.wavelength), np.arange(443))


def test_the_identity_is_that_of_the_table(tmp_path: Path) -> None:
    (spectra,) = read(write(tmp_path / "data.fits"))
    known = columns()
    assert spectra.ids["OBJID"].tolist() == [str(value) for value in known["TARGETID"]]
    np.testing.assert_array_equal(spectra.ids["THING_ID"], known["TARGETID"])
    for name in ("PLATE", "MJD", "FIBERID"):
        np.testing.assert_array_equal(spectra.ids[name], known[name])
    assert spectra.ids["ROW"].tolist() == list(range(N))
    assert set(spectra.ids["ARCHIVE"]) == {"parsed"}
    assert set(spectra.ids["SOURCE"]) == {str(tmp_path / "data.fits")}


def test_objects_without_a_thing_id_are_told_apart_by_plate_mjd_and_fibre(tmp_path: Path) -> None:
    (spectra,) = read(write(tmp_path / "data.fits", TARGETID=np.full(N, -1)))
    assert len(set(spectra.ids["OBJID"])) == N
    assert spectra.ids["OBJID"][1] == "7102-56666-0002"


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
@pytest.mark.parametrize("packed", [False, True])
def test_rows_come_in_order_in_blocks_of_at_most_batch(tmp_path: Path, batch: int, packed: bool) -> None:
    path = write(tmp_path / ("data.fits.gz" if packed else "data.fits"))
    batches = read(path, batch=batch)
    assert all(len(spectra) <= batch for spectra in batches)
    assert np.concatenate([spectra.ids["ROW"] for spectra in batches]).tolist() == list(range(N))
    np.testing.assert_array_equal(np.concatenate([spectra.flux for spectra in batches]), pixels()[:, :443])


def test_memory_is_bounded_by_the_batch_not_by_the_file(tmp_path: Path) -> None:
    n = 4000  # 14 MB
    path = write(tmp_path / "data.fits", pixels(n))
    next(iter(ARCHIVE.read([path], 10)))  # what is imported on first use is not the file's memory
    tracemalloc.start()
    total = sum(len(spectra) for spectra in ARCHIVE.read([path], 50))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == n
    assert peak < 4e6


def test_a_file_without_spectra_gives_none(tmp_path: Path) -> None:
    assert read(write(tmp_path / "data.fits", pixels(1)[:0])) == []


def test_pixels_that_are_not_finite_are_masked_and_flagged(tmp_path: Path) -> None:
    image = pixels()
    image[2, 5] = np.nan
    image[3, 443 + 5] = -1
    (spectra,) = read(write(tmp_path / "data.fits", image))
    assert spectra.flags.tolist() == [0, 0, Flag.NON_FINITE, Flag.NEGATIVE_IVAR, 0, 0, 0]
    assert spectra.ivar[2, 5] == spectra.ivar[3, 5] == 0


# -- recognition ---------------------------------------------------------------------------------------------


def test_parsed_data_are_recognised_and_other_fits_files_are_not(tmp_path: Path) -> None:
    assert ARCHIVE.recognise(Head(write(tmp_path / "data.fits")))
    assert ARCHIVE.recognise(Head(write(tmp_path / "data.fits.gz")))
    assert not ARCHIVE.recognise(Head(write_truth(tmp_path / "truth.fits")))
    assert not ARCHIVE.recognise(Head(write(tmp_path / "narrow.fits", pixels()[:, :-2])))
    fits.PrimaryHDU(pixels()).writeto(tmp_path / "image.fits")
    assert not ARCHIVE.recognise(Head(tmp_path / "image.fits"))
    (tmp_path / "a.csv").write_text("TARGETID,PLATE,MJD,FIBERID\n")
    assert not ARCHIVE.recognise(Head(tmp_path / "a.csv"))


# -- faults --------------------------------------------------------------------------------------------------


def flags_of(path: Path, batch: int = 3) -> list[int]:
    return [flag for spectra in read(path, batch=batch) for flag in spectra.flags.tolist()]


@pytest.mark.parametrize(
    "content", [b"", b"SIMPLE  =", bytes(range(256)) * 20], ids=["empty", "stub", "noise"]
)
def test_what_is_no_fits_file_becomes_one_flagged_row(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.fits").write_bytes(content)
    (flag,) = flags_of(tmp_path / "a.fits")
    assert flag & Flag.UNREADABLE


@pytest.mark.parametrize("kept", [2880 + 3544 * 4 + 100, 2880 * 10], ids=["in the image", "before the table"])
def test_a_file_cut_short_gives_a_flagged_row_for_each_spectrum_left_in_it(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path / "data.fits")
    path.write_bytes(path.read_bytes()[:kept])
    flags = flags_of(path)
    assert len(flags) == min((kept) // 3544, N)
    assert all(flag & Flag.UNREADABLE for flag in flags)


def test_a_gzip_stream_cut_short_is_flagged_and_never_raises(tmp_path: Path) -> None:
    path = write(tmp_path / "data.fits")
    packed = gzip.compress(path.read_bytes())
    for kept in (5, 1000, len(packed) // 2, len(packed) - 30):
        path.write_bytes(packed[:kept])
        flags = flags_of(path)
        assert flags
        assert all(flag & Flag.UNREADABLE for flag in flags)


def test_a_header_that_promises_a_billion_spectra_gives_no_more_rows_than_the_file_has(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "data.fits")
    content = path.read_bytes().replace(
        b"NAXIS2  =                    7", b"NAXIS2  =           1000000000", 1
    )
    path.write_bytes(content)
    flags = flags_of(path)
    assert 1 <= len(flags) <= len(content) // 3544
    assert all(flag & Flag.UNREADABLE for flag in flags)


def test_a_table_of_another_length_makes_every_row_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "data.fits"
    fits.HDUList([fits.PrimaryHDU(pixels()), bintable(columns(N - 1))]).writeto(path)
    spectra = read(path)
    assert sum(len(batch) for batch in spectra) == N
    assert all((batch.flags & Flag.UNREADABLE).all() for batch in spectra)
    assert "7 rows and the table 6" in spectra[0].notes[0]


def test_an_image_of_another_width_is_unreadable_and_says_what_was_expected(tmp_path: Path) -> None:
    (spectra,) = read(write(tmp_path / "data.fits", pixels()[:, :800]))
    assert (spectra.flags & Flag.UNREADABLE).all()
    assert "886" in spectra.notes[0]


def test_rows_that_fail_keep_their_identity_and_the_others_their_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "data.fits")
    whole = fits.hdu.image.Section.__getitem__

    def broken(self: Any, key: slice) -> Any:
        if key.start == 3:
            raise OSError("input/output error")
        return whole(self, key)

    monkeypatch.setattr(fits.hdu.image.Section, "__getitem__", broken)
    batches = read(path, batch=3)
    assert [bool(f & Flag.UNREADABLE) for b in batches for f in b.flags] == [False] * 3 + [True] * 3 + [False]
    assert batches[1].ids["ROW"].tolist() == [3, 4, 5]
    assert batches[1].ids["FIBERID"].tolist() == [4, 5, 6]
    assert "input/output error" in batches[1].notes[0]


def test_a_damaged_file_costs_its_neighbours_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.fits").write_bytes(b"no")
    batches = read(write(tmp_path / "a.fits"), tmp_path / "bad.fits", write(tmp_path / "b.fits"))
    assert [len(spectra) for spectra in batches] == [N, 1, N]


# -- truth ---------------------------------------------------------------------------------------------------

CLASSES = ["STAR", "QSO", "QSO", "GALAXY", "", "QSO", ""]


def test_a_truth_file_gives_its_rows_with_classes_in_words(tmp_path: Path) -> None:
    path = write_truth(tmp_path / "truth_dr12q.fits")
    table = parsed.truth(path)
    assert set(table.colnames) >= {"SOURCE", "ROW", "OBJID", "THING_ID", "PLATE", "MJD", "FIBERID", "Z_CONF"}
    assert table["CLASS"].tolist() == CLASSES
    np.testing.assert_allclose(table["Z"], np.linspace(0.1, 3.1, N))
    assert table["Z_CONF"].tolist() == [3, 3, 2, 1, 0, 3, 3]
    assert table["BAL_FLAG_VI"].tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert table["BI_CIV"][2] == 1234.5
    assert set(table["ZWARNING"]) == {-1}
    assert table["ROW"].tolist() == list(range(N))
    assert table["OBJID"][0] == "400000001"


def test_truth_is_matched_by_plate_mjd_and_fibre_never_by_thing_id_alone(tmp_path: Path) -> None:
    order = np.array([6, 5, 4, 3, 2, 1, 0])
    # One object, seven spectra: THING_ID would match any of them.
    path = write(tmp_path / "data.fits", TARGETID=np.full(N, 5), FIBERID=columns()["FIBERID"][order])
    write_truth(tmp_path / "truth_all.fits", THING_ID=np.full(N, 5))
    table = parsed.truth(path)
    assert table["CLASS"].tolist() == [CLASSES[i] for i in order]
    np.testing.assert_allclose(table["Z"], np.linspace(0.1, 3.1, N)[order])
    assert set(table["SOURCE"]) == {str(path)}
    assert table["ROW"].tolist() == list(range(N))


def test_spectra_that_the_truth_does_not_know_have_no_class(tmp_path: Path) -> None:
    path = write(tmp_path / "data.fits", MJD=np.array([56666, 1, 56666, 56666, 56666, 56666, 56666]))
    write_truth(tmp_path / "truth_all.fits")
    table = parsed.truth(path)
    assert (table["CLASS"][1], table["Z_CONF"][1], table["BAL_FLAG_VI"][1]) == ("", -1, -1)
    assert np.isnan(table["Z"][1])
    assert table["CLASS"][0] == "STAR"


def test_truth_in_several_files_is_taken_together(tmp_path: Path) -> None:
    path = write(tmp_path / "data.fits")
    write_truth(tmp_path / "truth_a.fits", MJD=np.full(N, 2))
    write_truth(tmp_path / "truth_b.fits.gz")
    assert parsed.truth(path)["CLASS"].tolist() == CLASSES


def test_truth_without_bal_columns_leaves_them_unknown(tmp_path: Path) -> None:
    table = parsed.truth(write_truth(tmp_path / "t.fits", BAL_FLAG_VI=None, BI_CIV=None, Z_CONF_PERSON=None))
    assert set(table["BAL_FLAG_VI"]) == set(table["Z_CONF"]) == {-1}
    assert np.isnan(table["BI_CIV"]).all()


def test_redshifts_that_say_unknown_are_nan(tmp_path: Path) -> None:
    z = np.array([-1.0, np.nan, -9999.0, 0.0, -0.001, 2.0, 3.0])
    table = parsed.truth(write_truth(tmp_path / "t.fits", Z_VI=z))
    np.testing.assert_array_equal(table["Z"], [np.nan, np.nan, np.nan, 0, -0.001, 2, 3])


def test_truth_of_data_with_none_beside_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"truth\*\.fits"):
        parsed.truth(write(tmp_path / "data.fits"))


def test_truth_of_a_table_of_something_else_names_the_columns_wanted(tmp_path: Path) -> None:
    bintable({"RA": np.arange(3.0)}).writeto(tmp_path / "a.fits")
    with pytest.raises(ReadError, match="CLASS_PERSON"):
        parsed.truth(tmp_path / "a.fits")


def test_truth_reads_the_layout_of_the_real_superset(data: Path) -> None:
    path = data / "catalogues" / "superset_dr12q_extract.fits"
    table = parsed.truth(path)
    raw = fits.getdata(path, 1)
    assert len(table) == len(raw)
    np.testing.assert_array_equal(table["THING_ID"], raw["THING_ID"])
    assert ((table["CLASS"] == "QSO") == np.isin(raw["CLASS_PERSON"], (3, 30))).all()
