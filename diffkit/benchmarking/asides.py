"""What operations on a processor take aside from what they return, as measured: see docs/memory.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffkit.benchmarking.live_bytes import Aside
from diffkit.kernels import convolution, normalization  # noqa: F401  # registers its operations

aten, ours = torch.ops.aten, torch.ops.diffkit


def asides_on(device: torch.device) -> dict[Any, Aside]:
    """Return what operations take aside on a device, by operation; nothing is known of other devices than the CPU."""
    if device.type != "cpu":
        return {}
    return {
        aten.convolution.default: _convolution,
        aten.convolution_backward.default: _convolution_backward,
        ours.winograd_conv2d.default: _winograd,
        ours.winograd_conv2d_backward.default: _winograd_backward,
        ours.group_norm.default: lambda x, *_: (0, _copied(x)),
        ours.group_norm_backward.default: lambda gradient, x, *_: (0, _copied(gradient) + _copied(x)),
    }


def _convolution(x: Tensor, weight: Tensor, *_: Any) -> tuple[int, int]:
    """oneDNN copies maps and weights to its own layout and back, but for 1x1 convolutions."""
    if weight.shape[2:].numel() == 1:
        return 0, 0
    return 0, 2 * weight.nbytes if _lies_well(x) else x.nbytes + weight.nbytes


def _convolution_backward(gradient: Tensor, x: Tensor, weight: Tensor, *_: Any) -> tuple[int, int]:
    if weight.shape[2:].numel() == 1:
        return 0, 0
    return 0, 3 * weight.nbytes if _lies_well(x) else gradient.nbytes + x.nbytes


def _winograd(x: Tensor, weight: Tensor, *_: Any) -> tuple[int, int]:
    return convolution.room_of(x, weight, backwards=False), _copied(x)


def _winograd_backward(gradient: Tensor, x: Tensor, weight: Tensor, *_: Any) -> tuple[int, int]:
    return convolution.room_of(x, weight, backwards=True), _copied(gradient) + _copied(x)


def _copied(maps: Tensor) -> int:
    """Return the bytes of the copy that is made of maps whose channels are not last."""
    return 0 if _lies_well(maps) else maps.nbytes


def _lies_well(maps: Tensor) -> bool:
    return maps.is_contiguous(memory_format=torch.channels_last)
