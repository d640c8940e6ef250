"""Whether the image can change, or changed, while it is read.

A mounted file system keeps contents of files in memory for half a minute, and writes its metadata
when it likes: a reader of the device gets old and new blocks side by side. Nothing on the disk tells
that. So who can write is asked before (`sources.holders`) and after, and what every writer changes is
compared: the superblock, the journal's superblock, size and times of an image file.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from contextlib import suppress
from typing import Final, NamedTuple

from ext4img.errors import LiveSourceError, Place, SourceError
from ext4img.sources.base import Source
from ext4img.sources.holders import ByteRange, Holder, holders_of
from ext4img.structs.superblock import SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE
from ext4img.volume.problems import Problems, SourceInUse
from ext4img.volume.recovery.journal import JournalSuperblock
from ext4img.volume.recovery.recover import read_journal_again
from ext4img.volume.superblock import Superblock

_MOMENT_SECONDS: Final = 0.1


class _Traces(NamedTuple):
    """What others' writing changes; None: it cannot be known, or there is none."""

    superblock: bytes | None
    journal: JournalSuperblock | None
    files: tuple[tuple[int, int, int] | None, ...]  # size, mtime, ctime


class SourceWatch:
    """Watches the sources of a volume from the moment it is opened.

    With `live` the caller knows that others write: that is reported, and `begin` refuses nothing.
    """

    def __init__(self, source: Source, journal_device: Source | None, problems: Problems, live: bool) -> None:
        self._source = source
        self._journal_device = journal_device
        self._problems = problems
        self._live = live
        self._sources = (source,) if journal_device is None else (source, journal_device)
        self._writers: dict[Holder, None] = {}
        self._superblock: Superblock | None = None
        self._before = self._traces(None)
        self._look(processes=False)

    def opened(self, superblock: Superblock, journal: JournalSuperblock | None) -> None:
        """The volume was opened, and read this journal, or none."""
        self._superblock = superblock
        self._before = self._before._replace(journal=journal)

    @property
    def writers(self) -> tuple[Holder, ...]:
        """Who has been seen so far that can write to the image."""
        return tuple(self._writers)

    @property
    def in_words(self) -> list[str]:
        """The same, for a message."""
        return [str(holder) for holder in self._writers]

    def begin(self) -> tuple[str, ...]:
        """Call before all is read that is to be kept: looks again, at the open files of all processes, too.

        LiveSourceError if anyone can write to the image, unless `live`. Returns the kinds of those who can.
        """
        self._look(processes=True)
        if self._writers and not self._live:
            raise LiveSourceError(self.in_words, self._source.name)
        return tuple(sorted({holder.kind for holder in self._writers}))

    def finish(self) -> tuple[str, ...]:
        """Call when all was read: why it may be a mixture, in words; () if nothing speaks for that.

        It is never () where somebody can write: what is still in memory, and not yet written, leaves no trace.
        """
        self._look(processes=True)
        changed = self._changed()
        for what in changed:
            self._problems.add(SourceInUse(what, Place()))
        return (*map(_in_use, self._writers), *changed)

    def _look(self, processes: bool) -> None:
        found = self._writable(processes)
        if any(holder.kind == "process" for holder in found):
            # Some only try whether they may open a device: losetup, whatever device it looks for.
            time.sleep(_MOMENT_SECONDS)
            found = self._writable(processes)
        for holder in found:
            if holder not in self._writers:
                self._writers[holder] = None
                self._problems.add(SourceInUse(_in_use(holder), Place()))

    def _writable(self, processes: bool) -> list[Holder]:
        """Who can write to the sources now."""
        found: list[Holder] = []
        for source in self._sources:
            place = source.place
            if place is not None:
                read = ByteRange(place.start, sys.maxsize if place.end is None else place.end)
                with suppress(OSError):  # it has been closed
                    found += holders_of(place.descriptor, read=read, processes=processes)
        return [holder for holder in found if holder.writable]

    def _changed(self) -> list[str]:
        """What is not as it was when the volume was opened."""
        journal = None
        if self._before.journal is not None and self._superblock is not None:
            journal = read_journal_again(self._source, self._superblock, self._journal_device)
        after = self._traces(journal)
        names = ("the superblock", "the journal", "the image file's size or time")
        pairs = zip(names, self._before, after, strict=True)
        return [f"{name} changed while it was read" for name, before, now in pairs if before != now]

    def _traces(self, journal: JournalSuperblock | None) -> _Traces:
        try:
            superblock = self._source.read_at(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE)
        except SourceError:
            superblock = None
        return _Traces(superblock, journal, tuple(map(_file_of, self._sources)))


def _in_use(holder: Holder) -> str:
    return f"in use, so that what is read may be a mixture of old and new: {holder}"


def _file_of(source: Source) -> tuple[int, int, int] | None:
    """Size and times of an image file, which every write changes; a device has none."""
    place = source.place
    with suppress(OSError):
        status = os.fstat(place.descriptor) if place is not None else None
        if status is not None and stat.S_ISREG(status.st_mode):
            return status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return None
