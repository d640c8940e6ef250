"""Making a backup: from a file system to an archive or a directory store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import BinaryIO, Final, Literal, Protocol, cast, get_args

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.body import BodyStream
from ext4img.archive.digest_thread import DigestThread
from ext4img.archive.entry import Entry
from ext4img.archive.incremental_base import INCREMENTAL, IncrementalBase
from ext4img.archive.input import ArchiveSource
from ext4img.archive.loss import Loss
from ext4img.archive.manifest_line import Closing, ManifestLine
from ext4img.archive.output import ArchiveDestination, open_output
from ext4img.archive.reader import Archive
from ext4img.archive.stored_form import has_same_attributes, has_same_data
from ext4img.archive.writer import ArchiveWriter
from ext4img.archive.zstd_frames import FrameWriter
from ext4img.archiver.collect import TreeScanner
from ext4img.archiver.exclude import ExcludeFilter
from ext4img.errors import ArchiveError, Ext4Error
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.path import PathLike
from ext4img.interruption import checkpoint, deferred
from ext4img.progress import Progress
from ext4img.volume.last_write import last_write_s, was_in_use

RACY_WINDOW_S: Final = 120
"""The kernel writes dirty pages within 35 seconds, unless vm.dirty_expire_centisecs says otherwise."""
_NS: Final = 1_000_000_000


Compare = Literal["times", "contents"]


class _EntryWriter(Protocol):
    """Writes entries in one of the formats."""

    position: int

    def add(self, entry: Entry, body: BodyStream | None = None) -> None: ...

    def add_unchanged(self, entry: Entry, line: ManifestLine, archive: int) -> None: ...

    def add_loss(self, loss: Loss) -> None: ...

    def finish(
        self, chain: tuple[str, ...] = (), last_write_s: int | None = None, *, changed: bool = False
    ) -> Closing: ...


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup wrote.

    `members` counts the names in the tree and the verity trees, as `verify` does, without the
    archive's own files. `incomplete` counts members with parts that could not be read, `losses` whatever else
    could not be read: names in directories, attributes, whole entries. `bytes` is the size of the
    archive before compression. `unchanged` files are in earlier archives; `reread` of them were read
    again, because their times left a doubt or contents were compared. `times_may_lag`: files were
    compared by their times in an image of a file system in use, whose latest contents may be on the disk
    before the inode's new times are.
    """

    members: int
    bytes: int
    incomplete: int
    digest: str
    """SHA-256 of the manifest's lines, in hex. It identifies the whole archive."""
    unchanged: int = 0
    reread: int = 0
    times_may_lag: bool = False
    losses: int = 0
    changes: tuple[str, ...] = ()
    """Why it may be a mixture of old and new: who could write to the image meanwhile, what changed."""


def backup(
    fs: FileSystem,
    destination: ArchiveDestination,
    *,
    only: Sequence[PathLike] = (),
    exclude: Sequence[str] = (),
    encrypted_only: bool = False,
    one_policy: bytes | None = None,
    encdata: bool = False,
    format: Literal["tar", "dir"] = "tar",
    since: ArchiveSource | IncrementalBase | None = None,
    compare: Literal["times", "contents"] = "times",
    racy_window_s: int = RACY_WINDOW_S,
    compress: Literal["zstd"] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BackupReport:
    """Write a backup of the whole tree, or of the paths in `only`, without any key.

    `destination` is a path, where the archive appears when it is complete, or a binary file
    object, which is written as a stream. With format="dir" it is the path of a new directory store,
    for tools that deduplicate. Encrypted files are stored as ciphertext, whatever keys `fs` has; keys
    only serve to give the paths of `only` and `exclude` in plain text.

    `since` is an earlier archive or its manifest, and makes the backup an incremental one: files
    whose inode has not changed are recorded and not stored, so reading it needs the earlier archives.
    An archive that the backup is based on is never overwritten. Files are read again, and stored if
    they differ, where the inode's times leave a doubt: if they changed in the last `racy_window_s`
    seconds before the file system of the earlier archive was last written, or after that, if that time is
    unknown, or if the kernel did not make them. With compare="contents" all files are read again.

    `compress` writes zstd frames, each of which can be read alone. It does not change the name of
    the archive, and ciphertext does not get smaller.

    `exclude` holds shell patterns: one with a slash matches whole paths, another one names.
    `encrypted_only` skips plain files, `one_policy` (a key's descriptor or identifier) skips what is
    not under that policy; plain directories and `.fscrypt` stay in both cases. `encdata` adds the
    attribute by which Lustre restores encrypted files. `progress` is called with the bytes done and
    an estimate of how many there will be.

    LiveSourceError if others can write to the image, unless it was opened with `live`; then, and if it
    changed while it was read, the report and the archive say so.

    ArchiveError if the destination cannot be written or exists already, LimitError if the archive
    cannot hold something. Damage in the image is an error; with checks="report" it is reported in
    `fs.problems`, unreadable parts of files are stored as zeros, and whatever could not be read is recorded
    in the archive.
    """
    from ext4img import __version__

    if compare not in get_args(Compare):
        raise ValueError(f"compare is one of {', '.join(get_args(Compare))}, not {compare!r}")
    if racy_window_s < 0:
        raise ValueError(f"racy_window_s is {racy_window_s}; it cannot be negative")
    filtered = ExcludeFilter(tuple(exclude), encrypted_only, one_policy)
    scanner = TreeScanner(fs, only, filtered, together=since is None or compare == "contents")
    used = (fs.superblock.block_count - fs.superblock.free_blocks) * fs.block_size
    total = used if not only and filtered.is_empty else None
    watch = fs.volume.watch
    info = replace(scanner.info(f"ext4img {__version__}", encdata), live=watch.begin())
    with ExitStack() as stack:
        base: IncrementalBase | None = None
        if since is not None:
            base = (
                since if isinstance(since, IncrementalBase) else stack.enter_context(IncrementalBase(since, info.uuid))
            )
            if overwrite:
                _check_not_of_chain(destination, base)
            info = replace(info, requires=(INCREMENTAL,))
        stack.enter_context(deferred())
        comparison = None
        if base is not None:
            digests = stack.enter_context(DigestThread())
            comparison = _Comparison(base, compare == "contents", racy_window_s, encdata, digests)
        writer = stack.enter_context(_writer(destination, info, format, compress, overwrite))
        members = last_change_ns = 0
        for entry, body in scanner.entries():
            checkpoint()
            unchanged = comparison.unchanged(entry, body) if comparison is not None else None
            if unchanged is not None:
                writer.add_unchanged(entry, *unchanged)
            else:
                writer.add(entry, body)
            members += 1
            last_change_ns = max(last_change_ns, entry.ctime_ns)
            for loss in scanner.new_losses():
                if unchanged is None or loss.path != entry.path:  # else the earlier archive has it in full
                    writer.add_loss(loss)
            if progress is not None:
                progress(writer.position, total)
        for loss in scanner.new_losses():
            writer.add_loss(loss)
        changes = watch.finish()
        if base is not None and base.changed:
            changes = (*changes, "the backup that it is based on may be a mixture of old and new")
        chain = base.chain if base is not None else ()
        closing = writer.finish(chain, last_write_s(fs.volume, last_change_ns // _NS), changed=bool(changes))
    return BackupReport(
        members,
        writer.position,
        closing.incomplete,
        closing.sha256,
        unchanged=comparison.kept if comparison is not None else 0,
        reread=comparison.reread if comparison is not None else 0,
        times_may_lag=comparison is not None and compare == "times" and was_in_use(fs.volume),
        losses=closing.losses,
        changes=changes,
    )


class _Comparison:
    """Decides which files of an incremental backup are unchanged. `kept` counts them, `reread` those read again."""

    def __init__(
        self, base: IncrementalBase, contents: bool, window_s: int, encdata: bool, digests: DigestThread
    ) -> None:
        self._base = base
        self._contents = contents
        self._window_s = window_s
        self._encdata = encdata
        self._digests = digests
        self.kept = self.reread = 0

    def unchanged(self, entry: Entry, body: BodyStream | None) -> tuple[ManifestLine, int] | None:
        """As `IncrementalBase.unchanged`, but where times leave a doubt, attributes and data are compared."""
        found = self._base.unchanged(entry)
        if found is None or body is None:
            return None
        in_doubt = self._base.is_in_doubt(entry, self._window_s)
        if in_doubt and not has_same_attributes(entry, found[0], self._encdata):
            return None
        if in_doubt or self._contents:
            if not has_same_data(entry, body, found[0], self._digests):
                return None
            self.reread += 1
        self.kept += 1
        return found


def _check_not_of_chain(destination: ArchiveDestination, base: IncrementalBase) -> None:
    """Refuse to replace an archive by one that is based on it: both would be lost."""
    if not isinstance(destination, (str, bytes, os.PathLike)) or not os.path.isfile(destination):
        return
    try:
        with Archive(destination) as archive:
            closing = archive.closing
    except Ext4Error:
        return  # whatever it is, no archive is based on it
    if closing is not None and closing.sha256 in base.chain:
        raise ArchiveError(f"{os.fsdecode(destination)}: it would replace an archive that it is based on")


@contextmanager
def _writer(
    destination: ArchiveDestination,
    info: BackupInfo,
    format: Literal["tar", "dir"],
    compress: Literal["zstd"] | None,
    overwrite: bool,
) -> Iterator[_EntryWriter]:
    if format == "dir":
        from ext4img.archive.directory_store_writer import DirectoryStoreWriter

        if not isinstance(destination, (str, bytes, os.PathLike)) or overwrite or compress:
            what = "a directory store needs a new path; it cannot be a stream, overwrite anything or be compressed"
            raise ArchiveError(what)
        with DirectoryStoreWriter(os.fsdecode(destination), info) as store:
            yield store
        return
    with open_output(destination, overwrite=overwrite) as output:
        if compress is None:
            with ArchiveWriter(output, info) as writer:
                yield writer
            return
        frames = FrameWriter(output)
        with ArchiveWriter(cast("BinaryIO", frames), info) as writer:
            yield writer
        frames.finish()
