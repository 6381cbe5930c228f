"""The most memory that training and sampling will take, found without taking any.

The very training step and the very sampler are run on tensors that have shapes and no memory (torch's FakeTensor), and
what is alive at each moment is added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from diffkit.benchmarking.asides import asides_on
from diffkit.benchmarking.live_bytes import OTHER, SAVED, LiveBytes
from diffkit.benchmarking.memory import Job
from diffkit.benchmarking.workload import sampling_walk, training_run, uncompiled
from diffkit.data.base import DataInfo
from diffkit.pipeline import build_network
from diffkit.recipe.tables import Recipe

PARAMETERS, GRADIENTS, STATES, AVERAGES, TEACHER = (
    "parameters",
    "gradients",
    "optimizer states",
    "averages",
    "teacher",
)


ORDER = (PARAMETERS, GRADIENTS, STATES, AVERAGES, TEACHER, SAVED, OTHER)


@dataclass(frozen=True)
class Peak:
    """The moment when most memory is taken.

    Attributes:
        parts: Bytes by what they are for.
    """

    parts: dict[str, int]

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.parts.values())


def predict(recipe: Recipe, data: DataInfo, device: torch.device) -> dict[Job, Peak]:
    """Predict what training and sampling take at most, as `predict_training` and `predict_sampling` do."""
    return {"training": predict_training(recipe, data, device), "sampling": predict_sampling(recipe, data, device)}


def predict_training(recipe: Recipe, data: DataInfo, device: torch.device) -> Peak:
    """Predict what the second step of a training takes at most: the first one makes the optimizer's states.

    What is not seen: the data set itself, what kernels of a GPU take while they compute, what `train.compile` saves,
    and what the allocator and libraries keep for themselves.

    Args:
        recipe: The recipe.
        data: What its images are.
        device: Where it would be trained. There must be such a device, of which nothing is used.
    """
    with _without_memory():
        device = _numbered(device)
        with device:  # tensors without memory cannot be moved there, so they begin there
            run = training_run(uncompiled(recipe), data, device)
        with LiveBytes(asides_on(device)) as live:
            live.name(PARAMETERS, _tensors(run.model))
            live.name(AVERAGES, (t for state in run.ema.state_dicts().values() for t in state.values()))
            if run.teacher is not None:
                live.name(TEACHER, _tensors(run.teacher.network))
            for parameter in run.model.parameters():
                parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    lambda p: live.name(GRADIENTS, [p.grad])
                )
            with live.saving():
                run.take_step()
                live.name(STATES, run.optimizer.tensors().values())
                live.forget_most()
                run.take_step()
    return _peak(live)


def predict_sampling(recipe: Recipe, data: DataInfo, device: torch.device) -> Peak:
    """Predict what sampling a batch of `sample.batch_size` images takes at most, as `predict_training` does.

    The second network or the classifier of a guidance that has one is not counted.
    """
    with _without_memory():
        device = _numbered(device)
        with device:
            network = build_network(recipe, data, device)
        walk = sampling_walk(recipe, data, network, device)
        with LiveBytes(asides_on(device)) as live:
            live.name(PARAMETERS, _tensors(network))
            walk()
    return _peak(live)


@contextmanager
def _without_memory() -> Iterator[None]:
    """Let operations give tensors without memory, and leave the state of torch's generator as it is."""
    answers = _Answers()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=[]), FakeTensorMode(allow_non_fake_inputs=True), answers:
        yield


class _Answers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers what is asked of the value of a tensor that has none: no, or one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 1
        return func(*args, **(kwargs or {}))


def _numbered(device: torch.device) -> torch.device:
    """Return a device as tensors name it: that of ``cuda`` is ``cuda:0``, or whichever is in use."""
    return torch.empty(0, device=device).device


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _peak(live: LiveBytes) -> Peak:
    return Peak({purpose: live.most[purpose] for purpose in ORDER if live.most[purpose]})
