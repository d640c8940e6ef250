"""Random trees for the builder, and the comparison of a built image with the nodes it was made of."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hypothesis import strategies as st

import ext4img
from ext4img.mkfs import Node, stored_xattr
from tools import kernel_ioctl

Segments = list[tuple[int, int]]
NAME = st.binary(min_size=1, max_size=255).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"-"))
SHORT_NAME = st.binary(min_size=1, max_size=12).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"-"))
# e2fsck takes what lies beyond 2310-04-04 for mistaken negative times; the kernel doesn't.
TIME_NS = st.integers(-(1 << 31) * 10**9, (5 << 31) * 10**9 - 1)
U32 = st.integers(0, 0xFFFFFFFE)  # -1 is no user for the kernel
FLAGS = st.sampled_from([0, 0, 0, 0x40, 0x80, 0xC8])  # nodump, noatime, sync among them
XATTR_NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
GRAIN = 4096  # of segments: the largest block size that is tried


class Built:
    """Nodes with what they stand for: contents by `Node.body`, attributes in user space form."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.contents: dict[int, Contents] = {}
        self.xattrs: dict[tuple[bytes, ...], dict[str, bytes]] = {}

    def __repr__(self) -> str:
        # Hypothesis warns of long ones.
        return f"Built({repr(self.nodes)[:10_000]}, {repr(self.contents)[:2000]})"

    def body(self, number: int) -> Contents:
        return self.contents[number]

    @cached_property
    def first_of(self) -> dict[int, Node]:
        first: dict[int, Node] = {}
        for node in self.nodes:
            if node.link_group is not None:
                first.setdefault(node.link_group, node)
        return first

    def inode_of(self, node: Node) -> Node:
        """The node that speaks for a name's inode."""
        return node if node.link_group is None else self.first_of[node.link_group]


@dataclass(frozen=True)
class Contents:
    """Bytes that look random, with zeros outside of the segments."""

    seed: int
    segments: Segments

    def read_at(self, offset: int, length: int) -> bytes:
        out = bytearray(length)
        for start, size in self.segments:
            first, last = max(start, offset), min(start + size, offset + length)
            if first < last:
                rng = random.Random(self.seed + start)
                out[first - offset : last - offset] = rng.randbytes(size)[first - start : last - start]
        return bytes(out)


@st.composite
def trees(draw: st.DrawFn, *, most: int = 30, plain_extra: bool = True) -> Built:
    """A tree of all kinds of nodes. Without `plain_extra` what 128-byte inodes can't hold is left out."""
    built = Built()
    directories: list[tuple[bytes, ...]] = [()]
    files: list[int] = []
    names: dict[tuple[bytes, ...], set[bytes]] = {(): {b".", b"..", b"lost+found"}}
    built.nodes.append(Node((), stat.S_IFDIR | 0o755, **draw(_attributes(plain_extra))))
    for number in range(draw(st.integers(0, most))):
        parent = draw(st.sampled_from(directories))
        name = draw(st.one_of(SHORT_NAME, SHORT_NAME, NAME))
        if name in names[parent]:
            continue
        names[parent].add(name)
        path = (*parent, name)
        kind = draw(st.sampled_from(["dir", "file", "file", "file", "symlink", "device", "fifo", "socket", "link"]))
        if kind == "link":
            if files:
                built.nodes.append(Node(path, 0, link_group=draw(st.sampled_from(files))))
            continue
        attributes = draw(_attributes(plain_extra))
        mode = draw(st.integers(0, 0o7777))
        xattrs = draw(_xattrs(kind))
        built.xattrs[path] = xattrs
        attributes["xattrs"] = dict(stored_xattr(key, value) for key, value in xattrs.items())
        if kind == "dir":
            directories.append(path)
            names[path] = {b".", b".."}
            built.nodes.append(Node(path, stat.S_IFDIR | mode, **attributes))
        elif kind == "file":
            files.append(number)
            built.nodes.append(
                _file(draw, built, number, Node(path, stat.S_IFREG | mode, link_group=number, **attributes))
            )
        elif kind == "symlink":
            attributes["flags"] = 0
            target = draw(st.binary(min_size=1, max_size=1000)).replace(b"\0", b"0")
            built.nodes.append(Node(path, stat.S_IFLNK | 0o777, target=target, **attributes))
        else:
            attributes["flags"] = 0
            types = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK}
            rdev = (0, 0)
            file_type = types.get(kind, 0)
            if kind == "device":
                file_type = draw(st.sampled_from([stat.S_IFCHR, stat.S_IFBLK]))
                rdev = draw(st.tuples(st.integers(0, 4095), st.integers(0, (1 << 20) - 1)))
            built.nodes.append(Node(path, file_type | mode, rdev=rdev, **attributes))
    return built


def _file(draw: st.DrawFn, built: Built, number: int, node: Node) -> Node:
    size = draw(st.one_of(st.integers(0, 200), st.integers(0, 100_000), st.integers(0, 1 << 41)))
    if size <= 100_000 and draw(st.booleans()):
        built.contents[number] = Contents(draw(st.integers(0, 1 << 32)), [(0, size)])
        return node._replace(size=size, body=number)
    written: Segments = []
    unwritten: Segments = []
    blocks = -(-size // GRAIN)
    for _ in range(draw(st.integers(0, 8))):
        start = draw(st.integers(0, max(blocks - 1, 0)))
        count = draw(st.integers(1, 20))
        if draw(st.booleans()):
            unwritten.append((start * GRAIN, count * GRAIN))
        elif start < blocks:
            written.append((start * GRAIN, min(count * GRAIN, size - start * GRAIN)))
    written = merged(written)
    built.contents[number] = Contents(draw(st.integers(0, 1 << 32)), written)
    return node._replace(size=size, body=number, segments=written, unwritten=unwritten)


def merged(segments: Segments) -> Segments:
    """Segments in order, what touches or overlaps made one."""
    result: Segments = []
    for offset, length in sorted(segments):
        if result and offset <= sum(result[-1]):
            result[-1] = (result[-1][0], max(sum(result[-1]), offset + length) - result[-1][0])
        else:
            result.append((offset, length))
    return result


def _attributes(plain_extra: bool) -> st.SearchStrategy[dict[str, Any]]:
    time = TIME_NS if plain_extra else st.integers(-(1 << 31), (1 << 31) - 1).map(lambda s: s * 10**9)
    return st.fixed_dictionaries(
        {
            "uid": U32,
            "gid": U32,
            "atime_ns": time,
            "mtime_ns": time,
            "ctime_ns": time,
            "crtime_ns": time if plain_extra else st.none(),
            "flags": FLAGS,
            "generation": U32,
            "project_id": st.sampled_from([0, 0, 7, 0xFFFFFFFE]) if plain_extra else st.just(0),
        }
    )


def _xattrs(kind: str) -> st.SearchStrategy[dict[str, bytes]]:
    prefixes = ["trusted.", "security."] if kind in ("symlink", "device", "fifo", "socket") else ["user.", "trusted."]
    name = st.builds(lambda p, n: p + n.encode()[:200].decode(errors="ignore"), st.sampled_from(prefixes), XATTR_NAME)
    value = st.one_of(st.binary(max_size=40), st.binary(max_size=40), st.integers(0, 9000).map(lambda n: b"v" * n))
    return st.one_of(st.just({}), st.just({}), st.dictionaries(name, value, max_size=4))


def sizes(image: Built, block_size: int) -> dict[tuple[bytes, ...], tuple[Segments, Segments]]:
    """What of each file is written and what is unwritten, in whole blocks, written winning."""
    found = {}
    for node in image.nodes:
        if stat.S_ISREG(node.mode):
            segments = [(0, node.size)] if node.segments is None else list(node.segments)
            written = merged([_rounded(s, block_size) for s in segments if s[1]])
            found[node.path] = (written, merged([_rounded(s, block_size) for s in node.unwritten]))
    return found


def _rounded(segment: tuple[int, int], block_size: int) -> tuple[int, int]:
    start = segment[0] // block_size * block_size
    return start, -(-sum(segment) // block_size) * block_size - start


def reader_differences(image: str | os.PathLike[str], built: Built) -> Iterator[str]:
    """Where ext4img's reader sees something else than the nodes say."""
    with ext4img.open(os.fspath(image)) as fs:
        shown = {bytes(path): inode for path, inode in fs.walk("/")}
        yield from _paths(built, {path.strip(b"/") for path in shown})
        places = sizes(built, fs.block_size)
        for node in built.nodes:
            path, source = b"/" + b"/".join(node.path), built.inode_of(node)
            inode = shown.get(path)
            if inode is None:
                continue
            got = {
                "mode": inode.mode,
                "uid": inode.uid,
                "gid": inode.gid,
                "atime_ns": inode.atime_ns,
                "mtime_ns": inode.mtime_ns,
                "ctime_ns": inode.ctime_ns,
                "generation": inode.generation,
                "project_id": inode.project_id,
            }
            yield from _attribute_differences(path, source, got)
            if source.crtime_ns is not None and inode.crtime_ns is not None and inode.crtime_ns != source.crtime_ns:
                yield f"{path!r} crtime: {inode.crtime_ns}"
            if inode.flags & 0xC8 != source.flags:
                yield f"{path!r} flags: {inode.flags:#x}"
            if inode.xattrs() != built.xattrs.get(source.path, {}):
                yield f"{path!r} xattrs: {inode.xattrs()!r}"
            if inode.is_symlink and inode.readlink() != source.target:
                yield f"{path!r} target: {inode.readlink()!r}"
            if is_device(source.mode) and inode.rdev != source.rdev:
                yield f"{path!r} rdev: {inode.rdev}"
            if inode.is_file:
                written, _ = places[source.path]
                with inode.open() as file:
                    yield from _contents(path, built, source, file.readinto, file.seek, inode.size)
                    got_segments = merged(list(file.segments()))
                if not inode.has_inline_data and got_segments != _cut(written, source.size):
                    yield f"{path!r} segments: {got_segments}, expected {_cut(written, source.size)}"
        if list(fs.problems):
            yield f"problems: {list(fs.problems)}"


def kernel_differences(mount: str, built: Built, block_size: int) -> Iterator[str]:
    """Where the kernel shows something else than the nodes say."""
    from tools.kernel_view import walk

    shown = {seen.path: seen for seen in walk(mount)}
    yield from _paths(built, {path.strip(b"/") for path in shown})
    numbers: dict[int, int] = {}
    places = sizes(built, block_size)
    for seen in walk(mount):
        node = next((n for n in built.nodes if b"/" + b"/".join(n.path) == seen.path), None)
        if node is None:
            continue
        source, status, path = built.inode_of(node), seen.stat, seen.path
        if node.link_group is not None and numbers.setdefault(node.link_group, status.st_ino) != status.st_ino:
            yield f"{path!r} is not a name of the same inode"
        got = {
            "mode": status.st_mode,
            "uid": status.st_uid,
            "gid": status.st_gid,
            "atime_ns": status.st_atime_ns,
            "mtime_ns": status.st_mtime_ns,
            "ctime_ns": status.st_ctime_ns,
        }
        yield from _attribute_differences(path, source, got)
        xattrs = {
            name: os.getxattr(seen.reach, name, follow_symlinks=False)
            for name in os.listxattr(seen.reach, follow_symlinks=False)
        }
        if xattrs != built.xattrs.get(source.path, {}):
            yield f"{path!r} xattrs: {xattrs!r}"
        if stat.S_ISLNK(status.st_mode) and os.readlink(seen.reach) != source.target:
            yield f"{path!r} target: {os.readlink(seen.reach)!r}"
        rdev = (os.major(status.st_rdev), os.minor(status.st_rdev))
        if is_device(status.st_mode) and rdev != source.rdev:
            yield f"{path!r} rdev: {status.st_rdev:#x}"
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            with kernel_ioctl.opened(seen.reach) as fd:
                if kernel_ioctl.get_flags(fd) & 0xC8 != source.flags:
                    yield f"{path!r} flags: {kernel_ioctl.get_flags(fd):#x}"
                if kernel_ioctl.get_generation(fd) != source.generation:
                    yield f"{path!r} generation: {kernel_ioctl.get_generation(fd)}"
                if stat.S_ISREG(status.st_mode):
                    with open(fd, "rb", buffering=0, closefd=False) as file:
                        yield from _contents(path, built, source, file.readinto, file.seek, status.st_size)
                    if not kernel_ioctl.get_flags(fd) & 0x10000000:
                        yield from _extents(path, fd, *places[source.path])


def is_device(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _extents(path: bytes, fd: int, written: Segments, unwritten: Segments) -> Iterator[str]:
    extents = kernel_ioctl.fiemap(fd)
    mapped = merged([(extent.logical, extent.length) for extent in extents])
    if mapped != merged(written + unwritten):
        yield f"{path!r} mapped: {mapped}, expected {merged(written + unwritten)}"
    got = merged([(extent.logical, extent.length) for extent in extents if extent.is_written])
    if got != written:
        yield f"{path!r} written: {got}, expected {written}"


def _paths(built: Built, shown: set[bytes]) -> Iterator[str]:
    expected = {b"/".join(node.path) for node in built.nodes}
    if shown - {b"lost+found"} != expected - {b"lost+found"}:
        yield f"paths: {shown ^ expected}"
    if b"lost+found" not in shown:
        yield "lost+found is missing"


def _attribute_differences(path: bytes, source: Node, got: dict[str, int]) -> Iterator[str]:
    for name, value in got.items():
        if getattr(source, name) != value:
            yield f"{path!r} {name}: {value}, expected {getattr(source, name)}"


def _contents(path: bytes, built: Built, source: Node, readinto: Any, seek: Any, size: int) -> Iterator[str]:
    if size != source.size:
        yield f"{path!r} size: {size}, expected {source.size}"
        return
    body = built.contents[source.body]
    window = 1 << 16
    places = {0, max(0, size - window), *(start for start, _ in body.segments), *(s for s, _ in source.unwritten)}
    for offset in sorted(place for place in places if place < size):
        wanted = min(window, size - offset)
        buffer = bytearray(wanted)
        view = memoryview(buffer)
        seek(offset)
        while view:
            count = readinto(view)
            if not count:
                break
            view = view[count:]
        if view or buffer != body.read_at(offset, wanted):
            yield f"{path!r} contents at {offset} differ"


def _cut(segments: Segments, size: int) -> Segments:
    return [(start, min(length, size - start)) for start, length in segments if start < size]
