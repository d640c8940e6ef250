"""From a passphrase to the keys of a backup, through what the backup itself says about its keys.

The same three tools as on an image: fscrypt (`.fscrypt` is part of the tree), e4crypt (the
superblock's salt is in `backup.json`), systemd-homed (slots in attributes of home directories).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final

from ext4img.archive.entry import VERITY, Entry
from ext4img.archive.open_backup import BackupMember, BackupSource
from ext4img.crypto.policy import DESCRIPTOR_SIZE, parse_context
from ext4img.errors import (
    ArchiveError,
    CorruptionError,
    Ext4Error,
    NotFoundError,
    UnsupportedFeatureError,
    WrongKeyError,
)
from ext4img.unlocking import DEFAULT_LIMITS, CostLimits, ProtectorKeys, Secrets, open_policies, passphrase_bytes
from ext4img.unlocking.e4crypt import derive_key, parse_salt
from ext4img.unlocking.fscrypt_policy import combined
from ext4img.unlocking.homed import is_slot, open_home
from ext4img.unlocking.key_id import names_key
from ext4img.unlocking.metadata_dirs import BASE, HostMetadata, Kind, MetadataChain, MetadataFile, MetadataPlace
from ext4img.unlocking.protobuf import MAX_MESSAGE_BYTES

_BASE: Final = BASE.encode()
_FILES_MOST: Final = 16_384  # metadata files that are kept; real backups have a few
_HOMES_MOST: Final = 64  # each costs a PBKDF2 a slot
_FAILURES_TOLD: Final = 8


class BackupMetadata:
    """The `.fscrypt` of a backup's tree: a `MetadataPlace`."""

    def __init__(self, source: BackupSource) -> None:
        self._files = dict(_metadata_files(source))

    def find(self, kind: Kind, name: str) -> MetadataFile | None:
        """See `MetadataPlace`."""
        data = self._files.get(f"{kind}/{name}".encode())
        return None if data is None else MetadataFile(data, f"{BASE}/{kind}/{name}")


def unlock(
    source: BackupSource,
    passphrase: str | bytes | None = None,
    *,
    raw_keys: Iterable[bytes] = (),
    salts: Iterable[str | bytes] = (),
    fscrypt_dirs: Iterable[str | os.PathLike[str]] = (),
    limits: CostLimits | None = None,
    protectors: ProtectorKeys | None = None,
) -> tuple[bytes, ...]:
    """The master keys that a passphrase (or fscrypt's raw protector keys) gives; for `restore`'s `keys`.

    `salts` are e4crypt's beside the superblock's, `fscrypt_dirs` directories of the host with the
    `.fscrypt` of login protectors. `limits` bounds what hashing may cost, and `protectors` keeps
    what was hashed from one call to the next. WrongKeyError, or what else kept every policy shut;
    ArchiveError for a stream, which would have to be read twice.
    """
    if not source.seekable:
        raise ArchiveError(f"{source.name}: for a passphrase the archive has to be a file, not a stream")
    secrets = Secrets(() if passphrase is None else (passphrase_bytes(passphrase),), tuple(raw_keys))
    ids = list(dict.fromkeys(policy.key_id for policy in source.info.policies))
    failures: list[Ext4Error] = []
    places: list[MetadataPlace] = [BackupMetadata(source), *map(HostMetadata, fscrypt_dirs)]
    chain = MetadataChain(places)
    protectors = ProtectorKeys() if protectors is None else protectors
    protectors.limits = DEFAULT_LIMITS if limits is None else limits
    opened, failed = open_policies(ids, chain.policy, chain.protector, secrets, protectors)
    keys = {policy.policy_id: policy.key for policy in opened}
    failures += [error for error in failed.values() if not isinstance(error, NotFoundError)]
    others = [id_ for id_ in ids if id_ not in keys and len(id_) == DESCRIPTOR_SIZE]
    if passphrase is not None and others:
        lines = _e4crypt_lines(passphrase)
        own = [source.info.password_salt] if any(source.info.password_salt) else []
        given = [parse_salt(salt) if isinstance(salt, str) else bytes(salt) for salt in salts]
        for salt in dict.fromkeys([*own, *given]):
            for key in (derive_key(line, salt) for line in lines):
                keys |= {id_: key for id_ in others if names_key(key, id_)}
        others = [id_ for id_ in others if id_ not in keys]
        keys |= _homes(source, set(others), secrets.passphrases, failures)
    if not keys:
        where = f"nothing was opened of {len(ids)} encryption polic{'y' if len(ids) == 1 else 'ies'}"
        if not failures:
            raise WrongKeyError(f"{where}: no metadata in the backup is opened by it")
        raise combined(failures[:_FAILURES_TOLD], where, BASE)
    return tuple(dict.fromkeys(keys.values()))


def _metadata_files(source: BackupSource) -> Iterator[tuple[bytes, bytes]]:
    """(kind/name, contents) of the files in `.fscrypt`; only `.fscrypt` itself may be a symlink."""
    base = _BASE
    for member in source.members():
        entry = member.entry
        first = entry.path.split(b"/", 1)[0]
        if entry.path == _BASE and entry.type == "symlink" and entry.context is None:
            base = os.path.normpath(b"/" + entry.link_target).strip(b"/")
            yield from _files_below(source.members(), base)
            return
        if first > _BASE and entry.path != b".":
            return  # names are in order
        if entry.path.startswith(base + b"/"):
            yield from _files_below((member,), base)


def _files_below(members: Iterable[BackupMember], base: bytes) -> Iterator[tuple[bytes, bytes]]:
    count = 0
    for member in members:
        entry = member.entry
        name = entry.path.removeprefix(base + b"/")
        plain = entry.type == "file" and not entry.is_link and entry.context is None
        if name == entry.path or not plain or entry.size > MAX_MESSAGE_BYTES:
            continue
        count += 1
        if count > _FILES_MOST:
            return
        yield name, member.read()


def _homes(
    source: BackupSource, wanted: set[bytes], passwords: tuple[bytes, ...], failures: list[Ext4Error]
) -> dict[bytes, bytes]:
    """Keys from the slots of systemd-homed."""
    keys: dict[bytes, bytes] = {}
    tried = 0
    if not wanted:
        return keys
    for member in source.members():
        entry = member.entry
        if entry.type != "dir" or not any(map(is_slot, entry.xattrs)):
            continue
        descriptor = _key_id(entry)
        if descriptor not in wanted or descriptor in keys:
            continue
        tried += 1
        if tried > _HOMES_MOST:
            break
        try:
            keys[descriptor] = open_home(dict(entry.xattrs), descriptor, passwords)
        except Ext4Error as error:
            failures.append(combined([error], f"home directory of systemd-homed ({entry.shown})", "/"))
    return keys


def _key_id(entry: Entry) -> bytes:
    if entry.context is None or entry.type == VERITY:
        return b""
    try:
        return parse_context(entry.context, supported_only=False).policy.key_id
    except (CorruptionError, UnsupportedFeatureError):
        return b""


def _e4crypt_lines(passphrase: str | bytes) -> tuple[bytes, ...]:
    """What e4crypt may have read: its line ends at LF, fscrypt's at CR too."""
    data = passphrase.encode("utf-8", "surrogateescape") if isinstance(passphrase, str) else bytes(passphrase)
    return tuple(dict.fromkeys((data.split(b"\n", 1)[0], passphrase_bytes(passphrase))))
