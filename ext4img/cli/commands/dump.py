"""`ext4img dump`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from ext4img.archive.decryption import EntryDecryptor
from ext4img.archive.lookup import file_contents, find_member
from ext4img.archive.loss import Loss
from ext4img.cli.archive_key_options import ArchiveKeyOptions
from ext4img.cli.archive_options import ArchiveOptions, open_archive, require_seekable
from ext4img.cli.exit_codes import Exit
from ext4img.cli.multi_path import MultiPath
from ext4img.cli.output import Output, warn

_ZEROS = memoryview(bytes(1 << 20))


def run(
    backup: ArchiveOptions,
    keys: ArchiveKeyOptions,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files, by plain path or as `list` shows them.")
    ],
    ciphertext: Annotated[
        bool,
        typer.Option("--ciphertext", help="Write the stored bytes, up to the end of the last block; needs no key."),
    ] = False,
) -> int:
    """Write the contents of files in a backup to standard output.

    Like cat for an image; the rest of the backup is not read. Holes are written as zeros; symbolic
    links are not followed. A damaged file is reported after its last byte, with exit code 6.
    """
    out = Output()
    keys.check_stdin(backup)
    with open_archive(backup) as opened:
        require_seekable(opened, backup, "files are looked up by the manifest at its end")
        keyring = keys.keys_for(opened)
        plaintext = EntryDecryptor(keyring, opened.info) if len(keyring) else None
        multi_path = MultiPath("dump", backup.subject, len(paths))
        incomplete = False
        lost: dict[bytes, list[Loss]] = {}
        for loss in opened.losses:
            lost.setdefault(loss.path, []).append(loss)
        for path in paths:
            with multi_path:
                member = find_member(opened, path, plaintext)
                size, chunks = file_contents(member, plaintext, ciphertext=ciphertext)
                _write(out, size, chunks)
                if member.unreadable:
                    warn(f"{backup.label}: {member.entry.shown}: incomplete: the image could not be read completely")
                for loss in lost.get(member.entry.path, ()):
                    warn(f"{backup.label}: {loss}")
                incomplete |= bool(member.unreadable) or member.entry.path in lost
        out.flush()
    return multi_path.code or (Exit.PARTLY if incomplete else Exit.DONE)


def _write(out: Output, size: int, chunks: Iterator[tuple[int, memoryview]]) -> None:
    """Write the bytes of a file, holes as zeros."""
    at = 0
    for offset, data in chunks:
        _write_zeros(out, offset - at)
        out.write(data)
        at = offset + len(data)
    _write_zeros(out, size - at)


def _write_zeros(out: Output, count: int) -> None:
    while count > 0:
        part = _ZEROS[: min(count, len(_ZEROS))]
        out.write(part)
        count -= len(part)
