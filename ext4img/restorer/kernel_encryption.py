"""Restoring into directories that the kernel encrypts: policies set anew, keys lent for the while.

What is written through the kernel into a directory with a policy is encrypted again, under the
same master key and with nonces of its own.
"""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Sequence
from typing import Final, Self

from ext4img.archive.key_check import Key
from ext4img.crypto.keyring import Keyring
from ext4img.crypto.policy import Policy
from ext4img.errors import NoKeyError, RestoreError
from ext4img.structs.fscrypt_ioctl import (
    FSCRYPT_ADD_KEY_ARG,
    FSCRYPT_GET_KEY_STATUS_ARG,
    FSCRYPT_GET_POLICY_EX_ARG,
    FSCRYPT_KEY_SPEC_TYPE_DESCRIPTOR,
    FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER,
    FSCRYPT_KEY_STATUS_ABSENT,
    FSCRYPT_POLICY_RECORD_V1,
    FSCRYPT_POLICY_RECORD_V2,
    FSCRYPT_POLICY_V1,
    FSCRYPT_POLICY_V2,
    FSCRYPT_REMOVE_KEY_ARG,
)

_READ: Final = 2 << 30
_WRITE: Final = 1 << 30
_F: Final = ord("f") << 8
FS_IOC_SET_ENCRYPTION_POLICY: Final = _READ | FSCRYPT_POLICY_RECORD_V1.size << 16 | _F | 19
FS_IOC_GET_ENCRYPTION_POLICY_EX: Final = _READ | _WRITE | 9 << 16 | _F | 22
FS_IOC_ADD_ENCRYPTION_KEY: Final = _READ | _WRITE | FSCRYPT_ADD_KEY_ARG.size << 16 | _F | 23
FS_IOC_REMOVE_ENCRYPTION_KEY: Final = _READ | _WRITE | FSCRYPT_REMOVE_KEY_ARG.size << 16 | _F | 24
FS_IOC_GET_ENCRYPTION_KEY_STATUS: Final = _READ | _WRITE | FSCRYPT_GET_KEY_STATUS_ARG.size << 16 | _F | 26


class KernelKeys:
    """Keys that the kernel gets for a file system, and loses again at the end of a `with` block.

    Keys that it had before stay. `fd` is any directory there; policies that keys of `keys` fit can
    be set. RestoreError where the kernel or the file system refuses.
    """

    def __init__(self, fd: int, keys: Sequence[Key], keyring: Keyring) -> None:
        self._fd = fd
        self._keyring = keyring
        raws = [key if isinstance(key, bytes) else key[0] for key in keys]
        self._raw = {Keyring().add(raw).identifier: raw for raw in raws}
        self._lent: list[bytes] = []
        self._known: set[bytes] = set()

    def __repr__(self) -> str:
        return f"<KernelKeys, {len(self._lent)} lent>"

    def encrypt(self, directory: int, policy: Policy, path: str) -> None:
        """Give an empty directory a policy, or see that it has it already; and the kernel its key."""
        if policy.version == 1:
            wanted = FSCRYPT_POLICY_RECORD_V1.pack(
                (FSCRYPT_POLICY_V1, policy.contents_mode, policy.filenames_mode, policy.flags, policy.key_id)
            )
        else:
            wanted = FSCRYPT_POLICY_RECORD_V2.pack(
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
        self._lend(policy, path)
        if self._policy_of(directory) == wanted:
            return
        try:
            fcntl.ioctl(directory, FS_IOC_SET_ENCRYPTION_POLICY, bytearray(wanted))
        except OSError as error:
            raise RestoreError(f"the target refuses policy {policy.describe()}: {error.strerror}", path) from error

    def close(self) -> None:
        """Take the lent keys away again."""
        while self._lent:
            specifier = _specifier(self._lent.pop())
            argument = bytearray(FSCRYPT_REMOVE_KEY_ARG.pack((*specifier, 0, bytes(20))))
            try:
                fcntl.ioctl(self._fd, FS_IOC_REMOVE_ENCRYPTION_KEY, argument)
            except OSError as error:
                raise RestoreError(f"the kernel keeps a key that it was lent: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lend(self, policy: Policy, path: str) -> None:
        name = policy.key_id
        if name in self._known:
            return
        key = self._keyring.find(policy)
        raw = self._raw.get(key.identifier) if key is not None else None
        if raw is None:
            raise NoKeyError.at(path, policy.key_id_hex)
        if self._is_absent(name, path):
            argument = bytearray(FSCRYPT_ADD_KEY_ARG.pack((*_specifier(name), len(raw), 0, bytes(32))) + raw)
            try:
                fcntl.ioctl(self._fd, FS_IOC_ADD_ENCRYPTION_KEY, argument)
            except OSError as error:
                raise RestoreError(f"the kernel does not take the key: {error.strerror}", path) from error
            finally:
                argument[:] = bytes(len(argument))
            self._lent.append(name)
        self._known.add(name)

    def _is_absent(self, name: bytes, path: str) -> bool:
        argument = bytearray(FSCRYPT_GET_KEY_STATUS_ARG.pack((*_specifier(name), bytes(24), 0, 0, 0, bytes(52))))
        try:
            fcntl.ioctl(self._fd, FS_IOC_GET_ENCRYPTION_KEY_STATUS, argument)
        except OSError as error:
            raise RestoreError(f"the target's file system cannot encrypt: {error.strerror}", path) from error
        return bool(FSCRYPT_GET_KEY_STATUS_ARG.unpack(argument).status == FSCRYPT_KEY_STATUS_ABSENT)

    def _policy_of(self, directory: int) -> bytes | None:
        room = FSCRYPT_POLICY_RECORD_V2.size
        argument = bytearray(
            FSCRYPT_GET_POLICY_EX_ARG.pack((room.to_bytes(8, sys.byteorder), bytes(room))),
        )
        try:
            fcntl.ioctl(directory, FS_IOC_GET_ENCRYPTION_POLICY_EX, argument)
        except OSError:
            return None  # it has none
        found = FSCRYPT_GET_POLICY_EX_ARG.unpack(argument)
        size = int.from_bytes(found.policy_size, sys.byteorder)
        return bytes(found.policy[:size])


def _specifier(name: bytes) -> tuple[int, int, bytes]:
    """A key specifier's fields."""
    is_descriptor = len(name) == FSCRYPT_POLICY_RECORD_V1.span("master_key_descriptor").size
    kind = FSCRYPT_KEY_SPEC_TYPE_DESCRIPTOR if is_descriptor else FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER
    return kind, 0, name.ljust(32, b"\0")
