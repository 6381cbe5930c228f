"""Settings by which walks follow the conventions of other libraries."""

import pytest
import torch

from diffkit.diffusion.denoiser import make_denoise
from diffkit.diffusion.generate import generate
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.process import CLEAN, Process
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.spacing import Spacing
from diffkit.diffusion.x0_rule import X0Rule

PROCESS = Process.choose("ddpm")
RATIO = Process.choose({"kind": "ddpm", "between": "ratio"})


def test_ratio_of_noise_to_signal_is_linear_between_two_times():
    low, high, between = (RATIO.level(time) for time in (10, 11, 10.25))
    ratios = [level.sigma / level.alpha for level in (low, high)]
    assert between.sigma / between.alpha == pytest.approx(0.75 * ratios[0] + 0.25 * ratios[1], rel=1e-12)
    assert between.alpha**2 + between.sigma**2 == pytest.approx(1, rel=1e-12)
    assert between.sigma != pytest.approx(PROCESS.level(10.25).sigma, rel=1e-6)
    assert RATIO.level(10) == PROCESS.level(10)


def test_times_of_ratios_are_found_again():
    times = torch.tensor([0.0, 0.3, 7.5, 500.25, 998.9, 999.0], dtype=torch.float64)
    torch.testing.assert_close(RATIO.time_of(RATIO.log_snr(times)), times, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", ["ddpm", "edm", {"kind": "flow", "time_max": 0.99}])
def test_walk_that_ends_at_the_least_noise(process):
    process = Process.choose(process)
    spacing = Spacing.choose({"kind": "trailing", "end": "least"})
    levels = spacing.levels(process, 5)
    assert 0 < levels[-1].sigma < levels[-2].sigma
    assert Spacing.choose("trailing").levels(process, 5)[-1] == CLEAN


def test_walk_cannot_end_where_its_last_step_starts():
    reason = Spacing.choose({"kind": "leading", "end": "least"}).refuses(PROCESS, 10)
    assert "cannot end there" in reason
    assert Spacing.choose({"kind": "leading", "offset": 1, "end": "least"}).refuses(PROCESS, 10) is None


def test_walk_that_starts_with_the_noise_alone():
    for start, scale in (("full", 1.0), ("noise", PROCESS.level(450).sigma)):
        levels = Spacing.choose({"kind": "list", "times": [450, 100], "start": start}).levels(PROCESS, 2)
        seen = []

        class Watching:
            def sample(self, denoise, levels, x, noise, seen=seen):
                seen.append(x)
                return x

        generate(None, Watching(), levels, lambda: torch.ones(1, 1, 2, 2))
        assert seen[0].unique().item() == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize("kind", ["lms", "ipndm", "deis"])
def test_order_that_stays_to_the_end(kind):
    """The last step to the clean end is a mean of four estimates, but for DEIS, whose last step is infinitely long."""
    levels = Spacing.choose("trailing").levels(PROCESS, 6)

    def walk(falls):
        def network(x, time, label):
            return torch.sin(x + time.to(x.dtype)[:, None, None, None] / 300)

        denoise = make_denoise(network, Objective(), PROCESS, X0Rule.choose("none"))
        sampler = Sampler.choose({"kind": kind, "falls_at_end": falls})
        return sampler.sample(denoise, levels, torch.ones(1, 1, 2, 2, dtype=torch.float64), None)

    assert walk(False).isfinite().all()
    assert not torch.allclose(walk(True), walk(False), rtol=1e-4)


def test_rule_that_keeps_the_noise():
    output = torch.full((1, 1, 2, 2), 0.5)
    level = PROCESS.level(500)

    def denoised(rule):
        denoise = make_denoise(lambda x, t, label: output, Objective(), PROCESS, X0Rule.choose(rule))
        return denoise(torch.full((1, 1, 2, 2), 3.0), level)

    kept, derived = denoised({"kind": "clip", "keeps_noise": True}), denoised("clip")
    assert torch.equal(kept.x0, derived.x0)
    assert torch.equal(kept.eps, output)
    torch.testing.assert_close(level.alpha * derived.x0 + level.sigma * derived.eps, torch.full((1, 1, 2, 2), 3.0))


def test_threshold_with_a_largest_range():
    x0 = torch.tensor([0.0, 1.0, 3.0, 4.0]).view(1, 1, 2, 2)
    found = X0Rule.choose({"kind": "dynamic_threshold", "quantile": 1.0, "largest": 2.0}).apply(x0)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 0.5, 1.0, 1.0]))
