"""UNet2DModels of K blocks: what diffusers can run of them, and the `[model]` table of a `k_unet`, both ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffkit.errors import Problem
from diffkit.interop.diffusers.tables import (
    head_channels,
    middle_attention,
    middle_attention_settings,
    resnet,
    shared_tables,
)
from diffkit.interop.diffusers.unet_config import UNetConfig, is_k
from diffkit.nn.attention import NoAttention
from diffkit.nn.k_unet import KUNet
from diffkit.nn.norm import Group
from diffkit.nn.resnet import TwoConvolutions

GROUP_SIZE = 32
"""The number of channels of a group in K blocks."""


def k_problems(config: UNetConfig) -> Iterator[Problem]:
    """Yield why K blocks, of which a config has some, cannot be expressed, or be run by diffusers at all."""
    channels = config.block_out_channels
    if reason := _cannot_run(config):
        yield Problem("up_block_types", f"diffusers cannot run {reason}", list(config.up_block_types))
    elif not all(map(is_k, (*config.down_block_types, *config.up_block_types))):
        message = "where one block is a K block, all others must be too, down and up: no recipe has a network of both"
        yield Problem("down_block_types", message, list(config.down_block_types))
    if few := [count for count in channels if count < GROUP_SIZE]:
        message = f"K blocks have groups of {GROUP_SIZE} channels, in diffusers too: {few[0]} channels are too few"
        yield Problem("block_out_channels", message, list(channels))
    least = 2**config.levels
    if config.levels > 1 and config.sample_size is not None and min(config.sample_size) < least:
        message = f"K blocks mirror the maps at their borders: {config.levels} levels need sides of at least {least}"
        yield Problem("sample_size", f"{message}, in diffusers too", config.sample_size)


def _cannot_run(config: UNetConfig) -> str | None:
    """Return which blocks' skips or channels don't fit each other; None if all do.

    A K block on the way down leaves no skip of its halved maps; one on the way up takes one skip less and brings the
    number of channels of the next level.
    """
    for level in range(1, config.levels):
        up, above = config.up(level), config.up(level - 1)
        if is_k(up) != is_k(config.down(level - 1)):
            return f"{up} below {config.down(level - 1)}, whose numbers of skips don't fit"
        if is_k(up) != is_k(above) and config.block_out_channels[level] != config.block_out_channels[level - 1]:
            return f"{above} behind {up}, where their levels differ in channels"
    return None


def k_model(config: UNetConfig) -> dict[str, Any]:
    """Return the `[model]` table."""
    tables = {
        "kind": "k_unet",
        "channels": list(config.block_out_channels),
        "blocks_per_level": config.layers_per_block,
        "group_size": GROUP_SIZE,
        "eps": config.norm_eps,
        "dropout": config.dropout,
        "middle": config.mid_block_type is not None,
        "resnet": resnet(config, config.mid_block_scale_factor),
        "attention": middle_attention(config) if config.add_attention else {"kind": "none"},
        "norm": {"kind": "group", "groups": config.norm_num_groups, "eps": config.norm_eps},
        **shared_tables(config),
    }
    if config.norm_num_groups is None:
        tables["norm"] = {"kind": "group", "groups": 32, "min_group": 4, "eps": config.norm_eps}
    return tables


def k_settings(model: KUNet) -> dict[str, Any]:
    """Return the settings of a config that come nearest to a network's, but for those that all networks share."""
    scale_shift = model.resnet.kind == "scale_shift"
    whole = isinstance(model.norm, Group) and model.norm.min_group is None
    return {
        "block_out_channels": model.channels,
        "layers_per_block": model.blocks_per_level,
        "down_block_types": ("KDownBlock2D",) * len(model.channels),
        "up_block_types": ("KUpBlock2D",) * len(model.channels),
        "mid_block_type": "UNetMidBlock2D" if model.middle else None,
        "add_attention": not isinstance(model.attention, NoAttention),
        "mid_block_scale_factor": 1 / model.resnet.skip_scale if isinstance(model.resnet, TwoConvolutions) else 1,
        "dropout": model.dropout,
        "attention_head_dim": head_channels([(model.channels[-1], model.attention)]),
        "norm_num_groups": model.norm.groups if isinstance(model.norm, Group) and whole else None,
        "resnet_time_scale_shift": "scale_shift" if scale_shift else "default",
        **middle_attention_settings(model.attention, model.norm, model.channels[-1], scale_shift=scale_shift),
    }
