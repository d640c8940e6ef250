"""`ext4img dump`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from ext4img.archive.decryption import EntryDecryptor
from ext4img.archive.lookup import file_contents, find_member
from ext4img.cli.archive import ArchiveOptions, need_file, open_archive
from ext4img.cli.archive_keys import ArchiveKeyOptions
from ext4img.cli.exit_codes import Exit
from ext4img.cli.multi_path import Attempts
from ext4img.cli.output import Output, warn

_ZEROS = memoryview(bytes(1 << 20))


def run(
    backup: ArchiveOptions,
    keys: ArchiveKeyOptions,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, plain or as list shows them.")],
    ciphertext: Annotated[
        bool, typer.Option("--ciphertext", help="What is in the backup, up to the end of the last block; asks no key.")
    ] = False,
) -> int:
    """Write the contents of files in a backup to standard output, and read nothing else of it.

    What cat does for an image. Holes come as zeros; symbolic links are not followed. A file that is
    not what was written is told when its last byte has been, and makes the exit code 6.
    """
    out = Output()
    keys.check_stdin(backup)
    with open_archive(backup) as opened:
        need_file(opened, backup, "files are looked up by the manifest at its end")
        keyring = keys.of(opened)
        plaintext = EntryDecryptor(keyring, opened.info) if len(keyring) else None
        attempts = Attempts("dump", backup.subject, len(paths))
        incomplete = False
        for path in paths:
            with attempts:
                member = find_member(opened, path, plaintext)
                size, chunks = file_contents(member, plaintext, ciphertext=ciphertext)
                _write(out, size, chunks)
                if member.unreadable:
                    warn(f"{backup.label}: {member.entry.shown}: incomplete: the image could not be read in full")
                    incomplete = True
        out.flush()
    return attempts.code or (Exit.PARTLY if incomplete else Exit.DONE)


def _write(out: Output, size: int, chunks: Iterator[tuple[int, memoryview]]) -> None:
    """A file's bytes, holes as zeros."""
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
