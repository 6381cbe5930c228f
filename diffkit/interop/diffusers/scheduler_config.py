"""The settings of diffusers' schedulers that a recipe can express, with the defaults that they have of their own.

Where a setting has one value only, that is the one that can be expressed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError

from diffkit.errors import Problem, RecipeError, did_you_mean
from diffkit.spec import Spec, problems_of

Prediction = Literal["epsilon", "sample", "v_prediction"]
Steps = Literal["leading", "trailing", "linspace"]


class SchedulerConfig(Spec):
    """What all schedulers have in common."""

    class_name: ClassVar[str]
    """What diffusers calls it."""

    num_train_timesteps: int = Field(1000, ge=1, le=1_000_000)


class BetaConfig(SchedulerConfig):
    """A scheduler of a discrete process."""

    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear"
    trained_betas: None = None
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Steps = "linspace"
    steps_offset: int = Field(0, ge=0)


class Thresholding(SchedulerConfig):
    """A scheduler with a rule for the estimated images."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = Field(1.0, ge=1)


class DDPM(BetaConfig, Thresholding):
    """Ancestral sampling."""

    class_name: ClassVar[str] = "DDPMScheduler"
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large", "learned_range"] = "fixed_small"
    clip_sample: bool = True
    clip_sample_range: float = Field(1.0, gt=0)
    timestep_spacing: Steps = "leading"
    rescale_betas_zero_snr: bool = False


class DDIM(BetaConfig, Thresholding):
    """DDIM."""

    class_name: ClassVar[str] = "DDIMScheduler"
    clip_sample: bool = True
    clip_sample_range: float = Field(1.0, gt=0)
    set_alpha_to_one: bool = True
    timestep_spacing: Steps = "leading"
    rescale_betas_zero_snr: bool = False


class Sigmas(BetaConfig):
    """A scheduler in terms of sigma / alpha, which can space that itself."""

    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False


class Euler(Sigmas):
    """Euler's method."""

    class_name: ClassVar[str] = "EulerDiscreteScheduler"
    interpolation_type: Literal["linear"] = "linear"
    sigma_min: None = None
    sigma_max: None = None
    timestep_type: Literal["discrete"] = "discrete"
    rescale_betas_zero_snr: Literal[False] = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"


class EulerAncestral(BetaConfig):
    """Euler's method with ancestral noise."""

    class_name: ClassVar[str] = "EulerAncestralDiscreteScheduler"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rescale_betas_zero_snr: Literal[False] = False


class Heun(Sigmas):
    """Heun's method."""

    class_name: ClassVar[str] = "HeunDiscreteScheduler"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    clip_sample: bool | None = False
    clip_sample_range: float = Field(1.0, gt=0)


class LMS(Sigmas):
    """Linear multistep."""

    class_name: ClassVar[str] = "LMSDiscreteScheduler"


class Multistep(BetaConfig, Thresholding):
    """A multistep scheduler of exponential integrators. Its own spacings of sigma show the network rounded times."""

    solver_order: int = Field(2, ge=1, le=3)
    lower_order_final: bool = True
    use_karras_sigmas: Literal[False] | None = False
    use_exponential_sigmas: Literal[False] | None = False
    use_beta_sigmas: Literal[False] | None = False
    use_flow_sigmas: Literal[False] | None = False
    flow_shift: float | None = 1.0
    use_dynamic_shifting: Literal[False] = False
    time_shift_type: str = "exponential"


class DPMSolverMultistep(Multistep):
    """DPM-Solver++ of first and second order. Their third order is second order."""

    class_name: ClassVar[str] = "DPMSolverMultistepScheduler"
    solver_order: int = Field(2, ge=1, le=2)
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    euler_at_final: bool = False
    use_lu_lambdas: Literal[False] | None = False
    final_sigmas_type: Literal["zero"] = "zero"
    lambda_min_clipped: None = None
    variance_type: None = None
    rescale_betas_zero_snr: Literal[False] = False


class UniPCMultistep(Multistep):
    """UniPC. With bh1, theirs ends in NaN."""

    class_name: ClassVar[str] = "UniPCMultistepScheduler"
    lower_order_final: Literal[True] = True
    predict_x0: Literal[True] = True
    solver_type: Literal["bh2"] = "bh2"
    disable_corrector: tuple[()] = ()
    solver_p: None = None
    final_sigmas_type: Literal["zero"] | None = "zero"
    rescale_betas_zero_snr: Literal[False] = False
    sigma_min: None = None
    sigma_max: None = None
    shift_terminal: None = None


class DEISMultistep(Multistep):
    """DEIS."""

    class_name: ClassVar[str] = "DEISMultistepScheduler"
    algorithm_type: Literal["deis"] = "deis"
    solver_type: Literal["logrho"] = "logrho"


class EDM(SchedulerConfig):
    """A scheduler of EDM's process."""

    sigma_min: float = Field(0.002, gt=0)
    sigma_max: float = Field(80.0, gt=0)
    sigma_data: float = Field(0.5, gt=0)
    sigma_schedule: Literal["karras", "exponential"] = "karras"
    prediction_type: Literal["epsilon"] = "epsilon"
    rho: float = Field(7.0, gt=0, le=100)


class EDMEuler(EDM):
    """Euler's method on EDM's process."""

    class_name: ClassVar[str] = "EDMEulerScheduler"
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"


class EDMDPMSolverMultistep(EDM, Thresholding):
    """DPM-Solver++ on EDM's process."""

    class_name: ClassVar[str] = "EDMDPMSolverMultistepScheduler"
    solver_order: int = Field(2, ge=1, le=2)
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    final_sigmas_type: Literal["zero"] = "zero"


class FlowMatchEuler(SchedulerConfig):
    """Euler's method on the way of flow matching."""

    class_name: ClassVar[str] = "FlowMatchEulerDiscreteScheduler"
    shift: float = Field(1.0, gt=0)
    use_dynamic_shifting: Literal[False] = False
    base_shift: float | None = 0.5
    max_shift: float | None = 1.15
    base_image_seq_len: int | None = 256
    max_image_seq_len: int | None = 4096
    invert_sigmas: Literal[False] = False
    shift_terminal: None = None
    use_karras_sigmas: Literal[False] | None = False
    use_exponential_sigmas: Literal[False] | None = False
    use_beta_sigmas: Literal[False] | None = False
    time_shift_type: str = "exponential"
    stochastic_sampling: Literal[False] = False


KNOWN: dict[str, type[SchedulerConfig]] = {
    cls.class_name: cls
    for cls in (
        *(DDPM, DDIM, Euler, EulerAncestral, Heun, LMS),
        *(DPMSolverMultistep, UniPCMultistep, DEISMultistep, EDMEuler, EDMDPMSolverMultistep, FlowMatchEuler),
    )
}
"""All that can be read, by diffusers' names."""

REFUSED = {
    "DDIMInverseScheduler": "it goes from images to noise: diffkit inverts with another command",
    "DPMSolverSinglestepScheduler": "its middle levels are other steps' own levels; dpmpp_2s_ancestral has its own",
    "KDPM2DiscreteScheduler": "its middle levels are on times between the whole ones; those of dpm_2 are not",
    "KDPM2AncestralDiscreteScheduler": "its middle levels are on times between the whole ones",
    "PNDMScheduler": "its first steps are Runge-Kutta's; the nearest sampler is ipndm",
    "IPNDMScheduler": "its process has a schedule of angles; the nearest sampler is ipndm on the process ddpm",
    "DPMSolverSDEScheduler": "it draws its noise from a Brownian tree; the nearest sampler is dpmpp_sde",
    "LCMScheduler": "there is no sampler for consistency models",
    "TCDScheduler": "there is no sampler for consistency models",
    "ScoreSdeVeScheduler": "its process is not one of diffkit's",
}
"""Why some others cannot be."""

_OBSOLETE = {"tensor_format", "timestep_values"}
"""Settings of old configs that never changed a result."""


def read_scheduler(config: dict[str, Any], name: str, source: Path) -> tuple[SchedulerConfig, list[str]]:
    """Read a scheduler's config.

    Args:
        config: The content of its file.
        name: The scheduler's class in diffusers.
        source: The file, for messages.

    Returns:
        The settings, and what was ignored: settings of other schedulers, which diffusers carries along.

    Raises:
        RecipeError: If the scheduler or a setting cannot be expressed: names it.
    """
    if name not in KNOWN:
        reason = REFUSED.get(name, "there is no sampler like it")
        message = f"{reason}. Known: {', '.join(KNOWN)}.{did_you_mean(name, KNOWN)}"
        raise RecipeError(source, [Problem("_class_name", message, name)])
    cls = KNOWN[name]
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    if given.get("lambda_min_clipped") == float("-inf"):
        given["lambda_min_clipped"] = None
    if given.get("disable_corrector") == []:
        given["disable_corrector"] = ()
    others = {key for other in KNOWN.values() for key in other.model_fields} | _CARRIED | _OBSOLETE
    ignored = sorted(key for key in given if key not in cls.model_fields and key in others)
    try:
        settings = cls.model_validate({key: value for key, value in given.items() if key not in ignored})
    except ValidationError as error:
        raise RecipeError(source, problems_of(error)) from None
    return settings, [f"scheduler: {key} = {given[key]} is of other schedulers, and ignored" for key in ignored]


_CARRIED = {"skip_prk_steps", "original_inference_steps", "timestep_scaling", "noise_sampler_seed"}
"""Settings of schedulers that cannot be read, which diffusers carries along too."""
