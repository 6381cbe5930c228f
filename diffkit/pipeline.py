"""A trained model with all that sampling needs."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffkit.data.base import DataInfo, Dataset, Split, of_split
from diffkit.data.pixels import to_uint8, to_unit
from diffkit.diffusion.denoise import Denoise, Denoised
from diffkit.diffusion.denoiser import make_denoise
from diffkit.diffusion.generate import generate
from diffkit.diffusion.guidance import Guidance
from diffkit.diffusion.process import Level
from diffkit.errors import UserError, did_you_mean
from diffkit.nn.base import Ports
from diffkit.out_of_memory import advising
from diffkit.random import ImageNoise, derive_seed
from diffkit.recipe.rules import guidance_refused, spacing_refused, walk_refused
from diffkit.recipe.tables import Recipe, Sample
from diffkit.spec import AskedPath
from diffkit.storage.checkpoint import read_weights, recipe_of
from diffkit.storage.classifier import read_classifier
from diffkit.storage.fit import build_with
from diffkit.storage.reconstruct import reconstruct
from diffkit.storage.runs import Weights, find_weights, home_of

LARGEST_BATCH = 2**32
"""Images that are sampled at once have no more numbers together."""


def build_network(recipe: Recipe, data: DataInfo, device: torch.device | str = "cpu") -> nn.Module:
    """Build a recipe's network, with initial weights that follow from the recipe's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "weights"))
        network = recipe.model.build(data, ports_of(recipe, data))
    where = {tensor.device for tensor in (*network.parameters(), *network.buffers())}
    return network if where == {torch.device(device)} else network.to(device)


def ports_of(recipe: Recipe, data: DataInfo) -> Ports:
    """Return what a recipe's network takes and gives."""
    return recipe.objective.ports(data.channels, vector=data.vector + recipe.train.augmentation.vector_size)


@dataclass(frozen=True)
class Batch:
    """Some of the images of one sampling.

    Attributes:
        numbers: Which images these are, counted from 0.
        images: uint8 ``[n, C, H, W]`` on the CPU.
        labels: Labels ``[n]`` of a class-conditional model, else None.
    """

    numbers: range
    images: Tensor
    labels: Tensor | None


class Pipeline:
    """A network, and the recipe and data that it belongs to.

    Args:
        recipe: The recipe.
        data: What the network knows of its images.
        network: The network; put into evaluation mode.
        device: Where the network is.
        weights: Which of the model's weights the network has.
        home: The folder of the model, where the recipe was read from a model's file: files outside of it that the
            recipe itself names are not opened. None for a recipe of the user's own.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: DataInfo,
        network: nn.Module,
        device: torch.device | str = "cpu",
        weights: Weights = "ema",
        *,
        home: Path | None = None,
    ) -> None:
        self.recipe = recipe
        self.data = data
        self.network = network.eval()
        self.device = torch.device(device)
        self.weights = weights
        self._unasked = set() if home is None else _files_outside(recipe.sample.guidance, home)
        self._guides: dict[Path, nn.Module] = {}
        self._classifiers: dict[Path, nn.Module] = {}

    @classmethod
    def load(
        cls,
        path: str | Path,
        weights: Weights = "ema",
        device: torch.device | str = "cpu",
        *,
        open_named: bool = False,
    ) -> Pipeline:
        """Load a run folder, a checkpoint folder or a weights file. Runs no code that lies beside it.

        The components that the recipe names must be registered, plugins' too.

        Args:
            path: The folder or file.
            weights: The averaged weights, those of the last step, or a number: the average of that length, made of the
                run's snapshots (`diffkit.storage.reconstruct`).
            device: Where the network goes.
            open_named: Also open files outside of the model's folder where its recipe names them: those of its
                guidance. By default sampling refuses to.

        Raises:
            CheckpointError: If there is no whole checkpoint, or its recipe needs a plugin that isn't loaded.
            UserError: If the run has not kept what is needed for an average of this length.
        """
        file = Path(path)
        if isinstance(weights, str):
            file = find_weights(file, weights)
            header, tensors = read_weights(file)
        else:
            header, tensors = reconstruct(file, weights)
        recipe = recipe_of(header, file)
        network = build_with(tensors, lambda where: build_network(recipe, header.data, where), device, file)
        return cls(recipe, header.data, network, device, weights, home=None if open_named else home_of(file))

    def dataset(self, split: Split | None = None) -> Dataset:
        """Return a part of the data set that the model was trained on.

        Args:
            split: The part; by default the one for testing, where there is one.

        Raises:
            UserError: If there is no part for testing, or the images are no longer of the model's size and classes.
        """
        dataset = of_split(self.recipe.data, split)
        info = dataset.info()
        if info != self.data:
            raise UserError(f"the data set is no longer what the model was trained on: {info} instead of {self.data}")
        return dataset

    def labels_of(
        self, label: str | int | None, numbers: Sequence[int], guidance: Guidance | None = None
    ) -> Tensor | None:
        """Return the labels of images: the given class for all, or else the classes in turn.

        Args:
            label: A class's name or number, or None.
            numbers: The numbers of the images.
            guidance: What steers the model: some need classes where the model itself sees none.

        Raises:
            UserError: If there is no such class, or the model knows no classes.
        """
        classes = self.data.classes
        if not self.recipe.model.class_conditional and not (classes and guidance and guidance.needs_classes):
            if label is not None:
                raise UserError(f"label '{label}': the model of '{self.recipe.name}' is not class-conditional")
            return None
        if label is None:
            return torch.tensor([number % len(classes) for number in numbers])
        return torch.full((len(numbers),), self._class_number(str(label)))

    def _class_number(self, label: str) -> int:
        classes = self.data.classes
        if label in classes:
            return classes.index(label)
        if label.isdecimal() and int(label) < len(classes):
            return int(label)
        raise UserError(f"no class is called '{label}'.{did_you_mean(label, classes)} Known: {', '.join(classes)}")

    def check(self, settings: Sample) -> None:
        """Check that the model can be sampled with these settings.

        Raises:
            UserError: If it can not.
        """
        if problem := spacing_refused(self.recipe, settings.spacing, settings.steps):
            raise UserError(f"{problem.key} = {problem.value}: {problem.message}")
        if reason := guidance_refused(self.recipe, settings.guidance):
            raise UserError(f"guidance = {settings.guidance.weight}: {reason}")
        if reason := walk_refused(self.recipe, settings):
            raise UserError(reason)
        self._guide(settings.guidance)
        self._classifier(settings.guidance)

    def shape(self, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
        """Return the shape ``(C, H, W)`` of images of a height and width; by default of those trained on.

        Raises:
            UserError: If the network cannot take images of this size.
        """
        height, width = size or (self.data.height, self.data.width)
        if reason := self.recipe.model.refuses_size(self.data, height, width):
            raise UserError(f"size = {height}x{width}: {reason}")
        return self.data.channels, height, width

    def condition_shape(self, size: tuple[int, int] | None = None, *, given: bool) -> tuple[int, int, int]:
        """Return the shape ``(C', h, w)`` of images that the model makes images from; C' is 0 if it takes none.

        Args:
            size: Height and width of the images to be made; by default those of the data.
            given: Whether there are images to make them from.

        Raises:
            UserError: If there are none and the model needs some, or the other way round, or the size doesn't fit.
        """
        shape, kind = self.shape(size), self.recipe.objective.condition
        if reason := kind.refuses(*shape):
            raise UserError(f"size = {shape[1]}x{shape[2]}: {reason}")
        wanted = kind.shape(*shape)
        if given and wanted[0] == 0:
            raise UserError(f"condition: the model of '{self.recipe.name}' makes images from noise alone: leave it out")
        if wanted[0] and not given:
            raise UserError(
                f"condition: the model of '{self.recipe.name}' makes images from others ({kind.kind}), of "
                f"{_sizes(wanted)} (channels x height x width), and none were given"
            )
        return wanted

    def check_condition(self, condition: Tensor | None, size: tuple[int, int] | None = None) -> None:
        """Check images that the model is to make images from.

        Args:
            condition: The images, uint8 ``[M, C', h, w]``; None without any.
            size: Height and width of the images to be made; by default those of the data.

        Raises:
            UserError: If they are not what the model takes.
        """
        wanted = self.condition_shape(size, given=condition is not None)
        if condition is None:
            return
        if condition.shape[1:] != wanted or len(condition) == 0 or condition.dtype != torch.uint8:
            raise UserError(
                f"condition: {_sizes(condition.shape)} in {str(condition.dtype).removeprefix('torch.')} was given, and "
                f"the model takes Nx{_sizes(wanted)} (number x channels x height x width) in uint8"
            )

    def check_vectors(self, vectors: Tensor | None) -> None:
        """Check the vectors that the model is to be conditioned by.

        Raises:
            UserError: If they are not what the model takes.
        """
        size = self.data.vector
        if vectors is None and size:
            raise UserError(
                f"vectors: the model of '{self.recipe.name}' is conditioned by vectors of {size} numbers, and none "
                "were given"
            )
        if vectors is None:
            return
        if size == 0:
            raise UserError(f"vectors: the model of '{self.recipe.name}' is not conditioned by any: leave them out")
        if vectors.dim() != 2 or vectors.shape[1] != size or len(vectors) == 0 or not vectors.isfinite().all():
            raise UserError(f"vectors: should be finite numbers [M, {size}], not of the shape {list(vectors.shape)}")

    def _whole_vectors(self, vectors: Tensor) -> Tensor:
        """Return what the network sees: the images' vectors, and zeros where training told it of augmentations."""
        whole = ports_of(self.recipe, self.data).vector
        return nn.functional.pad(vectors.to(self.device, torch.float32), (0, whole - vectors.shape[1]))

    def sample(
        self,
        count: int,
        *,
        seed: int = 0,
        label: str | int | None = None,
        size: tuple[int, int] | None = None,
        condition: Tensor | None = None,
        vectors: Tensor | None = None,
        **settings: Any,
    ) -> Tensor:
        """Sample images: uint8 ``[count, C, H, W]``.

        Args:
            count: Number of images.
            seed: Image i depends on it and on i only.
            label: Class of all images, by name or number; by default the classes in turn.
            size: Height and width, where they should not be those of the data.
            condition: Images that a model with an `objective.condition` makes images from, in turn: uint8
                ``[M, C', h, w]``, small ones for super-resolution and grey ones for colorization.
            vectors: Vectors that a model of images with vectors is conditioned by, in turn: ``[M, V]``.
            **settings: Settings of the recipe's `[sample]` table to change, such as ``sampler="ddim", steps=50``.
        """
        chosen = Sample.model_validate({**self.recipe.sample.model_dump(), **settings})
        batches = self.batches(count, chosen, seed=seed, label=label, size=size, condition=condition, vectors=vectors)
        return torch.cat([batch.images for batch in batches])

    def batches(
        self,
        count: int,
        settings: Sample | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        label: str | int | Tensor | None = None,
        size: tuple[int, int] | None = None,
        condition: Tensor | None = None,
        vectors: Tensor | None = None,
        on_call: Callable[[int], None] | None = None,
    ) -> Iterator[Batch]:
        """Sample images batch by batch.

        Args:
            count: Number of images in all.
            settings: How to sample; the recipe's `[sample]` by default.
            seed: Image i depends on it and on i only.
            first: Number of the first image.
            label: Class of all images, by name or number; or the numbers of their classes, in turn: ``[M]``. By default
                the classes in turn.
            size: Height and width, where they should not be those of the data.
            condition: Images that the model makes images from, in turn, as for `sample`.
            vectors: Vectors that condition the model, in turn, as for `sample`.
            on_call: Told the number of images in the batch after each call of the network.

        Yields:
            The batches, in order.
        """
        settings = settings or self.recipe.sample
        self.check(settings)
        shape = self.shape(size)
        if settings.batch_size * math.prod(shape) > LARGEST_BATCH:
            raise UserError(
                f"batch_size = {settings.batch_size}: so many images of {_sizes(shape)} (channels x height x width) at "
                f"once have more than {LARGEST_BATCH:,} numbers: lower it to {LARGEST_BATCH // math.prod(shape):,}"
            )
        self.check_condition(condition, size)
        self.check_vectors(vectors)
        levels = settings.spacing.levels(self.recipe.process, settings.steps)
        for start in range(first, first + count, settings.batch_size):
            numbers = range(start, min(first + count, start + settings.batch_size))
            if isinstance(label, Tensor):
                labels: Tensor | None = label[torch.tensor(numbers) % len(label)]
            else:
                labels = self.labels_of(label, numbers, settings.guidance)
            denoise = self.denoise(
                settings,
                labels,
                on_call,
                condition=self._seen(condition, numbers, shape),
                vectors=None if vectors is None else vectors[torch.tensor(numbers) % len(vectors)],
            )
            noise = ImageNoise(seed, numbers, shape, self.device)
            with torch.inference_mode(), advising("--batch-size (batch_size of [sample])", len(numbers)):
                x0 = generate(denoise, settings.sampler, levels, noise)
                images = to_uint8(x0).cpu()
            yield Batch(numbers, images, labels)

    def _seen(self, condition: Tensor | None, numbers: range, shape: tuple[int, int, int]) -> Tensor | None:
        """Return what the network sees of the images' conditions, ``[n, C', H, W]``."""
        if condition is None:
            return None
        chosen = to_unit(condition[torch.tensor(numbers) % len(condition)].to(self.device))
        return self.recipe.objective.condition.spread(chosen, *shape[1:])

    def denoise(
        self,
        settings: Sample,
        labels: Tensor | None = None,
        on_call: Callable[[int], None] | None = None,
        *,
        condition: Tensor | None = None,
        vectors: Tensor | None = None,
    ) -> Denoise:
        """Return the model as samplers see it, for one walk of one batch.

        Args:
            settings: Its guidance and its rule for x0 count.
            labels: Labels ``[N]`` of the images, as `labels_of` gives them; None without classes.
            on_call: Told the number of images in the batch after each call.
            condition: What the network sees of the images that it makes these from, as `Condition.make` returns it.
            vectors: The vectors ``[N, V]`` of the images, of a model of images with vectors.

        Raises:
            UserError: If the model needs a condition or vectors, and there are none.
        """
        self.condition_shape(given=condition is not None)
        self.check_vectors(vectors)
        classes = None if labels is None else labels.to(self.device)
        denoise = make_denoise(
            self.network,
            self.recipe.objective,
            self.recipe.process,
            settings.x0_rule,
            labels=classes if self.recipe.model.class_conditional else None,
            null_label=len(self.data.classes),
            guidance=settings.guidance,
            guide=self._guide(settings.guidance),
            classifier=self._classifier(settings.guidance),
            classes=classes,
            condition=condition,
            vector=None if vectors is None else self._whole_vectors(vectors),
        )
        return _told(denoise, on_call)

    def _check_asked(self, name: str, file: Path) -> None:
        """Check that it isn't only the model's file that wants another one to be opened.

        Raises:
            UserError: If it is.
        """
        if file in self._unasked and not isinstance(file, AskedPath):
            raise UserError(
                f"guidance.{name} = {file}: only the model's own file names this, and it lies outside of the model's "
                f"folder: if you want it to be opened, say guidance.{name}={file}"
            )

    def _guide(self, guidance: Guidance) -> nn.Module | None:
        """Return the second network that a guidance asks for, loaded once.

        Raises:
            UserError: If there is none, or it cannot take this one's place.
        """
        file = guidance.guide_file
        if file is None:
            return None
        self._check_asked("guide", file)
        if file not in self._guides:
            guide = Pipeline.load(file, device=self.device)
            mine, its = (
                (
                    p.recipe.process,
                    p.recipe.objective.prediction,
                    p.recipe.objective.condition,
                    p.data,
                    p.recipe.model.class_conditional,
                )
                for p in (self, guide)
            )
            if mine != its or ports_of(self.recipe, self.data) != ports_of(guide.recipe, guide.data):
                raise UserError(
                    f"guidance.guide = {file}: was trained for another process, prediction or kind of images than the "
                    "model it is to guide: name an earlier checkpoint of the same run"
                )
            self._guides[file] = guide.network
        return self._guides[file]

    def _classifier(self, guidance: Guidance) -> nn.Module | None:
        """Return the classifier that a guidance asks for, loaded once.

        Raises:
            UserError: If there is none, or it was trained for other images or another noise than the model.
        """
        file = guidance.classifier_file
        if file is None:
            return None
        self._check_asked("classifier", file)
        if file not in self._classifiers:
            trained = read_classifier(file, self.device)
            other = [
                *_other("data", vars(trained.data), vars(self.data)),
                *_other("process", trained.recipe.process.model_dump(), self.recipe.process.model_dump()),
            ]
            if other:
                raise UserError(
                    f"guidance.classifier = {file}: does not fit the model: it was trained for {', '.join(other)}: "
                    "train one with the model's recipe, by diffkit train-classifier"
                )
            self._classifiers[file] = trained.network
        return self._classifiers[file]


def _files_outside(guidance: Guidance, home: Path) -> set[Path]:
    """Return the files of a guidance that lie outside of a folder, links followed."""
    files = (guidance.guide_file, guidance.classifier_file)
    return {file for file in files if file is not None and not file.resolve().is_relative_to(home.resolve())}


def _sizes(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _other(name: str, its: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    """Say which settings differ."""
    return [
        f"{name}.{key} = {reprlib.repr(its.get(key))} and not {reprlib.repr(mine.get(key))}"
        for key in {**its, **mine}
        if its.get(key) != mine.get(key)
    ]


def _told(denoise: Denoise, on_call: Callable[[int], None] | None) -> Denoise:
    """Tell somebody, such as a progress bar, about each evaluation of the network."""
    if on_call is None:
        return denoise

    def telling(x: Tensor, level: Level) -> Denoised:
        denoised = denoise(x, level)
        on_call(len(x))
        return denoised

    return telling
