"""The whole check, in an order in which each part has the results of others that it needs."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from ext4img.errors import ChecksumError, CorruptionError, Place, SourceError
from ext4img.progress import Progress
from ext4img.structs.directory import EXT4_ORPHAN_BLOCK_MAGIC, EXT4_ORPHAN_BLOCK_TAIL
from ext4img.volume import checksum
from ext4img.volume.check.bitmaps import check_bitmaps
from ext4img.volume.check.block_owners import FILE_SYSTEM, BlockOwners, Overlap
from ext4img.volume.check.directories import DirectoryChecker
from ext4img.volume.check.encryption import EncryptionChecker
from ext4img.volume.check.htree import IndexChecker
from ext4img.volume.check.inodes import InodeChecker
from ext4img.volume.check.links import LinkChecker
from ext4img.volume.check.quota import QuotaChecker
from ext4img.volume.check.superblocks import add_file_system_blocks, check_superblocks
from ext4img.volume.check.unused_inodes import UnusedInodeChecker
from ext4img.volume.features import RoCompat
from ext4img.volume.inode import StoredInode
from ext4img.volume.runs import WRITTEN, Runs
from ext4img.volume.volume import Volume

_PROGRESS_EVERY = 512
_WINDOW_BYTES = 1 << 20
MAX_OVERLAPS = 1000


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """What was checked, and how many problems the volume now has, including those of opening it.

    `remarks` are not among the `problems`, though both are in the volume's list: ext4 tolerates what they say.
    """

    inodes: int
    directories: int
    names: int
    blocks_used: int
    bytes_read: int
    problems: int
    problems_dropped: int
    remarks: int

    @property
    def sound(self) -> bool:
        """Whether there are no problems; remarks do not count."""
        return not self.problems


def run_check(volume: Volume, *, contents: bool = False, progress: Progress | None = None) -> CheckSummary:
    """Check a whole volume; the problems are added to `volume.problems`.

    The volume should be open with checks="report". With "strict" the first problem is raised,
    with "off" none is noted. `contents` reads all files, too, to find unreadable parts: contents have no
    checksums. `progress` is called with the inodes done and their total.
    """
    return _CheckRun(volume, contents, progress or (lambda done, total: None)).run()


class _CheckRun:
    def __init__(self, volume: Volume, contents: bool, progress: Progress) -> None:
        self.volume = volume
        self.contents = contents
        self.progress = progress
        self.owners = BlockOwners()
        self.inodes = InodeChecker(volume, self.owners)
        self.directories = DirectoryChecker(volume)
        self.index = IndexChecker(volume)
        self.encryption = EncryptionChecker(volume)
        self.quota = QuotaChecker(volume)
        self.unused = UnusedInodeChecker(volume)
        self.bytes_read = 0

    def run(self) -> CheckSummary:
        volume, tables = self.volume, self.inodes.tables
        add_file_system_blocks(volume, self.owners)
        check_superblocks(volume)
        self.inodes.check_reserved()
        total = volume.superblock.inode_count
        for count, inode in enumerate(volume.inodes.scan(on_unused=self.unused.check)):
            if count % _PROGRESS_EVERY == 0:
                self.progress(inode.number, total)
            self.check_inode(inode)
        self.progress(total, total)
        self.unused.check_orphans()
        orphans = self.add_orphans()
        self.inodes.finish()
        names = self.directories.references
        LinkChecker(volume, tables, names).check()
        self.encryption.check_children(names.parents, names.children, tables)
        if RoCompat.SHARED_BLOCKS not in volume.features:
            self.check_overlaps()
        self.check_end()
        if not self.recovered_without_bitmaps():
            numbers, directories = tables.numbers, tables.directories
            if orphans:
                numbers = array("I", sorted((*numbers, *(inode.number for inode in orphans))))
                gone = (inode.number for inode in orphans if inode.is_dir)
                directories = array("I", sorted((*directories, *gone)))
            check_bitmaps(volume, self.owners, numbers, directories)
            self.quota.finish()
        starts, ends = self.owners.used(1, 0)
        return CheckSummary(
            inodes=len(tables.numbers),
            directories=len(tables.directories),
            names=len(self.directories.references.children),
            blocks_used=int((ends - starts).sum()),
            bytes_read=self.bytes_read,
            problems=volume.problems.damages - volume.problems.dropped,
            problems_dropped=volume.problems.dropped,
            remarks=volume.problems.remarks,
        )

    def recovered_without_bitmaps(self) -> bool:
        """Whether recovery in memory freed or allocated blocks of files: it does not change the bitmaps."""
        recovery = self.volume.recovery
        return recovery is not None and bool(recovery.fast_commits.tags or recovery.orphans.truncated)

    def add_orphans(self) -> list[StoredInode]:
        """Add the blocks of deleted orphans, which bitmaps and quota still count. Returns their inodes."""
        recovery = self.volume.recovery
        deleted = [self.volume.inode(number) for number in recovery.orphans.deleted] if recovery is not None else []
        for inode in deleted:
            self.inodes.add_orphan(inode)
            self.quota.add(inode, 0)
        return deleted

    def check_inode(self, inode: StoredInode) -> None:
        mapping, values = self.inodes.check(inode)
        self.quota.add(inode, values.number)
        if inode.is_encrypted:
            self.encryption.check(inode)
        if inode.is_dir:
            self.directories.check(inode, mapping.runs)
            self.index.check(inode, mapping.runs)
        elif inode.number == self.volume.superblock.orphan_file_inode:
            self.check_orphan_file(inode, mapping.runs)
        elif self.contents and inode.is_file:
            self.read_contents(inode)

    def check_overlaps(self) -> None:
        for count, overlap in enumerate(self.owners.overlaps()):
            if count == MAX_OVERLAPS:
                self.volume.problems.found(CorruptionError(f"over {MAX_OVERLAPS} ranges have two owners"))
                return
            self.volume.problems.found(_overlapping(overlap))

    def check_end(self) -> None:
        """Check that the image has all blocks of files. Its unused end may be cut off."""
        for count, (start, end, owner) in enumerate(self.owners.files_past(self.volume.blocks.blocks_there)):
            if count == MAX_OVERLAPS:
                return
            reason = f"blocks {start} to {end - 1} are in use, but past the end of the image"
            self.volume.problems.found(CorruptionError(reason, Place(inode=owner, block=start)))

    def check_orphan_file(self, inode: StoredInode, runs: Runs) -> None:
        """Check magic and checksum of the orphan file's blocks (kernel: fs/ext4/orphan.c)."""
        volume = self.volume
        seed = checksum.inode_seed(volume.checksum_seed, inode.number, inode.generation)
        for run in runs:
            if run.state != WRITTEN:
                continue
            for pblk in range(run.pblk, run.pblk + run.length):
                place = Place(inode=inode.number, block=pblk, record=EXT4_ORPHAN_BLOCK_TAIL.name)
                try:
                    data = volume.blocks.read(pblk)
                except (CorruptionError, SourceError) as error:
                    volume.problems.unreadable(error, place)
                    continue
                tail = len(data) - EXT4_ORPHAN_BLOCK_TAIL.size
                magic, stored = EXT4_ORPHAN_BLOCK_TAIL.unpack_tuple(data, tail)
                if magic != EXT4_ORPHAN_BLOCK_MAGIC:
                    volume.problems.found(CorruptionError(f"orphan file block has magic {magic:#x}", place))
                elif volume.superblock.has_metadata_checksums and volume.problems.verify:
                    computed = checksum.orphan_block(seed, pblk, data[:tail])
                    if stored != computed:
                        reason = f"orphan file block checksum is {stored:#x}, computed {computed:#x}"
                        volume.problems.found(ChecksumError(reason, place))

    def read_contents(self, inode: StoredInode) -> None:
        """Read the written parts of a file; unreadable ones are reported with their ranges."""
        contents = self.volume.contents(inode)
        for offset, length in contents.segments():
            for start in range(offset, offset + length, _WINDOW_BYTES):
                count = min(_WINDOW_BYTES, offset + length - start)
                self.bytes_read += len(contents.read(start, count))


def _overlapping(overlap: Overlap) -> CorruptionError:
    start, end, first, second = overlap
    which = f"block {start}" if end - start == 1 else f"blocks {start} to {end - 1}"
    verb = "is" if end - start == 1 else "are"
    if first == second:
        return CorruptionError(f"{which} {verb} used twice by the same inode", Place(inode=first, block=start))
    owners = ("the file system itself" if owner == FILE_SYSTEM else f"inode {owner}" for owner in (first, second))
    place = Place(inode=second or first or None, block=start)
    return CorruptionError(f"{which} {verb} used by {' and '.join(owners)}", place)
