"""From a recipe to the configs of a diffusers pipeline, checked by reading them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffkit.data.base import DataInfo
from diffkit.errors import Problem, RecipeError
from diffkit.interop.diffusers.export_scheduler import refused, scheduler_of
from diffkit.interop.diffusers.k_blocks import k_settings
from diffkit.interop.diffusers.meaning import is_attention, meaning
from diffkit.interop.diffusers.network import network_of
from diffkit.interop.diffusers.scheduler_config import SchedulerConfig
from diffkit.interop.diffusers.tables import head_channels, middle_attention_settings, shared_settings
from diffkit.interop.diffusers.unet_config import UNetConfig
from diffkit.nn.base import Model
from diffkit.nn.k_unet import KUNet
from diffkit.nn.network import Level
from diffkit.nn.norm import Group
from diffkit.nn.resnet import TwoConvolutions
from diffkit.nn.unet import UNet
from diffkit.pipeline import ports_of
from diffkit.recipe.tables import Recipe


@dataclass(frozen=True)
class Configs:
    """The configs of a pipeline: settings that differ from diffusers' defaults, and those that don't.

    The pipeline's name is None where none of diffusers samples rightly with the scheduler.
    """

    unet: UNetConfig
    scheduler: SchedulerConfig
    pipeline: str | None


def configs_of(recipe: Recipe, data: DataInfo) -> Configs:
    """Return the configs of a pipeline that is a recipe's model and sampling.

    Raises:
        RecipeError: With what diffusers cannot express.
    """
    scheduler, pipeline = scheduler_of(recipe)
    if pipeline == "PNDMPipeline" and data.height != data.width:  # which draws noise for squares only
        pipeline = None
    return Configs(unet_of(recipe, data), scheduler, pipeline)


def unet_of(recipe: Recipe, data: DataInfo) -> UNetConfig:
    """Return the config of a recipe's network.

    Raises:
        RecipeError: With what a UNet2DModel cannot express.
    """
    model = recipe.model
    if not isinstance(model, UNet | KUNet):
        raise refused(recipe, "model.kind", "only a 'unet' and a 'k_unet' can be a UNet2DModel", model.kind)
    ports = ports_of(recipe, data)
    if ports.in_channels != data.channels or ports.vector != data.vector or (ports.vector and model.class_conditional):
        message = "the network sees more than the noisy image, the time and a label, which no pipeline shows it"
        raise refused(recipe, "model", message)
    if not isinstance(model.norm, Group):
        raise refused(recipe, "model.norm", "a UNet2DModel has the normalization 'group' only", model.norm.kind)
    config = UNetConfig(
        sample_size=(data.height, data.width),
        in_channels=ports.in_channels,
        out_channels=ports.out_channels,
        **(_network(model, data) if isinstance(model, UNet) else k_settings(model)),
        **shared_settings(model, data, ports.vector),
    )
    if ports.vector not in (0, config.embedding_size):
        message = f"a UNet2DModel adds vectors as they are, and its embedding has {config.embedding_size} numbers"
        raise refused(recipe, "data", message, f"vectors of {ports.vector}")
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
