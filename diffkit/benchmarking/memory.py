"""The most memory that training and sampling take, each measured in a process of its own.

On a GPU it is what torch allocated there. Elsewhere there are two answers. `allocated_memory` is what torch allocated,
as its profiler tells. `peak_memory` is how far the process's resident memory rose above what it had with everything
imported and a first small computation done, with what libraries and malloc keep for themselves; only Linux says that.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import accumulate
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from diffkit.benchmarking.peers import find_peer
from diffkit.benchmarking.workload import network_call, random_images, sampling_walk, training_run, uncompiled
from diffkit.data.base import DataInfo
from diffkit.errors import UserError
from diffkit.kernels import convolution
from diffkit.pipeline import build_network
from diffkit.plugins.manager import Plugins
from diffkit.recipe.load import parse_toml, validate
from diffkit.recipe.tables import Recipe
from diffkit.recipe.write import to_toml

Job = Literal["training", "sampling"]
JOBS: tuple[Job, Job] = ("training", "sampling")

TIMES = 3
"""So often a step or call is done: the first step makes the optimizer's states, and the second has all of them."""

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
MACHINE = Path("/proc/meminfo")


def can_measure(device: torch.device) -> bool:
    """Return whether memory can be measured there."""
    return device.type == "cuda" or (STATUS.exists() and os.access(CLEAR, os.W_OK))


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _kilobytes(MACHINE, "MemAvailable") if MACHINE.exists() else None


def peak_memory(
    recipe: Recipe,
    plugins: Sequence[Path],
    contenders: Sequence[str],
    device: torch.device,
    threads: int,
) -> dict[str, dict[Job, int]]:
    """Measure the most memory that training steps and network calls of sampling take.

    Args:
        recipe: The recipe.
        plugins: Plugin files that it needs.
        contenders: Whose: ``diffkit`` or the name of a peer.
        device: Where they compute.
        threads: Number of torch's threads.

    Returns:
        Bytes, by contender and job.

    Raises:
        UserError: If there is not as much memory.
    """
    return {
        contender: {
            job: _in_own_process(recipe, plugins, f"{contender}, {job}", _measure, contender, job, str(device), threads)
            for job in JOBS
        }
        for contender in contenders
    }


def allocated_memory(
    recipe: Recipe, device: torch.device, plugins: Sequence[Path] = (), threads: int | None = None
) -> dict[Job, int]:
    """Measure what torch allocates at most in training steps, and in sampling a batch of `sample.batch_size` images.

    Args:
        recipe: The recipe.
        device: Where to compute.
        plugins: Plugin files that it needs.
        threads: Number of torch's threads; as many as here by default.

    Returns:
        Bytes, by job.

    Raises:
        UserError: If there is not as much memory.
    """
    threads = threads or torch.get_num_threads()
    return {job: _in_own_process(recipe, plugins, job, _measure_allocated, job, str(device), threads) for job in JOBS}


def _in_own_process(
    recipe: Recipe, plugins: Sequence[Path], title: str, measure: Callable[..., int], *what: object
) -> int:
    """Return what is measured of a recipe in a new process, which knows the plugins.

    Raises:
        UserError: If the process was killed.
    """
    # a server imports all this once, and every measurement is a fresh copy of it
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([__name__])
    files = [str(file.absolute()) for file in (*plugins, *recipe.plugins)]
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_with_recipe, measure, to_toml(recipe), files, *what).result()
        except BrokenProcessPool:
            raise UserError(
                f"{title}: the process that measures memory was killed, probably for want of it: take a smaller "
                "batch_size"
            ) from None


def _with_recipe(measure: Callable[..., int], document: str, files: list[str], *what: object) -> int:
    plugins = Plugins()
    plugins.register_components()
    for file in files:
        plugins.add_file(Path(file))
    return measure(validate(parse_toml(document, "the recipe"), "the recipe"), *what)


def _measure(recipe: Recipe, contender: str, job: Job, device_name: str, threads: int) -> int:
    """Return the bytes that one job takes; runs in a process of its own."""
    torch.set_num_threads(threads)
    if contender != "diffkit":
        find_peer(contender).version()  # imports it
    device, data = torch.device(device_name), recipe.data.info()
    _warm_up(device)
    before = _begin(device)
    action = _action(recipe, data, contender, job, device)
    for _ in range(TIMES):
        action()
    return _most(device) - before


def _measure_allocated(recipe: Recipe, job: Job, device_name: str, threads: int) -> int:
    """Return the bytes that torch allocates in one job; runs in a process of its own."""
    torch.set_num_threads(threads)
    return allocated_here(recipe, job, torch.device(device_name))


def allocated_here(recipe: Recipe, job: Job, device: torch.device) -> int:
    """Return the bytes that torch allocates at most in one job, without those that were allocated before."""
    data = recipe.data.info()

    def work() -> None:
        if job == "training":
            run = training_run(uncompiled(recipe), data, device)
            for _ in range(TIMES):
                run.take_step()
        else:
            sampling_walk(recipe, data, build_network(recipe, data, device), device)()

    convolution.give_room_back()
    if device.type == "cuda":
        before = _begin(device)
        work()
        return _most(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler tells stderr that it starts and stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    assert watched.profiler is not None and watched.profiler.kineto_results is not None
    found = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(int(event.nbytes()) for event in sorted(found, key=lambda event: event.start_ns())))


def _action(recipe: Recipe, data: DataInfo, contender: str, job: Job, device: torch.device) -> Callable[[], object]:
    if contender == "diffkit":
        if job == "training":
            return training_run(recipe, data, device).take_step
        return network_call(recipe, data, build_network(recipe, data, device), device)
    peer = find_peer(contender)
    network = peer.build(recipe, data).to(device)
    if job == "sampling":
        return peer.network_call(recipe, data, network)
    images = random_images(data)
    rows = torch.arange(len(images))
    return peer.training_step(recipe, data, network, images.pixels(rows), images.labels(rows))


def _warm_up(device: torch.device) -> None:
    """Let torch load and set up what any computation needs."""
    network = nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(16, 4))
    network.to(device)(torch.randn(2, 4, 4, 4, device=device)).sum().backward()


def _begin(device: torch.device) -> int:
    """Forget the most memory so far, and return how much there is now."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    CLEAR.write_text("5")
    return _status("VmRSS")


def _most(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(name: str) -> int:
    return _kilobytes(STATUS, name)


def _kilobytes(file: Path, name: str) -> int:
    """Return one of the numbers that Linux gives in kB, in bytes."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
