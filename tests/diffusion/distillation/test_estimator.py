"""Estimates at a level for each image say what `make_denoise` says at one level for all."""

import pytest
import torch

from diffkit.diffusion.denoiser import make_denoise
from diffkit.diffusion.distillation.estimator import Estimate, Estimator, Places, step_to, x0_of_step
from diffkit.diffusion.guidance import ClassifierFree
from diffkit.diffusion.process import per_image
from diffkit.diffusion.x0_rule import X0Rule

LABELS = torch.tensor([0, 1, 2])


def network(x, time, labels):
    return torch.tanh(1.7 * x + time.view(-1, 1, 1, 1) / 50 - (0 if labels is None else labels.view(-1, 1, 1, 1) / 3))


@pytest.mark.parametrize("rule", ["none", "clip", {"kind": "clip", "keeps_noise": True}])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_as_the_denoiser_of_sampling(pair, rule, guidance):
    process, objective = pair
    rule = X0Rule.choose(rule)
    levels = [process.level(time) for time in ((40, 9, 1) if process.kind == "ddpm" else (0.9, 0.3, 0.01))]
    x = 2 * torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    estimate = Estimator(network, objective, process, labels=LABELS, guidance=guidance, no_class=3, x0_rule=rule)(
        x, Places.of(levels, x.device)
    )
    for row, level in enumerate(levels):
        denoise = make_denoise(
            network,
            objective,
            process,
            rule,
            labels=LABELS[[row]],
            null_label=3,
            guidance=ClassifierFree(weight=guidance),
        )
        denoised = denoise(x[[row]], level)
        torch.testing.assert_close(estimate.x0[[row]], denoised.x0)
        torch.testing.assert_close(estimate.eps[[row]], denoised.eps)


def test_the_error_is_that_of_training_where_the_target_is_the_image(pair):
    process, objective = pair
    time = torch.tensor([40, 9, 1]) if process.kind == "ddpm" else torch.tensor([0.9, 0.3, 0.01]).double()
    draw = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(3, 1, 2, 2, generator=draw, dtype=torch.float64) for _ in range(2))
    levels = [process.level(value) for value in time.tolist()]
    error = Estimator(network, objective, process).error(
        process.add_noise(x0, noise, time), Places.of(levels, x0.device), x0
    )
    expected = objective.training_loss(network, process, x0, None, time, noise)
    torch.testing.assert_close(error, expected, rtol=1e-5, atol=1e-8)


def test_x0_of_a_step_undoes_the_step(pair):
    process, _ = pair
    times = (40, 9, 1) if process.kind == "ddpm" else (0.9, 0.3, 0.01)
    levels = Places.of([process.level(time) for time in times], torch.device("cpu"))
    t, s = levels.at(torch.tensor([0, 0, 1])), levels.at(torch.tensor([1, 2, 2]))
    draw = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(3, 1, 2, 2, generator=draw, dtype=torch.float64) for _ in range(2))
    x = per_image(t.alpha, x0) * x0 + per_image(t.sigma, x0) * eps
    torch.testing.assert_close(x0_of_step(x, step_to(Estimate(x0, eps), s), t, s), x0)
