"""The DDPM process against the paper's equations."""

import math
from fractions import Fraction
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffkit.diffusion.posterior import posterior, transition
from diffkit.diffusion.process import CLEAN, Level, Process
from diffkit.schedules.base import BetaSchedule
from diffkit.spec import register, unregister
from diffkit.testing import kinds_of


def ddpm(**settings):
    return Process.choose({"kind": "ddpm", **settings})


schedules = st.sampled_from(sorted(BetaSchedule.kinds))


def test_alpha_bar_of_the_paper():
    alpha_bar = ddpm().alphas_cumprod
    assert alpha_bar[499].item() == pytest.approx(0.078587, abs=5e-7)
    assert alpha_bar[999].item() == pytest.approx(4.03583e-5, abs=5e-11)


def test_alpha_bar_is_the_exact_product_to_double_precision():
    process = ddpm()
    exact = Fraction(1)
    for t, beta in enumerate(process.betas.tolist()[:400]):
        exact *= 1 - Fraction(beta)
        exact = exact.limit_denominator(10**40)
        if t in (0, 1, 10, 399):
            level = process.level(t)
            assert level.alpha == pytest.approx(math.sqrt(exact), rel=1e-15)
            assert level.sigma == pytest.approx(math.sqrt(1 - exact), rel=1e-15)


def test_sigma_does_not_cancel_where_there_is_little_noise():
    process = ddpm(steps=2, schedule={"kind": "constant", "value": 1e-14})
    assert process.level(0).sigma == pytest.approx(1e-7, rel=1e-15)
    assert process.log_snr(torch.tensor([0])).item() == pytest.approx(-math.log(1e-14), rel=1e-15)


@settings(deadline=None)
@given(kind=schedules, steps=st.integers(1, 1200))
def test_alpha_bar_falls_strictly_from_1_towards_0(kind, steps):
    process = ddpm(steps=steps, schedule=kind)
    alpha_bar = process.alphas_cumprod
    times = torch.arange(steps)
    assert alpha_bar[0] < 1
    assert alpha_bar[-1] > 0
    assert (alpha_bar.diff() < 0).all()
    assert (process.sigma(times).diff() >= 0).all()
    assert (process.log_snr(times).diff() < 0).all()
    torch.testing.assert_close(process.alpha(times) ** 2 + process.sigma(times) ** 2, torch.ones_like(alpha_bar))
    general = Process.log_snr(process, times)
    torch.testing.assert_close(process.log_snr(times), general, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(kind=schedules, steps=st.integers(2, 300), data=st.data())
def test_noise_of_many_steps_is_composed_of_single_ones(kind, steps, data):
    process = ddpm(steps=steps, schedule=kind)
    time = data.draw(st.integers(0, steps - 1))
    mean, variance = 1.0, 0.0
    for beta in process.betas[: time + 1].tolist():  # eq. 2, again and again
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
    level = process.level(time)
    assert level.alpha == pytest.approx(mean, rel=1e-11)
    assert level.sigma**2 == pytest.approx(variance, rel=1e-11)


@settings(deadline=None)
@given(kind=schedules, data=st.data())
def test_transition_between_neighbours_is_beta(kind, data):
    process = ddpm(steps=200, schedule=kind)
    time = data.draw(st.integers(1, 199))
    alpha, variance = transition(process.level(time), process.level(time - 1))
    beta = process.betas[time].item()
    assert variance == pytest.approx(beta, rel=1e-9)
    assert alpha == pytest.approx(math.sqrt(1 - beta), rel=1e-12)


@settings(deadline=None)
@given(kind=schedules, x0=st.floats(-1, 1), x_t=st.floats(-3, 3), data=st.data())
def test_posterior_is_bayes_rule(kind, x0, x_t, data):
    process = ddpm(steps=200, schedule=kind)
    s = data.draw(st.integers(0, 198))
    t = data.draw(st.integers(s + 1, 199))
    at_t, at_s = process.level(t), process.level(s)
    # prior N(alpha_s x0, sigma_s²) and likelihood N(a x_s, v), multiplied as precisions
    a = math.prod(math.sqrt(1 - beta) for beta in process.betas[s + 1 : t + 1].tolist())
    v = 1 - a**2
    precision = 1 / at_s.sigma**2 + a**2 / v
    mean = (at_s.alpha * x0 / at_s.sigma**2 + a * x_t / v) / precision
    found = posterior(at_t, at_s)
    assert found.x0 * x0 + found.xt * x_t == pytest.approx(mean, rel=1e-7, abs=1e-9)
    assert found.variance == pytest.approx(1 / precision, rel=1e-7)


def test_posterior_is_the_papers_equation_7():
    process = ddpm()
    alpha_bar, beta = process.alphas_cumprod, process.betas
    t = 321
    found = posterior(process.level(t), process.level(t - 1))
    assert found.x0 == pytest.approx((alpha_bar[t - 1].sqrt() * beta[t] / (1 - alpha_bar[t])).item(), rel=1e-10)
    expected = (1 - beta[t]).sqrt() * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
    assert found.xt == pytest.approx(expected.item(), rel=1e-10)
    assert found.variance == pytest.approx(((1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta[t]).item(), rel=1e-10)


def test_posterior_at_the_clean_end_is_x0():
    assert posterior(ddpm().level(700), CLEAN) == (1.0, 0.0, 0.0)


def test_posterior_holds_for_growing_noise_too():
    assert posterior(Level(1.0, 1.0, 2.0), Level(0.0, 1.0, 1.0)) == (0.75, 0.25, 0.75)


def evenly(count):
    return torch.linspace(0, 1, count, dtype=torch.float64)


@pytest.mark.parametrize("process", kinds_of(Process))
class TestEveryProcess:
    def test_levels(self, process):
        times = process.at(evenly(1000))
        alpha, sigma = process.alpha(times), process.sigma(times)
        assert alpha.dtype == sigma.dtype == torch.float64
        assert alpha.shape == sigma.shape == times.shape
        assert (alpha.diff() <= 0).all()
        assert (sigma.diff() > 0).all()
        assert (sigma > 0).all()
        torch.testing.assert_close(process.log_snr(times), 2 * (alpha.log() - sigma.log()), rtol=1e-9, atol=1e-9)
        level = process.level(times[7].item())
        seen = process.network_time(times)[7].item()
        assert (level.time, level.alpha, level.sigma) == (seen, alpha[7].item(), sigma[7].item())

    def test_times_follow_from_the_log_snr(self, process):
        times = process.at(evenly(1000))[1:].double()
        again = process.time_of(process.log_snr(times))
        torch.testing.assert_close(again, times, rtol=1e-9, atol=0)
        assert process.nearest(process.log_snr(times)[200].item() / 2).sigma == pytest.approx(
            process.sigma(times)[200].item(), rel=1e-9
        )

    def test_real_times_lie_between(self, process):
        times = process.at(evenly(50))[:-1].double()
        times = (times[1:] + times[:-1]) / 2 + 0.25 * times.diff()
        snr = process.log_snr(times)
        assert (snr.diff() < 0).all()
        torch.testing.assert_close(process.time_of(snr), times, rtol=1e-9, atol=0)
        torch.testing.assert_close(
            snr, 2 * torch.log(process.alpha(times) / process.sigma(times)), rtol=1e-9, atol=1e-9
        )

    def test_the_input_scale_is_none_or_gives_images_of_the_assumed_size_the_variance_1(self, process):
        times = process.at(evenly(20))
        alpha, sigma = process.alpha(times), process.sigma(times)
        scale = process.input_scale(alpha, sigma)
        if scale is not None:
            variance = (alpha * process.assumed_std) ** 2 + sigma**2
            torch.testing.assert_close(scale**2 * variance, torch.ones_like(scale))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_add_noise_rounds_once(self, process, dtype):
        draw = torch.Generator().manual_seed(0)
        x0, noise = (torch.randn(4, 3, 16, 16, generator=draw).to(dtype) for _ in range(2))
        time = process.at(torch.tensor([0, 0.001, 0.5, 1], dtype=torch.float64))
        x = process.add_noise(x0, noise, time)
        assert x.dtype == dtype
        alpha, sigma = (v.view(4, 1, 1, 1) for v in (process.alpha(time), process.sigma(time)))
        exact = alpha * x0.double() + sigma * noise.double()
        once = 0.51 * torch.finfo(dtype).eps  # a correctly rounded number is within half a unit in the last place
        calculation = 4 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps * sigma.max().clamp(min=1).item()
        torch.testing.assert_close(x.double(), exact, rtol=once, atol=calculation)


@pytest.mark.parametrize("time", [-1, 1000, 999.5])
def test_a_time_that_is_not_there(time):
    with pytest.raises(ValueError, match=f"the process has the times 0 to 999, not {time}"):
        ddpm().level(time)


@pytest.mark.parametrize(
    ("kind", "time", "message"),
    [
        ("flow", 1.5, "above 0 and up to 1, not 1.5"),
        ("flow", 0, "above 0 and up to 1, not 0"),
        ("edm", -2, "above 0, not -2"),
        ("edm", math.inf, "above 0, not inf"),
        ("flow", math.nan, "above 0 and up to 1, not nan"),
    ],
)
def test_a_real_time_that_is_not_there(kind, time, message):
    with pytest.raises(ValueError, match=f"the process has the times {message}"):
        Process.choose(kind).level(time)


def test_tables_are_shared_by_equal_processes_and_not_kept_by_changed_copies():
    one, same = ddpm(steps=50), ddpm(steps=50)
    assert one.betas is same.betas
    changed = one.model_copy(update={"steps": 60})
    assert changed.betas.shape == (60,)
    assert one == same != changed
    assert hash(one) == hash(same)
    assert one.model_dump() == {
        "kind": "ddpm",
        "steps": 50,
        "zero_terminal_snr": False,
        "between": "log_snr",
        "schedule": {"kind": "linear", "start": 1e-4, "end": 0.02, "scale_to_steps": False},
    }


def test_tables_first_asked_for_while_sampling_serve_training_and_other_devices():
    with torch.inference_mode(), torch.device("meta"):
        betas = ddpm(steps=77).betas
    assert betas.device.type == "cpu"
    assert not betas.is_inference()
    assert ddpm(steps=77).alpha(torch.zeros(2, dtype=torch.long, device="meta")).device.type == "meta"


def test_a_schedule_that_leaves_no_signal_is_refused():
    with pytest.raises(ValueError, match="'constant' leaves no signal from time 34 of 1000 on: use smaller betas"):
        ddpm(schedule={"kind": "constant", "value": 0.9}).level(0)


class _Broken(BetaSchedule):
    """Gives whatever it is told to."""

    kind: Literal["broken"] = "broken"
    values: tuple[float, ...] = ()

    def betas(self, steps):
        return torch.tensor(self.values, dtype=torch.float32)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.1, 1.0, 0.2), "gives beta = 1 at time 1"),
        ((0.1, 0.1, float("-inf")), "gives beta = -inf at time 2"),
        ((0.1,), r"gives betas of shape \[1\] for a process of 3 steps"),
    ],
)
def test_a_plugins_bad_schedule_is_named(values, message):
    register([_Broken], owner="test")
    try:
        with pytest.raises(ValueError, match=f"the schedule 'broken' {message}"):
            ddpm(steps=3, schedule=_Broken.model_construct(values=values)).level(0)
    finally:
        unregister("test")


@settings(max_examples=30, deadline=None)
@given(steps=st.integers(1, 400), time=st.integers(0, 399))
def test_levels_have_a_time_for_the_network(steps, time):
    if time < steps:
        assert ddpm(steps=steps).level(time).time == time
    assert math.isnan(CLEAN.time)


class TestZeroTerminalSnr:
    """Lin et al. 2023, algorithm 1."""

    @settings(deadline=None, max_examples=40)
    @given(kind=schedules, steps=st.integers(2, 1200))
    def test_is_the_papers_shift_and_scale(self, kind, steps):
        plain, process = ddpm(steps=steps, schedule=kind), ddpm(steps=steps, schedule=kind, zero_terminal_snr=True)
        times = torch.arange(steps)
        alpha = plain.alpha(times)
        expected = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        torch.testing.assert_close(process.alpha(times), expected, rtol=1e-9, atol=1e-12)
        assert process.alpha(times)[-1] == 0
        assert process.sigma(times)[-1] == 1
        assert process.level(0).sigma == plain.level(0).sigma
        assert (process.alphas_cumprod.diff() < 0).all()
        assert process.betas[-1] == 1
        again = torch.cumprod(1 - process.betas, 0)
        torch.testing.assert_close(again, process.alphas_cumprod, rtol=1e-9, atol=1e-15)

    def test_needs_two_times(self):
        with pytest.raises(ValueError, match="use at least 2 steps"):
            ddpm(steps=1, zero_terminal_snr=True).level(0)

    def test_log_snr_and_posterior_at_the_end(self):
        process = ddpm(zero_terminal_snr=True)
        assert process.log_snr(torch.tensor([999])).item() == -math.inf
        assert process.log_snr(torch.tensor([999.0, 998.0])).tolist()[0] == -math.inf
        assert process.time_of(torch.tensor([-math.inf, math.inf], dtype=torch.float64)).tolist() == [999.0, 0.0]
        step = posterior(process.level(999), process.level(500))
        level = process.level(500)
        assert step == pytest.approx((level.alpha, 0.0, level.sigma**2), rel=1e-12)


@settings(deadline=None)
@given(kind=schedules, time=st.floats(0, 199))
def test_between_times_the_log_snr_is_linear_and_the_variance_kept(kind, time):
    process = ddpm(steps=200, schedule=kind)
    low, high = process.level(math.floor(time)), process.level(math.ceil(time))
    level = process.level(time)
    assert level.time == time
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1, rel=1e-12)
    part = time - math.floor(time)
    expected = (1 - part) * math.log(low.alpha / low.sigma) + part * math.log(high.alpha / high.sigma)
    assert math.log(level.alpha / level.sigma) == pytest.approx(expected, rel=1e-9, abs=1e-9)


class TestEdm:
    """Karras et al. 2022, table 1."""

    @settings(deadline=None)
    @given(log_sigma=st.floats(-8, 8), std=st.floats(0.1, 2))
    def test_the_papers_table(self, log_sigma, std):
        sigma = math.exp(log_sigma)
        process = Process.choose({"kind": "edm", "sigma_data": std})
        level = process.level(sigma)
        assert (level.alpha, level.sigma) == (1.0, sigma)
        assert level.time == pytest.approx(math.log(sigma) / 4, rel=1e-12, abs=1e-15)
        alpha, sigmas = torch.ones(1, dtype=torch.float64), torch.tensor([sigma], dtype=torch.float64)
        assert process.input_scale(alpha, sigmas).item() == pytest.approx(1 / math.sqrt(sigma**2 + std**2), rel=1e-12)

    def test_the_ends_are_exact(self):
        ends = Process.choose("edm").at(torch.tensor([0.0, 1.0], dtype=torch.float64))
        assert ends.tolist() == [0.002, 80.0]

    def test_an_empty_range(self):
        with pytest.raises(ValueError, match="sigma_min = 90 must be smaller than sigma_max = 80"):
            Process.choose({"kind": "edm", "sigma_min": 90})


class TestFlow:
    @settings(deadline=None)
    @given(time=st.floats(1e-6, 1), shift=st.floats(0.1, 10))
    def test_is_a_straight_way_with_shifted_times(self, time, shift):
        level = Process.choose({"kind": "flow", "shift": shift}).level(time)
        shifted = shift * time / (1 + (shift - 1) * time)
        assert level.sigma == pytest.approx(shifted, rel=1e-12)
        assert level.alpha + level.sigma == pytest.approx(1, rel=1e-12)
        assert level.time == pytest.approx(1000 * shifted, rel=1e-12)

    def test_both_ends_are_exact(self):
        process = Process.choose({"kind": "flow", "shift": 3.0})
        assert process.level(1.0) == Level(1000.0, 0.0, 1.0)
        assert process.time_of(torch.tensor([-math.inf, math.inf])).tolist() == [1.0, 0.0]
        assert 0 < process.at(torch.zeros(1, dtype=torch.float64)).item() < 1e-15

    def test_an_empty_range(self):
        with pytest.raises(ValueError, match=r"time_min = 0.5 must be smaller than time_max = 0.4"):
            Process.choose({"kind": "flow", "time_min": 0.5, "time_max": 0.4})
