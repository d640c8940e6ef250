"""Keys and passphrases for a backup: from what users give to the master keys that open something in it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ext4img.archive.key_check import Key, keyring_for
from ext4img.archive.open_backup import BackupSource
from ext4img.archive.unlock import BackupUnlocker
from ext4img.cli.archive import STDIN, ArchiveOptions
from ext4img.cli.error_report import Failure
from ext4img.cli.exit_codes import Exit
from ext4img.cli.keys import RAW_PROTECTOR_KEY_BYTES, GivenKey, PassphraseOptions
from ext4img.errors import Ext4Error, WrongKeyError
from ext4img.unlocking.metadata_dirs import OpenedImage, opened_places

_LISTS_KEYS = "`ext4img list --info ARCHIVE` lists the keys that it wants"


@dataclass(frozen=True)
class ArchiveKeyOptions(PassphraseOptions):
    """For a backup."""

    def check_stdin(self, options: ArchiveOptions) -> None:
        """Failure where standard input would have to be both the backup and a secret."""
        if options.archive == STDIN and STDIN in (*(self.key_file or ()), self.passphrase_file):
            raise Failure(Exit.USAGE, "standard input is the backup, and can't be a key or passphrase as well")

    def of(self, backup: BackupSource) -> list[Key]:
        """The master keys. Failure if something that was given opens nothing."""
        found: list[Key] = []
        unlocker = BackupUnlocker(backup) if backup.seekable else None
        for key in self.read():
            found += self._tried(backup, unlocker, key)
        for label, passphrase in self.passphrases():
            try:
                found += self._unlock(unlocker or BackupUnlocker(backup), passphrase)
            except Ext4Error as error:
                raise self.refused(error, label, _LISTS_KEYS, untried=False) from error
        return found

    def _tried(self, backup: BackupSource, unlocker: BackupUnlocker | None, key: GivenKey) -> list[Key]:
        descriptor = self.descriptor
        try:
            keyring_for(backup, [(key.raw, descriptor)])
        except WrongKeyError as error:
            if len(key.raw) == RAW_PROTECTOR_KEY_BYTES and unlocker is not None:
                # It may be the key of one of fscrypt's raw-key protectors, which wraps the master key.
                try:
                    return self._unlock(unlocker, None, key.raw)
                except Ext4Error:
                    pass
            raise self.refused(error, key.label, _LISTS_KEYS, _has_untried(backup)) from error
        return [(key.raw, descriptor)]

    def _unlock(self, unlocker: BackupUnlocker, passphrase: bytes | None, *raw_keys: bytes) -> list[Key]:
        with opened_places(self.fscrypt_dir or (), _open_image) as places:
            keys = unlocker.unlock(
                passphrase, raw_keys=raw_keys, salts=self.salt or (), places=places, limits=self.limits
            )
        return [(key, None) for key in keys]


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
    """Whether there are version 1 policies, and no names that would show whether a key is theirs."""
    if all(policy.version != 1 for policy in backup.info.policies):
        return False
    return not (backup.seekable and any(member.entry.stored_name is not None for member in backup.members()))
