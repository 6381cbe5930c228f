"""A trained model that edits images: pixels in, pixels out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from diffkit.data.pixels import to_uint8, to_unit
from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.edit.image_to_image import image_to_image, last_part
from diffkit.diffusion.edit.inpaint import inpaint
from diffkit.diffusion.edit.interpolate import between, spherical
from diffkit.diffusion.edit.invert import invert, reconstruction_error
from diffkit.diffusion.generate import generate
from diffkit.diffusion.guidance import ClassifierFree
from diffkit.diffusion.levels import Levels
from diffkit.errors import UserError
from diffkit.pipeline import Pipeline
from diffkit.random import ImageNoise
from diffkit.recipe.tables import Sample


class Inverted(NamedTuple):
    """What images become by inversion, and what becomes of that.

    Attributes:
        noise: The noises at the first level: float32 ``[N, C, H, W]`` on the CPU.
        images: What they lead to: uint8 ``[N, C, H, W]``.
        errors: How far that is from the given images, in grey values of 255: the root of each image's mean squared
            difference, ``[N]``, before rounding to pixels.
    """

    noise: Tensor
    images: Tensor
    errors: Tensor


@dataclass(frozen=True)
class Editor:
    """A trained model, and how it is to be sampled.

    Without a label, a class-conditional model works without any class, as far as it was trained to.

    Attributes:
        pipeline: The model.
        settings: How to sample.
        seed: Result n depends on it, on n, and on the image that it is made of.
        label: The class of all images, by name or number.
        on_call: Told the number of images in the batch after each call of the network.

    Raises:
        UserError: If the model can't be sampled so.
    """

    pipeline: Pipeline
    settings: Sample
    seed: int = 0
    label: str | int | None = None
    on_call: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        self.pipeline.check(self.settings)
        self.pipeline.condition_shape(given=False)
        if self.label is not None:
            self._labels(0)
        elif self.settings.guidance.needs_classes:
            raise UserError(
                f"guidance = {self.settings.guidance.kind}: needs a class to guide to: say which with --label"
            )
        elif self._is_class_conditional:
            if self.pipeline.recipe.objective.label_dropout == 0:
                raise UserError(
                    "the model was only trained with classes (objective.label_dropout = 0): say which one it is, with "
                    f"--label. Known: {', '.join(self.pipeline.data.classes)}"
                )
            if isinstance(self.settings.guidance, ClassifierFree):  # away from no class to no class: nowhere
                unguided = self.settings.model_copy(update={"guidance": ClassifierFree()})
                object.__setattr__(self, "settings", unguided)

    def telling(self, on_call: Callable[[int], None]) -> Editor:
        """Return the same editor with somebody who is told of each call of the network."""
        return dataclasses.replace(self, on_call=on_call)

    @cached_property
    def levels(self) -> Levels:
        """The levels of a whole walk."""
        return self.settings.spacing.levels(self.pipeline.recipe.process, self.settings.steps)

    def last_part(self, strength: float) -> Levels:
        """Return the levels that a variation of some strength walks.

        Raises:
            UserError: If the strength is not in (0, 1].
        """
        try:
            return last_part(self.levels, strength)
        except ValueError as error:
            raise UserError(str(error)) from None

    def check_invertible(self) -> None:
        """Check that images can be inverted, and that the sampler can lead back to them.

        Raises:
            UserError: If not; says what to do.
        """
        sampler = self.settings.sampler
        if not sampler.is_deterministic(self.levels):
            raise UserError(
                f"sampler = {sampler.kind}: adds noise on the way, so it doesn't lead back to the images: choose a "
                "deterministic one, such as --sampler ddim"
            )
        if len(self.levels) == 2 and self.levels[0].alpha == 0:
            raise UserError("steps = 1: one step from the image to pure noise cannot be inverted: take at least 2")

    def inpaint(
        self, images: Tensor, hole: Tensor, *, count: int = 1, jump: int | None = None, repetitions: int = 10
    ) -> Tensor:
        """Fill a hole in images: `diffkit.diffusion.edit.inpaint`.

        Args:
            images: uint8 ``[N, C, H, W]``.
            hole: What to paint anew: booleans ``[H, W]``.
            count: Results of each image.
            jump: Steps that are taken again at once.
            repetitions: How often each step is taken.

        Returns:
            uint8 ``[N count, C, H, W]``, all of the first image's results first.
        """
        hole = hole.to(self.pipeline.device)
        return self._each(
            images,
            count,
            lambda denoise, x, noise: inpaint(denoise, self.levels, x, hole, noise, jump=jump, repetitions=repetitions),
        )

    def vary(self, images: Tensor, strength: float, *, count: int = 1) -> Tensor:
        """Make images like given ones: `diffkit.diffusion.edit.image_to_image`.

        Args:
            images: uint8 ``[N, C, H, W]``.
            strength: The part of the walk to take, in (0, 1].
            count: Results of each image.

        Returns:
            uint8 ``[N count, C, H, W]``, all of the first image's results first.

        Raises:
            UserError: If the strength is not in (0, 1].
        """
        self.last_part(strength)
        return self._each(
            images,
            count,
            lambda denoise, x, noise: image_to_image(denoise, self.settings.sampler, self.levels, x, noise, strength),
        )

    def interpolate_seeds(self, first: int, last: int, count: int, size: tuple[int, int] | None = None) -> Tensor:
        """Make images from the first one of one seed to the first one of another: `diffkit.diffusion.edit.interpolate`.

        Args:
            first: A seed.
            last: Another one.
            count: Number of images, both ends among them; at least 2.
            size: Height and width, where they should not be those of the data.

        Returns:
            uint8 ``[count, C, H, W]``.
        """
        shape = self.pipeline.shape(size)
        device = self.pipeline.device

        def sample(parts: Tensor) -> Tensor:
            start, end = (ImageNoise(seed, [0], shape, device) for seed in (first, last))
            noise = between(start, end, parts)
            return generate(self._denoise(len(parts)), self.settings.sampler, self.levels, noise)

        return self._along(sample, count)

    def interpolate_images(self, images: Tensor, count: int) -> Tensor:
        """Make images from one image to another: inverts both, and samples from what is between their noises.

        Args:
            images: The two: uint8 ``[2, C, H, W]``.
            count: Number of results, reconstructions of both images among them; at least 2.

        Returns:
            uint8 ``[count, C, H, W]``.

        Raises:
            UserError: If the images can't be inverted.
        """
        self.check_invertible()
        with torch.inference_mode():
            ends = self._invert(self._unit(images))

        def sample(parts: Tensor) -> Tensor:
            return self._walk_back(spherical(ends[0], ends[1], parts))

        return self._along(sample, count)

    def invert(self, images: Tensor) -> Inverted:
        """Find the noises that lead to images, and follow them back: `diffkit.diffusion.edit.invert`.

        Args:
            images: uint8 ``[N, C, H, W]``.

        Raises:
            UserError: If the images can't be inverted.
        """
        self.check_invertible()
        done = []
        with torch.inference_mode():
            for batch in torch.split(images, self.settings.batch_size):
                x = self._unit(batch)
                noise = self._invert(x)
                back = self._walk_back(noise)
                errors = 127.5 * reconstruction_error(x, back)
                done.append(Inverted(noise.cpu(), to_uint8(back).cpu(), errors.cpu()))
        return Inverted(*(torch.cat(parts) for parts in zip(*done, strict=True)))

    def _each(self, images: Tensor, count: int, edit: Callable[[Denoise, Tensor, ImageNoise], Tensor]) -> Tensor:
        """Edit each image `count` times, in batches; result n has the n-th stream of noise."""
        shape, done = tuple(images.shape[1:]), []
        for numbers in self._batches(len(images) * count):
            x = self._unit(images[[number // count for number in numbers]])
            noise = ImageNoise(self.seed, numbers, shape, self.pipeline.device)
            with torch.inference_mode():
                done.append(to_uint8(edit(self._denoise(len(x)), x, noise)).cpu())
        return torch.cat(done)

    def _along(self, sample: Callable[[Tensor], Tensor], count: int) -> Tensor:
        """Sample at `count` parts of the way between two ends, in batches."""
        parts = torch.linspace(0, 1, count, dtype=torch.float64, device=self.pipeline.device)
        with torch.inference_mode():
            return torch.cat([to_uint8(sample(some)).cpu() for some in torch.split(parts, self.settings.batch_size)])

    def _invert(self, x: Tensor) -> Tensor:
        return invert(self._denoise(len(x)), self.levels, x)

    def _walk_back(self, x: Tensor) -> Tensor:
        return self.settings.sampler.sample(self._denoise(len(x)), self.levels, x, lambda: torch.zeros_like(x))

    def _batches(self, count: int) -> Iterator[range]:
        size = self.settings.batch_size
        yield from (range(start, min(count, start + size)) for start in range(0, count, size))

    def _denoise(self, count: int) -> Denoise:
        return self.pipeline.denoise(self.settings, self._labels(count), self.on_call)

    def _labels(self, count: int) -> Tensor | None:
        if self.label is None:
            return None
        return self.pipeline.labels_of(self.label, range(count), self.settings.guidance)

    def _unit(self, images: Tensor) -> Tensor:
        return to_unit(images.to(self.pipeline.device))

    @property
    def _is_class_conditional(self) -> bool:
        return self.pipeline.recipe.model.class_conditional
