"""systemd-homed with --storage=fscrypt: key slots in xattrs of the encrypted home directory itself.

A slot is the xattr `trusted.fscrypt_slot<N>`: base64 of a salt, ":", base64 of the wrapped key.
PBKDF2-HMAC-SHA512 of the password and the salt, 65,535 rounds, gives 64 bytes of which the first 32
are an AES-256-CTR key; the first counter block is zero. There is no MAC: the key is right if its
descriptor is the one in the directory's version 1 context.
Source: the format of systemd's src/home/homework-fscrypt.c; the zero counter block was confirmed on
slots that systemd-homework 252 wrote.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ext4img.errors import CorruptionError, Ext4Error, LimitError, NotFoundError, WrongKeyError
from ext4img.unlocking.key_id import names_key

SLOT_PREFIX = "trusted.fscrypt_slot"

MAX_SLOTS = 64
"""Slots that are tried on one directory: homed writes one for each password, and each costs a PBKDF2."""

_ROUNDS = 0xFFFF
_CIPHER_KEY_BYTES = 32
_DERIVED_BYTES = 64
_MIN_KEY_BYTES, _MAX_KEY_BYTES = 16, 64
_MAX_SALT_BYTES = 1024
_NUMBER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Slot:
    """A key slot: `number`, `salt` (64 bytes as homed writes it), `encrypted_key` (64)."""

    number: int
    salt: bytes
    encrypted_key: bytes


def is_slot(name: str) -> bool:
    """Whether an xattr of that name is a key slot."""
    return name.startswith(SLOT_PREFIX) and _NUMBER.fullmatch(name, len(SLOT_PREFIX)) is not None


def parse_slot(name: str, value: bytes) -> Slot:
    """The slot in the xattr `name`. CorruptionError if it is malformed."""
    salt_text, colon, key_text = value.partition(b":")
    if not colon:
        raise CorruptionError(f"xattr {name!a}: a key slot has a colon between salt and key")
    salt, key = _decode(name, "salt", salt_text), _decode(name, "key", key_text)
    if not 1 <= len(salt) <= _MAX_SALT_BYTES:
        raise CorruptionError(f"xattr {name!a}: a salt of {len(salt)} bytes is not from 1 to {_MAX_SALT_BYTES}")
    if not _MIN_KEY_BYTES <= len(key) <= _MAX_KEY_BYTES:
        raise CorruptionError(
            f"xattr {name!a}: a key of {len(key)} bytes is not from {_MIN_KEY_BYTES} to {_MAX_KEY_BYTES}"
        )
    return Slot(int(name[len(SLOT_PREFIX) :]), salt, key)


def open_slot(slot: Slot, password: bytes, descriptor: bytes) -> bytes:
    """The master key in `slot` with the 8-byte `descriptor`; otherwise WrongKeyError. Takes about 0.1 s."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    derived = hashlib.pbkdf2_hmac("sha512", password, slot.salt, _ROUNDS, _DERIVED_BYTES)
    decryptor = Cipher(algorithms.AES(derived[:_CIPHER_KEY_BYTES]), modes.CTR(bytes(16))).decryptor()
    key = decryptor.update(slot.encrypted_key) + decryptor.finalize()
    if not names_key(key, descriptor):
        raise WrongKeyError(f"wrong password for slot {slot.number} of the home directory")
    return key


def open_home(xattrs: Mapping[str, bytes], descriptor: bytes, passwords: Sequence[bytes]) -> bytes:
    """The master key of a home directory with these `xattrs` and this descriptor in its context.

    Every slot is tried with every password, in the order of the slot numbers. NotFoundError without
    a slot, LimitError above MAX_SLOTS, WrongKeyError if no password opens one, or the
    CorruptionError of a damaged slot if the other slots do not open.
    """
    names = sorted((name for name in xattrs if is_slot(name)), key=lambda name: int(name[len(SLOT_PREFIX) :]))
    if not names:
        raise NotFoundError.at(f"{SLOT_PREFIX}*", "the directory has no key slots of systemd-homed")
    if len(names) > MAX_SLOTS:
        raise LimitError(f"{len(names)} key slots of systemd-homed on one directory: at most {MAX_SLOTS} are tried")
    failure: Ext4Error = WrongKeyError(f"none of {len(passwords)} passwords opens one of {len(names)} key slots")
    for name in names:
        try:
            slot = parse_slot(name, xattrs[name])
        except CorruptionError as error:
            failure = error
            continue
        for password in passwords:
            try:
                return open_slot(slot, password, descriptor)
            except WrongKeyError:
                continue
    raise failure


def _decode(name: str, what: str, text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise CorruptionError(f"xattr {name!a}: its {what} is not base64") from None
