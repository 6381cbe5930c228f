from __future__ import annotations

import torch

from diffkit.data.pixels import to_uint8, to_unit

ALL = torch.arange(256, dtype=torch.uint8)


def test_there_and_back_is_exact_for_all_pixels():
    assert torch.equal(to_uint8(to_unit(ALL)), ALL)
    assert torch.equal(to_uint8(to_unit(ALL).double()), ALL)


def test_range_and_type():
    unit = to_unit(ALL)
    assert unit.dtype == torch.float32
    assert unit[0] == -1
    assert unit[255] == 1
    torch.testing.assert_close(unit.double(), ALL.double() / 127.5 - 1, rtol=0, atol=1e-7)


def test_rounds_to_the_nearest_and_clamps():
    numbers = torch.tensor([-7.0, -1.0001, 1.0001, 7.0, (100.4 / 127.5) - 1, (100.6 / 127.5) - 1])
    assert to_uint8(numbers).tolist() == [0, 0, 255, 255, 100, 101]


def test_half_precision_is_not_calculated_in():
    numbers = torch.linspace(-1, 1, 1000).bfloat16()
    assert torch.equal(to_uint8(numbers), to_uint8(numbers.float()))
