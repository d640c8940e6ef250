"""Whether keys open anything in an archive, found out before anything is restored.

Version 2 policies name their key by an identifier made from it, version 1 policies by a
descriptor that usually is. Where it is not, names and the ends of files tell: names are padded
with NULs, and what lies between a file's end and its block's end is zeros.
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
"""A master key, or one with the descriptor that version 1 policies know it by."""

_NAMES_ENOUGH: Final = 64
_ENDS_ENOUGH: Final = 8
_END_FILE_MOST_BYTES: Final = 1 << 20


def keyring_for(archive: BackupSource, keys: Iterable[Key]) -> Keyring:
    """The keys as a keyring. WrongKeyError if one of them opens nothing in the archive."""
    keyring = Keyring()
    policies = archive.info.policies
    for key in keys:
        raw, descriptor = (key, None) if isinstance(key, bytes) else key
        trial = Keyring()
        trial.add(raw, descriptor)
        opened = [policy for policy in policies if trial.has(policy)]
        for policy in policies:
            if policy.version == 1 and descriptor is None and policy not in opened and archive.seekable:
                other = Keyring()
                other.add(raw, policy.key_id)
                if other.has(policy) and _opens(archive, policy, EntryDecryptor(other, archive.info)):
                    keyring.add(raw, policy.key_id)
                    opened.append(policy)
        if not opened:
            raise WrongKeyError(f"the key opens nothing in this backup, which has {_count(policies)}")
        keyring.add(raw, descriptor)
    return keyring


def _opens(archive: BackupSource, policy: Policy, plaintext: EntryDecryptor) -> bool:
    """Whether what stands under the policy decrypts to something sensible, at each of several places."""
    names = ends = 0
    directories: list[Entry] = []
    for member in _readable(archive):
        entry = member.entry
        if entry.type == "verity":
            continue
        while directories and not entry.path.startswith(directories[-1].path + b"/"):
            directories.pop()
        known = directories and directories[-1].path == entry.parent
        if entry.stored_name is not None and known and names < _NAMES_ENOUGH:
            context = plaintext.context(directories[-1])
            cipher = plaintext.names(directories[-1]) if context is not None and context.policy == policy else None
            if cipher is not None:
                if not is_padded_name(cipher.decrypt_raw([entry.stored_name])[0]):
                    return False
                names += 1
        if ends < _ENDS_ENOUGH and entry.type == "file" and entry.context is not None:
            context = plaintext.context(entry)
            if context is not None and context.policy == policy:
                end = _ends_in_zeros(member, plaintext)
                if end is False:
                    return False
                ends += bool(end)
        if entry.type == "dir":
            directories.append(entry)
        if names >= _NAMES_ENOUGH and ends >= _ENDS_ENOUGH:
            break
    return names + ends > 0


def _ends_in_zeros(member: BackupMember, plaintext: EntryDecryptor) -> bool | None:
    """Whether a file's last block holds zeros behind its end; None where that can't be seen."""
    entry = member.entry
    spare = entry.body_size - entry.size
    if not spare or not entry.segments or entry.body_size > _END_FILE_MOST_BYTES:
        return None
    cipher = plaintext.contents(entry)
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


def _readable(archive: BackupSource) -> Iterable[BackupMember]:
    """Damage is told when it is come to in earnest."""
    if isinstance(archive, Archive) and archive.seekable:
        return undamaged_members(archive, lambda line, error: None)
    return archive.members()


def _count(policies: tuple[Policy, ...]) -> str:
    count = len(policies)
    return f"{count or 'no'} encryption polic{'y' if count == 1 else 'ies'}"
