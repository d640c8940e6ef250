"""Attributes in inodes, blocks and ea_inodes; numbers, times, owners and flags of inodes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ext4img
from ext4img.errors import BuildError
from ext4img.mkfs import Node, Options, stored_xattr
from ext4img.mkfs.inodes import LAST_TIME_NS, encode_time
from ext4img.mkfs.nodes import device_i_block
from ext4img.mkfs.xattrs import inline_room, place_xattrs
from ext4img.structs.xattr import EXT4_XATTR_ENTRY, EXT4_XATTR_HEADER
from tests.mkfs.judges import assert_clean, debugfs
from tests.mkfs.samples import CREATED_S, DIRECTORY, FILE, ROOT, build
from tools.loop_mount import loop_mounted

BILLION = 10**9


def xattrs(**values: bytes) -> dict[Any, bytes]:
    return dict(stored_xattr(f"user.{name}", value) for name, value in values.items())


def test_small_attributes_stand_in_the_inode_larger_ones_in_a_block(tmp_path: Path):
    # 256 - 160 bytes; 4 of magic, 4 at the end, 20 of entry with a short name: 68 are left with a birth time.
    nodes = [
        ROOT,
        Node((b"inline",), FILE, xattrs=xattrs(a=b"v" * 68), crtime_ns=1),
        Node((b"block",), FILE, xattrs=xattrs(a=b"v" * 69), crtime_ns=1),
        Node((b"both",), FILE, xattrs=xattrs(a=b"v" * 10, b=b"w" * 1000, c=b"x" * 20)),
        Node((b"full",), FILE, xattrs=xattrs(a=b"v" * (4096 - 32 - 4 - 20))),
        Node((b"apart",), FILE, xattrs=xattrs(a=b"v" * (4096 - 32 - 4 - 20 + 1))),
        Node((b"empty",), FILE, xattrs=xattrs(a=b"")),
    ]
    build(tmp_path / "i", nodes, Options(created_s=CREATED_S))
    assert_clean(tmp_path / "i")
    with ext4img.open(tmp_path / "i") as fs:
        for node in nodes[1:]:
            inode = fs.path(b"/" + node.path[0]).inode
            assert inode.xattrs() == {f"user.{name.decode()}": value for (_, name), value in node.xattrs.items()}
        blocks = {name: bool(fs.path(f"/{name}").inode.xattr_block) for name in ("inline", "block", "both", "empty")}
        assert blocks == {"inline": False, "block": True, "both": True, "empty": False}
        assert {name: fs.path(f"/{name}").inode.sectors for name in ("inline", "full", "apart")} == {
            "inline": 0,
            "full": 8,
            "apart": 16,  # the block, and that of the value
        }


def test_a_value_of_64_kib_and_many_attributes(tmp_path: Path):
    nodes = [
        ROOT,
        Node((b"big",), FILE, 5, 6, xattrs=xattrs(**{f"n{n}": b"%d" % n * 20_000 for n in range(3)})),
        Node((b"d",), DIRECTORY, xattrs=xattrs(x=b"y" * 65536)),
        Node((b"many",), FILE, xattrs=xattrs(**{f"name number {n}": b"value" for n in range(80)})),
    ]
    made = build(tmp_path / "i", nodes, Options(created_s=CREATED_S))
    assert "ea_inode" in made.features.names
    assert_clean(tmp_path / "i")
    with ext4img.open(tmp_path / "i") as fs:
        for node in nodes[1:]:
            inode = fs.path(b"/" + node.path[0]).inode
            assert inode.xattrs() == {f"user.{name.decode()}": value for (_, name), value in node.xattrs.items()}


def test_equal_attributes_share_a_block_up_to_1024_times(tmp_path: Path):
    value = b"the same everywhere" * 20
    nodes = [ROOT, *(Node((b"%d" % n,), FILE, xattrs=xattrs(a=value)) for n in range(2500))]
    build(tmp_path / "i", nodes, Options(created_s=CREATED_S))
    assert_clean(tmp_path / "i")
    with ext4img.open(tmp_path / "i") as fs:
        assert len({fs.path(f"/{n}").inode.xattr_block for n in range(2500)}) == 3
        assert fs.path("/2499").inode.xattrs() == {"user.a": value}


def test_hashes_are_those_of_kernel_made_blocks(tmp_path: Path):
    """e_hash and h_hash of blocks that the kernel wrote (fixture plain-4k), made again from the same attributes."""
    from tests.images import fixture_images

    compared = 0
    for packed in fixture_images():
        packed.unpack(tmp_path / packed.name)
        with ext4img.open(tmp_path / packed.name) as fs:
            for _, inode in fs.walk("/"):
                if not inode.xattr_block:
                    continue
                raw = fs.volume.blocks.read(inode.xattr_block)
                made = place_xattrs(_of_block(raw), 0, fs.block_size, None).block
                assert made is not None
                header = EXT4_XATTR_HEADER.unpack(raw)
                assert made.hash == header.h_hash
                again = bytes(made.build(fs.block_size, 1, ()))
                assert hashes(again) == hashes(raw)
                assert _of_block(again) == _of_block(raw)
                compared += 1
    assert compared >= 5


def hashes(raw: bytes) -> list[int]:
    """e_hash of the entries, in their order."""
    return [entry.e_hash for entry in _entries(raw)]


def _entries(raw: bytes) -> Iterator[Any]:
    at = EXT4_XATTR_HEADER.size
    while raw[at : at + 4] != bytes(4):
        entry = EXT4_XATTR_ENTRY.unpack(raw, at)
        yield entry
        at += 16 + (entry.e_name_len + 3 & ~3)


def _of_block(raw: bytes) -> dict[tuple[int, bytes], bytes]:
    found = {}
    at = EXT4_XATTR_HEADER.size
    while raw[at : at + 4] != bytes(4):
        entry = EXT4_XATTR_ENTRY.unpack(raw, at)
        name = raw[at + 16 : at + 16 + entry.e_name_len]
        found[entry.e_name_index, name] = raw[entry.e_value_offs : entry.e_value_offs + entry.e_value_size]
        at += 16 + (entry.e_name_len + 3 & ~3)
    return found


def test_inline_room():
    assert inline_room({}, 96) == 96 - 4 - 4 - 20
    assert inline_room({}, 0) == -1
    assert inline_room({(9, b"c"): bytes(40)}, 96) == 96 - 4 - 4 - 20 - 20 - 40


@pytest.mark.parametrize(
    ("time_ns", "expected"),
    # Documentation/filesystems/ext4/inodes.rst, "Inode Timestamps": the table of extra epoch bits.
    [
        (-0x80000000 * BILLION, (-0x80000000, 0)),
        (-1 * BILLION, (-1, 0)),
        (0, (0, 0)),
        (0x7FFFFFFF * BILLION, (0x7FFFFFFF, 0)),
        (0x80000000 * BILLION, (-0x80000000, 1)),
        (0xFFFFFFFF * BILLION, (-1, 1)),
        (0x100000000 * BILLION, (0, 1)),
        (0x17FFFFFFF * BILLION, (0x7FFFFFFF, 1)),
        (0x180000000 * BILLION, (-0x80000000, 2)),
        (0x27FFFFFFF * BILLION, (0x7FFFFFFF, 2)),
        (0x280000000 * BILLION, (-0x80000000, 3)),
        (0x37FFFFFFF * BILLION, (0x7FFFFFFF, 3)),
        (5 * BILLION + 999_999_999, (5, 999_999_999 << 2)),
        (-1, (-1, 999_999_999 << 2)),
        # Beyond the last second, but within the 30 bits of its nanoseconds.
        (0x380000000 * BILLION, (0x7FFFFFFF, BILLION << 2 | 3)),
        (LAST_TIME_NS, (0x7FFFFFFF, 0xFFFFFFFF)),
    ],
)
def test_times(time_ns: int, expected: tuple[int, int]):
    assert encode_time(time_ns) == expected


@pytest.mark.parametrize("time_ns", [-0x80000000 * BILLION - 1, LAST_TIME_NS + 1, 0x380000001 * BILLION])
def test_times_out_of_range(time_ns: int):
    with pytest.raises(ValueError, match="seconds since 1970"):
        encode_time(time_ns)


def test_times_up_to_2446_and_devices_by_debugfs(tmp_path: Path):
    last = 0x37FFFFFFF * BILLION + 999_999_999
    nodes = [ROOT, Node((b"f",), FILE, mtime_ns=last, atime_ns=-1, crtime_ns=1), Node((b"old",), 0o060600, rdev=(8, 1))]
    nodes.append(Node((b"new",), 0o020600, rdev=(4095, 0xFFFFF)))
    build(tmp_path / "i", nodes, Options(created_s=CREATED_S))
    text = debugfs(tmp_path / "i", "stat /f", "stat /old", "stat /new")
    assert "mtime: 0x7fffffff:ee6b27ff" in text
    assert "atime: 0xffffffff:ee6b27fc" in text
    assert "Device major/minor number: 08:01" in text
    assert "Device major/minor number: 4095:1048575" in text


def test_device_area():
    """Kernel: old_encode_dev and new_encode_dev (include/linux/kdev_t.h)."""
    assert device_i_block(8, 1) == (0x801).to_bytes(4, "little")
    assert device_i_block(8, 256) == bytes(4) + (0x100800).to_bytes(4, "little")
    assert device_i_block(259, 3) == bytes(4) + (0x10303).to_bytes(4, "little")
    with pytest.raises(ValueError, match="out of range"):
        device_i_block(4096, 0)


@pytest.mark.kernel
def test_acls_and_capabilities(tmp_path: Path):
    """POSIX ACLs in user space form (acl(5): version 2, tags and permissions) come back as they went in."""
    acl = bytes.fromhex("0200000001000700ffffffff02000600e803000004000500ffffffff10000700ffffffff20000400ffffffff")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    given = {"system.posix_acl_access": acl, "security.capability": capability, "user.x": b"y"}
    stored = dict(stored_xattr(name, value) for name, value in given.items())
    default = dict([stored_xattr("system.posix_acl_default", acl)])
    nodes = [ROOT, Node((b"f",), 0o100674, xattrs=stored), Node((b"d",), 0o040755, xattrs=default)]
    build(tmp_path / "i", nodes, Options(created_s=CREATED_S))
    assert_clean(tmp_path / "i")
    with loop_mounted(tmp_path / "i") as mount:
        path = os.path.join(mount, "f")
        assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == given
        assert os.getxattr(os.path.join(mount, "d"), "system.posix_acl_default") == acl


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("os2.x", b""),
        ("system.posix_acl_access", b"\x02\0\0\0\x01\0"),
        ("system.posix_acl_access", b"\x01\0\0\0"),
        ("system.posix_acl_access", bytes.fromhex("0200000003000700ffffffff")),
    ],
)
def test_attributes_that_are_none(name: str, value: bytes):
    with pytest.raises(BuildError, match=name):
        stored_xattr(name, value)


def test_projects_and_generations(tmp_path: Path):
    nodes = [ROOT, Node((b"f",), FILE, project_id=77, generation=0xDEADBEEF, flags=0x20000000 | 0x00080000)]
    made = build(tmp_path / "i", nodes, Options(created_s=CREATED_S))
    assert "project" in made.features.names
    assert_clean(tmp_path / "i")
    with ext4img.open(tmp_path / "i") as fs:
        inode = fs.path("/f").inode
        assert (inode.project_id, inode.generation) == (77, 0xDEADBEEF)
