"""Build and parse the encryption metadata records e5, ef and ed. A parser trusts nothing in them.

All integers are little-endian. The CRC is Linux's `crc16(0xFFFF, ...)` over the whole record with
the crc field as zero: reflected polynomial 0x8005, no final xor, also known as CRC-16/MODBUS.
docs/archive-format.md has the layouts; the declarations are in structs/backup_records.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ext4img.errors import AlteredArchiveError
from ext4img.structs.backup_records import (
    DIRECTORY_NAME_MAGIC,
    ENCRYPTED_DIRECTORY_NAME,
    ENCRYPTED_FILENAME,
    ENCRYPTION_METADATA,
    FILENAME_MAGIC,
    METADATA_MAGIC,
)
from ext4img.structs.crc16 import crc16
from ext4img.structs.directory import EXT4_NAME_LEN
from ext4img.structs.fscrypt import FSCRYPT_CONTEXT_V1, FSCRYPT_CONTEXT_V2, FSCRYPT_FNAME_MIN_MSG_LEN
from ext4img.structs.record import Record

CONTEXT_BYTES = {1: FSCRYPT_CONTEXT_V1.size, 2: FSCRYPT_CONTEXT_V2.size}  # by the context's version byte


class MetadataRecord(NamedTuple):
    """e5: the true size of a file in bytes, and its encryption context."""

    size: int
    context: bytes


class FilenameRecord(NamedTuple):
    """ef or ed: the name bytes of a directory entry; of a directory also its st_mode and context."""

    name: bytes
    mode: int | None = None
    context: bytes | None = None


def build_metadata(size: int, context: bytes) -> bytes:
    """The e5 record of a file of `size` bytes (the true i_size) with this encryption context."""
    _check_context(context)
    if not 0 <= size < 1 << 64:
        raise ValueError(f"a size of {size} bytes does not fit into 64 bits")
    return _sealed(ENCRYPTION_METADATA, (METADATA_MAGIC, 0, size), context)


def build_filename(name: bytes, mode: int | None = None, context: bytes | None = None) -> bytes:
    """The ef record of an encrypted name, or with st_mode and context the ed record of a directory's."""
    _check_name(name)
    if mode is None or context is None:
        return _sealed(ENCRYPTED_FILENAME, (FILENAME_MAGIC, 0), name)
    _check_context(context)
    return _sealed(ENCRYPTED_DIRECTORY_NAME, (DIRECTORY_NAME_MAGIC, 0, mode, len(context)), context + name)


def parse_metadata(raw: bytes) -> MetadataRecord:
    """Parse an e5 record. AlteredArchiveError if it is malformed."""
    header = _opened(ENCRYPTION_METADATA, raw)
    if header[0] != METADATA_MAGIC:
        raise AlteredArchiveError(f"encryption metadata starts with {raw[:2]!r}, not {METADATA_MAGIC!r}")
    context = raw[ENCRYPTION_METADATA.size :]
    _check_context(context)
    return MetadataRecord(header[2], context)


def parse_filename(raw: bytes) -> FilenameRecord:
    """Parse an ef or ed record. AlteredArchiveError if it is malformed."""
    if raw[:2] == FILENAME_MAGIC:
        _opened(ENCRYPTED_FILENAME, raw)
        name = raw[ENCRYPTED_FILENAME.size :]
        _check_name(name)
        return FilenameRecord(name)
    if raw[:2] != DIRECTORY_NAME_MAGIC:
        raise AlteredArchiveError(f"encrypted filename starts with {raw[:2]!r}, not 'ef' or 'ed'")
    _, _, mode, context_length = _opened(ENCRYPTED_DIRECTORY_NAME, raw)
    at = ENCRYPTED_DIRECTORY_NAME.size
    if context_length not in CONTEXT_BYTES.values() or len(raw) < at + context_length:
        raise AlteredArchiveError(f"encrypted directory name has a context of {context_length} bytes")
    context = raw[at : at + context_length]
    name = raw[at + context_length :]
    _check_context(context)
    _check_name(name)
    return FilenameRecord(name, mode, context)


def _sealed(record: Record, fields: tuple[Any, ...], rest: bytes) -> bytes:
    """Header and rest, with the CRC set."""
    raw = record.pack(fields) + rest
    at = record.offset_of("crc16")
    return raw[:at] + crc16(raw).to_bytes(2, "little") + raw[at + 2 :]


def _opened(record: Record, raw: bytes) -> tuple[Any, ...]:
    """The header's fields, after its length and CRC were checked."""
    if len(raw) < record.size:
        raise AlteredArchiveError(f"{record.name} needs {record.size} bytes, but has {len(raw)}")
    if len(raw) > ENCRYPTED_DIRECTORY_NAME.size + max(CONTEXT_BYTES.values()) + EXT4_NAME_LEN:
        raise AlteredArchiveError(f"{record.name} of {len(raw)} bytes is longer than the format allows")
    header = record.unpack_tuple(raw, 0)
    at = record.offset_of("crc16")
    computed = crc16(raw[:at] + b"\0\0" + raw[at + 2 :])
    if computed != header[1]:
        raise AlteredArchiveError(f"{record.name} has crc16 {header[1]:#06x}, computed {computed:#06x}")
    return header


def _check_context(context: bytes) -> None:
    version = context[0] if context else 0
    if len(context) != CONTEXT_BYTES.get(version):
        raise AlteredArchiveError(f"encryption context of version {version} with {len(context)} bytes")


def _check_name(name: bytes) -> None:
    if not FSCRYPT_FNAME_MIN_MSG_LEN <= len(name) <= EXT4_NAME_LEN:
        raise AlteredArchiveError(
            f"encrypted name of {len(name)} bytes, not {FSCRYPT_FNAME_MIN_MSG_LEN} to {EXT4_NAME_LEN}"
        )
