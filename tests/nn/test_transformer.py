"""What all networks over patches keep."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diffkit.data.base import DataInfo
from diffkit.nn.base import Activation, Model, Ports, TimeEmbedding
from diffkit.nn.embedding import Table
from diffkit.nn.transformer import PatchModel, TokenAttention, join_patches

KINDS = sorted(name for name, kind in Model.kinds.items() if issubclass(kind, PatchModel))
DIGITS = DataInfo(1, 8, 8, tuple("0123456789"))
CONDITIONED = Ports(1, 1, vector=3)
each_kind = pytest.mark.parametrize("kind", KINDS)


def small(kind: str, **changes) -> PatchModel:
    return Model.choose({"kind": kind, "width": 16, "depth": 3, "heads": 2, **changes})


def randomize(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return network


def test_these_kinds_there_are():
    assert KINDS == ["dit", "uvit"]


@st.composite
def any_network(draw) -> tuple[PatchModel, DataInfo, int, Ports]:
    patch, heads, vector = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([0, 3]))
    spec = Model.choose(
        {
            "kind": draw(st.sampled_from(KINDS)),
            "patch": patch,
            "width": 8 * heads * draw(st.integers(1, 2)),
            "heads": heads,
            "depth": draw(st.sampled_from([1, 3])),
            "mlp_ratio": draw(st.sampled_from([1, 2.55, 4])),
            "embedding": draw(st.sampled_from(sorted(TimeEmbedding.kinds))),
            "activation": draw(st.sampled_from(sorted(Activation.kinds))),
            "class_conditional": draw(st.booleans()),
        }
    )
    height, width = (patch * draw(st.integers(1, 4)) for _ in range(2))
    data = DataInfo(draw(st.integers(1, 4)), height, width, ("a", "b"))
    return spec, data, vector, Ports(data.channels + draw(st.integers(0, 2)), draw(st.integers(1, 5)), vector)


@settings(max_examples=60, deadline=None)
@given(any_network())
def test_any_network_keeps_sides_and_trains_every_weight(choice):
    spec, data, size, ports = choice
    torch.manual_seed(0)
    network = spec.build(data, ports)
    for parameter in network.parameters():  # large, so that no ReLU is zero for all images
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(16, ports.in_channels, data.height, data.width)
    label = torch.arange(16) % 3 if spec.class_conditional else None
    vector = torch.randn(16, size) if size else None
    out = network(x, 1 + torch.arange(16) * 60.0, label, vector)
    assert out.shape == (16, ports.out_channels, data.height, data.width)
    (out * torch.randn_like(out)).sum().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in dead if not _lone_token(spec, data, network, name)]


def _lone_token(spec, data, network, name) -> bool:
    """A token that attends to itself alone weighs it by 1, whatever its query and key say."""
    return spec.kind == "dit" and (data.height, data.width) == (spec.patch, spec.patch) and "qkv" in name


@settings(max_examples=30, deadline=None)
@given(any_network())
def test_any_table_survives_writing_and_reading(choice):
    spec = choice[0]
    assert Model.choose(spec.model_dump(mode="json", exclude_none=True)) == spec


@each_kind
def test_label_and_vector(kind):
    torch.manual_seed(0)
    network = randomize(small(kind, class_conditional=True).build(DIGITS, CONDITIONED))
    x, time = torch.randn(3, 1, 8, 8), torch.zeros(3)
    vectors = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]])
    out = network(x, time, torch.tensor([0, 4, 10]), vectors)
    plain = network(x, time)
    assert torch.equal(plain, network(x, time, torch.full((3,), 10), torch.zeros(3, 3)))
    torch.testing.assert_close(network(x, time, torch.tensor([0, 4, 10]))[0], out[0])
    for other in (network(x, time, torch.tensor([0, 4, 9])), network(x, time, None, vectors)):
        assert not torch.allclose(other[1], plain[1])
        assert not torch.allclose(other[2], plain[2])


@each_kind
def test_conditions_that_the_network_has_no_input_for(kind):
    network = small(kind).build(DIGITS, Ports(1, 1))
    x = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match="not class-conditional"):
        network(x, torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="not conditioned by any"):
        network(x, torch.zeros(1), None, torch.zeros(1, 3))


@each_kind
def test_weights_follow_the_seed(kind):
    def weights():
        torch.manual_seed(5)
        return small(kind, class_conditional=True).build(DIGITS, CONDITIONED).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


@each_kind
def test_bfloat16_sees_single_steps_of_time(kind):
    torch.manual_seed(0)
    network = randomize(small(kind, class_conditional=True).build(DIGITS, Ports(1, 1))).eval()
    x, time = torch.randn(1, 1, 8, 8).repeat(2, 1, 1, 1), torch.tensor([998.0, 999.0])
    exact = network(x, time)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(x, time)
    low = network.to(torch.bfloat16)(x.bfloat16(), time)
    for out in (mixed, low):
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), exact, rtol=0, atol=0.1 * exact.std().item())
        assert not torch.equal(out[0], out[1])


@each_kind
def test_compiles_in_one_piece(kind):
    network = small(kind, class_conditional=True).build(DIGITS, CONDITIONED)
    compiled = torch.compile(randomize(network), backend="eager", fullgraph=True)
    x, time, label = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 7.0]), torch.tensor([1, 10])
    torch.testing.assert_close(compiled(x, time, label), network(x, time, label))


@each_kind
def test_times_known(kind):
    assert small(kind, embedding=Table(times=50)).times_known() == 50
    assert small(kind).times_known() is None


@each_kind
def test_all_problems_at_once(kind):
    spec = small(kind, patch=4, heads=5, class_conditional=True)
    found = [(problem.key, problem.message, problem.value) for problem in spec.problems(DataInfo(1, 30, 12))]
    assert found == [
        (
            "patch",
            "patches of 4x4 cannot cover images of 30x12 (height x width). "
            "Allowed for these images: patch = 1, 2, 3, 6",
            4,
        ),
        ("heads", "a width of 16 cannot be split into 5 heads. Allowed for this width: heads = 1, 2, 4, 8, 16", 5),
        (
            "class_conditional",
            "the data set has no labels: leave this out, or choose a data set with labels",
            True,
        ),
    ]
    with pytest.raises(ValueError, match="cannot cover images of 30x12"):
        spec.build(DataInfo(1, 30, 12), Ports(1, 1))


def test_a_refusal_of_the_embedding():
    (problem,) = small("dit", embedding="fourier", embedding_features=7).problems(DIGITS)
    assert problem.key == "embedding"


@each_kind
def test_checking_allocates_nothing_and_draws_nothing(kind):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    huge = {"kind": "table", "times": 1_000_000}
    assert small(kind, width=65_536, depth=999, embedding=huge).problems(DIGITS) == []
    assert torch.equal(torch.get_rng_state(), state)


def test_joined_patches_are_the_image():
    x = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    tokens = torch.stack(
        [x[:, :, row : row + 2, column : column + 2] for row in (0, 2) for column in (0, 2, 4)], dim=1
    ).permute(0, 1, 3, 4, 2)
    assert torch.equal(join_patches(tokens.flatten(2), 4, 2), x)


@pytest.mark.parametrize("bias", [True, False])
def test_attention_is_torchs_own(bias):
    torch.manual_seed(0)
    ours, theirs = TokenAttention(12, 3, bias=bias), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias if bias else torch.zeros(36))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])
