"""Several processes that train one network: each takes its rows of every batch, all take the same steps.

Every process computes the loss of the whole batch, from the outputs of all; batch normalisation takes the
statistics of the whole batch; gradients are averaged. What is learnt is thereby what one process would learn
from the whole batch, whatever the loss, to the rounding of sums in another order.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Mapping
from datetime import timedelta
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx

from broadline import launcher
from broadline.errors import UsageError
from broadline.training.align import closed
from broadline.training.dataset import PreparedSet
from broadline.training.simulated import Examples

if TYPE_CHECKING:
    from broadline.training.fit import TrainingData

__all__ = ["Processes", "Share", "share_statistics"]

#: After so long without a word from another process, this one ends. The first may score and calibrate alone.
_PATIENCE = timedelta(minutes=30)

T = TypeVar("T")


class Processes:
    """The processes of a run, of which this is one; most often the only one.

    Parameters
    ----------
    precision : {"bf16", "fp32"}

    Attributes
    ----------
    fabric : Fabric
        Device, precision and connection.
    rank, n : int
        Number of this process, from 0, and how many there are.

    Raises
    ------
    UsageError
        If there are more processes than GPUs on a machine that has some.
    """

    def __init__(self, precision: str) -> None:
        self.rank, self.n, here = launcher.rank(), launcher.size(), launcher.here()
        if torch.cuda.is_available() and here > torch.cuda.device_count():
            raise UsageError(
                f"{here} processes were started for {torch.cuda.device_count()} GPUs: start one for each"
            )
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces what it does
        self.fabric = Fabric(
            accelerator="auto",
            devices=here,
            num_nodes=self.n // here,
            strategy=DDPStrategy(timeout=_PATIENCE) if self.n > 1 else "auto",
            precision="bf16-mixed" if precision == "bf16" else "32-true",
        )
        if self.n > 1:
            self.fabric.launch()

    @property
    def first(self) -> bool:
        """Tell whether this is the process that speaks and writes for all."""
        return self.rank == 0

    def share(self, data: TrainingData, batch: int) -> TrainingData:
        """Return the part of training data that is this process's: its rows of every batch.

        Raises
        ------
        UsageError
            If a batch cannot be divided evenly.
        """
        if self.n == 1:
            return data
        if batch % self.n:
            raise UsageError(
                f"a batch of {batch} spectra cannot be divided among {self.n} processes: start as many as "
                f"divide {batch}"
            )
        size = batch // self.n
        rows = slice(self.rank * size, (self.rank + 1) * size)
        return data.share(rows) if isinstance(data, PreparedSet) else Share(data, rows)

    def joined(self, parts: Any) -> Any:
        """Return tensors (one, or a tuple) of all processes, row after row, as of the whole batch."""
        if self.n == 1 or parts is None:
            return parts
        if isinstance(parts, Tensor):
            return _joined(parts)
        whole = [self.joined(part) for part in parts]
        return parts._make(whole) if hasattr(parts, "_make") else tuple(whole)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the processes."""
        if self.n == 1:
            return
        gradients = [each.grad for each in parameters if each.grad is not None]
        flat = torch.cat([each.reshape(-1) for each in gradients])
        distributed.all_reduce(flat)
        parts = torch.split(flat / self.n, [each.numel() for each in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def everyone(self, items: list[T]) -> list[T]:
        """Return what all processes have, where they were dealt items in turn: in the order before that."""
        if self.n == 1:
            return items
        hands: list[list[T]] = [[] for _ in range(self.n)]
        distributed.all_gather_object(hands, items)
        nothing = object()
        turns = zip_longest(*hands, fillvalue=nothing)
        return [item for turn in turns for item in turn if item is not nothing]  # type: ignore[misc]

    def decided(self, value: T) -> T:
        """Return what the first process says."""
        return value if self.n == 1 else self.fabric.broadcast(value)

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Make sure that all processes do the same.

        Raises
        ------
        UsageError
            If the facts of one are not those of another.
        """
        all_facts = self.everyone([facts])
        different = [name for name in facts if any(each.get(name) != facts[name] for each in all_facts)]
        if different:
            raise UsageError(
                f"the {self.n} processes are not of one mind ({', '.join(different)}): start them with the "
                "same command, on machines that are alike and see the same folders"
            )

    @staticmethod
    def lost(error: RuntimeError) -> bool:
        """Tell whether an error is that another process does not answer."""
        return isinstance(error, distributed.DistError) or "gloo" in str(error)


class Share:
    """Some rows of every batch of training data, all of which is read or simulated all the same.

    Parameters
    ----------
    data : TrainingData
    rows : slice
        Of each batch.
    """

    def __init__(self, data: TrainingData, rows: slice) -> None:
        self.data, self.rows = data, rows

    def __len__(self) -> int:
        return len(self.data)

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Return what some spectra are called."""
        return self.data.names(rows)

    def epoch(self, number: int) -> Generator[Examples, None, None]:
        """Yield this part of the batches of an epoch."""
        with closed(self.data.epoch(number)) as batches:
            for batch in batches:
                yield batch.part(self.rows)


# ---- inside the network


class _Join(torch.autograd.Function):
    """Rows of all processes, one process after the other.

    A sum with zeros, which every version of the backends and of the compiler knows.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        n, rank = len(x), distributed.get_rank()
        whole = x.new_zeros((n * distributed.get_world_size(), *x.shape[1:]))
        whole[rank * n : (rank + 1) * n] = x
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        # Of the sum of the losses of all processes, which `Processes.average` makes one.
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        n, rank = len(total) // distributed.get_world_size(), distributed.get_rank()
        return total[rank * n : (rank + 1) * n]


def _joined(x: Tensor) -> Tensor:
    return torch.as_tensor(_Join.apply(x))  # type: ignore[no-untyped-call]


class _WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batches of all processes, which are of one size.

    torch's own, `torch.nn.SyncBatchNorm`, does the same on GPUs alone.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        variance, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
        means, variances = _joined(torch.stack([mean, variance])[None]).unbind(1)
        mean = means.mean(0)
        # The law of total variance: within processes, and between them. Nothing cancels.
        variance = variances.mean(0) + (means - mean).square().mean(0)
        self._remember(
            mean.detach(), variance.detach(), distributed.get_world_size() * x.numel() // x.shape[1]
        )
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return ((x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, n: int) -> None:
        assert self.momentum is not None
        for kept, new in ((self.running_mean, mean), (self.running_var, variance * (n / (n - 1)))):
            assert kept is not None
            kept.lerp_(new, self.momentum)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1


def share_statistics(network: nn.Module) -> None:
    """Let batch normalisation take the statistics of the whole batch, and not of a process's rows alone.

    Names and values of parameters and statistics stay.
    """
    for parent in list(network.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                shared = _WholeBatchNorm(norm.num_features, norm.eps, norm.momentum)
                shared.load_state_dict(norm.state_dict())
                parent.register_module(name, shared)
