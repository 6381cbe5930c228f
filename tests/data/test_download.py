"""Downloads, from a server on this computer that can be told to misbehave."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from diffkit.data import download
from diffkit.data.cifar10 import Cifar10
from diffkit.data.mnist import Mnist
from diffkit.data.remote import RemoteFile, cache_folder, fetch
from diffkit.errors import DataError

CONTENT = np.random.default_rng(0).bytes(1_000_003)


class Server(http.server.ThreadingHTTPServer):
    """Serves one content under every name.

    Attributes:
        ranges: Understand requests for a part.
        breaks_after: For each coming request, the number of bytes after which the connection breaks.
        status: Answer with this error instead.
        asked: The Range header of each request.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges = True
        self.wrong_ranges = False
        self.breaks_after: list[int] = []
        self.status: int | None = None
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, content = self.server, self.server.content
        asked = self.headers["Range"]
        server.asked.append(asked)
        assert self.headers["Accept-Encoding"] == "identity"
        if server.status is not None:
            self.send_error(server.status)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            said = start + 1 if server.wrong_ranges else start
            self.send_header("Content-Range", f"bytes {said}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = start + server.breaks_after.pop(0) if server.breaks_after else len(content)
        self.wfile.write(content[start:stop])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def folder(downloads) -> Path:
    return downloads / "things"


def remote(*urls: str) -> RemoteFile:
    return RemoteFile("file.bin", urls, hashlib.sha256(CONTENT).hexdigest())


def leave(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True)
    part = folder / "file.bin.part"
    part.write_bytes(content)
    return part


def check(folder: Path) -> None:
    assert (folder / "file.bin").read_bytes() == CONTENT
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "file.bin"]


def test_downloads_once(server, folder):
    assert fetch("things", [remote(server.url)]) == folder
    check(folder)
    fetch("things", [remote(server.url)])
    assert server.asked == [None]


def test_goes_on_where_an_earlier_try_stopped(server, folder):
    leave(folder, CONTENT[:400_000])
    fetch("things", [remote(server.url)])
    check(folder)
    assert server.asked == ["bytes=400000-"]


def test_goes_on_after_each_break_of_the_connection(server, folder):
    server.breaks_after = [300_000, 1, 200_000]
    fetch("things", [remote(server.url)])
    check(folder)
    assert server.asked == [None, "bytes=300000-", "bytes=300001-", "bytes=500001-"]


def test_an_interrupted_download_is_kept_for_the_next_time(server, folder, monkeypatch):
    def interrupt(self, response, done):
        (folder / "file.bin.part").write_bytes(response.raw.read(250_000))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download.ResumingDownloader, "_save", interrupt)
        fetch("things", [remote(server.url)])
    fetch("things", [remote(server.url)])
    check(folder)
    assert server.asked == [None, "bytes=250000-"]


def test_a_server_without_ranges_starts_anew(server, folder):
    server.ranges = False
    leave(folder, b"x" * 400_000)
    fetch("things", [remote(server.url)])
    check(folder)
    assert server.asked == ["bytes=400000-"]


def test_only_the_renaming_was_missing(server, folder):
    leave(folder, CONTENT)
    fetch("things", [remote(server.url)])
    check(folder)
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_a_part_of_something_longer(server, folder):
    leave(folder, CONTENT + b"more")
    fetch("things", [remote(server.url)])
    check(folder)
    assert server.asked == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_part_of_something_else_is_thrown_away(server, folder):
    leave(folder, b"x" * 400_000)
    fetch("things", [remote(server.url)])
    check(folder)
    assert server.asked == ["bytes=400000-", None]


def test_a_server_that_sends_another_part_than_asked_for(server, folder):
    server.wrong_ranges = True
    part = leave(folder, CONTENT[:400_000])
    with pytest.raises(DataError, match="no connection to"):
        fetch("things", [remote(server.url)])
    assert not part.exists()
    fetch("things", [remote(server.url)])
    check(folder)


def test_a_wrong_hash_leaves_nothing_behind(server, folder):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(DataError, match=r"127\.0\.0\.1:\d+ sent something else than file\.bin \(its SHA-256 differs\)"):
        fetch("things", [remote(server.url)])
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_the_next_mirror_goes_on(server, folder):
    with Server() as broken:
        threading.Thread(target=broken.serve_forever, args=(0.01,), daemon=True).start()
        broken.breaks_after = [300_000, 0]
        fetch("things", [remote(broken.url, server.url)])
        broken.shutdown()
    check(folder)
    assert server.asked == ["bytes=300000-"]


@pytest.mark.parametrize("status", [404, 503])
def test_a_refusal(server, folder, status):
    server.status = status
    with pytest.raises(DataError, match=rf"cannot be downloaded: 127\.0\.0\.1:\d+ answered {status} "):
        fetch("things", [remote(server.url)])


def test_no_network_says_all_in_one_message(folder, downloads, capfd):
    files = [
        RemoteFile("a.gz", ("http://127.0.0.1:9/a.gz", "http://127.0.0.1:1/a.gz"), "0"),
        RemoteFile("b.gz", ("http://127.0.0.1:9/b.gz",), "0"),
    ]
    with pytest.raises(DataError) as error:
        fetch("things", files)
    assert str(error.value) == (
        "things: its files are not on this computer and cannot be downloaded: "
        "no connection to 127.0.0.1:9; no connection to 127.0.0.1:1\n"
        "Fetch\n"
        "  http://127.0.0.1:9/a.gz\n"
        "  http://127.0.0.1:9/b.gz\n"
        f"and put them, without unpacking, into a folder that data.root names, or into {folder}"
    )
    assert capfd.readouterr() == ("", "")


def test_the_folder_cannot_be_written(downloads):
    downloads.write_text("a file")
    with pytest.raises(DataError, match=r"cannot be downloaded: .*Not a directory"):
        fetch("things", [remote("http://127.0.0.1:9/file.bin")])


def test_where_downloads_go(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFKIT_DATA", str(tmp_path / "here"))
    assert cache_folder("mnist") == tmp_path / "here" / "mnist"
    monkeypatch.delenv("DIFFKIT_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder("mnist").parts[-3:] == ("diffkit", "data", "mnist")


def test_mnist_downloads_itself(server, downloads, monkeypatch, idx_bytes):
    """The whole way of a kind: one content serves as images, and then the labels don't fit, in one message."""
    server.content = idx_bytes(np.zeros((5, 28, 28)))
    digest = hashlib.sha256(server.content).hexdigest()
    monkeypatch.setattr(Mnist, "mirrors", (server.url.removesuffix("file.bin"),))
    monkeypatch.setattr(Mnist, "sha256", dict.fromkeys(Mnist.sha256, digest))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte.gz: not an IDX file of unsigned bytes with 1 axes"):
        Mnist().open()
    assert (downloads / "mnist" / "train-images-idx3-ubyte.gz").read_bytes() == server.content


def test_cifar10_downloads_itself(server, downloads, monkeypatch, cifar_root):
    server.content = (cifar_root / "cifar-10-binary.tar.gz").read_bytes()
    server.breaks_after = [len(server.content) // 2]
    digest = hashlib.sha256(server.content).hexdigest()
    archive = RemoteFile("cifar-10-binary.tar.gz", (server.url,), digest)
    monkeypatch.setattr("diffkit.data.cifar10.ARCHIVE", archive)
    assert len(Cifar10(split="test").open()) == 10_000
    assert server.asked == [None, f"bytes={len(server.content) // 2}-"]
    server.status = 404
    assert len(Cifar10(split="test").open()) == 10_000
