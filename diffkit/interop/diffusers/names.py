"""The names of a UNet2DModel's tensors, in diffusers and in diffkit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from diffkit.errors import CheckpointError, UserError
from diffkit.interop.diffusers.unet_config import UNetConfig, attends, is_k, is_skip

_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "embed": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "shortcut": "conv_shortcut",
}
_K_RESNET = {
    "norm1.embed": "norm1.linear",
    "conv1": "conv1",
    "norm2.embed": "norm2.linear",
    "conv2": "conv2",
    "shortcut": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "qkv": ("to_q", "to_k", "to_v"), "out": "to_out.0"}

_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Layers of attention as diffusers called them until 0.17."""


class Pair(NamedTuple):
    """A layer: its name in diffkit, and in diffusers those of the layers that it is made of, one below the other."""

    ours: str
    theirs: tuple[str, ...]


def layers(config: UNetConfig) -> Iterator[Pair]:
    """Yield every layer with weights and biases that a network of this config may have."""
    yield Pair("conv_in", ("conv_in",))
    yield Pair("time_mlp.0", ("time_embedding.linear_1",))
    yield Pair("time_mlp.2", ("time_embedding.linear_2",))
    if config.time_embedding_type == "learned":
        yield Pair("time_features", ("time_proj",))
    if config.class_embed_type == "timestep":
        yield Pair("class_embedding.0", ("class_embedding.linear_1",))
        yield Pair("class_embedding.2", ("class_embedding.linear_2",))
    yield from _k_layers(config) if is_k(config.down(0)) else _unet_layers(config)


def _k_layers(config: UNetConfig) -> Iterator[Pair]:
    for number in range(config.levels):
        for way in ("down", "up"):
            for block in range(config.layers_per_block):
                yield from _resnet(
                    f"{way}.{number}.blocks.{block}", f"{way}_blocks.{number}.resnets.{block}", _K_RESNET
                )
    for number in (0, 1):
        yield from _resnet(f"middle.{number}", f"mid_block.resnets.{number}")
    yield from _attention("middle_attention", "mid_block.attentions.0")
    yield Pair("norm_out", ("conv_norm_out",))
    yield Pair("conv_out", ("conv_out",))


def _unet_layers(config: UNetConfig) -> Iterator[Pair]:
    last = config.levels - 1
    for level in range(config.levels):
        ours, theirs, block = f"down.{level}", f"down_blocks.{level}", config.down(level)
        yield from _blocks(ours, theirs, config.layers_per_block, attends(block))
        if level < last:
            if is_skip(block):
                yield from _resnet(f"{ours}.downsample", f"{theirs}.resnet_down")
                yield Pair(f"{ours}.image_in.conv", (f"{theirs}.skip_conv",))
            elif block == "ResnetDownsampleBlock2D" or (attends(block) and config.downsample_type == "resnet"):
                yield from _resnet(f"{ours}.downsample", f"{theirs}.downsamplers.0")
            else:
                place = 0 if config.downsample_padding else 1  # behind a layer that pads
                yield Pair(f"{ours}.downsample.layers.{place}", (f"{theirs}.downsamplers.0.conv",))
    for number in (0, 1):
        yield from _resnet(f"middle.{number}.resnet", f"mid_block.resnets.{number}")
    yield from _attention("middle.0.attention", "mid_block.attentions.0")
    for number in range(config.levels):
        level = last - number
        ours, theirs, block = f"up.{number}", f"up_blocks.{number}", config.up(level)
        yield from _blocks(ours, theirs, config.layers_per_block + 1, attends(block) and not is_skip(block))
        if attends(block) and is_skip(block):
            yield from _attention(f"{ours}.blocks.{config.layers_per_block}.attention", f"{theirs}.attentions.0")
        if level > 0:
            if is_skip(block):
                yield from _resnet(f"{ours}.upsample", f"{theirs}.resnet_up")
                yield Pair(f"{ours}.output.norm", (f"{theirs}.skip_norm",))
                yield Pair(f"{ours}.output.conv", (f"{theirs}.skip_conv",))
            elif block == "ResnetUpsampleBlock2D" or (attends(block) and config.upsample_type == "resnet"):
                yield from _resnet(f"{ours}.upsample", f"{theirs}.upsamplers.0")
            else:
                yield Pair(f"{ours}.upsample.layers.1", (f"{theirs}.upsamplers.0.conv",))
    yield Pair(f"up.{last}.output.norm", ("conv_norm_out",))
    yield Pair(f"up.{last}.output.conv", ("conv_out",))


def _blocks(ours: str, theirs: str, count: int, attention: bool) -> Iterator[Pair]:
    for number in range(count):
        yield from _resnet(f"{ours}.blocks.{number}.resnet", f"{theirs}.resnets.{number}")
        if attention:
            yield from _attention(f"{ours}.blocks.{number}.attention", f"{theirs}.attentions.{number}")


def _resnet(ours: str, theirs: str, parts: Mapping[str, str] = _RESNET) -> Iterator[Pair]:
    for mine, its in parts.items():
        yield Pair(f"{ours}.{mine}", (f"{theirs}.{its}",))


def _attention(ours: str, theirs: str) -> Iterator[Pair]:
    for mine, its in _ATTENTION.items():
        parts = (its,) if isinstance(its, str) else its
        yield Pair(f"{ours}.{mine}", tuple(f"{theirs}.{part}" for part in parts))


def to_ours(tensors: Mapping[str, Tensor], config: UNetConfig, source: Path) -> dict[str, Tensor]:
    """Return diffusers' tensors by diffkit's names, in float32.

    Raises:
        CheckpointError: If there are others than the config says.
    """
    left = {_new_name(name): tensor for name, tensor in tensors.items()}
    found: dict[str, Tensor] = {}
    for ours, theirs in layers(config):
        for part in ("weight", "bias"):
            names = [f"{name}.{part}" for name in theirs]
            if all(name in left for name in names):
                parts = [left.pop(name).float() for name in names]
                found[f"{ours}.{part}"] = parts[0] if len(parts) == 1 else torch.cat(parts)
    if config.time_embedding_type == "fourier" and "time_proj.weight" in left:
        found["time_features.frequencies"] = left.pop("time_proj.weight").float()
        left.pop("time_proj.W", None)  # the same once more, in old files
    if _has_table(config) and "class_embedding.weight" in left:
        classes = left.pop("class_embedding.weight").float()
        found["class_embedding.weight"] = torch.cat((classes, torch.zeros(1, classes.shape[1])))
    if config.class_embed_type == "identity":
        found["vector_embedding.weight"] = torch.eye(config.embedding_size)
    if left:
        named = ", ".join(sorted(left)[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        raise CheckpointError(f"{source}: the config has no place for these weights: {named}")
    return found


def to_theirs(tensors: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """Return diffkit's tensors by diffusers' names. Of the classes, as many as the config has.

    Raises:
        UserError: If vectors are not added as they are, where the config says so.
        ValueError: If the config has no place for one.
    """
    left = dict(tensors)
    found: dict[str, Tensor] = {}
    for ours, theirs in layers(config):
        for part in ("weight", "bias"):
            if (name := f"{ours}.{part}") in left:
                for its, piece in zip(theirs, left.pop(name).chunk(len(theirs)), strict=True):
                    found[f"{its}.{part}"] = piece
    if config.time_embedding_type == "fourier":
        found["time_proj.weight"] = left.pop("time_features.frequencies")
    if _has_table(config):
        found["class_embedding.weight"] = left.pop("class_embedding.weight")[: config.num_class_embeds]
    if config.class_embed_type == "identity":
        embedding = left.pop("vector_embedding.weight")
        if not torch.equal(embedding, torch.eye(config.embedding_size, dtype=embedding.dtype)):
            raise UserError(
                "vector_embedding.weight: a UNet2DModel adds vectors to the embedding of the time as they are, and "
                "this network has learned a linear map of them"
            )
    if left:
        raise ValueError(f"no place for {', '.join(left)}")
    return found


def _has_table(config: UNetConfig) -> bool:
    """Return whether classes have learned vectors."""
    return config.class_embed_type is None and config.num_class_embeds is not None


def _new_name(name: str) -> str:
    head, _, part = name.rpartition(".")
    before, _, layer = head.rpartition(".")
    if ".attentions." in name and layer in _OLD_NAMES:
        return f"{before}.{_OLD_NAMES[layer]}.{part}"
    return name
