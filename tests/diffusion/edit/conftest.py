from types import SimpleNamespace

import pytest
import torch

from diffkit.diffusion.process import Process
from diffkit.diffusion.spacing import Spacing


class Stream:
    """Standard normal float64 noise of a shape."""

    def __init__(self, shape, seed):
        self.shape = shape
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self):
        return torch.randn(self.shape, generator=self._generator, dtype=torch.float64)


def walk(process, count):
    return Spacing.choose("karras" if process == "edm" else "trailing").levels(Process.choose(process), count)


@pytest.fixture(scope="session")
def given():
    """Noise of a shape and a seed, and levels of a process."""
    return SimpleNamespace(stream=lambda *shape, seed=0: Stream(shape, seed), levels=walk)


@pytest.fixture(params=["ddpm", "edm", "flow"])
def process(request):
    return request.param
