"""A wheel holds all that is needed outside of the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_it_brings_recipes_data_types_and_licence(unpacked):
    packaged = {path.name for path in (unpacked / "diffkit/recipes").iterdir()}
    assert packaged == {path.name for path in (ROOT / "recipes").glob("*.toml")}
    assert (unpacked / "diffkit/py.typed").is_file()
    assert list(unpacked.glob("diffkit-*.dist-info/licenses/LICENSE"))


def test_quickstart_trains_from_it(unpacked, tmp_path):
    quick = ["train.steps=2", "train.log_every=1", "train.batch_size=4", "callbacks=[]", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "diffkit", "train", "quickstart", *quick],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "runs/quickstart-1\n"), done.stderr
    assert (tmp_path / "runs/quickstart-1/checkpoints/step-00000002/ema.safetensors").is_file()
