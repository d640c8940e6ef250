"""`ext4img restore`."""

from __future__ import annotations

from typing import Annotated

import typer

from ext4img.cli.archive_key_options import ArchiveKeyOptions
from ext4img.cli.archive_options import ArchiveOptions, open_archive, require_seekable
from ext4img.cli.error_report import CommandError
from ext4img.cli.exit_codes import Exit
from ext4img.cli.options import BlockSizeChoice, Json, Quiet
from ext4img.cli.output import Output
from ext4img.cli.progress_bar import progress
from ext4img.cli.report_rebuild import NewImageOptions, make_image
from ext4img.cli.report_restore import tell_restored
from ext4img.restorer.restore import restore


def run(
    backup: ArchiveOptions,
    keys: ArchiveKeyOptions,
    choices: NewImageOptions,
    directory: Annotated[
        str | None, typer.Argument(metavar="[DIRECTORY]", help="Where to; made if it is not there.", show_default=False)
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="IMAGE", help="Make a new ext4 image of it instead, without keys.")
    ] = None,
    block_size: Annotated[
        BlockSizeChoice | None, typer.Option("--block-size", help="Bytes of a block of the new image.")
    ] = None,
    salvage: Annotated[
        bool,
        typer.Option(
            "--salvage",
            help="Restore what there is of an archive that was cut short. With --image: leave out what it can't hold.",
        ),
    ] = False,
    ciphertext: Annotated[
        bool, typer.Option("--ciphertext", help="What no key opens is restored as ciphertext, not left out.")
    ] = False,
    encrypt: Annotated[
        bool,
        typer.Option(
            "--encrypt",
            help="Let the target's file system encrypt again what was encrypted, under the same keys; the kernel gets"
            " them for the time of the restore.",
        ),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PATH", help="This path with what is below it; plain or as list shows it."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are in the way.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Replace files in the way that are older.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a restore that was interrupted: what it did stays.")
    ] = False,
    devices: Annotated[bool, typer.Option("--devices", help="Make device nodes, too.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Read and decrypt everything, write nothing, and tell the same.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Restore a backup into a directory, or as a new image.

    With keys names, contents and link targets are decrypted; what no key opens is left out and
    told. Without any key the ciphertext is restored as it stands. A key that opens nothing is
    refused before anything is written. Of an incremental backup what it builds on is needed, too.

    With --image a new ext4 image is made, in which encrypted files stand as they did: their keys
    open them there. All is planned before anything is written.
    """
    if (image is None) == (directory is None):
        raise CommandError(Exit.USAGE, "a backup is restored either into a DIRECTORY or as an --image")
    if image is not None:
        if dry_run:
            raise CommandError(
                Exit.USAGE, "--dry-run is for directories", "--plan shows what would be where on the image"
            )
        if ciphertext or encrypt or update or resume or devices or keys != ArchiveKeyOptions():
            raise CommandError(Exit.USAGE, "--image goes without keys and without what is for directories")
        with open_archive(backup) as opened:
            return make_image(
                opened,
                image,
                choices,
                block_size=int(block_size) if block_size else None,
                only=only or (),
                salvage=salvage,
                overwrite=overwrite,
                json=json,
                quiet=quiet,
            )
    if block_size is not None or choices != NewImageOptions():
        raise CommandError(Exit.USAGE, "choices for a new image need --image")
    if encrypt and not keys.given:
        raise CommandError(Exit.USAGE, "--encrypt needs the keys: the target's file system encrypts with them")
    keys.check_stdin(backup)
    assert directory is not None
    with open_archive(backup, salvage=salvage) as opened, progress(f"Restoring {backup.label}", quiet) as show:
        if keys.has_passphrases:
            require_seekable(opened, backup, "what it says of its keys is read before it is restored")
        report = restore(
            opened,
            directory,
            keys=keys.keys_for(opened),
            only=only or (),
            missing="ciphertext" if ciphertext else "skip",
            overwrite="newer" if update and not overwrite else overwrite,
            resume=resume,
            devices=devices,
            encrypt=encrypt,
            dry_run=dry_run,
            salvage=salvage,
            progress=show,
        )
    return tell_restored(report, Output(json), directory, dry_run=dry_run)
