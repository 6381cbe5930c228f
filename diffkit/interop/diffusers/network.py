"""From diffusers' UNet2DModel to the `[model]` table of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffkit.data.base import DataInfo
from diffkit.errors import Problem, RecipeError
from diffkit.interop.diffusers.k_blocks import k_model, k_problems
from diffkit.interop.diffusers.tables import activation, embedding, heads, middle_attention, resnet, shared_tables
from diffkit.interop.diffusers.unet_config import UNetConfig, attends, is_k, is_padded, is_skip

FILTER = [1.0, 3.0, 3.0, 1.0]
"""The FIR filter of the Skip blocks."""

MOST = 64
"""Largest multiplier of a recipe."""


@dataclass(frozen=True)
class Network:
    """A network, in terms of diffkit.

    Attributes:
        model: The `[model]` table.
        data: What it knows of its images.
        says_variance: Whether it has further channels for a variance.
        differences: What means something else there, and how that was resolved.
        filled: What there is not, and what stands for it here.
    """

    model: dict[str, Any]
    data: DataInfo
    says_variance: bool
    differences: tuple[str, ...]
    filled: tuple[str, ...]


def network_of(config: UNetConfig, source: Path) -> Network:
    """Return the network that a config describes.

    Raises:
        RecipeError: With every setting that cannot be expressed exactly.
    """
    if problems := [*_shape_problems(config)]:
        raise RecipeError(source, problems)
    has_k = any(map(is_k, (*config.down_block_types, *config.up_block_types)))
    if problems := [*_problems(config), *(k_problems(config) if has_k else _skip_problems(config))]:
        raise RecipeError(source, problems)
    assert config.sample_size is not None  # a problem otherwise
    height, width = config.sample_size
    classes = tuple(map(str, range(config.classes)))
    vector = config.embedding_size if config.class_embed_type == "identity" else 0
    return Network(
        model=k_model(config) if has_k else _model(config),
        data=DataInfo(config.in_channels, height, width, classes, vector),
        says_variance=config.out_channels == 2 * config.in_channels,
        differences=tuple(_differences(config, has_k=has_k)),
        filled=tuple(_filled(config)),
    )


def _shape_problems(config: UNetConfig) -> list[Problem]:
    """Return that the arrays are not of one length, on which all else rests."""
    lengths = {
        name: len(getattr(config, name)) for name in ("block_out_channels", "down_block_types", "up_block_types")
    }
    if len(set(lengths.values())) == 1 and config.levels:
        return []
    said = ", ".join(f"{name} has {length}" for name, length in lengths.items())
    return [Problem("block_out_channels", f"each level needs one of each: {said}", list(config.block_out_channels))]


def _problems(config: UNetConfig) -> list[Problem]:
    found = []

    def refuse(key: str, message: str) -> None:
        value = getattr(config, key.partition("[")[0])
        found.append(Problem(key, message, value if value is not None else "null"))

    if config.sample_size is None:
        refuse("sample_size", "the size of the images is not said: give it, as sample_size=32 or sample_size=[32, 48]")
    elif any(side % 2 ** (config.levels - 1) for side in config.sample_size):
        factor = 2 ** (config.levels - 1)
        refuse("sample_size", f"{config.levels} levels need sides that {factor} divides, in diffusers too")
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        refuse(
            "out_channels",
            f"a network puts out as many channels as it takes (in_channels = {config.in_channels}), or twice as many "
            "where it says a variance",
        )
    if any(map(is_padded, config.down_block_types[:-1])) and config.downsample_padding not in (0, 1):
        refuse(
            "downsample_padding",
            "only 1 (on every side) and 0 (at the right and the bottom) halve the sides, in diffusers too",
        )
    for key, block in (("downsample_type", "AttnDownBlock2D"), ("upsample_type", "AttnUpBlock2D")):
        used = block in (config.down_block_types if key == "downsample_type" else config.up_block_types)
        if used and (getattr(config, key) or "conv") not in ("conv", "resnet"):
            refuse(key, "only 'conv' and 'resnet' can be expressed")
    found += [*_embedding_problems(config), *_class_problems(config)]
    found += _channel_problems(config)
    return found


def _embedding_problems(config: UNetConfig) -> list[Problem]:
    half = config.block_out_channels[0] // 2
    match config.time_embedding_type:
        case "positional":
            if half - config.freq_shift > 0:
                return []
            message = f"leaves no frequencies: it must be smaller than half of block_out_channels[0], {half}"
            return [Problem("freq_shift", message, config.freq_shift)]
        case "learned":
            if config.num_train_timesteps is not None:
                return []
            return [Problem("num_train_timesteps", "must be said, for learned times", "null")]
    return []


def _class_problems(config: UNetConfig) -> list[Problem]:
    """Return what is not said of classes whose number the network sees, or why it cannot see it."""
    if config.class_embed_type != "timestep":
        return []
    if not config.classes:
        message = "how many classes there are is not said: give it, as num_class_embeds=10"
        return [Problem("num_class_embeds", message, "null")]
    match config.time_embedding_type:
        case "fourier":
            return [Problem("class_embed_type", "class 0 has no log, which 'fourier' takes of it", "timestep")]
        case "learned" if config.classes >= (config.num_train_timesteps or 0):
            message = f"learned times must be more than the {config.classes} classes, and one for no class"
            return [Problem("num_train_timesteps", message, config.num_train_timesteps)]
    return []


def _channel_problems(config: UNetConfig) -> list[Problem]:
    """Return where diffusers' attention or normalization of some channels has no counterpart."""
    found = []
    size = config.attention_head_dim
    with_attention = {
        channels
        for level, channels in enumerate(config.block_out_channels)
        if attends(config.down(level)) or attends(config.up(level))
    }
    if config.mid_block_type and config.add_attention:
        with_attention.add(config.block_out_channels[-1])
    if size is not None and (small := sorted(channels for channels in with_attention if channels < size)):
        message = f"{', '.join(map(str, small))} channels have no room for heads of so many, in diffusers either"
        found.append(Problem("attention_head_dim", message, size))
    channels = config.block_out_channels
    if is_k(config.down(0)):  # whose own groups are of 32 channels
        channels = channels[-1:] if config.mid_block_type else ()
    single = [c for c in channels if c == config.norm_num_groups]
    if single and config.resnet_time_scale_shift == "default":
        message = (
            f"groups of one channel, at the level of {single[0]} channels, take out again what the time adds: no "
            "recipe has such a network, which cannot see the time"
        )
        found.append(Problem("norm_num_groups", message, config.norm_num_groups))
    return found


def _skip_problems(config: UNetConfig) -> list[Problem]:
    """Return how Skip blocks stand where a recipe cannot have them."""
    blocks = [*config.down_block_types, *config.up_block_types]
    if not any(map(is_skip, blocks)):
        if config.norm_num_groups is None:
            return [Problem("norm_num_groups", "the blocks need a number, but for Skip blocks", "null")]
        return []
    found = []
    if not all(map(is_skip, blocks)):
        message = "where one block is a Skip block, all others must be too, down and up"
        found.append(Problem("down_block_types", message, list(config.down_block_types)))
    if (config.in_channels, config.out_channels) != (3, 3) and config.levels > 1:
        message = f"Skip blocks have 3 channels in and out, not {config.in_channels} and {config.out_channels}"
        found.append(Problem("in_channels", message, config.in_channels))
    first = config.block_out_channels[0]
    if config.groups(first) != _groups(first):
        message = f"before the output, {_groups(first)} groups of {first} channels, as in the Skip blocks, or null"
        found.append(Problem("norm_num_groups", message, config.norm_num_groups))
    found += _attention_of_skip_problems(config)
    return found


def _attention_of_skip_problems(config: UNetConfig) -> list[Problem]:
    """Return where AttnSkipUpBlock2D has another number of groups than all other blocks of as many channels."""
    channels = config.block_out_channels
    for level in reversed(range(config.levels)):
        if config.up(level) != "AttnSkipUpBlock2D":
            continue
        below, above = channels[min(level + 1, config.levels - 1)], channels[max(level - 1, 0)]
        for number in range(config.layers_per_block + 1):
            x = below if number == 0 else channels[level]
            skip = above if number == config.layers_per_block else channels[level]
            if min(x + skip // 4, 32) != _groups(x + skip):
                message = (
                    f"its block of {x} + {skip} channels has {min(x + skip // 4, 32)} groups, where all others of "
                )
                message += f"so many channels have {_groups(x + skip)}: only 128 channels or more can be expressed"
                return [Problem("up_block_types", message, list(config.up_block_types))]
    return []


def _groups(channels: int) -> int:
    """Return the number of groups in Skip blocks."""
    return min(channels // 4, 32)


def _model(config: UNetConfig) -> dict[str, Any]:
    levels = [_level(config, number) for number in range(config.levels)]
    model: dict[str, Any] = {
        "kind": "unet",
        "channels": config.block_out_channels[0],
        "multipliers": [level.pop("multiplier") for level in levels],
        "blocks_per_level": config.layers_per_block,
        "attention_at": _attention_sides(config),
        "middle": config.mid_block_type is not None,
        "middle_attention": config.add_attention,
        "resnet": _resnet(config),
        "attention": _attention(config),
        "norm": _norm(config),
        **shared_tables(config),
    }
    for key in ("attention_down", "attention_up", "downsample", "upsample"):
        if said := [level[key] for level in levels if key in level]:
            model[key] = max(said, key=said.count)
    overrides = [
        {key: value for key, value in level.items() if key not in model or value != model[key]} for level in levels
    ]
    while overrides and not overrides[-1]:
        overrides.pop()
    if overrides:
        model["levels"] = overrides
    if is_skip(config.down(0)):
        model["progressive_input"] = model["progressive_output"] = {"kind": "skip", "filter": FILTER}
    if middle := _middle(config, model):
        model["middle_level"] = middle
    return model


def _level(config: UNetConfig, number: int) -> dict[str, Any]:
    """Return what a level says; `multiplier` always."""
    first, channels = config.block_out_channels[0], config.block_out_channels[number]
    down, up = config.down(number), config.up(number)
    level: dict[str, Any] = {"multiplier": 1}
    if channels % first == 0 and channels // first <= MOST:
        level["multiplier"] = channels // first
    else:
        level["channels"] = channels
    if attends(down) or attends(up):
        level["attention_down"] = attends(down)
        if config.attention_head_dim and channels % config.attention_head_dim:
            level["attention"] = {**_attention(config), **heads(config, channels)}
        level["attention_up"] = ("last" if is_skip(up) else "every") if attends(up) else "none"
    if number < config.levels - 1:
        level["downsample"] = _downsample(config, down)
    if number > 0:
        level["upsample"] = _upsample(config, up)
    return level


def _downsample(config: UNetConfig, block: str) -> dict[str, Any]:
    if is_skip(block):
        return {"kind": "resnet", "filter": FILTER, "project": True}
    if block == "ResnetDownsampleBlock2D" or (block == "AttnDownBlock2D" and config.downsample_type == "resnet"):
        return {"kind": "resnet"}
    return {"kind": "conv_asymmetric" if config.downsample_padding == 0 else "conv"}


def _upsample(config: UNetConfig, block: str) -> dict[str, Any]:
    if is_skip(block):
        return {"kind": "resnet", "filter": FILTER, "project": True}
    if block == "ResnetUpsampleBlock2D" or (block == "AttnUpBlock2D" and config.upsample_type == "resnet"):
        return {"kind": "resnet"}
    return {"kind": "nearest_conv"}


def _attention_sides(config: UNetConfig) -> list[int]:
    assert config.sample_size is not None
    longer = max(config.sample_size)
    found = [number for number in range(config.levels) if attends(config.down(number)) or attends(config.up(number))]
    return [longer >> number for number in found]


def _resnet(config: UNetConfig) -> dict[str, Any]:
    return resnet(config, 2**0.5 if is_skip(config.down(0)) else 1)


def _attention(config: UNetConfig) -> dict[str, Any]:
    skip = is_skip(config.down(0))
    table: dict[str, Any] = {"kind": "self", "skip_scale": 1 / 2**0.5 if skip else 1.0, **heads(config)}
    uneven = [
        channels
        for number, channels in enumerate(config.block_out_channels)
        if (attends(config.down(number)) or attends(config.up(number))) and _groups(channels) != 32
    ]
    if skip and uneven:  # whatever the block has, its attention has 32 groups
        table["norm"] = {"kind": "group", "groups": 32, "eps": config.norm_eps}
    return table


def _norm(config: UNetConfig) -> dict[str, Any]:
    if is_skip(config.down(0)):
        return {"kind": "group", "groups": 32, "min_group": 4, "eps": config.norm_eps}
    return {"kind": "group", "groups": config.norm_num_groups, "eps": config.norm_eps}


def _middle(config: UNetConfig, model: dict[str, Any]) -> dict[str, Any]:
    """Return what the middle does in its own way."""
    if config.mid_block_type is None:
        return {}
    channels = config.block_out_channels[-1]
    groups = config.groups(channels)
    middle: dict[str, Any] = {}
    block = resnet(config, config.mid_block_scale_factor)
    if block != model["resnet"]:
        middle["resnet"] = block
    own = _groups(channels) if is_skip(config.down(0)) else config.norm_num_groups
    if groups != own:
        middle["norm"] = {"kind": "group", "groups": groups, "eps": config.norm_eps}
    if config.add_attention and (attention := middle_attention(config)) != model["attention"]:
        middle["attention"] = attention
    return middle


def _differences(config: UNetConfig, *, has_k: bool) -> list[str]:
    found = []
    if config.center_input_sample:
        found.append("input: center_input_sample = true maps it to 2x - 1")
    found += _differences_of_time(config)
    padding = "every side" if config.downsample_padding else "the right and the bottom only"
    if any(map(is_padded, config.down_block_types[:-1])):
        found.append(f"downsampling: downsample_padding = {config.downsample_padding} pads at {padding}")
    if config.norm_eps != 1e-6:
        found.append(f"normalization: eps = {config.norm_eps:g}, where diffkit's default is 1e-06")
    if config.attention_head_dim is None:
        found.append("attention: attention_head_dim = null is one head")
    else:
        found.append(f"attention: attention_head_dim = {config.attention_head_dim} is the channels of a head")
    if config.resnet_time_scale_shift != "default" and config.attn_norm_num_groups is None and config.add_attention:
        found.append("attention: the one in the middle has no normalization, with resnet_time_scale_shift")
    if activation(config) != "silu":
        found.append(f"activation: {config.act_fn}, but silu in the time embedding and before the output")
    if has_k:
        found.append("time embedding: K blocks see it before the activation, the middle after it")
    if config.class_embed_type == "identity":
        found.append(
            f"classes: class_embed_type = 'identity' takes vectors of {config.embedding_size} numbers, and adds them "
            "as they are"
        )
    return found


def _differences_of_time(config: UNetConfig) -> list[str]:
    match config.time_embedding_type:
        case "fourier":
            return [
                "time embedding: 'fourier' sees the log of the time, sines before cosines",
                "output: with 'fourier' it is divided by the time",
            ]
        case "learned":
            return []
    order = "cosines before sines" if config.flip_sin_to_cos else "sines before cosines"
    slowest = {0.0: "just above 1/10000", 1.0: "1/10000"}
    other = f"that of max_period = {embedding(config).get('max_period')}"
    return [
        f"time embedding: flip_sin_to_cos = {str(config.flip_sin_to_cos).lower()} is {order}",
        f"time embedding: freq_shift = {config.freq_shift:g}: the slowest frequency is "
        + slowest.get(config.freq_shift, other),
    ]


def _filled(config: UNetConfig) -> list[str]:
    if not config.classes:
        return []
    if config.class_embed_type == "timestep":
        none = f"the network sees no class as the number {config.classes}, which it was not trained on"
    else:
        none = "without a vector for no class, which is zero here"
    return [f"classes: {config.classes}, {none}, so there is no classifier-free guidance"]
