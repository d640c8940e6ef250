"""`ext4img cat`."""

from __future__ import annotations

from typing import Annotated

import typer

from ext4img.cli.image_options import ImageOptions
from ext4img.cli.key_options import ImageKeyOptions
from ext4img.cli.multi_path import MultiPath
from ext4img.cli.open_image import open_image
from ext4img.cli.output import Output
from ext4img.cli.path_arg import resolve_path_arg

_CHUNK_BYTES = 1 << 20


def run(
    image: ImageOptions,
    keys: ImageKeyOptions,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files on the image, or inode:N.")],
    ciphertext: Annotated[
        bool,
        typer.Option("--ciphertext", help="Write the stored bytes, up to the end of the last block; needs no key."),
    ] = False,
) -> int:
    """Write the contents of files to standard output.

    Symbolic links are followed; holes are written as zeros.
    """
    out = Output()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with open_image(image, keys) as fs:
        multi_path = MultiPath("cat", image.image, len(paths))
        for argument in paths:
            with multi_path:
                arg = resolve_path_arg(fs, argument)
                inode = arg.followed()
                opened = fs.open_ciphertext if ciphertext else fs.open_inode
                with opened(inode, arg.path) as file:
                    while count := file.readinto(buffer):
                        out.write(buffer[:count])
        out.flush()
    return multi_path.code
