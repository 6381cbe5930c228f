"""What every kind of part promises, for all registered kinds."""

import itertools

import pytest
import torch
from torch import nn

from diffkit.nn.activation import Silu
from diffkit.nn.base import Activation, Attention, Downsample, Norm, ResnetBlock, Style, Upsample
from diffkit.nn.norm import Group
from diffkit.nn.resnet import Ddpm
from diffkit.testing import kinds_of

STYLE = Style(Group(groups=4), Silu(), Ddpm())
EMBEDDING = 12
SHAPES = [(3, 8, 4, 6), (1, 8, 2, 2), (5, 8, 6, 2)]


def parts() -> list:
    """Every part that maps ``[N, 8, H, W]``, as a function that builds it, with the factor of its sides."""
    found = []
    families = (Norm, Activation, Attention, ResnetBlock, Downsample, Upsample)
    for family, parameter in itertools.chain.from_iterable(((f, p) for p in kinds_of(f, groups=4)) for f in families):
        (kind,) = parameter.values
        builds = {
            Norm: lambda kind=kind: kind.build(8),
            Activation: lambda kind=kind: kind.build(),
            Attention: lambda kind=kind: kind.build(8, STYLE),
            ResnetBlock: lambda kind=kind: kind.build(8, 8, EMBEDDING, STYLE),
            Downsample: lambda kind=kind: kind.build(8, EMBEDDING, STYLE),
            Upsample: lambda kind=kind: kind.build(8, EMBEDDING, STYLE),
        }
        scale = {Downsample: 0.5, Upsample: 2}.get(family, 1)
        takes_embedding = family in (ResnetBlock, Downsample, Upsample)
        found.append(pytest.param(builds[family], scale, takes_embedding, id=f"{family.family}-{kind.kind}"))
    return found


every_part = pytest.mark.parametrize(("build", "scale", "takes_embedding"), parts())


def run(module: nn.Module, x: torch.Tensor, takes_embedding: bool) -> torch.Tensor:
    embedding = torch.linspace(-1, 1, len(x) * EMBEDDING, dtype=x.dtype).view(len(x), EMBEDDING)
    return module(x, embedding) if takes_embedding else module(x)


def randomize(module: nn.Module) -> nn.Module:
    """Give every weight a value, so that nothing is hidden by those that start at zero."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@every_part
@pytest.mark.parametrize("shape", SHAPES)
def test_shape(build, scale, takes_embedding, shape):
    out = run(build(), torch.randn(shape), takes_embedding)
    assert out.shape == (*shape[:2], int(shape[2] * scale), int(shape[3] * scale))


@every_part
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_type_is_kept_and_agrees_with_float32(build, scale, takes_embedding, dtype):
    torch.manual_seed(0)
    module = randomize(build()).eval()
    x = torch.randn(2, 8, 4, 6)
    exact = run(module, x, takes_embedding)
    out = run(module.to(dtype), x.to(dtype), takes_embedding)
    assert out.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float64 else 0.1 * exact.abs().max().item()
    torch.testing.assert_close(out.float(), exact, rtol=0, atol=tolerance)


@every_part
def test_memory_format_makes_no_difference(build, scale, takes_embedding):
    module = randomize(build()).eval()
    x = torch.randn(2, 8, 4, 6)
    out = run(module, x.contiguous(memory_format=torch.channels_last), takes_embedding)
    torch.testing.assert_close(out, run(module, x, takes_embedding), rtol=1e-4, atol=1e-4)


@every_part
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e4])
def test_finite_for_any_size_of_input(build, scale, takes_embedding, size):
    module = randomize(build())
    x = (size * torch.randn(2, 8, 4, 4)).requires_grad_()
    out = run(module, x, takes_embedding)
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()


@every_part
def test_deterministic_in_evaluation_and_leaves_its_input_alone(build, scale, takes_embedding):
    module = randomize(build()).eval()
    x = torch.randn(2, 8, 4, 4)
    before = x.clone()
    assert torch.equal(run(module, x, takes_embedding), run(module, x, takes_embedding))
    assert torch.equal(x, before)


@every_part
def test_images_of_a_batch_do_not_mix(build, scale, takes_embedding):
    module = randomize(build()).eval()
    x = torch.randn(2, 8, 4, 4)
    other = x.clone()
    other[1] += 1
    torch.testing.assert_close(run(module, x, takes_embedding)[0], run(module, other, takes_embedding)[0])


@every_part
def test_gradients_reach_input_and_all_weights(build, scale, takes_embedding):
    module = randomize(build())
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    run(module, x, takes_embedding).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


@every_part
def test_gradients_are_those_of_the_function(build, scale, takes_embedding):
    torch.manual_seed(1)
    module = randomize(build()).double().eval()
    x = torch.randn(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: run(module, x, takes_embedding), x)


@pytest.mark.parametrize("kind", kinds_of(ResnetBlock))
@pytest.mark.parametrize(("inside", "outside"), [(8, 12), (12, 8), (16, 16)])
def test_blocks_of_any_channels_see_the_embedding(kind, inside, outside):
    block = randomize(kind.build(inside, outside, EMBEDDING, STYLE)).eval()
    x = torch.randn(2, inside, 4, 6)
    out = block(x, torch.zeros(2, EMBEDDING))
    assert out.shape == (2, outside, 4, 6)
    assert not torch.allclose(out, block(x, torch.ones(2, EMBEDDING)))


@pytest.mark.parametrize("kind", kinds_of(Attention))
def test_attention_starts_as_the_identity(kind):
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(kind.build(8, STYLE)(x), x)


@pytest.mark.parametrize("kind", kinds_of(ResnetBlock))
def test_blocks_start_as_the_identity(kind):
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(kind.build(8, 8, EMBEDDING, STYLE)(x, torch.randn(2, EMBEDDING)), x)
