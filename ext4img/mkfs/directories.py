"""The layout of directories: which entries go into which block, with or without a hash tree.

Inode numbers are not known yet; `directory_blocks` makes the bytes. Kernel: fs/ext4/namei.c. As
there, a directory that outgrows one block gets an index.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Final

from ext4img.errors import BuildError
from ext4img.mkfs.options import HASH_VERSIONS
from ext4img.names.dirhash import UNSIGNED, dirhashes
from ext4img.structs.directory import (
    DX_ENTRY,
    DX_HASH_SIPHASH,
    DX_NODE_ENTRIES_OFFSET,
    DX_ROOT_ENTRIES_OFFSET,
    DX_TAIL,
    EXT4_DIR_ENTRY,
    EXT4_DIR_ENTRY_HASH,
    EXT4_DIR_ENTRY_TAIL,
    EXT4_DIR_MIN_REC_LEN,
    EXT4_HTREE_LEVEL,
)
from ext4img.volume.dir_entry import entry_size

DOTS_BYTES: Final = 2 * EXT4_DIR_MIN_REC_LEN  # "." and ".."
MAX_NODE_LEVELS: Final = EXT4_HTREE_LEVEL - 1  # levels of index nodes between root and leaves, with large_dir
# A fifth of each leaf stays free, as after e2fsck -D, so that the next names don't split them all.
_FULL_NUMERATOR: Final = 4
_FULL_DENOMINATOR: Final = 5
_HASH_PAIR: Final = Struct("<II")


class PlannedDirectory:
    """A directory's entries: names as stored, and indexes of inodes, in the order of the nodes.

    With `hashed_names` every name is followed by its hash of 8 bytes (encrypted and case-insensitive).
    """

    __slots__ = (
        "casefolded",
        "children",
        "hashes",
        "index",
        "inline_size",
        "layout",
        "linear",
        "names",
        "parent",
        "policy",
        "subdirectories",
    )

    def __init__(self, index: int, parent: int, policy: bytes | None, casefolded: bool) -> None:
        self.index = index  # of its inode
        self.parent = parent  # index of its parent's inode
        self.policy = policy  # the encryption context without its nonce; None: not encrypted
        self.casefolded = casefolded
        self.names: list[bytes] = []
        self.children = array("I")
        self.hashes = bytearray()
        self.subdirectories = 0
        self.linear = False
        self.inline_size = 0  # bytes, if it is inline
        self.layout = SINGLE

    @property
    def encrypted(self) -> bool:
        """Whether its names are encrypted."""
        return self.policy is not None

    @property
    def hashed_names(self) -> bool:
        """Whether each name is followed by its hash."""
        return self.encrypted and self.casefolded

    def add(self, name: bytes, child: int, name_hash: bytes) -> None:
        """Append an entry."""
        self.names.append(name)
        self.children.append(child)
        if self.hashed_names:
            self.hashes += name_hash


@dataclass(frozen=True, slots=True)
class DirectoryLayout:
    """How a directory's entries are distributed over its blocks.

    Leaf `i` holds the entries from `starts[i]` to `starts[i + 1]`, in the directory's own order, which
    `lay_out_directory` may have changed. Without an index, leaf `i` is block `i`. With an index,
    `leaf_hashes` are the hashes by which it finds the leaves, and the blocks are: the root, the nodes
    of `levels[0]` (nearest to the root), those of `levels[1]`, then the leaves.
    """

    starts: array[int]
    leaf_hashes: array[int] | None = None
    levels: tuple[int, ...] = ()
    hash_version: int = 0

    @property
    def leaves(self) -> int:
        """Blocks that hold entries."""
        return len(self.starts)

    @property
    def blocks(self) -> int:
        """All blocks of the directory."""
        return self.leaves if self.leaf_hashes is None else 1 + sum(self.levels) + self.leaves


SINGLE: Final = DirectoryLayout(array("I", [0]))


@dataclass(frozen=True, slots=True)
class DirectoryOptions:
    """The properties of the file system that decide how directories are laid out."""

    block_size: int
    checksums: bool  # metadata_csum: tails
    indexed: bool  # dir_index
    hash_version: str
    hash_unsigned: bool
    hash_seed: tuple[int, int, int, int]
    fold: Callable[[bytes], bytes] | None = None  # folds names of case-insensitive directories

    def can_index(self, directory: PlannedDirectory) -> bool:
        """Whether a directory can have a hash tree."""
        folded = directory.casefolded and not directory.encrypted
        return self.indexed and not directory.linear and (self.fold is not None or not folded)

    @property
    def room(self) -> int:
        """Bytes of a block that entries can have."""
        return self.block_size - (EXT4_DIR_ENTRY_TAIL.size if self.checksums else 0)

    @property
    def root_limit(self) -> int:
        """Index entries in a root."""
        return self._limit(DX_ROOT_ENTRIES_OFFSET)

    @property
    def node_limit(self) -> int:
        """Index entries in a node."""
        return self._limit(DX_NODE_ENTRIES_OFFSET)

    def _limit(self, offset: int) -> int:
        return (self.block_size - offset - (DX_TAIL.size if self.checksums else 0)) // DX_ENTRY.size


def lay_out_directory(directory: PlannedDirectory, form: DirectoryOptions, min_blocks: int = 1) -> None:
    """Decide a directory's layout, and sort its entries by leaf.

    `min_blocks` is for lost+found, which e2fsck must be able to fill without allocating.
    BuildError, without a path, if the directory is too large for a hash tree.
    """
    hashed = directory.hashed_names
    extra = (
        EXT4_DIR_ENTRY.size + 3 + (EXT4_DIR_ENTRY_HASH.size if hashed else 0)
    )  # the hash has 8 bytes, so the rounding stays right
    total = DOTS_BYTES + sum([len(name) + extra & ~3 for name in directory.names])
    if directory.linear:  # of one block, it would be read as hashed
        min_blocks = max(2, min_blocks)
    if total <= form.room:
        directory.layout = SINGLE
        if min_blocks > 1:
            directory.layout = DirectoryLayout(array("I", [0] + [len(directory.names)] * (min_blocks - 1)))
    elif form.can_index(directory):
        directory.layout = _hash_tree(directory, form)
    else:
        directory.layout = DirectoryLayout(_fill(directory, form.room, form.room, DOTS_BYTES))


def _fill(directory: PlannedDirectory, room: int, full: int, used: int) -> array[int]:
    """The first entry of each block if entries follow each other; a block ends at `full` bytes."""
    starts = array("I", [0])
    hashed = directory.hashed_names
    for position, name in enumerate(directory.names):
        size = entry_size(len(name), hashed)
        if used + size > room or used >= full:
            starts.append(position)
            used = 0
        used += size
    return starts


def _hash_tree(directory: PlannedDirectory, form: DirectoryOptions) -> DirectoryLayout:
    if directory.hashed_names:
        version = DX_HASH_SIPHASH
        hashes = list(_HASH_PAIR.iter_unpack(directory.hashes))
    else:
        version = HASH_VERSIONS[form.hash_version]
        wanted = version + (UNSIGNED if form.hash_unsigned else 0)
        names = directory.names
        if directory.casefolded and form.fold is not None:
            names = [form.fold(name) for name in names]
        hashes = dirhashes(names, wanted, form.hash_seed)
    _sort(directory, hashes)
    hashes.sort()
    starts = _fill(directory, form.room, form.room * _FULL_NUMERATOR // _FULL_DENOMINATOR, 0)
    leaf_hashes = array("I", [0])
    for start in starts[1:]:
        major = hashes[start][0] & ~1
        # The lowest bit means that this hash begins in the leaf before.
        leaf_hashes.append(major | (hashes[start - 1][0] & ~1 == major))
    return DirectoryLayout(starts, leaf_hashes, _levels(len(starts), form), version)


def _sort(directory: PlannedDirectory, hashes: list[tuple[int, int]]) -> None:
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    directory.names = [directory.names[i] for i in order]
    directory.children = array("I", [directory.children[i] for i in order])
    if directory.hashed_names:
        directory.hashes = bytearray().join([directory.hashes[8 * i : 8 * i + 8] for i in order])


def _levels(leaves: int, form: DirectoryOptions) -> tuple[int, ...]:
    """The number of nodes on each level below the root, from the top."""
    levels: tuple[int, ...] = ()
    below = leaves
    while below > form.root_limit:
        if len(levels) == MAX_NODE_LEVELS:
            raise BuildError(
                f"a directory of {leaves} blocks is too large for a hash tree of {EXT4_HTREE_LEVEL} levels"
            )
        below = -(-below // form.node_limit)
        levels = (below, *levels)
    return levels
