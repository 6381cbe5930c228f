import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffkit.benchmarking.clock import Spread, interleaved, timed

numbers = st.floats(-1e6, 1e6)


@given(st.lists(numbers, min_size=1, max_size=20), st.floats(0.1, 10))
def test_spread_is_ordered_and_scales(values, factor):
    spread = Spread.of(values)
    assert min(values) <= spread.low <= spread.median <= spread.high <= max(values)
    scaled = Spread.of(factor * value for value in values)
    assert scaled.median == pytest.approx(factor * spread.median, rel=1e-9, abs=1e-9)


def test_spread_of_known_values():
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_sleep_is_wall_time_and_no_processor_time(cpu):
    taken = timed(lambda: time.sleep(0.02), cpu, times=2)
    assert taken.wall >= 0.02
    assert taken.processor < taken.wall


def test_actions_take_turns(cpu):
    done, rounds = [], []
    actions = {name: lambda name=name: done.append(name) for name in "abc"}
    taken = interleaved(actions, 3, cpu, least=0, on_round=rounds.append)
    assert "".join(done) == "aabbcc" + "abc" + "cba" + "abc"
    assert rounds == [0, 1, 2, 3]
    assert {name: len(times) for name, times in taken.items()} == {"a": 3, "b": 3, "c": 3}


def test_short_actions_are_repeated(cpu):
    done = []
    interleaved({"a": lambda: (done.append(1), time.sleep(0.001))}, 1, cpu, least=0.02)
    assert 3 <= len(done) <= 2 + 20
