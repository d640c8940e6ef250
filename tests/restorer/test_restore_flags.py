"""Inode flags that a target accepts are set; others are reported by name."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from ext4img import restore
from ext4img.hostfs.ioctl import FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
from ext4img.restorer.attributes import SETTABLE_FLAGS
from tests.archive.synthetic import Tree
from tests.archive.test_archive import as_file

NO_DUMP_FL, NO_ATIME_FL, JOURNAL_FL, UNRM_FL = 0x40, 0x80, 0x4000, 0x2


class Target:
    """FS_IOC_SETFLAGS of a file system that takes some flags, and refuses or forgets the others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, taken: int, refused: int) -> None:
        self.flags = 0
        self.calls = 0
        self.taken = taken
        self.refused = refused
        monkeypatch.setattr(fcntl, "ioctl", self.ioctl)

    def ioctl(self, _fd: int, request: int, value: array.array[int]) -> int:
        if request == FS_IOC_GETFLAGS:
            value[0] = self.flags
        elif request == FS_IOC_SETFLAGS:
            self.calls += 1
            if value[0] & self.refused:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            self.flags = value[0] & self.taken
        return 0


def restored(flags: int, path: Path) -> dict[str, int]:
    tree = Tree()
    tree.add(b"f", "file", b"x", flags=flags)
    report = restore(as_file(tree.archive()), path)
    assert report.complete
    return dict(report.not_set)


def test_one_refused_flag_does_not_keep_the_others_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = Target(monkeypatch, NO_DUMP_FL | NO_ATIME_FL, JOURNAL_FL)
    assert restored(NO_DUMP_FL | NO_ATIME_FL | JOURNAL_FL, tmp_path / "t") == {"flag j (journaled data)": 1}
    assert target.flags == NO_DUMP_FL | NO_ATIME_FL


def test_flags_that_are_dropped_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = Target(monkeypatch, NO_DUMP_FL, 0)
    assert restored(NO_DUMP_FL | UNRM_FL, tmp_path / "t") == {"flag u (undelete)": 1}
    assert target.flags == NO_DUMP_FL
    assert target.calls == 1


def test_a_target_without_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Target(monkeypatch, 0, SETTABLE_FLAGS)
    assert restored(NO_DUMP_FL, tmp_path / "t") == {"flag d (no dump)": 1}


def test_what_this_system_takes(tmp_path: Path):
    """chattr and lsattr are the judges."""
    (tmp_path / "probe").write_bytes(b"")
    if subprocess.run(["chattr", "+dAS", str(tmp_path / "probe")], capture_output=True, check=False).returncode:
        pytest.skip("no such flags here")
    unset = restored(NO_DUMP_FL | NO_ATIME_FL | 0x8, tmp_path / "t")
    flags = subprocess.run(["lsattr", str(tmp_path / "t/f")], capture_output=True, text=True, check=True).stdout
    assert not unset
    assert {"d", "A", "S"} <= set(flags.split()[0])
