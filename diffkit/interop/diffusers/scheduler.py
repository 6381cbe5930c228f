"""From diffusers' schedulers to a process, a prediction and the `[sample]` table of a recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffkit.diffusion.process import Process
from diffkit.diffusion.stride_spacings import Leading, Linspace, StrideSpacing, Trailing
from diffkit.errors import Problem, RecipeError
from diffkit.interop.diffusers.scheduler_config import (
    DDIM,
    DDPM,
    EDM,
    LMS,
    BetaConfig,
    DEISMultistep,
    DPMSolverMultistep,
    EDMDPMSolverMultistep,
    EDMEuler,
    Euler,
    EulerAncestral,
    FlowMatchEuler,
    Heun,
    Multistep,
    SchedulerConfig,
    Sigmas,
    Thresholding,
    UniPCMultistep,
)

_PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "velocity"}

_FEW = 15
"""Below so many steps diffusers lowers the order of DEIS at the end."""


@dataclass(frozen=True)
class Sampling:
    """What a scheduler does, in terms of diffkit.

    Attributes:
        process: The `[process]` table.
        objective: The prediction and the variance.
        sample: The `[sample]` table.
        differences: What means something else there, and how that was resolved.
    """

    process: dict[str, Any]
    objective: dict[str, Any]
    sample: dict[str, Any]
    differences: tuple[str, ...]


class Refused(ValueError):
    """A setting that cannot be expressed, with its name."""

    def __init__(self, key: str, message: str, value: Any) -> None:
        super().__init__(message)
        self.problem = Problem(key, message, value)


def sampling_of(config: SchedulerConfig, steps: int, source: Path, *, says_variance: bool) -> Sampling:
    """Return what a scheduler does in so many steps.

    Args:
        config: The scheduler.
        steps: The number of steps.
        source: The config's file, for messages.
        says_variance: Whether the network has further channels for a variance.

    Raises:
        RecipeError: If a recipe cannot express it exactly: names the setting.
    """
    try:
        objective = _objective(config, says_variance=says_variance)
        match config:
            case DDPM() | DDIM():
                process, sample, differences = _ancestral(config, steps)
            case Euler() | EulerAncestral() | Heun() | LMS():
                process, sample, differences = _in_ratios(config, steps)
            case Multistep():
                process, sample, differences = _multistep(config, steps)
            case EDM():
                process, sample, differences = _edm(config)
            case FlowMatchEuler():
                process, sample, differences = _flow(config, steps)
            case _:
                raise AssertionError(config)
    except Refused as refused:
        raise RecipeError(source, [refused.problem]) from None
    sample["steps"] = steps
    return Sampling(process, objective, sample, tuple(differences))


_Parts = tuple[dict[str, Any], dict[str, Any], list[str]]
"""The process, the sampling, and the differences."""


def _objective(config: SchedulerConfig, *, says_variance: bool) -> dict[str, Any]:
    variance = getattr(config, "variance_type", None)
    if says_variance != (variance == "learned_range"):
        channels = "twice as many channels as it takes" if says_variance else "as many channels as it takes"
        raise Refused("variance_type", f"the network puts out {channels}, which does not fit this variance", variance)
    if isinstance(config, EDM):
        return {"prediction": {"kind": "edm", "sigma_data": config.sigma_data}}
    if isinstance(config, FlowMatchEuler):
        return {"prediction": "flow"}
    assert isinstance(config, BetaConfig)
    objective: dict[str, Any] = {"prediction": _PREDICTIONS[config.prediction_type]}
    if isinstance(config, DDPM):
        objective["variance"] = config.variance_type.removesuffix("_log")
    return objective


def _process(config: BetaConfig) -> dict[str, Any]:
    ends = {"start": config.beta_start, "end": config.beta_end}
    match config.beta_schedule:
        case "squaredcos_cap_v2":
            schedule: dict[str, Any] = {"kind": "cosine", "offset": 0.008, "max_beta": 0.999}
        case kind:
            schedule = {"kind": kind, **ends}
    return {
        "kind": "ddpm",
        "steps": config.num_train_timesteps,
        "schedule": schedule,
        "zero_terminal_snr": bool(getattr(config, "rescale_betas_zero_snr", False)),
    }


def _rule(config: SchedulerConfig, *, keeps_noise: bool = False) -> dict[str, Any]:
    keeps = {"keeps_noise": True} if keeps_noise else {}
    if isinstance(config, Thresholding) and config.thresholding:
        if config.sample_max_value == 1:
            return {"kind": "clip", **keeps}
        limits = {"quantile": config.dynamic_thresholding_ratio, "largest": config.sample_max_value}
        return {"kind": "dynamic_threshold", **limits, **keeps}
    if getattr(config, "clip_sample", False):
        most = config.clip_sample_range  # type: ignore[attr-defined]
        return {"kind": "clip", "low": -most, "high": most, **keeps}
    return {"kind": "none"}


def _ancestral(config: DDPM | DDIM, steps: int) -> _Parts:
    total = config.num_train_timesteps
    if steps > total:
        raise Refused("num_train_timesteps", f"{steps} steps cannot be taken: give fewer, as steps={total}", total)
    times = _times(config, steps)
    rule = _rule(config, keeps_noise=isinstance(config, DDIM))
    differences = _of_rule(rule)
    spacing = _spacing(times, total)
    if isinstance(config, DDPM):
        differences.append(f"variance: variance_type = {config.variance_type}")
        if times[-1] > 0 and config.variance_type not in ("fixed_small", "fixed_small_log"):
            message = f"the last step, from time {times[-1]:g}, adds noise with this variance; no sampler here does"
            raise Refused("timestep_spacing", message, config.timestep_spacing)
        return _process(config), {"sampler": "ddpm", "spacing": spacing, "x0_rule": rule}, differences
    stride = total // steps
    if any(before - after != stride for before, after in pairwise(times)) or times[-1] >= stride:
        message = (
            f"in {steps} steps, the times that are visited are not those that it steps to, {stride} apart: "
            "use timestep_spacing = leading, or a number of steps that divides the times"
        )
        raise Refused("timestep_spacing", message, config.timestep_spacing)
    if not config.set_alpha_to_one:
        if times[-1] == 0:
            message = "the last step would go from time 0 to time 0: steps_offset = 1 leaves room for it"
            raise Refused("set_alpha_to_one", message, False)
        spacing["end"] = "least"
        differences.append("end: set_alpha_to_one = false leaves the noise of time 0 in the images")
    return _process(config), {"sampler": "ddim", "spacing": spacing, "x0_rule": rule}, differences


def _of_rule(rule: dict[str, Any]) -> list[str]:
    found = []
    if rule["kind"] == "clip":
        found.append(f"clipping: the estimated images are clipped to [{rule.get('low', -1)}, {rule.get('high', 1)}]")
    if rule.get("keeps_noise"):
        found.append("clipping: the noise stays as it was where the estimated images are clipped (keeps_noise)")
    if rule["kind"] == "none":
        found.append("clipping: none")
    return found


def _in_ratios(config: Euler | EulerAncestral | Heun | LMS, steps: int) -> _Parts:
    total = config.num_train_timesteps
    times, process, differences = _times(config, steps), _process(config), []
    if whole := all(time.is_integer() for time in times):
        spacing = _spacing(times, total)
    else:
        process["between"] = "ratio"
        spacing = {"kind": "list", "times": times}
    chosen = [name for name in ("karras", "exponential", "beta") if getattr(config, f"use_{name}_sigmas", False)]
    if len(chosen) > 1:
        raise Refused(f"use_{chosen[1]}_sigmas", f"not together with use_{chosen[0]}_sigmas", True)
    if chosen and steps > 1:
        if process.pop("between", None):
            whole = True
        ratios = _ratios(config, times)
        again = _respaced(chosen[0], ratios[0], ratios[-1], steps)
        log_snr = -2 * torch.log(torch.tensor(again, dtype=torch.float64))
        spacing = {"kind": "list", "times": Process.choose(process).time_of(log_snr).tolist()}
        differences.append(f"spacing: use_{chosen[0]}_sigmas as a list of {steps} times")
    elif not whole:
        differences.append(
            f"spacing: {steps} times, most between two whole ones, where sigma / alpha is linear (process.between)"
        )
    if config.timestep_spacing != "leading":
        spacing["start"] = "noise"
        differences.append(f"start: with timestep_spacing = {config.timestep_spacing}, noise of sigma's deviation")
    if getattr(config, "final_sigmas_type", "zero") == "sigma_min":
        spacing["end"] = "least"
        differences.append("end: final_sigmas_type = sigma_min leaves the noise of time 0 in the images")
    rule = _rule(config)
    sample = {"sampler": _sampler(config), "spacing": spacing, "x0_rule": rule}
    return process, sample, [*differences, *_of_rule(rule)]


def _sampler(config: Euler | EulerAncestral | Heun | LMS) -> Any:
    match config:
        case LMS():
            return {"kind": "lms", "order": 4, "falls_at_end": False}
        case Heun():
            return "heun"
        case EulerAncestral():
            return "euler_ancestral"
    return "euler"


def _ratios(config: Sigmas | EulerAncestral, times: Sequence[float]) -> list[float]:
    """Return sigma / alpha at times, linear between whole ones."""
    process = Process.choose({**_process(config), "between": "ratio"})
    at = torch.tensor(times, dtype=torch.float64)
    ratios: list[float] = (process.sigma(at) / process.alpha(at)).tolist()
    return ratios


def _respaced(kind: str, high: float, low: float, steps: int) -> list[float]:
    """Return the ratios of a spacing between two."""
    part = np.linspace(0, 1, steps)
    if kind == "karras":
        found = (high ** (1 / 7) + part * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    elif kind == "exponential":
        found = np.exp(np.linspace(math.log(high), math.log(low), steps))
    else:
        from scipy.special import betaincinv  # as slow to import as it is seldom needed

        found = low + betaincinv(0.6, 0.6, 1 - part) * (high - low)
    ratios: list[float] = found.tolist()
    return ratios


def _multistep(config: Multistep, steps: int) -> _Parts:
    times = _times(config, steps)
    spacing = _spacing(times, config.num_train_timesteps)
    rule = _rule(config)
    differences = _of_rule(rule)
    if spacing["kind"] == "list":
        differences.append(f"spacing: timestep_spacing = {config.timestep_spacing} as a list of {steps} times")
    match config:
        case DPMSolverMultistep():
            sampler = _dpmpp(config)
        case UniPCMultistep():
            sampler = {"kind": "unipc", "order": config.solver_order, "b": config.solver_type}
        case _:
            assert isinstance(config, DEISMultistep)
            falls = config.lower_order_final and steps < _FEW
            sampler = {"kind": "deis", "order": config.solver_order, "falls_at_end": falls}
            spacing["end"] = "least"
            differences.append("end: the noise of time 0 stays in the images")
            if times[-1] == 0:
                message = f"in {steps} steps, the last step would go from time 0 to time 0"
                raise Refused("timestep_spacing", message, config.timestep_spacing)
    return _process(config), {"sampler": sampler, "spacing": spacing, "x0_rule": rule}, differences


def _dpmpp(config: DPMSolverMultistep | EDMDPMSolverMultistep) -> dict[str, Any]:
    stochastic = config.algorithm_type.startswith("sde")
    if config.solver_order == 1:
        if stochastic:
            raise Refused("solver_order", "there is no first-order sampler of this SDE: only 2", 1)
        return {"kind": "ddim"}
    return {"kind": "dpmpp_2m_sde" if stochastic else "dpmpp_2m", "solver": config.solver_type}


def _edm(config: EDM) -> _Parts:
    process = {
        "kind": "edm",
        "sigma_min": config.sigma_min,
        "sigma_max": config.sigma_max,
        "sigma_data": config.sigma_data,
    }
    spacing: dict[str, Any] = {"kind": config.sigma_schedule}
    if config.sigma_schedule == "karras":
        spacing["rho"] = config.rho
    rule = _rule(config)
    differences = _of_rule(rule)
    if isinstance(config, EDMDPMSolverMultistep):
        sampler = _dpmpp(config)
    else:
        assert isinstance(config, EDMEuler)
        sampler = {"kind": "euler"}
        if config.final_sigmas_type == "sigma_min":
            raise Refused("final_sigmas_type", "the last step would go from sigma_min to sigma_min", "sigma_min")
    return process, {"sampler": sampler, "spacing": spacing, "x0_rule": rule}, differences


def _flow(config: FlowMatchEuler, steps: int) -> _Parts:
    total, shift = config.num_train_timesteps, config.shift
    process = {"kind": "flow", "shift": shift, "time_min": 1 / total, "time_scale": float(total)}
    if shift == 1:
        return process, {"sampler": "euler", "spacing": "linspace", "x0_rule": "none"}, []
    least = shift / total / (1 + (shift - 1) / total)
    # diffusers divides the shifted way evenly, and shifts once more: these times, once
    times = np.linspace(1.0, least, steps).tolist()
    spacing = {"kind": "list", "times": times}
    said = f"spacing: diffusers shifts the end of the way twice: a list of {steps} times says it"
    return process, {"sampler": "euler", "spacing": spacing, "x0_rule": "none"}, [said]


def _times(config: BetaConfig, steps: int) -> list[float]:
    """Return the times that a scheduler visits.

    Raises:
        Refused: If they are not so many different times.
    """
    total = config.num_train_timesteps
    further = 1 if isinstance(config, Multistep) else 0  # these leave out the last of one more
    found: Any
    match config.timestep_spacing:
        case "linspace":
            if isinstance(config, DDPM | DDIM):
                found = np.linspace(0, total - 1, steps).round()[::-1]
            elif isinstance(config, Multistep):
                found = np.linspace(0, total - 1, steps + 1).round()[::-1][:-1]
            else:
                found = np.linspace(0, total - 1, steps, dtype=np.float32)[::-1]
        case "leading":
            stride = total // (steps + further)
            found = (np.arange(steps + further) * stride)[::-1][:steps] + config.steps_offset
        case "trailing":
            found = np.arange(total, 0, -total / steps).round() - 1
    times: list[float] = found.astype(np.float64).tolist()
    falling = all(before > after for before, after in pairwise(times))
    if len(times) != steps or not falling or not 0 <= times[-1] <= times[0] <= total - 1:
        message = f"in {steps} steps, it visits no {steps} different times of 0 to {total - 1}: take fewer, as steps=50"
        raise Refused("timestep_spacing", message, config.timestep_spacing)
    return times


def _spacing(times: Sequence[float], total: int) -> dict[str, Any]:
    """Return the spacing that visits these times: one of those with a name, or a list."""
    offset = int(times[-1])
    named: list[StrideSpacing] = [Leading(), Leading(offset=offset), Trailing(), Linspace()]
    for spacing in named:
        if spacing.times(len(times), total) == times:
            return spacing.model_dump(exclude_defaults=True) | {"kind": spacing.kind}
    return {"kind": "list", "times": list(times)}
