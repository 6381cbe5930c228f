"""Models that are conditioned by a vector for each image, from the file to the sample."""

import numpy as np
import pytest
import torch

from diffkit.data.arrays import Arrays
from diffkit.data.base import DataInfo
from diffkit.data.memory import InMemory
from diffkit.diffusion.denoiser import make_denoise
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.process import Process
from diffkit.diffusion.x0_rule import X0Rule
from diffkit.errors import DataError, UserError
from diffkit.pipeline import Pipeline, ports_of
from diffkit.train.loop import train

V = 3


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Twenty images whose brightness is the vector's first number."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((20, V))
    images = np.clip(128 + 60 * vectors[:, :1, None, None] + draw.normal(0, 5, (20, 8, 8, 1)), 0, 255)
    np.savez(path, images=images.astype(np.uint8), vectors=vectors)
    return path


@pytest.fixture(scope="module")
def recipe(tiny, file):
    return tiny(f"data={{kind='arrays', path='{file}', vectors_key='vectors'}}", "model.class_conditional=false")


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    train(recipe, folder)
    return folder


def test_arrays_bring_vectors(file):
    data = Arrays(path=file, vectors_key="vectors")
    assert data.info() == DataInfo(1, 8, 8, (), V)
    vectors = data.open().vectors(torch.tensor([3, 0]))
    torch.testing.assert_close(vectors, torch.from_numpy(np.load(file)["vectors"][[3, 0]]).float())
    assert Arrays(path=file).open().vectors(torch.tensor([3])) is None


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((19, V)), "one vector for each of the 20 images, not float64 of the shape"),
        (np.zeros(20), "vectors are numbers"),
        (np.zeros((20, 0)), "vectors are numbers"),
        (np.array([["a"]] * 20), "vectors are numbers"),
        (np.full((20, 2), np.nan), "a number is not finite"),
    ],
)
def test_vectors_that_are_none(tmp_path, vectors, message):
    path = tmp_path / "images.npz"
    np.savez(path, images=np.zeros((20, 8, 8, 1), np.uint8), vectors=vectors)
    with pytest.raises(DataError, match=message):
        Arrays(path=path, vectors_key="vectors").info()
    with pytest.raises(DataError, match=r"no array 'vector' in it\. Did you mean 'vectors'\?"):
        Arrays(path=path, vectors_key="vector").info()


def test_the_network_is_told_of_vectors_and_of_augmentation(tiny, recipe):
    assert ports_of(recipe, recipe.data.info()).vector == V
    both = recipe.model_copy(update={"train": tiny("train.augmentation='edm'").train})
    assert ports_of(both, recipe.data.info()).vector == V + 9


@pytest.mark.parametrize("setting", ["train.device_batch_size=4", "train.augmentation='edm'"])
def test_training_shows_each_image_its_vector(tiny, file, tmp_path, monkeypatch, setting):
    data = f"data={{kind='arrays', path='{file}', vectors_key='vectors'}}"
    recipe = tiny(data, "model.class_conditional=false", "train.steps=2", setting)
    seen = []
    whole = Objective.training_loss

    def watched(self, network, process, x0, *args, vector, **kwargs):
        seen.extend(zip(x0, vector, strict=True))
        return whole(self, network, process, x0, *args, vector=vector, **kwargs)

    monkeypatch.setattr(Objective, "training_loss", watched)
    train(recipe, tmp_path / "run")
    assert len(seen) == 16
    known = torch.from_numpy(np.load(file)["vectors"]).float()
    images = torch.from_numpy(np.load(file)["images"]).permute(0, 3, 1, 2) / 127.5 - 1
    for x0, vector in seen:
        (which,) = (known == vector[:V]).all(1).nonzero()[0].tolist()
        assert vector.shape == ((V,) if "device" in setting else (V + 9,))
        if "device" in setting:
            torch.testing.assert_close(x0, images[which])


def test_sampling_takes_them_in_turn(run):
    pipeline = Pipeline.load(run)
    assert pipeline.data.vector == V
    for parameter in pipeline.network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    vectors = torch.randn(2, V)
    images = pipeline.sample(5, vectors=vectors)
    alone = pipeline.sample(4, vectors=vectors[[0]])
    assert torch.equal(images[[0, 2]], alone[[0, 2]])
    assert not torch.equal(images[1], alone[1])


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (None, "is conditioned by vectors of 3 numbers, and none were given"),
        (torch.zeros(2, 4), r"should be finite numbers \[M, 3\], not of the shape \[2, 4\]"),
        (torch.zeros(3), "should be finite numbers"),
        (torch.zeros(0, 3), "should be finite numbers"),
        (torch.full((1, 3), torch.inf), "should be finite numbers"),
    ],
)
def test_what_the_model_does_not_take(run, vectors, message):
    with pytest.raises(UserError, match=message):
        Pipeline.load(run).sample(1, vectors=vectors)


def test_a_model_without_vectors_takes_none(trained):
    with pytest.raises(UserError, match="is not conditioned by any: leave them out"):
        Pipeline.load(trained).sample(1, vectors=torch.zeros(1, 3))


def test_guidance_that_shows_images_twice_shows_vectors_twice():
    seen = []

    def network(x, time, label, vector):
        seen.append(vector)
        return x

    process, labels = Process.choose("ddpm"), torch.tensor([0, 1])
    vector = torch.tensor([[1.0], [2.0]])
    from diffkit.diffusion.guidance import ClassifierFree

    rule, cfg = X0Rule.choose("none"), ClassifierFree(weight=2)
    denoise = make_denoise(
        network, Objective(), process, rule, labels=labels, null_label=2, guidance=cfg, vector=vector
    )
    denoise(torch.zeros(2, 1, 2, 2), process.level(500))
    assert seen[0].tolist() == [[1.0], [2.0], [1.0], [2.0]]


def test_in_memory_checks_its_vectors():
    with pytest.raises(ValueError, match=r"vectors are float32 \[2, V\]"):
        InMemory(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), None, torch.zeros(3, 1))


def test_command(run, tmp_path, diffkit_sample):
    np.save(tmp_path / "vectors.npy", np.zeros((2, V)))
    assert diffkit_sample(run, tmp_path / "vectors.npy", tmp_path / "out")[0] == 0
    (tmp_path / "wrong.npy").write_bytes(b"nothing")
    code, message = diffkit_sample(run, tmp_path / "wrong.npy", tmp_path / "out2")
    assert code == 2
    assert "not a .npy file of numbers" in message
    assert not (tmp_path / "out2").exists()
    code, message = diffkit_sample(run, tmp_path / "none.npy", tmp_path / "out2")
    assert code == 2
    assert "none.npy: cannot be read" in message


@pytest.fixture
def diffkit_sample(capsys):
    from diffkit.cli.main import run as command

    def sample(model, vectors, out):
        with pytest.raises(SystemExit) as end:
            command(["sample", str(model), "--vectors", str(vectors), "--out", str(out), "--count", "3"])
        return end.value.code, capsys.readouterr().err

    return sample
