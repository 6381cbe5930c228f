"""Trains a classifier of noisy images, for guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diffkit.data.base import DataInfo, Images
from diffkit.data.batches import Batches
from diffkit.data.pixels import to_unit
from diffkit.data.progress import progress_bar
from diffkit.diffusion.process import per_image
from diffkit.errors import DataError, Diverged, Interrupted, RecipeError, UserError
from diffkit.random import derive_seed, numpy_generator, torch_generator
from diffkit.recipe.rules import classifier_problems
from diffkit.recipe.tables import ClassifierTraining, Recipe
from diffkit.storage.checkpoint import make_header
from diffkit.storage.classifier import write_classifier
from diffkit.storage.runs import CLASSIFIER
from diffkit.train.components import from_plugins
from diffkit.train.stop import StopRequest

CHECK_EVERY = 50
"""Steps between two looks at the loss, which wait for the device."""

ENOUGH = 2_048
"""So many images, at most, tell the accuracy."""


@dataclass(frozen=True)
class Classified:
    """A classifier that was trained.

    Attributes:
        file: The file of its weights.
        accuracy: The part of the images that it classifies right, at times drawn from each quarter of the way, from the
            least noise on.
        held_out: Whether those images were kept from the training.
    """

    file: Path
    accuracy: tuple[float, ...]
    held_out: bool


def train_classifier(
    recipe: Recipe,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    force: bool = False,
    stop: StopRequest | None = None,
) -> Classified:
    """Train a classifier of a recipe's images with its noise (Dhariwal & Nichol 2021, section 4.3).

    The images, the process and the times are the recipe's, the rest is in its table `[classifier]`. The same recipe
    gives the same classifier, bit for bit on the CPU.

    Args:
        recipe: The recipe.
        folder: The run folder, which gets `classifier.safetensors`; made if missing.
        device: Where to train.
        force: Replace a classifier that is there.
        stop: Lets another thread stop the training; Ctrl-C and SIGTERM stop it in any case.

    Raises:
        UserError: If there is a classifier already, or something is wrong with recipe or data.
        Diverged: If the loss is no longer finite; nothing is written.
        Interrupted: If the training was stopped; nothing is written.
    """
    settings = recipe.classifier or ClassifierTraining()
    recipe = recipe.model_copy(update={"classifier": settings})
    if problems := classifier_problems(recipe, settings):
        raise RecipeError(recipe.name, problems)
    file = folder / CLASSIFIER
    if file.exists() and not force:
        raise UserError(f"{file}: exists already; --force overwrites it")
    data, images = recipe.data.info(), recipe.data.open()
    learned, held_out = _split(images, settings.held_out, recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    stop = stop or StopRequest()
    with stop.listening(), torch.random.fork_rng(devices=[]):
        network = _trained(recipe, settings, data, learned, torch.device(device), stop)
    accuracy = _accuracy(recipe, settings, network, held_out or learned, torch.device(device))
    header = make_header(recipe, data, from_plugins(recipe), settings.steps, "classifier")
    write_classifier(file, header, network)
    return Classified(file, accuracy, held_out=held_out is not None)


def _trained(
    recipe: Recipe,
    settings: ClassifierTraining,
    data: DataInfo,
    images: Images,
    device: torch.device,
    stop: StopRequest,
) -> nn.Module:
    """Return the network after all steps. All randomness is a pure function of the seed and the step."""
    seed = derive_seed(recipe.seed, "classifier")
    torch.manual_seed(derive_seed(seed, "weights"))
    network = settings.network.build(data).to(device).train()
    batches = Batches(images, settings.batch_size, seed, recipe.data.flip)
    optimizer = settings.optimizer.build(network.parameters())
    with progress_bar("classifier", settings.steps) as advance:
        for step in range(settings.steps):
            if stop.requested:
                raise Interrupted(f"interrupted at step {step} of the classifier: nothing is written")
            torch.manual_seed(derive_seed(seed, "dropout", step))
            draw = torch_generator(device, seed, "step", step)
            times = recipe.objective.time_sampling.draw(settings.batch_size, recipe.process, draw)
            pixels, labels = batches.batch(step)
            loss = cross_entropy(network(*_noisy(recipe, pixels, times, draw)), _known(labels).to(device))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            factor = settings.lr_schedule.factor(step, settings.steps)
            for group in optimizer.param_groups:
                group["lr"] = settings.optimizer.lr * factor
            optimizer.step()
            is_checked = step % CHECK_EVERY == 0 or step == settings.steps - 1
            advance(1, f"loss {_finite(loss.item(), step):.4f}" if is_checked else "")
    _finite(sum(parameter.detach().sum().item() for parameter in network.parameters()), settings.steps)
    return network.eval()


def _noisy(recipe: Recipe, pixels: Tensor, time: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images with the noise of their times, as networks see them, and the times as networks see them."""
    process = recipe.process
    x0 = to_unit(pixels.to(draw.device, non_blocking=True))
    noise = recipe.objective.draw_noise(len(x0), tuple(x0.shape[1:]), draw)
    x = process.add_noise(x0, noise.target, time)
    scale = process.input_scale(process.alpha(time), process.sigma(time))
    return x if scale is None else per_image(scale, x) * x, process.network_time(time).to(torch.float32)


@torch.inference_mode()
def _accuracy(
    recipe: Recipe, settings: ClassifierTraining, network: nn.Module, images: Images, device: torch.device
) -> tuple[float, ...]:
    count = min(len(images), ENOUGH)
    right = [0] * 4
    draw = torch_generator(device, recipe.seed, "classifier", "accuracy")
    for start in range(0, count, settings.batch_size):
        rows = torch.arange(start, min(count, start + settings.batch_size))
        pixels, labels = images.pixels(rows), _known(images.labels(rows)).to(device)
        part = 1 - torch.rand(len(rows), generator=draw, device=device, dtype=torch.float64)
        for quarter in range(4):
            logits = network(*_noisy(recipe, pixels, recipe.process.at((quarter + part) / 4), draw))
            right[quarter] += int((logits.argmax(dim=1) == labels).sum())
    return tuple(number / count for number in right)


def _finite(number: float, step: int) -> float:
    if not math.isfinite(number):
        raise Diverged(f"the classifier's loss or weights are {number} at step {step}: try a lower learning rate")
    return number


def _known(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise DataError("the data set names classes, but gives its images no labels")
    return labels


def _split(images: Images, held_out: float, seed: int) -> tuple[Images, Images | None]:
    """Return the images to learn from, and those held out; None where these are none."""
    held = int(len(images) * held_out)
    if held == 0:
        return images, None
    order = torch.from_numpy(numpy_generator(seed, "classifier", "held out").permutation(len(images)))
    return _Some(images, order[held:]), _Some(images, order[:held])


class _Some(Images):
    """Some of the images of a data set."""

    def __init__(self, images: Images, which: Tensor) -> None:
        self._images, self._which = images, which

    def __len__(self) -> int:
        return len(self._which)

    def pixels(self, indices: Tensor) -> Tensor:
        return self._images.pixels(self._which[indices])

    def labels(self, indices: Tensor) -> Tensor | None:
        return self._images.labels(self._which[indices])
