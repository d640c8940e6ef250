"""`ext4img cat`."""

from __future__ import annotations

from typing import Annotated

import typer

from ext4img.cli.attempts import Attempts
from ext4img.cli.image import open_image
from ext4img.cli.keys import ImageKeyOptions
from ext4img.cli.locate import locate
from ext4img.cli.options import ImageOptions
from ext4img.cli.output import Output

_CHUNK_BYTES = 1 << 20


def run(
    image: ImageOptions,
    keys: ImageKeyOptions,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files on the image, or inode:N.")],
    ciphertext: Annotated[
        bool, typer.Option("--ciphertext", help="What is on the disk, up to the end of the last block; asks no key.")
    ] = False,
) -> int:
    """Write files' contents to standard output.

    Symbolic links are followed; holes come as zeros.
    """
    out = Output()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with open_image(image, keys) as view:
        attempts = Attempts("cat", image.image, len(paths))
        for argument in paths:
            with attempts:
                located = locate(view, argument)
                inode = located.followed()
                opened = view.open_ciphertext if ciphertext else view.open_inode
                with opened(inode, located.path) as file:
                    while count := file.readinto(buffer):
                        out.write(buffer[:count])
        out.flush()
    return attempts.code
