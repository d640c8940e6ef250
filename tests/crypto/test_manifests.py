"""Names, targets and contents against what the kernel shows, at the level of bytes and keys.

Of the images only stored bytes are taken (by `Volume`); paths, contexts, stored names and digests
come from the manifests of tests/fixtures and of $EXT4IMG_CORPUS.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from ext4img.crypto.keyring import Keyring
from ext4img.crypto.policy import EncryptionContext, build_context, parse_context
from ext4img.names.dirhash import UNSIGNED, dirhash, dirhashes, siphash_dirhash
from ext4img.names.nokey import nokey_name, nokey_target, parse_nokey_name
from ext4img.sources import FileSource
from ext4img.structs.inode import EXT4_CASEFOLD_FL
from ext4img.volume.runs import WRITTEN
from ext4img.volume.volume import Volume
from tests.conftest import UnpackedImage
from tests.manifest import Entry, disk_bytes


class Judge:
    """One image: its manifest, its keys and its stored bytes."""

    def __init__(self, image: UnpackedImage, volume: Volume) -> None:
        self.volume = volume
        self.head: dict[str, Any] = image.manifest.head
        self.entries: list[Entry] = image.manifest.entries
        self.by_path = {entry["path"]: entry for entry in self.entries}
        self.uuid = bytes.fromhex(self.head["uuid"].replace("-", ""))
        self.block_size: int = self.head["block_size"]
        self.keyring = Keyring()
        for raw, descriptor in image.manifest.keys:
            self.keyring.add(raw, descriptor)

    def context(self, entry: Entry) -> EncryptionContext:
        return parse_context(bytes.fromhex(entry["context"]))

    def directories(self) -> Iterator[tuple[Entry, list[Entry]]]:
        """Encrypted directories, each with its entries."""
        children: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            if "name_ct" in entry:
                children[posixpath.dirname(entry["path"])].append(entry)
        for path, entries in children.items():
            yield self.by_path[path], entries


@pytest.fixture(scope="module")
def judge(image: UnpackedImage) -> Iterator[Judge]:
    if not image.manifest.head["keys"]:
        pytest.skip("nothing is encrypted")
    source = FileSource(image.path)
    try:
        yield Judge(image, Volume(source))
    finally:
        source.close()


def test_contexts(judge: Judge):
    found = 0
    for entry in judge.entries:
        if entry.get("context"):
            context = judge.context(entry)
            assert build_context(context.policy, context.nonce) == context.raw
            assert judge.keyring.has(context.policy)
            found += 1
    assert found
    for key in judge.head["keys"]:
        master = Keyring().add(bytes.fromhex(key["hex"]))
        if key["version"] == 2:
            assert master.identifier.hex() == key["identifier"]


def test_names(judge: Judge):
    for directory, entries in judge.directories():
        context = judge.context(directory)
        cipher = judge.keyring.names_cipher(context, directory["ino"], judge.uuid)
        assert cipher is not None
        names = [disk_bytes(posixpath.basename(entry["path"])) for entry in entries]
        stored = [bytes.fromhex(entry["name_ct"]) for entry in entries]
        assert cipher.decrypt(stored) == names
        assert cipher.encrypt(names) == stored


def test_nokey_names(judge: Judge):
    superblock = judge.volume.superblock
    version = superblock.hash_version + (UNSIGNED if superblock.hash_unsigned else 0)
    seed = superblock.hash_seed
    for directory, entries in judge.directories():
        stored = [bytes.fromhex(entry["name_ct"]) for entry in entries]
        shown = [disk_bytes(posixpath.basename(entry["nokey_path"])) for entry in entries]
        parsed = [parse_nokey_name(name) for name in shown]
        assert all(name and name.matches(text) for name, text in zip(parsed, stored, strict=True))
        if directory["flags"] & EXT4_CASEFOLD_FL:
            key = judge.keyring.dirhash_key(judge.context(directory))
            assert key is not None
            hashes = [(name.major, name.minor) for name in parsed if name]
            for entry, hashed in zip(entries, hashes, strict=True):
                name = disk_bytes(posixpath.basename(entry["path"]))
                if name.isascii():  # what is beyond ASCII needs Unicode's tables to be folded
                    assert siphash_dirhash(key, name.lower()) == hashed
        elif all(name and (name.major, name.minor) == (0, 0) for name in parsed):
            hashes = [(0, 0)] * len(stored)  # the directory is not read as a hashed one
        else:
            hashes = dirhashes(stored, version, seed)
            assert hashes[0] == dirhash(stored[0], version, seed)
        assert [nokey_name(text, *hashed) for text, hashed in zip(stored, hashes, strict=True)] == shown


def test_symlink_targets(judge: Judge):
    for entry in judge.entries:
        if entry["type"] != "symlink" or not entry["encrypted"]:
            continue
        stored = judge.volume.symlink_target_stored(judge.volume.inode(entry["ino"]))
        cipher = judge.keyring.names_cipher(judge.context(entry), entry["ino"], judge.uuid)
        assert cipher is not None
        target = disk_bytes(entry["target"])
        assert cipher.decrypt([stored[2:]]) == [target]
        assert cipher.encrypt([target], max_length=judge.block_size - 3) == [stored[2:]]
        if "nokey_target" in entry:
            assert nokey_target(stored) == disk_bytes(entry["nokey_target"])


def test_contents(judge: Judge):
    read = judge.volume.blocks.read
    for entry in judge.entries:
        if entry["type"] != "file" or not entry["encrypted"] or not entry["sha256"] or entry["size"] > 1 << 26:
            continue
        inode = judge.volume.inode(entry["ino"])
        if inode.has_inline_data:
            continue
        cipher = judge.keyring.contents_cipher(judge.context(entry), inode.number, judge.uuid, judge.block_size)
        assert cipher is not None
        plaintext = bytearray(-(-entry["size"] // judge.block_size) * judge.block_size)
        per_block = judge.block_size // cipher.data_unit_size
        for lblk, pblk, count, state in judge.volume.runs(inode):
            at = lblk * judge.block_size
            if state == WRITTEN and at < len(plaintext):
                data = cipher.decrypt(read(pblk, count), lblk * per_block)
                plaintext[at : at + len(data)] = data[: len(plaintext) - at]
        if not judge.head["dirty"]:  # a truncate may have zeroed the rest in memory only
            assert not any(plaintext[entry["size"] :])
        assert hashlib.sha256(plaintext[: entry["size"]]).hexdigest() == entry["sha256"], entry["path"]
