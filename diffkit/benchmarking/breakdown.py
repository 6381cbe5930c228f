"""Where the time of a training step goes: by part of the network and by kind of operation.

Torch's profiler says how long each operation took by itself. An operation of the backward pass has the number of the
one in the forward pass that it is the gradient of, which lies in the forward pass of a module.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from diffkit.benchmarking.clock import Action, synchronize, timed
from diffkit.train.run import TrainingRun

STEP = "diffkit part:noise and loss"
"""The whole step; what lies in it and in nothing else is this."""
PREFIX = "diffkit part:"
NETWORK = "network itself"
"""What a network does outside of its parts."""
BACKWARD = "autograd::engine::evaluate_function: "
OPTIMIZER = "Optimizer.step"
"""Torch's own mark of what an optimizer does."""
OUTSIDE = ("data", "noise and loss", "gradient clipping", "optimizer", "average of the weights")
"""What a step does besides the network."""

KINDS: tuple[tuple[str, str], ...] = (
    ("convolution", r"conv"),
    ("attention", r"scaled_dot_product|flash_attention|softmax"),
    ("normalization", r"norm"),
    ("activation", r"silu|gelu|relu|mish|softplus|tanh|sigmoid"),
    ("dropout", r"dropout|bernoulli"),
    ("matrix product", r"addmm|(^|::)b?mm|linear|matmul|einsum|gemm|^(bmm|mm)"),
    ("joining, copying, resampling", r"cat|copy|clone|contiguous|(^|::)to($|_)|upsample|pad|shuffle|pool|index|slice"),
    ("random numbers", r"rand|normal_|uniform_|seed"),
    ("sums and products", r"add|mul|sub|div|neg|sqrt|pow|mean|sum|lerp|where|sin|cos|exp|log|fill|zero"),
)
"""Kinds of operation, by what the names of torch's operations and gradients have in them."""
REST = "Python and torch's own"


@dataclass
class Part:
    """What one part or kind took.

    Attributes:
        forward: Seconds of the forward pass, and of what belongs to no pass.
        backward: Seconds of the backward pass.
    """

    forward: float = 0.0
    backward: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of both passes."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Breakdown:
    """A training step, taken apart twice.

    Attributes:
        parts: Seconds by part, in the order in which they begin. Those of the network go by the names of its modules.
        kinds: Seconds by kind of operation, with the longest first.
        calls: How often a step called the network.
        reference: Seconds of what the parts are measured by, at the same time.
    """

    parts: dict[str, Part]
    kinds: dict[str, Part]
    calls: float
    reference: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of the step."""
        return sum(part.seconds for part in self.parts.values())


def take_apart(run: TrainingRun, depth: int, reference: Action, steps: int = 3) -> Breakdown:
    """Take some training steps, and say where the time of one goes: the median of each part.

    On a GPU, its time counts and not the processor's.

    Args:
        run: The run; it must not be compiled.
        depth: To how many levels the names of modules are told apart: 2 is such as ``down.0``.
        reference: What the step's parts are to be measured by; timed before each step.
        steps: Number of steps.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler tells stderr that it starts and stops
    activities = [ProfilerActivity.CPU]
    if run.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities):  # the first one starts slowly
        pass
    taken, references = [], []
    for _ in range(steps):
        references.append(timed(reference, run.device, 4).wall)
        calls: list[str] = []
        with _marked(run, depth, calls), profile(activities=activities) as profiler, record_function(STEP):
            run.take_step()
            synchronize(run.device)
        events = [event for event in profiler.events() or () if event.device_type.name == "CPU"]
        events.sort(key=lambda event: event.time_range.start)
        taken.append(_summed(events, on_gpu=run.device.type == "cuda", calls=calls.count("")))
    kinds = _median([one.kinds for one in taken])
    by_length = sorted(kinds, key=lambda kind: -kinds[kind].seconds)
    return Breakdown(
        _median([one.parts for one in taken]),
        {kind: kinds[kind] for kind in by_length},
        statistics.mean(one.calls for one in taken),
        statistics.median(references),
    )


def _median(taken: list[dict[str, Part]]) -> dict[str, Part]:
    names = dict.fromkeys(name for one in taken for name in one)
    return {
        name: Part(
            statistics.median(one.get(name, Part()).forward for one in taken),
            statistics.median(one.get(name, Part()).backward for one in taken),
        )
        for name in names
    }


@contextlib.contextmanager
def _marked(run: TrainingRun, depth: int, calls: list[str]) -> Iterator[None]:
    """Mark for the profiler what the parts of a step do, and note which modules are called."""
    with contextlib.ExitStack() as stack:
        for name, module in run.model.named_modules():
            if name.count(".") < depth:
                _mark_module(stack, name, module, calls)
        stack.enter_context(_marking(run.batches, "batch", "data"))
        stack.enter_context(_marking(nn.utils, "clip_grad_norm_", "gradient clipping"))
        stack.enter_context(_marking(run.ema, "update", "average of the weights"))
        yield


def _mark_module(stack: contextlib.ExitStack, name: str, module: nn.Module, calls: list[str]) -> None:
    marks: list[Any] = []

    def enter(*_: Any) -> None:
        calls.append(name)
        marks.append(record_function(f"{PREFIX}{name or NETWORK}"))
        marks[-1].__enter__()

    def leave(*_: Any) -> None:
        marks.pop().__exit__(None, None, None)

    for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave)):
        stack.callback(hook.remove)


@contextlib.contextmanager
def _marking(owner: Any, name: str, part: str) -> Iterator[None]:
    """Mark a function while it runs."""
    function = getattr(owner, name)
    is_own = name in vars(owner)

    def marked(*arguments: Any, **settings: Any) -> Any:
        with record_function(f"{PREFIX}{part}"):
            return function(*arguments, **settings)

    setattr(owner, name, marked)
    try:
        yield
    finally:
        setattr(owner, name, function) if is_own else delattr(owner, name)


def _summed(events: list[Any], *, on_gpu: bool, calls: int) -> Breakdown:
    parts: defaultdict[str, Part] = defaultdict(Part)
    kinds: defaultdict[str, Part] = defaultdict(Part)
    lines = {id(event): list(_line(event)) for event in events}
    owners: dict[int, str] = {}
    for event in events:  # where several have one number, the last one made the gradient
        line = lines[id(event)]
        if event.sequence_nr >= 0 and not any(above.name.startswith(BACKWARD) for above in line):
            owners[event.sequence_nr] = _owner(line)
    for event in events:
        line = lines[id(event)]
        if not _belongs(line):
            continue
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        node = next((above for above in line if above.name.startswith(BACKWARD)), None)
        part = _owner(line) if node is None else owners.get(node.sequence_nr, STEP.removeprefix(PREFIX))
        kind = part if part in OUTSIDE[2:] and node is None else _kind(line)
        for found in (parts[part], kinds[kind]):
            if node is None:
                found.forward += microseconds / 1e6
            else:
                found.backward += microseconds / 1e6
    return Breakdown(dict(parts), dict(kinds), calls)


def _line(event: Any) -> Iterator[Any]:
    """Yield an event and those that it lies in, from inside out."""
    while event is not None:
        yield event
        event = event.cpu_parent


def _belongs(line: list[Any]) -> bool:
    """Return whether an event lies in the step; gradients may be in another thread."""
    return line[-1].name == STEP or any(event.name.startswith(BACKWARD) for event in line)


def _owner(line: list[Any]) -> str:
    for event in line:
        if event.name.startswith(OPTIMIZER):
            return "optimizer"
        if event.name.startswith(PREFIX):
            return str(event.name.removeprefix(PREFIX))
    return STEP.removeprefix(PREFIX)


def _kind(line: list[Any]) -> str:
    """Return the kind of the innermost event of any kind."""
    for event in line:
        if event.name.startswith(PREFIX):
            return REST
        name = event.name.removeprefix(BACKWARD).removeprefix("aten::").lower()
        for kind, pattern in KINDS:
            if re.search(pattern, name):
                return kind
    return REST
