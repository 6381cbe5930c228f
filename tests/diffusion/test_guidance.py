"""Every kind of guidance: what all have in common, each one's formula, and data for which the answer is known."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from diffkit.diffusion.classifier_guidance import ClassifierGuidance
from diffkit.diffusion.denoiser import make_denoise
from diffkit.diffusion.guidance import Autoguidance, ClassifierFree, Guidance, Guided
from diffkit.diffusion.objective import Objective, Output
from diffkit.diffusion.oracles import gaussian
from diffkit.diffusion.prediction import Prediction
from diffkit.diffusion.process import Level, Process
from diffkit.diffusion.spacing import Spacing
from diffkit.diffusion.x0_rule import X0Rule
from diffkit.errors import CheckpointError, UserError
from diffkit.pipeline import Pipeline, build_network
from diffkit.recipe.tables import Sample
from diffkit.storage.checkpoint import list_checkpoints, make_header
from diffkit.testing import kinds_of

NONE = X0Rule.choose("none")
PROCESSES = [
    pytest.param(Process.choose(table), id=name)
    for name, table in {
        "ddpm": {"kind": "ddpm"},
        "zero snr": {"kind": "ddpm", "schedule": "scaled_linear", "zero_terminal_snr": True},
        "edm": {"kind": "edm"},
        "flow": {"kind": "flow"},
        "shifted flow": {"kind": "flow", "shift": 3.0, "time_max": 0.999},
    }.items()
]
PAIRS = [
    pytest.param(process.values[0], prediction.values[0], id=f"{process.id}, {prediction.id}")
    for process in PROCESSES
    for prediction in kinds_of(Prediction)
    if prediction.values[0].refuses(process.values[0]) is None
]
KINDS = kinds_of(Guidance)
LEVEL = Level(time=400.0, alpha=0.6, sigma=0.8)
LABELS = torch.tensor([0, 1, 1])


def levels_of(process, count=5):
    return Spacing.choose("trailing").levels(process, count)[:-1]


def noise(seed=0, shape=(3, 2, 4, 4)):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(x, time, labels):
    """Depends on all that it sees, and gives every class another output."""
    shift = 2.0 if labels is None else labels.to(x.dtype).view(-1, 1, 1, 1)
    return torch.tanh(x + 0.3 * shift) + 0.1 * x.roll(1, dims=-1)


def guide(x, time, labels):
    return 0.5 * network(x, time, labels) - 0.2


def classifier(x, time):
    return torch.stack([x.mean(dim=(1, 2, 3)), x.square().mean(dim=(1, 2, 3))], dim=1)


class Counting:
    """A network that counts the images it sees."""

    def __init__(self, network):
        self.network, self.seen = network, []

    def __call__(self, x, time, labels):
        self.seen.append(len(x))
        return self.network(x, time, labels)


def denoised(guidance, process, level, x, *, prediction="noise", network=network, guide=guide, labels=LABELS):
    objective = Objective(prediction=prediction)
    made = make_denoise(
        network,
        objective,
        process,
        NONE,
        labels=labels,
        null_label=2,
        guidance=guidance,
        guide=guide if guidance is not None and guidance.guide_file else None,
        classifier=classifier,
    )
    return made(x, level)


def changed(guidance, **settings):
    return type(guidance)(**{**guidance.model_dump(), **settings})


class TestEveryKind:
    @pytest.mark.parametrize("guidance", KINDS)
    @pytest.mark.parametrize("process", PROCESSES)
    def test_the_neutral_weight_is_the_plain_model(self, guidance, process):
        for level in levels_of(process):
            x = math.hypot(level.alpha, level.sigma) * noise()
            plain = denoised(None, process, level, x, prediction="velocity")
            neutral = changed(guidance, weight=guidance.neutral)
            same = denoised(neutral, process, level, x, prediction="velocity")
            assert torch.equal(same.x0, plain.x0) and torch.equal(same.eps, plain.eps)

    @pytest.mark.parametrize("guidance", KINDS)
    @pytest.mark.parametrize(("process", "prediction"), PAIRS)
    def test_estimates_are_finite_and_make_up_x(self, guidance, prediction, process):
        for level in (levels_of(process)[0], levels_of(process)[-1]):
            x = math.hypot(level.alpha, level.sigma) * noise()
            for settings in ({"weight": 3.0}, {"weight": -0.5}, {"weight": 3.0, "schedule": "cosine"}):
                guided = denoised(changed(guidance, **settings), process, level, x, prediction=prediction)
                assert guided.x0.isfinite().all() and guided.eps.isfinite().all()
                made = level.alpha * guided.x0 + level.sigma * guided.eps
                torch.testing.assert_close(made, x, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("guidance", KINDS)
    def test_a_weight_changes_the_estimate_the_same_way_for_every_prediction(self, guidance):
        """Of networks that say the same in other words."""
        process, level, x = Process.choose("ddpm"), LEVEL, noise()
        found = []
        for prediction in ("noise", "data", "velocity", "flow", "edm"):
            kind = Prediction.choose(prediction)

            def in_words_of(network, kind=kind):
                def saying(shown, time, labels):
                    eps = network(shown, time, labels)
                    images = shown[: len(labels)]
                    return kind.target((images - level.sigma * eps) / level.alpha, eps, level.alpha, level.sigma)

                return saying

            both = {"network": in_words_of(network), "guide": in_words_of(guide)}
            found.append(denoised(changed(guidance, weight=3.0), process, level, x, prediction=kind, **both))
        plain = denoised(None, process, level, x)
        assert (found[0].eps - plain.eps).abs().max() > 1e-3
        for other in found[1:]:
            torch.testing.assert_close(other.eps, found[0].eps, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(other.x0, found[0].x0, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("guidance", KINDS)
    @pytest.mark.parametrize("weight", [-1.0, 0.0, 1.0, 2.5])
    def test_evaluations_are_those_that_happen(self, guidance, weight):
        guidance = changed(guidance, weight=weight, interval=(0.5, 2.0))
        for sigma in (0.1, 0.6, 0.9):
            level = Level(400.0, math.sqrt(1 - sigma**2), sigma)
            nets = Counting(network), Counting(guide)
            denoised(guidance, Process.choose("ddpm"), level, noise(), network=nets[0], guide=nets[1])
            assert sum(nets[0].seen + nets[1].seen) == 3 * guidance.evaluations(level)

    @pytest.mark.parametrize("guidance", KINDS)
    def test_only_within_the_interval(self, guidance):
        guidance = changed(guidance, weight=3.0, interval=(0.5, 2.0))
        inside, process, x = [], Process.choose("ddpm"), noise()
        for ratio in (0.1, 0.5, 0.50001, 1.0, 2.0, 2.0001, 30.0):
            level = Level(400.0, 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio))
            plain = denoised(None, process, level, x)
            if not torch.equal(denoised(guidance, process, level, x).eps, plain.eps):
                inside.append(ratio)
            else:
                assert guidance.evaluations(level) == 1
        assert inside == [0.50001, 1.0, 2.0]

    @pytest.mark.parametrize("guidance", KINDS)
    @pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
    @given(weight=st.floats(-5, 20))
    def test_the_weight_is_the_mean_of_its_schedule(self, guidance, schedule, weight):
        guidance = changed(guidance, weight=weight, schedule=schedule)
        count = 200
        angles = [math.pi / 2 * (i + 0.5) / count for i in range(count)]
        found = [guidance.weight_at(Level(0.0, math.cos(a), math.sin(a))) for a in angles]
        assert sum(found) / count == pytest.approx(weight, rel=1e-9, abs=1e-9)
        ends = guidance.weight_at(Level(0.0, 0.0, 1.0)), guidance.weight_at(Level(0.0, 1.0, 0.0))
        n = guidance.neutral
        expected = (weight, weight) if schedule == "constant" else (n, 2 * weight - n)
        assert ends == pytest.approx(expected, rel=1e-9, abs=1e-9)

    @pytest.mark.parametrize("guidance", KINDS)
    @pytest.mark.parametrize("interval", [(1.0,), (1.0, 1.0), (2.0, 1.0), (0.1, 0.2, 0.3)])
    def test_no_such_interval(self, guidance, interval):
        with pytest.raises(ValidationError, match="should be two numbers, the smaller one first"):
            changed(guidance, interval=interval)

    @pytest.mark.parametrize("guidance", KINDS)
    def test_a_learned_variance_is_that_of_the_model_with_the_label(self, guidance):
        def predict(x, level, labels):
            value = network(x, None, labels)
            return Output(value, value + 7)

        def worse(x, level, labels):
            return Output(guide(x, None, labels), torch.full_like(x, math.nan))

        def classify(x, level):
            return classifier(x, None)

        x, nobody = noise(), torch.full_like(LABELS, 2)
        model = Guided(predict, Prediction.choose("noise"), LABELS, nobody, worse, classify, LABELS)
        guided = changed(guidance, weight=3.0).output(model, x, LEVEL)
        plain = predict(x, LEVEL, LABELS)
        assert not torch.equal(guided.value, plain.value)
        assert torch.equal(guided.variance, plain.variance)

    @pytest.mark.parametrize("guidance", KINDS)
    def test_every_network_is_shown_the_last_estimate(self, guidance):
        seen = []

        def self_conditioned(x, time, labels):
            assert x.shape[1] == 4
            seen.append(x[:, 2:])
            return network(x[:, :2], time, labels)

        denoise = make_denoise(
            self_conditioned,
            Objective(self_conditioning=True),
            Process.choose("ddpm"),
            NONE,
            labels=LABELS,
            null_label=2,
            guidance=changed(guidance, weight=3.0),
            guide=self_conditioned if guidance.guide_file else None,
            classifier=classifier,
        )
        first = denoise(noise(), LEVEL)
        assert all(not estimate.any() for estimate in seen)
        seen.clear()
        denoise(noise(1), LEVEL)
        estimates = torch.cat(seen).split(3)
        assert len(estimates) == changed(guidance, weight=3.0).evaluations(LEVEL)
        for estimate in estimates:
            torch.testing.assert_close(estimate, first.x0)


class TestClassifierFree:
    @pytest.mark.parametrize("weight", [-0.5, 0.0, 0.3, 1.0, 7.5])
    def test_between_no_class_and_class(self, weight):
        x = noise()
        guided = denoised(ClassifierFree(weight=weight), Process.choose("ddpm"), LEVEL, x)
        without, conditional = network(x, None, torch.full_like(LABELS, 2)), network(x, None, LABELS)
        torch.testing.assert_close(guided.eps, (1 - weight) * without + weight * conditional)

    @pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 1.0])
    def test_rescaling_is_that_of_diffusers(self, phi):
        peer = pytest.importorskip("diffusers.guiders.guider_utils")
        x, w = noise(), 7.5
        without, conditional = network(x, None, torch.full_like(LABELS, 2)), network(x, None, LABELS)
        plain = without + w * (conditional - without)
        expected = peer.rescale_noise_cfg(plain, conditional, guidance_rescale=phi)
        guided = denoised(ClassifierFree(weight=w, rescale=phi), Process.choose("ddpm"), LEVEL, x)
        torch.testing.assert_close(guided.eps, expected, rtol=1e-9, atol=1e-9)
        if phi == 1:
            found = guided.eps.flatten(1).std(dim=1)
            torch.testing.assert_close(found, conditional.flatten(1).std(dim=1))

    def test_rescaling_an_image_without_contrast(self):
        guided = denoised(
            ClassifierFree(weight=3, rescale=1.0),
            Process.choose("ddpm"),
            LEVEL,
            noise(),
            network=lambda x, time, labels: torch.ones_like(x),
        )
        assert torch.equal(guided.eps, torch.ones_like(guided.eps))

    @pytest.mark.parametrize("process", PROCESSES)
    @pytest.mark.parametrize("weight", [0.5, 2.0, 4.0])
    def test_gaussians_of_one_width_stay_gaussian(self, process, weight):
        """p(x)^(1 - w) p(x | class)^w is then a Gaussian, whose exact denoiser the guided one is at every level."""
        for level in levels_of(process):
            if level.alpha == 0:
                continue
            x = math.hypot(level.alpha, level.sigma) * noise()
            net = Exact(process, level, lambda x, level, labels: gaussian(*MEAN_OF[int(labels[0])])(x, level))

            def by_image(shown, time, labels, net=net):
                return torch.cat([net(a[None], time, b[None]) for a, b in zip(shown, labels, strict=True)])

            labels = torch.zeros(3, dtype=torch.int64)
            guided = denoised(
                ClassifierFree(weight=weight), process, level, x, prediction="velocity", network=by_image, labels=labels
            )
            (class_mean, std), (mean, _) = MEAN_OF[0], MEAN_OF[2]
            expected = gaussian(mean + weight * (class_mean - mean), std)(x, level)
            torch.testing.assert_close(guided.x0, expected.x0, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(guided.eps, expected.eps, rtol=1e-8, atol=1e-8)


MEAN_OF = {0: (0.7, 0.3), 2: (0.1, 0.3)}
"""Mean and standard deviation of the pixels of class 0, and of no class."""


class Exact:
    """The network that says what an oracle does, at one level of a process."""

    def __init__(self, process, level, oracle, prediction="velocity"):
        self.level, self.oracle, self.prediction = level, oracle, Prediction.choose(prediction)
        alpha, sigma = torch.tensor([[level.alpha], [level.sigma]], dtype=torch.float64)
        scale = process.input_scale(alpha, sigma)
        self.scale = 1.0 if scale is None else scale.item()

    def __call__(self, shown, time, labels):
        found = self.oracle(shown / self.scale, self.level, labels)
        return self.prediction.target(found.x0, found.eps, self.level.alpha, self.level.sigma)


class TwoGaussians:
    """Images of two classes, each Gaussian, and all that is known exactly of them."""

    shares = (0.3, 0.7)
    means = (-0.6, 0.4)
    stds = (0.2, 0.5)

    def log_joint(self, x, level):
        """log p(class) + log p(x | class), but for a constant: ``[N, 2]``."""
        found = []
        for share, mean, std in zip(self.shares, self.means, self.stds, strict=True):
            variance = level.alpha**2 * std**2 + level.sigma**2
            distance = (x - level.alpha * mean).square().sum(dim=(1, 2, 3)) / variance
            found.append(math.log(share) - distance / 2 - x[0].numel() / 2 * math.log(variance))
        return torch.stack(found, dim=1)

    def of_class(self, x, level, number):
        return gaussian(self.means[number], self.stds[number])(x, level)

    def of_all(self, x, level, labels=None):
        """The mean over both classes, weighted by how likely they are."""
        likely = self.log_joint(x, level).softmax(dim=1)[..., None, None, None]
        both = [self.of_class(x, level, number) for number in (0, 1)]
        return type(both[0])(
            likely[:, 0] * both[0].x0 + likely[:, 1] * both[1].x0,
            likely[:, 0] * both[0].eps + likely[:, 1] * both[1].eps,
            both[0].variance,
        )


class TestClassifier:
    data = TwoGaussians()

    def guided(self, process, level, x, labels, prediction, **settings):
        exact = Exact(process, level, self.data.of_all, prediction)
        with torch.inference_mode():
            x, labels = x.clone(), labels.clone()  # as samplers give them: autograd takes no such tensors
        denoise = make_denoise(
            exact,
            Objective(prediction=prediction),
            process,
            NONE,
            guidance=ClassifierGuidance(classifier="it", **settings),
            classifier=lambda shown, time: self.data.log_joint(shown / exact.scale, level),
            classes=labels,
        )
        with torch.inference_mode():
            return denoise(x, level)

    @pytest.mark.parametrize(("process", "prediction"), PAIRS)
    def test_the_exact_classifier_makes_the_exact_model_conditional(self, process, prediction):
        """Bayes' rule, at every level; where there is no signal, only eps can be told."""
        for level in levels_of(process, 9):
            x = math.hypot(level.alpha, level.sigma) * noise(shape=(4, 1, 2, 2))
            for number in (0, 1):
                expected = self.data.of_class(x, level, number)
                guided = self.guided(process, level, x, torch.full((4,), number), prediction.kind)
                torch.testing.assert_close(guided.eps, expected.eps, rtol=1e-7, atol=1e-8)
                if level.alpha > 0:
                    torch.testing.assert_close(guided.x0, expected.x0, rtol=1e-7, atol=1e-8)

    def test_without_signal_nothing_is_changed(self):
        process = Process.choose("flow")
        level, x = process.level(1.0), noise(shape=(4, 1, 2, 2))
        assert level.alpha == 0
        guided = self.guided(process, level, x, torch.zeros(4, dtype=torch.int64), "velocity", weight=5.0)
        plain = self.data.of_all(x, level)
        torch.testing.assert_close(guided.x0, plain.x0)
        torch.testing.assert_close(guided.eps, plain.eps)

    @pytest.mark.parametrize("weight", [0.5, 2.0, 10.0])
    def test_the_shift_grows_with_the_weight(self, weight):
        process = Process.choose("ddpm")
        level, x, labels = process.level(500), noise(shape=(4, 1, 2, 2)), torch.tensor([0, 1, 0, 1])
        plain = self.data.of_all(x, level).eps
        once = self.guided(process, level, x, labels, "noise", weight=1.0).eps - plain
        more = self.guided(process, level, x, labels, "noise", weight=weight).eps - plain
        assert once.abs().max() > 0.01
        torch.testing.assert_close(more, weight * once)

    def test_a_conditional_network_sees_the_label_too(self):
        seen = []

        def watching(x, time, labels):
            seen.append(labels)
            return network(x, time, labels)

        denoised(
            ClassifierGuidance(classifier="it", weight=2), Process.choose("ddpm"), LEVEL, noise(), network=watching
        )
        assert [labels.tolist() for labels in seen] == [LABELS.tolist()]

    def test_a_network_without_classes_sees_no_label(self):
        seen = []

        def watching(x, time, labels):
            seen.append(labels)
            return network(x, time, labels)

        it = ClassifierGuidance(classifier="it", weight=2)
        process = Process.choose("ddpm")
        denoise = make_denoise(watching, Objective(), process, NONE, guidance=it, classifier=classifier, classes=LABELS)
        denoise(noise(), LEVEL)
        assert seen == [None]

    def test_any_module_is_a_classifier_and_gets_float32(self):
        class Module(nn.Module):
            def __init__(self):
                super().__init__()
                self.line = nn.Linear(32, 2)

            def forward(self, x, time):
                assert x.dtype == time.dtype == torch.float32
                assert time.tolist() == [LEVEL.time] * 3
                return self.line(x.flatten(1))

        module = Module()
        it = ClassifierGuidance(classifier="it", weight=2)
        process = Process.choose("ddpm")
        denoise = make_denoise(network, Objective(), process, NONE, guidance=it, classifier=module, classes=LABELS)
        x = noise().float()
        with torch.inference_mode():
            guided = denoise(x.half(), LEVEL)
        assert guided.eps.dtype == torch.float32
        assert module.line.weight.grad is None
        likely = (x.half().float().flatten(1) @ module.line.weight.T + module.line.bias).softmax(dim=1)
        gradient = module.line.weight[LABELS] - likely @ module.line.weight
        plain = network(x.half(), None, None).float()
        torch.testing.assert_close(guided.eps, plain - 2 * LEVEL.sigma * gradient.view(x.shape), rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("left_out", ["classifier", "classes"])
    def test_needs_a_classifier_and_classes(self, left_out):
        given = {"classifier": classifier, "classes": LABELS}
        del given[left_out]
        it = ClassifierGuidance(classifier="it", weight=2)
        denoise = make_denoise(network, Objective(), Process.choose("ddpm"), NONE, guidance=it, **given)
        with pytest.raises(ValueError, match="needs a classifier and the class of each image"):
            denoise(noise(), LEVEL)


class TestAutoguidance:
    @pytest.mark.parametrize("weight", [-0.5, 0.0, 2.0, 3.5])
    def test_away_from_the_guide(self, weight):
        x = noise()
        guided = denoised(Autoguidance(guide="it", weight=weight), Process.choose("ddpm"), LEVEL, x)
        own, worse = network(x, None, LABELS), guide(x, None, LABELS)
        torch.testing.assert_close(guided.eps, (1 - weight) * worse + weight * own)

    def test_works_without_classes(self):
        x = noise()
        guided = denoised(Autoguidance(guide="it", weight=2), Process.choose("ddpm"), LEVEL, x, labels=None)
        torch.testing.assert_close(guided.eps, 2 * network(x, None, None) - guide(x, None, None))

    def test_needs_a_guide(self):
        it = Autoguidance(guide="it", weight=2)
        denoise = make_denoise(network, Objective(), Process.choose("ddpm"), NONE, labels=LABELS, guidance=it)
        with pytest.raises(ValueError, match="needs a second network, the guide"):
            denoise(noise(), LEVEL)


class TestAnEarlierCheckpointAsTheGuide:
    """Through `Pipeline`, whose runs keep their last checkpoints."""

    def test_formula(self, trained):
        earlier, _ = list_checkpoints(trained / "checkpoints")
        pipeline, worse = Pipeline.load(trained), Pipeline.load(earlier)
        x, labels = noise(shape=(2, 1, 8, 8)).float(), torch.tensor([3, 5])
        level = pipeline.recipe.process.level(9)

        def eps(pipeline, **settings):
            with torch.inference_mode():
                return pipeline.denoise(Sample(x0_rule="none", **settings), labels)(x, level).eps

        own, bad = eps(pipeline), eps(worse)
        assert (own - bad).abs().max() > 1e-4
        for guide_file in (earlier, earlier / "ema.safetensors"):
            guided = eps(pipeline, guidance=Autoguidance(guide=guide_file, weight=3))
            torch.testing.assert_close(guided, bad + 3 * (own - bad))
        itself = eps(pipeline, guidance=Autoguidance(guide=trained, weight=3))
        torch.testing.assert_close(itself, own)

    def test_it_changes_images_and_is_loaded_once(self, trained, monkeypatch):
        earlier = list_checkpoints(trained / "checkpoints")[0]
        pipeline, loads, real = Pipeline.load(trained), [], Pipeline.load
        monkeypatch.setattr(Pipeline, "load", lambda *args, **settings: loads.append(args) or real(*args, **settings))
        settings = {"guidance": {"kind": "autoguidance", "guide": str(earlier), "weight": 20.0}}
        guided = pipeline.sample(2, **settings)
        assert not torch.equal(guided, pipeline.sample(2))
        assert torch.equal(guided, pipeline.sample(2, **settings))
        assert loads == [(earlier,)]

    @pytest.mark.parametrize(
        "override",
        [
            "process.steps=30",
            "objective.prediction=velocity",
            "model.class_conditional=false",
            "objective.variance=learned",
        ],
    )
    def test_another_model_is_refused_by_name(self, trained, tiny, tmp_path, override):
        recipe = tiny(override)
        file = tmp_path / "ema.safetensors"
        data = recipe.data.info()
        save_file(build_network(recipe, data).state_dict(), file, make_header(recipe, data, {}, 1))
        message = f"guidance.guide = {file}: was trained for another process, prediction or kind of images"
        with pytest.raises(UserError, match=re.escape(message)):
            Pipeline.load(trained).sample(1, guidance={"kind": "autoguidance", "guide": str(file), "weight": 2.0})

    def test_no_such_guide(self, trained):
        path = trained.with_name("tiny-2")
        with pytest.raises(CheckpointError, match="tiny-2: no such run or checkpoint"):
            Pipeline.load(trained).sample(1, guidance={"kind": "autoguidance", "guide": str(path)})
