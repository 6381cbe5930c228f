"""Gradient checkpointing, for all kinds of networks that have it."""

import pytest
import torch

from diffkit.benchmarking.live_bytes import SAVED, LiveBytes
from diffkit.data.base import DataInfo
from diffkit.nn.base import Model, Ports

DATA = DataInfo(1, 16, 16, ("a", "b"))
NORM = {"kind": "group", "groups": 8}
RESNET = {"kind": "ddpm", "dropout": 0.3}
MODELS = {
    "unet": {"channels": 16, "multipliers": (1, 2), "attention_at": (8,), "resnet": RESNET, "norm": NORM},
    "k_unet": {"channels": (16, 32), "dropout": 0.3, "group_size": 8, "norm": NORM},
    "lucidrains_unet": {"channels": 16, "multipliers": (1, 2), "resnet": {"kind": "post_norm", "dropout": 0.3}},
    "dit": {"width": 32, "depth": 3, "heads": 2},
    "uvit": {"width": 32, "depth": 3, "heads": 2},
}
ALL = [({"checkpoint_at": "all"} if "unet" in kind else {"checkpoint": True}) | {"kind": kind} for kind in MODELS]
SOME = [{"kind": kind, "checkpoint_at": (side,)} for kind in MODELS if "unet" in kind for side in (16, 8)]


def step(chosen, **more):
    """Return output, gradients and the bytes saved for the backward pass of a network with weights by chance."""
    torch.manual_seed(0)
    spec = Model.choose({"class_conditional": True, **MODELS[chosen["kind"]], "kind": chosen["kind"], **more})
    network = spec.build(DATA, Ports(1, 1))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.manual_seed(1)
    x = torch.randn(4, 1, 16, 16)
    with LiveBytes({}) as live, live.saving():
        output = network(x, torch.arange(4.0), torch.tensor([0, 1, 2, 0]))
        saved = live.now[SAVED]
        output.square().sum().backward()
    return output, [p.grad for p in network.parameters()], saved


def test_every_kind_that_has_it_is_here():
    having = {"checkpoint", "checkpoint_at"}
    kinds = {name for name, kind in Model.kinds.items() if having & kind.model_fields.keys()}
    assert kinds == MODELS.keys()


@pytest.mark.parametrize("chosen", [*ALL, *SOME], ids=str)
def test_less_is_kept_and_the_result_is_the_same_to_the_bit(chosen):
    plain, gradients, much = step({"kind": chosen["kind"]})
    again, same, less = step(chosen, **chosen)
    assert less < 0.9 * much
    assert torch.equal(plain, again)
    assert all(torch.equal(one, other) for one, other in zip(gradients, same, strict=True))


@pytest.mark.parametrize("kind", [kind for kind in MODELS if "unet" in kind])
def test_a_side_that_no_level_has(kind):
    spec = Model.choose({**MODELS[kind], "kind": kind, "checkpoint_at": (8, 5)})
    (problem,) = spec.problems(DATA)
    assert (problem.key, problem.value) == ("checkpoint_at", [8, 5])
    assert problem.message == "no level has maps of side 5. Allowed for these images: 16, 8"
