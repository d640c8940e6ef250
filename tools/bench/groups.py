"""Who does which work: for each table its title, and a command for each row, peers first.

The first row is the one that the others are compared with.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.bench.images import KEY
from tools.bench.workloads import LOOKUPS
from tools.loop_mount import run

Row = tuple[str, list[str]]


class Group(NamedTuple):
    """One table."""

    title: str
    rows: list[Row]


def workload(name: str, reader: str, image: str | Path) -> list[str]:
    """The command of one of `tools.bench.workloads`."""
    return [sys.executable, "-m", "tools.bench.workloads", name, reader, str(image)]


def shell(command: str) -> list[str]:
    """A command that needs a shell, and fails with any part of its pipes."""
    return ["bash", "-o", "pipefail", "-c", command]


class Scene:
    """The images, where they are mounted, and the files beside them that some commands read."""

    def __init__(self, directory: Path, mounts: dict[str, str]) -> None:
        self.directory = directory
        self.mounts = mounts
        self.many, self.extents, self.secret, self.users = (
            str(directory / f"{name}.img") for name in ("many", "extents", "secret", "users")
        )
        self.ext4img = str(Path(sys.executable).with_name("ext4img"))
        self.out = str(directory / "out")
        self.key = str(directory / "bench.key")
        self.lookups = str(directory / "lookups.debugfs")
        self.listing = str(directory / "listing.debugfs")

    def prepare(self) -> None:
        """Write the files that some commands read. What is looked up is the kernel's word."""
        root = self.mounts["many"]
        paths = run("find", root, "-mindepth", "1", "-printf", "/%P\n").decode().splitlines()
        directories = run("find", root, "-type", "d", "-printf", "/%P\n").decode().splitlines()
        sample = random.Random(1).sample(paths, min(LOOKUPS, len(paths)))
        (self.directory / "many.sample").write_text("".join(f"{path}\n" for path in sample))
        Path(self.lookups).write_text("".join(f'imap "{path}"\n' for path in sample))
        Path(self.listing).write_text("".join(f'ls -p "{path}"\n' for path in directories))
        Path(self.key).write_bytes(KEY)

    def left(self) -> list[Path]:
        """What a run leaves behind and nobody needs."""
        return [Path(self.key), Path(self.lookups), Path(self.listing), self.directory / "many.sample"]

    def fresh(self, command: str, out: str = "") -> list[str]:
        """A command that writes `out`, or `self.out`, anew at each run."""
        out = out or self.out
        return shell(f"rm -rf {out}; {command}; status=$?; rm -rf {out}; exit $status")

    def groups(self) -> Iterator[Group]:
        """All tables."""
        yield from self._listing()
        yield from self._reading()
        yield from self._crypto()
        yield from self._backup()
        yield from self._restore()
        yield self._rebuild()

    def _listing(self) -> Iterator[Group]:
        many, tool = self.many, self.ext4img
        yield Group(
            "open, print the superblock", [("fsstat", ["fsstat", many]), ("ext4img info", [tool, "info", many])]
        )
        rows = [
            ("fls -rp", ["fls", "-rp", many]),
            ("debugfs, `ls -p` of each directory", ["debugfs", "-f", self.listing, many]),
            ("kernel find, loop mount", ["find", self.mounts["many"]]),
            ("ext4img, library", workload("paths", "ext4img", many)),
            ("ext4img find", [tool, "find", many]),
        ]
        yield Group("list every path of 202,022", rows)
        rows = [
            ("pytsk3, no xattrs", workload("attributes", "pytsk3", many)),
            ("libfsext, no xattrs", workload("attributes", "libfsext", many)),
            ("dissect.extfs, no xattrs", workload("attributes", "dissect.extfs", many)),
            (
                "kernel find with times, loop mount, no xattrs",
                ["find", self.mounts["many"], "-printf", "%p %i %T@ %C@\n"],
            ),
            ("ext4img with xattrs, verified", workload("attributes", "ext4img", many)),
        ]
        yield Group("list with all attributes", rows)
        rows = [
            ("ils -e", ["ils", "-e", many]),
            ("ext4img, an object each", workload("scan", "ext4img", many)),
            ("ext4img, columns", workload("columns", "ext4img", many)),
        ]
        yield Group("scan the inode table, 202,024 in use", rows)

    def _reading(self) -> Iterator[Group]:
        many, extents = self.many, self.extents
        rows = [
            ("debugfs imap", ["debugfs", "-f", self.lookups, many]),
            ("pytsk3, 1,000 of them", workload("lookups", "pytsk3", many)),
            ("libfsext, 2,000 of them", workload("lookups", "libfsext", many)),
            ("ext4img", workload("lookups", "ext4img", many)),
        ]
        yield Group("20,000 path look-ups", rows)
        rows = [(who, workload("random reads", who, extents)) for who in ("pytsk3", "libfsext", "ext4img")]
        yield Group("20,000 random reads of 4 KiB, file of 20,000 extents", rows)
        rows = [
            ("ext4img, few extents", workload("few extents", "ext4img", extents)),
            ("ext4img, 20,000 extents and as many holes", workload("20,000 extents", "ext4img", extents)),
        ]
        yield Group("read a whole file", rows)
        rows = [
            ("cat IMAGE", shell(f"cat {many} | cat >/dev/null")),
            ("debugfs rdump", self.fresh(f"mkdir {self.out}; debugfs -R 'rdump / {self.out}' {many}")),
            ("libfsext", workload("read all", "libfsext", many)),
            ("kernel, loop mount", workload("read all", "kernel", self.mounts["many"])),
            ("ext4img", workload("read all", "ext4img", many)),
        ]
        yield Group("read every file: 200,000 files, 966 MB", rows)

    def _crypto(self) -> Iterator[Group]:
        rows = [
            ("openssl speed", shell("openssl speed -evp aes-256-xts -bytes 4096 -seconds 2 2>/dev/null | tail -1")),
            ("one context per unit", workload("decrypt", "one context per unit", self.secret)),
            ("kernel, loop mount", workload("decrypt", "kernel", self.mounts["secret"])),
            ("ext4img", workload("decrypt", "ext4img", self.secret)),
        ]
        yield Group("decrypt AES-256-XTS, 512 MiB", rows)
        yield Group("decrypt names in their directories", [("ext4img", workload("names", "ext4img", self.secret))])
        contents = ("AES-256-XTS", "AES-128-CBC-ESSIV", "Adiantum", "SM4-XTS")
        rows = [(name, workload("contents", name, "-")) for name in contents]
        yield Group("ciphers alone: 256 MiB of contents, 4 KiB units, 1 MiB a call", rows)
        names = ("AES-256-CTS", "AES-128-CTS", "AES-256-HCTR2", "Adiantum", "SM4-CTS")
        yield Group("ciphers alone: 50,000 names", [(name, workload("names", name, "-")) for name in names])

    def _backup(self) -> Iterator[Group]:
        tool, out = self.ext4img, self.out
        for name, image, what in (
            ("users", self.users, "1.5 GiB, encrypted: 20,000 files and 4 large ones"),
            ("many", self.many, "1.7 GiB, plain: 200,000 small files"),
        ):
            mount = self.mounts[name]
            rows = [
                ("cp IMAGE", self.fresh(f"cp --sparse=never {image} {out}")),
                ("cp IMAGE, on the disk as a backup is", self.fresh(f"cp --sparse=never {image} {out}; sync {out}")),
                ("tar of the mounted plaintext", self.fresh(f"tar --xattrs -C {mount} -cf {out} .")),
                ("debugfs rdump", self.fresh(f"mkdir {out}; debugfs -R 'rdump / {out}' {image}")),
                ("ext4img backup, no key", self.fresh(f"{tool} backup {image} {out}")),
            ]
            yield Group(f"backup to a file: {what}", rows)
            rows = [
                ("dd, zstd", shell(f"dd if={image} bs=1M status=none | zstd -q -c | cat >/dev/null")),
                ("tar of the mounted plaintext", shell(f"tar --xattrs -C {mount} -cf - . | cat >/dev/null")),
                ("ext4img backup, no key", shell(f"{tool} backup {image} - | cat >/dev/null")),
            ]
            yield Group(f"backup to a pipe: {what}", rows)

    def _restore(self) -> Iterator[Group]:
        # Into memory where there is enough: what a disk's file system takes to make a file is another matter.
        memory = Path("/dev/shm")
        scratch = memory if memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30 else self.directory
        tool, out = self.ext4img, str(scratch / "ext4img-bench-out")
        for name, what in (
            ("users", "with the key, 20,000 files and 4 large ones"),
            ("many", "200,000 small plain files"),
        ):
            plain, archive = self.directory / f"{name}.plain.tar", self.directory / f"{name}.backup.tar"
            key = f"--key-file {self.key}" if name == "users" else ""
            rows = [
                ("tar x of the plaintext", self.fresh(f"mkdir {out}; tar --xattrs -C {out} -xf {plain}", out)),
                (
                    "ext4img restore" + " with the key" * bool(key),
                    self.fresh(f"{tool} restore {archive} {out} {key}", out),
                ),
                ("ext4img verify", [tool, "verify", str(archive)]),
                ("ext4img list", [tool, "list", str(archive)]),
            ]
            yield Group(f"restore: {what}", rows)

    def archives(self) -> Iterator[tuple[Path, list[str]]]:
        """The archives that `restore` and `rebuild` read, and the commands that make them."""
        for name in ("users", "many"):
            plain, archive = self.directory / f"{name}.plain.tar", self.directory / f"{name}.backup.tar"
            yield plain, ["tar", "--xattrs", "-C", self.mounts[name], "-cf", str(plain), "."]
            yield archive, [self.ext4img, "backup", "--overwrite", str(self.directory / f"{name}.img"), str(archive)]

    def _rebuild(self) -> Group:
        tool, out, archive = self.ext4img, f"{self.directory}/rebuilt.img", self.directory / "many.backup.tar"
        mke2fs = f"rm -f {out}; mke2fs -qF -t ext4 -N 224000 -d {self.mounts['many']} {out} 1700M"
        rows = [
            ("mke2fs -d of the mounted tree", shell(mke2fs)),
            ("ext4img restore --image", [tool, "restore", "--overwrite", str(archive), "--image", out]),
            ("ext4img copy", [tool, "copy", "--overwrite", self.many, out]),
            ("(e2fsck -fn of that)", shell(f"e2fsck -fn {out} | tail -n 1")),
        ]
        return Group("rebuild an image of 200,000 files, 1.5 GiB", rows)
