"""The contract of importers, with a model that is diffkit's own."""

import pickle

import pytest
import torch

from diffkit.errors import CheckpointError, UserError
from diffkit.interop.base import Imported, Source
from diffkit.interop.formats import is_foreign
from diffkit.pipeline import Pipeline, build_network

UNSPECIFIED = {"kind": "unspecified", "channels": 1, "height": 8, "width": 8, "classes": [str(i) for i in range(10)]}


@pytest.fixture
def imported(tiny):
    recipe = tiny()
    tables = {**recipe.model_dump(mode="json", exclude_none=True), "data": UNSPECIFIED}
    data = recipe.data.info()
    return Imported(tables, data, build_network(recipe, data).state_dict())


def test_a_written_folder_can_be_sampled_from(imported, tmp_path):
    files = imported.write(tmp_path / "new" / "model")
    assert {file.name for file in files} == {"recipe.toml", "ema.safetensors", "model.safetensors"}
    expected = imported.pipeline().sample(2)
    for weights in ("ema", "raw"):
        assert torch.equal(Pipeline.load(tmp_path / "new" / "model", weights).sample(2), expected)


def test_raw_weights_are_kept_apart(imported, tmp_path):
    raw = {name: tensor + 1 for name, tensor in imported.tensors.items()}
    Imported(imported.recipe, imported.data, imported.tensors, raw=raw, step=7).write(tmp_path / "model")
    found = Pipeline.load(tmp_path / "model", "raw").network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in raw.items())


def test_nothing_is_overwritten(imported, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        imported.write(tmp_path)


def test_weights_that_do_not_fit_are_refused(imported, tmp_path):
    tensors = dict(imported.tensors)
    tensors.pop("conv_in.bias")
    with pytest.raises(CheckpointError, match=r"conv_in\.bias"):
        Imported(imported.recipe, imported.data, tensors).write(tmp_path / "model")
    assert not (tmp_path / "model").exists()


class TestPickled:
    def test_only_where_allowed(self, tmp_path):
        file = tmp_path / "model.pt"
        torch.save({"weight": torch.ones(2)}, file)
        with pytest.raises(UserError, match=r"model\.pt: its weights are pickled.*--allow-pickled-weights"):
            Source(file).unpickled()
        assert Source(file, allow_pickle=True).unpickled()["weight"].tolist() == [1, 1]

    def test_a_file_that_changed_is_read_anew(self, tmp_path):
        file = tmp_path / "model.pt"
        for number in (1, 2):
            torch.save({"weight": torch.tensor([number])}, file)
            assert Source(file, allow_pickle=True).unpickled()["weight"].item() == number

    @pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(print, protocol=2)])
    def test_code_and_damage_are_refused(self, content, tmp_path):
        file = tmp_path / "model.pt"
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.pt: not a file of tensors and plain values"):
            Source(file, allow_pickle=True).unpickled()

    def test_missing(self, tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            Source(tmp_path / "none.pt", allow_pickle=True).unpickled()


def test_models_of_diffkit_are_not_taken_for_others(trained, imported, tmp_path):
    imported.write(tmp_path / "model")
    checkpoint = sorted((trained / "checkpoints").iterdir())[-1]
    ours = (trained, checkpoint, checkpoint / "ema.safetensors", tmp_path / "model", tmp_path / "model/ema.safetensors")
    for path in (*ours, tmp_path / "missing"):
        assert not is_foreign(path), path
