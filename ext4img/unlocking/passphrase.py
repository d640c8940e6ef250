"""A passphrase as bytes."""

from __future__ import annotations

import re

from ext4img.errors import KeyFormatError

MAX_PASSPHRASE_BYTES = 65536
"""Longer input is some other file, not a passphrase."""


def passphrase_bytes(typed: str | bytes) -> bytes:
    """What was typed, or read from a file, up to the first CR or LF; nothing else is changed.

    No Unicode normalisation and no stripping of blanks: fscrypt and e4crypt hash the bytes that the
    terminal sent, an empty line included. Text becomes UTF-8, with surrogate escapes back to the
    bytes they stand for. KeyFormatError above MAX_PASSPHRASE_BYTES, or where text is not encodable;
    it never shows the passphrase. Also for what is neither text nor bytes.
    """
    if not isinstance(typed, str | bytes | bytearray | memoryview):
        raise KeyFormatError(f"a passphrase is text or bytes, not {type(typed).__name__}")
    try:
        data = typed.encode("utf-8", "surrogateescape") if isinstance(typed, str) else bytes(typed)
    except UnicodeEncodeError:
        raise KeyFormatError("the passphrase has characters that are no text") from None
    passphrase = re.split(rb"[\r\n]", data, maxsplit=1)[0]
    if len(passphrase) > MAX_PASSPHRASE_BYTES:
        raise KeyFormatError(f"a passphrase of {len(passphrase)} bytes: at most {MAX_PASSPHRASE_BYTES} are taken")
    return passphrase
