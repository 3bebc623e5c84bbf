"""The catalogue's rows, and the files they are written to."""

from __future__ import annotations

import csv
import errno
import gzip
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from broadline import writers
from broadline.catalogue import ARCHIVE_IDS, columns, describe_columns, rows, schema, to_astropy
from broadline.errors import UsageError
from broadline.flags import UNCLASSIFIED, Flag
from broadline.lines import QUASARNET_LINES
from broadline.spectra import IDENTITY, identity
from broadline.writers import SUFFIXES, CatalogueWriter
from conftest import ROOT
from files import room_for

LINES = tuple(line.name for line in QUASARNET_LINES)
META = {
    "version": "0.1.0",
    "model": "slim",
    "model_sha256": "0123456789abcdef" * 4,
    "command": "broadline classify " + "spectra/spec-1234-56789-0001.fits " * 8 + "-o café.fits",
    "date": "2026-01-02T03:04:05+00:00",
    "site": "here",
}


def some_rows(n: int, seed: int = 0, flags: int = 0, **ids: Any) -> pa.Table:
    """Rows with a value in every result column."""
    rng = np.random.default_rng(seed)
    who = identity("sdss", [f"spec-{seed}-{i}.fits" for i in range(n)], ROW=np.arange(n), **ids)
    return rows(who, np.full(n, flags, np.uint32), rng.random(n, np.float32), some_results(n, rng), LINES)


def some_results(n: int, rng: np.random.Generator) -> dict[str, Any]:
    results = {
        "IS_QSO": rng.random(n) > 0.5,
        "Z": rng.random(n),
        "BEST_LINE": rng.integers(0, len(LINES), n),
        "N_LINES": rng.integers(0, 7, n).astype(np.int16),
        "IS_BAL": rng.random(n) > 0.5,
        "NEEDS_VI": rng.random(n) > 0.5,
    }
    for name in LINES:
        results[f"C_{name}"], results[f"Z_{name}"] = rng.random(n, np.float32), rng.random(n)
    return results


def written(path: Path, *parts: pa.Table, **options: Any) -> Path:
    with CatalogueWriter(path, QUASARNET_LINES, META, **options) as writer:
        for part in parts:
            writer.append(part)
    return path


# --- rows ----------------------------------------------------------------------------------------------


def test_columns_are_those_of_the_specification_in_its_order() -> None:
    identity_first = ["ARCHIVE", "SOURCE", "ROW", "OBJID", "RA", "DEC", "SN_MEDIAN"]
    verdict = ["IS_QSO", "Z", "Z_ERR", "BEST_LINE", "N_LINES", "IS_BAL", "P_QSO", "P_Z", "P_BAL", "NEEDS_VI"]
    of_lines = [f"{q}_{name}" for q in "CZ" for name in LINES]
    assert schema().names == [*identity_first, *ARCHIVE_IDS, *verdict, *of_lines, "FLAGS"]
    assert list(IDENTITY) == [*identity_first[:6], *ARCHIVE_IDS]
    assert schema(["A"]).names[-3:] == ["C_A", "Z_A", "FLAGS"]


def test_identity_columns_have_the_types_of_the_spectra() -> None:
    for name, kind in IDENTITY.items():
        expected = pa.string() if kind is str else pa.from_numpy_dtype(kind)
        assert schema().field(name).type == expected


def test_every_row_of_the_input_is_there_in_order_with_its_values() -> None:
    rng = np.random.default_rng(1)
    who = identity("desi", ["a", "b", "c"], row=np.array([5, 3, 4]), TARGETID=[7, 8, 9], RA=[1.0, 2.0, 3.0])
    results = some_results(3, rng)
    table = rows(who, np.array([0, 128, 1 << 31], np.uint32), np.array([1, 2, 3], np.float32), results, LINES)
    assert table.schema == schema(LINES)
    assert table["ROW"].to_pylist() == [5, 3, 4]
    assert table["SOURCE"].to_pylist() == ["a", "b", "c"]
    assert table["TARGETID"].to_pylist() == [7, 8, 9]
    assert table["Z"].to_pylist() == results["Z"].tolist()
    assert table["C_MGII"].to_pylist() == results["C_MGII"].tolist()
    assert table["BEST_LINE"].to_pylist() == [LINES[i] for i in results["BEST_LINE"]]
    assert np.array(table["FLAGS"]).astype(np.uint32).tolist() == [0, 128, 1 << 31]


def test_what_the_reader_marks_as_missing_is_null() -> None:
    table = rows(
        identity("x", ["f"], PLATE=[-1], PLANID=[""]), np.zeros(1, np.uint32), np.full(1, np.nan), {}
    )
    for name in ("OBJID", "RA", "DEC", "PLATE", "PLANID", "SN_MEDIAN", "TARGETID", "IS_QSO", "Z", "P_QSO"):
        assert table[name].to_pylist() == [None], name
    assert table["FLAGS"].to_pylist() == [0]


def test_a_negative_targetid_is_a_targetid_unless_it_is_minus_one() -> None:
    who = identity("desi", ["f"] * 3, TARGETID=[-39627635744379137, -1, -2])
    table = rows(who, np.zeros(3, np.uint32), np.ones(3, np.float32), {})
    assert table["TARGETID"].to_pylist() == [-39627635744379137, None, -2]


@pytest.mark.parametrize("flag", list(Flag))
def test_a_row_has_results_unless_a_flag_says_that_it_could_not_be_classified(flag: Flag) -> None:
    table = some_rows(2, flags=int(flag))
    for name in ("IS_QSO", "Z", "BEST_LINE", "N_LINES", "IS_BAL", "NEEDS_VI", "C_LYA", "Z_BAL_CIV"):
        assert (table[name].null_count == 2) == bool(flag & UNCLASSIFIED), name
    assert table["SN_MEDIAN"].null_count == 0


def test_a_result_that_is_not_a_number_is_null_and_no_line_is_no_name() -> None:
    results = {"Z": np.array([np.nan, 2.0]), "BEST_LINE": np.array([-9, 1]), "N_LINES": np.array([0, -1])}
    table = rows(identity("x", ["f", "g"]), np.zeros(2, np.uint32), np.ones(2), results, LINES)
    assert table["Z"].to_pylist() == [None, 2.0]
    assert table["BEST_LINE"].to_pylist() == [None, "CIV"]


def test_names_of_lines_may_be_given_as_text() -> None:
    results = {"BEST_LINE": np.array(["CIV", ""], dtype=object)}
    table = rows(identity("x", ["f", "g"]), np.zeros(2, np.uint32), np.ones(2), results)
    assert table["BEST_LINE"].to_pylist() == ["CIV", None]


def test_a_file_name_that_is_not_unicode_is_written_legibly() -> None:
    table = rows(identity("x", [os.fsdecode(b"caf\xe9.fits")]), np.zeros(1, np.uint32), np.ones(1), {})
    assert table["SOURCE"].to_pylist() == ["caf\\udce9.fits"]


def test_no_spectra_give_no_rows_of_the_same_columns() -> None:
    table = some_rows(0)
    assert len(table) == 0
    assert table.schema == schema(LINES)


@pytest.mark.parametrize(
    "results", [{"REDSHIFT": np.ones(2)}, {"FLAGS": np.ones(2)}, {"Z": np.ones(3)}, {"C_PAALPHA": np.ones(2)}]
)
def test_a_column_that_does_not_belong_is_refused(results: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(results))):
        rows(identity("x", ["f", "g"]), np.zeros(2, np.uint32), np.ones(2), results)


def test_the_astropy_table_has_masks_units_and_no_empty_ids() -> None:
    table = to_astropy([some_rows(2, PLATE=[-1, 3]), some_rows(1, flags=1)])
    assert table["PLATE"].tolist() == [None, 3, None]
    assert table["Z"].mask.tolist() == [False, False, True]
    assert table["RA"].unit == "deg"
    assert "TARGETID" not in table.colnames
    assert len(to_astropy([])) == 0


# --- files ---------------------------------------------------------------------------------------------


def read_back(path: Path) -> dict[str, list[Any]]:
    """Values by column, missing ones None, read without broadline."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pydict()
    if path.suffix == ".csv":
        return read_csv(path)
    if path.suffix == ".ecsv":
        table = Table.read(path)
        return {name: table[name].tolist() for name in table.colnames}
    # A missing logical is the byte 0, which astropy otherwise shows as False, and warns.
    with fits.open(path, character_as_bytes=True, logical_as_bytes=True) as hdus:
        table = Table.read(hdus["CATALOG"])
    logical = {"T": True, "F": False, "": None}
    kinds = {c.name: c.type for c in columns()}
    values = {}
    for name in table.colnames:
        gaps = np.ma.getmaskarray(table[name]).tolist()
        cells = [None if gap else value for gap, value in zip(gaps, table[name].tolist(), strict=True)]
        values[name] = [logical[value or ""] for value in cells] if kinds[name] == pa.bool_() else cells
    return values


def read_csv(path: Path) -> dict[str, list[Any]]:
    with path.open(newline="") as stream:
        head, *body = list(csv.reader(stream))
    kinds = {c.name: c.type for c in columns()}

    def value(name: str, cell: str) -> Any:
        if not cell:
            return None
        if kinds[name] == pa.bool_():
            return {"True": True, "False": False}[cell]
        if kinds[name] == pa.float32():
            return float(np.float32(cell))
        if kinds[name] == pa.string():
            return cell
        return float(cell) if kinds[name] == pa.float64() else int(cell)

    return {name: [value(name, row[i]) for row in body] for i, name in enumerate(head)}


# Readers of FITS and ECSV drop spaces at the ends of text, and text files have one kind of line end.
TEXT = st.text(
    st.one_of(
        st.sampled_from(",\"'\n\t #|\\%é☉𝒵"), st.characters(codec="utf-8", exclude_categories=["C", "Z"])
    ),
    max_size=12,
).map(str.strip)


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if kind == pa.string():
        known: st.SearchStrategy[Any] = TEXT.filter(bool)
    elif kind == pa.bool_():
        known = st.booleans()
    elif pa.types.is_floating(kind):
        known = st.floats(width=kind.bit_width, allow_nan=False)
    else:
        limit = 2 ** (kind.bit_width - 1)
        known = st.integers(-limit, limit - 1).filter(lambda value: value != -1)
    return st.none() | known


@st.composite
def tables(draw: st.DrawFn) -> list[pa.Table]:
    """Parts of a catalogue in which anything may be missing, or everything."""
    lines = schema(LINES)
    some = draw(st.sets(st.sampled_from(lines.names), max_size=8)) | {"SOURCE", "IS_QSO", "TARGETID", "Z"}

    def part(n: int) -> pa.Table:
        parts = {f.name: pa.nulls(n, f.type) for f in lines}
        for name in some:
            kind = lines.field(name).type
            parts[name] = pa.array(draw(st.lists(values_of(kind), min_size=n, max_size=n)), kind)
        parts["FLAGS"] = pa.array(
            draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=n, max_size=n)), "int32"
        )
        return pa.table(parts, schema=lines)

    return [part(n) for n in draw(st.lists(st.integers(0, 4), max_size=3))]


@given(tables())
@settings(max_examples=25)
def test_all_formats_read_back_to_the_same_values_and_gaps(
    tmp_path_factory: pytest.TempPathFactory, parts: list[pa.Table]
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    whole = pa.concat_tables([schema(LINES).empty_table(), *parts])
    expected = whole.to_pydict()
    for name in ARCHIVE_IDS:
        if all(value is None for value in expected[name]):
            del expected[name]
    for suffix in (".parquet", ".fits", ".ecsv", ".csv"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_back(written(folder / f"out{suffix}", *parts)) == expected, suffix
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_bytes_do_not_depend_on_how_the_rows_came(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "ROW_GROUP", 10)
    whole = some_rows(37, PLATE=np.arange(37))
    one = written(tmp_path / f"one{suffix}", whole)
    for sizes in ([10, 10, 10, 7], [1] * 37, [0, 36, 0, 1], [3, 25, 9]):
        starts = np.cumsum([0, *sizes[:-1]])
        parts = [whole.slice(start, size) for start, size in zip(starts, sizes, strict=True)]
        assert written(tmp_path / f"two{suffix}", *parts).read_bytes() == one.read_bytes(), sizes


def test_columns_of_ids_that_no_row_has_are_left_out_and_all_others_are_not(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", some_rows(2), some_rows(2, TARGETID=[-1, 5]))
    empty = set(ARCHIVE_IDS) - {"TARGETID"}
    assert pq.read_schema(path).names == [name for name in schema().names if name not in empty]


def test_parquet_carries_provenance_units_and_the_meaning_of_flags(tmp_path: Path) -> None:
    found = pq.read_schema(written(tmp_path / "a.parquet", some_rows(1)))
    for key, value in META.items():
        assert found.metadata[f"broadline.{key}".encode()].decode() == value
    assert found.field("RA").metadata[b"unit"] == b"deg"
    assert found.field("RA").metadata[b"description"] == b"Right ascension"
    assert b"SKY_FIBRE" in found.metadata[b"broadline.flags"]


def test_parquet_has_row_groups_of_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "ROW_GROUP", 10)
    file = pq.ParquetFile(written(tmp_path / "a.parquet", some_rows(7), some_rows(28)))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [10, 10, 10, 5]


def test_fits_obeys_the_standard_and_carries_provenance_units_and_flags(tmp_path: Path) -> None:
    path = written(tmp_path / "a.fits", some_rows(3, PLATE=[1, -1, 2]))
    assert path.stat().st_size % 2880 == 0
    with fits.open(path) as hdus:
        hdus.verify("exception")
        header = hdus["CATALOG"].header
    assert (header["BLVERS"], header["MODEL"], header["MODELSHA"]) == ("0.1.0", "slim", META["model_sha256"])
    assert header["COMMAND"] == META["command"].replace("é", "\\xe9")
    assert header["DATE"] == "2026-01-02T03:04:05"
    assert "site = here" in str(header["HISTORY"])
    assert header["FLAG4"] == "SKY_FIBRE: The archive says that this fibre looked at the sky."
    table = Table.read(path)
    assert table["PLATE"].tolist() == [1, None, 2]
    assert table["RA"].unit == "deg"
    assert header["TCOMM5"] == "Right ascension"
    assert header[f"TTYPE{header['TFIELDS']}"] == "FLAGS"
    assert f"TNULL{header['TFIELDS']}" not in header


def test_fits_gz_is_the_fits_file_compressed(tmp_path: Path) -> None:
    packed, plain = (written(tmp_path / name, some_rows(50)) for name in ("a.fits.gz", "a.fits"))
    assert packed.stat().st_size < plain.stat().st_size
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    assert packed.read_bytes()[3:8] == bytes(5), "a file name or time inside would change from run to run"


def test_ecsv_is_read_with_types_units_descriptions_and_provenance(tmp_path: Path) -> None:
    table = Table.read(written(tmp_path / "a.ecsv", some_rows(2, PLATE=[1, -1])))
    for column in columns():
        if column.name in table.colnames and column.type != pa.string():
            assert table[column.name].dtype == column.type.to_pandas_dtype(), column.name
    assert table["DEC"].unit == "deg"
    assert table["DEC"].description == "Declination"
    assert {key: table.meta[key] for key in META} == META
    assert table.meta["flags"]["0"].startswith("NO_DATA: ")


def test_a_catalogue_without_rows_is_a_file_without_rows(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        values = read_back(written(tmp_path / f"a{suffix}"))
        assert set(map(len, values.values())) == {0}
        assert "Z_BAL_CIV" in values


def test_columns_that_went_through_another_library_are_taken_back(tmp_path: Path) -> None:
    table = some_rows(2)
    large = [f.with_type(pa.large_string()) if f.type == pa.string() else f for f in table.schema]
    shuffled = table.cast(pa.schema(large)).select(table.schema.names[::-1])
    one, two = written(tmp_path / "one.csv", table), written(tmp_path / "two.csv", shuffled)
    assert one.read_bytes() == two.read_bytes()


def test_memory_is_that_of_a_part_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "ROW_GROUP", 1000)
    part = some_rows(500)

    def peak(n: int) -> int:
        before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
        pa.set_memory_pool(pool)
        try:
            with CatalogueWriter(tmp_path / "a.fits", LINES, {}) as writer:
                for _ in range(n):
                    writer.append(part)
        finally:
            pa.set_memory_pool(before)
        return int(pool.max_memory())

    assert peak(80) < 1.3 * peak(8)


# --- what can go wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out", "out.txt", "out.hdf5", "fits"])
def test_an_unknown_suffix_is_refused_with_those_known(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.parquet, \.fits, \.fits\.gz, \.ecsv, \.csv"):
        CatalogueWriter(tmp_path / name, LINES, {})


def opened(path: Path) -> None:
    with CatalogueWriter(path, LINES, {}):
        pytest.fail("the block began although the file cannot be written")


def test_a_missing_folder_is_reported_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone/a\.fits: the folder .*gone does not exist"):
        opened(tmp_path / "gone" / "a.fits")


def test_a_folder_as_output_is_reported_before_any_work(tmp_path: Path) -> None:
    for name in ("a.fits", "plain"):
        (tmp_path / name).mkdir()
        with pytest.raises(UsageError, match=f"{name}: is a folder"):
            opened(tmp_path / name)


def test_a_file_in_place_of_the_folder_is_reported_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file is not a folder"):
        opened(tmp_path / "file" / "a.fits")


def test_an_unwritable_folder_is_reported_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match=r"a\.fits: the folder .* may not be written to"):
        opened(tmp_path / "a.fits")


def test_a_name_too_long_is_reported_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        opened(tmp_path / ("a" * 300 + ".fits"))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
@pytest.mark.filterwarnings("error")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    suffix: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "ROW_GROUP", 1000)
    part = some_rows(1000)
    path = tmp_path / f"a{suffix}"
    size = written(path, part, part, part).stat().st_size
    path.write_text("the old one")
    with room_for(int(share * size)), pytest.raises(UsageError, match=r"a\..*: the disk is full"):
        written(path, part, part, part)
    assert [(p, p.read_text()) for p in tmp_path.iterdir()] == [(path, "the old one")]


def test_no_space_left_is_told_as_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="the disk is full"):
        written(tmp_path / "a.csv", some_rows(3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interruption_leaves_the_old_file_and_nothing_else(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("the old one")
    with pytest.raises(error), CatalogueWriter(path, LINES, {}) as writer:
        writer.append(some_rows(5))
        assert len(list(tmp_path.iterdir())) == 2
        raise error
    assert [(p, p.read_text()) for p in tmp_path.iterdir()] == [(path, "the old one")]


def test_what_lies_aside_meanwhile_is_hidden_and_in_the_same_folder(tmp_path: Path) -> None:
    with CatalogueWriter(tmp_path / "a.csv", LINES, {}) as writer:
        writer.append(some_rows(1))
        assert all(p.name.startswith(".") for p in tmp_path.iterdir())
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_a_link_stays_a_link_to_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "a.csv"
    link.symlink_to(tmp_path / "disk" / "b.csv")
    written(link, some_rows(1))
    assert link.is_symlink()
    assert len(read_csv(tmp_path / "disk" / "b.csv")["Z"]) == 1


def test_the_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    assert written(tmp_path / "a.csv").stat().st_mode == plain.stat().st_mode


def test_the_documentation_has_the_columns_flags_and_formats_as_they_are() -> None:
    text = (ROOT / "docs" / "catalogue.md").read_text()
    assert describe_columns() in text
    assert all(f"`{suffix}`" in text for suffix in SUFFIXES)
    unclassified = [flag.name for flag in Flag if flag & UNCLASSIFIED]
    sentence = text[text.index("A row with one of") : text.index("has no result")]
    assert all(f"`{name}`" in sentence for name in unclassified)
    assert sentence.count("`") == 2 * len(unclassified)


def test_a_probability_is_missing_until_a_model_gives_one() -> None:
    assert some_rows(2)["P_QSO"].null_count == 2
    given = {"P_QSO": np.array([0.5, math.nan])}
    table = rows(identity("x", ["f", "g"]), np.zeros(2, np.uint32), np.ones(2), given)
    assert table["P_QSO"].to_pylist() == [0.5, None]
