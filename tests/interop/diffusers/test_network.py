"""The network's output is that of diffusers' UNet2DModel, over its settings; what cannot be expressed is refused."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffkit.errors import CheckpointError, RecipeError
from diffkit.interop.diffusers.names import to_ours, to_theirs
from diffkit.interop.diffusers.network import network_of
from diffkit.interop.diffusers.unet_config import UNetConfig
from diffkit.nn.base import Model, Ports

SOURCE = Path("config.json")
SOME = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
SKIP = {
    "block_out_channels": (16, 24),
    "down_block_types": ("SkipDownBlock2D",) * 2,
    "up_block_types": ("SkipUpBlock2D",) * 2,
    "norm_num_groups": None,
}


def config_of(network):
    return UNetConfig.read({name: as_json(value) for name, value in dict(network.config).items()}, SOURCE)


def as_json(value):
    return list(value) if isinstance(value, tuple) else value


def ours_of(theirs):
    config = config_of(theirs)
    found = network_of(config, SOURCE)
    network = Model.choose(found.model).build(found.data, Ports(config.in_channels, config.out_channels)).eval()
    network.load_state_dict(to_ours(theirs.state_dict(), config, SOURCE))
    return network


def assert_same(theirs, sizes=None):
    config = config_of(theirs)
    network = ours_of(theirs)
    generator = torch.Generator().manual_seed(1)
    for size in sizes or [config.sample_size]:
        x = torch.randn(3, config.in_channels, *size, generator=generator)
        last = (config.num_train_timesteps or 1000) - 1
        time = torch.tensor([0, last // 3, last])
        label = torch.arange(3) % config.num_class_embeds if config.num_class_embeds else None
        with torch.no_grad():
            expected = theirs(x, time, class_labels=label).sample
            found = network(x, time.float(), label)
        assert expected.std() > 0.05
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    back = to_theirs(network.state_dict(), config)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())


@st.composite
def configs(draw):
    groups = draw(st.sampled_from([2, 4]))
    channels = draw(st.lists(st.sampled_from([8, 12, 16, 24]), min_size=1, max_size=3))
    count = len(channels)
    head = draw(st.sampled_from([None, 1, 2, 4]))
    factor = 2 ** (count - 1)
    sides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    choices = {
        "sample_size": (max(2, sides[0] * factor), max(3, sides[1] * factor))
        if count == 1
        else (sides[0] * factor * 2, sides[1] * factor),
        "in_channels": draw(st.integers(1, 3)),
        "block_out_channels": tuple(channels),
        "down_block_types": tuple(
            draw(st.sampled_from(["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"])) for _ in channels
        ),
        "up_block_types": tuple(
            draw(st.sampled_from(["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"])) for _ in channels
        ),
        "mid_block_type": draw(st.sampled_from(["UNetMidBlock2D", None])),
        "layers_per_block": draw(st.integers(1, 2)),
        "norm_num_groups": groups,
        "attn_norm_num_groups": draw(st.sampled_from([None, 2, 4])),
        "norm_eps": draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
        "attention_head_dim": head,
        "downsample_padding": draw(st.sampled_from([0, 1])),
        "downsample_type": draw(st.sampled_from(["conv", "resnet", None])),
        "upsample_type": draw(st.sampled_from(["conv", "resnet", None])),
        "flip_sin_to_cos": draw(st.booleans()),
        "freq_shift": draw(st.sampled_from([0, 1, 2])),
        "time_embedding_dim": draw(st.sampled_from([None, 20])),
        "resnet_time_scale_shift": draw(st.sampled_from(["default", "scale_shift"])),
        "add_attention": draw(st.booleans()),
        "mid_block_scale_factor": draw(st.sampled_from([1, 1.5, 2**0.5])),
        "act_fn": draw(st.sampled_from(["silu", "swish", "mish", "gelu", "relu"])),
        "num_class_embeds": draw(st.sampled_from([None, 4])),
        "dropout": draw(st.sampled_from([0.0, 0.3])),
    }
    choices["out_channels"] = choices["in_channels"] * draw(st.sampled_from([1, 2]))
    if draw(st.booleans()):
        choices |= {"time_embedding_type": "learned", "num_train_timesteps": 30}
    return choices


@SOME
@given(configs(), st.integers(0, 100))
def test_output_is_that_of_diffusers(make_unet, config, seed):
    assert_same(make_unet(seed, **config))


@st.composite
def skip_configs(draw):
    count = draw(st.integers(1, 3))
    big = draw(st.booleans())
    channels = draw(st.lists(st.sampled_from([128] if big else [8, 16, 24]), min_size=count, max_size=count))
    attention = st.booleans() if big else st.just(False)
    downs = [("AttnSkipDownBlock2D" if draw(attention) else "SkipDownBlock2D") for _ in channels]
    ups = [("AttnSkipUpBlock2D" if draw(attention) else "SkipUpBlock2D") for _ in channels]
    return {
        "sample_size": 2**count,
        "block_out_channels": tuple(channels),
        "down_block_types": tuple(downs),
        "up_block_types": tuple(ups),
        "norm_num_groups": draw(st.sampled_from([None, 32] if big else [None])),
        "attention_head_dim": draw(st.sampled_from([None, 8])) if channels[-1] != 12 else None,
        "mid_block_scale_factor": draw(st.sampled_from([1, 2**0.5])),
        "norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
        "layers_per_block": 1,
    }


@settings(SOME, max_examples=10)
@given(skip_configs(), st.integers(0, 100))
def test_output_is_that_of_diffusers_with_skip_blocks(make_unet, config, seed):
    assert_same(make_unet(seed, **config))


def test_attention_of_skip_blocks_has_groups_of_its_own(make_unet):
    assert_same(
        make_unet(
            **{**SKIP, "block_out_channels": (32, 64), "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D")},
            sample_size=8,
        )
    )


def test_other_sizes_than_that_of_the_config(make_unet):
    assert_same(make_unet(), sizes=[(8, 8), (6, 10), (2, 2), (16, 4)])


def test_odd_sides_of_a_single_level(make_unet):
    one = {"block_out_channels": (8,), "down_block_types": ("AttnDownBlock2D",), "up_block_types": ("UpBlock2D",)}
    assert_same(make_unet(**one, sample_size=(7, 5)), sizes=[(7, 5), (3, 9)])


def test_odd_sides_of_several_levels_are_refused_as_diffusers_does(make_unet):
    theirs = make_unet(sample_size=7)
    with pytest.raises(RuntimeError):
        theirs(torch.randn(1, 3, 7, 7), 0)
    with pytest.raises(RecipeError, match=r"sample_size = \(7, 7\)\n.*2 levels need sides that 2 divides"):
        network_of(config_of(theirs), SOURCE)


def test_settings_that_the_file_leaves_out_are_those_of_diffusers(diffusers):
    with torch.device("meta"):
        theirs = diffusers.UNet2DModel(sample_size=16)
        found = network_of(UNetConfig.read({"_class_name": "UNet2DModel", "sample_size": 16}, SOURCE), SOURCE)
        ours = Model.choose(found.model).build(found.data, Ports(3, 3))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert UNetConfig.read({}, SOURCE) == UNetConfig.read(
        {name: as_json(value) for name, value in dict(theirs.config).items() if name != "sample_size"}, SOURCE
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sample_size": None}, r"sample_size = .*null.*give it, as sample_size=32"),
        ({"center_input_sample": True}, r"center_input_sample = true.*2x - 1"),
        ({"time_embedding_type": "fourier"}, r"time_embedding_type = .*fourier.*divided by the time"),
        ({"class_embed_type": "timestep"}, r"class_embed_type = .*timestep"),
        ({"class_embed_type": "identity"}, r"class_embed_type = .*identity"),
        ({"freq_shift": 4}, r"freq_shift = 4.*smaller than half of block_out_channels\[0\], 4"),
        ({"downsample_padding": 2}, r"downsample_padding = 2"),
        ({"downsample_type": "none"}, r"downsample_type = .*none"),
        ({"upsample_type": "none"}, r"upsample_type = .*none"),
        ({"out_channels": 4}, r"out_channels = 4"),
        ({"attention_head_dim": 3}, r"attention_head_dim = 3.*16 channels"),
        ({"norm_num_groups": 8}, r"norm_num_groups = 8.*groups of one channel"),
        ({"norm_num_groups": None}, r"norm_num_groups = .*null"),
        ({"resnet_time_scale_shift": "spatial"}, r"resnet_time_scale_shift = .*spatial.*'default' or 'scale_shift'"),
        ({"down_block_types": ["KDownBlock2D", "DownBlock2D"]}, r"down_block_types\[0\] = .*KDownBlock2D"),
        ({"up_block_types": ["UpBlock2D", "KUpBlock2D"]}, r"up_block_types\[1\] = .*KUpBlock2D"),
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, r"down_block_types = .*all others must be too"),
        ({"down_block_types": ["DownBlock2D"]}, r"down_block_types has 1"),
        ({**SKIP, "in_channels": 1, "out_channels": 1}, r"in_channels = 1.*3 channels"),
        ({**SKIP, "norm_num_groups": 8}, r"norm_num_groups = 8.*4 groups of 16 channels"),
        (
            {**SKIP, "up_block_types": ["AttnSkipUpBlock2D", "SkipUpBlock2D"]},
            r"up_block_types.*24 \+ 24 channels has 30 groups, where.*12",
        ),
        ({"act_fn": "tanh"}, r"act_fn = .*tanh"),
        ({"attention_headdim": 8}, r"attention_headdim = 8\n    unknown setting\. Did you mean 'attention_head_dim'"),
        ({"block_out_channels": "many"}, r"block_out_channels"),
        ({"sample_size": [8, 8, 8]}, r"sample_size"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(change, named):
    small = {
        "sample_size": 8,
        "block_out_channels": [8, 16],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "norm_num_groups": 4,
    }
    with pytest.raises(RecipeError, match=rf"(?s)config\.json: \d+ problem.*{named}"):
        network_of(UNetConfig.read({**small, **change}, SOURCE), SOURCE)


def test_old_names_of_attention(make_unet):
    theirs = make_unet()
    config = config_of(theirs)
    old = {}
    for name, tensor in theirs.state_dict().items():
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{before}.")
        old[name] = tensor
    assert old.keys() != theirs.state_dict().keys()
    expected = to_ours(theirs.state_dict(), config, SOURCE)
    found = to_ours(old, config, SOURCE)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_weights_that_the_config_has_no_place_for_are_named(make_unet):
    theirs = make_unet()
    tensors = {**theirs.state_dict(), "mid_block.resnets.2.conv1.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"no place for these weights: mid_block\.resnets\.2\.conv1\.weight"):
        to_ours(tensors, config_of(theirs), SOURCE)


def test_half_precision_becomes_float32(make_unet):
    theirs = make_unet().half()
    found = to_ours(theirs.state_dict(), config_of(theirs), SOURCE)
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
