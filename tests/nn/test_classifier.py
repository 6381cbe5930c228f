"""The classifier of noisy images."""

import pytest
import torch

from diffkit.data.base import DataInfo
from diffkit.nn.base import Activation, Attention, Downsample, Norm, ResnetBlock, TimeEmbedding
from diffkit.nn.classifier import Classifier
from diffkit.testing import kinds_of

DATA = DataInfo(3, 16, 8, ("cat", "dog", "owl"))
SMALL = {"channels": 8, "multipliers": (1, 2), "norm": {"kind": "group", "groups": 4}}


def build(**settings):
    torch.manual_seed(0)
    return Classifier.model_validate({**SMALL, **settings}).build(DATA).eval()


def shown(count=4):
    return torch.randn(count, *DATA.shape), torch.linspace(0, 999, count)


@pytest.mark.parametrize("data", [DATA, DataInfo(1, 8, 8, ("a", "b")), DataInfo(1, 28, 28, tuple("0123456789"))])
def test_the_defaults_fit_common_images(data):
    network = Classifier().build(data)
    logits = network(torch.randn(2, *data.shape), torch.tensor([0.0, 999.0]))
    assert logits.shape == (2, len(data.classes)) and logits.dtype == torch.float32


def test_images_do_not_see_each_other():
    network, (x, time) = build(attention_at=(8,)), shown()
    together = network(x, time)
    apart = torch.cat([network(x[i : i + 1], time[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, apart)


def test_the_time_matters():
    network, (x, _) = build(), shown()
    with torch.no_grad():
        for parameter in network.parameters():  # the blocks' branches start at zero
            parameter += 0.1 * torch.randn_like(parameter)
    early, late = network(x, torch.zeros(4)), network(x, torch.full((4,), 900.0))
    assert (early - late).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("part", "family"),
    [
        ("resnet", ResnetBlock),
        ("attention", Attention),
        ("downsample", Downsample),
        ("norm", Norm),
        ("activation", Activation),
        ("embedding", TimeEmbedding),
    ],
)
def test_every_kind_of_part(part, family):
    for parameter in kinds_of(family, groups=4, heads=2):
        network = build(**{part: parameter.values[0], "attention_at": (16, 8)})
        x, time = shown()
        logits = network(x.requires_grad_(), time.clamp(min=1))  # not all embeddings know 0
        torch.autograd.backward(logits.square().sum())
        assert logits.shape == (4, 3) and logits.isfinite().all()
        assert x.grad.abs().sum() > 0


def test_attention_is_where_it_is_asked_for():
    def count(network):
        return sum(type(module).__name__ == "SelfAttention" for module in network.modules())

    assert [count(build(attention_at=at, blocks_per_level=2)) for at in ((), (16,), (16, 8))] == [0, 2, 4]


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        ({"multipliers": (1, 1, 1, 1, 1)}, "multipliers", "5 levels need sides that are divisible by 16, and .* 16x8"),
        ({"attention_at": (16, 5)}, "attention_at", "no level has maps of side 5. Allowed for these images: 16, 8"),
        ({"norm": {"kind": "group", "groups": 3}}, "norm", "cannot be split into 3 equal groups"),
    ],
)
def test_what_does_not_fit_is_named(settings, key, message):
    spec = Classifier.model_validate({**SMALL, **settings})
    found = {problem.key: problem.message for problem in spec.problems(DATA)}
    assert key in found
    with pytest.raises(ValueError, match=message):
        spec.build(DATA)
