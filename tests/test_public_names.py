"""The public names: one sorted list, and what it says is there."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ext4img
from ext4img import errors
from tests.conftest import UnpackedImage
from tests.public_annotations import unexported


def test_all_is_sorted_and_unique():
    assert list(ext4img.__all__) == sorted(set(ext4img.__all__))


def test_all_is_real():
    missing = [name for name in ext4img.__all__ if not hasattr(ext4img, name)]
    assert not missing


def test_public_names_are_documented():
    bare = [
        name
        for name in ext4img.__all__
        if (inspect.isclass(value := getattr(ext4img, name)) or inspect.isroutine(value)) and not inspect.getdoc(value)
    ]
    assert not bare


def test_every_exception_is_public():
    raised = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert raised <= set(ext4img.__all__)


def test_dir_shows_the_public_names():
    assert set(ext4img.__all__) <= set(dir(ext4img))


# Signatures that lead to the layers below the guide's, by what they use.
BELOW = {
    "File": {"Contents", "ContentsCipher"},
    "Volume": {"Contents", "DirListing", "HashTree", "Mapping", "RawXattrs"},
    "FileSystem": {"DirListing", "EncryptionState", "Found", "MetadataPlace"},
    "FileTree": {"DirListing", "EncryptionState", "Found"},
    "Ext4Path": {"DirEntryFields"},
    "Keyring": {"ContentsCipher", "NamesCipher"},
    "MasterKey": {"DataUnitCipher", "FileKeys", "PaddedNameCipher"},
    "Member": {"Cursor", "ReadResources", "TarHeader"},
    "Plan": {"DirectoryOptions", "Geometry", "GroupSummary", "GroupUsage", "NodeTree", "Placement", "ReservedInodes"},
    "Source": {"SourcePlace"},
    "RestoreReport": {"NotSet"},  # a collections.Counter
    "extract": {"NameCounts", "Tree"},  # an iterable of (path, inode)
}
STORED_INODE = {"StoredInode"}  # the base of `Inode`, which has its fields


def test_signatures_use_public_names():
    hidden = {(name, used) for name, used in unexported() if used not in STORED_INODE}
    assert hidden <= {(name, used) for name, names in BELOW.items() for used in names}


def test_the_three_lists_of_names_agree():
    """`_HOMES` for the interpreter, the imports for type checkers, `__all__` for readers and `import *`."""
    body = ast.parse(inspect.getsource(ext4img)).body
    (checked,) = (node for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    for_checkers = {
        alias.name: (node.module or "").removeprefix("ext4img.")
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = ext4img._HOME_OF
    assert for_checkers == homes
    assert set(ext4img.__all__) == {*homes, "__version__", "open"}


def test_the_guide_imports_from_the_root_only():
    text = (Path(__file__).parent.parent / "docs" / "library.md").read_text(encoding="utf-8")
    assert not re.findall(r"^\s*(?:from|import) ext4img\.\S+", text, re.MULTILINE)
    named = set(re.findall(r"\bext4img\.(\w+)", text)) - {"py"}
    assert named <= set(ext4img.__all__)


SAMPLE = """
import ext4img
from ext4img import Ext4Path, Inode

with ext4img.open("x") as fs:
    for path, inode in fs.walk():
        text: str = path.name
        number: int = inode.number
    p: Ext4Path = fs.path("/a") / "b"
    i: Inode = p.inode
    data: bytes = p.read_bytes()
    summary: ext4img.CheckSummary = ext4img.check(fs, contents=True)
    reveal_type(p.parent)
    reveal_type(ext4img.backup(fs, "a.tar"))
    fs.path(1)
ext4img.no_such_name
"""


def test_type_checkers_know_the_public_names(tmp_path: Path):
    """Types are known, and mistakes are found: nothing of the package is Any to a caller."""
    (tmp_path / "sample.py").write_text(SAMPLE)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--cache-dir",
        str(tmp_path),
        "sample.py",
    ]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(root)}
    )
    if "No module named mypy" in done.stderr:
        pytest.skip("mypy is not installed")
    lines = [line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("sample.py")]
    assert [line for line in lines if line.startswith("note: Revealed")] == [
        'note: Revealed type is "ext4img.fs.path.Ext4Path"',
        'note: Revealed type is "ext4img.archiver.create.BackupReport"',
    ]
    mistakes = [line for line in lines if line.startswith("error")]
    assert len(mistakes) == 2
    assert '"int"' in mistakes[0]
    assert "no_such_name" in mistakes[1]


def modules_after(code: str, *arguments: str) -> set[str]:
    """Names of this package's modules that a fresh interpreter has loaded."""
    shown = "\nimport sys\nprint(*[name for name in sys.modules if name.partition('.')[0] == 'ext4img'])"
    command = [sys.executable, "-c", code + shown, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    return set(done.stdout.split())


def test_importing_imports_next_to_nothing():
    assert modules_after("import ext4img") == {"ext4img"}


def test_listing_imports_nothing_of_keys(fixture_image: Callable[[str], UnpackedImage]):
    code = "import sys, ext4img\nwith ext4img.open(sys.argv[1]) as fs: assert len(list(fs.paths())) > 10"
    loaded = modules_after(code, str(fixture_image("plain-4k").path))
    assert not [name for name in loaded if name.startswith("ext4img.crypto")]
