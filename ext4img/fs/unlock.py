"""From a passphrase to the keys of an image, through what the image itself says about its keys.

Three tools leave enough on an image: fscrypt (`.fscrypt` in the root directory), e4crypt (a salt in
the superblock) and systemd-homed (slots in attributes of the home directory). Only policies that are
in use are tried; modes and flags are the encryption contexts', never the metadata's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ext4img.crypto.policy import DESCRIPTOR_SIZE, Policy
from ext4img.errors import (
    Ext4Error,
    KeyFormatError,
    NoKeyError,
    NotFoundError,
    UnsupportedFeatureError,
    WrongKeyError,
)
from ext4img.fs.image_metadata import ImageMetadata
from ext4img.sources import open_source
from ext4img.unlocking import DEFAULT_LIMITS, CostLimits, ProtectorKeys, Secrets, open_policies, passphrase_bytes
from ext4img.unlocking.e4crypt import derive_key, parse_salt
from ext4img.unlocking.fscrypt_policy import combined
from ext4img.unlocking.homed import open_home
from ext4img.unlocking.key_id import names_key
from ext4img.unlocking.metadata_dirs import BASE, HostMetadata, MetadataChain, MetadataPlace
from ext4img.volume.problems import Checks
from ext4img.volume.volume import Volume

if TYPE_CHECKING:
    from ext4img.fs.filesystem import FileSystem

MOST_POLICIES = 4096
"""Policies with metadata that are tried in one go; real images have a few."""
MOST_HOMES = 64
"""Home directories of systemd-homed that are tried in one go: each costs a PBKDF2 a slot."""
_MOST_TRIED = 64  # sets of secrets whose results are kept
_MOST_TOLD = 8  # failures that a message tells


@dataclass(slots=True)
class _Tried:
    """What one set of secrets was tried on, so that nothing is hashed twice."""

    protectors: ProtectorKeys = field(default_factory=ProtectorKeys)
    e4crypt: dict[bytes, list[bytes]] = field(default_factory=dict, repr=False)  # keys by salt
    homes: dict[int, bytes | Ext4Error] = field(default_factory=dict, repr=False)  # by inode number


class Unlocker:
    """Tries secrets on one view's metadata. Remembers by a digest, under a random key, which were tried."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._own = ImageMetadata(fs)
        self._tried: dict[bytes, _Tried] = {}
        self._digest_key = os.urandom(32)

    def unlock(
        self,
        passphrase: str | bytes | None,
        raw_keys: Iterable[bytes],
        salts: Iterable[str | bytes],
        fscrypt_dirs: Iterable[str | os.PathLike[str] | FileSystem],
        limits: CostLimits | None,
    ) -> tuple[Policy, ...]:
        """See `FileSystem.unlock`."""
        fs = self._fs
        secrets = Secrets(() if passphrase is None else (passphrase_bytes(passphrase),), tuple(raw_keys))
        if not secrets.passphrases and not secrets.raw_keys:
            raise KeyFormatError("neither a passphrase nor a raw key was given")
        parsed_salts = [parse_salt(salt) if isinstance(salt, str) else bytes(salt) for salt in salts]
        used = fs.policies()
        if not used:
            raise WrongKeyError("nothing is encrypted on this image, so there is nothing to unlock")
        tried = self._remembered(secrets, () if passphrase is None else _e4crypt_lines(passphrase))
        tried.protectors.limits = DEFAULT_LIMITS if limits is None else limits

        ids = list(dict.fromkeys(policy.key_id for policy in used))
        failures: list[Ext4Error] = []
        with metadata_places(self._own, fscrypt_dirs, fs.problems.checks) as chain:
            known = self._with_metadata(ids, chain, failures)
            keys = self._fscrypt(known, chain, secrets, tried, failures)
        if passphrase is not None:
            homes = {policy.key_id: use.homes for policy, use in used.items() if use.homes}
            keys |= self._homed(homes, secrets.passphrases, tried, failures)
            # Only e4crypt leaves no trace on a policy.
            traced = {*known, *homes}
            traceless = [id_ for id_ in ids if len(id_) == DESCRIPTOR_SIZE and id_ not in traced]
            if traceless:
                keys |= self._e4crypt(traceless, _e4crypt_lines(passphrase), parsed_salts, tried, failures)
        for key in keys.values():
            fs.keyring.add(key)
        opened = tuple(policy for policy in used if policy.key_id in keys and fs.keyring.has(policy))
        for policy in used:
            if policy.key_id in keys and policy not in opened:
                reason = policy.unsupported() or "its key is too short for its modes"
                failures.append(UnsupportedFeatureError(f"{policy.describe()}: {reason}", (reason,)))
        if not opened:
            raise _nothing_opened(len(used), failures, secrets)
        for error in failures:
            if not isinstance(error, (WrongKeyError, NoKeyError, NotFoundError)):
                fs.problems.note(str(error))
        return opened

    def _remembered(self, secrets: Secrets, lines: Sequence[bytes]) -> _Tried:
        digest = hashlib.blake2b(key=self._digest_key)
        for group in (secrets.passphrases, secrets.raw_keys, lines):
            digest.update(len(group).to_bytes(8, "big"))
            for secret in group:
                digest.update(len(secret).to_bytes(8, "big") + secret)
        if len(self._tried) >= _MOST_TRIED:
            self._tried.clear()
        return self._tried.setdefault(digest.digest(), _Tried())

    def _with_metadata(self, ids: Sequence[bytes], chain: MetadataChain, failures: list[Ext4Error]) -> list[bytes]:
        """Those of the policies that have a file in some `.fscrypt`."""
        known: list[bytes] = []
        for id_ in ids:
            try:
                if chain.find("policies", id_.hex()) is not None:
                    known.append(id_)
            except Ext4Error as error:
                failures.append(error)
            if len(known) >= MOST_POLICIES:
                self._fs.problems.note(f"{MOST_POLICIES} policies have metadata of fscrypt; others are not tried")
                break
        return known

    def _fscrypt(
        self,
        ids: Iterable[bytes],
        chain: MetadataChain,
        secrets: Secrets,
        tried: _Tried,
        failures: list[Ext4Error],
    ) -> dict[bytes, bytes]:
        """Keys by the policies' ids; why there is none for others goes to `failures`."""
        opened, failed = open_policies(ids, chain.policy, chain.protector, secrets, tried.protectors)
        failures.extend(failed.values())
        for policy in opened:
            failures.extend(policy.problems)
        return {policy.policy_id: policy.key for policy in opened}

    def _homed(
        self, homes: dict[bytes, list[int]], passwords: tuple[bytes, ...], tried: _Tried, failures: list[Ext4Error]
    ) -> dict[bytes, bytes]:
        volume = self._fs.volume
        keys: dict[bytes, bytes] = {}
        every = [(descriptor, number) for descriptor, numbers in homes.items() for number in numbers]
        if len(every) > MOST_HOMES:
            self._fs.problems.note(f"{len(every)} home directories of systemd-homed; {MOST_HOMES} are tried")
        for descriptor, number in every[:MOST_HOMES]:
            found = tried.homes.get(number)
            if found is None:
                try:
                    found = open_home(volume.xattrs(volume.inode(number)), descriptor, passwords)
                except Ext4Error as error:
                    found = error
                tried.homes[number] = found
            if isinstance(found, bytes):
                keys[descriptor] = found
            else:
                failures.append(combined([found], f"home directory of systemd-homed (inode {number})", "/"))
        return keys

    def _e4crypt(
        self,
        descriptors: Sequence[bytes],
        lines: Sequence[bytes],
        salts: Sequence[bytes],
        tried: _Tried,
        failures: list[Ext4Error],
    ) -> dict[bytes, bytes]:
        own = self._fs.superblock.password_salt
        salts = list(dict.fromkeys([*([own] if any(own) else []), *salts]))
        keys: dict[bytes, bytes] = {}
        for salt in salts:
            if salt not in tried.e4crypt:
                tried.e4crypt[salt] = [derive_key(line, salt) for line in lines]
            for key in tried.e4crypt[salt]:
                keys |= {descriptor: key for descriptor in descriptors if names_key(key, descriptor)}
        if salts:
            made = f"what e4crypt makes of the passphrase and {len(salts)} salt{'' if len(salts) == 1 else 's'}"
            failures.extend(
                WrongKeyError(f"the key of policy {descriptor.hex()} is not {made}")
                for descriptor in descriptors
                if descriptor not in keys
            )
        return keys


def _nothing_opened(count: int, failures: Sequence[Ext4Error], secrets: Secrets) -> Ext4Error:
    where = f"nothing was opened of {count} encryption polic{'y' if count == 1 else 'ies'}"
    if not failures:
        tools = "fscrypt, e4crypt or systemd-homed" if secrets.passphrases else "fscrypt"
        return WrongKeyError(f"{where}: no metadata of {tools} is there for them")
    if len(failures) > _MOST_TOLD:
        where += f" for {len(failures)} reasons, of which the first"
    return combined(failures[:_MOST_TOLD], where, f"/{BASE}")


@contextmanager
def metadata_places(
    own: ImageMetadata, directories: Iterable[str | os.PathLike[str] | FileSystem], checks: Checks
) -> Iterator[MetadataChain]:
    """The image's own `.fscrypt`, then the others: host directories, images (opened here), views."""
    from ext4img.fs.filesystem import FileSystem

    places: list[MetadataPlace] = [own]
    opened: list[FileSystem] = []
    try:
        for directory in directories:
            if isinstance(directory, FileSystem):
                places.append(ImageMetadata(directory))
            elif Path(directory).is_dir():
                places.append(HostMetadata(directory))
            else:
                source = open_source(directory)
                try:
                    opened.append(FileSystem(Volume(source, checks=checks)))
                except BaseException:
                    source.close()
                    raise
                places.append(ImageMetadata(opened[-1]))
        yield MetadataChain(places)
    finally:
        for fs in opened:
            fs.close()


def _e4crypt_lines(passphrase: str | bytes) -> tuple[bytes, ...]:
    """What e4crypt may have read: its line ends at LF, fscrypt's at CR too."""
    data = passphrase.encode("utf-8", "surrogateescape") if isinstance(passphrase, str) else bytes(passphrase)
    return tuple(dict.fromkeys((data.split(b"\n", 1)[0], passphrase_bytes(passphrase))))
