import pytest

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
    assert tiny("sample.guidance=2").sample.guidance == 2


def test_problems_of_all_tables_come_together(tiny):
    with pytest.raises(RecipeError) as caught:
        tiny("sample.steps=21", "train.device_batch_size=3", "model.norm={kind='group', groups=3}")
    keys = [problem.key for problem in caught.value.problems]
    assert {"sample.steps", "train.device_batch_size"} < set(keys)
    assert any(key.startswith("model.norm") for key in keys)
