"""Contexts and the kernel's rules for policies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext4img.crypto.policy import Policy, build_context, parse_context
from ext4img.errors import CorruptionError, Ext4Error, Place, UnsupportedFeatureError
from ext4img.structs.fscrypt import FSCRYPT_CONTEXT_V1, FSCRYPT_CONTEXT_V2, FSCRYPT_SYMLINK_DATA

# From images that a kernel filled (corpus: v2-1k, files under /aqrfgzc.v1 and /tjzgzyj.du9's kind).
V1 = bytes.fromhex("010104008478dfb82a1ad859c1f24b4ad6ba709e02281c63edfc719d")
IDENTIFIER = bytes(range(16))
NONCE = bytes(range(16, 32))


def v2(contents: int = 1, names: int = 4, flags: int = 3, log2: int = 0, reserved: bytes = bytes(3)) -> bytes:
    return bytes((2, contents, names, flags, log2)) + reserved + IDENTIFIER + NONCE


def test_records():
    assert (FSCRYPT_CONTEXT_V1.size, FSCRYPT_CONTEXT_V2.size, FSCRYPT_SYMLINK_DATA.size) == (28, 40, 2)
    assert FSCRYPT_CONTEXT_V1.offset_of("nonce") == 12
    assert FSCRYPT_CONTEXT_V2.offset_of("master_key_identifier") == 8
    assert FSCRYPT_CONTEXT_V2.offset_of("nonce") == 24


def test_version_1():
    context = parse_context(V1)
    assert context.raw == V1
    assert context.nonce.hex() == "c1f24b4ad6ba709e02281c63edfc719d"
    policy = context.policy
    assert (policy.version, policy.contents_mode_name, policy.filenames_mode_name) == (1, "AES-256-XTS", "AES-256-CTS")
    assert (policy.key_id_hex, policy.padding, policy.flag_names) == ("8478dfb82a1ad859", 4, ("PAD_4",))
    assert build_context(policy, context.nonce) == V1
    assert policy.describe() == "v1, descriptor 8478dfb82a1ad859, AES-256-XTS contents, AES-256-CTS names, PAD_4"


def test_version_2():
    context = parse_context(v2(flags=0x03, log2=9))
    policy = context.policy
    assert policy == Policy(2, 1, 4, 3, IDENTIFIER, 9)
    assert (context.nonce, policy.padding) == (NONCE, 32)
    assert (policy.data_unit_size(4096), Policy(2, 1, 4, 3, IDENTIFIER).data_unit_size(4096)) == (512, 4096)
    assert build_context(policy, NONCE) == context.raw
    assert "data units of 512 bytes" in policy.describe()


def test_files_of_a_tree_share_their_policy():
    assert parse_context(v2()).policy is parse_context(v2()[:-16] + bytes(16)).policy


@pytest.mark.parametrize(
    ("contents", "names", "flags", "log2"),
    [
        (1, 4, 0, 0),
        (5, 6, 1, 0),
        (7, 8, 2, 0),
        (9, 9, 3, 0),
        (9, 9, 7, 0),
        (1, 10, 0x0B, 0),
        (1, 4, 0x13, 12),
        (1, 4, 0, 16),
    ],
)
def test_policies_that_the_kernel_takes(contents, names, flags, log2):
    policy = parse_context(v2(contents, names, flags, log2)).policy
    assert policy.unsupported() is None
    assert (policy.contents.number, policy.filenames.number) == (contents, names)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (v2(4, 1), "AES-256-CTS contents with AES-256-XTS names"),
        (v2(2, 3), "AES-256-GCM contents with AES-256-CBC names"),
        (v2(9, 4), "Adiantum contents with AES-256-CTS names"),
        (v2(1, 99), "mode 99 names"),
        (b"\x01\x01\x0a" + V1[3:], "AES-256-XTS contents with AES-256-HCTR2 names"),
        (b"\x01\x07\x08" + V1[3:], "Speck128/256-XTS contents with Speck128/256-CTS names"),
        (v2(flags=0x20), "flags 0x20"),
        (V1[:3] + b"\x08" + V1[4:], "flags 0x8 with policy version 1"),
        (v2(flags=0x18), "IV_INO_LBLK_64 with IV_INO_LBLK_32"),
        (v2(9, 9, flags=0x0C), "DIRECT_KEY with IV_INO_LBLK_64"),
        (v2(flags=0x04), "DIRECT_KEY with AES-256-XTS"),
        (v2(9, 9, flags=0x08), "IV_INO_LBLK_64 with Adiantum"),
        (v2(log2=8), "log2_data_unit_size 8"),
        (v2(log2=17), "log2_data_unit_size 17"),
        (v2(reserved=b"\0\1\0"), "reserved bytes 000100"),
    ],
)
def test_policies_that_the_kernel_refuses(raw: bytes, reason: str):
    with pytest.raises(UnsupportedFeatureError, match="encryption policy is not supported") as caught:
        parse_context(raw, place=Place(inode=77))
    assert reason in str(caught.value)
    assert "inode 77" in str(caught.value)
    # Without its key it can still be shown and copied.
    context = parse_context(raw, supported_only=False)
    assert context.raw == raw
    assert build_context(context.policy, context.nonce) == raw
    assert reason in (context.policy.unsupported() or "")
    context.policy.describe()


def test_data_units_and_blocks():
    assert Policy(2, 1, 4, 0, IDENTIFIER, 12).unsupported(1024) == "data units of 4096 bytes in blocks of 1024"
    assert Policy(2, 1, 4, 0, IDENTIFIER, 9).unsupported(1024) is None
    assert "IV_INO_LBLK_32 with data units" in (Policy(2, 1, 4, 0x10, IDENTIFIER, 9).unsupported(4096) or "")
    assert Policy(2, 1, 4, 0x10, IDENTIFIER, 12).unsupported(4096) is None


@pytest.mark.parametrize("raw", [b"", b"\0" * 28, V1[:-1], V1 + b"\0", v2()[:28], v2()[:-1], b"\x01" + v2()[1:]])
def test_corrupt(raw: bytes):
    with pytest.raises(CorruptionError) as caught:
        parse_context(raw, place=Place(inode=5))
    assert "inode 5" in str(caught.value)


def test_unknown_version():
    with pytest.raises(UnsupportedFeatureError, match="context version 3"):
        parse_context(b"\x03" + bytes(39))


@given(st.binary(max_size=64) | st.binary(min_size=27, max_size=27).map(lambda b: b"\1" + b))
def test_only_our_errors(raw: bytes):
    try:
        context = parse_context(raw, supported_only=False)
    except Ext4Error:
        return
    assert build_context(context.policy, context.nonce) == raw
