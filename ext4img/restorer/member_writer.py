"""Files, links and directories as they are made in a directory of the host, and what comes at the end.

Each file is written under a temporary name, gets its attributes, and its name when the disk has it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from ext4img.archive.entry import Entry
from ext4img.archive.entry_codec import records_of
from ext4img.crypto.policy import Policy
from ext4img.errors import ArchiveError, Ext4Error, NoKeyError, RestoreError
from ext4img.hostfs.ioctl import is_encrypted
from ext4img.hostfs.rename import rename_new
from ext4img.hostfs.safe_dir import NEW_FILE, Identity, NameTaken
from ext4img.interruption import checkpoint
from ext4img.restorer import attributes
from ext4img.restorer.attributes import IMMUTABLE_FLAGS
from ext4img.restorer.commit_queue import CommitQueue, DirDone, PendingRename
from ext4img.restorer.hard_links import HardLink, HardLinks
from ext4img.restorer.immutable_flags import NOTHING_MERGED, ImmutableFlags
from ext4img.restorer.kernel_encryption import KernelKeys
from ext4img.restorer.options import RestoreOptions
from ext4img.restorer.report import RestoreReport
from ext4img.restorer.scratch import Scratch
from ext4img.restorer.staging import remove_files
from ext4img.restorer.target import NOTHING, Chunks, Form
from ext4img.restorer.target_dir import TargetDir, reporting_target_errors
from ext4img.structs.inode import EXT4_CASEFOLD_FL


class MemberWriter:
    """The `Target` that is a directory of the host."""

    def __init__(
        self,
        directory: TargetDir,
        options: RestoreOptions,
        report: RestoreReport,
        *,
        kernel_keys: KernelKeys | None = None,
        staged: bool = False,
    ) -> None:
        """With `staged` files get their names at once: `directory` is removed unless all of the restore succeeds."""
        self.links = HardLinks()
        self.may_discard = staged
        self._directory = directory
        self._options = options
        self._report = report
        self._kernel_keys = kernel_keys
        self._immutable_flags = ImmutableFlags()
        self._scratch = Scratch(directory, kernel_keys)
        self._inherits_acl = directory.has_default_acl()
        self._queue = (
            None if staged else CommitQueue(directory, options.replaces, self._refused, self._finish_directory)
        )

    @property
    def is_broken(self) -> bool:
        """See `Target`."""
        return self._queue is not None and self._queue.is_broken

    def names(self) -> tuple[bytes, ...]:
        """See `Target`."""
        return self._directory.names()

    def shown(self, name: bytes = b"") -> str:
        """See `Target`."""
        return self._directory.shown(name)

    def status(self, name: bytes) -> os.stat_result | None:
        """See `Target`."""
        return self._directory.status(name)

    def readlink(self, name: bytes) -> bytes:
        """See `Target`."""
        return os.readlink(name, dir_fd=self._directory.fd)

    def has_exactly(self, name: bytes) -> bool:
        """See `Target`."""
        return self._directory.has_exactly(name)

    def taken(self, name: bytes) -> NameTaken:
        """See `Target`."""
        return self._directory.taken(name)

    def enter(self, name: bytes, entry: Entry, policy: Policy | None) -> None:
        """See `Target`."""
        directory = self._directory
        # A directory that gets its mode again may be opened until then.
        force = self._options.merges_attributes
        directory.enter(name, force=force)
        if policy is not None and self._kernel_keys is not None:
            try:
                self._kernel_keys.encrypt(directory.fd, policy, entry.shown)
            except (RestoreError, NoKeyError):
                directory.leave()
                raise
        if self._options.resume and not directory.created:
            directory.clear_temporaries()
        if self._queue is not None:
            self._queue.enter(name, directory, force=force or directory.created)
        if not directory.created:
            self._inherits_acl |= directory.has_default_acl()
        if entry.flags & EXT4_CASEFOLD_FL:  # it can be set only while the directory is empty
            attributes.set_casefold(directory.fd, self._report.not_set)

    def leave(self, done: DirDone | None) -> None:
        """See `Target`."""
        directory = self._directory
        if done is not None and not directory.created and not self._options.merges_attributes:
            entry = done.entry
            if attributes.differs(directory.fd, entry.mode, entry.uid, entry.gid, entry.xattrs):
                self._report.kept_directories += 1
            done = None
        if done is not None:
            self._immutable_flags.note(done.entry, directory.names, directory.identity)
        if self._queue is not None:
            self._queue.leave(done)
        elif done is not None:
            self._finish_directory(directory.fd, done)
        directory.leave()

    def is_encrypted(self, name: bytes, policy: Policy) -> bool:
        """See `Target`."""
        assert self._kernel_keys is not None
        self._kernel_keys.add(policy, self.shown(name))
        return is_encrypted(self._directory.fd, name)

    def write_file(self, name: bytes | None, entry: Entry, size: int, chunks: Chunks, form: Form) -> int:
        """See `Target`."""
        folder, temporary = self._place(name)
        if form.policy is None:
            fd = os.open(temporary, NEW_FILE, 0o600, dir_fd=folder)
        else:
            inside = self._scratch.encrypted(form.policy, entry.shown)
            fd = os.open(temporary, NEW_FILE, 0o600, dir_fd=inside)
        try:
            if form.policy is not None:
                _move(temporary, inside, folder)
            self._write_contents(fd, chunks, size)
            self._apply(fd, entry, form.with_records)
            attributes.apply_flags(fd, entry, self._report.not_set)
            if not (entry.links > 1 or entry.flags & IMMUTABLE_FLAGS or self._queue is None):
                return self._commit(temporary, name, entry, None, size, form.stored_bytes)
            status = os.fstat(fd)
            identity = status.st_dev, status.st_ino
            return self._commit(temporary, name, entry, identity, size, form.stored_bytes)
        except BaseException:
            _remove(temporary, folder)
            raise
        finally:
            os.close(fd)

    def make_node(self, name: bytes | None, entry: Entry, link_target: bytes, form: Form) -> int:
        """See `Target`."""
        folder, temporary = self._place(name)
        inside = folder if form.policy is None else self._scratch.encrypted(form.policy, entry.shown)
        if entry.type == "symlink":
            os.symlink(link_target, temporary, dir_fd=inside)
        else:
            device = os.makedev(*entry.rdev) if entry.type in ("char", "block") else 0
            os.mknod(temporary, stat.S_IFMT(entry.mode) | 0o600, device, dir_fd=inside)
        try:
            if form.policy is not None:
                _move(temporary, inside, folder)
            # The link in /proc leads to the inode itself; the name might lead to another one soon.
            fd = os.open(temporary, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                self._apply(f"/proc/self/fd/{fd}", entry, form.with_records)
                status = os.fstat(fd)
            finally:
                os.close(fd)
            # No call sets them, but ext4 has those that a directory hands down to what is made in it.
            attributes.count_flags(entry.flags, self._report.not_set)
            return self._commit(temporary, name, entry, (status.st_dev, status.st_ino), status.st_size, 0)
        except BaseException:
            _remove(temporary, folder)
            raise

    def make_link(self, name: bytes, entry: Entry, first: HardLink, replace: bool) -> int:
        """See `Target`."""
        directory = self._directory
        temporary = self._temporary(name)
        assert first.names is not None
        directory.link(first.names, first.identity, temporary)
        if not first.count:  # until now it had no name that stays
            self._immutable_flags.note(entry, first, first.identity)
        self._named(temporary, name, first, replace)
        return first.identity[1]

    def keep(self, name: bytes, entry: Entry, status: os.stat_result) -> None:
        """See `Target`. An interrupted restore may not have set the immutable flags of its files yet."""
        names = (*self._directory.names(), name)
        identity = status.st_dev, status.st_ino
        if self._options.resume and entry.type == "file":
            self._immutable_flags.note(entry, lambda: names, identity)
        if entry.links > 1:
            link = self.links.add(entry, identity, status.st_size)
            link.made(names)

    def remove_spares(self) -> None:
        """See `Target`."""
        self._scratch.close()

    def discard(self, damaged: Mapping[int, ArchiveError], removed: Callable[[str, Ext4Error], None]) -> None:
        """See `Target`."""
        device = self._directory.identity[0]
        remove_files(self._directory, {(device, inode): error for inode, error in damaged.items()}, removed)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """See `Target`. After a failure complete files still get their names."""
        queue = self._queue
        try:
            with reporting_target_errors(self._directory):
                yield
                if queue is not None:
                    queue.settle()
        except BaseException:
            if queue is not None:
                queue.rescue()
            raise
        finally:
            self._scratch.close()
            if queue is not None:
                queue.close()

    def finish(
        self,
        root: Entry | None,
        target: TargetDir | None = None,
        merged: Mapping[Identity, Identity] = NOTHING_MERGED,
    ) -> None:
        """End a restore or an extraction: set immutable flags and the root's attributes, and synchronise.

        `root` is the entry of the target itself, if there is one. With `target` everything was
        moved there; for `merged` see `ImmutableFlags.apply`.
        """
        target = self._directory if target is None else target
        with reporting_target_errors(target):
            self._immutable_flags.apply(target, self._report.not_set, merged)
            if root is not None and (target.is_new or self._options.merges_attributes):
                self._finish_directory(target.fd, DirDone(root, root.is_encrypted))
                attributes.add_flags(target.fd, root.flags & IMMUTABLE_FLAGS, self._report.not_set)
            target.sync()

    def _temporary(self, name: bytes) -> bytes:
        """What a file is called until it gets its name."""
        return name if self._queue is None else self._directory.temporary()

    def _write_contents(self, fd: int, chunks: Chunks, size: int) -> None:
        end = 0
        for offset, chunk in chunks:
            checkpoint()
            length = min(len(chunk), size - offset)
            if length <= 0:
                continue
            data = chunk if length == len(chunk) else chunk[:length]
            written = os.pwrite(fd, data, offset)
            while written < length:
                written += os.pwrite(fd, data[written:], offset + written)
            end = offset + written
            self._report.bytes += written
        if end != size:
            os.ftruncate(fd, size)

    def _apply(self, where: int | str, entry: Entry, with_records: bool) -> None:
        """Set attributes, and with them the records that ciphertext needs to be decrypted later."""
        xattrs = {**entry.xattrs, **records_of(entry)} if with_records else entry.xattrs
        if self._inherits_acl and entry.type != "symlink":
            attributes.drop_acls(where)
        attributes.apply(where, entry, xattrs, self._report.not_set)

    def _finish_directory(self, fd: int, done: DirDone) -> None:
        entry = done.entry
        if self._options.resume and attributes.is_finished(fd, entry.mode, entry.uid, entry.gid, entry.mtime_ns):
            return
        self._apply(fd, entry, done.with_records)
        attributes.apply_flags(fd, entry, self._report.not_set)

    def _place(self, name: bytes | None) -> tuple[int, bytes]:
        """The directory where a file is made, and what it is called there; None: without a name in the tree."""
        if name is not None:
            return self._directory.fd, self._temporary(name)
        return self._scratch.spares()[0], self._directory.temporary()

    def _commit(
        self,
        temporary: bytes,
        name: bytes | None,
        entry: Entry,
        identity: Identity | None,
        size: int,
        stored_bytes: int,
    ) -> int:
        """A file is complete and can get its name. Returns the number of its inode, if known."""
        if identity is None:
            assert self._queue is not None
            assert name is not None
            self._queue.add(PendingRename(temporary, name, entry.type), stored_bytes)
            return NOTHING
        link = self.links.add(entry, identity, size) if entry.links > 1 else None
        if name is None:
            assert link is not None
            link.spare((*self._scratch.spares()[1], temporary))
            return identity[1]
        where = link if link is not None else lambda: (*self._directory.names(), name)
        self._immutable_flags.note(entry, where, identity)
        if link is not None:
            self._named(temporary, name, link, False, stored_bytes)
        elif self._queue is not None:
            self._queue.add(PendingRename(temporary, name, entry.type), stored_bytes)
        return identity[1]

    def _named(self, temporary: bytes, name: bytes, link: HardLink, replace: bool, stored_bytes: int = 0) -> None:
        """A name of a file of several names was made."""
        link.made((*self._directory.names(), temporary))
        if self._queue is not None:
            self._queue.add(PendingRename(temporary, name, link.kind, link, replace), stored_bytes)

    def _refused(self, kind: str, problem: RestoreError) -> None:
        self._report.revoke(kind, problem)


def _move(name: bytes, folder: int, new_folder: int) -> None:
    """Move a file that was made in a directory where the kernel encrypts; removed if that fails."""
    try:
        rename_new(name, folder, name, new_folder)
    except BaseException:
        _remove(name, folder)
        raise


def _remove(name: bytes, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
