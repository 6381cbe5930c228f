"""Metrics against their definitions, written out with other operations, and against known distributions."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffkit.evaluation.base import FeatureMetric, Jackknife, Metric
from diffkit.evaluation.features import Extractor
from diffkit.evaluation.frechet import frechet_distance, frechet_jackknife
from diffkit.evaluation.kernel import kernel_distance
from diffkit.evaluation.manifold import DensityCoverage, PrecisionRecall
from diffkit.testing import kinds_of


def draw(count, dimensions, seed=0, shift=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return scale * torch.randn(count, dimensions, generator=generator, dtype=torch.float64) @ mix + shift


@pytest.mark.parametrize("metric", [p for p in kinds_of(Metric) if isinstance(p.values[0], FeatureMetric)])
class TestEveryMetric:
    def test_does_not_depend_on_the_order(self, metric):
        x, y = draw(40, 5), draw(50, 5, seed=1, shift=0.3)
        found, shuffled = metric.scores(x, y), metric.scores(x.flip(0), y.flip(0))
        assert {name: score.value for name, score in found.items()} == pytest.approx(
            {name: score.value for name, score in shuffled.items()}, rel=1e-9
        )

    def test_float32_features_give_the_same(self, metric):
        x, y = draw(40, 5).float(), draw(50, 5, seed=1, shift=0.3).float()
        found, exact = metric.scores(x, y), metric.scores(x.double(), y.double())
        assert {name: score.value for name, score in found.items()} == {name: s.value for name, s in exact.items()}

    @pytest.mark.parametrize(
        ("x", "y", "message"),
        [
            (torch.randn(1, 3), torch.randn(9, 3), "the generated features should be"),
            (torch.randn(9, 3), torch.randn(0, 3), "the real features should be"),
            (torch.randn(9, 3), torch.randn(9, 4), "features of 3 and of 4 numbers"),
            (torch.full((9, 3), math.nan), torch.randn(9, 3), "not all finite"),
        ],
    )
    def test_what_cannot_be_compared(self, metric, x, y, message):
        with pytest.raises(ValueError, match=message):
            metric.scores(x, y)


class TestFrechet:
    @pytest.mark.parametrize(("n", "m", "d"), [(60, 80, 4), (5, 80, 9), (6, 4, 9), (2, 2, 9), (30, 30, 30)])
    def test_is_the_formula(self, n, m, d):
        x, y = draw(n, d).numpy(), draw(m, d, seed=1, shift=0.5, scale=1.3).numpy()
        a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
        # the trace of the formula's root, in a form that rank-deficient covariances leave real
        values, vectors = np.linalg.eigh(a)
        half = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
        root = np.sqrt(np.clip(np.linalg.eigvalsh(half @ b @ half), 0, None)).sum()
        expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root
        assert frechet_distance(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-5)

    @given(st.floats(-3, 3), st.floats(0.1, 4))
    def test_one_dimension_in_closed_form(self, shift, scale):
        x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
        y = scale * x + shift
        std = x.std().item()
        assert frechet_distance(x, y) == pytest.approx(shift**2 + (std * (scale - 1)) ** 2, rel=1e-9, abs=1e-12)

    @pytest.mark.parametrize(("n", "d"), [(40, 6), (4, 6)])
    def test_equal_features_have_no_distance(self, n, d):
        x = draw(n, d)
        assert frechet_distance(x, x) == pytest.approx(0, abs=1e-11)
        rotation = torch.linalg.qr(draw(d, d, seed=3)).Q
        y = draw(n, d, seed=1)
        assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(frechet_distance(x, y), rel=1e-9)

    def test_is_torchmetrics(self):
        fid = pytest.importorskip("torchmetrics.image.fid")
        x, y = draw(50, 6), draw(60, 6, seed=1, shift=1)
        theirs = fid._compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
        assert frechet_distance(x, y) == pytest.approx(theirs.item(), rel=1e-8)

    def test_influences_are_derivatives_by_the_weights_of_images(self):
        x, y = draw(9, 4), draw(12, 4, seed=1, shift=0.5)

        def weighted(step, image):
            """The distance from x's distribution, in which one image's weight grew by a step."""
            weights = torch.full((9,), (1 - step) / 9, dtype=torch.float64)
            weights[image] += step
            centred = x - weights @ x
            mean, cov = weights @ x, (weights[:, None] * centred).T @ centred * 9 / 8
            eigenvalues = np.linalg.eigvals((cov @ y.T.cov()).numpy()).real
            root = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
            return float((mean - y.mean(0)).square().sum() + cov.trace() + y.T.cov().trace()) - 2 * root

        found = frechet_jackknife(x, y)
        for image in range(9):
            slope = (weighted(1e-5, image) - weighted(-1e-5, image)) / 2e-5
            assert (found.value - found.without_generated[image]).item() * 8 == pytest.approx(slope, rel=1e-5)
        mirrored = frechet_jackknife(y, x)
        assert torch.allclose(mirrored.without_real, found.without_generated)

    @pytest.mark.parametrize(("n", "d"), [(60, 3), (40, 40)])
    def test_the_error_is_the_spread_over_sets(self, n, d):
        y = draw(300, d, seed=999)
        found = [frechet_jackknife(draw(n, d, seed=i, shift=0.3, scale=1.2), y) for i in range(100)]
        spread = np.std([f.value for f in found])
        of_x = [Jackknife(0.0, f.without_generated, torch.zeros(2)).error for f in found]
        assert 0.8 * spread < math.sqrt(np.mean(np.square(of_x))) < 1.5 * spread


class Means(torch.nn.Module):
    """Features of images: the means of quarters of them, which torchmetrics shows as bytes, in RGB."""

    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images.double() / 255, 2).flatten(1)


class MeansFeatures(Extractor):
    def features(self, images):
        return Means()(images.expand(-1, 3, -1, -1)).float()


@pytest.mark.parametrize("channels", [1, 3])
def test_whole_images_score_as_with_torchmetrics(channels, monkeypatch):
    """On shared features, in batches the last of which is partial, grey and in color; fewer images than features."""
    fid = pytest.importorskip("torchmetrics.image.fid")
    kid = pytest.importorskip("torchmetrics.image.kid")
    monkeypatch.setattr("diffkit.evaluation.features.AT_ONCE", 4)
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (11, channels, 8, 8), generator=generator, dtype=torch.uint8)
    made = torch.randint(30, 200, (11, channels, 8, 8), generator=generator, dtype=torch.uint8)
    theirs = [
        fid.FrechetInceptionDistance(Means(), input_img_size=(3, 8, 8)).set_dtype(torch.float64),
        kid.KernelInceptionDistance(Means(), subsets=1, subset_size=11).set_dtype(torch.float64),
    ]
    for metric in theirs:
        for images, is_real in ((real, True), (made, False)):
            for part in images.expand(-1, 3, -1, -1).split(4):
                metric.update(part, real=is_real)
    x, y = (MeansFeatures().extract(images) for images in (made, real))
    assert x.shape == (11, 12)
    assert frechet_distance(x, y) == pytest.approx(theirs[0].compute().item(), rel=1e-5)
    assert kernel_distance(x, y).value == pytest.approx(theirs[1].compute()[0].item(), rel=1e-5)


class TestDifferences:
    def test_are_the_jackknifes_of_the_difference(self):
        x, z, y = draw(7, 3), draw(7, 3, seed=2, scale=1.5), draw(5, 3, seed=1)
        difference = kernel_distance(x, y).jackknife - kernel_distance(z, y).jackknife
        assert difference.value == kernel_distance(x, y).value - kernel_distance(z, y).value

        def without(i):
            return torch.arange(7) != i

        values = [kernel_distance(x[without(i)], y).value - kernel_distance(z[without(i)], y).value for i in range(7)]
        assert difference.without_generated.tolist() == pytest.approx(values, rel=1e-9, abs=1e-12)

    @pytest.mark.parametrize("metric", [frechet_jackknife, lambda x, y: kernel_distance(x, y).jackknife])
    def test_know_what_two_sets_have_in_common(self, metric):
        y = draw(80, 4, seed=1)
        pairs = []
        for seed in range(40):
            x = draw(60, 4, seed=2 + seed)
            pairs.append((metric(1.2 * x, y), metric(1.25 * x, y)))
        differences = [one - other for one, other in pairs]
        spread = np.std([difference.value for difference in differences])
        stated = math.sqrt(np.mean([Jackknife(0, d.without_generated, torch.zeros(2)).error ** 2 for d in differences]))
        assert 0.7 * spread < stated < 1.5 * spread
        apart = math.sqrt(np.mean([one.error**2 + other.error**2 for one, other in pairs]))
        assert stated < 0.3 * apart


class TestKernel:
    def test_is_the_formula(self):
        x, y = draw(7, 3), draw(5, 3, seed=1)

        def k(a, b):
            return (float(a @ b) / 3 + 1) ** 3

        within = [sum(k(a, b) for a, b in itertools.permutations(s, 2)) / (len(s) * (len(s) - 1)) for s in (x, y)]
        across = sum(k(a, b) for a, b in itertools.product(x, y)) / 35
        assert kernel_distance(x, y).value == pytest.approx(sum(within) - 2 * across, rel=1e-10)

    def test_the_error_is_the_jackknifes(self):
        x, y = draw(7, 3), draw(5, 3, seed=1)
        variance = 0.0
        for whole, value in (
            (x, lambda s: kernel_distance(s, y).value),
            (y, lambda s: kernel_distance(x, s).value),
        ):
            without = np.array([value(torch.cat([whole[:i], whole[i + 1 :]])) for i in range(len(whole))])
            variance += (len(whole) - 1) * without.var()
        assert kernel_distance(x, y).error == pytest.approx(math.sqrt(variance), rel=1e-9)

    def test_equal_distributions_give_0_on_average_with_the_error_stated(self):
        scores = [kernel_distance(draw(60, 3, seed=2 * i), draw(60, 3, seed=2 * i + 1)) for i in range(200)]
        values = np.array([score.value for score in scores])
        errors = np.array([score.error for score in scores])
        assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))
        # the jackknife overstates where, as here, the distributions are equal: never understates
        assert values.std() < 1.1 * math.sqrt((errors**2).mean())

    def test_many_images_go_in_parts(self, monkeypatch):
        x, y = draw(50, 3), draw(45, 3, seed=1)
        whole = kernel_distance(x, y)
        monkeypatch.setattr("diffkit.evaluation.kernel.ROWS", 7)
        parts = kernel_distance(x, y)
        assert (parts.value, parts.error) == pytest.approx((whole.value, whole.error), rel=1e-10)


class TestNeighbours:
    def by_hand(self, x, y, k):
        """Distances as numbers, one at a time."""

        def radius(points, i):
            return sorted(float((points[i] - p).norm()) for j, p in enumerate(points) if j != i)[k - 1]

        real = [radius(y, i) for i in range(len(y))]
        fake = [radius(x, i) for i in range(len(x))]
        inside = [[float((a - b).norm()) <= real[i] for i, b in enumerate(y)] for a in x]
        back = [[float((b - a).norm()) <= fake[i] for i, a in enumerate(x)] for b in y]
        return {
            "precision": np.mean([any(row) for row in inside]),
            "recall": np.mean([any(row) for row in back]),
            "density": np.mean([sum(row) / k for row in inside]),
            "coverage": np.mean([any(row[i] for row in inside) for i in range(len(y))]),
        }

    @pytest.mark.parametrize("k", [1, 3, 5])
    def test_are_the_formulas(self, k, monkeypatch):
        monkeypatch.setattr("diffkit.evaluation.manifold.ROWS", 4)
        x, y = draw(15, 3), draw(12, 3, seed=1, shift=1.5)
        found = PrecisionRecall(neighbours=k).scores(x, y) | DensityCoverage(neighbours=k).scores(x, y)
        assert {name: score.value for name, score in found.items()} == pytest.approx(self.by_hand(x, y, k))

    def test_of_equal_and_of_far_sets(self):
        x = draw(30, 4)
        same = PrecisionRecall().scores(x, x) | DensityCoverage().scores(x, x)
        assert same["precision"].value == same["recall"].value == same["coverage"].value == 1
        far = PrecisionRecall().scores(x, x + 1e4) | DensityCoverage().scores(x, x + 1e4)
        assert [score.value for score in far.values()] == [0, 0, 0, 0]

    def test_a_part_of_the_data_is_precise_but_covers_little(self):
        y = draw(400, 2, seed=5)
        x = y[y[:, 0] > 0] + 1e-6
        found = PrecisionRecall().scores(x, y)
        assert found["precision"].value > 0.99
        assert found["recall"].value < 0.75
        assert DensityCoverage().scores(x, y)["coverage"].value < 0.75

    def test_equal_distributions_have_density_1(self):
        found = DensityCoverage().scores(draw(800, 3), draw(800, 3, seed=1))["density"]
        assert found.value == pytest.approx(1, abs=5 * found.error + 0.03)
