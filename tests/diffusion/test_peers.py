"""Agreement with diffusers, step by step, and where it differs from the mathematics."""

import math
from itertools import pairwise

import pytest
import torch

from diffkit.diffusion.denoiser import make_denoise
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.process import CLEAN, Process
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.spacing import Spacing
from diffkit.diffusion.x0_rule import X0Rule

diffusers = pytest.importorskip("diffusers")

SHAPE = (2, 3, 4, 4)
PROCESS = Process.choose("ddpm")
PREDICTIONS = {"noise": "epsilon", "data": "sample", "velocity": "v_prediction"}
COUNTS = [1, 3, 10, 50, 999]


def network(x, time, label=None):
    """Any smooth function of x and time will do."""
    return torch.sin(1.3 * x + time[:, None, None, None] / 300) + 0.2 * x


def peer(kind, **settings):
    """Make a scheduler with exact tables: its own are float32, which costs up to 1e-3 of sigma at small times."""
    scheduler = getattr(diffusers, kind)(beta_schedule="linear", **settings)
    scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod = (
        PROCESS.betas,
        1 - PROCESS.betas,
        PROCESS.alphas_cumprod,
    )
    return scheduler


def theirs(scheduler, count, **step):
    """Sample with a diffusers scheduler, and return every x on the way."""
    scheduler.set_timesteps(count)
    draw = torch.Generator().manual_seed(1)
    xs = [start()]
    for time in scheduler.timesteps:
        output = network(xs[-1], torch.full((2,), float(time)))
        xs.append(scheduler.step(output, time, xs[-1], generator=draw, **step).prev_sample)
    return scheduler.timesteps.tolist(), xs


def ours(sampler, spacing, xs, *, prediction="noise", variance="fixed_small", rule="clip"):
    """Take each of diffkit's steps from the x that diffusers had there, with the noise that it drew."""
    denoise = make_denoise(network, Objective(prediction=prediction, variance=variance), PROCESS, X0Rule.choose(rule))
    draw = torch.Generator().manual_seed(1)
    levels = Spacing.choose(spacing).levels(PROCESS, len(xs) - 1)
    steps = zip(pairwise(levels), xs, strict=False)
    take = Sampler.choose(sampler).sample
    after = [take(denoise, step, x, lambda: torch.randn(SHAPE, generator=draw)) for step, x in steps]
    return [int(level.time) for level in levels[:-1]], after


def start():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def assert_same_steps(sampler, spacing, expected, **settings):
    times, xs = expected
    found_times, after = ours(sampler, spacing, xs, **settings)
    assert found_times == times
    for x, y in zip(after, xs[1:], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


def schedule_table(kind):
    if kind == "cosine":
        return Process.choose({"kind": "ddpm", "schedule": "cosine"})
    return Process.choose({"kind": "ddpm", "schedule": {"kind": kind, "start": 1e-4, "end": 0.02}})


@pytest.mark.parametrize(
    ("kind", "name"),
    [("linear", "linear"), ("scaled_linear", "scaled_linear"), ("cosine", "squaredcos_cap_v2"), ("sigmoid", "sigmoid")],
)
def test_tables(kind, name):
    peers = diffusers.DDPMScheduler(beta_schedule=name)
    process = schedule_table(kind)
    torch.testing.assert_close(process.betas.float(), peers.betas, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(process.alphas_cumprod.float(), peers.alphas_cumprod, rtol=5e-5, atol=1e-7)


def test_add_noise():
    x0, noise = start(), start().flip(0)
    time = torch.tensor([3, 900])
    torch.testing.assert_close(PROCESS.add_noise(x0, noise, time), peer("DDPMScheduler").add_noise(x0, noise, time))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    ("spacing", "variance"),
    [("leading", "fixed_small"), ("leading", "fixed_large"), ("trailing", "fixed_small"), ("linspace", "fixed_small")],
)
def test_ddpm(count, spacing, variance):
    count = max(count, 2) if spacing == "linspace" else count  # a single step: see below
    scheduler = peer("DDPMScheduler", timestep_spacing=spacing, variance_type=variance)
    assert_same_steps("ddpm", spacing, theirs(scheduler, count), variance=variance)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddpm_with_every_prediction(prediction):
    scheduler = peer("DDPMScheduler", prediction_type=PREDICTIONS[prediction])
    assert_same_steps("ddpm", "leading", theirs(scheduler, 20), prediction=prediction)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim(count, eta):
    scheduler = peer("DDIMScheduler", timestep_spacing="leading")
    expected = theirs(scheduler, count, eta=eta, use_clipped_model_output=True)
    assert_same_steps({"kind": "ddim", "eta": eta}, "leading", expected)


@pytest.mark.parametrize("rule", ["none", {"kind": "dynamic_threshold", "quantile": 0.9}])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_with_other_rules_and_every_prediction(rule, prediction):
    thresholding = rule != "none"
    scheduler = peer(
        "DDIMScheduler",
        prediction_type=PREDICTIONS[prediction],
        clip_sample=False,
        thresholding=thresholding,
        dynamic_thresholding_ratio=0.9,
        sample_max_value=1e6,
    )
    expected = theirs(scheduler, 20, use_clipped_model_output=True)
    assert_same_steps("ddim", "leading", expected, rule=rule, prediction=prediction)


@pytest.mark.parametrize("count", [10, 50, 100])
def test_ddim_trailing_where_the_steps_divide(count):
    scheduler = peer("DDIMScheduler", timestep_spacing="trailing")
    assert_same_steps("ddim", "trailing", theirs(scheduler, count, use_clipped_model_output=True))


def test_leading_with_offset():
    scheduler = peer("DDIMScheduler", timestep_spacing="leading", steps_offset=1)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == Spacing.choose({"kind": "leading", "offset": 1}).times(50, 1000)


class TestWhereDiffusersDiffers:
    def test_ddim_takes_the_wrong_previous_time_under_linspace(self):
        """From 999 it steps as if to 999 - floor(T / n) = 899, although 888 is visited next."""
        scheduler = peer("DDIMScheduler", timestep_spacing="linspace")
        times, xs = theirs(scheduler, 10, use_clipped_model_output=True)
        assert times[:2] == [999, 888]
        denoise = make_denoise(network, Objective(), PROCESS, X0Rule.choose("clip"))
        goes_to = [PROCESS.level(999), PROCESS.level(999 - 100)]
        wrong = Sampler.choose("ddim").sample(denoise, goes_to, xs[0], start)
        torch.testing.assert_close(xs[1], wrong, rtol=1e-5, atol=1e-5)
        _, right = ours("ddim", "linspace", xs)
        assert (right[0] - wrong).abs().max() > 1e-3

    def test_ddim_ends_with_residual_noise_under_trailing(self):
        """With 3 steps the last time is 332, and 332 - 333 < 0 is clean; with 7 it is 142, and 142 - 142 = 0 is not."""
        scheduler = peer("DDIMScheduler", timestep_spacing="trailing")
        times, xs = theirs(scheduler, 7, use_clipped_model_output=True)
        assert times[-1] == 142
        denoise = make_denoise(network, Objective(), PROCESS, X0Rule.choose("clip"))
        wrong = Sampler.choose("ddim").sample(denoise, [PROCESS.level(142), PROCESS.level(0)], xs[-2], start)
        right = Sampler.choose("ddim").sample(denoise, [PROCESS.level(142), CLEAN], xs[-2], start)
        torch.testing.assert_close(xs[-1], wrong, rtol=1e-5, atol=1e-5)
        assert (right - wrong).abs().max() > 5e-3

    def test_ddpm_adds_noise_at_the_end_with_fixed_large(self):
        """Its last step is noiseless at time 0 only; trailing spacing ends at another time."""
        scheduler = peer("DDPMScheduler", timestep_spacing="trailing", variance_type="fixed_large")
        times, xs = theirs(scheduler, 10)
        _, right = ours("ddpm", "trailing", xs, variance="fixed_large")
        assert times[-1] == 99
        for x, y in zip(xs[1:-1], right[:-1], strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
        extra = (xs[-1] - right[-1]).std().item()
        assert extra == pytest.approx(PROCESS.level(99).sigma, rel=0.3)

    def test_linspace_of_one_step_starts_without_noise(self):
        scheduler = peer("DDPMScheduler", timestep_spacing="linspace")
        scheduler.set_timesteps(1)
        assert scheduler.timesteps.tolist() == [0]
        assert Spacing.choose("linspace").times(1, 1000) == [999]

    def test_float32_tables_lose_the_first_noise_levels(self):
        scheduler = diffusers.DDPMScheduler(beta_schedule="linear")
        wrong = (1 - scheduler.alphas_cumprod[0]).sqrt().item()
        assert PROCESS.level(0).sigma == pytest.approx(0.01, rel=1e-15)
        assert math.isclose(wrong, 0.01, rel_tol=1e-3)
        assert not math.isclose(wrong, 0.01, rel_tol=1e-5)


EDM = Process.choose("edm")


class TestEdm:
    @pytest.mark.parametrize("sigma", [0.002, 0.5, 3.0, 80.0])
    @pytest.mark.parametrize("kind", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
    def test_preconditioning(self, kind, sigma):
        scheduler = getattr(diffusers, kind)()
        x, output = start() * sigma, start().flip(0)
        level = EDM.level(sigma)
        theirs_in = scheduler.precondition_inputs(x, sigma)
        alpha, sigmas = torch.ones(1, dtype=torch.float64), torch.tensor([sigma], dtype=torch.float64)
        torch.testing.assert_close(EDM.input_scale(alpha, sigmas).float() * x, theirs_in)
        assert level.time == pytest.approx(scheduler.precondition_noise(sigma).item(), rel=1e-5)
        prediction = Objective(prediction="edm").prediction
        found = prediction.x0(output, x, level.alpha, level.sigma)
        torch.testing.assert_close(found, scheduler.precondition_outputs(x, output, sigma), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("count", [2, 10, 50])
    @pytest.mark.parametrize("spacing", ["karras", "exponential"])
    def test_levels(self, spacing, count):
        scheduler = diffusers.EDMEulerScheduler(sigma_schedule=spacing)
        scheduler.set_timesteps(count)
        levels = Spacing.choose(spacing).levels(EDM, count)
        assert [level.sigma for level in levels] == pytest.approx(scheduler.sigmas.tolist(), rel=1e-5)
        assert [level.time for level in levels[:-1]] == pytest.approx(scheduler.timesteps.tolist(), rel=1e-5, abs=1e-6)

    def test_euler(self):
        """Euler's method in x and sigma is DDIM on this process."""
        scheduler = diffusers.EDMEulerScheduler()
        scheduler.set_timesteps(10)
        x = start() * 80
        denoise = make_denoise(network, Objective(prediction="edm"), EDM, X0Rule.choose("none"))
        levels = Spacing.choose("karras").levels(EDM, 10)
        for time, step in zip(scheduler.timesteps, pairwise(levels), strict=True):
            output = network(scheduler.scale_model_input(x, time), time.expand(2))
            after = scheduler.step(output, time, x).prev_sample
            found = Sampler.choose("ddim").sample(denoise, step, x, start)
            torch.testing.assert_close(found, after, rtol=2e-5, atol=2e-5)
            x = after

    @pytest.mark.parametrize("count", [2, 10, 40])
    def test_spacings_of_a_discrete_process_round_these(self, count):
        for spacing, flag in [("karras", "use_karras_sigmas"), ("exponential", "use_exponential_sigmas")]:
            scheduler = peer("EulerDiscreteScheduler", timestep_spacing="linspace", **{flag: True})
            scheduler.set_timesteps(count)
            levels = Spacing.choose(spacing).levels(PROCESS, count)[:-1]
            times = [level.time for level in levels]
            # theirs are real times between ours; near the clean end, several of theirs may be one of ours
            wanted = scheduler.timesteps.tolist()
            apart = [i for i in range(count) if i + 1 == count or wanted[i] - wanted[i + 1] > 2]
            assert [times[i] for i in apart[:-1]] == pytest.approx([wanted[i] for i in apart[:-1]], abs=1.01)


class TestFlow:
    @pytest.mark.parametrize("count", [2, 10, 50])
    def test_levels(self, count):
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(count)
        levels = Spacing.choose("linspace").levels(Process.choose("flow"), count)
        assert [level.sigma for level in levels] == pytest.approx(scheduler.sigmas.tolist(), rel=1e-5)
        assert [level.time for level in levels[:-1]] == pytest.approx(scheduler.timesteps.tolist(), rel=1e-5)

    @pytest.mark.parametrize("shift", [1.0, 3.0])
    def test_levels_with_a_shift(self, shift):
        """Passed its own sigmas, which it then shifts: the trailing levels."""
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(sigmas=[1 - i / 20 for i in range(20)])
        levels = Spacing.choose("trailing").levels(Process.choose({"kind": "flow", "shift": shift}), 20)
        assert [level.sigma for level in levels] == pytest.approx(scheduler.sigmas.tolist(), rel=1e-5)
        assert [level.time for level in levels[:-1]] == pytest.approx(scheduler.timesteps.tolist(), rel=1e-5)

    def test_where_diffusers_differs_it_shifts_the_last_level_twice(self):
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        scheduler.set_timesteps(10)
        once = Spacing.choose("linspace").levels(Process.choose({"kind": "flow", "shift": 3.0}), 10)[-2].sigma
        assert once == pytest.approx(3 * 0.001 / 1.002, rel=1e-12)
        assert scheduler.sigmas[-2].item() == pytest.approx(3 * once / (1 + 2 * once), rel=1e-5)

    def test_euler(self):
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(10)
        process, x = Process.choose("flow"), start()
        denoise = make_denoise(network, Objective(prediction="flow"), process, X0Rule.choose("none"))
        levels = Spacing.choose("linspace").levels(process, 10)
        for time, step in zip(scheduler.timesteps, pairwise(levels), strict=True):
            after = scheduler.step(network(x, time.expand(2)), time, x).prev_sample
            found = Sampler.choose("ddim").sample(denoise, step, x, start)
            torch.testing.assert_close(found, after, rtol=1e-5, atol=1e-5)
            x = after


def test_zero_terminal_snr():
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True, beta_start=0.00085)
    process = Process.choose(
        {"kind": "ddpm", "zero_terminal_snr": True, "schedule": {"kind": "scaled_linear", "end": 0.02}}
    )
    torch.testing.assert_close(process.alphas_cumprod.float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-6)
