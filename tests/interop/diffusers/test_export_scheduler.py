"""Schedulers that are written: diffusers walks with them as diffkit does; what has no counterpart is refused."""

import json

import pytest
import torch

from diffkit.errors import RecipeError
from diffkit.interop.base import Source
from diffkit.interop.diffusers.export_scheduler import scheduler_of
from diffkit.interop.diffusers.write import DiffusersExporter
from diffkit.interop.formats import load_any, read_foreign
from diffkit.pipeline import Pipeline, build_network

BASE = (
    "process={kind='ddpm', steps=1000, schedule={kind='linear', end=0.002}}",  # which keeps images within a few times 1
    "sample.steps=10",
    "sample.x0_rule=none",
    "model.class_conditional=false",
)
NOISE = "sample.spacing={kind='trailing', start='noise'}"
WITHOUT = "sample.spacing={kind='linspace', without_last=true}"
LEAST = "sample.spacing={kind='trailing', end='least'}"
EXPORTS = {
    "ddpm": ("sample.sampler=ddpm", "sample.x0_rule=clip", "sample.spacing=leading"),
    "ddim": ("sample.sampler=ddim", "sample.spacing={kind='leading', offset=1, end='least'}"),
    "pndm": ("sample.sampler={kind='pndm', falls_at_end=false}", "sample.spacing=trailing"),
    "pndm with Runge-Kutta": (
        "sample.sampler={kind='pndm', falls_at_end=false, start='runge_kutta'}",
        "sample.spacing={kind='leading', offset=1, end='least'}",
    ),
    "euler": ("sample.sampler=euler", NOISE, "process.schedule={kind='scaled_linear', end=0.002}"),
    "euler that ends with noise": (
        "sample.sampler=euler",
        "sample.spacing={kind='trailing', start='noise', end='least'}",
    ),
    "euler_ancestral": ("sample.sampler=euler_ancestral", "sample.spacing=leading"),
    "heun": ("sample.sampler=heun", "sample.spacing={kind='leading', offset=1}"),
    "heun that clips": ("sample.sampler=heun", NOISE, "sample.x0_rule={kind='clip', low=-1.5, high=1.5}"),
    "lms": ("sample.sampler={kind='lms', falls_at_end=false}", NOISE),
    "dpm_2": ("sample.sampler={kind='dpm_2', middle='exact'}", "sample.spacing=leading"),
    "dpm_2_ancestral": ("sample.sampler={kind='dpm_2_ancestral', middle='exact'}", "sample.spacing=leading"),
    "dpmpp_2m": ("sample.sampler=dpmpp_2m", "sample.spacing=trailing", "objective.prediction=velocity"),
    "dpmpp_2m that clips": ("sample.sampler=dpmpp_2m", WITHOUT, "sample.x0_rule=clip"),
    "dpmpp_2m that ends with noise": ("sample.sampler={kind='dpmpp_2m', solver='heun'}", LEAST, "sample.steps=20"),
    "dpmpp_2m_sde": ("sample.sampler=dpmpp_2m_sde", "sample.spacing={kind='leading', without_last=true}"),
    "dpmpp_singlestep": ("sample.sampler={kind='dpmpp_singlestep', order=3}", WITHOUT),
    "unipc": ("sample.sampler=unipc", WITHOUT, "process.schedule=cosine", "objective.prediction=data"),
    "unipc that ends with noise": ("sample.sampler={kind='unipc', b='bh1', order=3}", LEAST),
    "deis": ("sample.sampler={kind='deis', order=2}", LEAST),
    "deis in more steps": ("sample.sampler={kind='deis', falls_at_end=false}", LEAST, "sample.steps=20"),
    "consistency": ("sample.sampler=consistency", "sample.spacing=trailing", "sample.x0_rule=clip"),
    "tcd": ("sample.sampler=tcd", LEAST),
    "edm": ("process=edm", "objective.prediction=edm", "sample.sampler=euler", "sample.spacing=karras"),
    "edm by a solver": (
        "process={kind='edm', sigma_max=10.0}",
        "objective.prediction=edm",
        "sample.sampler=dpmpp_2m_sde",
        "sample.spacing=exponential",
        "sample.x0_rule=clip",
    ),
    "flow": ("process=flow", "objective.prediction=flow", "sample.sampler=euler", "sample.spacing=linspace"),
}


def pipeline_of(recipe):
    torch.manual_seed(0)
    model = build_network(recipe, recipe.data.info())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(mean=0.5 if weight.dim() == 1 and name.endswith("weight") else 0, std=0.1)
    return Pipeline(recipe, recipe.data.info(), model)


def ours_sample(pipeline, seed=0):
    recipe, generator = pipeline.recipe, torch.Generator().manual_seed(seed)
    levels = recipe.sample.spacing.levels(recipe.process, recipe.sample.steps)

    def noise():
        return torch.randn((4, *pipeline.data.shape), generator=generator)

    with torch.inference_mode():
        start = levels.start_scale * noise()
        x0 = recipe.sample.sampler.sample(pipeline.denoise(recipe.sample), levels, start, noise)
    return (x0 / 2 + 0.5).clamp(0, 1)


def theirs_sample(diffusers, folder, steps):
    """Sample with the pipeline that a folder names, or by the text beside it."""
    if (folder / "README.md").exists():
        with pytest.raises(Exception, match="DiffusionPipeline"):
            diffusers.DiffusionPipeline.from_pretrained(folder)
        generator, names = torch.Generator().manual_seed(0), {}

        def randn(*shape, **_):
            sides = shape[0] if isinstance(shape[0], tuple) else shape
            return torch.empty(sides).normal_(generator=generator)

        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(torch, "randn", randn)
            for name in ("euler_ancestral_discrete", "k_dpm_2_ancestral_discrete", "edm_dpmsolver_multistep"):
                patch.setattr(f"diffusers.schedulers.scheduling_{name}.randn_tensor", randn)
            code = (folder / "README.md").read_text().split("```")[1].removeprefix("python")
            exec(compile(code, "README.md", "exec"), names)
        return names["images"]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    options = {"generator": torch.Generator().manual_seed(0), "num_inference_steps": steps}
    return torch.from_numpy(pipeline(batch_size=4, output_type="np", **options).images).permute(0, 3, 1, 2)


@pytest.mark.parametrize("overrides", EXPORTS.values(), ids=EXPORTS)
def test_diffusers_makes_the_same_images(overrides, tiny, diffusers, tmp_path):
    ours = pipeline_of(tiny(*BASE, *overrides))
    written = DiffusersExporter().write(ours, tmp_path / "export")
    assert all(file.is_file() for file in written)
    expected = theirs_sample(diffusers, tmp_path / "export", ours.recipe.sample.steps)
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.2
    torch.testing.assert_close(ours_sample(ours), expected, rtol=0, atol=1e-4)


def test_sides_that_a_pipeline_does_not_take_and_classes(tiny, diffusers, tmp_path):
    wide = "data={kind='unspecified', channels=1, height=8, width=16, classes=['a', 'b']}"
    overrides = (*EXPORTS["pndm"], wide, "model.class_conditional=true", "model.attention_at=[8]")
    ours = pipeline_of(tiny(*BASE, *overrides))
    DiffusersExporter().write(ours, tmp_path / "export")
    assert theirs_sample(diffusers, tmp_path / "export", 10).shape == (4, 1, 8, 16)


@pytest.mark.parametrize("name", ["pndm", "dpmpp_2m", "euler", "edm", "unipc", "flow", "tcd", "consistency"])
def test_import_of_an_export_is_the_same_recipe(name, tiny, tmp_path):
    ours = pipeline_of(tiny(*BASE, *EXPORTS[name]))
    DiffusersExporter().write(ours, tmp_path / "export")
    assert read_foreign(Source(tmp_path / "export")).validated() == ours.recipe
    index = json.loads((tmp_path / "export" / "model_index.json").read_text())
    assert index["scheduler"][1] == scheduler_of(ours.recipe)[0].class_name


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("sample.sampler=restart",), r"sample\.sampler = .*restart.*no scheduler of diffusers samples like this"),
        (("sample.sampler={kind='euler', s_churn=1.0}",), r"sample\.sampler"),
        (("sample.sampler=dpm_2",), r"sample\.sampler"),
        (("sample.sampler=pndm",), r"sample\.sampler"),
        (("sample.sampler=euler", "sample.spacing=trailing"), r"sample\.spacing\.start = .full.\n.*set 'noise'"),
        (("sample.sampler=unipc", "sample.spacing=linspace"), r"without_last = false\n.*UniPC.*set true"),
        (("sample.sampler=ddim", WITHOUT), r"without_last = true\n.*DDIM.*set false"),
        (("sample.sampler=unipc", "sample.spacing=karras"), r"sample\.spacing = .karras"),
        (
            ("sample.sampler=euler", NOISE, "sample.x0_rule=clip"),
            r"sample\.x0_rule = .*EulerDiscreteScheduler has only none",
        ),
        (("sample.sampler=dpmpp_singlestep", "sample.spacing=trailing"), r"sample\.spacing.*would sample otherwise"),
        (
            ("sample.sampler={kind='deis', order=2}", "sample.spacing=trailing"),
            r"sample\.spacing.*would sample otherwise",
        ),
        (("sample.sampler=deis", LEAST, "sample.steps=20"), r"sample\.sampler.*would sample otherwise"),
        (("sample.sampler={kind='tcd', gamma=0.5}", LEAST), r"sample\.sampler.*would sample otherwise"),
        (
            ("sample.sampler=unipc", WITHOUT, "objective.variance=learned_range"),
            r"takes no network that says a variance",
        ),
        (
            ("sample.sampler={kind='pndm', falls_at_end=false}", "objective.prediction=velocity"),
            r"sample\.sampler = .pndm.\n.*as PNDMScheduler, its prediction_type",
        ),
        (("process=flow", "objective.prediction=flow", "sample.sampler=heun"), r"process\.kind = .flow"),
        (
            (
                "process={kind='ddpm', zero_terminal_snr=true}",
                "objective.prediction=velocity",
                "sample.sampler=unipc",
                WITHOUT,
            ),
            r"rescale_betas_zero_snr",
        ),
    ],
    ids=str,
)
def test_what_no_scheduler_does_is_refused_by_name(overrides, named, tiny):
    with pytest.raises(RecipeError, match=f"(?s){named}"):
        scheduler_of(tiny(*BASE, *overrides))


def test_a_number_of_steps_means_what_it_does_there(tiny, diffusers, make_unet, tmp_path):
    pipeline = diffusers.PNDMPipeline(unet=make_unet(), scheduler=diffusers.PNDMScheduler())
    pipeline.save_pretrained(tmp_path / "theirs")
    sample = load_any(tmp_path / "theirs", steps=10).recipe.sample
    assert sample.steps == 9  # their tenth goes from time 0 to time 0
    levels = sample.spacing.levels(load_any(tmp_path / "theirs").recipe.process, 9)
    assert [level.time for level in levels] == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    DiffusersExporter().write(pipeline_of(tiny(*BASE, *EXPORTS["dpmpp_2m"])), tmp_path / "ours")
    assert load_any(tmp_path / "ours", steps=7).recipe.sample.steps == 7
