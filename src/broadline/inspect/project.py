"""A catalogue being inspected: its queues, what an inspector may see, and how far inspectors agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from broadline.errors import UsageError
from broadline.evaluation.shares import Ints, Mask, Share
from broadline.inspect.agreement import agreement, disputed, purity
from broadline.inspect.expression import select
from broadline.inspect.queue import QUEUES, REASONS, Ranking
from broadline.inspect.rulings import Ruling, Verdict
from broadline.inspect.spectrum import Viewer
from broadline.inspect.subjects import Subjects
from broadline.inspect.verdicts import Store

__all__ = ["Project", "plain"]


@dataclass
class Project:
    """A catalogue being inspected.

    Attributes
    ----------
    subjects : Subjects
    ranking : Ranking
    viewer : Viewer
    store : Store
    inspector : str
        Whose verdicts those are that do not say otherwise.
    """

    subjects: Subjects
    ranking: Ranking
    viewer: Viewer
    store: Store
    inspector: str

    def __post_init__(self) -> None:
        # Progress asks for all of them after every verdict.
        self._ranked = cache(self.ranking.queue)

    def queue_names(self) -> dict[str, str]:
        """Return the queues and the words for them."""
        reasons = {reason.name.lower(): text for reason, text in REASONS.items() if reason.name}
        return {
            "ranked": QUEUES["ranked"],
            **reasons,
            "second": "for a second opinion",
            "disputed": "to adjudicate",
            "mine": "ruled on by me",
            "all": QUEUES["all"],
        }

    def queue(self, name: str, inspector: str) -> Ints:
        """Return the rows of a queue for an inspector.

        Raises
        ------
        UsageError
            If there is no such queue.
        """
        if name not in self.queue_names():
            raise UsageError(f"there is no queue {name!r}; there are {', '.join(self.queue_names())}")
        if name not in ("second", "disputed", "mine"):
            return self._ranked(name)
        standing = self.store.standing()
        if name == "disputed":
            return disputed(standing)
        mine = _ruled_by(standing, inspector)
        wanted = mine if name == "mine" else standing.keys() - mine
        return np.array(sorted(wanted), dtype=np.int64)

    def progress(self, inspector: str) -> list[dict[str, Any]]:
        """Return for each queue its size and how much of it an inspector has ruled on."""
        mine, queues = self.ruled("all", inspector), []
        for name, text in self.queue_names().items():
            rows = self.queue(name, inspector)
            done = 0 if name == "disputed" else int(mine[rows].sum())
            queues.append({"name": name, "text": text, "n": len(rows), "ruled": done})
        return queues

    def ruled(self, name: str, inspector: str) -> Mask:
        """Return the rows that are done with for an inspector in a queue, as a mask.

        Those on which a verdict of the inspector stands; none of those to adjudicate, which leave that queue
        when they are settled.
        """
        mask = np.zeros(len(self.subjects), dtype=bool)
        if name == "disputed":
            return mask
        mask[list(_ruled_by(self.store.standing(), inspector))] = True
        return mask

    def chosen(self, name: str, inspector: str, text: str, sort: str, descending: bool) -> Ints:
        """Return the rows of a queue that a filter keeps, sorted by a column if one is named.

        Raises
        ------
        UsageError
            If there is no such queue or column, or the filter cannot be read.
        """
        rows = self.queue(name, inspector)
        if text.strip():
            rows = rows[select(text, self.subjects.columns)[rows]]
        if not sort:
            return rows
        if sort.upper() not in self.subjects.columns:
            raise UsageError(f"the catalogue has no column {sort!r} to sort by")
        values = self.subjects.columns[sort.upper()][rows]
        if values.dtype.kind == "f":
            values = np.where(np.isnan(values), -np.inf if descending else np.inf, values)
        order = np.argsort(values, kind="stable")
        return rows[order[::-1] if descending else order]

    def view(self, row: int, inspector: str, adjudicating: bool) -> dict[str, Any]:
        """Return a spectrum with the inspector's verdict; others' once there is one, or to adjudicate."""
        if not 0 <= row < len(self.subjects):
            raise UsageError(f"the catalogue has rows 0 to {len(self.subjects) - 1}, not {row}")
        return self.viewer.spectrum(row) | self.verdicts(row, inspector, adjudicating)

    def verdicts(self, row: int, inspector: str, adjudicating: bool) -> dict[str, Any]:
        """Return what stands on a spectrum, as far as the inspector may see it."""
        standing = self.store.on(row)
        own = self.store.current(row, inspector, adjudicating)
        blind = self.store.current(row, inspector)
        seen = blind is not None and bool(blind.ruling.kind)
        if adjudicating:
            seen = (
                seen or any(verdict.adjudicates for verdict in standing) or row in disputed({row: standing})
            )
        others = [verdict for verdict in standing if verdict != own]
        return {
            "version": own.version if own else 0,
            "verdict": plain(own) if own and own.ruling.kind else None,
            "others": [plain(verdict) for verdict in others] if seen else [],
            "hidden": 0 if seen else len(others),
        }

    def rule(
        self, row: int, inspector: str, ruling: Ruling, seen: int, adjudicates: bool, request: str
    ) -> dict[str, Any]:
        """Store a verdict and return what then stands, as `Store.rule` and `verdicts`.

        Raises
        ------
        UsageError
            Also if there is nothing to adjudicate.
        """
        others = any(verdict.inspector != inspector for verdict in self.store.on(row))
        if adjudicates and not others:
            raise UsageError("nobody else has ruled on this spectrum: there is nothing to adjudicate")
        self.store.rule(row, inspector, ruling, seen, adjudicates=adjudicates, request=request)
        return self.verdicts(row, inspector, adjudicates)

    def statistics(self) -> dict[str, Any]:
        """Return how far inspectors agree, and the purity of the catalogue from the control sample."""
        standing = self.store.standing()
        counts: dict[str, int] = {}
        for verdicts in standing.values():
            for verdict in verdicts:
                counts[verdict.inspector] = counts.get(verdict.inspector, 0) + 1
        return {
            "inspectors": counts,
            "n_spectra": len(standing),
            "n_double": sum(sum(not v.adjudicates for v in verdicts) > 1 for verdicts in standing.values()),
            "n_disputed": len(disputed(standing)),
            "pairs": [
                {
                    "inspectors": pair.inspectors,
                    "n": pair.n,
                    "kappa": _finite(pair.kappa),
                    "same_kind": _share(pair.same_kind),
                    "same_z": _share(pair.same_z),
                    "median_kms": _finite(pair.median_kms),
                }
                for pair in agreement(standing)
            ],
            "purity": _share(purity(self.subjects, self.ranking.controls, standing)),
            "n_controls": len(self.ranking.controls),
        }


def _ruled_by(standing: Mapping[int, Sequence[Verdict]], inspector: str) -> set[int]:
    return {row for row, said in standing.items() if any(verdict.inspector == inspector for verdict in said)}


def plain(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as the page gets it."""
    return {
        "inspector": verdict.inspector,
        "time": verdict.time,
        "adjudicates": verdict.adjudicates,
        **verdict.ruling._asdict(),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _share(share: Share) -> dict[str, Any]:
    low, high = share.interval
    return {
        "k": share.k,
        "n": share.n,
        "value": _finite(share.value),
        "low": _finite(low),
        "high": _finite(high),
    }
