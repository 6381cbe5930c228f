"""Images, archives and arrays from strangers take no more memory, time or files than they should."""

import gzip
import io
import os
import struct
import tarfile
import threading
import time
import zipfile
import zlib

import numpy as np
import pytest

from diffkit.data import cifar10, decode, download, idx, numpy_files
from diffkit.data.arrays import Arrays
from diffkit.data.base import DataInfo
from diffkit.data.cifar10 import Cifar10
from diffkit.data.image_folder import ImageFolder
from diffkit.errors import DataError, UserError
from diffkit.evaluating.read import read_images


def png_header(width, height):
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))


def test_a_picture_of_ten_thousand_million_pixels(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(png_header(10**5, 10**5) + struct.pack(">I", 0) + b"IEND\xaeB`\x82")
    for read in (decode.check_picture, lambda file: decode.decode(file, (8, 8), 3, "white")):
        with pytest.raises(decode.UnreadablePictureError, match="pixels"):
            read(file)


def test_threads_share_a_budget_of_pixels():
    budget, most, now = decode.Budget(10), 0, 0
    lock = threading.Lock()

    def work(pixels):
        nonlocal most, now
        with budget.of(pixels):
            with lock:
                now += pixels
                most = max(most, now)
            time.sleep(0.005)
            with lock:
                now -= pixels

    threads = [threading.Thread(target=work, args=(1 + n % 7,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 7 <= most <= 10
    with pytest.raises(ZeroDivisionError), budget.of(10):
        raise ZeroDivisionError
    with budget.of(10):
        pass


def test_folders_that_link_to_each_other_are_walked_once(tmp_path):
    names = [f"f{n:02}" for n in range(8)]
    for name in names:
        (tmp_path / "a" / name).mkdir(parents=True)
        (tmp_path / "a" / name / "x.png").write_bytes(b"")
        for other in names:
            (tmp_path / "a" / name / f"to-{other}").symlink_to(tmp_path / "a" / other)
    deep = tmp_path / "a"
    for _ in range(1000):  # deeper than Python's stack
        deep = deep / "d"
        deep.mkdir()
    try:
        assert len(ImageFolder(root=tmp_path / "a", size=8, labels=False)._list()[1]) == len(names)
    finally:
        while deep != tmp_path / "a":  # pytest cannot delete what is so deep
            deep.rmdir()
            deep = deep.parent


def npy(shape, content=b"", version=(1, 0), dtype="|u1", header_length=None):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = len(text) if header_length is None else header_length
    return b"\x93NUMPY" + bytes(version) + length.to_bytes(2 if version == (1, 0) else 4, "little") + text + content


@pytest.mark.parametrize(
    "content",
    [
        npy((10**12, 8, 8, 3)),
        npy((10**30, 8, 8, 3)),
        npy((-4, 8, 8, 3), bytes(768)),
        npy((4, 8, 8, 3), bytes(767)),
        npy((4, 8, 8, 3), bytes(768), (2, 0), header_length=2**32 - 1),
        npy((4, 8, 8, 3), bytes(768), (9, 9)),
        npy("(4, 8, 8, 3" + "+0" * 4000, bytes(768)),
        npy("[" * 5000, bytes(768)),
        b"",
    ],
)
def test_arrays_whose_headers_claim_anything(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", content)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match=rf"{name}: (damaged|cannot be read)"):
            Arrays(path=tmp_path / name).open()
    with pytest.raises(UserError, match="not an npz file with 'images'"):
        list(read_images(tmp_path / "a.npz", DataInfo(3, 8, 8)))


def test_archives_that_expand_a_thousandfold(tmp_path, monkeypatch):
    monkeypatch.setattr(numpy_files, "ALWAYS_ALLOWED", 2**20)
    file = tmp_path / "a.npz"
    np.savez_compressed(file, images=np.zeros((2**14, 32, 32, 1), np.uint8))
    assert file.stat().st_size < 2**24 / 500
    for read in (Arrays(path=file).info, Arrays(path=file).open):
        with pytest.raises(
            DataError, match=r"'images' has 16,777,344 bytes, .*more than 100 times the file's own length"
        ):
            read()
    with pytest.raises(UserError, match="more than 100 times"):
        list(read_images(file, DataInfo(1, 32, 32)))
    np.savez(file, images=np.zeros((2**14, 32, 32, 1), np.uint8))
    assert Arrays(path=file).info().shape == (1, 32, 32)


def test_a_second_member_of_the_name_is_not_read(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 8, 8, 1), np.uint8))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", buffer.getvalue())
        archive.writestr("images", npy((3, 8, 8, 1), bytes(192)))  # numpy.load takes this one
    assert len(Arrays(path=tmp_path / "a.npz").open()) == 2


@pytest.mark.parametrize("size", [2**20, 2**22])
def test_archives_of_tar_without_end(tmp_path, monkeypatch, size):
    monkeypatch.setattr(cifar10, "LARGEST_UNPACKED", 2**19)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        header = tarfile.TarInfo("x")
        header.type, header.size = tarfile.XHDTYPE, size  # a header that Python's tarfile reads whole
        tar.addfile(header, io.BytesIO(bytes(size)))
    with pytest.raises(DataError, match=r"damaged archive .unpacked, it has more than 524,288 bytes"):
        Cifar10(root=tmp_path / "a.tar.gz").open()


@pytest.mark.parametrize("link", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_in_archives_lead_nowhere(tmp_path, link):
    before = set(tmp_path.rglob("*"))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for name in ("../../outside", "/tmp/outside", *(f"{cifar10.FOLDER}/data_batch_{n}.bin" for n in range(1, 6))):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = link, "/etc/passwd"
            tar.addfile(member)
    with pytest.raises(DataError, match=r"data_batch_1\.bin"):
        Cifar10(root=tmp_path / "a.tar.gz").open()
    assert set(tmp_path.rglob("*")) == {*before, tmp_path / "a.tar.gz"}


def test_an_idx_file_that_claims_too_much(tmp_path):
    content = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**10, 2**10)
    for name, data in (("a", content), ("a.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"and {idx.LARGEST} are allowed"):
            idx.read_idx(tmp_path / name, 3)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        idx.read_idx(tmp_path / "pipe", 3)


def test_a_server_that_never_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 1000)

    class Endless:
        sent = 0

        @property
        def headers(self):
            return {}

        @property
        def raw(self):
            return self

        def stream(self, size, decode_content):
            while True:
                self.sent += 100
                yield bytes(100)

    server = Endless()
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        download.ResumingDownloader(tmp_path / "part", "file")._save(server, 0)
    assert server.sent == 1100
    assert (tmp_path / "part").stat().st_size == 1000
