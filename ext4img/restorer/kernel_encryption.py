"""Restoring into directories that the kernel encrypts: their old policies are set again.

What is then written into such a directory is encrypted again, under the same master key and with
new nonces. The kernel has the master keys for the time of the restore only.
"""

from __future__ import annotations

import errno
import os
from typing import Self

from ext4img.crypto.keyring import Keyring
from ext4img.crypto.policy import Policy
from ext4img.errors import NoKeyError, RestoreError
from ext4img.hostfs.ioctl import (
    add_encryption_key,
    encryption_policy,
    is_key_absent,
    remove_encryption_key,
    set_encryption_policy,
)
from ext4img.structs.fscrypt_ioctl import (
    FSCRYPT_POLICY_RECORD_V1,
    FSCRYPT_POLICY_RECORD_V2,
    FSCRYPT_POLICY_V1,
    FSCRYPT_POLICY_V2,
)


class KernelKeys:
    """Master keys that a file system gets from a keyring, and loses again at the end of a `with` block.

    Keys that it had before stay. `fd` is any directory of it. RestoreError if the kernel or the
    file system refuses.
    """

    def __init__(self, fd: int, keyring: Keyring) -> None:
        self._fd = fd
        self._keyring = keyring
        self._added: list[bytes] = []
        self._present: set[bytes] = set()

    def __repr__(self) -> str:
        return f"<KernelKeys, {len(self._added)} added>"

    def encrypt(self, directory: int, policy: Policy, path: str) -> None:
        """Set the policy of an empty directory, unless it has just that one, and add the key of the policy."""
        self.add(policy, path)
        if _policy_of(directory) == _stored(policy):
            return
        try:
            set_encryption_policy(directory, _stored(policy))
        except OSError as error:
            raise _refusal(policy, error, path) from error

    def close(self) -> None:
        """Remove the keys that were added."""
        while self._added:
            try:
                remove_encryption_key(self._fd, self._added.pop())
            except OSError as error:
                raise RestoreError(f"the kernel did not remove a key that was added: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, policy: Policy, path: str) -> None:
        """Add the key of a policy, unless it is there; NoKeyError or RestoreError, for `path`, if that fails."""
        if policy.key_id in self._present:
            return
        key = self._keyring.find(policy)
        if key is None:
            raise NoKeyError.at(path, policy.key_id_hex)
        try:
            is_absent = is_key_absent(self._fd, policy.key_id)
        except OSError as error:
            raise RestoreError(f"the target's file system cannot encrypt: {error.strerror}", path) from error
        if is_absent:
            try:
                add_encryption_key(self._fd, policy.key_id, key.raw)
            except OSError as error:
                raise RestoreError(f"the kernel refuses the key: {error.strerror}", path) from error
            self._added.append(policy.key_id)
        self._present.add(policy.key_id)


def check_encryptable(directory: int, policy: Policy, path: str, *, is_new: bool) -> None:
    """RestoreError if `KernelKeys.encrypt` is sure to fail for an open directory, or for a new one below it."""
    try:
        is_key_absent(directory, policy.key_id)
    except OSError as error:
        raise RestoreError(f"the target's file system cannot encrypt: {error.strerror}", path) from error
    found = _policy_of(directory)
    if found == _stored(policy) or (found is None and (is_new or not os.listdir(directory))):
        return
    code = errno.EEXIST if found is not None else errno.ENOTEMPTY
    raise _refusal(policy, OSError(code, os.strerror(code)), path)


def _refusal(policy: Policy, error: OSError, path: str) -> RestoreError:
    return RestoreError(f"the target refuses policy {policy.describe()}: {error.strerror}", path)


def _stored(policy: Policy) -> bytes:
    """As the kernel takes it."""
    if policy.version == 1:
        return FSCRYPT_POLICY_RECORD_V1.pack(
            (FSCRYPT_POLICY_V1, policy.contents_mode, policy.filenames_mode, policy.flags, policy.key_id)
        )
    return FSCRYPT_POLICY_RECORD_V2.pack(
        (
            FSCRYPT_POLICY_V2,
            policy.contents_mode,
            policy.filenames_mode,
            policy.flags,
            policy.log2_data_unit_size,
            bytes(3),
            policy.key_id,
        )
    )


def _policy_of(directory: int) -> bytes | None:
    try:
        return encryption_policy(directory)
    except OSError:
        return None  # it has none
