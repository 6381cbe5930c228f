"""Tensors of which each of several processes holds a part only, and networks of such weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from diffkit.distributed import Workers


def shard(network: nn.Module, device: torch.device, processes: int) -> None:
    """Let each process keep a part of every weight of a network, and of its gradient.

    Weights are put together block by block when the block is computed, and taken apart again behind it; the gradients
    that the processes find are averaged, each process keeping its part (fully sharded data parallelism; Rajbhandari et
    al. 2020, ZeRO stage 3; Zhao et al. 2023). All must compute with the network at the same time and equally often.

    Args:
        network: The network, the same one on all processes. It may lie in the CPU's memory: its blocks go to the device
            one after the other, so that the whole of it never needs to fit there.
        device: Where it computes.
        processes: The number of processes.

    Raises:
        ValueError: If weights have no dimension to divide.
    """
    if scalars := [name for name, parameter in network.named_parameters() if parameter.dim() == 0]:
        raise ValueError(f"weights that are single numbers cannot be divided: {', '.join(scalars)}")
    mesh = init_device_mesh(device.type, (processes,))
    for block in _blocks(network):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def _blocks(module: nn.Module, *, inside: bool = False) -> Iterator[nn.Module]:
    """Yield the blocks whose weights are put together at once: the smallest elements of lists of modules, and what
    stands beside such lists in larger elements.
    """
    for child in module.children():
        if any(isinstance(part, nn.ModuleList) for part in child.modules()):
            yield from _blocks(child, inside=inside or isinstance(child, nn.ModuleList))
        elif inside and any(True for _ in child.parameters()):
            yield child


def is_part(tensor: Tensor) -> bool:
    """Return whether this process holds a part of a tensor only."""
    return isinstance(tensor, DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor. Where processes hold parts of it, all must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor], workers: Workers) -> dict[str, Tensor]:
    """Put tensors together in the CPU's memory of the first process. All must call this.

    Args:
        tensors: The tensors by name. Those that are whole stay where they are.
        workers: The processes.

    Returns:
        All tensors; on the other processes some of them only.
    """
    parts = {name: own_part(tensor) for name, tensor in tensors.items() if is_part(tensor)}
    if not parts:
        return dict(tensors)
    every = each_ones(parts, workers)
    return {
        name: torch.cat([part[name] for part in every]) if name in parts else tensor
        for name, tensor in tensors.items()
        if every or name not in parts
    }


def each_ones(tensors: Mapping[str, Tensor], workers: Workers) -> list[dict[str, Tensor]]:
    """Return the tensors that each process gives, on the first one; an empty list on the others. All must call this."""
    mine = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    return [safetensors.torch.load(content) for content in workers.gather(mine)]


def part_like(own: Tensor, tensor: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, divided as another of the same shape is; if that one is whole, or
    of another shape, the tensor as it is.
    """
    if not isinstance(own, DTensor) or own.shape != tensor.shape:
        return tensor
    placed = tensor.to(own.device)
    return distribute_tensor(placed, own.device_mesh, own.placements, src_data_rank=None)


def load_whole(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network, whose weights may lie in parts, the weights of a state dict of whole ones.

    Raises:
        RuntimeError: If names or shapes differ, as `torch.nn.Module.load_state_dict` does.
    """
    own = network.state_dict()
    network.load_state_dict({name: part_like(own[name], t) if name in own else t for name, t in tensors.items()})
