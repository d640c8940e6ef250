"""`File`: random access gives the bytes of the whole, however it is asked for."""

from __future__ import annotations

import array
import csv
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ext4img
from tests.conftest import UnpackedImage, _unpack
from tests.images import fixture_images
from tests.manifest import Entry

# Data units of 512 bytes to a block, XTS; holes, unwritten extents, extents that are not in order.
IMAGES = ["encrypted-variants", "sample-encrypted", "encrypted-old-layout", "plain-4k", "ext4-inline"]
MOST_BYTES = 1 << 20


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[ext4img.File, bytes]]]:
    """Open files of several images, one for each size and policy, and their whole contents."""
    found: list[tuple[ext4img.File, bytes]] = []
    file_systems = []
    for packed in fixture_images():
        if packed.name not in IMAGES:
            continue
        image = _unpack(packed, tmp_path_factory.mktemp("files"))
        fs = ext4img.open(image.path)
        file_systems.append(fs)
        image.manifest.add_keys_to(fs)
        kinds: set[tuple[int, str]] = set()
        for entry in image.manifest.entries:
            if entry["type"] == "file" and 0 < entry["size"] <= MOST_BYTES:
                kind = entry["size"], entry.get("context", "")[:-32]
                if kind not in kinds:
                    kinds.add(kind)
                    found.append((fs.path(entry["path"]).open("rb"), whole(fs, entry)))
    assert len(found) > 60
    yield found
    for fs in file_systems:
        fs.close()


def whole(fs: ext4img.FileSystem, entry: Entry) -> bytes:
    data = fs.path(entry["path"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    return data


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_reads(files: list[tuple[ext4img.File, bytes]], data: st.DataObject):
    """Ragged reads, in any order, by every way to read; what is kept between them must not show."""
    file, expected = data.draw(st.sampled_from(files))
    size = len(expected)
    near = st.sampled_from([0, 511, 512, 513, 1023, 1024, 4095, 4096, 4097, 65535, 65536, size - 1, size, size + 1])
    offsets = st.one_of(near, st.integers(0, size + 5))
    for _ in range(data.draw(st.integers(1, 6))):
        offset = data.draw(offsets)
        length = data.draw(st.one_of(st.integers(0, 20), st.integers(0, size + 5), near))
        way = data.draw(st.sampled_from(["read", "readinto", "pread", "pread_into", "peek", "readline", "rest"]))
        piece = expected[offset : offset + max(length, 0)]
        assert file.seek(offset) == offset
        if way == "read":
            assert file.read(max(length, 0)) == piece
            assert file.tell() == offset + len(piece)
        elif way == "readinto":
            buffer = bytearray(b"\xa5" * max(length, 0))
            assert file.readinto(buffer) == len(piece)
            assert buffer[: len(piece)] == piece
            assert set(buffer[len(piece) :]) <= {0xA5}
        elif way == "pread":
            assert file.pread(offset, max(length, 0)) == piece
            assert file.tell() == offset
        elif way == "pread_into":
            buffer = bytearray(max(length, 0))
            assert file.pread_into(offset, memoryview(buffer)) == len(piece)
            assert buffer[: len(piece)] == piece
        elif way == "peek":
            peeked = file.peek(max(length, 0))
            assert expected[offset:].startswith(peeked)
            assert len(peeked) >= min(max(length, 1), max(size - offset, 0))
            assert file.tell() == offset
        elif way == "readline":
            assert file.readline() == io.BytesIO(expected[offset:]).readline()
        else:
            assert file.read() == expected[offset:]


def test_small_steps_give_the_whole(files: list[tuple[ext4img.File, bytes]]):
    for file, expected in files:
        for step in (7, 1000, 4096, 70_001):
            if len(expected) > 3000 * step:
                continue
            file.seek(0)
            assert b"".join(iter(lambda f=file, n=step: f.read(n), b"")) == expected  # type: ignore[misc]


def test_lines(files: list[tuple[ext4img.File, bytes]]):
    for file, expected in files:
        file.seek(0)
        assert list(file) == expected.splitlines(keepends=True) or b"\r" in expected or b"\x0b" in expected


def test_ways_of_the_io_module(sample: ext4img.FileSystem):
    path = sample.path("/home/alice/Documents/Letters/Dear Bob.txt")
    data = path.read_bytes()
    with path.open("rb") as file:
        assert (file.readable(), file.seekable(), file.writable(), file.isatty()) == (True, True, False, False)
        assert file.size == len(data)
        assert file.seek(-10, io.SEEK_END) == len(data) - 10
        assert file.read() == data[-10:]
        assert file.seek(-5, io.SEEK_CUR) == len(data) - 5
        assert file.seek(100, io.SEEK_END) == len(data) + 100
        assert (file.read(), file.read(5), file.readinto(bytearray(5)), file.readline()) == (b"", b"", 0, b"")
        file.seek(0)
        words = array.array("H", [0] * 4)
        assert file.readinto(words) == 8
        assert words.tobytes() == data[:8]
        assert io.BufferedReader(file, 100).read(50) == data[8:58]
    assert data.decode() == path.read_text()
    with path.open() as text:
        assert text.readline() == data.decode().splitlines(keepends=True)[0]
        assert list(csv.reader(text))


def test_misuse_is_said(sample: ext4img.FileSystem):
    path = sample.path("/home/alice/notes.txt")
    file = path.open("rb")
    for call in (
        lambda: file.seek(-1),
        lambda: file.seek(0, 9),
        lambda: file.pread(-1, 5),
        lambda: file.pread_into(-1, memoryview(bytearray(5))),
    ):
        with pytest.raises(ValueError, match=r"negative|whence"):
            call()
    for call in (lambda: file.write(b"x"), lambda: file.truncate(0), file.fileno):
        with pytest.raises((OSError, io.UnsupportedOperation)):
            call()
    with pytest.raises(TypeError):
        file.seek(1.5)  # type: ignore[arg-type]
    file.seek(0, io.SEEK_END)
    file.close()
    file.close()
    for closed in (file.read, file.tell, file.peek, file.readline, lambda: file.seek(0), lambda: file.pread(0, 0)):
        with pytest.raises(ValueError, match="closed"):
            closed()
    for mode in ("w", "rb+", "a", "x", ""):
        with pytest.raises(ValueError, match="read-only"):
            path.open(mode)  # type: ignore[call-overload]


def test_settings_are_none_but_the_known(fixture_image: Callable[[str], UnpackedImage]):
    """A slip must not show the tree as it was before recovery."""
    image = fixture_image("ext4-dirty").path
    for slip in ({"journal": "replai"}, {"checks": "strickt"}):
        with pytest.raises(ValueError, match="is one of"):
            ext4img.open(image, **slip)  # type: ignore[arg-type]


def test_segments_tell_data_from_holes(files: list[tuple[ext4img.File, bytes]]):
    for file, expected in files:
        segments = file.segments()
        assert segments == sorted(segments)
        end = 0
        for offset, length in segments:
            assert length > 0
            assert not any(expected[end:offset])
            end = offset + length
        assert not any(expected[end:])
        assert end <= len(expected)


def test_what_has_no_contents(fixture_image: Callable[[str], UnpackedImage]):
    image = fixture_image("sample-encrypted")
    with ext4img.open(image.path) as fs:
        for entry in image.manifest.entries:
            path = fs.path(str(entry.get("nokey_path", entry["path"])))
            if entry["type"] == "dir":
                with pytest.raises(IsADirectoryError):
                    path.read_bytes()
            elif entry["type"] not in ("file", "symlink"):
                with pytest.raises(ext4img.NotRegularFileError):
                    path.inode.open()
                with pytest.raises(ext4img.NotRegularFileError):
                    path.inode.open_ciphertext()
            if entry["type"] != "symlink":
                with pytest.raises(ext4img.NotSymlinkError):
                    path.readlink()
        with pytest.raises(ext4img.NotFoundError):
            fs.inode(fs.superblock.inode_count).open()
        with pytest.raises(ext4img.NotFoundError):
            fs.inode(fs.superblock.inode_count + 1)


def test_lost_sectors_are_zeros_not_what_zeros_decrypt_to(
    fixture_image: Callable[[str], UnpackedImage], tmp_path: Path
):
    """A source that fails for one block of an encrypted file: strict raises, report gives zeros and says so."""
    image = fixture_image("sample-encrypted")
    with ext4img.open(image.path) as fs:
        image.manifest.add_keys_to(fs)
        path = fs.path("/home/alice/Documents/Taxes/2025/return.txt")
        data, runs = path.read_bytes(), path.inode.runs()
        bad = runs[0].pblk * fs.block_size + fs.block_size

    class Failing(ext4img.Source):
        name = "failing"

        def __init__(self) -> None:
            self.data = image.path.read_bytes()
            self.size = len(self.data)

        def read_at(self, offset: int, length: int) -> bytes:
            if offset < bad + 4096 and bad < offset + length:
                raise ext4img.SourceError(5, "Input/output error", self.name)
            return self.data[offset : offset + length]

        def read_into(self, offset: int, buffer: memoryview) -> None:
            buffer[:] = self.read_at(offset, len(buffer))

        def close(self) -> None:
            pass

    with ext4img.open(Failing()) as fs:
        image.manifest.add_keys_to(fs)
        with pytest.raises(ext4img.SourceError):
            fs.path("/home/alice/Documents/Taxes/2025/return.txt").read_bytes()
    with ext4img.open(Failing(), checks="report") as fs:
        image.manifest.add_keys_to(fs)
        with fs.path("/home/alice/Documents/Taxes/2025/return.txt").open("rb") as file:
            assert file.read() == data[:4096] + bytes(4096) + data[8192:]
            assert file.pread(4090, 12) == data[4090:4096] + bytes(6)
        assert any("contents from byte 4096 to 8192" in problem.reason for problem in fs.problems)
