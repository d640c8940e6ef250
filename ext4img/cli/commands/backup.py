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
from ext4img.archiver.create import BackupReport, backup
from ext4img.cli.error_report import Failure, about, explain
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


class CompressChoice(StrEnum):
    """How an archive is compressed."""

    zstd = "zstd"


class FormatChoice(StrEnum):
    """What a backup is written as."""

    tar = "tar"
    dir = "dir"


def run(
    image: ImageOptions,
    keys: ImageKeyOptions,
    archive: Annotated[str, typer.Argument(metavar="ARCHIVE", help="Where to; - is standard output.")],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PATH", help="This path with what is below it; may be given several times."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="PATTERN", help="Leave out what fits: with a slash whole paths, else names."),
    ] = None,
    encrypted_only: Annotated[
        bool, typer.Option("--encrypted-only", help="Leave out plain files; plain directories and .fscrypt stay.")
    ] = False,
    one_policy: Annotated[
        str | None,
        typer.Option("--one-policy", metavar="HEX", help="Only what is under this key, named as keys does."),
    ] = None,
    encdata: Annotated[
        bool, typer.Option("--encdata", help="The attribute security.encdata too, for Lustre's tools.")
    ] = False,
    form: Annotated[
        FormatChoice, typer.Option("--format", help="A tar archive, or a directory store for tools that deduplicate.")
    ] = FormatChoice.tar,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="BACKUP",
            help="Store only what changed since this backup of the same file system: an archive, or the manifest alone"
            " of one. To restore, both will be needed.",
        ),
    ] = None,
    compress: Annotated[
        CompressChoice | None,
        typer.Option("--compress", help="Compress the archive; encrypted files get no smaller by it."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the archive if there is one.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Back up a file system, without any key.

    Encrypted files go in as ciphertext, with all that decryption will need but the key. The
    archive is the same whether keys are given or not; they serve only to give --only plain paths.
    The archive appears under its name when it is complete.
    """
    to_stdout = archive == STDOUT
    if to_stdout and sys.stdout.isatty():
        raise Failure(Exit.USAGE, "an archive is not written to a terminal")
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
                    compress="zstd" if compress else None,
                    overwrite=overwrite,
                    progress=show,
                )
        except ArchiveError as error:
            # It is about the archive's place, not about the image.
            advice = ["--overwrite replaces it"] if os.path.isfile(archive) and not overwrite else []
            raise Failure(Exit.SYSTEM, explain(error).text, *advice) from error
        _tell(report, Output(json), archive, bool(compress))
        if report.incomplete:
            files = plural(report.incomplete, "file")
            warn(f"{quote(image.image)}: incomplete: {files} could not be read in full")
    return Exit.PARTLY if report.incomplete else Exit.DONE


def _tell(report: BackupReport, out: Output, archive: str, compressed: bool) -> None:
    stored = os.stat(archive).st_size if compressed and archive != STDOUT else None
    if out.json and archive != STDOUT:
        out.record(
            {
                "members": report.members,
                "unchanged": report.unchanged,
                "bytes": report.bytes,
                "stored_bytes": report.bytes if stored is None else stored,
                "incomplete": report.incomplete,
                "manifest_sha256": report.digest,
            }
        )
        return
    size = size_text(report.bytes) if stored is None else f"{size_text(stored)} of {size_text(report.bytes)}"
    unchanged = f"{plural(report.unchanged, 'file')} unchanged, " if report.unchanged else ""
    told = f"{size}, {unchanged}manifest {report.digest}"
    if archive == STDOUT:
        print(f"ext4img backup: {told}", file=sys.stderr)
    else:
        out.line(f"{quote(archive)}: {told}")


@contextmanager
def _base(since: str | None, fs: FileSystem) -> Iterator[IncrementalBase | None]:
    """What the backup builds on."""
    if since is None:
        yield None
        return
    with about(since):
        base = IncrementalBase(since, fs.superblock.uuid)
    with base:
        yield base


def _check_for_store(to_stdout: bool, others: Mapping[str, object]) -> None:
    """Failure for what a directory store does not go with."""
    if to_stdout:
        raise Failure(Exit.USAGE, "a directory store is no stream: it needs a path of its own")
    for option, value in others.items():
        if value:
            raise Failure(Exit.USAGE, f"{option} is for archives, not for a directory store")


def _key_id(text: str) -> bytes:
    """A key's descriptor or identifier."""
    try:
        key_id = bytes.fromhex(text)
    except ValueError:
        key_id = b""
    if len(key_id) not in (DESCRIPTOR_SIZE, IDENTIFIER_SIZE):
        raise typer.BadParameter(f"--one-policy {text!r}: 16 or 32 hexadecimal digits, as `ext4img keys` lists them")
    return key_id
