"""`ext4img metadata`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ext4img.archive.encryption_records import build_filename, build_metadata
from ext4img.cli.error_report import CommandError, explain
from ext4img.cli.exit_codes import Exit
from ext4img.cli.image_options import ImageOptions
from ext4img.cli.key_options import ImageKeyOptions
from ext4img.cli.key_value import KeyValues, write_key_values
from ext4img.cli.multi_path import MultiPath
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json
from ext4img.cli.output import Output, text_fields
from ext4img.cli.path_arg import PathArg, resolve_path_arg
from ext4img.cli.quoting import quote
from ext4img.interruption import deferred

_RECORDS = {
    "metadata.e5": "encryption metadata: true size and context",
    "filename.ef": "encrypted name",
    "filename.ed": "encrypted name of a directory, with mode and context",
    "symlink": "target as stored: 16-bit length and ciphertext",
}


def run(
    image: ImageOptions,
    keys: ImageKeyOptions,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Paths on the image, or inode:N.")],
    save: Annotated[
        str | None, typer.Option("--save", metavar="DIR", help="Write the raw records into this new directory.")
    ] = None,
    json: Json = False,
) -> int:
    """Show the records that a backup stores for a path.

    Decryption needs them besides the ciphertext: e5 (size and encryption context), ef or ed (the
    encrypted name), and the stored target of a symbolic link. No key is needed; with a key, plain
    paths are accepted.
    """
    out = Output(json)
    if save is not None and len(paths) != 1:
        raise typer.BadParameter("--save accepts one PATH only")
    with open_image(image, keys) as fs:
        multi_path = MultiPath("metadata", image.image, len(paths))
        for position, argument in enumerate(paths):
            with multi_path:
                arg = resolve_path_arg(fs, argument)
                records = _records(arg)
                if save is not None:
                    _save(save, records)
                if json:
                    out.record(_record(arg, records))
                else:
                    if position:
                        out.line("")
                    write_key_values(out, _key_values(arg, records))
    return multi_path.code


def _records(arg: PathArg) -> dict[str, bytes]:
    """The raw records by file name; empty if nothing is encrypted."""
    fs, inode, entry = arg.fs, arg.inode, arg.entry
    records: dict[str, bytes] = {}
    context = inode.encryption
    if context is not None:
        records["metadata.e5"] = build_metadata(inode.size, context.raw)
    if entry is not None and arg.directory and fs.inode(arg.directory).is_encrypted:
        if inode.is_dir and context is not None:
            records["filename.ed"] = build_filename(entry.name, inode.mode, context.raw)
        else:
            records["filename.ef"] = build_filename(entry.name)
    if context is not None and inode.is_symlink:
        records["symlink"] = fs.volume.symlink_target_stored(inode)
    return records


def _key_values(arg: PathArg, records: dict[str, bytes]) -> KeyValues:
    key_values: KeyValues = [("File", quote(arg.path)), ("Inode", f"{arg.inode.number}, size {arg.inode.size}")]
    context = arg.inode.encryption
    if context is not None:
        key_values += [("Policy", context.policy.describe()), ("Nonce", context.nonce.hex())]
    key_values += [(name, f"{raw.hex()}\n({_RECORDS[name]})") for name, raw in records.items()]
    if arg.entry is not None and arg.entry.hash:
        key_values.append(("Name hash", arg.entry.hash.hex()))
    if not records:
        key_values.append(("Records", "none: neither the inode nor its name is encrypted"))
    return key_values


def _record(arg: PathArg, records: dict[str, bytes]) -> dict[str, Any]:
    inode = arg.inode
    context = inode.encryption
    return {
        **text_fields("path", arg.shown),
        "inode": inode.number,
        "generation": inode.generation,
        "size": inode.size,
        "context": context.raw.hex() if context is not None else None,
        "metadata": _hex(records, "metadata.e5"),
        "filename": _hex(records, "filename.ef") or _hex(records, "filename.ed"),
        "symlink": _hex(records, "symlink"),
        "name_hash": arg.entry.hash.hex() if arg.entry is not None and arg.entry.hash else None,
    }


def _hex(records: dict[str, bytes], name: str) -> str | None:
    return records[name].hex() if name in records else None


def _save(directory: str, records: dict[str, bytes]) -> None:
    """Write all records or none, into a new directory."""
    if not records:
        raise CommandError(Exit.NO_SUCH_PATH, "nothing to save: neither the inode nor its name is encrypted")
    target = Path(directory)
    try:
        with deferred():
            _write_new(target, records)
    except OSError as error:
        raise explain(error, directory) from error


def _write_new(target: Path, records: dict[str, bytes]) -> None:
    target.mkdir()
    try:
        for name, raw in records.items():
            fd = os.open(target / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(raw)
    except BaseException:
        for name in records:
            (target / name).unlink(missing_ok=True)
        target.rmdir()
        raise
