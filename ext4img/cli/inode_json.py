"""An inode in JSON, and its flags as letters and names: shared by ls, stat, find and tree."""

from __future__ import annotations

from typing import Any

from ext4img.cli.output import text_fields
from ext4img.fs.inode import Inode
from ext4img.structs.inode import INODE_FLAGS

_KNOWN_FLAGS = sum(flag.bit for flag in INODE_FLAGS)


def flag_letters(flags: int) -> str:
    """The flags in the format of lsattr."""
    return "".join(flag.letter if flags & flag.bit else "-" for flag in INODE_FLAGS if flag.letter)


def flag_names(flags: int) -> list[str]:
    """The names of the flags; unnamed bits in hexadecimal."""
    names = [flag.name for flag in INODE_FLAGS if flags & flag.bit]
    if flags & ~_KNOWN_FLAGS:
        names.append(f"{flags & ~_KNOWN_FLAGS:#x}")
    return names


def inode_record(path: bytes | str, inode: Inode) -> dict[str, Any]:
    """The JSON of an inode at a path; docs/cli.md lists the fields."""
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
