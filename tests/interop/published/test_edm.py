"""Networks and walks of EDM, against the outputs of its own code."""

import json

import pytest
import safetensors.torch
import torch

from diffkit.diffusion.denoiser import make_denoise
from diffkit.errors import UserError
from diffkit.interop.base import Source
from diffkit.interop.edm import Edm

CASES = [
    *(("edm_song.safetensors", name) for name in ("ddpmpp", "ncsnpp", "skips")),
    *(("edm_adm.safetensors", name) for name in ("adm", "adm_augmented")),
]


def filters(name, shape):
    """The buffers that EDM stores: what its settings say."""
    line = torch.tensor([1.0] * 2 if shape[-1] == 2 else [1.0, 3.0, 3.0, 1.0])
    return (torch.outer(line, line) / line.sum() ** 2)[None, None]


def write(published, path, case):
    weights = published.fill(case["shapes"])
    weights |= {
        name: filters(name, shape) for name, shape in case["shapes"].items() if name.endswith("resample_filter")
    }
    safetensors.torch.save_file(weights, path)
    path.with_suffix(".json").write_text(json.dumps({"class_name": "EDMPrecond", **case["flags"]}))
    return Source(path)


@pytest.mark.parametrize(("file", "name"), CASES, ids=[name for _, name in CASES])
def test_network_and_walk_are_the_published_ones(file, name, published, tmp_path):
    case = published.read(file)[name]
    imported = Edm().read(write(published, tmp_path / f"{name}.safetensors", case))
    network, recipe, flags = imported.network().eval(), imported.validated(), case["flags"]
    x = published.normal("x", (2, flags["img_channels"], published.SIDE, published.SIDE))
    labels = torch.tensor([0, 1]) if flags.get("label_dim") else None
    vector = published.normal("vector", (2, 9)) if flags.get("augment_dim") else None
    sigma = torch.tensor([0.3, 20.0])
    scaled = x * recipe.process.input_scale(torch.ones(2), sigma).float().view(-1, 1, 1, 1)
    time = recipe.process.network_time(sigma).float()
    with torch.no_grad():
        output, unlabelled = network(scaled, time, labels, vector), network(scaled, time)
    torch.testing.assert_close(published.thinned(output), case["output"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(published.thinned(unlabelled), case["unlabelled"], rtol=1e-5, atol=1e-5)

    levels = recipe.sample.spacing.levels(recipe.process, 6)
    denoise = make_denoise(network, recipe.objective, recipe.process, recipe.sample.x0_rule, labels=labels)
    with torch.no_grad():
        images = recipe.sample.sampler.sample(denoise, levels, 80 * x.double(), lambda: x)
    torch.testing.assert_close(published.thinned(images.float()), case["images"], rtol=1e-4, atol=1e-4)


@pytest.fixture
def case(published):
    return published.read("edm_song.safetensors")["ncsnpp"]


def changed(published, path, case, **changes):
    return write(published, path, {**case, "flags": {**case["flags"], **changes}})


def test_recognized_by_names(published, case, tmp_path):
    source = write(published, tmp_path / "m.safetensors", case)
    assert Edm().recognizes(source)
    safetensors.torch.save_file({"conv_in.weight": torch.ones(1)}, source.path)
    assert not Edm().recognizes(source)


def test_pickles_are_refused_with_a_way_out(tmp_path):
    path = tmp_path / "edm-cifar10-32x32-uncond-vp.pkl"
    path.touch()
    assert Edm().recognizes(Source(path))
    with pytest.raises(UserError, match="hold the code of the network, and reading one runs it"):
        Edm().read(Source(path, allow_pickle=True))


def test_a_network_without_its_preconditioning(published, case, tmp_path):
    source = write(published, tmp_path / "m.safetensors", case)
    expected = Edm().read(source).tensors
    bare = {name.removeprefix("model."): tensor for name, tensor in safetensors.torch.load_file(source.path).items()}
    torch.save(bare, tmp_path / "m.pt")  # m.json lies beside it already
    found = Edm().read(Source(tmp_path / "m.pt", True)).tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_name": "training.networks.VPPrecond"}, "class_name = training.networks.VPPrecond: only EDMPrecond"),
        ({"class_name": None}, "class_name"),
        ({"chanel_mult": [1]}, "chanel_mult"),
        ({"augment_dim": 6}, "augment_dim = 6: EDM's own augmentation has 9"),
        ({"model_type": "DhariwalUNet"}, "embedding_type = fourier: DhariwalUNet has no such argument"),
        ({"resample_filter": [1, 1]}, "filters by another filter than resample_filter = [1.0, 1.0]"),
        ({"encoder_type": "skip"}, "there is no tensor 'enc.8x8_aux_skip.weight'"),
        ({"num_blocks": 1}, "tensors have no place in the network"),
    ],
)
def test_what_cannot_be_is_named(changes, message, published, case, tmp_path):
    with pytest.raises(UserError) as caught:
        Edm().read(changed(published, tmp_path / "m.safetensors", case, **changes))
    assert message in str(caught.value)


def test_two_conditions_at_different_places(published, tmp_path):
    case = published.read("edm_adm.safetensors")["adm"]
    with pytest.raises(UserError, match="augment_dim = 9 with label_dim = 5"):
        Edm().read(changed(published, tmp_path / "m.safetensors", case, augment_dim=9))
