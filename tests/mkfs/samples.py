"""Small trees for tests that need a certain node rather than a random one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ext4img.mkfs import ENCRYPTION_CONTEXT, Node, Options, Plan, plan, write

DIRECTORY = 0o040755
FILE = 0o100644
SYMLINK = 0o120777
CREATED_S = 1_700_000_000
ENCRYPT_FL = 0x00000800
CASEFOLD_FL = 0x40000000
VERITY_FL = 0x00100000
INDEX_FL = 0x00001000
INLINE_DATA_FL = 0x10000000
ROOT = Node((), DIRECTORY)


class Repeated:
    """Contents that repeat a few bytes for ever."""

    def __init__(self, pattern: bytes = b"0123456789abcdef") -> None:
        self._pattern = pattern

    def read_at(self, offset: int, length: int) -> bytes:
        start = offset % len(self._pattern)
        return (self._pattern * (length // len(self._pattern) + 2))[start : start + length]


def build(path: Path, nodes: Iterable[Node], options: Options | None = None, **kept: object) -> Plan:
    """Plan and write, all contents being `Repeated`."""
    made = plan(nodes, options or Options(created_s=CREATED_S), **kept)  # type: ignore[arg-type]
    write(made, lambda _: Repeated(), path)
    return made


def context(flags: int = 0x02, nonce: object = 0, key: int = 7) -> bytes:
    """A version 2 encryption context of AES-256-XTS and AES-256-CTS."""
    return bytes([2, 1, 4, flags, 0, 0, 0, 0]) + bytes([key]) * 16 + hashlib.md5(repr(nonce).encode()).digest()


def encrypted_directory(path: tuple[bytes, ...], flags: int = ENCRYPT_FL, **kept: object) -> Node:
    """A directory with a context of its own."""
    return Node(path, DIRECTORY, flags=flags, xattrs={ENCRYPTION_CONTEXT: context(nonce=path)}, **kept)  # type: ignore[arg-type]


def encrypted_file(path: tuple[bytes, ...], size: int = 0, **kept: object) -> Node:
    """A file with a context of its own."""
    return Node(path, FILE, size=size, flags=ENCRYPT_FL, xattrs={ENCRYPTION_CONTEXT: context(nonce=path)}, **kept)  # type: ignore[arg-type]
