"""What the machine can do: a large matrix product."""

from __future__ import annotations

import torch
from torch import Tensor


class MatrixProduct:
    """The product of two square matrices, as torch computes it: the quickest that a processor gets to work.

    On a GPU, float32 matrices may be rounded as convolutions' are by default (TF32), or it would not be a measure of
    these.

    Args:
        device: Where to compute.
        dtype: Of which numbers.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.size = 1024 if device.type == "cpu" else 8192
        self._factors = torch.randn(2, self.size, self.size, device=device, dtype=dtype)
        self._product = torch.empty(self.size, self.size, device=device, dtype=dtype)

    @property
    def flops(self) -> int:
        """Number of multiplications and additions."""
        return 2 * int(self.size) ** 3

    def __call__(self) -> Tensor:
        """Compute it."""
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
        try:
            return torch.mm(*self._factors, out=self._product)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
