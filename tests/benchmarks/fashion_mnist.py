"""Images for an hour of one processor core: diffkit, diffusers and lucidrains on Fashion-MNIST at 28x28.

    python tests/benchmarks/fashion_mnist.py train diffusers lucidrains diffkit conditional
    python tests/benchmarks/fashion_mnist.py score

`train` gives each contender the 60,000 training images, one thread and 3,000 s of this process's CPU time, then draws
768 images with at most 50 network calls each. `score` trains a judge, a classifier that no recipe was tuned with, and
prints the Fréchet distance and the KID to the 10,000 test images in its features, and for a conditional model how many
samples the judge names as the label asked for. Contenders may be trained in several calls: `--out` gathers them.

diffusers: UNet2DModel of 32-64-128 channels, noise prediction, AdamW 4e-4, EMA as its training script has it, sampled
by DDIM with 50 calls and by DPM-Solver++ with 20. lucidrains: Unet(32), v-prediction, Adam 4e-4, EMA as its trainer has
it, sampled by its DDIM with 50 calls. Of a peer's samples, from raw and averaged weights, the best count. Both have
batches of 64. diffkit trains the recipe as it stands, but for the number of steps, which is what fits into the time;
its last checkpoint stays in a folder of its name.

Needs the package `dev`, and denoising-diffusion-pytorch with einops (its trainer's dependencies are not needed).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from diffkit.data.base import Dataset
from diffkit.data.mnist import FashionMnist
from diffkit.data.pixels import to_uint8, to_unit
from diffkit.evaluation.frechet import Frechet
from diffkit.evaluation.kernel import Kernel
from diffkit.plugins.manager import Plugins
from diffkit.train.run import TrainingRun

RECIPES = Path(__file__).parents[2] / "recipes"
BATCH = 64
AT_ONCE = 128
"""So many images are sampled at once."""

Samples = dict[str, tuple[Tensor, Tensor | None]]
"""Sampled images, uint8 ``[N, 1, 28, 28]``, with the labels asked for, by the name of the way they were sampled."""

Train = Callable[["Budget", int], tuple[int, nn.Module, Samples]]
"""Trains within a budget and draws a number of images: the steps taken, the network, and the images."""


class Budget:
    """CPU time of this process, with that of all its threads.

    Args:
        seconds: How much there is.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self._began = seconds, time.process_time()
        self.spent = 0.0
        """What was used up to the last step."""

    @property
    def used(self) -> float:
        return time.process_time() - self._began

    def lasts_for(self, step: Callable[[], None]) -> Iterator[int]:
        """Take steps as long as there is time for one more like those before; yield their number after each."""
        for taken in itertools.count(1):
            step()
            self.spent = self.used
            if taken % 50 == 0:
                print(f"  step {taken}: {self.spent:.0f} of {self.seconds:.0f} s", flush=True)
            yield taken
            if self.spent * (taken + 1) / taken > self.seconds:
                return


def batches(size: int) -> Iterator[Tensor]:
    """Yield batches of the training images in [-1, 1], in a new order each epoch."""
    images = FashionMnist(flip=False).open()
    while True:
        for rows in torch.randperm(len(images)).split(size):
            if len(rows) == size:
                yield to_unit(images.pixels(rows))


def train_diffusers(budget: Budget, count: int) -> tuple[int, nn.Module, Samples]:
    import diffusers
    from diffusers.training_utils import EMAModel

    model = diffusers.UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, fused=True)
    average = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    data = batches(BATCH)

    def step() -> None:
        images = next(data)
        noise, times = torch.randn_like(images), torch.randint(0, 1000, (len(images),))
        output = model(scheduler.add_noise(images, noise, times), times, return_dict=False)[0]
        functional.mse_loss(output, noise).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(model.parameters())

    steps = last(budget.lasts_for(step))
    averaged = copy.deepcopy(model)
    average.copy_to(averaged.parameters())
    ways = {
        "DDIM 50": (diffusers.DDIMScheduler(num_train_timesteps=1000), 50),
        "DPM-Solver++ 20": (diffusers.DPMSolverMultistepScheduler(num_train_timesteps=1000), 20),
    }
    samples: Samples = {}
    for weights, network in (("raw", model), ("averaged", averaged)):
        network.eval()
        for way, (sampler, calls) in ways.items():
            torch.manual_seed(1)
            parts = []
            for size in sizes(count):
                sampler.set_timesteps(calls)
                x = torch.randn(size, 1, 28, 28)
                for at in sampler.timesteps:
                    with torch.inference_mode():
                        x = sampler.step(network(x, at, return_dict=False)[0], at, x, return_dict=False)[0]
                parts.append(to_uint8(x))
            samples[f"{way}, {weights} weights"] = torch.cat(parts), None
    return steps, model, samples


def train_lucidrains(budget: Budget, count: int) -> tuple[int, nn.Module, Samples]:
    from diffkit.interop.lucidrains_package import package as import_package

    package = import_package()
    network = package.Unet(32, dim_mults=(1, 2, 4), channels=1)
    diffusion = package.GaussianDiffusion(
        network, image_size=28, timesteps=1000, sampling_timesteps=50, objective="pred_v"
    )
    averaged = copy.deepcopy(diffusion)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=4e-4, betas=(0.9, 0.99), fused=True)
    data = batches(BATCH)
    taken = itertools.count(1)

    def step() -> None:
        diffusion((next(data) + 1) / 2).backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        # its trainer averages every 10 steps with 0.995, and takes the weights as they are in the first 100
        if (number := next(taken)) % 10 == 0:
            with torch.no_grad():
                for mean, new in zip(averaged.parameters(), diffusion.parameters(), strict=True):
                    mean.lerp_(new, 0.005 if number > 100 else 1.0)

    steps = last(budget.lasts_for(step))
    samples: Samples = {}
    for weights, model in (("raw", diffusion), ("averaged", averaged)):
        model.eval()
        torch.manual_seed(1)
        images = torch.cat([model.sample(batch_size=size) for size in sizes(count)])
        samples[f"DDIM 50, {weights} weights"] = to_uint8(2 * images - 1), None
    return steps, network, samples


def train_recipe(name: str, overrides: list[str], folder: Path) -> Train:
    """Return what trains a recipe, and leaves the last checkpoint in a folder."""

    def train(budget: Budget, count: int) -> tuple[int, nn.Module, Samples]:
        plugins = Plugins()
        plugins.register_components()

        def run_of(*more: str) -> TrainingRun:
            recipe = plugins.open_recipe(str(RECIPES / f"{name}.toml"), [*overrides, *more])
            return TrainingRun(recipe, folder, recipe.data.info(), recipe.data.open(), torch.device("cpu"))

        # the learning rate falls over the whole run, so the number of steps has to be known at its start
        trial, taken = run_of(), []
        for _ in range(20):
            before = budget.used
            trial.take_step()
            taken.append(budget.used - before)
        steps = max(1, int(0.93 * (budget.seconds - budget.used) / np.median(taken)))
        run = run_of(f"train.steps={steps}")
        for step in budget.lasts_for(run.take_step):
            if step == steps:
                break
        if run.step < steps:
            raise SystemExit(f"only {run.step} of {steps} steps fitted into the time: the machine became slower")
        run.save()
        return run.step, run.model, sample_run(run, count)

    return train


def sample_run(run: TrainingRun, count: int) -> Samples:
    from diffkit.pipeline import Pipeline

    network = copy.deepcopy(run.model)
    network.load_state_dict(run.ema.state_dict())
    settings = run.recipe.sample.model_copy(update={"count": count, "batch_size": AT_ONCE})
    calls = settings.sampler.calls(settings.spacing.levels(run.recipe.process, settings.steps))
    parts = list(Pipeline(run.recipe, run.data, network, run.device).batches(count, settings, seed=1))
    labels = [part.labels for part in parts if part.labels is not None]
    images = torch.cat([part.images for part in parts])
    return {f"{settings.sampler.kind} {calls}": (images, torch.cat(labels) if labels else None)}


def sizes(count: int) -> Iterator[int]:
    for start in range(0, count, AT_ONCE):
        yield min(AT_ONCE, count - start)


def last(numbers: Iterator[int]) -> int:
    return max(numbers)


class Judge(nn.Module):
    """A residual network of the clothes' classes, unlike any classifier of diffkit's in shape, training and seed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 5, stride=2, padding=2)
        widths = (32, 64)
        self.blocks = nn.ModuleList(Judge._block(width) for width in widths)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in itertools.pairwise((*widths, 96)))
        self.hidden = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(96 * 9, 96), nn.GELU())
        self.logits = nn.Sequential(nn.Dropout(0.3), nn.Linear(96, 10))

    @staticmethod
    def _block(width: int) -> nn.Module:
        wide = nn.Conv2d(width, width, 3, padding=1)
        return nn.Sequential(nn.GroupNorm(4, width), wide, nn.GELU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for block, shrink in zip(self.blocks, self.shrink, strict=True):
            h = shrink(h + block(h))
        return self.hidden(h)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def seen(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return features ``[N, 96]`` and classes ``[N]`` of uint8 images."""
        features = torch.cat([self(to_unit(part)) for part in pixels.split(500)])
        return features, self.logits(features).argmax(dim=1)


def trained_judge(file: Path) -> Judge:
    torch.manual_seed(20_261_126)
    judge = Judge()
    if file.exists():
        judge.load_state_dict(torch.load(file, weights_only=True))
        return judge.eval()
    images, epochs, size = FashionMnist(flip=False).open(), 4, 100
    per_epoch = len(images) // size
    optimizer = torch.optim.SGD(judge.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, epochs * per_epoch)
    for epoch in range(epochs):
        for rows in torch.randperm(len(images)).split(size):
            labels = images.labels(rows)
            assert labels is not None
            loss = functional.cross_entropy(judge.logits(judge(to_unit(images.pixels(rows)))), labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(judge.parameters(), 5.0)
            optimizer.step()
            schedule.step()
        print(f"  judge: epoch {epoch + 1} of {epochs}, last loss {loss.item():.3f}", flush=True)
    torch.save(judge.state_dict(), file)
    return judge.eval()


def all_of(dataset: Dataset) -> tuple[Tensor, Tensor]:
    images = dataset.open()
    rows = torch.arange(len(images))
    labels = images.labels(rows)
    assert labels is not None
    return images.pixels(rows), labels


def score(folder: Path, count: int) -> None:
    judge = trained_judge(folder / "judge.pt")
    real, labels = all_of(FashionMnist(split="test", flip=False))
    known, classes = judge.seen(real)
    print(f"the judge names {(classes == labels).double().mean():.1%} of the test images right")
    table = Table(
        "contender", "parameters", "CPU s", "steps", "sampled by", "Fréchet distance", "KID", "named as asked"
    )

    def row(name: str, about: Mapping[str, object], way: str, pixels: Tensor, asked: Tensor | None) -> None:
        features, named = judge.seen(pixels)
        distance = Frechet().scores(features, known)["fid"].value
        kernel = Kernel().scores(features, known)["kid"]
        right = "" if asked is None else f"{(named == asked).double().mean():.1%}"
        cells = [str(about.get(key, "")) for key in ("parameters", "seconds", "steps")]
        table.add_row(name, *cells, way, f"{distance:.2f}", f"{kernel.value:.4f} ± {kernel.error:.4f}", right)

    for file in sorted(folder.glob("*.npz")):
        about = json.loads(file.with_suffix(".json").read_text())
        with np.load(file) as arrays:
            for way in about["ways"]:
                asked = torch.from_numpy(arrays[f"{way}/labels"]) if f"{way}/labels" in arrays else None
                row(file.stem, about, way, torch.from_numpy(arrays[way]), asked)
    train = FashionMnist(flip=False).open()
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count]
    row(f"{count} training images", {}, "", train.pixels(rows), train.labels(rows))
    Console(width=160).print(table)


CONTENDERS: dict[str, Callable[[list[str], Path], Train]] = {
    "diffusers": lambda *_: train_diffusers,
    "lucidrains": lambda *_: train_lucidrains,
    "diffkit": lambda *how: train_recipe("fashion_mnist", *how),
    "conditional": lambda *how: train_recipe("fashion_mnist_conditional", *how),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("fashion_mnist_benchmark"))
    parser.add_argument("--count", type=int, default=768, help="number of images drawn, and of training images scored")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train")
    train.add_argument("contenders", nargs="+", choices=CONTENDERS)
    train.add_argument("--seconds", type=float, default=3000)
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of a recipe")
    commands.add_parser("score")
    arguments = parser.parse_args()
    arguments.out.mkdir(exist_ok=True, parents=True)
    torch.set_num_threads(1)
    if arguments.command == "score":
        score(arguments.out, arguments.count)
        return
    for name in arguments.contenders:
        print(name, flush=True)
        torch.manual_seed(0)
        budget = Budget(arguments.seconds)
        steps, network, samples = CONTENDERS[name](arguments.set, arguments.out / name)(budget, arguments.count)
        arrays = {way: images.numpy() for way, (images, _) in samples.items()}
        labels = {f"{way}/labels": asked.numpy() for way, (_, asked) in samples.items() if asked is not None}
        np.savez(arguments.out / f"{name}.npz", **arrays, **labels)
        about = {
            "steps": steps,
            "seconds": round(budget.spent),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "ways": list(samples),
        }
        (arguments.out / f"{name}.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main()
