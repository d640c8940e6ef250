"""Case folding against the kernel's own tables and cursor, and look-ups in case-insensitive directories."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ext4img
from ext4img.fs.casefold_lookup import CasefoldLookup, _hashed_form
from ext4img.names.casefold import fold, is_valid
from ext4img.names.dirhash import siphash_dirhash
from ext4img.names.unicode_12_1 import is_assigned
from ext4img.structs.directory import EXT4_DIR_ENTRY_HASH
from ext4img.structs.inode import EXT4_CASEFOLD_FL
from ext4img.structs.superblock import (
    EXT4_ENC_NO_COMPAT_FALLBACK_FL,
    EXT4_ENC_STRICT_MODE_FL,
    EXT4_SUPER_BLOCK,
    SUPERBLOCK_OFFSET,
)
from tests.conftest import UnpackedImage
from tests.fs.nls import kernel_casefold

KERNEL = kernel_casefold()
with_kernel = pytest.mark.skipif(KERNEL is None, reason="no libext2fs with the kernel's Unicode 12.1 tables")

# fs/unicode/utf8-selftest.c of Linux: nfdicf_test_data, and what follows from nfdi_test_data.
SELFTEST = [
    ("ABba", "abba"),
    ("ABCDEFGHIJKLMNOPQRSTUVWXYZ0.1", "abcdefghijklmnopqrstuvwxyz0.1"),
    ("ß", "ss"),
    ("Å", "a\u030a"),
    ("\uab70", "\u13a0"),  # CHEROKEE SMALL LETTER A: folds to upper case
    ("\u13f8", "\u13f0"),
    ("\U00010c83", "\U00010cc3"),
    ("\U000104b5", "\U000104dd"),
    ("\ua7ae", "\u026a"),
    ("\u1c90", "\u10d0"),
    ("¼", "¼"),
    ("ä", "a\u0308"),
    ("\u0387", "\u00b7"),
    ("A\u0301\u0328", "a\u0328\u0301"),
    ("ä\u0328", "a\u0328\u0308"),
]


@pytest.mark.parametrize(("name", "folded"), SELFTEST)
def test_the_kernels_selftest(name: str, folded: str):
    assert fold(name.encode()) == folded.encode()


def reference(name: bytes) -> bytes:
    """As ext4fs_dirhash: what can't be folded stands for itself."""
    assert KERNEL is not None
    folded = KERNEL[0](name)
    return name if folded is None else folded


@with_kernel
def test_every_code_point():
    """All that are assigned now or were in 12.1, and the ends of each stretch that is not."""
    differences = []
    for code in range(1, 0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        plain = unicodedata.category(chr(code)) in ("Cn", "Co") and code & 0xFF not in (0, 0xFF)
        if plain or 0x3400 < code < 0x9FA0 or 0xAC01 < code < 0xD7A2 or 0x17000 < code < 0x2F7FF:
            continue
        name = chr(code).encode()
        if fold(name) != reference(name):
            differences.append(hex(code))
    assert not differences


INTERESTING = (
    "AzÀéßİ\u0130\u01c5\u0345\u0300\u0301\u0323\u0327\u0334\u1fb3\u1f88\u0390\u212b\ufb03\u200b\u034f\u00ad가힣"
    "\ufffe\ue000\u13a0\uab70\U00010400\U0001d15e\U000e0001\u08d0\u0898\u1abf\ua7c0\U00010570\U00011070\u1715"
)


@with_kernel
@settings(max_examples=500, deadline=None)
@given(st.text(st.one_of(st.sampled_from(INTERESTING), st.characters(exclude_characters="\0", codec="utf-8"))))
def test_any_text(text: str):
    assert fold(text.encode()) == reference(text.encode())


PIECES = [*(char.encode() for char in INTERESTING), *(bytes((byte,)) for byte in (0x80, 0x92, 0xA9, 0xBF))]
BROKEN = [b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xff", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe9t"]


@with_kernel
@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.sampled_from(BROKEN)), max_size=10).map(b"".join))
def test_any_bytes(name: bytes):
    assert KERNEL is not None
    assert fold(name) == reference(name)
    assert is_valid(name) == KERNEL[1](name)


def test_stray_bytes_fold_what_stands_around_them():
    assert fold(b"Don\x92T") == b"don\x92t"
    assert fold(b"\x92Don") == b"\x92Don"
    assert fold(b"Caf\xe9") == b"Caf\xe9"
    assert not is_valid(b"Don\x92T")


def test_what_came_after_unicode_12_1_stands_for_itself():
    """U+A7C0 got a lower case in Unicode 14, U+1ABF is a mark since 13: no kernel knows."""
    assert not is_assigned(0xA7C0)
    assert fold("\ua7c0".encode()) == "\ua7c0".encode()
    assert fold("a\u1abf\u0323".encode()) == "a\u1abf\u0323".encode()
    assert is_assigned(0x41)
    assert is_assigned(0x10FFFD)
    assert not is_assigned(0x378)
    assert not is_assigned(0x10FFFE)


@pytest.fixture
def casefolded(fixture_image: Callable[[str], UnpackedImage]) -> UnpackedImage:
    """Case-insensitive directories, plain and encrypted, by Linux 6.1."""
    return fixture_image("casefold")


def folded_directories(fs: ext4img.FileSystem) -> list[tuple[ext4img.Ext4Path, ext4img.Inode]]:
    return [(path, inode) for path, inode in fs.walk() if inode.is_dir and inode.flags & EXT4_CASEFOLD_FL]


def test_stored_hashes_are_ours(casefolded: UnpackedImage):
    """The kernel wrote the hash of each folded plaintext name after its entry."""
    count = 0
    with ext4img.open(casefolded.path) as fs:
        casefolded.manifest.add_keys_to(fs)
        for _, directory in folded_directories(fs):
            if directory.encryption is None:
                continue
            key = fs.keyring.dirhash_key(directory.encryption)
            assert key is not None
            for name, entry in fs.listdir(directory):
                assert EXT4_DIR_ENTRY_HASH.pack(siphash_dirhash(key, _hashed_form(fold(name)))) == entry.hash, name
                count += 1
    assert count > 500


def variants(name: str) -> set[str]:
    forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
    cased = {change(form) for form, change in product(forms, (str.swapcase, str.upper, str.lower, str.casefold))}
    # Upper case is not always equal when folded back (ŉ, ǰ, İ …): the kernel's fold decides.
    return {other for other in cased | forms if fold(other.encode()) == fold(name.encode())}


@pytest.mark.parametrize("by_hash_alone", [True, False])
def test_names_are_found_in_any_case(casefolded: UnpackedImage, by_hash_alone: bool, monkeypatch: pytest.MonkeyPatch):
    with ext4img.open(casefolded.path) as fs:
        casefolded.manifest.add_keys_to(fs)
        indexed = 0
        for path, directory in folded_directories(fs):
            by_hash = fs.volume.index(directory) is not None or directory.is_encrypted
            if by_hash_alone and by_hash:
                indexed += 1
                monkeypatch.setattr(CasefoldLookup, "_names_by_fold", None)
                monkeypatch.setattr(CasefoldLookup, "_is_busy", lambda *_: False)
            for name, entry in fs.listdir(directory):
                assert fs.lookup(directory, name) == entry
                for other in variants(name.decode()) if is_valid(name) else ():
                    assert fs.lookup(directory, other.encode()) == entry, (name, other)
                    if not by_hash_alone:
                        assert (path / other).inode.number == entry.inode
            monkeypatch.undo()
            assert fs.lookup(directory, b"no such name") is None
            assert fs.lookup(directory, b"") is None
        assert indexed > 5 or not by_hash_alone


def with_encoding(image: UnpackedImage, **fields: int) -> bytes:
    """The image with other values in its superblock, whose checksum is then wrong."""
    data = bytearray(image.path.read_bytes())
    for name, value in fields.items():
        at = SUPERBLOCK_OFFSET + EXT4_SUPER_BLOCK.offset_of(name)
        data[at : at + 2] = value.to_bytes(2, "little")
    return bytes(data)


def test_a_lookup_that_trusts_the_hashes(casefolded: UnpackedImage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(CasefoldLookup, "_names_by_fold", None)
    data = with_encoding(casefolded, s_encoding_flags=EXT4_ENC_NO_COMPAT_FALLBACK_FL)
    with ext4img.open(data, checks="off") as fs:
        fs.volume.directories.doubts_indexes = False  # as in strict mode, which the altered superblock does not allow
        casefolded.manifest.add_keys_to(fs)
        _, directory = next(found for found in folded_directories(fs) if found[1].is_encrypted)
        assert fs.lookup(directory, b"no such name") is None


def test_strict_mode_and_unknown_encodings(casefolded: UnpackedImage):
    with ext4img.open(with_encoding(casefolded, s_encoding_flags=EXT4_ENC_STRICT_MODE_FL), checks="off") as fs:
        casefolded.manifest.add_keys_to(fs)
        invalid = [
            (directory, name, entry)
            for _, directory in folded_directories(fs)
            for name, entry in fs.listdir(directory)
            if not is_valid(name)
        ]
        assert invalid
        assert len({problem.reason for problem in fs.problems}) == len({name for _, name, _ in invalid})
        for directory, name, entry in invalid:
            assert fs.lookup(directory, name) == entry
    with ext4img.open(with_encoding(casefolded, s_encoding=7), checks="off") as fs:
        casefolded.manifest.add_keys_to(fs)
        _, directory = folded_directories(fs)[0]
        name, entry = next(named for named in fs.listdir(directory) if named.name.isalpha() or named.name[:1].isalpha())
        assert fs.lookup(directory, name) == entry
        assert fs.lookup(directory, name.swapcase()) is None
        assert "encoding 7" in str(list(fs.problems))


def test_folding_keeps_no_more_than_its_bound():
    from ext4img.names.casefold import _MAX_FOLDINGS, _foldings

    for code in range(0x4E00, 0x4E00 + 20_000):
        fold(chr(code).encode())
    assert len(_foldings) <= _MAX_FOLDINGS
