"""Where images go: whole or not at all, nothing overwritten unasked, block devices only when told."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ext4img.errors import BuildError
from ext4img.mkfs import Node, Options, plan, write
from tests.mkfs.judges import assert_clean
from tests.mkfs.samples import CREATED_S, FILE, ROOT, Repeated
from tools.loop_mount import run

PLAN = plan([ROOT, Node((b"f",), FILE, size=3 << 20)], Options(size=64 << 20, created_s=CREATED_S))
BEFORE = b"what was there before"


def bodies(_: int) -> Repeated:
    return Repeated()


def test_a_new_file_is_sparse_private_and_alone(tmp_path: Path):
    write(PLAN, bodies, tmp_path / "i")
    assert [path.name for path in tmp_path.iterdir()] == ["i"]
    status = (tmp_path / "i").stat()
    assert (status.st_size, status.st_mode & 0o7777) == (64 << 20, 0o600)
    assert status.st_blocks * 512 < 5 << 20
    assert_clean(tmp_path / "i")


def test_what_is_there_stays_unless_it_may_go(tmp_path: Path):
    (tmp_path / "i").write_bytes(BEFORE)
    with pytest.raises(BuildError, match="already exists"):
        write(PLAN, bodies, tmp_path / "i")
    assert (tmp_path / "i").read_bytes() == BEFORE
    write(PLAN, bodies, tmp_path / "i", overwrite=True)
    assert_clean(tmp_path / "i")


def test_what_comes_there_meanwhile_stays_too(tmp_path: Path):
    class Intruder(Repeated):
        def read_at(self, offset: int, length: int) -> bytes:
            (tmp_path / "i").write_bytes(BEFORE)
            return super().read_at(offset, length)

    with pytest.raises(BuildError, match="already exists"):
        write(PLAN, lambda _: Intruder(), tmp_path / "i")
    assert [path.name for path in tmp_path.iterdir()] == ["i"]
    assert (tmp_path / "i").read_bytes() == BEFORE


@pytest.mark.parametrize("error", [OSError(errno.EIO, "no"), KeyboardInterrupt(), ValueError("what a body raises")])
def test_a_failure_leaves_what_was_there_and_nothing_else(error: BaseException, tmp_path: Path):
    class Failing:
        def read_at(self, offset: int, length: int) -> bytes:
            if offset:
                raise error
            return b"x" * length

    (tmp_path / "i").write_bytes(BEFORE)
    with pytest.raises(type(error)):
        write(PLAN, lambda _: Failing(), tmp_path / "i", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["i"]
    assert (tmp_path / "i").read_bytes() == BEFORE


def test_a_destination_without_room(tmp_path: Path):
    """/dev/full is a character device; a directory that is not there has no room either."""
    for path in ("/dev/full", tmp_path, tmp_path / "nowhere" / "i"):
        with pytest.raises(BuildError):
            write(PLAN, bodies, path, overwrite=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.kernel
def test_a_full_file_system_is_told(tmp_path: Path):
    target = tmp_path / "small"
    target.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1M", "none", target)
    try:
        with pytest.raises(BuildError, match="No space left on device"):
            write(PLAN, bodies, target / "i")
        assert list(target.iterdir()) == []
    finally:
        run("umount", target)


def test_progress_comes_to_the_end(tmp_path: Path):
    seen: list[tuple[int, int | None]] = []
    write(PLAN, bodies, tmp_path / "i", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert 3 << 20 < seen[-1][0] <= PLAN.size
    assert {total for _, total in seen} == {PLAN.size}


@contextmanager
def loop_device(path: Path, size: int) -> Iterator[str]:
    """A loop device over a file full of 0xA5."""
    path.write_bytes(b"\xa5" * size)
    device = run("losetup", "--find", "--show", path).decode().strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@pytest.mark.kernel
def test_a_block_device_only_when_told(tmp_path: Path):
    with loop_device(tmp_path / "disk", 64 << 20) as device:
        with pytest.raises(BuildError, match="which is only overwritten on request"):
            write(PLAN, bodies, device, overwrite=True)
        assert Path(device).read_bytes()[:4096] == b"\xa5" * 4096
        write(PLAN, bodies, device, device=True)
    assert_clean(tmp_path / "disk")
    assert not list(Path("/dev").glob(".*.partial"))
    with pytest.raises(BuildError, match="not a block device"):
        write(PLAN, bodies, tmp_path / "file", device=True)


@pytest.mark.kernel
def test_a_device_too_small_is_left_alone(tmp_path: Path):
    with loop_device(tmp_path / "disk", 63 << 20) as device:
        with pytest.raises(BuildError, match="the file system needs"):
            write(PLAN, bodies, device, device=True)
        assert Path(device).read_bytes() == b"\xa5" * (63 << 20)


@pytest.mark.kernel
def test_a_device_half_written_has_no_superblock(tmp_path: Path):
    class Failing:
        def read_at(self, offset: int, length: int) -> bytes:
            raise KeyboardInterrupt

    with loop_device(tmp_path / "disk", 64 << 20) as device:
        write(PLAN, bodies, device, device=True)
        with pytest.raises(KeyboardInterrupt):
            write(PLAN, lambda _: Failing(), device, device=True)
    with (tmp_path / "disk").open("rb") as file:
        assert file.read(4096) == bytes(4096)


@pytest.mark.kernel
def test_a_device_in_use_is_refused(tmp_path: Path):
    with loop_device(tmp_path / "disk", 64 << 20) as device:
        write(PLAN, bodies, device, device=True)
        mount = tmp_path / "mount"
        mount.mkdir()
        run("mount", device, mount)
        try:
            with pytest.raises(BuildError, match="busy"):
                write(PLAN, bodies, device, device=True)
        finally:
            run("umount", mount)
    assert_clean(tmp_path / "disk")


@pytest.mark.kernel
def test_stale_bytes_of_a_device_do_not_show(tmp_path: Path):
    """Inode tables, journal and directories are zeroed where nothing else is written."""
    with loop_device(tmp_path / "disk", 300 << 20) as device:
        made = plan([ROOT, Node((b"f",), FILE, size=100)], Options(size=300 << 20, block_size=1024))
        write(made, bodies, device, device=True)
        run("mount", device, tmp_path)
        try:
            for number in range(3000):
                os.mkdir(tmp_path / f"{number}")
        finally:
            run("umount", tmp_path)
    assert_clean(tmp_path / "disk")
    subprocess.run(["e2fsck", "-fn", tmp_path / "disk"], check=True, capture_output=True, env={"PATH": "/usr/sbin"})
