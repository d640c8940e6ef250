"""`ext4img extract`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from ext4img.cli.image_options import ImageOptions
from ext4img.cli.key_options import ImageKeyOptions
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json, OverwriteOption, Quiet, UpdateOption, overwrite_of
from ext4img.cli.output import Output
from ext4img.cli.path_arg import PathArg, resolve_path_arg
from ext4img.cli.progress_bar import progress
from ext4img.cli.quoting import quote
from ext4img.cli.report_restore import report_restored
from ext4img.extractor import extract
from ext4img.fs.filesystem import FileSystem
from ext4img.fs.inode import Inode
from ext4img.fs.name_counts import NameCounts

_TARGET = b"."


def run(
    image: ImageOptions,
    keys: ImageKeyOptions,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Paths on the image, or inode:N.")],
    directory: Annotated[str, typer.Argument(metavar="DIRECTORY", help="Target directory; created if needed.")],
    ciphertext: Annotated[
        bool, typer.Option("--ciphertext", help="Write the stored bytes of files, up to the end of the last block.")
    ] = False,
    overwrite: OverwriteOption = None,
    update: UpdateOption = False,
    devices: Annotated[bool, typer.Option("--devices", help="Create device nodes, too.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Copy files and directories out of an image.

    Each PATH is put into DIRECTORY under its own name, with everything below it; of / only the
    contents. Owners, modes, times, attributes and flags are set as far as the system allows. Entries
    that no given key decrypts are skipped and reported. Nothing is written outside DIRECTORY,
    whatever names and links the image has.
    """
    with open_image(image, keys) as fs, progress(f"Extracting from {quote(image.image)}", quiet) as show:
        found = [resolve_path_arg(fs, argument) for argument in paths]
        report = extract(
            fs,
            _tree(found),
            directory,
            ciphertext=ciphertext,
            overwrite=overwrite_of(overwrite, update),
            devices=devices,
            counts=_counts(fs, found),
            progress=show,
        )
    return report_restored(report, Output(json), directory)


def _counts(fs: FileSystem, found: list[PathArg]) -> NameCounts:
    """The names of everything that is extracted, counted."""
    counts = NameCounts(fs.volume)
    for arg in found:
        if arg.inode.is_dir:
            counts.add_tree(arg.inode)
    for arg in found:
        if arg.entry is not None:
            counts.add_name(arg.directory, arg.entry.name, arg.inode.number)
    return counts


def _tree(found: list[PathArg]) -> Iterator[tuple[bytes, Inode]]:
    """(path below the target, inode) of everything that is extracted."""
    # The root's contents go into the target itself, which must come first.
    for arg in sorted(found, key=lambda arg: arg.path != "/"):
        if arg.by_number:
            top = f"inode-{arg.inode.number}".encode()
        else:
            top = _TARGET if arg.path == "/" else arg.name
        skip = len(arg.path)
        for path, inode in arg.walk():
            below = path[skip:].encode("utf-8", "surrogateescape").lstrip(b"/")
            if top == _TARGET:
                yield below or _TARGET, inode
            else:
                yield top + b"/" + below if below else top, inode
