"""The times that diffusers' schedulers visit, and those that they show the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffkit.diffusion.process import Process
from diffkit.diffusion.stride_spacings import Leading, Linspace, StrideSpacing, Trailing
from diffkit.interop.diffusers.scheduler_config import (
    DDIM,
    DDPM,
    KDPM2,
    LCM,
    PNDM,
    TCD,
    BetaConfig,
    DPMSolverMultistep,
    DPMSolverSinglestep,
    Multistep,
    Refused,
    Spaced,
)
from diffkit.interop.diffusers.scheduler_process import process_of


def times_of(config: BetaConfig, steps: int) -> list[float]:
    """Return the times that a scheduler visits, where it doesn't space sigma itself.

    Raises:
        Refused: If they are not so many different times.
    """
    found = _on_grid(config, steps) if isinstance(config, LCM | TCD) else _strided(config, steps)
    times: list[float] = found.astype(np.float64).tolist()
    total = config.num_train_timesteps
    falling = all(before > after for before, after in pairwise(times))
    if len(times) != steps or not falling or not 0 <= times[-1] <= times[0] <= total - 1:
        fewer = min(50, (total + 1) // 2)
        message = (
            f"in {steps} steps, it visits no {steps} different times of 0 to {total - 1}: take fewer, as steps={fewer}"
        )
        key = "original_inference_steps" if isinstance(config, LCM | TCD) else "timestep_spacing"
        raise Refused(key, message, getattr(config, key, "linspace"))
    return times


def _on_grid(config: LCM | TCD, steps: int) -> Any:
    """Return some of the times that a distillation has trained, evenly."""
    grid = config.original_inference_steps
    stride = config.num_train_timesteps // grid
    return (grid - np.floor(np.linspace(0, grid, steps, endpoint=False))) * stride - 1


def _strided(config: BetaConfig, steps: int) -> Any:
    total = config.num_train_timesteps
    if isinstance(config, DPMSolverMultistep | DPMSolverSinglestep) and config.lambda_min_clipped is not None:
        process = Process.choose(process_of(config))
        total = int((process.log_snr(torch.arange(total)) / 2 >= config.lambda_min_clipped).sum())
    further = 1 if isinstance(config, Multistep | DPMSolverSinglestep) else 0  # these leave out the last of one more
    match config.timestep_spacing if isinstance(config, Spaced) else "linspace":
        case "leading":
            stride = total // (steps + further)
            assert isinstance(config, Spaced)
            return (np.arange(steps + further) * stride)[::-1][:steps] + config.steps_offset
        case "trailing":
            return np.arange(total, 0, -config.num_train_timesteps / steps).round() - 1
    if further:
        return np.linspace(0, total - 1, steps + 1).round()[::-1][:-1]
    if isinstance(config, DDPM | DDIM | PNDM):
        return np.linspace(0, total - 1, steps).round()[::-1]
    return np.linspace(0, total - 1, steps, dtype=np.float32)[::-1]


def spacing_of(times: Sequence[float], config: BetaConfig) -> dict[str, Any]:
    """Return the spacing that visits these times: one of those with a name, or a list."""
    offset = config.steps_offset if isinstance(config, Spaced) else 0
    named: list[StrideSpacing] = [Leading(), Leading(offset=offset), Trailing(), Linspace()]
    named += [Leading(without_last=True), Leading(without_last=True, offset=offset), Linspace(without_last=True)]
    total = config.num_train_timesteps
    for spacing in named:
        room = len(times) + getattr(spacing, "without_last", False) <= total
        if room and spacing.times(len(times), total) == times:
            return spacing.model_dump(exclude_defaults=True) | {"kind": spacing.kind}
    return {"kind": "list", "times": list(times)}


def sigmas_spaced(config: BetaConfig) -> str | None:
    """Return by which rule a scheduler spaces sigma / alpha: karras, exponential, beta or lu; None if it doesn't.

    Raises:
        Refused: If there are several.
    """
    settings = {"karras": "use_karras_sigmas", "lu": "use_lu_lambdas"}
    settings |= {"exponential": "use_exponential_sigmas", "beta": "use_beta_sigmas"}
    chosen = [name for name, setting in settings.items() if getattr(config, setting, False)]
    if len(chosen) > 1:
        raise Refused(settings[chosen[1]], f"not together with {settings[chosen[0]]}", True)
    return chosen[0] if chosen else None


def spaced_times(config: BetaConfig, rule: str, first: float, last: float, steps: int) -> list[float]:
    """Return the times, most between whole ones, at which sigma / alpha is spaced by a rule between two times."""
    process = Process.choose({**process_of(config), "between": "ratio"})
    ends = torch.tensor([first, last], dtype=torch.float64)
    high, low = (process.sigma(ends) / process.alpha(ends)).tolist()
    ratios = torch.from_numpy(_spaced(rule, high, low, steps))
    times: list[float] = Process.choose(process_of(config)).time_of(-2 * torch.log(ratios)).tolist()
    return times


def _spaced(rule: str, high: float, low: float, steps: int) -> Any:
    part = np.linspace(0, 1, steps)
    if rule == "karras":
        return (high ** (1 / 7) + part * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    if rule == "beta":
        from scipy.special import betaincinv  # as slow to import as it is seldom needed

        return low + betaincinv(0.6, 0.6, 1 - part) * (high - low)
    return np.exp(np.linspace(math.log(high), math.log(low), steps))


def shown_times(
    config: Multistep | DPMSolverSinglestep | KDPM2, rule: str, first: int, last: int, steps: int
) -> list[float]:
    """Return the whole times that the network is shown where a scheduler spaces sigma / alpha.

    They are calculated in float32 as there: a last digit can turn one into the next.

    Args:
        config: The scheduler.
        rule: The rule.
        first: The time where the walk starts.
        last: The time of the last step.
        steps: The number of steps.

    Raises:
        Refused: If the first two are the same, by which the scheduler takes its place for the second.
    """
    sigmas = _their_sigmas(config).numpy()
    logs = np.log(sigmas)
    wanted = np.log(_spaced(rule, sigmas[first].item(), sigmas[last].item(), steps))
    low = np.array([(np.cumsum(log - logs >= 0)).argmax() for log in wanted]).clip(max=len(logs) - 2)
    part = ((logs[low] - wanted) / (logs[low] - logs[low + 1])).clip(0, 1)
    times = (1 - part) * low + part * (low + 1)
    cosine = config.beta_schedule == "squaredcos_cap_v2" and isinstance(config, DPMSolverMultistep)
    whole: list[float] = (times.round() if rule in ("karras", "lu") and not cosine else np.floor(times)).tolist()
    if len(whole) > 1 and whole[0] == whole[1]:
        message = f"in {steps} steps, the first two show the network one time, and it skips one of them: take fewer"
        raise Refused("use_lu_lambdas" if rule == "lu" else f"use_{rule}_sigmas", message, True)
    return whole


def _their_sigmas(config: BetaConfig) -> Tensor:
    """Return sigma / alpha at all times, calculated in float32."""
    ends, total = (config.beta_start, config.beta_end), config.num_train_timesteps
    match config.beta_schedule:
        case "linear":
            betas = torch.linspace(*ends, total, dtype=torch.float32)
        case "scaled_linear":
            betas = torch.linspace(ends[0] ** 0.5, ends[1] ** 0.5, total, dtype=torch.float32) ** 2
        case _:
            betas = Process.choose(process_of(config)).betas.float()  # type: ignore[attr-defined]
    alpha_bar = torch.cumprod(1 - betas, 0)
    sigmas: Tensor = ((1 - alpha_bar) / alpha_bar) ** 0.5
    return sigmas
