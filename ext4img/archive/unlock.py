"""Unlocking a backup: the adapter between a `BackupSource` and `unlocking.unlocker`.

A backup has all the key metadata that is on an image: `.fscrypt` is part of the tree, the
superblock's salt for e4crypt is in `backup.json`, and the slots of systemd-homed are attributes of
home directories.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from ext4img.archive.damaged_reader import undamaged_members
from ext4img.archive.entry import ROOT, VERITY, Entry
from ext4img.archive.open_backup import BackupMember, BackupSource
from ext4img.archive.reader import Archive
from ext4img.crypto.policy import Policy, parse_context
from ext4img.errors import (
    AlteredArchiveError,
    ArchiveError,
    CorruptionError,
    Ext4Error,
    LimitError,
    UnsupportedFeatureError,
)
from ext4img.names.paths import decode_path
from ext4img.unlocking.fscrypt_kdf import CostLimits
from ext4img.unlocking.homed import is_slot
from ext4img.unlocking.metadata_dirs import (
    BASE,
    FscryptDir,
    Kind,
    MetadataFile,
    MetadataPlace,
    check_name,
    not_plain_directory,
    not_plain_file,
    opened_places,
    too_large,
)
from ext4img.unlocking.protobuf import MAX_MESSAGE_BYTES
from ext4img.unlocking.secrets import Secrets
from ext4img.unlocking.unlocker import HomeSlots, Unlocker

_BASE: Final = BASE.encode()
_MAX_FILES: Final = 16_384  # metadata files that are kept; real backups have a few


class UnlockedKeys(tuple[bytes, ...]):
    """The master keys that `unlock` found, for the `keys` of `restore`. They do not print themselves.

    `policies` are the policies that they open, `problems` the errors that no other secret would avoid,
    such as damaged metadata.
    """

    policies: tuple[Policy, ...]
    problems: tuple[Ext4Error, ...]

    def __repr__(self) -> str:
        return f"<UnlockedKeys: {len(self)} keys>"


def unlock(
    source: BackupSource,
    passphrase: str | bytes | None = None,
    *,
    raw_keys: Iterable[bytes] = (),
    salts: Iterable[str | bytes] = (),
    fscrypt_dirs: Iterable[FscryptDir] = (),
    limits: CostLimits | None = None,
) -> UnlockedKeys:
    """The master keys that a passphrase or fscrypt's raw protector keys give, for `restore`'s `keys`.

    Arguments and errors are those of `FileSystem.unlock`; of `fscrypt_dirs` a path must be that of a
    directory, and an image is given as an open FileSystem. ArchiveError for a stream, which would have
    to be read twice.
    """
    unlocker = BackupUnlocker(source)
    with opened_places(fscrypt_dirs) as places:
        return unlocker.unlock(passphrase, raw_keys=raw_keys, salts=salts, places=places, limits=limits)


class BackupUnlocker:
    """Unlocks one backup, and remembers what was hashed from one call to the next."""

    def __init__(self, source: BackupSource) -> None:
        if not source.seekable:
            raise ArchiveError(f"{source.name}: unlocking needs an archive file, not a stream")
        self._unlocker = Unlocker(_BackupTree(source))

    def unlock(
        self,
        passphrase: str | bytes | None = None,
        *,
        raw_keys: Iterable[bytes] = (),
        salts: Iterable[str | bytes] = (),
        places: Iterable[MetadataPlace] = (),
        limits: CostLimits | None = None,
    ) -> UnlockedKeys:
        """See the function `unlock`; `places` are its `fscrypt_dirs`, opened."""
        secrets = Secrets.of(passphrase, raw_keys)
        unlocked = self._unlocker.unlock(secrets, salts=salts, places=places, limits=limits)
        keys = UnlockedKeys(dict.fromkeys(unlocked.keys.values()))
        keys.policies, keys.problems = unlocked.policies, unlocked.problems
        return keys


class _BackupTree:
    """The key metadata of a backup: an `EncryptedTree`."""

    kind = "backup"

    def __init__(self, source: BackupSource) -> None:
        self._source = source
        self._metadata: BackupMetadata | None = None

    @property
    def password_salt(self) -> bytes:
        return self._source.info.password_salt

    def policies(self) -> Iterable[Policy]:
        return self._source.info.policies

    def fscrypt_metadata(self) -> MetadataPlace:
        if self._metadata is None:
            self._metadata = BackupMetadata(self._source)
        return self._metadata

    def homes(self, descriptors: Collection[bytes]) -> Iterator[HomeSlots]:
        for member in _readable(self._source):
            entry = member.entry
            if entry.type == "dir" and any(map(is_slot, entry.xattrs)):
                descriptor = _key_id(entry)
                if descriptor in descriptors:
                    xattrs = dict(entry.xattrs)
                    yield HomeSlots(entry.shown, descriptor, xattrs.copy)


class BackupMetadata:
    """The `.fscrypt` of a backup's tree: a `MetadataPlace`. All of it is read at once."""

    def __init__(self, source: BackupSource) -> None:
        # By the path below `.fscrypt`, "" for itself; an error for a file that breaks the rules.
        self._found: dict[bytes, MetadataFile | Ext4Error] = {}
        self._overflow: LimitError | None = None
        for member in _readable(source):
            entry = member.entry
            if entry.path == _BASE and entry.type == "symlink" and entry.context is None:
                target = os.path.normpath(b"/" + entry.link_target).strip(b"/")
                for other in _readable(source):
                    self._take(other, target)
                return
            # Names are in byte order, so nothing below `.fscrypt` comes later.
            if entry.path != ROOT and entry.path.split(b"/", 1)[0] > _BASE:
                return
            self._take(member, _BASE)

    def find(self, kind: Kind, name: str) -> MetadataFile | None:
        """See `MetadataPlace`."""
        check_name(name)
        for path in (b"", kind.encode(), f"{kind}/{name}".encode()):
            found = self._found.get(path)
            if isinstance(found, Ext4Error):
                raise found
            if found is not None:
                return found
        if self._overflow is not None:
            raise self._overflow
        return None

    def _take(self, member: BackupMember, base: bytes) -> None:
        """Keep a member that is `base` or lies one or two levels below it."""
        entry = member.entry
        if entry.type == VERITY or not (entry.path == base or entry.path.startswith(base + b"/")):
            return
        path = entry.path[len(base) + 1 :]
        where = f"{BASE}/{decode_path(path)}" if path else BASE
        depth = path.count(b"/")
        if depth > 1:
            return
        if len(self._found) >= _MAX_FILES:
            self._overflow = LimitError(f"{BASE}: only the first {_MAX_FILES} files of the backup's metadata are read")
        elif depth == 1:
            self._found[path] = _metadata_file(member, where)
        elif entry.type != "dir" or entry.context is not None:
            self._found[path] = CorruptionError(not_plain_directory(where, entry.type))


def _metadata_file(member: BackupMember, where: str) -> MetadataFile | Ext4Error:
    entry = member.entry
    if entry.type != "file" or entry.context is not None:
        return CorruptionError(not_plain_file(where, entry.type, entry.context is not None))
    if entry.is_link:
        return CorruptionError(
            f"{where} is a further name of {decode_path(entry.link_target)!r}, which is not followed"
        )
    if entry.size > MAX_MESSAGE_BYTES:
        return too_large(where, entry.size)
    try:
        return MetadataFile(member.read(), where)
    except AlteredArchiveError as error:
        return error


def _readable(source: BackupSource) -> Iterator[BackupMember]:
    """All members but the damaged ones, which restoring reports."""
    if isinstance(source, Archive) and not source.info.requires:
        return undamaged_members(source, lambda line, error: None)
    return source.members()


def _key_id(entry: Entry) -> bytes:
    """The key id in an entry's encryption context; empty if it has no valid one."""
    if entry.context is None:
        return b""
    try:
        return parse_context(entry.context, supported_only=False).policy.key_id
    except (CorruptionError, UnsupportedFeatureError):
        return b""
