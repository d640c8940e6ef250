"""Inodes in words and in JSON: what ls, stat, find and tree have in common."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ext4img.cli.output import text_fields
from ext4img.fs.inode import Inode
from ext4img.structs.inode import INODE_FLAGS

_BILLION = 1_000_000_000
_KNOWN_FLAGS = sum(flag.bit for flag in INODE_FLAGS)


def flag_letters(flags: int) -> str:
    """The flags as lsattr prints them."""
    return "".join(flag.letter if flags & flag.bit else "-" for flag in INODE_FLAGS if flag.letter)


def flag_names(flags: int) -> list[str]:
    """The flags' names; bits without one as hex."""
    names = [flag.name for flag in INODE_FLAGS if flags & flag.bit]
    if flags & ~_KNOWN_FLAGS:
        names.append(f"{flags & ~_KNOWN_FLAGS:#x}")
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
