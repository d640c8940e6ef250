"""One member of a backup: decrypted if a key fits, and handed to the target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ext4img.archive.body import CHUNK_BYTES
from ext4img.archive.decryption import EntryDecryptor
from ext4img.archive.entry import Entry
from ext4img.errors import NoKeyError
from ext4img.hostfs.safe_dir import NameTaken
from ext4img.names.paths import decode_path
from ext4img.restorer.hard_links import check_same_file
from ext4img.restorer.keep_rules import KeepRules
from ext4img.restorer.options import RestoreOptions
from ext4img.restorer.report import RestoreReport
from ext4img.restorer.target import NOTHING, Restorable, Target

if TYPE_CHECKING:
    from ext4img.crypto.codec import ContentsCipher, NamesCipher

_DEVICES = ("char", "block")


class MemberRestorer:
    """Restores single members into the current directory of the target.

    `fetch` gives a member by its path in the archive: a further name whose first name is not
    selected is restored as the first.
    """

    def __init__(
        self,
        target: Target,
        decryptor: EntryDecryptor | None,
        options: RestoreOptions,
        report: RestoreReport,
        *,
        fetch: Callable[[bytes], Restorable] | None = None,
    ) -> None:
        self._target = target
        self._decryptor = decryptor
        self._options = options
        self._report = report
        self._encrypt = options.encrypt
        self._fetch = fetch if options.only else None
        self._keep_rules = KeepRules(target, decryptor, options)
        self._plain = memoryview(bytearray(CHUNK_BYTES))  # a chunk's plaintext

    def enter(self, entry: Entry, name: bytes, in_plain_directory: bool) -> NamesCipher | None:
        """Restore a directory and make it the current one; returns what decrypts the names in it."""
        names = policy = None
        if entry.is_encrypted and self._decryptor is not None:
            names = self._decryptor.names(entry)
            if names is None:
                self._require_ciphertext_wanted(entry)
            elif self._encrypt and in_plain_directory:  # below it the kernel inherits the policy
                context = self._decryptor.context(entry)
                policy = None if context is None else context.policy
        self._target.enter(name, entry, policy)
        self._report.count("dir")
        return names

    def restore(self, member: Restorable, name: bytes, in_plain_directory: bool) -> int:
        """Restore what is no directory; returns the number of its inode, or `NOTHING`.

        `in_plain_directory`: encrypted names are not decrypted in the directory where it is.
        """
        entry = member.entry
        if self._keep_rules.keeps(entry, name):
            self._report.kept += 1
            return NOTHING
        if entry.type in _DEVICES and not self._options.devices:
            self._report.not_set.add("device node")
            return NOTHING
        if entry.is_link:
            first = self._target.links.use(entry)
            if first is not None:
                made = self._target.make_link(name, entry, first)
                self._report.count("link")
                return made
            member = self._first_name_of(entry)
            entry = member.entry
        if entry.type == "file":
            made = self._file(member, name, in_plain_directory)
        else:
            made = self._node(entry, name, in_plain_directory)
        self._report.count(entry.type)
        return made

    def _first_name_of(self, link: Entry) -> Restorable:
        """The member that a further name belongs to, if that was not selected; to be restored under this name."""
        if self._fetch is None:
            raise NameTaken(f"its first name, {decode_path(link.link_target)!r}, was left out", link.shown)
        member = self._fetch(link.link_target)
        first = member.entry
        check_same_file(link, first.type, first.inode)
        member.entry = first._replace(stored_name=link.stored_name, name_hash=link.name_hash)
        return member

    def _file(self, member: Restorable, name: bytes, in_plain_directory: bool) -> int:
        entry = member.entry
        size = entry.body_size
        cipher = None
        if entry.is_encrypted and self._decryptor is not None:
            cipher = self._decryptor.contents(entry)
            if cipher is None:
                self._require_ciphertext_wanted(entry)
            else:
                size = entry.size
                if self._encrypt and in_plain_directory:
                    self._report.not_set.add("encryption of a file in a plain directory")
        chunks = member.chunks() if cipher is None else self._decrypted(member, cipher)
        as_stored = entry.is_encrypted and cipher is None
        with_records = as_stored or (in_plain_directory and entry.stored_name is not None)
        return self._target.write_file(name, entry, size, chunks, member.data_size, with_records)

    def _decrypted(self, member: Restorable, cipher: ContentsCipher) -> Iterator[tuple[int, memoryview]]:
        for offset, chunk in member.chunks():
            plain = self._plain[: len(chunk)]
            cipher.decrypt_into(chunk, offset // cipher.data_unit_size, plain)
            yield offset, plain

    def _node(self, entry: Entry, name: bytes, in_plain_directory: bool) -> int:
        """A symlink, device, fifo or socket."""
        link_target = None
        if entry.type == "symlink" and entry.is_encrypted and self._decryptor is not None:
            link_target = self._decryptor.target(entry)
            if link_target is None:
                self._require_ciphertext_wanted(entry)
        as_stored = entry.is_encrypted and link_target is None
        with_records = as_stored or (in_plain_directory and entry.stored_name is not None)
        return self._target.make_node(name, entry, link_target or entry.link_target, with_records)

    def _require_ciphertext_wanted(self, entry: Entry) -> None:
        """NoKeyError, unless entries without a key are restored as ciphertext."""
        if self._options.missing == "skip" and self._decryptor is not None:
            context = self._decryptor.context(entry)
            raise NoKeyError.at(entry.shown, context.policy.key_id_hex if context is not None else "")
