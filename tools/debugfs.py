"""What debugfs (e2fsprogs) says about an image: raw directory entries, contexts, inode fields.

The kernel does not show these: the encrypted bytes of names, the context of a symlink, the flags
and generation of inodes that can't be opened. Nothing here knows ext4img.
"""

from __future__ import annotations

import re
import struct
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from tools.loop_mount import run

_INLINE_DATA_FL = 0x10000000


class InodeFacts(NamedTuple):
    """Fields of debugfs' `stat`; times in ns, creation time None where the inode has none."""

    type: str
    mode: int
    uid: int
    gid: int
    links: int
    size: int
    flags: int
    generation: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    crtime_ns: int | None
    project: int
    rdev: tuple[int, int] | None  # devices only
    fast_target: bytes | None  # of a symlink that lies in the inode


def _script(image: Path, commands: list[str]) -> str:
    return run("debugfs", "-f", "-", image, stdin="\n".join([*commands, ""]).encode()).decode(errors="replace")


def inode_facts(image: Path, numbers: Collection[int]) -> dict[int, InodeFacts]:
    """`stat` of each inode number."""
    output = _script(image, [f"stat <{number}>" for number in numbers])
    facts = {}
    for text in re.split(r"(?m)^(?=Inode: )", output)[1:]:

        def field(pattern: str, of: str = text) -> str:
            found = re.search(pattern, of)
            if not found:
                raise ValueError(f"debugfs stat without {pattern}: {of}")
            return found.group(1)

        project = re.search(r"Project:\s+(-?\d+)", text)
        device = re.search(r"Device major/minor number: (\d+):(\d+)", text)
        target = re.search(r'(?s)Fast link dest: "(.*)"\s*(?:debugfs: stat <\d+>\s*)?$', text)
        facts[int(field(r"Inode: (\d+)"))] = InodeFacts(
            type=field(r"Type: (.+?)\s+Mode:"),
            mode=int(field(r"Mode:\s+(\d+)"), 8),
            uid=int(field(r"User:\s+(-?\d+)")) & 0xFFFFFFFF,  # printed as if signed
            gid=int(field(r"Group:\s+(-?\d+)")) & 0xFFFFFFFF,
            links=int(field(r"Links: (\d+)")),
            size=int(field(r"Size: (\d+)")),
            flags=int(field(r"Flags: (0x[0-9a-f]+)"), 16),
            generation=int(field(r"Generation: (\d+)")),
            atime_ns=_time(text, "atime") or 0,
            mtime_ns=_time(text, "mtime") or 0,
            ctime_ns=_time(text, "ctime") or 0,
            crtime_ns=_time(text, "crtime"),
            project=int(project.group(1)) & 0xFFFFFFFF if project else 0,
            rdev=(int(device.group(1)), int(device.group(2))) if device else None,
            fast_target=target.group(1).encode("utf-8", "surrogateescape") if target else None,
        )
    return facts


def _time(text: str, name: str) -> int | None:
    """Seconds, signed, with the two epoch bits and the nanoseconds of the extra word where it is shown."""
    found = re.search(rf"(?m)^\s*{name}: 0x([0-9a-f]+)(?::([0-9a-f]+))?", text)
    if not found:
        return None
    seconds = int(found.group(1), 16)
    seconds -= (seconds & 0x80000000) << 1
    extra = int(found.group(2) or "0", 16)
    return (seconds + ((extra & 3) << 32)) * 1_000_000_000 + (extra >> 2)


def contexts(image: Path, numbers: Collection[int]) -> dict[int, bytes]:
    """The raw encryption context (xattr index 9, name "c") of each inode number that has one."""
    with tempfile.TemporaryDirectory(prefix="ext4img-debugfs-") as scratch:
        _script(image, [f"ea_get -f {scratch}/{number} <{number}> c" for number in numbers])
        files = {number: Path(scratch, str(number)) for number in numbers}
        return {number: f.read_bytes() for number, f in files.items() if f.exists() and f.stat().st_size}


def directory_entries(
    image: Path, numbers: Collection[int], facts: dict[int, InodeFacts], block_size: int
) -> dict[int, list[tuple[bytes, int]]]:
    """(name as stored, inode number) of each directory given, in the order of the blocks, without . and .."""
    with tempfile.TemporaryDirectory(prefix="ext4img-debugfs-") as scratch:
        _script(image, [f"dump <{number}> {scratch}/{number}" for number in numbers])
        found = {}
        for number in numbers:
            data = Path(scratch, str(number)).read_bytes()
            inline = bool(facts[number].flags & _INLINE_DATA_FL)
            found[number] = _parse_entries(data, 4 if inline else 0, block_size)
        return found


def _parse_entries(data: bytes, start: int, block_size: int) -> list[tuple[bytes, int]]:
    """Walk ext4_dir_entry_2 records by rec_len; index blocks look like one unused entry each.

    An inline directory starts with its parent's number (4 bytes) in place of "." and "..".
    """
    entries = []
    offset = start
    while offset + 8 <= len(data):
        number, rec_len, name_len = struct.unpack_from("<IHB", data, offset)
        if block_size == 65536 and rec_len in (0, 65535):
            rec_len = 65536
        if rec_len < 8:
            break  # the unused rest of an inline directory
        name = data[offset + 8 : offset + 8 + name_len]
        if number and name not in (b".", b".."):
            entries.append((name, number))
        offset += rec_len
    return entries


def contents(image: Path, number: int) -> bytes:
    """The bytes of a regular file as debugfs reads them (no decryption)."""
    with tempfile.TemporaryDirectory(prefix="ext4img-debugfs-") as scratch:
        _script(image, [f"dump <{number}> {scratch}/out"])
        return Path(scratch, "out").read_bytes()


class SuperblockFacts(NamedTuple):
    """The fields of dumpe2fs that a manifest holds."""

    uuid: str
    label: str
    block_size: int
    features: list[str]
    has_orphans: bool  # a list of inodes whose removal or truncation was begun


def superblock_facts(image: Path) -> SuperblockFacts:
    """The superblock as dumpe2fs prints it."""
    lines = run("dumpe2fs", "-h", image).decode(errors="replace").splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    label = fields["Filesystem volume name"]
    return SuperblockFacts(
        uuid=fields["Filesystem UUID"],
        label="" if label == "<none>" else label,
        block_size=int(fields["Block size"]),
        features=fields["Filesystem features"].split(),
        has_orphans="First orphan inode" in fields,
    )
