"""`EncryptionState`: contexts, policies and ciphers of one volume.

Most volumes have nothing encrypted, so this module is imported only when something is, or when a key
is given.
"""

from __future__ import annotations

from ext4img.crypto.codec import ContentsCipher, NamesCipher
from ext4img.crypto.keyring import Keyring
from ext4img.crypto.policy import EncryptionContext, Policy, parse_context
from ext4img.errors import CorruptionError, NoKeyError, Place, UnsupportedFeatureError, WrongKeyError
from ext4img.fs.nokey_names import nokey_names
from ext4img.fs.policies import PolicyUse, key_opens_names, policies_in_use, policy_in, report_policy_mismatch
from ext4img.names.nokey import nokey_target, parse_nokey_name, symlink_ciphertext
from ext4img.structs.fscrypt import FSCRYPT_FNAME_MIN_MSG_LEN
from ext4img.volume.contents import Contents
from ext4img.volume.dir_entry import DirEntry, DirListing
from ext4img.volume.inode import StoredInode
from ext4img.volume.volume import Volume

_MAX_CONTEXTS = 4096  # contexts of directories that are kept


class EncryptionState:
    """Contexts, policies and ciphers of one volume, by the keys of `keyring`."""

    def __init__(self, volume: Volume, keyring: Keyring | None = None) -> None:
        self.keyring = Keyring() if keyring is None else keyring
        self._volume = volume
        self._uuid = volume.superblock.uuid.bytes
        self._policies: dict[Policy, PolicyUse] | None = None
        self._contexts: dict[int, tuple[bytes, int, EncryptionContext]] = {}

    def add_key(self, raw: bytes, descriptor: bytes | None) -> tuple[Policy, ...]:
        """See `FileSystem.add_key`."""
        trial = Keyring()
        trial.add(raw, descriptor)
        used = self.policies()
        opened = [policy for policy in used if trial.has(policy)]
        for policy, use in used.items():
            if descriptor is None and policy.version == 1 and policy not in opened:
                other = Keyring()
                other.add(raw, policy.key_id)
                if other.has(policy) and key_opens_names(self._volume, use, other):
                    self.keyring.add(raw, policy.key_id)
                    opened.append(policy)
        if not opened:
            count = len(used)
            policies = "no encrypted files" if not count else f"{count} encryption polic{'y' if count == 1 else 'ies'}"
            raise WrongKeyError(f"the key opens nothing on this image, which has {policies}")
        self.keyring.add(raw, descriptor)
        return tuple(opened)

    def policies(self) -> dict[Policy, PolicyUse]:
        """See `FileSystem.policies`."""
        if self._policies is None:
            self._policies = policies_in_use(self._volume)
        return self._policies

    # Contexts

    def context(self, inode: StoredInode) -> EncryptionContext:
        """The policy and nonce of an inode with the encrypt flag; see `FileSystem.encryption`."""
        # Directories need it for each of their names.
        number, area, block = inode.number, inode.inline_xattrs, inode.xattr_block
        kept = self._contexts.get(number)
        if kept is not None and kept[0] == area and kept[1] == block:
            return kept[2]
        raw = self._volume.encryption_context(inode)
        place = Place(inode=number, record="fscrypt_context")
        if raw is None:
            raise CorruptionError("encrypted, but without an encryption context", place)
        # A policy that the kernel refuses can still be shown and copied; the keyring refuses to decrypt.
        context = parse_context(raw, place=place, supported_only=False)
        if inode.is_dir:
            if len(self._contexts) >= _MAX_CONTEXTS:
                self._contexts.clear()
            self._contexts[number] = area, block, context
        return context

    def policy_of(self, directory: StoredInode) -> bytes | None:
        """The start of all contexts below an encrypted directory; None if its own context is damaged."""
        try:
            return policy_in(self.context(directory))
        except (CorruptionError, UnsupportedFeatureError):
            return None  # raised or reported when its names are read

    def report_policy_mismatch(self, directory: StoredInode, policy: bytes, child: StoredInode) -> None:
        """Report an inode that must not be in an encrypted directory whose contexts begin with `policy`."""
        report_policy_mismatch(self._volume, directory, policy, child)

    # Names and targets

    def names(self, directory: StoredInode, listing: DirListing) -> tuple[list[bytes], DirListing]:
        """The names of an encrypted directory, decrypted or as no-key names, and their entries."""
        cipher = self.names_cipher(directory)
        if cipher is None:
            names, entries = nokey_names(self._volume, directory, listing.entries())
            return names, DirListing(entries)
        short = [at for at, name in enumerate(listing.names) if len(name) < FSCRYPT_FNAME_MIN_MSG_LEN]
        for at in short:
            place = Place(inode=directory.number, record="ext4_dir_entry_2", field="name_len")
            size = len(listing.names[at])
            reason = f"encrypted name of {size} bytes, the shortest possible has {FSCRYPT_FNAME_MIN_MSG_LEN}"
            self._volume.problems.found(CorruptionError(reason, place))
        if short:
            listing = listing.only(sorted(set(range(len(listing))).difference(short)))
        return cipher.decrypt(listing.names), listing

    def lookup_nokey(self, directory: StoredInode, name: bytes) -> DirEntry | None:
        """The entry that the kernel finds by a no-key name, or None."""
        volume = self._volume
        wanted = parse_nokey_name(name)
        if wanted is None:
            return None
        if wanted.stored is not None:
            return volume.lookup(directory, wanted.stored, (wanted.major, wanted.minor))
        candidates = (
            volume.entries_of_hash(directory, wanted.major)
            if wanted.major and not directory.has_inline_data
            else volume.directory(directory)
        )
        return next((entry for entry in candidates if wanted.matches(entry.name)), None)

    def target(self, inode: StoredInode, stored: bytes) -> bytes:
        """The target of an encrypted symbolic link, decrypted or as a no-key name."""
        cipher = self.names_cipher(inode)
        if cipher is None:
            return nokey_target(stored, inode.number)
        return cipher.decrypt([symlink_ciphertext(stored, inode.number)])[0]

    def names_cipher(self, inode: StoredInode) -> NamesCipher | None:
        """The cipher of an encrypted directory's names or of a link's target; None without its key."""
        return self.keyring.names_cipher(self.context(inode), inode.number, self._uuid)

    # Contents

    def contents_cipher(self, inode: StoredInode, contents: Contents, name: str) -> ContentsCipher:
        """The cipher of an encrypted file. NoKeyError, with `name`; CorruptionError."""
        context = self.context(inode)
        block_size = self._volume.block_size
        cipher = self.keyring.contents_cipher(context, inode.number, self._uuid, block_size)
        if cipher is None:
            raise NoKeyError.at(name, context.policy.key_id_hex)
        if contents.inline is not None:
            raise CorruptionError("encrypted file with inline data", Place(inode=inode.number))
        return cipher
