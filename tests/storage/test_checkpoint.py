"""Checkpoints: what is written is read back, and every damage is found and named."""

import json
import logging

import pytest
import torch

from diffkit.data.base import DataInfo
from diffkit.errors import CheckpointError
from diffkit.recipe.load import validate
from diffkit.storage.checkpoint import (
    list_checkpoints,
    make_header,
    newest_whole,
    read_checkpoint,
    read_weights,
    rotate,
    write_checkpoint,
)

FILES = ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"]


@pytest.fixture
def write(tmp_path, tiny):
    recipe = tiny()

    def at(step):
        header = make_header(recipe, DataInfo(1, 8, 8, tuple("0123456789")), {"resnet_block.wave": "wavelets"}, step)
        tensors = {"w": torch.full((2, 3), float(step)).t(), "n": torch.tensor(step)}
        average = {"w": -tensors["w"]}
        return write_checkpoint(tmp_path, step, header, tensors, {"ema": average}, {"w/exp_avg": tensors["w"]})

    return at


def test_what_was_written_is_read_back(write, tiny):
    folder = write(7)
    assert folder.name == "step-00000007"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    checkpoint = read_checkpoint(folder)
    assert checkpoint.step == 7
    assert torch.equal(checkpoint.model["w"], torch.full((3, 2), 7.0))
    assert torch.equal(checkpoint.averages["ema"]["w"], torch.full((3, 2), -7.0))
    assert list(checkpoint.optimizer) == ["w/exp_avg"]


def test_one_weights_file_says_all_that_sampling_needs(write, tiny):
    header, tensors = read_weights(write(7) / "ema.safetensors")
    assert validate(header.recipe, "header") == tiny()
    assert header.data == DataInfo(1, 8, 8, tuple("0123456789"))
    assert header.plugins == {"resnet_block.wave": "wavelets"}
    assert header.step == 7
    assert list(tensors) == ["w"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "empty"])
def test_damage_is_found_and_the_checkpoint_before_is_used(write, tmp_path, caplog, name, damage):
    older, newer = write(5), write(10)
    file = newer / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        middle = content.index(b"sha256") if name == "state.json" else len(content) - 3
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
    else:
        file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(newer)
    with caplog.at_level(logging.WARNING):
        assert newest_whole(tmp_path) == older
    assert name in caplog.text


def test_a_newer_format_is_refused(write):
    folder = write(1)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "format": 99, "version": "9.0"}))
    with pytest.raises(CheckpointError, match=r"written by diffkit 9\.0, and this is .*: update diffkit"):
        read_checkpoint(folder)


def test_a_file_of_something_else_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not a weights file of diffkit"):
        read_weights(tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="damaged, not a readable safetensors file"):
        read_weights(tmp_path / "y.safetensors")


@pytest.mark.parametrize("key", ["recipe", "data", "plugins", "diffkit"])
@pytest.mark.parametrize("value", ["", "null", "[1]", "x = ", '{"format": 1}'])
def test_a_damaged_header_is_a_clear_error(write, tmp_path, key, value):
    from safetensors.torch import save_file

    from diffkit.errors import UserError

    header = make_header(validate(read_weights(write(1) / "ema.safetensors")[0].recipe, ""), DataInfo(1, 8, 8), {}, 1)
    save_file({"w": torch.zeros(1)}, tmp_path / "x.safetensors", {**header, key: value})
    try:
        read_weights(tmp_path / "x.safetensors")
    except UserError as error:
        assert "x.safetensors" in str(error)
    else:
        assert key in ("recipe", "plugins"), "only these can hold such a value and still be read"


def test_rotation_keeps_the_last_and_every_so_many(write, tmp_path):
    for step in (5, 10, 15, 20, 25):
        write(step)
    rotate(tmp_path, keep_last=2, keep_every=10)
    assert [int(path.name[5:]) for path in list_checkpoints(tmp_path)] == [10, 20, 25]
    rotate(tmp_path, keep_last=1, keep_every=None)
    assert [int(path.name[5:]) for path in list_checkpoints(tmp_path)] == [25]
