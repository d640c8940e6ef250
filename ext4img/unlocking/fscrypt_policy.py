"""The fscrypt tool: from a policy's id and a user's secrets through its metadata files to the master key.

The caller supplies the files. Their names in `.fscrypt/policies` and `.fscrypt/protectors` consist of
hexadecimal digits and ".link" only, so that no name from an image can lead elsewhere.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ext4img.errors import (
    CorruptionError,
    Ext4Error,
    LimitError,
    NoKeyError,
    NotFoundError,
    UnsupportedFeatureError,
    WrongKeyError,
)
from ext4img.unlocking.fscrypt_kdf import unwrap
from ext4img.unlocking.fscrypt_metadata import (
    PolicyData,
    ProtectorData,
    WrappedPolicyKey,
    parse_link,
    parse_policy,
    parse_protector,
)
from ext4img.unlocking.key_id import DESCRIPTOR_BYTES, IDENTIFIER_BYTES, names_key
from ext4img.unlocking.protector_keys import ProtectorKeys
from ext4img.unlocking.secrets import Secrets

ReadMetadata = Callable[[str], bytes | None]
"""Reads a metadata file by its bare name; None if there is none. May raise Ext4Error."""

# The class of an error for several failures: the first of these that occurred. A bound may hide a right
# passphrase; a wrong secret is better news than a protector for which no secret was given.
_MOST_TELLING = (LimitError, WrongKeyError, CorruptionError, UnsupportedFeatureError, NotFoundError, NoKeyError)


@dataclass(frozen=True, slots=True)
class OpenedPolicy:
    """A policy whose key was found: the 64-byte master `key` (never printed), its metadata, the
    protector that gave it, and the `problems` of other slots (damaged or missing files).
    """

    policy_id: bytes
    key: bytes = field(repr=False)
    policy: PolicyData
    protector: ProtectorData
    problems: tuple[Ext4Error, ...] = ()


def open_policy(
    policy_id: bytes,
    read_policy: ReadMetadata,
    read_protector: ReadMetadata,
    secrets: Secrets,
    keys: ProtectorKeys | None = None,
) -> OpenedPolicy:
    """Find the master key that `policy_id` names: 8 bytes of a version 1 context, or 16 of a version 2.

    `read_policy` is called with `<policy id in hex>`, `read_protector` with `<descriptor>` and, if that
    is missing, with `<descriptor>.link`, which says where the protector is. `keys` keeps opened
    protectors from one call to the next, and bounds what hashing may cost.

    Slots are tried in the order of their cost: opened protectors, raw keys, passphrases.
    NotFoundError without a policy file. If no slot opens, one error lists what went wrong with each,
    of the most telling class: LimitError, WrongKeyError, CorruptionError, UnsupportedFeatureError,
    NotFoundError (the protector is on another file system), NoKeyError (no secret of its kind was
    given).
    """
    if len(policy_id) not in (DESCRIPTOR_BYTES, IDENTIFIER_BYTES):
        raise CorruptionError(
            f"a policy is named by {DESCRIPTOR_BYTES} or {IDENTIFIER_BYTES} bytes, not {len(policy_id)}"
        )
    keys = ProtectorKeys() if keys is None else keys
    policy = _policy(policy_id, read_policy)
    failures: list[Ext4Error] = []
    slots: list[tuple[WrappedPolicyKey, ProtectorData]] = []
    for slot in policy.slots:
        try:
            slots.append((slot, _protector(slot.protector_descriptor, read_protector)))
        except Ext4Error as error:
            failures.append(error)
    slots.sort(key=lambda item: _cost(item[1], keys))
    for slot, protector in slots:
        try:
            key = _open_slot(policy_id, slot, protector, secrets, keys)
        except Ext4Error as error:
            failures.append(error)
            continue
        problems = tuple(error for error in failures if not isinstance(error, (WrongKeyError, NoKeyError)))
        return OpenedPolicy(policy_id, key, policy, protector, problems)
    if not failures:
        raise CorruptionError(f"policy {policy_id.hex()}: no protector protects it")
    raise combined(failures, f"policy {policy_id.hex()}", f".fscrypt/policies/{policy_id.hex()}")


def open_policies(
    policy_ids: Iterable[bytes],
    read_policy: ReadMetadata,
    read_protector: ReadMetadata,
    secrets: Secrets,
    keys: ProtectorKeys | None = None,
) -> tuple[tuple[OpenedPolicy, ...], dict[bytes, Ext4Error]]:
    """`open_policy` for each of `policy_ids`, with one `ProtectorKeys`: (the opened ones, errors of the others)."""
    keys = ProtectorKeys() if keys is None else keys
    opened: list[OpenedPolicy] = []
    failed: dict[bytes, Ext4Error] = {}
    for policy_id in dict.fromkeys(policy_ids):
        try:
            opened.append(open_policy(policy_id, read_policy, read_protector, secrets, keys))
        except Ext4Error as error:
            failed[policy_id] = error
    return tuple(opened), failed


def _policy(policy_id: bytes, read_policy: ReadMetadata) -> PolicyData:
    name = policy_id.hex()
    where = f".fscrypt/policies/{name}"
    data = read_policy(name)
    if data is None:
        raise NotFoundError.at(where)
    policy = parse_policy(data, where)
    if policy.key_descriptor != name:
        raise CorruptionError(f"{where}: the file holds the policy of key {policy.key_descriptor}")
    return policy


def _protector(descriptor: str, read_protector: ReadMetadata) -> ProtectorData:
    where = f".fscrypt/protectors/{descriptor}"
    data = read_protector(descriptor)
    if data is None:
        link = read_protector(f"{descriptor}.link")
        if link is None:
            raise NotFoundError.at(where)
        place = parse_link(link, f"{where}.link").describe()
        raise NotFoundError.at(where, f"the protector is on {place}: its .fscrypt is needed too")
    protector = parse_protector(data, where)
    if protector.descriptor != descriptor:
        raise CorruptionError(f"{where}: the file holds protector {protector.descriptor}")
    return protector


def _cost(protector: ProtectorData, keys: ProtectorKeys) -> int:
    """The cost of opening a protector, for sorting."""
    if keys.is_open(protector):
        return -1
    return protector.costs.work_kib if protector.costs else 0


def _open_slot(
    policy_id: bytes, slot: WrappedPolicyKey, protector: ProtectorData, secrets: Secrets, keys: ProtectorKeys
) -> bytes:
    protector_key = keys.open(protector, secrets)
    try:
        key = unwrap(protector_key, slot.wrapped_key)
    except WrongKeyError:
        # The protector's key is proven right, so the user's secret is not to blame.
        raise CorruptionError(
            f"policy {policy_id.hex()}: its key is not wrapped by the key of {protector.describe()}"
        ) from None
    if not names_key(key, policy_id):
        raise CorruptionError(f"policy {policy_id.hex()}: {protector.describe()} gives the key of another policy")
    return key


def combined(failures: Sequence[Ext4Error], where: str, path: str) -> Ext4Error:
    """One error for all `failures` (at least one), of the most telling class, whose message lists them.

    `path` is the file name of a NotFoundError.
    """
    reported = "; ".join(dict.fromkeys(_message(error) for error in failures))
    kind = next((kind for kind in _MOST_TELLING if any(isinstance(error, kind) for error in failures)), None)
    if kind is NotFoundError:
        return NotFoundError.at(path, reported)
    if kind is NoKeyError:
        return NoKeyError(errno.ENOKEY, f"{where}: {reported}")
    if kind is LimitError:
        return LimitError(f"{where}: {reported}")
    if kind is WrongKeyError:
        return WrongKeyError(f"{where}: {reported}")
    if kind is UnsupportedFeatureError:
        names = [name for error in failures if isinstance(error, UnsupportedFeatureError) for name in error.names]
        return UnsupportedFeatureError(f"{where}: {reported}", tuple(names))
    if kind is CorruptionError:
        return CorruptionError(f"{where}: {reported}")
    return failures[0]


def _message(error: Ext4Error) -> str:
    """An error's text, without the errno and quotes that OSError puts around it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
