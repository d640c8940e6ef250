"""Open a backup of any kind: an archive, a tree that a stock tool extracted from one, a directory store."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final, Protocol, runtime_checkable

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.entry import Entry, Segments
from ext4img.archive.input import ArchiveSource
from ext4img.archive.loss import Losses
from ext4img.archive.reader import Archive
from ext4img.errors import TruncatedArchiveError

_MIXTURE: Final = ": it may be a mixture of old and new"


class BackupMember(Protocol):
    """One entry and its body, which can be read once, before the next member."""

    entry: Entry
    data_size: int
    unreadable: Segments

    @property
    def position(self) -> int:
        """Where it starts, in bytes of the backup: for progress. It ascends from member to member."""

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """(offset in the body, at most 1 MiB of data), ascending, without holes."""

    def read_digest(self) -> str:
        """Read the whole body: the SHA-256 of its data, holes left out, in hex."""

    def read(self) -> bytes:
        """The whole body, holes as zeros: for small ones."""


@runtime_checkable
class BackupSource(Protocol):
    """A backup, open for reading; see `Archive`."""

    info: BackupInfo

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def seekable(self) -> bool:
        """Whether each member has been verified once it has been read."""

    @property
    def losses(self) -> Losses:
        """What the backup lacks of the image; of a stream it is known after the last member."""

    @property
    def total_bytes(self) -> int | None:
        """The limit of `BackupMember.position`, if known: for progress."""

    def members(self, *, verify: bool = False) -> Iterator[BackupMember]:
        """All members, depth first, names in byte order; verity trees after all else."""

    def member(self, path: bytes) -> BackupMember:
        """The member of a tree path. NotFoundError if there is none."""

    def close(self) -> None:
        """Close the backup. May be called twice."""


def open_backup(source: ArchiveSource, bases: Sequence[ArchiveSource] = (), *, salvage: bool = False) -> BackupSource:
    """Open a backup of any kind. ArchiveError if it is not one.

    The archives that an incremental archive is based on are looked for in `bases`, then in its own
    directory. With `salvage` an archive that was cut short is read as a stream, up to its end, which
    raises TruncatedArchiveError.
    """
    if isinstance(source, (str, bytes, os.PathLike)) and _is_directory(os.fsdecode(source)):
        from ext4img.archive.directory_store import DirectoryStore
        from ext4img.archive.extracted_tree import ExtractedTree

        path = os.fsdecode(source)
        return DirectoryStore(path) if DirectoryStore.is_store(path) else ExtractedTree(path)
    try:
        archive = Archive(source)
    except TruncatedArchiveError:
        if not salvage or not isinstance(source, (str, bytes, os.PathLike)):
            raise
        return _TruncatedArchive(os.fsdecode(source))
    if not archive.info.requires:
        return archive
    from ext4img.archive.incremental_chain import IncrementalChain

    return IncrementalChain(archive, bases)


def recorded_changes(backup: BackupSource) -> tuple[str, ...]:
    """Why what a backup holds may be a mixture of old and new, as it was recorded; of a stream known at its end."""
    closing = getattr(backup, "closing", None)
    if backup.info.live:
        return (f"its backup was made while others could write to the image ({', '.join(backup.info.live)}){_MIXTURE}",)
    return (
        (f"the image changed while its backup was made{_MIXTURE}",) if closing is not None and closing.changed else ()
    )


class _UnseekableFile(io.FileIO):
    """A file that can be read only from its start to its end."""

    def seekable(self) -> bool:
        return False


class _TruncatedArchive(Archive):
    """An archive file that was cut short, read as a stream."""

    def __init__(self, path: str) -> None:
        self._file = _UnseekableFile(path)
        super().__init__(self._file)

    def close(self) -> None:
        super().close()
        self._file.close()


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False
