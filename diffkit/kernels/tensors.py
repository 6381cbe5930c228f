"""What the C library takes: dense float32 maps with the channels last."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from diffkit.kernels.library import kernels


def computes_here(*tensors: Tensor) -> bool:
    """Return whether there is a library, and these are tensors that it can compute with.

    Not where torch follows a computation to write it down (compiling, exporting, tracing): what it writes is to be
    torch's own operations.
    """
    return (
        all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[no-untyped-call,attr-defined]
        and kernels().library is not None
    )


def channels_last(maps: Tensor) -> Tensor:
    """Return maps ``[N, C, H, W]`` as they are, or copied to lie with the channels last."""
    return maps.contiguous(memory_format=torch.channels_last)


def empty_maps(like: Tensor, channels: int) -> Tensor:
    """Return maps of the batch and sides of others, with the channels last."""
    n, _, height, width = like.shape
    return torch.empty((n, channels, height, width), device=like.device, memory_format=torch.channels_last)


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Return where a tensor lies, or NULL."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def layout(channels: int) -> torch.memory_format:
    """Return how maps are to lie for the operations that follow: channels last where the library can take them."""
    return torch.channels_last if channels % kernels().lanes == 0 else torch.contiguous_format
