"""Networks and walks of improved-diffusion and guided-diffusion, against the outputs of their own code."""

import json

import pytest
import torch

from diffkit.diffusion.denoiser import make_denoise
from diffkit.errors import CheckpointError, UserError
from diffkit.interop.base import Source
from diffkit.interop.guided_diffusion import GuidedDiffusion, ImprovedDiffusion, respaced, spacing_of

CASES = [
    (ImprovedDiffusion, "improved_diffusion.safetensors", "small_variance"),
    (ImprovedDiffusion, "improved_diffusion.safetensors", "learned_variance"),
    (GuidedDiffusion, "guided_diffusion.safetensors", "new_order"),
    (GuidedDiffusion, "guided_diffusion.safetensors", "legacy_order"),
    (GuidedDiffusion, "guided_diffusion.safetensors", "wide_start"),
]


def write(path, weights, flags=None):
    torch.save(weights, path)
    if flags is not None:
        path.with_suffix(".json").write_text(json.dumps(flags))
    return Source(path, allow_pickle=True)


@pytest.mark.parametrize(("importer", "file", "name"), CASES, ids=[name for _, _, name in CASES])
def test_network_and_walk_are_the_published_ones(importer, file, name, published, tmp_path):
    case = published.read(file)[name]
    source = write(tmp_path / f"{name}.pt", published.fill(case["shapes"]), case["flags"])
    imported = importer().read(source)
    network, recipe = imported.network().eval(), imported.validated()
    side = 64 if name == "wide_start" else published.SIDE
    x = published.normal("x", (2, 3, side, side))
    labels = torch.tensor([3, 999]) if case["flags"].get("class_cond") else None
    with torch.no_grad():
        output = network(x, torch.tensor([1, recipe.process.steps // 2]), labels)
    torch.testing.assert_close(published.thinned(output), case["output"], rtol=1e-5, atol=1e-5)

    levels = recipe.sample.spacing.levels(recipe.process, recipe.sample.steps)
    denoise = make_denoise(network, recipe.objective, recipe.process, recipe.sample.x0_rule, labels=labels)
    noise = published.Fills()
    with torch.no_grad():
        images = recipe.sample.sampler.sample(denoise, levels, x, lambda: noise(x))
    torch.testing.assert_close(published.thinned(images), case["images"], rtol=1e-4, atol=1e-4)


@pytest.fixture
def case(published):
    case = published.read("guided_diffusion.safetensors")["new_order"]
    return published.fill(case["shapes"]), case["flags"]


@pytest.mark.parametrize("format", ["zip", "before torch 1.6"])
def test_a_file_is_recognized_without_being_unpickled(format, case, tmp_path):
    weights, flags = case
    path = tmp_path / "model.pt"
    torch.save(weights, path, _use_new_zipfile_serialization=format == "zip")
    assert GuidedDiffusion().recognizes(Source(path))
    assert not ImprovedDiffusion().recognizes(Source(path))
    assert ImprovedDiffusion().recognizes(Source(path, settings={"sigma_small": True}))
    with pytest.raises(UserError, match="--allow-pickled-weights"):
        GuidedDiffusion().read(Source(path, settings=flags))
    torch.save({"other": torch.ones(1)}, path)
    assert not GuidedDiffusion().recognizes(Source(path))
    path.write_bytes(b"nothing of the kind")
    assert not GuidedDiffusion().recognizes(Source(path))


def test_flags_as_on_a_command_line_go_before_those_beside(case, tmp_path):
    weights, flags = case
    path = tmp_path / "ema_0.9999_250000.pt"
    write(path, weights, {**flags, "noise_schedule": "linear"})
    settings = {"noise_schedule": "cosine", "use_ddim": "True", "timestep_respacing": 10, "lr": 1e-4}
    imported = GuidedDiffusion().read(Source(path, True, settings))
    recipe = imported.validated()
    assert (recipe.process.schedule.kind, recipe.sample.sampler.kind) == ("cosine", "ddim")
    assert (recipe.sample.steps, recipe.sample.spacing.kind) == (10, "linspace")
    assert imported.step == 250_000
    assert any("lr" in difference for difference in imported.differences)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_headz": 4}, "num_headz is no flag of guided-diffusion that an import knows. Did you mean 'num_heads'?"),
        ({"sigma_small": True}, "sigma_small is no flag of guided-diffusion"),
        ({"num_channels": 64}, "num_channels = 64, but the weights say 32"),
        ({"learn_sigma": False}, "learn_sigma = False, but the weights say True"),
        ({"noise_schedule": "sqrt"}, 'noise_schedule = sqrt: known are "linear" and "cosine"'),
        ({"timestep_respacing": "600,600"}, "timestep_respacing = 600,600: a section of 500 times has not 600"),
        ({"timestep_respacing": "ddim600"}, "timestep_respacing = ddim600: no whole stride takes 600 of 1000 times"),
        ({"num_head_channels": -1, "num_heads": 2, "num_heads_upsample": 1}, "num_heads_upsample = 1: diffkit has as"),
        (
            {"channel_mult": "", "image_size": 48},
            "image_size = 48: guided-diffusion has networks for 512, 256",
        ),
        ({"attention_resolutions": "x"}, 'attention_resolutions = x: should be side lengths such as "16,8"'),
        ({"num_res_blocks": "two"}, "num_res_blocks = 'two': should be a whole number"),
        ({"diffusion_steps": 400}, "diffusion_steps = 400: say whether the network was shown times scaled"),
    ],
)
def test_what_cannot_be_is_named(changes, message, case, tmp_path):
    weights, flags = case
    source = write(tmp_path / "m.pt", weights, {**flags, **changes})
    with pytest.raises(UserError) as caught:
        GuidedDiffusion().read(source)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_res_blocks": 2}, "there is no tensor 'input_blocks.4.0.in_layers.0.weight'"),
        ({"attention_resolutions": "16,8"}, "there is no tensor 'input_blocks.1.1.qkv.weight'"),
    ],
)
def test_flags_that_the_weights_do_not_fit(changes, message, case, tmp_path):
    weights, flags = case
    source = write(tmp_path / "m.pt", weights, {**flags, **changes})
    with pytest.raises(CheckpointError, match=message):
        GuidedDiffusion().read(source)


def test_other_networks_of_the_libraries_are_refused(case, tmp_path):
    weights, flags = case
    first = weights["input_blocks.0.0.weight"]
    upsampler = {**weights, "input_blocks.0.0.weight": torch.cat((first, first), dim=1)}
    for count in (3, 6):
        upsampler["out.2.weight"] = weights["out.2.weight"][:count]
        with pytest.raises(UserError, match=f"sees 6 channels and puts out {count}: one that is shown a second image"):
            GuidedDiffusion().read(write(tmp_path / "u.pt", upsampler, flags))
    classifier = {name: tensor for name, tensor in weights.items() if not name.startswith("output_blocks")}
    with pytest.raises(UserError, match="as a classifier has none"):
        GuidedDiffusion().read(write(tmp_path / "c.pt", classifier, flags))


def test_respacing():
    assert respaced(300, "10,15,20")[-10:] == [99, 88, 77, 66, 55, 44, 33, 22, 11, 0]
    assert respaced(10, "5") == [9, 7, 4, 2, 0]
    assert respaced(10, "2,3") == [9, 7, 5, 4, 0]
    assert respaced(10, "1") == [0]
    assert respaced(1000, "ddim250") == list(range(996, -1, -4))
    assert spacing_of(respaced(1000, "250"), 1000) == {"kind": "linspace"}
    assert spacing_of(respaced(1000, "ddim250"), 1000) == {"kind": "leading"}
    assert spacing_of([9, 7, 5, 4, 0], 10) == {"kind": "list", "times": [9.0, 7.0, 5.0, 4.0, 0.0]}
