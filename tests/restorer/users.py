"""Restores by an ordinary user, where the tests run as root."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def of_nobody() -> Iterator[Path]:
    """A target that an ordinary user may write in; pytest's own directories are closed to others."""
    if os.geteuid():
        pytest.skip("becomes another user")
    with tempfile.TemporaryDirectory(prefix="ext4img-user-") as name:
        os.chmod(name, 0o755)
        target = Path(name) / "t"
        target.mkdir()
        os.chown(target, NOBODY, NOBODY)
        yield target
