"""Key options of commands that read a backup: the master keys that decrypt something in it."""

from __future__ import annotations

from dataclasses import dataclass

from ext4img.archive.key_check import Key, keyring_for
from ext4img.archive.open_backup import BackupSource
from ext4img.archive.unlock import unlock
from ext4img.cli.archive_options import STDIN, ArchiveOptions
from ext4img.cli.error_report import CommandError
from ext4img.cli.exit_codes import Exit
from ext4img.cli.key_options import RAW_PROTECTOR_KEY_BYTES, GivenKey, PassphraseOptions
from ext4img.errors import Ext4Error, WrongKeyError

_LISTS_KEYS = "`ext4img list --info ARCHIVE` lists the keys that it needs"


@dataclass(frozen=True)
class ArchiveKeyOptions(PassphraseOptions):
    """Key options for a backup."""

    def check_stdin(self, options: ArchiveOptions) -> None:
        """CommandError if standard input would be both the backup and a secret."""
        if options.archive == STDIN and STDIN in (*(self.key_file or ()), self.passphrase_file):
            raise CommandError(Exit.USAGE, "standard input cannot be both the backup and a key or passphrase")

    def keys_for(self, backup: BackupSource) -> list[Key]:
        """The master keys. CommandError if a key or passphrase does not match anything."""
        found: list[Key] = []
        for key in self.read():
            found += self._keys_from(backup, key)
        for label, passphrase in self.passphrases():
            try:
                found += self._unlock(backup, passphrase)
            except Ext4Error as error:
                raise self.key_error(error, label, _LISTS_KEYS, untried=False) from error
        return found

    def _keys_from(self, backup: BackupSource, key: GivenKey) -> list[Key]:
        descriptor = self.descriptor
        try:
            keyring_for(backup, [(key.raw, descriptor)])
        except WrongKeyError as error:
            if len(key.raw) == RAW_PROTECTOR_KEY_BYTES and backup.seekable:
                # It may be the key of an fscrypt raw-key protector, which wraps the master key.
                try:
                    return self._unlock(backup, None, key.raw)
                except Ext4Error:
                    pass
            raise self.key_error(error, key.label, _LISTS_KEYS, _has_untried(backup)) from error
        return [(key.raw, descriptor)]

    def _unlock(self, backup: BackupSource, passphrase: bytes | None, *raw_keys: bytes) -> list[Key]:
        keys = unlock(
            backup,
            passphrase,
            raw_keys=raw_keys,
            salts=self.salt or (),
            fscrypt_dirs=self.fscrypt_dir or (),
            limits=self.limits,
        )
        return [(key, None) for key in keys]


def _has_untried(backup: BackupSource) -> bool:
    """Whether there are version 1 policies but no encrypted names to try a key on."""
    if all(policy.version != 1 for policy in backup.info.policies):
        return False
    return not (backup.seekable and any(member.entry.stored_name is not None for member in backup.members()))
