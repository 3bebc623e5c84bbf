"""The log of a run, a row an epoch: as CSV, and for TensorBoard where that is installed."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from broadline.files import write_aside

__all__ = ["Log", "best_scores"]

_NAME = "log.csv"
_ABOUT = ("epoch", "step", "seconds", "train_loss", "merit")


class Log:
    """Writes ``log.csv``, and TensorBoard's event files beside it. Used as a context manager.

    Of TensorBoard it needs nothing to be installed: without it there are no event files.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._events: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._board: Any = None
        else:
            self._board = SummaryWriter

    def add(
        self, epoch: int, step: int, seconds: int, loss: float, merit: float, scores: dict[str, float]
    ) -> None:
        """Add an epoch; what an earlier run that was stopped said of it, and of later ones, goes.

        Parameters
        ----------
        epoch : int
            From 0.
        step : int
            Steps of the whole run so far.
        seconds : int
            Since 1970.
        loss : float
            On what was learnt.
        merit : float
            The greater, the better (`task.Task.merit`).
        scores : dict of str to float
            On validation (`validation.validate`).

        Raises
        ------
        OSError
            If a file cannot be written.
        """
        row = {"epoch": epoch, "step": step, "seconds": seconds, "train_loss": loss, "merit": merit} | scores
        path, text = self.folder / _NAME, io.StringIO()
        writer = csv.DictWriter(text, list(row))
        writer.writeheader()
        writer.writerows(known for known in _rows(path) if int(known["epoch"]) < epoch)
        writer.writerow(row)
        write_aside(path, text.getvalue().encode())
        self._show(epoch, {"training/loss": loss} | {f"validation/{key}": x for key, x in scores.items()})

    def _show(self, epoch: int, values: dict[str, float]) -> None:
        if self._board is None:
            return
        if self._events is None:
            self._events = self._board(str(self.folder), purge_step=epoch)
        for tag, value in values.items():
            self._events.add_scalar(tag, value, epoch)
        self._events.flush()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def best_scores(folder: Path) -> dict[str, float]:
    """Return the scores on validation (see `validate`) of the best epoch of a run, from its log."""
    best = max(_rows(folder / _NAME), key=lambda row: float(row["merit"]))
    return {name: float(value) for name, value in best.items() if name not in _ABOUT}
