"""Inodes that the kernel refuses: strict reading refuses the same, and `check` reports them."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

import ext4img
from ext4img.volume.check import run_check
from ext4img.volume.inode_rules import max_block_map_size, max_extents_size
from tools.loop_mount import loop_mounted, run

pytestmark = pytest.mark.kernel
EXTENTS, INLINE, CASEFOLD, INDEX = 0x80000, 0x10000000, 0x40000000, 0x1000
IMMUTABLE, APPEND = 0x10, 0x20
REFUSED = (errno.EUCLEAN, errno.EBADMSG)


def make_image(path: Path, features: str, block_size: int, changes: Mapping[str, str]) -> None:
    """An image with a file, a directory and a symbolic link for each change to one of their inodes' fields."""
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(block_size), "-N", "256", "-O", features, path, "8M")
    commands = []
    for name in changes:
        kind = name.split("-")[0]
        commands.append(
            {"file": f"write /dev/null {name}", "dir": f"mkdir {name}", "link": f"symlink {name} target"}[kind]
        )
    commands += [f"set_inode_field {name} {change}" for name, change in changes.items()]
    run("debugfs", "-w", "-f", "-", path, stdin="\n".join(commands).encode())


def kernel_refuses(path: Path, names: Mapping[str, str]) -> dict[str, bool]:
    found = {}
    with loop_mounted(path, "ro") as mount:
        for name in names:
            try:
                os.lstat(os.path.join(mount, name))
            except OSError as error:
                assert error.errno in REFUSED, (name, error)
                found[name] = True
            else:
                found[name] = False
    return found


def strict_refuses(path: Path, names: Mapping[str, str]) -> dict[str, bool]:
    found = {}
    for name in names:
        with ext4img.open(path) as fs:
            try:
                fs.path(f"/{name}").lstat()
            except ext4img.CorruptionError:
                found[name] = True
            else:
                found[name] = False
    return found


def sizes(limit: int) -> dict[str, int]:
    return {"most": limit, "more": limit + 1, "far": limit + (1 << 45), "negative": 1 << 63}


@pytest.mark.parametrize(
    ("features", "block_size"),
    [
        ("^casefold", 1024),
        ("^casefold", 4096),
        ("^huge_file", 4096),
        ("^huge_file,^extent,^64bit", 1024),
        ("^dir_index", 4096),
        ("^dir_index,^metadata_csum", 4096),
        ("^ext_attr,^resize_inode", 2048),
    ],
)
def test_strict_reading_refuses_what_the_kernel_refuses(features: str, block_size: int, tmp_path: Path):
    image = tmp_path / "image"
    huge = "^huge_file" not in features
    changes = {f"file-map-{name}": f"size {size}" for name, size in sizes(max_block_map_size(block_size, huge)).items()}
    changes |= {f"file-{name}": f"size {size}" for name, size in sizes(max_extents_size(block_size, huge)).items()}
    extents = 0 if "^extent" in features else EXTENTS
    kinds = {"file": extents, "dir": extents, "link": 0}
    for kind, usual in kinds.items():
        for name, flags in (("casefold", CASEFOLD), ("index", INDEX), ("immutable", IMMUTABLE), ("append", APPEND)):
            changes[f"{kind}-{name}"] = f"flags {usual | flags:#x}"
        changes[f"{kind}-inline-extents"] = f"flags {EXTENTS | INLINE:#x}"
        changes[f"{kind}-attributes-past-end"] = "file_acl 0x7fffffff"
        changes[f"{kind}-attributes-in-superblock"] = "file_acl 1" if block_size == 1024 else "file_acl 0x100000"
        changes[f"{kind}-extra-size"] = "extra_isize 34"
    make_image(image, features, block_size, changes)
    for name in [name for name in changes if name.startswith("file-map")]:
        if "^extent" not in features:
            run("debugfs", "-w", "-R", f"set_inode_field {name} flags 0", image)
            for index in range(15):
                run("debugfs", "-w", "-R", f"set_inode_field {name} block[{index}] 0", image)
    expected = kernel_refuses(image, changes)
    assert any(expected.values())
    assert not all(expected.values())
    assert strict_refuses(image, changes) == expected
    with ext4img.open(image, checks="report") as fs:
        numbers = {entry.name.decode(): entry.inode for entry in fs.volume.directory(fs.root())}
        run_check(fs.volume)
        reported = {problem.place.inode for problem in fs.problems if not problem.remark}
    assert {name for name in changes if expected[name]} <= {name for name in changes if numbers[name] in reported}


def test_whole_tables_and_single_inodes_are_judged_alike(tmp_path: Path):
    """Scanning, arrays, and walking decode whole pieces of the table."""
    image = tmp_path / "image"
    changes = {f"file-{number}": "size 0" for number in range(40)} | {"file-large": f"size {1 << 45}"}
    make_image(image, "^casefold", 4096, changes)
    with ext4img.open(image) as fs, pytest.raises(ext4img.CorruptionError, match="i_size is 35184372088832"):
        list(fs.walk())
    with ext4img.open(image) as fs, pytest.raises(ext4img.CorruptionError, match="i_size is 35184372088832"):
        list(fs.volume.inodes.scan())
    with ext4img.open(image) as fs, pytest.raises(ext4img.CorruptionError, match="i_size is 35184372088832"):
        list(fs.volume.inodes.arrays())
    done = subprocess.run(["e2fsck", "-f", "-n", image], capture_output=True, check=False, text=True)
    assert "i_size is 35184372088832" in done.stdout


def test_symlinks_with_values_in_inodes(tmp_path: Path):
    """The kernel reads the target from the inode; e2fsck before 1.47.4 takes it for block numbers."""
    image = tmp_path / "image"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "ea_inode", image, "8M")
    with loop_mounted(image, "rw") as mount:
        os.symlink("target", os.path.join(mount, "link"))
        os.setxattr(os.path.join(mount, "link"), "trusted.large", b"v" * 5000, follow_symlinks=False)
    with loop_mounted(image, "ro") as mount:
        assert os.readlink(os.path.join(mount, "link")) == "target"
    with ext4img.open(image, checks="report") as fs:
        summary = run_check(fs.volume)
        assert fs.path("/link").readlink() == "target"
    assert (summary.problems, summary.remarks) == (0, 1)


def test_names_of_attribute_values(tmp_path: Path):
    image, value = tmp_path / "image", tmp_path / "value"
    value.write_bytes(b"v" * 5000)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "ea_inode", image, "8M")
    run("debugfs", "-w", "-f", "-", image, stdin=b"write /dev/null f\nea_set -f %s f user.large" % bytes(value))
    with ext4img.open(image) as fs:
        (number,) = (inode.number for inode in fs.volume.inodes.scan() if inode.flags & 0x200000)
    run("debugfs", "-w", "-R", f"ln <{number}> name", image)
    assert kernel_refuses(image, {"name": ""}) == strict_refuses(image, {"name": ""}) == {"name": True}
    with ext4img.open(image, checks="report") as fs:
        run_check(fs.volume)
        assert any(f"b'name' names inode {number}, which holds an attribute's value" in str(p) for p in fs.problems)
