"""One member of a big backup, found by the manifest, without reading the rest."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from ext4img import Archive
from ext4img.archive.body import BodyStream
from ext4img.archive.directory_store import DirectoryStore
from ext4img.archive.directory_store_writer import DirectoryStoreWriter
from ext4img.archive.entry import Entry
from ext4img.archive.writer import ArchiveWriter
from ext4img.archive.zstd_frames import FRAME_BYTES, FrameWriter
from tests.archive.synthetic import Tree

PARTS = 40
PART_BYTES = 1 << 20


@pytest.fixture(scope="module")
def tree() -> Tree:
    """Forty files that cannot be compressed, of which one is wanted."""
    chance = random.Random(7)
    tree = Tree()
    for number in range(PARTS):
        tree.add(b"part %02d" % number, "file", chance.randbytes(PART_BYTES))
    return tree


class Counting(io.BytesIO):
    """Counts the bytes that are read."""

    done = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.done += len(data)
        return data


def zstd_frames(tree: Tree) -> bytes:
    pytest.importorskip("backports.zstd")
    output = io.BytesIO()
    frames = FrameWriter(output)
    tree.write(frames)
    frames.finish()
    return output.getvalue()


@pytest.mark.parametrize(
    ("made", "most"),
    # The archive's first and last pieces, its manifest, the member, and for zstd the frames that they are in.
    [(Tree.archive, 2 * PART_BYTES), (zstd_frames, 4 * FRAME_BYTES)],
    ids=["tar", "zstd"],
)
@pytest.mark.parametrize("number", [0, 17, PARTS - 1])
def test_of_an_archive(tree: Tree, made: Callable[[Tree], bytes], most: int, number: int):
    data = made(tree)
    source = Counting(data)
    assert len(data) > 2 * most
    with Archive(source) as archive:
        member = archive.member(b"part %02d" % number)
        assert member.read() == tree.plain[b"part %02d" % number]
    assert source.done <= most


def test_of_a_store(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with DirectoryStoreWriter(str(tmp_path / "store"), tree.info) as writer:
        for entry, body in tree.sorted():
            writer.add(entry, BodyStream((body,)) if body else None)
        writer.finish()
    opened: list[bytes] = []
    real = DirectoryStore.open_body

    def noted(store: DirectoryStore, entry: Entry) -> int:
        opened.append(entry.path)
        return real(store, entry)

    monkeypatch.setattr(DirectoryStore, "open_body", noted)
    with DirectoryStore(str(tmp_path / "store")) as store:
        assert store.member(b"part 17").read() == tree.plain[b"part 17"]
    assert opened == [b"part 17"]


def test_members_in_any_order(tree: Tree):
    """Members share buffers, but none gets another's data."""
    with Archive(io.BytesIO(tree.archive())) as archive:
        lines = [line for line in archive.manifest() if line.path.startswith(b"part")]
        random.Random(3).shuffle(lines)
        for line in lines:
            assert archive.member_at(line).read() == tree.plain[line.path]


def test_while_all_are_gone_through(tree: Tree):
    with Archive(io.BytesIO(tree.archive())) as archive:
        for member in archive:
            if member.data_size:
                assert archive.member(b"part 03").read() == tree.plain[b"part 03"]
                assert member.read() == tree.plain[member.entry.path]


class Short(io.RawIOBase):
    """Takes a few bytes at a time, as a pipe may."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: memoryview, /) -> int:  # type: ignore[override]
        part = bytes(data[: 1 + len(self.taken) % 50_000])
        self.taken += part
        return len(part)


class Silent:
    """A file object whose `write` says nothing."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def write(self, data: memoryview) -> None:
        self.taken += data


@pytest.mark.parametrize("output", [Short(), Silent()], ids=["short writes", "no counts"])
def test_short_writes_are_completed(tree: Tree, output: BinaryIO):
    with ArchiveWriter(output, tree.info) as writer:
        for entry, body in tree.sorted():
            writer.add(entry, BodyStream((body,)) if body else None)
        writer.finish()
    assert output.taken == tree.archive()  # type: ignore[attr-defined]
