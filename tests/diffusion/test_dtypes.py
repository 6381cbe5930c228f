"""Networks of every floating type, under every sampler and process: exact times, a walk in float32, a bounded error.

The network knows Gaussian data exactly, and has nothing of its type but the rounding: of what it is shown, and of what
it outputs.
"""

import functools

import pytest
import torch
from torch import nn

from diffkit.diffusion.denoiser import make_denoise
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.oracles import gaussian
from diffkit.diffusion.prediction import Prediction
from diffkit.diffusion.process import Process
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.spacing import Spacing
from diffkit.diffusion.x0_rule import X0Rule
from diffkit.testing import kinds_of

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPE = (2, 1, 4, 4)
STEPS = 12
PROCESSES = {
    "ddpm": {"kind": "ddpm"},
    "zero snr": {"kind": "ddpm", "zero_terminal_snr": True},
    "edm": {"kind": "edm"},
    "flow": {"kind": "flow"},
}
CLIP = X0Rule.choose("clip")


class Rounding(nn.Module):
    """The exact answer for Gaussian data, rounded to the type of the weights."""

    def __init__(self, process, prediction, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=dtype))
        self.process, self.prediction = process, prediction
        self.level, self.times = None, []

    def forward(self, x, time, label=None):
        assert x.dtype == self.weight.dtype
        assert x.isfinite().all()
        self.times.append(time)
        level = self.level
        alpha, sigma = torch.tensor([[level.alpha], [level.sigma]], dtype=torch.float64)
        scale = self.process.input_scale(alpha, sigma)
        estimate = gaussian(0.2, 0.3)(x.double() if scale is None else x.double() / scale, level)
        return self.prediction.target(estimate.x0, estimate.eps, level.alpha, level.sigma).to(x.dtype)


@functools.cache
def levels_of(name):
    process = Process.choose(PROCESSES[name])
    spacing = "trailing" if process.no_signal_setting else "log_snr"
    return process, Spacing.choose(spacing).levels(process, STEPS)


def walk(sampler, name, kind, dtype, walk_dtype=torch.float32, noise_dtype=None):
    """Sample with a network of a type; return the end, the levels asked for and the times that the network saw."""
    process, levels = levels_of(name)
    objective = Objective(prediction=kind)
    network = Rounding(process, objective.prediction, dtype)
    denoise, asked = make_denoise(network, objective, process, CLIP), []

    def watched(x, level):
        assert x.dtype == (walk_dtype if asked or noise_dtype is None else noise_dtype)
        network.level = level
        asked.append(level)
        found = denoise(x, level)
        assert found.x0.dtype == found.eps.dtype == walk_dtype
        return found

    draw = torch.Generator().manual_seed(1)

    def noise():
        return torch.randn(SHAPE, generator=draw, dtype=torch.float64).to(noise_dtype or walk_dtype)

    x = (levels[0].alpha ** 2 + levels[0].sigma ** 2) ** 0.5 * noise()
    with torch.no_grad():
        return sampler.sample(watched, levels, x, noise), asked, network.times


def bound(dtype, kind):
    """Return how far rounding may move the end, of images in [-1, 1].

    A rounding in a type is half its eps. An output's enters x0 with a weight below 1, and so does an input's; the
    estimates of one step enter with weights whose absolute sum is at most about 4, and those of the steps before are
    forgotten as the noise that they were an error of. That is 4 eps. Adams and Bashforth's four weights, which pndm has
    whatever the levels, sum to (55 + 59 + 37 + 9) / 24. The walk itself is in float32 at best: 2 roundings a step.
    """
    weights = 160 / 24 if kind == "pndm" else 4
    return max(weights * torch.finfo(dtype).eps, 2 * STEPS * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("sampler", kinds_of(Sampler))
def test_networks_of_every_type_end_near_the_exact_one_of_float64(sampler, name):
    process, _ = levels_of(name)
    exact, _, _ = walk(sampler, name, "edm", torch.float64, torch.float64)
    for kind in (kind for kind in Prediction.kinds if Prediction.choose(kind).refuses(process) is None):
        if sampler.kind == "predictor_corrector" and kind in ("data", "flow"):
            continue  # the size of its steps is the noise's, which these say with an error of alpha / sigma eps
        for dtype in DTYPES:
            end, asked, times = walk(sampler, name, kind, dtype)
            assert end.dtype == torch.float32
            assert (end.double() - exact).abs().max() < bound(dtype, sampler.kind), (kind, dtype)
            assert [time.dtype for time in times] == [torch.float32] * len(asked)
            assert torch.equal(torch.stack(times)[:, 0], torch.tensor([level.time for level in asked]))


@pytest.mark.parametrize("name", ["ddpm", "edm"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sampler", kinds_of(Sampler))
def test_noise_of_half_precision_walks_in_float32(sampler, dtype, name):
    end, _, _ = walk(sampler, name, "edm", dtype, noise_dtype=dtype)
    assert end.dtype == torch.float32
    assert end.isfinite().all()
    assert end.abs().max() <= 1
