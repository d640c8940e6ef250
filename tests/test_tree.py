"""The tree itself: notes left behind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXTS = {".md", ".py", ".toml", ".txt", ".yml", ""}
DIRECTORIES = ["ext4img", "tests", "tools", "docs", ".ci"]


def texts() -> Iterator[Path]:
    """The texts of the tree: not images, keys, vectors or what a build leaves behind."""
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in TEXTS)
    for name in DIRECTORIES:
        yield from (p for p in (ROOT / name).rglob("*") if p.suffix in TEXTS and p.is_file() and p != Path(__file__))


def test_no_notes_are_left():
    """What remains to be done belongs into the tracker."""
    note = re.compile(rb"\b(?:TODO|FIXME|XXX)\b")
    assert not [path for path in texts() if note.search(path.read_bytes())]
