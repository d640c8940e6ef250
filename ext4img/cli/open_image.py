"""Opening the image that the options name, and telling what was read around."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ext4img.cli.error_report import Failure, about, explain
from ext4img.cli.exit_codes import Exit
from ext4img.cli.file_magic import advice_for
from ext4img.cli.image_options import ChecksChoice, ImageOptions, VolumeOptions
from ext4img.cli.output import warn
from ext4img.cli.quoting import quote
from ext4img.errors import NotExt4Error
from ext4img.fs.filesystem import FileSystem
from ext4img.sources import open_source
from ext4img.sources.partitions import partition_source
from ext4img.volume.volume import Volume

if TYPE_CHECKING:
    from ext4img.cli.key_options import ImageKeyOptions


@contextmanager
def open_image(options: ImageOptions, keys: ImageKeyOptions | None = None) -> Iterator[FileSystem]:
    """The view of the image, with the keys that were given.

    Failures in the block are about the image. With `--checks report` what was read around is told
    when the block ends, and makes the exit code Exit.PARTLY.
    """
    with open_file_system(options, options.checks) as fs:
        try:
            with about(options.image):
                if keys is not None:
                    keys.add_to(fs)
                yield fs
        finally:
            for problem in fs.problems:
                warn(f"{quote(options.image)}: warning: {problem}")
        problems = len(fs.problems) + fs.problems.dropped
        if problems and fs.problems.checks == "report":
            told = f"{quote(options.image)}: read around {problems} problem{'s' * (problems != 1)}"
            raise Failure(Exit.PARTLY, told)


@contextmanager
def open_file_system(options: VolumeOptions, checks: ChecksChoice) -> Iterator[FileSystem]:
    """The view of the image alone: what is read around is left to the caller to tell."""
    with ExitStack() as opened:
        fs = _open(options, checks, opened)
        yield fs


def _open(options: VolumeOptions, checks: ChecksChoice, opened: ExitStack) -> FileSystem:
    if options.block_size is not None and options.superblock is None:
        raise Failure(Exit.USAGE, "--block-size says what --superblock counts, which is not given")
    journal_device = None
    if options.journal_device is not None:
        with about(options.journal_device):
            journal_device = opened.enter_context(open_source(options.journal_device))
    with about(options.image):
        source = opened.enter_context(open_source(options.image, options.offset))
        try:
            if options.partition is not None:
                source = partition_source(source, options.partition)
            volume = Volume(
                source,
                journal=options.journal.value,
                checks=checks.value,
                journal_device=journal_device,
                superblock=options.superblock,
                block_size=int(options.block_size) if options.block_size else None,
            )
        except NotExt4Error as error:
            raise explain(error, options.image, *advice_for(source)) from error
        return FileSystem(volume)
