"""Whatever bytes a file has: diffkit reads it, or says in one message of its own what is wrong.

As a part of the suite each parser sees a few dozen files. ``pytest tests/fuzz --fuzz-seconds 600`` fuzzes all of them
for so long, under a limit of memory.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gzip
import importlib.util
import io
import json
import resource
import shutil
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import tomlkit
import torch
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from diffkit.callbacks.jsonl import Jsonl
from diffkit.cli.runs import _row
from diffkit.data import cifar10
from diffkit.data.arrays import Arrays
from diffkit.data.base import DataInfo
from diffkit.data.cifar10 import Cifar10
from diffkit.data.decode import UnreadablePictureError, check_picture, decode, decode_as_is
from diffkit.data.idx import read_idx
from diffkit.errors import UserError
from diffkit.evaluating.kept import Kept
from diffkit.evaluating.kept import _name as name_of
from diffkit.evaluating.read import read_images
from diffkit.interop.base import Source
from diffkit.interop.diffusers.write import DiffusersExporter
from diffkit.interop.formats import importers, is_foreign, load_any, read_foreign
from diffkit.pipeline import Pipeline
from diffkit.recipe.load import read_document, validate
from diffkit.recipe.overrides import apply_override
from diffkit.recipe.tables import Recipe
from diffkit.sampling import describe_walk
from diffkit.storage.checkpoint import STATE, list_checkpoints, make_header, read_checkpoint, read_metadata
from diffkit.storage.classifier import read_classifier, write_classifier
from diffkit.storage.overview import overview
from diffkit.storage.runs import find_weights, locked
from diffkit.sweeping import CELLS, _Notes
from diffkit.train.loop import train
from diffkit.train.run import TrainingRun

EXAMPLES, OF_MODELS = 25, 8
"""Files that each parser sees as a part of the suite, and those of models, which take longer to build."""

MEMORY = 6 * 2**30
"""Bytes that a long fuzz may take besides what it has; a parser that wants more fails."""

STRANGE: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        3,
        2**31,
        2**63,
        -(2**63),
        10**30,
        10**4000,
        0.5,
        -0.5,
        1e-300,
        1e300,
        1e999,
        -1e999,
    ),
    *("", "x", "../../x", "/dev/zero", "a\0b", "\x1b[2J", "é" * 200, "x" * 5000, "{x}", "~nobody", "linear", "1e3"),
    *([], {}, [[]], [1, "2"], [0] * 100, {"kind": "x"}, {"kind": 3}, {"kind": "self"}, ["a", "a"]),
]
CHUNKS = [
    b"",
    b"\0",
    b"\0" * 8,
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x7f" + b"\xff" * 7,
    b"\0\0\0\x80",
    b"{",
    b"[" * 3000,
    b'"',
    b"-1",
]


@st.composite
def mutated(draw: Any, content: bytes) -> bytes:
    """Some bytes with a few bits flipped, cut, put in, overwritten, repeated or moved."""
    out = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place, length = draw(st.integers(0, len(out))), draw(st.sampled_from([1, 2, 4, 8, 100, 10**9]))
        match draw(st.sampled_from(["flip", "cut", "insert", "overwrite", "repeat", "end"])):
            case "flip" if place < len(out):
                out[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del out[place : place + length]
            case "insert":
                out[place:place] = draw(st.sampled_from(CHUNKS) | st.binary(max_size=8))
            case "overwrite":
                chunk = draw(st.sampled_from(CHUNKS) | st.binary(max_size=8))
                out[place : place + len(chunk)] = chunk
            case "repeat":
                out[place:place] = out[place : place + length] * 2
            case "end":
                del out[place:]
    return bytes(out[: 2**20])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places of a document below its root."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(*path, key), *places(item, (*path, key))]]


@st.composite
def edited(draw: Any, document: Any) -> Any:
    """A document with a few values dropped, renamed, borrowed from elsewhere or made strange."""
    out = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        found = places(out)
        if not found:
            return out
        *above, last = draw(st.sampled_from(found))
        holder = out
        for part in above:
            holder = holder[part]
        match draw(st.sampled_from(["drop", "rename", "strange", "strange", "strange", "borrow", "nest"])):
            case "drop":
                del holder[last]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["x", "", "kind", "../x"]))] = holder.pop(last)
            case "borrow":
                value = out
                for part in draw(st.sampled_from(found)):
                    value = value[part]
                holder[last] = copy.deepcopy(value)
            case "nest":
                for _ in range(draw(st.sampled_from([1, 30, 70, 400]))):
                    holder[last] = [holder[last]]
            case _:
                holder[last] = copy.deepcopy(draw(st.sampled_from(STRANGE)))
    return out


def as_toml(document: Any) -> bytes:
    """Write TOML; nothing for what isn't TOML."""
    try:
        text = tomlkit.dumps(document)
        tomllib.loads(text)
    except (ValueError, TypeError, AttributeError, RecursionError):
        assume(False)
    return text.encode("utf-8", "surrogatepass")


def as_json(document: Any) -> bytes:
    try:
        return json.dumps(document).encode()
    except ValueError:  # an int of thousands of digits
        assume(False)
        raise


class Parser(NamedTuple):
    """A parser with what it may be given.

    Attributes:
        read: Reads a file or folder.
        files: The files of a valid one, by their names below its folder; a file alone is called by one name.
        fuzz: Makes a file's content from a valid one; `mutated` by default.
    """

    read: Callable[[Path], Any]
    files: dict[str, bytes]
    fuzz: dict[str, Callable[[bytes], st.SearchStrategy[bytes]]] = {}  # noqa: RUF012
    alone: bool = True


def edited_json(content: bytes) -> st.SearchStrategy[bytes]:
    return edited(json.loads(content)).map(as_json) | mutated(content)


def edited_line(content: bytes) -> st.SearchStrategy[bytes]:
    """A log whose last line says something else."""
    *before, last = content.splitlines(keepends=True)
    return edited_json(last).map(lambda line: b"".join([*before, line]))


def edited_toml(content: bytes) -> st.SearchStrategy[bytes]:
    return edited(tomllib.loads(content.decode())).map(as_toml) | mutated(content)


@st.composite
def edited_header(draw: Any, content: bytes) -> bytes:
    """A safetensors file whose header says something else."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    texts = header.get("__metadata__", {})
    which = draw(st.sampled_from([*texts, "", "bytes"]))
    if which == "bytes":
        return draw(mutated(content))
    if which in texts and texts[which][:1] == "{":
        texts[which] = draw(edited_json(texts[which].encode())).decode("utf-8", "replace")
    elif which == "recipe":
        texts[which] = draw(edited_toml(texts[which].encode())).decode("utf-8", "replace")
    else:
        header = draw(edited(header))
    made = as_json(header)
    return len(made).to_bytes(8, "little") + made + content[8 + length :]


def edited_archive(content: bytes) -> st.SearchStrategy[bytes]:
    """An archive of zip, with members that say something else."""

    @st.composite
    def make(draw: Any) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
            changed = draw(st.sampled_from(old.namelist()))
            for name in old.namelist():
                inner = old.read(name)
                new.writestr(name, draw(mutated(inner)) if name == changed else inner)
        return out.getvalue()

    return make() | mutated(content)


def gzipped(content: bytes) -> st.SearchStrategy[bytes]:
    return mutated(gzip.decompress(content)).map(gzip.compress) | mutated(content)


def _walk(pipeline: Pipeline) -> None:
    pipeline.check(pipeline.recipe.sample)
    if pipeline.recipe.sample.steps <= 10_000:
        describe_walk(pipeline, pipeline.recipe.sample)


def _picture(file: Path) -> None:
    for read in (
        check_picture,
        lambda file: decode(file, (8, 8), 3, "white"),
        lambda file: decode_as_is(file, (8, 6), 3),
    ):
        try:
            read(file)
        except UnreadablePictureError as error:
            assert str(error)


def _arrays(file: Path) -> None:
    Arrays(path=file).open()


def _npz(file: Path) -> None:
    Arrays(path=file, labels_key="labels", vectors_key="vectors").open()


def _foreign(path: Path) -> None:
    is_foreign(path)
    for importer in importers():
        try:
            read_foreign(
                Source(path, allow_pickle=True, settings={"image_size": 16} if path.suffix == ".pt" else {}),
                importer.name,
            )
        except UserError:
            continue
    _walk(load_any(path, allow_pickle=True))


def _kept(file: Path) -> None:
    folder = file.with_name("kept")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    content = file.read_bytes()
    (folder / name_of(content)).write_bytes(content)
    Kept(folder)


def _log(file: Path) -> None:
    folder = file.with_name("log")
    folder.mkdir(exist_ok=True)
    shutil.copy(file, folder / "metrics.jsonl")
    Jsonl().on_train_start(SimpleNamespace(folder=folder, step=5))  # type: ignore[arg-type]


def _runs(folder: Path) -> None:
    for holding in (contextlib.nullcontext(), locked(folder)):
        with holding:
            found = overview(folder)
        assert all(_row(found)[:3])
        json.dumps(found.to_json(), allow_nan=False)


def _teachers_note(student: Path, recipe: Recipe) -> Callable[[Path], None]:
    """Reads what a checkpoint says of a student's teacher. Its hashes are no protection: who wrote it made them too."""
    run = TrainingRun(recipe, student, recipe.data.info(), recipe.data.open(), torch.device("cpu"))
    checkpoint = read_checkpoint(list_checkpoints(student / "checkpoints")[-1])

    def read(file: Path) -> None:
        header = {"teacher": file.read_bytes().decode("utf-8", "replace")}
        safetensors.torch.save_file({}, file.with_name("model.safetensors"), header)
        run.load(dataclasses.replace(checkpoint, folder=file.parent))

    return read


def _override(file: Path) -> None:
    text = file.read_bytes().decode("utf-8", "replace")
    document: dict[str, Any] = {"train": {"steps": 3}, "callbacks": [{"kind": "x"}], "process": "ddpm"}
    apply_override(document, text)


def _recipe(file: Path) -> None:
    validate(read_document(file), str(file))


@pytest.fixture(scope="module")
def parsers(trained: Path, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parser]:
    """All parsers, with a valid file for each."""
    here = tmp_path_factory.mktemp("valid")
    weights = find_weights(trained, "ema")
    folder = weights.parent
    DiffusersExporter().write(Pipeline.load(trained), here / "diffusers")
    recipe = tiny('classifier.network={channels=8, multipliers=[1], norm={kind="group", groups=4}}')
    data = recipe.data.info()
    header = make_header(recipe, data, {}, 3, "classifier")
    write_classifier(here / "classifier.safetensors", header, recipe.classifier.network.build(data))

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 6, 4), dtype=np.uint8), "RGBA")
    pictures = {}
    for name, mode, options in (
        *(("png", "RGBA", {}), ("jpeg", "RGB", {}), ("webp", "RGBA", {"lossless": True}), ("bmp", "RGB", {})),
        *(("gif", "P", {}), ("tiff", "RGBA", {"compression": "tiff_lzw"})),
    ):
        stream = io.BytesIO()
        picture.convert(mode).save(stream, name, **options)
        pictures[name] = Parser(_picture, {"picture": stream.getvalue()})

    images = np.zeros((3, 8, 6, 1), np.uint8)
    np.save(here / "a.npy", images)
    np.savez(here / "a.npz", images=images, labels=np.array([0, 1, 0]), vectors=np.ones((3, 2), np.float32))
    idx = bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3])
    with tarfile.open(here / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for number in range(1, 6):
            member = tarfile.TarInfo(f"{cifar10.FOLDER}/data_batch_{number}.bin")
            member.size, member.pax_headers = cifar10.RECORD, {"comment": "é"}
            tar.addfile(member, io.BytesIO(bytes(cifar10.RECORD)))

    velocity = "objective.prediction=velocity"
    train(tiny(velocity, "train.steps=1"), here / "teacher")
    distillation = f"distillation={{kind='consistency', teacher={str(here / 'teacher')!r}}}"
    student = tiny(velocity, "train.steps=1", "sample={sampler='consistency', steps=2}", distillation)
    train(student, here / "student")
    about = read_metadata(find_weights(here / "student", "raw"))["teacher"]

    torch.save({"model": {"init_conv.weight": torch.ones(8, 3, 7, 7)}, "step": 3, "version": "2.0"}, here / "zip.pt")
    torch.save({"weight": torch.ones(2)}, here / "old.pt", _use_new_zipfile_serialization=False)
    published = _published()
    found = {
        "recipe": Parser(
            _recipe, {"recipe.toml": (trained / "recipe.toml").read_bytes()}, {"recipe.toml": edited_toml}
        ),
        "override": Parser(_override, {"text": b"callbacks.0.kind=[1, {a = 2}]"}),
        "weights": Parser(
            lambda file: _walk(Pipeline.load(file)),
            {"model.safetensors": weights.read_bytes()},
            {"model.safetensors": edited_header},
        ),
        "classifier": Parser(
            read_classifier,
            {"classifier.safetensors": (here / "classifier.safetensors").read_bytes()},
            {"classifier.safetensors": edited_header},
        ),
        "checkpoint": Parser(
            read_checkpoint,
            {file.name: file.read_bytes() for file in folder.iterdir()},
            {STATE: edited_json},
            alone=False,
        ),
        **pictures,
        "npy": Parser(_arrays, {"a.npy": (here / "a.npy").read_bytes()}),
        "npz": Parser(_npz, {"a.npz": (here / "a.npz").read_bytes()}, {"a.npz": edited_archive}),
        "samples": Parser(
            lambda file: list(read_images(file, DataInfo(1, 8, 6))),
            {"images.npz": (here / "a.npz").read_bytes()},
            {"images.npz": edited_archive},
        ),
        "idx": Parser(lambda file: read_idx(file, 1), {"a": idx}),
        "idx.gz": Parser(lambda file: read_idx(file, 1), {"a.gz": gzip.compress(idx)}, {"a.gz": gzipped}),
        "tar": Parser(
            lambda file: Cifar10(root=file).open(),
            {"a.tar.gz": (here / "a.tar.gz").read_bytes()},
            {"a.tar.gz": gzipped},
        ),
        "diffusers": Parser(
            _foreign,
            {
                str(file.relative_to(here / "diffusers")): file.read_bytes()
                for file in (here / "diffusers").rglob("*.*")
            },
            dict.fromkeys(("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"), edited_json)
            | {"unet/diffusion_pytorch_model.safetensors": edited_header},
            alone=False,
        ),
        "torch": Parser(_foreign, {"model.pt": (here / "zip.pt").read_bytes()}, {"model.pt": edited_archive}),
        "torch before 1.6": Parser(_foreign, {"model.pt": (here / "old.pt").read_bytes()}),
        "parts": Parser(_kept, {"part": safetensors.torch.save({"number": torch.arange(3), "x": torch.ones(3, 2)})}),
        "sweep": Parser(
            lambda folder: _Notes(folder), {CELLS: b'{"key": "ab", "jackknife": "0", "scores": {}}\n' * 2}, alone=False
        ),
        "runs": Parser(
            _runs,
            {
                "recipe.toml": (trained / "recipe.toml").read_bytes(),
                "metrics.jsonl": (trained / "metrics.jsonl").read_bytes(),
            },
            {"recipe.toml": edited_toml, "metrics.jsonl": edited_line},
            alone=False,
        ),
        "teacher": Parser(
            _teachers_note(here / "student", student), {"note.json": about.encode()}, {"note.json": edited_json}
        ),
        "log": Parser(_log, {"metrics.jsonl": b'{"step": 3, "loss": 0.5}\n{"step": 9}\n'}),
    }
    for file, name in (("edm_song.safetensors", "edm"), ("guided_diffusion.safetensors", "guided")):
        case = next(iter(published.read(file).values()))
        tensors = published.fill(case["shapes"])
        for key in (key for key in tensors if key.endswith("resample_filter")):
            line = torch.tensor(case["flags"].get("resample_filter", [1.0, 1.0]))
            tensors[key] = (torch.outer(line, line) / line.sum() ** 2)[None, None]
        flags = {"class_name": "EDMPrecond", **case["flags"]} if name == "edm" else case["flags"]
        found[name] = Parser(
            lambda folder: _foreign(folder / "model.safetensors"),
            {
                "model.safetensors": safetensors.torch.save(tensors),
                "model.json": json.dumps(flags).encode(),
            },
            {"model.safetensors": edited_header, "model.json": edited_json},
            alone=False,
        )
    return found


def _published() -> Any:
    """The module that knows the weights of published networks."""
    file = Path(__file__).parents[1] / "interop" / "published" / "make.py"
    spec = importlib.util.spec_from_file_location("published_make", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(parser: Parser, folder: Path, **instead: bytes) -> Path:
    """Write a parser's files, some of them with another content. Returns what it reads."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in {**parser.files, **instead}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / next(iter(parser.files)) if parser.alone else folder


def fuzz(parser: Parser, folder: Path, *, examples: int, start: int, phases: list[Phase]) -> None:
    """Give a parser many files."""

    @st.composite
    def case(draw: Any) -> dict[str, bytes]:
        name = draw(st.sampled_from(sorted(parser.files)))
        how = parser.fuzz.get(name, mutated)(parser.files[name])
        return {name: draw(st.binary(max_size=200) | how | how | how | how)}

    @seed(start)
    @settings(
        max_examples=examples,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    @given(case())
    def check(instead: dict[str, bytes]) -> None:
        path = write(parser, folder, **instead)
        try:
            parser.read(path)
        except UserError as error:
            assert str(error)

    check()


NAMES = [
    *(
        "recipe",
        "override",
        "weights",
        "classifier",
        "checkpoint",
        "png",
        "jpeg",
        "webp",
        "bmp",
        "gif",
        "tiff",
        "npy",
        "npz",
    ),
    *(
        "samples",
        "idx",
        "idx.gz",
        "tar",
        "diffusers",
        "torch",
        "torch before 1.6",
        "parts",
        "sweep",
        "log",
        "runs",
        "teacher",
        "edm",
        "guided",
    ),
]


@pytest.fixture(autouse=True)
def small_cifar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "IMAGES_PER_FILE", 1)
    monkeypatch.setattr(cifar10, "LARGEST_UNPACKED", 2**20)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_any_file_ends_in_a_message(name: str, parsers: dict[str, Parser], tmp_path: Path) -> None:
    assert sorted(parsers) == sorted(NAMES)
    parser = parsers[name]
    if name not in ("torch", "torch before 1.6", "sweep"):
        parser.read(write(parser, tmp_path / "files"))  # the valid one is read
    examples = OF_MODELS if name in ("recipe", "teacher", "diffusers", "edm", "guided") else EXAMPLES
    fuzz(parser, tmp_path / "files", examples=examples, start=0, phases=[Phase.generate])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(0)
def test_for_long(request: pytest.FixtureRequest, parsers: dict[str, Parser], tmp_path: Path) -> None:
    seconds = request.config.getoption("--fuzz-seconds", 0.0)
    if not seconds:
        pytest.skip("pytest tests/fuzz --fuzz-seconds 600 fuzzes for long")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    begun, start, files = time.monotonic(), 0, 0
    while time.monotonic() - begun < seconds:
        start += 1
        for parser in parsers.values():
            fuzz(parser, tmp_path / "files", examples=50, start=start, phases=[Phase.generate, Phase.shrink])
            files += 50
            if time.monotonic() - begun >= seconds:
                break
    print(f"{files} files in {time.monotonic() - begun:.0f} s")
