"""Sweeps: what is crossed, what is kept and done again, and what is recommended."""

import copy
import json

import pytest
import torch

from diffkit import sweeping
from diffkit.data.digits import Digits
from diffkit.errors import Interrupted, RecipeError, UserError
from diffkit.evaluating import Measures, Reference, evaluate_model
from diffkit.evaluation.base import Jackknife
from diffkit.pipeline import Pipeline
from diffkit.sampling import sample_settings
from diffkit.sweeping import Found, advise, indistinguishable, plan, sweep, to_json

FEW = {"count": 6, "batch_size": 4}


@pytest.fixture(scope="module")
def pipeline(trained):
    return Pipeline.load(trained)


@pytest.fixture(scope="module")
def reference():
    return Reference(Digits(), Measures(metrics=["fid", "kid"], features="pixels"), count=30)


@pytest.fixture
def walks(monkeypatch):
    """The samplings that are done, each as sampler and steps."""
    done = []

    def noting(pipeline, settings, *rest, **options):
        done.append((settings.sampler.kind, settings.steps))
        return see(pipeline, settings, *rest, **options)

    see = sweeping.sample_and_see
    monkeypatch.setattr(sweeping, "sample_and_see", noting)
    return done


class TestPlan:
    def test_crosses_all(self, pipeline):
        found = plan({"ema": pipeline}, ["ddim", "heun"], [2, 3], [1.0], FEW, ["spacing=linspace"])
        assert [(cell.name, cell.calls, cell.evaluations) for cell in found.cells] == [
            ("ddim in 2 steps", 2, 2),
            ("ddim in 3 steps", 3, 3),
            ("heun in 2 steps", 3, 3),
            ("heun in 3 steps", 5, 5),
        ]
        assert {cell.settings.spacing.kind for cell in found.cells} == {"linspace"}
        assert {cell.settings.count for cell in found.cells} == {6}

    def test_names_say_what_differs_from_the_kind(self, pipeline):
        (cell,) = plan({"ema": pipeline}, [{"kind": "ddim", "eta": 0.5}], [4]).cells
        assert cell.name == "ddim, eta=0.5 in 4 steps"

    def test_each_way_once(self, pipeline):
        assert len(plan({"ema": pipeline}, ["ddim", {"kind": "ddim", "eta": 0.0}], [2, 2]).cells) == 1

    def test_guidance_costs_evaluations(self, tiny):
        recipe = tiny("objective.label_dropout=0.1")
        model = Pipeline(recipe, recipe.data.info(), torch.nn.Identity())
        found = plan({"ema": model}, ["ddim"], [4], [0.0, 1.0, 2.5]).cells
        assert [(cell.name, cell.cost) for cell in found] == [
            ("ddim in 4 steps with guidance 0", "4 network calls"),
            ("ddim in 4 steps", "4 network calls"),
            ("ddim in 4 steps with guidance 2.5", "4 network calls, 8 evaluations"),
        ]

    def test_weights_are_crossed_too(self, pipeline):
        found = plan({"ema": pipeline, "raw": pipeline}, ["ddim"], [2, 30]).cells
        assert [(cell.weights, cell.name) for cell in found] == [
            ("ema", "ddim in 2 steps"),
            ("raw", "ddim in 2 steps, raw"),
        ]

    def test_what_does_not_fit_is_left_out_with_the_reason(self, pipeline):
        found = plan({"ema": pipeline}, ["ddim", "heun"], [20, 21])
        assert [cell.name for cell in found.cells] == ["ddim in 20 steps", "heun in 20 steps"]
        assert list(found.left_out) == ["ddim in 21 steps", "heun in 21 steps"]
        assert "the process has 20 times" in found.left_out["heun in 21 steps"]

    def test_nothing_fits(self, tiny):
        recipe = tiny("objective.label_dropout=0.0")
        model = Pipeline(recipe, recipe.data.info(), torch.nn.Identity())
        with pytest.raises(
            UserError, match=r"none of these ways:\n  ddim in 4 steps with guidance 2: .*guidance needs"
        ):
            plan({"ema": model}, ["ddim"], [4], [2.0])

    def test_all_mistakes_at_once_and_each_once(self, pipeline):
        with pytest.raises(RecipeError) as caught:
            plan({"ema": pipeline}, ["ddmi", "ddim", "hoin"], [4, 5], overrides=["spacing=linspac"])
        assert [(problem.key, problem.value) for problem in caught.value.problems] == [
            ("sampler", "ddmi"),
            ("spacing", "linspac"),
            ("sampler", "hoin"),
        ]


class TestSweep:
    def test_cells_are_evaluations_of_the_model(self, pipeline, reference, tmp_path):
        cells = plan({"ema": pipeline}, ["ddim", "ddpm"], [2], options=FEW).cells
        found = sweep({"ema": pipeline}, cells, reference, tmp_path, seed=3)
        for one, sampler in zip(found, ["ddim", "ddpm"], strict=True):
            settings = sample_settings(pipeline.recipe, {**FEW, "sampler": sampler, "steps": 2})
            same = evaluate_model(pipeline, settings, reference.measures, seed=3, reference=30)
            assert one.report["scores"] == same.to_json()["scores"]
            assert one.report["images"] == same.about["images"]
            assert one.report["sampling"] == same.about["sampling"]
            assert one.jackknife["kid"].error == pytest.approx(same.scores["kid"].error)

    def test_what_is_done_is_not_done_again(self, pipeline, reference, tmp_path, walks):
        first = sweep(
            {"ema": pipeline}, plan({"ema": pipeline}, ["ddim"], [2, 3], options=FEW).cells, reference, tmp_path
        )
        more = plan({"ema": pipeline}, ["heun", "ddim"], [3], options={**FEW, "batch_size": 2}).cells
        found = sweep({"ema": pipeline}, more, reference, tmp_path)
        assert walks == [("ddim", 2), ("ddim", 3), ("heun", 3)]
        assert found[1].report == first[1].report
        for name, jackknife in found[1].jackknife.items():
            assert torch.equal(jackknife.without_generated, first[1].jackknife[name].without_generated)
            assert torch.equal(jackknife.without_real, first[1].jackknife[name].without_real)
            assert jackknife.value == first[1].jackknife[name].value

    def test_each_cell_is_of_its_weights(self, pipeline, reference, tmp_path):
        models = {"ema": pipeline, "raw": Pipeline(pipeline.recipe, pipeline.data, _changed(pipeline.network))}
        ema, raw = sweep(models, plan(models, ["ddim"], [2], options=FEW).cells, reference, tmp_path)
        assert ema.report["model"]["sha256"] != raw.report["model"]["sha256"]
        assert ema.report["images"] != raw.report["images"]
        (alone,) = sweep({"raw": models["raw"]}, [raw.cell], reference, tmp_path / "other")
        assert alone.report["images"] == raw.report["images"]

    @pytest.mark.parametrize("other", ["seed", "count", "weights", "metrics", "reference", "spacing"])
    def test_another_is_done_anew(self, pipeline, reference, tmp_path, walks, other):
        cells = plan({"ema": pipeline}, ["ddim"], [2], options=FEW).cells
        sweep({"ema": pipeline}, cells, reference, tmp_path)
        seed = 0
        match other:
            case "seed":
                seed = 1
            case "count":
                cells = plan({"ema": pipeline}, ["ddim"], [2], options={**FEW, "count": 7}).cells
            case "spacing":
                cells = plan({"ema": pipeline}, ["ddim"], [2], options=FEW, overrides=["spacing=linspace"]).cells
            case "weights":
                pipeline = Pipeline(pipeline.recipe, pipeline.data, _changed(pipeline.network))
            case "metrics":
                reference = Reference(Digits(), Measures(metrics=["kid"], features="pixels"), count=30)
            case "reference":
                reference = Reference(Digits(), reference.measures, count=31)
        sweep({"ema": pipeline}, cells, reference, tmp_path, seed=seed)
        assert len(walks) == 2

    @pytest.mark.parametrize("damage", ["cut", "lost", "other", "words"])
    def test_what_is_damaged_is_done_again(self, pipeline, reference, tmp_path, walks, damage):
        cells = plan({"ema": pipeline}, ["ddim"], [2, 3], options=FEW).cells
        first = sweep({"ema": pipeline}, cells, reference, tmp_path)
        file = tmp_path / "cells.jsonl"
        whole = file.read_bytes()
        beside = tmp_path / "cells" / f"{first[1].report['key']}.safetensors"
        match damage:
            case "cut":
                file.write_bytes(whole[:-20])
            case "lost":
                beside.unlink()
            case "other":
                beside.write_bytes(beside.read_bytes()[:-1] + b"\0")
            case "words":
                file.write_bytes(whole.splitlines()[0] + b"\n[1]\nnothing\n{}\n\xff\n")
        found = sweep({"ema": pipeline}, cells, reference, tmp_path)
        assert walks == [("ddim", 2), ("ddim", 3), ("ddim", 3)]
        assert found[1].report["scores"] == first[1].report["scores"]
        assert len(sweep({"ema": pipeline}, cells, reference, tmp_path)) == 2
        assert len(walks) == 3
        assert json.loads(file.read_bytes().splitlines()[-1])["key"] == found[1].report["key"]

    def test_interrupted_and_gone_on(self, pipeline, reference, tmp_path, walks):
        cells = plan({"ema": pipeline}, ["ddim"], [2, 3, 4], options=FEW).cells

        def ctrl_c(found):
            if found.cell.settings.steps == 3:
                raise KeyboardInterrupt

        with pytest.raises(Interrupted, match=r"2 of 3 cells are done and kept in .* the same command goes on"):
            sweep({"ema": pipeline}, cells, reference, tmp_path, on_done=ctrl_c)
        assert len(sweep({"ema": pipeline}, cells, reference, tmp_path)) == 3
        assert walks == [("ddim", 2), ("ddim", 3), ("ddim", 4)]


def _changed(network):
    other = copy.deepcopy(network)
    with torch.no_grad():
        list(other.parameters())[-1][0] += 1
    return other


def found(pipeline, steps, value, noise, shared=0.0):
    """A cell whose score is as given. Its images pull at it by `noise` of its own, and by `shared` of all cells."""
    (cell,) = plan({"ema": pipeline}, ["ddim"], [steps]).cells
    own = torch.randn(100, generator=torch.Generator().manual_seed(steps), dtype=torch.float64)
    common = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    without = value + (noise * own + shared * common) / 10
    report = {"scores": {"kid": {"value": value, "standard_error": 0.0}}, "key": str(steps)}
    return Found(cell, report, {"kid": Jackknife(value, without, torch.full((5,), value, dtype=torch.float64))})


class TestAdvice:
    def test_the_cheapest_that_is_not_told_apart_from_the_best(self, pipeline):
        rows = [found(pipeline, steps, value, 0.1) for steps, value in [(5, 2.0), (10, 0.3), (15, 0.2), (20, 0.21)]]
        assert [one.cell.settings.steps for one in indistinguishable(rows, "kid")] == [10, 15, 20]
        advice = advise(rows)
        assert (advice.found, advice.score) == (rows[1], "kid")
        assert advice.reason.startswith(
            "kid = 0.3 is not told apart from the least, 0.2 of ddim in 15 steps (15 network calls): "
            "the difference on the same noise is 0.1 ± 0.1"
        )

    def test_noise_that_all_share_hides_nothing(self, pipeline):
        rows = [found(pipeline, 5, 0.30, 0.001, shared=1.0), found(pipeline, 10, 0.25, 0.001, shared=1.0)]
        assert rows[0].jackknife["kid"].error > 0.9
        advice = advise(rows)
        assert advice.found is rows[1]
        assert advice.reason == (
            "kid = 0.25 is the least found, and all 1 cheaper ones are worse by more than 2 standard errors"
        )

    def test_the_best_may_be_the_cheapest(self, pipeline):
        rows = [found(pipeline, 5, 0.1, 0.01), found(pipeline, 10, 0.9, 0.01)]
        assert (advise(rows).found, advise(rows).reason) == (rows[0], "kid = 0.1 is the least found")

    def test_without_a_score_of_known_noise(self, pipeline):
        one = found(pipeline, 5, 0.1, 0.01)
        rows = [Found(one.cell, one.report, {})]
        assert advise(rows) is None
        assert to_json(rows, None, {})["recommended"] is None

    def test_all_there_is_to_know(self, pipeline):
        rows = [found(pipeline, 5, 2.0, 0.1), found(pipeline, 10, 0.3, 0.1)]
        whole = to_json(rows, advise(rows), {"heun": "no"})
        assert json.loads(json.dumps(whole)) == whole
        assert (whole["recommended"]["steps"], whole["recommended"]["network_calls"]) == (10, 10)
        assert whole["recommended"]["not_told_apart_from_the_best"] == ["ddim in 10 steps"]
        assert whole["left_out"] == {"heun": "no"}
