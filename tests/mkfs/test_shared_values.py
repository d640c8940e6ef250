"""Equal attribute values are stored once, as the kernel does (ext4_xattr_inode_cache_find)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import ext4img
from ext4img.mkfs import Node, Options
from tests.mkfs.judges import assert_clean, debugfs
from tests.mkfs.samples import CREATED_S, FILE, ROOT, build
from tools.loop_mount import loop_mounted

BIG = (1, b"big")


def test_many_files_with_one_value(tmp_path: Path):
    nodes = [ROOT, *(Node((b"%04d" % number,), FILE, xattrs={BIG: b"v" * 60_000}) for number in range(1500))]
    plan = build(tmp_path / "a.img", nodes)
    assert_clean(tmp_path / "a.img")
    assert plan.size < 2 << 20
    # One ea_inode, to which two blocks refer: a block has at most 1,024 users (EXT4_XATTR_REFCOUNT_MAX).
    assert len(plan.tree.values) == 1
    assert [shared.sharers for shared in plan.tree.xattr_blocks] == [1024, 476]
    (value,) = plan.tree.values
    shown = debugfs(tmp_path / "a.img", f"stat <{plan.tree.inodes.numbers[value]}>")
    assert re.search(r"Version: 0x(00000000:)?00000002", shown)
    with ext4img.open(tmp_path / "a.img") as fs:
        assert fs.path("/1499").xattrs() == {"user.big": b"v" * 60_000}


def test_some_of_several_values(tmp_path: Path):
    values = [b"v" * 60_000, b"w" * 60_000, b"v" * 59_999, b"x" * 30_000]
    nodes = [ROOT]
    for number in range(24):
        chosen = {(1, b"n%d" % n): value for n, value in enumerate(values) if number >> n & 1}
        nodes.append(Node((b"%02d" % number,), FILE, uid=number, xattrs={**chosen, (1, b"own"): b"%d" % (number % 3)}))
    plan = build(tmp_path / "a.img", nodes, Options(created_s=CREATED_S, block_size=1024))
    assert_clean(tmp_path / "a.img")
    assert len(plan.tree.values) == len(values)
    with ext4img.open(tmp_path / "a.img") as fs:
        for node in nodes[1:]:
            found = fs.path(b"/" + node.path[0]).xattrs()
            assert found == {f"user.{name.decode()}": value for (_, name), value in node.xattrs.items()}


@pytest.mark.kernel
def test_the_kernel_goes_on_with_them(tmp_path: Path):
    """It counts references down and up again, and removes a value with its last one."""
    nodes = [ROOT, *(Node((b"%02d" % number,), FILE, xattrs={BIG: b"v" * 60_000}) for number in range(20))]
    build(tmp_path / "a.img", nodes, Options(created_s=CREATED_S, size=4 << 20))
    with loop_mounted(tmp_path / "a.img", "rw") as mount:
        os.unlink(f"{mount}/00")
        os.setxattr(f"{mount}/01", "user.big", b"w" * 50_000)
        os.setxattr(f"{mount}/02", "user.other", b"v" * 60_000)
        os.removexattr(f"{mount}/03", "user.big")
        assert os.getxattr(f"{mount}/19", "user.big") == b"v" * 60_000
    assert_clean(tmp_path / "a.img")
    with loop_mounted(tmp_path / "a.img", "rw") as mount:
        for name in os.listdir(mount):
            if name != "lost+found":
                os.unlink(f"{mount}/{name}")
    assert_clean(tmp_path / "a.img")
    with ext4img.open(tmp_path / "a.img") as fs:
        assert not fs.problems
