"""`ext4img metadata`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ext4img.archive.encryption_records import build_filename, build_metadata
from ext4img.cli.error_report import Failure, explain
from ext4img.cli.exit_codes import Exit
from ext4img.cli.image_options import ImageOptions
from ext4img.cli.key_options import ImageKeyOptions
from ext4img.cli.key_value import Facts, write_facts
from ext4img.cli.multi_path import Attempts
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json
from ext4img.cli.output import Output, text_fields
from ext4img.cli.path_arg import Located, locate
from ext4img.cli.quoting import quote

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
    """Show the records that a backup keeps of a path.

    They are what decryption will need besides the ciphertext: e5 (size and encryption context),
    ef or ed (the encrypted name), and a symlink's stored target. No key is needed; with one, paths
    can be given in plain text.
    """
    out = Output(json)
    if save is not None and len(paths) != 1:
        raise typer.BadParameter("--save takes one PATH")
    with open_image(image, keys) as fs:
        attempts = Attempts("metadata", image.image, len(paths))
        for position, argument in enumerate(paths):
            with attempts:
                located = locate(fs, argument)
                records = _records(located)
                if save is not None:
                    _save(save, records)
                if json:
                    out.record(_record(located, records))
                else:
                    if position:
                        out.line("")
                    write_facts(out, _facts(located, records))
    return attempts.code


def _records(located: Located) -> dict[str, bytes]:
    """Raw records by the names under which they are saved; none of what is not encrypted."""
    fs, inode, entry = located.fs, located.inode, located.entry
    records: dict[str, bytes] = {}
    context = inode.encryption
    if context is not None:
        records["metadata.e5"] = build_metadata(inode.size, context.raw)
    if entry is not None and located.directory and fs.inode(located.directory).is_encrypted:
        if inode.is_dir and context is not None:
            records["filename.ed"] = build_filename(entry.name, inode.mode, context.raw)
        else:
            records["filename.ef"] = build_filename(entry.name)
    if context is not None and inode.is_symlink:
        records["symlink"] = fs.volume.symlink_target_stored(inode)
    return records


def _facts(located: Located, records: dict[str, bytes]) -> Facts:
    facts: Facts = [("File", quote(located.path)), ("Inode", f"{located.inode.number}, size {located.inode.size}")]
    context = located.inode.encryption
    if context is not None:
        facts += [("Policy", context.policy.describe()), ("Nonce", context.nonce.hex())]
    facts += [(name, f"{raw.hex()}\n({_RECORDS[name]})") for name, raw in records.items()]
    if located.entry is not None and located.entry.hash:
        facts.append(("Name hash", located.entry.hash.hex()))
    if not records:
        facts.append(("Records", "none: neither it nor its name is encrypted"))
    return facts


def _record(located: Located, records: dict[str, bytes]) -> dict[str, Any]:
    inode = located.inode
    context = inode.encryption
    return {
        **text_fields("path", located.shown),
        "inode": inode.number,
        "generation": inode.generation,
        "size": inode.size,
        "context": context.raw.hex() if context is not None else None,
        "metadata": _hex(records, "metadata.e5"),
        "filename": _hex(records, "filename.ef") or _hex(records, "filename.ed"),
        "symlink": _hex(records, "symlink"),
        "name_hash": located.entry.hash.hex() if located.entry is not None and located.entry.hash else None,
    }


def _hex(records: dict[str, bytes], name: str) -> str | None:
    return records[name].hex() if name in records else None


def _save(directory: str, records: dict[str, bytes]) -> None:
    """All of them or none, in a directory that was not there."""
    if not records:
        raise Failure(Exit.NO_SUCH_PATH, "neither it nor its name is encrypted: there is nothing to save")
    target = Path(directory)
    try:
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
    except OSError as error:
        raise explain(error, directory) from error
