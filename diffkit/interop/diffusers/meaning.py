"""What a U-Net's settings come to, however they are written: to compare two of them."""

from __future__ import annotations

from typing import Any

from diffkit.data.base import DataInfo
from diffkit.nn.attention import FullAttention, NoAttention
from diffkit.nn.base import Attention, Style
from diffkit.nn.embedding import LogFourier
from diffkit.nn.k_unet import KUNet
from diffkit.nn.network import Level
from diffkit.nn.norm import Group
from diffkit.nn.unet import UNet


def meaning(model: UNet | KUNet, data: DataInfo) -> dict[str, Any]:
    """Return all that a network is made of, by the names of the settings that say it."""
    special = _unet(model, data) if isinstance(model, UNet) else _k_unet(model)
    first = model.channels if isinstance(model, UNet) else model.channels[0]
    size = model.embedding_channels or 4 * first
    return {
        "kind": model.kind,
        "center_input": model.center_input,
        "divide_by_time": model.divide_by_time,
        "embedding": model.embedding.model_dump(exclude={"scale"} if isinstance(model.embedding, LogFourier) else None),
        "embedding_features": model.embedding_features or first,
        "embedding_channels": size,
        "embedding_activation": (model.embedding_activation or model.activation).model_dump(),
        "class_conditional": model.class_conditional,
        "class_features": model.class_features,
        "activation": model.activation.model_dump(),
        "output_activation": (model.output_activation or model.activation).model_dump(),
        "middle": model.middle,
        **special,
    }


def _unet(model: UNet, data: DataInfo) -> dict[str, Any]:
    levels = model.resolve(data)
    middle = model.resolve_middle(levels[-1].channels)
    output = model.resolve_output(levels[0])
    found: dict[str, Any] = {
        "channels": model.channels,
        "conditions_join": model.conditions_join if model.class_conditional or data.vector else None,
        "progressive_input": model.progressive_input.model_dump() if len(levels) > 1 else None,
        "progressive_output": model.progressive_output.model_dump() if len(levels) > 1 else None,
        "output_norm": _norm(output.style, levels[0].channels),
        "output_activation": output.style.activation.model_dump(),
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


def _k_unet(model: KUNet) -> dict[str, Any]:
    first, last = model.channels[0], model.channels[-1]
    style = Style(model.norm, model.activation)
    found: dict[str, Any] = {
        "channels": model.channels,
        "blocks_per_level": model.blocks_per_level,
        "group_size": model.group_size,
        "eps": model.eps,
        "dropout": model.dropout,
        "norm": _norm(style, first),
    }
    if len(model.channels) > 1:
        found |= {"downsample": model.downsample.model_dump(), "upsample": model.upsample.model_dump()}
    if model.middle:
        attends = is_attention(model.attention)
        found |= {
            "norm": (_norm(style, first), _norm(style, last)),
            "resnet": model.resnet.model_dump(),
            "attention": _attention(model.attention, style, last) if attends else None,
        }
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
        "attention": _attention(level.attention, level.style, level.channels) if down or up != "none" else None,
    }


def _attention(attention: Attention | None, style: Style, channels: int) -> Any:
    assert attention is not None
    if not isinstance(attention, FullAttention):
        return attention.model_dump()
    style = style if attention.norm is None else Style(attention.norm, style.activation)
    return {
        "heads": attention.count_heads(channels),
        "inner_channels": attention.inner_channels or channels,
        "skip_scale": round(attention.skip_scale, 12),
        "norm": _norm(style, channels),
    }


def _norm(style: Style, channels: int) -> Any:
    """Return the normalization of so many channels; of others too, if it has a least size of groups."""
    if isinstance(style.norm, Group):
        groups = style.norm.build(channels).num_groups
        return {"groups": groups, "min_group": style.norm.min_group, "eps": style.norm.eps}
    return style.norm.model_dump()
