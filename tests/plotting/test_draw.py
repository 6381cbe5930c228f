"""Pictures of recipes and families: that what is drawn is what the mathematics says."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from diffkit.diffusion.process import Process
from diffkit.diffusion.spacing import Spacing
from diffkit.errors import UserError
from diffkit.optim.profiles import exponent_of
from diffkit.plotting.canvas import to_bytes
from diffkit.plotting.draw import FAMILIES, draw_family, draw_recipe, variants
from diffkit.spec import families

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def fitting(tiny):
    """A recipe in which nearly all kinds fit."""
    return tiny("objective.prediction=velocity", "sample.steps=4")


def lines(axes):
    return {line.get_label(): line.get_ydata() for line in axes.get_lines()}


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_kind_that_fits_is_drawn_and_the_others_are_told(fitting, family):
    found = variants(fitting, family)
    assert {*found.recipes, *found.left_out} == set(families()[family].kinds)
    assert set(found.left_out) <= {"list"}
    figure = draw_family(family, found.recipes)
    figure.draw_without_rendering()
    shown = {text.get_text().partition(":")[0] for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}
    assert set(found.recipes) <= shown
    for axes in figure.axes:
        for line in axes.get_lines():
            assert np.isfinite(line.get_ydata()).any(), line.get_label()


@pytest.mark.parametrize("process", ["ddpm", "edm", "flow", '{kind="ddpm", zero_terminal_snr=true, steps=7}'])
def test_a_recipe_of_every_process(tiny, process):
    recipe = tiny(f"process={process}", "objective.prediction=velocity", "sample.steps=7")
    figure = draw_recipe(recipe)
    figure.draw_without_rendering()
    signal, log_snr, *_, spacing, _ = figure.axes
    for axes in (signal, log_snr, spacing):
        (drawn, *_) = axes.get_lines()
        assert np.isfinite(drawn.get_ydata()).sum() >= 6
    triangles = [line for line in spacing.get_lines() if line.get_marker() == "v"]
    assert len(triangles) == (recipe.process.no_signal_setting is not None)


def test_the_lines_of_schedules_are_their_tables(fitting):
    figure = draw_family("beta_schedule", variants(fitting, "beta_schedule").recipes)
    betas, alpha_bar, log_snr = (lines(axes) for axes in figure.axes)
    for kind in betas:
        process = Process.choose({"kind": "ddpm", "steps": 20, "schedule": kind})
        np.testing.assert_allclose(betas[kind], process.betas, rtol=1e-9)
        np.testing.assert_allclose(alpha_bar[kind], process.alphas_cumprod, rtol=1e-9)
        np.testing.assert_allclose(log_snr[kind], process.log_snr(torch.arange(20)))


def test_the_lines_of_weightings(fitting):
    figure = draw_family("loss_weighting", variants(fitting, "loss_weighting").recipes)
    of_output, of_x0 = (lines(axes) for axes in figure.axes)
    snr = np.exp(figure.axes[0].get_lines()[0].get_xdata())
    np.testing.assert_allclose(of_x0["min_snr"], np.minimum(snr, 5))
    np.testing.assert_allclose(of_output["min_snr"], np.minimum(snr, 5) / (snr + 1))
    np.testing.assert_allclose(of_output["uniform"], 1)
    np.testing.assert_allclose(of_x0["uniform"], snr + 1)


def test_the_lines_of_predictions(fitting):
    figure = draw_family("prediction", variants(fitting, "prediction").recipes)
    of_x0, of_eps = (lines(axes) for axes in figure.axes)
    snr = np.exp(figure.axes[0].get_lines()[0].get_xdata())
    np.testing.assert_allclose(of_x0["noise"], snr**-0.5)
    np.testing.assert_allclose(of_x0["data"], 1)
    np.testing.assert_allclose(of_eps["data"], snr**0.5)


@pytest.mark.parametrize("process", ["ddpm", "edm", "flow"])
def test_the_density_of_times_is_1_where_all_parts_are_as_likely(tiny, process):
    recipe = tiny(f"process={process}", "objective.prediction=velocity")
    figure = draw_family("time_sampling", variants(recipe, "time_sampling").recipes)
    steps = {patch.get_label(): patch.get_data() for patch in figure.axes[0].patches}
    for kind in ("uniform", "stratified"):
        np.testing.assert_allclose(steps[kind].values, 1, atol=0.05)
    drawn = steps["logit_normal"].values
    assert drawn[len(drawn) // 2] > 1.4 and drawn[0] < 0.2


def test_what_steps_count_in_averages(tiny):
    recipe = tiny("train.steps=200", "train.ema={kind='power', lengths=[0.1]}")
    _, response = draw_family("ema", variants(recipe, "ema").recipes).axes
    for kind, counts in lines(response).items():
        assert counts.mean() <= 1 + 1e-12, kind  # what is missing is what the initial weights count
    ends = np.arange(201) / 200
    np.testing.assert_allclose(
        lines(response)["power"], 200 * np.diff(ends ** (exponent_of(0.1) + 1)), rtol=1e-9, atol=1e-9
    )
    assert lines(response)["none"].tolist() == [0] * 199 + [200]


def test_the_rows_of_spacings_are_the_visited_times(fitting):
    recipes = variants(fitting, "spacing").recipes
    times, log_snrs = draw_family("spacing", recipes).axes
    for row, kind in enumerate(recipes):
        levels = Spacing.choose(kind).levels(fitting.process, 4)[:-1]
        assert list(times.get_lines()[row].get_xdata()) == [level.time for level in levels]
        assert set(log_snrs.get_lines()[row].get_ydata()) == {row}


def test_pure_noise_is_marked_where_log_snr_has_no_end(tiny):
    recipe = tiny("process=flow", "objective.prediction=flow")
    found = variants(recipe, "spacing")
    assert found.left_out["karras"].startswith("sample.spacing: process.time_max = 1 leaves no signal")
    _, log_snrs = draw_family("spacing", found.recipes).axes
    triangles = [line for line in log_snrs.get_lines() if line.get_marker() == "<"]
    marked = {list(found.recipes)[line.get_ydata()[0]] for line in triangles}
    assert marked == set(found.recipes) - {"leading"}


def test_the_recipes_own_kind_keeps_its_settings(tiny):
    recipe = tiny("objective.weighting={kind='min_snr', gamma=2.0}")
    found = variants(recipe, "loss_weighting").recipes
    assert found["min_snr"] == recipe
    assert {name: own.objective.weighting.kind for name, own in found.items()} == {name: name for name in found}


def test_families_that_are_not_drawn(tiny):
    with pytest.raises(UserError, match=r"no picture of the family 'spacng'. Did you mean 'spacing'\? Known: beta_sch"):
        variants(tiny(), "spacng")
    with pytest.raises(UserError, match=r"^tiny: process 'flow' has no beta_schedule to compare$"):
        variants(tiny("process=flow", "objective.prediction=flow"), "beta_schedule")


@pytest.mark.parametrize("format", ["png", "svg"])
def test_the_same_picture_is_the_same_file(fitting, format):
    first, again = (to_bytes(draw_family("spacing", variants(fitting, "spacing").recipes), format) for _ in range(2))
    assert first == again
    assert first.startswith(b"\x89PNG" if format == "png" else b"<?xml")


def test_a_users_own_style_changes_nothing(fitting):
    import matplotlib

    plain = to_bytes(draw_family("loss", variants(fitting, "loss").recipes), "png")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}):
        styled = to_bytes(draw_family("loss", variants(fitting, "loss").recipes), "png")
        assert matplotlib.rcParams["font.size"] == 20
    assert plain == styled


def test_the_paper_stays_white_and_the_lines_keep_their_colours(fitting):
    import io

    from PIL import Image

    content = to_bytes(draw_family("loss", variants(fitting, "loss").recipes), "png")
    with Image.open(io.BytesIO(content)) as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors()}
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert (0, 0x72, 0xB2) in colors and (0xD5, 0x5E, 0) in colors


def test_the_docs_have_small_pictures_of_all_families():
    sizes = {file.stem: file.stat().st_size for file in (DOCS / "images").glob("*.png")}
    assert set(FAMILIES) <= set(sizes)
    assert max(sizes.values()) < 80_000


def test_the_docs_pictures_are_of_recipes_that_fit(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("make_pictures", DOCS / "make_pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    module.main(["x0_rule"])
    assert [file.name for file in tmp_path.iterdir()] == ["x0_rule.png"]
    assert set(module.OVERRIDES) <= set(FAMILIES)
    for overrides in module.OVERRIDES.values():
        module.quickstart(overrides)
