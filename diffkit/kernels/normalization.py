"""Group normalization and SiLU of maps on processors, in one pass and with the channels last."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from diffkit.kernels.library import kernels
from diffkit.kernels.tensors import address, channels_last, computes_here


class Maps(ctypes.Structure):
    """Numbers of images, places, channels and groups, as the library takes them."""

    _fields_ = [(name, ctypes.c_long) for name in ("images", "places", "channels", "groups")]


def applies(x: Tensor, groups: int) -> bool:
    """Return whether `group_norm` can normalize maps ``[N, C, H, W]``."""
    if not computes_here(x):
        return False
    library = kernels().library
    return library is not None and bool(library.group_norm_takes(ctypes.c_long(x.shape[1]), ctypes.c_long(groups)))


@torch.library.custom_op("diffkit::group_norm", mutates_args=(), device_types="cpu")
def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return act(norm(x) weight + bias), with the identity or SiLU for act.

    Float32 on a processor, where `applies` says so. Wu & He 2018, "Group Normalization".

    Args:
        x: Maps ``[N, C, H, W]``.
        weight: Of each image and channel, ``[N, C]``, so that an embedding may modulate it.
        bias: The same.
        groups: Number of groups of channels that are normalized together.
        eps: Added to the variance.
        silu: Whether act is SiLU.

    Returns:
        The maps, channels last; means ``[N, groups]``; inverse standard deviations ``[N, groups]``.
    """
    x = channels_last(x)
    y = torch.empty_like(x)
    mean = x.new_empty(len(x), groups)
    inverse = torch.empty_like(mean)
    tensors = (x, weight.contiguous(), bias.contiguous(), y, mean, inverse)
    _library().group_norm_forward(
        *map(address, tensors), _maps(x, groups), ctypes.c_float(eps), int(silu), torch.get_num_threads()
    )
    return y, mean, inverse


@torch.library.custom_op("diffkit::group_norm_backward", mutates_args=(), device_types="cpu")
def group_norm_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, groups: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the maps, the weights and the biases."""
    gradient, x, weight, bias = channels_last(gradient), channels_last(x), weight.contiguous(), bias.contiguous()
    x_gradient, weight_gradient, bias_gradient = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
    tensors = (gradient, x, weight, bias, mean, inverse, x_gradient, weight_gradient, bias_gradient)
    _library().group_norm_backward(*map(address, tensors), _maps(x, groups), int(silu), torch.get_num_threads())
    return x_gradient, weight_gradient, bias_gradient


def _library() -> ctypes.CDLL:
    library = kernels().library
    assert library is not None  # `applies` said so
    return library


def _maps(x: Tensor, groups: int) -> Maps:
    n, channels, height, width = x.shape
    return Maps(n, height * width, channels, groups)


@group_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.new_empty(len(x), groups)
    return torch.empty_like(x, memory_format=torch.channels_last), mean, torch.empty_like(mean)


@group_norm_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, groups: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    maps = torch.empty_like(x, memory_format=torch.channels_last)
    return maps, weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, ctx.groups, _, ctx.silu = inputs
    _, mean, inverse = output
    ctx.save_for_backward(x, weight, bias, mean, inverse)
    ctx.mark_non_differentiable(mean, inverse)


def _gradients(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    found = group_norm_backward(gradient, *ctx.saved_tensors, ctx.groups, ctx.silu)
    return *found, None, None, None


group_norm.register_autograd(_gradients, setup_context=_remember)
