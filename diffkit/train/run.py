"""A training run: its parts, one step of it, and its checkpoints."""

from __future__ import annotations

import contextlib
import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diffkit.data.base import DataInfo, Images
from diffkit.data.batches import Batches
from diffkit.data.pixels import to_uint8, to_unit
from diffkit.diffusion.distillation.base import Phase
from diffkit.diffusion.objective import Noise
from diffkit.distributed import Workers
from diffkit.errors import CheckpointError, Diverged, Problem, RecipeError, UserError
from diffkit.optim.average import EmaWeights
from diffkit.pipeline import Pipeline, build_network
from diffkit.random import derive_seed, torch_generator
from diffkit.recipe.tables import Recipe, Sample
from diffkit.shards import gathered, load_whole, own_part, shard, whole
from diffkit.storage.checkpoint import (
    Checkpoint,
    checkpoint_name,
    make_header,
    rotate,
    write_averages,
    write_checkpoint,
)
from diffkit.storage.runs import CHECKPOINTS, SNAPSHOTS
from diffkit.train.components import from_plugins
from diffkit.train.health import Health
from diffkit.train.named_optimizer import NamedOptimizer
from diffkit.train.rows import parts_of_batch
from diffkit.train.teacher import Teacher
from diffkit.train.warm_start import WarmStart, warm_start

HISTORY = "time_sampling"
"""The name of the time sampling's history among the optimizer's tensors."""


class TrainingRun:
    """All that changes during training, and what it is made of.

    Args:
        recipe: The recipe.
        folder: The run folder.
        data: What the network knows of the images.
        images: The images.
        device: Where training runs.
        workers: The processes that train together, each with a run of its own; by default this one alone. All must call
            the same methods but for `sample`. They keep the same weights, and the first alone writes.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        data: DataInfo,
        images: Images,
        device: torch.device,
        workers: Workers | None = None,
    ) -> None:
        settings = recipe.train
        self.recipe, self.folder, self.data, self.device = recipe, folder, data, device
        self.workers = workers or Workers()
        self.step = 0
        self.parts = parts_of_batch(recipe, self.workers)
        self._sharded = settings.shard == "full" and self.workers.size > 1
        self._helped = False
        self._model = self._new_model()
        self.teacher = None
        if recipe.distillation is not None:
            self.teacher = Teacher(recipe, recipe.distillation, data, device)
        self._images = images
        self.batches = Batches(images, settings.batch_size, recipe.seed, recipe.data.flip)
        self.optimizer = self._new_optimizer()
        self.ema = EmaWeights(self.model, settings.ema)
        self.history = recipe.objective.time_sampling.empty_history(recipe.process, device)
        self.on_network_call: Callable[[int], None] | None = None
        self.on_images: Callable[[Tensor], None] | None = None
        self._network: nn.Module = torch.compile(self.model) if settings.compile else self.model  # type: ignore[assignment]
        if self.workers.size > 1 and not self._sharded:
            self._network = _together(self._network)
        self.health = Health(recipe.process if self.teacher is None else None, device)
        self._clock, self._clock_step = time.perf_counter(), 0

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name

    @property
    def model(self) -> nn.Module:
        """The network.

        Raises:
            UserError: If a hook asks for one whose weights lie in parts: to use it, all processes would have to.
        """
        if self._helped:
            raise UserError("with train.shard = 'full', the first process alone cannot use the network: use run.sample")
        return self._model

    @property
    def total_steps(self) -> int:
        """Number of steps of the whole run."""
        return self.recipe.train.steps

    @property
    def batch_size(self) -> int:
        """Number of images of one step."""
        return self.recipe.train.batch_size

    def take_step(self) -> None:
        """Take one optimizer step. Nothing in here waits for the device.

        All randomness is a pure function of the seed and the step, so no generator has a state to save. Each of several
        processes draws for the whole batch and takes its own rows; only dropout differs between them.
        """
        settings, objective = self.recipe.train, self.recipe.objective
        phase = self._phase()
        if self.teacher is not None and self.step == phase.start and phase.number > 0:
            self._succeed_teacher(self.teacher)
        count = settings.batch_size
        place = ("dropout", self.step) if self.workers.is_first else ("dropout", self.step, self.workers.rank)
        torch.manual_seed(derive_seed(self.recipe.seed, *place))
        draw = torch_generator(self.device, self.recipe.seed, "step", self.step)
        times, weights = self._draw_times(count, draw)
        hidden = torch.rand(count, generator=draw, device=self.device) < objective.label_dropout
        noise = objective.draw_noise(count, self.data.shape, draw)
        changes = settings.augmentation.draw(count, draw)
        self_condition = objective.self_conditioning and derive_seed(self.recipe.seed, "estimate", self.step) % 2 == 0

        self.model.train()
        self.model.zero_grad(set_to_none=True)
        losses = []
        for part in self.parts:
            start, stop = part.start, part.stop
            rows = slice(start, stop)
            pixels, labels = self.batches.batch(self.step, start, stop)
            images = to_unit(pixels.to(self.device, non_blocking=True))
            images, vector = settings.augmentation.apply(images, changes[rows])
            with self._summing_gradients(is_last=part == self.parts[-1]):
                loss = self._loss(
                    images,
                    self._shown(labels, hidden[rows]),
                    times[rows],
                    Noise(noise.target[rows], noise.shown[rows]),
                    _joined(self.batches.vectors(self.step, start, stop), vector, self.device),
                    self_condition,
                )
                losses.append(loss.detach())
                if weights is not None:
                    loss = weights[rows].to(loss.dtype) * loss
                # the gradients of several processes are averaged, whatever the numbers of their rows
                torch.autograd.backward(loss.sum() / (count / self.workers.size))
        self._check_gradients()
        every = self.workers.all_rows(torch.cat(losses), count)
        self.health.add(every, times, weights)
        if self.teacher is None:
            objective.time_sampling.remember(self.history, times, every)
        self.health.grad_norm = whole(nn.utils.clip_grad_norm_(self.model.parameters(), settings.grad_clip or math.inf))
        factor = settings.lr_schedule.factor(self.step - phase.start, phase.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.optimizer.lr * factor
        with self.health.measuring_update(self.model) if self.logs(self.step + 1) else contextlib.nullcontext():
            self.optimizer.step()
        self.step += 1
        self.ema.update(self.step - phase.start)

    def _summing_gradients(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Let the processes add up their gradients in the backward pass of a step's last part, none before. Where each
        keeps a part of them only, they add up after every part: before, they are whole.
        """
        if is_last or not isinstance(self._network, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._network.no_sync()

    def _check_gradients(self) -> None:
        """Check that the processes added up all gradients: they wait in vain for one that is not there.

        Raises:
            RecipeError: If the network doesn't use all its parameters.
        """
        if self.workers.size == 1:
            return
        idle = [name for name, p in self.model.named_parameters() if p.requires_grad and p.grad is None]
        if idle:
            message = f"the network doesn't use {', '.join(idle)}, and only one process can train such a network"
            raise RecipeError(self.name, [Problem("model", f"{message}: make them buffers, or leave them out")])

    def _new_model(self) -> nn.Module:
        if not self._sharded:
            return build_network(self.recipe, self.data, self.device)
        model = build_network(self.recipe, self.data)
        try:
            shard(model, self.device, self.workers.size)
        except ValueError as error:
            raise RecipeError(self.name, [Problem("train.shard", str(error), self.recipe.train.shard)]) from None
        return model

    def _new_optimizer(self) -> NamedOptimizer:
        settings = self.recipe.train
        return NamedOptimizer(settings.optimizer, self.model, self.workers, settings.shard == "optimizer")

    def _phase(self) -> Phase:
        """Return the part of the training that the next step is in."""
        if self.recipe.distillation is None:
            return Phase(0, 0, self.total_steps)
        return self.recipe.distillation.phase(self.step, self.total_steps)

    def _succeed_teacher(self, teacher: Teacher) -> None:
        """Make the student's average the teacher, and begin anew from there."""
        averages = {name: whole(tensor) for name, tensor in self.ema.state_dict().items()}
        for network in (teacher.network, self.model):
            load_whole(network, averages)
        self.optimizer = self._new_optimizer()
        self.ema = EmaWeights(self.model, self.recipe.train.ema)

    def _draw_times(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return the times of a step, or what stands for them in a distillation, and what their losses count."""
        if self.teacher is not None:
            return self.teacher.draw(count, self.step, draw), None
        sampling, process = self.recipe.objective.time_sampling, self.recipe.process
        times = sampling.draw(count, process, draw, self.history)
        return times, sampling.loss_weight(times, process, self.history)

    def _loss(
        self,
        images: Tensor,
        labels: Tensor | None,
        times: Tensor,
        noise: Noise,
        vector: Tensor | None,
        self_condition: bool,
    ) -> Tensor:
        """Return the loss of each image ``[N]``."""
        if self.teacher is not None:
            networks = self._forward, partial(self._call, self.teacher.network)
            return self.teacher.loss(*networks, images, labels, times, noise.target, vector, self.step)
        return self.recipe.objective.training_loss(
            self._forward,
            self.recipe.process,
            images,
            labels,
            times,
            noise,
            vector=vector,
            self_condition=self_condition,
        )

    def _forward(self, *inputs: Tensor | None) -> Tensor:
        """Call the network in the precision of the recipe."""
        return self._call(self._network, *inputs)

    def _call(self, network: nn.Module, *inputs: Tensor | None) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.train.precision == "bfloat16"):
            output: Tensor = network(*inputs)
        return output

    def _shown(self, labels: Tensor | None, hidden: Tensor) -> Tensor | None:
        """Put "no class" in place of the labels that are hidden from the network."""
        if labels is None or not self.recipe.model.class_conditional:
            return None
        return torch.where(hidden, len(self.data.classes), labels.to(self.device, non_blocking=True))

    def logs(self, step: int) -> bool:
        """Return whether there is a log event after a step."""
        return step % self.recipe.train.log_every == 0 or step == self.total_steps

    def metrics(self) -> dict[str, float]:
        """Return the numbers of a log event, and begin the next interval. Waits for the device.

        Raises:
            Diverged: If the loss is not finite.
        """
        found = self.health.read(self.ema)
        if not math.isfinite(found["loss"]):
            raise Diverged(f"the training loss is {found['loss']} at step {self.step}")
        now = time.perf_counter()
        seconds, steps = now - self._clock, self.step - self._clock_step
        self._clock, self._clock_step = now, self.step
        return {
            **found,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": steps * self.batch_size / seconds,
        }

    def start_clock(self) -> None:
        """Begin to measure speed here."""
        self._clock, self._clock_step = time.perf_counter(), self.step

    def sample(self, count: int, seed: int = 0, **settings: object) -> Tensor:
        """Sample images from the averaged weights: uint8 ``[count, C, H, W]``.

        A model that makes images from others, or from vectors, is shown those of the first images of the data set.

        Raises:
            UserError: If the weights lie in parts on several processes, and this is called outside of `helped`.
        """
        began = time.perf_counter()
        pipeline = Pipeline(self.recipe, self.data, self._averaged_network(), self.device)
        chosen = Sample.model_validate({**self.recipe.sample.model_dump(), **settings})
        batches = pipeline.batches(
            count,
            chosen,
            seed=seed,
            condition=self._condition(count),
            vectors=self._images.vectors(torch.arange(min(count, len(self._images)))),
            on_call=self.on_network_call,
        )
        images = torch.cat([batch.images for batch in batches])
        if self.on_images is not None:
            self.on_images(images)
        self._clock += time.perf_counter() - began  # sampling is no training time
        return images

    @contextlib.contextmanager
    def helped(self) -> Iterator[None]:
        """Let the first process call `sample` in the block, while the others wait. All must come here."""
        if not self._sharded:
            yield
        elif self.workers.is_first:
            self._helped = True
            try:
                yield
            finally:
                self._helped = False
                self.workers.largest(False)
        else:
            while self.workers.largest(False):
                gathered(self.ema.state_dict(), self.workers)
            yield

    def _averaged_network(self) -> nn.Module:
        if not self._sharded:
            network = copy.deepcopy(self.model)
            network.load_state_dict(self.ema.state_dict())
            return network
        if not self._helped:
            raise UserError("with train.shard = 'full', callbacks cannot sample here: the other processes have stopped")
        self.workers.largest(True)
        averages = gathered(self.ema.state_dict(), self.workers)
        network = build_network(self.recipe, self.data, self.device)
        network.load_state_dict(averages)
        return network

    def _condition(self, count: int) -> Tensor | None:
        kind = self.recipe.objective.condition
        if not kind.channels(self.data.channels):
            return None
        pixels = self._images.pixels(torch.arange(min(count, len(self._images))))
        return to_uint8(kind.reduce(to_unit(pixels)))

    def save(self) -> Path:
        """Write a checkpoint of this step, and delete old ones as the recipe says.

        Raises:
            Diverged: If a weight is not finite; nothing is written or deleted then.
        """
        self._check_weights()
        weights, averages = gathered(self.model.state_dict(), self.workers), self._averages()
        optimizer = gathered(self._optimizer_tensors(), self.workers)
        parent = self.folder / CHECKPOINTS
        if self.workers.is_first:
            write_checkpoint(parent, self.step, self._header(), weights, averages, optimizer)
            rotate(parent, self.recipe.train.keep_last, self.recipe.train.keep_every)
        return parent / checkpoint_name(self.step)

    def save_snapshot(self) -> Path | None:
        """Keep the averages of this step for good, if `train.ema` wants a snapshot of it. Returns the folder, if so.

        Raises:
            Diverged: If a weight is not finite; nothing is written then.
        """
        if not self.recipe.train.ema.keeps_snapshot(self.step, self.total_steps):
            return None
        self._check_weights()
        averages = self._averages()
        if self.workers.is_first:
            write_averages(self.folder / SNAPSHOTS, self.step, self._header(), averages)
        return self.folder / SNAPSHOTS / checkpoint_name(self.step)

    def _check_weights(self) -> None:
        floating = [own_part(tensor) for tensor in self.model.state_dict().values() if tensor.is_floating_point()]
        finite = bool(torch.stack([tensor.isfinite().all() for tensor in floating]).all())
        if self.workers.largest(not finite):
            raise Diverged(f"weights are no longer finite at step {self.step}")

    def _averages(self) -> dict[str, dict[str, Tensor]]:
        """Return all averages, on the first process."""
        return {name: gathered(tensors, self.workers) for name, tensors in self.ema.state_dicts().items()}

    def _header(self) -> dict[str, str]:
        plugins = from_plugins(self.recipe)
        header = make_header(self.recipe, self.data, plugins, self.step, images=len(self._images))
        return header if self.teacher is None else {**header, **self.teacher.header()}

    def start_from(self, path: Path) -> WarmStart:
        """Begin with the weights of another model, as far as they fit, and return what was taken.

        Raises:
            UserError: If there are none, or nothing fits.
        """
        report = warm_start(self.model, path)
        self.ema = EmaWeights(self.model, self.recipe.train.ema)
        return report

    def start_from_teacher(self, teacher: Teacher) -> None:
        """Begin with the weights of the teacher.

        Raises:
            UserError: If there are none, or the student would differ from it.
        """
        teacher.start()
        load_whole(self.model, teacher.network.state_dict())
        self.ema = EmaWeights(self.model, self.recipe.train.ema)

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, to the bit.

        Raises:
            CheckpointError: If it is of another model or optimizer.
        """
        tensors = dict(checkpoint.optimizer)
        try:
            load_whole(self.model, checkpoint.model)
            self.ema.load_state_dicts(checkpoint.averages)
            self.health.load(tensors)
            self._load_history(tensors)
            if self.teacher is not None:
                self.teacher.load(checkpoint, tensors)
            self.optimizer.load(tensors)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"{checkpoint.folder}: does not fit the recipe: {error}") from None
        self.step = checkpoint.step

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        """Return the optimizer's tensors, and the run's own."""
        history = {f"{HISTORY}/{name}": tensor for name, tensor in self.history.items()}
        teacher = {} if self.teacher is None else self.teacher.tensors()
        return {**self.optimizer.tensors(), **history, **teacher, **self.health.tensors()}

    def _load_history(self, tensors: dict[str, Tensor]) -> None:
        """Take the history of the time sampling out of a checkpoint's tensors."""
        for name, tensor in self.history.items():
            saved = tensors.pop(f"{HISTORY}/{name}")
            if saved.shape != tensor.shape:
                raise ValueError(f"{HISTORY}/{name} has the shape {list(saved.shape)}, not {list(tensor.shape)}")
            tensor.copy_(saved)


def _together(network: nn.Module) -> DistributedDataParallel:
    """Let all processes add up the gradients of a network whose buffers are constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 has a new name for broadcast_buffers, 2.7 has not
        return DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)


def _joined(vectors: Tensor | None, changes: Tensor | None, device: torch.device) -> Tensor | None:
    """Return what comes with the images and what was done to them as one vector each."""
    if vectors is None:
        return changes
    vectors = vectors.to(device, non_blocking=True)
    return vectors if changes is None else torch.cat([vectors, changes], dim=1)
