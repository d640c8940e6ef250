"""An archive → a directory of the host, with its keys as plain files or without as ciphertext."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from ext4img.archive.damaged_reader import undamaged_members
from ext4img.archive.decryption import EntryDecryptor
from ext4img.archive.input import ArchiveSource
from ext4img.archive.key_check import Key, keyring_for
from ext4img.archive.open_backup import BackupSource, open_backup
from ext4img.archive.path_filter import SelectedPath
from ext4img.archive.reader import Archive
from ext4img.progress import Progress
from ext4img.restorer.dry_run import DryRunTarget, Rehearsal
from ext4img.restorer.kernel_encryption import KernelKeys
from ext4img.restorer.report import RestoreReport
from ext4img.restorer.restorable import Restorable
from ext4img.restorer.restorer import Missing, Restorer
from ext4img.restorer.staging import Move, Overwrite, clear_stagings, discard, staging
from ext4img.restorer.target_dir import TargetDir, failing

__all__ = ["Missing", "Overwrite", "Restorable", "RestoreReport", "Restorer", "restore"]


def restore(
    archive: ArchiveSource | BackupSource,
    destination: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    keys: Iterable[Key] = (),
    only: Sequence[SelectedPath] = (),
    missing: Missing = "skip",
    overwrite: Overwrite = False,
    resume: bool = False,
    devices: bool = False,
    encrypt: bool = False,
    dry_run: bool = False,
    salvage: bool = False,
    bases: Sequence[ArchiveSource] = (),
    progress: Progress | None = None,
) -> RestoreReport:
    """Restore a backup into the directory `destination`, which is made if it is not there.

    The backup is an archive, a tree that `tar --xattrs` extracted from one, or a directory store.
    What an incremental archive builds on is looked for among `bases`, then in its own directory.

    With `keys` names, targets and contents are decrypted; what no key opens is left out and
    reported, or with missing="ciphertext" restored as it stands in the archive, with the records
    that it needs to be read later as attributes. Without keys that is done with all of it. What is
    in the way is left as it is and reported, unless `overwrite` (or "newer", where the backup's is).
    With `resume` what an interrupted restore has done is kept. `only` names paths, plain ones or
    as they are in the archive; what is below them comes too. Device nodes are made only if
    `devices`. With `encrypt` directories that were encrypted get the same policy from the kernel,
    which gets the keys for the time of the restore: on an ext4 or f2fs with that feature.
    With `dry_run` nothing is written, but all is read: the report is what it would be.
    `progress` is called with bytes of the archive done and in all.

    A damaged member is left out and reported, all others are restored. Only with `salvage` an
    archive that was cut short is restored as far as it goes; it has lost what could prove that
    what is there was not altered, and the report's last problem says where it ends.

    WrongKeyError before anything is written. TruncatedArchiveError, AlteredArchiveError and
    UnsafeArchiveError name the member; nothing that is not whole has been given its name. An
    archive that is read as a stream appears in the destination only when all of it has been read.
    RestoreError where the target fails: no room, no such place. NotFoundError for a path in `only`
    that is not in the backup.
    """
    opened = archive if isinstance(archive, BackupSource) else open_backup(archive, bases, salvage=salvage)
    try:
        keys = list(keys)
        keyring = keyring_for(opened, keys)
        plaintext = EntryDecryptor(keyring, opened.info) if len(keyring) else None
        if dry_run:
            rehearsal = Rehearsal(
                DryRunTarget(destination),
                plaintext,
                missing,
                overwrite,
                devices,
                only=only,
                resume=resume,
                aside=True,
                tolerant=opened.seekable,
                salvage=salvage,
            )
            rehearsal.run(_members(opened, rehearsal), opened.total_bytes, progress)
            return rehearsal.report
        with (
            TargetDir(destination) as target,
            failing(target),
            KernelKeys(target.fd, keys, keyring) as kernel_keys,
        ):
            lent = kernel_keys if encrypt else None
            clear_stagings(target)
            if opened.seekable:
                restorer = Restorer(
                    target,
                    plaintext,
                    missing,
                    overwrite,
                    devices,
                    only=only,
                    resume=resume,
                    fetch=opened.member,
                    kernel_keys=lent,
                    tolerant=True,
                )
                if resume:
                    target.clear_temporaries()
                restorer.run(_members(opened, restorer), opened.total_bytes, progress)
                restorer.lock(target)
            else:
                with staging(target) as aside:
                    restorer = Restorer(
                        aside,
                        plaintext,
                        missing,
                        False,
                        devices,
                        only=only,
                        kernel_keys=lent,
                        aside=True,
                        salvage=salvage,
                    )
                    restorer.run(opened.members(), opened.total_bytes, progress)
                    if restorer.unwanted:
                        discard(aside, restorer.unwanted, restorer.not_moved)
                    aside.sync()
                    move = Move(
                        aside,
                        target,
                        overwrite,
                        resume=resume,
                        refused=restorer.not_moved,
                        unset=restorer.report.unset,
                    )
                    move.check()
                    move.run()
                    restorer.report.kept += move.kept
                restorer.lock(target, move.merged)
            if restorer.root is not None and (target.is_new or overwrite or resume):
                restorer.finish_root(target)
            target.sync()
        return restorer.report
    finally:
        if opened is not archive:
            opened.close()


def _members(source: BackupSource, restorer: Restorer) -> Iterable[Restorable]:
    """All members, or of an archive file those that are sound."""
    if isinstance(source, Archive) and source.seekable:
        return undamaged_members(source, restorer.lose)
    return source.members()
