"""The exported network computes what diffkit's does, for batches of any size, and loads without diffkit."""

import subprocess
import sys

import pytest
import torch

from diffkit.errors import UserError
from diffkit.interop.network_file import Onnx, TorchExport
from diffkit.pipeline import Pipeline, build_network

KINDS = [
    pytest.param((), id="plain"),
    pytest.param(("objective.self_conditioning=true", "objective.variance='learned_range'"), id="more channels"),
    pytest.param(
        ("model.class_conditional=false", "model.downsample='resnet'", "model.attention='linear'"), id="parts"
    ),
]


@pytest.fixture(params=KINDS)
def pipeline(request, tiny):
    return small(tiny(*request.param))


def small(recipe):
    """Return a pipeline whose weights hide nothing."""
    data = recipe.data.info()
    network = build_network(recipe, data)
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Pipeline(recipe, data, network)


def inputs_of(pipeline, count):
    objective, draw = pipeline.recipe.objective, torch.Generator().manual_seed(count)
    inputs = {
        "x": torch.randn(count, objective.ports(1).in_channels, 8, 8, generator=draw),
        "time": torch.linspace(0, 19, count),
    }
    if pipeline.recipe.model.class_conditional:
        inputs["label"] = torch.arange(count) % 11
    return inputs


def test_torch_export_computes_the_same(pipeline, tmp_path):
    files = TorchExport().write(pipeline, tmp_path / "out")
    assert [file.name for file in files] == ["network.pt2", "recipe.toml"]
    assert all(file.is_file() for file in files)
    module = torch.export.load(files[0]).module()
    for count in (1, 2, 5):
        inputs = inputs_of(pipeline, count)
        with torch.no_grad():
            torch.testing.assert_close(module(**inputs), pipeline.network(**inputs), rtol=1e-5, atol=1e-5)


def test_torch_export_loads_without_diffkit(tiny, tmp_path):
    file, _ = TorchExport().write(small(tiny()), tmp_path / "out")
    code = f"import torch, sys; torch.export.load({str(file)!r}); sys.exit('diffkit' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_onnx_computes_the_same(tiny, tmp_path, capsys):
    runtime = pytest.importorskip("onnxruntime")
    pipeline = small(tiny())
    file, _ = Onnx().write(pipeline, tmp_path / "out")
    assert capsys.readouterr().out == ""
    session = runtime.InferenceSession(file)
    for count in (1, 2, 5):
        inputs = inputs_of(pipeline, count)
        assert [given.name for given in session.get_inputs()] == list(inputs)
        (found,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), pipeline.network(**inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("exporter", [TorchExport(), Onnx()])
def test_nothing_is_overwritten(tiny, tmp_path, exporter):
    with pytest.raises(UserError, match="exists already: name a new folder"):
        exporter.write(small(tiny()), tmp_path)


def test_without_onnx(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"pip install 'diffkit\[onnx\]'"):
        Onnx().write(small(tiny()), tmp_path / "out")
    assert not (tmp_path / "out").exists()
