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


@pytest.mark.parametrize("process", kinds_of(Process))
class TestEveryProcess:
    def test_levels(self, process):
        times = torch.arange(process.steps)
        alpha, sigma = process.alpha(times), process.sigma(times)
        assert alpha.dtype == sigma.dtype == torch.float64
        assert alpha.shape == sigma.shape == times.shape
        assert (alpha.diff() <= 0).all()
        assert (sigma > 0).all()
        level = process.level(7)
        assert (level.time, level.alpha, level.sigma) == (7.0, alpha[7].item(), sigma[7].item())

    @pytest.mark.parametrize("time", [-1, 1000])
    def test_a_time_that_is_not_there(self, process, time):
        with pytest.raises(ValueError, match=f"the process has the times 0 to 999, not {time}"):
            process.level(time)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_add_noise_rounds_once(self, process, dtype):
        draw = torch.Generator().manual_seed(0)
        x0, noise = (torch.randn(4, 3, 16, 16, generator=draw).to(dtype) for _ in range(2))
        time = torch.tensor([0, 1, 500, 999])
        x = process.add_noise(x0, noise, time)
        assert x.dtype == dtype
        alpha, sigma = (v.view(4, 1, 1, 1) for v in (process.alpha(time), process.sigma(time)))
        exact = alpha * x0.double() + sigma * noise.double()
        once = 0.51 * torch.finfo(dtype).eps  # a correctly rounded number is within half a unit in the last place
        calculation = 4 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
        torch.testing.assert_close(x.double(), exact, rtol=once, atol=calculation)


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
