"""From a recipe to the configs of a diffusers pipeline, checked by reading them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffkit.data.base import DataInfo
from diffkit.diffusion.ddpm_process import DdpmProcess
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.process import Process
from diffkit.diffusion.samplers.ddim import Ddim
from diffkit.diffusion.samplers.ddpm import Ddpm
from diffkit.diffusion.stride_spacings import Leading, Linspace, Trailing
from diffkit.diffusion.x0_rule import BoundedX0, Clip, DynamicThreshold, NoRule
from diffkit.errors import Problem, RecipeError
from diffkit.interop.diffusers.k_blocks import k_settings
from diffkit.interop.diffusers.meaning import is_attention, meaning
from diffkit.interop.diffusers.network import network_of
from diffkit.interop.diffusers.scheduler import sampling_of
from diffkit.interop.diffusers.scheduler_config import DDIM, DDPM, SchedulerConfig
from diffkit.interop.diffusers.tables import head_channels, middle_attention_settings, shared_settings
from diffkit.interop.diffusers.unet_config import UNetConfig
from diffkit.nn.base import Model
from diffkit.nn.k_unet import KUNet
from diffkit.nn.network import Level
from diffkit.nn.norm import Group
from diffkit.nn.resnet import TwoConvolutions
from diffkit.nn.unet import UNet
from diffkit.pipeline import ports_of
from diffkit.recipe.tables import Recipe, Sample
from diffkit.schedules.cosine import Cosine
from diffkit.schedules.ramps import Linear, Quadratic, ScaledLinear, Sigmoid

_WORDS = {"noise": "epsilon", "data": "sample", "velocity": "v_prediction"}


@dataclass(frozen=True)
class Configs:
    """The configs of a pipeline: settings that differ from diffusers' defaults, and those that don't."""

    unet: UNetConfig
    scheduler: SchedulerConfig
    pipeline: str


def configs_of(recipe: Recipe, data: DataInfo) -> Configs:
    """Return the configs of a pipeline that is a recipe's model and sampling.

    Raises:
        RecipeError: With what diffusers cannot express.
    """
    scheduler, pipeline = scheduler_of(recipe)
    return Configs(unet_of(recipe, data), scheduler, pipeline)


def unet_of(recipe: Recipe, data: DataInfo) -> UNetConfig:
    """Return the config of a recipe's network.

    Raises:
        RecipeError: With what a UNet2DModel cannot express.
    """
    model = recipe.model
    if not isinstance(model, UNet | KUNet):
        raise _refused(recipe, "model.kind", "only a 'unet' and a 'k_unet' can be a UNet2DModel", model.kind)
    ports = ports_of(recipe, data)
    if ports.in_channels != data.channels or ports.vector != data.vector or (ports.vector and model.class_conditional):
        message = "the network sees more than the noisy image, the time and a label, which no pipeline shows it"
        raise _refused(recipe, "model", message)
    if not isinstance(model.norm, Group):
        raise _refused(recipe, "model.norm", "a UNet2DModel has the normalization 'group' only", model.norm.kind)
    config = UNetConfig(
        sample_size=(data.height, data.width),
        in_channels=ports.in_channels,
        out_channels=ports.out_channels,
        **(_network(model, data) if isinstance(model, UNet) else k_settings(model)),
        **shared_settings(model, data, ports.vector),
    )
    if ports.vector not in (0, config.embedding_size):
        message = f"a UNet2DModel adds vectors as they are, and its embedding has {config.embedding_size} numbers"
        raise _refused(recipe, "data", message, f"vectors of {ports.vector}")
    back = network_of(config, Path(f"{recipe.name}, as diffusers would read it"))
    read = Model.choose(back.model)
    assert isinstance(read, UNet | KUNet)
    found = meaning(read, back.data)
    wanted = meaning(model, data)
    problems = [
        Problem(f"model.{name}", f"a UNet2DModel of this kind can only have {found.get(name)}", str(value))
        for name, value in wanted.items()
        if value != found.get(name)
    ]
    if problems:
        raise RecipeError(recipe.name, problems)
    return config


def scheduler_of(recipe: Recipe) -> tuple[SchedulerConfig, str]:
    """Return the config of what a recipe samples with, and the pipeline that goes with it.

    Raises:
        RecipeError: With what the pipelines cannot express.
    """
    sample, objective, process = recipe.sample, recipe.objective, recipe.process
    if not isinstance(process, DdpmProcess):
        raise _refused(
            recipe, "process.kind", "DDPMPipeline and DDIMPipeline have the process 'ddpm' only", process.kind
        )
    if sample.guidance.kind != "cfg" or sample.guidance.weight != 1:
        raise _refused(
            recipe, "sample.guidance", "these pipelines have no guidance: only weight = 1", sample.guidance.kind
        )
    if objective.prediction.kind not in _WORDS:
        message = f"diffusers has no such prediction: only {', '.join(_WORDS)}"
        raise _refused(recipe, "objective.prediction", message, objective.prediction.kind)
    settings: dict[str, Any] = {
        **_betas(recipe, process),
        **_rule(recipe),
        **_spacing(recipe),
        "prediction_type": _WORDS[objective.prediction.kind],
        "rescale_betas_zero_snr": process.zero_terminal_snr,
    }
    match sample.sampler:
        case Ddpm():
            if objective.variance.kind == "learned":
                message = (
                    "their 'learned' is the variance, and ours its log: only fixed_small, fixed_large, learned_range"
                )
                raise _refused(recipe, "objective.variance", message, "learned")
            config: SchedulerConfig = DDPM(**{**settings, "variance_type": objective.variance.kind})
            pipeline = "DDPMPipeline"
        case Ddim(eta=0):
            if objective.variance.learned:
                message = "a DDIMScheduler takes no network that says a variance: sample with 'ddpm'"
                raise _refused(recipe, "sample.sampler", message, "ddim")
            if isinstance(sample.x0_rule, BoundedX0) and not sample.x0_rule.keeps_noise:
                message = (
                    "DDIMPipeline leaves the noise as it was where it clips, unless each call says "
                    "use_clipped_model_output=True: set x0_rule.keeps_noise = true, or x0_rule = none"
                )
                raise _refused(recipe, "sample.x0_rule.keeps_noise", message, False)
            config = DDIM(set_alpha_to_one=sample.spacing.end == "clean", **settings)
            pipeline = "DDIMPipeline"
        case other:
            message = (
                "the pipelines that need no code of their own have ddpm, and ddim with eta = 0: choose one of them"
            )
            raise _refused(recipe, "sample.sampler", message, other.kind)
    _check_scheduler(recipe, config)
    return config, pipeline


def _check_scheduler(recipe: Recipe, config: SchedulerConfig) -> None:
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
    problems = [Problem(key, "diffusers would sample otherwise", str(mine)) for key, mine, its in pairs if mine != its]
    if problems:
        raise RecipeError(recipe.name, problems)


def _walk(process: Process, sample: Sample) -> Any:
    levels = sample.spacing.levels(process, sample.steps)
    return [(level.time, level.alpha, level.sigma) for level in levels[:-1]], levels[-1].sigma, levels.start_scale


def _betas(recipe: Recipe, process: DdpmProcess) -> dict[str, Any]:
    schedule = process.schedule
    match schedule:
        case Linear(scale_to_steps=False):
            name = "linear"
        case ScaledLinear() | Quadratic():
            name = "scaled_linear"
        case Sigmoid(width=6.0) if isinstance(recipe.sample.sampler, Ddpm):
            name = "sigmoid"
        case Cosine(offset=0.008, max_beta=0.999):
            return {"num_train_timesteps": process.steps, "beta_schedule": "squaredcos_cap_v2"}
        case _:
            message = "only linear, scaled_linear, quadratic, cosine as it is by default, and sigmoid for sampler ddpm"
            raise _refused(recipe, "process.schedule", message, str(schedule))
    ends = {"beta_start": schedule.start, "beta_end": schedule.end}
    return {"num_train_timesteps": process.steps, "beta_schedule": name, **ends}


def _rule(recipe: Recipe) -> dict[str, Any]:
    rule = recipe.sample.x0_rule
    match rule:
        case NoRule():
            return {"clip_sample": False}
        case Clip() if rule.low == -rule.high:
            return {"clip_sample": True, "clip_sample_range": rule.high}
        case DynamicThreshold(largest=float()):
            limits = {"dynamic_thresholding_ratio": rule.quantile, "sample_max_value": rule.largest}
            return {"clip_sample": False, "thresholding": True, **limits}
    raise _refused(
        recipe, "sample.x0_rule", "only none, clip to [-a, a], and dynamic_threshold with a largest range", str(rule)
    )


def _spacing(recipe: Recipe) -> dict[str, Any]:
    spacing = recipe.sample.spacing
    match spacing:
        case Leading():
            return {"timestep_spacing": "leading", "steps_offset": spacing.offset}
        case Trailing() | Linspace():
            return {"timestep_spacing": spacing.kind}
    raise _refused(recipe, "sample.spacing", "only leading, trailing and linspace", spacing.kind)


def _network(model: UNet, data: DataInfo) -> dict[str, Any]:
    """Return the settings that come nearest to a network's; whether they are the same is for the caller to find out."""
    levels = model.resolve(data)
    middle = model.resolve_middle(levels[-1].channels)
    skip = model.progressive_input.kind == "skip"
    norm, middle_norm = model.norm, middle.style.norm
    groups = norm.groups if isinstance(norm, Group) else None
    scale_shift = model.resnet.kind == "scale_shift"
    if skip:
        groups = None
    elif isinstance(middle_norm, Group):
        groups = middle_norm.groups
    return {
        "block_out_channels": tuple(level.channels for level in levels),
        "layers_per_block": levels[0].blocks,
        "down_block_types": tuple(_down(level, skip=skip, last=level is levels[-1]) for level in levels),
        "up_block_types": tuple(_up(level, skip=skip, last=level is levels[0]) for level in reversed(levels)),
        "mid_block_type": "UNetMidBlock2D" if model.middle else None,
        "add_attention": is_attention(middle.attention),
        "mid_block_scale_factor": 1 / middle.resnet.skip_scale if isinstance(middle.resnet, TwoConvolutions) else 1,
        "downsample_padding": 0 if any(level.downsample.kind == "conv_asymmetric" for level in levels[:-1]) else 1,
        "downsample_type": _kind_with_attention(
            [(level.downsample.kind, level.attention_down and is_attention(level.attention)) for level in levels[:-1]]
        ),
        "upsample_type": _kind_with_attention(
            [
                (level.upsample.kind, level.attention_up != "none" and is_attention(level.attention))
                for level in levels[1:]
            ]
        ),
        "dropout": model.resnet.dropout if isinstance(model.resnet, TwoConvolutions) else 0.0,
        "attention_head_dim": head_channels((level.channels, level.attention) for level in (*levels, middle)),
        "norm_num_groups": groups,
        "resnet_time_scale_shift": "scale_shift" if scale_shift else "default",
        **middle_attention_settings(middle.attention, middle_norm, middle.channels, scale_shift=scale_shift),
    }


def _down(level: Level, *, skip: bool, last: bool) -> str:
    attends = is_attention(level.attention) and level.attention_down
    if skip:
        return "AttnSkipDownBlock2D" if attends else "SkipDownBlock2D"
    if attends:
        return "AttnDownBlock2D"
    return "ResnetDownsampleBlock2D" if level.downsample.kind == "resnet" and not last else "DownBlock2D"


def _up(level: Level, *, skip: bool, last: bool) -> str:
    attends = is_attention(level.attention) and level.attention_up != "none"
    if skip:
        return "AttnSkipUpBlock2D" if attends else "SkipUpBlock2D"
    if attends:
        return "AttnUpBlock2D"
    return "ResnetUpsampleBlock2D" if level.upsample.kind == "resnet" and not last else "UpBlock2D"


def _kind_with_attention(kinds: Sequence[tuple[str, bool]]) -> str:
    return "resnet" if any(kind == "resnet" and attends for kind, attends in kinds) else "conv"


def _refused(recipe: Recipe, key: str, message: str, value: Any = Problem.MISSING) -> RecipeError:
    return RecipeError(recipe.name, [Problem(key, message, value)])
