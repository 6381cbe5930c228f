"""Convolutions on processors: 3x3 ones by Winograd's minimal filtering where that pays."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from diffkit.kernels.library import kernels
from diffkit.kernels.tensors import address, channels_last, computes_here, empty_maps, layout

LEAST_TILES = 24
"""Tiles of 4x4 pixels from which on fewer multiplications make up for transforming the weight (measured; see
docs/performance.md)."""
WORKSPACE = 500_000
"""Floats of transformed images that each thread holds at a time: what stays in its cache."""
TILES_AT_ONCE = 128
"""Least number of tiles that are multiplied with a transformed weight at a time, to make up for reading it."""


class Shape(ctypes.Structure):
    """Sides and numbers of channels, as the library takes them."""

    _fields_ = [(name, ctypes.c_long) for name in ("images", "height", "width", "inputs", "outputs")]


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """Return torch's convolution, computed in the quickest way there is for its size.

    Args:
        x: Maps ``[N, inputs, H, W]``.
        weight: Weights ``[outputs, inputs, h, w]``.
        bias: Added to the outputs, ``[outputs]``.
        stride: Steps from one output to the next.
        padding: Rows and columns of zeros around the maps.
    """
    if not computes_here(x, weight):
        return nn.functional.conv2d(x, weight, bias, stride, padding)
    kind = tuple(weight.shape[2:]), stride, padding
    if kind == ((3, 3), (1, 1), (1, 1)) and _pays(x, weight):
        y: Tensor = winograd_conv2d(x, weight, bias)
        return y
    if kind == ((1, 1), (1, 1), (0, 0)) and x.is_contiguous(memory_format=torch.channels_last):
        # as a convolution, torch may take a slow way, and the weight's gradient would lie otherwise than the weight
        return nn.functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    if x.numel() < weight.numel():  # torch lays the weight as the maps lie: copy what is smaller
        x = x.contiguous()
    y = nn.functional.conv2d(x, weight, bias, stride, padding)
    return y.contiguous(memory_format=layout(len(weight)))


def _pays(x: Tensor, weight: Tensor) -> bool:
    """Return whether `winograd_conv2d` can do it, and is quicker than torch's convolution."""
    n, inputs, height, width = x.shape
    lanes = kernels().lanes
    return n * height * width >= 16 * LEAST_TILES and inputs % lanes == 0 and len(weight) % lanes == 0


@torch.library.custom_op("diffkit::winograd_conv2d", mutates_args=(), device_types="cpu")
def winograd_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution of stride 1 and padding 1 of maps ``[N, inputs, H, W]`` with weights
    ``[outputs, inputs, 3, 3]``, plus a bias ``[outputs]``: ``[N, outputs, H, W]``, channels last.

    Float32 on a processor. Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", F(4x4, 3x3).
    """
    x, weight = channels_last(x), weight.contiguous()
    shape = _shape(x, weight)
    y = empty_maps(x, shape.outputs)
    workspace, at_once = _workspace(shape, backwards=False)
    _library().winograd_forward(*map(address, (x, weight, bias, y, workspace)), shape, at_once, torch.get_num_threads())
    return y


@torch.library.custom_op("diffkit::winograd_conv2d_backward", mutates_args=(), device_types="cpu")
def winograd_conv2d_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the maps and of the weight; each is empty unless it is asked for."""
    gradient, x, weight = channels_last(gradient), channels_last(x), weight.contiguous()
    shape = _shape(x, weight)
    x_gradient = empty_maps(x, shape.inputs) if of_x else None
    weight_gradient = torch.empty_like(weight) if of_weight else None
    workspace, at_once = _workspace(shape, backwards=True)
    tensors = (gradient, x, weight, x_gradient, weight_gradient, workspace)
    _library().winograd_backward(*map(address, tensors), shape, at_once, torch.get_num_threads())
    none = torch.empty(0)
    return none if x_gradient is None else x_gradient, none.clone() if weight_gradient is None else weight_gradient


def _library() -> ctypes.CDLL:
    library = kernels().library
    assert library is not None  # or nothing here would have been called
    return library


def _shape(x: Tensor, weight: Tensor) -> Shape:
    n, inputs, height, width = x.shape
    return Shape(n, height, width, inputs, len(weight))


def _workspace(shape: Shape, *, backwards: bool) -> tuple[Tensor, ctypes.c_long]:
    """Return room for transformed images, and the number of images that have room at a time."""
    floats, at_once = _wanted(shape, backwards=backwards)
    return _room(floats), at_once


def room_of(x: Tensor, weight: Tensor, *, backwards: bool) -> int:
    """Return the bytes of the room that is kept once maps have gone through `winograd_conv2d`, or back."""
    return 4 * _wanted(_shape(x, weight), backwards=backwards)[0]


def _wanted(shape: Shape, *, backwards: bool) -> tuple[int, ctypes.c_long]:
    tiles = -(-shape.height // 4) * -(-shape.width // 4)
    fitting = max(1, WORKSPACE // (36 * tiles * (shape.inputs + shape.outputs)))
    wanted = max(torch.get_num_threads() * fitting, -(-TILES_AT_ONCE // tiles))
    at_once = ctypes.c_long(min(shape.images, wanted))
    return _library().winograd_workspace(shape, at_once, int(backwards)), at_once


_rooms = threading.local()


def _room(floats: int) -> Tensor:
    """Return memory that is kept from call to call: new pieces of ever other sizes would tear the heap to shreds."""
    if not hasattr(_rooms, "kept") or len(_rooms.kept) < floats:
        give_room_back()
        _rooms.kept = torch.empty(floats)
    kept: Tensor = _rooms.kept
    return kept


def give_room_back() -> None:
    """Keep no memory any longer until the next convolution."""
    vars(_rooms).pop("kept", None)


@winograd_conv2d.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return empty_maps(x, len(weight))


@winograd_conv2d_backward.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool) -> tuple[Tensor, Tensor]:
    none = weight.new_empty(0)
    return empty_maps(x, x.shape[1]) if of_x else none, torch.empty_like(weight) if of_weight else none.clone()


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
    ctx.shape = x.shape


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    of_x, of_weight, of_bias = ctx.needs_input_grad
    of_bias_gradient = gradient.sum((0, 2, 3)) if of_bias else None
    if not (of_x or of_weight):
        return None, None, of_bias_gradient
    known = gradient.new_empty(()).expand(ctx.shape) if x is None else x  # only its shape is looked at
    x_gradient, weight_gradient = winograd_conv2d_backward(gradient, known, weight, of_x, of_weight)
    return x_gradient if of_x else None, weight_gradient if of_weight else None, of_bias_gradient


winograd_conv2d.register_autograd(_gradients, setup_context=_remember)


@register_flop_formula(torch.ops.diffkit.winograd_conv2d)
def _flops(x: Any, weight: Any, *rest: Any, **settings: Any) -> int:
    """Count as torch counts a convolution: what the definition takes, not this way of computing it."""
    n, inputs, height, width = x
    return int(2 * n * height * width * 9 * inputs * weight[0])


@register_flop_formula(torch.ops.diffkit.winograd_conv2d_backward)
def _flops_backward(gradient: Any, x: Any, weight: Any, of_x: bool, of_weight: bool, **settings: Any) -> int:
    return _flops(x, weight) * (of_x + of_weight)
