"""Entries that the options of the new file system would make unreadable are refused, with their policy."""

from __future__ import annotations

from typing import NamedTuple

from ext4img.archive.entry import Entry
from ext4img.crypto.policy import Policy, parse_context
from ext4img.errors import BuildError
from ext4img.structs.extent import EXT_MAX_BLOCKS
from ext4img.structs.inode import EXT4_VERITY_FL


class ReadabilityRules(NamedTuple):
    """The properties of the new file system that decide whether ciphertext stays readable."""

    block_size: int
    keeps_uuid: bool

    def check(self, entry: Entry, source_block_size: int) -> None:
        """BuildError, with the policy, for an entry that would become unreadable."""
        policy: Policy | None = None
        if entry.context is not None:
            policy = parse_context(entry.context, supported_only=False).policy
            if policy.needs_inode_number and not self.keeps_uuid:
                what = f"could not be read under another UUID: policy {policy.describe()}"
                raise BuildError(what, entry.shown)
        if self.block_size == source_block_size:
            return
        self._check_room(entry, source_block_size)
        if entry.type != "file":
            return
        if entry.flags & EXT4_VERITY_FL:
            what = f"fs-verity depends on the block size: it needs blocks of {source_block_size} bytes"
            raise BuildError(what, entry.shown)
        if policy is None or not entry.segments:
            return
        why = self._why_not(policy, entry, source_block_size)
        if why is not None:
            what = f"could not be read in blocks of {self.block_size} bytes: {why}; policy {policy.describe()}"
            raise BuildError(what, entry.shown)

    def _check_room(self, entry: Entry, source_block_size: int) -> None:
        """BuildError for an entry that has room in the source's blocks, but not in the new ones."""
        largest = EXT_MAX_BLOCKS * self.block_size
        if entry.type == "file" and largest < entry.size <= EXT_MAX_BLOCKS * source_block_size:
            what = f"{entry.size} bytes: with blocks of {self.block_size} bytes a file can have at most {largest}"
            raise BuildError(what, entry.shown)
        target = entry.link_target if entry.stored_target is None else entry.stored_target
        if entry.type == "symlink" and self.block_size <= len(target) < source_block_size:
            what = f"a symlink's target of {len(target)} bytes does not fit in a block of {self.block_size}"
            raise BuildError(what, entry.shown)

    def _why_not(self, policy: Policy, entry: Entry, source_block_size: int) -> str | None:
        if not policy.log2_data_unit_size:
            return f"its data units are blocks of {source_block_size} bytes"
        fills = all(
            offset % self.block_size == 0 and length % self.block_size == 0 for offset, length in entry.segments
        )
        if self.block_size > source_block_size and not fills:
            return "its ciphertext does not fill them, and only the key can encrypt the rest"
        return policy.unsupported(self.block_size)
