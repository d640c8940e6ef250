"""Decrypt the names, symlink targets and contents of an archive's entries with a keyring.

Nothing decrypted is trusted: whoever wrote the archive can make ciphertext decrypt to anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.entry import Entry
from ext4img.crypto.keyring import Keyring
from ext4img.crypto.policy import EncryptionContext, parse_context
from ext4img.errors import AlteredArchiveError, CorruptionError, UnsafeArchiveError, UnsupportedFeatureError
from ext4img.names.nokey import is_padded_name, symlink_ciphertext
from ext4img.structs.directory import EXT4_NAME_LEN

if TYPE_CHECKING:
    from ext4img.crypto.codec import ContentsCipher, NamesCipher

_MAX_TARGET_BYTES: Final = 4095  # PATH_MAX without its NUL


class EntryDecryptor:
    """Decrypts the entries of one archive with the keys in `keyring`. None means that no key fits."""

    def __init__(self, keyring: Keyring, info: BackupInfo) -> None:
        self.keyring = keyring
        self._uuid = info.uuid.bytes
        self._block_size = info.block_size

    def context(self, entry: Entry) -> EncryptionContext | None:
        """The entry's encryption context; None if it is not encrypted."""
        if entry.context is None:
            return None
        try:
            return parse_context(entry.context, supported_only=False)
        except (CorruptionError, UnsupportedFeatureError) as error:
            raise AlteredArchiveError(str(error), entry.shown) from error

    def names(self, directory: Entry) -> NamesCipher | None:
        """The cipher of the names in an encrypted directory, or of an encrypted symlink's target."""
        context = self.context(directory)
        if context is None:
            return None
        return self.keyring.names_cipher(context, directory.inode, self._uuid)

    def name(self, entry: Entry, cipher: NamesCipher) -> bytes:
        """The plaintext of an encrypted name. AlteredArchiveError or UnsafeArchiveError if it is not valid."""
        if entry.stored_name is None:
            raise AlteredArchiveError("it is in an encrypted directory, but has no encrypted name", entry.shown)
        raw = cipher.decrypt_raw([entry.stored_name])[0]
        if not is_padded_name(raw):
            raise AlteredArchiveError("its name does not decrypt: altered, or the key is wrong", entry.shown)
        name = raw.rstrip(b"\0")
        if name in (b".", b"..") or len(name) > EXT4_NAME_LEN:
            raise UnsafeArchiveError("its name decrypts to a name that no file can have", entry.shown)
        return name

    def target(self, entry: Entry) -> bytes | None:
        """The plaintext of an encrypted symlink's target. AlteredArchiveError if it is not a valid one."""
        cipher = self.names(entry)
        if cipher is None or entry.stored_target is None:
            return None
        try:
            ciphertext = symlink_ciphertext(entry.stored_target, entry.inode)
        except CorruptionError as error:
            raise AlteredArchiveError(str(error), entry.shown) from error
        target = cipher.decrypt_raw([ciphertext])[0].rstrip(b"\0")
        if not target or b"\0" in target or len(target) > _MAX_TARGET_BYTES:
            raise AlteredArchiveError("its target does not decrypt: altered, or the key is wrong", entry.shown)
        return target

    def contents(self, entry: Entry) -> ContentsCipher | None:
        """The cipher of an encrypted file's contents."""
        context = self.context(entry)
        if context is None:
            return None
        return self.keyring.contents_cipher(context, entry.inode, self._uuid, self._block_size)
