"""Counting the floating-point operations that a computation takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


def _attention(q: Any, k: Any, v: Any, *rest: Any, **settings: Any) -> int:
    return int(sdpa_flop_count(q, k, v))  # type: ignore[no-untyped-call]


def _attention_backward(grad: Any, q: Any, k: Any, v: Any, *rest: Any, **settings: Any) -> int:
    return int(sdpa_backward_flop_count(grad, q, k, v))  # type: ignore[no-untyped-call]


ON_CPU = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""The attention of processors, which torch's counter leaves out where it counts that of GPUs."""


@dataclass(frozen=True)
class Flops:
    """Multiplications and additions of matrix products, convolutions and attention, as torch's counter counts them.

    Attributes:
        total: All of them.
        operations: Those of each operation, such as ``aten.convolution``.
        modules: Those within the forward pass of each module, by its name; the whole network's is empty.
    """

    total: int
    operations: dict[str, int]
    modules: dict[str, int]


def count(action: Callable[[], object]) -> Flops:
    """Count what a computation takes.

    Args:
        action: Computes; not compiled, for what is compiled has no operations to be seen. What it says of modules holds
            only where nothing has a gradient and one network is called.
    """
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        action()
    counts = counter.get_flop_counts()
    everywhere = counts.pop("Global", {})
    return Flops(
        total=sum(everywhere.values()),
        operations={str(operation): number for operation, number in everywhere.items()},
        modules={place.partition(".")[2]: sum(numbers.values()) for place, numbers in counts.items()},
    )
