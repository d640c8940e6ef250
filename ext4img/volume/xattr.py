"""Extended attributes: in the inode, in a block of their own, with large values in inodes of their own.

Kernel: fs/ext4/xattr.c, fs/ext4/acl.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from ext4img.errors import CorruptionError, Place, SourceError
from ext4img.structs.xattr import (
    ACL_GROUP,
    ACL_GROUP_OBJ,
    ACL_MASK,
    ACL_OTHER,
    ACL_UNDEFINED_ID,
    ACL_USER,
    ACL_USER_OBJ,
    EXT4_ACL_ENTRY,
    EXT4_ACL_ENTRY_SHORT,
    EXT4_ACL_HEADER,
    EXT4_ACL_VERSION,
    EXT4_XATTR_ENTRY,
    EXT4_XATTR_HEADER,
    EXT4_XATTR_IBODY_HEADER,
    EXT4_XATTR_INDEX_ENCRYPTION,
    EXT4_XATTR_INDEX_HURD,
    EXT4_XATTR_INDEX_POSIX_ACL_ACCESS,
    EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT,
    EXT4_XATTR_INDEX_RICHACL,
    EXT4_XATTR_INDEX_SECURITY,
    EXT4_XATTR_INDEX_SYSTEM,
    EXT4_XATTR_INDEX_TRUSTED,
    EXT4_XATTR_INDEX_USER,
    EXT4_XATTR_MAGIC,
    EXT4_XATTR_PAD,
    EXT4_XATTR_SIZE_MAX,
    POSIX_ACL_XATTR_ENTRY,
    POSIX_ACL_XATTR_HEADER,
    POSIX_ACL_XATTR_VERSION,
    RAW_XATTR_PREFIX,
)
from ext4img.volume.inode import StoredInode
from ext4img.volume.problems import Problems

PREFIXES = {
    EXT4_XATTR_INDEX_USER: "user.",
    EXT4_XATTR_INDEX_POSIX_ACL_ACCESS: "system.posix_acl_access",
    EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT: "system.posix_acl_default",
    EXT4_XATTR_INDEX_TRUSTED: "trusted.",
    EXT4_XATTR_INDEX_SECURITY: "security.",
    EXT4_XATTR_INDEX_SYSTEM: "system.",
    EXT4_XATTR_INDEX_RICHACL: "system.richacl",
    EXT4_XATTR_INDEX_HURD: "gnu.",
}
ENCRYPTION_CONTEXT = (EXT4_XATTR_INDEX_ENCRYPTION, b"c")
INLINE_DATA = (EXT4_XATTR_INDEX_SYSTEM, b"data")
MAX_NAME_INDEX = 0xFF  # e_name_index has a byte
# Indexes whose prefix no other one's names can begin with, and those whose prefix is the whole name.
_PLAIN = (EXT4_XATTR_INDEX_USER, EXT4_XATTR_INDEX_TRUSTED, EXT4_XATTR_INDEX_SECURITY, EXT4_XATTR_INDEX_HURD)
_WHOLE_NAMES = (EXT4_XATTR_INDEX_POSIX_ACL_ACCESS, EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT, EXT4_XATTR_INDEX_RICHACL)
# Longest first, so that "system." comes after "system.posix_acl_access".
_NAMESPACES = sorted(PREFIXES.items(), key=lambda namespace: -len(namespace[1]))
_RAW_NAME = re.compile(re.escape(RAW_XATTR_PREFIX) + r"([0-9]{1,3})\.(.*)", re.DOTALL)
_ACLS = (EXT4_XATTR_INDEX_POSIX_ACL_ACCESS, EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT)
# Of all values of an inode that are in inodes of their own. A block of 64 KiB that is full of entries
# with values of 64 KiB (XATTR_SIZE_MAX) stays below.
MAX_VALUE_BYTES = 1 << 28
_ENTRY_SIZE = EXT4_XATTR_ENTRY.size
_HEADER_SIZE = EXT4_XATTR_HEADER.size
_entry = EXT4_XATTR_ENTRY.unpack_tuple

_ACL_SHORT_TAGS = (ACL_USER_OBJ, ACL_GROUP_OBJ, ACL_MASK, ACL_OTHER)  # whose entries have no id on disk

RawXattrs = dict[tuple[int, bytes], bytes]
ReadValueInode = Callable[[int, int, "XattrKey"], bytes]


class XattrKey(NamedTuple):
    """Name index (EXT4_XATTR_INDEX_*) and the rest of the name."""

    name_index: int
    name: bytes


def is_lustre_value(value_inode: StoredInode, owner: StoredInode) -> bool:
    """Whether a value was written by Lustre, which kept no hash and no reference count (ext4_xattr_inode_iget).

    The value's inode names its only owner in the seconds of i_mtime.
    """
    return value_inode.mtime_ns // 1_000_000_000 == owner.number and value_inode.generation == owner.generation


def xattr_padded(size: int) -> int:
    """`size` rounded up, as values are (kernel: EXT4_XATTR_SIZE)."""
    return -(-size // EXT4_XATTR_PAD) * EXT4_XATTR_PAD


def xattr_entry_size(name_len: int) -> int:
    """Bytes of an entry with its name (kernel: EXT4_XATTR_LEN)."""
    return xattr_padded(_ENTRY_SIZE + name_len)


def parse_inline(area: bytes, inode: int, read_value: ReadValueInode, problems: Problems) -> RawXattrs:
    """The attributes in the inode's own space; none without the magic number there."""
    magic_size = EXT4_XATTR_IBODY_HEADER.size
    if len(area) < magic_size + 4 or EXT4_XATTR_IBODY_HEADER.unpack_tuple(area)[0] != EXT4_XATTR_MAGIC:
        return {}
    place = Place(inode=inode, record=EXT4_XATTR_ENTRY.name)
    return _parse(area[magic_size:], 0, place, read_value, problems)


def parse_xattr_block(data: bytes, place: Place, read_value: ReadValueInode, problems: Problems) -> RawXattrs:
    """Attributes of a block whose checksum has been verified."""
    magic, _, blocks, _, _, _ = EXT4_XATTR_HEADER.unpack_tuple(data)
    if magic != EXT4_XATTR_MAGIC or blocks != 1:
        where = Place(inode=place.inode, block=place.block, record=EXT4_XATTR_HEADER.name, field="h_magic")
        problems.found(CorruptionError(f"extended attribute block has magic {magic:#x} and {blocks} blocks", where))
        return {}
    return _parse(data, _HEADER_SIZE, place, read_value, problems)


def _parse(data: bytes, start: int, place: Place, read_value: ReadValueInode, problems: Problems) -> RawXattrs:
    """Entries from `start` on until four zero bytes; value offsets count from data[0]."""
    found: RawXattrs = {}
    offset = start
    end = len(data)
    values_begin = end
    left = MAX_VALUE_BYTES
    while True:
        if offset + 4 > end:
            problems.found(_damaged("list has no end", place, offset))
            return found
        if data[offset : offset + 4] == b"\0\0\0\0":
            if values_begin < offset + 4:
                problems.found(_damaged("value begins within the list of names", place, offset, "e_value_offs"))
            return found
        if offset + _ENTRY_SIZE > end:
            problems.found(_damaged("entry runs past the end", place, offset))
            return found
        name_len, index, value_offset, value_inode, value_size, _ = _entry(data, offset)
        name_end = offset + _ENTRY_SIZE + name_len
        if name_end > values_begin:
            problems.found(_damaged(f"name of {name_len} bytes runs past the end", place, offset, "e_name_len"))
            return found
        key = XattrKey(index, data[offset + _ENTRY_SIZE : name_end])
        following = offset + (_ENTRY_SIZE + name_len + 3 & ~3)
        if b"\0" in key.name:  # kernel: check_xattrs
            problems.found(_damaged(f"name {key.name!r} holds a NUL", place, offset, "e_name"))
        elif key in found:  # the kernel finds the first
            problems.found(_damaged("name is a duplicate", place, offset, "e_name_len"))
        elif value_size > EXT4_XATTR_SIZE_MAX:
            problems.found(_damaged(f"value of {value_size} bytes", place, offset, "e_value_size"))
        elif value_inode and value_size > left:
            reason = f"values in other inodes have more than {MAX_VALUE_BYTES} bytes in all"
            problems.found(_damaged(reason, place, offset, "e_value_size"))
        elif value_inode:
            left -= value_size
            try:
                found[key] = read_value(value_inode, value_size, key)
            except (CorruptionError, SourceError) as error:
                problems.unreadable(error, place)
        elif value_size == 0:
            found[key] = b""
        elif value_offset < start or value_offset + value_size > end:
            reason = f"value at {value_offset} of {value_size} bytes lies outside its {end} bytes"
            problems.found(_damaged(reason, place, offset, "e_value_offs"))
        else:
            values_begin = min(values_begin, value_offset)
            found[key] = data[value_offset : value_offset + value_size]
        offset = following


def _damaged(reason: str, place: Place, offset: int, field: str | None = None) -> CorruptionError:
    where = Place(inode=place.inode, block=place.block, offset=offset, record=EXT4_XATTR_ENTRY.name, field=field)
    return CorruptionError(f"extended attribute {reason}", where)


def visible(raw: RawXattrs, inode: int, problems: Problems) -> dict[str, bytes]:
    """The attributes that listxattr(2) and getxattr(2) show: names with prefixes, ACLs in user space's form.

    The kernel does not show the encryption context and inline data; neither does this. Attributes of
    a name index without a prefix, which the kernel does not show either, are "ext4.indexN.NAME".
    """
    shown: dict[str, bytes] = {}
    for key, stored in raw.items():
        index, name = key
        if key in (ENCRYPTION_CONTEXT, INLINE_DATA):
            continue
        if not index and not name:  # without a value, its entry would be the end of a list
            problems.note("extended attribute without a name and a name index", Place(inode=inode))
            continue
        text = PREFIXES.get(index, "") + name.decode("utf-8", "surrogateescape")
        if index not in _PLAIN and xattr_key(text) != key:
            text = f"{RAW_XATTR_PREFIX}{index}." + name.decode("utf-8", "surrogateescape")
        elif index in _ACLS:
            try:
                stored = acl_to_user_space(stored, inode)  # noqa: PLW2901 - as it is shown
            except CorruptionError as error:
                problems.found(error)
                continue
        shown[text] = stored
    return shown


def xattr_key(text: str) -> XattrKey | None:
    """The key of a name as `visible` shows it; None if it is in no namespace of ext4."""
    raw = _RAW_NAME.fullmatch(text)
    if raw is not None and int(raw[1]) <= MAX_NAME_INDEX and (int(raw[1]) or raw[2]):
        return XattrKey(int(raw[1]), raw[2].encode("utf-8", "surrogateescape"))
    for index, prefix in _NAMESPACES:
        if text.startswith(prefix):
            suffix = text[len(prefix) :]
            return (
                None if suffix and index in _WHOLE_NAMES else XattrKey(index, suffix.encode("utf-8", "surrogateescape"))
            )
    return None


def acl_to_user_space(stored: bytes, inode: int) -> bytes:
    """From struct ext4_acl_*, where entries without a meaningful id have none, to struct posix_acl_xattr_*."""
    place = Place(inode=inode, record=EXT4_ACL_HEADER.name)
    if len(stored) < EXT4_ACL_HEADER.size or EXT4_ACL_HEADER.unpack_tuple(stored)[0] != EXT4_ACL_VERSION:
        raise CorruptionError("ACL of an unknown version", place)
    shown = [POSIX_ACL_XATTR_HEADER.pack((POSIX_ACL_XATTR_VERSION,))]
    offset = EXT4_ACL_HEADER.size
    while offset < len(stored):
        if len(stored) - offset < EXT4_ACL_ENTRY_SHORT.size:
            raise CorruptionError("ACL ends within an entry", place)
        tag, permissions = EXT4_ACL_ENTRY_SHORT.unpack_tuple(stored, offset)
        if tag in _ACL_SHORT_TAGS:
            identity = ACL_UNDEFINED_ID
            offset += EXT4_ACL_ENTRY_SHORT.size
        elif tag in (ACL_USER, ACL_GROUP) and len(stored) - offset >= EXT4_ACL_ENTRY.size:
            identity = EXT4_ACL_ENTRY.unpack_tuple(stored, offset)[2]
            offset += EXT4_ACL_ENTRY.size
        else:
            raise CorruptionError(f"ACL has an entry of the unknown tag {tag:#x}", place)
        shown.append(POSIX_ACL_XATTR_ENTRY.pack((tag, permissions, identity)))
    return b"".join(shown)


def acl_to_disk(shown: bytes) -> bytes:
    """The inverse of `acl_to_user_space` (kernel: ext4_acl_to_disk). CorruptionError for an invalid ACL."""
    header = POSIX_ACL_XATTR_HEADER.size
    entry = POSIX_ACL_XATTR_ENTRY.size
    version = POSIX_ACL_XATTR_HEADER.unpack(shown).a_version
    if version != POSIX_ACL_XATTR_VERSION or (len(shown) - header) % entry:
        raise CorruptionError(f"not a POSIX ACL of version 2, but {len(shown)} bytes of version {version}")
    stored = [EXT4_ACL_HEADER.pack((EXT4_ACL_VERSION,))]
    for tag, permissions, identity in POSIX_ACL_XATTR_ENTRY.iter_unpack(shown[header:]):
        if tag in _ACL_SHORT_TAGS:
            stored.append(EXT4_ACL_ENTRY_SHORT.pack((tag, permissions)))
        elif tag in (ACL_USER, ACL_GROUP):
            stored.append(EXT4_ACL_ENTRY.pack((tag, permissions, identity)))
        else:
            raise CorruptionError(f"ACL has an entry of the unknown tag {tag:#x}")
    return b"".join(stored)
