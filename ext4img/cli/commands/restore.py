"""`ext4img restore`."""

from __future__ import annotations

from typing import Annotated

import typer

from ext4img.backup.restore import restore
from ext4img.cli.archive import ArchiveArgument, archive_label, open_archive
from ext4img.cli.keys import KeyOptions
from ext4img.cli.options import Json, Quiet
from ext4img.cli.output import Output
from ext4img.cli.progress import progress
from ext4img.cli.quoting import quote
from ext4img.cli.restored import tell_restored


def run(
    archive: ArchiveArgument,
    keys: KeyOptions,
    directory: Annotated[str, typer.Argument(metavar="DIRECTORY", help="Where to; made if it is not there.")],
    ciphertext: Annotated[
        bool, typer.Option("--ciphertext", help="What no key opens is restored as ciphertext, not left out.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are in the way.")] = False,
    devices: Annotated[bool, typer.Option("--devices", help="Make device nodes, too.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Restore a backup into a directory.

    With keys names, contents and link targets are decrypted; what no key opens is left out and
    told. Without any key the ciphertext is restored as it stands. A key that opens nothing is
    refused before anything is written.
    """
    label = quote(archive_label(archive))
    with open_archive(archive) as opened, progress(f"Restoring {label}", quiet) as show:
        report = restore(
            opened,
            directory,
            keys=[(key.raw, keys.descriptor) for key in keys.read()],
            missing="ciphertext" if ciphertext else "skip",
            overwrite=overwrite,
            devices=devices,
            progress=show,
        )
    return tell_restored(report, Output(json), directory)
