"""A training step of `ddpm_cifar` against diffusers' UNet2DModel of the same configuration, on the CPU.

    python tests/benchmarks/training_step.py --rounds 15

Ours is the step of a real run: pixels to numbers, times, noise, network, loss, gradients, clipping to 1.0, Adam, the
average of weights. Theirs is what diffusers' own training scripts do: noise, `DDPMScheduler.add_noise`, network, loss,
gradients, clipping to 1.0, optimizer, `EMAModel.step`. Batch 8, float32. Steps alternate in one process, and each
round gives one ratio, so that what else the machine does hits both alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from diffusers.training_utils import EMAModel
from torch.nn import functional

from diffkit.data.memory import InMemory
from diffkit.plugins.manager import Plugins
from diffkit.train.run import TrainingRun

RECIPE = Path(__file__).parents[2] / "recipes" / "ddpm_cifar.toml"
BATCH = 8


def our_step(folder: Path) -> Callable[[], None]:
    plugins = Plugins()
    plugins.register_components()
    recipe = plugins.open_recipe(str(RECIPE), [f"train.batch_size={BATCH}"])
    images = InMemory(torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8), torch.zeros(256, dtype=torch.int64))
    return TrainingRun(recipe, folder, recipe.data.info(), images, torch.device("cpu")).take_step


def their_step(*, fused: bool | None) -> Callable[[], None]:
    model = diffusers.UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        dropout=0.1,
        norm_eps=1e-6,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == 35_746_307
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4, fused=fused)
    average = EMAModel(model.parameters(), decay=0.9999)
    images = torch.rand(BATCH, 3, 32, 32) * 2 - 1
    model.train()

    def step() -> None:
        noise = torch.randn(images.shape)
        times = torch.randint(0, 1000, (BATCH,))
        output = model(scheduler.add_noise(images, noise, times), times, return_dict=False)[0]
        functional.mse_loss(output, noise).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(model.parameters())

    return step


def measured(step: Callable[[], None]) -> tuple[float, float]:
    """Return seconds on the wall's clock, and of the processor for this process alone."""
    wall, processor = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        steps = {
            "diffkit": our_step(Path(folder)),
            "diffusers, fused Adam": their_step(fused=True),
            "diffusers, default Adam": their_step(fused=None),
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
        for step in steps.values():  # the first step makes the optimizer's state
            step()
        for turn in range(arguments.rounds):
            for name in list(steps)[:: 1 if turn % 2 else -1]:
                taken[name].append(measured(steps[name]))
            newest = [f"{name} {times[-1][0]:.2f} s" for name, times in taken.items()]
            print(f"round {turn + 1}: {', '.join(newest)}", flush=True)

    print(f"torch {torch.__version__}, threads: {arguments.threads}, batch {BATCH}, rounds: {arguments.rounds}")
    for clock, unit in enumerate(("wall", "processor")):
        ours = [times[clock] for times in taken["diffkit"]]
        print(f"{unit:10} diffkit {statistics.median(ours):.3f} s")
        for name in list(steps)[1:]:
            theirs = [times[clock] for times in taken[name]]
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"{unit:10} {name} {statistics.median(theirs):.3f} s: diffkit / diffusers {middle:.3f} "
                f"(middle half {low:.3f} to {high:.3f})"
            )


if __name__ == "__main__":
    main()
