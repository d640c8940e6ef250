"""The rules for nodes: those that the kernel or e2fsck would not accept are refused, with their paths."""

from __future__ import annotations

from typing import Final

from ext4img.crypto.policy import NONCE_SIZE, parse_context
from ext4img.errors import BuildError, CorruptionError, UnsupportedFeatureError
from ext4img.mkfs.directories import PlannedDirectory
from ext4img.mkfs.geometry import FIRST_INODE, MAX_INODES
from ext4img.mkfs.nodes import Node, show_path
from ext4img.mkfs.options import FeatureChoice, Options
from ext4img.structs.directory import EXT4_FT_DIR, EXT4_FT_REG_FILE, EXT4_FT_SYMLINK, EXT4_NAME_LEN
from ext4img.structs.fscrypt import FSCRYPT_FNAME_MIN_MSG_LEN
from ext4img.structs.inode import (
    EXT4_APPEND_FL,
    EXT4_CASEFOLD_FL,
    EXT4_ENCRYPT_FL,
    EXT4_IMMUTABLE_FL,
    EXT4_ROOT_INO,
    EXT4_VERITY_FL,
)
from ext4img.volume.features import Compat, Incompat, RoCompat
from ext4img.volume.xattr import ENCRYPTION_CONTEXT

ENCRYPTED_TYPES: Final = (
    EXT4_FT_REG_FILE,
    EXT4_FT_DIR,
    EXT4_FT_SYMLINK,
)  # can be encrypted, and must be in encrypted directories


def check_name(node: Node, directory: PlannedDirectory) -> None:
    """BuildError unless the name is possible in its directory."""
    name = node.path[-1]
    if not 1 <= len(name) <= EXT4_NAME_LEN:
        raise BuildError(f"a name of {len(name)} bytes: it must have 1 to {EXT4_NAME_LEN}", show_path(node.path))
    if directory.encrypted:
        if len(name) < FSCRYPT_FNAME_MIN_MSG_LEN:
            raise BuildError(f"an encrypted name has at least {FSCRYPT_FNAME_MIN_MSG_LEN} bytes", show_path(node.path))
        if directory.casefolded and len(node.name_hash) != 8:
            raise BuildError("in an encrypted case-insensitive directory a name needs its hash", show_path(node.path))
    elif name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise BuildError("not a valid name", show_path(node.path))


def check_flags(
    node: Node, kind: int, directory: PlannedDirectory | None, options: Options, choice: FeatureChoice
) -> bytes | None:
    """Check that flags, type and directory of a node agree; `choice` gets the features that they need.

    Returns its encryption policy (the context without the nonce), or None.
    """
    flags = node.flags
    path = node.path
    context = node.xattrs.get(ENCRYPTION_CONTEXT)
    if not flags and not node.project_id and context is None and (directory is None or not directory.encrypted):
        return None
    if node.project_id:
        choice.need(RoCompat.PROJECT, f"project {node.project_id}", path)
        if not options.extra_size:
            raise BuildError("a project needs inodes of more than 128 bytes", show_path(path))
    if flags & (EXT4_IMMUTABLE_FL | EXT4_APPEND_FL) and kind not in (EXT4_FT_REG_FILE, EXT4_FT_DIR):
        raise BuildError("only files and directories can be immutable or append-only", show_path(path))
    if flags & EXT4_CASEFOLD_FL:
        if kind != EXT4_FT_DIR:
            raise BuildError("only directories are case-insensitive", show_path(path))
        choice.need(Incompat.CASEFOLD, "a case-insensitive directory", path)
    if flags & EXT4_VERITY_FL:
        if kind != EXT4_FT_REG_FILE:
            raise BuildError("only regular files have verity", show_path(path))
        choice.need(RoCompat.VERITY, "a file with verity", path)
    encrypted = bool(flags & EXT4_ENCRYPT_FL)
    if encrypted != (context is not None):
        raise BuildError("encrypt flag and encryption context require each other", show_path(path))
    if context is None:
        if directory is not None and directory.encrypted and kind in ENCRYPTED_TYPES:
            raise BuildError("not encrypted, but in an encrypted directory", show_path(path))
        return None
    if kind not in ENCRYPTED_TYPES or not path:
        raise BuildError("special files and the root can't be encrypted", show_path(path))
    policy = context[:-NONCE_SIZE]
    if directory is not None and directory.encrypted and directory.policy != policy:
        raise BuildError("its encryption policy is not that of its directory", show_path(path))
    choice.need(Incompat.ENCRYPT, "an encrypted file", path)
    return policy


def number_to_keep(node: Node, options: Options, choice: FeatureChoice) -> int:
    """The inode's number if it is kept: because ciphertext depends on it, or because all are. Else 0."""
    keep = options.keep_inodes
    context = node.xattrs.get(ENCRYPTION_CONTEXT)
    if context is not None:
        try:
            policy = parse_context(context, supported_only=False).policy
        except (CorruptionError, UnsupportedFeatureError) as error:
            raise BuildError(str(error), show_path(node.path)) from error
        if policy.needs_inode_number:
            choice.need(Compat.STABLE_INODES, f"a policy with {policy.flag_names[-1]}", node.path)
            if node.inode is None:
                raise BuildError("its ciphertext depends on the inode number, which is not given", show_path(node.path))
            keep = True
    number = node.inode
    if not keep or number is None:
        return 0
    if not 0 < number <= MAX_INODES:
        raise BuildError(f"{number} is not a valid inode number", show_path(node.path))
    if not node.path:
        if number != EXT4_ROOT_INO:
            raise BuildError(f"the root has inode number {EXT4_ROOT_INO}, not {number}", show_path(node.path))
        return 0
    if number < FIRST_INODE:
        raise BuildError(f"inode number {number} is reserved", show_path(node.path))
    return number
