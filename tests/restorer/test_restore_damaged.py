"""One damaged member of an archive: it is named and never appears, and all others are restored."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from ext4img import Archive, restore
from ext4img.archive.manifest_line import ManifestLine
from ext4img.errors import AlteredArchiveError, ArchiveError, TruncatedArchiveError
from ext4img.names.nokey import nokey_name
from ext4img.restorer.report import RestoreReport
from ext4img.structs.inode import EXT4_VERITY_FL
from tests.archive.synthetic import KEY, Tree, context_of, encrypted_tree, plain_tree, v1_context_of
from tests.archive.test_archive import as_stream
from tests.restorer.test_restore import contents, listed


def lines_of(data: bytes) -> dict[bytes, ManifestLine]:
    with Archive(io.BytesIO(data)) as archive:
        return {line.path: line for line in archive.manifest()}


def flipped(data: bytes, *positions: int) -> io.BytesIO:
    damaged = bytearray(data)
    for position in positions:
        damaged[position] ^= 4
    return io.BytesIO(bytes(damaged))


def named(report: RestoreReport) -> set[str]:
    return {problem.member or "" for problem in report.problems if isinstance(problem, ArchiveError)}


def plain_files() -> Tree:
    """A tree that can be compared file by file."""
    tree = plain_tree()
    tree.members = [
        (entry, body)
        for entry, body in tree.members
        if entry.type not in ("char", "block", "verity") and not entry.flags & EXT4_VERITY_FL
    ]
    return tree


def assert_all_but(tree: Tree, target: Path, missing: set[bytes]) -> None:
    found = listed(target)
    for entry, _ in tree.members:
        path = entry.path if entry.path != b"." else b""
        assert (path in found) == (path not in missing), path
        if entry.type == "file" and path in found and not entry.is_link and entry.body_size < 1 << 20:
            expected = tree.plain[path]
            assert not expected or contents(target, path) == expected


def test_each_body_in_turn(tmp_path: Path):
    tree = plain_files()
    data = tree.archive()
    links = {entry.link_target: {entry.path} for entry, _ in tree.members if entry.is_link}
    for entry, _ in tree.members:
        if entry.is_link:
            links[entry.link_target].add(entry.path)
    tried = 0
    for number, line in enumerate(lines_of(data).values()):
        if not line.data_size or line.path.startswith(b".ext4img/"):
            continue
        tried += 1
        path = line.path.replace(b".ext4img~", b".ext4img")
        target = tmp_path / str(number)
        report = restore(flipped(data, line.data_offset + line.data_size - 1), target)
        missing = {path} | links.get(path, set())
        assert report.left_out == len(missing)
        assert report.damaged == 1
        assert named(report) == {os.fsdecode(path)}
        assert_all_but(tree, target, missing)
    assert tried > 10


@pytest.mark.parametrize("where", [10, 150, 600])  # a block's name, its checksum, the pax records
def test_each_header_in_turn(where: int, tmp_path: Path):
    tree = plain_files()
    data = tree.archive()
    kinds = {entry.path: entry for entry, _ in tree.members}
    for number, line in enumerate(lines_of(data).values()):
        if line.path.startswith(b".ext4img/"):
            continue
        path = line.path.replace(b".ext4img~", b".ext4img")
        target = tmp_path / str(number)
        report = restore(flipped(data, line.header_offset + where), target)
        assert report.damaged == 1
        assert named(report) == {os.fsdecode(path)}
        links = {entry.path for entry in kinds.values() if entry.is_link and entry.link_target == path}
        entry = kinds[path]
        missing = links if entry.type == "dir" else {path} | links
        if entry.type == "dir" and not any(other.startswith(path + b"/") for other in kinds):
            missing = {path}
        if path == b".":
            missing = set()
        assert report.left_out == 1 + len(links)
        assert_all_but(tree, target, missing)
        if entry.type == "dir" and path not in missing and path != b".":
            status = os.stat(os.path.join(os.fsencode(target), path))
            assert stat.S_IMODE(status.st_mode) == 0o700  # nobody else gets in by accident
            assert status.st_uid == os.geteuid()


def test_the_header_of_an_encrypted_directory(tmp_path: Path):
    tree = encrypted_tree()
    data = tree.archive()
    top = next(entry for entry, _ in tree.members if entry.is_encrypted and entry.type == "dir")
    below = [entry for entry, _ in tree.members if entry.path.startswith(top.path + b"/")]
    report = restore(flipped(data, lines_of(data)[top.path].header_offset + 700), tmp_path / "t", keys=[KEY])
    assert report.left_out == 1 + len(below)
    assert os.listdir(tmp_path / "t") == ["plain.txt"]


def test_a_map_of_holes(tmp_path: Path):
    tree = plain_files()
    data = tree.archive()
    line = lines_of(data)[b"holes"]
    for position in range(line.data_offset, line.data_offset + 20, 3):
        target = tmp_path / str(position)
        report = restore(flipped(data, position), target)
        assert named(report) == {"holes"}
        assert_all_but(tree, target, {b"holes"})


def test_attributes_in_a_member_of_their_own(tmp_path: Path):
    tree = plain_files()
    data = tree.archive()
    wide = next(entry for entry, _ in tree.members if entry.path == b"wide")
    line = lines_of(data)[b".ext4img/xattrs/%d" % wide.inode]
    for position in (line.header_offset + 10, line.data_offset + 5):
        target = tmp_path / str(position)
        report = restore(flipped(data, position), target)
        assert "wide" in named(report)
        assert_all_but(tree, target, {b"wide"})


def test_many_at_once(tmp_path: Path):
    tree = plain_files()
    data = tree.archive()
    lines = lines_of(data)
    positions = [lines[path].header_offset + 150 for path in (b".", b"a", b"a/empty", b"a/first", b"deep", b"old")]
    report = restore(flipped(data, *positions), tmp_path / "t")
    assert named(report) == {".", "a", "a/empty", "a/first", "deep", "old"}
    latin = b"caf\xe9-" * 40
    assert_all_but(tree, tmp_path / "t", {b"a/empty", b"a/first", b"a/second", latin + b"/third", b"old"})


def test_a_key_is_found_out_all_the_same(tmp_path: Path):
    """Of version 1 with a descriptor that says nothing: names and ends of files are looked at."""
    tree = encrypted_tree(context=v1_context_of(b"ext4img!"))
    data = tree.archive()
    small = next(entry for entry, _ in tree.members if entry.size == 2)
    empty = next(entry for entry, _ in tree.members if entry.type == "fifo")
    lines = lines_of(data)
    positions = lines[small.path].data_offset + 4000, lines[empty.path].header_offset + 600
    report = restore(flipped(data, *positions), tmp_path / "t", keys=[KEY])
    assert (report.left_out, report.damaged) == (2, 2)
    assert contents(tmp_path / "t", b"secret/odd") == tree.plain[b"secret/odd"]


def test_a_name_that_decrypts_to_none_is_one_members_affair(tmp_path: Path):
    """As written, and not to be decrypted: the image had it so. Where nothing decrypts it is the key."""
    tree = encrypted_tree()
    top = next(entry for entry, _ in tree.members if entry.is_encrypted and entry.type == "dir")
    context = context_of(KEY, 7777)
    bad = tree.add_encrypted(top, b"to be spoilt", "file", context, b"spoilt")
    stored = tree._names(top).encrypt_raw([b"nul\0inside".ljust(16, b"\0")])[0]
    spoilt = bad._replace(stored_name=stored, path=top.path + b"/" + nokey_name(stored, 0, 0))
    tree.members[-1] = (spoilt, tree.members[-1][1])
    report = restore(io.BytesIO(tree.archive()), tmp_path / "t", keys=[KEY])
    (problem,) = report.problems
    assert isinstance(problem, AlteredArchiveError)
    assert contents(tmp_path / "t", b"secret/odd") == tree.plain[b"secret/odd"]
    assert report.left_out == 1


class TestStream:
    """Damage is known only at the end; until then everything is in a staging directory."""

    def test_each_body_in_turn(self, tmp_path: Path):
        tree = plain_files()
        data = tree.archive()
        names: dict[bytes, set[bytes]] = {}
        for entry, _ in tree.members:
            names.setdefault(entry.link_target if entry.is_link else entry.path, set()).add(entry.path)
        tried = 0
        for number, line in enumerate(lines_of(data).values()):
            if not line.data_size or line.path.startswith(b".ext4img/") or line.path == b"hole-only":
                continue
            tried += 1
            path = line.path.replace(b".ext4img~", b".ext4img")
            for where in (
                (line.data_size - 1, line.data_size) if line.data_size % 512 else (line.data_size - 1,)
            ):  # the padding, too
                target = tmp_path / f"{number}-{where}"
                report = restore(as_stream(flipped(data, line.data_offset + where).getvalue()), target)
                assert report.left_out == len(names[path]) == report.damaged
                assert named(report) == {os.fsdecode(line.path)}
                assert_all_but(tree, target, names[path])
                for entry, _ in tree.members:  # that something was taken away is not seen
                    if entry.type == "dir":
                        folder = os.path.join(os.fsencode(target), entry.path)
                        assert os.stat(folder).st_mtime_ns == entry.mtime_ns
        assert tried > 10

    def test_attributes(self, tmp_path: Path):
        """They are not what was backed up, though all framing is sound."""
        tree = plain_files()
        data = tree.archive()
        line = lines_of(data)[b"reserved-attribute"]
        head = data[line.header_offset : line.data_offset]
        position = line.header_offset + head.index(b"uid=" if b"uid=" in head else b"mtime=") + 8
        report = restore(as_stream(flipped(data, position).getvalue()), tmp_path / "t")
        assert named(report) == {"reserved-attribute"}
        assert_all_but(tree, tmp_path / "t", {b"reserved-attribute"})

    def test_a_map_of_holes(self, tmp_path: Path):
        """It says where the next member starts, which a stream has no other way to know."""
        data = plain_files().archive()
        line = lines_of(data)[b"hole-only"]
        with pytest.raises(AlteredArchiveError, match="hole-only"):
            restore(as_stream(flipped(data, line.data_offset + line.data_size - 1).getvalue()), tmp_path / "t")
        assert os.listdir(tmp_path / "t") == []

    def test_a_directorys_attributes(self, tmp_path: Path):
        """Everything below depends on them: nothing is restored."""
        data = plain_files().archive()
        line = lines_of(data)[b"deep"]
        position = line.header_offset + data[line.header_offset : line.data_offset].index(b"mtime=") + 8
        with pytest.raises(AlteredArchiveError, match="deep"):
            restore(as_stream(flipped(data, position).getvalue()), tmp_path / "t")
        assert os.listdir(tmp_path / "t") == []

    def test_what_is_left_out_anyway(self, tmp_path: Path):
        tree = encrypted_tree()
        data = tree.archive()
        small = next(entry for entry, _ in tree.members if entry.size == 2)
        report = restore(
            as_stream(flipped(data, lines_of(data)[small.path].data_offset).getvalue()),
            tmp_path / "t",
            keys=[KEY],
            only=["secret/odd"],
        )
        assert report.complete
        assert contents(tmp_path / "t", b"secret/odd") == tree.plain[b"secret/odd"]

    def test_in_a_dry_run(self, tmp_path: Path):
        data = encrypted_tree().archive()
        position = data.index(b"nothing to hide")
        report = restore(as_stream(flipped(data, position).getvalue()), tmp_path / "t", keys=[KEY], dry_run=True)
        assert (report.left_out, report.damaged) == (1, 1)


@pytest.mark.parametrize("stream", [False, True])
def test_an_archive_that_was_cut_short_is_salvaged_if_asked(stream: bool, tmp_path: Path):
    tree = plain_files()
    data = tree.archive()
    lines = lines_of(data)
    cuts = [
        lines[path].header_offset + more for path in (b"a/first", b"deep/" + b"0-" + b"d" * 60) for more in (0, 100)
    ]
    cuts += [lines[b"old"].data_offset, lines[b"old"].data_offset + 1, len(data) - 20_000]
    for number, cut in enumerate(cuts):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(data[:cut])
        target = tmp_path / str(number)
        with pytest.raises(TruncatedArchiveError):
            restore(as_stream(data[:cut]) if stream else path, target)
        assert not target.exists() or os.listdir(target) == []
        report = restore(as_stream(data[:cut]) if stream else path, target, salvage=True)
        assert report.left_out == report.damaged == 1
        assert isinstance(report.problems[-1], TruncatedArchiveError)
        gone = {
            line.path.replace(b".ext4img~", b".ext4img")
            for line in lines.values()
            if line.data_offset + -(-line.data_size // 512) * 512 > cut or line.header_offset >= cut
        }
        assert_all_but(tree, target, gone)
        for entry, _ in tree.members:
            if entry.type == "dir" and entry.path not in gone:
                status = os.stat(os.path.join(os.fsencode(target), entry.path))
                assert status.st_mtime_ns == entry.mtime_ns
