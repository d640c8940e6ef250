"""`ext4img backup`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer

from ext4img.archive.incremental_base import IncrementalBase
from ext4img.archiver.create import RACY_WINDOW_S, BackupReport, backup
from ext4img.cli.error_report import CommandError, about, explain
from ext4img.cli.exit_codes import Exit
from ext4img.cli.image_options import ImageOptions
from ext4img.cli.key_options import ImageKeyOptions
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json, Quiet
from ext4img.cli.output import Output, warn
from ext4img.cli.progress_bar import progress
from ext4img.cli.quoting import quote
from ext4img.cli.units import plural, size_text
from ext4img.crypto.policy import DESCRIPTOR_SIZE, IDENTIFIER_SIZE
from ext4img.errors import ArchiveError
from ext4img.fs.filesystem import FileSystem

STDOUT = "-"
_REPLACE = "use --overwrite to replace it"


class CompressChoice(StrEnum):
    """The compression of an archive."""

    zstd = "zstd"


class CompareChoice(StrEnum):
    """What tells a changed file from an unchanged one."""

    times = "times"
    contents = "contents"


class FormatChoice(StrEnum):
    """The format of a backup."""

    tar = "tar"
    dir = "dir"


def run(
    image: ImageOptions,
    keys: ImageKeyOptions,
    archive: Annotated[str, typer.Argument(metavar="ARCHIVE", help="The backup to write; - writes standard output.")],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PATH", help="Back up only this path and everything below it; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude", metavar="PATTERN", help="Skip names that match; a pattern with a slash matches whole paths."
        ),
    ] = None,
    encrypted_only: Annotated[
        bool, typer.Option("--encrypted-only", help="Skip plain files, but not plain directories and .fscrypt.")
    ] = False,
    one_policy: Annotated[
        str | None,
        typer.Option(
            "--one-policy",
            metavar="HEX",
            help="Back up only entries of the policy with this key ID, as `keys` lists it.",
        ),
    ] = None,
    encdata: Annotated[
        bool, typer.Option("--encdata", help="Also write the attribute security.encdata, for Lustre tools.")
    ] = False,
    form: Annotated[
        FormatChoice, typer.Option("--format", help="tar archive, or directory store for deduplicating tools.")
    ] = FormatChoice.tar,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="BACKUP",
            help="Store only files that changed since this backup, an archive or its manifest.",
        ),
    ] = None,
    compare: Annotated[
        CompareChoice,
        typer.Option(
            "--compare",
            help="How --since finds what changed: by inode times, reading again only files whose times leave a doubt;"
            " or by reading all files.",
        ),
    ] = CompareChoice.times,
    racy_window: Annotated[
        int,
        typer.Option(
            "--racy-window",
            metavar="SECONDS",
            min=0,
            help="Read files again that changed in this time before the file system's last write.",
        ),
    ] = RACY_WINDOW_S,
    compress: Annotated[
        CompressChoice | None,
        typer.Option("--compress", help="Compress the archive; encrypted files do not get smaller."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing archive.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Back up a file system, without any key.

    Encrypted files are stored as ciphertext, with everything that decryption needs except the
    key. The archive is the same with and without keys: they only let --only take plain paths.
    The archive gets its name when it is complete.
    """
    to_stdout = archive == STDOUT
    if to_stdout and sys.stdout.isatty():
        raise CommandError(Exit.USAGE, "refusing to write an archive to a terminal")
    if compare is CompareChoice.contents and since is None:
        raise CommandError(Exit.USAGE, "--compare needs --since: without it, every file is stored")
    if form is FormatChoice.dir:
        _check_for_store(to_stdout, {"--since": since, "--compress": compress, "--overwrite": overwrite})
    policy = _key_id(one_policy) if one_policy is not None else None
    with open_image(image, keys) as fs, _base(since, fs) as base:
        destination = sys.stdout.buffer if to_stdout else archive
        try:
            with progress(f"Backing up {quote(image.image)}", quiet) as show:
                report = backup(
                    fs,
                    destination,
                    only=only or (),
                    exclude=exclude or (),
                    encrypted_only=encrypted_only,
                    one_policy=policy,
                    encdata=encdata,
                    format=form.value,
                    since=base,
                    compare=compare.value,
                    racy_window_s=racy_window,
                    compress="zstd" if compress else None,
                    overwrite=overwrite,
                    progress=show,
                )
        except ArchiveError as error:
            # The error is about the destination, not about the image.
            exists = os.path.isfile(archive) and not overwrite
            raise CommandError(Exit.SYSTEM, explain(error).text, *([_REPLACE] if exists else [])) from error
        _report(report, Output(json), archive, bool(compress))
        if report.times_may_lag:
            warn(
                f"{quote(image.image)}: note: the file system was in use. Contents that reached the disk"
                " before their change times are not noticed in this backup; --compare contents finds them."
            )
        if since is not None and base is not None and base.changed:
            warn(
                f"{quote(since)}: warning: it may be a mixture of old and new, and so may a backup that is based on it;"
                " make a full one"
            )
        if report.incomplete:
            files = plural(report.incomplete, "file")
            warn(f"{quote(image.image)}: incomplete: {files} could not be read completely")
        if report.losses:
            losses = plural(report.losses, "loss", "losses")
            warn(f"{quote(image.image)}: incomplete: {losses} of names, attributes or entries; the backup records them")
    return Exit.PARTLY if report.incomplete or report.losses or report.changes else Exit.DONE


def _report(report: BackupReport, out: Output, archive: str, compressed: bool) -> None:
    stored = os.stat(archive).st_size if compressed and archive != STDOUT else None
    if out.json and archive != STDOUT:
        out.record(
            {
                "members": report.members,
                "unchanged": report.unchanged,
                "reread": report.reread,
                "times_may_lag": report.times_may_lag,
                "bytes": report.bytes,
                "stored_bytes": report.bytes if stored is None else stored,
                "incomplete": report.incomplete,
                "losses": report.losses,
                "manifest_sha256": report.digest,
                "changes": list(report.changes),
            }
        )
        return
    size = size_text(report.bytes) if stored is None else f"{size_text(stored)} of {size_text(report.bytes)}"
    reread = f" ({report.reread} read again)" if report.reread else ""
    unchanged = f"{plural(report.unchanged, 'file')} unchanged{reread}, " if report.unchanged else ""
    summary = f"{size}, {unchanged}manifest {report.digest}"
    if archive == STDOUT:
        print(f"ext4img backup: {summary}", file=sys.stderr)
    else:
        out.line(f"{quote(archive)}: {summary}")


@contextmanager
def _base(since: str | None, fs: FileSystem) -> Iterator[IncrementalBase | None]:
    """The backup that this one is based on, opened."""
    if since is None:
        yield None
        return
    with about(since):
        base = IncrementalBase(since, fs.superblock.uuid)
    with base:
        yield base


def _check_for_store(to_stdout: bool, others: Mapping[str, object]) -> None:
    """CommandError for options that a directory store excludes."""
    if to_stdout:
        raise CommandError(Exit.USAGE, "a directory store cannot be written to standard output")
    for option, value in others.items():
        if value:
            raise CommandError(Exit.USAGE, f"{option} cannot be used with a directory store")


def _key_id(text: str) -> bytes:
    """A key descriptor or identifier."""
    try:
        key_id = bytes.fromhex(text)
    except ValueError:
        key_id = b""
    if len(key_id) not in (DESCRIPTOR_SIZE, IDENTIFIER_SIZE):
        raise typer.BadParameter(
            f"--one-policy {text!r}: not 16 or 32 hexadecimal digits; `ext4img keys IMAGE` lists them"
        )
    return key_id
