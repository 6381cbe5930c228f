"""How a training is doing: what its log events say."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from diffkit.diffusion.process import Process
from diffkit.optim.average import EmaWeights
from diffkit.shards import own_part, whole

QUARTERS = 4
"""The way from image to noise is divided into as many parts, whose losses are logged apart."""

SINCE_QUARTERS = ("quarter_sums", "quarter_weights")
"""Sums that checkpoints from before there were quarters don't have."""

PLACE = "trainer"
"""The name of the sums among the optimizer's tensors in a checkpoint."""


class Health:
    """Sums up the losses between two log events, and measures the step of each.

    Everything stays on the device, which waits in `read` only. Several processes each have the same sums, since each
    is given the losses of all.

    Args:
        process: The process, for the quarters of its way; None where steps do not draw times of it.
        device: Where training runs.
    """

    def __init__(self, process: Process | None, device: torch.device) -> None:
        self._borders = None
        if process is not None:
            parts = torch.arange(1, QUARTERS, dtype=torch.float64) / QUARTERS
            self._borders = process.at(parts).to(device)
        self._numbers = torch.arange(QUARTERS, device=device)
        self._sums = {
            "loss_sum": torch.zeros((), device=device),
            "loss_count": torch.zeros((), device=device),
            "quarter_sums": torch.zeros(QUARTERS, device=device),
            "quarter_weights": torch.zeros(QUARTERS, device=device),
        }
        self.grad_norm = torch.zeros((), device=device)
        """The norm of the whole gradient of the last step, before it was clipped."""
        self._update_ratio = torch.full((), torch.nan, device=device)

    def add(self, losses: Tensor, times: Tensor, weights: Tensor | None) -> None:
        """Add what a step found.

        Args:
            losses: The loss of each image of the step ``[N]``.
            times: Their times ``[N]``.
            weights: What each loss counts ``[N]``, such that the weighted losses are, in the mean, those of times that
                are drawn without them; None for 1.
        """
        weights = torch.ones_like(losses) if weights is None else weights.to(losses.dtype)
        weighted = weights * losses
        self._sums["loss_sum"] += weighted.mean()
        self._sums["loss_count"] += 1
        if self._borders is None:
            return
        there = torch.bucketize(times, self._borders, right=True) == self._numbers[:, None]
        self._sums["quarter_sums"] += torch.where(there, weighted, 0).sum(dim=1)
        self._sums["quarter_weights"] += torch.where(there, weights, 0).sum(dim=1)

    @contextlib.contextmanager
    def measuring_update(self, model: nn.Module) -> Iterator[None]:
        """Measure how far what happens inside moves a model's weights. Keeps a copy of them for so long."""
        weights = [parameter.detach() for parameter in model.parameters()]
        before = [weight.clone() for weight in weights]
        norm = nn.utils.get_total_norm(before)
        yield
        torch._foreach_sub_([own_part(tensor) for tensor in before], [own_part(weight) for weight in weights])
        self._update_ratio = whole(nn.utils.get_total_norm(before)) / whole(norm)

    def read(self, ema: EmaWeights) -> dict[str, float]:
        """Return the numbers of a log event, and begin the next interval. Waits for the device, once.

        Returns:
            The mean `loss`, and that of each quarter of the way, from the least noise to the most (`loss_q1` to
            `loss_q4`; those where no image was are left out); of the last step the norm of the gradient (`grad_norm`)
            and of its update over that of the weights (`update_ratio`); the norm of the difference between averaged and
            raw weights over that of the raw ones (`ema_distance`).
        """
        sums, quarters = self._sums, [f"loss_q{number + 1}" for number in range(QUARTERS)]
        numbers = {
            "loss": sums["loss_sum"] / sums["loss_count"],
            **dict(zip(quarters, sums["quarter_sums"] / sums["quarter_weights"], strict=True)),
            "grad_norm": self.grad_norm,
            "update_ratio": self._update_ratio,
            "ema_distance": ema.distance(),
        }
        found = dict(zip(numbers, torch.stack(list(numbers.values())).tolist(), strict=True))
        for total in sums.values():
            total.zero_()
        return {name: value for name, value in found.items() if name not in quarters or not math.isnan(value)}

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums since the last log event, as a checkpoint holds them."""
        return {f"{PLACE}/{name}": tensor for name, tensor in self._sums.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on with the sums in a checkpoint, which are taken out of its tensors.

        Raises:
            KeyError: If the checkpoint has none.
        """
        for name, total in self._sums.items():
            place = f"{PLACE}/{name}"
            if place in tensors or name not in SINCE_QUARTERS:
                total.copy_(tensors.pop(place))
