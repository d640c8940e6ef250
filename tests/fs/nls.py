"""The kernel's case folding as e2fsprogs has it: libext2fs carries a copy of fs/unicode, tables and cursor."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

UTF8_12_1 = 1
_VERSION = 12 << 16 | 1 << 8
_MOST_BYTES = 4096


def kernel_casefold() -> tuple[Callable[[bytes], bytes | None], Callable[[bytes], bool]] | None:
    """(fold, is_valid) of libext2fs; None where the library, or its way of 1.47, is not there.

    lib/ext2fs/ext2fsP.h: struct ext2fs_nls_table is a version and a pointer to operations, of which the
    first is casefold(table, str, len, dest, dlen) and the second validate(table, str, len, &pos).
    """
    if sys.maxsize < 2**32:
        return None
    try:
        library = ctypes.CDLL("libext2fs.so.2")
        load = library.ext2fs_load_nls_table
    except (OSError, AttributeError):
        return None
    load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_int]
    table = load(UTF8_12_1)
    if not table or ctypes.c_uint32.from_address(table).value != _VERSION:
        return None
    operations = ctypes.c_uint64.from_address(table + 8).value
    fold_type = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t
    )
    validate_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p)
    casefold = fold_type(ctypes.c_uint64.from_address(operations).value)
    validate = validate_type(ctypes.c_uint64.from_address(operations + 8).value)
    folded = ctypes.create_string_buffer(_MOST_BYTES)
    position = ctypes.c_void_p()

    def fold(name: bytes) -> bytes | None:
        length = casefold(table, name, len(name), folded, _MOST_BYTES)
        return None if length < 0 else folded.raw[:length]

    def is_valid(name: bytes) -> bool:
        return bool(validate(table, name, len(name), ctypes.byref(position)) == 0)

    return fold, is_valid
