"""The teacher of a run that distils: where it comes from, and what a step learns from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffkit.bounds import parse_json
from diffkit.data.base import DataInfo
from diffkit.diffusion.distillation.base import Distillation
from diffkit.diffusion.distillation.estimator import Estimator
from diffkit.diffusion.objective import Network
from diffkit.errors import CheckpointError, Problem, RecipeError
from diffkit.pipeline import build_network, ports_of
from diffkit.recipe.tables import Recipe
from diffkit.storage.checkpoint import MODEL, Checkpoint, read_metadata, read_weights, recipe_of
from diffkit.storage.files import sha256
from diffkit.storage.runs import find_weights

TEACHER = "teacher"
"""The name of the teacher's weights among the optimizer's tensors, and of what is said of it in a header."""


class Teacher:
    """The network that a student learns from. It has no weights of worth before `start` or `load`.

    Args:
        recipe: The student's recipe.
        distillation: Its distillation.
        data: What the network knows of its images.
        device: Where training runs.
    """

    def __init__(self, recipe: Recipe, distillation: Distillation, data: DataInfo, device: torch.device) -> None:
        self._recipe, self._distillation, self._data = recipe, distillation, data
        self._about: dict[str, str] = {}
        self.network = build_network(recipe, data, device).eval().requires_grad_(False)

    def start(self) -> None:
        """Take the weights of the teacher that the recipe names.

        Raises:
            UserError: As `read_teacher` does.
        """
        file, tensors = read_teacher(self._recipe, self._distillation, self._data)
        try:
            self.network.load_state_dict(tensors)
        except RuntimeError as error:
            raise CheckpointError(f"{file}: the weights don't fit the recipe: {error}") from None
        self._about = {"path": str(self._distillation.teacher), "file": str(file), "sha256": sha256(file)}

    def draw(self, count: int, step: int, generator: torch.Generator) -> Tensor:
        """Return which of the levels each image of a step learns at: int64 ``[count]``."""
        return self._distillation.draw(count, step, generator)

    def loss(
        self,
        student: Network,
        teacher: Network,
        x0: Tensor,
        labels: Tensor | None,
        index: Tensor,
        noise: Tensor,
        vector: Tensor | None,
        step: int,
    ) -> Tensor:
        """Return the weighted loss of each image ``[N]``.

        Args:
            student: The student's network.
            teacher: The teacher's: `network`, in the precision of the training.
            x0: Images ``[N, C, H, W]`` in [-1, 1].
            labels: Labels ``[N]``, some of them hidden already; None for a network without classes.
            index: What `Distillation.draw` drew for these images.
            noise: Standard normal noise of the shape of `x0`.
            vector: Vectors ``[N, V]`` for a network that is conditioned by any.
            step: Number of steps taken before this one.
        """
        objective, process = self._recipe.objective, self._recipe.process
        condition = objective.condition.make(x0) if objective.condition.channels(x0.shape[1]) else None
        shown = labels, vector, condition
        return self._distillation.loss(
            Estimator(student, objective, process, *shown),
            Estimator(
                teacher,
                objective,
                process,
                *shown,
                guidance=self._distillation.guidance,
                no_class=len(self._data.classes),
                x0_rule=self._distillation.x0_rule,
            ),
            x0,
            noise,
            index,
            step,
        )

    def header(self) -> dict[str, str]:
        """Return what a student's weights files say of its first teacher: the path in the recipe, file and SHA-256."""
        return {TEACHER: json.dumps(self._about)}

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights of the present teacher, as a checkpoint holds them."""
        return {f"{TEACHER}/{name}": tensor for name, tensor in self.network.state_dict().items()}

    def load(self, checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
        """Go on with the teacher in a checkpoint, whose weights are taken out of its optimizer's tensors.

        The file that it came from is not needed any more, and may have changed. Where the recipe names another path
        now, there must be the same weights.

        Raises:
            CheckpointError: If there are none, or others.
            KeyError: If the checkpoint has no teacher, or one of another network.
        """
        about = parse_json(read_metadata(checkpoint.folder / MODEL)[TEACHER])
        path = self._distillation.teacher
        if str(path) != about["path"] and sha256(file := find_weights(path, "ema")) != about["sha256"]:
            raise CheckpointError(
                f"distillation.teacher = {path}: {file} is not the teacher that this run was started with, which was "
                f"{about['file']} of the SHA-256 {about['sha256']}: name that, or start a new run"
            )
        names = [name for name in tensors if name.startswith(f"{TEACHER}/")]
        self.network.load_state_dict({name.removeprefix(f"{TEACHER}/"): tensors.pop(name) for name in names})
        self._about = about


def read_teacher(recipe: Recipe, distillation: Distillation, data: DataInfo) -> tuple[Path, dict[str, Tensor]]:
    """Return the file of a teacher and its averaged weights.

    Args:
        recipe: The student's recipe.
        distillation: Its distillation.
        data: What the student's network knows of its images.

    Raises:
        CheckpointError: If there are no whole weights.
        RecipeError: With everything in which the student would differ from its teacher.
    """
    file = find_weights(distillation.teacher, "ema")
    header, tensors = read_weights(file)
    teacher = recipe_of(header, file)
    problems = [
        Problem(place, f"the teacher {file} has {json.dumps(its)} here, and its student must have the same", own)
        for key in ("process", "model", "objective.prediction", "objective.condition")
        for place, own, its in _differences(_table(recipe, key), _table(teacher, key), key)
    ]
    if data != header.data:
        problems.append(Problem("data", f"the teacher {file} was trained on other images: {header.data}, not {data}"))
    elif not problems and ports_of(recipe, data) != ports_of(teacher, data):
        message = f"{ports_of(recipe, data)}, and the network of the teacher {file} has {ports_of(teacher, data)}"
        problems.append(Problem("objective", f"the student's network would have {message}: use the teacher's settings"))
    if distillation.guidance != 1 and teacher.objective.label_dropout == 0:
        message = f"the teacher {file} always saw the label, so that it cannot be guided: leave this out"
        problems.append(Problem("distillation.guidance", message, distillation.guidance))
    if problems:
        raise RecipeError(recipe.name, problems)
    return file, tensors


MAY_DIFFER = ("init_from", "dropout", "checkpoint", "checkpoint_at")
"""Settings of the network that a student need not have as its teacher has them."""


def _table(recipe: Recipe, key: str) -> Any:
    return attrgetter(key)(recipe).model_dump(mode="json")


def _differences(own: Any, its: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the settings that differ, with their dotted keys; of two kinds only that they are two."""
    if own == its or key.rpartition(".")[2] in MAY_DIFFER:
        return
    if not isinstance(own, dict) or not isinstance(its, dict):
        yield key, own, its
    elif own.get("kind") != its.get("kind"):
        yield f"{key}.kind", own.get("kind"), its.get("kind")
    else:
        for name in {**own, **its}:
            yield from _differences(own.get(name), its.get(name), f"{key}.{name}")
