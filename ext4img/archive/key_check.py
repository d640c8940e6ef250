"""Checks before a restore that each key decrypts something in the backup.

Version 2 policies name their key by an identifier that is derived from it, version 1 policies by a
descriptor that usually is. If it is not, names and the ends of files are decrypted on trial: names
are padded with NULs, and between a file's end and the end of its block there are zeros.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ext4img.archive.damaged_reader import undamaged_members
from ext4img.archive.decryption import EntryDecryptor
from ext4img.archive.entry import Entry
from ext4img.archive.open_backup import BackupMember, BackupSource
from ext4img.archive.reader import Archive
from ext4img.crypto.keyring import Keyring
from ext4img.crypto.policy import Policy
from ext4img.errors import AlteredArchiveError, WrongKeyError
from ext4img.names.nokey import is_padded_name

Key = bytes | tuple[bytes, bytes | None]
"""A master key, alone or with the descriptor by which version 1 policies name it."""

_MAX_NAMES: Final = 64
_MAX_ENDS: Final = 8
_MAX_FILE_BYTES: Final = 1 << 20  # of files whose ends are decrypted


def check_keys(backup: BackupSource, keys: Iterable[Key]) -> Keyring:
    """The keys as a keyring. WrongKeyError if one of them decrypts nothing in the backup."""
    keyring = Keyring()
    for key in keys:
        raw, descriptor = (key, None) if isinstance(key, bytes) else key
        add_checked_key(backup, keyring, raw, descriptor)
    return keyring


def add_checked_key(backup: BackupSource, keyring: Keyring, raw: bytes, descriptor: bytes | None = None) -> None:
    """Add a key to a keyring; WrongKeyError, and it is not added, if it decrypts nothing in the backup."""
    alone = Keyring()
    alone.add(raw, descriptor)
    policies = backup.info.policies
    is_needed = any(alone.has(policy) for policy in policies)
    found: list[bytes] = []
    if descriptor is None and backup.seekable:
        for policy in policies:
            if policy.version == 1 and not alone.has(policy):
                renamed = Keyring()
                renamed.add(raw, policy.key_id)
                if renamed.has(policy) and _decrypts(backup, policy, EntryDecryptor(renamed, backup.info)):
                    found.append(policy.key_id)
    if not is_needed and not found:
        raise WrongKeyError(f"the key opens nothing in this backup, which has {_count(policies)}")
    keyring.add(raw, descriptor)
    for key_id in found:
        keyring.add(raw, key_id)


def _decrypts(backup: BackupSource, policy: Policy, decryptor: EntryDecryptor) -> bool:
    """Whether each of several names and files under the policy decrypts to something valid."""
    names = ends = 0
    directories: list[Entry] = []
    for member in _readable(backup):
        entry = member.entry
        if entry.type == "verity":
            continue
        while directories and not entry.path.startswith(directories[-1].path + b"/"):
            directories.pop()
        known = directories and directories[-1].path == entry.parent
        if entry.stored_name is not None and known and names < _MAX_NAMES:
            context = decryptor.context(directories[-1])
            cipher = decryptor.names(directories[-1]) if context is not None and context.policy == policy else None
            if cipher is not None:
                if not is_padded_name(cipher.decrypt_raw([entry.stored_name])[0]):
                    return False
                names += 1
        if ends < _MAX_ENDS and entry.type == "file" and entry.context is not None:
            context = decryptor.context(entry)
            if context is not None and context.policy == policy:
                end = _ends_in_zeros(member, decryptor)
                if end is False:
                    return False
                ends += bool(end)
        if entry.type == "dir":
            directories.append(entry)
        if names >= _MAX_NAMES and ends >= _MAX_ENDS:
            break
    return names + ends > 0


def _ends_in_zeros(member: BackupMember, decryptor: EntryDecryptor) -> bool | None:
    """Whether a file's last block has zeros after its end; None if that can't be determined."""
    entry = member.entry
    spare = entry.body_size - entry.size
    if not spare or not entry.segments or entry.body_size > _MAX_FILE_BYTES:
        return None
    cipher = decryptor.contents(entry)
    if cipher is None or sum(entry.segments[-1]) != entry.body_size:
        return None
    unit = cipher.data_unit_size
    first = entry.body_size // unit - 1
    try:
        body = member.read()
    except AlteredArchiveError:
        return None
    end = cipher.decrypt(body[first * unit :], first)[-min(spare, unit) :]
    return not end.strip(b"\0")


def _readable(backup: BackupSource) -> Iterable[BackupMember]:
    """All members that are not damaged; damage is reported by the restore itself."""
    if isinstance(backup, Archive) and backup.seekable:
        return undamaged_members(backup, lambda line, error: None)
    return backup.members()


def _count(policies: tuple[Policy, ...]) -> str:
    count = len(policies)
    return f"{count or 'no'} encryption polic{'y' if count == 1 else 'ies'}"
