"""Where the spectra of a table are now: files by the ends of their paths, and single spectra out of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from broadline import archives
from broadline.archives import pack
from broadline.errors import ReadError, UsageError
from broadline.inputs import UNKNOWN, Inputs, expand, read_group
from broadline.spectra import Spectra

__all__ = ["Lookup"]

_BATCH = 64
_STORE = pack.ARCHIVES[0].name


@dataclass(frozen=True, slots=True)
class Lookup:
    """Files that hold the spectra of a table.

    Attributes
    ----------
    inputs : Inputs
    place : mapping of str to (Path, int)
        By the name that the table has for a file: the file, and the number in `inputs` of the one that is
        read: itself, or the shard of a store that holds its spectra.
    """

    inputs: Inputs
    place: Mapping[str, tuple[Path, int]]

    @classmethod
    def of(cls, sources: Iterable[str], paths: Sequence[str | Path]) -> Lookup:
        """Return where some sources are.

        Parameters
        ----------
        sources : iterable of str
            Files as a table names them, wherever they were when it was made.
        paths : sequence of str or Path
            Files and folders that hold the spectra now: a file is known by the end of its path. If empty, the
            sources as they stand.

        Raises
        ------
        UsageError
            If none of them is there.
        """
        sources = list(dict.fromkeys(sources))
        named = list(paths) or [source for source in sources if Path(source).is_file()]
        inputs = expand(named) if named else Inputs()
        by_name: dict[str, list[tuple[Path, int]]] = {}
        for i, (path, kind) in enumerate(inputs.files):
            for file in _packed(path) if kind == _STORE else [path]:
                by_name.setdefault(file.name, []).append((file, i))
        place = {}
        for source in sources:
            alike = by_name.get(Path(source).name, [])
            common = [_common(Path(source), file) for file, _ in alike]
            if common and common.count(max(common)) == 1:
                place[source] = alike[common.index(max(common))]
        if not place:
            example = sources[0] if sources else "none"
            raise UsageError(
                f"no file of spectra that the table names ({example}) is among those given: "
                "name the folder of the spectra"
            )
        return cls(inputs, place)

    def path(self, source: str) -> Path | None:
        """Return the file that holds the spectra of a source now; None if it is not there."""
        return self.inputs.files[self.place[source][1]][0] if source in self.place else None

    def read(self, source: str, rows: Collection[int]) -> dict[int, Spectra]:
        """Return spectra of one file, each as a batch of one, by their rows there; not those it lacks.

        Raises
        ------
        KeyError
            If it is not known where the file is.
        """
        file, number = self.place[source]
        path, kind = self.inputs.files[number]
        paths, group = [path], archives.get(kind).group if kind != UNKNOWN else None
        if group is not None:  # files that are read as one spectrum
            paths = [
                each for each, other in self.inputs.files if other == kind and group(each) == group(path)
            ]
        found: dict[int, Spectra] = {}
        for batch in read_group(kind, paths, _BATCH, self.inputs.faults):
            of_source = batch.ids["SOURCE"] == str(file) if kind == _STORE else True
            for i in np.flatnonzero(np.isin(batch.ids["ROW"], list(rows)) & of_source):
                found[int(batch.ids["ROW"][i])] = batch[i : i + 1]
            if len(found) == len(rows):
                break
        return found


def _packed(shard: Path) -> list[Path]:
    """Return the files whose spectra a shard holds."""
    try:
        return sorted(map(Path, pack.sources(shard)))
    except ReadError:
        return []  # what it held is not at hand


def _common(one: Path, other: Path) -> int:
    """Return how many parts two paths have in common from their end."""
    pairs = zip(reversed(one.parts), reversed(other.parts), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one.parts), len(other.parts)))
