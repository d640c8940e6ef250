"""`FileSystem`: a volume as seen with the keys at hand.

With the key it shows plaintext; without it the kernel's no-key names, and NoKeyError for contents;
the ciphertext, rounded up to the block, always. "No key" is an empty keyring, not a mode.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ext4img.errors import (
    CorruptionError,
    IsDirectoryError,
    NotDirectoryError,
    NotFoundError,
    NotRegularFileError,
    NotSymlinkError,
    Place,
)
from ext4img.fs.file import File
from ext4img.fs.inode import Inode, bind
from ext4img.fs.path import Ext4Path
from ext4img.fs.protocol import Found
from ext4img.fs.pure_path import PathLike
from ext4img.fs.resolve import Resolver
from ext4img.fs.shown_names import NamedEntry, shown_names
from ext4img.fs.walk import path_lists, walk
from ext4img.sources import open_source
from ext4img.sources.base import Source
from ext4img.structs.directory import EXT4_NAME_LEN
from ext4img.structs.inode import EXT4_CASEFOLD_FL, EXT4_ENCRYPT_FL, EXT4_ROOT_INO, EXT4_VERITY_FL
from ext4img.volume.dir_entry import DirEntry, DirListing
from ext4img.volume.features import Features
from ext4img.volume.inode import StoredInode
from ext4img.volume.problems import Problems
from ext4img.volume.superblock import Superblock
from ext4img.volume.volume import Volume

if TYPE_CHECKING:
    from ext4img.crypto.keyring import Keyring
    from ext4img.crypto.policy import EncryptionContext, Policy
    from ext4img.fs.accounts import Accounts
    from ext4img.fs.casefold_lookup import CasefoldLookup
    from ext4img.fs.encryption import EncryptionState
    from ext4img.fs.policies import PolicyUse
    from ext4img.fs.protectors import Protector
    from ext4img.fs.unlock import ImageUnlocker
    from ext4img.fs.verity import Verity
    from ext4img.unlocking import CostLimits
    from ext4img.unlocking.metadata_dirs import FscryptDir, MetadataPlace

_SMALL_FILE_BYTES = 1 << 20
_CODED = EXT4_ENCRYPT_FL | EXT4_CASEFOLD_FL  # directories with these flags need more than a look-up by the stored name


class FileSystem:
    """An open image: the result of `ext4img.open`, and a context manager that closes it.

    `keyring` holds the keys; `volume` is the layer below, with names and contents as stored.
    """

    def __init__(self, volume: Volume, keyring: Keyring | None = None, owned: Sequence[Source] = ()) -> None:
        """`close` closes the sources in `owned`."""
        self.volume = volume
        self._owned = tuple(owned)
        self._keyring = keyring
        self._resolver = Resolver(self)
        self._unlocker: ImageUnlocker | None = None
        self._casefold: CasefoldLookup | None = None

    def __repr__(self) -> str:
        return f"<ext4img.FileSystem of {self.volume.source.name!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened for this file system; a source of the caller's stays open. May be called twice."""
        for source in self._owned:
            source.close()

    def without_keys(self) -> FileSystem:
        """The same volume without any key."""
        return FileSystem(self.volume)

    # Facts

    @property
    def superblock(self) -> Superblock:
        """The superblock, after recovery."""
        return self.volume.superblock

    @property
    def block_size(self) -> int:
        """Bytes of a block."""
        return self.volume.superblock.block_size

    @property
    def features(self) -> Features:
        """The file system's features."""
        return self.volume.superblock.features

    @property
    def problems(self) -> Problems:
        """The problems found so far: damage that was read around (checks="report"), and remarks."""
        return self.volume.problems

    # Keys

    @cached_property
    def encrypted(self) -> EncryptionState:
        """Contexts, policies and ciphers of the volume."""
        from ext4img.fs.encryption import EncryptionState

        return EncryptionState(self.volume, self._keyring)

    @property
    def keyring(self) -> Keyring:
        """The keys at hand."""
        return self.encrypted.keyring

    def add_key(self, raw: bytes, descriptor: bytes | None = None) -> tuple[Policy, ...]:
        """Add a master key of 16 to 64 bytes; returns the policies on this image that it unlocks.

        `descriptor` (8 bytes) is the key's name in version 1 policies, if it was not computed from
        the key; without one, the padding of names shows whether the key opens such a policy.
        WrongKeyError if it unlocks nothing here, KeyFormatError if it cannot be a key.
        """
        return self.encrypted.add_key(raw, descriptor)

    def unlock(
        self,
        passphrase: str | bytes | None = None,
        *,
        raw_keys: Iterable[bytes] = (),
        salts: Iterable[str | bytes] = (),
        fscrypt_dirs: Iterable[FscryptDir] = (),
        limits: CostLimits | None = None,
    ) -> tuple[Policy, ...]:
        """Open policies through the key metadata on the image; returns the policies opened.

        `passphrase` is tried on fscrypt's protectors (custom and login), on the slots of systemd-homed,
        and as e4crypt derives keys; it ends at the first line break. `raw_keys` are 32-byte keys of
        fscrypt's raw-key protectors (`add_key` takes master keys). `salts` are salts of e4crypt besides
        the superblock's: bytes, or text in the form that `e4crypt -S` takes. `fscrypt_dirs` are places
        of login protectors: a `.fscrypt` directory on the host or its parent, the path of another image,
        an open FileSystem. `limits` bounds what hashing may cost.

        Nothing is hashed twice for one set of secrets. Damaged metadata is reported in `problems`.
        If nothing was opened, one error lists the reasons: LimitError if a bound was reached, else
        WrongKeyError if a secret was wrong, else CorruptionError, UnsupportedFeatureError,
        NotFoundError (a protector is on another file system) or NoKeyError (a protector needs a secret
        of another kind). KeyFormatError for a malformed secret.
        """
        from ext4img.fs.unlock import ImageUnlocker
        from ext4img.unlocking.metadata_dirs import opened_places
        from ext4img.unlocking.secrets import Secrets

        if self._unlocker is None:
            self._unlocker = ImageUnlocker(self)
        secrets = Secrets.of(passphrase, raw_keys)
        with opened_places(fscrypt_dirs, self._open_other) as places:
            return self._unlocker.unlock(secrets, salts, places, limits)

    def fscrypt_metadata(self) -> MetadataPlace:
        """The image's `.fscrypt` directory, for `unlock` of another image or of a backup."""
        from ext4img.fs.image_metadata import ImageMetadata

        return ImageMetadata(self)

    def protectors(self, fscrypt_dirs: Iterable[FscryptDir] = ()) -> dict[Policy, tuple[Protector, ...]]:
        """The protectors of each policy in use, by the metadata that `unlock` uses; empty if it has none.

        Damaged metadata raises nothing: the `problem` of a protector says what is wrong with it.
        """
        from ext4img.fs.protectors import protectors_of
        from ext4img.unlocking.metadata_dirs import opened_places

        with opened_places(fscrypt_dirs, self._open_other) as places:
            return protectors_of(self, self.policies(), places)

    def _open_other(self, path: str | os.PathLike[str]) -> FileSystem:
        """Another image, whose key metadata is needed; closed by the caller."""
        source = open_source(path)
        try:
            return FileSystem(Volume(source, checks=self.problems.checks), owned=[source])
        except BaseException:
            source.close()
            raise

    def policies(self) -> dict[Policy, PolicyUse]:
        """Every encryption policy in use on the image, and how much is under it; scans all inodes once."""
        return self.encrypted.policies()

    def encryption(self, inode: StoredInode) -> EncryptionContext | None:
        """The inode's policy and nonce; None if it is not encrypted.

        CorruptionError if the encrypt flag is set without a context, UnsupportedFeatureError for an
        unknown policy.
        """
        if not inode.is_encrypted:
            return None
        return self.encrypted.context(inode)

    def policy_of(self, directory: StoredInode) -> bytes | None:
        """The start of all contexts below an encrypted directory; None if it is not encrypted."""
        return self.encrypted.policy_of(directory) if directory.is_encrypted else None

    def has_key(self, inode: StoredInode) -> bool:
        """Whether the inode's contents, names or target are readable: not encrypted, or the key is at hand."""
        context = self.encryption(inode)
        return context is None or self.keyring.has(context.policy)

    def user_name(self, uid: int) -> str:
        """The name of a user by the image's own /etc/passwd. KeyError if there is none."""
        return self._accounts.user(uid)

    def group_name(self, gid: int) -> str:
        """The name of a group by the image's own /etc/group. KeyError if there is none."""
        return self._accounts.group(gid)

    @cached_property
    def _accounts(self) -> Accounts:
        from ext4img.fs.accounts import Accounts

        return Accounts(self)

    # Paths

    def path(self, path: PathLike = "/") -> Ext4Path:
        """A path on the image; relative ones start at its root. Nothing is looked up yet."""
        return path if isinstance(path, Ext4Path) and path.fs is self else Ext4Path(self, path)

    def inode(self, number: int) -> Inode:
        """The inode of this number, allocated or not. NotFoundError outside the file system's range."""
        return self.bind(self.volume.inode(number))

    def root(self) -> Inode:
        """The root directory's inode."""
        root = self.inode(EXT4_ROOT_INO)
        if not root.is_dir:
            place = Place(inode=EXT4_ROOT_INO, record="ext4_inode", field="i_mode")
            self.problems.found(CorruptionError("the root is not a directory", place))
        return root

    def walk(self, top: PathLike = "/") -> Iterator[tuple[Ext4Path, Inode]]:
        """(path, inode) of everything from `top` on, itself first, parents before children, in the disk's order.

        Symbolic links are not followed. A directory that is reached twice is corruption.
        """
        path = self.path(top)
        return walk(self, str(path), path.inode, path, Ext4Path.from_entry)

    def paths(self, top: PathLike = "/") -> Iterator[str]:
        """The paths that `walk` yields, as text alone.

        Several times as fast: it reads no inodes but those of entries that are directories by their
        type or have no type. On a damaged image an entry may lie: names of inodes that cannot be read
        are included, and names below a directory that its entry calls a file are not.
        """
        path = self.path(top)
        return chain.from_iterable(path_lists(self, str(path), path.inode))

    def bind(self, inode: StoredInode) -> Inode:
        """The public inode for the volume's."""
        return inode if isinstance(inode, Inode) else bind(inode, self)

    def resolve(self, path: str, follow: bool = True) -> Found:
        """(inode, its directory entry, the directory's inode number) of a path."""
        return self._resolver.resolve(path, follow)

    def listdir(self, directory: StoredInode) -> list[NamedEntry]:
        """The names of a directory as they are shown, as bytes, with their entries."""
        texts, entries = self.children(directory)
        names = [text.encode("utf-8", "surrogateescape") for text in texts]
        return [NamedEntry(name, entry) for name, entry in zip(names, entries, strict=True)]

    def children(self, directory: StoredInode) -> tuple[list[str], list[DirEntry]]:
        """The names of a directory as they are shown, as str, and the entry of each.

        Impossible names (with "/" or NUL, "." and "..") are skipped and reported.
        """
        texts, listing = self.listing(directory)
        return texts, listing.entries()

    def listing(self, directory: StoredInode, prefix: str = "") -> tuple[list[str], DirListing]:
        """The same with entries as columns; `prefix`, empty or ending with "/", precedes each name."""
        volume = self.volume
        listing = volume.listing(directory)
        names, known = listing.names, listing.damage
        damage = volume.problems.damage
        if directory.is_encrypted:
            names, listing = self.encrypted.names(directory, listing)
        if directory.flags & EXT4_CASEFOLD_FL and volume.superblock.encoding_flags:
            from ext4img.fs.casefold_lookup import report_names_not_utf8

            report_names_not_utf8(names, directory.number, volume.superblock, volume.problems)
        texts, listing = shown_names(names, listing, directory.number, volume.problems, prefix)
        listing.damage = known if volume.problems.damage == damage else volume.problems.last
        return texts, listing

    def lookup(self, directory: StoredInode, name: bytes) -> DirEntry | None:
        """The entry that is shown under `name`, or None. Uses the directory's index if it has one."""
        if not directory.is_dir:
            raise NotDirectoryError.at(f"inode {directory.number}")
        if not directory.flags & _CODED:
            return self.volume.lookup(directory, name)
        cipher = None
        if directory.is_encrypted:
            cipher = self.encrypted.names_cipher(directory)
            if cipher is None:
                return self.encrypted.lookup_nokey(directory, name)
            if not directory.flags & EXT4_CASEFOLD_FL:
                if len(name) > EXT4_NAME_LEN:
                    return None
                return self.volume.lookup(directory, cipher.encrypt([name])[0])
        if self._casefold is None:
            from ext4img.fs.casefold_lookup import CasefoldLookup

            self._casefold = CasefoldLookup(self)
        return self._casefold.lookup(directory, name, cipher)

    # Contents

    def open_inode(self, inode: StoredInode, path: str | None = None, size: int | None = None) -> File:
        """The contents of a regular file; see `Inode.open`.

        `path` is for messages. `size` in bytes, by default i_size, may go beyond it to the mapped end.
        """
        name = path or f"inode {inode.number}"
        self._check_regular(inode, name)
        contents = self.volume.contents(inode, size)
        cipher = self.encrypted.contents_cipher(inode, contents, name) if inode.is_encrypted else None
        return File(contents, name, cipher)

    def read_inode(self, inode: StoredInode, path: str | None = None) -> bytes:
        """The whole contents of a regular file; see `Inode.open` and `open_inode`."""
        if inode.size <= _SMALL_FILE_BYTES and inode.is_file and not inode.is_encrypted:
            return self.volume.contents(inode).read(0, inode.size)  # most files: a File would cost more than the read
        with self.open_inode(inode, path) as file:
            return file.read()

    def open_ciphertext(self, inode: StoredInode, path: str | None = None) -> File:
        """The contents as stored; see `Inode.open_ciphertext`."""
        name = path or f"inode {inode.number}"
        self._check_regular(inode, name)
        rounded = -(-inode.size // self.block_size) * self.block_size
        return File(self.volume.contents(inode, rounded), name)

    def verity(self, inode: StoredInode, verify: bool = False) -> Verity | None:
        """The fs-verity descriptor of a file; see `Inode.verity` and `Inode.verify_verity`."""
        if not inode.flags & EXT4_VERITY_FL:
            return None
        from ext4img.fs.verity import VerityReader, mapped_end

        runs = self.volume.runs(inode)
        with self.open_inode(inode, size=mapped_end(inode, runs, self.block_size)) as beyond:
            reader = VerityReader(inode, runs, partial(self.open_inode, inode), beyond, self.block_size)
            descriptor = reader.descriptor()
            if verify:
                reader.verify(descriptor)
            return descriptor

    def readlink(self, inode: StoredInode, path: str | None = None) -> bytes:
        """The target of a symbolic link; see `Inode.readlink`."""
        if not inode.is_symlink:
            raise NotSymlinkError.at(path or f"inode {inode.number}")
        target = self.volume.symlink_target_stored(inode)
        return self.encrypted.target(inode, target) if inode.is_encrypted else target.split(b"\0", 1)[0]

    def _check_regular(self, inode: StoredInode, name: str) -> None:
        if inode.is_file:
            return
        if inode.is_dir:
            raise IsDirectoryError.at(name)
        if inode.mode == 0:
            raise NotFoundError.at(name, "Inode is not in use")
        raise NotRegularFileError.at(name)
