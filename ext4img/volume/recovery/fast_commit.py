"""Fast commits: the changes to files and names since the last full commit.

The scan finds the complete commits. Each ends in a TAIL with a checksum and the number that the next
full transaction would have had. Behind them there may be leftovers of earlier commits, which are not
damage. Replay then applies each tag in order, as the kernel's replay does on disk: it overwrites
inodes, maps and unmaps ranges, adds and removes names.

Kernel: ext4_fc_replay_scan, ext4_fc_replay and the functions they call (fs/ext4/fast_commit.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from google_crc32c import extend

from ext4img.errors import (
    ChecksumError,
    CorruptionError,
    Ext4Error,
    LimitError,
    NotFoundError,
    Place,
    SourceError,
    UnsupportedFeatureError,
)
from ext4img.structs.directory import EXT4_NAME_LEN
from ext4img.structs.extent import EXT4_EXT_MAGIC, EXT4_EXTENT, EXT4_EXTENT_HEADER, EXT_INIT_MAX_LEN
from ext4img.structs.fast_commit import (
    EXT4_FC_ADD_RANGE,
    EXT4_FC_DEL_RANGE,
    EXT4_FC_DENTRY_INFO,
    EXT4_FC_HEAD,
    EXT4_FC_INODE,
    EXT4_FC_SUPPORTED_FEATURES,
    EXT4_FC_TAG_ADD_RANGE,
    EXT4_FC_TAG_CREAT,
    EXT4_FC_TAG_DEL_RANGE,
    EXT4_FC_TAG_HEAD,
    EXT4_FC_TAG_INODE,
    EXT4_FC_TAG_LINK,
    EXT4_FC_TAG_PAD,
    EXT4_FC_TAG_TAIL,
    EXT4_FC_TAG_UNLINK,
    EXT4_FC_TAIL,
    EXT4_FC_TL,
)
from ext4img.structs.inode import EXT4_EXTENTS_FL, EXT4_INLINE_DATA_FL, EXT4_INODE
from ext4img.structs.superblock import EXT4_GOOD_OLD_INODE_SIZE
from ext4img.volume.extent_tree import EMPTY_ROOT
from ext4img.volume.inode import StoredInode
from ext4img.volume.problems import Problems
from ext4img.volume.recovery.directory import RecoveryDirectory, RemoveResult
from ext4img.volume.recovery.editor import RecoveryEditor
from ext4img.volume.recovery.extents import RecoveryExtents
from ext4img.volume.recovery.journal import JournalSource, JournalSuperblock
from ext4img.volume.recovery.recovery_report import FastCommits
from ext4img.volume.runs import LBLK_END, UNWRITTEN, WRITTEN, Run

MAX_TAGS = 1_000_000
MAX_BLOCKS_BEHIND = 4096
_INVERT = 0xFFFFFFFF
_I_BLOCK = EXT4_INODE.offset_of("i_block")
_I_GENERATION = EXT4_INODE.offset_of("i_generation")
_NAME_TAGS = (EXT4_FC_TAG_CREAT, EXT4_FC_TAG_LINK, EXT4_FC_TAG_UNLINK)


class _FastCommitTag(NamedTuple):
    kind: int
    value: bytes
    raw: bytes  # with its header
    block: int  # of the journal
    end: int  # byte offset in that block
    place: Place


def scan_fast_commits(
    journal: JournalSource, superblock: JournalSuperblock, sequence: int, inode_size: int, problems: Problems
) -> FastCommits:
    """The fast commits that follow the last transaction of the log; `sequence` is their number.

    If the first commit is damaged, the kernel refuses to mount; here a CorruptionError goes to
    `problems`.
    """
    scan = _FastCommitScan(sequence, problems)
    try:
        for tag in _tags(journal, superblock, inode_size):
            if not scan.handle(tag):
                break
    except CorruptionError as error:
        if not scan.found.commits:  # otherwise leftovers of earlier commits begin here
            scan.damaged(error)
    except SourceError as error:
        scan.damaged(CorruptionError(f"fast commits cannot be read: {error}"))
    if not scan.reported_damage:
        scan.look_behind(journal, superblock)
    return scan.found


class _FastCommitScan:
    def __init__(self, sequence: int, problems: Problems) -> None:
        self._sequence = sequence
        self._problems = problems
        self._crc = 0
        self._tags = 0
        self._ranges: list[tuple[int, int]] = []
        self._end: tuple[int, int] | None = None  # (journal block, byte offset in it) behind the last whole commit
        self.found = FastCommits()
        self.reported_damage = False

    def handle(self, tag: _FastCommitTag) -> bool:
        """Handle one more tag; False at the end."""
        if self._tags == 0 and tag.kind != EXT4_FC_TAG_HEAD:
            return False
        if self._tags >= MAX_TAGS:
            self.damaged(CorruptionError(f"more than {MAX_TAGS} fast commit tags", tag.place))
            return False
        if tag.kind == EXT4_FC_TAG_HEAD:
            head: Any = EXT4_FC_HEAD.unpack(tag.value)
            if head.fc_features & ~EXT4_FC_SUPPORTED_FEATURES:
                names = (f"fast commit FEATURE_{head.fc_features:#x}",)
                raise UnsupportedFeatureError(f"unknown features of fast commits: {names[0]}", names)
            if head.fc_tid != self._sequence:
                return False  # a leftover from before a full commit
        self._tags += 1
        if tag.kind == EXT4_FC_TAG_TAIL:
            return self._tail(tag)
        self._add(tag.raw)
        if tag.kind == EXT4_FC_TAG_ADD_RANGE:
            run = _range(tag)[1]
            self._ranges.append((run.pblk, run.pblk + run.length))
        return True

    def damaged(self, error: CorruptionError) -> None:
        """Behind a complete commit this may be an interrupted one: reported, but never raised."""
        self.reported_damage = True
        if self.found.commits:
            self._problems.note(f"fast commits end early: {error.reason}", error.place)
        else:
            self._problems.found(error)

    def _tail(self, tag: _FastCommitTag) -> bool:
        tail: Any = EXT4_FC_TAIL.unpack(tag.value)
        checked = EXT4_FC_TL.size + EXT4_FC_TAIL.offset_of("fc_crc")
        number_at = EXT4_FC_TL.size + EXT4_FC_TAIL.offset_of("fc_tid")
        due = self._extended(tag.raw[:number_at] + self._sequence.to_bytes(4, "little"))
        self._add(tag.raw[:checked])
        crc, self._crc = self._crc, 0
        if tail.fc_tid == self._sequence and (tail.fc_crc == crc or not self._problems.verify):
            self.found = FastCommits(self.found.commits + 1, self._tags, tuple(self._ranges))
            self._end = tag.block, tag.end
            return True
        if tail.fc_tid == self._sequence:
            self.damaged(ChecksumError(f"fast commit checksum is {tail.fc_crc:#x}, computed {crc:#x}", tag.place))
        elif not self.found.commits or tail.fc_crc == due:
            self.damaged(CorruptionError(f"fast commit ends as number {tail.fc_tid}, not {self._sequence}", tag.place))
        return False

    def look_behind(self, journal: JournalSource, superblock: JournalSuperblock) -> None:
        """Note a later end of a commit with the expected number: then the beginning of that commit is damaged.

        It is never raised: an interrupted commit looks the same if the disk did not write in order.
        """
        index, offset = self._end or (superblock.fast_commit_first, 0)
        last = min(superblock.length, index + MAX_BLOCKS_BEHIND)
        tail = re.compile(
            re.escape(EXT4_FC_TAG_TAIL.to_bytes(2, "little"))
            + b"(?s:..)"
            + re.escape(self._sequence.to_bytes(4, "little"))
        )
        try:
            for at, block in journal.read_each(range(index, last)):
                if tail.search(block, offset if at == index else 0):
                    reason = f"fast commits end early: another with number {self._sequence} ends behind them"
                    self._problems.note(reason, journal.place(at, EXT4_FC_TAIL.name))
                    return
        except (CorruptionError, SourceError):
            return  # all that is needed has been read; this only looks for damage

    def _add(self, raw: bytes) -> None:
        self._crc = self._extended(raw)

    def _extended(self, raw: bytes) -> int:
        return int(extend(self._crc ^ _INVERT, raw)) ^ _INVERT


def _tags(journal: JournalSource, superblock: JournalSuperblock, inode_size: int) -> Iterator[_FastCommitTag]:
    """The tags of the fast commit area; none if it does not begin with a HEAD.

    CorruptionError for an unknown tag, or one with a wrong length.
    """
    size = superblock.block_size
    for index, block in journal.read_each(range(superblock.fast_commit_first, superblock.length)):
        place = journal.place(index, EXT4_FC_TL.name)
        offset = 0
        while offset + EXT4_FC_TL.size <= size:
            kind, length = EXT4_FC_TL.unpack_tuple(block, offset)
            if index == superblock.fast_commit_first and offset == 0 and kind != EXT4_FC_TAG_HEAD:
                return
            start = offset + EXT4_FC_TL.size
            end = start + length
            if end > size or not _length_fits(kind, length, inode_size):
                raise CorruptionError(f"fast commit tag {kind} of {length} bytes", place)
            yield _FastCommitTag(kind, block[start:end], block[offset:end], index, end, place)
            offset = end


def _length_fits(kind: int, length: int, inode_size: int) -> bool:
    """Kernel: ext4_fc_value_len_isvalid."""
    if kind in _NAME_TAGS:
        return 1 <= length - EXT4_FC_DENTRY_INFO.size <= EXT4_NAME_LEN
    if kind == EXT4_FC_TAG_INODE:
        return EXT4_GOOD_OLD_INODE_SIZE <= length - EXT4_FC_INODE.size <= inode_size
    if kind == EXT4_FC_TAG_TAIL:
        return length >= EXT4_FC_TAIL.size
    exact = {
        EXT4_FC_TAG_ADD_RANGE: EXT4_FC_ADD_RANGE.size,
        EXT4_FC_TAG_DEL_RANGE: EXT4_FC_DEL_RANGE.size,
        EXT4_FC_TAG_HEAD: EXT4_FC_HEAD.size,
    }
    return kind == EXT4_FC_TAG_PAD or exact.get(kind) == length


def _range(tag: _FastCommitTag) -> tuple[int, Run]:
    """(inode, run) of an ADD_RANGE."""
    record: Any = EXT4_FC_ADD_RANGE.unpack(tag.value)
    extent: Any = EXT4_EXTENT.unpack(record.fc_ex)
    unwritten = extent.ee_len > EXT_INIT_MAX_LEN
    length = extent.ee_len - EXT_INIT_MAX_LEN if unwritten else extent.ee_len
    pblk = extent.ee_start_lo | extent.ee_start_hi << 32
    return record.fc_ino, Run(extent.ee_block, pblk, length, UNWRITTEN if unwritten else WRITTEN)


def replay_fast_commits(
    journal: JournalSource, superblock: JournalSuperblock, found: FastCommits, editor: RecoveryEditor
) -> None:
    """Apply the first `found.tags` tags. Those that cannot be applied go to the editor's problems."""
    replay = _FastCommitReplay(editor)
    try:
        for tag in islice(_tags(journal, superblock, editor.superblock.inode_size), found.tags):
            replay.apply(tag)
        replay.finish()
    except LimitError as error:
        if editor.problems.checks == "strict":
            raise
        editor.problems.note(f"fast commits are only partly replayed: {error}")


class _FastCommitReplay:
    def __init__(self, editor: RecoveryEditor) -> None:
        self._editor = editor
        self._extents = RecoveryExtents(editor)
        self._steps = {
            EXT4_FC_TAG_ADD_RANGE: self._add_range,
            EXT4_FC_TAG_DEL_RANGE: self._remove_range,
            EXT4_FC_TAG_CREAT: self._create,
            EXT4_FC_TAG_LINK: self._link,
            EXT4_FC_TAG_UNLINK: self._unlink,
            EXT4_FC_TAG_INODE: self._write_inode,
        }

    def apply(self, tag: _FastCommitTag) -> None:
        step = self._steps.get(tag.kind)
        if step is None:
            return
        try:
            step(tag)
        except NotFoundError:
            # As in the kernel: the inode was created and deleted since the last full commit, or it
            # still has inline data and a later tag gives it an extent tree.
            return
        except (CorruptionError, UnsupportedFeatureError, SourceError) as error:
            self._failed(error, tag.place)

    def finish(self) -> None:
        """Write the extent trees."""
        try:
            self._extents.flush()
        except (CorruptionError, SourceError) as error:
            self._failed(error, Place())

    def _failed(self, error: Ext4Error, place: Place) -> None:
        if self._editor.problems.checks == "strict":
            raise error
        where = error.place if isinstance(error, CorruptionError) else place
        reason = error.reason if isinstance(error, CorruptionError) else str(error)
        self._editor.problems.found(CorruptionError(f"fast commit not replayed: {reason}", where))

    # Ranges

    def _add_range(self, tag: _FastCommitTag) -> None:
        number, run = _range(tag)
        if run.length == 0:
            return
        self._editor.inode(number)
        superblock = self._editor.superblock
        if run.pblk <= superblock.first_data_block or run.pblk + run.length > superblock.block_count:
            reason = f"a range of blocks {run.pblk} to {run.pblk + run.length}, the volume has {superblock.block_count}"
            raise CorruptionError(reason, Place(inode=number))
        if run.end > LBLK_END:
            raise CorruptionError(f"a range of logical blocks {run.lblk} to {run.end}", Place(inode=number))
        self._extents.add(number, run)

    def _remove_range(self, tag: _FastCommitTag) -> None:
        record: Any = EXT4_FC_DEL_RANGE.unpack(tag.value)
        self._editor.inode(record.fc_ino)
        if record.fc_len:
            self._extents.remove(record.fc_ino, record.fc_lblk, record.fc_lblk + record.fc_len)

    # Inodes

    def _write_inode(self, tag: _FastCommitTag) -> None:
        """Replace the inode except for i_block, which the range tags change; only inline data is copied there."""
        number = EXT4_FC_INODE.unpack_tuple(tag.value, 0)[0]
        new = tag.value[EXT4_FC_INODE.size :]
        editor = self._editor
        old = editor.raw_inode(number)
        i_block = old[_I_BLOCK:_I_GENERATION]
        flags = EXT4_INODE.unpack_tuple(new, 0)[EXT4_INODE.raw._fields.index("i_flags")]
        if flags & EXT4_EXTENTS_FL:
            if EXT4_EXTENT_HEADER.unpack_tuple(i_block, 0)[0] != EXT4_EXT_MAGIC:
                i_block = EMPTY_ROOT
                self._extents.forget(number)
        elif flags & EXT4_INLINE_DATA_FL:
            i_block = new[_I_BLOCK:_I_GENERATION]
            self._extents.forget(number)
        editor.write_inode(number, new[:_I_BLOCK] + i_block + new[_I_GENERATION:] + old[len(new) :])
        editor.mark_inode_used(number)
        if flags & EXT4_EXTENTS_FL and not flags & EXT4_INLINE_DATA_FL and editor.inode(number).links:
            editor.set_sectors(number, self._extents.blocks(number))

    def _delete(self, inode: StoredInode) -> None:
        """Delete an inode that has lost its last name (ext4_evict_inode)."""
        self._extents.forget(inode.number)
        fields: dict[str, int | bytes] = {
            "i_links_count": 0,
            "i_size_lo": 0,
            "i_size_high": 0,
            "i_blocks_lo": 0,
            "l_i_blocks_high": 0,
            "i_file_acl_lo": 0,
            "l_i_file_acl_high": 0,
            "i_dtime": self._editor.superblock.write_time & 0xFFFFFFFF or 1,
        }
        if inode.flags & EXT4_EXTENTS_FL:
            fields["i_block"] = EMPTY_ROOT
        self._editor.change_inode(inode.number, **fields)

    # Names

    def _names(self, tag: _FastCommitTag) -> tuple[int, int, bytes]:
        """(parent, inode, name)"""
        parent, number = EXT4_FC_DENTRY_INFO.unpack_tuple(tag.value, 0)
        return parent, number, tag.value[EXT4_FC_DENTRY_INFO.size :]

    def _directory(self, number: int) -> RecoveryDirectory:
        return RecoveryDirectory(self._editor, self._extents, self._editor.inode(number))

    def _create(self, tag: _FastCommitTag) -> None:
        parent, number, name = self._names(tag)
        self._editor.mark_inode_used(number)
        inode = self._editor.inode(number)
        directory = self._directory(parent)
        if inode.is_dir:
            self._directory(number).initialise(parent)
        directory.add(name, number, inode.mode)
        self._editor.change_inode(number, i_links_count=1)

    def _link(self, tag: _FastCommitTag) -> None:
        parent, number, name = self._names(tag)
        inode = self._editor.inode(number)
        if self._directory(parent).add(name, number, inode.mode):
            self._editor.change_inode(number, i_links_count=min(inode.links + 1, 0xFFFF))

    def _unlink(self, tag: _FastCommitTag) -> None:
        parent, number, name = self._names(tag)
        inode = self._editor.inode(number)
        if self._directory(parent).remove(name, number) is RemoveResult.ABSENT:
            return
        if inode.links > 1:
            self._editor.change_inode(number, i_links_count=inode.links - 1)
        else:
            self._delete(inode)
