"""How case-insensitive directories compare names (kernel: fs/unicode, utf8_casefold).

The kernel replaces each code point by its full case folding, decomposed canonically, sorts combining
marks, and drops default ignorable code points, all by Unicode 12.1, the only encoding that ext4 knows.
Code points that were assigned later are not folded, and no mark moves across them. A name that is not
UTF-8 is compared by its bytes. Agrees with e2fsprogs' copy of the kernel's tables for all code points.
"""

from __future__ import annotations

import unicodedata
from itertools import groupby

from ext4img.names.unicode_12_1 import is_assigned

# Default_Ignorable_Code_Point of Unicode 12.1 (DerivedCoreProperties.txt).
_IGNORABLE = dict.fromkeys(
    code
    for first, last in (
        (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180E),
        (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F),
        (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A),
        (0xE0000, 0xE0FFF),
    )
    for code in range(first, last + 1)
)  # fmt: skip
_MAX_FOLDINGS = 1 << 14


class _Foldings(dict[int, str]):
    """The folding of each code point, computed when first needed; for str.translate.

    `newer_than_12_1` collects the characters that Python's data folds or sorts, but Unicode 12.1 did
    not assign.
    """

    def __init__(self) -> None:
        super().__init__()
        self.newer_than_12_1: set[str] = set()

    def __missing__(self, code: int) -> str:
        char = chr(code)
        folded = char
        while code not in _IGNORABLE:  # they are dropped last: until then no mark moves across them
            again = unicodedata.normalize("NFD", folded.casefold())
            if again == folded:
                break
            folded = again
        if (folded != char or unicodedata.combining(char)) and not is_assigned(code):
            self.newer_than_12_1.add(char)
            folded = char
        if len(self) >= _MAX_FOLDINGS:
            self.clear()
        self[code] = folded
        return folded


_foldings = _Foldings()


def fold(name: bytes) -> bytes:
    """The form in which two names of a case-insensitive directory are equal."""
    if name.isascii():
        return name.lower()
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return _fold_stray(name)
    text = text.translate(_foldings)
    newer_than_12_1 = _foldings.newer_than_12_1
    if newer_than_12_1 and not newer_than_12_1.isdisjoint(text):
        pieces = (("".join(chars), alone) for alone, chars in groupby(text, newer_than_12_1.__contains__))
        text = "".join(piece if alone else unicodedata.normalize("NFD", piece) for piece, alone in pieces)
    else:
        text = unicodedata.normalize("NFD", text)
    return text.translate(_IGNORABLE).encode("utf-8")


def _fold_stray(name: bytes) -> bytes:
    r"""The fold of a name that is not UTF-8: its bytes, unless its only fault is surplus continuation bytes (80 to BF).

    The kernel's cursor takes such a byte as part of the character before it, so that "don\x92t", in
    Windows' code page, folds its letters. Among combining marks these bytes are repeated: the cursor
    sorts the marks in one pass for each class, and one before, and emits the bytes in every pass.
    """
    text = name.decode("utf-8", "surrogateescape")
    if _is_stray(text[0]) or any("\udcc0" <= char <= "\udcff" for char in text):
        return name
    folded: list[str] = []
    # Characters that keep their place, and between them runs of marks to sort.
    for is_run, chars in groupby("".join(map(_stray_or_folding, text)), _is_stray_or_mark):
        if not is_run:
            folded.extend(chars)
            continue
        run = list(chars)
        first_mark = next((at for at, char in enumerate(run) if not _is_stray(char)), len(run))
        folded += run[:first_mark]
        del run[:first_mark]
        classes = sorted({_combining(char) for char in run if not _is_stray(char)})
        for wanted in (-1, *classes) if classes else ():
            folded += [char for char in run if _is_stray(char) or _combining(char) == wanted]
    return "".join(folded).translate(_IGNORABLE).encode("utf-8", "surrogateescape")


def _is_stray(char: str) -> bool:
    return "\udc80" <= char <= "\udcbf"


def _stray_or_folding(char: str) -> str:
    return char if _is_stray(char) else _foldings[ord(char)]


def _combining(char: str) -> int:
    return 0 if char in _foldings.newer_than_12_1 else unicodedata.combining(char)


def _is_stray_or_mark(char: str) -> bool:
    return _is_stray(char) or _combining(char) != 0


def is_valid(name: bytes) -> bool:
    """Whether strict mode accepts a name: any UTF-8, assigned code points or not (kernel: utf8_validate)."""
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
