"""`rebuild` makes a new ext4 image of a backup or of another image, without any key.

`Rebuild` is the same in two steps: the plan, then the image.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import BinaryIO, Self, cast

from ext4img.archive.input import ArchiveInput, ArchiveSource
from ext4img.archive.open_backup import BackupSource, open_backup, recorded_changes
from ext4img.archive.path_filter import PathFilter
from ext4img.archive.reader import Archive
from ext4img.errors import ArchiveError, BuildError
from ext4img.fs.filesystem import FileSystem
from ext4img.mkfs import Node, Plan, plan, write
from ext4img.progress import Progress
from ext4img.rebuilder.archive_source import ArchiveRebuildSource
from ext4img.rebuilder.directory_source import DirectoryRebuildSource
from ext4img.rebuilder.image_source import ImageRebuildSource
from ext4img.rebuilder.node_stream import NodeStream
from ext4img.rebuilder.options import NewSize, NewUuid, image_options
from ext4img.rebuilder.readability import ReadabilityRules
from ext4img.rebuilder.source import RebuildSource

ImagePath = str | os.PathLike[str]
Rebuildable = FileSystem | BackupSource | ArchiveSource
OnlyPath = str | bytes | os.PathLike[str]

_NODES_PER_PROGRESS = 256
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What a new image holds. `made` counts by type ("file", "dir", …, and "link" for further names).

    `left_out` counts the entries that could not be read or that ext4 can't hold. `incomplete` counts
    the files that the source did not give in full: their missing parts read as zeros. `problems` say
    what and where; at most 10,000 are kept. Times outside ext4's range are among them. The problems
    of a damaged source image are in the `problems` of its `FileSystem`.
    """

    size: int
    """Of the image in bytes."""
    data_bytes: int
    """In blocks of files."""
    made: dict[str, int] = field(default_factory=dict)
    left_out: int = 0
    incomplete: int = 0
    problems: tuple[BuildError, ...] = ()
    changes: tuple[str, ...] = ()
    """Why it may be a mixture of old and new: the source changed while it was read, or could. Known after `write`."""

    @property
    def complete(self) -> bool:
        """Whether the image has everything that the source gave, in full."""
        return not (self.left_out or self.incomplete or self.problems)


def rebuild(
    source: Rebuildable,
    image: ImagePath,
    *,
    size: NewSize = "auto",
    spare_percent: float = 10.0,
    uuid: NewUuid = "keep",
    label: str | None = None,
    features: Sequence[str] = (),
    block_size: int | None = None,
    keep_inodes: bool = False,
    only: Sequence[OnlyPath] = (),
    salvage: bool | None = None,
    bases: Sequence[ArchiveSource] = (),
    overwrite: bool = False,
    allow_device: bool = False,
    progress: Progress | None = None,
) -> RebuildReport:
    """Make a new ext4 image of a backup, or of another image, without any key.

    A backup is an archive, a directory store, or a tree that `tar --xattrs` extracted. The archives
    that an incremental one is based on are looked for among `bases`, then in its own directory.

    Encrypted files, names and link targets are copied as ciphertext, with everything that decryption
    needs: their keys open them in the new image as before. Inode numbers are kept where ciphertext
    depends on them, or all of them with `keep_inodes`.

    `size` is in bytes. "auto" is the smallest size that leaves `spare_percent` of blocks and inodes
    free, or the whole of a block device. `block_size` defaults to the source's. `features` are names
    as mke2fs takes them, "^" before those to be left out. `only` names paths; in a backup, as it
    lists them.

    Entries that ext4 can't hold are left out and reported; with `salvage=False` they are an error.
    `salvage=True` trusts no link count; it is the default for a `FileSystem` that does not check
    strictly. Everything is planned before the first byte is written. The image appears under its name
    when it is complete, and a block device is written to only with `allow_device`. `progress` is called
    with the bytes done and their total: first of the source, then of the image.

    BuildError with the path and the policy where something does not fit, or where ciphertext would
    become unreadable: another UUID under IV_INO_LBLK policies, another block size under policies
    whose data units are blocks. AlteredArchiveError and the other errors of reading an archive: then
    there is no image. NotFoundError for a path in `only` that the source does not have.
    """
    if not overwrite and not is_device(image) and os.path.lexists(image):
        raise BuildError(f"{os.fspath(image)}: already exists")
    with Rebuild(
        source,
        size=size_for(image, size),
        spare_percent=spare_percent,
        uuid=uuid,
        label=label,
        features=features,
        block_size=block_size,
        keep_inodes=keep_inodes,
        only=only,
        salvage=salvage,
        bases=bases,
        progress=progress,
    ) as planned:
        return planned.write(image, overwrite=overwrite, allow_device=allow_device)


class Rebuild:
    """A planned rebuild: look at its `plan`, then `write` it. Use it in a `with` statement.

    It takes and raises the same as `rebuild`; nothing is written before `write`.
    """

    plan: Plan
    """What will be written where; plain data."""

    def __init__(
        self,
        source: Rebuildable,
        *,
        size: NewSize = "auto",
        spare_percent: float = 10.0,
        uuid: NewUuid = "keep",
        label: str | None = None,
        features: Sequence[str] = (),
        block_size: int | None = None,
        keep_inodes: bool = False,
        only: Sequence[OnlyPath] = (),
        salvage: bool | None = None,
        bases: Sequence[ArchiveSource] = (),
        progress: Progress | None = None,
    ) -> None:
        self._opened = ExitStack()
        self._progress = progress
        self._changes: tuple[str, ...] = ()
        try:
            path_filter: PathFilter | None = None
            leave_out = salvage is not False
            self._given = source if isinstance(source, FileSystem) else self._open_backup(source, bases)
            if isinstance(self._given, FileSystem):
                self._given.volume.watch.begin()
                self._source: RebuildSource = ImageRebuildSource(self._given, only)
                salvage = self._given.problems.checks != "strict" if salvage is None else salvage
            else:
                self._source = self._source_of(self._given)
                path_filter = PathFilter(only) if only else None
            info = self._source.info
            options = image_options(
                info,
                size=size,
                spare_percent=spare_percent,
                uuid=uuid,
                label=label,
                features=features,
                block_size=block_size,
                keep_inodes=keep_inodes,
            ).resolved()
            rules = ReadabilityRules(options.block_size, options.uuid == info.uuid)
            stream = NodeStream(
                self._source, rules, path_filter=path_filter, salvage=bool(salvage), leave_out=leave_out
            )
            self._node_report = stream.report
            self.plan = plan(
                self._with_progress(stream.nodes()),
                options,
                fold=_fold() if "casefold" in info.features else None,
                on_refusal=stream.refuse,
            )
        except BaseException:
            self._opened.close()
            raise

    def write(self, image: ImagePath, *, overwrite: bool = False, allow_device: bool = False) -> RebuildReport:
        """Write the image; see `rebuild`."""
        to_device = allow_device and is_device(image)
        if to_device and isinstance(self._given, FileSystem):
            _check_not_its_own_source(self._given, image)
        write(
            self.plan,
            self._source.body,
            image,
            overwrite=overwrite,
            device=to_device,
            progress=self._progress,
        )
        given = self._given
        self._changes = given.volume.watch.finish() if isinstance(given, FileSystem) else recorded_changes(given)
        return self.report

    @property
    def report(self) -> RebuildReport:
        """What the image will hold; which files are incomplete is known only after `write`."""
        nodes = self._node_report
        return RebuildReport(
            self.plan.image_size,
            self.plan.data_bytes,
            dict(nodes.made),
            nodes.left_out,
            nodes.incomplete + self._source.incomplete,
            tuple(nodes.problems),
            self._changes,
        )

    def close(self) -> None:
        """Close what was opened here. May be called twice."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_backup(self, source: BackupSource | ArchiveSource, bases: Sequence[ArchiveSource]) -> BackupSource:
        """The open backup. It is read twice, so one that can only be read forward is copied to a temporary file."""
        if isinstance(source, BackupSource):
            return source
        if not isinstance(source, (str, bytes, os.PathLike)) and not source.seekable():
            return self._temporary_copy(source)
        start = 0 if isinstance(source, (str, bytes, os.PathLike)) else source.tell()
        opened = open_backup(source, bases)
        if opened.seekable:
            return self._opened.enter_context(closing(opened))
        opened.close()
        if not isinstance(source, (str, bytes, os.PathLike)):
            source.seek(start)
        return self._temporary_copy(source)

    def _temporary_copy(self, source: ArchiveSource) -> BackupSource:
        """A stream, or an archive that is compressed in one piece, as an uncompressed temporary file."""
        copy = self._opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed by `close`
        with ArchiveInput(source) as stream:
            cursor = stream.cursor()
            try:
                while part := cursor.read_rest(_COPY_BYTES):
                    copy.write(part)
                copy.seek(0)
            except OSError as error:
                raise ArchiveError(f"{stream.name}: cannot be copied to a temporary file: {error.strerror}") from error
        return self._opened.enter_context(Archive(cast("BinaryIO", copy)))

    def _source_of(self, backup: BackupSource) -> RebuildSource:
        source = ArchiveRebuildSource(backup) if isinstance(backup, Archive) else DirectoryRebuildSource(backup)
        self._opened.callback(source.close)
        return source

    def _with_progress(self, nodes: Iterator[Node]) -> Iterator[Node]:
        for count, node in enumerate(nodes):
            if self._progress is not None and count % _NODES_PER_PROGRESS == 0:
                self._progress(self._source.position, self._source.total_bytes)
            yield node


def size_for(image: ImagePath, size: NewSize) -> NewSize:
    """`size`; for "auto" the size of `image` where that is a block device."""
    if size != "auto" or not is_device(image):
        return size
    try:
        with open(image, "rb") as device:
            return device.seek(0, os.SEEK_END)
    except OSError as error:
        raise BuildError(f"{os.fspath(image)}: {error.strerror}") from error


def is_device(image: ImagePath) -> bool:
    """Whether `image` is a block device."""
    try:
        return stat.S_ISBLK(os.stat(image).st_mode)
    except OSError:
        return False


def _fold() -> Callable[[bytes], bytes]:
    from ext4img.names.casefold import fold

    return fold


def _check_not_its_own_source(fs: FileSystem, image: ImagePath) -> None:
    """BuildError where `image` is the device that `fs` is read from."""
    try:
        same = os.path.samefile(fs.volume.source.name, image)
    except OSError:
        return
    if same:
        raise BuildError(f"{os.fspath(image)}: is the image that is read")
