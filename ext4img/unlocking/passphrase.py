"""A passphrase as bytes."""

from __future__ import annotations

import re

from ext4img.errors import KeyFormatError

MAX_PASSPHRASE_BYTES = 65536
"""Longer input cannot be a passphrase; it is probably the wrong file."""


def passphrase_bytes(typed: str | bytes) -> bytes:
    """Typed text, or a file's first line, as bytes: up to the first CR or LF, otherwise unchanged.

    Neither Unicode normalisation nor stripping of blanks: fscrypt and e4crypt hash the bytes that the
    terminal sent, even an empty line. Text becomes UTF-8, and surrogate escapes become the bytes that
    they represent. KeyFormatError above MAX_PASSPHRASE_BYTES, for text that cannot be encoded, and for
    other types; its message never shows the passphrase.
    """
    if not isinstance(typed, str | bytes | bytearray | memoryview):
        raise KeyFormatError(f"a passphrase is text or bytes, not {type(typed).__name__}")
    try:
        data = typed.encode("utf-8", "surrogateescape") if isinstance(typed, str) else bytes(typed)
    except UnicodeEncodeError:
        raise KeyFormatError("the passphrase has characters that cannot be encoded") from None
    passphrase = re.split(rb"[\r\n]", data, maxsplit=1)[0]
    if len(passphrase) > MAX_PASSPHRASE_BYTES:
        raise KeyFormatError(f"a passphrase of {len(passphrase)} bytes: at most {MAX_PASSPHRASE_BYTES} are taken")
    return passphrase
