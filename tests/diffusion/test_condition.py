"""The image that a network makes images from, as it reaches the network."""

import pytest
import torch
from torch import nn

from diffkit.data.condition import Condition
from diffkit.diffusion.denoiser import make_denoise
from diffkit.diffusion.guidance import ClassifierFree
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.process import Process
from diffkit.diffusion.x0_rule import X0Rule
from diffkit.nn.base import Ports
from diffkit.testing import kinds_of

PROCESS, NONE = Process.choose("ddpm"), X0Rule.choose("none")
LOW = {"kind": "low_resolution", "factor": 2}


class Net(nn.Module):
    """Puts out three channels of its input's sum, and remembers what it saw."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = []

    def forward(self, x, time, label=None):
        self.seen.append(x)
        return self.scale * x.sum(1, keepdim=True).expand(-1, 3, -1, -1)


def images(count=2) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("condition", kinds_of(Condition))
def test_ports(condition):
    more = condition.channels(3)
    assert Objective(condition=condition).ports(3) == Ports(3 + more, 3)
    assert Objective(condition=condition, self_conditioning=True).ports(3) == Ports(6 + more, 3)


@pytest.mark.parametrize("condition", kinds_of(Condition, factor=2))
@pytest.mark.parametrize("self_conditioning", [False, True])
def test_training_and_sampling_show_the_network_the_same(condition, self_conditioning):
    objective = Objective(condition=condition, self_conditioning=self_conditioning)
    net, x0 = Net(), images()
    time, noise = torch.tensor([3, 700]), torch.randn(2, 3, 8, 8)
    objective.training_loss(net, PROCESS, x0, None, time, noise)
    (trained,) = net.seen
    assert trained.shape[1] == objective.ports(3).in_channels
    for i in range(2):
        level = PROCESS.level(time[i].item())
        x = level.alpha * x0[i : i + 1] + level.sigma * noise[i : i + 1]
        make_denoise(net, objective, PROCESS, NONE, condition=condition.make(x0[i : i + 1]))(x, level)
        torch.testing.assert_close(net.seen[-1], trained[i : i + 1])


def test_the_first_estimate_of_self_conditioning_sees_the_condition_too():
    objective, net, x0 = Objective(condition=LOW, self_conditioning=True), Net(), images()
    noise = torch.randn(2, 3, 8, 8)
    objective.training_loss(net, PROCESS, x0, None, torch.tensor([3, 700]), noise, self_condition=True)
    first, second = net.seen
    assert torch.equal(first[:, 6:], second[:, 6:])
    assert torch.equal(first[:, 6:], objective.condition.make(x0))
    assert second[:, 3:6].any() and not first[:, 3:6].any()


def test_guidance_shows_each_image_its_own_condition_twice():
    objective, net, x0 = Objective(condition="grey"), Net(), images()
    labels, condition = torch.tensor([0, 1]), objective.condition.make(x0)
    denoise = make_denoise(
        net,
        objective,
        PROCESS,
        NONE,
        labels=labels,
        null_label=2,
        guidance=ClassifierFree(weight=3),
        condition=condition,
    )
    denoise(torch.randn(2, 3, 8, 8), PROCESS.level(500))
    (seen,) = net.seen
    assert torch.equal(seen[:, 3:], torch.cat((condition, condition)))


def test_without_the_condition_that_it_needs():
    denoise = make_denoise(Net(), Objective(condition="grey"), PROCESS, NONE)
    with pytest.raises(ValueError, match=r"makes images from others \(condition = grey\): give some"):
        denoise(torch.randn(2, 3, 8, 8), PROCESS.level(500))
