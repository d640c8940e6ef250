"""No-key names and the padding of names. That they are the kernel's, test_manifests.py shows."""

from __future__ import annotations

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext4img.errors import CorruptionError, Place
from ext4img.names.nokey import (
    NokeyName,
    encrypted_length,
    is_padded_name,
    nokey_name,
    nokey_target,
    parse_nokey_name,
    symlink_ciphertext,
)

# A file of corpus image v2-1k.
STORED = bytes.fromhex("6e7830e9f2ce7c65bb7310d013d864ce")
SHOWN = b"sgJ-RAAAAABueDDp8s58ZbtzENAT2GTO"


def test_as_the_kernel_shows_it():
    assert nokey_name(STORED, 0x447E02B2, 0) == SHOWN
    parsed = parse_nokey_name(SHOWN)
    assert parsed == NokeyName(0x447E02B2, 0, STORED, None)
    assert parsed.stored == STORED


@given(st.binary(min_size=16, max_size=255), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_round_trip(stored: bytes, major: int, minor: int):
    shown = nokey_name(stored, major, minor)
    assert len(shown) <= 252
    assert b"/" not in shown
    parsed = parse_nokey_name(shown)
    assert parsed is not None
    assert (parsed.major, parsed.minor) == ((major, minor) if major else (0, 0))
    assert parsed.matches(stored)
    assert parsed.stored == (stored if len(stored) <= 149 else None)
    assert not parsed.matches(stored + b"x")
    assert not parsed.matches(stored[:-1] + bytes((stored[-1] ^ 1,)))
    assert not parsed.matches(stored[:149]) or len(stored) <= 149


def urlsafe(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


URLSAFE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
raw_names = st.binary(min_size=9, max_size=200)  # two words of hash and at least one byte; 189 is the long form


@given(raw_names | st.binary(min_size=189, max_size=189))
def test_parts_make_the_text_again(raw: bytes):
    """Any bytes of a size that a no-key name can have, in its alphabet."""
    parsed = parse_nokey_name(urlsafe(raw))
    assert (parsed is not None) == (len(raw) <= 157 or len(raw) == 189)
    if parsed is None:
        return
    words = parsed.major.to_bytes(4, "little") + parsed.minor.to_bytes(4, "little")
    assert words + parsed.prefix + (parsed.rest_sha256 or b"") == raw
    if parsed.stored is not None and len(parsed.stored) >= 16 and parsed.major:
        assert nokey_name(parsed.stored, parsed.major, parsed.minor) == urlsafe(raw)


@given(raw_names, st.integers(0), st.sampled_from([*URLSAFE, *b"+/=. \0"]))
def test_each_text_has_one_meaning(raw: bytes, position: int, byte: int):
    """One character replaced: the text is refused, or means other bytes, which are written so and in no other way."""
    text = bytearray(urlsafe(raw))
    text[position % len(text)] = byte
    parsed = parse_nokey_name(bytes(text))
    if byte not in URLSAFE:
        assert parsed is None
    elif parsed is not None:
        words = parsed.major.to_bytes(4, "little") + parsed.minor.to_bytes(4, "little")
        assert urlsafe(words + parsed.prefix + (parsed.rest_sha256 or b"")) == text


@given(st.binary(max_size=260))
def test_any_bytes_are_parsed_or_refused(text: bytes):
    parsed = parse_nokey_name(text)
    assert parsed is None or not text.translate(None, URLSAFE)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"A",
        b"notes.txt",
        SHOWN + b"=",
        nokey_name(bytes(17), 2, 2)[:-1] + b"B",  # a bit that stands for nothing is set
        SHOWN.replace(b"-", b"+"),
        SHOWN[:11],  # the hashes alone
        b"\xff" * 32,
        b"A" * 253,
        nokey_name(bytes(200), 2, 2)[:-4],  # neither the short form nor the long one
    ],
)
def test_no_such_name(text: bytes):
    assert parse_nokey_name(text) is None


def test_too_short_to_be_encrypted():
    with pytest.raises(CorruptionError, match="15 bytes"):
        nokey_name(bytes(15), 0, 0)


@pytest.mark.parametrize(
    ("length", "padding", "expected"),
    [(1, 4, 16), (16, 4, 16), (17, 4, 20), (17, 32, 32), (33, 32, 64), (250, 32, 255), (253, 4, 255), (255, 4, 255)],
)
def test_encrypted_length(length: int, padding: int, expected: int):
    assert encrypted_length(length, padding) == expected


def test_padded_names():
    assert is_padded_name(b"name\0\0\0\0")
    assert is_padded_name(b"name")
    for raw in (b"", bytes(16), b"na\0me\0", b"na/me"):
        assert not is_padded_name(raw)


def test_symlinks():
    ciphertext = os.urandom(32)
    stored = len(ciphertext).to_bytes(2, "little") + ciphertext
    assert symlink_ciphertext(stored) == ciphertext
    assert symlink_ciphertext(stored + b"\0") == ciphertext
    assert nokey_target(stored) == nokey_name(ciphertext, 0, 0)


@pytest.mark.parametrize("stored", [b"", b"\x20", b"\0\0" + bytes(32), b"\x0f\0" + bytes(15), b"\x21\0" + bytes(32)])
def test_corrupt_symlinks(stored: bytes):
    with pytest.raises(CorruptionError) as caught:
        symlink_ciphertext(stored, 12)
    assert caught.value.place == Place(inode=12, record="fscrypt_symlink_data", field="len")
