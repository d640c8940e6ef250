"""What the kernel shows of an image, as the manifest that the tests compare with.

The image is mounted read-only on a loop device (a dirty one is copied first and its journal
replayed on the copy), with the keys added and then without them. Names as stored, contexts and the
fields that have no system call come from debugfs, the ciphertext from the blocks that FIEMAP names.
No value here comes from ext4img, which is not imported.

    python -m tools.kernel_view IMAGE [--key VERSION:HEXFILE ...] > NAME.json
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import shutil
import stat
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tools import debugfs, kernel_ioctl
from tools.loop_mount import loop_mounted, replay_journal, run

Entry = dict[str, Any]

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
SAMPLED_ABOVE_BYTES = 1 << 30
SAMPLE_BYTES = 4096
INLINE_DATA_FL = 0x10000000
ENCRYPT_FL = 0x800
WINDOW_BYTES = 1 << 20


class Key(NamedTuple):
    """A master key; `descriptor` only for a v1 key that is known by another name than the derived one."""

    raw: bytes
    version: int
    descriptor: bytes | None = None


class Seen(NamedTuple):
    """One path of a mounted tree."""

    path: bytes
    parent: int
    stat: os.stat_result
    reach: bytes  # a short path through /proc/self/fd, for system calls that take no directory descriptor


def walk(mount: str) -> Iterator[Seen]:
    """Every path below `mount`, the root first, siblings in the order in which the kernel lists them."""
    with kernel_ioctl.opened(mount, os.O_RDONLY | os.O_DIRECTORY) as fd:
        status = os.fstat(fd)
        yield Seen(b"/", 0, status, b"/proc/self/fd/%d/." % fd)
        yield from _walk(fd, b"", status.st_ino)


def _walk(directory: int, path: bytes, number: int) -> Iterator[Seen]:
    reach = b"/proc/self/fd/%d/" % directory
    for name in os.listdir(b"/proc/self/fd/%d" % directory):
        status = os.lstat(reach + name)
        below = path + b"/" + name
        yield Seen(below, number, status, reach + name)
        if stat.S_ISDIR(status.st_mode):
            with kernel_ioctl.opened(reach + name, os.O_RDONLY | os.O_DIRECTORY) as fd:
                yield from _walk(fd, below, status.st_ino)


def text(path: bytes) -> str:
    """Bytes of the disk as the manifest has them."""
    return path.decode("utf-8", "surrogateescape")


def _sha256(fd: int, offset: int, length: int) -> str:
    digest = hashlib.sha256()
    while length:
        piece = os.pread(fd, min(length, WINDOW_BYTES), offset)
        if not piece:
            raise EOFError(f"the kernel gave {length} bytes less than asked for at {offset}")
        digest.update(piece)
        offset += len(piece)
        length -= len(piece)
    return digest.hexdigest()


def _sample_offsets(size: int, segments: list[list[int]]) -> list[tuple[int, int]]:
    """Where to look into a file too large to hash: its ends, its middle, the first parts of its data."""
    wanted = {(0, SAMPLE_BYTES), (size // 2, SAMPLE_BYTES), (size - SAMPLE_BYTES, SAMPLE_BYTES)}
    wanted |= {(start, min(length, 4 * SAMPLE_BYTES, size - start)) for start, length in segments if start < size}
    return sorted(wanted)


def _segments(extents: Iterable[kernel_ioctl.FiemapExtent]) -> list[list[int]]:
    merged: list[list[int]] = []
    for extent in extents:
        if not extent.is_written:
            continue
        if merged and sum(merged[-1]) == extent.logical:
            merged[-1][1] += extent.length
        else:
            merged.append([extent.logical, extent.length])
    return merged


def _ciphertext(image: int, extents: list[kernel_ioctl.FiemapExtent], size: int) -> str:
    """SHA-256 of the file's blocks as they lie on the image; holes and unwritten extents are zeros."""
    body = bytearray(size)
    for extent in extents:
        if extent.is_written and extent.logical < size:
            length = min(extent.length, size - extent.logical)
            body[extent.logical : extent.logical + length] = os.pread(image, length, extent.physical)
    return hashlib.sha256(body).hexdigest()


def _describe(seen: Seen) -> Entry:
    """What system calls say of one path."""
    status = seen.stat
    entry: Entry = {
        "path": text(seen.path),
        "ino": status.st_ino,
        "type": TYPES[stat.S_IFMT(status.st_mode)],
        "mode": status.st_mode,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "nlink": status.st_nlink,
        "size": status.st_size,
        "atime_ns": status.st_atime_ns,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "crtime_ns": kernel_ioctl.creation_time_ns(seen.reach),
        "xattrs": {
            text(os.fsencode(name)): os.getxattr(seen.reach, name, follow_symlinks=False).hex()
            for name in sorted(os.listxattr(seen.reach, follow_symlinks=False))
        },
    }
    if entry["type"] in ("char", "block"):
        entry["rdev"] = [os.major(status.st_rdev), os.minor(status.st_rdev)]
    if entry["type"] == "symlink":
        entry["target"] = text(os.readlink(seen.reach))
    return entry


def _describe_contents(seen: Seen, entry: Entry, image: int, block_size: int) -> None:
    """What an open descriptor says of a file or directory, and the file's bytes."""
    with kernel_ioctl.opened(seen.reach) as fd:
        entry["flags"] = kernel_ioctl.get_flags(fd)
        entry["generation"] = kernel_ioctl.get_generation(fd)
        context = kernel_ioctl.encryption_context(fd)
        if context:
            entry["context"] = context.hex()
        if project := kernel_ioctl.get_project(fd):
            entry["projid"] = project
        if entry["type"] != "file":
            return
        if entry["flags"] & INLINE_DATA_FL:
            entry["inline"] = True
            extents = []
        else:
            extents = kernel_ioctl.fiemap(fd)
            entry["data_segments"] = _segments(extents)
            entry["extent_count"] = len(extents)
        size = entry["size"]
        if size > SAMPLED_ABOVE_BYTES:
            entry["sha256"] = None
            places = _sample_offsets(size, entry["data_segments"])
            entry["samples"] = [[start, length, _sha256(fd, start, length)] for start, length in places]
        else:
            entry["sha256"] = _sha256(fd, 0, size)
        if context:
            entry["ciphertext_size"] = -(-size // block_size) * block_size
            entry["ciphertext_sha256"] = _ciphertext(image, extents, entry["ciphertext_size"])


def _entries(mount: str, image_path: Path, block_size: int) -> list[tuple[Seen, Entry]]:
    with kernel_ioctl.opened(str(image_path)) as image:
        found = []
        for seen in walk(mount):
            entry = _describe(seen)
            if entry["type"] in ("file", "dir"):
                _describe_contents(seen, entry, image, block_size)
            found.append((seen, entry))
        return found


def _add_debugfs(entries: list[tuple[Seen, Entry]], image: Path) -> None:
    """Flags and generation of what can't be opened, contexts, sizes of encrypted symlinks on the disk.

    Where kernel and debugfs both speak they must agree, or the manifest would be worth nothing.
    """
    numbers = {entry["ino"] for _, entry in entries}
    facts = debugfs.inode_facts(image, numbers)
    with_context = debugfs.contexts(image, [n for n in numbers if facts[n].flags & ENCRYPT_FL])
    for _, entry in entries:
        fact = facts[entry["ino"]]
        entry.setdefault("flags", fact.flags)
        if entry.setdefault("generation", fact.generation) != fact.generation:
            raise ValueError(f"{entry['path']}: the kernel and debugfs disagree about the generation")
        context = with_context.get(entry["ino"], b"").hex()
        if entry.setdefault("context", context) != context:
            raise ValueError(f"{entry['path']}: the kernel and debugfs disagree about the context")
        if not context:
            del entry["context"]
        entry["encrypted"] = bool(context)
        if context and entry["type"] == "symlink":
            entry["disk_size"] = fact.size


def _decode_nokey(name: bytes) -> tuple[bytes, bytes | None]:
    """The name's ciphertext, or its first 149 bytes and the SHA-256 of the rest (fs/crypto/fname.c)."""
    raw = base64.urlsafe_b64decode(name + b"=" * (-len(name) % 4))[8:]
    return (raw, None) if len(raw) <= 149 else (raw[:149], raw[149:])


def _stored_name(shown: bytes, candidates: list[bytes]) -> bytes:
    prefix, rest = _decode_nokey(shown)
    for stored in candidates:
        if rest is None:
            if stored == prefix:
                return stored
        elif stored[:149] == prefix and hashlib.sha256(stored[149:]).digest() == rest:
            return stored
    raise ValueError(f"no name on the disk is shown as {shown!r}")


def _add_nokey_view(entries: list[tuple[Seen, Entry]], image: Path, block_size: int) -> None:
    """nokey_path, name_ct and nokey_target, from a second mount that never had a key.

    The kernel lists a directory in the same order with and without the key, so the n-th name of an
    inode in a directory is the same link in both.
    """
    with loop_mounted(image, "ro,noatime") as mount:
        shown: dict[tuple[int, int], list[bytes]] = defaultdict(list)
        targets = {}
        for seen in walk(mount):
            shown[seen.parent, seen.stat.st_ino].append(seen.path)
            if stat.S_ISLNK(seen.stat.st_mode):
                targets[seen.stat.st_ino] = os.readlink(seen.reach)
    directories = {entry["ino"] for _, entry in entries if entry["type"] == "dir" and entry["encrypted"]}
    stored: dict[tuple[int, int], list[bytes]] = defaultdict(list)
    facts = debugfs.inode_facts(image, directories)
    for directory, names in debugfs.directory_entries(image, directories, facts, block_size).items():
        for name, number in names:
            stored[directory, number].append(name)
    for seen, entry in entries:
        nokey_path = shown[seen.parent, entry["ino"]].pop(0)
        if seen.parent in directories:
            name = _stored_name(nokey_path.rpartition(b"/")[2], stored[seen.parent, entry["ino"]])
            entry["name_ct"] = name.hex()
        if nokey_path != seen.path:
            entry["nokey_path"] = text(nokey_path)
        if entry["type"] == "symlink" and entry["encrypted"]:
            entry["nokey_target"] = text(targets[entry["ino"]])
    if any(shown.values()):
        raise ValueError("the mount without keys shows more than the one with keys")


def _describe_keys(keys: Iterable[tuple[Key, bytes]], entries: list[tuple[Seen, Entry]]) -> list[Entry]:
    """The manifest's `keys`, one for each policy: modes and flags from the context, and the topmost path."""
    described = []
    for key, name in keys:
        policies: dict[bytes, str] = {}
        for _, entry in entries:
            context = bytes.fromhex(entry.get("context", ""))
            if context[4:-16].endswith(name):
                policies.setdefault(context[:-16], entry["path"])
        if not policies:
            raise ValueError(f"nothing on the image uses the key {name.hex()}")
        described += [
            {
                "hex": key.raw.hex(),
                "version": key.version,
                ("descriptor" if key.version == 1 else "identifier"): name.hex(),
                "contents_mode": policy[1],
                "filenames_mode": policy[2],
                "flags": policy[3],
                "log2_data_unit_size": policy[4] if key.version == 2 else 0,
                "policy_root": path,
            }
            for policy, path in policies.items()
        ]
    return described


def tool_versions() -> str:
    """Kernel and e2fsprogs, for `made_by`."""
    version = run("dpkg-query", "-W", "-f", "${Version}", "e2fsprogs").decode().split("-")[0]
    return f"Linux {platform.release()}, e2fsprogs {version}"


def head(image: Path, about: dict[str, object]) -> dict[str, Any]:
    """The manifest's first keys: what made the image, its size and digest, its superblock."""
    original = image.read_bytes()
    facts = debugfs.superblock_facts(image)
    return {
        "name": image.name.partition(".")[0],
        "made_by": tool_versions(),
        **about,
        "raw_size": len(original),
        "raw_sha256": hashlib.sha256(original).hexdigest(),
        "block_size": facts.block_size,
        "uuid": facts.uuid,
        "label": facts.label,
        "features": facts.features,
        "dirty": "needs_recovery" in facts.features,
    }


def _without_replay(image: Path, replayed: list[tuple[Seen, Entry]], block_size: int) -> dict[str, Any]:
    """How a mount with "noload", which leaves the journal alone, differs from the recovered tree."""
    with loop_mounted(image, "ro,noload,noatime") as mount:
        before = {entry["path"]: entry for _, entry in _entries(mount, image, block_size)}
    after = {entry["path"]: entry for _, entry in replayed}
    changed = {
        path: sorted(key for key in after[path] if before[path].get(key) != after[path][key])
        for path in sorted(before.keys() & after.keys())
    }
    return {
        "missing": sorted(after.keys() - before.keys()),
        "extra": sorted(before.keys() - after.keys()),
        "changed": {path: keys for path, keys in changed.items() if keys},
        "unreadable": [],
    }


def manifest(image: Path, keys: Iterable[Key] = (), **about: object) -> dict[str, Any]:
    """The manifest of `image`, which is left as it is; `about` goes into its head."""
    document = head(image, about)
    block_size = document["block_size"]
    with tempfile.TemporaryDirectory(prefix="ext4img-view-") as scratch:
        copy = Path(scratch, image.name)
        shutil.copyfile(image, copy)
        if document["dirty"] or debugfs.superblock_facts(image).has_orphans:
            replay_journal(copy)
        with loop_mounted(copy, "ro,noatime") as mount:
            named = [(key, kernel_ioctl.add_key(mount, key.raw, key.version, key.descriptor)) for key in keys]
            entries = _entries(mount, copy, block_size)
        if document["dirty"] and not named:
            document["without_replay"] = _without_replay(image, entries, block_size)
        _add_debugfs(entries, copy)
        _add_nokey_view(entries, copy, block_size)
    document |= {"keys": _describe_keys(named, entries), "passphrases": []}
    document["entries"] = [entry for _, entry in sorted(entries, key=lambda found: found[0].path)]
    return document


def dump(document: dict[str, Any]) -> str:
    """JSON with one line a key and one line an entry, so that a change can be read in a diff."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in document.items() if key != "entries"]
    entries = ",\n".join(json.dumps(entry) for entry in document["entries"])
    return "{\n" + ",\n".join([*lines, f'"entries": [\n{entries}\n]']) + "\n}\n"


def _parse_key(argument: str) -> Key:
    version, _, file = argument.partition(":")
    return Key(bytes.fromhex(Path(file).read_text(encoding="ascii")), int(version))


def main() -> None:
    """Print the manifest of one image."""
    parser = argparse.ArgumentParser(description="Print what the kernel shows of an ext4 image, as JSON.")
    parser.add_argument("image", type=Path)
    parser.add_argument("--key", type=_parse_key, action="append", default=[], metavar="VERSION:HEXFILE")
    arguments = parser.parse_args()
    sys.stdout.write(dump(manifest(arguments.image, arguments.key)))


if __name__ == "__main__":
    main()
