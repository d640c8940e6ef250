"""The encryption policies that an image uses, and whether a key opens one of them."""

from __future__ import annotations

from ext4img.crypto.keyring import Keyring
from ext4img.crypto.policy import NONCE_SIZE, EncryptionContext, Policy, parse_context
from ext4img.errors import CorruptionError, Ext4Error, Place, UnsupportedFeatureError
from ext4img.names.nokey import is_padded_name
from ext4img.structs.fscrypt import FSCRYPT_FNAME_MIN_MSG_LEN
from ext4img.structs.inode import EXT4_ENCRYPT_FL, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from ext4img.structs.xattr import (
    EXT4_XATTR_ENTRY,
    EXT4_XATTR_IBODY_HEADER,
    EXT4_XATTR_INDEX_ENCRYPTION,
    EXT4_XATTR_INDEX_TRUSTED,
    EXT4_XATTR_MAGIC,
)
from ext4img.volume.features import Incompat
from ext4img.volume.inode import StoredInode
from ext4img.volume.volume import Volume
from ext4img.volume.xattr import ENCRYPTION_CONTEXT

_SLOT = b"fscrypt_slot"  # `homed.SLOT_PREFIX` without "trusted."
_SAMPLE_DIRECTORIES = 8
_SAMPLE_NAMES = 64
_BITS_WANTED = 20
_BITS_OF_TEXT_BYTE = 1.4  # 95 of 256 bytes are printable ASCII; other text is even rarer

_entry = EXT4_XATTR_ENTRY.unpack_tuple
_MAGIC = EXT4_XATTR_IBODY_HEADER.pack((EXT4_XATTR_MAGIC,))
_ENTRY_AT = EXT4_XATTR_IBODY_HEADER.size
_CONTEXT_NAME_AT = _ENTRY_AT + EXT4_XATTR_ENTRY.size
_CONTEXT_NAME_END = _CONTEXT_NAME_AT + 1


class PolicyUse:
    """How much of an image is under one policy."""

    __slots__ = ("bytes", "directories", "files", "homes", "sample", "symlinks")

    def __init__(self) -> None:
        self.files = 0
        self.directories = 0
        self.symlinks = 0
        self.bytes = 0
        """Sum of the regular files' sizes."""
        self.sample: list[tuple[int, EncryptionContext]] = []
        """(inode number, context) of a few directories, for trying a key."""
        self.homes: list[int] = []
        """Inode numbers of directories with key slots of systemd-homed; version 1 policies only."""


def policies_in_use(volume: Volume) -> dict[Policy, PolicyUse]:
    """Every policy that a scan of all inodes finds. Empty without the encrypt feature."""
    used: dict[Policy, PolicyUse] = {}
    if Incompat.ENCRYPT not in volume.features:
        return used
    for inode in volume.inodes.scan(EXT4_ENCRYPT_FL):
        place = Place(inode=inode.number, record="fscrypt_context")
        try:
            xattrs = volume.raw_xattrs(inode)
            raw = xattrs.get(ENCRYPTION_CONTEXT)
            if raw is None:
                raise CorruptionError("encrypted, but without an encryption context", place)
            context = parse_context(raw, place=place, supported_only=False)
        except (CorruptionError, UnsupportedFeatureError) as error:
            _note(volume, error, place)  # it is a problem of this inode only
            continue
        use = used.setdefault(context.policy, PolicyUse())
        if inode.is_dir:
            use.directories += 1
            if context.policy.version == 1 and len(xattrs) > 1 and any(_is_slot(*key) for key in xattrs):
                use.homes.append(inode.number)
            if len(use.sample) < _SAMPLE_DIRECTORIES:
                use.sample.append((inode.number, context))
        elif inode.is_symlink:
            use.symlinks += 1
        else:
            use.files += 1
            use.bytes += inode.size
    return used


def _is_slot(name_index: int, name: bytes) -> bool:
    return name_index == EXT4_XATTR_INDEX_TRUSTED and name.startswith(_SLOT)


def key_opens_names(volume: Volume, use: PolicyUse, keyring: Keyring) -> bool:
    """Whether names in the policy's directories decrypt to valid names, beyond reasonable doubt.

    This is for version 1 policies whose descriptor was not computed from the key: nothing else on
    disk shows whether the key is right. A wrong key gives random bytes. All names must be possible,
    which alone proves little (16 random bytes pass in 88 of 100 cases), and together they must show
    signs of names that random bytes show once in a million times: NULs of the padding, or text.
    """
    bits = 0.0
    for number, context in use.sample:
        cipher = keyring.names_cipher(context, number, volume.superblock.uuid.bytes)
        if cipher is None:
            return False
        try:
            entries = volume.directory(volume.inode(number))
        except Ext4Error as error:
            _note(volume, error, Place(inode=number))
            continue
        names = [entry.name for entry in entries[:_SAMPLE_NAMES] if len(entry.name) >= FSCRYPT_FNAME_MIN_MSG_LEN]
        for raw in cipher.decrypt_raw(names):
            if not is_padded_name(raw):
                return False
            bits += _bits_of_evidence(raw)
    return bits >= _BITS_WANTED


def _bits_of_evidence(raw: bytes) -> float:
    """How much a decrypted name differs from random bytes: -log2 of the chance that they look like it."""
    name = raw.rstrip(b"\0")
    bits = 8.0 * (len(raw) - len(name))
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return bits
    return bits + (_BITS_OF_TEXT_BYTE * len(name) if text.isprintable() else 0.0)


def policy_in(context: EncryptionContext) -> bytes:
    """The bytes of a context that all inodes of one policy share."""
    return context.raw[:-NONCE_SIZE]


def report_policy_mismatch(volume: Volume, directory: StoredInode, policy: bytes, child: StoredInode) -> None:
    """Report an inode that must not be in an encrypted directory whose contexts begin with `policy`.

    Regular files, directories and symbolic links there must be encrypted by the same policy (kernel:
    fscrypt_has_permitted_context). For others the kernel refuses to look up directories and links, and
    to open files, with EPERM, because someone may have put them there while the image was not mounted.
    Here they are shown by their own contexts all the same, and reported, for whoever examines the image.
    """
    if child.mode & S_IFMT not in (S_IFREG, S_IFDIR, S_IFLNK):
        return
    if child.flags & EXT4_ENCRYPT_FL:
        # In inodes that the kernel made the context comes first: the rest need not be parsed.
        area = child.inline_xattrs
        if area[_CONTEXT_NAME_AT:_CONTEXT_NAME_END] == b"c" and area.startswith(_MAGIC):
            name_len, index, offset, value_inode, size, _ = _entry(area, _ENTRY_AT)
            is_context = (name_len, index, value_inode) == (1, EXT4_XATTR_INDEX_ENCRYPTION, 0)
            if is_context and size == len(policy) + NONCE_SIZE and area.startswith(policy, _ENTRY_AT + offset):
                return
        raw = volume.encryption_context(child)
        if raw is not None and raw[:-NONCE_SIZE] == policy:
            return
        what = "is encrypted by another policy than"
    else:
        what = "is not encrypted, in"
    volume.problems.note(
        f"{child.type} {what} its directory, inode {directory.number}: a kernel refuses it",
        Place(inode=child.number, record="fscrypt_context"),
    )


def _note(volume: Volume, error: Ext4Error, place: Place) -> None:
    """Note an error with its own place, if it has one."""
    if isinstance(error, CorruptionError):
        volume.problems.note(error.reason, error.place)
    else:
        volume.problems.note(str(error), place)
