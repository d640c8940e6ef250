"""Keys and passphrases as users hand them over."""

from __future__ import annotations

import subprocess
import sys
import traceback

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ext4img.errors import Ext4Error, KeyFormatError
from ext4img.unlocking import Secrets, e4crypt
from ext4img.unlocking.keyfile import parse_key
from ext4img.unlocking.passphrase import MAX_PASSPHRASE_BYTES, passphrase_bytes
from ext4img.unlocking.recovery_code import format_recovery_code, parse_recovery_code

KEY = bytes(range(64))
KEYS = st.binary(min_size=16, max_size=64)


@given(KEYS)
def test_hexadecimal_of_any_key(key):
    text = key.hex().encode()
    wrapped = b"\n".join(text[start : start + 60] for start in range(0, len(text), 60))  # as `xxd -p` prints it
    marked = b"\xef\xbb\xbf" + text + b"\r\n"  # as editors on Windows save it
    forms = (text + b"\n", text + b"\r\n", text.upper(), b"0x" + text + b"\n", b"0X" + text, wrapped + b"\n", marked)
    for form in (text, *forms):
        assert parse_key(form) == key
        assert parse_key(form, "hex") == key


@given(KEYS)
def test_raw_keys_as_they_are(key):
    assert parse_key(key, "raw") == key


@pytest.mark.parametrize("key", [KEY[:16], KEY[:32], KEY[:33], KEY, b"\n" * 16 + b"\xff", b"passphrase-like-bytes\n"])
def test_raw_keys_are_recognised(key):
    assert parse_key(key) == key


@given(st.binary(min_size=64, max_size=64))
def test_recovery_codes_of_any_key(key):
    code = format_recovery_code(key)
    assert len(code) == 116
    for form in (code, code.lower(), code + "\n", code.replace("-", ""), code.rstrip("="), code.replace("-", " ")):
        assert parse_recovery_code(form) == key
        assert parse_key(form.encode()) == key
        assert parse_key(form.encode(), "recovery") == key
        assert parse_key(form.encode("utf-8-sig")) == key


def test_digits_are_never_taken_for_a_raw_key():
    """The ambiguity: 32 to 64 bytes of digits could be a raw key too, and hardly ever are."""
    digits = b"0123456789abcdef"
    assert parse_key(digits * 2) == bytes.fromhex("0123456789abcdef" * 2)
    assert parse_key(digits * 4) == bytes.fromhex("0123456789abcdef" * 4)
    assert parse_key(digits * 2, "raw") == digits * 2
    assert parse_key(digits * 4, "raw") == digits * 4
    # A raw key, were it not for its looks; but the likelier story is a digit lost in copying.
    for data in (digits, digits * 2 + b"0", digits * 3 + b"\n0"):
        with pytest.raises(KeyFormatError, match="hexadecimal"):
            parse_key(data)
        assert parse_key(data, "raw") == data


@pytest.mark.parametrize(
    ("data", "key_format", "reason"),
    [
        (b"", "auto", "empty"),
        (b"\n", "auto", "empty"),
        (b"0x\n", "auto", "0 digits"),
        (b"\xff" * 15, "auto", "15 bytes, not 16 to 64"),
        (b"\xff" * 65, "auto", "65 bytes are neither"),
        (b"\xff" * 5000, "auto", "5000 bytes, more than"),
        (b"a" * 130, "auto", "130 digits"),
        (b"\xff" * 15, "raw", "15 bytes"),
        (b"\xff" * 65, "raw", "65 bytes"),
        (b"g" * 32, "hex", "32 of 32 characters"),
        (b"a" * 30, "hex", "30 digits"),
        (b"a" * 33, "hex", "33 digits"),
        (b"A" * 103, "recovery", None),
        (b"A" * 102, "recovery", "102 characters"),
        (b"A" * 103 + b"==", "recovery", "characters"),
        (b"1" * 103, "recovery", "outside A-Z and 2-7"),
        (b"A" * 102 + b"B", "recovery", "last character"),
        (b"=" * 103, "recovery", "0 characters"),
        (b"x" * 16, "der", "one of auto"),
    ],
)
def test_what_is_not_a_key(data, key_format, reason):
    if reason is None:
        assert parse_key(data, key_format) == bytes(64)
        return
    with pytest.raises(KeyFormatError, match=reason):
        parse_key(data, key_format)


@pytest.mark.parametrize("slip", [5, 2.5, ["words"], object()])
def test_what_is_neither_text_nor_bytes(slip):
    with pytest.raises(KeyFormatError, match="is text or bytes, not"):
        passphrase_bytes(slip)
    with pytest.raises(KeyFormatError, match="is bytes, not"):
        Secrets(raw_keys=(slip,))


@given(st.binary(max_size=200), st.sampled_from(["auto", "raw", "hex", "recovery"]))
@example(bytes(32), "raw")  # random bytes are seldom a key
def test_any_file(data, key_format):
    try:
        key = parse_key(data, key_format)
    except KeyFormatError:
        return
    assert 16 <= len(key) <= 64


@pytest.mark.parametrize(
    ("call", "secret"),
    [
        (lambda: parse_key(b"SECRETSECRET" + b"\xff" * 60), "SECRET"),
        (lambda: parse_key(b"0xdeadbeefSECRET" * 3, "hex"), "SECRET"),
        (lambda: parse_key(b"SECRET1" * 15, "recovery"), "SECRET"),
        (lambda: passphrase_bytes("SECRET\ud800"), "SECRET"),
        (lambda: e4crypt.parse_salt("SECRET"), "SECRET"),
    ],
)
def test_errors_never_show_what_was_given(call, secret):
    with pytest.raises(KeyFormatError) as caught:
        call()
    assert secret not in "".join(traceback.format_exception_only(caught.value)).upper()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("typed", "passphrase"),
    [
        ("hunter2\n", b"hunter2"),
        ("hunter2\r\n", b"hunter2"),
        (b"one\rtwo\n", b"one"),
        ("  blanks stay \n", b"  blanks stay "),
        ("Straße\nsecond line", "Straße".encode()),
        ("a\u0308", b"a\xcc\x88"),  # no normalisation: fscrypt hashes what was typed
        ("\u2028\x85\x0b", "\u2028\x85\x0b".encode()),  # line ends to Unicode, not to fscrypt
        ("\udcff\udcfe", b"\xff\xfe"),
        ("", b""),
        ("\n", b""),
    ],
)
def test_passphrases(typed, passphrase):
    assert passphrase_bytes(typed) == passphrase


def test_passphrase_too_long():
    with pytest.raises(KeyFormatError, match="65537 bytes"):
        passphrase_bytes(b"x" * (MAX_PASSPHRASE_BYTES + 1))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a salt is"),
        ("saltsalt", "a salt is"),
        ("0xabc", "even number"),
        ("0xzz", "even number"),
        ("0x" + "00" * 257, "257 bytes"),
        ("s:" + "x" * 256, "256 bytes"),
        ("s:" + "é" * 128, "256 bytes"),
        ("/home", "a path"),
        ("f:home", "a path"),
        ("692536e4-90df-4429-a01c-7e1745a1977", "a salt is"),
        ("692536e4-90df-4429-a01c-7e1745a1977e\n", "a salt is"),
    ],
)
def test_salts_that_are_none(text, reason):
    with pytest.raises(KeyFormatError, match=reason):
        e4crypt.parse_salt(text)
    with pytest.raises(Ext4Error):
        e4crypt.derive_key(b"x", bytes(257))


def test_importing_unlock_is_light():
    heavy = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, ext4img.unlocking, ext4img.unlocking.e4crypt, ext4img.unlocking.homed\n"
            "print([name for name in ('cryptography', 'numpy', 'rich') if name in sys.modules])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert heavy.stdout.strip() == "[]"
