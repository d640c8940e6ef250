"""`Unlocker`: from a user's secrets to the master keys of an image or a backup.

Three tools store key metadata on the image: fscrypt (the directory `.fscrypt`),
e4crypt (a salt in the superblock) and systemd-homed (slots in attributes of the home directory).
All three are tried, on the policies in use only. Modes and flags come from the encryption contexts,
never from the tools' metadata.

An image and a backup each supply an `EncryptedTree`; nothing here knows how they are read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ext4img.crypto.keyring import Keyring
from ext4img.crypto.policy import DESCRIPTOR_SIZE, Policy
from ext4img.errors import Ext4Error, LimitError, NoKeyError, NotFoundError, UnsupportedFeatureError, WrongKeyError
from ext4img.unlocking.e4crypt import derive_key, parse_salt
from ext4img.unlocking.fscrypt_kdf import DEFAULT_LIMITS, CostLimits
from ext4img.unlocking.fscrypt_policy import combined, open_policies
from ext4img.unlocking.homed import open_home
from ext4img.unlocking.key_id import names_key
from ext4img.unlocking.metadata_dirs import BASE, MetadataChain, MetadataPlace
from ext4img.unlocking.protector_keys import ProtectorKeys
from ext4img.unlocking.secrets import Secrets

MAX_POLICIES = 4096
"""Policies with fscrypt metadata that one call tries; real images have a few."""
MAX_HOMES = 64
"""Home directories of systemd-homed that one call tries: each costs a PBKDF2 for every slot."""
_MAX_REMEMBERED = 64  # sets of secrets whose derived keys are kept
_MAX_REPORTED = 8  # failures that one message lists


class HomeSlots(NamedTuple):
    """A home directory with key slots of systemd-homed.

    `where` names it in messages and must be unique, `descriptor` is the key's in its version 1
    context, and `xattrs` reads its attributes; it may raise Ext4Error.
    """

    where: str
    descriptor: bytes
    xattrs: Callable[[], Mapping[str, bytes]]


class EncryptedTree(Protocol):
    """The key metadata of an image or a backup."""

    @property
    def kind(self) -> str:
        """A word for messages: image or backup."""

    @property
    def password_salt(self) -> bytes:
        """The superblock's salt for e4crypt, 16 bytes; all zero if none was ever made."""

    def policies(self) -> Iterable[Policy]:
        """The encryption policies in use."""

    def fscrypt_metadata(self) -> MetadataPlace:
        """Its own `.fscrypt` directory."""

    def homes(self, descriptors: Collection[bytes]) -> Iterable[HomeSlots]:
        """The home directories with key slots whose descriptor is one of these."""


@dataclass(frozen=True, slots=True)
class Unlocked:
    """The result of one attempt: the opened `policies` and their master `keys` by key id (never printed).

    `problems` are errors that no other secret would avoid: damaged metadata, bounds.
    """

    policies: tuple[Policy, ...]
    keys: dict[bytes, bytes] = field(repr=False)
    problems: tuple[Ext4Error, ...]


@dataclass(slots=True)
class _Derived:
    """The keys derived from one set of secrets, so that nothing is hashed twice."""

    protectors: ProtectorKeys = field(default_factory=ProtectorKeys)
    e4crypt: dict[bytes, list[bytes]] = field(default_factory=dict, repr=False)  # keys by salt
    homes: dict[str, bytes | Ext4Error] = field(default_factory=dict, repr=False)  # by `HomeSlots.where`


class Unlocker:
    """Tries secrets on one tree. One user of it at a time.

    It keeps no secret. It recognises a set of secrets by a digest under a random key, and keeps the
    keys derived from up to 64 sets.
    """

    def __init__(self, tree: EncryptedTree) -> None:
        self._tree = tree
        self._derived: dict[bytes, _Derived] = {}
        self._digest_key = os.urandom(32)

    def unlock(
        self,
        secrets: Secrets,
        *,
        salts: Iterable[str | bytes] = (),
        places: Iterable[MetadataPlace] = (),
        limits: CostLimits | None = None,
    ) -> Unlocked:
        """Open policies with `secrets`.

        `salts` are salts of e4crypt besides the tree's own, as bytes or in the form that `e4crypt -S` takes.
        `places` are searched for fscrypt metadata after the tree's own. If nothing was opened the
        error lists what went wrong, and is of the most telling class (see `combined`).
        """
        given_salts = [parse_salt(salt) if isinstance(salt, str) else bytes(salt) for salt in salts]
        policies = tuple(self._tree.policies())
        if not policies:
            raise WrongKeyError(f"nothing is encrypted in this {self._tree.kind}: there is nothing to unlock")
        derived = self._derived_from(secrets)
        derived.protectors.limits = DEFAULT_LIMITS if limits is None else limits
        attempt = _Attempt(self._tree, secrets, derived)
        key_ids = list(dict.fromkeys(policy.key_id for policy in policies))
        keys = attempt.all_keys(key_ids, MetadataChain([self._tree.fscrypt_metadata(), *places]), given_salts)
        failures = attempt.failures
        trial = Keyring()
        for key in keys.values():
            trial.add(key)
        opened = tuple(policy for policy in policies if policy.key_id in keys and trial.has(policy))
        for policy in policies:
            if policy.key_id in keys and policy not in opened:
                reason = policy.unsupported() or "its key is too short for its modes"
                failures.append(UnsupportedFeatureError(f"{policy.describe()}: {reason}", (reason,)))
        if not opened:
            raise _nothing_opened(len(policies), failures, secrets)
        return Unlocked(
            opened,
            {policy.key_id: keys[policy.key_id] for policy in opened},
            tuple(error for error in failures if not isinstance(error, (WrongKeyError, NoKeyError, NotFoundError))),
        )

    def _derived_from(self, secrets: Secrets) -> _Derived:
        if len(self._derived) >= _MAX_REMEMBERED:
            self._derived.clear()
        return self._derived.setdefault(secrets.digest(self._digest_key), _Derived())


class _Attempt:
    """One set of secrets on one tree. `failures` collects why policies were not opened."""

    def __init__(self, tree: EncryptedTree, secrets: Secrets, derived: _Derived) -> None:
        self._tree = tree
        self._secrets = secrets
        self._derived = derived
        self.failures: list[Ext4Error] = []

    def all_keys(self, key_ids: Sequence[bytes], chain: MetadataChain, salts: Sequence[bytes]) -> dict[bytes, bytes]:
        """The master keys that any tool's metadata gives, by key id."""
        with_metadata = self._with_metadata(key_ids, chain)
        keys = self._fscrypt(with_metadata, chain)
        # e4crypt and homed make version 1 policies only, and fscrypt's policies are not theirs.
        others = [id_ for id_ in key_ids if len(id_) == DESCRIPTOR_SIZE and id_ not in with_metadata]
        if not self._secrets.passphrases or not others:
            return keys
        own = self._tree.password_salt
        salts = list(dict.fromkeys([*([own] if any(own) else []), *salts]))
        keys |= self._e4crypt(others, salts)
        others = [id_ for id_ in others if id_ not in keys]
        homes = self._homed(others)
        keys |= {id_: key for id_, key in homes.items() if key is not None}
        if salts:
            made = f"what e4crypt makes of the passphrase and {len(salts)} salt{'' if len(salts) == 1 else 's'}"
            self.failures.extend(
                WrongKeyError(f"the key of policy {id_.hex()} is not {made}") for id_ in others if id_ not in homes
            )
        return keys

    def _with_metadata(self, key_ids: Iterable[bytes], chain: MetadataChain) -> list[bytes]:
        """The key ids that have a policy file in some `.fscrypt`."""
        found: list[bytes] = []
        for key_id in key_ids:
            if len(found) >= MAX_POLICIES:
                reason = f"more than {MAX_POLICIES} policies have fscrypt metadata: the others were not tried"
                self.failures.append(LimitError(reason))
                break
            try:
                if chain.find("policies", key_id.hex()) is not None:
                    found.append(key_id)
            except Ext4Error as error:
                self.failures.append(error)
        return found

    def _fscrypt(self, key_ids: Iterable[bytes], chain: MetadataChain) -> dict[bytes, bytes]:
        opened, failed = open_policies(key_ids, chain.policy, chain.protector, self._secrets, self._derived.protectors)
        self.failures.extend(failed.values())
        for policy in opened:
            self.failures.extend(policy.problems)
        return {policy.policy_id: policy.key for policy in opened}

    def _e4crypt(self, descriptors: Iterable[bytes], salts: Iterable[bytes]) -> dict[bytes, bytes]:
        keys: dict[bytes, bytes] = {}
        by_salt = self._derived.e4crypt
        for salt in salts:
            if salt not in by_salt:
                by_salt[salt] = [derive_key(line, salt) for line in self._secrets.e4crypt_lines]
            for key in by_salt[salt]:
                keys |= {descriptor: key for descriptor in descriptors if names_key(key, descriptor)}
        return keys

    def _homed(self, descriptors: Collection[bytes]) -> dict[bytes, bytes | None]:
        """Keys by descriptor; None for a home directory that was not opened."""
        keys: dict[bytes, bytes | None] = {}
        count = 0
        for home in self._tree.homes(descriptors) if descriptors else ():
            count += 1
            if count <= MAX_HOMES and keys.setdefault(home.descriptor, None) is None:
                keys[home.descriptor] = self._home_key(home)
        if count > MAX_HOMES:
            reason = f"{count} home directories of systemd-homed: only {MAX_HOMES} were tried"
            self.failures.append(LimitError(reason))
        return keys

    def _home_key(self, home: HomeSlots) -> bytes | None:
        found = self._derived.homes.get(home.where)
        if found is None:
            try:
                found = open_home(home.xattrs(), home.descriptor, self._secrets.passphrases)
            except Ext4Error as error:
                found = error
            self._derived.homes[home.where] = found
        if isinstance(found, bytes):
            return found
        self.failures.append(combined([found], f"home directory of systemd-homed ({home.where})", "/"))
        return None


def _nothing_opened(count: int, failures: Sequence[Ext4Error], secrets: Secrets) -> Ext4Error:
    where = f"nothing was opened of {count} encryption polic{'y' if count == 1 else 'ies'}"
    if not failures:
        tools = "fscrypt, e4crypt or systemd-homed" if secrets.passphrases else "fscrypt"
        return WrongKeyError(f"{where}: there is no metadata of {tools} for them")
    if len(failures) > _MAX_REPORTED:
        where += f" for {len(failures)} reasons, of which the first"
    return combined(failures[:_MAX_REPORTED], where, f"/{BASE}")
