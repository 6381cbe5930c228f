"""The discrete process of DDPM."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from diffkit.diffusion.process import DiscreteProcess, Level, for_everyone
from diffkit.schedules.base import BetaSchedule


class DdpmProcess(DiscreteProcess):
    """The discrete, variance-preserving process of a beta schedule.

    ``q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)``, ``alpha_bar_t = Π_{i<=t} (1 - beta_i)``
    (Ho et al. 2020, eq. 4). Times count from 0, the paper's t = 1. Between two times, the log of the signal-to-noise
    ratio is linear, unless `between` says otherwise.
    """

    kind: Literal["ddpm"] = "ddpm"
    schedule: BetaSchedule = Field("linear", validate_default=True)
    """How much noise each step adds."""
    zero_terminal_snr: bool = False
    """Rescale sqrt(alpha_bar) so that the last time has no signal at all and the first one keeps its own
    (Lin et al. 2023, algorithm 1). Needs another prediction than `noise`."""
    between: Literal["log_snr", "ratio"] = "log_snr"
    """What is linear between two times, for samplers that visit such: the log of the signal-to-noise ratio, or the
    ratio of noise to signal (as in k-diffusion's discrete models)."""

    def exact(self, half_log_snr: float) -> Level:
        """Return the level with exactly this lambda, at the time where the log-SNR is linear, whatever `between` is."""
        if self.between == "log_snr":
            return super().exact(half_log_snr)
        return self.model_copy(update={"between": "log_snr"}).exact(half_log_snr)

    @property
    def betas(self) -> Tensor:
        """The variances of the steps: float64 ``[T]`` on the CPU. The last is 1 with `zero_terminal_snr`."""
        return _tables(self, torch.device("cpu")).beta

    @property
    def alphas_cumprod(self) -> Tensor:
        """alpha-bar, strictly falling in (0, 1), or to 0 with `zero_terminal_snr`: float64 ``[T]`` on the CPU."""
        return torch.exp(_tables(self, torch.device("cpu")).log_alpha_bar)

    @property
    def no_signal_setting(self) -> str | None:
        """`zero_terminal_snr = true`, if it is that."""
        return "zero_terminal_snr = true" if self.zero_terminal_snr else None

    def alpha(self, time: Tensor) -> Tensor:
        """Return sqrt(alpha_bar) at times ``[N]``: float64 ``[N]``.

        Raises:
            ValueError: If the schedule gives no valid process of so many steps.
        """
        table = _tables(self, time.device).alpha
        return table[time] if _is_whole(time) else self._between(table, time, 1)

    def sigma(self, time: Tensor) -> Tensor:
        """Return sqrt(1 - alpha_bar) at times ``[N]``: float64 ``[N]``."""
        table = _tables(self, time.device).sigma
        return table[time] if _is_whole(time) else self._between(table, time, -1)

    def log_snr(self, time: Tensor) -> Tensor:
        """Return log(alpha_bar / (1 - alpha_bar)) at times ``[N]``: float64 ``[N]``."""
        table = _tables(self, time.device).log_snr
        if _is_whole(time):
            return table[time]
        low, high = time.floor().long(), time.ceil().long()
        start, stop = self._place(table[low]), self._place(table[high])
        place = start + (time.double() - low) * (stop - start)
        between = -place if self.between == "log_snr" else -2 * torch.log(place)
        # at a whole time, 0 times a last log-SNR of -inf would be NaN
        return torch.where(low == high, table[low], between)

    def time_of(self, log_snr: Tensor) -> Tensor:
        """Return the times of log-SNRs ``[N]``, from 0 to T - 1: float64 ``[N]``."""
        table = self._place(_tables(self, log_snr.device).log_snr)
        if self.steps == 1:
            return torch.zeros_like(log_snr)
        wanted = torch.minimum(torch.maximum(self._place(log_snr), table[0]), table[-1])
        high = torch.searchsorted(table, wanted).clamp(min=1)
        below, above = table[high - 1], table[high]
        # the last may be infinite, and inf / inf would be NaN
        return high - 1 + torch.where(wanted == above, 1.0, (wanted - below) / (above - below))

    def _place(self, log_snr: Tensor) -> Tensor:
        """Return what is linear between two times, and grows with the noise."""
        return -log_snr if self.between == "log_snr" else torch.exp(-log_snr / 2)

    def _between(self, table: Tensor, time: Tensor, sign: int) -> Tensor:
        """Return alpha (sign 1) or sigma (sign -1) at real times, and the table's own value at whole ones."""
        between = torch.exp(torch.nn.functional.logsigmoid(sign * self.log_snr(time)) / 2)
        low = time.floor().long()
        return torch.where(time == low, table[low], between)


def _is_whole(time: Tensor) -> bool:
    return not time.is_floating_point()


class _Tables(NamedTuple):
    """Float64 ``[T]`` each."""

    beta: Tensor
    log_alpha_bar: Tensor
    alpha: Tensor
    sigma: Tensor
    log_snr: Tensor


@functools.lru_cache(maxsize=64)
def _tables(process: DdpmProcess, device: torch.device) -> _Tables:
    """Return a process's tables on a device, made once: copying them at each step would make it wait.

    Kept outside of the process, since a changed copy of a process must not inherit them.
    """
    with for_everyone():
        if device.type != "cpu":
            return _Tables(*(table.to(device) for table in _tables(process, torch.device("cpu"))))
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
        if process.zero_terminal_snr:
            log_alpha_bar = _without_signal_at_the_end(log_alpha_bar)
            beta = -torch.expm1(log_alpha_bar.diff(prepend=torch.zeros(1, dtype=torch.float64)))
        noise = -torch.expm1(log_alpha_bar)
        log_snr = log_alpha_bar - torch.log(noise)
        return _Tables(beta, log_alpha_bar, torch.exp(log_alpha_bar / 2), torch.sqrt(noise), log_snr)


def _without_signal_at_the_end(log_alpha_bar: Tensor) -> Tensor:
    """Shift and scale sqrt(alpha_bar) so that the last is 0 and the first stays: Lin et al. 2023, algorithm 1."""
    if len(log_alpha_bar) == 1:
        raise ValueError("zero_terminal_snr keeps the first time's signal and takes the last's: use at least 2 steps")
    # how far each has fallen from the first, as a part of the whole fall: exact where that is little
    fallen = torch.expm1((log_alpha_bar - log_alpha_bar[0]) / 2)
    return log_alpha_bar[0] + 2 * torch.log1p(-(fallen / fallen[-1]))


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
