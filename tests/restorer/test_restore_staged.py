"""Streams are restored to a staging directory: what a killed restore leaves there, and how directories are merged."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ext4img import restore
from ext4img.hostfs.rename import rename_new
from ext4img.restorer import move_staged
from ext4img.restorer.staging import clear_stagings, remove_tree, staging
from ext4img.restorer.target_dir import TargetDir
from tests.archive.synthetic import KEY, Tree, encrypted_tree
from tests.archive.test_archive import as_file, as_stream
from tests.restorer.test_restore import contents

NO_DUMP_FL = 0x40
IS_ROOT = os.geteuid() == 0

KILLED = """
import os, signal, sys
from ext4img import restore

def progress(done, total):
    if done > 30_000:
        os.kill(os.getpid(), signal.SIGKILL)

restore(sys.stdin.buffer, sys.argv[1], progress=progress)
"""


def staged(target: Path) -> list[str]:
    return [name for name in os.listdir(target) if name.endswith(".staging")]


@pytest.fixture
def left_over(tmp_path: Path) -> Path:
    """A target in which a restore from a pipe was killed."""
    target = tmp_path / "t"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(target)], stdin=subprocess.PIPE)
    child.communicate(encrypted_tree().archive())
    assert child.returncode == -signal.SIGKILL
    (name,) = staged(target)
    assert os.listdir(target / name / "tree")
    return target


@pytest.mark.parametrize("resume", [False, True])
def test_the_next_run_removes_the_staging_directory_of_a_killed_one(left_over: Path, resume: bool):
    tree = encrypted_tree()
    opened = as_file if resume else as_stream
    report = restore(opened(tree.archive()), left_over, keys=[KEY], resume=resume)
    assert report.complete
    assert sorted(os.listdir(left_over)) == ["plain.txt", "secret"]
    assert stat.S_IMODE(left_over.stat().st_mode) == 0o755  # it was as good as new
    assert contents(left_over, b"secret/odd") == tree.plain[b"secret/odd"]


def test_the_token_goes_after_the_tree(left_over: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed while it clears up: the next run still knows what is left."""
    real = os.rmdir

    def killed(name: bytes, *, dir_fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rmdir", killed)
    with pytest.raises(KeyboardInterrupt), TargetDir(left_over) as target:
        clear_stagings(target)
    monkeypatch.setattr(os, "rmdir", real)
    assert staged(left_over)
    with TargetDir(left_over) as target:
        clear_stagings(target)
    assert not staged(left_over)


def test_what_only_looks_like_it_stays(left_over: Path, tmp_path: Path):
    (name,) = staged(left_over)
    copy = left_over / ".ext4img-01234567.staging"
    subprocess.run(["cp", "-a", str(left_over / name), str(copy)], check=True)
    other = left_over / ".ext4img-89abcdef.staging"
    other.mkdir()
    (other / "token").write_bytes((copy / "token").read_bytes())
    (other / "precious").write_bytes(b"precious")
    (left_over / ".ext4img-00000000.staging").write_bytes(b"a file")
    (left_over / ".ext4img-11111111.staging").symlink_to(tmp_path)
    same_name = tmp_path / "u"
    subprocess.run(["cp", "-a", str(left_over), str(same_name)], check=True)
    for target in (left_over, same_name):
        restore(as_stream(encrypted_tree().archive()), target, keys=[KEY])
        found = set(staged(target))
        kept = {copy.name, other.name, ".ext4img-00000000.staging", ".ext4img-11111111.staging"}
        assert found == kept | ({name} if target == same_name else set())
    assert (other / "precious").exists()


def test_what_another_restore_works_in_stays(left_over: Path):
    (name,) = staged(left_over)
    fd = os.open(left_over / name, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with TargetDir(left_over) as target:
            clear_stagings(target)
        assert staged(left_over) == [name]
    finally:
        os.close(fd)
    with TargetDir(left_over) as target, staging(target) as (staged_tree, _):
        clear_stagings(target)
        (busy,) = staged(left_over)
        assert busy != name
        assert staged_tree.is_new


def test_deep_and_closed_trees_are_removed(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        name = b"top"
        here = fd
        for number in range(1500):
            os.mkdir(name, dir_fd=here)
            below = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(os.open(b"file", os.O_CREAT | os.O_WRONLY, dir_fd=below))
            os.mkdir(b"empty", dir_fd=below)
            os.symlink(outside, b"link", dir_fd=below)
            if number % 100 == 7:
                os.mkdir(b"closed", 0, dir_fd=below)
            if here != fd:
                os.close(here)
            here, name = below, b"d"
        os.close(here)
        remove_tree(fd, b"top")
    finally:
        os.close(fd)
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(outside) == ["file"]


@pytest.mark.parametrize("opened", [as_file, as_stream], ids=["file", "stream"])
def test_merged_directories_get_their_attributes_if_asked(opened, tmp_path: Path):
    tree = Tree()
    attribute = {"user.of": b"the backup"}
    tree.add(b"d", "dir", mode=0o2750, uid=1000, gid=100, xattrs=attribute, flags=NO_DUMP_FL)
    tree.add(b"d/e", "dir", mode=0o700, xattrs={"user.of": b"e"})
    tree.add(b"d/e/file", "file", b"x")
    tree.add(b"d/file", "file", b"y")
    for overwrite in (False, True):
        target = tmp_path / str(overwrite)
        (target / "d/e").mkdir(parents=True)
        (target / "d").chmod(0o777)
        os.setxattr(target / "d", "user.there", b"stays")
        assert restore(opened(tree.archive()), target, overwrite=overwrite).complete
        status = (target / "d").stat()
        assert os.getxattr(target / "d", "user.there") == b"stays"
        if not overwrite:
            assert stat.S_IMODE(status.st_mode) == 0o777
            continue
        assert stat.S_IMODE(status.st_mode) == 0o2750
        assert status.st_mtime_ns == tree.members[1][0].mtime_ns
        assert (target / "d/e").stat().st_mtime_ns == tree.members[2][0].mtime_ns
        assert os.getxattr(target / "d", "user.of") == b"the backup"
        assert os.getxattr(target / "d/e", "user.of") == b"e"
        assert target.stat().st_mtime_ns == tree.members[0][0].mtime_ns
        if IS_ROOT:
            assert (status.st_uid, status.st_gid) == (1000, 100)
        flags = subprocess.run(["lsattr", "-d", str(target / "d")], capture_output=True, text=True, check=True).stdout
        assert "d" in flags.split()[0]


def test_a_move_that_was_interrupted_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tree = encrypted_tree()
    data = tree.archive()
    (tmp_path / "t/secret").mkdir(parents=True)  # so that its files are moved one by one
    moves = 0

    def interrupted(name: bytes, here: int, new_name: bytes, there: int) -> None:
        nonlocal moves
        moves += 1
        if moves == 6:
            raise KeyboardInterrupt
        rename_new(name, here, new_name, there)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(move_staged, "rename_new", interrupted)
        restore(as_stream(data), tmp_path / "t", keys=[KEY])
    assert len([name for _, _, names in os.walk(tmp_path / "t") for name in names]) >= 4
    report = restore(as_stream(data), tmp_path / "t", keys=[KEY], resume=True)
    assert report.complete
    assert report.kept >= 1
    for path, body in tree.plain.items():
        assert contents(tmp_path / "t", path) == body
    assert os.stat(tmp_path / "t/secret/linked").st_nlink == 3
    assert os.stat(tmp_path / "t/secret").st_mtime_ns == tree.members[2][0].mtime_ns


def test_many_directories_are_merged_with_few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tree = Tree()
    for number in range(200):
        tree.add(b"%03d" % number, "dir")
        tree.add(b"%03d/file" % number, "file", b"x")
        (tmp_path / "t" / f"{number:03}").mkdir(parents=True)
    most = 0
    real = os.stat

    def watched(*arguments, **facts):
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")))
        return real(*arguments, **facts)

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "stat", watched)
    assert restore(as_stream(tree.archive()), tmp_path / "t").complete
    assert most - before < 40
