"""What is kept of single images: taken over if whole, in batches that do not depend on what was there."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffkit.distributed import Workers
from diffkit.evaluating.kept import Kept


def rows(numbers):
    return {
        "value": torch.tensor([10.0 * number for number in numbers]),
        "pair": torch.tensor([[n, n] for n in numbers]),
    }


def fill(kept, count, batch_size):
    for numbers in kept.missing(count, batch_size):
        kept.add(numbers, rows(numbers))


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), min_size=1, max_size=4))
def test_all_images_are_there_once_in_their_order(steps):
    kept = Kept()
    for count, batch_size in steps:
        fill(kept, count, batch_size)
        found = kept.gather(count)
        assert found["value"].tolist() == [10.0 * number for number in range(count)]
        assert found["pair"].tolist() == [[number, number] for number in range(count)]
        assert list(kept.missing(count, batch_size)) == []


def test_batches_begin_where_they_would_without_what_is_there():
    kept = Kept()
    kept.add(range(2, 4), rows(range(2, 4)))
    assert list(kept.missing(10, 4)) == [range(2), range(4, 8), range(8, 10)]


def test_each_process_has_a_part():
    parts = [list(Kept(workers=Shares(rank, 3)).missing(10, 2)) for rank in range(3)]
    assert parts == [[range(2), range(6, 8)], [range(2, 4), range(8, 10)], [range(4, 6)]]


class Shares(Workers):
    """Processes that need not talk."""

    def from_first(self, content):
        return content


def test_what_is_on_the_disk_is_taken_over(tmp_path):
    folder = tmp_path / "kept"
    first = Kept(folder)
    first.add(range(3), rows(range(3)))
    first.add(range(6, 9), rows(range(6, 9)))
    second = Kept(folder)
    assert list(second.missing(9, 3)) == [range(3, 6)]
    fill(second, 9, 3)
    assert Kept(folder).gather(9)["value"].tolist() == [10.0 * number for number in range(9)]
    assert Kept(folder).gather(5)["value"].tolist() == [0.0, 10.0, 20.0, 30.0, 40.0]


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: b""])
def test_a_damaged_file_is_passed_over(tmp_path, damage):
    kept = Kept(tmp_path)
    kept.add(range(3), rows(range(3)))
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    again = Kept(tmp_path)
    assert list(again.missing(3, 3)) == [range(3)]
    fill(again, 3, 3)
    assert list(Kept(tmp_path).missing(3, 3)) == []
