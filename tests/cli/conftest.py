from types import SimpleNamespace

import pytest

from diffkit.cli.main import run


@pytest.fixture
def diffkit(capsys, install_plugin):
    """Runs a command line in this process: its exit code, what it printed and what went to stderr.

    The only plugins are those that the test installs.
    """

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return SimpleNamespace(code=caught.value.code, out=printed.out, err=printed.err)

    return call


@pytest.fixture
def recipe_file(tmp_path):
    def write(text):
        file = tmp_path / "recipe_of_test.toml"
        file.write_text(text)
        return file

    return write
