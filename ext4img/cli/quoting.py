r"""Names for terminals and for people: a name on an image must not control a terminal.

The format is that of GNU ls (--quoting-style=shell-escape): a name without special characters is
left unchanged, others are quoted so that a shell returns the same bytes, and unprintable
characters and invalid UTF-8 are escaped: 'a b', "it's", 'line'$'\n''break'.
"""

from __future__ import annotations

import re
import unicodedata

# Special in a shell; "#" and "~" only in front, "{" and "}" only alone.
_SPECIAL = re.compile(r"""[ !"$&'()*;<=>?\[\\^`|]|^[#~]|^[{}]$""")
_IN_DOUBLE_QUOTES = re.compile(r"""[!"$\\`]""")
_NAMED = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r"}


def as_text(name: bytes | str) -> str:
    """A name as a str: UTF-8, with invalid bytes as surrogates."""
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name


def quote(name: bytes | str) -> str:
    """The name as GNU ls shows it on a terminal; plain names are unchanged."""
    text = as_text(name)
    if text.isprintable():
        if text and not _SPECIAL.search(text):
            return text
        if "'" in text and not _IN_DOUBLE_QUOTES.search(text):
            return f'"{text}"'
        return "'" + text.replace("'", "'\\''") + "'"
    parts = ["'"]
    escaping = False
    for char in text:
        if not char.isprintable():
            if not escaping:
                parts.append("'$'")
            parts.append(_NAMED.get(ord(char)) or "".join(f"\\{byte:03o}" for byte in _encoded(char)))
            escaping = True
            continue
        if char == "'":
            parts.append("'\\''")
        else:
            parts.append(f"''{char}" if escaping else char)
        escaping = False
    parts.append("'")
    return "".join(parts)


def _encoded(char: str) -> bytes:
    return char.encode("utf-8", "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass")


def harmless(text: str) -> str:
    r"""Text for a message: unprintable characters, line ends too, become \xNN or \uNNNN."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # an invalid byte
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def columns_of(text: str) -> int:
    """The number of terminal columns that the text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) != 0 for char in text)
