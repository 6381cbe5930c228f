"""Convolutions that take the quickest way there is for their size."""

from __future__ import annotations

from torch import Tensor, nn

from diffkit.kernels import convolution


class Conv2d(nn.Conv2d):
    """torch's convolution with zeros around the maps, computed in the quickest way there is for its size.

    See `diffkit.kernels`: on processors results differ from torch's own by rounding, unless ``DIFFKIT_KERNELS=plain``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in, H, W]`` to ``[N, out, H', W']``."""
        return self.convolve(x, self.weight)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the convolution with another weight of the same shape."""
        stride, padding = tuple(map(int, self.stride)), tuple(map(int, self.padding))
        return convolution.conv2d(x, weight, self.bias, stride, padding)
