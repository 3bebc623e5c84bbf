"""Catalogue files: rows come in parts, the file appears at once, and memory does not grow with the rows."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from broadline.catalogue import columns, flag_meanings, line_names, schema
from broadline.errors import UsageError
from broadline.fits_table import Parts, catalogue_sheet, kept_columns, write_fits
from broadline.layouts import LAYOUTS
from broadline.lines import LINES, Line

__all__ = ["ROW_GROUP", "SUFFIXES", "CatalogueWriter", "legible", "parquet_metadata"]

#: Rows that are in memory at a time, and of a row group of Parquet.
ROW_GROUP = 16_384


class CatalogueWriter:
    """Writes a catalogue from parts: the file appears when the ``with`` block ends, or nothing does.

    The suffix of `path` decides the format (`SUFFIXES`). The bytes depend on the rows and `meta` alone, not
    on how the rows were divided into parts.

    Parameters
    ----------
    path : str or Path
        The file to make; one that is there already is replaced at the end.
    lines : sequence of Line or str
        The model's lines. Their wavelengths go into the layout qnall; bare names take those of `lines.LINES`.
    meta : mapping of str to str
        Provenance, all optional: version, model, model_sha256, command, date; other keys are kept too.
    layout : str, optional
        A key of `layouts.LAYOUTS`, for FITS only.

    Raises
    ------
    UsageError
        If the format or layout is unknown, does not fit the model or the rows, or the file cannot be
        written; unless it takes the rows to know, before the first of them.

    Examples
    --------
    >>> with CatalogueWriter("quasars.parquet", model.lines, meta) as writer:  # doctest: +SKIP
    ...     for batch in batches:
    ...         writer.append(model.classify_batch(batch))
    """

    def __init__(
        self,
        path: str | Path,
        lines: Sequence[Line | str],
        meta: Mapping[str, str],
        layout: str | None = None,
    ) -> None:
        self._shown = Path(path).expanduser()
        # A link stays a link: what it points to is replaced.
        self._path = Path(os.path.realpath(self._shown))
        self._lines = [LINES.get(x, Line(x, float("nan"))) if isinstance(x, str) else x for x in lines]
        self._meta = legible(meta)
        with _told(self._shown):
            if self._path.is_dir():
                raise UsageError(f"{self._shown}: is a folder; give the name of a file in it")
        self._suffix = _suffix(self._shown)
        self._layout = layout
        if layout is not None:
            _check_layout(layout, self._suffix, self._shown, self._lines)
        self._spool: _Spool | None = None

    def __enter__(self) -> Self:
        with _told(self._shown):
            self._spool = _Spool(self._aside(), schema(self._lines))
        return self

    def append(self, table: pa.Table) -> None:
        """Add rows, of all columns of `catalogue.schema`.

        Raises
        ------
        UsageError
            If the disk is full or fails, or the layout cannot hold what these spectra are.
        """
        if self._spool is None:
            raise RuntimeError("append belongs inside the with block")
        with _told(self._shown):
            self._spool.append(table)
        self._check_rows()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._spool is not None
        try:
            if kind is None:
                with _told(self._shown):
                    self._spool.finish()
                    self._check_rows()
                    self._convert()
        finally:
            self._spool.remove()
            self._spool = None

    def _aside(self) -> Path:
        """Return a new name in the folder of the output: renaming works only within a file system."""
        return self._path.with_name(f".broadline-{uuid4().hex}.part")

    def _check_rows(self) -> None:
        """Refuse rows that the layout cannot identify as soon as the first group shows it, not at the end."""
        assert self._spool is not None
        if self._layout is None or not self._spool.n_rows:
            return
        layout = LAYOUTS[self._layout]
        found = self._spool.filled.intersection(layout.ids)
        if not found:
            raise UsageError(
                f"the layout {self._layout} needs spectra with {' or '.join(layout.ids)}, and none of the "
                f"first {self._spool.n_rows} has it; write the catalogue without --layout"
            )
        if layout.apart and len(found) > 1:
            raise UsageError(
                f"the layout {self._layout} cannot hold spectra with {' and '.join(layout.ids)} together; "
                "classify the archives in separate runs"
            )

    def _convert(self) -> None:
        assert self._spool is not None
        aside = self._aside()
        try:
            with aside.open("xb") as stream:
                if self._layout is None:
                    _WRITERS[self._suffix](stream, self._spool, self._lines, self._meta)
                else:
                    with _maybe_gzip(stream, self._suffix) as target:
                        sheet = LAYOUTS[self._layout].sheet(self._spool, self._lines, self._meta)
                        write_fits(target, sheet)
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(self._path)
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


class _Spool:
    """Rows on their way to the file: a temporary Parquet of equal row groups, with what was seen in them."""

    def __init__(self, path: Path, table_schema: pa.Schema) -> None:
        self.n_rows = 0
        self.filled: set[str] = set()
        self.widths: dict[str, int] = {}
        self._path = path
        self._schema = table_schema
        self._waiting: list[pa.Table] = []
        self._stream = path.open("xb")
        self._writer = pq.ParquetWriter(self._stream, table_schema, compression="lz4")

    def append(self, table: pa.Table) -> None:
        if table.schema != self._schema:
            table = table.select(self._schema.names).cast(self._schema)
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= ROW_GROUP:
            whole = pa.concat_tables(self._waiting)
            full = len(whole) - len(whole) % ROW_GROUP
            for start in range(0, full, ROW_GROUP):
                self._write(whole.slice(start, ROW_GROUP))
            # A slice would keep the whole in memory.
            self._waiting = [whole.take(np.arange(full, len(whole)))]

    def finish(self) -> None:
        rest = pa.concat_tables([self._schema.empty_table(), *self._waiting])
        self._waiting = []
        if len(rest):
            self._write(rest)
        self._writer.close()
        self._stream.close()

    def _write(self, table: pa.Table) -> None:
        self._writer.write_table(table)
        self.n_rows += len(table)
        for name, column in zip(self._schema.names, table.columns, strict=True):
            if column.null_count < len(column):
                self.filled.add(name)
                if column.type == pa.string():
                    width = pc.max(pc.binary_length(column)).as_py()
                    self.widths[name] = max(self.widths.get(name, 0), width)

    def tables(self, names: Sequence[str] | None = None) -> Iterator[pa.Table]:
        with pq.ParquetFile(self._path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=names).combine_chunks()

    def remove(self) -> None:
        self._writer.is_open = False  # its destructor would try again on a full disk, and complain aloud
        with suppress(OSError):
            self._stream.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def legible(meta: Mapping[str, str]) -> dict[str, str]:
    """Return provenance with what is not Unicode (a file name in the command) written out."""
    return {key: value.encode("utf-8", "backslashreplace").decode() for key, value in meta.items()}


# --- formats -------------------------------------------------------------------------------------------


def parquet_metadata(meta: Mapping[str, str], lines: Sequence[Line | str]) -> dict[str, str]:
    """Return what a Parquet catalogue says of itself, by key of its metadata."""
    about = {f"broadline.{key}": value for key, value in meta.items()}
    about["broadline.lines"] = json.dumps(line_names(lines))
    about["broadline.flags"] = json.dumps(flag_meanings())
    return about


def _write_parquet(stream: IO[bytes], parts: Parts, lines: Sequence[Line], meta: Mapping[str, str]) -> None:
    kept = kept_columns(parts, lines)
    whole = schema(lines)
    table_schema = pa.schema([whole.field(name) for name in kept], metadata=parquet_metadata(meta, lines))
    writer = pq.ParquetWriter(stream, table_schema, compression="zstd")
    try:
        for table in parts.tables(kept):
            writer.write_table(table.cast(table_schema))
        writer.close()
    finally:
        writer.is_open = False  # its destructor would try again on a full disk, and complain aloud


def _write_fits(stream: IO[bytes], parts: Parts, lines: Sequence[Line], meta: Mapping[str, str]) -> None:
    write_fits(stream, catalogue_sheet(parts, lines, meta))


def _write_fits_gz(stream: IO[bytes], parts: Parts, lines: Sequence[Line], meta: Mapping[str, str]) -> None:
    with _maybe_gzip(stream, ".fits.gz") as target:
        _write_fits(target, parts, lines, meta)


def _write_csv(stream: IO[bytes], parts: Parts, lines: Sequence[Line], meta: Mapping[str, str]) -> None:
    kept = kept_columns(parts, lines)
    stream.write((",".join(kept) + "\n").encode())
    _write_values(stream, parts, kept)


def _write_ecsv(stream: IO[bytes], parts: Parts, lines: Sequence[Line], meta: Mapping[str, str]) -> None:
    from astropy.table import Column, Table

    kept = kept_columns(parts, lines)
    head = Table(meta={**meta, "flags": {str(bit): meaning for bit, meaning in flag_meanings().items()}})
    for column in columns(lines):
        if column.name in kept:
            kind = "U1" if column.type == pa.string() else column.type.to_pandas_dtype()
            head[column.name] = Column(
                [], dtype=kind, unit=column.unit or None, description=column.description
            )
    text = io.StringIO()
    head.write(text, format="ascii.ecsv", delimiter=",")
    stream.write(text.getvalue().encode())
    _write_values(stream, parts, kept)


def _write_values(stream: IO[bytes], parts: Parts, kept: Sequence[str]) -> None:
    """Write rows of comma-separated values; missing ones are empty, text is in quotes, logicals as ECSV's."""
    options = pa.csv.WriteOptions(include_header=False)
    for table in parts.tables(kept):
        for i, name in enumerate(kept):
            if table[name].type == pa.bool_():
                table = table.set_column(i, name, pc.if_else(table[name], "True", "False"))
        pa.csv.write_csv(table.select(kept), stream, options)


_WRITERS: dict[str, Callable[[IO[bytes], Parts, Sequence[Line], Mapping[str, str]], None]] = {
    ".parquet": _write_parquet,
    ".fits": _write_fits,
    ".fits.gz": _write_fits_gz,
    ".ecsv": _write_ecsv,
    ".csv": _write_csv,
}

#: The formats, by the suffix of the file's name.
SUFFIXES: tuple[str, ...] = tuple(_WRITERS)


# --- what can go wrong ---------------------------------------------------------------------------------


def _suffix(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise UsageError(f"{path}: no format known by this suffix; use one of {', '.join(SUFFIXES)}")


def _check_layout(layout: str, suffix: str, path: Path, lines: Sequence[Line]) -> None:
    if layout not in LAYOUTS:
        raise UsageError(f"no layout {layout!r}; use one of {', '.join(LAYOUTS)}")
    if suffix not in (".fits", ".fits.gz"):
        raise UsageError(f"{path}: the layout {layout} is a FITS table; give a name that ends in .fits")
    lacking = [name for name in LAYOUTS[layout].lines if name not in line_names(lines)]
    if lacking:
        raise UsageError(
            f"the layout {layout} has the line {lacking[0]}, which this model does not look for; "
            "use another model, or write the catalogue without --layout"
        )


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a sentence for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            cure = "the disk is full, or your share of it; free some, or write to another one"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            cure = f"the folder {path.parent} may not be written to; choose another one"
        elif error.errno == errno.ENOENT:
            cure = f"the folder {path.parent} does not exist; make it first, or choose another one"
        elif error.errno == errno.ENOTDIR:
            cure = f"{path.parent} is not a folder; choose another one"
        else:
            cure = f"cannot be written ({error.strerror or error}); choose another place"
        raise UsageError(f"{path}: {cure}") from error


@contextmanager
def _maybe_gzip(stream: IO[bytes], suffix: str) -> Iterator[IO[bytes]]:
    if not suffix.endswith(".gz"):
        yield stream
        return
    # No name and no time inside, so that the same catalogue gives the same bytes.
    with gzip.GzipFile("", "wb", compresslevel=4, fileobj=stream, mtime=0) as packed:
        yield packed  # type: ignore[misc]
