"""3x3 convolutions of diffkit by torch's own, forwards and with gradients.

    python tests/benchmarks/convolution.py --threads 1

Prints effective GFLOP/s: the multiplications and additions of the definition, by the time taken. Every shape is timed
in turn with torch's convolution in both layouts and with a matrix product, several times, and the quickest counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from diffkit.benchmarking.clock import interleaved
from diffkit.kernels.convolution import winograd_conv2d
from diffkit.kernels.library import kernels

SHAPES = (
    (8, 128, 128, 32),
    (8, 256, 128, 32),
    (8, 256, 256, 16),
    (8, 512, 256, 16),
    (8, 256, 256, 8),
    (32, 16, 16, 28),
    (32, 80, 16, 28),
    (32, 64, 64, 14),
    (32, 128, 128, 7),
)
"""Images, channels in and out, and sides: of the recipes ddpm_cifar and fashion_mnist."""


def actions(images: int, inputs: int, outputs: int, side: int) -> dict[str, Callable[[], object]]:
    x = torch.randn(images, inputs, side, side)
    weight = torch.randn(outputs, inputs, 3, 3, requires_grad=True)
    gradient = torch.randn(images, outputs, side, side)
    product = torch.randn(1024, 1024)

    def torchs(maps: Tensor) -> Tensor:
        return nn.functional.conv2d(maps, weight, padding=1)

    def ours(maps: Tensor) -> Tensor:
        return winograd_conv2d(maps, weight, None)  # type: ignore[no-any-return]

    found: dict[str, Callable[[], object]] = {"product": lambda: product @ product}
    layouts = {"torch": torch.contiguous_format, "torch, channels last": torch.channels_last}
    for name, function, layout in (
        *((name, torchs, layout) for name, layout in layouts.items()),
        ("diffkit", ours, torch.channels_last),
    ):
        leaf = x.contiguous(memory_format=layout).requires_grad_()
        along = gradient.contiguous(memory_format=layout)

        def forward(function: Callable[[Tensor], Tensor] = function, leaf: Tensor = leaf) -> object:
            with torch.no_grad():
                return function(leaf)

        def both(function: Callable[[Tensor], Tensor] = function, leaf: Tensor = leaf, along: Tensor = along) -> object:
            return torch.autograd.grad(function(leaf), (leaf, weight), along)

        found |= {f"{name}, forwards": forward, f"{name}, with gradients": both}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if kernels().library is None:
        raise SystemExit(f"no compiled operations: {kernels().reason}")
    table: Table | None = None
    for shape in SHAPES:
        images, inputs, outputs, side = shape
        flops = 2 * images * side * side * 9 * inputs * outputs
        taken = interleaved(actions(*shape), arguments.rounds, torch.device("cpu"), least=0.02)
        quickest = {name: min(seconds.wall for seconds in times) for name, times in taken.items()}
        if table is None:
            table = Table("images", "channels", "side", *quickest)
        of = {
            name: 2 * 1024**3 if name == "product" else (3 if "gradients" in name else 1) * flops for name in quickest
        }
        speeds = (f"{of[name] / seconds / 1e9:.0f}" for name, seconds in quickest.items())
        table.add_row(str(images), f"{inputs} → {outputs}", str(side), *speeds)
    assert table is not None
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
