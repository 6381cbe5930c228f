"""How probable a trained model finds images of its data set."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diffkit.data.base import Dataset, Images, Split
from diffkit.data.pixels import to_unit
from diffkit.data.progress import progress_bar
from diffkit.diffusion.denoise import Denoise, Denoised
from diffkit.diffusion.likelihood import (
    Probe,
    VariationalBound,
    bits_of_pixels,
    bound_refused,
    dequantized,
    draw_probe,
    ode_levels,
    ode_log_likelihood,
    variational_bound,
)
from diffkit.diffusion.process import DiscreteProcess, Level
from diffkit.diffusion.spacing import Spacing
from diffkit.diffusion.x0_rule import X0Rule
from diffkit.errors import UserError
from diffkit.pipeline import Pipeline
from diffkit.random import ImageNoise, derive_seed, numpy_generator
from diffkit.recipe.tables import Recipe, Sample

Method = Literal["vlb", "ode"]

ODE_STEPS = 100
"""Steps of the ODE, unless another number is given."""


@dataclass(frozen=True)
class Likelihood:
    """The negative log-likelihood of images, in bits per dimension.

    Attributes:
        numbers: Which images of the data set these are.
        terms: The terms by name, each for all images: ``[N]``. The last is the total.
        steps: The number of steps.
        calls: How often the network saw each image.
        bound: All there is to know of a variational bound; None for the ODE.
    """

    numbers: list[int]
    terms: dict[str, Tensor]
    steps: int
    calls: int
    bound: VariationalBound | None = None

    @property
    def total(self) -> Tensor:
        """The bits per dimension of each image: float64 ``[N]``."""
        return self.terms["total"]

    def means(self) -> dict[str, tuple[float, float | None]]:
        """Return each term's mean and its standard error, which a single image has not."""
        count = len(self.numbers)
        return {
            name: (bits.mean().item(), bits.std().item() / math.sqrt(count) if count > 1 else None)
            for name, bits in self.terms.items()
        }

    def table(self) -> str:
        """Return the terms as text, one a line."""
        lines = [
            f"  {name:8} {mean:10.4f}" + ("" if error is None else f" ± {error:.4f}")
            for name, (mean, error) in self.means().items()
        ]
        return "\n".join(["bits per dimension, mean ± standard error", *lines])

    def to_json(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        found: dict[str, Any] = {
            "unit": "bits per dimension",
            "images": len(self.numbers),
            "steps": self.steps,
            "network_calls": self.calls,
            "terms": {name: {"mean": mean, "standard_error": error} for name, (mean, error) in self.means().items()},
            "per_image": {"number": self.numbers, "total": self.total.tolist()},
        }
        if self.bound is not None:
            decoded = torch.cat([self.bound.kl, self.bound.decoder[:, None]], dim=1)
            curves = {"bits": decoded, "x0_mse": self.bound.x0_mse, "eps_mse": self.bound.eps_mse}
            found["per_time"] = {
                "time": list(self.bound.times),
                **{name: values.mean(0).tolist() for name, values in curves.items()},
            }
        return found


def open_split(pipeline: Pipeline, split: Split | None = None) -> tuple[Dataset, Images]:
    """Open a part of the data set that a model was trained on, which `Pipeline.dataset` names.

    Returns:
        The data set, and its images.

    Raises:
        UserError: As `Pipeline.dataset`.
    """
    dataset = pipeline.dataset(split)
    return dataset, dataset.open()


def evaluate_likelihood(
    pipeline: Pipeline,
    images: Images,
    *,
    method: Method = "vlb",
    count: int | None = None,
    numbers: Sequence[int] | None = None,
    steps: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    probe: Probe = "rademacher",
    on_call: Callable[[int], None] | None = None,
) -> Likelihood:
    """Evaluate the negative log-likelihood of images, with a progress bar.

    A class-conditional model is told the images' labels; one that makes images from others, or from vectors, is given
    those of these images. Nothing guides it. The variational bound takes the recipe's rule for x0; the ODE none.

    Args:
        pipeline: The model.
        images: Images of the model's size.
        method: ``vlb``: the variational bound. ``ode``: the likelihood of the probability-flow ODE.
        count: Number of images, which the seed chooses; all by default.
        numbers: Which images, instead.
        steps: Number of times of the bound, by default all of the process; or of steps of the ODE.
        batch_size: Number of images at once. Has no part in the result.
        seed: All randomness follows from it. That of an image does from it and the image's number.
        probe: The random numbers of Hutchinson's estimator.
        on_call: Told the number of images after each call of the network; by default a progress bar is shown.

    Raises:
        UserError: If the model cannot be evaluated so, or there are not so many images.
    """
    recipe = pipeline.recipe
    chosen = chosen_images(images, count, seed) if numbers is None else list(numbers)
    parts = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
    steps, calls = walk_of(pipeline, method, steps)
    with contextlib.ExitStack() as stack:
        advance = on_call or stack.enter_context(progress_bar("likelihood", total=len(chosen) * calls))
        if method == "vlb":
            times = _times_of_bound(recipe, steps)
            bound = _joined([_bound(pipeline, times, images, part, seed, advance) for part in parts])
            terms = {"prior": bound.prior, "KL": bound.kl.sum(dim=1), "decoder": bound.decoder, "total": bound.total}
            return Likelihood(chosen, terms, steps, calls, bound)
        levels = _levels_of_ode(recipe, steps)
        bits = torch.cat([_ode(pipeline, levels, images, part, seed, probe, advance) for part in parts])
        return Likelihood(chosen, {"total": bits}, steps, calls)


def walk_of(pipeline: Pipeline, method: Method, steps: int | None = None) -> tuple[int, int]:
    """Return the number of steps, and how often the network sees each image.

    Args:
        pipeline: The model.
        method: As for `evaluate_likelihood`.
        steps: As for `evaluate_likelihood`.

    Raises:
        UserError: If the model cannot be evaluated so.
    """
    recipe = pipeline.recipe
    per_level = 2 if recipe.objective.self_conditioning else 1
    if method == "vlb":
        times = _times_of_bound(recipe, steps)
        return len(times), per_level * len(times)
    levels = _levels_of_ode(recipe, ODE_STEPS if steps is None else steps)
    return len(levels) - 1, per_level * 2 * (len(levels) - 1)


def chosen_images(images: Images, count: int | None, seed: int) -> list[int]:
    """Choose images by chance, since a data set may be in the order of its classes.

    Raises:
        UserError: If there are not so many.
    """
    if count is not None and count > len(images):
        raise UserError(f"count = {count}: there are {len(images)} images")
    order = numpy_generator(seed, "likelihood").permutation(len(images))
    chosen: list[int] = order[:count].tolist()
    return chosen


def _times_of_bound(recipe: Recipe, steps: int | None) -> list[int]:
    """Return the times of the bound: evenly, from the noisiest to time 0."""
    process = recipe.process
    if reason := bound_refused(process):
        raise UserError(f"method = vlb: {reason}: method = ode")
    assert isinstance(process, DiscreteProcess)
    steps = process.steps if steps is None else steps
    spacing = Spacing.choose("linspace")
    if reason := spacing.refuses(process, steps):
        raise UserError(f"steps = {steps}: {reason}")
    times = [int(time) for time in spacing.visited(process, steps)]
    if times[-1] != 0:
        raise UserError(f"steps = {steps}: the bound visits the first and the last time: take at least 2")
    return times


def _levels_of_ode(recipe: Recipe, steps: int) -> list[Level]:
    whole = recipe.model.times_known() is not None
    if whole and isinstance(recipe.process, DiscreteProcess) and steps >= recipe.process.steps:
        most = recipe.process.steps - 1
        raise UserError(f"steps = {steps}: the network knows whole times only, so at most {most} steps can be taken")
    levels = ode_levels(recipe.process, steps, whole=whole)
    if len(levels) < 2:
        raise UserError("method = ode: the process has a single time: there is no way to follow: method = vlb")
    return levels


def _bound(
    pipeline: Pipeline, times: list[int], images: Images, numbers: list[int], seed: int, advance: Callable[[int], None]
) -> VariationalBound:
    recipe, x0 = pipeline.recipe, to_unit(_pixels(pipeline, images, numbers))
    denoise = _unguided(pipeline, recipe.sample.x0_rule, images, numbers, advance)

    def noise(time: int) -> Tensor:
        return ImageNoise(derive_seed(seed, "bound", time), numbers, pipeline.data.shape, pipeline.device)()

    with torch.inference_mode():
        return variational_bound(denoise, recipe.objective.variance, recipe.process, times, x0, noise)


def _ode(
    pipeline: Pipeline,
    levels: list[Level],
    images: Images,
    numbers: list[int],
    seed: int,
    probe: Probe,
    advance: Callable[[int], None],
) -> Tensor:
    """Return the bits per dimension of images: float64 on the CPU."""
    shape = pipeline.data.shape
    drawn = [numpy_generator(seed, "dequantize", number).random(shape, dtype=np.float32) for number in numbers]
    x = dequantized(_pixels(pipeline, images, numbers), torch.from_numpy(np.stack(drawn)).to(pipeline.device))
    normal = ImageNoise(derive_seed(seed, "probe"), numbers, shape, pipeline.device)()
    denoise = _unguided(pipeline, X0Rule.choose("none"), images, numbers, advance)
    density = ode_log_likelihood(denoise, levels, x, draw_probe(normal, probe))
    return bits_of_pixels(density.cpu().to(torch.float64), math.prod(shape))


def _pixels(pipeline: Pipeline, images: Images, numbers: list[int]) -> Tensor:
    return images.pixels(torch.tensor(numbers)).to(pipeline.device)


def _unguided(
    pipeline: Pipeline, x0_rule: X0Rule, images: Images, numbers: list[int], advance: Callable[[int], None]
) -> Denoise:
    """Return the model as it is, for these images, whose answers depend on nothing earlier.

    With self-conditioning, the estimate that the network sees beside a noisy image is its own first one of it.
    """
    table = {**pipeline.recipe.sample.model_dump(), "guidance": 1.0, "x0_rule": x0_rule}
    settings, rows = Sample.model_validate(table), torch.tensor(numbers)
    labels = images.labels(rows) if pipeline.recipe.model.class_conditional else None
    kind = pipeline.recipe.objective.condition
    seen = kind.make(to_unit(_pixels(pipeline, images, numbers))) if kind.channels(pipeline.data.channels) else None
    vectors = images.vectors(rows) if pipeline.data.vector else None

    def denoise(x: Tensor, level: Level) -> Denoised:
        fresh = pipeline.denoise(settings, labels, advance, condition=seen, vectors=vectors)
        if pipeline.recipe.objective.self_conditioning:
            fresh(x, level)
        return fresh(x, level)

    return denoise


def _joined(bounds: Sequence[VariationalBound]) -> VariationalBound:
    fields = ("prior", "kl", "decoder", "x0_mse", "eps_mse")
    return VariationalBound(
        bounds[0].times, **{name: torch.cat([getattr(bound, name) for bound in bounds]) for name in fields}
    )
