"""Models of conditions and of vectors, bits per dimension, and evaluations that are interrupted."""

import numpy as np
import pytest
import torch

from diffkit.data.digits import Digits
from diffkit.data.pixels import to_uint8, to_unit
from diffkit.errors import Interrupted, UserError
from diffkit.evaluating import Given, Measures, Reference, evaluate, evaluate_model
from diffkit.evaluating import model as module
from diffkit.evaluating.reference import Reference as Real
from diffkit.likelihood import evaluate_likelihood
from diffkit.pipeline import Pipeline, build_network
from diffkit.sampling import sample_settings

FID = Measures(metrics=["fid"], features="pixels")
FEW = {"count": 8, "batch_size": 3, "steps": 2}


def untrained(recipe):
    """A model whose output depends on all that it is given, which new weights, zero at the end, do not make it."""
    network = build_network(recipe, recipe.data.info())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return Pipeline(recipe, recipe.data.info(), network)


@pytest.fixture(scope="module")
def pipeline(trained):
    return Pipeline.load(trained)


@pytest.fixture
def arrays(tmp_path, tiny):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
    file = tmp_path / "images.npz"
    np.savez(file, images=images, vectors=draw.standard_normal((12, 3)), labels=np.arange(12) % 2)
    data = f"data={{kind='arrays', path='{file}', vectors_key='vectors', labels_key='labels'}}"
    return untrained(tiny(data))


class TestGiven:
    def test_samples_are_made_from_the_data_sets_own_images(self, tiny):
        model = untrained(tiny("objective.condition={kind='low_resolution', factor=2}"))
        settings = sample_settings(model.recipe, FEW)
        real = Reference(Digits(), FID, count=20)
        given = Given.of(model, settings, real.images, real.numbers)
        assert given.names() == ["condition", "labels"]
        assert given.condition.shape == (8, 1, 4, 4)
        kind = model.recipe.objective.condition
        small = to_uint8(kind.reduce(to_unit(real.images.pixels(real.numbers))))
        places = [int((small == image).flatten(1).all(1).nonzero()[0]) for image in given.condition]
        assert len(set(places)) == 8  # others in each sample, and not the first ones of the data set
        assert places != list(range(8))
        assert torch.equal(given.labels, real.images.labels(real.numbers[places]))
        images = model.sample(8, seed=3, steps=2, condition=given.condition)  # classes in turn
        found = evaluate_model(model, settings, FID, seed=3, reference=20)
        assert found.about["sampling"]["from_data_set"] == ["condition", "labels"]
        right = model.batches(8, settings, seed=3, condition=given.condition, label=given.labels)
        same = evaluate([(torch.cat([batch.images for batch in right]), None)], Digits(), FID, reference=20)
        assert found.about["images"] == same.about["images"]
        other = evaluate([(images, None)], Digits(), FID, reference=20)
        assert found.about["images"]["sha256"] != other.about["images"]["sha256"]

    def test_vectors_come_with_their_classes(self, arrays):
        settings = sample_settings(arrays.recipe, {**FEW, "count": 20})
        images = arrays.recipe.data.open()
        given = Given.of(arrays, settings, images, torch.arange(12))
        assert given.names() == ["vectors", "labels"]
        assert len(given.vectors) == 12  # in turn
        rows = [int((images.vectors(torch.arange(12)) == vector).all(1).nonzero()[0]) for vector in given.vectors]
        assert given.labels.tolist() == images.labels(torch.tensor(rows)).tolist()
        found = evaluate_model(arrays, settings, FID)
        assert found.about["images"]["count"] == 20

    def test_others_need_nothing(self, pipeline):
        assert Given.of(pipeline, pipeline.recipe.sample, Digits().open(), torch.arange(5)).names() == []


class TestBits:
    @pytest.mark.parametrize("method", ["vlb", "ode"])
    def test_are_those_of_the_likelihood(self, pipeline, method):
        measures = Measures(metrics=[{"kind": "nll", "method": method, "count": 7, "steps": 3}])
        found = evaluate_model(pipeline, pipeline.recipe.sample.model_copy(update={"batch_size": 3}), measures, seed=5)
        same = evaluate_likelihood(pipeline, Digits().open(), method=method, count=7, steps=3, seed=5)
        assert found.scores["nll"].value == pytest.approx(same.means()["total"][0], rel=1e-5)
        assert found.scores["nll"].error == pytest.approx(same.means()["total"][1], rel=1e-5)
        assert list(found.about) == ["reference", "metrics"]  # nothing was sampled

    def test_defaults_are_stated(self, pipeline, tiny):
        measures = Measures(metrics=[{"kind": "nll", "count": 2}])
        (metric,) = evaluate_model(pipeline, pipeline.recipe.sample, measures).about["metrics"]
        assert (metric["method"], metric["steps"]) == ("vlb", 20)
        flow = untrained(tiny("process=flow", "objective.prediction=flow", "sample.sampler=euler"))
        assert measures.settled(flow).of_model[0].method == "ode"
        assert measures.settled(flow).of_model[0].calls(flow) == 200

    def test_beside_metrics_of_samples(self, pipeline):
        measures = Measures(metrics=[{"kind": "nll", "count": 2, "steps": 2}, "fid"], features="pixels")
        found = evaluate_model(pipeline, sample_settings(pipeline.recipe, FEW), measures, reference=20)
        assert list(found.scores) == ["fid", "nll"]
        assert [metric["kind"] for metric in found.about["metrics"]] == ["nll", "fid"]

    def test_of_models_of_conditions_and_vectors(self, tiny, arrays):
        measures = Measures(metrics=[{"kind": "nll", "count": 3, "steps": 2}])
        model = untrained(tiny("objective.condition={kind='low_resolution', factor=2}"))
        for one in (model, arrays):
            assert evaluate_model(one, one.recipe.sample, measures).scores["nll"].value > 0

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"count": 1798}, "count = 1798: there are 1797 images"),
            ({"steps": 21}, "steps = 21: the process has 20 times"),
            ({"steps": 1}, "steps = 1: the bound visits the first and the last time"),
        ],
    )
    def test_what_cannot_be_is_said_before_anything_is_sampled(self, pipeline, monkeypatch, settings, message):
        monkeypatch.setattr(module, "sample_and_see", lambda *_, **__: pytest.fail("sampled"))
        measures = Measures(metrics=["fid", {"kind": "nll", **settings}], features="pixels")
        with pytest.raises(UserError, match=message):
            evaluate_model(pipeline, pipeline.recipe.sample, measures)

    def test_of_images_alone_there_are_none(self):
        with pytest.raises(UserError, match="metric = nll: is of a model, and there are images only: leave it out"):
            evaluate([], Digits(), Measures(metrics=["nll"], features="pixels"))


class Stop:
    """Ctrl-C, or a kill, after so many batches."""

    def __init__(self, monkeypatch, after, error=KeyboardInterrupt):
        self.seen, self.after, self.error = [], after, error
        self._see = Real.see
        monkeypatch.setattr(Real, "see", self._noting())

    def _noting(self):
        def see(reference, pixels, labels=None):
            if self.after is not None and len(self.seen) >= self.after:
                raise self.error
            self.seen.append(len(pixels))
            return self._see(reference, pixels, labels)

        return see


class TestInterrupted:
    MEASURES = Measures(metrics=["fid", {"kind": "nll", "count": 4, "steps": 2}], features="pixels")

    @pytest.mark.parametrize("after", [0, 1, 2, 3])
    def test_goes_on_and_finds_the_same(self, pipeline, tmp_path, monkeypatch, after):
        settings = sample_settings(pipeline.recipe, FEW)
        whole = evaluate_model(pipeline, settings, self.MEASURES, reference=20)
        stop = Stop(monkeypatch, after)
        with pytest.raises(Interrupted, match=r"interrupted: .* the same command goes on"):
            evaluate_model(pipeline, settings, self.MEASURES, reference=20, folder=tmp_path / "kept")
        stop.after = None
        found = evaluate_model(pipeline, settings, self.MEASURES, reference=20, folder=tmp_path / "kept")
        assert stop.seen == [20, 3, 3, 2]  # each once
        assert found.to_json() == whole.to_json()
        found.forget()
        assert not (tmp_path / "kept").exists()

    def test_goes_on_with_more_images(self, pipeline, tmp_path, monkeypatch):
        settings = sample_settings(pipeline.recipe, FEW)
        evaluate_model(pipeline, settings, FID, reference=20, folder=tmp_path)
        stop = Stop(monkeypatch, None)
        more = settings.model_copy(update={"count": 12})
        found = evaluate_model(pipeline, more, FID, reference=20, folder=tmp_path)
        assert stop.seen == [1, 3]
        monkeypatch.undo()
        assert found.to_json() == evaluate_model(pipeline, more, FID, reference=20).to_json()

    @pytest.mark.parametrize(
        "other", [{"steps": 3}, {"seed": 1}, {"weights": True}, {"features": True}, {"reference": 21}]
    )
    def test_of_another_nothing_is_taken_over(self, pipeline, tmp_path, monkeypatch, other):
        settings = sample_settings(pipeline.recipe, FEW)
        evaluate_model(pipeline, settings, FID, reference=20, folder=tmp_path)
        stop = Stop(monkeypatch, None)
        if "weights" in other:
            recipe = pipeline.recipe.model_copy(update={"seed": 9})
            pipeline = Pipeline(pipeline.recipe, pipeline.data, build_network(recipe, pipeline.data))
        settings = sample_settings(pipeline.recipe, {**FEW, **{k: v for k, v in other.items() if k == "steps"}})
        measures = Measures(metrics=["fid"], features=CLASSIFIER) if "features" in other else FID
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        evaluate_model(
            pipeline,
            settings,
            measures,
            seed=other.get("seed", 0),
            reference=other.get("reference", 20),
            folder=tmp_path,
        )
        assert [seen for seen in stop.seen if seen <= 3] == [3, 3, 2]


CLASSIFIER = {"kind": "classifier", "channels": 4, "size": 8, "steps": 2}
