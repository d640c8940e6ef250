"""A view → an archive: the whole run of a backup."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal, Protocol, cast

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.entry import Entry
from ext4img.archive.incremental_base import INCREMENTAL, IncrementalBase
from ext4img.archive.input import ArchiveSource
from ext4img.archive.manifest_line import Closing, ManifestLine
from ext4img.archive.output import ArchiveDestination, open_output
from ext4img.archive.reader import Archive
from ext4img.archive.writer import ArchiveWriter, BodyStream
from ext4img.archive.zstd_frames import FrameWriter
from ext4img.archiver.collect import TreeScanner
from ext4img.archiver.exclude import ExcludeFilter
from ext4img.errors import ArchiveError, Ext4Error
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.path import PathLike
from ext4img.progress import Progress


class _Writer(Protocol):
    """What writes entries in some form."""

    position: int

    def add(self, entry: Entry, body: BodyStream | None = None) -> None: ...

    def add_unchanged(self, entry: Entry, line: ManifestLine, archive: int) -> None: ...

    def finish(self, chain: tuple[str, ...] = ()) -> Closing: ...


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup wrote. `members` are the names in the tree, and verity trees: as `verify` counts them,
    without the archive's own. `incomplete` counts those with parts that could not be read.

    `bytes` are those of the archive before compression; `unchanged` files are in earlier archives.
    """

    members: int
    bytes: int
    incomplete: int
    digest: str
    """SHA-256 of the manifest's lines, in hex: it stands for the whole archive."""
    unchanged: int = 0


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
    compress: Literal["zstd"] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BackupReport:
    """Write a backup of the view's tree, or of the paths in `only`, without any key.

    `destination` is a path, where the archive appears when it is complete, or a binary file
    object, which is written as a stream. With the format "dir" it is a directory store, for tools
    that deduplicate; that cannot be a stream, nor be overwritten. Encrypted files go in as
    ciphertext, whatever keys the view has; they serve only to give paths in plain text.

    With `since`, an earlier archive or its manifest, the backup is an incremental one: files whose
    inode is as it was are recorded, not stored, and the earlier archives are needed to read it.
    An archive that it builds on is never overwritten.

    With `compress` the archive is in zstd's frames, each of which can be read alone; what it is
    called is the caller's affair. Ciphertext gets no smaller by it.

    `exclude` are shell patterns, with a slash of whole paths, else of names. `encrypted_only`
    leaves out plain files, `one_policy` (a key's descriptor or identifier) what is not under that
    policy; plain directories stay, and `.fscrypt`. With `encdata` members have the attribute that
    Lustre restores such files by. `progress` is called with the bytes done and about how many
    there will be.

    ArchiveError where the destination cannot be written or is there already, LimitError where the
    archive cannot hold something. Damage in the image is an error, or with checks="report" noted
    in the view's problems; unreadable parts of files are then zeros and recorded as such.
    """
    from ext4img import __version__

    filtered = ExcludeFilter(tuple(exclude), encrypted_only, one_policy)
    collector = TreeScanner(fs, only, filtered, together=since is None)
    used = (fs.superblock.block_count - fs.superblock.free_blocks) * fs.block_size
    total = used if not only and filtered.is_empty else None
    info = collector.info(f"ext4img {__version__}", encdata)
    with ExitStack() as stack:
        base: IncrementalBase | None = None
        if since is not None:
            base = (
                since if isinstance(since, IncrementalBase) else stack.enter_context(IncrementalBase(since, info.uuid))
            )
            if overwrite:
                _check_not_of_chain(destination, base)
            info = replace(info, requires=(INCREMENTAL,))
        writer = stack.enter_context(_writer(destination, info, format, compress, overwrite))
        members = kept = 0
        for entry, body in collector.entries():
            unchanged = base.unchanged(entry) if base is not None else None
            if unchanged is not None:
                writer.add_unchanged(entry, *unchanged)
                kept += 1
            else:
                writer.add(entry, body)
            members += 1
            if progress is not None:
                progress(writer.position, total)
        closing = writer.finish(base.chain if base is not None else ())
    return BackupReport(members, writer.position, closing.incomplete, closing.sha256, kept)


def _check_not_of_chain(destination: ArchiveDestination, base: IncrementalBase) -> None:
    """An archive that is replaced by one that builds on it would be lost to both."""
    if not isinstance(destination, (str, bytes, os.PathLike)) or not os.path.isfile(destination):
        return
    try:
        with Archive(destination) as archive:
            closing = archive.closing
    except Ext4Error:
        return  # whatever it is, it is no archive that another one builds on
    if closing is not None and closing.sha256 in base.chain:
        raise ArchiveError(f"{os.fsdecode(destination)}: it would replace an archive that it builds on")


@contextmanager
def _writer(
    destination: ArchiveDestination,
    info: BackupInfo,
    format: Literal["tar", "dir"],
    compress: Literal["zstd"] | None,
    overwrite: bool,
) -> Iterator[_Writer]:
    if format == "dir":
        from ext4img.archive.directory_store_writer import DirectoryStoreWriter

        if not isinstance(destination, (str, bytes, os.PathLike)) or overwrite or compress:
            what = "a directory store needs a path of its own: it is no stream, overwrites nothing, compresses nothing"
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
