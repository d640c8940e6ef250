"""Restores a backup into a directory of the host: decrypted with its keys, or as ciphertext without."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ext4img.archive.damaged_reader import undamaged_members
from ext4img.archive.decryption import EntryDecryptor
from ext4img.archive.entry import ROOT, Entry
from ext4img.archive.input import ArchiveSource
from ext4img.archive.key_check import Key, check_keys
from ext4img.archive.loss import Losses
from ext4img.archive.open_backup import BackupSource, open_backup, recorded_changes
from ext4img.archive.path_filter import PathFilter, SelectedPath
from ext4img.archive.reader import Archive
from ext4img.crypto.keyring import Keyring
from ext4img.interruption import deferred
from ext4img.progress import Progress
from ext4img.restorer.dry_run import DryRunTarget
from ext4img.restorer.kernel_encryption import KernelKeys
from ext4img.restorer.member_writer import MemberWriter
from ext4img.restorer.move_staged import MoveStaged
from ext4img.restorer.options import Missing, Overwrite, RestoreOptions, parse_missing, parse_overwrite
from ext4img.restorer.report import RestoreReport
from ext4img.restorer.restorer import Restorer
from ext4img.restorer.staging import clear_stagings, staging
from ext4img.restorer.target import Restorable
from ext4img.restorer.target_dir import TargetDir, reporting_target_errors


def restore(
    archive: ArchiveSource | BackupSource,
    destination: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    keys: Iterable[Key] | Keyring = (),
    only: Sequence[SelectedPath] = (),
    missing: Missing = "skip",
    overwrite: Overwrite | bool = "never",
    resume: bool = False,
    devices: bool = False,
    encrypt: bool = False,
    dry_run: bool = False,
    salvage: bool = False,
    bases: Sequence[ArchiveSource] = (),
    progress: Progress | None = None,
) -> RestoreReport:
    """Restore a backup into the directory `destination`, which is created if it does not exist.

    The backup is an archive, a tree that `tar --xattrs` extracted from one, or a directory store.
    Archives that an incremental one is based on are searched in `bases`, then in its own directory.

    With `keys`, names, symlink targets and contents are decrypted. Entries that no given key
    decrypts are skipped and reported, or with missing="ciphertext" restored as ciphertext, with the
    records for their decryption as attributes. Without keys everything encrypted is restored so.
    Keys are checked first: WrongKeyError if one decrypts nothing in the backup. A `Keyring` is used
    as it is.

    `overwrite` says what becomes of files that exist in the destination: "never" (the default)
    keeps them and reports the entries, "always" replaces them, "if-newer" replaces those whose
    mtime is earlier than the backup's, and "if-changed" those that differ in type, size or mtime
    (or in a symlink's target, or a device's numbers). True means "always", False "never". Existing
    directories are merged, and get the attributes of the backup's unless it is "never".

    With `resume`, files that an interrupted restore completed are kept. `only` selects paths, in
    plain text or as they are in the archive, and everything below them. Device nodes are made only
    with `devices`. With `encrypt`, directories that were encrypted get the same policy from the
    kernel, which has the keys for the time of the restore; the file system must be an ext4 or f2fs
    with that feature. With `dry_run` everything is read, verified and decrypted, and nothing is
    written: the report is what it would be. `progress` is called with bytes of the archive.

    A damaged member is skipped and reported; all others are restored. An archive that was cut short
    is restored only with `salvage`, as far as it goes. What could prove that it was not altered is
    lost then; the last problem in the report says where the archive ends.

    TruncatedArchiveError, AlteredArchiveError and UnsafeArchiveError name the member; only complete
    files have got their names. The contents of an archive that is read as a stream appear in the
    destination only when all of it has been read. RestoreError if the destination fails: no room,
    no such place. NotFoundError for a path in `only` that is not in the backup.
    """
    options = RestoreOptions(
        missing=parse_missing(missing),
        overwrite=parse_overwrite(overwrite),
        only=only,
        resume=resume,
        devices=devices,
        encrypt=encrypt,
        salvage=salvage,
    )
    opened = archive if isinstance(archive, BackupSource) else open_backup(archive, bases, salvage=salvage)
    try:
        keyring = keys if isinstance(keys, Keyring) else check_keys(opened, keys)
        decryptor = EntryDecryptor(keyring, opened.info) if len(keyring) else None
        options = replace(options, skip_damaged=opened.seekable)
        if dry_run:
            report = _dry_run(opened, destination, decryptor, options, progress)
            report.losses = _wanted_losses(opened, only)
            report.changes = recorded_changes(opened)
            return report
        with (
            deferred(),
            TargetDir(destination) as target,
            reporting_target_errors(target),
            KernelKeys(target.fd, keyring) as kernel_keys,
        ):
            clear_stagings(target)
            restore_to = _restore_directly if opened.seekable else _restore_staged
            report = restore_to(opened, target, decryptor, options, kernel_keys, progress)
            report.losses = _wanted_losses(opened, only)
        report.changes = recorded_changes(opened)
        return report
    finally:
        if opened is not archive:
            opened.close()


def _dry_run(
    source: BackupSource,
    destination: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    decryptor: EntryDecryptor | None,
    options: RestoreOptions,
    progress: Progress | None,
) -> RestoreReport:
    report = RestoreReport()
    target = DryRunTarget(destination, options, report)
    restorer = Restorer(target, decryptor, options, report, fetch=_fetch(source))
    restorer.run(_members(source, restorer), source.total_bytes, progress)
    return report


def _restore_directly(
    source: BackupSource,
    target: TargetDir,
    decryptor: EntryDecryptor | None,
    options: RestoreOptions,
    kernel_keys: KernelKeys,
    progress: Progress | None,
) -> RestoreReport:
    """Restore a source whose members can be verified one by one."""
    report = RestoreReport()
    if options.resume:
        target.clear_temporaries()
    writer = MemberWriter(target, options, report, kernel_keys=kernel_keys)
    restorer = Restorer(writer, decryptor, options, report, fetch=_fetch(source))
    restorer.run(_members(source, restorer), source.total_bytes, progress)
    writer.finish(restorer.root)
    return report


def _restore_staged(
    source: BackupSource,
    target: TargetDir,
    decryptor: EntryDecryptor | None,
    options: RestoreOptions,
    kernel_keys: KernelKeys,
    progress: Progress | None,
) -> RestoreReport:
    """Restore a stream, which may turn out to be damaged at its end, to a staging directory first."""
    report = RestoreReport()
    with staging(target) as (staged, _):
        writer = MemberWriter(staged, options, report, kernel_keys=kernel_keys, staged=True)
        # Nothing exists in the staging directory that would have to be looked at.
        restorer = Restorer(writer, decryptor, replace(options, overwrite="never", resume=False), report)
        restorer.run(source.members(), source.total_bytes, progress)
        staged.sync()
        move = MoveStaged(staged, target, options, report)
        move.run()
    writer.finish(restorer.root, target, move.merged)
    return report


def _fetch(source: BackupSource) -> Callable[[Entry], Restorable] | None:
    """What gives the member that a further name belongs to; a stream can't."""
    return (lambda link: source.member(link.link_target)) if source.seekable else None


def _wanted_losses(source: BackupSource, only: Sequence[SelectedPath]) -> Losses:
    """What the backup lacks. With `only`, what it lacks elsewhere does not count, if paths are plain to see."""
    if not only or not source.losses:
        return source.losses
    wanted = Losses()
    path_filter = PathFilter(only)
    for loss in source.losses:
        names = () if loss.path == ROOT else tuple(loss.path.split(b"/"))
        if path_filter.selects(names, is_directory=False) or source.info.policies:
            wanted.add(loss)
    return wanted


def _members(source: BackupSource, restorer: Restorer) -> Iterable[Restorable]:
    """All members; of an archive file those that are not damaged."""
    if isinstance(source, Archive) and source.seekable:
        return undamaged_members(source, restorer.member_lost)
    return source.members()
