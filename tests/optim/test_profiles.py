"""Averages that count by a power function: their lengths, and what is combined of their snapshots."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from diffkit.optim.base import Ema
from diffkit.optim.profiles import (
    LONGEST,
    Profile,
    combine,
    decay_after,
    exponent_of,
    inner_products,
    length_of,
    reachable,
)

lengths = st.floats(1e-3, LONGEST)


@given(lengths)
def test_the_exponent_has_the_length(length):
    assert length_of(exponent_of(length)) == pytest.approx(length, rel=1e-9)


@pytest.mark.parametrize(("length", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_papers_exponents(length, gamma):
    assert exponent_of(length) == pytest.approx(gamma, abs=0.005)


def test_the_longest_is_the_plain_mean():
    assert exponent_of(LONGEST) == pytest.approx(0, abs=1e-12)
    assert [decay_after(0.0, step) for step in (1, 2, 10)] == pytest.approx([0, 1 / 2, 9 / 10])


@pytest.mark.parametrize("length", [0.0, -0.1, 1e-300, 0.3, math.nan])
def test_impossible_lengths(length):
    with pytest.raises(ValueError, match=r"a length is from 0\.0001 to 0\.2887"):
        exponent_of(length)


@given(length=st.floats(0.01, LONGEST), steps=st.integers(1, 300))
def test_the_decays_give_the_power_function_and_its_length(length, steps):
    gamma = exponent_of(length)
    decays = [decay_after(gamma, step) for step in range(1, steps + 1)]
    counts = np.array([(1 - d) * math.prod(decays[step + 1 :]) for step, d in enumerate(decays)])
    ends = np.arange(steps + 1) / steps
    np.testing.assert_allclose(counts, np.diff(ends ** (gamma + 1)), rtol=1e-6, atol=1e-12)
    middles = (ends[1:] + ends[:-1]) / 2
    deviation = math.sqrt(counts @ (middles - counts @ middles) ** 2)
    assert deviation == pytest.approx(length, abs=0.5 / steps)  # nothing moves by more than half a step


@pytest.mark.parametrize("total", [1, 5, 16, 17, 100, 12_345])
@pytest.mark.parametrize("snapshots", [0, 1, 3, 16])
def test_snapshots_are_evenly_spaced_and_end_with_the_run(total, snapshots):
    ema = Ema.choose({"kind": "power", "snapshots": snapshots})
    kept = [step for step in range(1, total + 1) if ema.keeps_snapshot(step, total)]
    assert len(kept) == min(total, snapshots)
    if kept:
        assert kept[-1] == total
        gaps = np.diff([0, *kept])
        assert gaps.max() - gaps.min() <= 1


def test_names_of_several_averages():
    ema = Ema.choose({"kind": "power", "lengths": [0.1, 0.05, 0.2]})
    assert ema.power_functions() == {"ema": 0.1, "ema-0.05": 0.05, "ema-0.2": 0.2}
    decays = ema.averages()
    assert list(decays) == list(ema.power_functions())
    assert decays["ema"](7) == ema.decay_at(7) == decay_after(exponent_of(0.1), 7)
    assert decays["ema-0.2"](7) == decay_after(exponent_of(0.2), 7)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"lengths": []}, "should have at least 1 items"),
        ({"lengths": [0.1, 0.1]}, "two of the lengths are the same"),
        ({"lengths": [0.1, 0.3]}, "less than or equal to 0.288"),
        ({"lengths": [0.0]}, "greater than or equal to 0.0001"),
        ({"snapshots": -1}, "greater than or equal to 0"),
    ],
)
def test_impossible_settings(table, message):
    with pytest.raises(ValueError, match=message):
        Ema.choose({"kind": "power", **table})


def density(profile, steps):
    """The profile at places between 0 and the last step."""
    g, end = profile.exponent, profile.step
    return np.where(steps <= end, (g + 1) / end * (steps / end) ** g, 0.0)


@pytest.mark.parametrize("first", [(0.05, 100), (0.1, 70), (0.2, 100), (LONGEST, 31)])
@pytest.mark.parametrize("second", [(0.05, 100), (0.02, 99), (0.25, 40)])
def test_inner_products_against_numerical_integration(first, second):
    one, other = Profile.of(*first), Profile.of(*second)
    found, mirrored = inner_products([one], [other]), inner_products([other], [one])
    expected, _ = quad(
        lambda step: density(one, step) * density(other, step), 0, min(one.step, other.step), epsabs=1e-13, limit=200
    )
    assert found.shape == (1, 1)
    assert found.item() == pytest.approx(expected, rel=1e-9)
    assert mirrored.item() == pytest.approx(found.item(), rel=1e-12)


def kept(snapshots, lengths=(0.05, 0.1), end=1000):
    return [Profile.of(length, end * k // snapshots) for k in range(1, snapshots + 1) for length in lengths]


@settings(max_examples=20)
@given(length=st.floats(0.02, 0.27), snapshots=st.integers(1, 40))
def test_the_error_is_that_of_the_combined_profile(length, snapshots):
    profiles, wanted = kept(snapshots), Profile.of(length, 1000)
    (found,) = combine(profiles, [wanted])
    steps = (np.arange(20_000) + 0.5) / 20
    combined = sum(c * density(one, steps) for c, one in zip(found.coefficients, profiles, strict=True))
    target = density(wanted, steps)
    assert found.error == pytest.approx(np.linalg.norm(combined - target) / np.linalg.norm(target), abs=1e-3)
    assert math.fsum(found.coefficients) == pytest.approx(1, abs=1e-9)


@given(length=st.floats(0.02, 0.27), snapshots=st.integers(1, 20), seed=st.integers(0, 10**6))
def test_no_other_combination_is_nearer(length, snapshots, seed):
    profiles, wanted = kept(snapshots), Profile.of(length, 1000)
    (found,) = combine(profiles, [wanted])
    change = np.random.default_rng(seed).normal(size=len(profiles))
    other = np.array(found.coefficients) + 1e-2 * (change - change.mean())
    gram, towards = inner_products(profiles, profiles), inner_products(profiles, [wanted])[:, 0]
    square = inner_products([wanted], [wanted]).item()
    assert math.sqrt((other @ gram @ other - 2 * other @ towards + square) / square) >= found.error - 1e-6


@settings(max_examples=20)
@given(length=st.floats(0.02, 0.25))
def test_more_snapshots_are_nearer(length):
    errors = [combine(kept(snapshots), [Profile.of(length, 1000)])[0].error for snapshots in (5, 10, 20, 40)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < max(0.3 * errors[0], 1e-9)


@pytest.mark.parametrize("number", [0, 1, 6, 7])
def test_what_is_kept_is_taken_as_it_is(number):
    profiles = kept(4)
    (found,) = combine(profiles, [profiles[number]])
    assert found.error == 0
    assert found.coefficients == tuple(float(k == number) for k in range(8))


def test_snapshots_side_by_side_do_no_harm():
    """A checkpoint may be one step after a snapshot: nearly the same profiles, of long runs above all."""
    profiles = [*kept(16, end=1_000_000), *(Profile.of(length, 1_000_001) for length in (0.05, 0.1))]
    for found in combine(profiles, [Profile.of(length, 1_000_001) for length in (0.02, 0.08, 0.2)]):
        assert max(map(abs, found.coefficients)) < 100
        assert found.error < 0.13


@pytest.mark.parametrize(
    ("snapshots", "low", "high"), [(4, 0.0352, 0.1487), (16, 0.0219, 0.2577), (64, 0.0077, 0.2779)]
)
def test_more_snapshots_reach_further(snapshots, low, high):
    ((found_low, found_high),) = reachable(kept(snapshots), 1000, 0.1)
    assert found_low == pytest.approx(low, rel=0.03) and found_high == pytest.approx(high, rel=0.03)
    ends = combine(kept(snapshots), [Profile.of(length, 1000) for length in (found_low, found_high)])
    assert all(0.05 < found.error <= 0.1 for found in ends)


def test_far_lengths_reach_apart():
    ranges = reachable(kept(2, lengths=(0.01, 0.2)), 1000, 0.05)
    assert len(ranges) == 2
    assert ranges[0][0] < 0.01 < ranges[0][1] < ranges[1][0] < 0.2 < ranges[1][1]
