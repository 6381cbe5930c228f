import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def in_a_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_a_recipe(diffkit, tmp_path):
    done = diffkit("plot", "quickstart", "sample.steps=3")
    assert (done.code, done.out, done.err) == (0, "quickstart.png\n", "")
    with Image.open(tmp_path / "quickstart.png") as picture:
        assert picture.size == (1200, 660)


def test_a_family(diffkit, tmp_path):
    done = diffkit("plot", "quickstart", "--compare", "spacing", "sample.steps=3")
    assert (done.code, done.out) == (0, "quickstart-spacing.png\n")
    assert done.err == "Left out: list: sample.spacing.times: this setting is required\n"
    assert (tmp_path / "quickstart-spacing.png").is_file()


def test_a_plugins_kind_is_drawn_too(diffkit, tmp_path):
    (tmp_path / "flat.py").write_text(
        "from typing import Literal\nimport diffkit\nfrom diffkit.optim.base import LrSchedule\n\n"
        "class Half(LrSchedule):\n    '''One half.'''\n    kind: Literal['half'] = 'half'\n\n"
        "    def factor(self, step: int, total: int) -> float:\n        return 0.5\n\n"
        "@diffkit.hookimpl\ndef register_components():\n    return [Half]\n"
    )
    done = diffkit("plot", "quickstart", "--plugin", "flat.py", "--compare", "lr_schedule", "-o", "lr.svg")
    assert (done.code, done.err) == (0, "")
    drawn = ElementTree.parse(tmp_path / "lr.svg")
    assert drawn.getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert "<!-- half -->" in (tmp_path / "lr.svg").read_text()


def test_a_file_is_never_overwritten_unasked(diffkit, tmp_path):
    file = tmp_path / "loss.png"
    file.write_text("mine")
    done = diffkit("plot", "quickstart", "--compare", "loss", "-o", file)
    assert (done.code, done.out, done.err) == (2, "", f"Error: {file}: exists already; --force overwrites it\n")
    assert file.read_text() == "mine"
    assert diffkit("plot", "quickstart", "--compare", "loss", "-o", file, "--force").code == 0
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "picture.jpg"], "picture.jpg: a picture's name ends in .png or .svg"),
        (["--compare", "samplers"], "there is no picture of the family 'samplers'. Did you mean 'sampler'? Known: "),
        (["--compare", "loss", "-o", "no/loss.png"], "no/loss.png: No such file or directory"),
        (["--compare", "beta_schedule", "process=flow"], "quickstart: process 'flow' has no beta_schedule to compare"),
    ],
)
def test_mistakes(diffkit, tmp_path, arguments, message):
    done = diffkit("plot", "quickstart", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"Error: {message}")
    assert [*tmp_path.glob("*.png")] == []


@pytest.mark.parametrize("arguments", [["quickstart"], ["quickstart", "--compare", "spacing"]])
def test_without_matplotlib(tmp_path, arguments):
    code = (
        "import sys; sys.modules['matplotlib'] = None\nfrom diffkit.cli.main import run\nrun(['plot', *sys.argv[1:]])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: pictures need matplotlib (")
    assert done.stderr.endswith("): pip install 'diffkit[plot]'\n")
    assert done.stderr.count("\n") == 1


def test_no_window_is_ever_involved(tmp_path):
    code = (
        "import sys\nfrom diffkit.cli.main import run\n"
        "try: run(['plot', 'quickstart', '--compare', 'loss'])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
