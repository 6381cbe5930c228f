from __future__ import annotations

import threading
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffkit.data.base import Images
from diffkit.data.batches import Batches
from diffkit.data.memory import InMemory
from diffkit.errors import DataError


def numbered(count: int) -> InMemory:
    """Images that differ, and from their mirror images too; image i has label i."""
    pixels = torch.arange(count * 4).reshape(count, 1, 2, 2).to(torch.uint8)
    return InMemory(pixels, torch.arange(count))


class OnDemand(Images):
    """The same images, not in memory."""

    def __init__(self, images: InMemory) -> None:
        self.images = images
        self.threads: list[str] = []
        self.broken = False

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, indices):
        self.threads.append(threading.current_thread().name)
        if self.broken:
            raise DataError("picture 7 cannot be read")
        return self.images.pixels(indices)

    def labels(self, indices):
        return self.images.labels(indices)


@settings(deadline=None)
@given(count=st.integers(1, 40), size=st.integers(1, 90), seed=st.integers(0, 2**63 - 1))
def test_each_epoch_has_every_image_once(count, size, seed):
    batches = Batches(numbered(count), size, seed, flip=False)
    steps = -(-3 * count // size)
    drawn = torch.cat([batches.batch(k)[1] for k in range(steps)])
    assert len(drawn) == steps * size
    for epoch in range(3):
        part = drawn[epoch * count : (epoch + 1) * count]
        assert part.sort().values.tolist() == list(range(count))


@settings(deadline=None)
@given(data=st.data(), count=st.integers(1, 30), size=st.integers(1, 50), flip=st.booleans())
def test_rows_do_not_depend_on_how_a_batch_is_cut_or_what_came_before(data, count, size, flip):
    step = data.draw(st.integers(0, 1000))
    cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=4))})
    whole = Batches(numbered(count), size, 5, flip).batch(step)
    batches = Batches(numbered(count), size, 5, flip)
    batches.batch(data.draw(st.integers(0, 1000)))
    parts = [batches.batch(step, a, b) for a, b in pairwise(cuts)]
    assert torch.equal(torch.cat([pixels for pixels, _ in parts]), whole[0])
    assert torch.equal(torch.cat([labels for _, labels in parts]), whole[1])


def test_epochs_and_seeds_differ():
    batches = Batches(numbered(50), 50, 0, flip=False)
    first, second = batches.batch(0)[1].tolist(), batches.batch(1)[1].tolist()
    other = Batches(numbered(50), 50, 1, flip=False).batch(0)[1].tolist()
    assert first != second
    assert first != other
    assert first != sorted(first)


def test_flips_half_of_the_images_anew_each_time():
    images = numbered(200)
    plain, flipped = (Batches(images, 200, 3, flip) for flip in (False, True))
    masks = []
    for step in range(2):
        (straight, labels), (drawn, same) = plain.batch(step), flipped.batch(step)
        assert torch.equal(labels, same)
        mirrored = (drawn == straight.flip(-1)).flatten(1).all(1)
        kept = (drawn == straight).flatten(1).all(1)
        assert torch.equal(mirrored, ~kept)
        assert 60 < int(mirrored.sum()) < 140
        masks.append(mirrored)
    assert not torch.equal(masks[0], masks[1])


@pytest.mark.parametrize("flip", [False, True])
def test_reading_ahead_changes_nothing(flip):
    slow = OnDemand(numbered(23))
    ahead, direct = Batches(slow, 6, 1, flip), Batches(slow.images, 6, 1, flip)
    for step in (0, 1, 2, 9, 10, 3, 4):
        for start in (0, 2, 4):
            for one, another in zip(
                ahead.batch(step, start, start + 2), direct.batch(step, start, start + 2), strict=True
            ):
                assert torch.equal(one, another)
    assert any(name.startswith("diffkit-batches") for name in slow.threads)
    assert len(ahead._ahead) <= 3


def test_in_memory_needs_no_thread():
    before = set(threading.enumerate())
    batches = Batches(numbered(5), 2, 0, flip=True)
    batches.batch(0)
    assert batches._reader is None
    assert set(threading.enumerate()) <= before


def test_an_error_while_reading_ahead_appears_where_the_batch_is_asked_for():
    images = OnDemand(numbered(9))
    batches = Batches(images, 3, 0, flip=False)
    images.broken = True
    with pytest.raises(DataError, match="picture 7 cannot be read"):
        batches.batch(0)
    with pytest.raises(DataError, match="picture 7 cannot be read"):
        batches.batch(1)
    images.broken = False
    batches.batch(5)


def test_no_labels():
    batches = Batches(InMemory(torch.zeros(3, 1, 2, 2, dtype=torch.uint8)), 2, 0, flip=False)
    assert batches.batch(0)[1] is None


def test_no_images():
    with pytest.raises(DataError, match="the data set has no images"):
        Batches(InMemory(torch.zeros(0, 1, 2, 2, dtype=torch.uint8)), 2, 0, flip=False)


@pytest.mark.parametrize("rows", [(-1, 0, 1), (0, -1, 2), (0, 2, 2), (0, 0, 9)])
def test_rows_that_there_are_not(rows):
    with pytest.raises(ValueError, match="no rows"):
        Batches(numbered(9), 8, 0, flip=False).batch(*rows)


def test_the_order_is_the_same_in_every_version():
    """Frozen numbers: with another order an old run would not resume bit for bit."""
    drawn = Batches(numbered(10), 12, 0, flip=False).batch(3)[1].tolist()
    assert drawn == [7, 5, 8, 0, 4, 0, 3, 6, 8, 5, 7, 2]
