"""Every sampler on every process and spacing that fit together, on models whose answer is known."""

import pytest
import torch

from diffkit.diffusion.generate import generate, initial
from diffkit.diffusion.oracles import constant_noise, gaussian, gaussian_ode_end, one_point
from diffkit.diffusion.process import Process
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.spacing import Spacing
from diffkit.testing import kinds_of

SHAPE = (2, 1, 2, 2)
PROCESSES = [
    "edm",
    "flow",
    {"kind": "flow", "shift": 3.0, "time_max": 0.999},
    {"kind": "ddpm", "zero_terminal_snr": True, "schedule": "scaled_linear"},
]
COUNTS = [1, 2, 3, 5, 10, 50]


def fitting(*processes):
    """Return pytest parameters: each process with every spacing that fits; a written list has one number of times."""
    pairs = [(Process.choose(table), spacing) for table in processes for spacing in kinds_of(Spacing)]
    return [
        pytest.param(process, *spacing.values, id=f"{process.kind}-{spacing.id}")
        for process, spacing in pairs
        if spacing.id != "list" and spacing.values[0].refuses(process, 50) is None
    ]


def normal(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fresh_noise():
    draw = torch.Generator().manual_seed(3)
    return lambda: torch.randn(SHAPE, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("process", "spacing"), fitting(*PROCESSES))
@pytest.mark.parametrize("sampler", kinds_of(Sampler))
def test_one_point_is_reached(sampler, process, spacing, count):
    levels, point = spacing.levels(process, count), normal(1).clamp(-1, 1)
    end = generate(one_point(point), sampler, levels, fresh_noise())
    torch.testing.assert_close(end, point, rtol=0, atol=1e-8)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("process", "spacing"), fitting("edm", {"kind": "flow", "time_max": 0.999}))
def test_ddim_stays_on_the_line_of_constant_noise(process, spacing, count):
    levels, x0, eps = spacing.levels(process, count), normal(1), normal(2)
    start = levels[0].alpha * x0 + levels[0].sigma * eps
    end = Sampler.choose("ddim").sample(constant_noise(eps), levels, start, fresh_noise())
    torch.testing.assert_close(end, x0, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("process", "spacing"), [p for p in fitting("edm", "flow") if "leading" not in str(p.id)])
def test_ddim_converges_to_the_exact_end_of_the_ode(process, spacing):
    errors = []
    for count in (200, 400):
        levels = spacing.levels(process, count)
        x = initial(levels[0], fresh_noise())
        end = Sampler.choose("ddim").sample(gaussian(0.4, 0.5), levels, x, fresh_noise())
        errors.append((end - gaussian_ode_end(x, levels[0], 0.4, 0.5)).abs().max().item())
    assert errors[1] < 0.6 * errors[0] < 0.05
