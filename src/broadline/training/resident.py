"""A training set that stays on a GPU: a step then waits for no copy from the host."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from broadline.lines import QUASARNET_LINES
from broadline.training.dataset import PreparedSet
from broadline.training.objective import Targets
from broadline.training.simulated import Examples

if TYPE_CHECKING:
    from broadline.training.fit import TrainingData

__all__ = ["Resident", "free_memory", "resident"]

_SHARE = 0.4  # of free memory: while the set is put together it is there twice


class Resident:
    """A prepared set as tensors on a device: the same batches in the same order, bit for bit.

    Parameters
    ----------
    data : PreparedSet
    device : torch.device
    """

    def __init__(self, data: PreparedSet, device: torch.device) -> None:
        self.data, self.device = data, device
        parts = [_moved(batch, device) for batch in data.ordered()]
        x, y, z, firm, bal, _ = zip(*parts, strict=True)
        self.x = torch.cat(x)
        self.targets = Targets(*(torch.cat(column) for column in zip(*y, strict=True)))
        self.z, self.firm, self.bal = (np.concatenate(column) for column in (z, firm, bal))

    def __len__(self) -> int:
        return len(self.data)

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Return what the spectra in some rows of the whole set are called."""
        return self.data.names(rows)

    def epoch(self, number: int) -> Generator[Examples, None, None]:
        """Yield the batches of `PreparedSet.epoch`, gathered on the device: one copy to it an epoch."""
        rows = np.stack(list(self.data.order(number)))
        places = np.searchsorted(self.data.rows, rows)
        for ids, here, there in zip(rows, places, torch.from_numpy(places).to(self.device), strict=True):
            y = Targets(*(part[there] for part in self.targets))
            yield Examples(self.x[there].float(), y, self.z[here], self.firm[here], self.bal[here], ids)


def _moved(batch: Examples, device: torch.device) -> Examples:
    """Return a batch on the device, as float16, which is what the set holds."""
    return batch._replace(
        x=batch.x.half().to(device), targets=Targets(*(part.to(device) for part in batch.targets))
    )


def resident(data: TrainingData, device: torch.device) -> TrainingData:
    """Return a prepared set as `Resident` if the device has room for it; other data as they are."""
    if isinstance(data, PreparedSet):
        # A float16 a pixel; box, offset and weight of each line.
        shape = data.preset.network.input_shape
        each = 2 * int(np.prod(shape)) + (8 + 4 + 4) * len(QUASARNET_LINES)
        if len(data) * each < _SHARE * free_memory(device):
            return Resident(data, device)
    return data


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a GPU."""
    return torch.cuda.mem_get_info(device)[0]
