"""Randomness without state."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffkit.random import ImageNoise, derive_seed, numpy_generator, torch_generator

places = st.lists(st.integers(0, 2**32 - 1) | st.sampled_from(["noise", "order", "step"]), max_size=3).map(tuple)


@given(st.integers(0, 2**63 - 1), places, places)
def test_a_place_always_gives_the_same_and_no_other_place_does(seed, place, other):
    assert derive_seed(seed, *place) == derive_seed(seed, *place)
    assert (derive_seed(seed, *place) == derive_seed(seed, *other)) == (place == other)
    draws = numpy_generator(seed, *place).random(4)
    assert (draws == numpy_generator(seed, *place).random(4)).all()
    assert torch.equal(
        torch.rand(3, generator=torch_generator("cpu", seed, *place)),
        torch.rand(3, generator=torch_generator("cpu", seed, *place)),
    )


@given(st.integers(0, 2**63 - 1), st.integers(0, 10**6))
def test_an_image_s_noise_does_not_depend_on_its_batch(seed, first):
    numbers = range(first, first + 3)
    together, alone = ImageNoise(seed, numbers, (2, 3, 3)), ImageNoise(seed, [first + 1], (2, 3, 3))
    for _ in range(2):
        batch, image = together(), alone()
        assert torch.equal(batch[1:2], image)
        assert not torch.equal(batch[0], batch[1])


def test_the_noise_is_standard_normal():
    noise = ImageNoise(0, range(50), (1, 32, 32))()
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert noise.dtype == torch.float32
