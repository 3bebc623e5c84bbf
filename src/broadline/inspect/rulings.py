"""What an expert says of a spectrum."""

from __future__ import annotations

import math
from typing import NamedTuple

from broadline.errors import UsageError

__all__ = ["KINDS", "QUALITIES", "Given", "Ruling", "Verdict", "inspector_name"]

#: Classes that an expert may give; "?" is a spectrum that nobody can identify.
KINDS = ("QSO", "GALAXY", "STAR", "?")
#: Qualities as DESI's inspectors use them: 4 two secure features or more, 3 at least one and weaker ones, 2
#: one strong feature of which it is unsure what it is, 1 signal without identified features, 0 no signal.
QUALITIES = range(5)

_LONGEST_COMMENT, _LONGEST_NAME = 1000, 40
_LOWEST_Z, _HIGHEST_Z = -0.1, 20.0


class Ruling(NamedTuple):
    """What an expert says of a spectrum.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    z : float, optional
    quality : int
        As `QUALITIES`.
    bal : bool
    comment : str
    """

    kind: str
    z: float | None = None
    quality: int = 4
    bal: bool = False
    comment: str = ""

    def checked(self) -> Ruling:
        """Return the ruling if it can be one.

        Raises
        ------
        UsageError
            For a class, redshift, quality or comment that none can have.
        """
        if self.kind not in KINDS:
            raise UsageError(f"a class is one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.z is None:
            if self.kind in ("QSO", "GALAXY"):
                raise UsageError(f"a verdict {self.kind} needs a redshift")
        elif not (math.isfinite(self.z) and _LOWEST_Z < self.z < _HIGHEST_Z):
            raise UsageError(f"a redshift lies between {_LOWEST_Z} and {_HIGHEST_Z}, not at {self.z}")
        if self.quality not in QUALITIES:
            raise UsageError(f"a quality is a whole number from 0 to 4, not {self.quality}")
        if len(self.comment) > _LONGEST_COMMENT:
            raise UsageError(f"a comment has at most {_LONGEST_COMMENT} characters, not {len(self.comment)}")
        return self

    def reads_as(self, other: Ruling) -> bool:
        """Whether two rulings are the same in files, which have redshifts to five decimals."""
        a, b = (
            ruling._replace(z=None if ruling.z is None else round(ruling.z, 5)) for ruling in (self, other)
        )
        return a == b


class Verdict(NamedTuple):
    """A row of the file: a ruling, with who made it and when.

    Attributes
    ----------
    version : int
        Increases with every row of the file.
    row : int
        Of the catalogue.
    inspector, time : str
    ruling : Ruling
        Its kind is "" if the verdict was withdrawn.
    adjudicates : bool
    undoes : int, optional
        Version of the verdict that this one takes back.
    """

    version: int
    row: int
    inspector: str
    time: str
    ruling: Ruling
    adjudicates: bool = False
    undoes: int | None = None


#: A verdict made elsewhere: row of the catalogue, inspector, ruling, and whether it adjudicates.
Given = tuple[int, str, Ruling, bool]


def inspector_name(name: str) -> str:
    """Return a name without spaces at its ends.

    Raises
    ------
    UsageError
        If it is empty, too long or not to be printed.
    """
    name = name.strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise UsageError(f"an inspector's name has 1 to {_LONGEST_NAME} printable characters")
    return name
