"""Which names a backup skips by pattern, judged by bash's own matching, and how often patterns are compiled."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable

import pytest

import ext4img
from ext4img.archiver.exclude import ExcludeFilter
from tests.conftest import UnpackedImage

NAMES = ["a", "a.tmp", "b.TMP", ".tmp", "home/x.tmp", "home/cache/y", "home/cache", "cache", "a[b", "new\nline", "ü"]
PATTERNS = ["*.tmp", "cache", "home/*", "?", "[ab]", "[!a]*", "*", "home/cache", "/a.tmp", "cache/", "new*", "ü"]


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is the judge")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_in_a_shell(pattern: str):
    """[[ text == pattern ]] of bash: of whole paths where the pattern has a slash inside, else of last names."""
    stripped = pattern.strip("/")
    texts = [name if "/" in stripped else name.rpartition("/")[2] for name in NAMES]
    script = "p=$1; shift; for t; do [[ $t == $p ]] && echo 1 || echo 0; done"
    done = subprocess.run(
        ["bash", "-c", script, "bash", stripped, *texts], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    expected = [line == b"1" for line in done.stdout.split()]
    assert any(expected)
    # A pattern's "?" and brackets stand for bytes here, as names are bytes; in the shell for characters.
    found = [ExcludeFilter((pattern,)).excludes(name.encode()) for name in NAMES]
    differing = [name for name, one, other in zip(NAMES, found, expected, strict=True) if one != other]
    assert differing == (["ü"] if pattern == "?" else [])


def test_one_of_several_forms_of_a_path_is_enough():
    assert ExcludeFilter(("secret",)).excludes(b"home/ABCDEF", b"home/secret")
    assert not ExcludeFilter(("secret",)).excludes(b"home/ABCDEF", b"home/other")
    assert ExcludeFilter(("*\udcff",)).excludes(b"name\xff")
    assert not ExcludeFilter().excludes(b"anything")


def test_patterns_are_compiled_once(fixture_image: Callable[[str], UnpackedImage], monkeypatch: pytest.MonkeyPatch):
    """However many names there are, which all patterns are tried on."""
    compiled: list[object] = []
    original = re.compile

    def counting(pattern: str | bytes, *flags: int) -> object:
        compiled.append(pattern)
        return original(pattern, *flags)

    monkeypatch.setattr("ext4img.archiver.exclude.re.compile", counting)
    filtered = ExcludeFilter(("*.nothing", "no/such", "[z]"))
    assert len(compiled) == 3
    with ext4img.open(fixture_image("plain-4k").path) as fs:
        paths = [path.encode("utf-8", "surrogateescape") for path in fs.paths()]
    assert len(paths) > 100
    assert not any(filtered.excludes(path) for path in paths)
    assert len(compiled) == 3
