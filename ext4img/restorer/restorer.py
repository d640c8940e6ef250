"""The members of a backup, in its order, to a target: which are selected, which are skipped and why."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from ext4img.archive.decryption import EntryDecryptor
from ext4img.archive.entry import MODE_OF_TYPE, ROOT, VERITY, Entry
from ext4img.archive.manifest_line import ManifestLine
from ext4img.archive.member import DamagedMembers
from ext4img.archive.member_paths import is_control, tree_path
from ext4img.archive.path_filter import PathFilter
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
from ext4img.interruption import checkpoint
from ext4img.names.paths import decode_path
from ext4img.progress import Progress
from ext4img.restorer.commit_queue import DirDone
from ext4img.restorer.member_restorer import MemberRestorer
from ext4img.restorer.options import RestoreOptions
from ext4img.restorer.report import RestoreReport
from ext4img.restorer.target import NOTHING, Restorable, Target
from ext4img.restorer.target_dir import is_entry_error

if TYPE_CHECKING:
    from ext4img.crypto.codec import NamesCipher

_DIRECTORY: Final = -2  # in place of the number of a restored file


class _RestoredDirectory:
    """A directory on the path to the current member. `names` decrypts the names in it."""

    __slots__ = ("entry", "is_known", "made", "names")

    def __init__(self, entry: Entry, names: NamesCipher | None, *, is_known: bool = True) -> None:
        self.entry = entry
        self.is_known = is_known  # whether `entry` is what was backed up
        self.names = names
        self.made: set[bytes] = set()  # names that were decrypted here


class Restorer:
    """One restore into a target. `fetch`: see `MemberRestorer`."""

    def __init__(
        self,
        target: Target,
        decryptor: EntryDecryptor | None,
        options: RestoreOptions,
        report: RestoreReport,
        *,
        fetch: Callable[[Entry], Restorable] | None = None,
    ) -> None:
        self.report = report
        self.root: Entry | None = None
        """The entry of the target itself, once it was met."""
        self._target = target
        self._decryptor = decryptor
        self._members = MemberRestorer(target, decryptor, options, report, fetch=fetch)
        self._selected = PathFilter(options.only) if options.only else None
        self._skip_damaged = options.skip_damaged
        self._salvage = options.salvage
        self._path: list[_RestoredDirectory] = []
        self._skipped = b""  # the start of all paths in a directory that is skipped
        self._skipped_count = 0  # 1 if what is in it counts as left out, 0 if it is not selected
        self._skipped_key = False  # whether that is because no key decrypts it
        self._lost_paths: list[bytes] = []  # damaged members since the last undamaged one: maybe directories
        self._proven: set[bytes] = set()  # policies under which a name has decrypted to a valid one
        self._made = array("q")  # the inode number of each member, if it may turn out to be damaged

    def run(self, members: Iterable[Restorable], total: int | None, progress: Progress | None = None) -> None:
        """Restore all members, parents before children; `total` is their size in bytes, if known.

        Directories get their attributes after everything in them.
        """
        damaged: DamagedMembers | None = None
        may_discard = self._target.may_discard
        with self._target.writing():
            try:
                for member in members:
                    checkpoint()
                    made = self._handle(member)
                    if may_discard:
                        self._made.append(made)
                    if progress is not None:
                        progress(member.position + member.data_size, total)
            except DamagedMembers as error:
                damaged = error
            except TruncatedArchiveError as error:
                if not self._salvage:
                    raise
                self.report.skip(error)
            while len(self._path) > 1:
                self._leave()
            self._target.remove_spares()
            if damaged is not None:
                self._discard(damaged)
        if self._selected is not None:
            self._selected.check()

    def enter_unknown_root(self) -> None:
        """The root is no member: the target keeps its attributes."""
        entry = Entry(ROOT, "dir", MODE_OF_TYPE["dir"])
        self._path.append(_RestoredDirectory(entry, None, is_known=False))

    def member_lost(self, line: ManifestLine, error: ArchiveError) -> None:
        """Report a member whose header is damaged, so that only the manifest knows of it."""
        if is_control(line.path):
            self.report.skip(AlteredArchiveError(f"it is damaged: {error.reason}", decode_path(line.path)))
            return
        path = tree_path(line.path, directory=False) if line.path != ROOT else ROOT
        self._target.links.lose(path, error)
        if self._is_skipped(path):
            self.report.left_out += self._skipped_count
            return
        self.report.skip(AlteredArchiveError(f"its record is damaged: {error.reason}", decode_path(path)))
        self._lost_paths.append(path)

    def skip(self, entry: Entry, problem: Ext4Error) -> None:
        """Report an entry that is left out; of a directory everything below it is left out, too."""
        if self._is_skipped(entry.path):
            self._count_skipped()
            return
        self.report.skip(problem)
        if isinstance(problem, (ArchiveError, NoKeyError)) and entry.links > 1 and entry.type != "dir":
            self._target.links.lose(entry.path, problem)
        if entry.type == "dir":
            self._skip_subtree(entry, 1, isinstance(problem, NoKeyError))

    def _handle(self, member: Restorable) -> int:
        """Restore one member, unless it is skipped; returns the number of its inode."""
        entry = member.entry
        if entry.type == VERITY:
            self.report.not_set.add("verity")
            return NOTHING
        if self._is_skipped(entry.path):
            self._count_skipped()
            return self._pass_by(member)
        if entry.path == ROOT:
            self.root = entry
            self._path.append(_RestoredDirectory(entry, None))
            return _DIRECTORY
        if self._lost_paths:
            self._stand_in(entry)
            if self._is_skipped(entry.path):
                return self._pass_by(member)
        while len(self._path) > 1 and self._path[-1].entry.path != entry.parent:
            self._leave()
        if not self._path or self._path[-1].entry.path != entry.parent:
            raise UnsafeArchiveError("it is in no directory that came before it", entry.shown)
        return self._restore_or_skip(member)

    def _restore_or_skip(self, member: Restorable) -> int:
        """Restore one member into the current directory; errors that are about it alone are reported."""
        entry, target = member.entry, self._target
        name = b""
        try:
            name = self._decrypt_name(entry)
            if self._selected is not None and not self._is_selected(entry, name):
                return self._pass_by(member)
            if entry.type != "dir" or entry.is_link:
                return self._members.restore(member, name, self._path[-1].names is None)
            names = self._members.enter(entry, name)
            self._path.append(_RestoredDirectory(entry, names))
            return _DIRECTORY
        except (RestoreError, NoKeyError, UnsupportedFeatureError) as error:
            if target.is_broken:
                raise
            self.skip(entry, error)
        except AlteredArchiveError as error:
            if not self._skip_damaged:
                raise
            self.skip(entry, error)
            return NOTHING
        except FileExistsError:
            self.skip(entry, target.taken(name))
        except OSError as error:
            if not is_entry_error(error) or target.is_broken:
                raise
            where = target.shown(name) if name else entry.shown
            self.skip(entry, RestoreError(f"it cannot be restored: {error.strerror}", where))
        return self._pass_by(member)

    def _pass_by(self, member: Restorable) -> int:
        """A member that is not restored in its place; see `MemberRestorer.pass_by`."""
        in_plain_directory = not self._path or self._path[-1].names is None
        return self._members.pass_by(member, in_plain_directory)

    def _stand_in(self, entry: Entry) -> None:
        """Make the directories on the path to `entry` whose members are damaged, without attributes.

        In an encrypted one no name can be decrypted: everything in it is skipped.
        """
        lost_paths, self._lost_paths = self._lost_paths, []
        if ROOT in lost_paths:
            self._path.append(_RestoredDirectory(Entry(ROOT, "dir", MODE_OF_TYPE["dir"]), None))
        for path in lost_paths:
            if not entry.path.startswith(path + b"/"):
                continue
            directory = Entry(path, "dir", MODE_OF_TYPE["dir"] | 0o700)
            while len(self._path) > 1 and self._path[-1].entry.path != directory.parent:
                self._leave()
            try:
                if entry.stored_name is not None or self._path[-1].entry.is_encrypted:
                    raise AlteredArchiveError("the record of the directory it is in is damaged", entry.shown)
                self._target.enter(directory.name, directory, None)
            except (AlteredArchiveError, RestoreError) as error:
                self.skip(directory, error)
                return
            self._path.append(_RestoredDirectory(directory, None, is_known=False))

    def _leave(self) -> None:
        """Everything in the current directory is done: back to the one above."""
        directory = self._path.pop()
        done = None
        if directory.is_known:
            entry = directory.entry
            as_stored = entry.is_encrypted and directory.names is None
            name_as_stored = entry.stored_name is not None and self._path[-1].names is None
            done = DirDone(entry, as_stored or name_as_stored)
        self._target.leave(done)

    def _decrypt_name(self, entry: Entry) -> bytes:
        """The name in the target."""
        directory = self._path[-1]
        if directory.names is None or self._decryptor is None:
            return entry.name
        policy = (directory.entry.context or b"")[:-NONCE_SIZE]
        try:
            name = self._decryptor.name(entry, directory.names)
        except AlteredArchiveError:
            self._skip_damaged &= policy in self._proven  # else it may well be the key that is wrong
            raise
        self._proven.add(policy)
        if name in directory.made:
            self._skip_damaged = False  # no damage has this effect
            raise AlteredArchiveError(f"its name decrypts to {name!r}, as another one's did", entry.shown)
        directory.made.add(name)
        return name

    def _is_selected(self, entry: Entry, name: bytes) -> bool:
        """Whether it is at or below one of the paths in `only`, or a directory that leads there."""
        is_directory = entry.type == "dir" and not entry.is_link
        paths = tuple(entry.path.split(b"/")), (*self._target.names(), name)
        if self._selected is None or self._selected.selects(*paths, is_directory=is_directory):
            return True
        if is_directory:
            self._skip_subtree(entry, 0, no_key=False)
        return False

    def _is_skipped(self, path: bytes) -> bool:
        return bool(self._skipped) and path.startswith(self._skipped)

    def _count_skipped(self) -> None:
        self.report.left_out += self._skipped_count
        self.report.no_key += self._skipped_key

    def _skip_subtree(self, directory: Entry, count: int, no_key: bool) -> None:
        """Skip everything below a directory."""
        self._skipped = directory.path + b"/"
        self._skipped_count = count
        self._skipped_key = no_key

    def _discard(self, damaged: DamagedMembers) -> None:
        """Remove what was restored of damaged members, which were recognised only at the end of the stream."""
        by_inode: dict[int, ArchiveError] = {}
        for place, error in damaged.errors.items():
            made = self._made[place] if 0 <= place < len(self._made) else _DIRECTORY
            if made == _DIRECTORY:
                raise damaged
            if made != NOTHING:
                by_inode[made] = error
        if by_inode:
            self._target.discard(by_inode, self.report.revoke)
