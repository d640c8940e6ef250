"""Make the images of tests/fixtures with mkfs and the running kernel, and their manifests.

    python -m tools.make_fixtures [NAME ...]

Needs root and a kernel with ext4 encryption. UUIDs, hash seeds, keys and contents are fixed; nonces,
generations and the clock are the kernel's, so a new image differs from the old one, together with
its manifest. Images are packed with xz, which the standard library can unpack.
"""

from __future__ import annotations

import argparse
import lzma
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools import debugfs_view, fixture_encrypted, fixture_plain, fixture_unlock, kernel_ioctl, kernel_view
from tools.fixture_tree import Tree
from tools.kernel_view import Key
from tools.loop_mount import loop_mounted, run

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
MADE_AT = "1750000000"  # what mke2fs and debugfs take for the time


@dataclass(frozen=True)
class Recipe:
    """One fixture: how to make the file system, what to put into it, what to do to it afterwards."""

    name: str
    exercises: str
    size: str
    mkfs: str
    fill: Callable[[Tree], None]
    keys: dict[str, Key] = field(default_factory=dict)
    mount_options: str = "rw,noatime"
    before: list[list[str]] = field(default_factory=list)  # commands on the image, before it is mounted
    debugfs: list[str] = field(default_factory=list)  # requests on the image, after it was filled
    stops_dirty: Callable[[Tree], None] | None = None  # done last, found only in the journal
    passphrases: Callable[[], list[dict[str, str]]] = list  # what opens the policies, for the manifest
    kernel_mounts: bool = True  # otherwise mke2fs -d fills it and debugfs is the judge


RECIPES = [
    Recipe(
        "sample-encrypted",
        "v2 and v1 policies with AES-256-XTS and AES-256-CTS beside plain files; the demonstration's image",
        "12M",
        "-t ext4 -b 4096 -N 512 -O encrypt -J size=4 -L sample",
        fixture_encrypted.sample,
        {"alice": fixture_encrypted.ALICE, "bob": fixture_encrypted.BOB},
    ),
    Recipe(
        "encrypted-old-layout",
        "encryption with 128-byte inodes, 1 KiB blocks, block maps, the TEA hash, without checksums",
        "4M",
        "-t ext3 -b 1024 -I 128 -N 512 -O encrypt,^resize_inode -J size=1",
        fixture_encrypted.old_layout,
        {"old-v1": fixture_encrypted.OLD_V1, "old-v2": fixture_encrypted.OLD_V2},
        before=[["tune2fs", "-E", "hash_alg=tea"]],
    ),
    Recipe(
        "encrypted-variants",
        "IV_INO_LBLK_64, IV_INO_LBLK_32, 512-byte data units, short and odd keys, one key under several policies",
        "8M",
        "-t ext4 -b 4096 -N 256 -O encrypt,stable_inodes,^has_journal",
        fixture_encrypted.variants,
        {
            "shared": fixture_encrypted.SHARED,
            "short": fixture_encrypted.SHORT,
            "odd": fixture_encrypted.LONG,
        },
    ),
    Recipe(
        "unlock-tools",
        "key metadata of fscrypt (custom and login passphrases, raw keys) and of e4crypt",
        "2M",
        "-t ext4 -b 1024 -N 128 -O encrypt,^has_journal,^resize_inode",
        fixture_unlock.fill,
        fixture_unlock.KEYS,
        before=[["debugfs", "-w", "-R", f"set_super_value encrypt_pw_salt {fixture_unlock.SUPERBLOCK_SALT}"]],
        passphrases=fixture_unlock.passphrases,
    ),
    Recipe(
        "plain-4k",
        "a default ext4: names, types, links, attributes, times, sizes, extents, flags",
        "16M",
        "-t ext4 -b 4096 -N 512 -J size=4 -L plain-4k-äöü",
        fixture_plain.plain_4k,
        debugfs=[
            # Times that no system call sets: creation and change in the epochs after 2038, and before 1970.
            "set_inode_field /times/2106 crtime_lo 0x00000005",
            "set_inode_field /times/2106 crtime_extra 0xee6b27f9",
            "set_inode_field /times/before-1970 ctime_lo 0xfffffffb",
            "set_inode_field /times/before-1970 ctime_extra 0x00000000",
        ],
    ),
    Recipe(
        "ext2-1k",
        "block maps of three levels, 128-byte inodes, a two-level hashed directory, no journal, no checksums",
        "4M",
        "-t ext2 -b 1024 -I 128 -N 256 -O ^resize_inode",
        fixture_plain.ext2_1k,
    ),
    Recipe(
        "ext4-inline",
        "inline_data and ea_inode in 256-byte inodes",
        "4M",
        "-t ext4 -b 4096 -I 256 -N 128 -O inline_data,ea_inode,^has_journal",
        fixture_plain.inline_data,
    ),
    Recipe(
        "ext4-meta-bg",
        "1 KiB blocks in many small groups, meta_bg, no flex_bg, 512-byte inodes, a checksum seed apart from the UUID",
        "12M",
        "-t ext4 -b 1024 -g 256 -I 512 -N 512 -J size=1 -O meta_bg,^resize_inode,^flex_bg,metadata_csum_seed",
        fixture_plain.odd_layout,
        before=[["tune2fs", "-U", "0c5e3c1c-7c3c-4a3e-9d6f-2f1d3c4b5a69"]],
    ),
    Recipe(
        "ext4-bigalloc",
        "bigalloc: clusters of 4 KiB over blocks of 1 KiB",
        "8M",
        "-t ext4 -b 1024 -C 4096 -N 128 -O bigalloc,^has_journal,^resize_inode",
        fixture_plain.bigalloc,
    ),
    Recipe(
        "ext4-dirty",
        "stopped while mounted: the last changes are only in the journal",
        "8M",
        "-t ext4 -b 1024 -N 128 -J size=1",
        fixture_plain.kinds,
        mount_options="rw,noatime,commit=300",
        stops_dirty=fixture_plain.journaled,
    ),
    Recipe(
        "ext4-64k",
        "blocks of 64 KiB, which mke2fs fills and the kernel here can't mount; made and judged by e2fsprogs",
        "8M",
        "-t ext4 -b 65536 -N 512 -O ^has_journal",
        fixture_plain.ext4_64k,
        kernel_mounts=False,
    ),
]


def make(recipe: Recipe, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """The image and its manifest."""
    image = scratch / f"{recipe.name}.img"
    seed = uuid.uuid5(uuid.NAMESPACE_URL, f"ext4img/{recipe.name}/hash_seed")
    extended = f"hash_seed={seed},lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0"
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"ext4img/{recipe.name}")
    options = [*recipe.mkfs.split(), "-U", str(identity), "-E", extended]
    about: dict[str, object] = {"exercises": recipe.exercises, "mkfs": options}
    if recipe.kernel_mounts:
        run("mke2fs", "-q", "-F", *options, image, recipe.size)
        for command in recipe.before:
            run(*command, image)
        image = _fill_mounted(recipe, image)
    else:
        source = scratch / "source"
        source.mkdir()
        recipe.fill(Tree(str(source)))
        run("mke2fs", "-q", "-F", *options, "-d", source, image, recipe.size)
    if recipe.before:
        about["before"] = recipe.before
    if recipe.debugfs:
        about["debugfs"] = recipe.debugfs
        run("debugfs", "-w", "-f", "-", image, stdin="\n".join([*recipe.debugfs, ""]).encode())
    if recipe.stops_dirty is None:
        run("e2fsck", "-fn", image)
        about["e2fsck"] = "clean"
    if recipe.kernel_mounts:
        manifest = kernel_view.manifest(image, recipe.keys.values(), **about)
        return image, manifest | {"passphrases": recipe.passphrases()}
    return image, debugfs_view.manifest(image, **about)


def _fill_mounted(recipe: Recipe, image: Path) -> Path:
    """Fill by the kernel; a dirty image is the copy of one that is still mounted."""
    with loop_mounted(image, recipe.mount_options) as mount:
        tree = Tree(mount)
        recipe.fill(tree)
        if recipe.stops_dirty is None:
            return image
    with loop_mounted(image, recipe.mount_options) as mount:
        recipe.stops_dirty(Tree(mount))
        with kernel_ioctl.opened(mount, os.O_RDONLY | os.O_DIRECTORY) as directory:
            os.fsync(directory)  # commits the transaction; nothing writes it to its place yet
        stopped = image.with_suffix(".stopped")
        shutil.copyfile(image, stopped)
    return stopped.replace(image)


def store(recipe: Recipe, image: Path, manifest: dict[str, Any]) -> None:
    """Write the packed image, the manifest and the keys into tests/fixtures."""
    FIXTURES.mkdir(exist_ok=True)
    base = FIXTURES / recipe.name
    packed = lzma.compress(image.read_bytes(), preset=9 | lzma.PRESET_EXTREME)
    base.with_suffix(".img.xz").write_bytes(packed)
    base.with_suffix(".json").write_text(kernel_view.dump(manifest), encoding="utf-8")
    for owner, key in recipe.keys.items():
        base.with_suffix(f".{owner}.key").write_text(key.raw.hex() + "\n", encoding="ascii")
    print(f"{recipe.name}: {len(packed)} bytes packed, {len(manifest['entries'])} entries")


def main() -> None:
    """Make the fixtures named, or all."""
    parser = argparse.ArgumentParser(description="Make the images of tests/fixtures with mkfs and the kernel.")
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names
    unknown = set(names) - {recipe.name for recipe in RECIPES}
    if unknown:
        parser.error(f"no such fixture: {', '.join(sorted(unknown))}")
    os.environ["E2FSPROGS_FAKE_TIME"] = MADE_AT
    for recipe in RECIPES:
        if names and recipe.name not in names:
            continue
        with tempfile.TemporaryDirectory(prefix="ext4img-fixture-") as scratch:
            try:
                store(recipe, *make(recipe, Path(scratch)))
            except subprocess.CalledProcessError as error:
                error.add_note(f"while making {recipe.name}; stdout: {error.stdout.decode(errors='replace')}")
                raise


if __name__ == "__main__":
    main()
