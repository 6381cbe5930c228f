"""What each of several processes holds of a training, by `train.shard`.

    torchrun --nproc-per-node 4 tests/benchmarks/memory_of_shards.py ddpm_cifar train.batch_size=8 train.shard=full

Takes three steps of a recipe on images of noise. Prints the MiB of weights, gradients, optimizer's states and averages
that the first process holds between two steps, and by how much its memory had grown at most since before the run was
made: that is with activations, and with the weights that are put together.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from diffkit.benchmarking.workload import random_images
from diffkit.distributed import Workers
from diffkit.plugins.manager import Plugins
from diffkit.shards import own_part
from diffkit.train.run import TrainingRun


def mib(tensors: Iterable[Tensor]) -> float:
    """Return how much memory the parts of tensors take that this process has."""
    return sum(own_part(tensor).nbytes for tensor in tensors) / 2**20


def peak() -> float:
    """Return the most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    """Measure."""
    torch.set_num_threads(1)
    with Workers.joined() as workers:
        recipe = Plugins().open_recipe(sys.argv[1], sys.argv[2:])
        data, before = recipe.data.info(), peak()
        run = TrainingRun(recipe, Path(), data, random_images(data), torch.device("cpu"), workers)
        for _ in range(3):
            run.take_step()
        if workers.is_first:
            parameters = list(run.model.parameters())
            held = {
                "weights": mib(parameters),
                "gradients": mib(p.grad for p in parameters if p.grad is not None),
                "optimizer": mib(run.optimizer.own_tensors().values()),
                "averages": mib(tensor for state in run.ema.state_dicts().values() for tensor in state.values()),
            }
            held["together"] = sum(held.values())
            held["peak"] = peak() - before
            print(recipe.train.shard, workers.size, {name: round(value) for name, value in held.items()})


if __name__ == "__main__":
    main()
