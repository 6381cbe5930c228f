"""Operations that keep the magnitude of what they are given: the root mean square of each activation stays at 1.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv:2312.02696), sections 2.3
to 2.5 and appendix B. Under the assumption that inputs are independent and of magnitude 1, so are the outputs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

EPSILON = 1e-4
"""Added to a magnitude before it divides."""

SILU = 0.596
"""The root mean square of SiLU of a standard normal number."""


def normalized(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Scale `x` to a root mean square of 1 over some axes, in float32 at least (eq. 47 and 66)."""
    size = math.prod(x.shape[dim] for dim in dims)
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    magnitude = torch.linalg.vector_norm(exact, dim=dims, keepdim=True) / math.sqrt(size)
    return (exact / (EPSILON + magnitude)).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """Return SiLU, scaled to keep the magnitude of standard normal numbers (eq. 81)."""
    return nn.functional.silu(x) / SILU


def mp_sum(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """Return ``((1 - t) a + t b) / sqrt((1 - t)² + t²)`` with t the balance (eq. 88)."""
    return torch.lerp(a, b, balance) / math.hypot(1 - balance, balance)


def mp_cat(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """Concatenate channels so that `b` has the part t of the say, whatever their numbers, and the magnitude is kept.

    ``sqrt((N_a + N_b) / ((1 - t)² + t²)) [(1 - t) / sqrt(N_a) a, t / sqrt(N_b) b]`` (eq. 103).
    """
    count_a, count_b = a.shape[1], b.shape[1]
    scale = math.sqrt(count_a + count_b) / math.hypot(1 - balance, balance)
    parts = (scale * (1 - balance) / math.sqrt(count_a) * a, scale * balance / math.sqrt(count_b) * b)
    return torch.cat(parts, dim=1)


class MpFourier(nn.Module):
    """Cosines of fixed, random frequencies and phases (eq. 75).

    ``sqrt(2) cos(2 pi (f c + p))`` with f ~ N(0, 1), p ~ U(0, 1) and c the time. Frequencies stay in float32: rounded
    ones would be other ones.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, time: Tensor) -> Tensor:
        """Return the features ``[N, channels]`` of times ``[N]``, in float32."""
        phase = time.float()[:, None] * self.frequencies.float() + self.phases.float()
        return math.sqrt(2) * phase.cos()


class MpConv(nn.Module):
    """A convolution, or a linear layer, without bias, whose weights have no magnitude of their own.

    In training the weights themselves are set back to magnitude 1 at each step ("forced weight normalization"), which
    keeps the effective learning rate what it is set to; in any case they are used normalized, so that gradients are
    orthogonal to them (sections 2.3 and 2.4, algorithm 1).

    Args:
        inputs: Number of channels in.
        outputs: Number of channels out.
        kernel: Side of the kernel; 0 for a linear layer.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *([kernel, kernel] if kernel else [])))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Map ``[N, inputs, ...]`` to ``[N, outputs, ...]``, times a gain."""
        dims = tuple(range(1, self.weight.dim()))
        if self.training:
            with torch.no_grad():
                self.weight.copy_(normalized(self.weight, dims))
        weight = normalized(self.weight, dims) * (gain / math.sqrt(self.weight[0].numel()))
        weight = weight.to(x.dtype)
        if weight.dim() == 2:
            return nn.functional.linear(x, weight)
        return nn.functional.conv2d(x, weight, padding=self.weight.shape[-1] // 2)
