"""`ext4img restore`."""

from __future__ import annotations

from typing import Annotated

import typer

from ext4img.archive.open_backup import recorded_changes
from ext4img.cli.archive_key_options import ArchiveKeyOptions
from ext4img.cli.archive_options import ArchiveOptions, open_archive, require_seekable
from ext4img.cli.error_report import CommandError
from ext4img.cli.exit_codes import Exit
from ext4img.cli.options import (
    BlockSizeChoice,
    Json,
    OverwriteChoice,
    OverwriteOption,
    Quiet,
    UpdateOption,
    overwrite_of,
)
from ext4img.cli.output import Output, warn_of_changes
from ext4img.cli.progress_bar import progress
from ext4img.cli.report_rebuild import NewImageOptions, make_image
from ext4img.cli.report_restore import report_restored
from ext4img.restorer.restore import restore


def run(
    backup: ArchiveOptions,
    keys: ArchiveKeyOptions,
    choices: NewImageOptions,
    directory: Annotated[
        str | None,
        typer.Argument(metavar="[DIRECTORY]", help="Target directory; created if needed.", show_default=False),
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="IMAGE", help="Make a new ext4 image instead; needs no key.")
    ] = None,
    block_size: Annotated[
        BlockSizeChoice | None, typer.Option("--block-size", help="Block size of the new image, in bytes.")
    ] = None,
    salvage: Annotated[
        bool,
        typer.Option(
            "--salvage",
            help="Restore what is left of an archive that was cut short.",
        ),
    ] = False,
    ciphertext: Annotated[
        bool, typer.Option("--ciphertext", help="Restore entries without a key as ciphertext instead of skipping them.")
    ] = False,
    encrypt: Annotated[
        bool,
        typer.Option(
            "--encrypt",
            help="Let the target's file system encrypt again, under the same policies. The kernel has the keys only"
            " during the restore.",
        ),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="PATH", help="Only this path and what is below it; in plain text or as list shows it."
        ),
    ] = None,
    overwrite: OverwriteOption = None,
    update: UpdateOption = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted restore; files that it completed are kept.")
    ] = False,
    devices: Annotated[bool, typer.Option("--devices", help="Create device nodes, too.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Decrypt and verify everything, write nothing, print the report.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Restore a backup into a directory, or as a new image.

    With keys, names, contents and link targets are decrypted; entries that no given key decrypts are
    skipped and reported. Without any key, everything encrypted is restored as ciphertext. A key that
    decrypts nothing is rejected before anything is written. Restoring an incremental backup also
    needs the archives it is based on.

    With --image, a new ext4 image is made. Encrypted files are in it as they were, and their keys
    decrypt them there. Everything is planned before anything is written.
    """
    if (image is None) == (directory is None):
        raise CommandError(Exit.USAGE, "give either a DIRECTORY to restore to or --image, and not both")
    if image is not None:
        if dry_run:
            raise CommandError(Exit.USAGE, "--dry-run is only for directories", "--plan shows the layout of an image")
        if ciphertext or encrypt or update or resume or devices or keys != ArchiveKeyOptions():
            raise CommandError(Exit.USAGE, "--image takes no keys, and no options for directories")
        if overwrite not in (None, OverwriteChoice.always, OverwriteChoice.never):
            raise CommandError(Exit.USAGE, "with --image, --overwrite is always or never")
        with open_archive(backup) as opened:
            code = make_image(
                opened,
                image,
                choices,
                block_size=int(block_size) if block_size else None,
                only=only or (),
                salvage=salvage or None,
                overwrite=overwrite is OverwriteChoice.always,
                json=json,
                quiet=quiet,
            )
            warn_of_changes(backup.label, recorded_changes(opened))
            return code
    if block_size is not None or choices != NewImageOptions():
        raise CommandError(Exit.USAGE, "options for a new image need --image")
    if encrypt and not keys.given:
        raise CommandError(Exit.USAGE, "--encrypt needs keys: the target's file system encrypts with them")
    keys.check_stdin(backup)
    assert directory is not None
    with open_archive(backup, salvage=salvage) as opened, progress(f"Restoring {backup.label}", quiet) as show:
        if keys.has_passphrases:
            require_seekable(opened, backup, "the metadata of its keys is read before it is restored")
        report = restore(
            opened,
            directory,
            keys=keys.keys_for(opened),
            only=only or (),
            missing="ciphertext" if ciphertext else "skip",
            overwrite=overwrite_of(overwrite, update),
            resume=resume,
            devices=devices,
            encrypt=encrypt,
            dry_run=dry_run,
            salvage=salvage,
            progress=show,
        )
    warn_of_changes(backup.label, report.changes)
    return report_restored(report, Output(json), directory, dry_run=dry_run)
