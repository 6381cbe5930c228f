"""Makes the built-in kinds known before any test is collected, and brings a recipe small enough to train in a test."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from diffkit.data.mnist import FashionMnist
from diffkit.errors import DataError
from diffkit.plugins import builtin
from diffkit.recipe.load import read_document, validate
from diffkit.recipe.overrides import apply_override
from diffkit.recipe.packaged import packaged_recipes
from diffkit.recipe.tables import Recipe
from diffkit.spec import families, register, unregister
from diffkit.train.loop import train

register(builtin.register_components(), owner="diffkit")
torch.set_num_threads(1)
settings.register_profile("diffkit", deadline=None)  # a busy machine is no fault
settings.load_profile("diffkit")

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"kind": "digits"},
    "process": {"kind": "ddpm", "steps": 20},
    "model": {
        "kind": "unet",
        "channels": 8,
        "multipliers": [1, 2],
        "blocks_per_level": 1,
        "attention_at": [4],
        "norm": {"kind": "group", "groups": 4},
        "resnet": {"kind": "ddpm", "dropout": 0.1},
        "class_conditional": True,
    },
    "train": {
        "steps": 12,
        "batch_size": 8,
        "optimizer": {"kind": "adam", "lr": 1e-3},
        "ema": {"kind": "decay", "decay": 0.9},
        "grad_clip": 1.0,
        "log_every": 3,
        "checkpoint_every": 5,
    },
    "sample": {"steps": 5, "count": 4},
}


def tiny_recipe(*overrides: str) -> Recipe:
    """Make the tiny recipe, with ``key=value`` overrides."""
    document = copy.deepcopy(TINY)
    for override in overrides:
        apply_override(document, override)
    return validate(document, "tiny")


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Recipe]:
    """Makes the tiny recipe, with ``key=value`` overrides."""
    return tiny_recipe


@pytest.fixture(scope="session")
def fashion_mnist() -> FashionMnist:
    """The real Fashion-MNIST. CI installs it; elsewhere it is downloaded, and tests are skipped if that fails."""
    data = FashionMnist()
    try:
        data.open()
    except DataError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"apt-get install dataset-fashion-mnist, or a network, is needed: {error}")
    return data


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny recipe. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-1"
    train(tiny_recipe(), folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path) -> Path:
    """Makes a working directory with a copy of the run in it, ``runs/tiny-1``."""
    shutil.copytree(trained, tmp_path / "runs/tiny-1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def together(tmp_path: Path) -> Callable[[int, Callable[[], object]], list[int | None]]:
    """Runs a job in processes that know of each other, as torchrun starts them, and returns their exit codes.

    They are copies of this one, so that nothing is imported anew. What they print is in the files ``out-0``, ``err-0``
    and so on.
    """

    def one(rank: int, size: int, port: int, job: Callable[[], object]) -> None:
        os.environ.update(TORCHELASTIC_RUN_ID="test", TORCHELASTIC_USE_AGENT_STORE="True")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
        os.chdir(tmp_path)
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(f"out-{rank}").open("w"))))
            stack.enter_context(contextlib.redirect_stderr(stack.enter_context(Path(f"err-{rank}").open("w"))))
            job()

    def run(size: int, job: Callable[[], object]) -> list[int | None]:
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=one, args=(rank, size, store.port, job)) for rank in range(size)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=100)
            if process.is_alive():
                process.kill()
                process.join()
        return [process.exitcode for process in processes]

    return run


@pytest.fixture
def install_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes distributions ``diffkit-NAME 1.2`` of one module, which Python finds as if pip had installed them.

    No other plugin is found in such a test.
    """
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    real = importlib.metadata.entry_points

    def only_these(group: str) -> list[importlib.metadata.EntryPoint]:
        return [entry for entry in real(group=group) if entry.dist and Path(str(entry.dist.locate_file(""))) == site]

    monkeypatch.setattr(importlib.metadata, "entry_points", only_these)

    def install(name: str, source: str, entry: str | None = None) -> None:
        (site / f"plugin_of_test_{name}.py").write_text(source)
        info = site / f"diffkit_{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: diffkit-{name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[diffkit]\n{entry or name} = plugin_of_test_{name}\n")

    yield install
    for module in [name for name in sys.modules if name.startswith("plugin_of_test_")]:
        del sys.modules[module]


@pytest.fixture(autouse=True)
def _no_plugin_is_left() -> Iterator[None]:
    """Takes all kinds out that are not diffkit's own, once a test is over: the next one draws from what there is."""
    yield
    forget_plugins()


def forget_plugins() -> None:
    """Take all kinds out that are not diffkit's own."""
    owners = {owner for family in families().values() for owner in family.owners.values()}
    for owner in owners - {"diffkit"}:
        unregister(owner)


@pytest.fixture(scope="session")
def thousand_classes(tmp_path_factory) -> Path:
    """A folder laid out as ImageNet: one picture in each of 1000 folders."""
    folder = tmp_path_factory.mktemp("imagenet")
    for number in range(1000):
        (folder / f"n{number:08}").mkdir()
        Image.new("RGB", (2, 2)).save(folder / f"n{number:08}" / "picture.png")
    return folder


@pytest.fixture
def packaged(thousand_classes, tmp_path) -> Callable[[str], Recipe]:
    """Opens a packaged recipe by name; one that wants pictures or arrays of the user's own gets some."""

    def open_packaged(name: str) -> Recipe:
        file = packaged_recipes()[name]
        document = read_document(file)
        if document["data"]["kind"] == "image_folder":
            document["data"]["root"] = str(thousand_classes)
        if document["data"]["kind"] == "arrays":
            document["data"]["path"] = str(tmp_path / "images.npz")
            images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
            np.savez(document["data"]["path"], images=images, vectors=np.eye(4))
        return validate(document, name, file.parent)

    return open_packaged
