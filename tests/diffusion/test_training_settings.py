"""Settings that change what training shows the network: self-conditioning, offset noise, input perturbation, and the
augmentation it is told of."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diffkit.data.augmentation import EdmAugmentation
from diffkit.diffusion.denoiser import make_denoise
from diffkit.diffusion.guidance import ClassifierFree
from diffkit.diffusion.objective import Noise, Objective
from diffkit.diffusion.process import Process, per_image
from diffkit.diffusion.x0_rule import X0Rule
from diffkit.pipeline import Pipeline
from diffkit.random import torch_generator
from diffkit.train.loop import train
from diffkit.train.run import TrainingRun

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
PROCESS = Process.choose("ddpm")
CLIP = X0Rule.choose("clip")
TIME = torch.tensor([0, 400, 999])
SETTINGS = {
    "self_conditioning": ("objective.self_conditioning=true",),
    "offset_noise": ("objective.offset_noise=0.1",),
    "input_perturbation": ("objective.input_perturbation=0.1",),
    "importance": ("objective.time_sampling={kind='importance', losses=1}", "process.steps=5"),
    "augmentation": ("train.augmentation={kind='edm', probability=0.5}",),
    "all": (
        "objective.self_conditioning=true",
        "objective.offset_noise=0.1",
        "objective.input_perturbation=0.1",
        "objective.time_sampling={kind='importance', losses=1}",
        "process.steps=5",
        "train.augmentation={kind='edm', probability=0.5}",
        "objective.variance=learned_range",
    ),
}


def images(channels=2):
    draw = torch_generator("cpu", 0, "images")
    return torch.rand(3, channels, 4, 4, generator=draw) * 2 - 1


class Recorder(nn.Module):
    """A network of one weight that remembers what it saw, and whether for a gradient."""

    def __init__(self, channels=2):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))
        self.channels = channels
        self.seen = []

    def forward(self, x, time, label=None, vector=None):
        self.seen.append((x, torch.is_grad_enabled(), label, vector))
        shift = 0 if label is None else 0.1 * label.view(-1, 1, 1, 1)
        x0, rest = x[:, : self.channels], x[:, self.channels :]
        return self.weight * x0 + (0.3 * rest if rest.shape[1] else 0) + shift


def make_run(recipe, folder):
    return TrainingRun(recipe, folder, recipe.data.info(), recipe.data.open(), torch.device("cpu"))


def test_the_page_names_settings_that_exist(tiny):
    rows = re.findall(r"^\| `((?:objective|train)\.\w+ = \S+)` \|", PAGE, re.MULTILINE)
    assert len(rows) == len(SETTINGS) - 1
    plain = tiny()
    assert all(tiny(row.replace(" ", "")) != plain for row in rows)
    (table,) = re.findall(r"```toml\n(\[train\].*?)```", PAGE, re.DOTALL)
    augmentation = tomllib.loads(table)["train"]["augmentation"]
    assert EdmAugmentation.model_validate(augmentation).flip_y is False


class TestSelfConditioning:
    objective = Objective(self_conditioning=True, prediction="velocity")

    def loss(self, network, **settings):
        noise = torch.randn(3, 2, 4, 4, generator=torch_generator("cpu", 1))
        return self.objective.training_loss(network, PROCESS, images(), None, TIME, noise, **settings)

    def test_without_an_estimate_the_network_sees_zeros_in_its_place(self):
        network = Recorder()
        self.loss(network)
        ((x, for_gradient, *_),) = network.seen
        assert x.shape == (3, 4, 4, 4)
        assert x[:, 2:].count_nonzero() == 0
        assert for_gradient

    def test_the_estimate_is_x0_of_the_first_output_and_has_no_gradient(self):
        network = Recorder()
        loss = self.loss(network, self_condition=True)
        (first, first_for_gradient, *_), (second, second_for_gradient, *_) = network.seen
        assert (first_for_gradient, second_for_gradient) == (False, True)
        assert first[:, 2:].count_nonzero() == 0
        assert torch.equal(first[:, :2], second[:, :2])
        alpha, sigma = (per_image(level(TIME), first) for level in (PROCESS.alpha, PROCESS.sigma))
        noisy = first[:, :2]
        estimate = alpha * noisy - sigma * (0.7 * noisy)  # x0 of a velocity
        torch.testing.assert_close(second[:, 2:], estimate)

        loss.sum().backward()
        found = network.weight.grad.clone()
        network.weight.grad = None
        noise = torch.randn(3, 2, 4, 4, generator=torch_generator("cpu", 1))
        target = alpha * noise - sigma * images()
        output = network.weight * noisy + 0.3 * estimate.detach()
        (output - target).square().flatten(1).mean(1).sum().backward()
        torch.testing.assert_close(found, network.weight.grad)

    def test_half_of_the_steps_make_an_estimate(self, tiny, tmp_path):
        run = make_run(tiny("objective.self_conditioning=true", "model.class_conditional=false"), tmp_path)
        run._network = network = Recorder(channels=1)
        calls = []
        for _ in range(200):
            network.seen.clear()
            run.take_step()
            calls.append(len(network.seen))
            assert [for_gradient for _, for_gradient, *_ in network.seen] == [False, True][-calls[-1] :]
        assert set(calls) == {1, 2}
        assert 70 < calls.count(2) < 130  # exceeded with a chance of 3e-5
        assert calls != sorted(calls)

    def test_sampling_shows_the_last_x0_and_starts_with_zeros(self):
        network = Recorder()
        for _ in range(2):  # nothing is left of the walk before
            network.seen.clear()
            denoise = make_denoise(network, self.objective, PROCESS, CLIP)
            x = torch.randn(3, 2, 4, 4, generator=torch_generator("cpu", 2))
            found = [denoise(x, PROCESS.level(time)) for time in (900, 500, 3)]
            shown = [x[:, 2:] for x, *_ in network.seen]
            assert shown[0].count_nonzero() == 0
            assert torch.equal(shown[1], found[0].x0)
            assert torch.equal(shown[2], found[1].x0)
            assert found[0].x0.abs().max() <= 1  # after the rule for x0, as in the paper's sampling

    def test_guidance_shows_it_to_both_halves(self):
        network, labels = Recorder(), torch.tensor([1, 0, 2])
        cfg = ClassifierFree(weight=3.0)
        denoise = make_denoise(network, self.objective, PROCESS, CLIP, labels=labels, null_label=4, guidance=cfg)
        x = torch.randn(3, 2, 4, 4, generator=torch_generator("cpu", 2))
        first = denoise(x, PROCESS.level(900))
        denoise(x, PROCESS.level(500))
        seen, _, shown_labels, _ = network.seen[1]
        assert torch.equal(seen[:, 2:], torch.cat([first.x0, first.x0]))
        assert torch.equal(seen[:, :2], torch.cat([x, x]))
        assert shown_labels.tolist() == [4, 4, 4, 1, 0, 2]


class TestNoise:
    shape = (3, 8, 8)

    def noise(self, count=2000, **settings):
        return Objective(**settings).draw_noise(count, self.shape, torch_generator("cpu", 7))

    def test_without_settings_it_is_one_draw_of_normal_noise(self):
        noise = self.noise()
        expected = torch.randn(2000, *self.shape, generator=torch_generator("cpu", 7))
        assert torch.equal(noise.target, expected)
        assert noise.shown is noise.target

    def test_offset_noise_is_one_number_a_channel(self):
        noise, plain = self.noise(offset_noise=0.5), self.noise()
        assert noise.shown is noise.target  # the network is to find it
        offset = noise.target - plain.target
        assert offset.flatten(2).std(dim=2).max() < 1e-6
        means = noise.target.mean(dim=(2, 3))
        assert means.var().item() == pytest.approx(1 / 64 + 0.25, rel=0.1)
        assert self.noise().target.mean(dim=(2, 3)).var().item() == pytest.approx(1 / 64, rel=0.1)
        assert torch.corrcoef(means.T)[0, 1].abs() < 0.1  # each channel has its own

    def test_input_perturbation_is_in_what_is_shown_only(self):
        noise, plain = self.noise(input_perturbation=0.3), self.noise()
        assert torch.equal(noise.target, plain.target)
        further = noise.shown - noise.target
        assert further.std().item() == pytest.approx(0.3, rel=0.01)
        assert torch.corrcoef(torch.stack([further.flatten(), noise.target.flatten()]))[0, 1].abs() < 0.01

    def test_both_add_up(self):
        both, offset = self.noise(offset_noise=0.5, input_perturbation=0.3), self.noise(offset_noise=0.5)
        assert torch.equal(both.target, offset.target)
        assert (both.shown - both.target).std().item() == pytest.approx(0.3, rel=0.01)

    def test_the_network_sees_the_shown_noise_and_is_to_find_the_target(self):
        shown, target = torch.randn(2, 3, 2, 4, 4, generator=torch_generator("cpu", 3))
        network = Recorder()
        loss = Objective().training_loss(network, PROCESS, images(), None, TIME, Noise(target, shown))
        ((x, *_),) = network.seen
        assert torch.equal(x, PROCESS.add_noise(images(), shown, TIME))
        torch.testing.assert_close(loss, (0.7 * x - target).square().flatten(1).mean(1))


class TestARun:
    @pytest.mark.parametrize("name", ["offset_noise", "input_perturbation", "augmentation"])
    def test_all_else_that_a_step_draws_stays(self, tiny, tmp_path, name):
        """Times, labels and the base of the noise are those of a run without the setting."""
        seen = []
        for overrides in ((), SETTINGS[name]):
            run = make_run(tiny(*overrides), tmp_path)
            run._network = network = Recorder(channels=1)
            calls = []
            network.register_forward_pre_hook(lambda _, inputs, calls=calls: calls.append(inputs))
            run.take_step()
            seen.append(calls[0])
        (x, time, labels), (other_x, other_time, other_labels, *vector) = seen
        assert torch.equal(time, other_time)
        assert torch.equal(labels, other_labels)
        assert not torch.equal(x, other_x)
        assert len(vector) == (name == "augmentation")

    @pytest.mark.parametrize("name", SETTINGS)
    def test_does_not_depend_on_how_a_batch_is_cut(self, tiny, tmp_path, name):
        fixed = ("model.resnet.dropout=0.0", "sample.steps=5", "train.optimizer={kind='sgd', lr=0.1}")
        whole = make_run(tiny(*fixed, *SETTINGS[name]), tmp_path)
        parts = make_run(tiny(*fixed, *SETTINGS[name], "train.device_batch_size=2"), tmp_path)
        for run in (whole, parts):
            for _ in range(6):  # at first the network's output is zero; the sixth step is the first with an estimate
                run.take_step()
        for ours, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
        assert whole.metrics()["loss"] == pytest.approx(parts.metrics()["loss"], rel=1e-5)

    @pytest.mark.parametrize("name", SETTINGS)
    def test_goes_on_to_the_bit_and_samples(self, tiny, tmp_path, name):
        def recipe(steps):
            return tiny("sample.steps=5", f"train.steps={steps}", *SETTINGS[name])

        train(recipe(5), tmp_path / "parts")
        train(recipe(9), tmp_path / "parts", resume=True)
        train(recipe(9), tmp_path / "whole")
        end = "checkpoints/step-00000009"
        for file in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
            ours, theirs = load_file(tmp_path / "whole" / end / file), load_file(tmp_path / "parts" / end / file)
            assert ours.keys() == theirs.keys()
            assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
        sampled = Pipeline.load(tmp_path / "parts").sample(2, guidance=2.0)
        assert sampled.shape == (2, 1, 8, 8)

    def test_the_network_is_told_what_was_done_to_its_images(self, tiny, tmp_path):
        recipe = tiny("train.augmentation={kind='edm', probability=1.0}", "train.device_batch_size=4")
        run = make_run(recipe, tmp_path)
        assert run.model.vector_embedding.weight.shape[1] == 9
        seen = []
        run.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[3]))
        for _ in range(3):  # in the first ones most of the network is still multiplied by zero
            run.take_step()
        vectors = torch.cat(seen)
        assert vectors.shape == (24, 9)
        assert vectors[:, 2:].count_nonzero() == 24 * 7
        assert run.model.vector_embedding.weight.grad.count_nonzero() > 0

    def test_sampling_tells_it_that_nothing_was_done(self, tiny, tmp_path):
        run = make_run(tiny("train.augmentation=edm"), tmp_path)
        for _ in range(3):  # at first the network's output is zero
            run.take_step()
        network = run.model.eval()
        x, time, label = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 9.0]), torch.tensor([1, 2])
        with torch.no_grad():
            plain = network(x, time, label)
            assert torch.equal(plain, network(x, time, label, torch.zeros(2, 9)))
            assert not torch.equal(plain, network(x, time, label, torch.ones(2, 9)))
        seen = []
        network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs)))
        Pipeline(run.recipe, run.data, network).sample(1)
        assert set(seen) == {3}
