"""The names that a caller sees: as stored, decrypted, or in the kernel's no-key form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ext4img.crypto.dirhash import UNSIGNED, dirhashes
from ext4img.crypto.names import nokey_name
from ext4img.errors import CorruptionError, Place
from ext4img.structs.directory import DX_HASH_SIPHASH, DX_HASH_TEA, EXT4_DIR_ENTRY_HASH
from ext4img.structs.inode import (
    EXT4_CASEFOLD_FL,
    EXT4_INDEX_FL,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFREG,
    S_IFSOCK,
)
from ext4img.volume.directory import DirEntry
from ext4img.volume.features import Compat
from ext4img.volume.inode import Inode
from ext4img.volume.listing import Listing
from ext4img.volume.problems import Problems
from ext4img.volume.volume import Volume

# The upper four bits of a mode that says what kind of file it is.
IN_USE = frozenset(kind >> 12 for kind in (S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK))
_IMPOSSIBLE = frozenset((b"", b".", b".."))


class NamedEntry(NamedTuple):
    """A directory entry and the name that is shown for it."""

    name: bytes
    entry: DirEntry


def not_in_use(text: str, directory: int, inode: Inode) -> CorruptionError:
    """A name for an inode without links or type: the kernel answers with ESTALE or EFSCORRUPTED."""
    what = f"which is not in use (mode {inode.mode:#o}, {inode.links} links)"
    place = Place(inode=directory, record="ext4_dir_entry_2", field="inode")
    return CorruptionError(f"{text!r} names inode {inode.number}, {what}", place)


def shown_names(
    names: list[bytes], listing: Listing, directory: int, problems: Problems, prefix: str = ""
) -> tuple[list[str], Listing]:
    """The names as str (utf-8, surrogateescape), without those that no kernel lets through.

    Each is put after `prefix`, which is empty or ends with "/".
    """
    if not names:
        return [], listing
    # One decode and three searches for a whole directory; no name holds a NUL.
    before = prefix.encode("utf-8", "surrogateescape")
    joined = (b"\0" + before).join(names)
    texts = (prefix + joined.decode("utf-8", "surrogateescape")).split("\0")
    slashes = (len(names) - 1) * before.count(b"/")
    # Names as stored were looked at when their block was.
    is_known = names is listing.names or not _IMPOSSIBLE.intersection(names)
    if is_known and len(texts) == len(names) and joined.count(b"/") == slashes:
        return texts, listing
    sound = []
    for position, name in enumerate(names):
        if name in _IMPOSSIBLE or b"/" in name or b"\0" in name:
            place = Place(inode=directory, record="ext4_dir_entry_2")
            problems.found(CorruptionError(f"directory entry has the impossible name {name!r}", place))
        else:
            sound.append(position)
    texts = [prefix + names[position].decode("utf-8", "surrogateescape") for position in sound]
    return texts, listing.only(sound)


def nokey_hashes(volume: Volume, directory: Inode, entries: Iterable[DirEntry]) -> list[tuple[int, int]]:
    """The two words that begin each entry's no-key name.

    The hash by which the kernel reads the directory, where it reads it as a hashed one: dir_index
    is on, and it has an index, exactly one block, or inline data (kernel: is_dx_dir). With casefold
    it is the one stored after the name. Else 0, 0.
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


def nokey_names(volume: Volume, directory: Inode, entries: list[DirEntry]) -> tuple[list[bytes], list[DirEntry]]:
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
