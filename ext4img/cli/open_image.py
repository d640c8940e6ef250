"""Opening the image that the options name, and reporting the damage that was skipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ext4img.cli.error_report import CommandError, about, explain
from ext4img.cli.exit_codes import Exit
from ext4img.cli.few_of_each import few_of_each
from ext4img.cli.image_options import ChecksChoice, ImageOptions, VolumeOptions
from ext4img.cli.output import warn
from ext4img.cli.quoting import quote
from ext4img.cli.units import plural
from ext4img.errors import LiveSourceError, NotExt4Error
from ext4img.fs.filesystem import FileSystem
from ext4img.sources import open_source
from ext4img.volume.problems import SourceInUse
from ext4img.volume.volume import Volume

if TYPE_CHECKING:
    from ext4img.cli.key_options import ImageKeyOptions


@contextmanager
def open_image(options: ImageOptions, keys: ImageKeyOptions | None = None) -> Iterator[FileSystem]:
    """Open the file system of the image, with the given keys added.

    Errors in the block are about the image. The problems found are printed when the block ends. The
    exit code is Exit.PARTLY if damage was read around, and with `--checks report` for any problem.
    """
    with open_file_system(options, options.checks) as fs:
        refused = False
        try:
            with about(options.image):
                if keys is not None:
                    keys.add_to(fs)
                yield fs
        except CommandError as error:
            refused = isinstance(error.__cause__, LiveSourceError)  # which says who uses it
            raise
        finally:
            for problem in few_of_each(fs.problems):
                if refused and isinstance(problem, SourceInUse):
                    continue
                warn(f"{quote(options.image)}: warning: {problem}")
        problems = fs.problems.damages
        if problems and fs.problems.checks == "report":
            raise CommandError(Exit.PARTLY, f"{quote(options.image)}: {plural(problems, 'problem')} found; see above")
        if fs.problems.damage:
            raise CommandError(
                Exit.PARTLY, f"{quote(options.image)}: damage was read around", "--checks report tells it"
            )


@contextmanager
def open_file_system(options: VolumeOptions, checks: ChecksChoice) -> Iterator[FileSystem]:
    """Open the file system of the image without keys; the caller reports its problems."""
    with ExitStack() as opened:
        fs = _open(options, checks, opened)
        yield fs


def _open(options: VolumeOptions, checks: ChecksChoice, opened: ExitStack) -> FileSystem:
    if options.block_size is not None and options.superblock is None:
        raise CommandError(Exit.USAGE, "--block-size requires --superblock")
    journal_device = None
    if options.journal_device is not None:
        with about(options.journal_device):
            journal_device = opened.enter_context(open_source(options.journal_device, live=options.live))
    sector_bytes = int(options.sector_size) if options.sector_size else None
    offset = options.offset if options.partition is None else None
    with about(options.image):
        source = opened.enter_context(open_source(options.image, options.offset, live=options.live))
        try:
            if options.partition is not None:
                from ext4img.sources.partitions import partition_source

                source = partition_source(source, options.partition, sector_bytes)
            volume = Volume(
                source,
                journal=options.journal.value,
                checks=checks.value,
                journal_device=journal_device,
                superblock=options.superblock,
                block_size=int(options.block_size) if options.block_size else None,
                live=options.live,
            )
        except NotExt4Error as error:
            from ext4img.cli.file_magic import hints_for

            raise explain(error, options.image, *hints_for(source, options.image, offset, sector_bytes)) from error
        return FileSystem(volume)
