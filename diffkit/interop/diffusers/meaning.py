"""What a U-Net's settings come to, however they are written: to compare two of them."""

from __future__ import annotations

from typing import Any

from diffkit.data.base import DataInfo
from diffkit.nn.attention import FullAttention, NoAttention
from diffkit.nn.base import Attention, Style
from diffkit.nn.network import Level
from diffkit.nn.norm import Group
from diffkit.nn.unet import UNet


def meaning(model: UNet, data: DataInfo) -> dict[str, Any]:
    """Return all that a network is made of, by the names of the settings that say it."""
    levels = model.resolve(data)
    middle = model.resolve_middle(levels[-1].channels)
    output = model.resolve_output(levels[0])
    found: dict[str, Any] = {
        "channels": model.channels,
        "embedding": model.embedding.model_dump(),
        "embedding_features": model.embedding_features or model.channels,
        "embedding_channels": model.embedding_channels or 4 * model.channels,
        "embedding_activation": (model.embedding_activation or model.activation).model_dump(),
        "conditions_join": model.conditions_join if model.class_conditional else None,
        "class_conditional": model.class_conditional,
        "activation": model.activation.model_dump(),
        "progressive_input": model.progressive_input.model_dump() if len(levels) > 1 else None,
        "progressive_output": model.progressive_output.model_dump() if len(levels) > 1 else None,
        "output_norm": _norm(output.style, levels[0].channels),
        "output_activation": output.style.activation.model_dump(),
        "middle": model.middle,
    }
    for number, level in enumerate(levels):
        found |= {f"levels[{number}].{name}": value for name, value in _level(level).items()}
        if number < len(levels) - 1:
            found[f"levels[{number}].downsample"] = level.downsample.model_dump()
        if number > 0:
            found[f"levels[{number}].upsample"] = level.upsample.model_dump()
    if model.middle:
        found |= {f"middle_level.{name}": value for name, value in _level(middle, both=False).items()}
    return found


def is_attention(attention: Attention | None) -> bool:
    """Return whether there is any."""
    return attention is not None and not isinstance(attention, NoAttention)


def _level(level: Level, *, both: bool = True) -> dict[str, Any]:
    attends = is_attention(level.attention)
    down = attends and (level.attention_down or not both)
    up = level.attention_up if attends and both else "none"
    return {
        "channels": level.channels,
        "blocks": level.blocks if both else None,
        "resnet": level.resnet.model_dump(),
        "norm": _norm(level.style, level.channels),
        "activation": level.style.activation.model_dump(),
        "attention_down": down,
        "attention_up": up,
        "attention": _attention(level) if down or up != "none" else None,
    }


def _attention(level: Level) -> Any:
    attention = level.attention
    assert attention is not None
    if not isinstance(attention, FullAttention):
        return attention.model_dump()
    style = level.style if attention.norm is None else Style(attention.norm, level.style.activation)
    heads = attention.count_heads(level.channels)
    return {"heads": heads, "skip_scale": round(attention.skip_scale, 12), "norm": _norm(style, level.channels)}


def _norm(style: Style, channels: int) -> Any:
    """Return the normalization of so many channels; of others too, if it has a least size of groups."""
    if isinstance(style.norm, Group):
        groups = style.norm.build(channels).num_groups
        return {"groups": groups, "min_group": style.norm.min_group, "eps": style.norm.eps}
    return style.norm.model_dump()
