"""Checking nodes and collecting them into a tree.

Nothing here knows how large the file system will be. A node that the format can't hold is refused
with its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from ext4img.errors import BuildError
from ext4img.mkfs.directories import PlannedDirectory
from ext4img.mkfs.directory_blocks import inline_size
from ext4img.mkfs.file_runs import file_runs
from ext4img.mkfs.inodes import NO_INODE, extra_size
from ext4img.mkfs.node_rules import ENCRYPTED_TYPES, check_flags, check_name, number_to_keep
from ext4img.mkfs.nodes import Node, Path, XattrKey, device_i_block, show_path
from ext4img.mkfs.options import FeatureChoice, Options
from ext4img.mkfs.tree import LOST_AND_FOUND, NodeTree, SharedXattrBlock
from ext4img.mkfs.xattrs import XattrPlacement, inline_room, place_xattrs
from ext4img.structs.directory import (
    EXT4_FT_BLKDEV,
    EXT4_FT_CHRDEV,
    EXT4_FT_DIR,
    EXT4_FT_REG_FILE,
    EXT4_FT_SYMLINK,
    EXT4_TYPE_BY_MODE,
)
from ext4img.structs.extent import EXT_MAX_BLOCKS
from ext4img.structs.fscrypt import FSCRYPT_SYMLINK_DATA
from ext4img.structs.inode import (
    EXT4_CASEFOLD_FL,
    EXT4_EA_INODE_FL,
    EXT4_ENCRYPT_FL,
    EXT4_EXTENTS_FL,
    EXT4_INLINE_DATA_FL,
    EXT4_INODE,
    EXT4_LINK_MAX,
    EXT4_VERITY_FL,
    I_BLOCK_SIZE,
    S_IFDIR,
    S_IFMT,
    S_IFREG,
    SECTOR_SIZE,
)
from ext4img.structs.xattr import EXT4_XATTR_REFCOUNT_MAX
from ext4img.volume import checksum
from ext4img.volume.features import Incompat, RoCompat
from ext4img.volume.xattr import INLINE_DATA

LARGE_FILE_BYTES: Final = 1 << 31
HUGE_FILE_SECTORS: Final = 1 << 32
_MAX_REFERENCES: Final = 0xFFFFFFFF  # to an ea_inode; the upper half of the count is not used here

OnRefusal = Callable[[BuildError], None]


def collect_nodes(
    nodes: Iterable[Node], options: Options, choice: FeatureChoice, on_refusal: OnRefusal | None = None
) -> NodeTree:
    """Check nodes and collect them. `options` are resolved; `choice` gets the features that nodes need.

    A node that can't be stored is an error. With `on_refusal` it is skipped instead, and that is
    called with the error before the next node is drawn.
    """
    collector = _NodeCollector(options, choice)
    for node in nodes:
        if on_refusal is None:
            collector.add(node)
            continue
        try:
            collector.add(node)
        except BuildError as error:
            collector.undo(node)
            on_refusal(error)
    return collector.finish()


class _NodeCollector:
    def __init__(self, options: Options, choice: FeatureChoice) -> None:
        self._options = options
        self._choice = choice
        self._tree = NodeTree(options)
        self._directories: dict[Path, PlannedDirectory] = {}
        self._groups: dict[int, tuple[int, bytes | None]] = {}  # link group → index, encryption policy
        self._blocks_by_content: dict[tuple[bytes, bytes, tuple[int, ...]], int] = {}
        self._value_inodes: dict[bytes, int] = {}
        self._perhaps_inline: dict[int, Node] = {}  # directories that may fit in their inodes
        self._inline = Incompat.INLINE_DATA in choice
        self._length = 0  # inodes that are complete
        self._open_names: list[tuple[Path, set[bytes]]] = []
        self._kept_numbers: dict[int, int] = {}  # number → index of the inode that keeps it
        assert options.uuid is not None
        self._seed = checksum.filesystem_seed(options.uuid, None)

    def add(self, node: Node) -> None:
        """Add one node."""
        path = node.path
        directory: PlannedDirectory | None = None
        if path:
            directory = self._directories.get(path[:-1])
            if directory is None:
                raise BuildError("its directory has not come before it", show_path(path))
            check_name(node, directory)
            if path[-1] in self._names_in(path[:-1], directory):
                raise BuildError("duplicate name", show_path(path))
            if node.link_group is not None:
                first = self._groups.get(node.link_group)
                if first is not None:
                    self._link(node, directory, *first)
                    return
        elif self._tree.directories or node.mode & S_IFMT != S_IFDIR:
            raise BuildError("the root is one directory, and must come first", show_path(path))
        kind = EXT4_TYPE_BY_MODE.get(node.mode & S_IFMT, 0)
        policy = check_flags(node, kind, directory, self._options, self._choice)
        if node.link_group is not None and kind == EXT4_FT_DIR:
            raise BuildError("a directory can have only one name", show_path(path))
        number = number_to_keep(node, self._options, self._choice)
        if number in self._kept_numbers:
            other = self._tree.inodes.show(self._kept_numbers[number])
            raise BuildError(f"inode number {number} is also that of {other!r}", show_path(path))
        parent = directory.index if directory else NO_INODE
        if kind == EXT4_FT_DIR:
            index = self._directory(node, parent, policy)
        elif kind == EXT4_FT_REG_FILE:
            index = self._file(node, parent)
        elif kind == EXT4_FT_SYMLINK:
            index = self._symlink(node, parent)
        elif kind:
            i_block = b""
            if kind in (EXT4_FT_CHRDEV, EXT4_FT_BLKDEV):
                try:
                    i_block = device_i_block(*node.rdev)
                except ValueError as error:
                    raise BuildError(str(error), show_path(path)) from None
            index = self._new(node, parent, i_block, 0)
            self._place_xattrs(index, node, node.xattrs)
        else:
            raise BuildError(f"mode {node.mode:#o} has no file type", show_path(path))
        if number:
            self._tree.inodes.wanted[index] = number
            self._kept_numbers[number] = index
        if directory is not None:
            self._add_name(node, directory, index)
            directory.subdirectories += kind == EXT4_FT_DIR
        if node.link_group is not None:
            self._groups[node.link_group] = index, policy
        self._length = len(self._tree.inodes)

    def undo(self, node: Node) -> None:
        """Remove all traces of a node that `add` refused."""
        directory = self._directories.get(node.path)
        if directory is not None and directory.index >= self._length:
            del self._directories[node.path]
            self._perhaps_inline.pop(directory.index, None)
        self._tree.cut(self._length)

    def finish(self) -> NodeTree:
        """Add lost+found if it is missing, and decide everything that depends on all nodes."""
        tree = self._tree
        inodes = tree.inodes
        if not tree.directories:
            raise BuildError("the tree has no root")
        root = tree.directories[0]
        if LOST_AND_FOUND not in root.names:
            now = (self._options.created_s or 0) * 1_000_000_000
            self.add(Node((LOST_AND_FOUND,), S_IFDIR | 0o700, 0, 0, 0, now, now, now, now))
        for directory in tree.directories:
            links = 2 + directory.subdirectories
            if links > EXT4_LINK_MAX:
                why = f"a directory of {directory.subdirectories} directories"
                self._choice.need(RoCompat.DIR_NLINK, why, inodes.path(directory.index))
                links = 1
            inodes.put(directory.index, "i_links_count", links)
            node = self._perhaps_inline.get(directory.index)
            if node is not None:
                self._make_inline_if_it_fits(directory, node)
        return tree

    def _make_inline_if_it_fits(self, directory: PlannedDirectory, node: Node) -> None:
        """Make a directory inline if its entries fit in its inode."""
        xattrs = node.xattrs
        size = inline_size(directory)
        if size <= I_BLOCK_SIZE + inline_room(xattrs, self._room(node)):
            directory.inline_size = size
            self._tree.inodes.set_flags(directory.index, EXT4_INLINE_DATA_FL, clear=EXT4_EXTENTS_FL)
            xattrs = {**xattrs, INLINE_DATA: bytes(size - I_BLOCK_SIZE)}
        self._place_xattrs(directory.index, node, xattrs)

    def _link(self, node: Node, directory: PlannedDirectory, index: int, policy: bytes | None) -> None:
        inodes = self._tree.inodes
        if directory.encrypted and inodes.types[index] in ENCRYPTED_TYPES and policy != directory.policy:
            raise BuildError("a link to a file without the encryption policy of its directory", show_path(node.path))
        links = inodes.get(index, "i_links_count") + 1
        if links > EXT4_LINK_MAX:
            raise BuildError(f"more than {EXT4_LINK_MAX} names of one file", show_path(node.path))
        inodes.put(index, "i_links_count", links)
        self._add_name(node, directory, index)

    def _names_in(self, path: Path, directory: PlannedDirectory) -> set[bytes]:
        """The names that a directory has so far. Those of directories on the way to the last node are kept."""
        kept = self._open_names
        while kept and path[: len(kept[-1][0])] != kept[-1][0]:
            kept.pop()
        if not kept or kept[-1][0] != path:
            kept.append((path, set(directory.names)))
        return kept[-1][1]

    def _add_name(self, node: Node, directory: PlannedDirectory, index: int) -> None:
        name = node.path[-1]
        directory.add(name, index, node.name_hash)
        self._names_in(node.path[:-1], directory).add(name)

    def _new(self, node: Node, parent: int, i_block: bytes, size: int, flags: int = 0, links: int = 1) -> int:
        index = self._tree.inodes.add(node, parent, i_block, size, links, flags)
        self._tree.blocks.append(0)
        return index

    def _directory(self, node: Node, parent: int, policy: bytes | None) -> int:
        index = self._new(node, parent, b"", 0, EXT4_EXTENTS_FL, 2)
        directory = PlannedDirectory(
            index, index if parent == NO_INODE else parent, policy, bool(node.flags & EXT4_CASEFOLD_FL)
        )
        directory.linear = node.linear and directory.encrypted
        self._tree.directories.append(directory)
        self._directories[node.path] = directory
        # To the kernel a root without blocks is damaged (ext4_fill_super).
        if self._inline and node.path not in ((), (LOST_AND_FOUND,)) and not directory.encrypted | directory.casefolded:
            self._perhaps_inline[index] = node
            self._placed(node, node.xattrs)
        else:
            self._place_xattrs(index, node, node.xattrs)
        return index

    def _symlink(self, node: Node, parent: int) -> int:
        target = node.target
        size = len(target)
        path = node.path
        if not 1 <= size < self._options.block_size:
            raise BuildError(f"a symlink's target of {size} bytes does not fit in a block", show_path(path))
        if node.flags & EXT4_ENCRYPT_FL:
            head = FSCRYPT_SYMLINK_DATA.size
            if size < head or FSCRYPT_SYMLINK_DATA.unpack_tuple(target)[0] != size - head:
                raise BuildError("the encrypted target does not begin with its length", show_path(path))
        elif b"\0" in target:
            raise BuildError("a symlink's target can have no NUL bytes", show_path(path))
        fast = size < I_BLOCK_SIZE
        index = self._new(node, parent, target if fast else b"", size, 0 if fast else EXT4_EXTENTS_FL)
        if not fast:
            self._tree.values[index] = target
            self._tree.blocks[index] = 1
        self._place_xattrs(index, node, node.xattrs)
        return index

    def _file(self, node: Node, parent: int) -> int:
        tree = self._tree
        size = node.size
        path = node.path
        block_size = self._options.block_size
        if not 0 <= size <= EXT_MAX_BLOCKS * block_size:
            raise BuildError(f"{size} bytes: a file can have at most {EXT_MAX_BLOCKS * block_size}", show_path(path))
        if size >= LARGE_FILE_BYTES:
            self._choice.need(RoCompat.LARGE_FILE, f"a file of {size} bytes", path)
        if self._inline and self._fits_inline(node):
            index = self._new(node, parent, b"", size, EXT4_INLINE_DATA_FL)
            data = bytes(max(0, size - I_BLOCK_SIZE))
            self._place_xattrs(index, node, {**node.xattrs, INLINE_DATA: data})
            return index
        index = self._new(node, parent, b"", size, EXT4_EXTENTS_FL)
        if node.segments is None and not node.unwritten:
            blocks = -(-size // block_size)
            tree.blocks[index] = blocks
            if node.flags & EXT4_ENCRYPT_FL:
                tree.ends[index] = blocks * block_size
        else:
            blocks = self._set_runs(index, node)
        if blocks * (block_size // SECTOR_SIZE) >= HUGE_FILE_SECTORS // 2:
            self._choice.need(RoCompat.HUGE_FILE, f"a file of {blocks} blocks", path)
        self._place_xattrs(index, node, node.xattrs)
        return index

    def _fits_inline(self, node: Node) -> bool:
        room = inline_room(node.xattrs, self._room(node))
        if not 0 < node.size <= I_BLOCK_SIZE + room or node.unwritten:
            return False
        if node.flags & (EXT4_ENCRYPT_FL | EXT4_VERITY_FL) or room < 0:
            return False
        return node.segments is None or bool(node.segments)

    def _room(self, node: Node) -> int:
        """Bytes of a node's inode behind its fixed part."""
        inode_size = self._options.inode_size
        return inode_size - EXT4_INODE.size - extra_size(node, inode_size)

    def _set_runs(self, index: int, node: Node) -> int:
        """Set the runs of a file that is not one written run. Returns their number of blocks."""
        runs, end = file_runs(node, self._options.block_size)
        if len(runs) == 1 and runs[0].lblk == 0 and not runs[0].unwritten:
            self._tree.blocks[index] = runs[0].length
        elif runs:
            self._tree.runs[index] = runs
        if end != node.size:
            self._tree.ends[index] = end
        return sum(run.length for run in runs)

    def _place_xattrs(self, index: int, node: Node, xattrs: Mapping[XattrKey, bytes]) -> None:
        if xattrs:
            self._store_xattrs(index, node, self._placed(node, xattrs))

    def _placed(self, node: Node, xattrs: Mapping[XattrKey, bytes]) -> XattrPlacement:
        if INLINE_DATA in node.xattrs:
            raise BuildError("system.data is not an attribute: it holds inline contents", show_path(node.path))
        seed = self._seed if self._choice.may(Incompat.EA_INODE) else None
        try:
            placed = place_xattrs(xattrs, self._room(node), self._options.block_size, seed)
        except BuildError as error:
            raise BuildError(error.reason, show_path(node.path)) from None
        if placed.block is not None and placed.block.references:
            self._choice.need(Incompat.EA_INODE, "extended attributes larger than a block", node.path)
        return placed

    def _store_xattrs(self, index: int, node: Node, placed: XattrPlacement) -> None:
        tree = self._tree
        tree.inodes.inline_xattrs[index] = placed.inline
        if placed.inline_data_offset:
            tree.inline_data[index] = placed.inline_data_offset
        block = placed.block
        if block is None:
            return
        blocks = sum(-(-len(reference.value) // self._options.block_size) for reference in block.references)
        if blocks:  # each of its users is charged for a value (ext4_xattr_inode_alloc_quota)
            tree.value_blocks[index] = blocks
        # Equal values have one inode, equal blocks with the same values are one block.
        values = [self._value_inode(node, index, reference.value) for reference in block.references]
        key = (block.entries, block.values, tuple(values))
        known = self._blocks_by_content.get(key) if block.hash else None
        if known is not None and tree.xattr_blocks[known].sharers < EXT4_XATTR_REFCOUNT_MAX:
            tree.xattr_blocks[known].sharers += 1
            tree.xattr_block_of[index] = known
            return
        for value in values:
            references = tree.inodes.get(value, "l_i_version") + 1
            if references > _MAX_REFERENCES:
                raise BuildError(f"more than {_MAX_REFERENCES} equal attributes", show_path(node.path))
            tree.inodes.put(value, "l_i_version", references)
        self._blocks_by_content[key] = tree.xattr_block_of[index] = len(tree.xattr_blocks)
        tree.xattr_blocks.append(SharedXattrBlock(block, 1, tuple(values)))

    def _value_inode(self, node: Node, user: int, value: bytes) -> int:
        """The ea_inode of a value; a new one, of which `user` is the first user, has no references yet.

        Its times hold the hash and the upper half of the reference count, i_version the lower half
        (ext4_xattr_inode_set_hash, _set_ref).
        """
        known = self._value_inodes.get(value)
        if known is not None:
            return known
        value_hash = checksum.ea_inode_value(self._seed, value)
        if value_hash & 0x80000000:
            value_hash -= 1 << 32
        owner = Node(
            (*node.path, b"(attribute)"), S_IFREG | 0o600, node.uid, node.gid, atime_ns=value_hash * 1_000_000_000
        )
        index = self._new(owner, user, b"", len(value), EXT4_EXTENTS_FL | EXT4_EA_INODE_FL)
        self._tree.values[index] = value
        self._tree.blocks[index] = -(-len(value) // self._options.block_size)
        self._value_inodes[value] = index
        return index
