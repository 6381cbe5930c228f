"""Parts of a recipe's `[model]` table that a UNet2DModel has whatever its blocks are, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from diffkit.data.base import DataInfo
from diffkit.interop.diffusers.unet_config import UNetConfig
from diffkit.nn.attention import FullAttention
from diffkit.nn.base import Attention, Norm
from diffkit.nn.embedding import LogFourier, Sinusoidal, Table
from diffkit.nn.k_unet import KUNet
from diffkit.nn.norm import Group
from diffkit.nn.unet import UNet


def shared_tables(config: UNetConfig) -> dict[str, Any]:
    """Return the settings of time, class, input and output."""
    tables: dict[str, Any] = {
        "embedding": embedding(config),
        "activation": activation(config),
        "class_conditional": bool(config.classes),
    }
    if config.time_embedding_type == "fourier":
        tables |= {"embedding_features": 2 * config.block_out_channels[0], "divide_by_time": True}
    if config.time_embedding_dim is not None:
        tables["embedding_channels"] = config.time_embedding_dim
    if config.class_embed_type == "timestep":
        tables["class_features"] = True
    if config.center_input_sample:
        tables["center_input"] = True
    if tables["activation"] != "silu":
        tables["embedding_activation"] = tables["output_activation"] = "silu"
    return tables


def embedding(config: UNetConfig) -> dict[str, Any]:
    """Return the features of the time."""
    match config.time_embedding_type:
        case "learned":
            return {"kind": "table", "times": config.num_train_timesteps}
        case "fourier":
            return {"kind": "log_fourier"}
    order = "cos_sin" if config.flip_sin_to_cos else "sin_cos"
    if config.freq_shift in (0, 1):
        return {"kind": "sinusoidal", "order": order, "endpoint": config.freq_shift == 1}
    half = config.block_out_channels[0] // 2
    # frequencies 10000^(-i / (half - shift)), as those of another slowest one
    period = 10_000.0 ** (half / (half - config.freq_shift))
    return {"kind": "sinusoidal", "order": order, "endpoint": False, "max_period": period}


def activation(config: UNetConfig) -> str:
    """Return the non-linearity of the blocks."""
    return "silu" if config.act_fn == "swish" else config.act_fn


def resnet(config: UNetConfig, divisor: float) -> dict[str, Any]:
    """Return the residual block whose output is divided by a number."""
    kind = "scale_shift" if config.resnet_time_scale_shift == "scale_shift" else "ddpm"
    return {"kind": kind, "dropout": config.dropout, "skip_scale": 1 / divisor}


def heads(config: UNetConfig, channels: int | None = None) -> dict[str, Any]:
    """Return how attention is split: into as many whole heads as there is room for.

    Args:
        config: The config.
        channels: Number of channels of the maps; by default one that the heads divide.
    """
    size = config.attention_head_dim
    if size is None:
        return {"heads": 1}
    if channels is None or channels % size == 0:
        return {"head_channels": size}
    return {"head_channels": size, "inner_channels": channels - channels % size}


def middle_attention(config: UNetConfig) -> dict[str, Any]:
    """Return the attention in the middle, with a normalization where it has one of its own, or none."""
    channels = config.block_out_channels[-1]
    table = {"kind": "self", "skip_scale": 1 / config.mid_block_scale_factor, **heads(config, channels)}
    if config.attn_norm_num_groups is not None:
        if config.attn_norm_num_groups != config.groups(channels):
            table["norm"] = {"kind": "group", "groups": config.attn_norm_num_groups, "eps": config.norm_eps}
    elif config.resnet_time_scale_shift != "default":
        table["norm"] = {"kind": "none"}
    return table


def shared_settings(model: UNet | KUNet, data: DataInfo, vector: int) -> dict[str, Any]:
    """Return the settings of a config for what `shared_tables` reads from it, as near as they come."""
    settings: dict[str, Any] = {
        "center_input_sample": model.center_input,
        "act_fn": model.activation.kind,
        "norm_eps": model.norm.eps if isinstance(model.norm, Group) else 1e-5,
        "num_class_embeds": len(data.classes) + 1 if model.class_conditional else None,
        "time_embedding_dim": model.embedding_channels,
    }
    if model.class_features:
        settings["class_embed_type"] = "timestep"
    elif vector:
        settings["class_embed_type"] = "identity"
    match model.embedding:
        case Table():
            settings |= {"time_embedding_type": "learned", "num_train_timesteps": model.embedding.times}
        case LogFourier():
            settings["time_embedding_type"] = "fourier"
        case Sinusoidal():
            flipped = model.embedding.order == "cos_sin"
            settings |= {"flip_sin_to_cos": flipped, "freq_shift": 1 if model.embedding.endpoint else 0}
    return settings


def middle_attention_settings(
    attention: Attention | None, norm: Norm, channels: int, *, scale_shift: bool
) -> dict[str, Any]:
    """Return the setting of a config for the normalization of the middle's attention, as near as it comes."""
    own = attention.norm if isinstance(attention, FullAttention) else None
    if own is None and scale_shift:  # where null is none at all
        own = norm
    groups = own.build(channels).num_groups if isinstance(own, Group) else None
    return {"attn_norm_num_groups": groups}


def head_channels(attentions: Iterable[tuple[int, Attention | None]]) -> int | None:
    """Return the channels of a head, null for as many as the level has.

    Args:
        attentions: Each with the number of channels of its maps.
    """
    sizes = {
        (channels, (attention.inner_channels or channels) // attention.count_heads(channels))
        for channels, attention in attentions
        if isinstance(attention, FullAttention)
    }
    return None if all(channels == size for channels, size in sizes) else min(sizes)[1]
