"""``diffkit sample`` with every way to write a guidance."""

import json

import pytest

GUIDE = "runs/tiny-1/checkpoints/step-00000010"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--guidance", "2"], {"kind": "cfg", "weight": 2.0}),
        (["guidance=2"], {"kind": "cfg", "weight": 2.0}),
        (["guidance.weight=2", "guidance.rescale=0.7"], {"kind": "cfg", "weight": 2.0, "rescale": 0.7}),
        (["guidance.weight=2", "guidance.interval=[0.2, 2]"], {"kind": "cfg", "weight": 2.0, "interval": [0.2, 2.0]}),
        (
            [f'guidance={{kind="autoguidance", guide="{GUIDE}", weight=2}}'],
            {"kind": "autoguidance", "weight": 2.0, "guide": GUIDE},
        ),
        (
            ["guidance.kind=autoguidance", f"guidance.guide={GUIDE}", "guidance.weight=2"],
            None,  # settings of the recipe's own kind are left over
        ),
    ],
)
def test_ways_to_write_it(diffkit, here, arguments, expected):
    done = diffkit("sample", "runs/tiny-1", *arguments, "--out", "it", "--count", "1")
    if expected is None:
        assert done.code == 2
        assert (
            "guidance.rescale = 0.0\n    unknown setting. Allowed here: kind, weight, schedule, interval, guide"
            in done.err
        )
        return
    assert done.code == 0
    written = json.loads((here / "it/sample.json").read_text())["sample"]["guidance"]
    if "guide" in expected:
        expected = {**expected, "guide": str(here / GUIDE)}
    assert {**written, **expected} == written


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        (["--guidance", "1"], "5 network calls"),
        (["--guidance", "0"], "5 network calls"),
        (["--guidance", "2"], "5 network calls (10 evaluations with guidance)"),
        (["guidance.weight=2", "guidance.interval=[0.2, 0.4]"], "5 network calls (7 evaluations with guidance)"),
        (["guidance.weight=2", "guidance.schedule=cosine"], "5 network calls (10 evaluations with guidance)"),
        (
            [f'guidance={{kind="autoguidance", guide="{GUIDE}", weight=2}}'],
            "5 network calls (10 evaluations with guidance)",
        ),
        ([f'guidance={{kind="autoguidance", guide="{GUIDE}"}}'], "5 network calls"),
    ],
)
def test_dry_run_counts_the_evaluations(diffkit, here, arguments, calls):
    done = diffkit("sample", "runs/tiny-1", *arguments, "--dry-run")
    assert done.code == 0
    assert done.out.splitlines()[-1] == f"ddpm with trailing spacing: 5 steps, {calls} for each of 4 images"


def test_the_weight_alone_keeps_the_rest(diffkit, here):
    recipe = (here / "runs/tiny-1/recipe.toml").read_text()
    assert 'guidance = {kind = "cfg", weight = 1.0' in recipe
    done = diffkit("sample", f'guidance={{kind="autoguidance", guide="{GUIDE}"}}', "guidance.weight=3", "--dry-run")
    assert "(10 evaluations with guidance)" in done.out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("guidance=cfgg", "no guidance is called 'cfgg'. Did you mean 'cfg'? Known: autoguidance, cfg, classifier"),
        ("guidance=autoguidance", "guidance.guide\n    this setting is required"),
        ("guidance=classifier", "guidance.classifier\n    this setting is required"),
        (
            'guidance={kind="autoguidance", guide="runs/tny-1"}',
            "runs/tny-1: no such run or checkpoint. Did you mean 'tiny-1'?",
        ),
        ("guidance.interval=[2, 1]", "should be two numbers, the smaller one first"),
        ("guidance.schedule=cosin", "schedule"),
        ("guidance.rescale=2", "should be less than or equal to 1"),
    ],
)
def test_mistakes(diffkit, here, override, message):
    done = diffkit("sample", override, "--out", "it")
    assert done.code == 2
    assert message in done.err
    assert not (here / "it").exists()
