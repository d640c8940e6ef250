"""The public names: one sorted list, and what it says is there."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ext4img
from ext4img import errors
from tests.conftest import UnpackedImage


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


def modules_after(code: str, *arguments: str) -> set[str]:
    """Names of this package's modules that a fresh interpreter has loaded."""
    shown = "\nimport sys\nprint(*[name for name in sys.modules if name.partition('.')[0] == 'ext4img'])"
    command = [sys.executable, "-c", code + shown, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    return set(done.stdout.split())


def test_importing_imports_next_to_nothing():
    assert modules_after("import ext4img") == {"ext4img", "ext4img.errors"}


def test_listing_imports_nothing_of_keys(fixture_image: Callable[[str], UnpackedImage]):
    code = "import sys, ext4img\nwith ext4img.open(sys.argv[1]) as fs: assert len(list(fs.paths())) > 10"
    loaded = modules_after(code, str(fixture_image("plain-4k").path))
    assert not [name for name in loaded if name.startswith("ext4img.crypto")]
