"""`classify_table`: a row for every row, whatever the columns are, by itself and mapped by dask and LSDB."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import broadline
from broadline import classify_table, frames
from broadline.catalogue import schema
from broadline.errors import ModelError, UsageError
from broadline.flags import Flag
from broadline.lines import QUASARNET_LINES
from broadline.model import Model
from broadline.ragged import batches
from broadline.spectra import IDENTITY, Spectra, identity, lattice_wavelength
from files import FIRST, observed, quasar, star

pd = pytest.importorskip("pandas")
dd = pytest.importorskip("dask.dataframe")

DOCS = Path(__file__).resolve().parents[1] / "docs" / "tables.md"
N_PIXELS = 3000
N = 6
ARROW = {"dtype_backend": "pyarrow"}
RESULTS = [field.name for field in schema(QUASARNET_LINES) if field.name not in IDENTITY]
Array = NDArray[Any]
Lists = dict[str, list[Array]]


def spectra() -> Lists:
    """Six spectra on one range of the lattice; one has NaN where it is masked, one where it is not."""
    wave = lattice_wavelength(FIRST, N_PIXELS)
    lists: Lists = {"flux": [], "ivar": [], "lambda": [wave] * N}
    for i in range(N):
        flux, ivar = observed(star(np.log10(wave)) if i == 2 else quasar(0.5 * i, np.log10(wave)), seed=i)
        lists["flux"].append(flux)
        lists["ivar"].append(ivar)
    lists["ivar"][3][:50] = 0
    lists["flux"][3][:50] = np.nan
    lists["flux"][4][7] = np.nan
    return lists


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return broadline.load_model(tiny_model, threads=1)


@pytest.fixture(scope="module")
def expected(model: Model) -> pa.Table:
    """What the model says of the same spectra as arrays."""
    lists = spectra()
    flux, ivar = np.stack(lists["flux"]), np.stack(lists["ivar"])
    flags = np.zeros(N, np.uint32)
    flags[4] = Flag.NON_FINITE
    ivar[~np.isfinite(flux)] = 0
    flux = np.nan_to_num(flux, nan=0)
    batch = Spectra(lists["lambda"][0], flux, ivar, identity("table", [""] * N), flags)
    return model.classify_batch(batch).select(RESULTS)


def arrow(lists: Lists, **others: Any) -> pa.Table:
    """A table of lists, a column each, as wide as its file would be."""
    columns = {
        name: pa.array(rows, pa.list_(pa.from_numpy_dtype(rows[0].dtype))) for name, rows in lists.items()
    }
    return pa.table({"id": np.arange(len(lists["flux"])), **others, **columns})


def frame(lists: Lists, **others: Any) -> Any:
    return arrow(lists, **others).to_pandas(types_mapper=pd.ArrowDtype)


def same(ours: pa.Table, theirs: pa.Table, sn_tolerance: float = 1e-5) -> None:
    assert ours.schema.names == theirs.schema.names
    for name in theirs.schema.names:
        a, b = ours[name], theirs[name]
        assert a.type == b.type and a.is_null().equals(b.is_null()), name
        if pa.types.is_floating(a.type):  # the network adds in another order in a batch of another size
            rtol = sn_tolerance if name == "SN_MEDIAN" else 1e-5
            assert np.allclose(a.to_numpy(), b.to_numpy(), rtol=rtol, equal_nan=True), name
        else:
            assert a.equals(b), name


def results(table: Any) -> pa.Table:
    """The columns of the catalogue in what `classify_table` returns."""
    if not isinstance(table, pa.Table):
        table = pa.table({name: pa.array(table[name]) for name in table.columns})
    return table.select(RESULTS).combine_chunks()


# ---- layouts


def struct_of_lists(lists: Lists) -> pa.Table:
    table = arrow(lists)
    nested = pa.StructArray.from_arrays([table[name].combine_chunks() for name in lists], list(lists))
    return pa.table({"id": table["id"], "spectrum": nested})


def list_of_structs(lists: Lists) -> pa.Table:
    table = arrow(lists)
    flat = [table[name].combine_chunks() for name in lists]
    inner = pa.StructArray.from_arrays([column.values for column in flat], list(lists))
    return pa.table({"id": table["id"], "spectrum": pa.ListArray.from_arrays(flat[0].offsets, inner)})


def fixed_size(lists: Lists) -> pa.Table:
    table = arrow(lists)
    for name in lists:
        at = table.schema.get_field_index(name)
        flat = table[name].combine_chunks().flatten()
        table = table.set_column(at, name, pa.FixedSizeListArray.from_arrays(flat, N_PIXELS))
    return table


def nested_pandas(lists: Lists) -> Any:
    nested = pytest.importorskip("nested_pandas")
    table = frame({"flux": lists["flux"]})[["id"]]
    rows = struct_of_lists(lists)["spectrum"]
    kind = nested.NestedDtype(rows.type)
    return nested.NestedFrame(table).assign(spectrum=pd.Series(rows.to_pylist(), dtype=kind))


def with_errors(lists: Lists) -> pa.Table:
    error = [np.divide(1, np.sqrt(i), out=np.zeros_like(i), where=i > 0) for i in lists.pop("ivar")]
    return arrow(lists | {"err": error})


def descending(lists: Lists) -> pa.Table:
    return arrow({name: [row[::-1] for row in rows] for name, rows in lists.items()})


def padded(lists: Lists) -> pa.Table:
    """As the Multimodal Universe has it: padded to one length, wavelength -1, the last flux, masked."""
    mask = [np.zeros(N_PIXELS, dtype=bool)] * N
    ends: dict[str, Any] = {"lambda": -1, "ivar": 0, "mask": True}
    lists["lambda"] = [row.astype(np.float32) for row in lists["lambda"]]
    return arrow(
        {
            name: [np.append(row, np.full(9, ends.get(name, row[-1]), row.dtype)) for row in rows]
            for name, rows in (lists | {"mask": mask}).items()
        }
    )


LAYOUTS: dict[str, Callable[[Lists], Any]] = {
    "Arrow lists": arrow,
    "Arrow large lists": lambda lists: arrow(lists).cast(
        pa.schema(
            [
                pa.field(f.name, pa.large_list(f.type.value_type) if pa.types.is_list(f.type) else f.type)
                for f in arrow(lists).schema
            ]
        )
    ),
    "Arrow lists of fixed size": fixed_size,
    "struct of lists": struct_of_lists,
    "list of structs": list_of_structs,
    "in several chunks": lambda lists: pa.concat_tables(
        [arrow(lists).slice(0, 1), arrow(lists).slice(1, 3), arrow(lists).slice(4)]
    ),
    "pandas, Arrow types": frame,
    "pandas, objects": lambda lists: arrow(lists).to_pandas(),
    "pandas, struct of lists": lambda lists: struct_of_lists(lists).to_pandas(types_mapper=pd.ArrowDtype),
    "nested-pandas": nested_pandas,
    "errors": with_errors,
    "descending": descending,
    "padded": padded,
    "float64": lambda lists: arrow({name: [x.astype("f8") for x in rows] for name, rows in lists.items()}),
    "logarithms": lambda lists: arrow(
        {"FLUX": lists["flux"], "IVAR": lists["ivar"], "LOGLAM": [np.log10(x) for x in lists["lambda"]]}
        | {"flux": lists["flux"]}
    ).drop_columns("flux"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_what_the_model_says_of_the_same_spectra(
    layout: str, tiny_model: Path, expected: pa.Table
) -> None:
    table = LAYOUTS[layout](spectra())
    out = classify_table(table, tiny_model)
    assert type(out) is type(table)
    assert list(out.columns if hasattr(out, "index") else out.column_names) == ["id", *RESULTS]
    same(results(out), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_rows_give_the_same_columns_and_types(layout: str, tiny_model: Path) -> None:
    table = LAYOUTS[layout](spectra())
    none = table.slice(0, 0) if isinstance(table, pa.Table) else table.iloc[:0]
    out, empty = classify_table(table, tiny_model), classify_table(none, tiny_model)
    if isinstance(table, pa.Table):
        assert empty.schema.equals(out.schema) and empty.num_rows == 0
    else:
        assert empty.dtypes.equals(out.dtypes) and len(empty) == 0


def test_a_shared_grid_is_given_as_an_argument(tiny_model: Path, expected: pa.Table) -> None:
    lists = spectra()
    wave = lists.pop("lambda")[0]
    same(results(classify_table(arrow(lists), tiny_model, wavelength=wave)), expected)
    same(results(classify_table(struct_of_lists(lists), tiny_model, wavelength=list(wave))), expected)
    out = results(classify_table(arrow(lists), tiny_model, wavelength=wave[:-1]))
    assert set(out["FLAGS"].to_pylist()) == {Flag.UNREADABLE | Flag.NO_DATA}


def test_columns_of_other_names_are_given_by_name(tiny_model: Path, expected: pa.Table) -> None:
    names = {"flux": "counts", "ivar": "w", "lambda": "x"}
    lists = {names[name]: rows for name, rows in spectra().items()}
    lists["flux"] = [np.zeros(3, np.float32)] * N  # not what is meant
    out = classify_table(arrow(lists), tiny_model, flux="counts", ivar="w", wavelength="x")
    assert out.column_names == ["id", "flux", *RESULTS]
    same(results(out), expected)
    renamed = struct_of_lists(
        {names[name]: rows for name, rows in spectra().items()} | {"flux": lists["flux"]}
    )
    where = {"flux": "spectrum.counts", "ivar": "spectrum.w", "wavelength": "spectrum.x"}
    same(results(classify_table(renamed, tiny_model, **where)), expected)


def test_of_two_nested_columns_one_is_named(tiny_model: Path, expected: pa.Table) -> None:
    table = struct_of_lists(spectra())
    both = table.append_column("other", table["spectrum"])
    with pytest.raises(
        UsageError, match="columns spectrum, other all hold spectra: say which, as flux='spec"
    ):
        classify_table(both, tiny_model)
    out = classify_table(both, tiny_model, flux="other.flux")
    assert out.column_names == ["id", "spectrum", *RESULTS]
    same(results(out), expected)


def test_a_mask_hides_pixels_and_of_and_mask_only_the_bit_that_means_rejected(
    model: Model, tiny_model: Path
) -> None:
    lists = spectra()
    hidden = arrow(lists | {"ivar": [np.where(np.arange(N_PIXELS) < 900, 0, x) for x in lists["ivar"]]})
    bad = [np.arange(N_PIXELS) < 900] * N
    reference = results(classify_table(hidden, tiny_model))
    assert not reference.equals(results(classify_table(arrow(lists), tiny_model)))
    same(results(classify_table(arrow(lists | {"mask": bad}), tiny_model)), reference)
    bits = [np.where(b, 1 << 25, 1 << 23).astype(np.int32) for b in bad]
    same(results(classify_table(arrow(lists | {"and_mask": bits}), tiny_model)), reference)
    plain = results(classify_table(arrow(lists), tiny_model))
    same(results(classify_table(arrow(lists | {"mask": bad}), tiny_model, mask="")), plain)


# ---- rows


def test_rows_keep_their_order_their_index_and_their_other_columns(tiny_model: Path) -> None:
    table = frame(spectra(), ra=np.arange(N) * 1.5, name=list("abcdef"))
    table.index = pd.Index([7, 7, 3, 1, 7, 0], name="_healpix_29")
    out = classify_table(table, tiny_model)
    pd.testing.assert_index_equal(out.index, table.index)
    pd.testing.assert_frame_equal(out[["id", "ra", "name"]], table[["id", "ra", "name"]])
    mixed = table.iloc[[4, 0, 5, 2, 1, 3]]
    again = classify_table(mixed, tiny_model)
    assert again["id"].tolist() == [4, 0, 5, 2, 1, 3]
    same(results(again), results(out).take(pa.array([4, 0, 5, 2, 1, 3])))


def bad_rows() -> tuple[pa.Table, list[int]]:
    """A good row, rows with all that can be wrong, and a good row; and what flags are due."""
    lists = spectra()
    f, i, w = lists["flux"][0], lists["ivar"][0], lists["lambda"][0]
    jumps = np.append(w[:-1], w[0])
    none, unread = int(Flag.NO_DATA), int(Flag.NO_DATA | Flag.UNREADABLE)
    rows: list[tuple[Any, Any, Any, int]] = [
        (f, i, w, 0),
        (None, i, w, none),
        (f, None, w, none),
        (f, i, None, none),
        ([], [], [], none),
        (f, [], w, none),
        (f[:-1], i, w, unread),
        (f, i[:-1], w, unread),
        (f, i, w[:-1], unread),
        (f[:1], i[:1], w[:1], unread),
        (np.full_like(f, np.nan), i, w, int(Flag.NO_DATA | Flag.NON_FINITE)),
        (f, np.full_like(i, np.nan), w, int(Flag.NO_DATA | Flag.NON_FINITE)),
        (f, 0 * i, w, none),
        (f, -i, w, int(Flag.NO_DATA | Flag.NEGATIVE_IVAR)),
        (f, i, jumps, int(Flag.NO_DATA | Flag.BAD_WAVELENGTH)),
        (f, i, np.full_like(w, np.nan), int(Flag.NO_DATA | Flag.BAD_WAVELENGTH)),
        (np.ones_like(f), i, w, int(Flag.CONSTANT_FLUX)),
        (f, i, 10 * w, int(Flag.NO_COVERAGE)),
        ([None, *f[1:]], [None, *i[1:]], w, int(Flag.NON_FINITE)),
        (f, i, w, 0),
    ]
    columns = [
        pa.array([None if x is None else list(x) for x in column], pa.list_(kind))
        for column, kind in zip(
            list(zip(*rows, strict=True))[:3], (pa.float32(), pa.float32(), pa.float64()), strict=True
        )
    ]
    table = pa.table(dict(zip(("flux", "ivar", "lambda"), columns, strict=True)))
    return table, [row[3] for row in rows]


@pytest.mark.parametrize("kind", ["arrow", "pandas, Arrow types", "pandas, objects"])
def test_what_is_wrong_with_a_row_is_in_its_flags_and_hurts_no_other(kind: str, tiny_model: Path) -> None:
    table, due = bad_rows()
    if kind != "arrow":
        table = table.to_pandas(**({"types_mapper": pd.ArrowDtype} if "Arrow" in kind else {}))
    out = results(classify_table(table, tiny_model))
    quality = Flag.LOW_SN | Flag.FEW_PIXELS | Flag.CONFLICTING_LINES
    assert [flags & ~quality for flags in out["FLAGS"].to_pylist()] == due
    good = [0, len(due) - 1]
    alone = results(classify_table(arrow(spectra()).slice(0, 1), tiny_model))
    for row in good:
        same(out.slice(row, 1).combine_chunks(), alone)
    unclassified = [row for row, flags in enumerate(due) if flags & ~Flag.NON_FINITE]
    assert set(out["IS_QSO"].take(pa.array(unclassified)).to_pylist()) == {None}


def test_cells_that_are_no_lists_are_rows_without_data(tiny_model: Path) -> None:
    table = arrow(spectra()).to_pandas()
    table["flux"] = table["flux"].astype(object)
    table.at[1, "flux"], table.at[2, "flux"], table.at[3, "flux"] = "text", 5.0, np.zeros((2, 2))
    out = classify_table(table, tiny_model)
    assert [bool(flags & Flag.NO_DATA) for flags in out["FLAGS"]] == [False, True, True, True, False, False]


def unlike() -> Lists:
    """Spectra of unlike ranges of the lattice, and of grids of their own."""
    lists: Lists = {"flux": [], "ivar": [], "lambda": []}
    grids = [lattice_wavelength(FIRST + 37 * i, N_PIXELS - 100 * i) for i in range(4)]
    grids += [np.linspace(3600, 9800, 2500), np.linspace(3600, 9800, 2400)]
    for i, wave in enumerate([*grids, *grids[::-1]]):
        flux, ivar = observed(quasar(0.2 * i, np.log10(wave)), seed=i)
        for name, values in zip(lists, (flux, ivar, wave), strict=True):
            lists[name].append(values)
    return lists


def test_spectra_of_unlike_grids_give_what_each_gives_alone(tiny_model: Path) -> None:
    table = arrow(unlike())
    whole = results(classify_table(table, tiny_model))
    # SN_MEDIAN counts the pixels in the bins at either end on the grid of the batch.
    for batch in (1, 5):
        same(results(classify_table(table, tiny_model, batch=batch)), whole, sn_tolerance=5e-3)


def columns_of(table: pa.Table) -> Any:
    return frames.lay_out(table, {}).read(table)


def test_spectra_on_the_lattice_share_one_batch_and_other_grids_one_each() -> None:
    found = {tuple(rows): spectra for rows, spectra in batches(columns_of(arrow(unlike())))}
    assert sorted(map(len, found)) == [2, 2, 8]
    (lattice,) = (batch for rows, batch in found.items() if len(rows) == 8)
    index = np.log10(lattice.wavelength) / 1e-4
    assert np.allclose(index, np.rint(index), atol=1e-6)


def test_spectra_that_share_a_grid_are_not_copied() -> None:
    table = arrow({name: rows[:3] for name, rows in spectra().items()})
    ((rows, batch),) = batches(columns_of(table))
    values = table["flux"].chunk(0).values.to_numpy()
    assert np.shares_memory(batch.flux, values) and rows.tolist() == [0, 1, 2]


def test_the_network_gets_no_more_than_a_batch_at_a_time(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = Model.classify_represented
    monkeypatch.setattr(
        Model,
        "classify_represented",
        lambda self, s, ids: (seen.append(len(s.flags)), plain(self, s, ids))[1],
    )
    classify_table(arrow(spectra()), tiny_model, batch=4)
    assert seen == [4, 2]


def test_fluxes_in_erg_per_second_give_what_they_give_in_other_units(
    tiny_model: Path, expected: pa.Table
) -> None:
    lists = {name: [x.astype(np.float64) for x in rows] for name, rows in spectra().items()}
    lists["flux"] = [x * 1e-20 for x in lists["flux"]]
    lists["ivar"] = [x * 1e40 for x in lists["ivar"]]  # beyond what float32 holds
    same(results(classify_table(arrow(lists), tiny_model)), expected)


def test_the_units_of_others_change_nothing_in_a_row(tiny_model: Path) -> None:
    lists = {name: [x.astype(np.float64) for x in rows] for name, rows in spectra().items()}
    for row, unit in ((1, 1e-20), (2, 1e17), (4, 1e-9)):
        lists["flux"][row], lists["ivar"][row] = lists["flux"][row] * unit, lists["ivar"][row] / unit**2
    lists["ivar"][1][::64] = 0  # where the unit is looked for at first
    table = arrow(lists)
    alone = [classify_table(table.slice(row, 1), tiny_model) for row in range(N)]
    assert classify_table(table, tiny_model).equals(pa.concat_tables(alone))  # to the last bit


def test_rows_of_unlike_grids_share_one_call_of_the_network(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = Model.predict
    monkeypatch.setattr(Model, "predict", lambda self, x: (seen.append(len(x)), plain(self, x))[1])
    classify_table(arrow(unlike()), tiny_model)
    assert seen == [12]


# ---- errors


def test_what_cannot_be_classified_at_all_is_one_error_with_its_cure(tiny_model: Path) -> None:
    table = arrow(spectra())
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (table.drop_columns("ivar"), {}, r"no columns of spectra: name flux, ivar .*are flux, lambda$"),
        (table, {"flux": "fulx"}, r"there is no column fulx; there are id, flux, ivar, lambda"),
        (table, {"flux": "spectrum.flux"}, r"there is no column spectrum\.flux"),
        (table, {"flux": "id"}, r"column id holds int64, not lists of numbers"),
        (table.append_column("Z", table["id"]), {}, r"the table has Z already: give .*prefix='BL_'"),
        (table.to_pandas().astype({"flux": "str"}), {}, r"column flux holds text.*dataframe\.convert-string"),
        (dd.from_pandas(frame(spectra()), npartitions=1), {}, r"table\.map_partitions\(broadline"),
    ]
    for given, options, message in cases:
        with pytest.raises(UsageError, match=message):
            classify_table(given, tiny_model, **options)
    text = pa.table({"flux": [["a"]], "ivar": [["a"]], "wave": [[1.0]]})
    with pytest.raises(UsageError, match=r"column flux holds lists of string, not of numbers"):
        classify_table(text, tiny_model)
    with pytest.raises(ModelError, match="no model called 'nonesuch'"):
        classify_table(table, "nonesuch")


def test_a_prefix_keeps_columns_of_the_same_name_apart(tiny_model: Path, expected: pa.Table) -> None:
    table = frame(spectra(), Z=np.arange(N) * 0.5)
    out = classify_table(table, tiny_model, prefix="BL_")
    assert out["Z"].tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert list(out.columns) == ["id", "Z", *(f"BL_{name}" for name in RESULTS)]


# ---- engines


def test_it_is_a_plain_function_that_travels_between_processes() -> None:
    assert pickle.loads(pickle.dumps(classify_table)) is classify_table


def test_a_process_loads_a_model_once_and_again_when_its_file_changes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    shutil.copy(tiny_model, path)
    loads: list[Path] = []

    def load(name: Path, **options: Any) -> Model:
        loads.append(name)
        return broadline.load_model(name, **options)

    monkeypatch.setattr(frames, "load_model", load)
    for _ in range(3):
        classify_table(arrow(spectra()).slice(0, 1), path)
    assert loads == [path]
    path.touch()
    classify_table(arrow(spectra()).slice(0, 1), path)
    assert loads == [path, path]


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_dask_maps_it_and_infers_its_columns_by_itself(
    scheduler: str, tiny_model: Path, expected: pa.Table
) -> None:
    table = frame(spectra())
    parts = dd.from_pandas(table, npartitions=3)
    mapped = parts.map_partitions(classify_table, str(tiny_model))
    out = mapped.compute(scheduler=scheduler)
    assert mapped._meta.dtypes.equals(out.dtypes)
    pd.testing.assert_index_equal(out.index, table.index)
    same(results(out), expected)


@pytest.mark.parametrize(("nested", "options"), [(False, {}), (False, ARROW), (True, ARROW)])
def test_dask_maps_it_over_partitioned_parquet(
    nested: bool, options: dict[str, Any], tiny_model: Path, tmp_path: Path, expected: pa.Table
) -> None:
    table = struct_of_lists(spectra()) if nested else arrow(spectra())
    for part in range(3):
        (tmp_path / f"Npix={part}").mkdir()
        pq.write_table(table.slice(2 * part, 2), tmp_path / f"Npix={part}" / "part0.parquet")
    files = sorted(tmp_path.rglob("*.parquet"))
    parts = dd.read_parquet(files, **options)
    mapped = parts.map_partitions(classify_table, str(tiny_model))
    mapped.to_parquet(tmp_path / "out")
    out = pq.read_table(tmp_path / "out")
    assert out["id"].to_pylist() == list(range(N))
    assert {field.name for field in out.schema} >= {"id", *RESULTS}
    same(results(out), expected)


# ---- the documentation


def blocks() -> dict[str, str]:
    """The Python in docs/tables.md, by the package that a block is about."""
    found = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    names = ("pandas", "dask", "lsdb")
    return {next(name for name in names if f"import {name}" in block): block for block in found}


@pytest.fixture
def survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pa.Table:
    """What the examples read: spectra with positions in one Parquet file, and in a folder of three."""
    place = {"ra": 150 + np.arange(N) * 1e-3, "dec": 2 + np.arange(N) * 1e-3}
    table = arrow(spectra(), **place)
    monkeypatch.chdir(tmp_path)
    pq.write_table(table, "spectra.parquet")
    Path("spectra").mkdir()
    for part in range(3):
        pq.write_table(table.slice(2 * part, 2), f"spectra/{part}.parquet")
    return table


def test_the_examples_for_pandas_and_dask_do_what_they_say(survey: pa.Table) -> None:
    expected = results(classify_table(survey))
    said: dict[str, Any] = {}
    exec(blocks()["pandas"], said)
    assert (
        said["quasars"]["id"].tolist()
        == np.flatnonzero(expected["IS_QSO"].to_numpy(zero_copy_only=False)).tolist()
    )
    exec(blocks()["dask"], {})
    same(results(pq.read_table("catalogue")), expected)


def test_the_example_for_lsdb_maps_a_hats_catalogue(survey: pa.Table) -> None:
    lsdb = pytest.importorskip("lsdb")
    nested = pytest.importorskip("nested_pandas")
    lists = spectra()
    frame = struct_of_lists(lists).to_pandas(types_mapper=pd.ArrowDtype)
    frame["spectrum"] = frame["spectrum"].astype(nested.NestedDtype(struct_of_lists(lists)["spectrum"].type))
    frame["ra"], frame["dec"] = np.arange(N) * 30.0, np.linspace(-60, 60, N)
    made = lsdb.from_dataframe(
        nested.NestedFrame(frame), ra_column="ra", dec_column="dec", partition_rows=2, margin_threshold=None
    )
    made.write_catalog("hats", catalog_name="hats")
    exec(blocks()["lsdb"], {})
    found = lsdb.open_catalog("found")
    assert found.npartitions > 2
    out = found.compute().sort_values("id")
    assert out.index.name == "_healpix_29" and out["id"].tolist() == list(range(N))
    same(results(out), results(classify_table(survey)))
