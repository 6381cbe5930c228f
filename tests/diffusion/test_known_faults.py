"""Faults that schedulers of other projects are known to have had: none of them is here.

A report is named where it is public. docs/faults.md lists these tests, and the others that would catch such faults.
"""

import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from diffkit.diffusion.denoiser import make_denoise
from diffkit.diffusion.levels import Levels
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.oracles import gaussian, one_point
from diffkit.diffusion.posterior import posterior
from diffkit.diffusion.prediction import Prediction
from diffkit.diffusion.process import CLEAN, Process
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.spacing import Spacing
from diffkit.diffusion.weighting import LossWeighting
from diffkit.diffusion.x0_rule import X0Rule
from diffkit.schedules.base import BetaSchedule
from diffkit.testing import kinds_of

SHAPE = (2, 1, 1, 2)
SAMPLERS = kinds_of(Sampler)
SPACINGS = sorted(Spacing.kinds.keys() - {"list"})  # a list has one number of times only
POINT = torch.tensor([0.7, -0.2], dtype=torch.float64)


def ddpm(**settings):
    return Process.choose({"kind": "ddpm", **settings})


def noise_of(seed=0, shape=SHAPE):
    draw = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=draw, dtype=torch.float64)


def times_of(spacing, process, count):
    return [level.time for level in Spacing.choose(spacing).levels(process, count)[:-1]]


# --- which levels are visited


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("spacing", "count"), [("trailing", 13), ("trailing", 7), ("linspace", 10)])
def test_each_step_goes_to_the_level_that_is_visited_next(sampler, spacing, count):
    """Under these spacings a step of fixed length, T // n, goes elsewhere.

    huggingface/diffusers#9261, #11347 and #12633.
    """
    process = ddpm()
    levels, seen = Spacing.choose(spacing).levels(process, count), []
    lengths = [int(a - b) for a, b in pairwise(times_of(spacing, process, count))]
    assert lengths != [1000 // count] * (count - 1)

    def watched(x, level):
        seen.append((level, x))
        return one_point(POINT)(x, level)

    # with no noise drawn, the point's own x is on the way at every level
    x = levels[0].alpha * POINT.expand(SHAPE)
    end = sampler.sample(watched, levels, x, lambda: torch.zeros(SHAPE, dtype=torch.float64))
    for level, x in seen:
        torch.testing.assert_close(x, level.alpha * POINT.expand(SHAPE), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(end, POINT.expand(SHAPE), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", sorted(BetaSchedule.kinds))
@pytest.mark.parametrize("spacing", SPACINGS)
def test_no_level_is_visited_twice_with_any_schedule(spacing, schedule):
    """Nine steps at time 998 of the cosine schedule, or 95 steps where 100 were asked for.

    huggingface/diffusers#12771 and #4122.
    """
    process = ddpm(schedule=schedule)
    for count in (1, 2, 8, 20, 21, 100, 999):
        levels = Spacing.choose(spacing).levels(process, count)
        assert len(levels) == count + 1
        times = [level.time for level in levels[:-1]]
        assert all(a > b and a == int(a) for a, b in pairwise(times))
        ratios = [level.sigma / level.alpha for level in levels]
        assert all(a > b for a, b in pairwise(ratios))


@pytest.mark.parametrize("offset", [0, 1, 5])
def test_every_time_can_be_visited_whatever_the_offset(offset):
    """An index beyond the table at 1000 of 1000 steps.

    huggingface/diffusers#10003, CompVis/latent-diffusion#136.
    """
    times = times_of({"kind": "leading", "offset": offset}, ddpm(), 1000)
    assert times == list(range(999, -1, -1))


@pytest.mark.parametrize("count", [1, 3, 50])
def test_the_default_spacing_starts_where_training_ends(count):
    """Sampling that starts with pure noise at a time that has some signal.

    huggingface/diffusers#2585, CompVis/stable-diffusion#686.
    """
    assert times_of("trailing", ddpm(), count)[0] == 999


@pytest.mark.parametrize("count", [2, 3, 10, 50])
def test_a_shift_of_times_is_applied_once(count):
    """huggingface/diffusers#13243."""
    plain, shifted = Process.choose("flow"), Process.choose({"kind": "flow", "shift": 3.0})
    pairs = zip(
        Spacing.choose("linspace").levels(plain, count), Spacing.choose("linspace").levels(shifted, count), strict=True
    )
    for before, after in pairs:
        assert after.sigma == pytest.approx(3 * before.sigma / (1 + 2 * before.sigma), rel=1e-12)


# --- the last step


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_end_is_the_last_estimate_of_x0(sampler, spacing):
    """Noise that is left in the images: a last step to the first time's noise, or one of no length.

    huggingface/diffusers#5689, #6477, #7517; AUTOMATIC1111/stable-diffusion-webui#1435.
    """
    estimates = []

    def watched(x, level):
        estimates.append(gaussian(0.4, 0.5)(x, level))
        return estimates[-1]

    levels = Spacing.choose(spacing).levels(ddpm(), 11)
    draw = noise_of()
    end = sampler.sample(watched, levels, draw(), draw)
    torch.testing.assert_close(end, estimates[-1].x0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("count", range(1, 17))
def test_no_number_of_steps_extrapolates_to_the_clean_end(sampler, count):
    """NaN where 11 or 14 steps end in a step of higher order, whose log-SNR there is infinite.

    huggingface/diffusers#9007; crowsonkb/k-diffusion#43 on its instability.
    """
    draw, levels = noise_of(), Spacing.choose("trailing").levels(ddpm(), count)
    end = sampler.sample(gaussian(0.4, 0.5), levels, draw(), draw)
    assert (end - 0.4).abs().max() < 3


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("left", [1, 2, 5, 20])
def test_a_walk_can_start_anywhere(sampler, left):
    """Noise that is left when a solver of high order takes the last part of a walk only.

    huggingface/diffusers#5630.
    """
    whole = Spacing.choose("karras").levels(ddpm(), 50)
    levels, draw = Levels(whole[-1 - left :], whole.nearest), noise_of()
    start = levels[0].alpha * POINT + levels[0].sigma * draw()
    end = sampler.sample(one_point(POINT), levels, start, draw)
    torch.testing.assert_close(end, POINT.expand(SHAPE), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_ancestral_sampling_adds_the_variances_own_root_and_none_at_the_end(variance, spacing):
    """The root of a variance's logarithm is NaN; and a step to the clean end from another time than 0 gets no noise.

    huggingface/diffusers#14569 (fixed_large_log).
    """
    process, objective = ddpm(), Objective(variance=variance)
    denoise = make_denoise(lambda x, *_: torch.zeros_like(x), objective, process, X0Rule.choose("none"))
    levels = Spacing.choose(spacing).levels(process, 5)
    x = torch.zeros(SHAPE, dtype=torch.float64)
    for t, s in pairwise(levels):
        stop = Sampler.choose("ddpm").sample(denoise, [t, s], x, lambda: torch.ones_like(x))
        alpha, step = t.alpha / s.alpha, posterior(t, s)
        large = t.sigma**2 - alpha**2 * s.sigma**2
        exact = {"fixed_small": step.variance, "fixed_large": large}[variance] if s is not CLEAN else 0.0
        torch.testing.assert_close(stop, math.sqrt(exact) * torch.ones_like(x), rtol=1e-6, atol=1e-12)


# --- radicands and logarithms

WIDE = [
    pytest.param(ddpm(schedule="cosine"), id="cosine"),
    pytest.param(ddpm(schedule={"kind": "constant", "value": 0.07}), id="an alpha-bar of 1e-32"),
    pytest.param(Process.choose({"kind": "edm", "sigma_min": 1e-8, "sigma_max": 1e6}), id="edm"),
    pytest.param(Process.choose({"kind": "flow", "time_max": 1 - 1e-12}), id="flow"),
    pytest.param(ddpm(schedule="cosine", zero_terminal_snr=True), id="zero snr"),
]


@pytest.mark.parametrize("process", WIDE)
def test_no_radicand_rounds_below_zero(process):
    """NaN where the noise of an ancestral step, by rounding, is more than all that the level has.

    huggingface/diffusers#14213.
    """
    settings = [
        "ddpm",
        {"kind": "ddim", "eta": 1.0},
        "euler_ancestral",
        "dpm_2_ancestral",
        "dpmpp_2s_ancestral",
        "dpmpp_sde",
        "dpmpp_3m_sde",
        {"kind": "heun", "s_churn": 100.0},
        "restart",
    ]
    parts = torch.rand(150, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sort(dim=1).values
    parts = torch.cat([parts, torch.stack([parts[:, 0], torch.ones(150, dtype=torch.float64)], dim=1)])
    draw = noise_of()
    for low, high in parts:
        s, t = (process.level(process.at(part.view(1)).item()) for part in (low, high))
        if s == t:
            continue
        levels = Levels([t, s, CLEAN], process.nearest)
        for kind in settings:
            end = Sampler.choose(kind).sample(one_point(POINT), levels, draw(), draw)
            assert end.dtype == torch.float64  # a root of a negative number would be complex
            assert (end - POINT).abs().max() < 1e-6


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("count", [1, 2, 3, 10])
@pytest.mark.parametrize("process", ["flow", {"kind": "ddpm", "zero_terminal_snr": True}])
def test_a_start_without_signal_divides_by_nothing(sampler, count, process):
    """Black images of a process without signal at its end: its noise-to-signal ratio is infinite.

    huggingface/diffusers#5103.
    """
    process = Process.choose(process)
    levels, draw = Spacing.choose("trailing").levels(process, count), noise_of()
    assert levels[0].alpha == 0
    for kind in ("velocity", "data", "flow", "edm"):
        objective = Objective(prediction=kind)
        denoise = make_denoise(lambda x, *_: 0.1 * x, objective, process, X0Rule.choose("clip"))
        end = sampler.sample(denoise, levels, draw(), draw)
        assert (end.abs() <= 1 + 1e-9).all()
    assert "says nothing of the image" in Prediction.choose("noise").refuses(process)


# --- weights of the loss


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_cuts_the_ratio_and_not_the_ratio_plus_one(gamma):
    """The weight of v is min(SNR, gamma) / (SNR + 1), also where there is no signal.

    huggingface/diffusers#5654 and #6307, kohya-ss/sd-scripts#934, TiankaiHang/Min-SNR-Diffusion-Training#3 and #4.
    """
    snr = torch.tensor([0.0, 1e-3, 0.5, 1.0, 4.0, 5.0, 6.0, 1e4], dtype=torch.float64)
    alpha, sigma = torch.sqrt(snr / (1 + snr)), torch.sqrt(1 / (1 + snr))
    weighting = LossWeighting.choose({"kind": "min_snr", "gamma": gamma})
    found = weighting.weight(alpha, sigma, Prediction.choose("velocity"))
    torch.testing.assert_close(found, snr.clamp(max=gamma) / (snr + 1), rtol=1e-9, atol=0)
    wrong = (snr + 1).clamp(max=gamma) / (snr + 1)
    assert (found - wrong).abs().max() > 0.04


# --- precision


@pytest.mark.parametrize("process", kinds_of(Process))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tables_stay_exact_whatever_was_noised_before(process, dtype):
    """Tables that are cast to the images' type and kept so, where the first levels round to no noise at all.

    huggingface/diffusers#3005, AUTOMATIC1111/stable-diffusion-webui#14071.
    """
    times = process.at(torch.linspace(0.001, 1, 7, dtype=torch.float64))
    before = process.alpha(times).clone(), process.sigma(times).clone()
    images = torch.zeros(7, 1, 2, 2, dtype=dtype)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            process.add_noise(images, images, times)
            again = process.model_copy()
            after = again.alpha(times), again.sigma(times)
            levels = Spacing.choose("trailing").levels(again, 7)
    finally:
        torch.set_default_dtype(default)
    assert all(torch.equal(a, b) and b.dtype == torch.float64 for a, b in zip(before, after, strict=True))
    assert levels == Spacing.choose("trailing").levels(process, 7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_threshold_is_found_in_every_type(dtype):
    """torch.quantile takes no half floats, and no more than 16 million values.

    huggingface/diffusers#1349.
    """
    x0 = torch.linspace(-4, 4, 1001).to(dtype).view(1, 1, 7, 143)
    found = X0Rule.choose({"kind": "dynamic_threshold", "quantile": 0.5}).apply(x0)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), (x0.float() / 2).clamp(-1, 1), rtol=0, atol=torch.finfo(dtype).eps)


# --- state


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nothing_of_a_walk_is_left_for_the_next(sampler):
    """A walk that takes the last estimates of the one before, which may be of another shape, or broke off.

    huggingface/diffusers#6631, #8711, #2376.
    """
    levels = Spacing.choose("trailing").levels(ddpm(), 6)

    def walk(shape):
        draw = noise_of(1, shape)
        return sampler.sample(gaussian(0.4, 0.5), levels, draw(), draw)

    def fails(x, level):
        if level is levels[3]:
            raise RuntimeError("out of memory")
        return gaussian(0.4, 0.5)(x, level)

    first = walk(SHAPE)
    walk((1, 3, 4, 4))
    draw = noise_of()
    with pytest.raises(RuntimeError, match="out of memory"):
        sampler.sample(fails, levels, draw(), draw)
    assert torch.equal(walk(SHAPE), first)


# --- the page


def test_the_page_names_tests_that_are_there():
    page = (Path(__file__).parents[2] / "docs" / "faults.md").read_text(encoding="utf-8")
    here = {name for name in globals() if name.startswith("test_")} - {"test_the_page_names_tests_that_are_there"}
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named == here
    for file, name in re.findall(r"`((?:samplers/)?test_\w+\.py)(?:::(\w+))?`", page):
        assert f"def {name}" in (Path(__file__).parent / file).read_text(encoding="utf-8") or not name
