"""Entries → archive → the same entries, from a file and from a stream."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any, BinaryIO, cast

import pytest

from ext4img import Archive, verify
from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.body import BodyStream
from ext4img.archive.entry import VERITY, Entry
from ext4img.archive.manifest_line import Closing, parse_line
from ext4img.archive.writer import ArchiveWriter
from ext4img.errors import AlteredArchiveError, ArchiveError, NotFoundError, UnsafeArchiveError
from tests.archive.synthetic import Tree, encrypted_tree, plain_tree


class OneWay(io.RawIOBase):
    """A stream as a pipe is one: no seeking, and reads shorter than asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(memoryview(buffer)[:1000])

    def read(self, size: int = -1, /) -> bytes:
        return self._data.read(min(size, 1000) if size >= 0 else -1)


def as_file(data: bytes) -> BinaryIO:
    return io.BytesIO(data)


def as_stream(data: bytes) -> BinaryIO:
    return cast("BinaryIO", OneWay(data))


both = pytest.mark.parametrize("opened", [as_file, as_stream], ids=["file", "stream"])
trees = pytest.mark.parametrize("make", [plain_tree, encrypted_tree], ids=["plain", "encrypted"])


def same(entry: Entry, other: Entry) -> bool:
    return entry._replace(xattrs={}) == other._replace(xattrs={}) and dict(entry.xattrs) == dict(other.xattrs)


def test_times_from_1901_to_2446():
    """Each end of what a signed word and two epoch bits hold (Documentation/filesystems/ext4, inode timestamps)."""
    tree = Tree()
    moments = [-(2**31), -1, 0, 2**31, 2**32, 2**33, 2**34 - 2**31 - 1]
    for number, seconds in enumerate(moments):
        time_ns = seconds * 1_000_000_000 + 999_999_999
        tree.add(b"%d" % number, "file", atime_ns=time_ns, mtime_ns=time_ns, ctime_ns=time_ns, crtime_ns=time_ns)
    with Archive(io.BytesIO(tree.archive())) as archive:
        entries = [member.entry for member in archive.members()]
    assert all(same(entry, added) for entry, (added, _) in zip(entries, tree.members, strict=True))


@both
@trees
def test_there_and_back(make: Callable[[], Tree], opened: Callable[[bytes], BinaryIO]):
    tree = make()
    with Archive(opened(tree.archive())) as archive:
        assert archive.info == tree.info
        found = [(member.entry, b"".join(bytes(part) for _, part in member.chunks())) for member in archive]
        assert archive.closing is not None
    expected = tree.sorted()
    assert [entry.path for entry, _ in found] == [entry.path for entry, _ in expected]
    for (entry, body), (wanted, wanted_body) in zip(found, expected, strict=True):
        assert same(entry, wanted), f"{entry}\n{wanted}"
        assert body == wanted_body


@trees
def test_the_same_entries_give_the_same_bytes(make: Callable[[], Tree]):
    assert make().archive() == make().archive()


@both
def test_bodies_that_are_not_read_are_passed_over(opened: Callable[[bytes], BinaryIO]):
    tree = plain_tree()
    with Archive(opened(tree.archive())) as archive:
        half = 0
        for member in archive:
            if member.entry.body_size:
                next(member.chunks(), None)
                half += 1
        assert half > 5


def test_a_file_can_be_read_again_and_a_stream_cannot():
    data = plain_tree().archive()
    with Archive(as_file(data)) as archive:
        assert len(list(archive)) == len(list(archive))
    with Archive(as_stream(data)) as archive:
        list(archive)
        with pytest.raises(ArchiveError, match="once"):
            list(archive)


def test_random_access():
    tree = plain_tree()
    with Archive(as_file(tree.archive())) as archive:
        for entry, body in reversed(tree.sorted()):
            if entry.type != VERITY:
                member = archive.member(entry.path)
                assert same(member.entry, entry)
                assert b"".join(bytes(part) for _, part in member.chunks()) == body
        with pytest.raises(NotFoundError):
            archive.member(b"not/there")


def test_holes_are_not_stored():
    data = plain_tree().archive()
    assert len(data) < 4 << 20
    with Archive(as_file(data)) as archive:
        member = archive.member(b"holes")
        assert [(offset, len(part)) for offset, part in member.chunks()] == [(4096, 4096), (1 << 20, 512)]


def test_manifest_lines_say_what_is_where():
    data = encrypted_tree().archive()
    with tarfile.open(fileobj=io.BytesIO(data)) as stock:
        members = stock.getmembers()
        manifest = cast("BinaryIO", stock.extractfile(members[-1])).read().splitlines(keepends=True)
    assert members[0].name == ".ext4img/backup.json"
    assert members[-1].name == ".ext4img/manifest.jsonl"
    *lines, last = manifest
    closing = parse_line(last)
    assert isinstance(closing, Closing)
    assert closing.members == len(lines) == len(members) - 1
    assert closing.sha256 == hashlib.sha256(b"".join(lines)).hexdigest()
    starts = [json.loads(line)["offset"] for line in lines] + [closing.manifest_offset]
    for line, end in zip(map(json.loads, lines), starts[1:], strict=True):
        assert line["data"] + -(-line["size"] // 512) * 512 == end
        head = data[line["offset"] : line["data"]]
        body = data[line["data"] :][: line["size"]]
        assert hashlib.sha256(head).hexdigest() == line["head"]
        assert hashlib.sha256(body).hexdigest() == line["sha256"]


def test_an_archive_ends_on_a_record():
    data = plain_tree().archive()
    assert len(data) % 10240 == 0
    assert not data[-1024:].strip(b"\0")


def test_nothing_secret_is_in_it():
    tree = encrypted_tree()
    data = tree.archive()
    from tests.archive.synthetic import KEY

    assert KEY[:16] not in data
    assert KEY.hex()[:32].encode() not in data
    assert b"three names" not in data
    assert b"linked" not in data


@both
def test_verify_finds_nothing(opened: Callable[[bytes], BinaryIO]):
    tree = plain_tree()
    report = verify(opened(tree.archive()))
    assert report.intact
    assert report.members == len(tree.members)
    assert not report.incomplete


def test_verify_counts_what_was_unreadable():
    tree = Tree()
    entry = tree.add(b"f", "file", b"x" * 8192)
    output = io.BytesIO()
    writer = ArchiveWriter(output, tree.info)
    writer.add(tree.members[0][0])
    body = BodyStream((b"x" * 4096, bytes(4096)))
    body.unreadable.append((4096, 4096))
    writer.add(entry, body)
    assert writer.finish().incomplete == 1
    report = verify(io.BytesIO(output.getvalue()))
    assert report.intact
    assert report.incomplete == 1
    with Archive(io.BytesIO(output.getvalue())) as archive:
        assert archive.member(b"f").unreadable == ((4096, 4096),)


class TestWriterRefuses:
    def test_disorder(self):
        tree = Tree()
        tree.add(b"b", "file")
        tree.add(b"a", "file")
        with ArchiveWriter(io.BytesIO(), tree.info) as writer, pytest.raises(UnsafeArchiveError):
            for entry, _ in tree.members:
                writer.add(entry)

    @pytest.mark.parametrize("body", [b"", b"short", b"much too long"])
    def test_a_body_of_another_length(self, body: bytes):
        tree = Tree()
        entry = tree.add(b"f", "file", b"7 bytes")
        with ArchiveWriter(io.BytesIO(), tree.info) as writer:
            writer.add(tree.members[0][0])
            with pytest.raises(AlteredArchiveError, match="body"):
                writer.add(entry, BodyStream((body,)))

    def test_a_verity_tree_without_its_file(self):
        tree = Tree()
        with ArchiveWriter(io.BytesIO(), tree.info) as writer:
            writer.add(tree.members[0][0])
            with pytest.raises(AlteredArchiveError, match="verity"):
                writer.add(Entry(b"f", VERITY, 0, inode=5))


@pytest.mark.parametrize("count", [3, 40])
def test_many_members_take_little_memory(count: int, tmp_path):
    """What is kept while reading and writing does not grow with the members."""
    import tracemalloc

    tree = Tree()
    root, template = tree.members[0][0], tree.add(b"f", "file", b"x")
    path = tmp_path / "many.tar"

    def run(members: int) -> int:
        tracemalloc.start()
        with open(path, "wb") as output:
            writer = ArchiveWriter(output, tree.info)
            writer.add(root)
            for number in range(members):
                writer.add(template._replace(path=b"%09d" % number), BodyStream((b"x",)))
            writer.finish()
        assert verify(path).members == members + 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    run(1)  # what is loaded and cached once
    assert run(count * 100) < 8 << 20
    os.unlink(path)


def test_what_is_no_utf8_survives_in_the_first_member():
    info = replace(plain_tree().info, label="caf\udce9", only=(b"caf\xe9", "ü".encode()))
    raw = info.to_json()
    assert json.loads(raw)["filesystem"]["label_base64"] == "Y2Fm6Q=="
    raw.decode("ascii")
    assert BackupInfo.from_json(raw) == info
