"""Inodes in words and in JSON: what ls, stat, find and tree have in common."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ext4img.cli.output import text_fields
from ext4img.structs.inode import EXT4_ENCRYPT_FL
from ext4img.view.inode import Inode

_BILLION = 1_000_000_000
# Bit, letter and name of lsattr (e2fsprogs, lib/e2p/pf.c), in its order.
FLAGS = (
    (0x00000001, "s", "secure_deletion"),
    (0x00000002, "u", "undelete"),
    (0x00000008, "S", "synchronous_updates"),
    (0x00010000, "D", "synchronous_directory_updates"),
    (0x00000010, "i", "immutable"),
    (0x00000020, "a", "append_only"),
    (0x00000040, "d", "no_dump"),
    (0x00000080, "A", "no_atime"),
    (0x00000004, "c", "compression_requested"),
    (EXT4_ENCRYPT_FL, "E", "encrypted"),
    (0x00004000, "j", "journaled_data"),
    (0x00001000, "I", "indexed_directory"),
    (0x00008000, "t", "no_tailmerging"),
    (0x00020000, "T", "top_of_directory_hierarchies"),
    (0x00080000, "e", "extents"),
    (0x00800000, "C", "no_cow"),
    (0x02000000, "x", "dax"),
    (0x40000000, "F", "casefold"),
    (0x10000000, "N", "inline_data"),
    (0x20000000, "P", "project_hierarchy"),
    (0x00100000, "V", "verity"),
    (0x00000400, "m", "dont_compress"),
)
# Bits that lsattr has no letter for (kernel: fs/ext4/ext4.h).
_MORE_FLAGS = ((0x00040000, "huge_file"), (0x00200000, "ea_inode"))


def flag_letters(flags: int) -> str:
    """The flags as lsattr prints them."""
    return "".join(letter if flags & bit else "-" for bit, letter, _ in FLAGS)


def flag_names(flags: int) -> list[str]:
    """The flags' names; bits without one as hex."""
    names = [name for bit, _, name in FLAGS if flags & bit]
    known = sum(bit for bit, _, _ in FLAGS)
    for bit, name in _MORE_FLAGS:
        known |= bit
        if flags & bit:
            names.append(name)
    if flags & ~known:
        names.append(f"{flags & ~known:#x}")
    return names


def time_text(time_ns: int, full: bool = False) -> str:
    """A time in UTC, to the minute; `full` to the nanosecond, as GNU stat has it."""
    seconds, rest = divmod(time_ns, _BILLION)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):  # archives can claim any time
        return f"@{seconds}.{rest:09d}" if full else f"@{seconds}"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{rest:09d} +0000" if full else f"{moment:%Y-%m-%d %H:%M}"


def size_text(size: int) -> str:
    """A size as ls -h prints it: at most three digits, rounded up, and a unit of 1,024."""
    if size < 1024:
        return str(size)
    unit = 0
    whole = size
    divisor = 1
    while whole >= 1024 and unit < len("KMGTPEZY"):
        unit += 1
        divisor <<= 10
        whole = -(-size // divisor)
    tenths = -(-size * 10 // divisor)
    if tenths < 100:
        return f"{tenths // 10}.{tenths % 10}{'KMGTPEZY'[unit - 1]}"
    return f"{whole}{'KMGTPEZY'[unit - 1]}"


def inode_record(path: bytes | str, inode: Inode) -> dict[str, Any]:
    """The JSON of an inode at a path; docs/cli.md tells the fields."""
    record: dict[str, Any] = {
        **text_fields("path", path),
        "inode": inode.number,
        "type": inode.type,
        "mode": inode.mode,
        "uid": inode.uid,
        "gid": inode.gid,
        "size": inode.size,
        "links": inode.links,
        "sectors": inode.sectors,
        "flags": inode.flags,
        "generation": inode.generation,
        "version": inode.version,
        "project": inode.project_id,
        "atime_ns": inode.atime_ns,
        "mtime_ns": inode.mtime_ns,
        "ctime_ns": inode.ctime_ns,
        "crtime_ns": inode.crtime_ns,
    }
    if inode.dtime:
        record["dtime"] = inode.dtime
    if inode.rdev is not None:
        record["rdev"] = list(inode.rdev)
    if inode.is_encrypted:
        record["encrypted"] = True
    if inode.is_symlink:
        record |= text_fields("target", inode.readlink())
    return record
