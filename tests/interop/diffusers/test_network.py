"""The network's output is that of diffusers' UNet2DModel, over its settings; what cannot be expressed is refused."""

import itertools
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

K = {
    "block_out_channels": (32, 32),
    "down_block_types": ("KDownBlock2D",) * 2,
    "up_block_types": ("KUpBlock2D",) * 2,
}
NUMBERED = {"class_embed_type": "timestep", "num_class_embeds": 4}


def config_of(network):
    return UNetConfig.read({name: as_json(value) for name, value in dict(network.config).items()}, SOURCE)


def as_json(value):
    return list(value) if isinstance(value, tuple) else value


def ours_of(theirs):
    config = config_of(theirs)
    found = network_of(config, SOURCE)
    ports = Ports(config.in_channels, config.out_channels, found.data.vector)
    network = Model.choose(found.model).build(found.data, ports).eval()
    network.load_state_dict(to_ours(theirs.state_dict(), config, SOURCE))
    return network


def assert_same(theirs, sizes=None):
    config = config_of(theirs)
    network = ours_of(theirs)
    generator = torch.Generator().manual_seed(1)
    divided = config.time_embedding_type == "fourier"
    for size in sizes or [config.sample_size]:
        x = torch.randn(3, config.in_channels, *size, generator=generator)
        last = (config.num_train_timesteps or 1000) - 1
        time = torch.tensor([0.3, 1, 2.5]) if divided else torch.tensor([0, last // 3, last])
        label = torch.arange(3) % config.classes if config.classes else None
        vector = None
        if config.class_embed_type == "identity":
            vector = torch.randn(3, config.embedding_size, generator=generator)
        with torch.no_grad():
            expected = theirs(x, time, class_labels=label if vector is None else vector).sample
            found = network(x, time.float(), label, vector)
        assert expected.std() > 0.05
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    back = to_theirs(network.state_dict(), config)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())


@st.composite
def conditions(draw):
    """What of time, class and input is the same for all blocks."""
    time = draw(st.sampled_from(["positional", "learned", "fourier"]))
    classes = draw(st.sampled_from([None, "timestep", "identity"] if time != "fourier" else [None, "identity"]))
    return {
        "center_input_sample": draw(st.booleans()),
        "time_embedding_type": time,
        "num_train_timesteps": 30 if time == "learned" else None,
        "flip_sin_to_cos": draw(st.booleans()),
        "freq_shift": draw(st.sampled_from([0, 1, 2])),
        "time_embedding_dim": draw(st.sampled_from([None, 20])),
        "class_embed_type": classes,
        "num_class_embeds": 4 if classes == "timestep" else draw(st.sampled_from([None, 4])),
        "dropout": draw(st.sampled_from([0.0, 0.3])),
    }


@st.composite
def configs(draw):
    groups = draw(st.sampled_from([2, 4]))
    channels = draw(st.lists(st.sampled_from([8, 12, 16, 24]), min_size=1, max_size=3))
    count = len(channels)
    head = draw(st.sampled_from([None, 1, 4, 5]))
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
        "resnet_time_scale_shift": draw(st.sampled_from(["default", "scale_shift"])),
        "add_attention": draw(st.booleans()),
        "mid_block_scale_factor": draw(st.sampled_from([1, 1.5, 2**0.5])),
        "act_fn": draw(st.sampled_from(["silu", "swish", "mish", "gelu", "relu"])),
        **draw(conditions()),
    }
    choices["out_channels"] = choices["in_channels"] * draw(st.sampled_from([1, 2]))
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
        "attention_head_dim": draw(st.sampled_from([None, 7, 8])),
        "mid_block_scale_factor": draw(st.sampled_from([1, 2**0.5])),
        "norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
        "layers_per_block": 1,
    }


@settings(SOME, max_examples=10)
@given(skip_configs(), st.integers(0, 100))
def test_output_is_that_of_diffusers_with_skip_blocks(make_unet, config, seed):
    assert_same(make_unet(seed, **config))


@st.composite
def k_configs(draw):
    count = draw(st.integers(1, 3))
    channels = [draw(st.sampled_from([32, 48, 64]))]
    while len(channels) < count:
        channels.append(draw(st.sampled_from([c for c in (32, 48, 64, 80) if channels[-1] % (c // 32) == 0])))
    sides = st.integers(1, 3) if count > 1 else st.integers(2, 5)
    factor = 2 ** (count - 1)
    return {
        "sample_size": (draw(sides) * factor * min(2, count), draw(sides) * factor * min(2, count)),
        "in_channels": draw(st.integers(1, 3)),
        "out_channels": 3,
        "block_out_channels": tuple(channels),
        "down_block_types": ("KDownBlock2D",) * count,
        "up_block_types": ("KUpBlock2D",) * count,
        "mid_block_type": draw(st.sampled_from(["UNetMidBlock2D", None])),
        "layers_per_block": draw(st.integers(1, 3)),
        "norm_num_groups": draw(st.sampled_from([None, 4])),
        "attn_norm_num_groups": draw(st.sampled_from([None, 2, 4])),
        "norm_eps": draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
        "attention_head_dim": draw(st.sampled_from([None, 8, 9])),
        "resnet_time_scale_shift": draw(st.sampled_from(["default", "scale_shift"])),
        "add_attention": draw(st.booleans()),
        "mid_block_scale_factor": draw(st.sampled_from([1, 1.5])),
        "act_fn": draw(st.sampled_from(["silu", "swish", "mish", "gelu", "relu"])),
        **draw(conditions()),
    }


@settings(SOME, max_examples=12)
@given(k_configs(), st.integers(0, 100))
def test_output_is_that_of_diffusers_with_k_blocks(make_unet, config, seed):
    config["out_channels"] = config["in_channels"] * (1 + seed % 2)
    assert_same(make_unet(seed, **config))


BOTH = list(itertools.product(("DownBlock2D", "KDownBlock2D"), repeat=2))


@pytest.mark.parametrize("channels", [(32, 32), (32, 64)], ids=str)
@pytest.mark.parametrize("down", BOTH, ids=str)
@pytest.mark.parametrize("up", [tuple(name.replace("Down", "Up") for name in names) for names in BOTH], ids=str)
def test_diffusers_cannot_run_the_mixtures_of_which_that_is_said(make_unet, channels, down, up):
    theirs = make_unet(block_out_channels=channels, down_block_types=down, up_block_types=up)
    try:
        theirs(torch.randn(1, 3, 8, 8), 1)
    except RuntimeError:
        reason = "diffusers cannot run"
    else:
        reason = "no recipe has a network of both" if len({"K" in name for name in (*down, *up)}) > 1 else ""
    if reason:
        with pytest.raises(RecipeError, match=reason):
            network_of(config_of(theirs), SOURCE)
    else:
        assert_same(theirs)


def test_frequencies_that_old_files_hold_twice(make_unet):
    theirs = make_unet(time_embedding_type="fourier")
    tensors = {**theirs.state_dict(), "time_proj.W": theirs.state_dict()["time_proj.weight"]}
    found = to_ours(tensors, config_of(theirs), SOURCE)
    assert torch.equal(found["time_features.frequencies"], tensors["time_proj.W"])


def test_padding_that_no_block_uses_does_not_matter(make_unet):
    assert_same(make_unet(downsample_padding=3, down_block_types=("ResnetDownsampleBlock2D",) * 2))


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
    ("config", "parameters"),
    [
        ({**K, "block_out_channels": (128, 256, 512), "layers_per_block": 2}, 42_572_419),
        ({**K, "block_out_channels": (128, 256, 256, 256), "layers_per_block": 2}, 27_954_307),
        (
            {**K, "block_out_channels": (384, 384, 768), "layers_per_block": 4, "time_embedding_type": "fourier"},
            235_897_347,
        ),
    ],
)
def test_as_many_parameters_as_diffusers_with_k_blocks(diffusers, config, parameters):
    count = len(config["block_out_channels"])
    config = {**config, "down_block_types": ("KDownBlock2D",) * count, "up_block_types": ("KUpBlock2D",) * count}
    with torch.device("meta"):
        theirs = diffusers.UNet2DModel(sample_size=32, **config)
        found = network_of(config_of(theirs), SOURCE)
        ours = Model.choose(found.model).build(found.data, Ports(3, 3))
    assert sum(p.numel() for p in theirs.parameters()) == parameters
    # the frequencies of 'fourier', which are not trained, are a parameter there and a buffer here
    assert sum(tensor.numel() for tensor in ours.state_dict().values()) == parameters


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sample_size": None}, r"sample_size = .*null.*give it, as sample_size=32"),
        ({"time_embedding_type": "sine"}, r"time_embedding_type = .*sine"),
        ({"class_embed_type": "projection"}, r"class_embed_type = .*projection"),
        ({"class_embed_type": "timestep"}, r"num_class_embeds = .*null.*num_class_embeds=10"),
        ({**NUMBERED, "time_embedding_type": "fourier"}, r"class_embed_type = .*timestep.*class 0 has no log"),
        (
            {**NUMBERED, "time_embedding_type": "learned", "num_train_timesteps": 4},
            r"num_train_timesteps = 4.*4 classes",
        ),
        ({"freq_shift": 4}, r"freq_shift = 4.*smaller than half of block_out_channels\[0\], 4"),
        ({"downsample_padding": 2}, r"downsample_padding = 2"),
        ({"downsample_type": "none"}, r"downsample_type = .*none"),
        ({"upsample_type": "none"}, r"upsample_type = .*none"),
        ({"out_channels": 4}, r"out_channels = 4"),
        ({"attention_head_dim": 17}, r"attention_head_dim = 17.*16 channels have no room"),
        ({"norm_num_groups": 8}, r"norm_num_groups = 8.*groups of one channel"),
        ({"norm_num_groups": None}, r"norm_num_groups = .*null"),
        ({"resnet_time_scale_shift": "spatial"}, r"resnet_time_scale_shift = .*spatial.*'default' or 'scale_shift'"),
        (
            {"down_block_types": ["KDownBlock2D", "DownBlock2D"]},
            r"diffusers cannot run AttnUpBlock2D below KDownBlock2D",
        ),
        ({"up_block_types": ["UpBlock2D", "KUpBlock2D"]}, r"diffusers cannot run KUpBlock2D behind UpBlock2D"),
        ({**K, "up_block_types": ["KUpBlock2D", "UpBlock2D"]}, r"down_block_types = .*where one block is a K block"),
        ({**K, "block_out_channels": [16, 32]}, r"block_out_channels = \[16, 32\].*16 channels are too few"),
        ({**K, "sample_size": [8, 2]}, r"sample_size = \(8, 2\).*2 levels need sides of at least 4"),
        ({"down_block_types": ["KCrossAttnDownBlock2D", "DownBlock2D"]}, r"down_block_types\[0\] = .*KCrossAttn"),
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
