"""The discrete process of DDPM."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from diffkit.diffusion.process import Process
from diffkit.schedules.base import BetaSchedule


class DdpmProcess(Process):
    """The discrete, variance-preserving process of a beta schedule.

    ``q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)``, ``alpha_bar_t = Π_{i<=t} (1 - beta_i)``
    (Ho et al. 2020, eq. 4). Times count from 0, the paper's t = 1.
    """

    kind: Literal["ddpm"] = "ddpm"
    schedule: BetaSchedule = Field("linear", validate_default=True)
    """How much noise each step adds."""

    @property
    def betas(self) -> Tensor:
        """The variances of the steps: float64 ``[T]`` on the CPU."""
        return _tables(self, torch.device("cpu")).beta

    @property
    def alphas_cumprod(self) -> Tensor:
        """alpha-bar, strictly falling in (0, 1): float64 ``[T]`` on the CPU."""
        return torch.exp(_tables(self, torch.device("cpu")).log_alpha_bar)

    def alpha(self, time: Tensor) -> Tensor:
        """Return sqrt(alpha_bar) at integer times ``[N]``: float64 ``[N]``.

        Raises:
            ValueError: If the schedule gives no valid process of so many steps.
        """
        return _tables(self, time.device).alpha[time]

    def sigma(self, time: Tensor) -> Tensor:
        """Return sqrt(1 - alpha_bar) at integer times ``[N]``: float64 ``[N]``."""
        return _tables(self, time.device).sigma[time]

    def log_snr(self, time: Tensor) -> Tensor:
        """Return log(alpha_bar / (1 - alpha_bar)) at integer times ``[N]``: float64 ``[N]``."""
        log_alpha_bar = _tables(self, time.device).log_alpha_bar[time]
        return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))


class _Tables(NamedTuple):
    """Float64 ``[T]`` each."""

    beta: Tensor
    log_alpha_bar: Tensor
    alpha: Tensor
    sigma: Tensor


@functools.lru_cache(maxsize=64)
def _tables(process: DdpmProcess, device: torch.device) -> _Tables:
    """Return a process's tables on a device, made once: copying them at each step would make it wait.

    Kept outside of the process, since a changed copy of a process must not inherit them.
    """
    if device.type != "cpu":
        return _Tables(*(table.to(device) for table in _tables(process, torch.device("cpu"))))
    # whoever asks first may be sampling in inference mode, or building on the meta device
    with torch.inference_mode(False), torch.device("cpu"):
        beta = process.schedule.betas(process.steps).to(torch.float64)
        _check(process, beta)
        # sums of logarithms, and expm1, keep 1 - alpha_bar exact where alpha_bar is near 1
        log_alpha_bar = torch.cumsum(torch.log1p(-beta), dim=0)
        if log_alpha_bar[-1] < _LEAST_LOG_ALPHA_BAR:
            gone = int((log_alpha_bar >= _LEAST_LOG_ALPHA_BAR).sum())
            raise ValueError(
                f"the schedule '{process.schedule.kind}' leaves no signal from time {gone} of {process.steps} on: "
                "use smaller betas or fewer steps"
            )
        return _Tables(beta, log_alpha_bar, torch.exp(log_alpha_bar / 2), torch.sqrt(-torch.expm1(log_alpha_bar)))


_LEAST_LOG_ALPHA_BAR = -80.0
"""Below, alpha-bar is too small for a normal float32, so nothing could be divided by it."""


def _check(process: DdpmProcess, beta: Tensor) -> None:
    name = f"the schedule '{process.schedule.kind}'"
    if beta.shape != (process.steps,):
        raise ValueError(f"{name} gives betas of shape {list(beta.shape)} for a process of {process.steps} steps")
    wrong = ~((beta > 0) & (beta < 1))  # true for NaN too
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ValueError(f"{name} gives beta = {beta[first].item():g} at time {first}: betas must be above 0, below 1")
