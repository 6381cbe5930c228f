"""What every sampler keeps to, on every kind of process: variance-preserving, variance-exploding and flow."""

import functools
import math
from itertools import pairwise

import pytest
import torch

from diffkit.diffusion.denoise import Denoised
from diffkit.diffusion.levels import Levels
from diffkit.diffusion.oracles import gaussian, gaussian_ode_end, one_point
from diffkit.diffusion.process import CLEAN, Level, Process, half_log_snr
from diffkit.diffusion.samplers.base import Sampler
from diffkit.diffusion.samplers.polynomial import exponential_moments, weights
from diffkit.diffusion.spacing import Spacing
from diffkit.random import ImageNoise
from diffkit.testing import kinds_of

SAMPLERS = kinds_of(Sampler)
COUNTS = [1, 2, 3, 5, 10, 50]
SHAPE = (2, 1, 2, 2)
M, S = 0.4, 0.5


def vp_at(lam):
    alpha = 1 / math.sqrt(1 + math.exp(-2 * lam))
    return Level(-lam, alpha, alpha * math.exp(-lam))


def ve_at(lam):
    return Level(-lam, 1.0, math.exp(-lam))


def flow_at(lam):
    time = 1 / (1 + math.exp(lam))
    return Level(time, 1 - time, time)


def uniform(at, count, start=-4.0, end=4.0):
    """Levels at equal distances in lambda, of a process that has every level."""
    stops = [start + (end - start) * i / max(count - 1, 1) for i in range(count)]
    return Levels([*(at(lam) for lam in stops), CLEAN], at)


def flow_from_pure_noise(count):
    times = [1 - i / count for i in range(count)]
    return Levels([*(Level(time, 1 - time, time) for time in times), CLEAN], flow_at)


@functools.cache
def ways(count):
    small = Process.choose({"kind": "ddpm", "steps": 60})
    found = {
        "vp": uniform(vp_at, count),
        "ve": uniform(ve_at, count),
        "flow": uniform(flow_at, count),
        "flow from pure noise": flow_from_pure_noise(count),
        "plain list": list(uniform(vp_at, count)),
    }
    for spacing in sorted(Spacing.kinds.keys() - {"list"}):  # a list has one number of times only
        found[f"60 times {spacing}"] = Spacing.choose(spacing).levels(small, count)
    return found.items()


class Stream:
    """Standard normal float64 noise, counting its draws."""

    def __init__(self, shape=SHAPE, dtype=torch.float64):
        self.draws = 0
        self._shape, self._dtype = shape, dtype
        self._generator = torch.Generator().manual_seed(7)

    def __call__(self):
        self.draws += 1
        return torch.randn(self._shape, generator=self._generator, dtype=torch.float64).to(self._dtype)


def start(levels, z):
    """Standardized z to the exact distribution of Gaussian data at the first level."""
    return levels[0].alpha * M + math.hypot(levels[0].alpha * S, levels[0].sigma) * z


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


CHURNED = [
    pytest.param(Sampler.choose({"kind": kind, "s_churn": 20.0, "s_tmin": 0.1, "s_tmax": 30.0}), id=f"{kind} churned")
    for kind in ("euler", "heun")
]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("sampler", [*SAMPLERS, *CHURNED])
def test_every_sampler_ends_at_the_one_point_on_every_way(sampler, count):
    point = normal(1, 1, 2, 2).clamp(-1, 1)
    for name, levels in ways(count):
        calls = 0

        def watched(x, level, name=name):
            nonlocal calls
            calls += 1
            assert x.isfinite().all(), name
            assert level.sigma > 0, name
            return one_point(point)(x, level)

        noise = Stream()
        end = sampler.sample(watched, levels, start(levels, noise()), noise)
        torch.testing.assert_close(end, point.expand(SHAPE), rtol=0, atol=1e-9, msg=lambda text, at=name: at + text)
        assert sampler.calls(levels) == calls, name
        assert calls >= count, name


@pytest.mark.parametrize("sampler", [*SAMPLERS, *CHURNED])
def test_gaussian_data_stay_near_on_every_way(sampler):
    for name, levels in ways(50):
        x = start(levels, normal(*SHAPE))
        end = sampler.sample(gaussian(M, S), levels, x, Stream())
        assert (end - M).abs().max() < 5 * S, name


@pytest.mark.parametrize("sampler", [*SAMPLERS, *CHURNED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_is_kept_and_the_result_is_that_of_float64(sampler, dtype):
    levels = Spacing.choose("trailing").levels(Process.choose("ddpm"), 10)
    x = normal(*SHAPE)
    exact = sampler.sample(gaussian(M, S), levels, x, Stream())
    end = sampler.sample(gaussian(M, S), levels, x.to(dtype), Stream(dtype=dtype))
    assert end.dtype == dtype
    torch.testing.assert_close(end.double(), exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", [*SAMPLERS, *CHURNED])
def test_an_image_is_the_same_in_every_batch(sampler):
    levels = Spacing.choose("trailing").levels(Process.choose("ddpm"), 10)

    def images(numbers):
        noise = ImageNoise(0, numbers, (1, 4, 4))
        return sampler.sample(gaussian(M, S), levels, noise(), noise)

    together = images([0, 1, 2])
    for i in range(3):
        torch.testing.assert_close(images([i]), together[i : i + 1], rtol=1e-6, atol=1e-6)


N = 20
CALLS = [
    ("ddpm", N),
    ("euler", N),
    ("heun", 2 * N - 1),
    ("dpm_2", 2 * N - 1),
    ("dpm_2_ancestral", 2 * N - 1),
    ("dpmpp_2s_ancestral", 2 * N - 1),
    ("dpmpp_sde", 2 * N - 1),
    ("dpmpp_2m", N),
    ("dpmpp_3m_sde", N),
    ("unipc", N),
    ("deis", N),
    ("lms", N),
    ("ipndm", N),
    ("pndm", N + 1),
    ({"kind": "pndm", "start": "runge_kutta"}, N + 9),
    ({"kind": "pndm", "order": 2, "start": "runge_kutta"}, N + 3),
    ("dpmpp_singlestep", N),
    ({"kind": "dpmpp_singlestep", "order": 3}, N),
    ("consistency", N),
    ("tcd", N),
    ({"kind": "restart", "restarts": 3, "inner_steps": 2}, 2 * N - 1 + 12),
    ({"kind": "predictor_corrector", "corrections": 2}, N + 2 * (N - 1)),
]


@pytest.mark.parametrize(("kind", "calls"), CALLS, ids=str)
def test_the_number_of_network_calls(kind, calls):
    assert Sampler.choose(kind).calls(uniform(vp_at, N)) == calls


def test_where_the_process_has_no_level_between_single_step_solvers_are_first_order():
    levels = Spacing.choose("trailing").levels(Process.choose({"kind": "ddpm", "steps": 30}), 30)
    x = normal(*SHAPE)
    expected = Sampler.choose("euler").sample(gaussian(M, S), levels, x, Stream())
    for kind in ("dpm_2", {"kind": "dpmpp_sde", "eta": 0.0}, {"kind": "dpmpp_2s_ancestral", "eta": 0.0}):
        sampler = Sampler.choose(kind)
        assert sampler.calls(levels) == 30
        torch.testing.assert_close(sampler.sample(gaussian(M, S), levels, x, Stream()), expected)


# --- orders of convergence


def graded(at, count, start=-4.0, end=4.0):
    """Equal distances in lambda, but for tiny first steps: there the first orders' errors don't show."""
    h = (end - start) / count
    tiny = [h**2 * i / 4 for i in range(4)]
    stops = [start + at_start for at_start in tiny]
    stops += [stops[-1] + (end - stops[-1]) * i / count for i in range(1, count + 1)]
    return Levels([*(at(lam) for lam in stops), CLEAN], at)


def exact_ode(x, level, stop):
    """Return where the probability-flow ODE of Gaussian data takes x: it keeps the standardized value."""
    z = (gaussian_ode_end(x, level, M, S) - M) / S
    return stop.alpha * M + math.hypot(stop.alpha * S, stop.sigma) * z


ORDERS = [
    ("ddim", 1),
    ("euler", 1),
    ({"kind": "euler_ancestral", "eta": 0.0}, 1),
    ("heun", 2),
    ("dpm_2", 2),
    ({"kind": "dpm_2_ancestral", "eta": 0.0}, 2),
    ({"kind": "dpmpp_2s_ancestral", "eta": 0.0}, 2),
    ({"kind": "dpmpp_sde", "eta": 0.0}, 2),
    ("dpmpp_2m", 2),
    ({"kind": "dpmpp_2m", "solver": "heun"}, 2),
    ({"kind": "dpmpp_2m_sde", "eta": 0.0}, 2),
    ("dpmpp_3m", 3),
    ({"kind": "dpmpp_3m_sde", "eta": 0.0}, 3),
    *(({"kind": "unipc", "order": order, "b": b}, order + 1) for order in (1, 2, 3) for b in ("bh1", "bh2")),
    *(({"kind": kind, "order": order}, order) for kind in ("deis", "lms") for order in (1, 2, 3, 4)),
    *(({"kind": "ipndm", "order": order}, min(order, 2)) for order in (1, 2, 3, 4)),
    *(({"kind": "pndm", "order": order, "start": "runge_kutta"}, min(order, 2)) for order in (1, 2, 4)),
    *(({"kind": "pndm", "order": order, "start": "heun"}, min(order, 2)) for order in (2, 4)),
    *(({"kind": "dpmpp_singlestep", "solver": solver}, 2) for solver in ("midpoint", "heun")),
    ({"kind": "tcd", "gamma": 0.0}, 1),
]


@pytest.mark.parametrize("at", [vp_at, ve_at, flow_at])
@pytest.mark.parametrize(("kind", "order"), ORDERS, ids=str)
def test_order_of_convergence_on_gaussian_data(kind, order, at):
    """The largest error on the way, in standard deviations, falls like h^p, up to where the order falls on purpose."""
    errors = []
    for count in (40, 80, 160):
        levels, seen = graded(at, count), {}

        def watched(x, level, seen=seen):
            seen.setdefault(level, x)
            return gaussian(M, S)(x, level)

        x = start(levels, normal(*SHAPE))
        Sampler.choose(kind).sample(watched, levels, x, Stream())
        way = levels[: -1 - count // 8]
        errors.append(
            max(
                (seen[level] - exact_ode(x, levels[0], level)).abs().max().item()
                / math.hypot(level.alpha * S, level.sigma)
                for level in way
            )
        )
    observed = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert observed[-1] == pytest.approx(order, abs=0.35), (observed, errors)


# --- stochastic samplers: every step is affine in x and the noise, so the result's mean and variance are exact

STOCHASTIC = [
    ("ddpm", 1),
    ({"kind": "ddim", "eta": 1.0}, 1),
    ("euler_ancestral", 1),
    ("dpm_2_ancestral", None),
    ("dpmpp_2s_ancestral", None),
    ("dpmpp_sde", 2),
    ({"kind": "dpmpp_sde", "eta": 0.5}, 2),
    ("dpmpp_2m_sde", 2),
    ({"kind": "dpmpp_2m_sde", "solver": "heun"}, 2),
    ({"kind": "dpmpp_2m_sde", "eta": 0.5}, 2),
    ("dpmpp_3m_sde", None),
    ({"kind": "euler", "s_churn": 20.0, "s_tmin": 0.05}, None),
    ({"kind": "heun", "s_churn": 20.0, "s_tmin": 0.05}, None),
]


DATA = gaussian(M, S)


def distribution(sampler, levels, stop, model=DATA):
    """Return mean and standard deviation of the x that the network first sees at a level, exactly."""
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    draws = [x]

    def noise():
        draws.append(torch.zeros(1, 1, 1, 1, dtype=torch.float64, requires_grad=True))
        return draws[-1]

    seen = {}

    def watched(x, level):
        seen.setdefault(level, x)
        return model(x, level)

    sampler.sample(watched, levels, start(levels, x), noise)
    slopes = torch.autograd.grad(seen[stop], draws, allow_unused=True)
    return seen[stop].item(), math.sqrt(sum(slope.item() ** 2 for slope in slopes if slope is not None))


@pytest.mark.parametrize("at", [vp_at, ve_at, flow_at])
@pytest.mark.parametrize(("kind", "order"), STOCHASTIC, ids=str)
def test_stochastic_samplers_converge_to_the_exact_distribution(kind, order, at):
    errors = []
    for count in (100, 200, 400):
        levels = uniform(at, count)
        stop = levels[int(count * 0.95)]
        mean, std = distribution(Sampler.choose(kind), levels, stop)
        exact = math.hypot(stop.alpha * S, stop.sigma)
        errors.append(abs(mean - stop.alpha * M) + abs(std - exact))
    assert errors[-1] < (0.03 if order == 1 else 0.01), errors
    assert errors[-1] < 0.6 * errors[-2], errors
    if order:
        assert math.log2(errors[-2] / errors[-1]) == pytest.approx(order, abs=0.35), errors


@pytest.mark.parametrize("at", [vp_at, ve_at, flow_at])
def test_restart_has_the_exact_distribution(at):
    levels = uniform(at, 200)
    stop = levels[190]
    mean, std = distribution(Sampler.choose({"kind": "restart", "inner_steps": 20}), levels, stop)
    assert mean == pytest.approx(stop.alpha * M, abs=1e-3)
    assert std == pytest.approx(math.hypot(stop.alpha * S, stop.sigma), abs=1e-3)


@pytest.mark.parametrize("at", [vp_at, ve_at, flow_at])
def test_predictor_corrector_has_the_distribution(at):
    shape = (1, 1, 100, 100)
    levels, noise = uniform(at, 100), Stream(shape)
    sampler = Sampler.choose({"kind": "predictor_corrector", "snr": 0.1})
    end = sampler.sample(gaussian(M, S), levels, start(levels, noise()), noise)
    assert end.mean().item() == pytest.approx(M, abs=0.03)
    assert end.std().item() == pytest.approx(S, rel=0.04)


def test_langevin_steps_correct_a_wrong_distribution():
    """At one level, steps of the corrector alone lead to the level's own distribution, whatever x is scaled by."""
    shape = (1, 1, 100, 100)
    sampler = Sampler.choose({"kind": "predictor_corrector", "corrections": 300, "snr": 0.1})
    for at in (vp_at, ve_at):
        noise = Stream(shape)
        levels = [at(-4.0), at(-0.5), CLEAN]
        seen = []

        def watched(x, level, seen=seen):
            seen.append(x)
            return gaussian(M, S)(x, level)

        sampler.sample(watched, levels, torch.full(shape, 9.0, dtype=torch.float64), noise)
        x, level = seen[-1], levels[1]
        assert x.mean().item() == pytest.approx(level.alpha * M, abs=0.05 * level.sigma)
        assert x.std().item() == pytest.approx(math.hypot(level.alpha * S, level.sigma), rel=0.04)


# --- consistency models


def consistent(x, level):
    """Return the exact consistency model of Gaussian data: its x0 is where the ODE ends."""
    x0 = gaussian_ode_end(x, level, M, S)
    return Denoised(x0, (x - level.alpha * x0) / level.sigma, lambda t, s: 0.0)


@pytest.mark.parametrize("count", [1, 2, 5, 20])
@pytest.mark.parametrize("at", [vp_at, ve_at, flow_at])
def test_a_consistency_model_keeps_the_exact_distribution_in_any_number_of_steps(at, count):
    levels = uniform(at, count)
    sampler = Sampler.choose("consistency")
    for stop in levels[1:-1]:
        mean, std = distribution(sampler, levels, stop, consistent)
        assert mean == pytest.approx(stop.alpha * M, abs=1e-12)
        assert std == pytest.approx(math.hypot(stop.alpha * S, stop.sigma), rel=1e-12)
    x = start(levels, normal(*SHAPE))
    end = sampler.sample(consistent, levels, x, Stream())
    if count == 1:
        torch.testing.assert_close(end, gaussian_ode_end(x, levels[0], M, S))


@pytest.mark.parametrize("end", [CLEAN, ve_at(3.0)], ids=["clean", "least"])
def test_consistency_sampling_draws_all_noise_anew_over_that_of_its_end(end):
    levels = [*uniform(ve_at, 4, end=2.0)[:-1], end]
    noise, drawn, seen = Stream(), [], []

    def keeping():
        drawn.append(noise())
        return drawn[-1]

    def watched(x, level):
        seen.append(x)
        return one_point(torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64))(x, level)

    Sampler.choose("consistency").sample(watched, levels, start(levels, normal(*SHAPE)), keeping)
    assert len(drawn) == 3
    for x, level, z in zip(seen[1:], levels[1:], drawn, strict=False):
        torch.testing.assert_close(x, 0.3 + math.sqrt(level.sigma**2 - end.sigma**2) * z)


def test_the_single_step_solver_of_third_order_is_one_where_its_steps_begin():
    """Within a step, the levels that only the estimates are made at have lower orders."""
    for at in (vp_at, ve_at, flow_at):
        errors = []
        for steps in (20, 40, 80):
            levels, seen = uniform(at, 3 * steps + 1), {}

            def watched(x, level, seen=seen):
                seen[level] = x
                return gaussian(M, S)(x, level)

            x = start(levels, normal(*SHAPE))
            Sampler.choose({"kind": "dpmpp_singlestep", "order": 3}).sample(watched, levels, x, Stream())
            begins = levels[:-1:3]
            errors.append(max((seen[level] - exact_ode(x, levels[0], level)).abs().max().item() for level in begins))
        assert math.log2(errors[-2] / errors[-1]) == pytest.approx(3, abs=0.35), errors


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_tcd_is_between_ddim_and_consistency_sampling(gamma):
    process = Process.choose("ddpm")
    levels = Spacing.choose("trailing").levels(process, 4)
    seen, noise = [], Stream()

    def watched(x, level):
        seen.append((x, level))
        return gaussian(M, S)(x, level)

    x = start(levels, normal(*SHAPE))
    end = Sampler.choose({"kind": "tcd", "gamma": gamma}).sample(watched, levels, x, noise)
    if gamma != 0.3:
        other = Sampler.choose("ddim" if gamma == 0 else "consistency")
        torch.testing.assert_close(end, other.sample(gaussian(M, S), levels, x, Stream()))
        return
    below = process.level(524)  # 0.7 of the way from the clean end to time 749: -1 + 0.7 * 750
    estimate = gaussian(M, S)(x, levels[0])
    down = below.alpha * estimate.x0 + below.sigma * estimate.eps
    ratio = levels[1].alpha / below.alpha
    expected = ratio * down + math.sqrt(levels[1].sigma ** 2 - (ratio * below.sigma) ** 2) * Stream()()
    torch.testing.assert_close(seen[1][0], expected)
    assert noise.draws == 3


@pytest.mark.parametrize("between", ["log_snr", "ratio"])
def test_the_middle_of_dpm_2_may_be_exact(between):
    """Then there is one between neighbouring times too: the network sees the time where the log-SNR is linear."""
    levels = Spacing.choose("trailing").levels(Process.choose({"kind": "ddpm", "between": between}), 1000)
    sampler = Sampler.choose({"kind": "dpm_2", "middle": "exact"})
    assert sampler.calls(levels) == 1999
    seen = sampler.levels_called(levels)
    for t, m, s in zip(seen[:20:2], seen[1:20:2], seen[2:21:2], strict=True):
        assert half_log_snr(m) == pytest.approx((half_log_snr(t) + half_log_snr(s)) / 2)
        assert m.time == pytest.approx((t.time + s.time) / 2)


# --- settings


def test_churn_adds_the_noise_of_the_level_that_it_raises_to():
    levels = uniform(ve_at, 5)
    seen = []

    def watched(x, level):
        seen.append((level, x))
        return one_point(torch.zeros(1, dtype=torch.float64))(x, level)

    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    ones = torch.ones_like(x)
    sampler = Sampler.choose({"kind": "euler", "s_churn": 1.0, "s_noise": 2.0, "s_tmin": 0.5, "s_tmax": 10.0})
    sampler.sample(watched, levels, x, lambda: ones)
    raised = [level.sigma / visited.sigma for (level, _), visited in zip(seen, levels, strict=False)]
    assert raised == pytest.approx([1, 1.2, 1.2, 1, 1])  # e^4 is above s_tmax, e^-2 and e^-4 below s_tmin
    assert seen[1][1].item() == pytest.approx(2 * levels[1].sigma * math.sqrt(1.2**2 - 1))


def test_churn_never_more_than_doubles_the_variance():
    levels, seen = uniform(ve_at, 5), []

    def watched(x, level):
        seen.append(level)
        return one_point(torch.zeros(1, dtype=torch.float64))(x, level)

    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    Sampler.choose({"kind": "heun", "s_churn": 1e9}).sample(watched, levels, x, lambda: x)
    assert [level.sigma for level in seen[::2]] == pytest.approx([level.sigma * 2**0.5 for level in levels[:-1]])


def test_restart_goes_up_once_for_each_restart():
    visited = []

    def watched(x, level):
        visited.append(half_log_snr(level))
        return gaussian(M, S)(x, level)

    levels = uniform(vp_at, 21)  # lambda = -4, -3.6, ...
    sampler = Sampler.choose({"kind": "restart", "low": 0.1, "high": 0.5, "restarts": 3, "inner_steps": 3})
    sampler.sample(watched, levels, normal(*SHAPE), Stream())
    ups = [up for up in pairwise(visited) if up[1] < up[0] - 1e-9]
    assert len(ups) == 3
    for up in ups:
        assert up == pytest.approx((2.4, 2.4 - math.log(5)))
    assert len(visited) == 2 * 21 - 1 + 3 * 2 * 3


def test_restart_refuses_an_empty_interval():
    with pytest.raises(ValueError, match=r"low = 0.5 must be smaller than high = 0.3"):
        Sampler.choose({"kind": "restart", "low": 0.5})


# --- mathematics of the weights


@pytest.mark.parametrize("h", [-6.0, -1.01, -0.99, -1e-3, 1e-6, 0.3, 0.999, 1.001, 7.0])
def test_exponential_moments_are_the_integrals(h):
    tau = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    kernel = h * torch.exp(-h * (1 - tau))
    expected = [(kernel * tau**k).mean().item() for k in range(4)]
    assert exponential_moments(h, 4) == pytest.approx(expected, rel=1e-7)


def test_weights_integrate_polynomials_exactly():
    nodes = [0.0, -0.7, -1.1, -4.0]
    found = weights(nodes, exponential_moments(0.8, 4))
    for k in range(4):
        assert sum(w * node**k for w, node in zip(found, nodes, strict=True)) == pytest.approx(
            exponential_moments(0.8, 4)[k], rel=1e-12
        )


# --- the levels


def test_the_middle_is_the_nearest_level_of_the_process():
    process = Process.choose("ddpm")
    levels = Spacing.choose("trailing").levels(process, 4)
    m = levels.middle(levels[1], levels[2])
    middle = (half_log_snr(levels[1]) + half_log_snr(levels[2])) / 2
    assert m.time == int(m.time)
    for neighbour in (m.time - 1, m.time + 1):
        other = half_log_snr(process.level(int(neighbour)))
        assert abs(half_log_snr(m) - middle) <= abs(other - middle)


def test_there_is_no_middle_at_the_ends_nor_between_neighbours():
    levels = Spacing.choose("trailing").levels(Process.choose("ddpm"), 1000)
    assert levels.middle(levels[3], levels[4]) is None
    assert levels.middle(levels[-2], CLEAN) is None
    pure = flow_from_pure_noise(4)
    assert pure.middle(pure[0], pure[1]) is None
