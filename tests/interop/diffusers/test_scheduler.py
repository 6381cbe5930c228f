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

    def __init__(self, dtype=torch.float32):
        self.generator, self.dtype = torch.Generator().manual_seed(3), dtype

    def __call__(self, *args, **kwargs):
        return torch.randn(SHAPE, generator=self.generator).to(self.dtype)


STOCHASTIC = (
    *("ddpm", "ddim", "euler_discrete", "euler_ancestral_discrete", "k_dpm_2_ancestral_discrete"),
    *("dpmsolver_multistep", "edm_dpmsolver_multistep", "lcm", "tcd"),
)


def theirs(scheduler, steps, net, monkeypatch, dtype=torch.float32):
    draws = Draws(dtype)
    for module in STOCHASTIC:
        monkeypatch.setattr(f"diffusers.schedulers.scheduling_{module}.randn_tensor", draws)
    scheduler.set_timesteps(steps)
    if any(scheduler.config.get(f"use_{rule}_sigmas") for rule in RULES_OF_SIGMA):
        with_exact_sigmas(scheduler, steps)
    elif type(scheduler).__name__ == "DEISMultistepScheduler":
        with_exact_levels(scheduler)
    if hasattr(scheduler, "sigmas_up"):
        with_exact_noise(scheduler)
    start = draws() * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else draws()
    x = start
    for time in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(net(seen, time.expand(len(x))), time, x).prev_sample
    return x


RULES_OF_SIGMA = ("karras", "exponential", "beta")


def with_exact_sigmas(scheduler, steps):
    """Let a scheduler space sigma between exact ends: its own, in float32, are off by 1e-4, and few steps blow that up.

    What it shows the network are the times that it has found in float32.
    """
    times, found = scheduler.timesteps, scheduler.sigmas
    scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), 0)
    scheduler.set_timesteps(steps)
    assert torch.allclose(scheduler.sigmas, found, rtol=3e-4)
    assert (scheduler.timesteps - times).abs().max() <= 1
    scheduler.timesteps = times


def with_exact_noise(scheduler):
    """Split the noise of ancestral steps in float64: the deviation of the fresh part is a difference in float32."""

    def twice(values):
        return torch.cat([values[:1], values[1:].repeat_interleave(2), values[-1:]])

    sigmas = scheduler.sigmas[::2].double()
    assert torch.equal(twice(sigmas), scheduler.sigmas.double())
    after = torch.cat([sigmas[1:], sigmas[-1:]])
    up = torch.where(after > 0, after * (1 - (after / sigmas) ** 2).sqrt(), 0)
    down = torch.where(after > 0, after**2 / sigmas, 0)
    for name, exact in (("up", up), ("down", down), ("interpol", (sigmas * down).sqrt())):
        found = getattr(scheduler, f"sigmas_{name}")
        assert torch.allclose(twice(exact)[:-4], found.double()[:-4], rtol=0.05)
        setattr(scheduler, f"sigmas_{name}", twice(exact))
    scheduler.sigmas = scheduler.sigmas.double()


def with_exact_levels(scheduler):
    """Give DEIS its levels in float64: its third-order weights are differences that cost float32 four digits."""
    alpha_bar = torch.cumprod(1 - scheduler.betas.double(), 0)
    sigmas = ((1 - alpha_bar) / alpha_bar).sqrt()[scheduler.timesteps]
    assert torch.allclose(scheduler.sigmas[:-1].double(), sigmas, rtol=1e-4)
    scheduler.sigmas = torch.cat([sigmas, scheduler.sigmas[-1:].double()])


def ours(sampling, net, dtype=torch.float32):
    sample = Sample.model_validate(sampling.sample)
    process = Process.choose(sampling.process)
    denoise = make_denoise(net, Objective.model_validate(sampling.objective), process, sample.x0_rule)
    levels = sample.spacing.levels(process, sample.steps)
    return generate(denoise, sample.sampler, levels, Draws(dtype))


def assert_same(diffusers, name, config, steps, *, learned=False, dtype=torch.float32):
    scheduler = getattr(diffusers, name)(**config)
    content = json.loads(scheduler.to_json_string())
    read, ignored = read_scheduler(content, name, SOURCE)
    assert ignored == []
    sampling = sampling_of(read, steps, SOURCE, says_variance=learned)
    net = with_variance if learned else network
    with pytest.MonkeyPatch.context() as patch:
        expected = theirs(scheduler, steps, net, patch, dtype)
    found = ours(sampling, net, dtype)
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


SOLVERS = [
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
    ("DPMSolverSinglestepScheduler", {}),
    ("DPMSolverSinglestepScheduler", {"solver_order": 3, "solver_type": "heun"}),
    ("UniPCMultistepScheduler", {}),
    ("DEISMultistepScheduler", {}),
]


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("sigmas", ["karras", "exponential", "beta"])
@pytest.mark.parametrize(("name", "solver"), SOLVERS)
@pytest.mark.parametrize("steps", [1, 6, 20])
def test_solvers_that_space_sigma_and_show_rounded_times(diffusers, name, solver, sigmas, schedule, steps):
    config = {**solver, f"use_{sigmas}_sigmas": True, "beta_schedule": schedule}
    refused = refused_or_same(diffusers, name, config, steps)
    if schedule == "squaredcos_cap_v2":  # sigma falls from 20000 to 636 between its last two times
        return
    assert refused == (name.startswith("DEIS") and steps == 1)


def test_solvers_that_space_lambda(diffusers):
    assert_same(diffusers, "DPMSolverMultistepScheduler", {"use_lu_lambdas": True}, 12)


def test_multistep_solvers_that_end_with_noise(diffusers):
    config = {"final_sigmas_type": "sigma_min", "timestep_spacing": "trailing"}
    assert_same(diffusers, "DPMSolverMultistepScheduler", config, 12)
    assert_same(diffusers, "DPMSolverMultistepScheduler", {**config, "euler_at_final": True}, 20)
    assert_same(diffusers, "UniPCMultistepScheduler", config, 20)
    assert_same(diffusers, "UniPCMultistepScheduler", {**config, "solver_type": "bh1"}, 20)


@pytest.mark.parametrize("spacing", ["linspace", "trailing", "leading"])
def test_a_cosine_schedule_without_its_noisiest_times(diffusers, spacing):
    config = {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": spacing}
    assert not refused_or_same(diffusers, "DPMSolverMultistepScheduler", config, 10)
    config.pop("timestep_spacing")
    assert_same(diffusers, "DPMSolverSinglestepScheduler", config, 10)


@settings(SOME, max_examples=25)
@given(
    BETAS,
    st.sampled_from(["leading", "trailing", "linspace"]),
    st.sampled_from([4, 5, 10, 25]),
    st.sampled_from([0, 1]),
    st.booleans(),
    st.booleans(),
)
def test_pndm(diffusers, betas, spacing, steps, offset, to_one, skip):
    config = {**betas, "timestep_spacing": spacing, "set_alpha_to_one": to_one, "skip_prk_steps": skip}
    if spacing == "leading":
        config["steps_offset"] = offset
    refused = refused_or_same(diffusers, "PNDMScheduler", config, steps)
    no_middle = not skip and config["num_train_timesteps"] // steps % 2 == 1
    assert refused == (spacing == "linspace" or no_middle)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("sigmas", [None, "karras", "exponential", "beta"])
@pytest.mark.parametrize(
    ("name", "prediction", "steps"),
    [
        ("KDPM2DiscreteScheduler", "epsilon", 5),
        ("KDPM2DiscreteScheduler", "v_prediction", 20),
        ("KDPM2AncestralDiscreteScheduler", "epsilon", 12),
        ("KDPM2AncestralDiscreteScheduler", "v_prediction", 12),
    ],
)
def test_dpm_2(diffusers, name, prediction, steps, spacing, sigmas):
    config = {"prediction_type": prediction, "timestep_spacing": spacing}
    if sigmas:
        config[f"use_{sigmas}_sigmas"] = True
    # in float32, diffkit's own walk rounds by as much as the tolerance
    assert_same(diffusers, name, config, steps, dtype=torch.float64)


@settings(SOME, max_examples=25)
@given(
    BETAS,
    PREDICTIONS,
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["midpoint", "heun"]),
    st.sampled_from([1, 2, 3, 4, 5, 6, 20]),
    st.booleans(),
)
def test_singlestep(diffusers, betas, prediction, order, solver, steps, threshold):
    config = {**betas, "solver_order": order, "solver_type": solver, "prediction_type": prediction}
    if threshold:
        config |= {"thresholding": True, "sample_max_value": 1.5}
    assert_same(diffusers, "DPMSolverSinglestepScheduler", config, steps)


@settings(SOME, max_examples=25)
@given(BETAS, PREDICTIONS, RULES, st.sampled_from([1, 2, 4, 7, 50]), st.sampled_from(["LCM", "TCD"]))
def test_distilled(diffusers, betas, prediction, rule, steps, name):
    config = {**betas, **rule, "prediction_type": prediction}
    refused = refused_or_same(diffusers, f"{name}Scheduler", config, steps)
    assert refused == (name == "LCM" and steps == 50 and betas["num_train_timesteps"] == 500)


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
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "use_lu_lambdas": True}, "use_lu_lambdas"),
        (
            "DPMSolverMultistepScheduler",
            {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
            "final_sigmas_type.*from sigma_min to sigma_min",
        ),
        (
            "DPMSolverMultistepScheduler",
            {"final_sigmas_type": "sigma_min", "lower_order_final": False},
            "final_sigmas_type.*set euler_at_final = true",
        ),
        ("DEISMultistepScheduler", {"use_karras_sigmas": True, "solver_order": 3}, "lower_order_final"),
        ("PNDMScheduler", {"prediction_type": "v_prediction"}, "prediction_type"),
        ("PNDMScheduler", {"num_train_timesteps": 30}, "skip_prk_steps = false.*no time is halfway between two"),
        ("PNDMScheduler", {"num_train_timesteps": 5}, "10 steps cannot be taken"),
        ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type"),
        ("LCMScheduler", {"original_inference_steps": 5}, "original_inference_steps = 5"),
        ("LCMScheduler", {"timestep_scaling": 1.0}, "timestep_scaling = 1.0.*still holds 3e-05 of the noisy image"),
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
