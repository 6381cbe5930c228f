"""Augmentations: what is done to images, and that the network is told exactly that."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffkit.data.augmentation import Augmentation, EdmAugmentation
from diffkit.data.pixels import to_unit
from diffkit.random import torch_generator
from diffkit.testing import kinds_of

NAMES = ("flip_x", "flip_y", "scale", "angle", "direction", "stretch", "right", "down")
OFF = {"flip_x": False, "flip_y": False, "scale": 0.0, "rotation": 0.0, "anisotropy": 0.0, "translation": 0.0}
SIDES = [(32, 32), (28, 28), (7, 13)]


def images(count=6, sides=(8, 8), channels=3):
    draw = torch_generator("cpu", 0, "images")
    return to_unit(torch.randint(0, 256, (count, channels, *sides), dtype=torch.uint8, generator=draw))


def parameters(count=1, **values):
    """The parameters of table 6 by name; zero where nothing is said."""
    columns = [torch.as_tensor(values.get(name, 0.0), dtype=torch.float64).expand(count) for name in NAMES]
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("augmentation", kinds_of(Augmentation, probability=1.0))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
class TestEveryKind:
    def test_images_stay_images_and_vectors_have_their_size(self, augmentation, dtype):
        x0 = images().to(dtype)
        drawn = augmentation.draw(6, torch_generator("cpu", 1))
        changed, vector = augmentation.apply(x0, drawn)
        assert changed.shape == x0.shape
        assert changed.dtype == dtype
        assert changed.abs().max() <= 1
        assert (vector is None) == (augmentation.vector_size == 0)
        if vector is not None:
            assert vector.shape == (6, augmentation.vector_size)
            assert vector.dtype == dtype

    def test_rows_do_not_depend_on_each_other(self, augmentation, dtype):
        x0, drawn = images().to(dtype), augmentation.draw(6, torch_generator("cpu", 1))
        whole = augmentation.apply(x0, drawn)
        parts = [augmentation.apply(x0[i : i + 2], drawn[i : i + 2]) for i in (0, 2, 4)]
        assert torch.equal(torch.cat([part[0] for part in parts]), whole[0])
        if whole[1] is not None:
            assert torch.equal(torch.cat([part[1] for part in parts]), whole[1])

    def test_zeros_leave_images_and_vector_alone(self, augmentation, dtype):
        x0, drawn = images().to(dtype), augmentation.draw(6, torch_generator("cpu", 1))
        changed, vector = augmentation.apply(x0, torch.zeros_like(drawn))
        assert torch.equal(changed, x0)
        assert vector is None or vector.count_nonzero() == 0


def test_none_draws_nothing():
    generator = torch_generator("cpu", 1)
    before = generator.get_state()
    assert Augmentation.choose("none").draw(4, generator).shape == (4, 0)
    assert torch.equal(generator.get_state(), before)


class TestDrawing:
    drawn = EdmAugmentation(probability=0.3).draw(20_000, torch_generator("cpu", 2))

    def test_the_fraction_that_is_transformed_is_the_probability(self):
        happens = (self.drawn != 0).double().mean(dim=0)
        expected = [0.5, 0.15, *[0.3] * 6]  # a flip that happens is none in half of the cases
        assert happens.tolist() == pytest.approx(expected, abs=0.017)  # five standard deviations

    def test_transformations_happen_independently_of_each_other(self):
        happens = (self.drawn != 0).double()
        correlation = torch.corrcoef(happens[:, [0, 1, 2, 3, 5, 6]].T)
        assert (correlation - torch.eye(6)).abs().max() < 0.04
        assert torch.equal(happens[:, 4:6].sum(dim=1) % 2, torch.zeros(20_000))  # a direction, if stretched
        assert torch.equal(happens[:, 6], happens[:, 7])  # right and down together

    @pytest.mark.parametrize(
        ("name", "std"),
        [(name, 1.0) for name in ("scale", "stretch", "right", "down")]
        + [(name, math.pi / math.sqrt(3)) for name in ("angle", "direction")],
    )
    def test_distributions(self, name, std):
        column = self.drawn[:, NAMES.index(name)]
        column = column[column != 0]
        assert column.mean().item() == pytest.approx(0, abs=5 * std / math.sqrt(len(column)))
        assert column.std().item() == pytest.approx(std, rel=0.05)
        if std > 1:
            assert column.abs().max() <= math.pi

    def test_the_largest_angle_is_a_setting(self):
        angle = EdmAugmentation(probability=1, rotation=45.0).draw(1000, torch_generator("cpu", 2))[:, 3]
        assert 0.7 < angle.abs().max() <= math.pi / 4

    @pytest.mark.parametrize("name", list(OFF))
    def test_what_is_switched_off_does_not_happen_and_changes_nothing_else(self, name):
        """The vector then says nothing of it either."""
        whole = EdmAugmentation(probability=1).draw(50, torch_generator("cpu", 3))
        part = EdmAugmentation(probability=1, **{name: OFF[name]}).draw(50, torch_generator("cpu", 3))
        columns = {
            "flip_x": [0],
            "flip_y": [1],
            "scale": [2],
            "rotation": [3],
            "anisotropy": [4, 5],
            "translation": [6, 7],
        }[name]
        assert part[:, columns].count_nonzero() == 0
        others = [i for i in range(8) if i not in columns]
        assert torch.equal(part[:, others], whole[:, others])
        assert whole[:, columns].count_nonzero() > 0

    def test_all_off_leaves_images_as_they_are(self):
        augmentation = EdmAugmentation(probability=1, **OFF)
        changed, vector = augmentation.apply(images(), augmentation.draw(6, torch_generator("cpu", 3)))
        assert torch.equal(changed, images())
        assert vector.count_nonzero() == 0

    def test_without_a_chance_images_are_only_mirrored(self):
        augmentation = EdmAugmentation(probability=0)
        x0 = images(64)
        changed, vector = augmentation.apply(x0, augmentation.draw(64, torch_generator("cpu", 3)))
        mirrored = vector[:, 0] == 1
        assert 10 < mirrored.sum() < 54
        assert torch.equal(changed[mirrored], x0[mirrored].flip(-1))
        assert torch.equal(changed[~mirrored], x0[~mirrored])


class TestTransforming:
    edm = EdmAugmentation()

    @pytest.mark.parametrize("sides", SIDES)
    def test_flips_are_exact(self, sides):
        x0 = images(sides=sides)
        assert torch.equal(self.edm.apply(x0, parameters(6, flip_x=1.0))[0], x0.flip(-1))
        assert torch.equal(self.edm.apply(x0, parameters(6, flip_y=1.0))[0], x0.flip(-2))
        assert torch.equal(self.edm.apply(x0, parameters(6, flip_x=1.0, flip_y=1.0))[0], x0.flip(-1, -2))

    @pytest.mark.parametrize("sides", SIDES)
    @pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-1, 2), (5, 6)])
    def test_whole_pixels_are_exact_and_the_rest_is_a_reflection(self, sides, right, down):
        height, width = sides
        x0 = images(sides=sides)
        moved, _ = self.edm.apply(x0, parameters(6, right=right / (0.125 * width), down=down / (0.125 * height)))
        around = torch.cat([x0.flip(-1), x0, x0.flip(-1)], dim=-1)
        around = torch.cat([around.flip(-2), around, around.flip(-2)], dim=-2)
        assert torch.equal(moved, around[..., height - down : 2 * height - down, width - right : 2 * width - right])

    def test_a_quarter_turn_is_clockwise(self):
        x0 = images(sides=(9, 9))
        turned, vector = self.edm.apply(x0, parameters(6, angle=math.pi / 2))
        torch.testing.assert_close(turned, x0.rot90(-1, (-2, -1)))
        torch.testing.assert_close(vector[0, 3:5], torch.tensor([-1.0, 1.0]))

    def test_what_is_enlarged_is_interpolated(self):
        """The kernel has straight lines and parabolas as they are, away from the edges."""
        line = torch.linspace(-0.8, 0.8, 33, dtype=torch.float64)
        for picture, larger in ((line, line / 3), (line**2, (line / 3) ** 2)):
            found, _ = EdmAugmentation(scale=1.0).apply(picture.expand(1, 1, 33, 33), parameters(scale=math.log2(3)))
            torch.testing.assert_close(found[0, 0, 0], larger)

    @pytest.mark.parametrize("sides", [(32, 32), (24, 40)])
    @given(
        flips=st.tuples(st.booleans(), st.booleans()),
        numbers=st.lists(st.floats(-3, 3), min_size=6, max_size=6),
    )
    def test_the_map_is_the_product_of_table_6(self, sides, flips, numbers):
        """Of a picture with a formula: the flip in x comes first, the translation last."""
        a0, a1 = flips
        a2, a3, a4, a5, a6, a7 = numbers
        height, width = sides

        def turn(angle):
            return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()

        def stretch(x, y):
            return torch.tensor([[x, 0], [0, y]]).double()

        def picture(x, y):
            return 0.5 * torch.sin(0.3 * x + 0.1 * y) + 0.4 * torch.cos(0.2 * y - 0.05 * x + 1)

        size = 2 ** (0.2 * a2)
        anisotropy = turn(a4) @ stretch(2 ** (0.2 * a5), 2 ** (-0.2 * a5)) @ turn(-a4)
        whole = anisotropy @ turn(a3) @ stretch(size, size) @ stretch(1, 1 - 2 * a1) @ stretch(1 - 2 * a0, 1)
        x, y = torch.meshgrid(
            torch.arange(width).double() - (width - 1) / 2,
            torch.arange(height).double() - (height - 1) / 2,
            indexing="xy",
        )
        moved, _ = self.edm.apply(
            picture(x, y)[None, None],
            parameters(
                flip_x=float(a0), flip_y=float(a1), scale=a2, angle=a3, direction=a4, stretch=a5, right=a6, down=a7
            ),
        )
        places = torch.stack([x - 0.125 * width * a6, y - 0.125 * height * a7], dim=-1)
        from_x, from_y = (places @ torch.linalg.inv(whole).T).unbind(-1)
        inside = (from_x.abs() < width / 2 - 3) & (from_y.abs() < height / 2 - 3)  # away from the edges' reflections
        torch.testing.assert_close(moved[0, 0][inside], picture(from_x, from_y)[inside], rtol=0, atol=0.002)

    def test_that_map_reaches_the_image(self):
        """The transformations of the test above leave something to compare."""
        x0 = torch.full((1, 1, 32, 32), -1.0)
        x0[..., 3:-3, 3:-3] = 1.0
        moved, _ = self.edm.apply(x0, parameters(scale=3.0, angle=3.0, direction=1.0, stretch=3.0, right=3.0, down=3.0))
        assert (moved > 0.9).sum() > 100

    def test_the_vector_tells_the_parameters(self):
        told = {
            "flip_x": (1.0, [1, 0, 0, 0, 0, 0, 0, 0, 0]),
            "flip_y": (1.0, [0, 1, 0, 0, 0, 0, 0, 0, 0]),
            "scale": (-0.7, [0, 0, -0.7, 0, 0, 0, 0, 0, 0]),
            "angle": (0.4, [0, 0, 0, math.cos(0.4) - 1, math.sin(0.4), 0, 0, 0, 0]),
            "stretch": (1.3, [0, 0, 0, 0, 0, 1.3, 0, 0, 0]),
            "right": (0.9, [0, 0, 0, 0, 0, 0, 0, 0.9, 0]),
            "down": (-2.0, [0, 0, 0, 0, 0, 0, 0, 0, -2.0]),
        }
        for name, (value, expected) in told.items():
            _, vector = self.edm.apply(images(1), parameters(**{name: value}))
            assert vector[0].tolist() == pytest.approx(expected, abs=1e-6), name
        _, vector = self.edm.apply(images(1), parameters(direction=0.5, stretch=2.0))
        assert vector[0, 5:7].tolist() == pytest.approx([2 * math.cos(0.5), 2 * math.sin(0.5)])

    def test_nothing_waits_for_the_device(self):
        """On the meta device there are no numbers to wait for: reading one is an error."""
        x0, drawn = images().to("meta"), parameters(6, scale=1.0).to("meta")
        changed, vector = self.edm.apply(x0, drawn)
        assert changed.shape == x0.shape
        assert vector.shape == (6, 9)
