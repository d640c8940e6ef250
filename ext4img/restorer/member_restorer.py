"""One member of a backup: decrypted if a key fits, and handed to the target."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from ext4img.archive.body import CHUNK_BYTES
from ext4img.archive.decryption import EntryDecryptor
from ext4img.archive.entry import Entry
from ext4img.crypto.policy import Policy
from ext4img.errors import Ext4Error, NoKeyError
from ext4img.hostfs.safe_dir import NameTaken
from ext4img.names.paths import decode_path
from ext4img.restorer.hard_links import HardLink, check_same_file
from ext4img.restorer.keep_rules import Existing, KeepRules
from ext4img.restorer.options import RestoreOptions
from ext4img.restorer.report import RestoreReport
from ext4img.restorer.target import NOTHING, Form, Restorable, Target

if TYPE_CHECKING:
    from ext4img.crypto.codec import ContentsCipher, NamesCipher

_DEVICES = ("char", "block")
# A file system has no hard links, or no more of this file, or not between these directories. EXDEV is
# also that of fscrypt, for directories of another policy.
_NO_LINK: Final = frozenset(
    (
        errno.EACCES,
        errno.EMLINK,
        errno.ENOSYS,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EXDEV,
    )
)
_LINK: Final = "hard link"


class MemberRestorer:
    """Restores single members into the current directory of the target.

    `fetch` gives the member of the file that a further name belongs to: if the first name was not
    restored, the file is restored under this one. A stream has none: there such files are made
    without a name when they pass by, see `pass_by`.
    """

    def __init__(
        self,
        target: Target,
        decryptor: EntryDecryptor | None,
        options: RestoreOptions,
        report: RestoreReport,
        *,
        fetch: Callable[[Entry], Restorable] | None = None,
    ) -> None:
        self._target = target
        self._decryptor = decryptor
        self._options = options
        self._report = report
        self._encrypt = options.encrypt
        self._fetch = fetch
        self._keep_rules = KeepRules(target, decryptor, options)
        self._drawn: Restorable | None = None
        self._plain = memoryview(bytearray(CHUNK_BYTES))  # a chunk's plaintext

    def enter(self, entry: Entry, name: bytes) -> NamesCipher | None:
        """Restore a directory and make it the current one; returns what decrypts the names in it."""
        names = None
        if entry.is_encrypted and self._decryptor is not None:
            names = self._decryptor.names(entry)
            if names is None:
                self._require_ciphertext_wanted(entry)
        self._target.enter(name, entry, self._policy(entry))
        self._report.count("dir")
        return names

    def restore(self, member: Restorable, name: bytes, in_plain_directory: bool) -> int:
        """Restore what is no directory; returns the number of its inode, or `NOTHING`.

        `in_plain_directory`: encrypted names are not decrypted in the directory where it is.
        """
        entry = member.entry
        if entry.type in _DEVICES and not self._options.devices:
            if self._keep_rules.keeps(entry, name):
                self._report.kept += 1
            else:
                self._report.not_set.add("device node")
            return NOTHING
        first = self._target.links.find(entry) if entry.is_link else None
        if entry.is_link and first is None:
            member = self._first_name_of(entry)
            entry = member.entry
        policy = self._policy(entry) if self._encrypt and in_plain_directory and first is None else None
        existing = self._keep_rules.decide(entry, name, first, policy)
        if existing is Existing.KEEP:
            self._report.kept += 1
            return NOTHING
        if first is not None:
            made = self._link(entry, name, first, existing is Existing.REPLACE)
            if made is not None:
                return made
            member = self._first_name_of(entry)
            entry = member.entry
        made = self._file_or_node(member, name, in_plain_directory)
        self._report.count(entry.type)
        if first is not None:
            self._report.not_set.add(_LINK)
        return made

    def pass_by(self, member: Restorable, in_plain_directory: bool) -> int:
        """A file of several names is not restored under its first one: make it for those that follow.

        Returns the number of its inode, or `NOTHING`: where members can be fetched, that is not necessary.
        """
        entry = member.entry
        if self._fetch is not None or entry.links < 2 or entry.is_link or entry.type == "dir":
            return NOTHING
        if member is self._drawn or (entry.type in _DEVICES and not self._options.devices):
            return NOTHING
        try:
            return self._file_or_node(member, None, in_plain_directory)
        except NoKeyError as error:
            self._target.links.lose(entry.path, error)
            return NOTHING

    def _link(self, entry: Entry, name: bytes, first: HardLink, replace: bool) -> int | None:
        """Link a further name; None if that is not possible here, so that it has to be a file of its own."""
        self._target.links.use(entry, first)
        kind = first.next_kind()
        try:
            made = self._target.make_link(name, entry, first, replace)
        except OSError as error:
            if error.errno not in _NO_LINK or self._fetch is None or isinstance(error, Ext4Error):
                raise
            return None
        self._report.count(kind)
        return made

    def _first_name_of(self, link: Entry) -> Restorable:
        """The member that a further name belongs to; to be restored under this name."""
        lost = self._target.links.why_lost(link)
        if lost is not None and isinstance(lost, NoKeyError):
            raise lost
        if self._fetch is None or lost is not None:
            raise NameTaken(f"its first name, {decode_path(link.link_target)!r}, was left out", link.shown)
        member = self._fetch(link)
        first = member.entry
        check_same_file(link, first.type, first.inode)
        member.entry = first._replace(stored_name=link.stored_name, name_hash=link.name_hash)
        return member

    def _file_or_node(self, member: Restorable, name: bytes | None, in_plain_directory: bool) -> int:
        if member.entry.type == "file":
            return self._file(member, name, in_plain_directory)
        return self._node(member.entry, name, in_plain_directory)

    def _file(self, member: Restorable, name: bytes | None, in_plain_directory: bool) -> int:
        entry = member.entry
        size = entry.body_size
        cipher = None
        if entry.is_encrypted and self._decryptor is not None:
            cipher = self._decryptor.contents(entry)
            if cipher is None:
                self._require_ciphertext_wanted(entry)
            else:
                size = entry.size
        chunks = member.chunks() if cipher is None else self._decrypted(member, cipher)
        if self._fetch is None and entry.links > 1:
            chunks = self._noted(member, chunks)
        form = self._form(entry, entry.is_encrypted and cipher is None, in_plain_directory, member.data_size)
        return self._target.write_file(name, entry, size, chunks, form)

    def _noted(self, member: Restorable, chunks: Iterator[tuple[int, memoryview]]) -> Iterator[tuple[int, memoryview]]:
        """The same; notes that they were drawn, and so can't be drawn again."""
        self._drawn = member
        yield from chunks

    def _decrypted(self, member: Restorable, cipher: ContentsCipher) -> Iterator[tuple[int, memoryview]]:
        for offset, chunk in member.chunks():
            plain = self._plain[: len(chunk)]
            cipher.decrypt_into(chunk, offset // cipher.data_unit_size, plain)
            yield offset, plain

    def _node(self, entry: Entry, name: bytes | None, in_plain_directory: bool) -> int:
        """A symlink, device, fifo or socket."""
        link_target = None
        if entry.type == "symlink" and entry.is_encrypted and self._decryptor is not None:
            link_target = self._decryptor.target(entry)
            if link_target is None:
                self._require_ciphertext_wanted(entry)
        form = self._form(entry, entry.is_encrypted and link_target is None, in_plain_directory, 0)
        return self._target.make_node(name, entry, link_target or entry.link_target, form)

    def _form(self, entry: Entry, as_stored: bool, in_plain_directory: bool, stored_bytes: int) -> Form:
        """`as_stored`: what is encrypted stays so."""
        with_records = as_stored or (in_plain_directory and entry.stored_name is not None)
        policy = self._policy(entry) if self._encrypt and in_plain_directory and not as_stored else None
        return Form(with_records, policy, stored_bytes)

    def _policy(self, entry: Entry) -> Policy | None:
        """The policy with which the kernel is to encrypt an entry again, if that is wanted."""
        if not self._encrypt or self._decryptor is None or not entry.is_encrypted:
            return None
        context = self._decryptor.context(entry)
        return context.policy if context is not None and self._decryptor.keyring.has(context.policy) else None

    def _require_ciphertext_wanted(self, entry: Entry) -> None:
        """NoKeyError, unless entries without a key are restored as ciphertext."""
        if self._options.missing == "skip" and self._decryptor is not None:
            context = self._decryptor.context(entry)
            raise NoKeyError.at(entry.shown, context.policy.key_id_hex if context is not None else "")
