"""Incremental backups: unchanged files are not stored again, and each point in time is restored exactly."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import ext4img
from ext4img import Archive, backup, restore, verify
from ext4img.archive.body import BodyStream
from ext4img.archive.damaged_reader import members_past_damage
from ext4img.archive.entry import Entry
from ext4img.archive.incremental_base import INCREMENTAL, IncrementalBase
from ext4img.archive.incremental_chain import IncrementalChain
from ext4img.archive.open_backup import open_backup
from ext4img.archive.writer import ArchiveWriter
from ext4img.errors import AlteredArchiveError, ArchiveError
from tests.archive.synthetic import KEY, UUID, Tree, encrypted_tree
from tests.archive.test_archive import as_stream, same
from tests.conftest import UnpackedImage
from tests.restorer.test_restore import contents, listed


def write(tree: Tree, path: Path, since: Path | None = None) -> int:
    """Write a made-up tree, onto an earlier archive if one is given; how many files were not stored again."""
    from dataclasses import replace

    info = tree.info if since is None else replace(tree.info, requires=(INCREMENTAL,))
    kept = 0
    base = IncrementalBase(since, UUID) if since is not None else None
    with open(path, "wb") as output, ArchiveWriter(output, info) as writer:
        for entry, body in tree.sorted():
            unchanged = base.unchanged(entry) if base is not None else None
            if unchanged is not None:
                writer.add_unchanged(entry, *unchanged)
                kept += 1
            else:
                writer.add(entry, BodyStream((body,)) if body else None)
        writer.finish(base.chain if base is not None else ())
    if base is not None:
        base.close()
    return kept


def replaced(tree: Tree, path: bytes, **facts: Any) -> None:
    """The same tree with one entry otherwise; `body` is its data."""
    for index, (entry, body) in enumerate(tree.members):
        if entry.path == path:
            others = {key: value for key, value in facts.items() if key != "body"}
            tree.members[index] = (entry._replace(**others), facts.get("body", body))
            return
    raise KeyError(path)


def tree_at(point: int) -> Tree:
    """One tree at four points in time."""
    tree = Tree()
    tree.add(b"a", "dir")
    tree.add(b"a/changes", "file", b"one", ctime_ns=1)
    tree.add(b"a/goes", "file", b"goes away")
    moved = b"moved" if point >= 2 else b"b"
    tree.add(moved, "dir", inode=500)
    tree.add(moved + b"/inside", "file", b"inside a directory that is moved" * 100, inode=501)
    tree.add(moved + b"/other", "file", b"x" * 10_000, inode=502, links=2)
    tree.add_link(b"z-link", tree.members[-1][0])
    tree.add(b"sparse", "file", b"", inode=503, size=1 << 20, body_size=1 << 20, segments=((4096, 4096),))
    tree.members[-1] = (tree.members[-1][0], b"s" * 4096)
    if point >= 1:
        replaced(tree, b"a/changes", body=b"two", ctime_ns=2, size=3)
        tree.members = [member for member in tree.members if member[0].path != b"a/goes"]
        tree.add(b"new", "file", b"new", inode=600)
    if point >= 3:
        replaced(tree, b"new", body=b"NEW", ctime_ns=9)
        replaced(tree, b"sparse", atime_ns=77)  # which no change time tells
    return tree


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    """A full archive and three incremental ones."""
    paths: list[Path] = []
    for point in range(4):
        path = tmp_path / f"{point}.tar"
        write(tree_at(point), path, paths[-1] if paths else None)
        paths.append(path)
    return paths


def members_of(source: Any) -> list[tuple[Entry, bytes]]:
    return [(m.entry, b"".join(bytes(part) for _, part in m.chunks())) for m in source.members()]


def test_each_point_comes_back(chain: list[Path], tmp_path: Path):
    for point, path in enumerate(chain):
        with open_backup(path, chain[:point]) as source:  # type: ignore[attr-defined]
            found = members_of(source)
        expected = tree_at(point).sorted()
        assert [entry.path for entry, _ in found] == [entry.path for entry, _ in expected]
        for (entry, body), (wanted, wanted_body) in zip(found, expected, strict=True):
            assert same(entry, wanted), f"{entry}\n{wanted}"
            assert body == wanted_body
        target = tmp_path / f"t{point}"
        assert restore(path, target).complete
        assert contents(target, b"a/changes") == (b"one" if point == 0 else b"two")
        assert os.path.exists(target / "a/goes") == (point == 0)
        assert os.stat(target / "z-link").st_nlink == 2
        report = verify(path)
        assert report.intact
        assert report.members == len(expected)


def test_what_did_not_change_is_not_stored(chain: list[Path]):
    sizes = [path.stat().st_size for path in chain]
    assert all(size < sizes[0] * 0.8 for size in sizes[1:])
    with Archive(chain[3]) as archive:
        references = {line.path: line.reference for line in archive.manifest() if line.reference is not None}
        assert {path: reference.archive for path, reference in references.items()} == {
            b"a/changes": 1,
            b"moved/inside": 0,
            b"moved/other": 0,
            b"sparse": 0,
        }
        assert references[b"moved/inside"].path == b"b/inside"
        with pytest.raises(ArchiveError, match="incremental"):
            list(archive)


def test_a_missing_link_is_named(chain: list[Path], tmp_path: Path):
    with Archive(chain[0]) as full:
        assert full.closing is not None
        digest = full.closing.sha256
    alone = tmp_path / "elsewhere"
    alone.mkdir()
    shutil.copy(chain[3], alone)
    shutil.copy(chain[1], alone)
    with pytest.raises(ArchiveError, match=f"number 1 of its chain, manifest {digest}"):
        restore(alone / "3.tar", tmp_path / "t")
    assert not (tmp_path / "t").exists()
    assert restore(alone / "3.tar", tmp_path / "t", bases=[chain[0]]).complete


def test_archives_of_another_chain_are_refused(chain: list[Path], tmp_path: Path):
    """An archive of the same name with other contents is another archive."""
    alone = tmp_path / "elsewhere"
    alone.mkdir()
    shutil.copy(chain[1], alone)
    write(tree_at(3), alone / "0.tar")
    with pytest.raises(ArchiveError, match="missing"):
        restore(alone / "1.tar", tmp_path / "t")


def test_a_damaged_link_is_found(chain: list[Path], tmp_path: Path):
    with Archive(chain[0]) as full:
        line = next(line for line in full.manifest() if line.path == b"b/inside")
    data = bytearray(chain[0].read_bytes())
    data[line.data_offset] ^= 1
    chain[0].write_bytes(data)
    report = verify(chain[3])
    assert [problem.member for problem in report.problems if isinstance(problem, ArchiveError)] == ["moved/inside"]
    restored = restore(chain[3], tmp_path / "t")
    assert (restored.left_out, restored.damaged) == (1, 1)
    assert isinstance(restored.problems[0], AlteredArchiveError)
    assert not (tmp_path / "t/moved/inside").exists()


def test_a_manifest_is_enough_to_build_on(chain: list[Path], tmp_path: Path):
    with Archive(chain[0]) as full:
        start, size = full.manifest_place()
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(chain[0].read_bytes()[start : start + size])
    assert write(tree_at(1), tmp_path / "other.tar", manifest) == 3
    assert (tmp_path / "other.tar").read_bytes() == chain[1].read_bytes()
    manifest.write_bytes(manifest.read_bytes()[:-20])
    with pytest.raises(ArchiveError):
        IncrementalBase(manifest, UUID)


def test_of_another_file_system(chain: list[Path]):
    import uuid

    with pytest.raises(ArchiveError, match="file system"):
        IncrementalBase(chain[0], uuid.uuid4())


def test_streams_have_no_chain(chain: list[Path]):
    with pytest.raises(ArchiveError, match="seekable"):
        IncrementalBase(as_stream(chain[0].read_bytes()), UUID)
    with pytest.raises(ArchiveError, match="seekable"):
        open_backup(as_stream(chain[1].read_bytes()))


def test_encrypted_names_follow(tmp_path: Path):
    """Unchanged files of an encrypted directory, with their records, from both archives."""
    tree = encrypted_tree()
    write(tree, tmp_path / "0.tar")
    assert write(encrypted_tree(), tmp_path / "1.tar", tmp_path / "0.tar") == 7
    assert restore(tmp_path / "1.tar", tmp_path / "t", keys=[KEY]).complete
    for path, data in tree.plain.items():
        assert contents(tmp_path / "t", path) == data
    with open_backup(tmp_path / "1.tar") as chain:  # type: ignore[attr-defined]
        assert isinstance(chain, IncrementalChain)
        for (entry, body), (wanted, wanted_body) in zip(members_of(chain), tree.sorted(), strict=True):
            assert same(entry, wanted)
            assert body == wanted_body
            if not entry.is_link and entry.type == "file":
                assert chain.member(entry.path).entry == wanted


def test_of_an_image_that_did_not_change(fixture_image: Callable[[str], UnpackedImage], tmp_path: Path):
    image = fixture_image("sample-encrypted")
    with ext4img.open(image.path) as fs:
        full = backup(fs, tmp_path / "0.tar")
        again = backup(fs, tmp_path / "1.tar", since=tmp_path / "0.tar")
    assert again.bytes < full.bytes
    with Archive(tmp_path / "0.tar") as archive, open_backup(tmp_path / "1.tar") as chain:  # type: ignore[attr-defined]
        for (entry, body), (wanted, wanted_body) in zip(members_of(chain), members_of(archive), strict=True):
            assert same(entry, wanted)
            assert body == wanted_body


def tree_digests(root: Path, left_out: Iterable[bytes] = ()) -> dict[bytes, Any]:
    """Type, mode, owner, times and contents of what is below a directory."""
    found = {}
    for path, status in listed(root).items():
        if path in left_out or path == b"":
            continue
        full = os.path.join(os.fsencode(root), path)
        data = os.readlink(full) if os.path.islink(full) else b""
        if os.path.isfile(full) and not data:
            with open(full, "rb") as file:
                data = file.read()
        found[path] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink, data)
    return found


@pytest.mark.kernel
def test_real_changes_by_the_kernel(tmp_path: Path):
    """A full backup and three incremental ones of a file system that the kernel changes in between."""
    from tools.loop_mount import loop_mounted

    image = tmp_path / "changing.img"
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", str(image), "48M"], check=True)

    def first(root: Path) -> None:
        for number in range(60):
            (root / f"d{number % 5}").mkdir(exist_ok=True)
            (root / f"d{number % 5}/f{number}").write_bytes(os.urandom(2000 + 300 * number))
        os.link(root / "d0/f0", root / "linked")
        (root / "long").symlink_to("x" * 200)

    def second(root: Path) -> None:
        (root / "d1/f1").write_bytes(b"overwritten")
        with open(root / "d2/f2", "ab") as file:
            file.write(b"appended")
        (root / "d3/f3").unlink()
        os.truncate(root / "d4/f4", 10)
        (root / "d0/f5").chmod(0o4711)
        os.setxattr(root / "d0/f10", "user.new", b"value")

    def third(root: Path) -> None:
        (root / "d1").rename(root / "renamed")
        (root / "d2/f7").rename(root / "d4/f7")
        (root / "linked").unlink()
        os.link(root / "d0/f0", root / "d0/a-further-name")

    def fourth(root: Path) -> None:
        shutil.rmtree(root / "d2")
        (root / "d2").mkdir()
        (root / "d2/again").write_bytes(b"a new file, perhaps under an old number")
        with open(root / "renamed/f6", "r+b") as file:
            file.write(b"?")

    expected = []
    sizes = []
    for point, change in enumerate((first, second, third, fourth)):
        with loop_mounted(image, "rw,noatime") as mount:
            change(Path(mount))
            expected.append(tree_digests(Path(mount)))
        since = tmp_path / f"{point - 1}.tar" if point else None
        with ext4img.open(image) as fs:
            sizes.append(backup(fs, tmp_path / f"{point}.tar", since=since).bytes)
    assert all(size < sizes[0] / 2 for size in sizes[1:])
    for point, tree in enumerate(expected):
        assert restore(tmp_path / f"{point}.tar", tmp_path / f"t{point}").complete
        assert tree_digests(tmp_path / f"t{point}") == tree
        assert verify(tmp_path / f"{point}.tar").intact


def test_what_a_base_must_be(tmp_path: Path):
    for data in (b"", b"{", b"{}", b"{}\n", b"noise" * 1000):
        with pytest.raises(ArchiveError):
            IncrementalBase(io.BytesIO(data), UUID)


def test_reading_continues_past_a_damaged_header_of_an_incremental_archive(chain: list[Path]):
    """Lines of files that other archives store say nothing of where the next member starts here."""
    sound = chain[1].read_bytes()
    with Archive(chain[1]) as archive:
        stored = [line for line in archive.manifest() if line.reference is None and line.inode]
        assert any(line.reference is not None for line in archive.manifest())
    for line in stored:
        data = bytearray(sound)
        data[line.header_offset + 700] ^= 1
        with Archive(io.BytesIO(data)) as archive:
            members = sum(1 for member in members_past_damage(archive, lambda *_: None))
            assert members == len(stored) - 1, line.path
