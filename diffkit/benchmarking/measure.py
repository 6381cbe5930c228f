"""All the measurements of a recipe, and of another library next to it."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from diffkit.benchmarking.breakdown import Breakdown, take_apart
from diffkit.benchmarking.clock import Action, Seconds, Spread, interleaved
from diffkit.benchmarking.flops import Flops, count
from diffkit.benchmarking.matrix_product import MatrixProduct
from diffkit.benchmarking.memory import JOBS, Job, can_measure, peak_memory
from diffkit.benchmarking.peers import find_peer
from diffkit.benchmarking.workload import network_call, random_images, sampling_copy, training_run, uncompiled
from diffkit.data.base import DataInfo
from diffkit.pipeline import build_network
from diffkit.recipe.tables import Recipe
from diffkit.train.run import TrainingRun

OURS = "diffkit"


@dataclass(frozen=True)
class Speed:
    """What one library took for one job: a training step, or a call of the network in sampling.

    Attributes:
        wall: Seconds by the wall's clock.
        processor: Seconds of the processor's cores together.
        images_per_second: Images of the batch, by wall time.
        share: FLOPs in a second by wall time, as part of the matrix product's in the same round.
        memory: Bytes at most; None where they aren't measured.
    """

    wall: Spread
    processor: Spread
    images_per_second: Spread
    share: Spread
    memory: int | None


@dataclass(frozen=True)
class Ratio:
    """How diffkit compares with another library in one job.

    Attributes:
        wall: How many times as fast diffkit is, by the wall's clock: one ratio a round.
        processor: The same by the processor's clock.
        memory: Diffkit's most memory as part of the other's; None where it isn't measured.
    """

    wall: Spread
    processor: Spread
    memory: float | None


@dataclass(frozen=True)
class Against:
    """Another library, next to diffkit.

    Attributes:
        name: Its name.
        version: Its version.
        difference: Largest difference of both networks' outputs for the same weights, as part of the largest output.
        speed: What it took, by job.
        ratio: How diffkit compares, by job.
    """

    name: str
    version: str
    difference: float
    speed: dict[Job, Speed]
    ratio: dict[Job, Ratio]


@dataclass(frozen=True)
class Report:
    """All that was measured of a recipe.

    Attributes:
        recipe: Its name.
        device: Where: the name of the GPU, or the processor's make.
        threads: Number of torch's threads.
        torch: Torch's version.
        batch_size: Images of one step or call.
        precision: Of the network's arithmetic in training.
        rounds: How often everything was timed.
        parameters: Of the network.
        matrix_size: Side of the matrices of the product that the machine is measured by.
        matrix_product: FLOPs a second of that product.
        flops: FLOPs of one job with the whole batch.
        speed: What diffkit took, by job.
        breakdown: Where the time of a training step goes.
        part_flops: FLOPs of the forward pass of the network's parts, by their names in the breakdown.
        part_share: FLOPs a second of those forward passes, as part of the matrix product's at the same time.
        against: Another library.
    """

    recipe: str
    device: str
    threads: int
    torch: str
    batch_size: int
    precision: str
    rounds: int
    parameters: int
    matrix_size: int
    matrix_product: Spread
    flops: dict[Job, int]
    speed: dict[Job, Speed]
    breakdown: Breakdown
    part_flops: dict[str, int]
    part_share: dict[str, float]
    against: Against | None


def benchmark(
    recipe: Recipe,
    *,
    device: torch.device,
    rounds: int = 10,
    depth: int = 2,
    against: str | None = None,
    plugins: Sequence[Path] = (),
    memory: bool = True,
    least: float = 0.1,
    tell: Callable[[str], None] | None = None,
) -> Report:
    """Measure a recipe's training step and network call, on random images.

    Args:
        recipe: The recipe.
        device: Where to compute.
        rounds: How often each thing is timed, all in turn.
        depth: To how many levels parts of the network are told apart.
        against: Another library, to be measured in the same rounds.
        plugins: Plugin files that the recipe needs.
        memory: Measure memory too, which takes processes of their own.
        least: Seconds of one measurement at least.
        tell: Told what is being done.

    Raises:
        UserError: If the other library is not installed, has no such network, or computes something else.
    """
    tell = tell or (lambda text: None)
    data = recipe.data.info()
    contest = _Contest(recipe, data, device, against) if against else None
    run = training_run(recipe, data, device)
    network = sampling_copy(run)
    call = network_call(recipe, data, network, device)

    tell("counting and taking apart")
    plain = run
    if recipe.train.compile:
        plain = training_run(uncompiled(recipe), data, device)
    call_flops = count(call)
    flops: dict[Job, int] = {"training": flops_of_step(plain), "sampling": call_flops.total}
    product = MatrixProduct(device, torch.bfloat16 if recipe.train.precision == "bfloat16" else torch.float32)
    breakdown = take_apart(plain, depth, product)
    del plain

    actions: dict[str, Action] = {"training": run.take_step}
    if contest:
        actions["their training"] = contest.step
    actions |= {"matrix product": product, "sampling": call}
    if contest:
        actions["their sampling"] = contest.call
    taken = interleaved(actions, rounds, device, least=least, on_round=lambda n: tell(f"round {n} of {rounds}"))

    bytes_of: dict[str, dict[Job, int]] = {}
    if memory and can_measure(device):
        tell("memory")
        names = [OURS, *([contest.peer.name] if contest else [])]
        bytes_of = peak_memory(recipe, plugins, names, device, torch.get_num_threads())

    size = recipe.train.batch_size
    peak = [product.flops / seconds.wall for seconds in taken["matrix product"]]

    def speed(name: str, prefix: str) -> dict[Job, Speed]:
        memory = bytes_of.get(name, {})
        return {job: _speed(taken[prefix + job], size, flops[job], peak, memory.get(job)) for job in JOBS}

    ours = speed(OURS, "")
    part_flops = _of_parts(call_flops, breakdown, network)
    return Report(
        recipe=recipe.name,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        batch_size=size,
        precision=recipe.train.precision,
        rounds=rounds,
        parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        matrix_size=product.size,
        matrix_product=Spread.of(peak),
        flops=flops,
        speed=ours,
        breakdown=breakdown,
        part_flops=part_flops,
        part_share={
            name: flops / breakdown.parts[name].forward * breakdown.reference / product.flops
            for name, flops in part_flops.items()
        },
        against=contest.report(ours, speed(contest.peer.name, "their "), taken) if contest else None,
    )


class _Contest:
    """Another library with the network of a recipe, which has proved to be the same."""

    def __init__(self, recipe: Recipe, data: DataInfo, device: torch.device, name: str) -> None:
        self.peer = find_peer(name)
        network, trained = (self.peer.build(recipe, data).to(device) for _ in range(2))
        self.difference = self.peer.difference(recipe, data, network, build_network(recipe, data, device))
        images = random_images(data)
        rows = torch.arange(len(images))
        self.step = self.peer.training_step(recipe, data, trained, images.pixels(rows), images.labels(rows))
        self.call = self.peer.network_call(recipe, data, network)

    def report(self, ours: dict[Job, Speed], theirs: dict[Job, Speed], taken: dict[str, list[Seconds]]) -> Against:
        """Compare what was measured."""
        ratios = {}
        for job in JOBS:
            pairs = list(zip(taken[job], taken[f"their {job}"], strict=True))
            mine, its = ours[job].memory, theirs[job].memory
            ratios[job] = Ratio(
                wall=Spread.of(other.wall / own.wall for own, other in pairs),
                processor=Spread.of(other.processor / own.processor for own, other in pairs),
                memory=mine / its if mine is not None and its else None,
            )
        return Against(self.peer.name, self.peer.version(), self.difference, theirs, ratios)


def _speed(taken: list[Seconds], size: int, flops: int, peak: list[float], memory: int | None) -> Speed:
    return Speed(
        wall=Spread.of(seconds.wall for seconds in taken),
        processor=Spread.of(seconds.processor for seconds in taken),
        images_per_second=Spread.of(size / seconds.wall for seconds in taken),
        share=Spread.of(flops / seconds.wall / most for seconds, most in zip(taken, peak, strict=True)),
        memory=memory,
    )


def flops_of_step(run: TrainingRun) -> int:
    """Return the FLOPs of a step of a run that isn't compiled; with self-conditioning the mean of its two kinds."""
    found = {count(run.take_step).total}
    if run.recipe.objective.self_conditioning:
        while len(found) == 1:
            found.add(count(run.take_step).total)
    return round(statistics.mean(found))


def _of_parts(call: Flops, breakdown: Breakdown, network: nn.Module) -> dict[str, int]:
    """Return the FLOPs of the network's parts in the forward passes of a step, without those of parts within them."""
    modules = dict(network.named_modules())
    shown = [name for name in breakdown.parts if name in modules]
    own = {name: call.modules.get(name, 0) for name in shown}
    for name in shown:
        around = name.rpartition(".")[0]
        while around and around not in own:
            around = around.rpartition(".")[0]
        if around:
            own[around] -= call.modules.get(name, 0)
    return {name: round(flops * breakdown.calls) for name, flops in own.items() if flops}
