import re

import pytest
import torch
from torch import nn

from diffkit.data.base import DataInfo
from diffkit.nn.base import Model, Ports
from diffkit.nn.summary import summarize

LATENTS = DataInfo(4, 32, 32, tuple(map(str, range(1000))))
SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}


def dit(**settings):
    return Model.choose({"kind": "dit", **settings})


@pytest.mark.parametrize(
    ("name", "patch", "millions", "gflops"),
    [
        ("S", 8, 33, 0.36),
        ("S", 4, 33, 1.41),
        ("S", 2, 33, 6.06),
        ("B", 8, 131, 1.42),
        ("B", 4, 130, 5.56),
        ("B", 2, 130, 23.01),
        ("L", 8, 459, 5.01),
        ("L", 4, 458, 19.70),
        ("L", 2, 458, 80.71),
        ("XL", 8, 676, 7.39),
        ("XL", 4, 675, 29.05),
        ("XL", 2, 675, 118.64),
    ],
)
def test_the_papers_models(name, patch, millions, gflops):
    """Peebles & Xie 2023, table 4. Their Gflops are multiply-adds; torch counts both halves of one."""
    width, depth, heads = SIZES[name]
    spec = dit(patch=patch, width=width, depth=depth, heads=heads, class_conditional=True)
    with torch.device("meta"):
        network = spec.build(LATENTS, Ports(4, 8))
    summary = summarize(network, LATENTS, Ports(4, 8))
    assert round(summary.parameters / 1e6) == millions
    assert summary.flops / 2e9 == pytest.approx(gflops, rel=1e-3, abs=0.005)


def test_starts_at_zero_and_every_block_as_the_identity():
    torch.manual_seed(0)
    data = DataInfo(3, 8, 8, ("a", "b"))
    network = dit(width=16, depth=2, heads=2, class_conditional=True).build(data, Ports(3, 6, vector=2))
    out = network(torch.randn(2, 3, 8, 8), torch.tensor([3.0, 9.0]), torch.tensor([0, 1]), torch.randn(2, 2))
    assert out.shape == (2, 6, 8, 8)
    assert not out.any()
    tokens, c = torch.randn(2, 5, 16), torch.randn(2, 16)
    for block in network.blocks:
        assert torch.equal(block(tokens, c), tokens)


def peer(**changes) -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    settings = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 3,
        "out_channels": 6,
        "num_layers": 2,
        "sample_size": 8,
        "num_embeds_ada_norm": 5,
        "norm_eps": 1e-6,
    }
    network = diffusers.DiTTransformer2DModel(**{**settings, **changes}).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)  # larger ones would show how their frequencies are rounded
    return network


def weights_of_peer(theirs: nn.Module) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in theirs.state_dict().items():
        for old, new in [
            (r"pos_embed\.proj", "patches_in"),
            (r"transformer_blocks\.0\.norm1\.emb\.timestep_embedder\.linear_1", "time_mlp.0"),
            (r"transformer_blocks\.0\.norm1\.emb\.timestep_embedder\.linear_2", "time_mlp.2"),
            (r"transformer_blocks\.0\.norm1\.emb\.class_embedder\.embedding_table", "class_embedding"),
            (r"transformer_blocks\.", "blocks."),
            (r"norm1\.linear", "modulation"),
            (r"attn1\.to_out\.0", "attention.out"),
            (r"attn1", "attention"),
            (r"ff\.net\.0\.proj", "mlp.0"),
            (r"ff\.net\.2", "mlp.2"),
            (r"proj_out_1", "modulation_out"),
            (r"proj_out_2", "out"),
        ]:
            name = re.sub(old, new, name)
        renamed[name] = tensor
    for name in [name for name in renamed if ".to_q." in name]:
        three = [renamed.pop(name.replace(".to_q.", f".to_{letter}.")) for letter in "qkv"]
        renamed[name.replace(".to_q.", ".qkv.")] = torch.cat(three)
    return {name: tensor for name, tensor in renamed.items() if ".emb." not in name}


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_output_is_that_of_diffusers(patch):
    torch.manual_seed(0)
    theirs = peer(patch_size=patch)
    first = theirs.transformer_blocks[0].norm1.emb
    for block in theirs.transformer_blocks[1:]:  # there every block embeds the time for itself; the paper's don't
        block.norm1.emb.load_state_dict(first.state_dict())
    data = DataInfo(3, 8, 8, tuple("abcde"))
    # the paper's frequencies stop one short of the slowest, diffusers' reach it
    reaching = {"kind": "sinusoidal", "order": "cos_sin", "endpoint": True}
    spec = dit(patch=patch, width=16, depth=2, heads=2, class_conditional=True, embedding=reaching)
    ours = spec.build(data, Ports(3, 6))
    ours.load_state_dict(weights_of_peer(theirs))
    ours.eval()
    time, label = torch.tensor([0, 1, 500, 999]), torch.tensor([0, 2, 4, 5])
    for side in (8, 12):
        x = torch.randn(4, 3, side, side)
        with torch.no_grad():
            expected = theirs(x, time, label, return_dict=False)[0]
            assert expected.std() > 0.1
            torch.testing.assert_close(ours(x, time.float(), label), expected, rtol=0, atol=1e-5)


def test_other_sizes_than_those_of_the_data():
    spec, data = dit(width=16, depth=1, heads=2, patch=4), DataInfo(1, 8, 8)
    network = spec.build(data, Ports(1, 1))
    assert network(torch.zeros(1, 1, 12, 20), torch.zeros(1)).shape == (1, 1, 12, 20)
    assert spec.refuses_size(data, 12, 20) is None
    assert spec.refuses_size(data, 12, 22) == "the model's patches need sides divisible by 4: 12x20 or 12x24"


def test_every_place_has_its_own_embedding_within_the_range_of_the_data():
    network = dit(width=16, depth=1, heads=2).build(DataInfo(1, 8, 12), Ports(1, 1))
    trained = network.places(torch.zeros(1, 16, 4, 6))
    assert len({tuple(place.tolist()) for place in trained.flatten(1).T}) == 24
    larger = network.places(torch.zeros(1, 16, 8, 12))
    torch.testing.assert_close(larger[:, ::2, ::2], trained)
