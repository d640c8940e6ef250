"""The options of a rebuilt file system: copied from the source, or chosen by the caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal
from uuid import UUID, uuid4

from ext4img.archive.backup_info import BackupInfo
from ext4img.errors import BuildError, UnsupportedFeatureError
from ext4img.mkfs import Options
from ext4img.mkfs.options import HASH_VERSIONS, parse_features
from ext4img.structs.superblock import EXT4_ENC_UTF8_12_1

NewSize = int | Literal["auto"]
NewUuid = Literal["keep", "new"] | UUID

# Features that decide what can be stored, not how the disk is laid out. The new file system keeps them.
_KEPT_FEATURES: Final[tuple[str, ...]] = (
    "casefold",
    "ea_inode",
    "encrypt",
    "large_dir",
    "project",
    "stable_inodes",
    "verity",
)
_CSUM_SEED: Final = "metadata_csum_seed"
_MIN_INODE_SIZE: Final = 256
# By s_def_hash_version; the same versions with unsigned chars come after these (kernel: DX_HASH_*).
_HASH_NAMES: Final = tuple(HASH_VERSIONS)


def image_options(
    info: BackupInfo,
    *,
    size: NewSize,
    spare_percent: float,
    uuid: NewUuid,
    label: str | None,
    features: Sequence[str],
    block_size: int | None,
    keep_inodes: bool,
) -> Options:
    """The builder's options. Values that no-key names and passphrases depend on are always the source's."""
    if "casefold" in info.features and info.encoding != EXT4_ENC_UTF8_12_1:
        name = f"encoding {info.encoding}"
        raise UnsupportedFeatureError(f"case-insensitive names of {name} can't be rebuilt", (name,))
    hash_version, hash_unsigned = _hash(info)
    new_block_size = info.block_size if block_size is None else block_size
    return Options(
        size=None if size == "auto" else size,
        spare_percent=spare_percent,
        uuid=_uuid(info, uuid),
        label=info.label if label is None else label,
        block_size=new_block_size,
        inode_size=min(max(info.inode_size, _MIN_INODE_SIZE), new_block_size),
        features=(*_kept_features(info, parse_features(",".join(features))), *features),
        keep_inodes=keep_inodes,
        hash_seed=info.hash_seed,
        hash_version=hash_version,
        hash_unsigned=hash_unsigned,
        password_salt=info.password_salt,
        encoding_flags=info.encoding_flags,
    )


def _uuid(info: BackupInfo, wanted: NewUuid) -> UUID:
    if isinstance(wanted, UUID):
        return wanted
    if wanted not in ("keep", "new"):
        raise BuildError(f"uuid must be 'keep', 'new' or a UUID, not {wanted!r}")
    return info.uuid if wanted == "keep" else uuid4()


def _kept_features(info: BackupInfo, asked: Sequence[str]) -> list[str]:
    """The source's features that are kept. Without its index, no-key names must have no hashes."""
    kept = [name for name in _KEPT_FEATURES if name in info.features]
    if _CSUM_SEED in info.features and "^metadata_csum" not in asked:
        kept.append(_CSUM_SEED)
    if "dir_index" not in info.features and info.policies:
        kept.append("^dir_index")
    return kept


def _hash(info: BackupInfo) -> tuple[str, bool]:
    version = info.hash_version
    if version < 2 * len(_HASH_NAMES):
        return _HASH_NAMES[version % len(_HASH_NAMES)], info.hash_unsigned or version >= len(_HASH_NAMES)
    if info.policies:
        name = f"hash version {version}"
        raise UnsupportedFeatureError(f"no-key names of {name} can't be rebuilt", (name,))
    return "half_md4", info.hash_unsigned
