"""A callback that raises: the run goes on to the same weights and the same log.

That it stops by name after a checkpoint, in each hook, is in `tests/train/test_hooks.py`.
"""

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

RAISES = """
import diffkit


@diffkit.hookimpl
def on_train_step(step):
    if step == 3:
        raise RuntimeError("no luck")
"""


def test_the_step_is_logged_and_saved(recipe, diffkit, steps_of, same_run, whole, tmp_path):
    (tmp_path / "raises.py").write_text(RAISES)
    arguments = ["train", recipe(), "--run", "run"]
    done = diffkit(*arguments, "--plugin", "raises.py")
    assert done.code == 2
    assert done.err.splitlines()[-1] == "Error: plugin 'raises' raised in on_train_step: RuntimeError: no luck"
    assert steps_of(tmp_path / "run") == [2, 3]
    assert diffkit(*arguments, "--resume").code == 0
    same_run(tmp_path / "run", whole)
