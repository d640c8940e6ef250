"""Find one member of a backup by its path, plain or no-key, and read its contents.

A path as it is shown without keys is found by the manifest. For a plain path below an encrypted
directory the names on the way are decrypted; no body is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ext4img.archive.decryption import EntryDecryptor
from ext4img.archive.entry import ROOT, VERITY, Entry
from ext4img.archive.open_backup import BackupMember, BackupSource
from ext4img.archive.path_filter import SelectedPath
from ext4img.errors import AlteredArchiveError, IsDirectoryError, NoKeyError, NotFoundError, NotRegularFileError
from ext4img.names.paths import decode_path


def find_member(source: BackupSource, path: SelectedPath, decryptor: EntryDecryptor | None = None) -> BackupMember:
    """The member of a path; for a further name of a file, the member of its first name.

    Leading slashes are ignored, symbolic links not followed. NotFoundError if there is no such
    path; ArchiveError for a stream, in which members cannot be looked up.
    """
    names = [name for name in os.fsencode(path).split(b"/") if name not in (b"", ROOT)]
    try:
        member = source.member(b"/".join(names) or ROOT)
    except NotFoundError:
        shown = _shown_path(source, names, decryptor) if decryptor is not None else None
        if shown is None:
            raise NotFoundError.at(decode_path(os.fsencode(path)), "No such path in the backup") from None
        member = source.member(shown)
    return _first_name(source, member.entry) if member.entry.is_link else member


def _first_name(source: BackupSource, entry: Entry) -> BackupMember:
    """The member that has the body of a hard link."""
    try:
        first = source.member(entry.link_target)
    except NotFoundError:
        first = None
    if first is None or first.entry.is_link or first.entry.inode != entry.inode:
        raise AlteredArchiveError(
            f"a hard link to {decode_path(entry.link_target)!r}, which is not the same file", entry.shown
        )
    return first


def file_contents(
    member: BackupMember, decryptor: EntryDecryptor | None, *, ciphertext: bool = False
) -> tuple[int, Iterator[tuple[int, memoryview]]]:
    """(size in bytes, chunks) of a regular file, decrypted, or with `ciphertext` as it is stored.

    The chunks are (offset, data), ascending, each valid until the next is requested; holes lie
    between them. When the iteration ends, the member's digest has been verified. NoKeyError if no
    key fits; IsDirectoryError and NotRegularFileError for members without contents.
    """
    entry = member.entry
    if entry.type == "dir":
        raise IsDirectoryError.at(entry.shown)
    if entry.type != "file":
        raise NotRegularFileError.at(entry.shown, f"Not a regular file but a {entry.type}: it has no contents")
    if not entry.is_encrypted or ciphertext:
        return entry.body_size, member.chunks()
    return entry.size, _decrypted(member, decryptor)


def _decrypted(member: BackupMember, decryptor: EntryDecryptor | None) -> Iterator[tuple[int, memoryview]]:
    entry = member.entry
    context = decryptor.context(entry) if decryptor is not None else None
    cipher = decryptor.contents(entry) if decryptor is not None else None
    if cipher is None:
        raise NoKeyError.at(entry.shown, context.policy.key_id_hex if context is not None else "")
    for offset, part in member.chunks():
        data = memoryview(cipher.decrypt(part, offset // cipher.data_unit_size))
        if offset < entry.size:
            yield offset, data[: entry.size - offset]


def _shown_path(source: BackupSource, names: list[bytes], decryptor: EntryDecryptor) -> bytes | None:
    """The no-key path of the member with these names, some of them plaintext; None if there is none."""
    remaining = list(names)
    directory: Entry | None = None
    for member in source.members():
        entry = member.entry
        if entry.type == VERITY:
            return None
        if entry.path == ROOT:
            directory = entry
            continue
        if directory is None or entry.parent != directory.path:
            continue
        cipher = decryptor.names(directory)
        name = decryptor.name(entry, cipher) if cipher is not None else entry.name
        if remaining[0] not in (name, entry.name):
            continue
        del remaining[0]
        if not remaining:
            return entry.path
        if entry.type != "dir":
            return None
        directory = entry
    return None
