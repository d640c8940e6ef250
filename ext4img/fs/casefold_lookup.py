"""Finding a name in a case-insensitive directory: by the hash of its folded form, as the kernel does.

A directory's index holds the hash of the folded name; in encrypted directories each entry holds it,
too. If the hash finds nothing, all names are compared, as the kernel does since February 2025
(fs/ext4: "introduce linear search for dentries"): for some months kernels kept ignorable code points
in what they hashed. A superblock flag forbids that second search.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ext4img.errors import CorruptionError, Place
from ext4img.fs.protocol import FileTree
from ext4img.fs.shown_names import NamedEntry
from ext4img.names.casefold import fold, is_valid
from ext4img.names.dirhash import dirhash, siphash_dirhash
from ext4img.structs.directory import EXT4_DIR_ENTRY_HASH, EXT4_NAME_LEN
from ext4img.structs.fscrypt import FSCRYPT_FNAME_MIN_MSG_LEN
from ext4img.structs.superblock import EXT4_ENC_NO_COMPAT_FALLBACK_FL, EXT4_ENC_STRICT_MODE_FL, EXT4_ENC_UTF8_12_1
from ext4img.volume.dir_entry import DirEntry
from ext4img.volume.inode import StoredInode
from ext4img.volume.problems import Problems
from ext4img.volume.superblock import Superblock

if TYPE_CHECKING:
    from ext4img.crypto.codec import NamesCipher

_MAX_KEPT_NAMES = 100_000
_MAX_KEPT_BYTES = 1 << 20  # the largest directory whose names are kept: larger ones are read again
_SINGLE_LOOKUPS = 2  # the first look-ups in a directory go by hash, later ones by all its names
_MAX_COUNTED = 4096

NamesByFold = dict[bytes, list[NamedEntry]]


class CasefoldLookup:
    """Looks up names in the case-insensitive directories of one file system."""

    def __init__(self, fs: FileTree) -> None:
        self._fs = fs
        self._kept: OrderedDict[StoredInode, NamesByFold] = OrderedDict()
        self._kept_names = 0
        self._lookups: dict[int, int] = {}
        superblock = fs.volume.superblock
        self._trusts_hashes = (
            bool(superblock.encoding_flags & EXT4_ENC_NO_COMPAT_FALLBACK_FL)
            and not fs.volume.directories.doubts_indexes
        )
        self._knows_encoding = superblock.encoding == EXT4_ENC_UTF8_12_1
        if not self._knows_encoding:
            fs.problems.note(f"encoding {superblock.encoding} is not known: names are compared by their bytes alone")

    def lookup(self, directory: StoredInode, name: bytes, cipher: NamesCipher | None) -> DirEntry | None:
        """The entry of exactly this name, else the first of the same fold, else None.

        `cipher` decrypts the names of an encrypted directory.
        """
        if not self._knows_encoding:
            return next((entry for shown, entry in self._named(directory) if shown == name), None)
        folded = fold(name)
        if directory not in self._kept and (self._trusts_hashes or not self._is_busy(directory)):
            try:
                hashed = self._of_hash(directory, name, folded, cipher)
            except CorruptionError as error:
                self._fs.problems.found(error)  # if not strict, search without the index
                hashed = None
            if hashed is not None:
                found = _best(name, [named for named in hashed if named[0] == name or fold(named[0]) == folded])
                if found is not None or self._trusts_hashes:
                    return found
        return _best(name, self._names_by_fold(directory).get(folded, ()))

    def _is_busy(self, directory: StoredInode) -> bool:
        """Whether a directory had so many look-ups that all its names are worth keeping."""
        if directory.size > _MAX_KEPT_BYTES:
            return False
        if len(self._lookups) >= _MAX_COUNTED:
            self._lookups.clear()
        count = self._lookups[directory.number] = self._lookups.get(directory.number, 0) + 1
        return count > _SINGLE_LOOKUPS

    def _of_hash(
        self, directory: StoredInode, name: bytes, folded: bytes, cipher: NamesCipher | None
    ) -> Iterable[tuple[bytes, DirEntry]] | None:
        """The names that may have the hash of the folded name; None if the directory has no such hashes."""
        volume = self._fs.volume
        if cipher is not None:
            context = self._fs.encryption(directory)
            key = None if context is None else self._fs.encrypted.keyring.dirhash_key(context)
            if key is None:
                return None
            major, minor = siphash_dirhash(key, _hashed_form(folded))
            stored = EXT4_DIR_ENTRY_HASH.pack((major, minor))
            within = volume.directory if directory.has_inline_data else partial(volume.entries_of_hash, major=major)
            entries = [
                entry
                for entry in within(directory)
                if entry.hash == stored and len(entry.name) >= FSCRYPT_FNAME_MIN_MSG_LEN
            ]
            return zip(cipher.decrypt([entry.name for entry in entries]), entries, strict=True)
        tree = volume.index(directory)
        if tree is None or tree.uses_siphash:
            return None
        major, _ = dirhash(folded, tree.hash_version, volume.superblock.hash_seed)
        return [(entry.name, entry) for entry in volume.entries_of_hash(directory, major)]

    def _names_by_fold(self, directory: StoredInode) -> NamesByFold:
        """All names of a directory by their folded form; kept for later look-ups unless there are very many."""
        kept = self._kept.get(directory)
        if kept is not None:
            with suppress(KeyError):  # another thread may have dropped them meanwhile
                self._kept.move_to_end(directory)
            return kept
        same_fold: NamesByFold = {}
        count = 0
        for named in self._named(directory):
            same_fold.setdefault(fold(named.name), []).append(named)
            count += 1
        if directory.size <= _MAX_KEPT_BYTES:
            self._kept[directory] = same_fold
            self._kept_names += count
            while self._kept_names > _MAX_KEPT_NAMES and len(self._kept) > 1:
                self._kept_names -= sum(map(len, self._kept.popitem(last=False)[1].values()))
        return same_fold

    def _named(self, directory: StoredInode) -> list[NamedEntry]:
        texts, listing = self._fs.listing(directory)
        names = (text.encode("utf-8", "surrogateescape") for text in texts)
        return [NamedEntry(name, entry) for name, entry in zip(names, listing.entries(), strict=True)]


def _hashed_form(folded: bytes) -> bytes:
    """The bytes that an encrypted directory hashes: the folded name, folded again if it fits the kernel's buffer.

    The second folding matters for combining marks next to a code point that the first one dropped.
    """
    return fold(folded) if 0 < len(folded) < EXT4_NAME_LEN else folded


def _best(name: bytes, same_fold: Iterable[tuple[bytes, DirEntry]]) -> DirEntry | None:
    first = None
    for shown, entry in same_fold:
        if shown == name:
            return entry
        first = first or entry
    return first


def report_names_not_utf8(names: list[bytes], directory: int, superblock: Superblock, problems: Problems) -> None:
    """Report names that strict mode should have refused. They are shown all the same, as by the kernel."""
    if not superblock.encoding_flags & EXT4_ENC_STRICT_MODE_FL:
        return
    place = Place(inode=directory, record="ext4_dir_entry_2")
    for name in names:
        if not name.isascii() and not is_valid(name):
            problems.note(f"name {name!r} is not UTF-8, which the file system's strict mode requires", place)
