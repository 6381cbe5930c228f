"""The training loss, the denoise function made of a network, and the start of sampling."""

import math

import pytest
import torch
from torch import nn

from diffkit.diffusion.denoiser import make_denoise
from diffkit.diffusion.generate import generate, initial
from diffkit.diffusion.guidance import ClassifierFree
from diffkit.diffusion.loss import Loss
from diffkit.diffusion.objective import Objective
from diffkit.diffusion.prediction import Prediction
from diffkit.diffusion.process import Level, Process
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.spacing import Spacing
from diffkit.diffusion.weighting import LossWeighting
from diffkit.diffusion.x0_rule import X0Rule
from diffkit.nn.base import Ports
from diffkit.testing import kinds_of

PROCESS = Process.choose("ddpm")
NONE, CLIP = X0Rule.choose("none"), X0Rule.choose("clip")
SHAPE = (3, 2, 4, 4)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def batch(dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    x0 = (torch.rand(SHAPE, generator=draw) * 2 - 1).to(dtype)
    return x0, torch.randn(SHAPE, generator=draw).to(dtype), torch.tensor([0, 400, 999])


class Net(nn.Module):
    """A small network that depends on all of its inputs and remembers the last ones."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.embedding = nn.Embedding(5, 2)
        self.calls = []

    def forward(self, x, time, label=None):
        self.calls.append((x, time, label))
        shift = 0 if label is None else self.embedding(label)[:, :, None, None]
        return self.conv(x) + shift + (time / 1000).to(x.dtype)[:, None, None, None]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.mark.parametrize("prediction", kinds_of(Prediction))
@pytest.mark.parametrize("weighting", kinds_of(LossWeighting))
@pytest.mark.parametrize("loss", kinds_of(Loss))
def test_loss_is_the_weighted_distance_to_the_target(net, prediction, weighting, loss):
    x0, noise, time = batch()
    objective = Objective(prediction=prediction, weighting=weighting, loss=loss)
    labels = torch.tensor([0, 4, 1])
    found = objective.training_loss(net, PROCESS, x0, labels, time, noise)
    alpha, sigma = (v.float().view(3, 1, 1, 1) for v in (PROCESS.alpha(time), PROCESS.sigma(time)))
    x = alpha * x0 + sigma * noise
    target = prediction.target(x0, noise, alpha, sigma)
    weight = weighting.weight(PROCESS.alpha(time), PROCESS.sigma(time), prediction).float()
    expected = weight * loss.per_image(net(x, time.float(), labels), target)
    assert found.shape == (3,)
    torch.testing.assert_close(found, expected)
    assert net.calls[0][1].dtype == torch.float32
    found.mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_the_true_answer_has_no_loss():
    x0, noise, time = batch()
    for prediction in ("noise", "data", "velocity"):
        objective = Objective(prediction=prediction, weighting="min_snr")
        shape = (3, 1, 1, 1)
        alpha, sigma = PROCESS.alpha(time).float().view(shape), PROCESS.sigma(time).float().view(shape)
        answer = objective.prediction.target(x0, noise, alpha, sigma)
        loss = objective.training_loss(lambda *_, a=answer: a, PROCESS, x0, None, time, noise)
        assert loss.tolist() == [0.0] * 3


def test_the_loss_stays_in_float32_under_autocast(net):
    x0, noise, time = batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = Objective(weighting="min_snr").training_loss(net, PROCESS, x0, None, time, noise)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, Objective(weighting="min_snr").training_loss(net, PROCESS, x0, None, time, noise), rtol=0.02, atol=0.02
    )
    output = torch.full(SHAPE, 1 / 3, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = Objective().training_loss(lambda *_: output, PROCESS, x0, None, time, noise)
    expected = (output.double() - noise.double()).square().flatten(1).mean(1)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_models_of_every_type_train(net, dtype):
    x0, noise, time = batch(dtype)
    loss = Objective().training_loss(net.to(dtype), PROCESS, x0, None, time, noise)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    loss.mean().backward()
    assert net.conv.weight.grad.isfinite().all()


def test_training_after_sampling_in_inference_mode(net):
    process = Process.choose({"kind": "ddpm", "steps": 123})
    with torch.inference_mode():
        process.level(5)
    x0, noise, _ = batch()
    objective = Objective(prediction="velocity", weighting="min_snr")
    objective.training_loss(net, process, x0, None, torch.tensor([0, 5, 122]), noise).mean().backward()


@pytest.mark.parametrize("prediction", kinds_of(Prediction))
@pytest.mark.parametrize("rule", kinds_of(X0Rule))
@pytest.mark.parametrize("time", [0, 500, 999])
def test_denoise_splits_x_whatever_the_rule(net, prediction, rule, time):
    level = PROCESS.level(time)
    x = batch()[1].double() * 3
    denoised = make_denoise(net.double(), Objective(prediction=prediction), PROCESS, rule)(x, level)
    torch.testing.assert_close(level.alpha * denoised.x0 + level.sigma * denoised.eps, x, rtol=1e-7, atol=1e-7)
    raw = prediction.x0(net(x, torch.full((3,), float(time))), x, level.alpha, level.sigma)
    torch.testing.assert_close(denoised.x0, rule.apply(raw))


def test_eps_is_the_networks_own_where_clipping_changed_nothing(net):
    level, x = PROCESS.level(300), batch()[1]
    net.conv.weight.data *= 0.01
    denoised = make_denoise(net, Objective(), PROCESS, CLIP)(x, level)
    output = net(x, torch.full((3,), 300.0))
    raw = (x - level.sigma * output) / level.alpha
    inside = raw.abs() <= 1
    assert inside.any() and not inside.all()
    assert torch.equal(denoised.eps[inside], output[inside])
    assert (denoised.eps[~inside] - output[~inside]).abs().min() > 0


def test_the_network_sees_one_float32_time_an_image(net):
    make_denoise(net, Objective(), PROCESS, CLIP)(batch()[1], PROCESS.level(999))
    _, time, label = net.calls[0]
    assert time.dtype == torch.float32
    assert time.tolist() == [999.0] * 3
    assert label is None


def test_the_variance_is_the_objectives():
    t, s = PROCESS.level(9), PROCESS.level(5)
    for kind in ("fixed_small", "fixed_large"):
        objective = Objective(variance=kind)
        denoised = make_denoise(lambda x, *_: x, objective, PROCESS, CLIP)(batch()[1], t)
        assert denoised.variance(t, s) == objective.variance.of(t, s, PROCESS, None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_networks_of_every_type_are_read_in_float32_at_least(net, dtype):
    level, x = PROCESS.level(300), batch()[1].double()
    exact = make_denoise(net.double(), Objective(), PROCESS, CLIP)(x, level)
    narrow = make_denoise(net.to(dtype), Objective(), PROCESS, CLIP)(x.float(), level)
    assert narrow.x0.dtype == narrow.eps.dtype == torch.float32
    tolerance = 30 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    torch.testing.assert_close(narrow.x0.double(), exact.x0, rtol=0, atol=tolerance)


class TestGuidance:
    labels = torch.tensor([2, 0, 3])
    level = PROCESS.level(600)

    def outputs(self, net, guidance, prediction="noise"):
        net.calls.clear()
        denoise = make_denoise(
            net,
            Objective(prediction=prediction),
            PROCESS,
            NONE,
            labels=self.labels,
            null_label=4,
            guidance=ClassifierFree(weight=guidance),
        )
        return denoise(batch()[1], self.level)

    @pytest.mark.parametrize(("guidance", "shown"), [(1.0, [2, 0, 3]), (0.0, [4, 4, 4])])
    def test_one_output_is_enough_at_0_and_1(self, net, guidance, shown):
        self.outputs(net, guidance)
        assert len(net.calls) == 1
        assert net.calls[0][2].tolist() == shown

    @pytest.mark.parametrize("guidance", [-0.5, 0.3, 3.0, 1.0000001, 1e-7])
    @pytest.mark.parametrize("prediction", ["noise", "data", "velocity"])
    def test_else_both_are_combined_in_one_call(self, net, guidance, prediction):
        guided = self.outputs(net, guidance, prediction)
        assert [len(x) for x, _, _ in net.calls] == [6]
        conditional, unconditional = self.outputs(net, 1.0, prediction), self.outputs(net, 0.0, prediction)
        for part in ("x0", "eps"):
            with_class, without = getattr(conditional, part), getattr(unconditional, part)
            expected = without + guidance * (with_class - without)
            torch.testing.assert_close(getattr(guided, part), expected, rtol=1e-4, atol=1e-4)

    def test_does_not_enlarge_the_rounding_of_half_precision(self):
        values = torch.tensor([0.3333, 0.3412], dtype=torch.bfloat16)

        def network(x, time, label):
            return values[(label != 4).long()].view(-1, 1, 1, 1).expand(x.shape)

        cfg = ClassifierFree(weight=7.3)
        denoise = make_denoise(network, Objective(), PROCESS, NONE, labels=self.labels, null_label=4, guidance=cfg)
        without, with_class = values.double().tolist()
        expected = without + 7.3 * (with_class - without)
        assert denoise(batch()[1], self.level).eps[0, 0, 0, 0].item() == pytest.approx(expected, rel=1e-6)

    def test_needs_labels(self, net):
        denoise = make_denoise(net, Objective(), PROCESS, CLIP, guidance=ClassifierFree(weight=2))
        with pytest.raises(ValueError, match=r"guidance = 2\.0 needs labels"):
            denoise(batch()[1], self.level)


@pytest.mark.parametrize(
    ("level", "scale"),
    [(PROCESS.level(999), 1.0), (PROCESS.level(500), 1.0), (PROCESS.level(0), 1.0), (Level(0.0, 1.0, 80.0), 80.00625)],
)
def test_the_start_has_the_variance_of_x_t(level, scale):
    z = batch()[1]
    torch.testing.assert_close(initial(level, lambda: z), scale * z, rtol=1e-6, atol=0)


@pytest.mark.parametrize("sampler", kinds_of(Sampler))
@pytest.mark.parametrize("dtype", DTYPES)
def test_generate_with_networks_of_every_type(net, sampler, dtype):
    draw = torch.Generator().manual_seed(1)
    denoise = make_denoise(net.to(dtype), Objective(), PROCESS, CLIP)
    with torch.inference_mode():
        levels = Spacing.choose("trailing").levels(PROCESS, 10)
        images = generate(denoise, sampler, levels, lambda: torch.randn(SHAPE, generator=draw))
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert len(net.calls) == sampler.calls(levels)


def test_ports():
    assert Objective().ports(3) == Ports(3, 3)
    assert Objective(self_conditioning=True, variance="learned_range").ports(3, vector=9) == Ports(6, 6, 9)


def test_defaults():
    objective = Objective()
    assert (objective.prediction.kind, objective.loss.kind, objective.variance.kind) == ("noise", "mse", "fixed_small")
    assert math.isclose(objective.label_dropout, 0.1)


class TestContinuousProcesses:
    """What the network sees, in training and in sampling, is the same thing."""

    @pytest.mark.parametrize("process", ["edm", "flow", {"kind": "ddpm", "zero_terminal_snr": True}])
    @pytest.mark.parametrize("prediction", ["data", "velocity", "flow", "edm"])
    def test_training_and_denoise_show_the_network_the_same(self, net, process, prediction):
        process, objective = Process.choose(process), Objective(prediction=prediction)
        time = process.at(torch.tensor([0.2, 0.7, 1.0], dtype=torch.float64))
        x0, noise, _ = batch(torch.float64)
        objective.training_loss(net.double(), process, x0, None, time, noise)
        shown, seen_time, _ = net.calls[-1]
        for i in range(3):
            level = process.level(time[i].item())
            x = level.alpha * x0[i : i + 1] + level.sigma * noise[i : i + 1]
            make_denoise(net, objective, process, NONE)(x, level)
            x_again, time_again, _ = net.calls[-1]
            torch.testing.assert_close(x_again, shown[i : i + 1])
            torch.testing.assert_close(time_again, seen_time[i : i + 1])

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_strong_noise_is_scaled_before_it_is_rounded(self, net, dtype):
        process = Process.choose({"kind": "edm", "sigma_max": 1e5})
        x = 1e5 * batch()[1]
        denoise = make_denoise(net.to(dtype), Objective(prediction="edm"), process, NONE)
        denoised = denoise(x, process.level(1e5))
        assert denoised.x0.isfinite().all()
        assert net.calls[-1][0].abs().max() < 10

    @pytest.mark.parametrize("process", ["edm", "flow"])
    @pytest.mark.parametrize("prediction", ["data", "velocity", "flow", "edm"])
    @pytest.mark.parametrize("weighting", kinds_of(LossWeighting))
    def test_losses_are_finite_at_both_ends(self, net, process, prediction, weighting):
        process = Process.choose(process)
        x0, noise, _ = batch()
        time = process.at(torch.tensor([0.01, 0.5, 1.0], dtype=torch.float64))
        objective = Objective(prediction=prediction, weighting=weighting)
        loss = objective.training_loss(net, process, x0, torch.tensor([0, 4, 1]), time, noise)
        loss.mean().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())

    def test_edm_is_the_papers_loss(self, net):
        """Karras et al. 2022, eq. 8."""
        process, objective = Process.choose("edm"), Objective(prediction="edm", weighting="edm")
        x0, noise, _ = batch(torch.float64)
        sigma = torch.tensor([0.01, 1.0, 40.0], dtype=torch.float64)
        found = objective.training_loss(net.double(), process, x0, None, sigma, noise)
        s = sigma.view(3, 1, 1, 1)
        y = x0 + s * noise
        output = net(y / (s**2 + 0.25).sqrt(), (sigma.log() / 4).float())
        denoised = 0.25 / (s**2 + 0.25) * y + s * 0.5 / (s**2 + 0.25).sqrt() * output
        expected = ((s**2 + 0.25) / (s * 0.5) ** 2 * (denoised - x0) ** 2).flatten(1).mean(1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    def test_rectified_flow_is_the_papers_loss(self, net):
        """Liu et al. 2023, eq. 1, with time running the other way."""
        process, objective = Process.choose("flow"), Objective(prediction="flow")
        x0, noise, _ = batch(torch.float64)
        time = torch.tensor([0.01, 0.4, 1.0], dtype=torch.float64)
        found = objective.training_loss(net.double(), process, x0, None, time, noise)
        t = time.view(3, 1, 1, 1)
        output = net((1 - t) * x0 + t * noise, (1000 * time).float())
        torch.testing.assert_close(found, ((output - (noise - x0)) ** 2).flatten(1).mean(1))
