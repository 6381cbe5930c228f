"""Models from strangers: what lies in their files opens no others, runs nothing and takes no more than it holds."""

import json
import os
import pickle
import re
import resource
import shutil
import time
import zipfile

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from diffkit.bounds import DEEPEST, parse_json, parse_toml, printable
from diffkit.cli.main import app
from diffkit.errors import CheckpointError, UserError
from diffkit.evaluating.kept import Kept
from diffkit.evaluating.kept import _name as name_of
from diffkit.interop import base
from diffkit.interop.base import Source
from diffkit.interop.formats import read_foreign
from diffkit.interop.tensors import words
from diffkit.pipeline import Pipeline
from diffkit.recipe.load import read_document
from diffkit.sampling import sample_settings
from diffkit.storage.checkpoint import STATE, verify_weights
from diffkit.storage.runs import find_weights, home_of
from diffkit.sweeping import CELLS, _Notes


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run."""
    return shutil.copytree(trained, tmp_path / "runs" / "stranger-1")


def with_header(file, out, **changes):
    """Write a weights file anew, with other texts in its header: functions of what they are."""
    with safetensors.safe_open(file, framework="pt") as opened:
        texts, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    texts = {name: changes[name](text) if name in changes else text for name, text in texts.items()}
    safetensors.torch.save_file(tensors, out, texts)
    return out


@pytest.fixture
def weights(run, tmp_path):
    """Writes the weights of a run as a file that lies alone, with other texts in its header."""
    return lambda **changes: with_header(find_weights(run, "ema"), tmp_path / "model.safetensors", **changes)


class TestOtherFiles:
    def test_no_plugin_is_loaded_that_a_header_names(self, weights, tmp_path):
        evil = tmp_path / "evil.py"
        evil.write_text(f"open({str(tmp_path / 'was here')!r}, 'w')")
        file = weights(
            recipe=lambda text: f"plugins = [{json.dumps(str(evil))}]\n" + text.replace("plugins = []\n", "")
        )
        done = CliRunner().invoke(
            app, ["sample", str(file), "--count", "1", "--steps", "1", "--out", str(tmp_path / "o")]
        )
        assert done.exit_code == 0
        assert Pipeline.load(file).recipe.plugins == (evil,)  # so that it would have been found
        assert not (tmp_path / "was here").exists()

    @pytest.mark.parametrize(
        "kind", [("autoguidance", "guide"), ("classifier", "classifier")], ids=lambda kind: kind[0]
    )
    def test_guides_outside_of_the_model_are_opened_only_if_the_user_asks(self, weights, tmp_path, kind):
        os.mkfifo(pipe := tmp_path / "elsewhere")  # whoever opens it waits for ever
        file = tmp_path / "alone" / "model.safetensors"
        file.parent.mkdir()
        shutil.copy(weights(recipe=lambda text: guided_by(text, *kind, pipe)), file)
        pipeline = Pipeline.load(file)
        message = rf"guidance\.{kind[1]} = .*: only the model's own file names this.*say guidance\.{kind[1]}="
        for settings in (pipeline.recipe.sample, sample_settings(pipeline.recipe, {"guidance": 3.0})):
            with pytest.raises(UserError, match=message):
                pipeline.check(settings)
        asked = sample_settings(pipeline.recipe, {}, [f"guidance.{kind[1]}={pipe}"])
        for allowed, chosen in (pipeline, asked), (Pipeline.load(file, open_named=True), pipeline.recipe.sample):
            with pytest.raises(CheckpointError, match=r"no such (run|classifier)|no such run or classifier"):
                allowed.check(chosen)

    def test_a_guide_in_the_same_run_is_the_models_own(self, run):
        guide = sorted((run / "checkpoints").iterdir())[0]
        for file in (run / "checkpoints").glob("*/ema.safetensors"):
            (file.parent / STATE).unlink()
            with_header(file, file, recipe=lambda text: guided_by(text, "autoguidance", "guide", guide))
        pipeline = Pipeline.load(sorted((run / "checkpoints").iterdir())[-1])
        assert pipeline.recipe.sample.guidance.guide_file == guide
        assert pipeline.sample(1, steps=1, sampler="ddim").shape == (1, 1, 8, 8)

    def test_home(self, run, tmp_path):
        newest = sorted((run / "checkpoints").iterdir())[-1]
        assert home_of(run) == home_of(newest) == home_of(newest / "ema.safetensors") == run
        assert home_of(tmp_path / "model.safetensors") == tmp_path

    @pytest.mark.parametrize("name", ["../../../../elsewhere", "{tmp}/elsewhere", "..", "", "a\0b", "sub/elsewhere"])
    def test_a_checkpoint_lists_no_files_outside_of_its_folder(self, run, tmp_path, name):
        os.mkfifo(tmp_path / "elsewhere")
        folder = sorted((run / "checkpoints").iterdir())[-1]
        state = json.loads((folder / STATE).read_text())
        state["sha256"][name.format(tmp=tmp_path)] = "0" * 64
        (folder / STATE).write_text(json.dumps(state))
        with pytest.raises(CheckpointError, match=r"state\.json: damaged: .* is no file of this folder"):
            verify_weights(folder / "ema.safetensors")

    def test_pipes_and_devices_are_not_read(self, run):
        file = find_weights(run, "ema")
        file.unlink()
        file.symlink_to("/dev/zero")
        with pytest.raises(CheckpointError, match="not a regular file"):
            verify_weights(file)
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(CheckpointError, match="not a regular file"):
            verify_weights(file)

    def test_notes_of_a_sweep_lead_nowhere_else(self, tmp_path):
        (tmp_path / "secret.safetensors").write_bytes(b"")
        lines = [
            {"key": "../../secret", "jackknife": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
        ]
        deep = "[" * 100_000
        (tmp_path / "sweep").mkdir()
        (tmp_path / "sweep" / CELLS).write_text("\n".join([*map(json.dumps, lines), deep, "{}", "[]", '{"key": 3}']))
        assert _Notes(tmp_path / "sweep").written == {}

    def test_strange_parts_of_an_evaluation_are_passed_over(self, tmp_path):
        for content in (b"", b"junk", safetensors.torch.save({"other": torch.ones(2)})):
            (tmp_path / name_of(content)).write_bytes(content)
        assert list(Kept(tmp_path).missing(3, 2)) == [range(2), range(2, 3)]


def guided_by(text, kind, setting, file):
    """Put a guidance with a file into a recipe's text."""
    table = f'guidance = {{kind = "{kind}", {setting} = "{file}", weight = 2.0}}'
    return re.sub(r"^guidance = \{.*$", table, text, flags=re.MULTILINE)


class TestSizes:
    def test_a_header_asks_for_no_more_than_the_weights_take(self, weights):
        file = weights(recipe=lambda text: text.replace("channels = 8\n", "channels = 8192\n", 1))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CheckpointError, match="the weights don't fit the recipe") as caught:
            Pipeline.load(file)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB; it would take gigabytes
        assert len(str(caught.value)) < 3000

    @pytest.mark.parametrize(
        "data",
        [
            '{"channels": 1, "height": 100000, "width": 100000}',
            '{"channels": 1, "height": -8, "width": 8}',
            '{"channels": "1", "height": 8, "width": 8}',
            '{"channels": 1, "height": 8, "width": 8, "classes": [1]}',
            '{"channels": 1, "height": 8, "width": 8, "classes": 3}',
            '{"channels": 1, "height": 8, "width": 8, "vector": 1e400}',
            '{"channels": 1, "height": 8, "width": 8, "more": 1}',
            "[" * 100_000,
            "null",
        ],
    )
    def test_what_a_header_says_of_its_images(self, weights, data):
        with pytest.raises(CheckpointError, match="the header is damaged"):
            Pipeline.load(weights(data=lambda text: data))

    @pytest.mark.parametrize("about", ['{"format": 1, "step": 1e999}', '{"format": 1, "step": ' + "9" * 4000 + "}"])
    def test_what_a_header_says_of_its_steps(self, weights, about):
        with pytest.raises(CheckpointError, match="the header is damaged"):
            Pipeline.load(weights(diffkit=lambda text: about))

    def test_batches_of_a_stranger(self, weights):
        pipeline = Pipeline.load(
            weights(recipe=lambda text: text.replace("batch_size = 64\n", "batch_size = 1000000\n"))
        )
        with pytest.raises(UserError, match=r"batch_size = 1000000: .*1x2048x8 .*lower it to 262,144"):
            list(pipeline.batches(1, size=(2048, 8)))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a" + ".a" * 400_000 + " = 1", "more than 100 dots"),
            ('"a"' + '."a"' * 200_000 + " = 1", "more than 100 dots"),
            ("[" + "a." * 400_000 + "a]", "more than 100 dots"),
            ("\n".join(f"{'a.' * 90}x{n} = 1" for n in range(5)), "nested deeper than"),
            ("a = " + "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nested deeper than"),
        ],
    )
    def test_toml_takes_no_longer_than_its_length(self, tmp_path, text, message):
        (tmp_path / "recipe.toml").write_text(text)
        started = time.monotonic()
        with pytest.raises(UserError, match=rf"recipe\.toml: not usable TOML: .*{message}"):
            read_document(tmp_path / "recipe.toml")
        assert time.monotonic() - started < 10

    def test_depth_is_exact(self):
        assert parse_toml("a = " + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1))
        parse_json("[" * DEEPEST + "]" * DEEPEST)
        with pytest.raises(ValueError, match="nested deeper"):
            parse_json("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))


class Code:
    def __reduce__(self):
        return os.mkdir, ("was here",)


def _laughs():
    value = ["ha"] * 10
    for _ in range(12):
        value = [value] * 10
    return value


class TestPickles:
    @pytest.mark.parametrize(
        "content",
        [
            {"weight": torch.zeros(1).expand(10**6, 10**6)},
            {"weight": torch.zeros(1).as_strided((10**5, 10**5), (0, 0))},
            {"weight": torch.zeros(3, device="meta")},
            {"weight": torch.zeros(3).to_sparse()},
            {"weight": torch.ones(3), "version": _laughs()},
            {"weight": torch.ones(3), "step": 1 << 100_000},
            {"weight": Code()},
        ],
        ids=["expanded", "strided", "meta", "sparse", "laughs", "long", "code"],
    )
    @pytest.mark.parametrize("zipped", [True, False])
    def test_only_plain_tensors_as_large_as_the_file(self, content, zipped, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        file = tmp_path / "model.pt"
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"model\.pt: not a file of tensors and plain values"):
            Source(file, allow_pickle=True).unpickled()
        assert not (tmp_path / "was here").exists()

    def test_archives_that_grow(self, tmp_path):
        torch.save({"weight": torch.zeros(10**7)}, plain := tmp_path / "plain.pt")
        with zipfile.ZipFile(plain) as old, zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as new:
            for member in old.infolist():
                new.writestr(member.filename, old.read(member))
        assert (tmp_path / "model.pt").stat().st_size < 100_000
        with pytest.raises(CheckpointError, match="more than 2 times longer than the file"):
            Source(tmp_path / "model.pt", allow_pickle=True).unpickled()

    def test_what_a_trainer_saves_is_read(self, tmp_path, monkeypatch):
        layer = torch.nn.Linear(3, 3)
        optimizer = torch.optim.Adam(layer.parameters())
        layer(torch.ones(3)).sum().backward()
        optimizer.step()
        torch.save({"opt": optimizer.state_dict(), "scaler": None, "version": "2", "step": 3}, tmp_path / "model.pt")
        assert Source(tmp_path / "model.pt", allow_pickle=True).unpickled()["step"] == 3
        monkeypatch.setattr(base, "MOST_VALUES", 10)
        with pytest.raises(CheckpointError, match="more than 10 values"):
            base._unpickled.__wrapped__(tmp_path / "model.pt", 0)

    @pytest.mark.parametrize(
        "content",
        [
            pickle.PROTO + b"\x04" + pickle.BINUNICODE8 + (2**62).to_bytes(8, "little"),
            pickle.PROTO + b"\x04" + pickle.BINUNICODE + (2**31).to_bytes(4, "little") + b"x",
            b"PK\x03\x04" + b"\0" * 100,
            b"",
        ],
    )
    def test_names_are_looked_for_in_vain(self, content, tmp_path):
        (tmp_path / "model.pt").write_bytes(content)
        assert words(tmp_path / "model.pt") == frozenset()


@pytest.mark.parametrize(
    ("tensors", "settings", "message"),
    [
        (
            {"map_layer0.weight": (4, 4)},
            {"class_name": "EDMPrecond", "img_channels": 3, "img_resolution": 8},
            "no tensor",
        ),
        (
            {"map_layer0.weight": (4, 4)},
            {"class_name": "EDMPrecond", "img_channels": 3, "img_resolution": 8, "label_dim": 10**12},
            "label_dim = 1000000000000",
        ),
        ({"input_blocks.0.0.weight": (4,), "time_embed.0.weight": (4, 4)}, {}, "no network that denoises"),
        (
            dict.fromkeys(("input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight"), (4,))
            | {"output_blocks.0.0.in_layers.0.weight": (4,)},
            {},
            "damaged, or not a model that guided-diffusion has written",
        ),
    ],
)
def test_models_of_other_libraries_that_lack_something(tensors, settings, message, tmp_path):
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file({name: torch.ones(shape) for name, shape in tensors.items()}, file)
    with pytest.raises(UserError, match=message):
        read_foreign(Source(file, settings=settings))


def test_messages_give_a_terminal_no_orders():
    assert printable("a\x1b[2J\tb\n\x07\x9b") == "a\\x1b[2J\tb\n\\x07\\x9b"
