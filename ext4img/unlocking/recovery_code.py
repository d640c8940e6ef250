"""Recovery codes: a 64-byte policy key as base32 text.

fscrypt's library writes them (crypto/key.go): RFC 4648 base32 with its padding, in groups of 8
joined by "-", 116 characters in all. Not to be confused with a recovery *passphrase*, which is the
passphrase of an ordinary protector.
"""

from __future__ import annotations

import base64
import binascii

from ext4img.errors import KeyFormatError

POLICY_KEY_BYTES = 64
"""Size of the key in a recovery code; all policy keys of fscrypt have it."""

RECOVERY_CODE_CHARACTERS = 116
"""Length of a code as written: 104 base32 characters in 13 groups, and 12 dashes."""

_GROUP = 8
_BASE32_CHARACTERS = 104
_MAX_CHARACTERS = 1024


def format_recovery_code(key: bytes) -> str:
    """The recovery code of a 64-byte policy key. KeyFormatError for another length."""
    if len(key) != POLICY_KEY_BYTES:
        raise KeyFormatError(f"a recovery code holds a key of {POLICY_KEY_BYTES} bytes, not {len(key)}")
    text = base64.b32encode(key).decode("ascii")
    return "-".join(text[start : start + _GROUP] for start in range(0, len(text), _GROUP))


def parse_recovery_code(code: str | bytes) -> bytes:
    """The 64-byte policy key of a recovery code.

    Dashes and white space are ignored, letters may be lower-case, and the final "=" may be missing.
    Anything else raises KeyFormatError, which never shows the characters.
    """
    text = code.encode("utf-8", "replace") if isinstance(code, str) else bytes(code)
    if len(text) > _MAX_CHARACTERS:
        raise KeyFormatError(f"not a recovery code: {len(text)} characters, not {RECOVERY_CODE_CHARACTERS}")
    text = text.translate(None, b"- \t\r\n").upper()
    unpadded = text.rstrip(b"=")
    if len(unpadded) != _BASE32_CHARACTERS - 1 or len(text) > _BASE32_CHARACTERS:
        raise KeyFormatError(
            f"not a recovery code: {len(unpadded)} characters besides dashes and padding, not {_BASE32_CHARACTERS - 1}"
        )
    try:
        key = base64.b32decode(unpadded + b"=")
    except binascii.Error:
        raise KeyFormatError("not a recovery code: it has characters outside A-Z and 2-7") from None
    # 103 characters carry 515 bits. The last three are zero in a valid code, which reveals some mistakes.
    if base64.b32encode(key) != unpadded + b"=":
        raise KeyFormatError("not a recovery code: its last character cannot end one")
    return key
