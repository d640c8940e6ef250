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
        typer.Option("--only", metavar="PATH", help="This path and everything below it; can be repeated."),
    ] = None,
    new_block_size: Annotated[
        BlockSizeChoice | None, typer.Option("--new-block-size", help="Block size of the copy in bytes.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Copy a file system to a new image.

    The copy may be smaller or larger, partial, or have another block size or other features. No
    key is needed: encrypted files are copied as ciphertext, and their keys open them in the copy.
    Keys are only used to give plain paths to --only. With --checks report, damaged files are
    skipped and reported. Everything is planned before anything is written; the copy appears under
    its name when it is complete.
    """
    if image.block_size is not None and image.superblock is None:
        text = "--block-size needs --superblock, whose unit it is"
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
