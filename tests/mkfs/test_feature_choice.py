"""Requested features are honoured or refused, in every spelling that mke2fs -O takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext4img.errors import BuildError, UnsupportedFeatureError
from ext4img.mkfs import Options, plan
from ext4img.mkfs.options import FeatureChoice, parse_features
from tests.mkfs.judges import assert_clean, head
from tests.mkfs.samples import ROOT, build

# What the names of `mke2fs -O` are, in e2fsprogs' own words (man ext4, lib/e2p/feature.c).
DEFAULTS = {
    "has_journal",
    "ext_attr",
    "resize_inode",
    "dir_index",
    "filetype",
    "extent",
    "64bit",
    "flex_bg",
    "sparse_super",
    "large_file",
    "huge_file",
    "dir_nlink",
    "extra_isize",
    "metadata_csum",
}
ALWAYS = {"ext_attr", "filetype", "extent"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extents", DEFAULTS),
        ("Extents +has_journal,  ^64bit", DEFAULTS - {"64bit"}),
        ("-has_journal,-resize_inode", DEFAULTS - {"has_journal", "resize_inode"}),
        ("uninit_groups,^metadata_csum", DEFAULTS - {"metadata_csum"} | {"uninit_bg"}),
        ("none", ALWAYS),
        ("inline_data,none", ALWAYS),
        ("none,has_journal,metadata_csum", ALWAYS | {"has_journal", "metadata_csum"}),
        ("has_journal,^has_journal", DEFAULTS - {"has_journal"}),
        ("^has_journal,has_journal", DEFAULTS),
        ("fast_commit,orphan_file", DEFAULTS | {"fast_commit", "orphan_file"}),
        ("^quota,^lazy_bg", DEFAULTS),
        ("^sparse_super", DEFAULTS - {"sparse_super", "resize_inode"}),
    ],
)
def test_spellings(text: str, expected: set[str]):
    assert set(FeatureChoice((text,)).features.names) == expected
    assert set(FeatureChoice(parse_features(text)).features.names) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends", "unknown feature 'extends'"),
        ("^extends", "unknown feature 'extends'"),
        ("^extents", "a new file system always has the feature extent"),
        ("^ext_attr", "a new file system always has the feature ext_attr"),
        ("bigalloc", "a new file system cannot have the feature bigalloc"),
        ("lazy_bg", "a new file system cannot have the feature lazy_bg"),
        ("uninit_bg", "uninit_bg needs ^metadata_csum"),
        ("resize_inode,^sparse_super", "resize_inode needs sparse_super"),
        ("none,resize_inode", "resize_inode needs sparse_super"),
        ("fast_commit,^has_journal", "fast_commit needs has_journal"),
        ("none,orphan_file", "orphan_file needs has_journal"),
    ],
)
def test_what_cannot_be_honoured(text: str, message: str):
    with pytest.raises(UnsupportedFeatureError) as caught:
        FeatureChoice((text,))
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["has_journal", "fast_commit", "orphan_file"])
@pytest.mark.parametrize("block_size", [1024, 4096])
def test_a_journal_that_is_wanted(name: str, block_size: int, tmp_path: Path):
    """Under 2,048 blocks ext2fs_default_journal_size makes none: the automatic size is larger, a given one refused."""
    small = Options(features=(name,), block_size=block_size, size=2047 * block_size)
    with pytest.raises(BuildError, match=f"2047 blocks of {block_size} bytes is too small for the feature {name}"):
        plan([ROOT], small)
    assert "has_journal" not in plan([ROOT], Options(block_size=block_size)).features.names
    build(tmp_path / "a.img", [ROOT], Options(features=(name,), block_size=block_size))
    assert_clean(tmp_path / "a.img")
    assert {name, "has_journal"} <= set(head(tmp_path / "a.img")["Filesystem features"].split())
