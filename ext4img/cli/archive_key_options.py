"""Key options of commands that read a backup: the master keys that decrypt something in it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ext4img.archive.key_check import add_checked_key
from ext4img.archive.open_backup import BackupSource
from ext4img.archive.unlock import BackupUnlocker
from ext4img.cli.archive_options import STDIN, ArchiveOptions
from ext4img.cli.error_report import CommandError
from ext4img.cli.exit_codes import Exit
from ext4img.cli.key_options import RAW_PROTECTOR_KEY_BYTES, GivenKey, PassphraseOptions
from ext4img.crypto.keyring import Keyring
from ext4img.errors import Ext4Error, WrongKeyError
from ext4img.unlocking.metadata_dirs import OpenedImage, opened_places

_LISTS_KEYS = "`ext4img list --info ARCHIVE` lists the keys that it needs"


@dataclass(frozen=True)
class ArchiveKeyOptions(PassphraseOptions):
    """Key options for a backup."""

    def check_stdin(self, options: ArchiveOptions) -> None:
        """CommandError if standard input would be both the backup and a secret."""
        if options.archive == STDIN and STDIN in (*(self.key_file or ()), self.passphrase_file):
            raise CommandError(Exit.USAGE, "standard input cannot be both the backup and a key or passphrase")

    def keys_for(self, backup: BackupSource) -> Keyring:
        """The master keys, each checked once. CommandError if a key or passphrase does not match anything."""
        keyring = Keyring()
        unlocker = BackupUnlocker(backup) if backup.seekable else None
        for key in self.read():
            self._add(backup, unlocker, keyring, key)
        for label, passphrase in self.passphrases():
            try:
                self._unlock(unlocker or BackupUnlocker(backup), backup, keyring, passphrase)
            except Ext4Error as error:
                raise self.key_error(error, label, _LISTS_KEYS, untried=False) from error
        return keyring

    def _add(self, backup: BackupSource, unlocker: BackupUnlocker | None, keyring: Keyring, key: GivenKey) -> None:
        try:
            add_checked_key(backup, keyring, key.raw, self.descriptor)
        except WrongKeyError as error:
            if len(key.raw) == RAW_PROTECTOR_KEY_BYTES and unlocker is not None:
                # It may be the key of an fscrypt raw-key protector, which wraps the master key.
                try:
                    self._unlock(unlocker, backup, keyring, None, key.raw)
                    return
                except Ext4Error:
                    pass
            raise self.key_error(error, key.label, _LISTS_KEYS, _has_untried(backup)) from error

    def _unlock(
        self,
        unlocker: BackupUnlocker,
        backup: BackupSource,
        keyring: Keyring,
        passphrase: bytes | None,
        *raw_keys: bytes,
    ) -> None:
        with opened_places(self.fscrypt_dir or (), _open_image) as places:
            keys = unlocker.unlock(
                passphrase, raw_keys=raw_keys, salts=self.salt or (), places=places, limits=self.limits
            )
        for key in keys:
            add_checked_key(backup, keyring, key)


def _open_image(path: str | os.PathLike[str]) -> OpenedImage:
    """An image with login protectors."""
    from ext4img.fs.filesystem import FileSystem
    from ext4img.sources import open_source
    from ext4img.volume.volume import Volume

    source = open_source(path)
    try:
        return FileSystem(Volume(source, checks="report"), owned=[source])
    except BaseException:
        source.close()
        raise


def _has_untried(backup: BackupSource) -> bool:
    """Whether there are version 1 policies but no encrypted names to try a key on."""
    if all(policy.version != 1 for policy in backup.info.policies):
        return False
    return not (backup.seekable and any(member.entry.stored_name is not None for member in backup.members()))
