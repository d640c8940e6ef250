"""The names of an encrypted directory as the kernel shows them without the key."""

from __future__ import annotations

from collections.abc import Iterable

from ext4img.errors import CorruptionError, Place
from ext4img.names.dirhash import UNSIGNED, dirhashes
from ext4img.names.nokey import nokey_name
from ext4img.structs.directory import DX_HASH_SIPHASH, DX_HASH_TEA, EXT4_DIR_ENTRY_HASH
from ext4img.structs.inode import EXT4_CASEFOLD_FL, EXT4_INDEX_FL
from ext4img.volume.dir_entry import DirEntry
from ext4img.volume.features import Compat
from ext4img.volume.inode import StoredInode
from ext4img.volume.volume import Volume


def nokey_hashes(volume: Volume, directory: StoredInode, entries: Iterable[DirEntry]) -> list[tuple[int, int]]:
    """The hashes at the start of each entry's no-key name: two words.

    If the kernel reads the directory by hash, the words are that hash: dir_index is on, and the
    directory has an index, exactly one block, or inline data (kernel: is_dx_dir). With casefold the
    hash is stored after the name. Otherwise 0, 0.
    """
    entries = list(entries)
    unhashed = [(0, 0)] * len(entries)
    if Compat.DIR_INDEX not in volume.features:
        return unhashed
    superblock = volume.superblock
    version = superblock.hash_version
    if superblock.hash_unsigned and version <= DX_HASH_TEA:
        version += UNSIGNED
    if directory.flags & EXT4_INDEX_FL:
        tree = volume.index(directory)
        if tree is None:
            if not directory.has_inline_data:
                return unhashed
        else:
            version = tree.hash_version
    elif directory.size // superblock.block_size != 1 and not directory.has_inline_data:
        return unhashed
    if directory.flags & EXT4_CASEFOLD_FL:
        unpack = EXT4_DIR_ENTRY_HASH.unpack_tuple
        return [unpack(entry.hash) if entry.hash else (0, 0) for entry in entries]
    if version == DX_HASH_SIPHASH:
        return unhashed
    if version > DX_HASH_TEA + UNSIGNED:
        volume.problems.note(f"unknown directory hash version {version}", Place(record="ext4_super_block"))
        return unhashed
    return dirhashes([entry.name for entry in entries], version, superblock.hash_seed)


def nokey_names(volume: Volume, directory: StoredInode, entries: list[DirEntry]) -> tuple[list[bytes], list[DirEntry]]:
    """The names of an encrypted directory as the kernel shows them without the key."""
    names, sound = [], []
    hashes = nokey_hashes(volume, directory, entries)
    for entry, (major, minor) in zip(entries, hashes, strict=True):
        try:
            names.append(nokey_name(entry.name, major, minor))
        except CorruptionError as error:
            place = Place(inode=directory.number, record="ext4_dir_entry_2", field="name_len")
            volume.problems.found(CorruptionError(error.reason, place))
        else:
            sound.append(entry)
    return names, sound
