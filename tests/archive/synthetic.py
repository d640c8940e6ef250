"""A made-up tree with one of everything, encrypted parts included, and what is true of it.

Nothing here has been on a disk: the ciphertext is made by the mirror image of what decrypts it,
whose truth the tests of crypto/ settle.
"""

from __future__ import annotations

import io
import os
import uuid
from dataclasses import dataclass, field
from typing import Any

from ext4img.archive.backup_info import BackupInfo
from ext4img.archive.body import BodyStream
from ext4img.archive.entry import MODE_OF_TYPE, ROOT, VERITY, Entry
from ext4img.archive.writer import ArchiveWriter
from ext4img.crypto.keyring import Keyring
from ext4img.crypto.policy import EncryptionContext, Policy, parse_context
from ext4img.names.nokey import nokey_name
from ext4img.structs.inode import EXT4_VERITY_FL

BLOCK = 4096
UUID = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")
KEY = bytes(range(64))
OTHER_KEY = bytes(range(64, 128))
TIMES = {
    "atime_ns": 1_700_000_000_123_456_789,
    "mtime_ns": 1_600_000_000_000_000_001,
    "ctime_ns": 1_650_000_000_500_000_000,
    "crtime_ns": 1_500_000_000_000_000_000,
}
ENCRYPT_FL = 0x800
MODES = {"dir": 0o755, "symlink": 0o777}


def context_of(key: bytes = KEY, number: int = 1, flags: int = 3) -> EncryptionContext:
    """A version 2 context under `key`; AES-256-XTS and -CTS, the nonce made from `number`."""
    identifier = Keyring().add(key).identifier
    return parse_context(bytes((2, 1, 4, flags, 0, 0, 0, 0)) + identifier + number.to_bytes(16, "big"))


def v1_context_of(descriptor: bytes, number: int = 1) -> EncryptionContext:
    """A version 1 context with any descriptor."""
    return parse_context(bytes((1, 1, 4, 0)) + descriptor + number.to_bytes(16, "big"))


@dataclass
class Tree:
    """Entries with their bodies, in the archive's order, and the plaintext by plaintext path."""

    members: list[tuple[Entry, bytes]] = field(default_factory=list)
    plain: dict[bytes, bytes | None] = field(default_factory=dict)
    policies: set[Policy] = field(default_factory=set)
    keyring: Keyring = field(default_factory=Keyring)
    number: int = 11

    def __post_init__(self) -> None:
        self.add(b"", "dir", inode=2)

    def add(self, path: bytes, kind: str, data: bytes = b"", **facts: Any) -> Entry:
        """A plain thing."""
        facts = {**TIMES, **facts}
        if "inode" not in facts:
            self.number += 1
            facts["inode"] = self.number
        if kind == "file":
            facts.setdefault("size", len(data))
            facts.setdefault("body_size", facts["size"])
            facts.setdefault("segments", ((0, len(data)),) if data else ())
            self.plain[path] = data
        if kind == "symlink":
            facts.setdefault("size", len(facts["link_target"]))
            self.plain[path] = facts["link_target"]
        mode = MODE_OF_TYPE[kind] | facts.pop("mode", MODES.get(kind, 0o644))
        entry = Entry(path or ROOT, kind, mode, **facts)
        self.members.append((entry, data if kind == "file" else b""))
        return entry

    def add_link(self, path: bytes, first: Entry, **facts: Any) -> Entry:
        """A further name of something."""
        entry = Entry(
            path,
            first.type,
            first.mode,
            is_link=True,
            link_target=first.path,
            inode=first.inode,
            links=first.links,
            flags=first.flags,
            **{**TIMES, **facts},
        )
        self.members.append((entry, b""))
        return entry

    def add_encrypted(
        self, parent: Entry, name: bytes, kind: str, context: EncryptionContext, data: bytes = b"", **facts: Any
    ) -> Entry:
        """Something with an encrypted name and, if it is a file, directory or symlink, what is in it."""
        self.policies.add(context.policy)
        self.number += 1
        number = self.number
        stored_name = self._names(parent).encrypt([name])[0] if parent.context is not None else None
        shown = nokey_name(stored_name, 0, 0) if stored_name is not None else name
        path = shown if parent.path == ROOT else parent.path + b"/" + shown
        facts = {**TIMES, "inode": number, "flags": ENCRYPT_FL, "stored_name": stored_name, **facts}
        if kind in ("file", "dir", "symlink"):
            facts["context"] = context.raw
        body = b""
        if kind == "file":
            rounded = -(-len(data) // BLOCK) * BLOCK
            cipher = self.keyring.contents_cipher(context, number, UUID.bytes, BLOCK)
            assert cipher is not None
            body = cipher.encrypt(data.ljust(rounded, b"\0"), 0) if rounded else b""
            segments = facts.pop("segments", ((0, rounded),) if rounded else ())
            body = b"".join(body[offset : offset + length] for offset, length in segments)
            facts |= {"size": len(data), "body_size": rounded, "segments": segments}
        elif kind == "symlink":
            names = self.keyring.names_cipher(context, number, UUID.bytes)
            assert names is not None
            target = names.encrypt([data], BLOCK - 3)[0]
            stored = len(target).to_bytes(2, "little") + target
            facts |= {"size": len(stored), "stored_target": stored, "link_target": nokey_name(target, 0, 0)}
        entry = Entry(path, kind, MODE_OF_TYPE[kind] | MODES.get(kind, 0o600), **facts)
        self.members.append((entry, body))
        return entry

    def _names(self, directory: Entry) -> Any:
        assert directory.context is not None
        return self.keyring.names_cipher(parse_context(directory.context), directory.inode, UUID.bytes)

    def sorted(self) -> list[tuple[Entry, bytes]]:
        """The members in the archive's order; verity trees are behind all else."""
        return sorted(
            self.members,
            key=lambda member: (member[0].type == VERITY, member[0].path.split(b"/") if member[0].path != ROOT else []),
        )

    @property
    def info(self) -> BackupInfo:
        """What the archive says of the whole."""
        policies = tuple(sorted(self.policies, key=lambda policy: (policy.version, policy.key_id)))
        return BackupInfo(UUID, BLOCK, "synthetic", ("encrypt", "extent"), 1000, policies=policies, tool="a test")

    def write(self, output: Any) -> None:
        """Write the archive."""
        with ArchiveWriter(output, self.info) as writer:
            for entry, body in self.sorted():
                writer.add(entry, BodyStream((body,)) if body else None)
            writer.finish()

    def archive(self) -> bytes:
        """The archive's bytes."""
        output = io.BytesIO()
        self.write(output)
        return output.getvalue()


def plain_tree() -> Tree:
    """One of everything that is not encrypted, with the names, sizes and attributes that trouble tars."""
    tree = Tree()
    tree.add(b".ext4img", "file", b"the tree's own, not the archive's")
    tree.add(b"a", "dir", mode=0o3775, uid=1000, gid=100)
    tree.add(b"a/character", "char", rdev=(5, 1))
    tree.add(b"a/disk", "block", rdev=(259, 70000))
    tree.add(b"a/empty", "file")
    tree.add(b"a/fifo", "fifo", xattrs={"trusted.binary": b"\0\n=\xff 12 a=b\n"})
    first = tree.add(b"a/first", "file", b"hello\n", links=3, xattrs={"user.a=b%3D": b"\xff\0", "user.empty": b""})
    tree.add_link(b"a/second", first)
    tree.add(b"a/socket", "socket")
    tree.add(b"a/symlink", "symlink", link_target=b"../\xff" * 40)
    tree.add(b"big-ids", "file", b"x", uid=4_294_967_294, gid=2_097_152, mode=0o4755)
    latin = b"caf\xe9-" * 40
    tree.add(latin, "dir")
    tree.add_link(latin + b"/third", first)
    tree.add(latin + b"/" + b"\xe9" * 200, "file", b"a name of many bytes that are no UTF-8")
    tree.add("long-ünicode-".encode() * 15, "file", b"and one that is")
    tree.add(b"deep", "dir")
    path = b"deep"
    for number in range(8):
        path += b"/" + b"%d-" % number + b"d" * 60
        tree.add(path, "dir")
    tree.add(path + b"/leaf", "file", b"a path of 500 bytes")
    sparse = tree.add(
        b"holes", "file", b"", size=1 << 33, body_size=1 << 33, segments=((4096, 4096), (1 << 20, 512)), project_id=7
    )
    tree.members[-1] = (sparse, b"A" * 4096 + b"B" * 512)
    tree.add(b"hole-only", "file", b"", size=100_000, body_size=100_000, segments=())
    caf = "café".encode()
    entry = tree.add(caf, "file", b"", size=8192, body_size=8192, segments=((4096, 4096),), unwritten=((0, 4096),))
    tree.members[-1] = (entry, b"C" * 4096)
    tree.add(b"new\nline \\ quote\" '", "file", b"!")
    tree.add(b"old", "file", b"-", mtime_ns=-1, atime_ns=-1_500_000_000, ctime_ns=15_032_385_535_999_999_999)
    tree.add(b"reserved-attribute", "file", b"r", xattrs={"trusted.ext4img.inode": b"mine", "user.b": b"1"})
    tree.add(b"verity", "file", b"v" * 5000, flags=EXT4_VERITY_FL)
    verity = Entry(b"verity", VERITY, 0, inode=tree.number, body_size=12288, segments=((0, 4096), (8192, 4096)))
    tree.members.append((verity, b"m" * 8192))
    tree.add(b"wide", "file", b"w", xattrs={f"user.{i:02}": bytes((i,)) * 65536 for i in range(20)})
    return tree


def encrypted_tree(key: bytes = KEY, context: EncryptionContext | None = None) -> Tree:
    """An encrypted directory in a plain one, with one of everything in it."""
    tree = Tree()
    policy = context if context is not None else context_of(key)
    tree.keyring.add(key, policy.policy.key_id if policy.policy.version == 1 else None)
    number = 100

    def fresh() -> EncryptionContext:
        nonlocal number
        number += 1
        return parse_context(policy.raw[:-16] + number.to_bytes(16, "big"))

    tree.add(b"plain.txt", "file", b"nothing to hide")
    top = tree.add_encrypted(tree.members[0][0], b"secret", "dir", fresh())
    data = os.urandom(0) + bytes(range(256)) * 50
    for name, contents, facts in (
        (b"small", b"hi", {}),
        (b"whole-block", b"w" * 8192, {}),
        (b"odd", data, {}),
        (b"empty", b"", {}),
        (b"n" * 255, b"long name", {}),
        (b"holes", bytes(8192) + b"h" * 5000 + bytes(7288), {"segments": ((8192, 8192),)}),
    ):
        tree.add_encrypted(top, name, "file", fresh(), contents, **facts)
        tree.plain[b"secret/" + name] = contents
    linked = tree.add_encrypted(top, b"linked", "file", fresh(), b"three names", links=3)
    tree.plain[b"secret/linked"] = b"three names"
    below = tree.add_encrypted(top, b"below", "dir", fresh())
    for parent, name, path in ((top, b"again", b"secret/again"), (below, b"x" * 200, b"secret/below/" + b"x" * 200)):
        stored = tree._names(parent).encrypt([name])[0]
        tree.add_link(parent.path + b"/" + nokey_name(stored, 0, 0), linked, stored_name=stored)
        tree.plain[path] = b"three names"
    tree.add_encrypted(top, b"link", "symlink", fresh(), b"../plain.txt")
    tree.plain[b"secret/link"] = b"../plain.txt"
    tree.add_encrypted(top, b"fifo", "fifo", fresh(), flags=0)
    # The first name in the archive's order is the one with the body; make that so.
    names = [entry for entry, _ in tree.sorted() if entry.inode == linked.inode]
    if names[0] is not linked:
        body = next(body for entry, body in tree.members if entry is linked)
        tree.members = [(entry, body) for entry, body in tree.members if entry.inode != linked.inode]
        first = linked._replace(path=names[0].path, stored_name=names[0].stored_name)
        tree.members.append((first, body))
        for other in names[1:]:
            tree.add_link(other.path, first, stored_name=other.stored_name)
    return tree
