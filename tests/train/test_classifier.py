"""Training a classifier, and guiding a model by it."""

import threading
import time

import numpy as np
import pytest
import torch

from diffkit.diffusion.process import Level
from diffkit.errors import CheckpointError, DataError, Diverged, Interrupted, RecipeError, UserError
from diffkit.pipeline import Pipeline, build_network
from diffkit.recipe.load import validate
from diffkit.recipe.tables import ClassifierTraining, Sample
from diffkit.recipe.write import to_toml
from diffkit.storage.checkpoint import read_weights
from diffkit.storage.classifier import read_classifier
from diffkit.storage.runs import CLASSIFIER, RECIPE, find_classifier
from diffkit.train.classifier import train_classifier
from diffkit.train.resume import check_same
from diffkit.train.stop import StopRequest

SMALL = [
    'classifier.network={channels=8, multipliers=[1, 2], norm={kind="group", groups=4}}',
    'classifier.optimizer={kind="adam", lr=3e-3}',
    "classifier.batch_size=32",
    "classifier.steps=3",
    "process.schedule=cosine",
]
PROCESSES = {
    "ddpm": '{kind="ddpm", steps=20}',
    "edm": '{kind="edm"}',
    "flow": '{kind="flow"}',
}


@pytest.fixture
def small(tiny):
    def make(*overrides):
        return tiny(*SMALL, *overrides)

    return make


@pytest.fixture(scope="module")
def classifier(tiny, tmp_path_factory):
    """A classifier that has learned something. Tests leave it as it is."""
    return train_classifier(tiny(*SMALL, "classifier.steps=150"), tmp_path_factory.mktemp("run"))


def guided(classifier, **settings):
    return {"kind": "classifier", "classifier": str(classifier.file), **settings}


def untrained(recipe):
    torch.manual_seed(0)
    network = build_network(recipe, recipe.data.info())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return Pipeline(recipe, recipe.data.info(), network)


def test_it_learns(classifier):
    least_noise, *_, most_noise = classifier.accuracy
    assert classifier.held_out
    assert least_noise > 0.7 and 0.5 > most_noise > 0.05  # one in ten by chance


def test_its_file_says_all(classifier, small):
    assert classifier.file.name == CLASSIFIER
    header, tensors = read_weights(classifier.file, "classifier")
    assert header.step == 150
    assert header.data == small().data.info()
    assert validate(header.recipe, "its header") == small("classifier.steps=150")
    again = read_classifier(classifier.file.parent)
    assert again.recipe.classifier == small("classifier.steps=150").classifier
    assert not again.network.training
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(tensor, tensors[name])


@pytest.mark.parametrize("process", PROCESSES)
def test_the_same_twice_for_every_process(small, tmp_path, process):
    recipe = small(f"process={PROCESSES[process]}", "objective.prediction=velocity", "sample.steps=2")
    state = torch.random.get_rng_state()
    first, second = (train_classifier(recipe, tmp_path / name) for name in "ab")
    assert torch.equal(torch.random.get_rng_state(), state)
    one, same = (read_weights(done.file, "classifier")[1] for done in (first, second))
    assert one.keys() == same.keys() and all(torch.equal(one[name], same[name]) for name in one)
    assert first.accuracy == second.accuracy
    third = train_classifier(recipe.model_copy(update={"seed": 1}), tmp_path / "c")
    other = read_weights(third.file, "classifier")[1]
    assert not torch.equal(one["out.weight"], other["out.weight"])


def test_without_a_table_its_defaults_are_used(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("diffkit.train.classifier.ClassifierTraining", lambda: ClassifierTraining(steps=1))
    assert tiny().classifier is None
    done = train_classifier(tiny(), tmp_path)
    assert read_classifier(done.file).recipe.classifier == ClassifierTraining(steps=1)


def test_all_images_can_be_learned(small, tmp_path):
    assert not train_classifier(small("classifier.held_out=0"), tmp_path).held_out


def test_what_is_held_out_is_not_learned(small, tmp_path, monkeypatch):
    recipe, seen = small("classifier.held_out=0.5"), {"learned": set(), "judged": set()}
    images = recipe.data.open()
    real = type(images).pixels

    def watched(self, indices):
        seen["judged" if torch.is_inference_mode_enabled() else "learned"] |= set(indices.tolist())
        return real(self, indices)

    monkeypatch.setattr(type(images), "pixels", watched)
    train_classifier(small("classifier.held_out=0.5", "classifier.steps=40"), tmp_path)
    assert len(seen["learned"]) > 600 and len(seen["judged"]) > 800
    assert not seen["learned"] & seen["judged"]


def test_a_classifier_is_not_overwritten(small, tmp_path):
    file = train_classifier(small(), tmp_path).file
    before = file.read_bytes()
    with pytest.raises(UserError, match="exists already; --force overwrites it"):
        train_classifier(small("seed=1"), tmp_path)
    assert file.read_bytes() == before
    train_classifier(small("seed=1"), tmp_path, force=True)
    assert file.read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == [CLASSIFIER]


def test_images_without_labels_are_refused(small, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((4, 8, 8, 1), np.uint8))
    data = f'data={{kind="arrays", path="{tmp_path}/images.npy"}}'
    with pytest.raises(RecipeError, match="classifier\n    the data set has no labels to learn"):
        small(data, "model.class_conditional=false")
    recipe = validate(
        {**small().model_dump(exclude={"classifier"}), "data": {"kind": "arrays", "path": f"{tmp_path}/images.npy"}},
        "it",
        cross_check=False,
    )
    with pytest.raises(RecipeError, match="the data set has no labels to learn"):
        train_classifier(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_data(small, tmp_path, monkeypatch):
    def nothing(self):
        raise DataError("gone")

    recipe = small()
    monkeypatch.setattr(type(recipe.data), "open", nothing)
    with pytest.raises(DataError, match="gone"):
        train_classifier(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('classifier.network.norm={kind="group", groups=3}', "classifier.network.norm\n    8 channels cannot be split"),
        (
            'classifier.network.embedding={kind="table", times=5}',
            r"network.embedding\n    this embedding knows 5 times",
        ),
        ("classifier.network.multipliers=[1,1,1,1,1]", "classifier.network.multipliers = .*\n    5 levels need sides"),
        ("classifier.stps=5", "Did you mean 'steps'"),
    ],
)
def test_the_table_is_checked_with_the_recipe(small, override, message):
    with pytest.raises(RecipeError, match=message):
        small(override)


def test_a_recipe_is_written_with_its_table_and_without(tiny, small):
    assert "classifier" not in to_toml(tiny())
    written = to_toml(small())
    assert "[classifier]\nsteps = 3\n" in written


def test_a_run_goes_on_with_another_classifier(tiny, small):
    check_same(tiny(SMALL[-1]), small(), RECIPE)
    check_same(small(), small("classifier.steps=4"), RECIPE)


def test_stopped_it_writes_nothing(small, tmp_path):
    stop = StopRequest()
    threading.Thread(target=lambda: (time.sleep(0.3), setattr(stop, "requested", True))).start()
    with pytest.raises(Interrupted, match=r"interrupted at step \d+ of the classifier: nothing is written"):
        train_classifier(small("classifier.steps=1000000"), tmp_path, stop=stop)
    assert list(tmp_path.iterdir()) == []


def test_diverged_it_writes_nothing(small, tmp_path):
    with pytest.raises(Diverged, match="try a lower learning rate"):
        train_classifier(small('classifier.optimizer={kind="sgd", lr=1e30}', "classifier.steps=6"), tmp_path)
    assert list(tmp_path.iterdir()) == []


class TestGuiding:
    def test_a_model_without_classes_gets_them(self, small, classifier):
        pipeline = untrained(small("model.class_conditional=false", "objective.prediction=velocity"))
        it = guided(classifier, weight=3.0)
        plain = pipeline.sample(2)
        assert not torch.equal(pipeline.sample(2, guidance=it, label=1), plain)
        assert not torch.equal(pipeline.sample(2, guidance=it, label=1), pipeline.sample(2, guidance=it, label=2))
        assert torch.equal(pipeline.sample(2, guidance={**it, "weight": 0.0}), plain)
        in_turn, one = pipeline.sample(2, guidance=it), pipeline.sample(2, guidance=it, label=0)
        assert torch.equal(in_turn[0], one[0]) and not torch.equal(in_turn[1], one[1])
        with pytest.raises(UserError, match="the model of 'tiny' is not class-conditional"):
            pipeline.sample(2, label=1)

    def test_the_classifier_finds_its_class_in_what_it_guided(self, small, classifier):
        pipeline = untrained(small("model.class_conditional=false", "objective.prediction=velocity"))
        it = guided(classifier, weight=20.0)
        images = pipeline.sample(20, guidance=it, steps=20).float() / 127.5 - 1
        logits = read_classifier(classifier.file).network(images, torch.zeros(20))
        assert (logits.argmax(dim=1) == torch.arange(20) % 10).float().mean() > 0.8

    def test_a_conditional_model_is_guided_too(self, small, classifier):
        pipeline = untrained(small())
        assert not torch.equal(pipeline.sample(2, guidance=guided(classifier, weight=5.0)), pipeline.sample(2))

    def test_the_gradient_is_that_of_finite_differences(self, small, classifier):
        pipeline = untrained(small("model.class_conditional=false"))
        settings = Sample(x0_rule="none")
        it = Sample(x0_rule="none", guidance=guided(classifier))
        level, labels = pipeline.recipe.process.level(7), torch.tensor([3, 8])
        x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            found = pipeline.denoise(it, labels)(x, level).eps - pipeline.denoise(settings)(x, level).eps
        network = read_classifier(classifier.file).network.double()

        def likely(x):
            logits = network(x.double(), torch.full((2,), level.time))
            return logits.log_softmax(1).gather(1, labels[:, None])

        direction = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        slope = (likely(x + 1e-5 * direction) - likely(x - 1e-5 * direction)) / 2e-5
        expected = -level.sigma * slope.sum()
        assert abs(expected) > 1e-3
        assert (found.double() * direction).sum().item() == pytest.approx(expected.item(), rel=1e-3)

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("process.schedule=linear", r"trained for process.schedule = .*cosine.* and not .*linear"),
            ('process={kind="flow"}', "trained for process.kind = 'ddpm' and not 'flow'"),
        ],
    )
    def test_another_process_is_refused_by_name(self, small, classifier, override, message):
        pipeline = untrained(small(override, "objective.prediction=velocity"))
        with pytest.raises(UserError, match=message):
            pipeline.sample(1, guidance=guided(classifier))

    def test_other_images_are_refused_by_name(self, small, classifier, tmp_path):
        np.save(tmp_path / "images.npy", np.zeros((4, 16, 16, 1), np.uint8))
        recipe = small("model.class_conditional=false", "model.attention_at=[]").model_copy(
            update={"data": type(small().data).kinds["arrays"](path=str(tmp_path / "images.npy"))}
        )
        message = (
            r"trained for data.height = 8 and not 16, data.width = 8 and not 16, data.classes = \('0', .* and not \(\)"
        )
        with pytest.raises(UserError, match=message):
            untrained(recipe).sample(1, guidance=guided(classifier))

    def test_what_holds_no_classifier(self, trained, small, classifier, tmp_path):
        pipeline = untrained(small())
        weights = next(trained.glob("checkpoints/*/ema.safetensors"))
        for path, message in {
            trained: "holds no classifier: train one with: diffkit train-classifier",
            weights: "holds the weights of a model, not of a classifier",
            trained.with_name("tiny-2"): "no such run or classifier. Did you mean 'tiny-1'",
        }.items():
            with pytest.raises(CheckpointError, match=message):
                pipeline.sample(1, guidance={"kind": "classifier", "classifier": str(path)})
        with pytest.raises(CheckpointError, match="holds the weights of a classifier, not of a model"):
            Pipeline.load(classifier.file)
        damaged = tmp_path / CLASSIFIER
        damaged.write_bytes(classifier.file.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match="damaged"):
            read_classifier(tmp_path)

    def test_it_is_loaded_once(self, small, classifier, monkeypatch):
        loaded = []

        def counting(file, device):
            loaded.append(file)
            return read_classifier(file, device)

        monkeypatch.setattr("diffkit.pipeline.read_classifier", counting)
        pipeline = untrained(small())
        for _ in range(2):
            pipeline.sample(1, guidance=guided(classifier))
        assert loaded == [classifier.file]

    def test_a_file_and_its_folder_are_the_same(self, classifier):
        assert find_classifier(classifier.file) == find_classifier(classifier.file.parent) == classifier.file

    def test_evaluations_are_the_networks_own(self, small, classifier):
        it = guided(classifier)
        recipe = small(f'sample.guidance={{kind="classifier", classifier="{it["classifier"]}"}}')
        assert recipe.sample.guidance.evaluations(Level(1.0, 0.6, 0.8)) == 1
