import pytest

from diffkit.diffusion.guidance import ClassifierFree
from diffkit.errors import RecipeError


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "sample.steps=21",
            "  sample.steps = 21\n    the process has 20 times, so at most 20 steps can be taken",
        ),
        (
            "train.device_batch_size=3",
            "  train.device_batch_size = 3\n    must divide train.batch_size = 8",
        ),
        (
            'callbacks=[{kind="sample_grid", steps=21}]',
            "  callbacks[0].steps = 21\n    the process has 20 times, so at most 20 steps can be taken",
        ),
        ("model.multipliers=[1,1,1,1,1]", "  model.multipliers"),
        (
            'model.embedding={kind="table", times=19}',
            "  model.embedding\n    this embedding knows 19 times, and process.steps = 20: give it as many",
        ),
        ("model.attention_at=[3]", "  model.attention_at"),
        ("data={kind='image_folder', root='/no/such/folder', size=8}", "  data\n    /no/such/folder"),
        (
            'objective.condition="grey"',
            '  objective.condition = "grey"\n    images of 1 channel have no colors to take away',
        ),
        (
            'objective.condition={kind="low_resolution", factor=3}',
            '  objective.condition = "low_resolution"\n    the factor 3 does not divide the sides of images of 8x8',
        ),
    ],
)
def test_what_does_not_fit_is_said_with_its_place(tiny, override, problem):
    with pytest.raises(RecipeError) as caught:
        tiny(override)
    assert str(caught.value).startswith(f"tiny: 1 problem\n{problem}")


def test_guidance_needs_a_model_that_can_be_guided(tiny):
    with pytest.raises(RecipeError) as caught:
        tiny("sample.guidance=2", "model.class_conditional=false")
    assert str(caught.value) == (
        "tiny: 1 problem\n  sample.guidance = 2.0\n    guidance needs a class-conditional model: "
        "set model.class_conditional = true and train anew"
    )
    with pytest.raises(RecipeError) as caught:
        tiny("sample.guidance=2", "objective.label_dropout=0")
    assert str(caught.value) == (
        "tiny: 1 problem\n  sample.guidance = 2.0\n    guidance needs a model that was trained without labels too: "
        "set objective.label_dropout = 0.1"
    )
    assert tiny("sample.guidance=2").sample.guidance == ClassifierFree(weight=2)


def test_problems_of_all_tables_come_together(tiny):
    with pytest.raises(RecipeError) as caught:
        tiny("sample.steps=21", "train.device_batch_size=3", "model.norm={kind='group', groups=3}")
    keys = [problem.key for problem in caught.value.problems]
    assert {"sample.steps", "train.device_batch_size"} < set(keys)
    assert any(key.startswith("model.norm") for key in keys)


FLOW = ("process={kind='flow'}", "objective.prediction='flow'")


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["process={kind='flow'}"],
            '  objective.prediction = "noise"\n    process.time_max = 1 leaves no signal at the noisiest time, where a '
            "prediction of 'noise' says nothing of the image: use 'velocity', 'data' or 'flow'",
        ),
        (
            ["process.zero_terminal_snr=true"],
            '  objective.prediction = "noise"\n    process.zero_terminal_snr = true leaves no signal at the noisiest',
        ),
        (
            [*FLOW, "sample.spacing='karras'"],
            '  sample.spacing = "karras"\n    process.time_max = 1 leaves no signal at the noisiest time, so the ratio',
        ),
        (
            ["process={kind='edm', sigma_data=1.0}", "objective.prediction='edm'"],
            '  objective.prediction = "edm"\n    sigma_data = 0.5 here and 1 in the process: both are the standard',
        ),
        (
            ["process={kind='edm', sigma_data=1.0}", "objective.weighting='edm'"],
            '  objective.weighting = "edm"\n    sigma_data = 0.5 here and 1 in the process: both are the standard',
        ),
        (
            ["process={kind='edm'}", "sample.spacing={kind='leading', offset=1}"],
            "  sample.spacing = \"leading\"\n    offset = 1 counts numbered times, which the process 'edm' has not",
        ),
        (
            ["sample.spacing={kind='list', times=[19, 3]}"],
            "  sample.spacing = \"list\"\n    the spacing 'list' has 2 times, so steps must be 2",
        ),
        (
            ["sample.spacing={kind='list', times=[20, 4, 3, 2, 1]}"],
            '  sample.spacing = "list"\n    the process has the times 0 to 19, not 20',
        ),
        (
            [*FLOW, "model.embedding='table'"],
            "  model.embedding\n    this embedding knows whole times only, and those of the process 'flow' are real",
        ),
        (
            ["process='edm'", "objective.prediction='edm'", "model.embedding='fourier'"],
            '  model.embedding = "fourier"\n    the network\'s times span 2.65 only, and divided by time_range = 1000 '
            "they would all look the same to it: set time_range = 1",
        ),
        (
            ["model.embedding='log_fourier'"],
            '  model.embedding = "log_fourier"\n    the network sees the log of the time, and the process\'s least one '
            "is 0: use another embedding",
        ),
        (
            ["model.divide_by_time=true"],
            "  model.divide_by_time = true\n    the process's least time is 0, which nothing can be divided by",
        ),
        (
            ["model.class_features=true", "model.class_conditional=false"],
            "  model.class_features = true\n    needs class_conditional = true",
        ),
        (
            ["model.class_features=true", "model.embedding={kind='table', times=10}", "process.steps=10"],
            "  model.class_features = true\n    the embedding knows 10 numbers, and with that of no class there are 11",
        ),
        (
            ["model.embedding={kind='learned_fourier', time_range=1e4}"],
            '  model.embedding = "learned_fourier"\n    the network\'s times span 19 only, and divided by time_range = '
            "10000 they would all look the same to it: set time_range = 19",
        ),
    ],
)
def test_parts_that_do_not_fit_the_process(tiny, overrides, problem):
    with pytest.raises(RecipeError) as caught:
        tiny(*overrides)
    assert str(caught.value).startswith(f"tiny: 1 problem\n{problem}")


def test_all_that_does_not_fit_the_process_comes_together(tiny):
    with pytest.raises(RecipeError) as caught:
        tiny("process={kind='flow'}", "sample.spacing='karras'", "model.embedding='table'")
    assert {problem.key for problem in caught.value.problems} == {
        "objective.prediction",
        "sample.spacing",
        "model.embedding",
    }


@pytest.mark.parametrize(
    "overrides",
    [
        FLOW,
        ["process={kind='flow', time_max=0.99}", "sample.spacing='karras'"],
        ["process.zero_terminal_snr=true", "objective.prediction='velocity'"],
        ["process={kind='edm'}", "objective.prediction='edm'", "sample.steps=5000"],
    ],
)
def test_what_fits(tiny, overrides):
    tiny(*overrides)
