import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffkit.kernels import convolution
from diffkit.kernels.convolution import winograd_conv2d, winograd_conv2d_backward
from diffkit.kernels.library import kernels
from diffkit.nn.convolution import Conv2d

LANES = kernels().lanes
SIDES = st.integers(1, 14)
CHANNELS = st.integers(1, 6).map(lambda n: n * LANES)


def draw(n, inputs, outputs, height, width, dtype=torch.float32):
    generator = torch.Generator().manual_seed(n + inputs + outputs + height + width)
    x = torch.randn(n, inputs, height, width, generator=generator, dtype=dtype)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator, dtype=dtype)
    return x, weight, torch.randn(outputs, generator=generator, dtype=dtype)


def error(found, exact):
    """Return the greatest error, by the greatest number."""
    return ((found.double() - exact).abs().max() / exact.abs().max()).item()


def differentiate(function, tensors, gradient):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    y = function(*leaves)
    return y.detach(), torch.autograd.grad(y, leaves, gradient)


@given(st.integers(1, 5), CHANNELS, CHANNELS, SIDES, SIDES)
def test_the_convolution_and_its_gradients_are_torchs_in_double_precision(n, inputs, outputs, height, width):
    tensors = draw(n, inputs, outputs, height, width)
    gradient = torch.randn(n, outputs, height, width, generator=torch.Generator().manual_seed(1))
    y, gradients = differentiate(winograd_conv2d, tensors, gradient)
    exact, exact_gradients = differentiate(
        lambda *leaves: nn.functional.conv2d(*leaves, padding=1), [t.double() for t in tensors], gradient.double()
    )
    assert error(y, exact) < 1e-5
    for found, right in zip(gradients, exact_gradients, strict=True):
        assert error(found, right) < 1e-5


@pytest.mark.parametrize("inputs, side, bound", [(128, 32, 4e-6), (512, 16, 4e-6)])
def test_sums_over_many_channels_stay_exact(inputs, side, bound):
    x, weight, bias = draw(2, inputs, 64, side, side)
    exact = nn.functional.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    assert error(winograd_conv2d(x, weight, bias), exact) < bound


def test_one_pixel_reaches_its_neighbours_only():
    x = torch.zeros(1, LANES, 9, 9)
    x[0, 0, 4, 4] = 1
    weight = torch.arange(9.0).view(1, 1, 3, 3).expand(LANES, LANES, 3, 3).contiguous()
    y = winograd_conv2d(x, weight, None)
    torch.testing.assert_close(y[0, 0, 3:6, 3:6], weight[0, 0].flip(0, 1), atol=2e-6, rtol=0)
    y[:, :, 3:6, 3:6] = 0
    assert y.abs().max() < 2e-6


def test_the_gradients_are_adjoint_to_the_convolution():
    x, weight, _ = draw(3, 2 * LANES, LANES, 7, 10, torch.float64)
    gradient = torch.randn(3, LANES, 7, 10, dtype=torch.float64)
    of_x, of_weight = winograd_conv2d_backward(gradient.float(), x.float(), weight.float(), True, True)
    product = (winograd_conv2d(x.float(), weight.float(), None) * gradient).sum()
    torch.testing.assert_close((of_x * x).sum(), product, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close((of_weight * weight).sum(), product, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("frozen", [(), ("x",), ("weight",), ("bias",), ("x", "weight"), ("weight", "bias")])
def test_only_what_is_asked_for_gets_a_gradient(frozen):
    leaves = dict(zip(("x", "weight", "bias"), draw(2, LANES, LANES, 8, 8), strict=True))
    for name, leaf in leaves.items():
        leaf.requires_grad_(name not in frozen)
    winograd_conv2d(**leaves).square().sum().backward()
    exact = {name: leaf.detach().double().requires_grad_(name not in frozen) for name, leaf in leaves.items()}
    nn.functional.conv2d(exact["x"], exact["weight"], exact["bias"], padding=1).square().sum().backward()
    for name, leaf in leaves.items():
        assert (leaf.grad is None) == (name in frozen)
        assert name in frozen or error(leaf.grad, exact[name].grad) < 1e-5


def test_the_maps_are_not_kept_where_the_weight_is_frozen():
    x, weight, _ = draw(1, LANES, LANES, 8, 8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
        winograd_conv2d(x.requires_grad_(), weight, None)
    assert kept == [weight.shape]


def test_gradients_of_any_layout_are_taken():
    x, weight, _ = draw(2, LANES, LANES, 8, 8)
    for leaves in ((x, weight), (x.transpose(2, 3), weight.transpose(2, 3))):
        _, found = differentiate(lambda a, b: winograd_conv2d(a, b, None).sum(), leaves, None)
        _, exact = differentiate(lambda a, b: nn.functional.conv2d(a, b, padding=1).sum(), leaves, None)
        for one, other in zip(found, exact, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("workspace", [1, 10**8])
def test_how_many_images_are_taken_at_a_time_changes_nothing(workspace, monkeypatch):
    tensors = draw(9, 2 * LANES, 3 * LANES, 9, 6)
    gradient = torch.randn(9, 3 * LANES, 9, 6)
    monkeypatch.setattr(convolution, "TILES_AT_ONCE", 12)
    y, gradients = differentiate(winograd_conv2d, tensors, gradient)
    monkeypatch.setattr(convolution, "WORKSPACE", workspace)
    again, gradients_again = differentiate(winograd_conv2d, tensors, gradient)
    torch.testing.assert_close(again, y, rtol=0, atol=0)
    for one, other in zip(gradients_again, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_the_number_of_threads_changes_nothing(threads):
    tensors = draw(5, 2 * LANES, 5 * LANES, 11, 8)
    gradient = torch.randn(5, 5 * LANES, 11, 8)
    found = []
    for number in (1, 3):
        threads(number)
        y, gradients = differentiate(winograd_conv2d, tensors, gradient)
        found.append([y, *gradients[:2]])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("bias", [True, False])
def test_torch_knows_the_operation(bias):
    x, weight, shift = draw(1, LANES, 2 * LANES, 5, 8)
    leaves = (x.requires_grad_(), weight.requires_grad_(), shift.requires_grad_() if bias else None)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(winograd_conv2d, leaves, test_utils=tests)


def test_floating_point_operations_are_counted_as_torch_counts_a_convolution():
    x, weight, _ = draw(3, LANES, 2 * LANES, 8, 8)

    def count(function):
        with FlopCounterMode(display=False) as counter:
            function(x.clone().requires_grad_(), weight.clone().requires_grad_(), None).sum().backward()
        return counter.get_total_flops()

    assert count(winograd_conv2d) == count(lambda *leaves: nn.functional.conv2d(*leaves, padding=1)) > 0


CHOSEN = "diffkit.winograd_conv2d"


def operations(layer, x):
    with FlopCounterMode(display=False) as counter:
        y = layer(x)
    return {str(operation) for operation in counter.get_flop_counts()["Global"]}, y


@pytest.mark.parametrize(
    "layer, shape",
    [
        ((LANES, LANES, 3, 1, 1), (1, LANES, 8, 8)),  # too few tiles
        ((LANES, LANES + 1, 3, 1, 1), (8, LANES, 8, 8)),  # channels that fill no vector
        ((LANES, LANES, 3, 2, 1), (8, LANES, 16, 16)),
        ((LANES, LANES, 1, 1, 0), (8, LANES, 16, 16)),
        ((LANES, LANES, 3, 1, 0), (8, LANES, 16, 16)),
        ((1, LANES, 3, 1, 1), (8, 1, 16, 16)),
    ],
)
def test_other_convolutions_are_torchs_own(layer, shape):
    layer, x = Conv2d(*layer), torch.randn(shape)
    used, y = operations(layer, x)
    assert CHOSEN not in used
    torch.testing.assert_close(y, nn.Conv2d.forward(layer, x), rtol=1e-5, atol=1e-5)


def test_a_layer_takes_it_where_it_pays(plain):
    layer, x = Conv2d(LANES, LANES, 3, 1, 1), torch.randn(8, LANES, 8, 8)
    used, y = operations(layer, x)
    assert CHOSEN in used
    plain()
    used, reference = operations(layer, x)
    assert CHOSEN not in used
    torch.testing.assert_close(y, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side, settings", [(8, (3, 1, 1)), (8, (1, 1, 0)), (16, (3, 2, 1)), (4, (3, 1, 1))])
def test_gradients_of_weights_lie_as_the_weights_do(side, settings):
    """Or copies of them are made, where several processes add them up."""
    layer = Conv2d(LANES, 2 * LANES, *settings)
    layer(torch.randn(8, LANES, side, side).contiguous(memory_format=torch.channels_last)).sum().backward()
    assert layer.weight.grad.stride() == layer.weight.stride()


def test_other_numbers_and_places_are_torchs_own():
    layer, x = Conv2d(LANES, LANES, 3, 1, 1), torch.randn(8, LANES, 8, 8)
    assert CHOSEN not in operations(layer.double(), x.double())[0]
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.to("meta")(x.to("meta")).shape == x.shape


def test_an_exported_layer_has_torchs_operations_only():
    program = torch.export.export(Conv2d(LANES, LANES, 3, 1, 1), (torch.randn(8, LANES, 8, 8),))
    assert not any("diffkit" in str(node.target) for node in program.graph.nodes)
