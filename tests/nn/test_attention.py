import pytest
import torch
from torch import nn

from diffkit.nn.activation import Silu
from diffkit.nn.attention import EfficientAttention, FullAttention, NoAttention
from diffkit.nn.base import Style
from diffkit.nn.norm import Group

STYLE = Style(Group(groups=2), Silu())


def attention(kind):
    torch.manual_seed(0)
    built = kind.build(8, STYLE).double()
    for parameter in built.parameters():
        nn.init.normal_(parameter)
    return built, torch.randn(3, 8, 2, 5, dtype=torch.float64)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_self_is_torchs_multi_head_attention(heads):
    ours, x = attention(FullAttention(heads=heads))
    theirs = nn.MultiheadAttention(8, heads, batch_first=True).double()
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    places = ours.norm(x).flatten(2).mT
    mixed, _ = theirs(places, places, places, need_weights=False)
    torch.testing.assert_close(ours(x), x + mixed.mT.reshape(x.shape))


@pytest.mark.parametrize("heads", [1, 4])
def test_linear_is_efficient_attention(heads):
    ours, x = attention(EfficientAttention(heads=heads))
    q, k, v = ours.qkv(ours.norm(x).flatten(2).mT).chunk(3, dim=-1)
    mixed = []
    for head in range(heads):
        own = slice(head * 8 // heads, (head + 1) * 8 // heads)
        context = k[..., own].softmax(1).mT @ v[..., own]
        mixed.append(q[..., own].softmax(2) @ context)
    torch.testing.assert_close(ours(x), x + ours.out(torch.cat(mixed, -1)).mT.reshape(x.shape))


def test_head_channels_replace_heads():
    assert FullAttention(head_channels=2).build(8, STYLE).heads == 4
    assert FullAttention(heads=3, head_channels=8).build(8, STYLE).heads == 1


def test_heads_that_together_have_other_channels_than_the_maps():
    ours, x = attention(FullAttention(head_channels=3, inner_channels=6))
    assert ours.heads == 2
    q, k, v = ours.qkv(ours.norm(x).flatten(2).mT).chunk(3, dim=-1)
    mixed = [(q[..., own] @ k[..., own].mT / 3**0.5).softmax(-1) @ v[..., own] for own in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(ours(x), x + ours.out(torch.cat(mixed, -1)).mT.reshape(x.shape))
    with pytest.raises(ValueError, match="6 channels cannot be split into 4 heads"):
        FullAttention(heads=4, inner_channels=6).build(8, STYLE)


def test_none_has_no_weights():
    assert not list(NoAttention().build(8, STYLE).parameters())


@pytest.mark.parametrize("kind", [FullAttention, EfficientAttention])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "8 channels cannot be split into 3 heads. Allowed for 8 channels: heads = 1, 2, 4, 8"),
        (
            {"head_channels": 16},
            "8 channels cannot be split into heads of 16 channels. Allowed for 8 channels: head_channels = 1, 2, 4, 8",
        ),
    ],
)
def test_heads_that_do_not_fit(kind, settings, message):
    with pytest.raises(ValueError) as caught:
        kind(**settings).build(8, STYLE)
    assert str(caught.value) == message
