"""Models of denoising-diffusion-pytorch, against the package where it is installed."""

import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from diffkit.diffusion.denoiser import make_denoise
from diffkit.errors import CheckpointError, UserError
from diffkit.interop import lucidrains_package
from diffkit.interop.base import Source
from diffkit.interop.lucidrains import Lucidrains


@pytest.fixture(scope="module")
def package():
    """The package, installed without what its trainer depends on: that wants a torch of its own."""
    if not lucidrains_package.is_installed():
        pytest.skip("denoising-diffusion-pytorch and einops are not installed")
    return lucidrains_package.package()


def randomized(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
        near_one = 1.0 if parameter.dim() == 4 and parameter.shape[0] == 1 else 0.0  # the gain of an RMSNorm
        nn.init.normal_(parameter, near_one, 0.1 if near_one or parameter.dim() == 1 else fan_in**-0.5)
    return module.eval()


def saved(path, diffusion, **changes):
    """A file as the trainer saves it."""
    averaged = {f"ema_model.{name}": tensor + 0.01 for name, tensor in diffusion.state_dict().items()}
    buffers = {f"ema_model.{name}": tensor for name, tensor in diffusion.named_buffers()}
    data = {
        "step": 3,
        "model": diffusion.state_dict(),
        "opt": torch.optim.Adam(diffusion.parameters()).state_dict(),
        "ema": {"initted": torch.tensor(True), "step": torch.tensor(3), **averaged, **buffers},
        "scaler": None,
        "version": "2.3.4",
        **changes,
    }
    torch.save(data, path)
    return path


@st.composite
def unets(draw):
    levels = draw(st.integers(1, 3))
    return {
        "dim": 8,
        "init_dim": draw(st.sampled_from([None, 6])),
        "dim_mults": tuple(draw(st.lists(st.integers(1, 3), min_size=levels, max_size=levels))),
        "channels": draw(st.integers(1, 3)),
        "self_condition": draw(st.booleans()),
        "sinusoidal_pos_emb_theta": draw(st.sampled_from([10_000, 500])),
        "dropout": draw(st.sampled_from([0.0, 0.2])),
        "attn_dim_head": draw(st.sampled_from([4, 6])),
        "attn_heads": draw(st.sampled_from([1, 3])),
        "full_attn": draw(st.sampled_from([None, (True,) * levels, (True,) + (False,) * (levels - 1)])),
    }


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(unets(), st.sampled_from([(8, 8), (4, 12)]), st.integers(1, 2))
def test_any_network_agrees(package, tmp_path, kwargs, size, batch):
    torch.manual_seed(0)
    unet = randomized(package.Unet(**kwargs))
    diffusion = package.GaussianDiffusion(unet, image_size=size)
    settings = {
        "image_size": list(size),
        "sinusoidal_pos_emb_theta": kwargs["sinusoidal_pos_emb_theta"],
        "dropout": kwargs["dropout"],
    }
    imported = Lucidrains().read(Source(saved(tmp_path / "model-1.pt", diffusion), True, settings))
    network = imported.network(imported.raw).eval()
    channels = kwargs["channels"]
    x, estimate = torch.randn(2, batch, channels, *size)
    time = torch.arange(batch) * 70 + 1
    shown = torch.cat((x, estimate), dim=1) if kwargs["self_condition"] else x
    with torch.no_grad():
        expected = unet(x, time, estimate if kwargs["self_condition"] else None)
        torch.testing.assert_close(network(shown, time.float()), expected, rtol=1e-5, atol=1e-5)
    largest = max(float(p.abs().max()) for p in (expected, torch.ones(1)))
    assert imported.measure(imported.network()) < 1e-4 * largest
    with torch.no_grad():
        network.conv_out.bias += 1
    assert imported.measure(network) > 0.5


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.parametrize(
    ("schedule", "timesteps", "sampling", "eta"),
    [("linear", 60, 60, 0), ("cosine", 50, 7, 0.0), ("sigmoid", 40, 8, 0.6)],
)
def test_whole_walks_agree(package, tmp_path, objective, schedule, timesteps, sampling, eta):
    torch.manual_seed(0)
    unet = randomized(package.Unet(8, dim_mults=(1, 2), channels=1, self_condition=objective == "pred_v"))
    diffusion = package.GaussianDiffusion(
        unet,
        image_size=8,
        timesteps=timesteps,
        sampling_timesteps=sampling,
        objective=objective,
        beta_schedule=schedule,
        ddim_sampling_eta=eta,
        min_snr_loss_weight=schedule == "cosine",
        auto_normalize=True,
    ).eval()
    path = saved(tmp_path / "model-1.pt", diffusion)
    given = {"image_size": 8, "sampling_timesteps": sampling, "ddim_sampling_eta": eta}
    imported = Lucidrains().read(Source(path, True, given))
    recipe, network = imported.validated(), imported.network(imported.raw).eval()
    assert recipe.objective.weighting.kind == ("min_snr" if schedule == "cosine" else "snr")
    assert (recipe.sample.sampler.kind, recipe.sample.steps) == ("ddpm" if sampling == timesteps else "ddim", sampling)

    draws = [torch.randn(2, 1, 8, 8) for _ in range(timesteps + 2)]
    mine, theirs = iter(draws), iter(draws)
    module = sys.modules[package.GaussianDiffusion.__module__]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.torch, "randn", lambda *args, **kwargs: next(theirs))
        patch.setattr(module.torch, "randn_like", lambda *args, **kwargs: next(theirs))
        patch.setattr(module, "tqdm", lambda steps, **kwargs: steps)
        expected = 2 * diffusion.sample(batch_size=2) - 1
    levels = recipe.sample.spacing.levels(recipe.process, recipe.sample.steps)
    denoise = make_denoise(network, recipe.objective, recipe.process, recipe.sample.x0_rule)
    start = next(mine)
    with torch.no_grad():
        images = recipe.sample.sampler.sample(denoise, levels, start, lambda: next(mine))
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def diffusion(package):
    torch.manual_seed(0)
    return package.GaussianDiffusion(randomized(package.Unet(8, dim_mults=(1, 2))), image_size=8)


def test_a_trainers_file_has_average_and_last_weights(diffusion, tmp_path):
    path = saved(tmp_path / "model-7.pt", diffusion)
    assert Lucidrains().recognizes(Source(path))
    imported = Lucidrains().read(Source(path, True, {"image_size": 8}))
    assert imported.step == 3
    torch.testing.assert_close(imported.tensors["conv_out.bias"], imported.raw["conv_out.bias"] + 0.01)
    plain = tmp_path / "diffusion.pt"
    torch.save(diffusion.state_dict(), plain)
    assert Lucidrains().recognizes(Source(plain))
    alone = Lucidrains().read(Source(plain, True, {"image_size": 8, "version": "2.3.4"}))
    assert alone.raw is None
    assert all(torch.equal(alone.tensors[name], tensor) for name, tensor in imported.raw.items())


@pytest.mark.parametrize(
    ("given", "changes", "message"),
    [
        ({}, {}, "say image_size=N"),
        ({"image_size": 8, "dims": 3}, {}, "dims is no setting that an import takes"),
        ({"image_size": 8, "objective": "pred_x0"}, {}, "objective = pred_x0, but the weights say pred_v"),
        ({"image_size": 8, "objective": "v"}, {}, "objective = v: known are pred_noise, pred_x0, pred_v"),
        ({"image_size": 8}, {"version": "0.32.0"}, "only versions from 1.0.0 on are read"),
        ({"image_size": 8}, {"version": None}, "say version="),
    ],
)
def test_what_cannot_be_is_named(diffusion, tmp_path, given, changes, message):
    path = saved(tmp_path / "model-1.pt", diffusion, **changes)
    with pytest.raises(UserError) as caught:
        Lucidrains().read(Source(path, True, given))
    assert message in str(caught.value)


def test_other_networks_are_refused(package, tmp_path):
    def read(unet, **changes):
        diffusion = package.GaussianDiffusion(package.Unet(8, dim_mults=(1,)), image_size=8, **changes)
        diffusion.model = unet
        return Lucidrains().read(Source(saved(tmp_path / "model-1.pt", diffusion), True, {"image_size": 8}))

    with pytest.raises(UserError, match="learned_sinusoidal_cond"):
        read(package.Unet(8, dim_mults=(1,), learned_sinusoidal_cond=True))
    with pytest.raises(UserError, match="learned_variance and out_dim are not read"):
        read(package.Unet(8, dim_mults=(1,), learned_variance=True))
    with pytest.raises(UserError, match="schedule_fn_kwargs"):
        read(package.Unet(8, dim_mults=(1,)), schedule_fn_kwargs={"end": 2})
    with pytest.raises(CheckpointError, match="1 tensors have no place in the network"):
        unet = package.Unet(8, dim_mults=(1,))
        unet.more = nn.Parameter(torch.ones(1))
        read(unet)
