"""The distribution of times that follows from the losses seen so far."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from diffkit.diffusion.process import DiscreteProcess, Process
from diffkit.diffusion.time_sampling import History, TimeSampling


class ImportanceTimes(TimeSampling):
    """Times whose losses are large and vary more often, each loss divided by its time's chance.

    ``p_t ∝ sqrt(E[L_t²])``, and the loss of an image at t counts ``1 / (T p_t)`` (Nichol & Dhariwal 2021, section 3.3,
    eq. 18): the expected gradient is that of `uniform`, with less noise in it. E is the mean over the last losses of
    the time. Until every time has as many, all have the same chance; for T = 1000 and 10 losses that takes about 23,000
    images.

    L_t is the loss that is trained, with its weighting. Only for processes of numbered times. The losses are part of
    each checkpoint.
    """

    kind: Literal["importance"] = "importance"
    losses: int = Field(10, ge=1, le=1000)
    """How many losses of each time count."""
    uniform: float = Field(0.001, gt=0, le=1)
    """The part of the times that is drawn uniformly, so that none is ever left out: all but this part follows the
    losses. No loss counts more than 1 / `uniform`."""

    def empty_history(self, process: Process, device: torch.device | str) -> dict[str, Tensor]:
        """Return the last losses of each time, float32 ``[T, losses]``, and how many it ever had, int64 ``[T]``."""
        times = _steps(process)
        return {
            "losses": torch.zeros(times, self.losses, device=device),
            "counts": torch.zeros(times, dtype=torch.int64, device=device),
        }

    def probabilities(self, process: Process, history: History) -> Tensor:
        """Return p_t of all times: float64 ``[T]``, with sum 1."""
        root = history["losses"].to(torch.float64).square().mean(dim=1).sqrt()
        # if all losses are 0, so are these parts, and the last line leaves the uniform one
        part = root / root.sum().clamp(min=torch.finfo(root.dtype).tiny)
        warm = (history["counts"] >= self.losses).all()
        chance = torch.where(warm, (1 - self.uniform) * part, 0) + self.uniform / _steps(process)
        return chance / chance.sum()

    def draw(self, count: int, process: Process, generator: torch.Generator, history: History | None = None) -> Tensor:
        """Return times ``[count]``; without a history, as before the first step."""
        device = generator.device
        history = history or self.empty_history(process, device)
        below = self.probabilities(process, history).cumsum(dim=0)
        uniform = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
        # a loss that is not finite would give the time T, and an error that hides what is wrong
        return torch.searchsorted(below / below[-1], uniform, right=True).clamp(max=_steps(process) - 1)

    def loss_weight(self, time: Tensor, process: Process, history: History) -> Tensor:
        """Return ``1 / (T p_t)``, float64 ``[N]``."""
        return 1 / (_steps(process) * self.probabilities(process, history)[time])

    def remember(self, history: History, time: Tensor, loss: Tensor) -> None:
        """Put each loss in the place of the oldest one of its time; those of one step come in their order."""
        order = torch.argsort(time, stable=True)
        time, loss = time[order], loss.detach()[order].to(torch.float32)
        first = torch.searchsorted(time, time)
        equal = torch.searchsorted(time, time, right=True) - first
        rank = torch.arange(len(time), device=time.device) - first
        # of more than fit, those in one place all write what the last of them has: else it were chance who wins
        last = rank + (equal - 1 - rank) // self.losses * self.losses
        history["losses"][time, (history["counts"][time] + rank) % self.losses] = loss[first + last]
        history["counts"].index_add_(0, time, torch.ones_like(time))

    def refuses(self, process: Process) -> str | None:
        """Refuse processes of real times: they never draw the same one again."""
        if isinstance(process, DiscreteProcess):
            return None
        return (
            f"importance sampling keeps the losses of each numbered time, and the process '{process.kind}' has real "
            "times: use 'uniform', 'stratified', 'logit_normal' or 'lognormal'"
        )


def _steps(process: Process) -> int:
    if not isinstance(process, DiscreteProcess):
        raise ValueError(f"the process '{process.kind}' has no numbered times")
    return process.steps
