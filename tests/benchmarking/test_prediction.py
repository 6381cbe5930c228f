"""The prediction of memory against what torch allocates."""

import pytest
import torch

from diffkit.benchmarking.live_bytes import OTHER, SAVED, LiveBytes
from diffkit.benchmarking.memory import allocated_here, allocated_memory
from diffkit.benchmarking.prediction import AVERAGES, GRADIENTS, PARAMETERS, STATES, TEACHER, predict
from diffkit.nn.base import Model
from diffkit.pipeline import build_network
from diffkit.recipe.load import read_document, validate
from diffkit.recipe.overrides import apply_override
from diffkit.recipe.packaged import packaged_recipes

NEAR = 0.15
"""So far off, at most, as a part of what is measured."""

UNET = "kind='unet', channels=16, multipliers=[1, 2], attention_at=[4], norm={kind='group', groups=8}"
MODELS = {
    "unet": f"{{{UNET}}}",
    "checkpointed": f"{{{UNET}, checkpoint_at='all'}}",
    "k_unet": "{kind='k_unet', channels=[32, 64], group_size=8, norm={kind='group', groups=8}}",
    "lucidrains_unet": "{kind='lucidrains_unet', channels=16, multipliers=[1, 2]}",
    "dit": "{kind='dit', width=64, depth=4, heads=4}",
    "uvit": "{kind='uvit', width=64, depth=5, heads=4}",
}


def near(recipe, device):
    peaks = predict(recipe, recipe.data.info(), device)
    for job, peak in peaks.items():
        assert peak.total == pytest.approx(allocated_here(recipe, job, device), rel=NEAR), job
    return peaks


def test_there_is_a_model_of_every_kind():
    assert {kind for kind, owner in Model.owners.items() if owner == "diffkit"} <= MODELS.keys()


@pytest.mark.parametrize("model", MODELS)
def test_every_kind_of_model(tiny, cpu, model):
    size = "train.batch_size=32", "sample.batch_size=32"
    near(tiny(f"model={MODELS[model]}", "train.ema='decay'", "sample.guidance=1", *size), cpu)


@pytest.mark.parametrize(
    "settings",
    [
        ["train.device_batch_size=16"],
        ["train.precision='bfloat16'"],
        ["train.ema='power'", "train.optimizer='adamw'"],
        ["objective.self_conditioning=true", "objective.variance='learned_range'", "train.augmentation='edm'"],
        ["objective.condition={kind='low_resolution', factor=2}"],
        ["sample.guidance=2.0", "sample.sampler='dpmpp_3m'"],
        ["sample.sampler='pndm'", "sample.spacing='leading'"],
    ],
)
def test_settings(tiny, cpu, settings):
    near(tiny("model.channels=32", "train.batch_size=64", "sample.batch_size=64", *settings), cpu)


def test_a_teacher(tiny, cpu):
    settings = "objective.prediction='velocity'", "sample.sampler='consistency'", "sample.steps=4"
    peaks = near(tiny("model.channels=32", *settings, "distillation={kind='consistency', teacher='none'}"), cpu)
    assert peaks["training"].parts[TEACHER] == peaks["training"].parts[PARAMETERS]


@pytest.mark.parametrize("name", ["quickstart", "fashion_mnist_conditional", "superres_fashion", "ddpm_scratch"])
def test_packaged_recipes(cpu, name):
    file = packaged_recipes()[name]
    document = read_document(file)
    for change in ("train.batch_size=8", "sample.batch_size=8"):
        apply_override(document, change)
    near(validate(document, name, file.parent), cpu)


def test_another_process_finds_the_same(tiny, cpu):
    recipe = tiny("model.channels=32", "train.batch_size=64")
    found = allocated_memory(recipe, cpu)
    for job, size in found.items():
        assert size == pytest.approx(allocated_here(recipe, job, cpu), rel=0.02)


def test_what_it_is_for(tiny, cpu):
    recipe = tiny("model.channels=32", "train.ema={kind='power', lengths=[0.05, 0.1]}", "train.batch_size=1")
    data = recipe.data.info()
    peaks = predict(recipe, data, cpu)
    weights = sum(t.nbytes for t in build_network(recipe, data).state_dict().values())
    parts = peaks["training"].parts
    assert parts[PARAMETERS] == peaks["sampling"].parts[PARAMETERS] == pytest.approx(weights, rel=1e-3)  # and tables
    assert parts[AVERAGES] == 2 * weights
    assert parts[STATES] == pytest.approx(2 * weights, rel=0.01)
    assert 0 < parts[GRADIENTS] <= weights
    assert parts[SAVED] > 0 and TEACHER not in parts
    assert set(peaks["sampling"].parts) == {PARAMETERS, OTHER}


def test_nothing_is_left_behind(tiny, cpu):
    """Neither the generator nor tables that are kept for later callers know of it."""
    state = torch.get_rng_state()
    recipe = tiny("process.schedule={kind='linear', end=0.0123}", "process.steps=77")
    predict(recipe, recipe.data.info(), cpu)
    assert torch.equal(torch.get_rng_state(), state)
    assert float(recipe.process.alpha(torch.tensor([76]))) < 1


def test_live_bytes():
    with LiveBytes({torch.ops.aten.add.Tensor: lambda x, y: (10, 1000)}) as live:
        x = torch.zeros(25)
        live.name("x", [x[:5]])  # all of what it is a view of
        assert (live.now["x"], live.now[OTHER]) == (100, 0)
        y = x + x
        assert live.now[OTHER] == 110
        assert live.most.total() == 100 + 100 + 10 + 1000
        del y
        assert live.now[OTHER] == 10
        live.forget_most()
        assert live.most.total() == 110
