"""Finding a name in a case-insensitive directory: by the hash of its folded form, as the kernel does.

A directory's index, and in encrypted directories each entry too, holds the hash of the folded name.
Where that finds nothing, all names are compared, as the kernel does since February 2025 (fs/ext4:
"introduce linear search for dentries"): for some months kernels had kept ignorable code points when
they hashed. The superblock can forbid it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ext4img.errors import CorruptionError, Place
from ext4img.names.casefold import NO_COMPAT_FALLBACK_FL, STRICT_MODE_FL, UTF8_12_1, fold, is_valid
from ext4img.names.dirhash import dirhash, siphash_dirhash
from ext4img.names.nokey import MIN_STORED_NAME
from ext4img.structs.directory import EXT4_DIR_ENTRY_HASH
from ext4img.volume.dir_entry import DirEntry
from ext4img.volume.inode import StoredInode
from ext4img.volume.problems import Problems
from ext4img.volume.superblock import Superblock

if TYPE_CHECKING:
    from ext4img.crypto.codec import NamesCipher
    from ext4img.fs.filesystem import FileSystem
    from ext4img.fs.shown_names import NamedEntry

_MOST_KEPT_NAMES = 100_000
_MOST_KEPT_BYTES = 1 << 20  # of a directory whose names are kept: larger ones are read again
_SINGLE_LOOKUPS = 2  # so many by hash, then by all names
_MOST_COUNTED = 4096
_FOLDED_BYTES = 255  # EXT4_NAME_LEN: the kernel's room for a folded name and its end

Alike = dict[bytes, list["NamedEntry"]]


class CasefoldLookup:
    """Looks up names in the case-insensitive directories of one view."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._kept: OrderedDict[StoredInode, Alike] = OrderedDict()
        self._kept_names = 0
        self._lookups: dict[int, int] = {}
        superblock = fs.superblock
        self._trusts_hashes = bool(superblock.encoding_flags & NO_COMPAT_FALLBACK_FL)
        self._knows_encoding = superblock.encoding == UTF8_12_1
        if not self._knows_encoding:
            fs.problems.note(f"names of encoding {superblock.encoding} are compared by their bytes alone")

    def lookup(self, directory: StoredInode, name: bytes, cipher: NamesCipher | None) -> DirEntry | None:
        """The entry of exactly this name, else the first that folds alike, else None.

        `cipher` decrypts the names of an encrypted directory.
        """
        if not self._knows_encoding:
            return next((entry for shown, entry in self._fs.listdir(directory) if shown == name), None)
        folded = fold(name)
        if directory not in self._kept and (self._trusts_hashes or not self._is_busy(directory)):
            try:
                hashed = self._of_hash(directory, name, folded, cipher)
            except CorruptionError as error:
                self._fs.problems.found(error)  # and then without the index
                hashed = None
            if hashed is not None:
                found = _best(name, [named for named in hashed if named[0] == name or fold(named[0]) == folded])
                if found is not None or self._trusts_hashes:
                    return found
        return _best(name, self._alike(directory).get(folded, ()))

    def _is_busy(self, directory: StoredInode) -> bool:
        """Whether a directory has been asked so often that all its names are worth keeping."""
        if directory.size > _MOST_KEPT_BYTES:
            return False
        if len(self._lookups) >= _MOST_COUNTED:
            self._lookups.clear()
        count = self._lookups[directory.number] = self._lookups.get(directory.number, 0) + 1
        return count > _SINGLE_LOOKUPS

    def _of_hash(
        self, directory: StoredInode, name: bytes, folded: bytes, cipher: NamesCipher | None
    ) -> Iterable[tuple[bytes, DirEntry]] | None:
        """The names that may have the hash of the folded name; None where no hash leads to them."""
        volume = self._fs.volume
        if cipher is not None:
            context = self._fs.encryption(directory)
            key = None if context is None else self._fs.keyring.dirhash_key(context)
            if key is None:
                return None
            major, minor = siphash_dirhash(key, _hashed_form(folded))
            stored = EXT4_DIR_ENTRY_HASH.pack((major, minor))
            within = volume.directory if directory.has_inline_data else partial(volume.entries_of_hash, major=major)
            entries = [
                entry for entry in within(directory) if entry.hash == stored and len(entry.name) >= MIN_STORED_NAME
            ]
            return zip(cipher.decrypt([entry.name for entry in entries]), entries, strict=True)
        tree = volume.index(directory)
        if tree is None or tree.uses_siphash:
            return None
        major, _ = dirhash(folded, tree.hash_version, volume.superblock.hash_seed)
        return [(entry.name, entry) for entry in volume.entries_of_hash(directory, major)]

    def _alike(self, directory: StoredInode) -> Alike:
        """All names of a directory by their folded form; kept for further questions unless very many."""
        kept = self._kept.get(directory)
        if kept is not None:
            with suppress(KeyError):  # another thread may have dropped them just now
                self._kept.move_to_end(directory)
            return kept
        alike: Alike = {}
        count = 0
        for named in self._fs.listdir(directory):
            alike.setdefault(fold(named.name), []).append(named)
            count += 1
        if directory.size <= _MOST_KEPT_BYTES:
            self._kept[directory] = alike
            self._kept_names += count
            while self._kept_names > _MOST_KEPT_NAMES and len(self._kept) > 1:
                self._kept_names -= sum(map(len, self._kept.popitem(last=False)[1].values()))
        return alike


def _hashed_form(folded: bytes) -> bytes:
    """What is hashed in an encrypted directory: the folded name folded again, where the kernel kept it.

    It makes a difference for combining marks beside what the first folding dropped.
    """
    return fold(folded) if 0 < len(folded) < _FOLDED_BYTES else folded


def _best(name: bytes, alike: Iterable[tuple[bytes, DirEntry]]) -> DirEntry | None:
    first = None
    for shown, entry in alike:
        if shown == name:
            return entry
        first = first or entry
    return first


def report_names_not_utf8(names: list[bytes], directory: int, superblock: Superblock, problems: Problems) -> None:
    """Remark on names that strict mode should have refused. They are shown, as the kernel shows them."""
    if not superblock.encoding_flags & STRICT_MODE_FL:
        return
    place = Place(inode=directory, record="ext4_dir_entry_2")
    for name in names:
        if not name.isascii() and not is_valid(name):
            problems.note(f"name {name!r} is not UTF-8, which the file system's strict mode demands", place)
