"""The other carriers of a backup: a tree that GNU tar extracted, and a directory store."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ext4img
from ext4img import Archive, backup, restore, verify
from ext4img.archive.body import BodyStream
from ext4img.archive.directory_store import DirectoryStore
from ext4img.archive.directory_store_line import DirectoryStoreLine, build_store_line, parse_store_line
from ext4img.archive.directory_store_writer import DirectoryStoreWriter
from ext4img.archive.entry import VERITY
from ext4img.archive.extracted_tree import ExtractedTree
from ext4img.archive.open_backup import open_backup
from ext4img.errors import AlteredArchiveError, ArchiveError, Ext4Error, TruncatedArchiveError, WrongKeyError
from tests.archive.synthetic import KEY, OTHER_KEY, Tree, encrypted_tree, plain_tree
from tests.archive.test_archive import same
from tests.conftest import UnpackedImage
from tests.restorer.test_restore import IS_ROOT, contents, listed

trees = pytest.mark.parametrize("make", [plain_tree, encrypted_tree], ids=["plain", "encrypted"])


def store_of(tree: Tree, path: Path) -> Path:
    with DirectoryStoreWriter(str(path), tree.info) as writer:
        for entry, body in tree.sorted():
            writer.add(entry, BodyStream((body,)) if body else None)
        writer.finish()
    return path


class TestStore:
    @trees
    def test_there_and_back(self, make: Callable[[], Tree], tmp_path: Path):
        tree = make()
        with DirectoryStore(str(store_of(tree, tmp_path / "store"))) as store:
            assert store.info == tree.info
            found = [(member.entry, b"".join(bytes(part) for _, part in member.chunks())) for member in store.members()]
        expected = tree.sorted()
        assert [entry.path for entry, _ in found] == [entry.path for entry, _ in expected]
        for (entry, body), (wanted, wanted_body) in zip(found, expected, strict=True):
            assert same(entry, wanted), f"{entry}\n{wanted}"
            assert body == wanted_body
        report = verify(tmp_path / "store")
        assert report.intact
        assert report.members == len(expected)

    def test_restored(self, tmp_path: Path):
        tree = encrypted_tree()
        report = restore(store_of(tree, tmp_path / "store"), tmp_path / "t", keys=[KEY])
        assert report.complete
        for path, data in tree.plain.items():
            assert contents(tmp_path / "t", path) == data, path
        with pytest.raises(WrongKeyError):
            restore(tmp_path / "store", tmp_path / "u", keys=[OTHER_KEY])
        assert not (tmp_path / "u").exists()

    def test_bodies_are_files_and_holes_are_holes(self, tmp_path: Path):
        tree = plain_tree()
        store = store_of(tree, tmp_path / "store")
        assert (store / "tree/a/first").read_bytes() == b"hello\n"
        assert (store / "tree/holes").stat().st_size == 1 << 33
        assert (store / "tree/holes").stat().st_blocks * 512 < 1 << 16
        assert stat.S_IMODE(store.stat().st_mode) == 0o700
        kinds = {stat.S_IFMT(status.st_mode) for status in listed(store).values()}
        assert kinds == {stat.S_IFREG, stat.S_IFDIR}

    def test_the_same_entries_give_the_same_bytes(self, tmp_path: Path):
        for name in ("a", "b"):
            store_of(encrypted_tree(), tmp_path / name)
        assert (tmp_path / "a/entries.jsonl").read_bytes() == (tmp_path / "b/entries.jsonl").read_bytes()

    def test_a_store_appears_whole_or_not_at_all(self, tmp_path: Path):
        tree = plain_tree()
        with pytest.raises(ZeroDivisionError), DirectoryStoreWriter(str(tmp_path / "store"), tree.info) as writer:
            writer.add(tree.members[0][0])
            raise ZeroDivisionError
        assert list(tmp_path.iterdir()) == []
        store_of(tree, tmp_path / "store")
        with pytest.raises(ArchiveError, match="exists"):
            store_of(tree, tmp_path / "store")

    def test_a_store_without_room_is_deleted(self, tmp_path: Path):
        tree = plain_tree()
        full = os.open("/dev/full", os.O_WRONLY)
        with pytest.raises(ZeroDivisionError), DirectoryStoreWriter(str(tmp_path / "store"), tree.info) as writer:
            writer.add(tree.members[0][0])
            os.dup2(full, writer._lines.fileno())  # what is held can't be written when it is closed
            raise ZeroDivisionError
        os.close(full)
        assert list(tmp_path.iterdir()) == []

    def test_damaged_bodies_are_named(self, tmp_path: Path):
        store = store_of(plain_tree(), tmp_path / "store")
        (store / "tree/a/first").write_bytes(b"hellO\n")
        (store / "tree/big-ids").write_bytes(b"longer")
        for name in ("wide", "verity", "old"):
            (store / "tree" / name).unlink()
        (store / "tree/verity").symlink_to("/etc/passwd")
        os.mkfifo(store / "tree/old")
        report = verify(store)
        assert not report.intact
        named = {problem.member for problem in report.problems if isinstance(problem, ArchiveError)}
        assert named == {"a/first", "big-ids", "wide", "verity", "old"}
        restored = restore(store, tmp_path / "t", devices=os.geteuid() == 0)
        left_out = {problem.member for problem in restored.problems if isinstance(problem, ArchiveError)}
        assert left_out == named
        assert not (tmp_path / "t/a/first").exists()
        assert (tmp_path / "t/reserved-attribute").exists()

    def test_lines_that_were_altered_or_cut(self, tmp_path: Path):
        store = store_of(plain_tree(), tmp_path / "store")
        lines = (store / "entries.jsonl").read_bytes()
        for altered, kind in (
            (lines.replace(b'"uid":1000', b'"uid":1001'), AlteredArchiveError),
            (b"".join(lines.splitlines(keepends=True)[:-1]), TruncatedArchiveError),
            (b"".join(lines.splitlines(keepends=True)[1:]), AlteredArchiveError),
            (lines[:-5], TruncatedArchiveError),
            (b"", TruncatedArchiveError),
            (os.urandom(5000), TruncatedArchiveError),
        ):
            (store / "entries.jsonl").write_bytes(altered)
            with pytest.raises(kind):
                open_backup(str(store))

    def test_of_an_image(self, fixture_image: Callable[[str], UnpackedImage], tmp_path: Path):
        """A store and an archive of one image hold the same."""
        image = fixture_image("sample-encrypted")
        with ext4img.open(image.path) as fs:
            tar = backup(fs, tmp_path / "a.tar")
            store = backup(fs, tmp_path / "store", format="dir")
            with pytest.raises(ArchiveError):
                backup(fs, tmp_path / "other", format="dir", overwrite=True)
        assert tar.members == store.members
        with Archive(tmp_path / "a.tar") as archive, DirectoryStore(str(tmp_path / "store")) as opened:
            for member, other in zip(archive, opened.members(), strict=True):
                assert same(member.entry, other.entry)
                assert [(o, bytes(p)) for o, p in member.chunks()] == [(o, bytes(p)) for o, p in other.chunks()]


def test_lines_that_are_none():
    tree = plain_tree()
    line = build_store_line(DirectoryStoreLine(tree.members[1][0], "0" * 64, ()))
    assert parse_store_line(line).entry == tree.members[1][0]
    found = json.loads(line)
    changes: tuple[dict[str, Any], ...] = (
        {"type": "door"},
        {"path": "../x"},
        {"path": "a/../x"},
        {"mode": 0o10777},
        {"uid": -1},
        {"mtime_ns": "soon"},
        {"mtime_ns": 10**21},
        {"atime_ns": -(10**21)},
        {"ctime_ns": float("inf")},
        {"rdev": [1 << 21, 0]},
        {"rdev": [-1, 0]},
        {"unreadable": [[float("inf"), 1]]},
        {"xattrs": {"user.a\0b": "AAAA"}},
        {"records": {}},
        {"records": {"trusted.ext4img.inode": "!"}},
        {"xattrs": []},
        {"segments": [[0, 10], [5, 10]]},
        {"segments": [[0, 1 << 40]]},
        {"segments": [[-1, 1]]},
        {"body_size": -1},
        {"body_size": 1 << 70},
        {"type": "dir"},
        {"type": "link"},
    )
    for change in changes:
        with pytest.raises(Ext4Error):
            parse_store_line(json.dumps({**found, **change}).encode())
    for raw in (b"", b"{}", b"[]", b"null", b"\xff", b"{" * 5000):
        with pytest.raises(Ext4Error):
            parse_store_line(raw)


class TestExtractedTree:
    """As root, since only root sees the records."""

    @pytest.fixture
    def extract(self, tmp_path: Path) -> Callable[[bytes], Path]:
        if not IS_ROOT:
            pytest.skip("only root can set and see trusted attributes")
        if shutil.which("tar") is None:
            pytest.skip("tar is not installed")

        def extract(data: bytes) -> Path:
            root = tmp_path / "extracted"
            root.mkdir()
            (tmp_path / "a.tar").write_bytes(data)
            command = ["tar", "--xattrs", "--xattrs-include=*", "-xpf", str(tmp_path / "a.tar"), "-C", str(root)]
            subprocess.run(command, check=True, capture_output=True)
            return root

        return extract

    @staticmethod
    def without_what_hosts_refuse(tree: Tree) -> Tree:
        """One name has more attributes than an ext4 host takes."""
        tree.members = [member for member in tree.members if member[0].path != b"wide"]
        return tree

    @trees
    def test_the_same_entries(self, make: Callable[[], Tree], extract: Callable[[bytes], Path]):
        tree = self.without_what_hosts_refuse(make())
        with ExtractedTree(str(extract(tree.archive()))) as source:
            assert source.info == tree.info
            found = {}
            for member in source.members():
                body = b"".join(bytes(part) for _, part in member.chunks())
                found[member.entry.path, member.entry.type == VERITY] = member.entry, body
        for wanted, body in tree.members:
            entry, found_body = found.pop((wanted.path, wanted.type == VERITY))
            sure, wanted_sure = (e._replace(segments=(), atime_ns=0, xattrs={}) for e in (entry, wanted))
            assert sure == wanted_sure
            assert dict(entry.xattrs) == dict(wanted.xattrs)
            if wanted.context is not None or not wanted.segments or len(wanted.segments) == 1:
                assert found_body.rstrip(b"\0") == body.rstrip(b"\0")
        assert not found

    def test_restored_with_the_key(self, extract: Callable[[bytes], Path], tmp_path: Path):
        tree = encrypted_tree()
        report = restore(extract(tree.archive()), tmp_path / "t", keys=[KEY])
        assert report.complete
        for path, data in tree.plain.items():
            assert contents(tmp_path / "t", path) == data, path
        assert os.stat(tmp_path / "t/secret/linked").st_nlink == 3
        assert os.stat(tmp_path / "t/secret/holes").st_blocks == 16

    def test_a_copy_without_holes_is_read_rightly(self, extract: Callable[[bytes], Path], tmp_path: Path):
        """Tools that fill holes with zeros do no harm to ciphertext: zeros are never decrypted."""
        tree = encrypted_tree()
        root = extract(tree.archive())
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-a", "--sparse=never", str(root), str(copy)], check=True)
        assert restore(copy, tmp_path / "t", keys=[KEY]).complete
        assert contents(tmp_path / "t", b"secret/holes") == tree.plain[b"secret/holes"]

    def test_an_altered_body_is_named(self, extract: Callable[[bytes], Path], tmp_path: Path):
        tree = encrypted_tree()
        root = extract(tree.archive())
        entry = next(entry for entry, _ in tree.members if entry.size == 12800)
        path = os.path.join(os.fsencode(root), entry.path)
        with open(path, "r+b") as file:
            file.seek(5000)
            file.write(b"?")
        assert not verify(root).intact
        report = restore(root, tmp_path / "t", keys=[KEY])
        (problem,) = report.problems
        assert isinstance(problem, AlteredArchiveError)
        assert problem.member == entry.shown
        assert not (tmp_path / "t/secret/odd").exists()
        assert (tmp_path / "t/secret/small").exists()

    def test_without_its_attributes_it_is_refused(self, tmp_path: Path):
        (tmp_path / "a.tar").write_bytes(encrypted_tree().archive())
        root = tmp_path / "root"
        root.mkdir()
        subprocess.run(["tar", "-xf", str(tmp_path / "a.tar"), "-C", str(root)], check=True)
        with pytest.raises(ArchiveError, match="xattrs-include"):
            restore(root, tmp_path / "t", keys=[KEY])

    def test_links_in_its_own_directory_are_not_followed(self, extract: Callable[[bytes], Path], tmp_path: Path):
        root = extract(encrypted_tree().archive())
        secret = tmp_path / "secret"
        secret.write_bytes(b"{}")
        (root / ".ext4img/backup.json").unlink()
        (root / ".ext4img/backup.json").symlink_to(secret)
        with pytest.raises(ArchiveError):
            open_backup(str(root))

    def test_names_remain_readable_when_others_are_deleted(self, extract: Callable[[bytes], Path], tmp_path: Path):
        tree = encrypted_tree()
        root = extract(tree.archive())
        linked = next(entry for entry, _ in tree.sorted() if entry.links == 3 and not entry.is_link)
        os.unlink(os.path.join(os.fsencode(root), linked.path))
        report = restore(root, tmp_path / "t", keys=[KEY])
        assert report.complete
        names = [b"secret/linked", b"secret/again", b"secret/below/" + b"x" * 200]
        there = [path for path in names if os.path.exists(os.path.join(os.fsencode(tmp_path / "t"), path))]
        assert len(there) == 2
        assert all(contents(tmp_path / "t", path) == b"three names" for path in there)


def test_a_directory_that_is_no_backup(tmp_path: Path):
    with pytest.raises(ArchiveError, match=r"backup\.json"):
        open_backup(str(tmp_path))
