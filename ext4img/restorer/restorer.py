"""Entries → a directory of the host: names, contents and attributes, each put in place when it is whole."""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from ext4img.archive.body import CHUNK_BYTES
from ext4img.archive.decryption import EntryDecryptor
from ext4img.archive.entry import MODE_OF_TYPE, ROOT, VERITY, Entry
from ext4img.archive.entry_codec import records_of
from ext4img.archive.manifest_line import ManifestLine
from ext4img.archive.member import DamagedMembers
from ext4img.archive.member_paths import is_control, tree_path
from ext4img.archive.path_filter import PathFilter, SelectedPath
from ext4img.crypto.policy import NONCE_SIZE
from ext4img.errors import (
    AlteredArchiveError,
    ArchiveError,
    Ext4Error,
    NoKeyError,
    RestoreError,
    TruncatedArchiveError,
    UnsafeArchiveError,
    UnsupportedFeatureError,
)
from ext4img.hostfs.folder import Exists
from ext4img.names.paths import decode_path
from ext4img.progress import Progress
from ext4img.restorer import attributes
from ext4img.restorer.commit_queue import CommitQueue, DirDone, HardLink, PendingRename
from ext4img.restorer.entry_error import is_entry_error
from ext4img.restorer.immutable_flags import LOCKING_FLAGS, NOTHING_MERGED, ImmutableFlags
from ext4img.restorer.kernel_encryption import KernelKeys
from ext4img.restorer.report import RestoreReport
from ext4img.restorer.restorable import Restorable
from ext4img.restorer.staging import Overwrite
from ext4img.restorer.target_dir import TargetDir, failing
from ext4img.structs.inode import EXT4_CASEFOLD_FL

if TYPE_CHECKING:
    from ext4img.crypto.codec import ContentsCipher, NamesCipher

Missing = Literal["skip", "ciphertext"]
NOTHING: Final = -1
DIRECTORY: Final = 0  # in place of an inode number


class _Directory:
    """A directory of the archive on the way to the current member. `names` decrypts what is in it."""

    __slots__ = ("entry", "is_known", "made", "names")

    def __init__(self, entry: Entry, names: NamesCipher | None, *, is_known: bool = True) -> None:
        self.entry = entry
        self.is_known = is_known  # whether `entry` is what was backed up
        self.names = names
        self.made: set[bytes] | None = set() if names is not None else None  # names restored here


class Restorer:
    """One restore into a target."""

    def __init__(
        self,
        target: TargetDir,
        plaintext: EntryDecryptor | None,
        missing: Missing,
        overwrite: Overwrite,
        devices: bool,
        *,
        only: Sequence[SelectedPath] = (),
        resume: bool = False,
        fetch: Callable[[bytes], Restorable] | None = None,
        kernel_keys: KernelKeys | None = None,
        aside: bool = False,
        tolerant: bool = False,
        salvage: bool = False,
    ) -> None:
        """See `restore`. `fetch` gives a member by its path, for further names of what is not restored.

        With `kernel_keys` encrypted directories are to be encrypted ones again. With `aside` all
        that is restored is thrown away unless all of it is whole: names are given at once. With
        `tolerant` a damaged member is left out, and the rest goes on. With `salvage` an archive
        that ends too early has its end there.
        """
        self.report = RestoreReport()
        self.root: Entry | None = None
        self._target = target
        self._plaintext = plaintext
        self._missing = missing
        self._overwrite = overwrite
        self._devices = devices
        self._chosen = PathFilter(only) if only else None
        self._resume = resume
        self._fetch = fetch
        self._kernel_keys = kernel_keys
        self._way: list[_Directory] = []
        self._plain = memoryview(bytearray(CHUNK_BYTES))  # a chunk's plaintext
        self._left_out = b""  # a directory that is left out, with all below it
        self._left_out_count = 0  # 1 if what is below is missing, 0 if it is not wanted
        self._left_out_key = False  # for want of a key
        self._tolerant = tolerant
        self._salvage = salvage
        self._lost: list[bytes] = []  # damaged members since the last sound one: directories may be among them
        self._proven: set[bytes] = set()  # policies under which some name has decrypted to one
        self._links: dict[bytes, HardLink] = {}  # by the path of the first name
        self._locks = ImmutableFlags()
        self._inherits_acl = target.has_default_acl()
        self._publication: CommitQueue | None = None
        self._made = NOTHING  # the inode number of what the current member became
        self._made_by_place = array("q")  # of each member, where it may turn out to be damaged
        self.unwanted: dict[tuple[int, int], ArchiveError] = {}
        """Device and inode of what was restored aside and is damaged."""
        if not aside:
            self._publication = CommitQueue(
                target, bool(overwrite), self._refused, self._finish_directory, is_entry_error
            )

    def run(self, members: Iterable[Restorable], total: int | None, progress: Progress | None = None) -> None:
        """Restore all members, parents before children, of `total` bytes if that is known.

        Directories get their attributes when their last child is there.
        """
        publication = self._publication
        try:
            with failing(self._target):
                try:
                    for member in members:
                        self._made = NOTHING
                        self._take(member)
                        if publication is None:
                            self._made_by_place.append(self._made)
                        if progress is not None:
                            progress(member.position + member.data_size, total)
                except DamagedMembers as damaged:
                    self._tell_apart(damaged)
                except TruncatedArchiveError as error:
                    if not self._salvage:
                        raise
                    self.report.leave_out(error)
                while len(self._way) > 1:
                    self._leave()
                if publication is not None:
                    publication.settle()
        except BaseException:
            if publication is not None:
                publication.rescue()
            raise
        finally:
            if publication is not None:
                publication.close()
        if self._chosen is not None:
            self._chosen.check()

    def _tell_apart(self, damaged: DamagedMembers) -> None:
        """Note what was restored of damaged members, which are known to be so only now; else raise."""
        for place, error in damaged.errors.items():
            made = self._made_by_place[place] if 0 <= place < len(self._made_by_place) else DIRECTORY
            if made == DIRECTORY:
                raise damaged
            if made != NOTHING:
                self._give_up(made, error)

    def _give_up(self, inode: int, error: ArchiveError) -> None:
        """What was restored aside is damaged."""
        self.unwanted[self._target.identity[0], inode] = error

    def finish_root(self, target: TargetDir) -> None:
        """Give the target itself the root's attributes."""
        if self.root is not None:
            with failing(self._target):
                self._finish_directory(target.fd, DirDone(self.root, self.root.is_encrypted))
                attributes.add_flags(target.fd, self.root.flags & LOCKING_FLAGS, self.report.unset)

    def lock(self, target: TargetDir, merged: Mapping[tuple[int, int], tuple[int, int]] = NOTHING_MERGED) -> None:
        """Make immutable and append-only what was so: when everything is at its place in `target`.

        `merged`: see `Locks.apply`.
        """
        with failing(self._target):
            self._locks.apply(target, self.report.unset, merged)

    def lose(self, line: ManifestLine, error: ArchiveError) -> None:
        """A member is damaged so that only the manifest knows of it."""
        if is_control(line.path):
            self.report.leave_out(AlteredArchiveError(f"it is damaged: {error.reason}", decode_path(line.path)))
            return
        path = tree_path(line.path, directory=False) if line.path != ROOT else ROOT
        if self._left_out and path.startswith(self._left_out):
            self.report.left_out += self._left_out_count
            return
        self.report.leave_out(AlteredArchiveError(f"its record is damaged: {error.reason}", decode_path(path)))
        self._lost.append(path)

    def _take(self, member: Restorable) -> None:
        """Restore one member, unless it is below what is left out, or of no tree."""
        entry = member.entry
        if entry.type == VERITY:
            self.report.unset["verity"] += 1
        elif self._left_out and entry.path.startswith(self._left_out):
            self.report.left_out += self._left_out_count
            self.report.no_key += self._left_out_key
        else:
            self._place(member)

    def _place(self, member: Restorable) -> None:
        """Restore one member, or note why it is left out."""
        entry = member.entry
        if entry.path == ROOT:
            self.root = entry
            self._made = DIRECTORY
            self._way.append(_Directory(entry, None))
            return
        parent = entry.parent
        if self._lost:
            self._stand_in(entry)
            if self._left_out and entry.path.startswith(self._left_out):
                return
        while len(self._way) > 1 and self._way[-1].entry.path != parent:
            self._leave()
        if not self._way or self._way[-1].entry.path != parent:
            raise UnsafeArchiveError("it is in no directory that came before it", entry.shown)
        name = b""
        try:
            name = self._name(entry)
            if self._chosen is not None and not self._is_chosen(entry, name):
                return
            self._restore(member, name)
        except (RestoreError, NoKeyError, UnsupportedFeatureError) as error:
            if self._is_broken():
                raise
            self._leave_out(error, entry)
        except AlteredArchiveError as error:
            if not self._tolerant:
                raise
            self._leave_out(error, entry)
        except FileExistsError:
            self._leave_out(self._target.taken(name), entry)
        except OSError as error:
            if not is_entry_error(error) or self._is_broken():
                raise
            where = self._target.shown(name) if name else entry.shown
            self._leave_out(RestoreError(f"it cannot be restored: {error.strerror}", where), entry)

    def _is_broken(self) -> bool:
        """Whether it is not this entry but the whole restore that cannot go on."""
        return self._publication is not None and self._publication.is_broken

    def _stand_in(self, entry: Entry) -> None:
        """Directories on the way to `entry` whose members are damaged: plain ones are made, with no attributes.

        In an encrypted one no name can be decrypted: all that is below it is left out.
        """
        lost, self._lost = self._lost, []
        if ROOT in lost:
            self._way.append(_Directory(Entry(ROOT, "dir", MODE_OF_TYPE["dir"]), None))
        for path in lost:
            if not entry.path.startswith(path + b"/"):
                continue
            directory = Entry(path, "dir", MODE_OF_TYPE["dir"] | 0o700)
            while len(self._way) > 1 and self._way[-1].entry.path != directory.parent:
                self._leave()
            try:
                if entry.stored_name is not None or self._way[-1].entry.is_encrypted:
                    raise AlteredArchiveError("the record of the directory it is in is damaged", entry.shown)
                self._target.enter(directory.name)
            except (AlteredArchiveError, RestoreError) as error:
                self._leave_out(error, directory)
                return
            if self._publication is not None:
                self._publication.enter(directory.name, self._target)
            self._way.append(_Directory(directory, None, is_known=False))

    def _name(self, entry: Entry) -> bytes:
        """The name in the target."""
        directory = self._way[-1]
        if directory.names is None or self._plaintext is None:
            return entry.name
        policy = (directory.entry.context or b"")[:-NONCE_SIZE]
        try:
            name = self._plaintext.name(entry, directory.names)
        except AlteredArchiveError:
            self._tolerant &= policy in self._proven  # else it may well be the key that is wrong
            raise
        self._proven.add(policy)
        made = directory.made
        if made is not None:
            if name in made:
                self._tolerant = False  # no damage does that
                raise AlteredArchiveError(f"its name decrypts to {name!r}, as another one's did", entry.shown)
            made.add(name)
        return name

    def _is_chosen(self, entry: Entry, name: bytes) -> bool:
        """Whether it is among the chosen paths, or leads there."""
        is_directory = entry.type == "dir" and not entry.is_link
        paths = tuple(entry.path.split(b"/")), (*self._target.names(), name)
        if self._chosen is None or self._chosen.selects(*paths, is_directory=is_directory):
            return True
        if is_directory:
            self._pass_by(entry, 0, for_want_of_key=False)
        return False

    def _restore(self, member: Restorable, name: bytes) -> None:
        entry = member.entry
        kind = "link" if entry.is_link else entry.type
        if kind != "dir" and self._stays(entry, name):
            self.report.kept += 1
            return
        if entry.is_link:
            self._link(member, name)
        elif kind == "dir":
            self._directory(entry, name)
        elif kind == "file":
            self._file(member, name)
        elif kind in ("char", "block") and not self._devices:
            self.report.unset["device node"] += 1
            return
        else:
            self._special(entry, name)
        self.report.restored[kind] = self.report.restored.get(kind, 0) + 1

    def _directory(self, entry: Entry, name: bytes) -> None:
        names = None
        if entry.is_encrypted and self._plaintext is not None:
            names = self._plaintext.names(entry)
            if names is None:
                self._without_key(entry)
        self._made = DIRECTORY
        self._target.enter(name)
        if names is not None and self._kernel_keys is not None and self._way[-1].names is None:
            self._encrypt(entry)
        if self._resume:
            self._target.clear_temporaries()
        if self._publication is not None:
            self._publication.enter(name, self._target)
        self._way.append(_Directory(entry, names))
        if not self._target.created:
            self._inherits_acl |= self._target.has_default_acl()
        elif entry.flags & EXT4_CASEFOLD_FL:  # only while it is empty
            attributes.set_casefold(self._target.fd, self.report.unset)

    def _encrypt(self, entry: Entry) -> None:
        """Give the current directory the policy that it had: what is below it gets it from there."""
        context = self._plaintext.context(entry) if self._plaintext is not None else None
        if self._kernel_keys is None or context is None:
            return
        try:
            self._kernel_keys.encrypt(self._target.fd, context.policy, entry.shown)
        except (RestoreError, NoKeyError):
            self._target.leave()
            raise

    def _leave(self) -> None:
        """The current directory is done: attributes, and back to the one above."""
        target, directory = self._target, self._way.pop()
        entry = directory.entry
        finish = None
        if directory.is_known and (target.created or self._overwrite or self._resume):
            as_stored = entry.is_encrypted and directory.names is None
            finish = DirDone(entry, as_stored or self._needs_records(entry))
            self._locks.add(target.names, target.identity, entry)
        if self._publication is not None:
            self._publication.leave(finish)
        elif finish is not None:
            self._finish_directory(target.fd, finish)
        target.leave()

    def _finish_directory(self, fd: int, finish: DirDone) -> None:
        entry = finish.entry
        if self._resume and attributes.is_finished(fd, entry.mode, entry.uid, entry.gid, entry.mtime_ns):
            return
        self._apply(fd, entry, finish.with_records)
        attributes.apply_flags(fd, entry, self.report.unset, but=LOCKING_FLAGS)

    def _file(self, member: Restorable, name: bytes) -> None:
        entry = member.entry
        cipher: ContentsCipher | None = None
        size = entry.body_size
        if entry.context is not None and self._plaintext is not None:
            cipher = self._plaintext.contents(entry)
            if cipher is None:
                self._without_key(entry)
            else:
                size = entry.size
                if self._kernel_keys is not None and self._way[-1].names is None:
                    self.report.unset["encryption of a file in a plain directory"] += 1
        target = self._target
        temporary = self._first_name(name)
        fd = target.create(temporary)
        try:
            self._contents(fd, member, cipher, size)
            self._apply(fd, entry, (entry.is_encrypted and cipher is None) or self._needs_records(entry))
            attributes.apply_flags(fd, entry, self.report.unset, but=LOCKING_FLAGS)
            identity = None
            if entry.links > 1 or entry.flags & LOCKING_FLAGS or self._publication is None:
                status = os.fstat(fd)
                identity = status.st_dev, status.st_ino
                self._locks.add(lambda: (*target.names(), name), identity, entry)
            self._publish(temporary, name, entry, identity, member.data_size)
        except BaseException:
            target.remove(temporary)
            raise
        finally:
            os.close(fd)

    def _contents(self, fd: int, member: Restorable, cipher: ContentsCipher | None, size: int) -> None:
        """Write the data of a file of `size` bytes; what lies between stays a hole."""
        end = 0
        for offset, part in member.chunks():
            data = part
            if cipher is not None:
                data = self._plain[: len(part)]
                cipher.decrypt_into(part, offset // cipher.data_unit_size, data)
            length = min(len(data), size - offset)
            if length <= 0:
                continue
            if length != len(data):
                data = data[:length]
            written = os.pwrite(fd, data, offset)
            while written < length:
                written += os.pwrite(fd, data[written:], offset + written)
            end = offset + written
            self.report.bytes += written
        if end != size:
            os.ftruncate(fd, size)

    def _special(self, entry: Entry, name: bytes) -> None:
        """A symlink, device, fifo or socket."""
        target = self._target
        temporary = self._first_name(name)
        decrypted = None
        if entry.type == "symlink":
            if entry.is_encrypted and self._plaintext is not None:
                decrypted = self._plaintext.target(entry)
                if decrypted is None:
                    self._without_key(entry)
            os.symlink(decrypted or entry.link_target, temporary, dir_fd=target.fd)
        else:
            device = os.makedev(*entry.rdev) if entry.type in ("char", "block") else 0
            os.mknod(temporary, stat.S_IFMT(entry.mode) | 0o600, device, dir_fd=target.fd)
        try:
            # The link in /proc leads to the inode itself, which the name might not for long.
            fd = os.open(temporary, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target.fd)
            try:
                as_stored = entry.is_encrypted and decrypted is None
                self._apply(f"/proc/self/fd/{fd}", entry, as_stored or self._needs_records(entry))
                status = os.fstat(fd)
            finally:
                os.close(fd)
            self._publish(temporary, name, entry, (status.st_dev, status.st_ino))
        except BaseException:
            target.remove(temporary)
            raise

    def _stays(self, entry: Entry, name: bytes) -> bool:
        """Whether what is in the way is to be left there, and nothing is wrong with that."""
        if self._resume and self._is_there(entry, name):
            return True
        if self._overwrite != "newer":
            return False
        status = self._target.status(name)
        if status is None or status.st_mtime_ns < entry.mtime_ns or stat.S_ISDIR(status.st_mode):
            return False
        return self._target.has_exactly(name)

    def _is_there(self, entry: Entry, name: bytes) -> bool:
        """Whether an earlier restore got as far as this entry: a name is only given to what is whole."""
        status = self._target.status(name)
        if status is None or stat.S_IFMT(status.st_mode) != stat.S_IFMT(entry.mode):
            return False
        if not self._target.has_exactly(name):
            return False
        identity = status.st_dev, status.st_ino
        if entry.is_link:
            first = self._links.get(entry.link_target)
            return first is not None and first.identity == identity
        if status.st_mtime_ns != entry.mtime_ns:
            return False
        if entry.type == "file" and status.st_size != self._size(entry):
            return False
        if entry.type == "file":
            self._locks.add(lambda: (*self._target.names(), name), identity, entry)
        if entry.links > 1:
            self._links[entry.path] = HardLink((*self._target.names(), name), identity, entry)
        return True

    def _size(self, entry: Entry) -> int:
        """How large a file will be: the true size if it is decrypted."""
        decrypted = entry.is_encrypted and self._plaintext is not None and self._plaintext.contents(entry) is not None
        return entry.size if decrypted else entry.body_size

    def _first_name(self, name: bytes) -> bytes:
        """What to call something until it may be called `name`."""
        return self._target.temporary() if self._publication is not None else name

    def _publish(
        self, temporary: bytes, name: bytes, entry: Entry, identity: tuple[int, int] | None, size: int = 0
    ) -> None:
        """Something of `size` bytes is whole: its name can be given."""
        if identity is not None:
            self._made = identity[1]
        linked = None
        if entry.links > 1 and not entry.is_link and identity is not None:
            linked = self._links[entry.path] = HardLink((*self._target.names(), temporary), identity, entry)
        if self._publication is not None:
            kind = "link" if entry.is_link else entry.type
            self._publication.add(PendingRename(temporary, name, kind, linked), size)

    def _refused(self, new: PendingRename, problem: RestoreError) -> None:
        """What was counted as restored could not get its name."""
        self._uncount(new.kind)
        self.report.leave_out(problem)

    def not_moved(self, kind: str, problem: Ext4Error) -> None:
        """What was restored aside is not to be, or can't be, where it belongs."""
        self._uncount(kind)
        self.report.leave_out(problem)

    def _uncount(self, kind: str) -> None:
        restored = self.report.restored
        restored[kind] = restored.get(kind, 0) - 1
        if restored[kind] <= 0:
            del restored[kind]

    def _link(self, member: Restorable, name: bytes) -> None:
        entry = member.entry
        first = self._links.get(entry.link_target)
        if first is None:
            if self._chosen is None or self._fetch is None:
                raise Exists(f"its first name, {decode_path(entry.link_target)!r}, was left out", entry.shown)
            # The first name is not among what was chosen; this one is restored in its stead.
            self._restore_fetched(self._fetch(entry.link_target), entry, name)
            return
        if (first.inode, first.kind) != (entry.inode, entry.type):
            raise UnsafeArchiveError(
                f"a hard link of a {entry.type}, inode {entry.inode}, to {decode_path(entry.link_target)!r},"
                f" a {first.kind}, inode {first.inode}",
                entry.shown,
            )
        first.left -= 1
        if not first.left:
            del self._links[entry.link_target]
        temporary = self._first_name(name)
        self._target.link(first.names, first.identity, temporary)
        self._publish(temporary, name, entry, first.identity)

    def _restore_fetched(self, member: Restorable, entry: Entry, name: bytes) -> None:
        """A further name as if it were the first."""
        first = member.entry
        member.entry = first._replace(path=first.path, stored_name=entry.stored_name, name_hash=entry.name_hash)
        if first.type == "file":
            self._file(member, name)
        elif first.type not in ("char", "block") or self._devices:
            self._special(member.entry, name)

    def _needs_records(self, entry: Entry) -> bool:
        """Whether its encrypted name is the one it has in the target, where the directory is now."""
        return entry.stored_name is not None and self._way[-1].names is None

    def _apply(self, where: int | str, entry: Entry, with_records: bool) -> None:
        """Attributes; where ciphertext stays ciphertext, with the records that it needs to be read."""
        xattrs = {**entry.xattrs, **records_of(entry)} if with_records else entry.xattrs
        if self._inherits_acl and entry.type != "symlink":
            attributes.drop_acls(where)
        attributes.apply(where, entry, xattrs, self.report.unset)

    def _without_key(self, entry: Entry) -> None:
        """Leave out what no key opens, unless it is wanted as ciphertext."""
        if self._missing == "skip" and self._plaintext is not None:
            context = self._plaintext.context(entry)
            raise NoKeyError.at(entry.shown, context.policy.key_id_hex if context is not None else "")

    def _leave_out(self, problem: Ext4Error, entry: Entry) -> None:
        """Note an entry that is not restored; of a directory all that is below it goes with it."""
        self.report.leave_out(problem)
        if entry.type == "dir":
            self._pass_by(entry, 1, isinstance(problem, NoKeyError))

    def _pass_by(self, directory: Entry, count: int, for_want_of_key: bool) -> None:
        """Leave out all that is below a directory."""
        self._left_out = directory.path + b"/"
        self._left_out_count = count
        self._left_out_key = for_want_of_key
