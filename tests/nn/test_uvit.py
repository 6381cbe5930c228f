import pytest
import torch
from torch import nn

from diffkit.data.base import DataInfo
from diffkit.nn.base import Model, Ports

CLASSES = tuple(map(str, range(1000)))
CIFAR, LATENTS = DataInfo(3, 32, 32), DataInfo(4, 32, 32, CLASSES)


def uvit(**settings):
    return Model.choose({"kind": "uvit", **settings})


@pytest.mark.parametrize(
    ("settings", "data", "millions"),
    [
        ({}, CIFAR, 44),
        ({"depth": 17}, CIFAR, 58),
        ({"patch": 4, "width": 768, "depth": 17, "heads": 12}, DataInfo(3, 64, 64, CLASSES), 131),
        ({"width": 1024, "depth": 21, "heads": 16}, LATENTS, 287),
        ({"width": 1152, "depth": 29, "heads": 16}, LATENTS, 501),
    ],
)
def test_the_papers_models(settings, data, millions):
    """Bao et al. 2023, table 1: S, S deep, M, L and H."""
    with torch.device("meta"):
        network = uvit(**settings, class_conditional=bool(data.classes)).build(
            data, Ports(data.channels, data.channels)
        )
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions


def test_output_is_that_of_torchs_own_layers():
    torch.manual_seed(0)
    data = DataInfo(3, 8, 12, tuple("abcde"))
    network = uvit(width=16, depth=5, heads=2, class_conditional=True).build(data, Ports(3, 3))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, time, label = torch.randn(2, 3, 8, 12), torch.tensor([3.0, 700.0]), torch.tensor([2, 5])

    def run(block, tokens):
        layer = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        with torch.no_grad():
            layer.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
            layer.self_attn.in_proj_bias.zero_()
            layer.self_attn.out_proj.load_state_dict(block.attention.out.state_dict())
            for theirs, ours in [("norm1", "norm1"), ("norm2", "norm2"), ("linear1", "mlp.0"), ("linear2", "mlp.2")]:
                layer.get_submodule(theirs).load_state_dict(block.get_submodule(ours).state_dict())
        return layer(tokens)

    phase = time[:, None] * 10_000.0 ** -(torch.arange(8) / 8)
    patches = nn.functional.unfold(x, 2, stride=2).mT @ network.patches_in.weight.flatten(1).T + network.patches_in.bias
    tokens = torch.cat(
        (network.class_embedding.weight[label][:, None], torch.cat((phase.cos(), phase.sin()), 1)[:, None], patches), 1
    )
    h0 = run(network.first[0], tokens + network.places)
    h1 = run(network.first[1], h0)
    h = run(network.middle, h1)
    h = run(network.second[0], network.second[0].join(torch.cat((h, h1), 2)))
    h = run(network.second[1], network.second[1].join(torch.cat((h, h0), 2)))
    pixels = network.out(network.norm_out(h))[:, 2:].view(2, 4, 6, 2, 2, 3)
    image = torch.stack([torch.cat([torch.cat([*row], 1) for row in rows], 0) for rows in pixels]).permute(0, 3, 1, 2)
    expected = network.conv_out(image)
    assert expected.std() > 0.1
    torch.testing.assert_close(network(x, time, label), expected, rtol=0, atol=1e-5)


def test_an_even_depth():
    (problem,) = uvit(depth=12).problems(CIFAR)
    assert (problem.key, problem.value) == ("depth", 12)
    assert problem.message == "is the number of all blocks, with one in the middle, so it must be odd: 11 or 13"


def test_other_sizes_than_those_of_the_data():
    spec, data = uvit(width=16, depth=3, heads=2), DataInfo(1, 8, 8)
    assert spec.refuses_size(data, 8, 12) == "the model takes images of 8x8 (height x width) only"
    network = spec.build(data, Ports(1, 1))
    with pytest.raises(ValueError, match="must be of 8x8, not 8x12"):
        network(torch.zeros(1, 1, 8, 12), torch.zeros(1))
