"""Every beta schedule, and what each is by its paper."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from diffkit.schedules.base import BetaSchedule
from diffkit.testing import kinds_of


@pytest.mark.parametrize("schedule", kinds_of(BetaSchedule))
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000])
def test_betas_are_float64_in_the_open_interval(schedule, steps):
    betas = schedule.betas(steps)
    assert betas.shape == (steps,)
    assert betas.dtype == torch.float64
    assert ((betas > 0) & (betas < 1)).all()


@pytest.mark.parametrize("schedule", kinds_of(BetaSchedule))
def test_betas_never_fall(schedule):
    assert (schedule.betas(1000).diff() >= 0).all()


def test_linear():
    betas = BetaSchedule.choose("linear").betas(1000)
    assert betas[0].item() == pytest.approx(1e-4, rel=1e-14)
    assert betas[-1].item() == pytest.approx(0.02, rel=1e-14)
    assert betas[333].item() == pytest.approx(1e-4 + 333 / 999 * (0.02 - 1e-4), rel=1e-14)


def test_linear_scaled_to_another_number_of_steps():
    betas = BetaSchedule.choose({"kind": "linear", "scale_to_steps": True}).betas(250)
    assert betas[[0, -1]].tolist() == pytest.approx([4e-4, 0.08], rel=1e-14)


def test_linear_refuses_a_scaled_beta_of_one():
    with pytest.raises(ValueError, match=r"by 1000 / 20, so the last one becomes 1; it must stay below 1"):
        BetaSchedule.choose({"kind": "linear", "scale_to_steps": True}).betas(20)


def test_square_roots_rise_linearly():
    for kind, start, end in [("quadratic", 1e-4, 0.02), ("scaled_linear", 0.00085, 0.012)]:
        roots = BetaSchedule.choose(kind).betas(11).sqrt()
        assert roots[[0, -1]].tolist() == pytest.approx([start**0.5, end**0.5], rel=1e-14)
        torch.testing.assert_close(roots.diff(), roots.diff()[0].expand(10), rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [1, 4, 1000, 4000])
def test_cosine_is_the_papers_alpha_bar(steps):
    alpha_bar = torch.cumprod(1 - BetaSchedule.choose("cosine").betas(steps), 0)

    def f(t):
        return math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [f(t) / f(0) for t in range(1, steps)]  # the last beta is the capped one
    assert alpha_bar[:-1].tolist() == pytest.approx(expected, rel=1e-9)


def test_cosine_caps_the_last_beta():
    betas = BetaSchedule.choose("cosine").betas(1000)
    assert betas[-1].item() == 0.999
    assert (betas[:-1] < 0.999).all()
    assert BetaSchedule.choose({"kind": "cosine", "max_beta": 0.5}).betas(1000).max().item() == 0.5


def test_sigmoid_is_half_way_in_the_middle():
    betas = BetaSchedule.choose("sigmoid").betas(11)
    assert betas[5].item() == pytest.approx((1e-4 + 0.02) / 2, rel=1e-14)
    assert betas[0].item() == pytest.approx(1e-4 + 0.0199 / (1 + math.exp(6)), rel=1e-12)


def test_constant():
    assert BetaSchedule.choose({"kind": "constant", "value": 0.1}).betas(3).tolist() == [0.1] * 3


def test_jsd_takes_equal_parts_of_the_signal():
    alpha_bar = torch.cumprod(1 - BetaSchedule.choose("jsd").betas(10), 0)
    assert alpha_bar[:-1].tolist() == pytest.approx([1 - t / 10 for t in range(1, 10)], rel=1e-12)


def test_warmup_rises_and_stays():
    betas = BetaSchedule.choose({"kind": "warmup", "fraction": 0.5}).betas(10)
    assert betas[[0, 2, 4]].tolist() == pytest.approx([1e-4, (1e-4 + 0.02) / 2, 0.02], rel=1e-12)
    assert betas[5:].tolist() == [0.02] * 5


@pytest.mark.parametrize("kind", ["linear", "quadratic", "scaled_linear", "sigmoid", "warmup"])
def test_a_start_above_the_end_is_refused(kind):
    with pytest.raises(ValidationError, match=r"start = 0\.5 must not be larger than end = 0\.02"):
        BetaSchedule.choose({"kind": kind, "start": 0.5, "end": 0.02})


@pytest.mark.parametrize("end", [0.0, 1.0, -1.0, float("nan"), "0.02", True])
def test_an_end_that_is_no_beta_is_refused(end):
    with pytest.raises(ValidationError):
        BetaSchedule.choose({"kind": "linear", "end": end})


@settings(deadline=None)
@given(start=st.floats(1e-6, 0.1), more=st.floats(0, 0.1), steps=st.integers(1, 300))
def test_ramps_stay_between_their_ends(start, more, steps):
    end = start + more
    for kind in ("linear", "quadratic", "scaled_linear", "sigmoid", "warmup"):
        betas = BetaSchedule.choose({"kind": kind, "start": start, "end": end}).betas(steps)
        assert (betas >= start * (1 - 1e-12)).all()
        assert (betas <= end * (1 + 1e-12)).all()


ALPHA_BARS = {
    "cosine": lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2,
    "exponential": lambda u: math.exp(-12 * u),
    "vp": lambda u: math.exp(-0.1 * u - 9.95 * u**2),
    "sigmoid": lambda u: (_sigmoid(3 - 6 * u) - _sigmoid(-3)) / (_sigmoid(3) - _sigmoid(-3)),
    "linear": lambda u: 1 - u,
}


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("function", ALPHA_BARS)
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_from_alpha_bar_follows_its_function(function, steps):
    betas = BetaSchedule.choose({"kind": "from_alpha_bar", "function": function}).betas(steps)
    assert ((betas > 0) & (betas <= 0.999)).all()
    alpha_bar = torch.cumprod(1 - betas, 0)
    expected = [ALPHA_BARS[function](t / steps) for t in range(1, steps)]  # the last beta may be a capped one
    assert alpha_bar[:-1].tolist() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("function", "same"), [("cosine", "cosine"), ("linear", "jsd")])
def test_from_alpha_bar_agrees_with_the_kinds_that_have_the_same_curve(function, same):
    found = BetaSchedule.choose({"kind": "from_alpha_bar", "function": function}).betas(1000)
    torch.testing.assert_close(found, BetaSchedule.choose(same).betas(1000), rtol=1e-9, atol=1e-13)


def test_vp_is_the_limit_of_the_linear_betas():
    found = BetaSchedule.choose({"kind": "from_alpha_bar", "function": "vp"}).betas(1000)
    torch.testing.assert_close(found, BetaSchedule.choose("linear").betas(1000), rtol=0.08, atol=1e-5)
