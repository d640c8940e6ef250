"""The plan of a file system: everything decided, nothing written. What `write` follows, and `--plan` prints."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from struct import unpack

from ext4img.errors import BuildError
from ext4img.mkfs.block_placement import blocks_needed, place
from ext4img.mkfs.collect_nodes import gather
from ext4img.mkfs.directories import DirectoryForm, lay_out
from ext4img.mkfs.extents_table import Area, Kind, Places
from ext4img.mkfs.geometry import Demand, Geometry, solve
from ext4img.mkfs.groups import GroupSummary, Usage, summarise
from ext4img.mkfs.inode_numbers import by_number, give_numbers, highest_wanted
from ext4img.mkfs.nodes import Node
from ext4img.mkfs.options import FeatureChoice, Options
from ext4img.mkfs.reserved_inodes import Special, add_special
from ext4img.mkfs.tree import LOST_AND_FOUND, Tree
from ext4img.structs.inode import EXT4_INDEX_FL, EXT4_NDIR_BLOCKS
from ext4img.volume import checksum
from ext4img.volume.features import Compat, Features, Incompat, RoCompat

_LOST_AND_FOUND_BYTES = 16384  # mke2fs: so much, in 2 to 12 blocks


@dataclass(frozen=True)
class Plan:
    """A file system that is ready to be written. Plain data; `options` have all choices filled in."""

    options: Options
    geometry: Geometry
    tree: Tree
    places: Places
    usage: Usage
    groups: tuple[GroupSummary, ...]
    directory_form: DirectoryForm
    special: Special

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
        """Size of the image in bytes: what was asked for, though a last part of it may be of no use."""
        return self.options.size or self.size

    @property
    def uuid(self) -> uuid.UUID:
        """UUID of the file system."""
        assert self.options.uuid is not None
        return self.options.uuid

    @property
    def seed(self) -> int:
        """What all checksums start from."""
        return checksum.filesystem_seed(self.uuid, None)

    @property
    def checksum_seed(self) -> int | None:
        """The same, or None where structures carry no checksums."""
        return self.seed if RoCompat.METADATA_CSUM in self.features else None

    @property
    def free_blocks(self) -> int:
        """Blocks that stay free."""
        return sum(group.free_blocks for group in self.groups)

    @property
    def free_inodes(self) -> int:
        """Inodes that stay free."""
        return sum(group.free_inodes for group in self.groups)

    @property
    def data_bytes(self) -> int:
        """Bytes of blocks that bodies will be read for."""
        areas = self.places.areas
        blocks = sum(areas.counts[i] for i in range(len(areas)) if areas.kinds[i] == Kind.FILE)
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
        """The whole plan for people: the summary, then every area in the order of the disk."""
        for key, value in self.summary().items():
            yield f"{key}: {' '.join(value) if isinstance(value, list) else value}"
        for area in self.places.areas.in_order():
            yield self._line(area)

    def _line(self, area: Area) -> str:
        last = area.pblk + area.length - 1
        where = f"{area.pblk}" if area.length == 1 else f"{area.pblk}-{last}"
        kind = area.kind.name.lower().replace("_", " ")
        if area.kind <= Kind.INODE_TABLE:
            return f"{where}: {kind} of group {area.owner}"
        number = self.tree.inodes.numbers[area.owner]
        return f"{where}: {kind} of inode {number} {self.tree.inodes.show(area.owner)!r} from block {area.lblk}"


def plan(
    nodes: Iterable[Node],
    options: Options | None = None,
    *,
    fold: Callable[[bytes], bytes] | None = None,
    refused: Callable[[BuildError], None] | None = None,
) -> Plan:
    """Plan a file system of these nodes: parents before children, the root first.

    `fold` is the case folding of UTF-8 by Unicode 12.1, by which case-insensitive directories are
    hashed if they are not encrypted; without it they become lists, which the kernel takes as well.
    A node that the format can't hold is left out where `refused` is given: that is told why, before
    the next node is drawn.

    BuildError, with the path of the node that is to blame, where the format can't hold the tree, or
    where the given size is too small; UnsupportedFeatureError for a feature that is not written.
    """
    options = (options or Options()).resolved()
    choice = FeatureChoice(options.features)
    tree = gather(nodes, options, choice, refused)
    form = _directory_form(options, choice, fold)
    _lay_out_directories(tree, form, choice)
    root = tree.directories[0]
    free_number = give_numbers(tree.inodes, root.children[root.names.index(LOST_AND_FOUND)])
    highest, kept_by = highest_wanted(tree.inodes)
    demand = Demand(
        blocks_needed(tree, options.block_size) + (Compat.RESIZE_INODE in choice),
        len(tree.inodes) + 1,  # perhaps the orphan file
        max(highest, free_number),
    )
    try:
        geometry = solve(demand, options, choice)
    except BuildError as error:
        if highest <= free_number:
            raise
        raise BuildError(f"{error.reason}; it has to keep inode number {highest}", tree.inodes.show(kept_by)) from None
    special = add_special(tree, geometry, options, free_number)
    places = place(tree, geometry, special)
    usage = Usage(geometry, places.free, *by_number(tree.inodes))
    groups = tuple(summarise(usage, tree.inodes, places))
    return Plan(options, geometry, tree, places, usage, groups, form, special)


def _directory_form(options: Options, choice: FeatureChoice, fold: Callable[[bytes], bytes] | None) -> DirectoryForm:
    assert options.hash_seed is not None
    return DirectoryForm(
        options.block_size,
        RoCompat.METADATA_CSUM in choice,
        Compat.DIR_INDEX in choice,
        options.hash_version,
        options.hash_unsigned,
        unpack("<IIII", options.hash_seed),
        fold,
    )


def _lay_out_directories(tree: Tree, form: DirectoryForm, choice: FeatureChoice) -> None:
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
            lay_out(directory, form, least)
        except BuildError as error:
            raise BuildError(error.reason, inodes.show(index)) from None
        blocks = directory.layout.blocks
        if len(directory.layout.levels) > 1 or blocks * block_size > 1 << 31:
            choice.need(Incompat.LARGEDIR, f"a directory of {blocks} blocks", inodes.path(index))
        if directory.layout.leaf_hashes is not None:
            inodes.set_flags(index, EXT4_INDEX_FL)
        inodes.set_size(index, blocks * block_size)
        tree.blocks[index] = blocks
