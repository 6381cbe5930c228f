"""Evaluation as a whole: one pass over samples and real images, and what is said of both."""

import json

import numpy as np
import pytest
import torch

from diffkit.data.base import DataInfo
from diffkit.data.digits import Digits
from diffkit.data.pixels import to_unit
from diffkit.errors import UserError
from diffkit.evaluating import (
    Evaluation,
    Measures,
    Reference,
    about_sampling,
    evaluate,
    evaluate_model,
    read_images,
    sample_and_see,
)
from diffkit.evaluation.base import Score
from diffkit.evaluation.features import Features
from diffkit.evaluation.frechet import frechet_distance
from diffkit.evaluation.manifold import DensityCoverage
from diffkit.images import save_png
from diffkit.pipeline import Pipeline
from diffkit.recipe.tables import Sample
from diffkit.sampling import sample_settings, sample_to_folder

PIXELS = Measures(features="pixels")
CLASSIFIER = Measures(metrics=["fid"], features={"kind": "classifier", "channels": 8, "steps": 150, "batch_size": 64})


@pytest.fixture(scope="module")
def digits():
    return Digits().open()


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pipeline(trained):
    return Pipeline.load(trained)


def of(digits, start, stop, step=1, labels=True):
    rows = torch.arange(start, stop, step)
    return digits.pixels(rows), digits.labels(rows) if labels else None


class TestEvaluate:
    def test_is_every_metric_on_the_features(self, digits):
        pixels, _ = of(digits, 0, 40)
        real = to_unit(digits.pixels(torch.arange(1797))).flatten(1)
        made = to_unit(pixels).flatten(1)
        found = evaluate([(pixels, None)], Digits(), PIXELS)
        assert found.scores["fid"].value == frechet_distance(made, real)
        assert found.scores["coverage"] == DensityCoverage().scores(made, real)["coverage"]
        assert list(found.scores) == ["fid", "kid", "precision", "recall", "density", "coverage"]
        assert found.scores["precision"].value == 1  # these are real

    def test_parts_do_not_matter(self, digits):
        whole = evaluate([of(digits, 0, 11)], Digits(), CLASSIFIER, reference=50)
        parts = evaluate([of(digits, 0, 4), of(digits, 4, 8), of(digits, 8, 11)], Digits(), CLASSIFIER, reference=50)
        assert parts.about == whole.about
        assert parts.scores["accuracy"] == whole.scores["accuracy"]
        assert parts.scores["fid"].value == pytest.approx(whole.scores["fid"].value, rel=1e-4)

    def test_accuracy_is_of_the_labels_that_were_asked_for(self, digits):
        pixels, labels = of(digits, 0, 60)
        right = evaluate([(pixels, labels)], Digits(), CLASSIFIER, reference=100)
        assert right.scores["accuracy"].value > 0.85
        assert right.about["reference"]["accuracy"] > 0.85
        wrong = evaluate([(pixels, (labels + 1) % 10)], Digits(), CLASSIFIER, reference=100).scores["accuracy"]
        assert wrong.value < 0.15
        assert wrong.error == pytest.approx((wrong.value * (1 - wrong.value) / 60) ** 0.5)

    @pytest.mark.parametrize(("measures", "labels"), [(CLASSIFIER, False), (PIXELS, True)])
    def test_without_labels_or_classes_there_is_no_accuracy(self, digits, measures, labels):
        found = evaluate([of(digits, 0, 9, labels=labels)], Digits(), measures, reference=20)
        assert "accuracy" not in found.scores

    def test_what_is_stated(self, digits):
        pixels, labels = of(digits, 0, 9)
        found = evaluate([(pixels, labels)], Digits(), CLASSIFIER, reference=20).to_json()
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert (found["images"]["count"], found["reference"]["count"]) == (9, 20)
        assert found["reference"]["dataset"]["kind"] == "digits"
        assert found["features"]["kind"] == "classifier"
        assert found["features"]["dimensions"] == 128
        assert len(found["features"]["sha256"]) == len(found["reference"]["sha256"]) == 64
        changed = pixels.clone()
        changed[0, 0, 0, 0] ^= 1
        other = evaluate([(changed, labels)], Digits(), CLASSIFIER, reference=20).to_json()
        assert other["images"]["sha256"] != found["images"]["sha256"]
        assert other["reference"] == found["reference"]

    def test_all_real_images_by_default(self, digits):
        images = [of(digits, 0, 9)]
        pixels = Measures(metrics=["fid"], features="pixels")
        assert evaluate(images, Digits(), pixels).about["reference"]["count"] == 1797
        with pytest.raises(UserError, match="reference = 1798: there are 1797 images"):
            evaluate(images, Digits(), pixels, reference=1798)

    def test_too_few_images(self, digits):
        with pytest.raises(UserError, match=r"metric = precision_recall: the generated features .* N >= 4"):
            evaluate([of(digits, 0, 3)], Digits(), PIXELS)

    def test_images_of_another_size(self):
        images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        with pytest.raises(UserError, match="images of 3x8x8 cannot be compared with a data set of 1x8x8"):
            evaluate([(images, None)], Digits(), PIXELS)

    def test_the_table(self):
        lines = Evaluation({"a": Score(1.5), "long_name": Score(2.0, 0.25)}, {}).table().splitlines()
        assert lines == ["  a                  1.5", "  long_name            2 ± 0.25"]


def test_the_default_features():
    assert Measures().features_for(DataInfo(1, 8, 8, ("a", "b"))) == Features.choose("classifier")
    assert Measures().features_for(DataInfo(3, 8, 8)) == Features.choose("inception")
    assert PIXELS.features_for(DataInfo(3, 8, 8)).kind == "pixels"


class TestModels:
    def test_samples_are_those_of_the_seed(self, pipeline):
        settings = sample_settings(pipeline.recipe, {"count": 7, "batch_size": 3})
        found = evaluate_model(pipeline, settings, CLASSIFIER, seed=5, reference=20)
        images = pipeline.sample(7, seed=5)
        labels = torch.arange(7) % 10
        same = evaluate([(images, labels)], Digits(), CLASSIFIER, reference=20)
        assert found.about["images"] == same.about["images"]
        assert found.scores["fid"].value == pytest.approx(same.scores["fid"].value, rel=1e-4)
        assert found.scores["accuracy"] == same.scores["accuracy"]
        assert found.about["sampling"]["seed"] == 5

    def test_calls_are_those_of_the_network(self, pipeline):
        for options in ({"sampler": "heun"}, {"sampler": "ddim", "guidance": 3.0}):
            settings = sample_settings(pipeline.recipe, {"count": 2, "steps": 4, **options})
            seen = []
            hook = pipeline.network.register_forward_hook(lambda _, given, __, seen=seen: seen.append(len(given[0])))
            made = sample_and_see(pipeline, settings, Reference(Digits(), PIXELS))
            hook.remove()
            about = about_sampling(pipeline, settings, 0)
            assert len(made["features"]) == 2
            assert about["network_evaluations"] == sum(seen) / 2
            assert about["network_calls"] == len(seen)
            assert [level["time"] for level in about["levels"]] == sorted(
                (level["time"] for level in about["levels"]), reverse=True
            )
            assert len(about["levels"]) == 4

    def test_the_data_set_must_be_that_of_the_training(self, pipeline):
        other = Pipeline(pipeline.recipe, DataInfo(3, 8, 8), pipeline.network)
        with pytest.raises(UserError, match="no longer what the model was trained on"):
            other.dataset()


class TestReading:
    @pytest.mark.parametrize("format", ["png", "npz"])
    def test_what_was_sampled(self, pipeline, tmp_path, format):
        settings = Sample.model_validate({**pipeline.recipe.sample.model_dump(), "count": 5})
        sample_to_folder(pipeline, settings, tmp_path, out=tmp_path / "out", seed=2, format=format)
        parts = list(read_images(tmp_path / "out", pipeline.data))
        assert torch.equal(torch.cat([pixels for pixels, _ in parts]), pipeline.sample(5, seed=2))
        assert (parts[0][1] is None) == (format == "png")
        if format == "npz":
            assert parts[0][1].tolist() == [0, 1, 2, 3, 4]

    def test_pictures_come_in_parts(self, tmp_path, digits, monkeypatch):
        monkeypatch.setattr("diffkit.evaluating.read.AT_ONCE", 2)
        for number, image in enumerate(digits.pixels(torch.arange(5))):
            save_png(image, tmp_path / f"{number}.png")
        parts = list(read_images(tmp_path, Digits().info()))
        assert [len(pixels) for pixels, _ in parts] == [2, 2, 1]
        assert torch.equal(torch.cat([pixels for pixels, _ in parts]), digits.pixels(torch.arange(5)))

    def test_arrays_come_in_parts(self, tmp_path, monkeypatch):
        monkeypatch.setattr("diffkit.evaluating.read.AT_ONCE", 2)
        images = np.random.default_rng(0).integers(256, size=(5, 8, 8, 1), dtype=np.uint8)
        np.savez_compressed(tmp_path / "a.npz", images=images, labels=np.arange(5))
        parts = list(read_images(tmp_path / "a.npz", Digits().info()))
        assert [(len(pixels), labels.tolist()) for pixels, labels in parts] == [(2, [0, 1]), (2, [2, 3]), (1, [4])]
        assert np.array_equal(torch.cat([pixels for pixels, _ in parts]).permute(0, 2, 3, 1), images)

    def test_nothing_there(self, tmp_path):
        for path in (tmp_path, tmp_path / "none"):
            with pytest.raises(UserError, match=r"there are no pictures, and no images\.npz"):
                list(read_images(path, Digits().info()))

    def test_a_picture_of_another_size(self, tmp_path):
        save_png(torch.zeros(1, 9, 8, dtype=torch.uint8), tmp_path / "a.png")
        with pytest.raises(UserError, match=r"a\.png: 9x8 pixels, and the data set's images are 8x8 .*grey"):
            list(read_images(tmp_path, Digits().info()))

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"pixels": np.zeros(3)}, "not an npz file with 'images'"),
            ({"images": np.zeros((2, 8, 8, 1))}, r"images are uint8 \[N, H, W, C\], not float64"),
            ({"images": np.zeros((2, 8, 8), np.uint8)}, r"not uint8 \[2, 8, 8\]"),
            ({"images": np.zeros((0, 8, 8, 1), np.uint8)}, "there are no images in it"),
            ({"images": np.zeros((2, 8, 8, 1), np.uint8, order="F")[:, :, ::1]}, "save it in C order"),
            (
                {"images": np.zeros((2, 8, 8, 1), np.uint8), "labels": np.zeros(3, int)},
                r"labels are whole numbers \[N\]",
            ),
            ({"images": np.zeros((2, 8, 8, 1), np.uint8), "labels": np.zeros(2)}, r"not float64 \[2\]"),
        ],
    )
    def test_another_npz(self, tmp_path, arrays, message):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(UserError, match=message):
            list(read_images(tmp_path / "a.npz", Digits().info()))

    @pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04 cut off"])
    def test_a_file_that_is_no_npz(self, tmp_path, content):
        (tmp_path / "images.npz").write_bytes(content)
        with pytest.raises(UserError, match="not an npz file with 'images'"):
            list(read_images(tmp_path, Digits().info()))
