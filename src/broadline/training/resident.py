"""A training set that stays on a GPU: a step then waits for no copy from the host."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from broadline.lines import QUASARNET_LINES
from broadline.training.align import Cycled, Pair
from broadline.training.dataset import PreparedSet
from broadline.training.objective import Targets
from broadline.training.simulated import Examples

if TYPE_CHECKING:
    from broadline.training.fit import TrainingData

__all__ = ["Resident", "free_memory", "resident"]

_SHARE = 0.7  # of free memory: networks and their batches need the rest
_AT_ONCE = 16_384  # spectra that are read and copied as one


class Resident:
    """A prepared set as tensors on a device: the same batches in the same order, bit for bit.

    Parameters
    ----------
    data : PreparedSet
    device : torch.device
    """

    def __init__(self, data: PreparedSet, device: torch.device) -> None:
        self.data, self.device = data, device
        shape = data.preset.network.input_shape
        self.x = torch.empty((len(data), *shape), dtype=torch.float16, device=device)
        parts = []
        for start in range(0, len(data), _AT_ONCE):
            rows = data.rows[start : start + _AT_ONCE]
            self.x[start : start + len(rows)] = torch.from_numpy(data.values(rows))
            parts.append(data.taught(rows))
        y, *known = zip(*parts, strict=True)
        self.targets = Targets(*(torch.cat(column).to(device) for column in zip(*y, strict=True)))
        self.z, self.firm, self.bal = map(np.concatenate, known)

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


def resident(data: TrainingData, device: torch.device) -> TrainingData:
    """Return prepared sets as `Resident` as far as the device has room for them; other data as they are."""
    if isinstance(data, Cycled | Pair):
        return data.moved(lambda part: resident(part, device))
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
