"""Networks with weights that were read from a file, whose header may ask for anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from diffkit.errors import CheckpointError

LARGEST_TABLES = 2**30
"""Bytes that a network may take besides its weights: tables that it computes."""

SHOWN = 2000
"""Letters of torch's list of what doesn't fit."""

Build = Callable[[torch.device], nn.Module]


def build_with(
    tensors: Mapping[str, Tensor], build: Build, device: torch.device | str, source: Path | str
) -> nn.Module:
    """Build a network and give it weights.

    It is built on the meta device first, where it takes no memory, and compared with the weights: so it cannot take
    more than a file holds, whatever the recipe in the file's header says.

    Args:
        tensors: The weights.
        build: Makes the network on a device.
        device: Where it goes.
        source: What the weights were read from, for messages.

    Raises:
        CheckpointError: If there is no such network, or the weights don't fit it.
    """
    try:
        with torch.device("meta"):
            sketch = build(torch.device("meta"))
        sketch.load_state_dict({name: tensor.to("meta") for name, tensor in tensors.items()})
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:  # torch raises all of these on huge sizes
        raise _unfit(source, error) from None
    tables = sum(buffer.nbytes for name, buffer in sketch.named_buffers() if name not in tensors)
    if tables > LARGEST_TABLES:
        raise _unfit(source, f"the network computes tables of {tables} bytes, and {LARGEST_TABLES} are allowed")
    network = build(torch.device(device))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:  # of a kind of tensor that cannot be copied
        raise _unfit(source, error) from None
    return network


def _unfit(source: Path | str, reason: object) -> CheckpointError:
    text = str(reason)
    cut = text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
    return CheckpointError(f"{source}: the weights don't fit the recipe: {cut}")
