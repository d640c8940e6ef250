"""The archive's first member, `.ext4img/backup.json`: facts of the file system and of the backup.

It contains no secret and no path of the host. docs/archive-format.md lists the keys.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any, Final

from ext4img.archive.json_fields import FIELD_ERRORS, LIMIT_32, bytes_field, get_bytes, get_unsigned
from ext4img.crypto.policy import Policy
from ext4img.errors import AlteredArchiveError, UnsupportedFeatureError
from ext4img.names.paths import decode_path

FORMAT: Final = "ext4img-backup"
FORMAT_VERSION: Final = 1
INFO_LIMIT_BYTES: Final = 16 << 20
KNOWN_REQUIREMENTS: Final = frozenset({"incremental"})
_BLOCK_SIZES: Final = frozenset(1 << shift for shift in range(10, 17))
_NUMBERS: Final = ("block_size", "inode_count", "inode_size", "hash_version", "encoding", "encoding_flags")


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """Facts that hold for the whole archive.

    From the file system: block and inode size in bytes, the number of inodes, the hash of names
    (version, seed of 16 bytes, whether chars are unsigned), the encoding of case-insensitive names,
    and the salt of e4crypt passphrases. `policies` are the encryption policies that occur in it.
    `only` has the requested paths; `filtered` says whether other entries were excluded, too. With
    `encdata` members have Lustre's attribute beside the records. `requires` names features that a
    reader must know beyond format version 1; a reader that does not know one refuses the archive. `live`
    has the kinds of those who could write to the image when the backup began: "claim", "device", "lock",
    "mount", "process".
    """

    uuid: uuid.UUID
    block_size: int
    label: str = ""
    features: tuple[str, ...] = ()
    inode_count: int = 0
    inode_size: int = 256
    hash_version: int = 0
    hash_unsigned: bool = False
    hash_seed: bytes = bytes(16)
    encoding: int = 0
    encoding_flags: int = 0
    password_salt: bytes = bytes(16)
    policies: tuple[Policy, ...] = ()
    only: tuple[bytes, ...] = ()
    filtered: bool = False
    encdata: bool = False
    tool: str = ""
    requires: tuple[str, ...] = ()
    live: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """The member's body: JSON, always the same bytes for the same facts."""
        found = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "requires": list(self.requires),
            "tool": self.tool,
            "filesystem": {
                "uuid": str(self.uuid),
                **bytes_field("label", self.label.encode("utf-8", "surrogateescape")),
                "features": list(self.features),
                **{name: getattr(self, name) for name in _NUMBERS},
                "hash_unsigned": self.hash_unsigned,
                "hash_seed": self.hash_seed.hex(),
                "password_salt": self.password_salt.hex(),
            },
            "policies": [_policy_to_json(policy) for policy in self.policies],
            "options": {
                "only": [bytes_field("path", path) for path in self.only],
                "filtered": self.filtered,
                "encdata": self.encdata,
                **({"live": list(self.live)} if self.live else {}),
            },
        }
        return json.dumps(found, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, raw: bytes) -> BackupInfo:
        """Parse a body. AlteredArchiveError if malformed; UnsupportedFeatureError if it requires what is unknown."""
        try:
            found = json.loads(raw)
            if found["format"] != FORMAT:
                raise ValueError(f"format is {found['format']!r}")
            _check_version(found["version"], tuple(str(name) for name in found["requires"]))
            system = found["filesystem"]
            options = found["options"]
            numbers = {name: get_unsigned(system, name, LIMIT_32) for name in _NUMBERS}
            if numbers["block_size"] not in _BLOCK_SIZES:
                raise ValueError(f"block_size is {numbers['block_size']}")
            return cls(
                uuid=uuid.UUID(system["uuid"]),
                label=decode_path(get_bytes(system, "label")),
                features=tuple(str(name) for name in system["features"]),
                hash_unsigned=bool(system["hash_unsigned"]),
                hash_seed=bytes.fromhex(system["hash_seed"]),
                password_salt=bytes.fromhex(system["password_salt"]),
                policies=tuple(_policy_from_json(policy) for policy in found["policies"]),
                only=tuple(get_bytes(path, "path") for path in options["only"]),
                filtered=bool(options["filtered"]),
                encdata=bool(options["encdata"]),
                tool=str(found["tool"]),
                requires=tuple(found["requires"]),
                live=tuple(str(kind) for kind in options.get("live", ())),
                **numbers,
            )
        except FIELD_ERRORS as error:
            raise AlteredArchiveError(f"it is malformed: {error!r}", ".ext4img/backup.json") from error


def _check_version(version: object, requires: tuple[str, ...]) -> None:
    unknown = tuple(sorted(set(requires) - KNOWN_REQUIREMENTS))
    if version != FORMAT_VERSION or unknown:
        what = f"requires {', '.join(unknown)}" if unknown else f"has format version {version!r}"
        raise UnsupportedFeatureError(f"the backup {what}, which this version of ext4img does not know", unknown)


def _policy_to_json(policy: Policy) -> dict[str, Any]:
    return {
        "version": policy.version,
        "contents_mode": policy.contents_mode,
        "filenames_mode": policy.filenames_mode,
        "flags": policy.flags,
        "key": policy.key_id.hex(),
        "log2_data_unit_size": policy.log2_data_unit_size,
    }


def _policy_from_json(found: dict[str, Any]) -> Policy:
    version = get_unsigned(found, "version", LIMIT_32)
    key_id = bytes.fromhex(found["key"])
    if len(key_id) != {1: 8, 2: 16}.get(version):
        raise ValueError(f"a policy of version {version} with a key of {len(key_id)} bytes")
    return Policy(
        version,
        get_unsigned(found, "contents_mode", LIMIT_32),
        get_unsigned(found, "filenames_mode", LIMIT_32),
        get_unsigned(found, "flags", LIMIT_32),
        key_id,
        get_unsigned(found, "log2_data_unit_size", LIMIT_32),
    )
