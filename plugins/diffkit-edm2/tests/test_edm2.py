"""The model keeps the contract of its family, keeps magnitudes, is of the published size, and trains in a recipe."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffkit.data.base import DataInfo
from diffkit.nn.base import Model, Ports
from diffkit.pipeline import Pipeline
from diffkit.train.loop import train

DATA, PORTS = DataInfo(3, 16, 8, ("a", "b", "c")), Ports(3, 3)
SMALL = {
    "kind": "edm2",
    "channels": 16,
    "multipliers": [1, 2],
    "blocks_per_level": 1,
    "attention_at": [8],
    "head_channels": 8,
    "class_conditional": True,
}


@pytest.fixture
def magnitude(plugins):
    from diffkit_edm2 import magnitude

    return magnitude


@pytest.fixture
def build(plugins):
    def make(ports=PORTS, **settings):
        torch.manual_seed(0)
        return Model.choose({**SMALL, **settings}).build(DATA, ports)

    return make


def size_of(x):
    return x.square().mean().sqrt().item()


def test_operations_keep_the_magnitude(magnitude):
    """At least of standard normal, independent inputs: that is what the constants are for."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 16, 24, 40, 40)
    assert size_of(magnitude.mp_silu(a)) == pytest.approx(1, abs=0.01)
    for balance in (0.0, 0.3, 0.5, 1.0):
        assert size_of(magnitude.mp_sum(a, b, balance)) == pytest.approx(1, abs=0.01)
        assert size_of(magnitude.mp_cat(a, b[:, :6], balance)) == pytest.approx(1, abs=0.01)
    assert size_of(magnitude.MpFourier(4096)(torch.randn(64))) == pytest.approx(1, abs=0.01)
    for kernel, x in ((3, a), (1, a), (0, a[:, :, 0, 0])):
        # relative to the input: the few numbers of the last one happen to be larger
        assert size_of(magnitude.MpConv(24, 512, kernel)(x)) / size_of(x) == pytest.approx(1, abs=0.05)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 0.95))
def test_the_balance_of_a_concatenation_is_that_of_its_parts(count_a, count_b, balance):
    from diffkit_edm2.magnitude import mp_cat

    both = mp_cat(torch.ones(1, count_a, 1, 1), torch.ones(1, count_b, 1, 1), balance)
    a, b = both[:, :count_a].square().sum(), both[:, count_a:].square().sum()
    assert math.sqrt(b / a) == pytest.approx(balance / (1 - balance), rel=1e-4)
    assert (a + b).item() == pytest.approx(count_a + count_b, rel=1e-4)


def test_weights_have_no_magnitude(magnitude):
    layer = magnitude.MpConv(8, 4, 3)
    x = torch.randn(2, 8, 5, 5)
    with torch.no_grad():
        before = layer.eval()(x)
        layer.weight *= 37
        torch.testing.assert_close(layer(x), before, rtol=1e-3, atol=1e-3)
        assert size_of(layer.weight) > 30
        layer.train()(x)  # forced weight normalization
    torch.testing.assert_close(layer.weight.square().mean((1, 2, 3)).sqrt(), torch.ones(4), rtol=1e-3, atol=1e-3)


def test_gradients_are_orthogonal_to_weights(magnitude):
    layer = magnitude.MpConv(8, 4, 3).double()
    layer(torch.randn(2, 8, 5, 5).double()).pow(3).sum().backward()
    along = (layer.weight * layer.weight.grad).sum((1, 2, 3)).abs()
    assert (along < 2e-3 * layer.weight.flatten(1).norm(dim=1) * layer.weight.grad.flatten(1).norm(dim=1)).all()


def test_activations_keep_their_magnitude_through_the_network(build):
    network = build(channels=64, head_channels=32).eval()
    seen = []
    for block in (*network.down, *network.middle, *(block for level in network.up for block in level)):
        block.register_forward_hook(lambda module, inputs, output: seen.append(size_of(output)))
    network(torch.randn(8, 3, 16, 8), torch.randn(8), torch.arange(8) % 4)
    assert len(seen) == 10
    assert all(0.7 < size < 1.4 for size in seen)


def test_contract(build):
    network = build(ports=Ports(4, 5, vector=2))
    x, time, label = torch.randn(6, 4, 16, 8), torch.randn(6), torch.arange(6) % 4
    assert not network(x, time, label).any()
    for name, parameter in network.named_parameters():
        if "gain" in name:
            torch.nn.init.constant_(parameter, 0.7)
    network.eval()
    out = network(x, time, label, torch.randn(6, 2))
    assert out.shape == (6, 5, 16, 8)
    torch.testing.assert_close(network(x, time, label), network(x, time, label, torch.zeros(6, 2)))
    torch.testing.assert_close(network(x, time), network(x, time, torch.full((6,), 3)))
    assert not torch.allclose(network(x, time), network(x, time, torch.zeros(6, dtype=torch.int64)))
    network(x, time, label, torch.randn(6, 2)).square().sum().backward()
    dead = [name for name, parameter in network.named_parameters() if not parameter.grad.any()]
    assert not dead


def test_half_precision_is_near(build):
    network = build().eval()
    for name, parameter in network.named_parameters():
        if "gain" in name:
            torch.nn.init.ones_(parameter)
    x, time = torch.randn(4, 3, 16, 8), torch.randn(4)
    exact = network(x, time)
    narrow = network.to(torch.bfloat16)(x.bfloat16(), time)
    torch.testing.assert_close(narrow.float(), exact, rtol=0, atol=0.15)


def test_what_does_not_fit_is_said(plugins):
    problems = Model.choose({**SMALL, "multipliers": [1, 2, 4, 4, 4], "head_channels": 7}).problems(DataInfo(3, 8, 8))
    assert [problem.key for problem in problems] == ["multipliers", "head_channels", "class_conditional"]
    assert "need sides divisible by 16" in problems[0].message


@pytest.mark.parametrize(("channels", "parameters"), [(128, 124_710_821), (192, 280_209_253)])
def test_published_sizes(plugins, channels, parameters):
    """XS and S at 64x64: the published code has exactly as many."""
    data = DataInfo(3, 64, 64, tuple(map(str, range(1000))))
    with torch.device("meta"):
        network = Model.choose({"kind": "edm2", "channels": channels, "class_conditional": True}).build(
            data, Ports(3, 3)
        )
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_plugin_brings_the_model_and_the_recipes(plugins):
    assert plugins.infos["edm2"].components == ("model.edm2",)
    assert {"edm2_digits", "edm2_imagenet64"} <= set(plugins.recipes())


def test_a_short_training_lowers_the_loss_and_can_be_sampled(plugins, tmp_path):
    small = ["model.channels=16", "model.head_channels=16", "model.blocks_per_level=1", "train.batch_size=16"]
    steps = ["train.steps=40", "train.lr_schedule='constant'", "train.log_every=10", "sample.steps=4"]
    recipe = plugins.open_recipe("edm2_digits", [*small, *steps])
    train(recipe, tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.9 * losses[0]
    images = Pipeline.load(tmp_path).sample(3, label=7, guidance=2.0)
    assert images.shape == (3, 1, 8, 8) and images.dtype == torch.uint8
