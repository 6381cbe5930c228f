import textwrap

GOOD = '''
from typing import Literal
import diffkit


@diffkit.hookimpl
def register_components():
    from diffkit.callbacks.base import Callback

    class Bell(Callback):
        """Rings."""

        kind: Literal["bell"] = "bell"

    return [Bell]


@diffkit.hookimpl
def register_recipes():
    return ["/x/bells.toml"]
'''


def test_what_works_and_what_is_left_out(diffkit, install_plugin):
    install_plugin("bell", GOOD)
    install_plugin("broken", "raise ValueError('[no] luck')")
    done = diffkit("plugins")
    assert done.code == 0
    assert done.out.startswith("diffkit  works  (diffkit ")
    assert done.out.endswith(
        textwrap.dedent(
            """\
            bell  works  (diffkit-bell 1.2)
              components: callback.bell
              recipes: bells
            broken  left out  (diffkit-broken 1.2)
              ValueError: [no] luck
            """
        )
    )
    assert done.err == "Warning: plugin 'broken' (diffkit-broken 1.2) is left out: ValueError: [no] luck\n"


def test_a_plugin_file(diffkit, tmp_path):
    file = tmp_path / "bells.py"
    file.write_text(GOOD)
    assert f"\nbells  works  ({file})\n  components: callback.bell\n" in diffkit("plugins", "--plugin", file).out


def test_a_command_whose_name_is_taken(diffkit, install_plugin):
    install_plugin(
        "greedy", "import diffkit\n@diffkit.hookimpl\ndef register_commands(app):\n    app.command('train')(print)"
    )
    assert "  its command 'train' is already provided by diffkit\n" in diffkit("plugins").out
