"""Optimizers, learning-rate schedules and weight averages."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from diffkit.optim.average import EmaWeights
from diffkit.optim.base import Ema, LrSchedule, Optimizer
from diffkit.testing import kinds_of


def steps_of(optimizer, weight, count):
    for step in range(count):
        weight.grad = torch.sin(weight.detach() * 3 + step)
        optimizer.step()
    return weight.detach()


def fresh():
    return nn.Parameter(torch.linspace(-1, 1, 7))


@pytest.mark.parametrize("optimizer", kinds_of(Optimizer, lr=0.05))
class TestEveryOptimizer:
    def test_lowers_a_square(self, optimizer):
        weight = fresh()
        built = optimizer.build([weight])
        before = weight.detach().norm()
        for _ in range(100):
            built.zero_grad()
            weight.square().sum().backward()
            built.step()
        assert weight.detach().norm() < before / 10

    def test_takes_an_iterator_and_has_the_learning_rate(self, optimizer):
        built = optimizer.build(iter([fresh(), fresh()]))
        assert [group["lr"] for group in built.param_groups] == [0.05]
        assert len(built.param_groups[0]["params"]) == 2

    def test_is_fused_on_the_cpu_and_not_where_torch_cannot(self, optimizer):
        assert optimizer.build([fresh()]).param_groups[0]["fused"]
        assert not optimizer.build([nn.Parameter(torch.zeros(2, device="meta"))]).param_groups[0]["fused"]

    def test_goes_on_from_its_state_to_the_bit(self, optimizer):
        weight, again = fresh(), fresh()
        whole = steps_of(optimizer.build([weight]), weight, 6)
        first = optimizer.build([again])
        steps_of(first, again, 3)
        second = optimizer.build([again])
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        for step in range(3, 6):
            again.grad = torch.sin(again.detach() * 3 + step)
            second.step()
        assert torch.equal(again.detach(), whole)


def test_adam_is_the_papers():
    weight = fresh()
    found = steps_of(
        Optimizer.choose({"kind": "adam", "lr": 0.1, "betas": [0.8, 0.9], "eps": 1e-3}).build([weight]), weight, 5
    )
    theta = torch.linspace(-1, 1, 7).double()
    m = v = torch.zeros(7, dtype=torch.float64)
    for t in range(1, 6):
        g = torch.sin(theta * 3 + t - 1)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        theta = theta - 0.1 * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-3)
    torch.testing.assert_close(found.double(), theta, rtol=1e-5, atol=1e-6)


def test_adamw_decays_beside_the_gradient():
    weight = nn.Parameter(torch.tensor([2.0]))
    weight.grad = torch.zeros(1)
    Optimizer.choose({"kind": "adamw", "lr": 0.1, "weight_decay": 0.5}).build([weight]).step()
    assert weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5))


def test_sgd_with_momentum():
    weight = nn.Parameter(torch.tensor([1.0]))
    sgd = Optimizer.choose({"kind": "sgd", "lr": 0.1, "momentum": 0.5}).build([weight])
    for _ in range(2):
        weight.grad = torch.ones(1)
        sgd.step()
    assert weight.item() == pytest.approx(1 - 0.1 - 0.15)


@pytest.mark.parametrize(
    "table",
    [
        {"kind": "adam", "lr": 0.0},
        {"kind": "adam", "lr": "1e-3"},
        {"kind": "adam", "betas": [0.9]},
        {"kind": "adam", "betas": [0.9, 0.99, 0.999]},
        {"kind": "adamw", "betas": [0.9, 1.0]},
        {"kind": "adamw", "weight_decay": -1.0},
        {"kind": "sgd", "momentum": 1.0},
    ],
)
def test_impossible_settings_are_refused(table):
    with pytest.raises(ValidationError):
        Optimizer.choose(table)


def test_nesterov_needs_momentum():
    with pytest.raises(ValidationError, match=r"nesterov needs momentum: set momentum = 0\.9, or nesterov = false"):
        Optimizer.choose({"kind": "sgd", "nesterov": True})


@pytest.mark.parametrize("schedule", kinds_of(LrSchedule))
@settings(deadline=None)
@given(total=st.integers(1, 10**6), data=st.data())
def test_every_factor_is_between_0_and_1(schedule, total, data):
    assert 0 <= schedule.factor(data.draw(st.integers(0, total - 1)), total) <= 1


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("constant", {0: 1, 99: 1}),
        ({"kind": "warmup", "steps": 4}, {0: 0.25, 1: 0.5, 3: 1, 4: 1, 99: 1}),
        ({"kind": "warmup", "steps": 1}, {0: 1, 1: 1}),
        ({"kind": "warmup", "steps": 1000}, {0: 0.001, 99: 0.1}),
        ("cosine", {0: 1, 50: 0.5, 25: (1 + math.sqrt(0.5)) / 2, 100: 0}),
        ({"kind": "cosine", "warmup": 20, "floor": 0.1}, {0: 0.05, 19: 1, 20: 1, 60: 0.55, 100: 0.1, 200: 0.1}),
        ({"kind": "cosine", "warmup": 100}, {0: 0.01, 99: 1}),
        ({"kind": "cosine", "warmup": 500}, {99: 0.2}),
        ("linear", {0: 1, 50: 0.5, 99: 0.01, 100: 0}),
        ({"kind": "linear", "warmup": 10, "decay_start": 0.8, "floor": 0.2}, {4: 0.5, 10: 1, 80: 1, 90: 0.6, 100: 0.2}),
        ({"kind": "linear", "warmup": 50}, {49: 1, 50: 1, 75: 0.5}),
        ({"kind": "linear", "decay_start": 1.0}, {99: 1}),
        ({"kind": "inverse_sqrt", "warmup": 4}, {0: 0.25, 3: 1, 15: 0.5, 99: 0.2}),
        ({"kind": "inverse_sqrt", "warmup": 4, "decay": 25}, {0: 0.25, 3: 1, 24: 1, 99: 0.5}),
    ],
)
def test_factors_of_a_run_of_100_steps(table, expected):
    schedule = LrSchedule.choose(table)
    assert {step: schedule.factor(step, 100) for step in expected} == pytest.approx(expected)


@pytest.mark.parametrize("ema", kinds_of(Ema))
def test_every_decay_is_between_0_and_1(ema):
    for decay_at in ema.averages().values():
        assert all(0 <= decay_at(step) < 1 for step in [1, 2, 10, 10**6])


@pytest.mark.parametrize("ema", kinds_of(Ema))
def test_the_first_average_is_the_one_that_is_sampled_from(ema):
    name, decay_at = next(iter(ema.averages().items()))
    assert name == "ema"
    assert all(decay_at(step) == ema.decay_at(step) for step in [1, 2, 10, 10**6])
    assert ema.power_functions().keys() <= ema.averages().keys()


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("decay", {1: 0.9999, 10**6: 0.9999}),
        ({"kind": "warmup", "decay": 0.99}, {1: 2 / 11, 8: 0.5, 890: 891 / 900, 10**4: 0.99}),
        ({"kind": "half_life", "steps": 4, "rampup": 0.5}, {1: 0.0, 3: 0.5, 5: 0.5**0.5, 9: 0.5**0.25, 99: 0.5**0.25}),
        ({"kind": "half_life", "steps": 4, "rampup": None}, {1: 0.5**0.25, 99: 0.5**0.25}),
        ({"kind": "power", "lengths": [math.sqrt(2 / 4) / 3]}, {1: 0.0, 2: 1 / 4, 10: 0.81}),  # gamma = 1
        ("none", {1: 0.0, 500: 0.0}),
    ],
)
def test_decays(table, expected):
    ema = Ema.choose(table)
    assert {step: ema.decay_at(step) for step in expected} == pytest.approx(expected)


def model(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False)).to(dtype)


def change(net, step):
    torch.manual_seed(step)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape).to(parameter.dtype))
    net[1](torch.randn(5, 4).to(net[1].weight.dtype))


@pytest.mark.parametrize("ema", [*kinds_of(Ema), pytest.param(Ema.choose({"kind": "decay", "decay": 0.5}), id="half")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_average_against_a_plain_loop(ema, dtype):
    net = model(dtype)
    averages = EmaWeights(net, ema)
    decays = ema.averages()
    expected = {average: {name: p.detach().double() for name, p in net.named_parameters()} for average in decays}
    for step in range(1, 30):
        change(net, step)
        averages.update(step)
        for average, decay_at in decays.items():
            d = decay_at(step)
            for name, p in net.named_parameters():
                expected[average][name] = d * expected[average][name] + (1 - d) * p.detach().double()
    assert averages.state_dicts().keys() == decays.keys()
    for average, found in averages.state_dicts().items():
        assert found.keys() == net.state_dict().keys()
        for name, value in expected[average].items():
            assert found[name].dtype == torch.float32
            torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-6)
        for name, buffer in net.named_buffers():
            assert torch.equal(found[name], buffer)
            assert found[name].dtype == buffer.dtype


def test_no_average_is_the_weights_to_the_bit():
    net = model()
    averages = EmaWeights(net, Ema.choose("none"))
    change(net, 1)
    averages.update(1)
    assert all(torch.equal(averages.state_dict()[name], value) for name, value in net.state_dict().items())


def test_small_updates_are_not_lost_in_half_precision():
    net = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.zeros_(net.weight)
    averages = EmaWeights(net, Ema.choose({"kind": "decay", "decay": 0.9999}))
    nn.init.ones_(net.weight)
    for step in range(1, 1001):
        averages.update(step)
    assert averages.state_dict()["weight"].item() == pytest.approx(1 - 0.9999**1000, rel=1e-3)


def test_the_average_starts_as_a_copy_and_follows_no_gradient():
    net = model()
    averages = EmaWeights(net, Ema.choose("decay"))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    change(net, 1)
    for name, value in averages.state_dict().items():
        assert torch.equal(value, before[name])
        assert not value.requires_grad


def test_tied_weights_are_saved_by_both_names():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    averages = EmaWeights(net, Ema.choose({"kind": "decay", "decay": 0.5}))
    net.load_state_dict({name: torch.ones(2, 2) for name in net.state_dict()})
    averages.update(1)
    first, second = averages.state_dict().values()
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


@pytest.mark.parametrize("table", [{"kind": "warmup", "decay": 0.9}, {"kind": "power", "lengths": [0.2, 0.1, 0.05]}])
def test_going_on_from_saved_averages_to_the_bit(table):
    ema = Ema.choose(table)
    whole_net, net = model(), model()
    whole, first = EmaWeights(whole_net, ema), EmaWeights(net, ema)
    for step in range(1, 8):
        change(whole_net, step)
        whole.update(step)
    for step in range(1, 4):
        change(net, step)
        first.update(step)
    second = EmaWeights(net, ema)
    second.load_state_dicts(copy.deepcopy(first.state_dicts()))
    for step in range(4, 8):
        change(net, step)
        second.update(step)
    for average, state in whole.state_dicts().items():
        for name, value in state.items():
            assert torch.equal(second.state_dict(average)[name], value)


def test_copy_to_another_model():
    net, other = model(), model(torch.bfloat16)
    averages = EmaWeights(net, Ema.choose({"kind": "decay", "decay": 0.5}))
    change(net, 1)
    averages.update(1)
    averages.copy_to(other)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(value, averages.state_dict()[name].to(value.dtype))


def test_averages_of_another_model_are_refused_and_change_nothing():
    averages = EmaWeights(model(), Ema.choose("decay"))
    before = {name: value.clone() for name, value in averages.state_dict().items()}
    renamed = {name.replace("2.weight", "3.weight"): value + 1 for name, value in before.items()}
    with pytest.raises(KeyError, match=r"differ in: 2\.weight, 3\.weight"):
        averages.load_state_dict(renamed)
    with pytest.raises(ValueError, match=r"2\.weight has shape \[2, 4\], but was saved as \[1\]"):
        averages.load_state_dict({**{name: value + 1 for name, value in before.items()}, "2.weight": torch.zeros(1)})
    assert all(torch.equal(value, before[name]) for name, value in averages.state_dict().items())


def test_averages_of_another_kind_are_refused():
    kinds = [Ema.choose({"kind": "power", "lengths": lengths}) for lengths in ([0.1, 0.05], [0.1])]
    two, one = (EmaWeights(model(), ema) for ema in kinds)
    with pytest.raises(KeyError, match=r"differ in the averages: ema-0\.05"):
        one.load_state_dicts(two.state_dicts())
    with pytest.raises(KeyError, match=r"differ in the averages: ema-0\.05"):
        two.load_state_dicts(one.state_dicts())
