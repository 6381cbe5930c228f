"""From diffusers' schedulers to a process, a prediction and the `[sample]` table of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from diffkit.errors import RecipeError
from diffkit.interop.diffusers.scheduler_config import (
    DDIM,
    DDPM,
    EDM,
    KDPM2,
    LCM,
    LMS,
    PNDM,
    TCD,
    BetaConfig,
    DEISMultistep,
    DPMSolverMultistep,
    DPMSolverSinglestep,
    EDMDPMSolverMultistep,
    EDMEuler,
    Euler,
    EulerAncestral,
    FlowMatchEuler,
    Heun,
    KDPM2Ancestral,
    Multistep,
    Refused,
    SchedulerConfig,
    Thresholding,
    UniPCMultistep,
)
from diffkit.interop.diffusers.scheduler_process import process_of
from diffkit.interop.diffusers.scheduler_times import shown_times, sigmas_spaced, spaced_times, spacing_of, times_of

_PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "velocity"}

_FEW = 15
"""Below so many steps diffusers lowers the order of multistep solvers at the end."""

_NOTHING = 1e-5
"""What is smaller than the differences of the networks' outputs."""


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
            case PNDM():
                process, sample, differences = _pndm(config, steps)
            case Euler() | EulerAncestral() | Heun() | LMS() | KDPM2():
                process, sample, differences = _in_ratios(config, steps)
            case Multistep() | DPMSolverSinglestep():
                process, sample, differences = _solver(config, steps)
            case LCM() | TCD():
                process, sample, differences = _distilled(config, steps)
            case EDM():
                process, sample, differences = _edm(config)
            case FlowMatchEuler():
                process, sample, differences = _flow(config, steps)
            case _:
                raise AssertionError(config)
    except Refused as refused:
        raise RecipeError(source, [refused.problem]) from None
    sample.setdefault("steps", steps)
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
    _check_count(config, steps)
    times = times_of(config, steps)
    rule = _rule(config, keeps_noise=isinstance(config, DDIM))
    differences = _of_rule(rule)
    spacing = spacing_of(times, config)
    if isinstance(config, DDPM):
        differences.append(f"variance: variance_type = {config.variance_type}")
        if times[-1] > 0 and config.variance_type not in ("fixed_small", "fixed_small_log"):
            message = f"the last step, from time {times[-1]:g}, adds noise with this variance; no sampler here does"
            raise Refused("timestep_spacing", message, config.timestep_spacing)
        return process_of(config), {"sampler": "ddpm", "spacing": spacing, "x0_rule": rule}, differences
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
    return process_of(config), {"sampler": "ddim", "spacing": spacing, "x0_rule": rule}, differences


def _check_count(config: BetaConfig, steps: int) -> None:
    total = config.num_train_timesteps
    if steps > total:
        raise Refused("num_train_timesteps", f"{steps} steps cannot be taken: give fewer, as steps={total}", total)


def _of_rule(rule: dict[str, Any]) -> list[str]:
    found = []
    if rule["kind"] == "clip":
        found.append(f"clipping: the estimated images are clipped to [{rule.get('low', -1)}, {rule.get('high', 1)}]")
    if rule.get("keeps_noise"):
        found.append("clipping: the noise stays as it was where the estimated images are clipped (keeps_noise)")
    if rule["kind"] == "none":
        found.append("clipping: none")
    return found


def _pndm(config: PNDM, steps: int) -> _Parts:
    _check_count(config, steps)
    times, differences, idle = times_of(config, steps), [], False
    total = config.num_train_timesteps
    stride = total // steps
    start = "heun" if config.skip_prk_steps else "runge_kutta"
    if any(before - after != stride for before, after in pairwise(times)) or times[-1] >= stride:
        message = f"in {steps} steps, the times that are visited are not those that it steps to, {stride} apart"
        raise Refused("timestep_spacing", message, config.timestep_spacing)
    if start == "runge_kutta" and (steps < 4 or stride % 2):
        reason = (
            "its first three steps need at least 4" if steps < 4 else f"no time is halfway between two, {stride} apart"
        )
        raise Refused("skip_prk_steps", f"in {steps} steps, {reason}: another number of steps may do", False)
    if not config.set_alpha_to_one and times[-1] == 0:
        if steps == 1:
            raise Refused("set_alpha_to_one", "the only step would go from time 0 to time 0", False)
        times, idle = times[:-1], True
        differences.append("steps: the last one goes from time 0 to time 0, which changes nothing, and is left out")
    spacing = spacing_of(times, config)
    if not config.set_alpha_to_one:
        spacing["end"] = "least"
        differences.append("end: set_alpha_to_one = false leaves the noise of time 0 in the images")
    sampler = {"kind": "pndm", "start": start, "order": 4, "falls_at_end": False}
    return (
        process_of(config),
        {"sampler": sampler, "spacing": spacing, "x0_rule": "none", "steps": steps - idle},
        differences,
    )


def _in_ratios(config: Euler | EulerAncestral | Heun | LMS | KDPM2, steps: int) -> _Parts:
    times, process, differences = times_of(config, steps), process_of(config), []
    rule = sigmas_spaced(config)
    if rule and steps > 1:
        spacing: dict[str, Any] = {"kind": "list", "times": spaced_times(config, rule, times[0], times[-1], steps)}
        differences.append(f"spacing: use_{rule}_sigmas as a list of {steps} times")
        if rule == "karras" and isinstance(config, KDPM2):
            spacing["shown"] = shown_times(config, rule, int(times[0]), int(times[-1]), steps)
            differences.append("times: the network is shown rounded ones (spacing.shown)")
    elif all(time.is_integer() for time in times):
        spacing = spacing_of(times, config)
    else:
        process["between"] = "ratio"
        spacing = {"kind": "list", "times": times}
        differences.append(
            f"spacing: {steps} times, most between two whole ones, where sigma / alpha is linear (process.between)"
        )
    if config.timestep_spacing != "leading":
        spacing["start"] = "noise"
        differences.append(f"start: with timestep_spacing = {config.timestep_spacing}, noise of sigma's deviation")
    if getattr(config, "final_sigmas_type", "zero") == "sigma_min":
        spacing["end"] = "least"
        differences.append("end: final_sigmas_type = sigma_min leaves the noise of time 0 in the images")
    x0_rule = _rule(config)
    sample = {"sampler": _sampler(config), "spacing": spacing, "x0_rule": x0_rule}
    return process, sample, [*differences, *_of_rule(x0_rule)]


def _sampler(config: Euler | EulerAncestral | Heun | LMS | KDPM2) -> Any:
    match config:
        case LMS():
            return {"kind": "lms", "order": 4, "falls_at_end": False}
        case KDPM2Ancestral():
            return {"kind": "dpm_2_ancestral", "middle": "exact"}
        case KDPM2():
            return {"kind": "dpm_2", "middle": "exact"}
        case Heun():
            return "heun"
        case EulerAncestral():
            return "euler_ancestral"
    return "euler"


def _solver(config: Multistep | DPMSolverSinglestep, steps: int) -> _Parts:
    rule = sigmas_spaced(config)
    x0_rule = _rule(config)
    differences = _of_rule(x0_rule)
    sample: dict[str, Any] = {"x0_rule": x0_rule}
    if rule:
        sample["spacing"] = spacing = _own_sigmas(config, rule, steps)
        differences.append(f"spacing: sigma is spaced by the rule {rule}, as a list of {steps} times")
        differences.append("times: the network is shown rounded ones (spacing.shown)")
    else:
        sample["spacing"] = spacing = spacing_of(times_of(config, steps), config)
        if spacing["kind"] == "list":
            differences.append(f"spacing: timestep_spacing as a list of {steps} times")
    match config:
        case DPMSolverSinglestep():
            sample["sampler"] = _singlestep(config)
        case DPMSolverMultistep():
            sample["sampler"] = _dpmpp(config)
        case UniPCMultistep():
            sample["sampler"] = {"kind": "unipc", "order": config.solver_order, "b": config.solver_type}
            if config.solver_type == "bh1" and config.final_sigmas_type != "sigma_min":
                raise Refused("solver_type", "at the clean end, theirs ends in NaN", "bh1")
        case _:
            assert isinstance(config, DEISMultistep)
            differences += _deis(config, sample, idle=rule is not None, steps=steps)
            return process_of(config), sample, differences
    if getattr(config, "final_sigmas_type", "zero") == "sigma_min":
        _check_least(config, spaced=rule is not None, steps=steps)
        spacing["end"] = "least"
        differences.append("end: final_sigmas_type = sigma_min leaves the noise of time 0 in the images")
    return process_of(config), sample, differences


def _own_sigmas(config: Multistep | DPMSolverSinglestep, rule: str, steps: int) -> dict[str, Any]:
    """Return the spacing of sigma by a rule, over all times."""
    last = config.num_train_timesteps - 1
    times, shown = spaced_times(config, rule, last, 0, steps), shown_times(config, rule, last, 0, steps)
    return {"kind": "list", "times": times, "shown": shown}


def _check_least(config: Multistep | DPMSolverSinglestep, *, spaced: bool, steps: int) -> None:
    """Check that the step to the least noise, which is none to the clean end, is of first order there too.

    Raises:
        Refused: If it isn't.
    """
    if spaced:
        raise Refused("final_sigmas_type", "the last step would go from sigma_min to sigma_min", "sigma_min")
    if isinstance(config, DPMSolverMultistep) and config.solver_order > 1:
        falls = config.euler_at_final or (config.lower_order_final and steps < _FEW)
        if not falls:
            message = "the last step is of second order there, and of first order here: set euler_at_final = true"
            raise Refused("final_sigmas_type", message, "sigma_min")


def _deis(config: DEISMultistep, sample: dict[str, Any], *, idle: bool, steps: int) -> list[str]:
    """Complete the sampling by DEIS, and return the differences.

    Args:
        config: The scheduler.
        sample: The sampling so far.
        idle: Whether the last step goes from the least noise to the least noise.
        steps: The number of steps.
    """
    spacing = sample["spacing"]
    falls = config.lower_order_final and steps < _FEW
    sample["sampler"] = {"kind": "deis", "order": config.solver_order, "falls_at_end": falls and not idle}
    spacing["end"] = "least"
    differences = ["end: the noise of time 0 stays in the images"]
    if idle:
        if steps == 1:
            raise Refused("solver_type", "the only step would go from a sigma to itself: take more", config.solver_type)
        if falls and config.solver_order > 2:
            message = f"in fewer than {_FEW} steps the order falls before the last one, which changes nothing"
            raise Refused("lower_order_final", message, True)
        spacing |= {"times": spacing["times"][:-1], "shown": spacing["shown"][:-1]}
        sample["steps"] = steps - 1
        differences.append("steps: the last one goes from sigma_min to sigma_min, changes nothing, and is left out")
    elif times_of(config, steps)[-1] == 0:
        message = f"in {steps} steps, the last step would go from time 0 to time 0"
        raise Refused("timestep_spacing", message, config.timestep_spacing)
    return differences


def _dpmpp(config: DPMSolverMultistep | EDMDPMSolverMultistep) -> dict[str, Any]:
    stochastic = config.algorithm_type.startswith("sde")
    if config.solver_order == 1:
        if stochastic:
            raise Refused("solver_order", "there is no first-order sampler of this SDE: only 2", 1)
        return {"kind": "ddim"}
    return {"kind": "dpmpp_2m_sde" if stochastic else "dpmpp_2m", "solver": config.solver_type}


def _singlestep(config: DPMSolverSinglestep) -> dict[str, Any]:
    if config.solver_order == 1:
        return {"kind": "ddim"}
    return {"kind": "dpmpp_singlestep", "order": config.solver_order, "solver": config.solver_type}


def _distilled(config: LCM | TCD, steps: int) -> _Parts:
    times = times_of(config, steps)
    spacing = spacing_of(times, config)
    differences = []
    if spacing["kind"] == "list":
        differences.append(f"spacing: {steps} of {config.original_inference_steps} times, as a list")
    if isinstance(config, TCD):
        if times[-1] == 0:
            message = "the last step would go from time 0 to time 0"
            raise Refused("original_inference_steps", message, config.original_inference_steps)
        spacing["end"] = "least"
        differences += ["noise: gamma = 0.3, as by default (eta)", "end: the noise of time 0 stays in the images"]
        if config.clip_sample or config.thresholding:
            differences.append("clipping: none, as this scheduler makes no use of its settings for it")
        return process_of(config), {"sampler": "tcd", "spacing": spacing, "x0_rule": "none"}, differences
    # c_skip = 1 / (1 + (scale t / 0.5)²): what of the noisy image is left in the estimate
    skipped = 1 / (1 + (config.timestep_scaling * times[-1] / 0.5) ** 2)
    if skipped > _NOTHING:
        message = f"its estimate at time {times[-1]:g} still holds {skipped:.1g} of the noisy image"
        raise Refused("timestep_scaling", f"{message}, which no prediction here does", config.timestep_scaling)
    differences.append(
        f"boundary: at most {skipped:.0g} of the noisy image, which the estimate holds there, is left out"
    )
    rule = _rule(config)
    sample = {"sampler": "consistency", "spacing": spacing, "x0_rule": rule}
    return process_of(config), sample, [*differences, *_of_rule(rule)]


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
