import tomllib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from diffkit.data.base import DataInfo
from diffkit.nn.attention import LinearAttention
from diffkit.nn.base import (
    Activation,
    Attention,
    Downsample,
    Model,
    Ports,
    ProgressiveInput,
    ProgressiveOutput,
    ResnetBlock,
    TimeEmbedding,
    Upsample,
)
from diffkit.nn.embedding import Table
from diffkit.nn.unet import UNet
from diffkit.spec import json_schema, problems_of

CIFAR = DataInfo(3, 32, 32)
RECIPES = Path(__file__).parents[2] / "recipes"


def unet(**settings) -> UNet:
    return Model.choose({"kind": "unet", **settings})


def small(**changes) -> UNet:
    return unet(**{"channels": 8, "multipliers": [1, 2], "blocks_per_level": 1, "norm": GROUPS, **changes})


GROUPS = {"kind": "group", "groups": 4}
DIGITS = DataInfo(1, 8, 8, tuple("0123456789"))


def randomize(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return network


def names(family) -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(family.kinds))


@st.composite
def any_unet(draw) -> tuple[UNet, DataInfo]:
    levels = draw(st.integers(1, 3))
    table = {
        "channels": draw(st.sampled_from([4, 8, 12])),
        "multipliers": draw(st.lists(st.integers(1, 3), min_size=levels, max_size=levels)),
        "blocks_per_level": draw(st.integers(1, 2)),
        "attention_at": draw(st.sampled_from(["all", []])),
        "middle_attention": draw(st.booleans()),
        "embedding": draw(names(TimeEmbedding)),
        "embedding_channels": draw(st.sampled_from([None, 6])),
        "resnet": draw(names(ResnetBlock)),
        "attention": draw(names(Attention)),
        "downsample": draw(names(Downsample)),
        "upsample": draw(names(Upsample)),
        "norm": draw(st.sampled_from([{"kind": "group", "groups": 2}, "layer", "rms"])),
        "activation": draw(names(Activation)),
        "class_conditional": draw(st.booleans()),
        "attention_up": draw(st.sampled_from(["every", "last", "none"])),
        "attention_down": draw(st.booleans()),
        "middle": draw(st.booleans()),
        "conditions_join": draw(st.sampled_from(["embedding", "features"])),
        "embedding_features": draw(st.sampled_from([None, 12])),
        "progressive_input": draw(names(ProgressiveInput)),
        "progressive_output": draw(names(ProgressiveOutput)),
        "levels": draw(
            st.lists(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "channels": st.sampled_from([4, 20]),
                        "blocks": st.integers(1, 2),
                        "resnet": names(ResnetBlock),
                        "attention": names(Attention),
                        "norm": st.just("rms"),
                        "activation": names(Activation),
                    },
                ),
                max_size=levels,
            )
        ),
    }
    height, width = (2 ** (levels - 1) * draw(st.integers(2, 3)) for _ in range(2))
    return unet(**table), DataInfo(draw(st.integers(1, 4)), height, width, ("a", "b"))


@settings(max_examples=60, deadline=None)
@given(any_unet(), st.integers(1, 3), st.integers(1, 5))
def test_any_network_keeps_sides_starts_at_zero_and_trains_every_weight(choice, batch, out_channels):
    spec, data = choice
    torch.manual_seed(0)
    network = spec.build(data, Ports(data.channels, out_channels))
    x = torch.randn(batch, *data.shape)
    time = 1 + torch.arange(batch) * 300.0
    label = torch.arange(batch) % 3 if spec.class_conditional else None
    out = network(x, time, label)
    assert out.shape == (batch, out_channels, data.height, data.width)
    assert not out.any()

    # of many images, since one may well leave all of a few ReLUs at zero
    x = torch.randn(16, *data.shape)
    label = torch.arange(16) % 3 if spec.class_conditional else None
    randomize(network)(x, 1 + torch.arange(16) * 60.0, label).square().sum().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


@settings(max_examples=60, deadline=None)
@given(any_unet())
def test_any_table_survives_writing_and_reading(choice):
    spec, _ = choice
    assert unet(**spec.model_dump(mode="json", exclude_none=True)) == spec


def table_of(recipe: str) -> UNet:
    return Model.choose(tomllib.loads((RECIPES / f"{recipe}.toml").read_text())["model"])


def test_ddpm_cifar_has_the_papers_number_of_parameters():
    with torch.device("meta"):
        network = table_of("ddpm_cifar").build(CIFAR, Ports(3, 3))
    assert sum(p.numel() for p in network.parameters()) == 35_746_307
    assert [tuple(network.time_mlp[i].weight.shape) for i in (0, 2)] == [(512, 128), (512, 512)]


def test_ddpm_scratch_has_attention_after_every_block():
    with torch.device("meta"):
        network = table_of("ddpm_scratch").build(DataInfo(1, 28, 28), Ports(1, 1))
    blocks = [block for level in (*network.down, *network.up) for block in level.blocks]
    assert all(block.attention is not None for block in blocks)
    assert network.middle[0].attention is not None
    assert network.middle[1].attention is None


def peer(channels: tuple[int, ...], groups: int) -> nn.Module:
    """The network of diffusers, as google/ddpm-cifar10-32 sets it up."""
    diffusers = pytest.importorskip("diffusers")
    down, up = ["DownBlock2D"] * len(channels), ["UpBlock2D"] * len(channels)
    down[1], up[-2] = "AttnDownBlock2D", "AttnUpBlock2D"
    return diffusers.UNet2DModel(
        sample_size=32,
        block_out_channels=channels,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=2,
        norm_num_groups=groups,
        norm_eps=1e-6,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )


def weights_of_peer(theirs: nn.Module) -> dict[str, torch.Tensor]:
    renamed, levels = {}, len(theirs.up_blocks)
    for name, tensor in theirs.state_dict().items():
        for old, new in [
            ("time_embedding.linear_1", "time_mlp.0"),
            ("time_embedding.linear_2", "time_mlp.2"),
            ("mid_block.resnets.", "middle.R"),
            ("mid_block.attentions.", "middle.A"),
            ("down_blocks.", "down."),
            ("up_blocks.", "up."),
            ("downsamplers.0.conv", "downsample.layers.1"),
            ("upsamplers.0.conv", "upsample.layers.1"),
            ("resnets.", "blocks.R"),
            ("attentions.", "blocks.A"),
            ("time_emb_proj", "embed"),
            ("conv_shortcut", "shortcut"),
            ("group_norm", "norm"),
            ("to_out.0", "out"),
            ("conv_norm_out", f"up.{levels - 1}.output.norm"),
            ("conv_out", f"up.{levels - 1}.output.conv"),
        ]:
            name = name.replace(old, new)
        parts = name.split(".")
        parts = [p[1:] + {"R": ".resnet", "A": ".attention"}[p[0]] if p[0] in "RA" else p for p in parts]
        renamed[".".join(parts)] = tensor
    for name in [name for name in renamed if ".to_q." in name]:
        three = [renamed.pop(name.replace(".to_q.", f".to_{letter}.")) for letter in "qkv"]
        renamed[name.replace(".to_q.", ".qkv.")] = torch.cat(three)
    return renamed


def test_output_is_that_of_diffusers():
    torch.manual_seed(0)
    theirs = peer((16, 32, 32), groups=8).eval()
    ours = unet(
        **table_of("ddpm_cifar").model_dump(exclude={"kind", "channels", "multipliers", "norm"}),
        channels=16,
        multipliers=[1, 2, 2],
        norm={"kind": "group", "groups": 8},
    ).build(CIFAR, Ports(3, 3))
    ours.load_state_dict(weights_of_peer(theirs))
    ours.eval()
    x, time = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 500, 999])
    with torch.no_grad():
        expected = theirs(x, time, return_dict=False)[0]
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(x, time.float()), expected, rtol=0, atol=1e-5)


def test_label():
    torch.manual_seed(0)
    network = randomize(small(class_conditional=True).build(DIGITS, Ports(1, 1)))
    x, time = torch.randn(3, 1, 8, 8), torch.zeros(3)
    out = network(x, time, torch.tensor([0, 4, 10]))
    assert torch.equal(network(x, time), network(x, time, torch.full((3,), 10)))
    torch.testing.assert_close(out[2], network(x, time)[2])
    assert not torch.allclose(out[1], network(x, time)[1])


def test_labels_for_a_network_without_classes():
    network = small().build(DIGITS, Ports(1, 1))
    with pytest.raises(ValueError, match="not class-conditional"):
        network(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.int64))


def test_weights_follow_the_seed():
    def weights():
        torch.manual_seed(5)
        return small().build(DIGITS, Ports(1, 1)).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_bfloat16_sees_single_steps_of_time():
    torch.manual_seed(0)
    network = randomize(small().build(DIGITS, Ports(1, 1))).eval()
    x, time = torch.randn(1, 1, 8, 8).repeat(2, 1, 1, 1), torch.tensor([998.0, 999.0])
    exact = network(x, time)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(x, time)
    low = network.to(torch.bfloat16)(x.bfloat16(), time)
    for out in (mixed, low):
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), exact, rtol=0, atol=0.1 * exact.std().item())
        assert not torch.equal(out[0], out[1])


def test_compiles_in_one_piece():
    network = small(attention_at="all", class_conditional=True).build(DIGITS, Ports(1, 1))
    compiled = torch.compile(randomize(network), backend="eager", fullgraph=True)
    x, time, label = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 7.0]), torch.tensor([1, 10])
    torch.testing.assert_close(compiled(x, time, label), network(x, time, label))


def test_other_sizes_than_those_of_the_data():
    network = small().build(DIGITS, Ports(1, 1))
    assert network(torch.zeros(1, 1, 12, 20), torch.zeros(1)).shape == (1, 1, 12, 20)


@settings(max_examples=40, deadline=None)
@given(any_unet(), st.integers(1, 13), st.integers(1, 13))
def test_any_network_takes_the_sizes_that_it_does_not_refuse(choice, height, width):
    spec, data = choice
    if spec.refuses_size(data, height, width):
        factor = 2 ** (len(spec.multipliers) - 1)
        assert height % factor or width % factor
    else:
        network = spec.build(data, Ports(data.channels, 1))
        assert network(torch.zeros(1, data.channels, height, width), torch.ones(1)).shape == (1, 1, height, width)


def test_a_refused_size_comes_with_the_nearest_ones():
    spec = unet(multipliers=[1, 1, 1])
    assert spec.refuses_size(CIFAR, 8, 44) is None
    assert spec.refuses_size(CIFAR, 30, 33) == "the model's 3 levels need sides divisible by 4: 28x32 or 32x36"
    assert spec.refuses_size(CIFAR, 32, 33) == "the model's 3 levels need sides divisible by 4: 32x32 or 32x36"
    assert spec.refuses_size(CIFAR, 3, 4) == "the model's 3 levels need sides divisible by 4: 4x4"


def test_a_model_that_says_nothing_of_sizes_takes_its_own_only():
    assert Model.refuses_size(small(), CIFAR, 32, 32) is None
    reason = Model.refuses_size(small(), CIFAR, 32, 64)
    assert reason == "the model takes images of 32x32 (height x width) only"


def test_where_attention_is():
    def levels(**changes):
        network = unet(channels=64, blocks_per_level=1, **changes).build(DataInfo(1, 16, 32), Ports(1, 1))
        return [[b.attention is not None for b in level.blocks] for level in (*network.down, *reversed(network.up))]

    down = [[False], [True], [False], [False]]
    assert levels(attention_at=[16]) == [*down, *([*at, *at] for at in down)]
    assert levels(levels=[{}, {"attention": "linear"}]) == levels(attention_at=[16])
    assert levels() == [[False]] * 4 + [[False] * 2] * 4


def test_a_level_in_its_own_way():
    network = unet(
        channels=64,
        multipliers=[1, 2],
        blocks_per_level=1,
        levels=[
            {"blocks": 2, "downsample": "avg_pool"},
            {"channels": 96, "resnet": "scale_shift", "upsample": "nearest"},
        ],
    ).build(CIFAR, Ports(3, 3))
    assert [len(level.blocks) for level in (*network.down, *network.up)] == [2, 1, 2, 3]
    assert [type(level.blocks[0].resnet).__name__ for level in network.down] == ["DdpmBlock", "ScaleShiftBlock"]
    assert network.down[1].blocks[0].resnet.conv2.weight.shape == (96, 96, 3, 3)
    assert network.middle[0].resnet.conv1.weight.shape == (96, 96, 3, 3)
    assert type(network.middle[0].resnet).__name__ == "DdpmBlock"
    assert not list(network.down[0].downsample.parameters())
    assert not list(network.up[0].upsample.parameters())
    assert network(torch.zeros(1, 3, 32, 32), torch.zeros(1)).shape == (1, 3, 32, 32)


def test_times_known():
    assert small(embedding=Table(times=50)).times_known() == 50
    assert small().times_known() is None


def test_all_problems_at_once():
    spec = unet(
        channels=48,
        multipliers=[1, 2, 2],
        attention={"kind": "self", "heads": 5},
        attention_at=[15, 34],
        class_conditional=True,
        levels=[
            {"upsample": "nearest"},
            {"resnet": "scale_shift", "norm": {"kind": "group", "groups": 96}},
            {"downsample": "conv"},
            {},
        ],
    )
    problems = spec.problems(DataInfo(1, 30, 34))
    found = [(problem.key, problem.message) for problem in problems]
    assert [(key, message) for key, message in found if "channels cannot be split" not in message] == [
        (
            "multipliers",
            "3 levels halve the sides 2 times, so both must be divisible by 4, and the images are 30x34 (height x "
            "width). Allowed: 2 levels or fewer, or images of a size such as 28x32 or 32x36",
        ),
        ("attention_at", "no level has maps of side 15. Allowed for these images: 34, 17"),
        ("levels", "4 tables for 3 levels. Allowed: at most one for each level"),
        ("levels[0].upsample", "the first level is not upsampled, as there is no level before it: leave this out"),
        ("levels[2].downsample", "the last level is not downsampled, as there is no level after it: leave this out"),
        ("class_conditional", "the data set has no labels: leave this out, or choose a data set with labels"),
    ]
    assert [(key, message.partition(". ")[0]) for key, message in found if "channels cannot be split" in message] == [
        ("attention", "48 channels cannot be split into 5 heads"),
        ("attention", "96 channels cannot be split into 5 heads"),
        ("levels[1].norm", "48 channels cannot be split into 96 equal groups"),
        ("levels[1].norm", "144 channels cannot be split into 96 equal groups"),
        ("norm", "48 channels cannot be split into 32 equal groups"),
        ("norm", "144 channels cannot be split into 32 equal groups"),
    ]
    with pytest.raises(ValueError, match="no level has maps of side 15"):
        spec.build(DataInfo(1, 30, 34), Ports(1, 1))


def test_a_refusal_of_the_embedding():
    (problem,) = unet(channels=7, norm="rms", embedding="fourier").problems(CIFAR)
    assert problem.key == "embedding"


def test_a_block_that_could_not_see_the_time():
    (problem,) = unet(channels=32, multipliers=[1, 2]).problems(CIFAR)
    assert problem.key == "resnet"
    assert "would not see the time" in problem.message


def test_checking_allocates_nothing_and_draws_nothing():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert unet(channels=8192, multipliers=[64] * 4).problems(CIFAR) == []
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("value", ["some", 16, [0], [True], ["16"], [16.0], {}, None])
def test_attention_at_has_one_message(value):
    with pytest.raises(ValidationError) as caught:
        unet(attention_at=value)
    (problem,) = problems_of(caught.value)
    assert (problem.key, problem.message) == (
        "attention_at",
        'should be "all" or an array of side lengths, such as [16, 8]',
    )


def test_attention_at_in_the_json_schema():
    assert json_schema(UNet)["properties"]["attention_at"]["anyOf"] == [
        {"items": {"exclusiveMinimum": 0, "type": "integer"}, "type": "array"},
        {"const": "all", "type": "string"},
    ]


def test_the_middle_in_its_own_way():
    network = small(
        middle_level={
            "resnet": {"kind": "scale_shift", "skip_scale": 0.5},
            "attention": {"kind": "linear", "heads": 1, "norm": "none"},
            "norm": {"kind": "group", "groups": 2},
        }
    ).build(DIGITS, Ports(1, 1))
    first, second = network.middle
    assert first.resnet.skip_scale == second.resnet.skip_scale == 0.5
    assert first.resnet.norm1.num_groups == 2
    assert isinstance(first.attention, LinearAttention)
    assert isinstance(first.attention.norm, nn.Identity)
    others = [block for level in (*network.down, *network.up) for block in level.blocks]
    assert all(block.resnet.skip_scale == 1 for block in others)
    assert network.up[-1].output.norm.num_groups != 2


def test_without_attention_in_the_middle_its_kind_has_no_say():
    network = small(middle_attention=False, middle_level={"attention": "self"}).build(DIGITS, Ports(1, 1))
    assert network.middle[0].attention is None


def test_a_wrong_setting_of_the_middle_is_named():
    problems = small(middle_level={"norm": {"kind": "group", "groups": 5}}).problems(DIGITS)
    assert {problem.key for problem in problems} == {"middle_level.norm"}


def test_activations_of_the_embedding_and_of_the_output():
    network = small(activation="relu", embedding_activation="gelu", output_activation="mish").build(DIGITS, Ports(1, 1))
    assert isinstance(network.time_mlp[1], nn.GELU)
    assert isinstance(network.up[-1].output.activation, nn.Mish)
    assert isinstance(network.activation, nn.ReLU)
    assert isinstance(network.middle[0].resnet.activation, nn.ReLU)
