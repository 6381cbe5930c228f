"""Gradient checkpointing: less memory for more time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def call(compute: Callable[..., T], *inputs: Tensor | None, recomputes: bool) -> T:
    """Return what is computed of inputs. If it recomputes, nothing but they is kept for the backward pass.

    That computes once more what it needs: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". Output and
    gradients are the same to the bit, those of dropout too.
    """
    if not (recomputes and torch.is_grad_enabled()):
        return compute(*inputs)
    found: T = checkpoint(compute, *inputs, use_reentrant=False)
    return found
