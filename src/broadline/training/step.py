"""One step of training, and what it changes: a network, the running mean of its weights, an optimiser."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from broadline.training.objective import Counts, Targets
from broadline.training.presets import Preset
from broadline.training.processes import Processes, share_statistics
from broadline.training.simulated import Examples
from broadline.training.task import task_of
from broadline.training.transfer import Start, freeze, groups

__all__ = ["Learner", "faster_precision", "is_gpu"]

_WARM_UP = 0.03  # of all steps
_LOWEST = 0.01  # of the learning rate, at the end

#: What processors call the instructions, as torch names them.
_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")

#: From input and targets, the loss.
_Cost = Callable[[Tensor, Targets], Tensor]


def is_gpu(device: torch.device) -> bool:
    """Tell whether launching work on a device takes as long as the work, and looking at it interrupts it."""
    return device.type == "cuda"


def faster_precision() -> str:
    """Return "bf16" where a GPU or the processor multiplies in it, or "fp32".

    Without such instructions bfloat16 is emulated, several times slower than float32.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if any(known.get(name) for name in _BF16) else "fp32"


class Learner:
    """A network that learns, compiled where it can be.

    Parameters
    ----------
    preset : Preset
    n_steps : int
        Of the whole run, which the schedule spans.
    seed : int
        Of the first weights and of dropout.
    precision : {"bf16", "fp32"}
    counts : Counts, optional
        Of the whole sample, for the loss "sample".
    start : Start, optional
        Weights to start from, instead of random ones.

    Attributes
    ----------
    task : Task
    network, averaged : QuasarNET or ConvNet
        What learns, and what is saved and scored: the running mean of its weights, or itself.
    processes : Processes
        Those that learn together.
    device : torch.device
    gpu : bool
        `is_gpu` of it.
    step : int
        Steps taken.
    """

    def __init__(
        self,
        preset: Preset,
        n_steps: int,
        seed: int,
        precision: str,
        counts: Counts | None = None,
        start: Start | None = None,
    ) -> None:
        self.preset, self.n_steps, self.step, self.start = preset, n_steps, 0, start
        self.seed = seed
        self.processes = Processes(precision)
        self.fabric = self.processes.fabric
        self.device = self.fabric.device
        self.gpu = is_gpu(self.device)
        on_device = counts and Counts(
            counts.positives.to(self.device), counts.negatives.to(self.device), counts.n_spectra
        )
        self.task = task_of(preset, on_device)
        torch.manual_seed(seed)
        self.network = self.task.network()
        if start:
            start.load(self.network)
        if self.processes.n > 1:
            share_statistics(self.network)
        self.network.to(self.device)
        self.averaged, self._kept, self._new = self.network, list[Tensor](), list[Tensor]()
        if preset.averaging:
            self.averaged = self.task.network().to(self.device)
            self.averaged.load_state_dict(self.network.state_dict())
            self._kept, self._new = _floating(self.averaged), _floating(self.network)
        self.optimiser = torch.optim.AdamW(
            groups(self.network, preset.rate, start),
            preset.rate,
            weight_decay=preset.weight_decay,
            amsgrad=preset.amsgrad,
            fused=True,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self._cost: _Cost | None = None

    def _rate(self, step: int) -> float:
        if self.preset.schedule == "constant":
            return 1.0
        warm = max(1, round(_WARM_UP * self.n_steps))
        if step < warm:
            return (step + 1) / warm
        share = min(1.0, (step - warm) / max(1, self.n_steps - warm))
        return _LOWEST + (1 - _LOWEST) * 0.5 * (1 + math.cos(math.pi * share))

    def learn(self, batch: Examples) -> Tensor:
        """Take a step; return the loss before it, on the device. The next step overwrites that.

        Of several processes each has its rows of a batch; the loss is that of the whole.
        """
        x = batch.x.to(self.device)
        y = self.processes.joined(Targets(*(part.to(self.device) for part in batch.targets)))
        if self._cost is None:
            self._cost = self._rehearsed(x, y)
        # Before the forward pass: a captured graph writes new gradients where the old ones are.
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._cost(x, y)
        self.fabric.backward(loss)
        self.processes.average(self.network.parameters())
        self.optimiser.step()
        self.schedule.step()
        self._average()
        self.step += 1
        return loss.detach()

    def _rehearsed(self, x: Tensor, y: Targets) -> _Cost:
        """Return the step compiled, or as it is where that fails, as without a C++ compiler.

        Both passes are compiled when they are first used; a trial, which leaves no trace, tells if they can.
        """
        before = [buffer.clone() for buffer in self.network.buffers()]
        try:
            cost = self._tried(self._compiled(), x, y)
        except Exception as error:  # whatever it is: if compilation is not at fault, it will come again
            reason = str(error).partition("\n")[0] or type(error).__name__
            warnings.warn(
                f"training goes on slower, for the network cannot be compiled: {reason}", stacklevel=3
            )
            # Tried too: of several processes each must tell the others as much, whether it could or not.
            cost = self._tried(self._eager(self._outputs), x, y)
        for buffer, value in zip(self.network.buffers(), before, strict=True):
            buffer.copy_(value)
        return cost

    def _tried(self, cost: _Cost, x: Tensor, y: Targets) -> _Cost:
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            self.fabric.backward(cost(x, y))
        return cost

    def _outputs(self, x: Tensor) -> Any:
        return self.processes.joined(self.task.outputs(self.network, x))

    def _eager(self, forward: Callable[[Tensor], Any]) -> _Cost:
        def cost(x: Tensor, y: Targets) -> Tensor:
            with self.fabric.autocast():
                outputs = forward(x)
            return self.task.loss(outputs, y)

        return cost

    def _compiled(self) -> _Cost:
        if not self.gpu or self.processes.n > 1:  # what they tell each other cannot be captured
            return self._eager(torch.compile(self._outputs))
        # The loss is a hundred small kernels more: captured with the rest, they are launched as one.
        whole = torch.compile(
            lambda x, y: self.task.loss(self._outputs(x), y), mode="reduce-overhead", dynamic=False
        )

        def cost(x: Tensor, y: Targets) -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            with self.fabric.autocast():
                return whole(x, y)

        return cost

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights, and statistics of batch normalisation, a little."""
        if self._kept:
            decay = min(self.preset.averaging, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self._kept, self._new, 1 - decay)

    def start_epoch(self) -> None:
        """Make ready to learn, also after the network was scored.

        What dropout draws next is decided by seed and step, or a run that goes on would draw otherwise. Each
        process draws for itself, as each has other rows.
        """
        rank = self.processes.rank
        draw = np.random.SeedSequence([self.seed, self.step, rank] if rank else [self.seed, self.step])
        torch.manual_seed(int(draw.generate_state(1)[0]))
        self.network.train()
        if self.start and self.start.trunk_rate == 0:
            freeze(self.network)

    def state(self) -> dict[str, Any]:
        """Return all that decides the steps to come."""
        return {"step": self.step} | {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step = int(state["step"])

    def _parts(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "averaged": self.averaged,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
        }


def _floating(network: nn.Module) -> list[Tensor]:
    """Return weights and running statistics, not copied."""
    return [value for value in network.state_dict().values() if value.is_floating_point()]
