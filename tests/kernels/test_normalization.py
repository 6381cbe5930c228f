import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diffkit.kernels.library import kernels
from diffkit.kernels.normalization import applies, group_norm
from diffkit.nn.activation import Gelu, Silu
from diffkit.nn.norm import Group, GroupNorm, activated

LANES = kernels().lanes
EPS = 1e-6


def reference(x, weight, bias, groups, silu):
    h = nn.functional.group_norm(x, groups, eps=EPS) * weight[:, :, None, None] + bias[:, :, None, None]
    return nn.functional.silu(h) if silu else h


def differentiate(function, tensors, gradient):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, gradient)]


def error(found, exact):
    return ((found.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-6)).item()


@st.composite
def maps(draw):
    groups, size = draw(st.sampled_from([(1, LANES), (LANES, 1), (2, LANES), (5, LANES), (LANES, 3), (4, LANES // 2)]))
    n, height, width = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(2, 9))
    return groups, (n, groups * size, height, width)


@given(maps(), st.booleans(), st.sampled_from([0.0, 3.0, -100.0]), st.sampled_from([0.01, 1.0, 100.0]))
def test_the_normalization_and_its_gradients_are_torchs_in_double_precision(shape, silu, offset, size):
    groups, shape = shape
    generator = torch.Generator().manual_seed(sum(shape))
    x = size * (torch.randn(shape, generator=generator) + offset)
    weight, bias = torch.randn(2, *shape[:2], generator=generator)
    gradient = torch.randn(shape, generator=generator)
    found = differentiate(lambda *t: group_norm(*t, groups, EPS, silu)[0], (x, weight, bias), gradient)
    torchs = differentiate(lambda *t: reference(*t, groups, silu), (x, weight, bias), gradient)
    exact = differentiate(
        lambda *t: reference(*t, groups, silu), [t.double() for t in (x, weight, bias)], gradient.double()
    )
    for one, theirs, right in zip(found, torchs, exact, strict=True):
        # numbers around 100 have lost two digits before they come here, and gradients of few numbers cancel out
        assert error(one, right) < max(1e-5 * (1 + abs(offset) / 10), 4 * error(theirs, right))


def test_the_moments_are_returned():
    x = torch.randn(3, 2 * LANES, 4, 5)
    _, mean, inverse = group_norm(x, torch.ones(3, 2 * LANES), torch.zeros(3, 2 * LANES), 2, EPS, False)
    grouped = x.view(3, 2, -1)
    torch.testing.assert_close(mean, grouped.mean(-1))
    torch.testing.assert_close(inverse, (grouped.var(-1, correction=0) + EPS).rsqrt())


def test_silu_of_great_numbers():
    x = torch.linspace(-1, 1, 4 * LANES).view(1, LANES, 2, 2)
    ones = torch.ones(1, LANES)
    y, _, _ = group_norm(x, 1e4 * ones, 0 * ones, 1, EPS, True)
    exact = reference(x.double(), 1e4 * ones.double(), 0 * ones.double(), 1, True)
    torch.testing.assert_close(y.double(), exact, rtol=2e-6, atol=1e-30)
    assert group_norm(x, ones, float("nan") * ones, 1, EPS, True)[0].isnan().all()


def test_the_number_of_threads_changes_nothing(threads):
    x, weight, bias = torch.randn(1, 8 * LANES, 9, 9), torch.randn(1, 8 * LANES), torch.randn(1, 8 * LANES)
    found = []
    for number in (1, 4):
        threads(number)
        found.append(differentiate(lambda *t: group_norm(*t, 8, EPS, True)[0], (x, weight, bias), torch.ones_like(x)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_torch_knows_the_operation():
    leaves = [torch.randn(2, LANES, 3, 4), torch.randn(2, LANES), torch.randn(2, LANES)]
    arguments = (*(leaf.requires_grad_() for leaf in leaves), 4, EPS, True)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(group_norm, arguments, test_utils=tests)


@pytest.mark.parametrize("channels, groups", [(LANES + 1, 1), (LANES // 2, 1), (10_000 * LANES, 1)])
def test_other_channels_are_torchs_own(channels, groups):
    x = torch.randn(1, channels, 1, 2)
    assert not applies(x, groups)
    norm = GroupNorm(groups, channels)
    assert torch.equal(norm(x), nn.GroupNorm.forward(norm, x))


@pytest.mark.parametrize("activation", [Silu(), Gelu()])
@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_layer_computes_the_same_with_and_without_the_library(activation, modulated, affine, plain):
    torch.manual_seed(0)
    norm, act = GroupNorm(4, 2 * LANES, affine=affine), activation.build()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 2 * LANES, 5, 4)
    embedding = [torch.randn(3, 2 * LANES) for _ in range(2 * modulated)]

    def compute():
        leaves = [tensor.clone().requires_grad_() for tensor in (x, *embedding)]
        y = activated(norm, act, *leaves)
        return [y, *torch.autograd.grad(y.square().sum(), [*leaves, *norm.parameters()])]

    found = compute()
    plain()
    for one, other in zip(found, compute(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_maps_stay_with_the_channels_last():
    y = Group(groups=4).build(LANES)(torch.randn(2, LANES, 4, 4))
    assert y.is_contiguous(memory_format=torch.channels_last)
