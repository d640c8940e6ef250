"""The tree itself: notes left behind, paths that documents name, lengths of modules, names of classes."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {".md", ".py", ".toml", ".txt", ".yml", ""}
MODULES = sorted((ROOT / "ext4img").rglob("*.py"))
MAX_LINES = 450
# Classes that may share a name, each with the reason.
SHARED_CLASS_NAMES: dict[str, str] = {}
GENERATED = {"build/", "dist/"}  # there only after a build or a release
DIRECTORIES = ["ext4img", "tests", "tools", "docs", ".ci"]
# A path from the top; one that ends in .py, from anywhere; a directory alone, such as a room.
REPOSITORY_PATH = re.compile(r"(?:ext4img|tests|tools|docs|\.ci|\.github)/[\w.*/-]*|\w[\w/]*/[\w*]+\.py|[a-z]\w+/")


def texts() -> Iterator[Path]:
    """The texts of the tree: not images, keys, vectors or what a build leaves behind."""
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in TEXTS)
    for name in DIRECTORIES:
        yield from (p for p in (ROOT / name).rglob("*") if p.suffix in TEXTS and p.is_file() and p != Path(__file__))


def test_no_notes_are_left():
    """What remains to be done belongs into the tracker."""
    note = re.compile(rb"\b(?:TODO|FIXME|XXX)\b")
    assert not [path for path in texts() if note.search(path.read_bytes())]


def paths_named_in(text: str) -> set[str]:
    """What stands in backticks or is linked to, and looks like a path of this repository."""
    found = re.findall(r"`([^`\s]+)`", text) + re.findall(r"\]\(([^)#\s]+)", text)
    return {word for word in found if REPOSITORY_PATH.fullmatch(word)} - GENERATED


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_paths_exist(document: Path):
    starts = (ROOT, ROOT / "tests", ROOT / "ext4img", document.parent)
    named = paths_named_in(document.read_text(encoding="utf-8"))
    assert not [path for path in sorted(named) if not any(any(start.glob(path)) for start in starts)]


def test_paths_are_recognised():
    text = "`tests/fs/`, `hostile/test_x.py`, [guide](docs/library.md#keys), `mkfs/`, `out.tar`, `./x`, `a/b`, `DIR/`"
    assert paths_named_in(text) == {"tests/fs/", "hostile/test_x.py", "docs/library.md", "mkfs/"}


def test_modules_are_short():
    """A longer one holds two nouns."""
    lengths = {str(path.relative_to(ROOT)): path.read_bytes().count(b"\n") for path in MODULES}
    assert not {name: length for name, length in lengths.items() if length > MAX_LINES}


def test_class_names_are_unique():
    """One name means one thing, private ones included."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert not {name: found for name, found in shared.items() if name not in SHARED_CLASS_NAMES}
    assert shared.keys() >= SHARED_CLASS_NAMES.keys(), "an exception is no longer needed"
