"""fs-verity: a file's descriptor, and whether its contents match it.

After the file's end, at the next multiple of 64 KiB, is a tree of hashes (root first), then the
descriptor; in an encrypted file both are encrypted with it. Kernel: fs/ext4/verity.c, fs/verity/open.c.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ext4img.errors import CorruptionError, NotRegularFileError, Place, UnsupportedFeatureError
from ext4img.fs.file import File
from ext4img.structs.inode import EXT4_EXTENTS_FL
from ext4img.structs.verity import (
    EXT4_VERITY_DESCRIPTOR_SIZE,
    EXT4_VERITY_METADATA_ALIGNMENT,
    FS_VERITY_HASH_ALG_SHA256,
    FS_VERITY_HASH_ALG_SHA512,
    FS_VERITY_MAX_DESCRIPTOR_SIZE,
    FS_VERITY_MAX_LEVELS,
    FSVERITY_DESCRIPTOR,
)
from ext4img.volume.inode import StoredInode
from ext4img.volume.runs import LOST, Runs

ALGORITHMS = {FS_VERITY_HASH_ALG_SHA256: "sha256", FS_VERITY_HASH_ALG_SHA512: "sha512"}
_MIN_LOG_BLOCK_SIZE, _MAX_LOG_BLOCK_SIZE = 10, 16
_WINDOW_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Verity:
    """The fs-verity descriptor of a file.

    `digest` is the file's fs-verity digest, as FS_IOC_MEASURE_VERITY and `fsverity measure` give it.
    `algorithm` is hashlib's name, `block_size` that of the tree in bytes. `signature` is the PKCS#7
    blob that a kernel can be configured to check; it is not checked here.
    """

    algorithm: str
    block_size: int
    salt: bytes
    data_size: int
    root_hash: bytes
    digest: bytes
    signature: bytes
    descriptor_offset: int
    """Byte offset of the descriptor in the file, past its end."""


class VerityReader:
    """Reads descriptor and tree of one file.

    `open_data` opens its contents; `beyond` is the file opened up to the end of its last block.
    """

    def __init__(
        self, inode: StoredInode, runs: Runs, open_data: Callable[[], File], beyond: File, block_size: int
    ) -> None:
        self._inode = inode
        self._runs = runs
        self._open_data = open_data
        self._beyond = beyond
        self._block_size = block_size
        self._tree_start = _round_up(inode.size, EXT4_VERITY_METADATA_ALIGNMENT)

    def descriptor(self) -> Verity:
        """The descriptor. CorruptionError if it is invalid, UnsupportedFeatureError for an unknown hash."""
        offset, raw = self._raw_descriptor()
        record = FSVERITY_DESCRIPTOR.unpack(raw, 0, self._place(offset, "data_size"))
        room = len(raw) - FSVERITY_DESCRIPTOR.size
        for field, wrong in (
            ("version", record.version != 1),
            ("reserved", any(record.reserved)),
            ("salt_size", record.salt_size > len(record.salt)),
            ("data_size", record.data_size != self._inode.size),
            ("sig_size", record.sig_size > room),
            ("log_blocksize", not _MIN_LOG_BLOCK_SIZE <= record.log_blocksize <= _MAX_LOG_BLOCK_SIZE),
        ):
            if wrong:
                raise CorruptionError(f"verity descriptor: impossible {field}", self._place(offset, field))
        algorithm = ALGORITHMS.get(record.hash_algorithm)
        if algorithm is None:
            name = f"fs-verity hash algorithm {record.hash_algorithm}"
            raise UnsupportedFeatureError(f"{name} of inode {self._inode.number} is not known", (name,))
        # The digest covers neither the signature nor the field with its size.
        digest = hashlib.new(algorithm, FSVERITY_DESCRIPTOR.pack(tuple(record._replace(sig_size=0)))).digest()
        return Verity(
            algorithm=algorithm,
            block_size=1 << record.log_blocksize,
            salt=record.salt[: record.salt_size],
            data_size=record.data_size,
            root_hash=record.root_hash[: len(digest)],
            digest=digest,
            signature=raw[FSVERITY_DESCRIPTOR.size :][: record.sig_size],
            descriptor_offset=offset,
        )

    def verify(self, verity: Verity) -> None:
        """Check the tree from its root down, then the contents; CorruptionError says where they differ."""
        size, digest_size = verity.block_size, len(verity.digest)
        levels = self._levels(verity)
        state = _salted(verity)
        # Where the expected hashes of a level are in the level above.
        hashes_at: int | None = None
        for start, count in levels:
            self._compare(self._beyond, start, count, state, verity, hashes_at)
            hashes_at = start
        count = -(-verity.data_size // size)
        if count:
            with self._open_data() as data:
                self._compare(data, 0, count, state, verity, hashes_at)
        elif any(verity.root_hash):
            where = self._place(verity.descriptor_offset, "root_hash")
            raise CorruptionError(f"verity: the root hash of an empty file is not {digest_size} zeros", where)

    def _raw_descriptor(self) -> tuple[int, bytes]:
        """Byte offset of the descriptor in the file, and its bytes (ext4_get_verity_descriptor_location)."""
        end = self._beyond.size
        size_at = end - EXT4_VERITY_DESCRIPTOR_SIZE.size
        place = self._place(size_at, None)
        if size_at < self._tree_start:
            raise CorruptionError("verity file without a descriptor after its end", place)
        (size,) = EXT4_VERITY_DESCRIPTOR_SIZE.unpack(self._beyond.pread(size_at, end - size_at), 0, place)
        if not FSVERITY_DESCRIPTOR.size <= size <= FS_VERITY_MAX_DESCRIPTOR_SIZE:
            raise CorruptionError(f"verity descriptor of {size} bytes", place)
        offset = (size_at - size) // self._block_size * self._block_size
        if offset < self._tree_start:
            raise CorruptionError(f"verity descriptor of {size} bytes begins within the file", place)
        return offset, self._beyond.pread(offset, size)

    def _levels(self, verity: Verity) -> list[tuple[int, int]]:
        """(byte offset in the file, blocks) of each level of the tree, the root's first, in the order on disk."""
        per_block = verity.block_size // len(verity.digest)
        counts: list[int] = []
        blocks = -(-verity.data_size // verity.block_size)
        while blocks > 1:
            blocks = -(-blocks // per_block)
            counts.append(blocks)
        place = self._place(verity.descriptor_offset, "data_size")
        if len(counts) > FS_VERITY_MAX_LEVELS:
            raise CorruptionError(f"verity tree of {len(counts)} levels", place)
        end = self._tree_start + sum(counts) * verity.block_size
        if end > verity.descriptor_offset:
            raise CorruptionError("verity tree runs into its descriptor", place)
        levels: list[tuple[int, int]] = []
        offset = self._tree_start
        for count in reversed(counts):
            levels.append((offset, count))
            offset += count * verity.block_size
        return levels

    def _compare(self, file: File, start: int, count: int, state: Any, verity: Verity, hashes_at: int | None) -> None:
        """Hash `count` blocks of `file` from byte `start`; compare with the level above, or with the root hash."""
        size, digest_size = verity.block_size, len(verity.digest)
        step = max(_WINDOW_BYTES // size, 1)
        for first in range(0, count, step):
            number = min(step, count - first)
            data = memoryview(file.pread(start + first * size, number * size).ljust(number * size, b"\0"))
            hashes = bytearray()
            for at in range(0, len(data), size):
                hasher = state.copy()
                hasher.update(data[at : at + size])
                hashes += hasher.digest()
            if hashes_at is None:
                expected = verity.root_hash
            else:
                expected = self._beyond.pread(hashes_at + first * digest_size, number * digest_size)
            if hashes != expected:
                block = next(
                    i
                    for i in range(number)
                    if hashes[i * digest_size :][:digest_size] != expected[i * digest_size :][:digest_size]
                )
                offset = start + (first + block) * size
                what = "contents" if offset < verity.data_size else "tree nodes"
                reason = f"verity: {what} at byte {offset} of the file differ from their hash"
                raise CorruptionError(reason, self._place(offset, None))

    def _place(self, offset: int, field: str | None) -> Place:
        """Where byte `offset` of the file is on the image."""
        lblk, within = divmod(offset, self._block_size)
        record = FSVERITY_DESCRIPTOR.name if field else None
        for run in self._runs:
            if run.lblk <= lblk < run.end and run.pblk:
                pblk = run.pblk + lblk - run.lblk
                return Place(self._inode.number, pblk, pblk * self._block_size + within, record, field)
        return Place(inode=self._inode.number, record=record, field=field)


def mapped_end(inode: StoredInode, runs: Runs, block_size: int) -> int:
    """Byte offset at which the last mapped block of a verity file ends. CorruptionError if it has none."""
    place = Place(inode=inode.number)
    if not inode.is_file:
        raise NotRegularFileError.at(f"inode {inode.number}")
    if not inode.flags & EXT4_EXTENTS_FL or inode.has_inline_data:
        raise CorruptionError("verity file without extents", place)
    if not runs or runs[-1].state == LOST:
        raise CorruptionError("verity file without blocks after its end", place)
    return runs[-1].end * block_size


def _salted(verity: Verity) -> Any:
    """The hash's state after the salt, which is padded to whole blocks of the hash."""
    state = hashlib.new(verity.algorithm)
    if verity.salt:
        state.update(verity.salt.ljust(_round_up(len(verity.salt), state.block_size), b"\0"))
    return state


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
