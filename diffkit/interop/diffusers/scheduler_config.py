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


class Refused(ValueError):
    """A setting that cannot be expressed, with its name."""

    def __init__(self, key: str, message: str, value: Any) -> None:
        super().__init__(message)
        self.problem = Problem(key, message, value)


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


class Spaced(BetaConfig):
    """One that can space its times in several ways."""

    timestep_spacing: Steps = "linspace"
    steps_offset: int = Field(0, ge=0)


class Thresholding(SchedulerConfig):
    """A scheduler with a rule for the estimated images."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = Field(1.0, ge=1)


class DDPM(Spaced, Thresholding):
    """Ancestral sampling."""

    class_name: ClassVar[str] = "DDPMScheduler"
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large", "learned_range"] = "fixed_small"
    clip_sample: bool = True
    clip_sample_range: float = Field(1.0, gt=0)
    timestep_spacing: Steps = "leading"
    rescale_betas_zero_snr: bool = False


class DDIM(Spaced, Thresholding):
    """DDIM."""

    class_name: ClassVar[str] = "DDIMScheduler"
    clip_sample: bool = True
    clip_sample_range: float = Field(1.0, gt=0)
    set_alpha_to_one: bool = True
    timestep_spacing: Steps = "leading"
    rescale_betas_zero_snr: bool = False


class Sigmas(Spaced):
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


class EulerAncestral(Spaced):
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


class Solver(Thresholding):
    """An exponential integrator."""

    solver_order: int = Field(2, ge=1, le=3)
    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False
    use_flow_sigmas: Literal[False] | None = False
    flow_shift: float | None = 1.0
    use_dynamic_shifting: Literal[False] = False
    time_shift_type: str = "exponential"


class Multistep(Spaced, Solver):
    """A multistep scheduler of exponential integrators."""

    lower_order_final: bool = True


class DPMSolverMultistep(Multistep):
    """DPM-Solver++ of first and second order. Their third order is second order."""

    class_name: ClassVar[str] = "DPMSolverMultistepScheduler"
    solver_order: int = Field(2, ge=1, le=2)
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    euler_at_final: bool = False
    use_lu_lambdas: bool | None = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lambda_min_clipped: float | None = None
    variance_type: None = None
    rescale_betas_zero_snr: Literal[False] = False


class UniPCMultistep(Multistep):
    """UniPC. With bh1, theirs ends in NaN at the clean end."""

    class_name: ClassVar[str] = "UniPCMultistepScheduler"
    lower_order_final: Literal[True] = True
    predict_x0: Literal[True] = True
    solver_type: Literal["bh1", "bh2"] = "bh2"
    disable_corrector: tuple[()] = ()
    solver_p: None = None
    final_sigmas_type: Literal["zero", "sigma_min"] | None = "zero"
    rescale_betas_zero_snr: Literal[False] = False
    sigma_min: None = None
    sigma_max: None = None
    shift_terminal: None = None


class DEISMultistep(Multistep):
    """DEIS."""

    class_name: ClassVar[str] = "DEISMultistepScheduler"
    algorithm_type: Literal["deis"] = "deis"
    solver_type: Literal["logrho"] = "logrho"


class PNDM(Spaced):
    """PNDM. With other predictions, theirs averages outputs of several levels as if they were of one."""

    class_name: ClassVar[str] = "PNDMScheduler"
    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False
    prediction_type: Literal["epsilon"] = "epsilon"
    timestep_spacing: Steps = "leading"


class KDPM2(Sigmas):
    """DPM-Solver-2, with the exact middle."""

    class_name: ClassVar[str] = "KDPM2DiscreteScheduler"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"


class KDPM2Ancestral(KDPM2):
    """DPM-Solver-2 with ancestral noise."""

    class_name: ClassVar[str] = "KDPM2AncestralDiscreteScheduler"


class DPMSolverSinglestep(BetaConfig, Solver):
    """Single-step DPM-Solver++ over the walk's own levels. Its SDE solvers draw a step's noise several times."""

    class_name: ClassVar[str] = "DPMSolverSinglestepScheduler"
    algorithm_type: Literal["dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = False
    final_sigmas_type: Literal["zero"] = "zero"
    lambda_min_clipped: float | None = None
    variance_type: None = None


class LCM(BetaConfig, Thresholding):
    """Sampling of latent consistency models. Their own spacing and last alpha are never used."""

    class_name: ClassVar[str] = "LCMScheduler"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "scaled_linear"
    original_inference_steps: int = Field(50, ge=1)
    clip_sample: bool = False
    clip_sample_range: float = Field(1.0, gt=0)
    timestep_scaling: float = Field(10.0, gt=0)
    rescale_betas_zero_snr: bool = False
    timestep_spacing: Steps = "leading"
    steps_offset: int = Field(0, ge=0)
    set_alpha_to_one: bool = True


class TCD(BetaConfig):
    """Sampling of TCD. Of the rest, which it takes too, nothing is used."""

    class_name: ClassVar[str] = "TCDScheduler"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "scaled_linear"
    original_inference_steps: int = Field(50, ge=1)
    rescale_betas_zero_snr: bool = False
    clip_sample: bool = False
    clip_sample_range: float = Field(1.0, gt=0)
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    timestep_scaling: float = 10.0
    timestep_spacing: Steps = "leading"
    steps_offset: int = Field(0, ge=0)
    set_alpha_to_one: bool = True


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
        *(DDPM, DDIM, PNDM, Euler, EulerAncestral, Heun, LMS, KDPM2, KDPM2Ancestral),
        *(DPMSolverMultistep, DPMSolverSinglestep, UniPCMultistep, DEISMultistep, LCM, TCD),
        *(EDMEuler, EDMDPMSolverMultistep, FlowMatchEuler),
    )
}
"""All that can be read, by diffusers' names."""

REFUSED = {
    "DDIMInverseScheduler": "it goes from images to noise: diffkit inverts with another command",
    "IPNDMScheduler": "its first step, from pure noise, takes 0 for the image; the nearest sampler is ipndm",
    "DPMSolverSDEScheduler": "it draws its noise from a Brownian tree; the nearest sampler is dpmpp_sde",
    "CMStochasticIterativeScheduler": "its network needs scalings that are no prediction here; see consistency",
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


_CARRIED = {"noise_sampler_seed"}
"""Settings of schedulers that cannot be read, which diffusers carries along too."""
