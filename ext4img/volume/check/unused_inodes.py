"""The check of inodes that are not in use: deleted ones, and the orphans that the next mount would finish."""

from __future__ import annotations

from ext4img.errors import CorruptionError, Ext4Error, Place
from ext4img.structs.inode import EXT4_INODE
from ext4img.volume.blocks import BlockReader
from ext4img.volume.features import Incompat
from ext4img.volume.groups import Groups
from ext4img.volume.inode import StoredInode
from ext4img.volume.inode_table import InodeTable
from ext4img.volume.mapping import Mapper
from ext4img.volume.problems import Problems
from ext4img.volume.volume import Volume


class UnusedInodeChecker:
    """Checks the inodes of one volume that are not in use, one after the other."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._problems = volume.problems
        superblock = volume.superblock
        recovery = volume.recovery
        self._orphans = set(recovery.orphans.deleted) if recovery is not None else set()
        self._own = {superblock.journal_inode, superblock.orphan_file_inode, *superblock.quota_inodes}
        # Clocks that stand at 1970 make deletion times that look like inode numbers.
        times = (superblock.write_time, superblock.mount_time, superblock.mkfs_time)
        self._orphan_limit = superblock.inode_count if all(not t or t >= superblock.inode_count for t in times) else 0

    def check(self, number: int) -> None:
        """Check one inode that is not in use, but not empty."""
        try:
            raw = self._volume.inodes.raw(number)
            self._volume.inodes.verify(number)
        except Ext4Error:
            return  # reported when the table was scanned
        record = EXT4_INODE.unpack(raw)
        if number < self._volume.superblock.first_inode or number in self._own | self._orphans:
            return
        if 0 < record.i_dtime < self._orphan_limit:
            self._found(number, f"was in a list of orphans: its i_dtime is {record.i_dtime}", "i_dtime")
        elif record.i_mode and not record.i_links_count and not record.i_dtime:
            self._found(number, "has no links, but neither a deletion time", "i_dtime")

    def check_orphans(self) -> None:
        """Report the orphans, which recovery has finished in memory.

        They are usual in a file system that needs recovery of its journal. In one that does not they
        mean that it was not unmounted.
        """
        recovery = self._volume.recovery
        if recovery is None:
            return
        deleted, truncated = recovery.orphans
        if recovery.replay is not None or Incompat.RECOVER in self._volume.features:
            count = len(deleted) + len(truncated)
            if count:
                self._problems.remark(f"{count} deleted or truncated files (orphans) are finished in memory")
            return
        for number in deleted:
            self._found(number, "deleted, but not freed: the next mount has to do it (orphan)", "i_dtime")
        for number in truncated:
            inode = self._stored_if_unfinished(number)
            if inode is not None:
                reason = f"truncated to {inode.size} bytes, but not freed: the next mount has to do it (orphan)"
                self._found(number, reason, "i_size_lo")

    def _stored_if_unfinished(self, number: int) -> StoredInode | None:
        """An inode as it is on disk, if that still has blocks past its size."""
        volume, superblock = self._volume, self._volume.superblock
        problems = Problems("off")
        blocks = BlockReader(volume.source, superblock.block_size, superblock.block_count)
        groups = Groups(superblock, blocks, volume.checksum_seed, problems)
        try:
            inode = InodeTable(superblock, groups, blocks, volume.checksum_seed, problems)[number]
            runs = Mapper(superblock, blocks, volume.checksum_seed, problems).runs(inode)
        except Ext4Error:
            return None  # reported by recovery
        end = -(-inode.size // volume.block_size)
        return inode if any(run.end > end for run in runs) else None

    def _found(self, number: int, reason: str, name: str) -> None:
        place = Place(inode=number, record=EXT4_INODE.name, field=name)
        self._problems.found(CorruptionError(reason, place))
