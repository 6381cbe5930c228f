"""From diffusers' UNet2DModel to the `[model]` table of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffkit.data.base import DataInfo
from diffkit.errors import Problem, RecipeError
from diffkit.interop.diffusers.unet_config import UNetConfig

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
    """

    model: dict[str, Any]
    data: DataInfo
    says_variance: bool
    differences: tuple[str, ...]


def network_of(config: UNetConfig, source: Path) -> Network:
    """Return the network that a config describes.

    Raises:
        RecipeError: With every setting that cannot be expressed exactly.
    """
    if problems := [*_shape_problems(config)]:
        raise RecipeError(source, problems)
    if problems := [*_problems(config), *_skip_problems(config)]:
        raise RecipeError(source, problems)
    assert config.sample_size is not None  # a problem otherwise
    height, width = config.sample_size
    classes = tuple(map(str, range(config.num_class_embeds or 0)))
    return Network(
        model=_model(config),
        data=DataInfo(config.in_channels, height, width, classes),
        says_variance=config.out_channels == 2 * config.in_channels,
        differences=tuple(_differences(config)),
    )


def is_skip(block: str) -> bool:
    """Return whether a block is one of NCSN++'s, with the image beside the maps."""
    return "Skip" in block


def attends(block: str) -> bool:
    """Return whether a block has attention."""
    return block.startswith("Attn")


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
    if config.center_input_sample:
        refuse("center_input_sample", "no recipe maps its input to 2x - 1: only false can be expressed")
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        refuse(
            "out_channels",
            f"a network puts out as many channels as it takes (in_channels = {config.in_channels}), or twice as many "
            "where it says a variance",
        )
    if config.class_embed_type is not None:
        refuse("class_embed_type", "only null can be expressed, where classes have learned vectors (num_class_embeds)")
    if config.downsample_padding not in (0, 1):
        refuse("downsample_padding", "only 1 (on every side) and 0 (at the right and the bottom) can be expressed")
    for key, block in (("downsample_type", "AttnDownBlock2D"), ("upsample_type", "AttnUpBlock2D")):
        used = block in (config.down_block_types if key == "downsample_type" else config.up_block_types)
        if used and (getattr(config, key) or "conv") not in ("conv", "resnet"):
            refuse(key, "only 'conv' and 'resnet' can be expressed")
    found += _embedding_problems(config)
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
    message = (
        "only 'positional' and 'learned' can be expressed: 'fourier' takes the log of its time, and the output is "
        "divided by the time"
    )
    return [Problem("time_embedding_type", message, config.time_embedding_type)]


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
    if size is not None and (uneven := sorted(channels for channels in with_attention if channels % size)):
        message = f"{', '.join(map(str, uneven))} channels cannot be split into heads of so many: it must divide them"
        found.append(Problem("attention_head_dim", message, size))
    single = [c for c in config.block_out_channels if c == config.norm_num_groups]
    if single and config.resnet_time_scale_shift == "default":
        message = (
            f"groups of one channel, at the level of {single[0]} channels, take out again what the time adds: no "
            "recipe has such a network, which cannot see the time"
        )
        found.append(Problem("norm_num_groups", message, config.norm_num_groups))
    return found


def _skip_problems(config: UNetConfig) -> list[Problem]:
    """Return how Skip blocks stand where a recipe cannot have them, nor diffusers run most of them."""
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
        "embedding": _embedding(config),
        "resnet": _resnet(config),
        "attention": _attention(config),
        "norm": _norm(config),
        "activation": _activation(config),
        "class_conditional": config.num_class_embeds is not None,
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
    if config.time_embedding_dim is not None:
        model["embedding_channels"] = config.time_embedding_dim
    if model["activation"] != "silu":
        model["embedding_activation"] = model["output_activation"] = "silu"
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


def _embedding(config: UNetConfig) -> dict[str, Any]:
    if config.time_embedding_type == "learned":
        return {"kind": "table", "times": config.num_train_timesteps}
    order = "cos_sin" if config.flip_sin_to_cos else "sin_cos"
    if config.freq_shift in (0, 1):
        return {"kind": "sinusoidal", "order": order, "endpoint": config.freq_shift == 1}
    half = config.block_out_channels[0] // 2
    # frequencies 10000^(-i / (half - shift)), as those of another slowest one
    period = 10_000.0 ** (half / (half - config.freq_shift))
    return {"kind": "sinusoidal", "order": order, "endpoint": False, "max_period": period}


def _resnet(config: UNetConfig, divisor: float | None = None) -> dict[str, Any]:
    if divisor is None:
        divisor = 2**0.5 if is_skip(config.down(0)) else 1
    kind = "scale_shift" if config.resnet_time_scale_shift == "scale_shift" else "ddpm"
    return {"kind": kind, "dropout": config.dropout, "skip_scale": 1 / divisor}


def _attention(config: UNetConfig) -> dict[str, Any]:
    skip = is_skip(config.down(0))
    table: dict[str, Any] = {"kind": "self", "skip_scale": 1 / 2**0.5 if skip else 1.0, **_heads(config)}
    uneven = [
        channels
        for number, channels in enumerate(config.block_out_channels)
        if (attends(config.down(number)) or attends(config.up(number))) and _groups(channels) != 32
    ]
    if skip and uneven:  # whatever the block has, its attention has 32 groups
        table["norm"] = {"kind": "group", "groups": 32, "eps": config.norm_eps}
    return table


def _heads(config: UNetConfig) -> dict[str, Any]:
    return {"heads": 1} if config.attention_head_dim is None else {"head_channels": config.attention_head_dim}


def _norm(config: UNetConfig) -> dict[str, Any]:
    if is_skip(config.down(0)):
        return {"kind": "group", "groups": 32, "min_group": 4, "eps": config.norm_eps}
    return {"kind": "group", "groups": config.norm_num_groups, "eps": config.norm_eps}


def _activation(config: UNetConfig) -> str:
    return "silu" if config.act_fn == "swish" else config.act_fn


def _middle(config: UNetConfig, model: dict[str, Any]) -> dict[str, Any]:
    """Return what the middle does in its own way."""
    if config.mid_block_type is None:
        return {}
    channels = config.block_out_channels[-1]
    groups = config.groups(channels)
    middle: dict[str, Any] = {}
    resnet = _resnet(config, config.mid_block_scale_factor)
    if resnet != model["resnet"]:
        middle["resnet"] = resnet
    own = _groups(channels) if is_skip(config.down(0)) else config.norm_num_groups
    if groups != own:
        middle["norm"] = {"kind": "group", "groups": groups, "eps": config.norm_eps}
    if config.add_attention:
        attention = {"kind": "self", "skip_scale": 1 / config.mid_block_scale_factor, **_heads(config)}
        if config.attn_norm_num_groups is not None:
            if config.attn_norm_num_groups != groups:
                attention["norm"] = {"kind": "group", "groups": config.attn_norm_num_groups, "eps": config.norm_eps}
        elif config.resnet_time_scale_shift != "default":
            attention["norm"] = {"kind": "none"}
        if attention != model["attention"]:
            middle["attention"] = attention
    return middle


def _differences(config: UNetConfig) -> list[str]:
    found = []
    if config.time_embedding_type == "positional":
        order = "cosines before sines" if config.flip_sin_to_cos else "sines before cosines"
        found.append(f"time embedding: flip_sin_to_cos = {str(config.flip_sin_to_cos).lower()} is {order}")
        last = {0: "the slowest frequency is just above 1/10000", 1: "the slowest frequency is 1/10000"}
        other = f"the slowest frequency is that of max_period = {_embedding(config).get('max_period')}"
        found.append(f"time embedding: freq_shift = {config.freq_shift:g}: {last.get(int(config.freq_shift), other)}")
    padding = "every side" if config.downsample_padding else "the right and the bottom only"
    if any(map(_uses_padding, config.down_block_types[:-1])):
        found.append(f"downsampling: downsample_padding = {config.downsample_padding} pads at {padding}")
    if config.norm_eps != 1e-6:
        found.append(f"normalization: eps = {config.norm_eps:g}, where diffkit's default is 1e-06")
    if config.attention_head_dim is None:
        found.append("attention: attention_head_dim = null is one head")
    else:
        found.append(f"attention: attention_head_dim = {config.attention_head_dim} is the channels of a head")
    if config.resnet_time_scale_shift != "default" and config.attn_norm_num_groups is None and config.add_attention:
        found.append("attention: the one in the middle has no normalization, with resnet_time_scale_shift")
    if _activation(config) != "silu":
        found.append(f"activation: {config.act_fn}, but silu in the time embedding and before the output")
    if config.num_class_embeds is not None:
        found.append(
            f"classes: {config.num_class_embeds}, without a vector for no class, which is zero here, so there is no "
            "classifier-free guidance"
        )
    return found


def _uses_padding(block: str) -> bool:
    return block in ("DownBlock2D", "AttnDownBlock2D")
