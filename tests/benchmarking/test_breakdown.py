import time

import pytest
import torch

from diffkit.benchmarking.breakdown import take_apart
from diffkit.benchmarking.workload import training_run


@pytest.fixture
def run(tiny, cpu):
    recipe = tiny()
    run = training_run(recipe, recipe.data.info(), cpu)
    run.take_step()
    return run


def test_all_parts_and_kinds(run):
    found = take_apart(run, 2, lambda: None, steps=1)
    names = {name for name, _ in run.model.named_modules() if name.count(".") < 2}
    shown = set(found.parts)
    around = {"data", "noise and loss", "gradient clipping", "optimizer", "average of the weights", "network itself"}
    assert around <= shown <= around | names
    assert {"conv_in", "down.0", "down.1", "middle.0", "up.1", "time_mlp.0"} <= shown
    for name in ("conv_in", "down.0", "middle.0", "up.0", "up.1"):
        assert found.parts[name].forward > 0
        assert found.parts[name].backward > 0
    assert found.parts["optimizer"].backward == 0
    layers = {"convolution", "normalization", "activation", "attention", "matrix product", "dropout"}
    assert layers | {"optimizer", "sums and products"} <= set(found.kinds)
    seconds = [kind.seconds for kind in found.kinds.values()]
    assert seconds == sorted(seconds, reverse=True)
    assert found.calls == 1
    assert sum(seconds) == pytest.approx(found.seconds, rel=1e-6)


def test_a_slow_part_is_found(run):
    """A module that sleeps in its forward pass, and another one in its backward pass."""

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            time.sleep(0.3)
            return gradient.clone()

    middle, up = run.model.middle[0], run.model.up[1]
    middle.register_forward_hook(lambda *_: time.sleep(0.3), prepend=True)
    inner = up.blocks[0].resnet
    inner.register_forward_hook(lambda module, inputs, output: Slow.apply(output))
    parts = take_apart(run, 2, lambda: None, steps=1).parts
    assert parts["middle.0"].forward >= 0.3
    assert parts["up.1"].backward >= 0.3
    others = {name: part for name, part in parts.items() if name not in ("middle.0", "up.1")}
    assert sum(part.seconds for part in others.values()) < parts["middle.0"].forward + parts["up.1"].backward


def test_nothing_is_left_behind(run):
    clip, weights = torch.nn.utils.clip_grad_norm_, set(vars(run.ema))
    before = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in run.model.modules()]
    take_apart(run, 1, lambda: None, steps=1)
    assert torch.nn.utils.clip_grad_norm_ is clip
    assert set(vars(run.ema)) == weights
    after = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in run.model.modules()]
    assert after == before
