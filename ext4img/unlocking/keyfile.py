"""Master keys in the forms that users have: raw bytes, hexadecimal digits, or a recovery code."""

from __future__ import annotations

from typing import Literal

from ext4img.errors import KeyFormatError
from ext4img.unlocking.recovery_code import parse_recovery_code

MIN_KEY_BYTES = 16
"""Size of the shortest master key of any mode (FSCRYPT_MIN_KEY_SIZE in fs/crypto)."""

MAX_KEY_BYTES = 64
"""Size of the longest master key (FSCRYPT_MAX_KEY_SIZE in include/uapi/linux/fscrypt.h)."""

KeyFormat = Literal["auto", "raw", "hex", "recovery"]

_HEX_DIGITS = b"0123456789abcdefABCDEF"
_WHITE_SPACE = b" \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # of UTF-8; some editors put it before text
_MAX_FILE_BYTES = 4096


def parse_key(data: bytes, key_format: KeyFormat = "auto") -> bytes:
    """The master key in the file contents `data`: 16 to 64 bytes.

    - "raw": the bytes as they are, including a final newline, as fscryptctl reads them.
    - "hex": 32 to 128 digits, of either case, after an optional "0x". White space and a byte order
      mark are ignored, so the lines of `xxd -p` are one key.
    - "recovery": a recovery code of fscrypt, see `parse_recovery_code`.
    - "auto": hexadecimal if all characters are hexadecimal digits (besides "0x" and white space), even
      if a raw key could be as long: 64 such bytes are a key of 32 bytes, and 33 such digits are a
      mistake, not a raw key. A random raw key looks like that once in 2^52 at 16 bytes and once in
      2^105 at 32; for such a key say "raw". Otherwise raw if it has 16 to 64 bytes, or else a
      recovery code.

    KeyFormatError names the wrong length or character count, and never shows the key.
    """
    data = bytes(data)
    if len(data) > _MAX_FILE_BYTES:
        raise KeyFormatError(f"not a key: {len(data)} bytes, more than any form of key has")
    if key_format == "recovery":
        return parse_recovery_code(data.removeprefix(_BYTE_ORDER_MARK))
    if key_format == "hex":
        return _parse_hex(data)
    if key_format == "raw":
        return _parse_raw(data)
    if key_format != "auto":
        raise KeyFormatError("a key's format is one of auto, raw, hex, recovery")
    if not data.translate(None, _WHITE_SPACE):
        raise KeyFormatError("not a key: it is empty")
    if not _hex_digits(data).translate(None, _HEX_DIGITS):
        return _parse_hex(data)
    if len(data) <= MAX_KEY_BYTES:
        return _parse_raw(data)
    try:
        return parse_recovery_code(data.removeprefix(_BYTE_ORDER_MARK))
    except KeyFormatError:
        raise KeyFormatError(
            f"not a key: {len(data)} bytes are neither a raw key ({MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes), "
            f"nor hexadecimal digits alone, nor a recovery code"
        ) from None


def _hex_digits(data: bytes) -> bytes:
    digits = data.removeprefix(_BYTE_ORDER_MARK).translate(None, _WHITE_SPACE)
    return digits.removeprefix(b"0x").removeprefix(b"0X")


def _parse_hex(data: bytes) -> bytes:
    digits = _hex_digits(data)
    strange = len(digits.translate(None, _HEX_DIGITS))
    if strange:
        raise KeyFormatError(f"not a key in hexadecimal: {strange} of {len(digits)} characters are not digits")
    if len(digits) % 2 or not 2 * MIN_KEY_BYTES <= len(digits) <= 2 * MAX_KEY_BYTES:
        raise KeyFormatError(
            f"not a key in hexadecimal: {len(digits)} digits, "
            f"not an even number from {2 * MIN_KEY_BYTES} to {2 * MAX_KEY_BYTES}"
        )
    return bytes.fromhex(digits.decode("ascii"))


def _parse_raw(data: bytes) -> bytes:
    if not MIN_KEY_BYTES <= len(data) <= MAX_KEY_BYTES:
        raise KeyFormatError(f"not a raw key: {len(data)} bytes, not {MIN_KEY_BYTES} to {MAX_KEY_BYTES}")
    return data
