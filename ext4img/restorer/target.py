"""What a restore needs of a target, and of the members that it puts there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Final, NamedTuple, Protocol

from ext4img.archive.entry import Entry
from ext4img.crypto.policy import Policy
from ext4img.errors import ArchiveError, Ext4Error
from ext4img.hostfs.safe_dir import NameTaken
from ext4img.restorer.commit_queue import DirDone
from ext4img.restorer.hard_links import HardLink, HardLinks

NOTHING: Final = -1
"""In place of the number of a restored file: nothing was made."""


class Restorable(Protocol):
    """A member of an archive, or something like it. See `Member`."""

    entry: Entry
    data_size: int

    @property
    def position(self) -> int:
        """Where it starts, in bytes of everything that is restored: for progress."""

    def chunks(self) -> Iterator[tuple[int, memoryview]]:
        """(offset in the body, at most 1 MiB of it), valid until the next is drawn."""


Chunks = Iterable[tuple[int, memoryview]]
"""(offset in the file, bytes), ascending."""


class Form(NamedTuple):
    """How a file, symlink or node is made."""

    with_records: bool
    """With the records that its ciphertext, or its encrypted name, needs to be decrypted later."""
    policy: Policy | None = None
    """The kernel is to encrypt it with this, although it does not encrypt in the directory."""
    stored_bytes: int = 0
    """How much of the backup it is."""


class Target(Protocol):
    """A tree that members are restored into, with a current directory: at first the root of the tree.

    `MemberWriter` writes into a directory of the host, `DryRunTarget` only looks at it. Functions
    that make something return the number of its inode; RestoreError or OSError if they can't.
    """

    links: HardLinks
    may_discard: bool
    """Whether `discard` can remove a file that turns out to be damaged later."""

    @property
    def is_broken(self) -> bool:
        """Whether nothing can be restored any more."""

    def names(self) -> tuple[bytes, ...]:
        """The names that lead to the current directory."""

    def shown(self, name: bytes = b"") -> str:
        """The path of a name in the current directory, for messages."""

    def status(self, name: bytes) -> os.stat_result | None:
        """Lstat of a name in the current directory; None if there is no such name."""

    def readlink(self, name: bytes) -> bytes:
        """The target of a symlink in the current directory."""

    def has_exactly(self, name: bytes) -> bool:
        """Whether the current directory has a name in just this spelling."""

    def taken(self, name: bytes) -> NameTaken:
        """Why a name that exists can't be made."""

    def enter(self, name: bytes, entry: Entry, policy: Policy | None) -> None:
        """Make a directory, if need be, the current one; with `policy` the kernel is to encrypt in it."""

    def leave(self, done: DirDone | None) -> None:
        """Go back to the directory above; the one that is left gets its attributes if `done` has them."""

    def is_encrypted(self, name: bytes, policy: Policy) -> bool:
        """Whether the kernel encrypts the inode of a name in the current directory; it gets the key of `policy`."""

    def write_file(self, name: bytes | None, entry: Entry, size: int, chunks: Chunks, form: Form) -> int:
        """Make a file of `size` bytes; between its chunks there are holes. For the name None see `make_node`."""

    def make_node(self, name: bytes | None, entry: Entry, link_target: bytes, form: Form) -> int:
        """Make a symlink, device, fifo or socket.

        Without a name it is made for the further names of the entry, and removed by `remove_spares`.
        """

    def make_link(self, name: bytes, entry: Entry, first: HardLink, replace: bool) -> int:
        """Make a further name of a restored file; with `replace` instead of the file that has it."""

    def keep(self, name: bytes, entry: Entry, status: os.stat_result) -> None:
        """Take a file that exists for the restored `entry`."""

    def remove_spares(self) -> None:
        """Remove what was made without a name."""

    def discard(self, damaged: Mapping[int, ArchiveError], removed: Callable[[str, Ext4Error], None]) -> None:
        """Remove all names of damaged files, by inode number; `removed` is called with the kind of each name."""

    def writing(self) -> AbstractContextManager[None]:
        """A `with` block for everything that is made; what was made is committed at its end."""
