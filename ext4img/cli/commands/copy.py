"""`ext4img copy`."""

from __future__ import annotations

from typing import Annotated

import typer

from ext4img.cli.error_report import CommandError
from ext4img.cli.exit_codes import Exit
from ext4img.cli.image_options import ImageOptions
from ext4img.cli.key_options import ImageKeyOptions
from ext4img.cli.open_image import open_image
from ext4img.cli.options import BlockSizeChoice, Json, Quiet
from ext4img.cli.report_rebuild import NewImageOptions, make_image


def run(
    image: ImageOptions,
    keys: ImageKeyOptions,
    copy: Annotated[str, typer.Argument(metavar="COPY", help="The new image.", show_default=False)],
    choices: NewImageOptions,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PATH", help="This path with what is below it; may be given several times."),
    ] = None,
    new_block_size: Annotated[
        BlockSizeChoice | None, typer.Option("--new-block-size", help="Bytes of a block of the copy.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the copy if there is one.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Copy a file system to a new image.

    The copy may be smaller or larger, partial, or have another block size or other features. No
    key is needed: encrypted files go over as they stand, and their keys open them there. Keys
    serve only to give --only plain paths. With --checks report what is damaged is left out and
    told. All is planned before anything is written; the copy appears under its name when it is
    whole.
    """
    if image.block_size is not None and image.superblock is None:
        text = "--block-size says what --superblock counts, which is not given"
        raise CommandError(Exit.USAGE, text, "--new-block-size is that of the copy")
    with open_image(image, keys) as fs:
        return make_image(
            fs,
            copy,
            choices,
            block_size=int(new_block_size) if new_block_size else None,
            only=only or (),
            salvage=None,
            overwrite=overwrite,
            json=json,
            quiet=quiet,
        )
