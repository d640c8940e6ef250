"""Orphans: files that were being deleted or truncated when the volume went down.

They are in a list, chained from the superblock through i_dtime, or in the orphan file. After a crash
the kernel deletes those without links and truncates the others to their i_size. Here the first need
nothing, because an inode without links is not shown. The others lose their mappings past the end.
The kernel also sets their times to the moment of the mount; here they keep theirs.

Kernel: ext4_orphan_cleanup, ext4_init_orphan_info (fs/ext4/orphan.c), ext4_orphan_get
(fs/ext4/ialloc.c), ext4_truncate (fs/ext4/inode.c).
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack

from ext4img.errors import CorruptionError, Ext4Error, LimitError, NotFoundError, Place, SourceError
from ext4img.structs.directory import EXT4_MAX_ORPHAN_FILE_BLOCKS, EXT4_ORPHAN_BLOCK_MAGIC, EXT4_ORPHAN_BLOCK_TAIL
from ext4img.structs.inode import EXT4_EXTENTS_FL, EXT4_INODE
from ext4img.structs.superblock import EXT4_ERROR_FS
from ext4img.volume import checksum
from ext4img.volume.features import RoCompat
from ext4img.volume.inode import StoredInode
from ext4img.volume.mapping import Mapper
from ext4img.volume.problems import Problems
from ext4img.volume.recovery.editor import RecoveryEditor
from ext4img.volume.recovery.recovery_report import Orphans
from ext4img.volume.recovery.truncate import BlockMapCut, ExtentCut
from ext4img.volume.runs import LOST, WRITTEN, Runs

_NUMBER_SIZE = 4  # of an inode number in the orphan file
# With one of these the kernel mounts read-only at best, and does not change orphans.
_UNWRITABLE = RoCompat.HAS_SNAPSHOT | RoCompat.REPLICA | RoCompat.SHARED_BLOCKS


def recover_orphans(editor: RecoveryEditor) -> Orphans:
    """Delete or truncate the orphans. Damage goes to the editor's problems.

    As in the kernel, nothing is done on a volume that is marked as having errors, or whose features
    forbid writing.
    """
    ro_compat = editor.superblock.features.ro_compat
    if editor.superblock.state & EXT4_ERROR_FS or ro_compat & (_UNWRITABLE | ~sum(RoCompat)):
        return Orphans()
    recovery = _OrphanRecovery(editor)
    try:
        recovery.run()
    except LimitError as error:
        if editor.problems.checks == "strict":
            raise
        editor.problems.note(f"orphans are only partly recovered: {error}")
    return Orphans(tuple(recovery.deleted), tuple(recovery.truncated))


class _OrphanRecovery:
    def __init__(self, editor: RecoveryEditor) -> None:
        self._editor = editor
        self.deleted: list[int] = []
        self.truncated: list[int] = []
        self._seen: set[int] = set()

    def run(self) -> None:
        for number, place in self._numbers():
            try:
                self._recover(number, place)
            except (CorruptionError, SourceError) as error:
                self._failed(error, place)

    def _numbers(self) -> Iterator[tuple[int, Place]]:
        yield from self._listed()
        if self._editor.superblock.orphan_file_inode:
            try:
                yield from self._filed(self._editor.superblock.orphan_file_inode)
            except NotFoundError:
                self._failed(CorruptionError("the orphan file is not in use"), Place())
            except (CorruptionError, SourceError) as error:
                self._failed(error, Place(inode=self._editor.superblock.orphan_file_inode))

    def _listed(self) -> Iterator[tuple[int, Place]]:
        """The chain from s_last_orphan through i_dtime."""
        superblock = self._editor.superblock
        number = superblock.last_orphan
        while number:
            place = Place(inode=number, record=EXT4_INODE.name, field="i_dtime")
            if not superblock.first_inode <= number <= superblock.inode_count:
                self._failed(CorruptionError(f"the orphan list names inode {number}", place), place)
                return
            if number in self._seen:
                self._failed(CorruptionError("the orphan list is a loop", place), place)
                return
            try:
                raw = self._editor.raw_inode(number)
            except (CorruptionError, SourceError) as error:
                self._failed(error, place)
                return
            following = EXT4_INODE.unpack(raw).i_dtime
            yield number, place
            number = following

    def _filed(self, number: int) -> Iterator[tuple[int, Place]]:
        """The numbers in the orphan file's blocks."""
        editor, superblock = self._editor, self._editor.superblock
        inode = editor.inode(number, verify=True)
        size = superblock.block_size
        count = inode.size // size
        if count > EXT4_MAX_ORPHAN_FILE_BLOCKS:
            raise CorruptionError(f"the orphan file has {count} blocks", Place(inode=number))
        at_tail = size - EXT4_ORPHAN_BLOCK_TAIL.size
        seed = editor.inode_seed(number)
        for pblk in _blocks(_sound_runs(editor, inode), count, inode.number):
            place = Place(inode=number, block=pblk, record=EXT4_ORPHAN_BLOCK_TAIL.name)
            block = editor.read(pblk)
            magic, stored = EXT4_ORPHAN_BLOCK_TAIL.unpack_tuple(block, at_tail)
            if magic != EXT4_ORPHAN_BLOCK_MAGIC:
                raise CorruptionError(f"orphan file block has magic {magic:#x}", place)
            if editor.has_checksums and editor.problems.verify:
                computed = checksum.orphan_block(seed, pblk, block[:at_tail])
                if computed != stored:
                    editor.problems.checksum("orphan file block", stored, computed, place)
            for orphan in unpack(f"<{at_tail // _NUMBER_SIZE}I", block[:at_tail]):
                if not orphan:
                    continue
                if superblock.first_inode <= orphan <= superblock.inode_count:
                    if orphan not in self._seen:
                        yield orphan, place
                else:
                    self._failed(CorruptionError(f"the orphan file names inode {orphan}", place), place)

    def _recover(self, number: int, place: Place) -> None:
        self._seen.add(number)
        editor = self._editor
        raw = editor.raw_inode(number)
        inode = editor.parsed(number, raw)
        if not inode.mode:
            raise CorruptionError("the orphan is an inode that is not in use", place)
        if not inode.links:
            self.deleted.append(number)
            return
        inode = editor.inode(number, verify=True)
        if not (inode.is_file or inode.is_dir or inode.is_symlink):
            raise CorruptionError(f"the orphan is a {inode.type} with links", place)
        self._truncate(inode)
        if inode.dtime:  # it was the next number in the list; now it is in none (ext4_orphan_del)
            editor.change_inode(number, i_dtime=0)
        self.truncated.append(number)

    def _truncate(self, inode: StoredInode) -> None:
        """Unmap the blocks past i_size, and correct i_blocks."""
        editor, superblock = self._editor, self._editor.superblock
        end = -(-inode.size // superblock.block_size)
        if inode.has_inline_data or not any(run.end > end for run in _sound_runs(editor, inode)):
            return
        cut = ExtentCut if inode.flags & EXT4_EXTENTS_FL else BlockMapCut
        i_block, clusters = cut(editor, inode.number, end).cut(inode.block_area)
        if inode.xattr_block:
            clusters += 1
        editor.change_inode(inode.number, i_block=i_block)
        editor.set_sectors(inode.number, clusters * superblock.cluster_size // superblock.block_size)

    def _failed(self, error: Ext4Error, place: Place) -> None:
        if isinstance(error, CorruptionError):
            self._editor.problems.found(error)
        elif self._editor.problems.checks == "strict":
            raise error
        else:
            self._editor.problems.found(CorruptionError(str(error), place))


def _sound_runs(editor: RecoveryEditor, inode: StoredInode) -> Runs:
    """The inode's runs; CorruptionError for a damaged mapping."""
    checks = Problems("strict" if editor.problems.verify else "off")
    runs = Mapper(editor.superblock, editor.blocks, editor.seed, checks).runs(inode)
    if any(run.state == LOST for run in runs):
        raise CorruptionError("the mapping is damaged; recovery does not change it", Place(inode=inode.number))
    return runs


def _blocks(runs: Runs, count: int, number: int) -> Iterator[int]:
    """Physical blocks of logical blocks 0 to `count` - 1."""
    reached = 0
    for run in runs:
        if reached >= count:
            return
        if run.lblk != reached or run.state != WRITTEN:
            break
        yield from range(run.pblk, run.pblk + min(run.length, count - reached))
        reached = run.end
    if reached < count:
        raise CorruptionError(f"the orphan file has a hole at logical block {reached}", Place(inode=number))
