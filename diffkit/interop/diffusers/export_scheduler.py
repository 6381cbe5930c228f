"""From what a recipe samples with to the config of a diffusers scheduler, checked by reading it back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from diffkit.diffusion.ddpm_process import DdpmProcess
from diffkit.diffusion.edm_process import EdmProcess
from diffkit.diffusion.flow_process import FlowProcess
from diffkit.diffusion.noise_spacings import Exponential, Karras
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.process import Process
from diffkit.diffusion.samplers.adams import Deis, Lms
from diffkit.diffusion.samplers.consistency import Consistency, Tcd
from diffkit.diffusion.samplers.ddim import Ddim
from diffkit.diffusion.samplers.ddpm import Ddpm
from diffkit.diffusion.samplers.dpm_2 import Dpm2, Dpm2Ancestral
from diffkit.diffusion.samplers.dpmpp_multi import Dpmpp2M, Dpmpp2MSde
from diffkit.diffusion.samplers.dpmpp_singlestep import DpmppSinglestep
from diffkit.diffusion.samplers.euler import Euler, EulerAncestral
from diffkit.diffusion.samplers.heun import Heun
from diffkit.diffusion.samplers.pndm import Pndm
from diffkit.diffusion.samplers.unipc import UniPc
from diffkit.diffusion.stride_spacings import Divided, Leading, Linspace, Trailing
from diffkit.diffusion.x0_rule import BoundedX0, Clip, DynamicThreshold, NoRule
from diffkit.errors import Problem, RecipeError
from diffkit.interop.diffusers import scheduler_config as theirs
from diffkit.interop.diffusers.scheduler import sampling_of
from diffkit.interop.diffusers.scheduler_config import SchedulerConfig
from diffkit.recipe.tables import Recipe, Sample
from diffkit.schedules.cosine import Cosine
from diffkit.schedules.ramps import Linear, Quadratic, ScaledLinear, Sigmoid
from diffkit.spec import problems_of

_WORDS = {"noise": "epsilon", "data": "sample", "velocity": "v_prediction"}

_PIPELINES = {
    theirs.DDPM: "DDPMPipeline",
    theirs.DDIM: "DDIMPipeline",
    theirs.PNDM: "PNDMPipeline",
    theirs.DPMSolverMultistep: "DDPMPipeline",
    theirs.DPMSolverSinglestep: "DDPMPipeline",
    theirs.LCM: "DDPMPipeline",
    theirs.TCD: "DDPMPipeline",
}
"""The pipelines that sample rightly with a scheduler: DDPMPipeline with each that takes the plain noise, an image as it
is and a generator."""

_ALL_OF_IT = 1000.0
"""LCM's `timestep_scaling`: so large that an estimate holds nothing of the noisy image but at time 0."""


def scheduler_of(recipe: Recipe) -> tuple[SchedulerConfig, str | None]:
    """Return the config of what a recipe samples with, and the pipeline that goes with it, if there is one.

    Raises:
        RecipeError: If no scheduler of diffusers samples exactly so: names what differs.
    """
    sample = recipe.sample
    if sample.guidance.kind != "cfg" or sample.guidance.weight != 1:
        raise refused(
            recipe, "sample.guidance", "diffusers' pipelines have no guidance: only weight = 1", sample.guidance.kind
        )
    cls, settings = _scheduler(recipe)
    if recipe.objective.variance.learned and cls is not theirs.DDPM:
        message = f"{cls.class_name} takes no network that says a variance: sample with 'ddpm'"
        raise refused(recipe, "sample.sampler", message, sample.sampler.kind)
    try:
        config = cls.model_validate(
            {**_process(recipe, cls), **_rule(recipe, cls), **_spacing(recipe, cls), **settings}
        )
    except ValidationError as error:
        problems = [
            Problem("sample.sampler", f"as {cls.class_name}, its {found.key}: {found.message}", sample.sampler.kind)
            for found in problems_of(error)
        ]
        raise RecipeError(recipe.name, problems) from None
    _check(recipe, config)
    return config, _PIPELINES.get(cls)


def _scheduler(recipe: Recipe) -> tuple[type[SchedulerConfig], dict[str, Any]]:
    """Return the scheduler that comes nearest to a sampler, and its own settings."""
    sampler, ends = recipe.sample.sampler, recipe.sample.spacing.end
    last = {"final_sigmas_type": "zero" if ends == "clean" else "sigma_min"}
    to_one = {"set_alpha_to_one": ends == "clean"}
    edm, flow = isinstance(recipe.process, EdmProcess), isinstance(recipe.process, FlowProcess)
    match sampler:
        case Ddpm():
            return theirs.DDPM, _ddpm(recipe)
        case Ddim(eta=0):
            _check_ddim(recipe)
            return theirs.DDIM, to_one
        case Pndm(order=4, falls_at_end=False):
            return theirs.PNDM, {**to_one, "skip_prk_steps": sampler.start == "heun"}
        case Euler(s_churn=0):
            if flow:
                return theirs.FlowMatchEuler, {}
            return (theirs.EDMEuler if edm else theirs.Euler), last
        case EulerAncestral(eta=1, s_noise=1):
            return theirs.EulerAncestral, {}
        case Heun(s_churn=0):
            return theirs.Heun, {}
        case Lms(order=4, falls_at_end=False):
            return theirs.LMS, {}
        case Dpm2(middle="exact"):
            return theirs.KDPM2, {}
        case Dpm2Ancestral(middle="exact", eta=1, s_noise=1):
            return theirs.KDPM2Ancestral, {}
        case Dpmpp2M() | Dpmpp2MSde(eta=1, s_noise=1):
            algorithm = "dpmsolver++" if isinstance(sampler, Dpmpp2M) else "sde-dpmsolver++"
            solver = {"solver_order": 2, "solver_type": sampler.solver, "algorithm_type": algorithm, **last}
            if edm:
                return theirs.EDMDPMSolverMultistep, solver
            return theirs.DPMSolverMultistep, {**solver, "euler_at_final": ends == "least"}
        case DpmppSinglestep():
            return theirs.DPMSolverSinglestep, {"solver_order": sampler.order, "solver_type": sampler.solver, **last}
        case UniPc():
            return theirs.UniPCMultistep, {"solver_order": sampler.order, "solver_type": sampler.b, **last}
        case Deis(order=1 | 2 | 3):
            return theirs.DEISMultistep, {"solver_order": sampler.order, "lower_order_final": sampler.falls_at_end}
        case Consistency():
            return theirs.LCM, {"timestep_scaling": _ALL_OF_IT, **_every_time(recipe)}
        case Tcd():
            return theirs.TCD, _every_time(recipe)
    message = "no scheduler of diffusers samples like this: see docs/interop/diffusers.md for those that do"
    raise refused(recipe, "sample.sampler", message, f"{sampler.model_dump()}")


def _ddpm(recipe: Recipe) -> dict[str, Any]:
    variance = recipe.objective.variance.kind
    if variance == "learned":
        message = "their 'learned' is the variance, and ours its log: only fixed_small, fixed_large, learned_range"
        raise refused(recipe, "objective.variance", message, variance)
    return {"variance_type": variance}


def _every_time(recipe: Recipe) -> dict[str, Any]:
    """Let a scheduler of distilled models choose among all times."""
    return {"original_inference_steps": recipe.process.steps} if isinstance(recipe.process, DdpmProcess) else {}


def _check_ddim(recipe: Recipe) -> None:
    rule = recipe.sample.x0_rule
    if isinstance(rule, BoundedX0) and not rule.keeps_noise:
        message = (
            "DDIMPipeline leaves the noise as it was where it clips, unless each call says "
            "use_clipped_model_output=True: set x0_rule.keeps_noise = true, or x0_rule = none"
        )
        raise refused(recipe, "sample.x0_rule.keeps_noise", message, False)


def _process(recipe: Recipe, cls: type[SchedulerConfig]) -> dict[str, Any]:
    process, prediction = recipe.process, recipe.objective.prediction
    fits = issubclass(cls, theirs.BetaConfig) and isinstance(process, DdpmProcess)
    fits |= issubclass(cls, theirs.EDM) and isinstance(process, EdmProcess)
    fits |= cls is theirs.FlowMatchEuler and isinstance(process, FlowProcess)
    if not fits:
        message = f"{cls.class_name}, for the sampler '{recipe.sample.sampler.kind}', has another process"
        raise refused(recipe, "process.kind", message, process.kind)
    match process:
        case EdmProcess():
            ends = {"sigma_min": process.sigma_min, "sigma_max": process.sigma_max}
            return {**ends, "sigma_data": process.sigma_data}
        case FlowProcess():
            return {"num_train_timesteps": round(1 / process.time_min), "shift": process.shift}
    assert isinstance(process, DdpmProcess)
    if prediction.kind not in _WORDS:
        message = f"diffusers has no such prediction: only {', '.join(_WORDS)}"
        raise refused(recipe, "objective.prediction", message, prediction.kind)
    return {
        **_betas(recipe, process, cls),
        "prediction_type": _WORDS[prediction.kind],
        **({"rescale_betas_zero_snr": True} if process.zero_terminal_snr else {}),
    }


def _betas(recipe: Recipe, process: DdpmProcess, cls: type[SchedulerConfig]) -> dict[str, Any]:
    schedule = process.schedule
    match schedule:
        case Linear(scale_to_steps=False):
            name = "linear"
        case ScaledLinear() | Quadratic():
            name = "scaled_linear"
        case Sigmoid(width=6.0) if cls is theirs.DDPM:
            name = "sigmoid"
        case Cosine(offset=0.008, max_beta=0.999):
            return {"num_train_timesteps": process.steps, "beta_schedule": "squaredcos_cap_v2"}
        case _:
            message = "only linear, scaled_linear, quadratic, cosine as it is by default, and sigmoid for sampler ddpm"
            raise refused(recipe, "process.schedule", message, str(schedule))
    ends = {"beta_start": schedule.start, "beta_end": schedule.end}
    return {"num_train_timesteps": process.steps, "beta_schedule": name, **ends}


def _rule(recipe: Recipe, cls: type[SchedulerConfig]) -> dict[str, Any]:
    rule = recipe.sample.x0_rule
    clips, thresholds = "clip_sample" in cls.model_fields, issubclass(cls, theirs.Thresholding)
    off: dict[str, Any] = {"clip_sample": False} if clips else {}
    match rule:
        case NoRule():
            return off
        case Clip() if rule.low == -rule.high and clips and cls is not theirs.TCD:
            return {"clip_sample": True, "clip_sample_range": rule.high}
        case Clip(low=-1.0, high=1.0) if thresholds:
            return {**off, "thresholding": True, "sample_max_value": 1.0}
        case DynamicThreshold(largest=float()) if thresholds:
            limits = {"dynamic_thresholding_ratio": rule.quantile, "sample_max_value": rule.largest}
            return {**off, "thresholding": True, **limits}
    has = ["none"]
    if clips and cls is not theirs.TCD:
        has.append("clip to [-a, a]")
    elif thresholds:
        has.append("clip to [-1, 1]")
    if thresholds:
        has.append("dynamic_threshold with a largest range")
    message = f"{cls.class_name} has only {', '.join(has)}"
    raise refused(recipe, "sample.x0_rule", message, str(rule))


def _spacing(recipe: Recipe, cls: type[SchedulerConfig]) -> dict[str, Any]:
    spacing = recipe.sample.spacing
    if issubclass(cls, theirs.EDM):
        match spacing:
            case Karras():
                return {"sigma_schedule": "karras", "rho": spacing.rho}
            case Exponential(rho=1):
                return {"sigma_schedule": "exponential"}
        raise refused(recipe, "sample.spacing", "only karras, and exponential with rho = 1", spacing.kind)
    if not issubclass(cls, theirs.Spaced):
        return {}  # which spaces its times in one way
    further = issubclass(cls, theirs.Multistep)
    if isinstance(spacing, Divided) and spacing.without_last != further:
        counted = "divides by one step more than it takes" if further else "divides by the steps that it takes"
        message = f"{cls.class_name} {counted}: set {str(further).lower()}"
        raise refused(recipe, "sample.spacing.without_last", message, spacing.without_last)
    ratios = issubclass(cls, theirs.Sigmas | theirs.EulerAncestral)
    start = "noise" if ratios and not isinstance(spacing, Leading) else "full"
    if spacing.start != start:
        message = f"{cls.class_name} with this spacing starts with other noise: set '{start}'"
        raise refused(recipe, "sample.spacing.start", message, spacing.start)
    match spacing:
        case Leading():
            return {"timestep_spacing": "leading", "steps_offset": spacing.offset}
        case Trailing() | Linspace():
            return {"timestep_spacing": spacing.kind}
    raise refused(recipe, "sample.spacing", "only leading, trailing and linspace", spacing.kind)


def _check(recipe: Recipe, config: SchedulerConfig) -> None:
    """Check that a scheduler, read back, samples as the recipe does.

    Raises:
        RecipeError: If it doesn't.
    """
    sample = recipe.sample
    back = sampling_of(
        config,
        sample.steps,
        Path(f"{recipe.name}, as diffusers would read it"),
        says_variance=recipe.objective.variance.learned,
    )
    read = Sample.model_validate({**back.sample, "count": sample.count})
    process, objective = Process.choose(back.process), Objective.model_validate(back.objective)
    pairs: Sequence[tuple[str, Any, Any]] = (
        ("sample.sampler", sample.sampler, read.sampler),
        ("sample.x0_rule", sample.x0_rule, read.x0_rule),
        ("sample.spacing", *(_walk(p, s) for p, s in ((recipe.process, sample), (process, read)))),
        ("objective.prediction", recipe.objective.prediction, objective.prediction),
    )
    message = f"{config.class_name} would sample otherwise"
    problems = [Problem(key, message, str(mine)) for key, mine, its in pairs if mine != its]
    if problems:
        raise RecipeError(recipe.name, problems)


def _walk(process: Process, sample: Sample) -> Any:
    levels = sample.spacing.levels(process, sample.steps)
    return [(level.time, level.alpha, level.sigma) for level in levels[:-1]], levels[-1].sigma, levels.start_scale


def refused(recipe: Recipe, key: str, message: str, value: Any = Problem.MISSING) -> RecipeError:
    """Return the error of a setting that diffusers cannot express."""
    return RecipeError(recipe.name, [Problem(key, message, value)])
