"""Randomness without state: every draw is a pure function of a seed and a place.

A place is a tuple of numbers and words, such as ``("noise", step)``. So a resumed run needs no generator
state, and the result doesn't depend on batch sizes, on workers or on what was drawn before.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def derive_seed(seed: int, *place: int | str) -> int:
    """Mix a seed and a place into 64 bits that differ, as far as chance goes, for every other place."""
    return int(_sequence(seed, place).generate_state(1, np.uint64)[0])


def numpy_generator(seed: int, *place: int | str) -> np.random.Generator:
    """Return a generator for a place, with its full 128 bits of state space."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, place)))


def torch_generator(device: torch.device | str, seed: int, *place: int | str) -> torch.Generator:
    """Return a generator on a device for a place. On the CPU torch itself keeps only 32 bits of the seed."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *place))


class ImageNoise:
    """Standard normal noise in which each image has a stream of its own.

    Image i's draws depend on the seed and on i only: not on the batch it is in, nor on the device. They are
    made on the CPU, by NumPy's generator, since torch's seeds (32 bits there) would repeat among many images.

    Args:
        seed: The seed of the sampling.
        images: The numbers of the images in this batch.
        shape: Shape ``(C, H, W)`` of one image.
        device: Where the noise is wanted.
        dtype: Type of the noise.
    """

    def __init__(
        self,
        seed: int,
        images: Sequence[int],
        shape: tuple[int, ...],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._streams = [numpy_generator(seed, "image", i) for i in images]
        self._shape = tuple(shape)
        self._device = torch.device(device)
        self._dtype = dtype

    def __call__(self) -> Tensor:
        """Draw the next noise of every image, of shape ``[N, C, H, W]``."""
        noise = np.empty((len(self._streams), *self._shape), dtype=np.float32)
        for stream, out in zip(self._streams, noise, strict=True):
            stream.standard_normal(out=out, dtype=np.float32)
        return torch.from_numpy(noise).to(self._device, self._dtype)


def _sequence(seed: int, place: tuple[int | str, ...]) -> np.random.SeedSequence:
    words = tuple(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in place)
    return np.random.SeedSequence(entropy=seed, spawn_key=words)
