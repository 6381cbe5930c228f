"""Files and folders appear whole or not at all."""

import pytest

from diffkit.storage.files import TEMPORARY, delete_folder, delete_leftovers, new_folder, write_atomically


def test_a_file_is_replaced_whole(tmp_path):
    file = tmp_path / "a.txt"
    write_atomically(file, "old")
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_the_old_file_survives_a_failed_write(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    write_atomically(file, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffkit.storage.files.sync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_appears_only_when_it_is_whole(tmp_path):
    folder = tmp_path / "step-1"
    with new_folder(folder) as temporary:
        (temporary / "x").write_text("1")
        assert not folder.exists()
    assert (folder / "x").read_text() == "1"


def test_a_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "step-1") as temporary:
        (temporary / "x").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_never_overwritten(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("1")
    with pytest.raises(FileExistsError), new_folder(tmp_path / "a"):
        pass
    assert (tmp_path / "a" / "mine").read_text() == "1"


def test_leftovers_are_deleted_and_nothing_else(tmp_path):
    (tmp_path / f"{TEMPORARY}1").mkdir()
    (tmp_path / f"{TEMPORARY}1" / "x").write_text("1")
    (tmp_path / f"{TEMPORARY}2").write_text("1")
    (tmp_path / "keep").mkdir()
    (tmp_path / "gone").mkdir()
    delete_folder(tmp_path / "gone")
    delete_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]
