"""Restore of made-up trees: what is decrypted, what is left out, what is never touched."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from ext4img import Archive, restore
from ext4img.archive.entry import VERITY
from ext4img.errors import (
    AlteredArchiveError,
    ArchiveError,
    NoKeyError,
    NotFoundError,
    RestoreError,
    WrongKeyError,
)
from tests.archive.synthetic import (
    KEY,
    OTHER_KEY,
    Tree,
    context_of,
    encrypted_tree,
    plain_tree,
    v1_context_of,
)
from tests.archive.test_archive import as_file, as_stream

both = pytest.mark.parametrize("opened", [as_file, as_stream], ids=["file", "stream"])
IS_ROOT = os.geteuid() == 0


def listed(root: Path) -> dict[bytes, os.stat_result]:
    """Everything below a directory, itself as b""."""
    # Not os.walk: it follows links to see what they lead to, and that changes their times.
    found = {b"": os.lstat(root)}
    todo = [b""]
    while todo:
        folder = todo.pop()
        for name in os.listdir(os.path.join(os.fsencode(root), folder)):
            path = os.path.join(folder, name)
            found[path] = os.lstat(os.path.join(os.fsencode(root), path))
            if stat.S_ISDIR(found[path].st_mode):
                todo.append(path)
    return found


def contents(root: Path, path: bytes) -> bytes:
    full = os.path.join(os.fsencode(root), path)
    if os.path.islink(full):
        return os.readlink(full)
    with open(full, "rb") as file:
        return file.read()


@both
def test_plain_tree(opened: Callable[[bytes], BinaryIO], tmp_path: Path):
    tree = plain_tree()
    target = tmp_path / "target"
    report = restore(opened(tree.archive()), target, devices=IS_ROOT)
    assert report.complete, report.problems
    found = listed(target)
    for entry, _ in tree.members:
        if entry.type in (VERITY, "char", "block") and not (IS_ROOT and entry.type != VERITY):
            continue
        status = found.pop(entry.path if entry.path != b"." else b"")
        assert stat.S_IFMT(status.st_mode) == stat.S_IFMT(entry.mode), entry.path
        if entry.type != "symlink" and IS_ROOT:
            assert stat.S_IMODE(status.st_mode) == stat.S_IMODE(entry.mode), entry.path
        if IS_ROOT:
            assert (status.st_uid, status.st_gid) == (entry.uid, entry.gid)
        assert (status.st_atime_ns, status.st_mtime_ns) == (entry.atime_ns, entry.mtime_ns), entry.path
        if entry.type == "file" and not entry.is_link:
            assert status.st_size == entry.size
            assert status.st_blocks * 512 <= entry.data_bytes + 65536
    assert not found
    for path, data in tree.plain.items():
        if data:
            assert contents(target, path) == data, path
    assert contents(target, "café".encode()) == bytes(4096) + b"C" * 4096
    names = (b"a/first", b"a/second")
    assert len({os.stat(os.path.join(os.fsencode(target), name)).st_ino for name in names}) == 1


@both
def test_with_the_key(opened: Callable[[bytes], BinaryIO], tmp_path: Path):
    tree = encrypted_tree()
    target = tmp_path / "target"
    report = restore(opened(tree.archive()), target, keys=[KEY])
    assert report.complete
    assert report.restored == {"dir": 2, "file": 8, "link": 2, "symlink": 1, "fifo": 1}
    for path, data in tree.plain.items():
        assert contents(target, path) == data, path
    assert len(listed(target)) == len(tree.members)
    holes = os.stat(target / "secret/holes")
    assert (holes.st_size, holes.st_blocks) == (20480, 16)
    assert os.stat(target / "secret/linked").st_nlink == 3
    if IS_ROOT:
        for path in listed(target):
            full = os.path.join(os.fsencode(target), path)
            assert not [name for name in os.listxattr(full, follow_symlinks=False) if "ext4img" in name]


@both
def test_without_a_key_it_is_the_tree_of_the_archive(opened: Callable[[bytes], BinaryIO], tmp_path: Path):
    tree = encrypted_tree()
    target = tmp_path / "target"
    report = restore(opened(tree.archive()), target)
    assert report.complete
    for entry, body in tree.members:
        if entry.type == "file" and not entry.is_link and entry.segments == ((0, entry.body_size),):
            assert contents(target, entry.path) == body
        elif entry.type == "symlink":
            assert contents(target, entry.path) == entry.link_target
        elif entry.path != b".":
            assert os.path.lexists(os.path.join(os.fsencode(target), entry.path))


@both
def test_a_wrong_key_is_refused_before_anything_is_written(opened: Callable[[bytes], BinaryIO], tmp_path: Path):
    data = encrypted_tree().archive()
    for keys in ([OTHER_KEY], [KEY, OTHER_KEY]):
        with pytest.raises(WrongKeyError, match="1 encryption policy"):
            restore(opened(data), tmp_path / "target", keys=keys)
    with pytest.raises(WrongKeyError, match="no encryption policies"):
        restore(opened(plain_tree().archive()), tmp_path / "target", keys=[KEY])
    assert not (tmp_path / "target").exists()


class TestVersion1:
    """Policies whose descriptor says nothing about the key: names and the ends of files do."""

    DESCRIPTOR = b"ext4img!"

    def tree(self) -> Tree:
        return encrypted_tree(context=v1_context_of(self.DESCRIPTOR))

    def test_the_right_key_is_found_out(self, tmp_path: Path):
        tree = self.tree()
        assert restore(io.BytesIO(tree.archive()), tmp_path / "t", keys=[KEY]).complete
        assert contents(tmp_path / "t", b"secret/odd") == tree.plain[b"secret/odd"]

    def test_a_wrong_key_too(self, tmp_path: Path):
        data = self.tree().archive()
        for number in range(20):
            with pytest.raises(WrongKeyError):
                restore(io.BytesIO(data), tmp_path / "t", keys=[bytes((number,)) * 64])
        assert not (tmp_path / "t").exists()

    def test_a_stream_needs_the_descriptor(self, tmp_path: Path):
        data = self.tree().archive()
        with pytest.raises(WrongKeyError):
            restore(as_stream(data), tmp_path / "t", keys=[KEY])
        assert restore(as_stream(data), tmp_path / "t", keys=[(KEY, self.DESCRIPTOR)]).complete

    def test_a_descriptor_with_the_wrong_key_does_not_get_far(self, tmp_path: Path):
        data = self.tree().archive()
        with pytest.raises(AlteredArchiveError, match="key is wrong"):
            restore(as_stream(data), tmp_path / "t", keys=[(OTHER_KEY, self.DESCRIPTOR)])
        assert os.listdir(tmp_path / "t") == []


class TestOneKeyOfTwo:
    def tree(self) -> Tree:
        tree = encrypted_tree()
        tree.keyring.add(OTHER_KEY)
        context = context_of(OTHER_KEY, 900)
        top = tree.add_encrypted(tree.members[0][0], b"theirs", "dir", context)
        tree.add_encrypted(top, b"hidden", "file", context_of(OTHER_KEY, 901), b"hidden")
        tree.add_encrypted(tree.members[0][0], b"also-theirs", "file", context_of(OTHER_KEY, 902), b"hidden")
        return tree

    @both
    def test_the_rest_is_left_out_and_said_so(self, opened: Callable[[bytes], BinaryIO], tmp_path: Path):
        tree = self.tree()
        report = restore(opened(tree.archive()), tmp_path / "t", keys=[KEY])
        assert not report.complete
        assert (report.left_out, report.no_key) == (3, 3)
        assert all(isinstance(problem, NoKeyError) for problem in report.problems)
        assert {problem.filename for problem in report.problems if isinstance(problem, NoKeyError)} == {
            "theirs",
            "also-theirs",
        }
        assert sorted(os.listdir(tmp_path / "t")) == ["plain.txt", "secret"]
        assert contents(tmp_path / "t", b"secret/odd") == tree.plain[b"secret/odd"]

    def test_or_kept_as_ciphertext(self, tmp_path: Path):
        tree = self.tree()
        report = restore(io.BytesIO(tree.archive()), tmp_path / "t", keys=[KEY], missing="ciphertext")
        assert report.complete
        entry, body = tree.members[-2]
        assert contents(tmp_path / "t", entry.path) == body
        assert contents(tmp_path / "t", b"secret/small") == b"hi"
        if IS_ROOT:
            assert os.getxattr(os.path.join(os.fsencode(tmp_path / "t"), entry.path), "trusted.ext4img.metadata")


@both
def test_nothing_is_overwritten_unless_asked(opened: Callable[[bytes], BinaryIO], tmp_path: Path):
    tree = Tree()
    tree.add(b"dir", "dir")
    tree.add(b"file", "file", b"new")
    tree.add(b"link", "file", b"new too")
    tree.add(b"dir/inside", "file", b"inside")
    target = tmp_path / "t"
    (target / "dir").mkdir(parents=True)
    (target / "dir").chmod(0o711)
    (target / "file").write_bytes(b"old")
    outside = tmp_path / "outside"
    outside.write_bytes(b"outside")
    (target / "link").symlink_to(outside)
    report = restore(opened(tree.archive()), target)
    assert report.left_out == 2
    assert {str(problem).split("'")[1] for problem in report.problems} == {"file", "link"}
    assert (target / "dir/inside").read_bytes() == b"inside"
    assert (target / "file").read_bytes() == b"old"
    assert (target / "link").is_symlink()
    assert stat.S_IMODE((target / "dir").stat().st_mode) == 0o711

    assert restore(opened(tree.archive()), target, overwrite=True).complete
    assert (target / "file").read_bytes() == b"new"
    assert (target / "link").read_bytes() == b"new too"
    assert not (target / "link").is_symlink()
    assert outside.read_bytes() == b"outside"


@both
def test_again_over_itself(opened: Callable[[bytes], BinaryIO], tmp_path: Path):
    data = encrypted_tree().archive()
    for _ in range(2):
        assert restore(opened(data), tmp_path / "t", keys=[KEY], overwrite=True).complete
    assert os.stat(tmp_path / "t/secret/linked").st_nlink == 3
    assert not [name for name in listed(tmp_path / "t") if b".ext4img" in name]


def test_a_link_in_the_target_is_not_followed(tmp_path: Path):
    tree = Tree()
    tree.add(b"dir", "dir")
    tree.add(b"dir/file", "file", b"x")
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "t"
    target.mkdir()
    (target / "dir").symlink_to(outside)
    for overwrite in (False, True):
        report = restore(io.BytesIO(tree.archive()), target, overwrite=overwrite)
        assert report.left_out == 2
        assert not list(outside.iterdir())
        report = restore(as_stream(tree.archive()), target, overwrite=overwrite)
        assert report.left_out == 2
        assert not list(outside.iterdir())


def test_refused_attributes_are_counted_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Their names are the image's, any number of them and any bytes."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, "refused")

    monkeypatch.setattr(os, "setxattr", refuse)
    tree = Tree()
    for number in range(30):
        tree.add(b"%d" % number, "file", xattrs={f"user.{number}-{i}\udcff": b"" for i in range(10)})
    report = restore(io.BytesIO(tree.archive()), tmp_path / "t")
    assert report.complete
    assert len(report.not_set) == 65
    assert report.not_set.total() == 300
    assert all(what.encode() for what in report.not_set)  # no surrogates


def test_device_nodes_only_when_asked(tmp_path: Path):
    tree = Tree()
    tree.add(b"null", "char", rdev=(1, 3))
    report = restore(io.BytesIO(tree.archive()), tmp_path / "t")
    assert report.not_set["device node"] == 1
    assert os.listdir(tmp_path / "t") == []
    report = restore(io.BytesIO(tree.archive()), tmp_path / "u", devices=True)
    assert report.left_out == (0 if IS_ROOT else 1)
    if IS_ROOT:
        assert os.stat(tmp_path / "u/null").st_rdev == os.makedev(1, 3)


def test_sockets_are_sockets(tmp_path: Path):
    tree = Tree()
    tree.add(b"s", "socket")
    restore(io.BytesIO(tree.archive()), tmp_path / "t")
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(tmp_path / "t/s"))


def test_an_unwritable_directory_is_filled_first(tmp_path: Path):
    tree = Tree()
    tree.add(b"closed", "dir", mode=0o555)
    tree.add(b"closed/file", "file", b"x")
    for number, opened in enumerate((as_file, as_stream)):
        assert restore(opened(tree.archive()), tmp_path / str(number)).complete
        assert stat.S_IMODE((tmp_path / str(number) / "closed").stat().st_mode) == 0o555
        (tmp_path / str(number) / "closed").chmod(0o755)


def test_deep_trees_need_few_descriptors(tmp_path: Path):
    tree = Tree()
    path = b""
    for _ in range(300):
        path += b"/d" if path else b"d"
        tree.add(path, "dir", mode=0o700)
        tree.add(path + b"/file", "file", path)
    opened = len(os.listdir("/proc/self/fd"))
    most = 0

    def progress(done: int, total: int | None) -> None:
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")))

    assert restore(io.BytesIO(tree.archive()), tmp_path / "t", progress=progress).complete
    assert most - opened < 80
    assert contents(tmp_path / "t", path + b"/file") == path
    assert os.stat(tmp_path / "t/d/d").st_mtime_ns == tree.members[2][0].mtime_ns


def test_a_default_acl_of_the_target_is_not_inherited(tmp_path: Path):
    target = tmp_path / "t"
    target.mkdir()
    acl = bytes.fromhex("0200000001000700ffffffff02000700e803000004000500ffffffff10000700ffffffff20000500ffffffff")
    try:
        os.setxattr(target, "system.posix_acl_default", acl)
    except OSError as error:
        pytest.skip(f"no ACLs here: {error}")
    restore(io.BytesIO(encrypted_tree().archive()), target, keys=[KEY])
    for path in (b"plain.txt", b"secret", b"secret/small", b"secret/below"):
        assert os.listxattr(os.path.join(os.fsencode(target), path)) == []


def test_what_is_no_backup(tmp_path: Path):
    (tmp_path / "dir").mkdir()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "noise").write_bytes(os.urandom(100_000))
    for name in ("dir", "empty", "noise", "missing"):
        with pytest.raises(ArchiveError):
            restore(tmp_path / name, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_target_that_is_no_directory(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    for target in (tmp_path / "file", tmp_path / "missing/below"):
        with pytest.raises(RestoreError):
            restore(io.BytesIO(plain_tree().archive()), target)


def test_an_open_archive_stays_open(tmp_path: Path):
    with Archive(io.BytesIO(plain_tree().archive())) as archive:
        restore(archive, tmp_path / "t")
        assert len(list(archive)) > 10


class TestOnly:
    """Some paths of the backup, by their plain names or the archive's."""

    @both
    def test_plain_paths(self, opened: Callable[[bytes], BinaryIO], tmp_path: Path):
        data = encrypted_tree().archive()
        report = restore(opened(data), tmp_path / "t", keys=[KEY], only=["/secret/small", b"secret/below"])
        found = {path for path, status in listed(tmp_path / "t").items() if not stat.S_ISDIR(status.st_mode)}
        assert report.complete  # in a stream, the first of three names has gone by when this one comes
        assert report.restored == {"dir": 2, "file": 2}
        assert found == {b"secret/small", b"secret/below/" + b"x" * 200}
        assert contents(tmp_path / "t", b"secret/below/" + b"x" * 200) == b"three names"

    def test_the_archives_paths(self, tmp_path: Path):
        tree = encrypted_tree()
        entry = next(entry for entry, _ in tree.members if entry.size == 2)
        assert restore(io.BytesIO(tree.archive()), tmp_path / "t", keys=[KEY], only=[entry.path]).complete
        assert contents(tmp_path / "t", b"secret/small") == b"hi"
        assert len(listed(tmp_path / "t")) == 3

    def test_further_names_of_one_file_stay_one(self, tmp_path: Path):
        tree = Tree()
        first = tree.add(b"a", "file", b"data", links=3)
        tree.add_link(b"b", first)
        tree.add_link(b"c", first)
        assert restore(io.BytesIO(tree.archive()), tmp_path / "t", only=["b", "c"]).complete
        assert sorted(os.listdir(tmp_path / "t")) == ["b", "c"]
        assert (tmp_path / "t/b").samefile(tmp_path / "t/c")
        assert (tmp_path / "t/c").read_bytes() == b"data"

    def test_the_root_is_everything(self, tmp_path: Path):
        tree = plain_tree()
        report = restore(io.BytesIO(tree.archive()), tmp_path / "t", only=["/"], devices=IS_ROOT)
        assert report.complete

    @both
    def test_what_is_not_there_is_said(self, opened: Callable[[bytes], BinaryIO], tmp_path: Path):
        with pytest.raises(NotFoundError) as caught:
            restore(opened(encrypted_tree().archive()), tmp_path / "t", only=["plain.txt", "secret/none"], keys=[KEY])
        assert caught.value.filename == "secret/none"


def test_resume(tmp_path: Path):
    """What is there already is not written again; leftovers of the interrupted run are taken away."""
    tree = encrypted_tree()
    data = tree.archive()
    target = tmp_path / "t"

    class Stop(Exception):
        pass

    def stop(done: int, total: int | None) -> None:
        if done > 30_000:
            raise Stop

    with pytest.raises(Stop):
        restore(io.BytesIO(data), target, keys=[KEY], progress=stop)
    (target / "secret/.ext4img-01234567-8.partial").write_bytes(b"half")
    (target / "secret/.ext4img-not-ours").write_bytes(b"a name like any other")
    before = {path: status.st_ino for path, status in listed(target).items() if stat.S_ISREG(status.st_mode)}
    assert before
    report = restore(io.BytesIO(data), target, keys=[KEY], resume=True)
    assert report.complete
    after = listed(target)
    assert b"secret/.ext4img-01234567-8.partial" not in after
    assert b"secret/.ext4img-not-ours" in after
    for path, number in before.items():
        if b"partial" not in path:
            assert after[path].st_ino == number
    for path, body in tree.plain.items():
        assert contents(target, path) == body
    assert os.stat(target / "secret/linked").st_nlink == 3
    assert os.stat(target / "secret").st_mtime_ns == tree.members[2][0].mtime_ns
    again = restore(io.BytesIO(data), target, keys=[KEY], resume=True)
    assert again.complete
    assert (again.bytes, again.kept) == (0, len(tree.members) - 3)


@both
def test_overwrite_what_is_older(opened: Callable[[bytes], BinaryIO], tmp_path: Path):
    tree = Tree()
    for name in (b"newer", b"older"):
        tree.add(name, "file", b"backup")
    target = tmp_path / "t"
    target.mkdir()
    for file, time_ns in (("newer", 2_000_000_000_000_000_000), ("older", 1_000_000_000_000_000_000)):
        (target / file).write_bytes(b"there")
        os.utime(target / file, ns=(time_ns, time_ns))
    assert restore(opened(tree.archive()), target, overwrite="if-newer").complete
    assert (target / "older").read_bytes() == b"backup"
    assert (target / "newer").read_bytes() == b"there"
    assert not [path for path in listed(target) if b".ext4img" in path]


@both
def test_a_dry_run_writes_nothing_and_reports_the_same(opened: Callable[[bytes], BinaryIO], tmp_path: Path):
    tree = encrypted_tree()
    data = tree.archive()
    predicted = restore(opened(data), tmp_path / "t", keys=[KEY], dry_run=True)
    assert not (tmp_path / "t").exists()
    done = restore(opened(data), tmp_path / "t", keys=[KEY])
    assert (predicted.restored, predicted.bytes, predicted.left_out) == (done.restored, done.bytes, done.left_out)

    def changes() -> dict[bytes, tuple[int, int]]:
        return {path: (status.st_ino, status.st_ctime_ns) for path, status in listed(tmp_path / "t").items()}

    before = changes()
    again = restore(opened(data), tmp_path / "t", keys=[KEY], dry_run=True)
    assert changes() == before
    assert again.left_out == len(tree.members) - 3
    assert restore(opened(data), tmp_path / "t", keys=[KEY], dry_run=True, overwrite=True).complete
    with pytest.raises(WrongKeyError):
        restore(opened(data), tmp_path / "t", keys=[OTHER_KEY], dry_run=True)
    altered = bytearray(data)
    altered[data.index(b"nothing to hide")] ^= 1
    report = restore(opened(bytes(altered)), tmp_path / "t", keys=[KEY], dry_run=True, overwrite=True)
    assert (report.left_out, report.damaged) == (1, 1)
