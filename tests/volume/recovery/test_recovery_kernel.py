"""The running kernel as judge: it changes a file system, stops, recovers a copy; so do we, in memory."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ext4img.sources import open_source
from ext4img.volume.volume import Volume
from tools.loop_mount import loop_mounted, replay_journal, run, sync_mount

pytestmark = pytest.mark.kernel

FORMATS = {
    "1k": "-b 1024",
    "4k": "-b 4096",
    "no-checksums": "-b 1024 -O ^metadata_csum",
    "no-index": "-b 2048 -O ^dir_index",
    "128-byte-inodes": "-b 1024 -I 128",
    "inline": "-b 4096 -O inline_data",
    "inline-512": "-b 1024 -I 512 -O inline_data",
    "bigalloc": "-b 4096 -C 16384 -O bigalloc",
    "old-groups": "-b 1024 -O ^flex_bg,^64bit",
}


def sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def prepare(mount: str, chance: random.Random) -> None:
    for number in range(3):
        os.mkdir(f"{mount}/dir{number}")
        for file in range(chance.choice([0, 2, 30, 120])):
            Path(f"{mount}/dir{number}/before-{file:04d}").write_bytes(b"b" * chance.choice([0, 10, 3000, 9000]))
    Path(f"{mount}/anchor").write_bytes(b"x")
    os.setxattr(f"{mount}/anchor", "user.large", b"v" * 300)
    Path(f"{mount}/big").write_bytes(b"b" * 300_000)


def work(mount: str, chance: random.Random, steps: int) -> None:
    """What fast commits can tell: regular files made, written, cut, linked, renamed, removed, punched."""
    directories = [f"{mount}/dir{number}" for number in range(3)]
    live = [f"{directory}/{name}" for directory in directories for name in sorted(os.listdir(directory))]
    for step in range(steps):
        new = f"{chance.choice(directories)}/{step}-{'n' * chance.randrange(70)}"
        kind = chance.random()
        if kind < 0.45 or len(live) < 4:
            Path(new).write_bytes(chance.randbytes(chance.choice([0, 20, 100, 5000, 20_000])))
            live.append(new)
        elif kind < 0.55:
            os.unlink(live.pop(chance.randrange(len(live))))
        elif kind < 0.65:
            os.link(chance.choice(live), new)
            live.append(new)
        elif kind < 0.75:
            at = chance.randrange(len(live))
            os.rename(live[at], new)
            live[at] = new
        elif kind < 0.8:
            moved, replaced = chance.sample(live, 2)
            os.rename(moved, replaced)
            live.remove(moved)
        elif kind < 0.87:
            os.truncate(chance.choice(live), chance.choice([0, 1, 100, 4096, 70_000]))
        else:
            with open(chance.choice([*live, f"{mount}/big"]), "r+b") as file:
                file.seek(chance.randrange(200_000))
                file.write(chance.randbytes(chance.randrange(1, 9000)))
                if kind > 0.96:
                    os.posix_fallocate(file.fileno(), chance.randrange(100_000), chance.randrange(1, 50_000))
        if chance.random() < 0.15:
            sync(chance.choice([*live, f"{mount}/anchor"]))
    with open(f"{mount}/anchor", "r+b") as file:
        file.write(b"q")
        file.flush()
        os.fsync(file.fileno())


def seen(image: Path) -> tuple[Volume, dict[bytes, dict[str, Any]]]:
    """Everything of every file but times and where on the disk it is, by path; strictly checked."""
    volume = Volume(open_source(image))
    found: dict[bytes, dict[str, Any]] = {}
    waiting = [(b"/", 2)]
    while waiting:
        path, number = waiting.pop()
        inode = volume.inode(number)
        about = {
            name: getattr(inode, name)
            for name in ("number", "mode", "uid", "gid", "size", "links", "sectors", "flags", "generation", "crtime_ns")
        }
        about["xattrs"] = volume.xattrs(inode)
        if inode.is_dir:
            entries = volume.directory(inode)
            about["entries"] = entries
            for entry in entries:
                assert volume.lookup(inode, entry.name) == entry
                waiting.append((path.rstrip(b"/") + b"/" + entry.name, entry.inode))
        elif inode.is_file:
            about["contents"] = volume.contents(inode).read(0, inode.size)
            about["mapped"] = [(run.lblk, run.pblk, run.length, run.state) for run in volume.runs(inode)]
        found[path] = about
    assert not volume.problems
    return volume, found


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_fast_commits(tmp_path, form, seed):
    image, stopped, recovered = tmp_path / "image", tmp_path / "stopped", tmp_path / "recovered"
    chance = random.Random(f"{form} {seed}")
    options = [*form.replace("-O ", "-O fast_commit,").split()]
    if "-O" not in options:
        options += ["-O", "fast_commit"]
    try:
        options += ["-J", "size=4,fast_commit_size=256", "-N", "512"]
        run("mke2fs", "-q", "-F", "-t", "ext4", *options, image, "32M")
        with loop_mounted(image, "rw,noatime,commit=300") as mount:
            prepare(mount, chance)
            sync_mount(mount)
            work(mount, chance, 120)
            shutil.copyfile(image, stopped)
        shutil.copyfile(stopped, recovered)
        replay_journal(recovered)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this kernel or mke2fs cannot: {error.stderr.decode(errors='replace').strip()}")
    ours, by_us = seen(stopped)
    _, by_kernel = seen(recovered)
    assert ours.recovery is not None
    assert ours.recovery.replay is not None
    assert sorted(by_us) == sorted(by_kernel)
    for path, about in by_kernel.items():
        assert by_us[path] == about, path
    assert {inode.number for inode in ours.inodes.scan()} >= {about["number"] for about in by_kernel.values()}


@pytest.mark.parametrize("block_size", [1024, 4096])
def test_external_journal(tmp_path, block_size):
    """The journal is copied before its device is attached again, so losetup does the attaching."""
    image, journal = tmp_path / "image", tmp_path / "journal"
    with journal.open("wb") as file:
        file.truncate(8 << 20)
    device = run("losetup", "-f", "--show", journal).decode().strip()
    try:
        run("mke2fs", "-q", "-F", "-O", "journal_dev", "-b", str(block_size), device)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(block_size), "-J", f"device={device}", image, "16M")
        with loop_mounted(image, "rw,noatime,commit=300") as mount:
            for number in range(20):
                os.mkdir(f"{mount}/d{number}")
                Path(f"{mount}/d{number}/file").write_bytes(b"x" * number * 100)
            sync(f"{mount}/d19/file")
            sync(mount)
            shutil.copyfile(image, tmp_path / "stopped")
            shutil.copyfile(journal, tmp_path / "stopped-journal")
    finally:
        run("losetup", "-d", device)
    volume = Volume(open_source(tmp_path / "stopped"), journal_device=open_source(tmp_path / "stopped-journal"))
    assert volume.recovery is not None
    assert volume.recovery.journal_is_external
    names = {entry.name for entry in volume.directory(volume.inode(2))}
    assert names == {b"lost+found"} | {b"d%d" % number for number in range(20)}
