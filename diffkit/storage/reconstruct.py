"""Averages of any length, made afterwards of those that a run has kept (Karras et al. 2024, section 3.2)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffkit.errors import CheckpointError, UserError
from diffkit.optim.profiles import Combination, Profile, combine, exponent_of, reachable
from diffkit.storage.checkpoint import (
    EMA,
    ENDING,
    STATE,
    Header,
    list_checkpoints,
    read_weights,
    recipe_of,
    verify_averages,
    verify_weights,
)
from diffkit.storage.runs import SNAPSHOTS, find_weights

log = logging.getLogger(__name__)

TOLERANCE = 0.1
"""Largest error of a profile, as a part of its norm. Weights are off by about a tenth of what averaging changes."""


@dataclass(frozen=True)
class Kept:
    """An average that a run has kept.

    Attributes:
        file: Where it is.
        profile: How much each step counts in it.
    """

    file: Path
    profile: Profile


def reconstruct(path: Path, length: float) -> tuple[Header, dict[str, Tensor]]:
    """Make the average of a length, of the snapshots that a run has kept until a step.

    Args:
        path: A run folder, for its newest whole checkpoint; or the folder of one of its checkpoints or snapshots, for
            that step.
        length: The relative standard deviation of the steps that count in the average.

    Returns:
        The header of that step's own average, and the tensors of the new one; those that hold no floats are its own.

    Raises:
        CheckpointError: If there is no whole checkpoint.
        UserError: If the run has not kept what is needed for an average of this length: says which lengths it has.
    """
    try:
        exponent_of(length)
    except ValueError as error:
        raise UserError(f"ema = {length}: {error}") from None
    folder = find_weights(path, "ema").parent.absolute()
    if path.is_file() or not (folder / STATE).is_file():
        raise UserError(
            f"ema = {length}: {path} is no run with snapshots: name its folder, or that of a checkpoint in it"
        )
    header, newest = read_weights(folder / EMA)
    recipe = recipe_of(header, folder)
    lengths = recipe.train.ema.power_functions()
    if not lengths:
        raise UserError(
            f"ema = {length}: {path} was trained with train.ema = '{recipe.train.ema.kind}', and an average of another "
            "length can be made of those of 'power' only"
        )
    for name in lengths:
        verify_weights(folder / f"{name}{ENDING}")
    snapshots = [one for one in _snapshots(folder.parent.parent / SNAPSHOTS) if _step(one) < header.step]
    kept = [
        Kept(one / f"{name}{ENDING}", Profile.of(kept_length, _step(one)))
        for one in [*snapshots, folder]
        for name, kept_length in lengths.items()
    ]
    combination = _combination(length, header.step, kept, list(lengths.values()), len(snapshots), path)
    made = _sum(kept, combination.coefficients)
    return header, {name: made[name].to(tensor.dtype) if name in made else tensor for name, tensor in newest.items()}


def _combination(
    length: float, step: int, kept: Sequence[Kept], lengths: Sequence[float], snapshots: int, path: Path
) -> Combination:
    """Return how the average is combined.

    Raises:
        UserError: If it cannot be, near enough.
    """
    profiles, wanted = [one.profile for one in kept], Profile.of(length, step)
    (combination,) = combine(profiles, [wanted])
    if wanted in profiles:
        return combination
    had = " and ".join(f"{one:g}" for one in lengths)
    if not snapshots:
        raise UserError(
            f"ema = {length}: {path} has no snapshots of steps before, so that it can only be what was kept: {had}. "
            "Snapshots are kept with train.ema.snapshots above 0"
        )
    if combination.error > TOLERANCE:
        reached = reachable(profiles, step, TOLERANCE)
        ranges = " and ".join(
            f"{math.ceil(1000 * low) / 1000} to {math.floor(1000 * high) / 1000}" for low, high in reached
        )
        raise UserError(
            f"ema = {length}: {path} has averages of {snapshots + 1} steps, of the lengths {had}, to make it of, "
            f"enough for lengths from {ranges}: choose one of these, or train with more snapshots"
        )
    return combination


def _sum(kept: Iterable[Kept], coefficients: Iterable[float]) -> dict[str, Tensor]:
    """Add up all tensors of floats, in float64, one file at a time."""
    total: dict[str, Tensor] = {}
    for one, coefficient in zip(kept, coefficients, strict=True):
        if coefficient == 0:
            continue
        for name, tensor in read_weights(one.file)[1].items():
            if tensor.is_floating_point():
                if name in total and total[name].shape != tensor.shape:
                    raise CheckpointError(f"{one.file}: {name} has another shape than in the run's other averages")
                part = coefficient * tensor.to(torch.float64)
                total[name] = total[name] + part if name in total else part
    return total


def _snapshots(parent: Path) -> list[Path]:
    """Return a run's whole snapshots, oldest first; log a warning about each that is damaged."""
    whole = []
    for folder in list_checkpoints(parent):
        try:
            verify_averages(folder)
        except CheckpointError as error:
            log.warning("passed over: %s", error)
        else:
            whole.append(folder)
    return whole


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
