"""The judges judged: one wrong value in a manifest is one difference found."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ext4img
from tests import manifest
from tests.conftest import UnpackedImage
from tests.manifest import Manifest

Judge = Callable[[Any, Manifest], Iterator[str]]


def without_keys(fs: Any, expected: Manifest) -> Iterator[str]:
    return manifest.attribute_differences(fs, expected, with_keys=False)


CASES: list[tuple[str, str, bool, Judge, Any]] = [
    *(
        ("/home/alice/attributes/large", field, True, manifest.attribute_differences, 77_777)
        for field in (*manifest.FIELDS, "size", "flags")
    ),
    ("/home/alice/attributes/large", "xattrs", True, manifest.attribute_differences, {}),
    ("/home/alice/attributes/large", "path", True, manifest.attribute_differences, "/elsewhere"),
    ("/home/alice/attributes/large", "context", True, manifest.attribute_differences, "00" * 40),
    ("/home/alice/attributes/large", "name_ct", True, manifest.attribute_differences, "00" * 16),
    ("/home/alice/special files/char-new-encoding", "rdev", True, manifest.attribute_differences, [1, 2]),
    ("/home/alice/notes.txt", "sha256", True, manifest.content_differences, "00" * 32),
    ("/home/alice/contents/hole middle", "data_segments", True, manifest.content_differences, [[0, 32768]]),
    ("/home/alice/links/relative", "target", True, manifest.content_differences, "elsewhere"),
    ("/home/alice/notes.txt", "nokey_path", False, without_keys, "/home/alice/elsewhere"),
    ("/home/alice/notes.txt", "ciphertext_sha256", False, manifest.nokey_differences, "00" * 32),
    ("/home/alice/notes.txt", "ciphertext_size", False, manifest.nokey_differences, 8192),
    ("/home/alice/links/relative", "nokey_target", False, manifest.nokey_differences, "elsewhere"),
]


@pytest.mark.parametrize(
    ("path", "field", "with_keys", "judge", "wrong"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_one_wrong_value_is_found(
    path: str,
    field: str,
    with_keys: bool,
    judge: Judge,
    wrong: Any,
    fixture_image: Callable[[str], UnpackedImage],
):
    image = fixture_image("sample-encrypted")
    altered = Manifest(image.packed.manifest)
    altered.entries = copy.deepcopy(altered.entries)
    (entry,) = (e for e in altered.entries if e["path"] == path)
    assert field in entry
    entry[field] = wrong
    with ext4img.open(image.path) as fs:
        if with_keys:
            altered.add_keys_to(fs)
        assert list(judge(fs, altered))
