from __future__ import annotations

import pytest
import torch

from diffkit.data.memory import InMemory

PIXELS = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2)


def test_draws_by_number():
    images = InMemory(PIXELS, torch.tensor([4, 5]))
    assert len(images) == 2
    assert torch.equal(images.pixels(torch.tensor([1, 1, 0])), PIXELS[[1, 1, 0]])
    assert images.labels(torch.tensor([1, 0])).tolist() == [5, 4]
    assert InMemory(PIXELS).labels(torch.tensor([0])) is None


def test_moves_to_a_device():
    images = InMemory(PIXELS, torch.tensor([4, 5])).to("meta")
    assert images.pixels(torch.tensor([1])).device.type == "meta"
    assert images.labels(torch.tensor([1])).device.type == "meta"


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (PIXELS.float(), None),
        (PIXELS[0], None),
        (PIXELS, torch.tensor([1])),
        (PIXELS, torch.tensor([1.0, 2.0])),
    ],
)
def test_refuses_other_tensors(pixels, labels):
    with pytest.raises(ValueError, match=r"are (uint8|int64)"):
        InMemory(pixels, labels)
