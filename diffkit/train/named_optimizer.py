"""An optimizer whose states go by the parameters' names, whole or with a part of them on each of several processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffkit.distributed import Workers
from diffkit.optim.base import Optimizer
from diffkit.shards import each_ones, is_part, part_like


class NamedOptimizer:
    """One of torch's optimizers for a model.

    Sharded, each process keeps the optimizer's states for its own part of the parameters, takes the step for these, and
    sends the others what became of them: the first stage of ZeRO (Rajbhandari et al. 2020, section 5.1). What a
    checkpoint holds is the same. Of a model whose parameters themselves lie in parts on the processes, the states do so
    without this.

    Args:
        kind: The optimizer.
        model: The model.
        workers: The processes that train it together.
        sharded: Whether each of them keeps the states of a part of the parameters only.
    """

    def __init__(self, kind: Optimizer, model: nn.Module, workers: Workers, sharded: bool) -> None:
        self._workers = workers
        parameters = dict(model.named_parameters())
        self._parts = divided(parameters, workers.size) if sharded and workers.size > 1 else [parameters]
        self._mine = self._parts[workers.rank if len(self._parts) > 1 else 0]
        self._own = kind.build(self._mine.values())

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of this process's parameters, with their learning rates."""
        return self._own.param_groups

    @torch.no_grad()
    def step(self) -> None:
        """Take one step, by the gradients of the parameters."""
        self._own.step()
        if len(self._parts) == 1:
            return
        for rank, part in enumerate(self._parts):
            together = torch.cat([parameter.flatten() for parameter in part.values()])
            self._workers.spread(together, rank)
            pieces = torch.split(together, [parameter.numel() for parameter in part.values()])
            for parameter, piece in zip(part.values(), pieces, strict=True):
                parameter.copy_(piece.view_as(parameter))

    def own_tensors(self) -> dict[str, Tensor]:
        """Return what this process keeps of the states, as ``PARAMETER/NAME``: in parts where the parameters are."""
        names = list(self._mine)
        return {
            f"{names[number]}/{key}": value
            for number, state in self._own.state_dict()["state"].items()
            for key, value in state.items()
            if value is not None
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return the states as `own_tensors` does; on the first process those of all parameters, if it is sharded."""
        mine = self.own_tensors()
        if len(self._parts) == 1:
            return mine
        return {name: tensor for part in each_ones(mine, self._workers) for name, tensor in part.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from saved states, those of all parameters.

        Raises:
            KeyError: If they are of other parameters.
            ValueError: If torch's optimizer doesn't take them.
        """
        unknown = {place.rpartition("/")[0] for place in tensors} - {name for part in self._parts for name in part}
        if unknown:
            raise KeyError(", ".join(sorted(unknown)))
        numbers = {name: number for number, name in enumerate(self._mine)}
        states: dict[int, dict[str, Tensor]] = {}
        for place, tensor in tensors.items():
            parameter, _, key = place.rpartition("/")
            if parameter in numbers:
                states.setdefault(numbers[parameter], {})[key] = self._part(parameter, key, tensor)
        self._own.load_state_dict({**self._own.state_dict(), "state": states})

    def _part(self, parameter: str, key: str, tensor: Tensor) -> Tensor:
        """Return as much of a parameter's saved state as this process has of the parameter."""
        own = self._mine[parameter]
        if tensor.dim() > 0 and is_part(own) and tensor.shape != own.shape:
            raise ValueError(
                f"{key} of {parameter} is not of the parameter's shape: go on without train.shard = 'full'"
            )
        return part_like(own, tensor)


def divided(parameters: Mapping[str, nn.Parameter], count: int) -> list[dict[str, nn.Parameter]]:
    """Divide parameters into parts of about the same size: the largest first, each to the smallest part so far."""
    sizes = [0] * count
    owner = {}
    for name, parameter in sorted(parameters.items(), key=lambda item: -item[1].numel()):
        owner[name] = sizes.index(min(sizes))
        sizes[owner[name]] += parameter.numel()
    return [{name: p for name, p in parameters.items() if owner[name] == rank} for rank in range(count)]
