"""The plan of a file system: everything is decided, nothing is written. `write` follows it, `--plan` prints it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from struct import unpack

from ext4img.errors import BuildError
from ext4img.mkfs.block_placement import blocks_needed, place_blocks
from ext4img.mkfs.collect_nodes import collect_nodes
from ext4img.mkfs.directories import DirectoryOptions, lay_out_directory
from ext4img.mkfs.geometry import Geometry, SpaceDemand, choose_geometry
from ext4img.mkfs.groups import GroupSummary, GroupUsage, summarise_groups
from ext4img.mkfs.inode_numbers import assign_inode_numbers, highest_kept_number, inodes_by_number
from ext4img.mkfs.nodes import Node
from ext4img.mkfs.options import FeatureChoice, Options
from ext4img.mkfs.regions import Placement, Region, RegionKind
from ext4img.mkfs.reserved_inodes import ReservedInodes, add_reserved_inodes
from ext4img.mkfs.tree import LOST_AND_FOUND, NodeTree
from ext4img.structs.inode import EXT4_INDEX_FL, EXT4_NDIR_BLOCKS
from ext4img.volume import checksum
from ext4img.volume.features import Compat, Features, Incompat, RoCompat

_LOST_AND_FOUND_BYTES = 16384  # as in mke2fs: in 2 to 12 blocks


@dataclass(frozen=True)
class Plan:
    """A file system that is ready to be written. Plain data; `options` are complete."""

    options: Options
    geometry: Geometry
    tree: NodeTree
    placement: Placement
    usage: GroupUsage
    groups: tuple[GroupSummary, ...]
    directory_options: DirectoryOptions
    reserved: ReservedInodes

    @property
    def features(self) -> Features:
        """Features of the file system."""
        return self.geometry.features

    @property
    def size(self) -> int:
        """Size of the file system in bytes."""
        return self.geometry.block_count * self.geometry.block_size

    @property
    def image_size(self) -> int:
        """Size of the image in bytes: the given size, although its last part may be unused."""
        return self.options.size or self.size

    @property
    def uuid(self) -> uuid.UUID:
        """UUID of the file system."""
        assert self.options.uuid is not None
        return self.options.uuid

    @property
    def seed(self) -> int:
        """The seed of all checksums."""
        return checksum.filesystem_seed(self.uuid, None)

    @property
    def checksum_seed(self) -> int | None:
        """The same, or None without metadata checksums."""
        return self.seed if RoCompat.METADATA_CSUM in self.features else None

    @property
    def free_blocks(self) -> int:
        """Free blocks."""
        return sum(group.free_blocks for group in self.groups)

    @property
    def free_inodes(self) -> int:
        """Free inodes."""
        return sum(group.free_inodes for group in self.groups)

    @property
    def data_bytes(self) -> int:
        """Bytes of the blocks whose contents are read from bodies."""
        regions = self.placement.regions
        blocks = sum(regions.counts[i] for i in range(len(regions)) if regions.kinds[i] == RegionKind.FILE)
        return blocks * self.geometry.block_size

    def summary(self) -> dict[str, object]:
        """The file system in a few words and numbers."""
        geometry = self.geometry
        return {
            "uuid": str(self.uuid),
            "label": self.options.label,
            "features": list(self.features.names),
            "size": self.size,
            "block_size": geometry.block_size,
            "blocks": geometry.block_count,
            "free_blocks": self.free_blocks,
            "inode_size": geometry.inode_size,
            "inodes": geometry.inode_count,
            "free_inodes": self.free_inodes,
            "groups": geometry.group_count,
            "blocks_per_group": geometry.blocks_per_group,
            "inodes_per_group": geometry.inodes_per_group,
            "reserved_descriptor_blocks": geometry.reserved_descriptor_blocks,
            "journal_blocks": geometry.journal_blocks,
            "directories": len(self.tree.directories),
            "data_bytes": self.data_bytes,
        }

    def lines(self) -> Iterator[str]:
        """The whole plan for people: the summary, then every region in the order of the disk."""
        for key, value in self.summary().items():
            yield f"{key}: {' '.join(value) if isinstance(value, list) else value}"
        for region in self.placement.regions.in_order():
            yield self._line(region)

    def _line(self, region: Region) -> str:
        last = region.pblk + region.length - 1
        where = f"{region.pblk}" if region.length == 1 else f"{region.pblk}-{last}"
        kind = region.kind.name.lower().replace("_", " ")
        if region.kind <= RegionKind.INODE_TABLE:
            return f"{where}: {kind} of group {region.owner}"
        number = self.tree.inodes.numbers[region.owner]
        return f"{where}: {kind} of inode {number} {self.tree.inodes.show(region.owner)!r} from block {region.lblk}"


def plan(
    nodes: Iterable[Node],
    options: Options | None = None,
    *,
    fold: Callable[[bytes], bytes] | None = None,
    on_refusal: Callable[[BuildError], None] | None = None,
) -> Plan:
    """Plan a file system of these nodes: parents before children, the root first.

    `fold` is the case folding of UTF-8 by Unicode 12.1. Names in case-insensitive directories are
    hashed in that form, unless they are encrypted. Without it these directories get no index, which
    the kernel accepts as well. With `on_refusal`, a node that the format can't hold is skipped: the
    function is called with the error before the next node is drawn.

    BuildError, with the path of the node that causes it, if the format can't hold the tree, or if
    the given size is too small. UnsupportedFeatureError for a feature that can't be written.
    """
    options = (options or Options()).resolved()
    choice = FeatureChoice(options.features)
    tree = collect_nodes(nodes, options, choice, on_refusal)
    form = _directory_options(options, choice, fold)
    _lay_out_directories(tree, form, choice)
    root = tree.directories[0]
    free_number = assign_inode_numbers(tree.inodes, root.children[root.names.index(LOST_AND_FOUND)])
    highest, kept_by = highest_kept_number(tree.inodes)
    demand = SpaceDemand(
        blocks_needed(tree, options.block_size) + (Compat.RESIZE_INODE in choice),
        len(tree.inodes) + 1,  # perhaps the orphan file
        max(highest, free_number),
    )
    try:
        geometry = choose_geometry(demand, options, choice)
    except BuildError as error:
        if highest <= free_number:
            raise
        raise BuildError(f"{error.reason}; inode number {highest} must be kept", tree.inodes.show(kept_by)) from None
    reserved = add_reserved_inodes(tree, geometry, options, free_number)
    placement = place_blocks(tree, geometry, reserved)
    usage = GroupUsage(geometry, placement.free, *inodes_by_number(tree.inodes))
    groups = tuple(summarise_groups(usage, tree.inodes, placement))
    return Plan(options, geometry, tree, placement, usage, groups, form, reserved)


def _directory_options(
    options: Options, choice: FeatureChoice, fold: Callable[[bytes], bytes] | None
) -> DirectoryOptions:
    assert options.hash_seed is not None
    return DirectoryOptions(
        options.block_size,
        RoCompat.METADATA_CSUM in choice,
        Compat.DIR_INDEX in choice,
        options.hash_version,
        options.hash_unsigned,
        unpack("<IIII", options.hash_seed),
        fold,
    )


def _lay_out_directories(tree: NodeTree, form: DirectoryOptions, choice: FeatureChoice) -> None:
    inodes = tree.inodes
    block_size = form.block_size
    for directory in tree.directories:
        index = directory.index
        if directory.inline_size:
            inodes.set_size(index, directory.inline_size)
            continue
        lost_and_found = directory.parent == 0 and inodes.names[index] == LOST_AND_FOUND
        least = min(max(2, _LOST_AND_FOUND_BYTES // block_size), EXT4_NDIR_BLOCKS) if lost_and_found else 1
        try:
            lay_out_directory(directory, form, least)
        except BuildError as error:
            raise BuildError(error.reason, inodes.show(index)) from None
        blocks = directory.layout.blocks
        if len(directory.layout.levels) > 1 or blocks * block_size > 1 << 31:
            choice.need(Incompat.LARGEDIR, f"a directory of {blocks} blocks", inodes.path(index))
        if directory.layout.leaf_hashes is not None:
            inodes.set_flags(index, EXT4_INDEX_FL)
        inodes.set_size(index, blocks * block_size)
        tree.blocks[index] = blocks
