"""`Rebuild`: from where entries come to a plan, and from the plan to an image."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import BinaryIO, Self, cast

from ext4img.archive.input import ArchiveInput, ArchiveSource
from ext4img.archive.open_backup import BackupSource, open_backup
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
from ext4img.rebuilder.rebuild import ImagePath, OnlyPath, Rebuildable, RebuildReport, is_device
from ext4img.rebuilder.source import RebuildSource

_ENTRIES_TOGETHER = 256  # between two calls of `progress`
_COPY_BYTES = 1 << 20


class Rebuild:
    """A rebuild that is planned: look at its `plan`, then `write` it. To be used in a `with` statement.

    See `rebuild` for what it takes and raises; nothing is written until `write`.
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
        try:
            chosen: PathFilter | None = None
            self._source = source if isinstance(source, FileSystem) else self._backup(source, bases)
            if isinstance(self._source, FileSystem):
                self._origin: RebuildSource = ImageRebuildSource(self._source, only)
                salvage = self._source.problems.checks != "strict" if salvage is None else salvage
            else:
                self._origin = self._origin_of(self._source)
                chosen = PathFilter(only) if only else None
            info = self._origin.info
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
            form = ReadabilityRules(options.block_size, options.uuid == info.uuid)
            maker = NodeStream(self._origin, form, chosen=chosen, salvage=bool(salvage))
            self._taken = maker.taken
            self.plan = plan(
                self._watched(maker.nodes()),
                options,
                fold=_fold() if "casefold" in info.features else None,
                refused=maker.refuse,
            )
        except BaseException:
            self._opened.close()
            raise

    def write(self, image: ImagePath, *, overwrite: bool = False, allow_device: bool = False) -> RebuildReport:
        """Write the image; see `rebuild`."""
        to_device = allow_device and is_device(image)
        if to_device and isinstance(self._source, FileSystem):
            _check_not_itself(self._source, image)
        write(
            self.plan,
            self._origin.body,
            image,
            overwrite=overwrite,
            device=to_device,
            progress=self._progress,
        )
        return self.report

    @property
    def report(self) -> RebuildReport:
        """What the image will hold; which files are incomplete is known only after `write`."""
        taken = self._taken
        return RebuildReport(
            self.plan.image_size,
            self.plan.data_bytes,
            dict(taken.made),
            taken.left_out,
            taken.incomplete + self._origin.incomplete,
            tuple(taken.problems),
        )

    def close(self) -> None:
        """Close what was opened here. May be called twice."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _backup(self, source: BackupSource | ArchiveSource, bases: Sequence[ArchiveSource]) -> BackupSource:
        """The backup open; one that can be read only forward is kept in a temporary file, as it is read twice."""
        if isinstance(source, BackupSource):
            return source
        if not isinstance(source, (str, bytes, os.PathLike)) and not source.seekable():
            return self._kept(source)
        start = 0 if isinstance(source, (str, bytes, os.PathLike)) else source.tell()
        opened = open_backup(source, bases)
        if opened.seekable:
            return self._opened.enter_context(closing(opened))
        opened.close()
        if not isinstance(source, (str, bytes, os.PathLike)):
            source.seek(start)
        return self._kept(source)

    def _kept(self, source: ArchiveSource) -> BackupSource:
        """A stream, or what is compressed in one piece, as an uncompressed file of its own."""
        kept = self._opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed by `close`
        with ArchiveInput(source) as stream:
            cursor = stream.cursor()
            try:
                while part := cursor.read_rest(_COPY_BYTES):
                    kept.write(part)
                kept.seek(0)
            except OSError as error:
                raise ArchiveError(f"{stream.name}: it can't be kept while it is read: {error.strerror}") from error
        return self._opened.enter_context(Archive(cast("BinaryIO", kept)))

    def _origin_of(self, backup: BackupSource) -> RebuildSource:
        origin = ArchiveRebuildSource(backup) if isinstance(backup, Archive) else DirectoryRebuildSource(backup)
        self._opened.callback(origin.close)
        return origin

    def _watched(self, nodes: Iterator[Node]) -> Iterator[Node]:
        for count, node in enumerate(nodes):
            if self._progress is not None and count % _ENTRIES_TOGETHER == 0:
                self._progress(self._origin.position, self._origin.total_bytes)
            yield node


def _fold() -> Callable[[bytes], bytes]:
    from ext4img.names.casefold import fold

    return fold


def _check_not_itself(fs: FileSystem, image: ImagePath) -> None:
    """A device is not to be written over while it is read."""
    try:
        same = os.path.samefile(fs.volume.source.name, image)
    except OSError:
        return
    if same:
        raise BuildError(f"{os.fspath(image)}: is the image that is read")
