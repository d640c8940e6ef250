"""The metadata files of the fscrypt tool: protectors, policies and links, parsed from their bytes.

`.fscrypt/protectors/<descriptor>` holds a `ProtectorData`, `.fscrypt/policies/<key id>` a
`PolicyData`, each a protocol buffer without framing; `<descriptor>.link` is one or two lines of text.
Field numbers and validity rules: google/fscrypt, metadata/metadata.proto and metadata/checks.go;
links: filesystem/mountpoint.go.

Each parser takes a whole file and `where`, the file's name for messages. It raises CorruptionError
if fscrypt would refuse the file, LimitError if the file is too large, and UnsupportedFeatureError for
an unknown kind of protector. Nothing in these objects is secret: keys are wrapped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from ext4img.errors import CorruptionError, LimitError, UnsupportedFeatureError
from ext4img.unlocking.protobuf import MAX_MESSAGE_BYTES, Message

INTERNAL_KEY_BYTES = 32
"""Size of a wrapping key and of a protector key (metadata/constants.go, InternalKeyLen)."""

POLICY_KEY_BYTES = 64
"""Size of a policy key, which is the kernel's master key (PolicyKeyLen)."""

IV_BYTES, HMAC_BYTES, SALT_BYTES = 16, 32, 16

MAX_LANES = 255
"""Largest parallelism of Argon2 that fscrypt's library can run (an 8-bit number there)."""

_MAX_UINT32 = (1 << 32) - 1
_PROTECTOR_DESCRIPTOR_DIGITS = 16
_KEY_DESCRIPTOR_DIGITS = {1: 16, 2: 32}
_PADDINGS = (4, 8, 16, 32)
_HEX = re.compile(r"[0-9a-f]+")


class ProtectorSource(IntEnum):
    """The kind of secret that opens a protector (SourceType)."""

    PAM_PASSPHRASE = 1
    CUSTOM_PASSPHRASE = 2
    RAW_KEY = 3

    @property
    def words(self) -> str:
        """The source in a user's words."""
        return {1: "login passphrase", 2: "custom passphrase", 3: "raw key"}[self.value]


@dataclass(frozen=True, slots=True)
class HashingCosts:
    """The cost of one Argon2id hash: passes, memory in KiB, parallelism as stored."""

    time: int
    memory_kib: int
    parallelism: int
    truncation_fixed: bool

    @property
    def lanes(self) -> int:
        """The parallelism that the hash used: early versions of fscrypt used only its low 8 bits."""
        return self.parallelism if self.truncation_fixed else self.parallelism & 0xFF

    @property
    def work_kib(self) -> int:
        """Memory written in all passes, in KiB. The run time of the hash is proportional to it."""
        return self.time * self.memory_kib


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A key under AES-256-CTR and HMAC-SHA256 (WrappedKeyData)."""

    iv: bytes
    encrypted_key: bytes
    hmac: bytes


@dataclass(frozen=True, slots=True)
class ProtectorData:
    """A protector: a key wrapped by a passphrase or a raw key.

    `descriptor` is 16 hex digits; `name` is the user's text, unsafe for a terminal; `uid` matters for
    login passphrases only; `costs` is None and `salt` empty for raw keys.
    """

    descriptor: str
    source: ProtectorSource
    name: str
    uid: int
    costs: HashingCosts | None
    salt: bytes
    wrapped_key: WrappedKey

    def describe(self) -> str:
        """A few words for a message."""
        owner = f"of uid {self.uid}" if self.source is ProtectorSource.PAM_PASSPHRASE else ascii(self.name)
        return f"protector {self.descriptor} ({self.source.words} {owner})"


@dataclass(frozen=True, slots=True)
class EncryptionOptions:
    """The options that fscrypt passed to the kernel. The encryption context on disk decides, not this."""

    padding: int
    contents_mode: int
    filenames_mode: int
    policy_version: int


@dataclass(frozen=True, slots=True)
class WrappedPolicyKey:
    """A slot of a policy: its key, wrapped by the key of one protector (16 hex digits)."""

    protector_descriptor: str
    wrapped_key: WrappedKey


@dataclass(frozen=True, slots=True)
class PolicyData:
    """A policy: `key_descriptor` is its key's name in hex, 16 digits (version 1) or 32 (version 2)."""

    key_descriptor: str
    options: EncryptionOptions
    slots: tuple[WrappedPolicyKey, ...]


@dataclass(frozen=True, slots=True)
class ProtectorLink:
    """Where a linked protector is: the file system by its UUID, otherwise by its mount point."""

    uuid: str | None
    path: str | None

    def describe(self) -> str:
        """The place in words for a message."""
        uuid = f"with UUID {self.uuid!a}" if self.uuid else ""
        path = f"once mounted at {self.path!a}" if self.path else ""
        return f"the file system {uuid}{', ' if uuid and path else ''}{path}"


def parse_protector(data: bytes, where: str = "protector") -> ProtectorData:
    """A protector file."""
    message = Message(data, "ProtectorData", where)
    number = message.integer(2, "source")
    if number not in tuple(ProtectorSource):
        if number == 0:
            raise message.invalid("source", "is not set")
        raise UnsupportedFeatureError(
            f"{where}: protector source {number} is not known", (f"protector source {number}",)
        )
    source = ProtectorSource(number)
    uid = message.integer(6, "uid")
    if source is ProtectorSource.PAM_PASSPHRASE and uid < 0:
        raise message.invalid("uid", f"{uid} is negative")
    costs, salt = None, b""
    if source is not ProtectorSource.RAW_KEY:
        costs = _costs(message)
        salt = _sized(message, 5, "salt", SALT_BYTES)
    return ProtectorData(
        descriptor=_hex_name(message, 1, "protector_descriptor", _PROTECTOR_DESCRIPTOR_DIGITS),
        source=source,
        name=message.text(3, "name"),
        uid=uid,
        costs=costs,
        salt=salt,
        wrapped_key=_wrapped_key(message, 7, INTERNAL_KEY_BYTES),
    )


def parse_policy(data: bytes, where: str = "policy") -> PolicyData:
    """A policy file. Its size bounds the slots: fewer than 120 valid ones fit."""
    message = Message(data, "PolicyData", where)
    options = _options(message)
    return PolicyData(
        key_descriptor=_hex_name(message, 1, "key_descriptor", _KEY_DESCRIPTOR_DIGITS[options.policy_version]),
        options=options,
        slots=tuple(
            WrappedPolicyKey(
                _hex_name(slot, 1, "protector_descriptor", _PROTECTOR_DESCRIPTOR_DIGITS),
                _wrapped_key(slot, 2, POLICY_KEY_BYTES),
            )
            for slot in message.messages(3, "wrapped_policy_keys", "WrappedPolicyKey")
        ),
    )


def parse_link(data: bytes, where: str = "link") -> ProtectorLink:
    """A `.link` file: lines `UUID=…` and `PATH=…`, at least one; other lines are ignored."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise LimitError(f"{where}: {len(data)} bytes, more than the {MAX_MESSAGE_BYTES} that metadata may have")
    values: dict[str, str] = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        token, _, value = line.partition("=")
        if value.strip():
            values[token.strip()] = value.strip()
    link = ProtectorLink(values.get("UUID"), values.get("PATH"))
    if link.uuid is None and link.path is None:
        raise CorruptionError(f"{where}: neither UUID= nor PATH= says where the protector is")
    return link


def _sized(message: Message, number: int, field: str, size: int) -> bytes:
    value = message.octets(number, field)
    if len(value) != size:
        raise message.invalid(field, f"has {len(value)} bytes, not {size}")
    return value


def _hex_name(message: Message, number: int, field: str, digits: int) -> str:
    """A descriptor. It becomes a file name, so only lower-case hex digits are accepted."""
    name = message.text(number, field)
    if len(name) != digits or not _HEX.fullmatch(name):
        raise message.invalid(field, f"is not {digits} lower-case hexadecimal digits")
    return name


def _wrapped_key(message: Message, number: int, key_bytes: int) -> WrappedKey:
    wrapped = message.message(number, "wrapped_key", "WrappedKeyData")
    return WrappedKey(
        iv=_sized(wrapped, 1, "IV", IV_BYTES),
        encrypted_key=_sized(wrapped, 2, "encrypted_key", key_bytes),
        hmac=_sized(wrapped, 3, "hmac", HMAC_BYTES),
    )


def _costs(message: Message) -> HashingCosts:
    stored = message.message(4, "costs", "HashingCosts")
    costs = HashingCosts(
        time=stored.integer(2, "time"),
        memory_kib=stored.integer(3, "memory"),
        parallelism=stored.integer(4, "parallelism"),
        truncation_fixed=stored.boolean(5, "truncation_fixed"),
    )
    if not 1 <= costs.time <= _MAX_UINT32:
        raise stored.invalid("time", f"{costs.time} is not from 1 to {_MAX_UINT32}")
    if costs.parallelism < 1 or not 1 <= costs.lanes <= MAX_LANES:
        raise stored.invalid("parallelism", f"{costs.parallelism} is not from 1 to {MAX_LANES}")
    if not 8 * costs.lanes <= costs.memory_kib <= _MAX_UINT32:
        raise stored.invalid("memory", f"{costs.memory_kib} is not from {8 * costs.lanes} to {_MAX_UINT32} KiB")
    return costs


def _options(message: Message) -> EncryptionOptions:
    stored = message.message(2, "options", "EncryptionOptions")
    options = EncryptionOptions(
        padding=stored.integer(1, "padding"),
        contents_mode=stored.integer(2, "contents"),
        filenames_mode=stored.integer(3, "filenames"),
        # Files older than version 2 policies do not have this field.
        policy_version=stored.integer(4, "policy_version") or 1,
    )
    if options.padding not in _PADDINGS:
        raise stored.invalid("padding", f"{options.padding} is not one of 4, 8, 16, 32")
    for field, mode in (("contents", options.contents_mode), ("filenames", options.filenames_mode)):
        # Any mode that a context can name is accepted: the context decides, and kernels add modes.
        if not 1 <= mode <= 0xFF:
            raise stored.invalid(field, f"{mode} is not a mode")
    if options.policy_version not in _KEY_DESCRIPTOR_DIGITS:
        raise stored.invalid("policy_version", f"{options.policy_version} is not 1 or 2")
    return options
