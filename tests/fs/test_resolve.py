"""Paths are found the same whether or not others were found before them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

import ext4img
from tests.conftest import UnpackedImage
from tests.fs.conftest import needs_e2fsprogs


@needs_e2fsprogs
def test_in_any_order_a_path_leads_where_it_leads_alone(image_of: Callable[..., Path], tmp_path: Path):
    tree = tmp_path / "tree"
    for directory in ("a/b/c", "x/y"):
        (tree / directory).mkdir(parents=True)
        (tree / directory / "file").write_bytes(directory.encode())
    for name, target in {"a/up": "..", "x/to-b": "../a/b", "a/b/to-file": "c/file", "x/y/loop": "loop"}.items():
        (tree / name).symlink_to(target)
    image = image_of(tree)
    starts = ("", "/", "/a", "/a/b", "/a/b/c", "/a/up", "/x/to-b", "/a/./b", "/a/b/c/..", "/x//y", "/a/b/c/file")
    ends = ("", "/", "/.", "/..", "/c", "/file", "/c/file", "/to-file", "/to-file/", "/up/x", "/loop", "/none", "/b\0")
    texts = [start + end for start in starts for end in ends]

    def found(fs: ext4img.FileSystem, text: str, follow: bool) -> object:
        try:
            inode, entry, directory = fs.resolve(text, follow)
        except ext4img.PathError as error:
            return type(error), str(error)
        return inode.number, entry, directory

    def alone(text: str, follow: bool) -> object:
        with ext4img.open(image) as fs:
            return found(fs, text, follow)

    questions = [(text, follow) for text in texts for follow in (False, True)]
    expected = {question: alone(*question) for question in questions}
    assert len({str(answer) for answer in expected.values()}) > 20
    for seed in range(5):
        random.Random(seed).shuffle(questions)
        with ext4img.open(image) as fs:
            for question in questions:
                assert found(fs, *question) == expected[question], question


def test_names_without_the_key_are_gone_when_it_came(fixture_image: Callable[[str], UnpackedImage]):
    sample = fixture_image("sample-encrypted")
    with ext4img.open(sample.path) as fs:
        before = [str(path) for path, _ in fs.walk()]
        for text in before:
            assert fs.path(text).exists(follow_symlinks=False)
        sample.manifest.add_keys_to(fs)
        after = {str(path) for path, _ in fs.walk()}
        gone = [text for text in before if text not in after]
        assert len(gone) > 5
        for text in gone:
            with pytest.raises(ext4img.NotFoundError):
                fs.resolve(text)
