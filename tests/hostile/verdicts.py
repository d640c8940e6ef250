"""What comes of a damaged image: nothing but Ext4Error, what report mode tells, what strict reading refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import ext4img
from ext4img.sources import BytesSource
from ext4img.volume.check import run_check
from tests.hostile.editing import EditedImage
from tools.fuzz.exercise import exercise

MODES = ("strict", "report", "off")


def problems_of(image: EditedImage | bytes, read: Callable[[Any], object] | None = None) -> list[str]:
    """What report mode notes while everything is read; and nothing but Ext4Error in the other modes."""
    exercise(BytesSource(bytes(image)), (), ("off", "strict"))
    with ext4img.open(bytes(image), checks="report") as fs:
        for _, inode in fs.walk():
            inode.xattrs()
            if inode.is_symlink:
                inode.readlink()
            elif inode.is_file:
                inode.runs()
        if read:
            read(fs)
        run_check(fs.volume)
        return [str(problem) for problem in fs.problems]


def assert_told(image: EditedImage | bytes, *words: str) -> None:
    """Some problem has all of these words."""
    problems = problems_of(image)
    assert any(all(word in problem for word in words) for problem in problems), problems[:20]


def assert_strict_refuses(image: EditedImage | bytes, read: Callable[[ext4img.FileSystem], object]) -> None:
    with pytest.raises(ext4img.CorruptionError), ext4img.open(bytes(image)) as fs:
        read(fs)


def paths_of(image: EditedImage | bytes, checks: Any = "report") -> set[str]:
    with ext4img.open(bytes(image), checks=checks) as fs:
        return {str(path) for path, _ in fs.walk()}
