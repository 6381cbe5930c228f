"""Averages that count by a power function: their lengths, and what is combined of their snapshots."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffkit.optim.base import Ema
from diffkit.optim.profiles import LONGEST, decay_after, exponent_of, length_of

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


@pytest.mark.parametrize("length", [0.0, -0.1, 0.3, math.nan])
def test_impossible_lengths(length):
    with pytest.raises(ValueError, match=r"a length is above 0 and at most 0\.2887"):
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
        ({"lengths": [0.0]}, "greater than 0"),
        ({"snapshots": -1}, "greater than or equal to 0"),
    ],
)
def test_impossible_settings(table, message):
    with pytest.raises(ValueError, match=message):
        Ema.choose({"kind": "power", **table})
