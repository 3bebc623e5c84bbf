"""Where the spectra of a table are now: files by the ends of their paths, and single spectra out of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from broadline import archives
from broadline.errors import UsageError
from broadline.inputs import UNKNOWN, Inputs, expand, read_group
from broadline.spectra import Spectra

__all__ = ["Lookup"]

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Lookup:
    """Files that hold the spectra of a table.

    Attributes
    ----------
    inputs : Inputs
    place : mapping of str to int
        Number of the file in `inputs`, by the name that the table has for it.
    """

    inputs: Inputs
    place: Mapping[str, int]

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
        by_name: dict[str, list[int]] = {}
        for i, (path, _) in enumerate(inputs.files):
            by_name.setdefault(path.name, []).append(i)
        place = {}
        for source in sources:
            alike = by_name.get(Path(source).name, [])
            common = [_common(Path(source), inputs.files[i][0]) for i in alike]
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
        """Return the file that a source is now; None if it is not there."""
        return self.inputs.files[self.place[source]][0] if source in self.place else None

    def read(self, source: str, rows: Collection[int]) -> dict[int, Spectra]:
        """Return spectra of one file, each as a batch of one, by their rows there; not those it lacks.

        Raises
        ------
        KeyError
            If it is not known where the file is.
        """
        path, kind = self.inputs.files[self.place[source]]
        paths, group = [path], archives.get(kind).group if kind != UNKNOWN else None
        if group is not None:  # files that are read as one spectrum
            paths = [
                each for each, other in self.inputs.files if other == kind and group(each) == group(path)
            ]
        found: dict[int, Spectra] = {}
        for batch in read_group(kind, paths, _BATCH, self.inputs.faults):
            for i in np.flatnonzero(np.isin(batch.ids["ROW"], list(rows))):
                found[int(batch.ids["ROW"][i])] = batch[i : i + 1]
            if len(found) == len(rows):
                break
        return found


def _common(one: Path, other: Path) -> int:
    """Return how many parts two paths have in common from their end."""
    pairs = zip(reversed(one.parts), reversed(other.parts), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one.parts), len(other.parts)))
