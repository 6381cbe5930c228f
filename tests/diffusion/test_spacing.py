"""Every spacing visits exactly the asked number of times."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffkit.diffusion.process import CLEAN, Process
from diffkit.diffusion.spacing import Spacing
from diffkit.testing import kinds_of

SPACINGS = kinds_of(Spacing)


def check(spacing, count, total):
    times = spacing.times(count, total)
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
    assert spacing.times(1000, 1000) == list(range(999, -1, -1))


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
    assert Spacing.choose(spacing).times(5, 10) == expected


@pytest.mark.parametrize("kind", ["trailing", "linspace", "quadratic"])
@settings(deadline=None)
@given(total=st.integers(1, 2000), data=st.data())
def test_starts_at_the_noisy_end(kind, total, data):
    assert Spacing.choose(kind).times(data.draw(st.integers(1, total)), total)[0] == total - 1


@pytest.mark.parametrize("spacing", SPACINGS)
def test_levels_end_clean(spacing):
    process = Process.choose({"kind": "ddpm", "steps": 50})
    levels = spacing.levels(process, 4)
    assert levels[-1] is CLEAN
    assert levels[:-1] == [process.level(time) for time in spacing.times(4, 50)]


@pytest.mark.parametrize("count", [0, -1, 51])
def test_impossible_numbers_of_steps(count):
    process = Process.choose({"kind": "ddpm", "steps": 50})
    with pytest.raises(ValueError, match=f"the process has 50 times, so 1 to 50 steps can be taken, not {count}"):
        Spacing.choose("trailing").levels(process, count)
