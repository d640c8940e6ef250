"""How case-insensitive directories compare names (kernel: fs/unicode, utf8_casefold).

The kernel decomposes canonically and folds case by Unicode 12.1, and drops default-ignorable code
points. A name that is not UTF-8 compares by its bytes.
"""

from __future__ import annotations

import unicodedata

# Default_Ignorable_Code_Point of Unicode 12.1 (DerivedCoreProperties.txt).
_IGNORABLE = frozenset(
    code
    for first, last in (
        (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180E),
        (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F),
        (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A),
        (0xE0000, 0xE0FFF),
    )
    for code in range(first, last + 1)
)  # fmt: skip


def fold(name: bytes) -> bytes:
    """The form in which two names of a case-insensitive directory are equal."""
    if name.isascii():
        return name.lower()
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return name
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
    return "".join(char for char in folded if ord(char) not in _IGNORABLE).encode("utf-8", "surrogatepass")
