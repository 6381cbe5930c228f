"""Whole sampling runs agree with diffusers' schedulers, fed with the same noise; what has no counterpart is refused."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from diffkit.diffusion.denoiser import make_denoise
from diffkit.diffusion.generate import generate
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.process import Process
from diffkit.errors import RecipeError
from diffkit.interop.diffusers.scheduler import sampling_of
from diffkit.interop.diffusers.scheduler_config import KNOWN, REFUSED, read_scheduler
from diffkit.recipe.tables import Sample

SOURCE = Path("scheduler_config.json")
SHAPE = (2, 3, 4, 4)
SOME = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def network(x, time, label=None):
    """A smooth function of x and time, whose steps don't blow a rounding up."""
    return torch.sin(1.3 * x + time.to(x.dtype)[:, None, None, None] / 300) + 0.2 * x


def with_variance(x, time, label=None):
    return torch.cat((network(x, time), torch.sin(2 * x)), dim=1)


class Draws:
    """The same noise for both."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(3)

    def __call__(self, *args, **kwargs):
        return torch.randn(SHAPE, generator=self.generator)


def theirs(scheduler, steps, net, monkeypatch):
    draws = Draws()
    for module in ("ddpm", "ddim", "euler_discrete", "euler_ancestral_discrete", "dpmsolver_multistep"):
        monkeypatch.setattr(f"diffusers.schedulers.scheduling_{module}.randn_tensor", draws)
    monkeypatch.setattr("diffusers.schedulers.scheduling_edm_dpmsolver_multistep.randn_tensor", draws)
    scheduler.set_timesteps(steps)
    if type(scheduler).__name__ == "DEISMultistepScheduler":
        with_exact_levels(scheduler)
    start = draws() * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else draws()
    x = start
    for time in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(net(seen, time.expand(len(x))), time, x).prev_sample
    return x


def with_exact_levels(scheduler):
    """Give DEIS its levels in float64: its third-order weights are differences that cost float32 four digits."""
    alpha_bar = torch.cumprod(1 - scheduler.betas.double(), 0)
    sigmas = ((1 - alpha_bar) / alpha_bar).sqrt()[scheduler.timesteps]
    assert torch.allclose(scheduler.sigmas[:-1].double(), sigmas, rtol=1e-4)
    scheduler.sigmas = torch.cat([sigmas, scheduler.sigmas[-1:].double()])


def ours(sampling, net):
    sample = Sample.model_validate(sampling.sample)
    process = Process.choose(sampling.process)
    denoise = make_denoise(net, Objective.model_validate(sampling.objective), process, sample.x0_rule)
    levels = sample.spacing.levels(process, sample.steps)
    return generate(denoise, sample.sampler, levels, Draws())


def assert_same(diffusers, name, config, steps, *, learned=False):
    scheduler = getattr(diffusers, name)(**config)
    content = json.loads(scheduler.to_json_string())
    read, ignored = read_scheduler(content, name, SOURCE)
    assert ignored == []
    sampling = sampling_of(read, steps, SOURCE, says_variance=learned)
    net = with_variance if learned else network
    with pytest.MonkeyPatch.context() as patch:
        expected = theirs(scheduler, steps, net, patch)
    found = ours(sampling, net)
    assert expected.isfinite().all()
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * scale)


BETAS = st.fixed_dictionaries(
    {
        "num_train_timesteps": st.sampled_from([1000, 500]),
        "beta_schedule": st.sampled_from(["linear", "scaled_linear"]),
        "beta_end": st.sampled_from([0.02, 0.012]),
    }
)
RULES = st.one_of(
    st.just({"clip_sample": False}),
    st.just({"clip_sample": True}),
    st.just({"clip_sample": True, "clip_sample_range": 1.5}),
    st.just({"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.6}),
    st.just({"thresholding": True}),
)
PREDICTIONS = st.sampled_from(["epsilon", "sample", "v_prediction"])


def refused_or_same(diffusers, name, config, steps, **more):
    """What is not refused is the same. Returns whether it was refused."""
    try:
        assert_same(diffusers, name, config, steps, **more)
    except RecipeError:
        return True
    return False


@SOME
@given(
    BETAS,
    RULES,
    PREDICTIONS,
    st.sampled_from(["leading", "trailing", "linspace"]),
    st.sampled_from(["fixed_small", "fixed_small_log", "fixed_large"]),
    st.sampled_from([2, 7, 10, 25]),
    st.sampled_from([0, 1]),
)
def test_ddpm(diffusers, betas, rule, prediction, spacing, variance, steps, offset):
    config = {**betas, **rule, "prediction_type": prediction, "timestep_spacing": spacing, "variance_type": variance}
    if spacing == "leading":
        config["steps_offset"] = offset
    last_is_zero = spacing == "linspace" or (spacing == "leading" and offset == 0)
    refused = refused_or_same(diffusers, "DDPMScheduler", config, steps)
    assert refused == (variance == "fixed_large" and not last_is_zero)


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "sigmoid"])
def test_ddpm_with_other_schedules(diffusers, schedule):
    assert_same(diffusers, "DDPMScheduler", {"beta_schedule": schedule}, 20)


@pytest.mark.parametrize("name", ["DDPMScheduler"])
def test_learned_variance(diffusers, name):
    assert_same(diffusers, name, {"variance_type": "learned_range"}, 20, learned=True)


@SOME
@given(
    BETAS,
    RULES,
    PREDICTIONS,
    st.sampled_from(["leading", "trailing", "linspace"]),
    st.sampled_from([2, 7, 10, 25]),
    st.sampled_from([0, 1]),
    st.booleans(),
)
def test_ddim(diffusers, betas, rule, prediction, spacing, steps, offset, to_one):
    config = {**betas, **rule, "prediction_type": prediction, "timestep_spacing": spacing, "set_alpha_to_one": to_one}
    if spacing == "leading":
        config["steps_offset"] = offset
    refused = refused_or_same(diffusers, "DDIMScheduler", config, steps)
    divides = config["num_train_timesteps"] % steps == 0
    expected = spacing == "linspace" or (spacing == "trailing" and not divides)
    assert refused == (expected or (spacing == "leading" and offset == 0 and not to_one))


def test_ddim_with_no_signal_at_the_end(diffusers):
    config = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    assert_same(diffusers, "DDIMScheduler", config, 10)


@settings(SOME, max_examples=35)
@given(
    BETAS,
    st.sampled_from(["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"]),
    st.sampled_from(["epsilon", "v_prediction"]),
    st.sampled_from(["leading", "trailing", "linspace"]),
    st.sampled_from([3, 10, 21]),
    st.sampled_from([None, "karras", "exponential", "beta"]),
)
def test_in_ratios(diffusers, betas, name, prediction, spacing, steps, sigmas):
    # in three steps down from a sigma of 157, Heun's method blows rounding up: diffkit's own walks in float32
    # and float64 then differ by 2e-3
    assume(steps > 3 or name != "HeunDiscreteScheduler")
    config = {**betas, "prediction_type": prediction, "timestep_spacing": spacing}
    if sigmas and name != "EulerAncestralDiscreteScheduler":
        config[f"use_{sigmas}_sigmas"] = True
    assert_same(diffusers, name, config, steps)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [5, 20])
def test_lms(diffusers, spacing, steps):
    assert_same(diffusers, "LMSDiscreteScheduler", {"timestep_spacing": spacing}, steps)


def test_heun_that_clips(diffusers):
    assert_same(diffusers, "HeunDiscreteScheduler", {"clip_sample": True, "timestep_spacing": "trailing"}, 12)


def test_euler_that_ends_with_noise(diffusers):
    assert_same(
        diffusers, "EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min", "timestep_spacing": "trailing"}, 9
    )


@settings(SOME, max_examples=35)
@given(
    BETAS,
    st.sampled_from(
        [
            ("DPMSolverMultistepScheduler", {"solver_order": 1}),
            ("DPMSolverMultistepScheduler", {"solver_order": 2}),
            ("DPMSolverMultistepScheduler", {"solver_order": 2, "solver_type": "heun"}),
            ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
            ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
            ("UniPCMultistepScheduler", {"solver_order": 1}),
            ("UniPCMultistepScheduler", {"solver_order": 2}),
            ("UniPCMultistepScheduler", {"solver_order": 3}),
            ("DEISMultistepScheduler", {"solver_order": 1}),
            ("DEISMultistepScheduler", {"solver_order": 2}),
            ("DEISMultistepScheduler", {"solver_order": 3}),
            ("DEISMultistepScheduler", {"solver_order": 3, "lower_order_final": False}),
        ]
    ),
    PREDICTIONS,
    st.booleans(),
    st.sampled_from(["leading", "trailing", "linspace"]),
    st.sampled_from([5, 10, 20]),
)
def test_multistep(diffusers, betas, which, prediction, threshold, spacing, steps):
    name, solver = which
    config = {**betas, **solver, "prediction_type": prediction, "timestep_spacing": spacing}
    if threshold:
        config |= {"thresholding": True, "sample_max_value": 1.5}
    assert_same(diffusers, name, config, steps)


@pytest.mark.parametrize("sigmas", ["karras", "exponential"])
@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("EDMEulerScheduler", {}),
        ("EDMDPMSolverMultistepScheduler", {"solver_order": 1}),
        ("EDMDPMSolverMultistepScheduler", {"solver_order": 2}),
        (
            "EDMDPMSolverMultistepScheduler",
            {"solver_order": 2, "solver_type": "heun", "algorithm_type": "sde-dpmsolver++"},
        ),
    ],
)
@pytest.mark.parametrize("steps", [6, 20])
def test_edm(diffusers, name, solver, sigmas, steps):
    assert_same(diffusers, name, {**solver, "sigma_schedule": sigmas, "sigma_max": 10.0}, steps)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 8, 30])
def test_flow(diffusers, shift, steps):
    assert_same(diffusers, "FlowMatchEulerDiscreteScheduler", {"shift": shift}, steps)


def test_settings_that_a_file_leaves_out_are_those_of_diffusers(diffusers):
    for name, config in KNOWN.items():
        theirs = json.loads(getattr(diffusers, name)().to_json_string())
        assert read_scheduler(theirs, name, SOURCE)[0] == config(), name


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_other_schedulers_are_refused_with_a_reason(name):
    with pytest.raises(RecipeError, match=rf"_class_name = .{name}"):
        read_scheduler({}, name, SOURCE)


@pytest.mark.parametrize(
    ("name", "config", "named"),
    [
        ("DDPMScheduler", {"variance_type": "learned"}, "variance_type"),
        ("DDPMScheduler", {"variance_type": "learned_range"}, "variance_type.*as many channels as it takes"),
        ("DDPMScheduler", {"variance_type": "fixed_large_log"}, "variance_type"),
        ("DDPMScheduler", {"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ("DDPMScheduler", {"beta_schedule": "laplace"}, "beta_schedule"),
        ("DDPMScheduler", {"num_train_timesteps": 5}, "num_train_timesteps = 5.*10 steps cannot be taken"),
        ("DDPMScheduler", {"beta_strat": 0.1}, "beta_strat.*\n.*unknown setting. Did you mean 'beta_start'"),
        ("DDIMScheduler", {"prediction_type": "flow"}, "prediction_type"),
        ("EulerDiscreteScheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}, "interpolation_type"),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "use_beta_sigmas": True}, "use_beta_sigmas"),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}, "solver_order = 3"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}, "algorithm_type"),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "use_karras_sigmas"),
        ("DPMSolverMultistepScheduler", {"lambda_min_clipped": -5.1}, "lambda_min_clipped"),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}, "final_sigmas_type"),
        (
            "DPMSolverMultistepScheduler",
            {"solver_order": 1, "algorithm_type": "sde-dpmsolver++"},
            "solver_order = 1",
        ),
        ("DPMSolverMultistepScheduler", {"variance_type": "learned_range"}, "variance_type"),
        ("UniPCMultistepScheduler", {"solver_type": "bh1"}, "solver_type"),
        ("UniPCMultistepScheduler", {"disable_corrector": [0]}, "disable_corrector"),
        ("UniPCMultistepScheduler", {"predict_x0": False}, "predict_x0"),
        ("EDMEulerScheduler", {"prediction_type": "v_prediction"}, "prediction_type"),
        ("EDMEulerScheduler", {"final_sigmas_type": "sigma_min"}, "final_sigmas_type"),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, "use_dynamic_shifting"),
    ],
)
def test_settings_that_cannot_be_expressed_are_refused_by_name(name, config, named):
    with pytest.raises(RecipeError, match=f"(?s){named}"):
        sampling_of(read_scheduler(config, name, SOURCE)[0], 10, SOURCE, says_variance=False)


def test_settings_of_other_schedulers_are_ignored_and_listed():
    _, ignored = read_scheduler({"variance_type": "fixed_large", "skip_prk_steps": True}, "DDIMScheduler", SOURCE)
    assert len(ignored) == 2
    assert "variance_type = fixed_large is of other schedulers" in ignored[1]
