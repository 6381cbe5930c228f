import os

import pytest

from diffkit.errors import RecipeError, UserError
from diffkit.recipe.load import LARGEST_FILE, parse_toml, read_document, read_text, validate
from diffkit.recipe.tables import Train


def message(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.fixture
def file(tmp_path):
    def write(content, name="recipe.toml"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize(
    "content",
    [b'name = "x"\nseed = 1\n', b'\xef\xbb\xbfname = "x"\nseed = 1\n', b'name = "x"\r\nseed = 1\r\n'],
    ids=["plain", "byte-order mark", "CRLF"],
)
def test_utf8_in_all_its_dresses(file, content):
    assert read_document(file(content)) == {"name": "x", "seed": 1}


def test_overrides_are_laid_over_the_file(file):
    assert read_document(file(b"[train]\nsteps = 1"), ["train.steps=2"]) == {"train": {"steps": 2}}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16(file, encoding):
    path = file("﻿name = 'x'".encode(encoding))
    assert message(read_text, path) == f"{path}: this file is UTF-16, and TOML is UTF-8: save it as UTF-8"


def test_bytes_that_are_no_text(file):
    path = file(b"name = '\xff'")
    assert message(read_text, path) == f"{path}: not UTF-8 text (at byte 8)"


def test_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "no.toml"
    assert message(read_text, path) == f"{path}: cannot be read: No such file or directory"


def test_a_path_through_a_file(file):
    path = file(b"") / "recipe.toml"
    assert message(read_text, path) == f"{path}: cannot be read: Not a directory"


def test_a_folder(tmp_path):
    assert message(read_text, tmp_path) == f"{tmp_path}: this is a folder, not a recipe file"


def test_a_pipe_does_not_hang(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert message(read_text, path) == f"{path}: this is not a regular file"


def test_a_device_does_not_hang(tmp_path):
    path = tmp_path / "zero"
    path.symlink_to("/dev/zero")
    assert message(read_text, path) == f"{path}: this is not a regular file"


def test_a_huge_file(tmp_path):
    path = tmp_path / "big.toml"
    with path.open("wb") as stream:
        stream.truncate(2**40)
    assert message(read_text, path) == f"{path}: too long for a recipe, which has at most {LARGEST_FILE} bytes"


def test_an_unreadable_file(file, monkeypatch):
    path = file(b"")
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13, "No way")))
    assert message(read_text, path) == f"{path}: cannot be read: No way"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = 1\nb =\n", "not valid TOML: invalid value (at line 2, column 4)"),
        ("a = 1\na = 2", "not valid TOML: cannot overwrite a value (at end of document)"),
        ("[a]\n[a]", "not valid TOML: cannot declare ('a',) twice (at line 2, column 3)"),
        ('a = "x', "not valid TOML: unterminated string (at end of document)"),
        ("a = 1" + "0" * 5000, "not usable TOML: a number is too long or arrays are nested too deep"),
        ("a = " + "[" * 100_000, "not usable TOML: a number is too long or arrays are nested too deep"),
        ("a = " + "{a = " * 50_000, "not usable TOML: a number is too long or arrays are nested too deep"),
    ],
    ids=["no value", "twice", "table twice", "open text", "5000 digits", "deep arrays", "deep tables"],
)
def test_what_is_not_toml(text, reason):
    assert message(parse_toml, text, "r.toml") == f"r.toml: {reason}"


def test_deep_but_legal_nesting_is_refused_by_its_place(tiny_document):
    tiny_document["callbacks"] = value = []
    for _ in range(200):
        value.append([])
        value = value[0]
    assert "callbacks[0]" in message(validate, tiny_document, "r.toml")


def test_a_number_of_many_digits_is_out_of_range(tiny_document):
    tiny_document["train"]["steps"] = 10**4000
    assert "train.steps = 1000" in message(validate, tiny_document, "r.toml")


def test_all_problems_are_reported_at_once(tiny_document):
    tiny_document |= {"seed": -1, "nam": "x", "data": {"kind": "digit"}}
    tiny_document["train"]["steps"] = "many"
    with pytest.raises(RecipeError) as caught:
        validate(tiny_document, "r.toml")
    assert str(caught.value).splitlines()[0] == "r.toml: 4 problems"
    assert {problem.key for problem in caught.value.problems} == {"seed", "nam", "data", "train.steps"}


def test_an_error_reads_like_this(tiny_document):
    tiny_document["train"]["bach_size"] = 8
    assert message(validate, tiny_document, "r.toml") == (
        "r.toml: 1 problem\n"
        "  train.bach_size = 8\n"
        "    unknown setting. Did you mean 'batch_size'? Allowed here: " + ", ".join(Train.model_fields)
    )


def test_a_name_must_do_for_a_folder(tiny_document):
    tiny_document["name"] = "../x"
    assert message(validate, tiny_document, "r.toml") == (
        "r.toml: 1 problem\n  name = \"../x\"\n    should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'"
    )


def test_rules_between_tables_come_after_the_tables_themselves(tiny_document):
    tiny_document["sample"] = {"steps": 21, "guidance": 2.0}
    tiny_document["model"]["class_conditional"] = False
    tiny_document["train"]["device_batch_size"] = 3
    got = message(validate, tiny_document, "r.toml")
    assert "train.device_batch_size = 3\n    must divide train.batch_size = 8" in got
    assert "sample.steps = 21\n    the process has 20 times, so at most 20 steps can be taken" in got
    assert "sample.guidance = 2.0\n    guidance needs" in got
    assert validate(tiny_document, "r.toml", cross_check=False).sample.steps == 21
