"""Pipeline folders: read, refused, exported, and read again."""

import json

import pytest
import safetensors.torch
import torch
from torch import nn

from diffkit.diffusion.generate import generate
from diffkit.errors import CheckpointError, RecipeError, UserError
from diffkit.interop.base import Source
from diffkit.interop.diffusers.read import DiffusersImporter
from diffkit.interop.diffusers.write import DiffusersExporter
from diffkit.interop.formats import is_foreign, read_foreign
from diffkit.pipeline import Pipeline, build_network

STEPS = 6


@pytest.fixture
def saved(diffusers, make_unet, tmp_path):
    """Saves a pipeline and returns it with its folder."""

    def save(kind="DDPMPipeline", scheduler=None, unet=None, **options):
        scheduler = scheduler or diffusers.DDPMScheduler(num_train_timesteps=50)
        pipeline = getattr(diffusers, kind)(unet=unet or make_unet(), scheduler=scheduler)
        pipeline.save_pretrained(tmp_path / "theirs", **options)
        return pipeline, tmp_path / "theirs"

    return save


def read(folder, **options):
    return DiffusersImporter().read(Source(folder, **options))


def theirs_sample(pipeline, steps, seed=0):
    """Sample with their pipeline; images in [-1, 1] before they are cut."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    images = pipeline(batch_size=3, generator=generator, num_inference_steps=steps, output_type="np").images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def ours_sample(pipeline, steps, seed=0):
    """Sample with the same noise, to images in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    sample = pipeline.recipe.sample
    levels = sample.spacing.levels(pipeline.recipe.process, steps)
    shape = (3, *pipeline.data.shape)
    with torch.inference_mode():
        x0 = generate(pipeline.denoise(sample), sample.sampler, levels, lambda: torch.randn(shape, generator=generator))
    return (x0 / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("kind", ["DDPMPipeline", "DDIMPipeline"])
def test_pipeline_gives_the_same_images(kind, saved):
    pipeline, folder = saved(kind)
    imported = read(folder, settings={"steps": STEPS})
    found = ours_sample(imported.pipeline(), STEPS)
    torch.testing.assert_close(found, theirs_sample(pipeline, STEPS), rtol=0, atol=1e-4)
    assert imported.recipe["sample"]["steps"] == STEPS
    assert imported.recipe["sample"]["sampler"] == {"DDPMPipeline": "ddpm", "DDIMPipeline": "ddim"}[kind]


def test_networks_that_see_the_log_of_the_time_need_a_process_without_the_time_0(diffusers, saved, make_unet):
    unet = make_unet(time_embedding_type="fourier")
    _, folder = saved(unet=unet, scheduler=diffusers.FlowMatchEulerDiscreteScheduler())
    imported = read(folder, settings={"steps": 3})
    assert imported.measure(imported.network()) < 1e-5
    assert imported.pipeline().sample(2).shape == (2, 3, 8, 8)
    _, folder = saved(unet=unet)
    with pytest.raises(RecipeError, match=r"(?s)model.embedding = .*log_fourier.*least one is 0.*divide_by_time"):
        read(folder).validated()


def test_vectors_of_class_embed_type_identity_condition_the_samples(saved, make_unet):
    _, folder = saved(unet=make_unet(class_embed_type="identity"))
    pipeline = read(folder, settings={"steps": 2}).pipeline()
    assert pipeline.data.vector == 32
    images = [pipeline.sample(2, vectors=torch.full((1, 32), value)) for value in (0.0, 1.0)]
    assert not torch.equal(*images)


def test_number_of_classes_that_is_not_said_can_be_given(saved, make_unet):
    _, folder = saved(unet=make_unet(class_embed_type="timestep"))
    with pytest.raises(RecipeError, match="num_class_embeds=10"):
        read(folder)
    imported = read(folder, settings={"num_class_embeds": 3})
    assert imported.data.classes == ("0", "1", "2")
    assert imported.measure(imported.network()) < 1e-5


def test_shards_and_pickled_weights_are_the_same_model(saved):
    _, folder = saved()
    expected = read(folder).tensors
    _, folder = saved(max_shard_size="20KB")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert index.is_file()
    shards = read(folder).tensors
    assert all(torch.equal(shards[name], tensor) for name, tensor in expected.items())


def test_pickled_weights_only_where_allowed(saved):
    _, folder = saved(safe_serialization=False)
    with pytest.raises(UserError, match=r"diffusion_pytorch_model\.bin: its weights are pickled"):
        read(folder)
    assert read(folder, allow_pickle=True).tensors


def test_measured_difference(saved):
    _, folder = saved()
    imported = read(folder)
    assert 0 < imported.measure(imported.network()) < 1e-5
    other = imported.network()
    with torch.no_grad():
        other.conv_in.bias.add_(1)
    assert imported.measure(other) > 1e-3


def test_differences_in_meaning_are_listed(saved):
    said = "\n".join(read(saved()[1]).differences)
    for word in (
        "flip_sin_to_cos",
        "freq_shift",
        "downsample_padding",
        "eps",
        "attention_head_dim",
        "clip",
        "variance",
    ):
        assert word in said


def test_written_folder_can_be_sampled_and_summarized(saved, tmp_path):
    imported = read(saved()[1], settings={"steps": 3})
    imported.write(tmp_path / "ours")
    images = Pipeline.load(tmp_path / "ours").sample(2)
    assert torch.equal(images, imported.pipeline().sample(2))


def test_recognized_by_its_index(saved, tmp_path):
    _, folder = saved()
    assert is_foreign(folder)
    assert not is_foreign(tmp_path)
    assert read_foreign(Source(folder)).tensors
    with pytest.raises(UserError, match="no known format"):
        read_foreign(Source(tmp_path))
    with pytest.raises(UserError, match=r"thiers: no such file or folder\. Did you mean 'theirs'"):
        read_foreign(Source(tmp_path / "thiers"))
    with pytest.raises(UserError, match=r"no format is called 'diffuser'\. Did you mean 'diffusers'"):
        read_foreign(Source(folder), "diffuser")


class TestRefused:
    def change(self, file, **changes):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    def test_other_components(self, saved):
        _, folder = saved()
        self.change(folder / "model_index.json", vae=["diffusers", "AutoencoderKL"])
        with pytest.raises(CheckpointError, match=r"model_index\.json: 'vae' = .*AutoencoderKL"):
            read(folder)

    def test_other_networks(self, saved):
        _, folder = saved()
        self.change(folder / "model_index.json", unet=["diffusers", "UNet2DConditionModel"])
        with pytest.raises(CheckpointError, match="'unet' is a UNet2DConditionModel"):
            read(folder)

    def test_missing_and_damaged_files(self, saved):
        _, folder = saved()
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
        with pytest.raises(CheckpointError, match="damaged, not a readable safetensors file"):
            read(folder)
        weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
        with pytest.raises(CheckpointError, match=r"there is diffusion_pytorch_model\.fp16\.safetensors"):
            read(folder)
        (folder / "scheduler" / "scheduler_config.json").write_text("{")
        with pytest.raises(CheckpointError, match=r"scheduler_config\.json: not JSON"):
            read(folder)
        (folder / "unet" / "config.json").unlink()
        with pytest.raises(CheckpointError, match=r"config\.json: cannot be read: No such file"):
            read(folder)

    def test_shards_outside_of_the_folder(self, saved):
        _, folder = saved()
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../secret.safetensors"}}))
        with pytest.raises(CheckpointError, match="names a file outside of its folder"):
            read(folder)

    def test_size_that_is_not_said_can_be_given(self, saved, make_unet):
        _, folder = saved(unet=make_unet(sample_size=None))
        with pytest.raises(RecipeError, match=r"give it, as sample_size=32"):
            read(folder)
        assert read(folder, settings={"sample_size": [8, 12]}).data.shape == (3, 8, 12)

    def test_unknown_settings_of_the_source(self, saved):
        _, folder = saved()
        with pytest.raises(UserError, match=r"step: nothing that can be said.*Did you mean 'steps'"):
            read(folder, settings={"step": 3})
        with pytest.raises(RecipeError, match="should be a whole number"):
            read(folder, settings={"steps": "many"})


def pipeline_of(tiny, *overrides):
    recipe = tiny(*overrides)
    network = build_network(recipe, recipe.data.info())
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() == 1:
                weight.normal_(mean=0.5, std=0.2)
            else:
                weight.normal_(std=min(0.2, weight[0].numel() ** -0.5))
        if recipe.data.info().vector:
            nn.init.eye_(network.vector_embedding.weight)
    return Pipeline(recipe, recipe.data.info(), network)


UNCONDITIONAL = ("model.class_conditional=false", "sample.spacing=leading")
K = "model={kind='k_unet', channels=[32, 64], blocks_per_level=1, norm={kind='group', groups=4}}"
VECTORS = "data={kind='unspecified', channels=1, height=8, width=8, vector=32}"
EXPORTS = {
    "ddpm": UNCONDITIONAL,
    "fixed_large": (*UNCONDITIONAL, "objective.variance=fixed_large", "process.schedule=cosine"),
    "learned": (*UNCONDITIONAL, "objective.variance=learned_range"),
    "ddim": (
        *UNCONDITIONAL,
        "sample.sampler=ddim",
        "sample.x0_rule={kind='clip', keeps_noise=true}",
        "process.schedule=scaled_linear",
    ),
    "velocity": (*UNCONDITIONAL, "sample.sampler=ddim", "sample.x0_rule=none", "objective.prediction=velocity"),
    "scale_shift": (
        *UNCONDITIONAL,
        "model.resnet=scale_shift",
        "model.downsample=resnet",
        "model.upsample=resnet",
        "model.activation=gelu",
        'model.embedding_activation="silu"',
        'model.output_activation="silu"',
        "model.attention={kind='self', head_channels=4}",
    ),
    "uneven_heads": (
        *UNCONDITIONAL,
        "model.attention_at=[8,4]",
        "model.attention={kind='self', head_channels=5, inner_channels=5}",
        "model.levels=[{}, {attention={kind='self', head_channels=5, inner_channels=15}}]",
        "model.middle_level={attention={kind='self', head_channels=5, inner_channels=15}}",
    ),
    "threshold": (
        *UNCONDITIONAL,
        "sample.x0_rule={kind='dynamic_threshold', largest=2.0}",
        "model.middle=false",
        "model.attention_at=[8,4]",
    ),
    "table": (*UNCONDITIONAL, "model.embedding={kind='table', times=20}", "model.downsample=conv_asymmetric"),
    "center_input": (*UNCONDITIONAL, "model.center_input=true"),
    "k": ("sample.spacing=leading", K),
    "k_of_other_parts": (
        "sample.spacing=leading",
        K,
        "model.blocks_per_level=2",
        "model.resnet={kind='scale_shift', skip_scale=0.5}",
        "model.dropout=0.1",
        "model.resnet.dropout=0.1",
        "model.attention={kind='self', head_channels=10, inner_channels=60, skip_scale=0.5}",
        "model.activation=gelu",
        'model.embedding_activation="silu"',
        'model.output_activation="silu"',
        "model.norm={kind='group', groups=32, min_group=4, eps=1e-5}",
        "model.eps=1e-5",
    ),
    "k_without_attention": ("sample.spacing=leading", K, "model.attention=none"),
    "k_without_middle": ("sample.spacing=leading", K, "model.middle=false", "model.embedding_channels=20"),
}
CONDITIONAL = {
    "classes": ("sample.spacing=leading",),
    "class_features": ("sample.spacing=leading", "model.class_features=true"),
    "classes_of_k": ("sample.spacing=leading", K, "model.class_conditional=true"),
    "vectors": (
        *UNCONDITIONAL,
        VECTORS,
    ),
    "vectors_of_k": ("sample.spacing=leading", VECTORS, K, "model.embedding_channels=32"),
}


@pytest.mark.parametrize("overrides", EXPORTS.values(), ids=EXPORTS)
def test_export_gives_the_same_images_in_diffusers(overrides, tiny, diffusers, tmp_path):
    ours = pipeline_of(tiny, *overrides)
    DiffusersExporter().write(ours, tmp_path / "export")
    index = json.loads((tmp_path / "export" / "model_index.json").read_text())
    theirs = getattr(diffusers, index["_class_name"]).from_pretrained(tmp_path / "export")
    steps = ours.recipe.sample.steps
    torch.testing.assert_close(ours_sample(ours, steps), theirs_sample(theirs, steps), rtol=0, atol=1e-4)


@pytest.mark.parametrize("overrides", [*EXPORTS.values(), *CONDITIONAL.values()], ids=[*EXPORTS, *CONDITIONAL])
def test_import_of_an_export_is_the_same_model(overrides, tiny, diffusers, tmp_path):
    ours = pipeline_of(tiny, *overrides)
    DiffusersExporter().write(ours, tmp_path / "export")
    back = read(tmp_path / "export")
    expected = ours.network.state_dict()
    assert back.tensors.keys() == expected.keys()
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in expected.items())
    assert back.validated() == ours.recipe
    assert back.data == ours.data
    assert not any("no class" in difference for difference in back.differences)
    if not ours.recipe.model.class_conditional:
        assert back.measure(back.network()) < 1e-5


@pytest.mark.parametrize("overrides", CONDITIONAL.values(), ids=CONDITIONAL)
def test_export_of_conditional_networks_has_the_same_output_in_diffusers(overrides, tiny, diffusers, tmp_path):
    ours = pipeline_of(tiny, *overrides)
    DiffusersExporter().write(ours, tmp_path / "export")
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path / "export" / "unet")
    x, time = torch.randn(4, 1, 8, 8), torch.tensor([0, 3, 7, 19])
    label = torch.tensor([0, 3, 9, len(ours.data.classes)]) if ours.data.classes else None
    vector = torch.randn(4, ours.data.vector) if ours.data.vector else None
    with torch.no_grad():
        expected = theirs(x, time, class_labels=label if vector is None else vector).sample
        torch.testing.assert_close(ours.network(x, time.float(), label, vector), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("classes", CONDITIONAL.values(), ids=CONDITIONAL)
def test_without_its_note_an_export_is_a_model_of_diffusers(classes, tiny, diffusers, tmp_path):
    """The tensors come back all the same, but for the vector of no class, of which there is one more."""
    ours = pipeline_of(tiny, *classes)
    DiffusersExporter().write(ours, tmp_path / "export")
    weights = tmp_path / "export" / "unet" / "diffusion_pytorch_model.safetensors"
    expected = ours.network.state_dict()
    safetensors.torch.save_file(safetensors.torch.load_file(weights), weights)
    back = read(tmp_path / "export")
    assert any("no class" in difference for difference in back.differences) == bool(ours.data.classes)
    for name, tensor in expected.items():
        assert torch.equal(back.tensors[name][: len(tensor)], tensor)
    assert back.measure(back.network()) < 1e-5


def test_vectors_that_are_not_added_as_they_are_cannot_be_exported(tiny, tmp_path):
    ours = pipeline_of(tiny, *CONDITIONAL["vectors"])
    with torch.no_grad():
        ours.network.vector_embedding.weight[0, 1] = 0.5
    with pytest.raises(UserError, match=r"vector_embedding\.weight.*learned a linear map"):
        DiffusersExporter().write(ours, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_note_that_is_no_longer_true_does_not_count(tiny, tmp_path):
    ours = pipeline_of(tiny, *UNCONDITIONAL)
    DiffusersExporter().write(ours, tmp_path / "export")
    file = tmp_path / "export" / "scheduler" / "scheduler_config.json"
    TestRefused().change(file, beta_end=0.03)
    back = read(tmp_path / "export")
    assert back.validated().process.schedule.end == 0.03
    assert back.validated().data == ours.recipe.data
    TestRefused().change(tmp_path / "export" / "unet" / "config.json", norm_eps=0.5)
    back = read(tmp_path / "export")
    assert back.validated().model.norm.eps == 0.5
    assert back.validated().data.kind == "unspecified"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("process=edm", r"process\.kind = .*edm"),
        ("process.schedule=jsd", r"process\.schedule"),
        ("sample.sampler=restart", r"sample\.sampler = .*restart"),
        ("sample.sampler={kind='ddim', eta=0.5}", r"sample\.sampler = .*ddim"),
        ("sample.sampler=ddim", r"sample\.x0_rule\.keeps_noise = false"),
        ("sample.guidance=2.0", r"sample\.guidance"),
        ("sample.x0_rule=dynamic_threshold", r"sample\.x0_rule.*with a largest range"),
        ("sample.spacing=karras", r"sample\.spacing"),
        ("sample.x0_rule={kind='clip', low=0.0, high=1.0}", r"sample\.x0_rule"),
        ("objective.variance=learned", r"objective\.variance = .*learned"),
        ("objective.self_conditioning=true", r"model"),
        ("model.norm=rms", r"model\..*norm"),
        ("model.attention=linear", r"model\..*attention"),
        ("model.downsample=max_pool", r"model\.levels\[0\]\.downsample"),
        ("model.upsample=pixel_shuffle", r"model\.levels\[1\]\.upsample"),
        ("model.embedding=fourier", r"model\.embedding"),
        ("model.activation=relu", r"model\.(embedding|output)_activation"),
        ("model.resnet.skip_scale=0.5", r"model\.levels\[0\]\.resnet"),
        ("model.levels=[{blocks=2}]", r"model\.levels\[1\]\.blocks"),
        ("model.conditions_join=features", r"model\.conditions_join"),
        ("data={kind='unspecified', channels=1, height=8, width=8, vector=3}", r"data = .*vectors of 3"),
        ("model={kind='dit', width=32, heads=2, depth=1}", r"model\.kind = .*dit"),
        (K.replace("channels=", "group_size=16, channels="), r"model\.group_size"),
        (K.replace("channels=", "downsample='avg_pool', channels="), r"model\.downsample"),
        (K.replace("channels=", "eps=0.1, channels="), r"model\.eps"),
        (K.replace("channels=", "dropout=0.1, channels="), r"model\.(dropout|resnet)"),
        (K.replace("channels=", "divide_by_time=true, channels="), r"model\.divide_by_time"),
    ],
)
def test_what_diffusers_cannot_express_is_refused_by_name(override, named, tiny, tmp_path):
    base = () if any(word in override for word in ("guidance", "conditions", "k_unet", "dit")) else UNCONDITIONAL
    with pytest.raises(RecipeError, match=f"(?s){named}"):
        DiffusersExporter().write(pipeline_of(tiny, *base, override), tmp_path / "export")
    assert not (tmp_path / "export").exists()
