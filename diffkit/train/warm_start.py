"""Starting from the weights of another model, as far as they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from diffkit.errors import UserError
from diffkit.shards import part_like
from diffkit.storage.checkpoint import read_weights
from diffkit.storage.runs import find_weights

SHOWN = 5
"""So many names of a group are listed."""


@dataclass(frozen=True)
class WarmStart:
    """What was taken over from another model.

    Attributes:
        source: The weights file.
        taken: Tensors that were taken.
        other_shape: Tensors that both have, in another shape: with the network's and the file's.
        new: Tensors that only the network has: they keep their initial values.
        unused: Tensors that only the file has.
    """

    source: Path
    taken: tuple[str, ...]
    other_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        """The report that a user reads."""
        total = len(self.taken) + len(self.other_shape) + len(self.new)
        shapes = [f"{name} is {list(own)} here, {list(other)} there" for name, own, other in self.other_shape]
        return "\n".join(
            [
                f"init_from {self.source}: {len(self.taken)} of {total} tensors taken",
                *_listed("not taken, as the shapes differ", shapes),
                *_listed("not taken, as the file has none of this name", self.new),
                *_listed("of the file, but of no use here", self.unused),
            ]
        )


@torch.no_grad()
def warm_start(network: nn.Module, path: Path) -> WarmStart:
    """Copy the averaged weights of another model into a network, each tensor whose name and shape both have.

    Args:
        network: The network, which is changed.
        path: Run folder, checkpoint folder or weights file.

    Raises:
        CheckpointError: If there are no whole weights.
        UserError: If nothing fits.
    """
    source = find_weights(path, "ema")
    _, tensors = read_weights(source)
    own = network.state_dict()
    taken, other_shape = [], []
    for name in own.keys() & tensors.keys():
        if own[name].shape == tensors[name].shape:
            own[name].copy_(part_like(own[name], tensors[name]))
            taken.append(name)
        else:
            other_shape.append((name, tuple(own[name].shape), tuple(tensors[name].shape)))
    if not taken:
        raise UserError(
            f"model.init_from = {path}: none of its {len(tensors)} tensors has the name and the shape of one of the "
            f"network's {len(own)}: name a model of the same kind, or leave this out"
        )
    return WarmStart(
        source,
        tuple(sorted(taken)),
        tuple(sorted(other_shape)),
        tuple(sorted(own.keys() - tensors.keys())),
        tuple(sorted(tensors.keys() - own.keys())),
    )


def _listed(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = [f"    and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [f"  {len(names)} {what}:", *(f"    {name}" for name in names[:SHOWN]), *more]
