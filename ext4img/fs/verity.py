"""fs-verity: what a file's descriptor says, and whether its contents are those it was made for.

Behind the file's end, at the next multiple of 64 KiB, stands a tree of hashes (root first), then the
descriptor; in an encrypted file both are encrypted with it. Kernel: fs/ext4/verity.c, fs/verity/open.c.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from ext4img.volume.runs import LOST

if TYPE_CHECKING:
    from ext4img.fs.inode import Inode

ALGORITHMS = {FS_VERITY_HASH_ALG_SHA256: "sha256", FS_VERITY_HASH_ALG_SHA512: "sha512"}
_MIN_LOG_BLOCK_SIZE, _MAX_LOG_BLOCK_SIZE = 10, 16
_WINDOW_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Verity:
    """The fs-verity descriptor of a file.

    `digest` is the file's fs-verity digest, as FS_IOC_MEASURE_VERITY and `fsverity measure` give it.
    `algorithm` is hashlib's name; `block_size` that of the tree, in bytes; `signature` the PKCS#7
    blob that the kernel may have been asked to check, which is not checked here.
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
    """Reads descriptor and tree of one file; `beyond` is the file open up to the end of its last block."""

    def __init__(self, inode: Inode, beyond: File, block_size: int) -> None:
        self._inode = inode
        self._beyond = beyond
        self._block_size = block_size
        self._tree_start = _round_up(inode.size, EXT4_VERITY_METADATA_ALIGNMENT)

    def descriptor(self) -> Verity:
        """The descriptor. CorruptionError where it is none, UnsupportedFeatureError for an unknown hash."""
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
        # The digest leaves the signature out, and the field of its size.
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
        # What the hashes of a level are compared with: where they stand in the level above.
        hashes_at: int | None = None
        for start, count in levels:
            self._compare(self._beyond, start, count, state, verity, hashes_at)
            hashes_at = start
        count = -(-verity.data_size // size)
        if count:
            with self._inode.open() as data:
                self._compare(data, 0, count, state, verity, hashes_at)
        elif any(verity.root_hash):
            where = self._place(verity.descriptor_offset, "root_hash")
            raise CorruptionError(f"verity: the root hash of an empty file is not {digest_size} zeros", where)

    def _raw_descriptor(self) -> tuple[int, bytes]:
        """Where the descriptor stands in the file, and its bytes (ext4_get_verity_descriptor_location)."""
        end = self._beyond.size
        size_at = end - EXT4_VERITY_DESCRIPTOR_SIZE.size
        place = self._place(size_at, None)
        if size_at < self._tree_start:
            raise CorruptionError("verity file without a descriptor behind its end", place)
        (size,) = EXT4_VERITY_DESCRIPTOR_SIZE.unpack(self._beyond.pread(size_at, end - size_at), 0, place)
        if not FSVERITY_DESCRIPTOR.size <= size <= FS_VERITY_MAX_DESCRIPTOR_SIZE:
            raise CorruptionError(f"verity descriptor of {size} bytes", place)
        offset = (size_at - size) // self._block_size * self._block_size
        if offset < self._tree_start:
            raise CorruptionError(f"verity descriptor of {size} bytes begins within the file", place)
        return offset, self._beyond.pread(offset, size)

    def _levels(self, verity: Verity) -> list[tuple[int, int]]:
        """(byte offset in the file, blocks) of each level of the tree, the root's first, as they stand."""
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
        """Hash `count` blocks of `file` from byte `start` on; compare with the level above, or the root."""
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
                what = "the contents" if offset < verity.data_size else "the verity tree"
                reason = f"{what} from byte {offset} of the file on do not have their verity hash"
                raise CorruptionError(reason, self._place(offset, None))

    def _place(self, offset: int, field: str | None) -> Place:
        """Where byte `offset` of the file stands on the image."""
        lblk, within = divmod(offset, self._block_size)
        record = FSVERITY_DESCRIPTOR.name if field else None
        for run in self._inode.runs():
            if run.lblk <= lblk < run.end and run.pblk:
                pblk = run.pblk + lblk - run.lblk
                return Place(self._inode.number, pblk, pblk * self._block_size + within, record, field)
        return Place(inode=self._inode.number, record=record, field=field)


def mapped_end(inode: Inode, block_size: int) -> int:
    """Byte offset at which the last mapped block of a verity file ends. CorruptionError without any."""
    place = Place(inode=inode.number)
    if not inode.is_file:
        raise NotRegularFileError.at(f"inode {inode.number}")
    if not inode.flags & EXT4_EXTENTS_FL or inode.has_inline_data:
        raise CorruptionError("verity file without extents", place)
    runs = inode.runs()
    if not runs or runs[-1].state == LOST:
        raise CorruptionError("verity file without blocks behind its end", place)
    return runs[-1].end * block_size


def _salted(verity: Verity) -> Any:
    """The hash's state after the salt, which is padded to whole blocks of the hash."""
    state = hashlib.new(verity.algorithm)
    if verity.salt:
        state.update(verity.salt.ljust(_round_up(len(verity.salt), state.block_size), b"\0"))
    return state


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
