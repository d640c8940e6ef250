"""Files with more unwritten ranges than the inode record has room for."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest

import ext4img
from ext4img import Archive, backup, compare, open_backup, verify
from ext4img.archive.entry import UNWRITTEN_KEPT, Entry
from ext4img.archive.entry_codec import records_of
from ext4img.archive.inode_record import INODE, INODE_LINE_LIMIT_BYTES
from ext4img.errors import AlteredArchiveError
from tests.archive.synthetic import Tree
from tests.archive.test_archive import as_file, as_stream
from tests.archive.test_directory_stores import store_of
from tests.archive.test_incremental import write

RANGES = tuple((number * 8192 + 4096, 4096) for number in range(1000))


def the_tree() -> tuple[Tree, Entry]:
    tree = Tree()
    size = RANGES[-1][0] + 4096
    return tree, tree.add(b"f", "file", b"x", size=size, body_size=size, segments=((0, 1),), unwritten=RANGES)


def test_the_inode_record_has_the_first():
    _, entry = the_tree()
    line = records_of(entry)[INODE]
    assert len(line) < INODE_LINE_LIMIT_BYTES
    assert line.count(b"[") == UNWRITTEN_KEPT + 1


def test_an_archive_has_all():
    tree, entry = the_tree()
    data = tree.archive()
    with Archive(as_file(data)) as archive:
        assert [member.entry for member in archive][1] == entry
        assert archive.member(b"f").entry == entry
    with Archive(as_stream(data)) as stream:
        assert [member.entry for member in stream][1] == entry._replace(unwritten=RANGES[:UNWRITTEN_KEPT])
    assert verify(as_file(data)).intact
    assert verify(as_stream(data)).intact


def test_a_store_has_all(tmp_path: Path):
    tree, entry = the_tree()
    store = open_backup(store_of(tree, tmp_path / "store"))
    assert store.member(b"f").entry == entry
    store.close()


def test_a_chain_has_all(tmp_path: Path):
    tree, entry = the_tree()
    write(tree, tmp_path / "0.tar")
    assert write(tree, tmp_path / "1.tar", tmp_path / "0.tar") == 1
    chain = open_backup(tmp_path / "1.tar", [tmp_path / "0.tar"])
    assert chain.member(b"f").entry == entry
    chain.close()


def test_lists_that_differ_are_refused():
    tree, _ = the_tree()
    with Archive(io.BytesIO(tree.archive())) as archive:
        line = next(line for line in archive.manifest() if line.path == b"f")
        with pytest.raises(AlteredArchiveError):
            archive.member_at(line._replace(unwritten=RANGES[1:]))


@pytest.mark.kernel
def test_of_an_image(tmp_path: Path):
    """A file of blocks of which every other one is preallocated, as debugfs makes it and e2fsprogs shows it."""
    image = tmp_path / "a.img"
    with open(image, "wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", image], check=True)
    commands = ["write /dev/null f", *(f"fallocate f {block} {block}" for block in range(1, 200, 2))]
    done = subprocess.run(["debugfs", "-w", "-f", "-", image], input="\n".join(commands), text=True, check=True)
    assert done.returncode == 0
    with ext4img.open(image) as fs:
        backup(fs, tmp_path / "a.tar")
    with Archive(tmp_path / "a.tar") as archive:
        assert archive.member(b"f").entry.unwritten == tuple((block * 4096, 4096) for block in range(1, 200, 2))
    with ext4img.open(image) as fs:
        assert compare(tmp_path / "a.tar", fs).same
        assert compare(as_stream((tmp_path / "a.tar").read_bytes()), fs).same
