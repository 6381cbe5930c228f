"""Every spacing visits exactly the asked number of times."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from diffkit.diffusion.noise_spacings import NoiseSpacing
from diffkit.diffusion.process import CLEAN, Process
from diffkit.diffusion.spacing import Spacing, distinct
from diffkit.testing import kinds_of

# a written list has one number of times only
SPACINGS = [spacing for spacing in kinds_of(Spacing) if spacing.id != "list"]
CONTINUOUS = [
    "edm",
    "flow",
    {"kind": "flow", "shift": 3.0, "time_max": 0.999},
    {"kind": "edm", "sigma_min": 0.03, "sigma_max": 14.6},
]


def ddpm(steps=1000, **settings):
    return Process.choose({"kind": "ddpm", "steps": steps, **settings})


def visited(spacing, count, total):
    return list(Spacing.choose(spacing).visited(ddpm(total), count))


def check(spacing, count, total):
    times = visited(spacing, count, total)
    assert len(times) == count
    assert all(type(time) is int for time in times)
    assert all(before > after for before, after in pairwise(times))
    assert 0 <= times[-1] <= times[0] < total


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("total", [1, 2, 3, 7, 100])
def test_every_number_of_steps(spacing, total):
    for count in range(1, total + 1):
        check(spacing, count, total)


@pytest.mark.parametrize("spacing", SPACINGS)
@settings(max_examples=200, deadline=None)
@given(total=st.integers(1, 5000), data=st.data())
def test_any_number_of_steps(spacing, total, data):
    check(spacing, data.draw(st.integers(1, total)), total)


@settings(deadline=None)
@given(total=st.integers(1, 2000), offset=st.integers(0, 3000), data=st.data())
def test_leading_with_any_offset(total, offset, data):
    check(Spacing.choose({"kind": "leading", "offset": offset}), data.draw(st.integers(1, total)), total)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_all_times(spacing):
    assert visited(spacing, 1000, 1000) == list(range(999, -1, -1))


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("leading", [8, 6, 4, 2, 0]),
        ({"kind": "leading", "offset": 1}, [9, 7, 5, 3, 1]),
        ({"kind": "leading", "offset": 5}, [9, 7, 5, 3, 1]),
        ("trailing", [9, 7, 5, 3, 1]),
        ("linspace", [9, 7, 4, 2, 0]),
        ("quadratic", [9, 5, 2, 1, 0]),
    ],
)
def test_five_of_ten(spacing, expected):
    assert visited(spacing, 5, 10) == expected


@pytest.mark.parametrize("kind", [spacing.id for spacing in SPACINGS if spacing.id != "leading"])
@settings(deadline=None)
@given(total=st.integers(1, 2000), data=st.data())
def test_starts_at_the_noisy_end(kind, total, data):
    assert visited(kind, data.draw(st.integers(1, total)), total)[0] == total - 1


@pytest.mark.parametrize("spacing", SPACINGS)
def test_levels_end_clean(spacing):
    process = Process.choose({"kind": "ddpm", "steps": 50})
    levels = spacing.levels(process, 4)
    assert levels[-1] is CLEAN
    assert levels[:-1] == [process.level(time) for time in spacing.visited(process, 4)]


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "at least 1 step must be taken, not 0"),
        (-1, "at least 1 step must be taken, not -1"),
        (51, "the process has 50 times, so at most 50 steps can be taken"),
    ],
)
def test_impossible_numbers_of_steps(count, message):
    with pytest.raises(ValueError, match=message):
        Spacing.choose("trailing").levels(ddpm(50), count)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("process", CONTINUOUS)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 50, 1000])
def test_levels_of_a_continuous_process(spacing, process, count):
    process = Process.choose(process)
    if process.no_signal_setting and isinstance(spacing, NoiseSpacing):
        assert "infinite" in spacing.refuses(process, count)
        return
    levels = spacing.levels(process, count)
    assert len(levels) == count + 1
    assert levels[-1] is CLEAN
    ratios = [level.sigma / level.alpha if level.alpha else math.inf for level in levels]
    assert all(before > after for before, after in pairwise(ratios))
    noisiest = process.level(process.at(torch.ones(1, dtype=torch.float64)).item())
    if spacing.kind != "leading":
        assert levels[0] == noisiest
    least = process.at(torch.tensor([process.least_part], dtype=torch.float64)).item()
    if spacing.kind != "trailing" and count > 1:
        assert levels[-2] == process.level(least)


@settings(deadline=None, max_examples=50)
@given(count=st.integers(2, 300), rho=st.floats(1, 20), low=st.floats(1e-4, 0.1), high=st.floats(1, 1000))
def test_karras_is_equation_5(count, rho, low, high):
    process = Process.choose({"kind": "edm", "sigma_min": low, "sigma_max": high})
    found = Spacing.choose({"kind": "karras", "rho": rho}).visited(process, count)
    a, b = high ** (1 / rho), low ** (1 / rho)
    assert found == pytest.approx([(a + i / (count - 1) * (b - a)) ** rho for i in range(count)], rel=1e-9)


@pytest.mark.parametrize("process", ["ddpm", "edm", {"kind": "flow", "time_max": 0.99}])
def test_log_snr_takes_equal_steps_and_is_an_exponential(process):
    process = Process.choose(process)
    levels = Spacing.choose("log_snr").levels(process, 9)[:-1]
    steps = [math.log(a.sigma / a.alpha) - math.log(b.sigma / b.alpha) for a, b in pairwise(levels)]
    # a ddpm's times are whole numbers, so the steps are rounded where there are few
    assert steps == pytest.approx([sum(steps) / 8] * 8, rel=0.3 if process.kind == "ddpm" else 1e-9)
    same = Spacing.choose("exponential").visited(process, 9)
    assert list(same) == pytest.approx(list(Spacing.choose("log_snr").visited(process, 9)), rel=1e-12)


def test_polyexponential():
    found = Spacing.choose({"kind": "exponential", "rho": 2.0}).visited(Process.choose("edm"), 3)
    middle = 0.002 * (80 / 0.002) ** 0.25
    assert list(found) == pytest.approx([80, middle, 0.002], rel=1e-12)


@settings(max_examples=40)
@given(a=st.floats(0.1, 10), b=st.floats(0.1, 10), count=st.integers(2, 100))
def test_beta_quantiles_have_even_probabilities(a, b, count):
    spacing = Spacing.choose({"kind": "beta_quantile", "alpha": a, "beta": b})
    quantiles = spacing.parts(count, 0.0)
    assert (quantiles[0], quantiles[-1]) == (1.0, 0.0)
    # a quantile within rounding of 1 has lost the digits that would tell its probability
    inner = [(i / (count - 1), x) for i, x in zip(reversed(range(count)), quantiles, strict=True) if x < 1 - 1e-9]
    for probability, x in inner:
        assert stats.beta.cdf(x, a, b) == pytest.approx(probability, abs=1e-9)


def test_equal_beta_parameters_of_1_are_linspace():
    process = ddpm()
    even = Spacing.choose({"kind": "beta_quantile", "alpha": 1.0, "beta": 1.0})
    times, expected = even.visited(process, 37), Spacing.choose("linspace").visited(process, 37)
    assert max(abs(a - b) for a, b in zip(times, expected, strict=True)) <= 1  # halves may round either way


@settings(deadline=None)
@given(data=st.data(), total=st.integers(1, 200))
def test_rounding_moves_times_no_further_than_the_next_free_one(data, total):
    times = st.lists(st.floats(0, total - 1), min_size=1, max_size=total, unique=True)
    wanted = sorted(data.draw(times), reverse=True)
    found = distinct(wanted, total)
    assert all(a > b for a, b in pairwise(found))
    assert 0 <= found[-1] <= found[0] < total
    if all(a - b > 1 for a, b in pairwise(wanted)):
        assert found == [round(time) for time in wanted]


class TestList:
    def spacing(self, *times):
        return Spacing.choose({"kind": "list", "times": list(times)})

    def test_exactly_these_times(self):
        levels = self.spacing(999, 500.5, 3).levels(ddpm(), 3)
        assert [level.time for level in levels[:-1]] == [999.0, 500.5, 3.0]
        assert levels[-1] is CLEAN
        assert [level.sigma for level in self.spacing(80, 1, 0.01).levels(Process.choose("edm"), 3)] == [80, 1, 0.01, 0]

    @pytest.mark.parametrize(
        ("times", "count", "message"),
        [
            ((9, 5), 3, "the spacing 'list' has 2 times, so steps must be 2"),
            ((1000, 5), 2, "the process has the times 0 to 999, not 1000"),
        ],
    )
    def test_what_does_not_fit(self, times, count, message):
        assert message in self.spacing(*times).refuses(ddpm(), count)

    @pytest.mark.parametrize("times", [(3, 5), (5, 5)])
    def test_times_must_fall(self, times):
        with pytest.raises(ValidationError, match=f"times must fall strictly, but {times[1]} follows {times[0]}"):
            self.spacing(*times)

    def test_no_times(self):
        with pytest.raises(ValidationError, match="at least 1 item"):
            self.spacing()


@pytest.mark.parametrize(
    ("spacing", "process", "reason"),
    [
        ("karras", "flow", "process.time_max = 1 leaves no signal at the noisiest time, so the ratio"),
        ("log_snr", {"kind": "ddpm", "zero_terminal_snr": True}, "process.zero_terminal_snr = true leaves no signal"),
        ({"kind": "leading", "offset": 1}, "edm", "offset = 1 counts numbered times, which the process 'edm' has not"),
    ],
)
def test_what_a_process_has_not_is_refused(spacing, process, reason):
    spacing, process = Spacing.choose(spacing), Process.choose(process)
    assert spacing.refuses(process, 10).startswith(reason)
    with pytest.raises(ValueError, match=r"noisiest|numbered"):
        spacing.levels(process, 10)


def test_flow_trailing_is_even_from_noise_to_image():
    levels = Spacing.choose("trailing").levels(Process.choose("flow"), 4)
    assert [level.sigma for level in levels] == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("kind", ["leading", "linspace"])
@settings(deadline=None)
@given(total=st.integers(2, 2000), data=st.data())
def test_without_the_last_time_it_is_one_step_more_without_that(kind, total, data):
    count = data.draw(st.integers(1, total - 1))
    shorter = {"kind": kind, "without_last": True}
    assert visited(shorter, count, total) == visited(kind, count + 1, total)[:-1]
    process = Process.choose("flow")
    times = Spacing.choose(shorter).visited(process, 4)
    assert times == Spacing.choose(kind).visited(process, 5)[:-1]


@pytest.mark.parametrize("kind", ["leading", "linspace"])
def test_there_must_be_a_time_to_leave_out(kind):
    with pytest.raises(ValueError, match="without_last = true leaves out one of 50 times, so at most 49 steps"):
        Spacing.choose({"kind": kind, "without_last": True}).levels(ddpm(50), 50)


def test_a_list_may_show_the_network_other_times():
    spacing = Spacing.choose({"kind": "list", "times": [999, 500.6, 3], "shown": [999, 501, 3]})
    levels = spacing.levels(ddpm(), 3)
    assert [level.time for level in levels[:-1]] == [999.0, 501.0, 3.0]
    assert levels[1].sigma == ddpm().level(500.6).sigma
    assert levels.at_part(levels[1], levels[2], 0.5) == ddpm().level(251)
    with pytest.raises(ValidationError, match="shown has 1 times, but there are 2 times to show"):
        Spacing.choose({"kind": "list", "times": [9, 5], "shown": [9]})
    assert "the times 0 to 999, not 1000" in spacing.model_copy(update={"shown": (1000, 2, 1)}).refuses(ddpm(), 3)


@pytest.mark.parametrize("process", ["ddpm", "edm", "flow"])
def test_levels_at_a_part_of_the_time(process):
    process = Process.choose(process)
    levels = Spacing.choose("trailing").levels(process, 5)
    t, s = levels[1], levels[3]

    def whole(time):
        return math.floor(time) if process.kind == "ddpm" else time

    assert levels.at_part(t, s, 0) is t and levels.at_part(t, s, 1) is s
    times = dict(zip(levels, Spacing.choose("trailing").visited(process, 5), strict=False))
    time = times[t] + 0.25 * (times[s] - times[t])
    assert levels.at_part(t, s, 0.25).sigma == pytest.approx(process.level(whole(time)).sigma)
    clean = -1 if process.kind == "ddpm" else 0
    time = clean + 0.7 * (times[s] - clean)
    assert levels.at_part(s, CLEAN, 0.3).sigma == pytest.approx(process.level(whole(time)).sigma)
    last = levels.last(2)
    assert list(last) == levels[-3:] and last.at_part(s, CLEAN, 0.3) == levels.at_part(s, CLEAN, 0.3)


def test_a_part_of_the_time_of_neighbours_is_the_lower_one():
    levels = Spacing.choose("trailing").levels(ddpm(50), 50)
    assert levels.at_part(levels[3], levels[4], 0.5) is not levels[3]
    assert levels.at_part(levels[3], levels[4], 0.5) == levels[4]
    assert levels.at_part(levels[-2], CLEAN, 0.5) is CLEAN
