"""The check of encrypted inodes: their contexts, and that what an encrypted directory holds has its policy."""

from __future__ import annotations

from array import array

from ext4img.crypto.policy import NONCE_SIZE, parse_context
from ext4img.errors import CorruptionError, Place, UnsupportedFeatureError
from ext4img.structs.directory import EXT4_DIR_ENTRY
from ext4img.structs.inode import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from ext4img.volume.check.inodes import InodeColumns
from ext4img.volume.inode import StoredInode
from ext4img.volume.volume import Volume

_RECORD = "fscrypt_context"
_TYPES = (S_IFREG, S_IFDIR, S_IFLNK)  # that are encrypted in an encrypted directory
_UNKNOWN = 0  # the policy of a context whose version is not known


class EncryptionChecker:
    """Checks the encrypted inodes of one volume. Memory: some 100 bytes for each of them."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._problems = volume.problems
        self._policies: dict[bytes, int] = {}  # the context without its nonce → its number
        self._policy_of: dict[int, int] = {}  # inode → that number

    def check(self, inode: StoredInode) -> None:
        """Check the context of an encrypted inode, and remember its policy."""
        place = Place(inode=inode.number, record=_RECORD)
        raw = self._volume.encryption_context(inode)
        policy = _UNKNOWN
        try:
            if raw is None:
                raise CorruptionError("encrypted, but without an encryption context", place)
            parse_context(raw, place=place, supported_only=False)
            policy = self._policies.setdefault(raw[:-NONCE_SIZE], len(self._policies) + 1)
        except CorruptionError as error:
            self._problems.found(error)
            return
        except UnsupportedFeatureError as error:
            self._problems.remark(str(error), place)
        self._policy_of[inode.number] = policy

    def check_children(self, parents: array[int], children: array[int], tables: InodeColumns) -> None:
        """Check the names of the volume: `children[i]` is an inode that directory `parents[i]` names."""
        policy_of = self._policy_of
        if not policy_of:
            return
        for parent, child in zip(parents, children, strict=True):
            expected = policy_of.get(parent)
            if expected is None or policy_of.get(child) == expected:
                continue
            if child in policy_of:
                self._found(parent, f"names inode {child}, which has another encryption policy")
            elif tables.mode_of(child) & S_IFMT in _TYPES:
                self._found(parent, f"names inode {child}, which is not encrypted")

    def _found(self, parent: int, reason: str) -> None:
        place = Place(inode=parent, record=EXT4_DIR_ENTRY.name, field="inode")
        self._problems.found(CorruptionError(f"encrypted directory {reason}", place))
