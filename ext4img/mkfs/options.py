"""The options of a new file system, and its features."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final
from uuid import UUID, uuid4, uuid5

from ext4img.errors import BuildError, UnsupportedFeatureError
from ext4img.mkfs.nodes import Path, show_path
from ext4img.structs.directory import DX_HASH_HALF_MD4, DX_HASH_LEGACY, DX_HASH_TEA
from ext4img.structs.inode import EXT4_INODE, EXT4_INODE_EXTRA
from ext4img.structs.journal import JBD2_MIN_JOURNAL_BLOCKS
from ext4img.volume.features import Compat, Features, Incompat, RoCompat

BLOCK_SIZES: Final = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
MAX_JOURNAL_BLOCKS: Final = 10_240_000  # mke2fs' limit
HASH_VERSIONS: Final = {"legacy": DX_HASH_LEGACY, "half_md4": DX_HASH_HALF_MD4, "tea": DX_HASH_TEA}

Feature = Compat | Incompat | RoCompat

# What mkfs.ext4 of e2fsprogs 1.47 sets, as Debian configures it.
DEFAULT_FEATURES: Final = Features(
    Compat.HAS_JOURNAL | Compat.EXT_ATTR | Compat.RESIZE_INODE | Compat.DIR_INDEX,
    Incompat.FILETYPE | Incompat.EXTENTS | Incompat.BIT64 | Incompat.FLEX_BG,
    RoCompat.SPARSE_SUPER
    | RoCompat.LARGE_FILE
    | RoCompat.HUGE_FILE
    | RoCompat.DIR_NLINK
    | RoCompat.EXTRA_ISIZE
    | RoCompat.METADATA_CSUM,
)
# Always set: the writer uses extents, typed directory entries and attributes.
REQUIRED_FEATURES: Final = Features(Compat.EXT_ATTR, Incompat.FILETYPE | Incompat.EXTENTS, RoCompat(0))
OPTIONAL_FEATURES: Final = Features(
    Compat.STABLE_INODES | Compat.FAST_COMMIT | Compat.ORPHAN_FILE,
    Incompat.EA_INODE
    | Incompat.CSUM_SEED
    | Incompat.LARGEDIR
    | Incompat.INLINE_DATA
    | Incompat.ENCRYPT
    | Incompat.CASEFOLD,
    RoCompat.GDT_CSUM | RoCompat.PROJECT | RoCompat.VERITY,
)


_NEEDS: Final[tuple[tuple[Feature, Feature], ...]] = (
    (Incompat.CSUM_SEED, RoCompat.METADATA_CSUM),
    (Compat.FAST_COMMIT, Compat.HAS_JOURNAL),
    (Compat.ORPHAN_FILE, Compat.HAS_JOURNAL),
)


# Other spellings of mke2fs -O, and names that it knows of features that no kernel has (e2fsprogs: lib/e2p/feature.c).
_SPELLINGS: Final = {"extents": "extent", "uninit_groups": "uninit_bg", "fname_encoding": "casefold"}
_OTHER_NAMES: Final = frozenset(("lazy_bg", "snapshot_bitmap"))
_NONE: Final = "none"


def parse_features(text: str) -> tuple[str, ...]:
    """The words of mke2fs' option -O in one spelling: separated by commas or blanks, "^" before refused ones.

    As there, "-" also means "^", "+" nothing, and case does not matter. Unknown names are kept.
    """
    words = []
    for word in text.replace(",", " ").lower().split():
        name = word.lstrip("^-+") if word[:1] in "^-+" else word
        words.append(("^" if word[:1] in "^-" else "") + _SPELLINGS.get(name, name))
    return tuple(words)


def _by_name() -> dict[str, Feature]:
    bits: list[Feature] = [*Compat, *Incompat, *RoCompat]
    return {_name(bit): bit for bit in bits}


def _word(features: Features, bit: Feature) -> Features:
    """`features` with one more bit."""
    if isinstance(bit, Compat):
        return features._replace(compat=features.compat | bit)
    if isinstance(bit, Incompat):
        return features._replace(incompat=features.incompat | bit)
    return features._replace(ro_compat=features.ro_compat | bit)


@lru_cache(maxsize=128, typed=True)  # bits of different words are equal as numbers
def _name(bit: Feature) -> str:
    return _word(Features(Compat(0), Incompat(0), RoCompat(0)), bit).names[0]


class RefusedFeatureError(BuildError):
    """A node needs a feature that was refused explicitly."""


class FeatureChoice:
    """The features of a new file system: the defaults, those requested or refused, and those that nodes need.

    `asked` are names as mke2fs takes them, "^" before those that are refused; "none" clears the
    defaults. UnsupportedFeatureError for a name that is unknown or can't be honoured.
    """

    def __init__(self, asked: tuple[str, ...] = ()) -> None:
        names = _by_name()
        self.features = DEFAULT_FEATURES
        # By name: bits of different words compare as numbers.
        self._refused: dict[str, Feature] = {}
        self._wanted: dict[str, Feature] = {}
        for word in (word for text in asked for word in parse_features(text)):
            name = word.removeprefix("^")
            bit = names.get(name)
            if word == _NONE:
                self.features = REQUIRED_FEATURES
                self._wanted.clear()
            elif name in _OTHER_NAMES and word != name:
                continue  # it has none of these
            elif bit is None and name not in _OTHER_NAMES:
                raise UnsupportedFeatureError(f"unknown feature {name!r}", (name,))
            elif bit is not None and word != name:
                if bit in REQUIRED_FEATURES:
                    raise UnsupportedFeatureError(f"a new file system always has the feature {name}", (name,))
                self._refused[name] = bit
                self._wanted.pop(name, None)
            elif bit is not None and (bit in DEFAULT_FEATURES or bit in OPTIONAL_FEATURES):
                self._refused.pop(name, None)
                self._wanted[name] = bit
                self.features = _word(self.features, bit)
            else:
                raise UnsupportedFeatureError(f"a new file system cannot have the feature {name}", (name,))
        self._settle()

    def _settle(self) -> None:
        for bit in self._refused.values():
            self.features = Features.from_words(
                self.features.compat & ~(bit if isinstance(bit, Compat) else 0),
                self.features.incompat & ~(bit if isinstance(bit, Incompat) else 0),
                self.features.ro_compat & ~(bit if isinstance(bit, RoCompat) else 0),
            )
        if RoCompat.METADATA_CSUM in self.features:  # replaces uninit_bg's checksums
            self.features = self.features._replace(ro_compat=self.features.ro_compat & ~RoCompat.GDT_CSUM)
        if RoCompat.SPARSE_SUPER not in self.features:  # the resize inode can't list a copy in every group
            self.features = self.features._replace(compat=self.features.compat & ~Compat.RESIZE_INODE)
        for bit, needed in _NEEDS:
            if bit in self.features and needed not in self.features:
                raise UnsupportedFeatureError(f"{_name(bit)} needs {_name(needed)}", (_name(bit),))
        for name in self.dropped(self.features):
            needed_word = "^metadata_csum" if name == "uninit_bg" else "sparse_super"
            raise UnsupportedFeatureError(f"{name} needs {needed_word}", (name,))

    def dropped(self, features: Features) -> list[str]:
        """The names of requested features that are not among these."""
        return [name for name, bit in self._wanted.items() if bit not in features]

    @property
    def wants_journal(self) -> bool:
        """Whether a journal was requested, or what needs one."""
        return any(name in self._wanted for name in ("has_journal", "fast_commit", "orphan_file"))

    def __contains__(self, bit: Feature) -> bool:
        return bit in self.features

    def may(self, bit: Feature) -> bool:
        """Whether the feature was not refused."""
        return _name(bit) not in self._refused

    def need(self, bit: Feature, why: str, path: Path | None = None) -> None:
        """Set a feature that a node needs; BuildError if it was refused."""
        if bit in self.features:
            return
        name = _name(bit)
        if name in self._refused:
            raise RefusedFeatureError(
                f"{why} needs the feature {name}, which was refused", None if path is None else show_path(path)
            )
        self.features = _word(self.features, bit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The properties of the new file system. Sizes are in bytes; None means an automatic choice.

    An automatic `size` is the smallest that leaves `spare_percent` of blocks and inodes free.
    `features` are names as mke2fs takes them, "^" before a refused one: an error if they can't be
    honoured; "none" clears the defaults but for `REQUIRED_FEATURES`. "inline_data" makes small files
    and directories inline. Features that nodes need (encrypt, casefold, ...) are set
    automatically. `keep_inodes` keeps every inode number, not only those that ciphertext depends on.
    `created_s` is the time in the superblock and in the reserved inodes.

    Keys open an encrypted tree only with the source's UUID and inode numbers, if its policies depend
    on them, and with the same block size, if contents are encrypted. No-key names are the same with
    the same `hash_seed`, `hash_version` and `hash_unsigned`. e4crypt's passphrases need the same
    `password_salt`.
    """

    size: int | None = None
    spare_percent: float = 10.0
    uuid: UUID | None = None
    label: str = ""
    block_size: int = 4096
    inode_size: int = 256
    features: tuple[str, ...] = ()
    bytes_per_inode: int = 16384
    reserved_percent: float = 5.0
    journal_size: int | None = None
    keep_inodes: bool = False
    hash_seed: bytes | None = None
    hash_version: str = "half_md4"
    hash_unsigned: bool = False
    password_salt: bytes = bytes(16)
    encoding_flags: int = 0
    created_s: int | None = None

    def resolved(self) -> Options:
        """The same with UUID, hash seed and time filled in; BuildError for a value out of range.

        A given UUID gives the same hash seed every time.
        """
        if self.block_size not in BLOCK_SIZES:
            raise BuildError(f"block size {self.block_size}: must be a power of two from 1024 to 65536")
        size = self.inode_size
        if size & (size - 1) or not EXT4_INODE.size <= size <= self.block_size:
            raise BuildError(f"inode size {size}: must be a power of two from 128 to the block size")
        if self.hash_version not in HASH_VERSIONS:
            raise BuildError(f"hash version {self.hash_version!r}: must be one of {', '.join(HASH_VERSIONS)}")
        if len(self.label.encode("utf-8", "surrogateescape")) > 16:
            raise BuildError(f"label {self.label!r} is longer than 16 bytes")
        if self.hash_seed is not None and len(self.hash_seed) != 16:
            raise BuildError("the hash seed must have 16 bytes")
        if len(self.password_salt) != 16:
            raise BuildError("the password salt must have 16 bytes")
        if not 0 <= self.reserved_percent <= 50:
            raise BuildError(f"reserved blocks: {self.reserved_percent} % is not within 0 to 50")
        if not 0 <= self.spare_percent <= 10_000:
            raise BuildError(f"spare room: {self.spare_percent} % is not within 0 to 10000")
        if not 1024 <= self.bytes_per_inode <= 1 << 26:
            raise BuildError(f"{self.bytes_per_inode} bytes per inode: must be 1024 to 67108864")
        if self.size is not None and self.size <= 0:
            raise BuildError(f"size {self.size}: must be positive")
        if self.created_s is not None and not 0 <= self.created_s < 1 << 34:
            raise BuildError(f"time {self.created_s} does not fit a superblock")
        if self.journal_size is not None:
            blocks = self.journal_size // self.block_size
            if not JBD2_MIN_JOURNAL_BLOCKS <= blocks <= MAX_JOURNAL_BLOCKS:
                raise BuildError(
                    f"a journal of {blocks} blocks: must have {JBD2_MIN_JOURNAL_BLOCKS} to {MAX_JOURNAL_BLOCKS}"
                )
        uuid = self.uuid or uuid4()
        seed = self.hash_seed or uuid5(uuid, "hash seed").bytes
        created = int(time.time()) if self.created_s is None else self.created_s
        return replace(self, uuid=uuid, hash_seed=seed, created_s=created)

    @property
    def extra_size(self) -> int:
        """i_extra_isize of all inodes."""
        return EXT4_INODE_EXTRA.size if self.inode_size > EXT4_INODE.size else 0
