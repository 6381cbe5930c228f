"""What holds for every kind of data set."""

from __future__ import annotations

import json

import pytest
import torch

from diffkit.data.base import DataInfo, Dataset

KINDS = [
    pytest.param(kind, id=name)
    for name, kind in sorted(Dataset.kinds.items())
    if kind.owners[name] == "diffkit" and name != "unspecified"  # which has no images, and tests of its own
]


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_what_info_says(kind, with_files):
    data = with_files(kind)
    info, images = data.info(), data.open()
    indices = torch.tensor([len(images) - 1, 0, 3, 3])
    pixels, labels = images.pixels(indices), images.labels(indices)
    assert isinstance(info, DataInfo)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (4, *info.shape)
    assert pixels.is_contiguous()
    assert torch.equal(pixels[2], pixels[3])
    assert not torch.equal(pixels[0], pixels[1])
    assert labels.dtype == torch.int64
    assert labels.shape == (4,)
    everything = images.labels(torch.arange(len(images)))
    assert everything.unique().tolist() == list(range(len(info.classes)))
    assert len(set(info.classes)) == len(info.classes)


@pytest.mark.parametrize("kind", KINDS)
def test_opening_twice_gives_the_same(kind, with_files):
    one, another = with_files(kind).open(), with_files(kind).open()
    some = torch.arange(0, len(one), max(1, len(one) // 50))
    assert len(one) == len(another)
    assert torch.equal(one.pixels(some), another.pixels(some))
    assert torch.equal(one.labels(some), another.labels(some))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_can_be_changed_without_harm(kind, with_files):
    images = with_files(kind).open()
    before = images.pixels(torch.tensor([1])).clone()
    images.pixels(torch.tensor([1])).add_(1)
    assert torch.equal(images.pixels(torch.tensor([1])), before)


@pytest.mark.parametrize("kind", KINDS)
def test_written_and_read_again_it_is_the_same(kind, with_files):
    data = with_files(kind)
    assert Dataset.choose(data.model_dump()) == data
    assert Dataset.choose(json.loads(data.model_dump_json(exclude_none=True))) == data
