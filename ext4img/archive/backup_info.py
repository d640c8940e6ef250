"""The archive's first member, `.ext4img/backup.json`: what was backed up, and by what.

It holds no secret and no path of the host.
"""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass
from typing import Any, Final

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
    """What holds for the whole archive.

    Most is the file system's own: its block and inode size in bytes, its number of inodes, how it
    hashes names (version, seed of 16 bytes, whether chars are unsigned), its encoding for
    case-insensitive names, the salt of its e4crypt passphrases. `policies` are those met on it.
    `only` are the paths that were asked for, `filtered` tells that others were left out too;
    with `encdata` members have Lustre's attribute beside the records.
    `requires` names what a reader must know beyond format version 1; one that does not, refuses.
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

    def to_json(self) -> bytes:
        """The member's body: JSON, the same bytes for the same facts."""
        found = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "requires": list(self.requires),
            "tool": self.tool,
            "filesystem": {
                "uuid": str(self.uuid),
                **_text("label", self.label),
                "features": list(self.features),
                **{name: getattr(self, name) for name in _NUMBERS},
                "hash_unsigned": self.hash_unsigned,
                "hash_seed": self.hash_seed.hex(),
                "password_salt": self.password_salt.hex(),
            },
            "policies": [_policy_to_json(policy) for policy in self.policies],
            "options": {
                "only": [_text("path", decode_path(path)) for path in self.only],
                "filtered": self.filtered,
                "encdata": self.encdata,
            },
        }
        return json.dumps(found, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, raw: bytes) -> BackupInfo:
        """The facts back. UnsupportedFeatureError for a version or requirement that is not known."""
        try:
            found = json.loads(raw)
            if found["format"] != FORMAT:
                raise ValueError(f"format is {found['format']!r}")
            _check_version(found["version"], tuple(str(name) for name in found["requires"]))
            system = found["filesystem"]
            options = found["options"]
            numbers = {name: _whole(system, name) for name in _NUMBERS}
            if numbers["block_size"] not in _BLOCK_SIZES:
                raise ValueError(f"block_size is {numbers['block_size']}")
            return cls(
                uuid=uuid.UUID(system["uuid"]),
                label=_untext(system, "label"),
                features=tuple(str(name) for name in system["features"]),
                hash_unsigned=bool(system["hash_unsigned"]),
                hash_seed=bytes.fromhex(system["hash_seed"]),
                password_salt=bytes.fromhex(system["password_salt"]),
                policies=tuple(_policy_from_json(policy) for policy in found["policies"]),
                only=tuple(_untext(path, "path").encode("utf-8", "surrogateescape") for path in options["only"]),
                filtered=bool(options["filtered"]),
                encdata=bool(options["encdata"]),
                tool=str(found["tool"]),
                requires=tuple(found["requires"]),
                **numbers,
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise AlteredArchiveError(f"it cannot be understood: {error!r}", ".ext4img/backup.json") from error


def _check_version(version: object, requires: tuple[str, ...]) -> None:
    unknown = tuple(sorted(set(requires) - KNOWN_REQUIREMENTS))
    if version != FORMAT_VERSION or unknown:
        what = f"needs {', '.join(unknown)}" if unknown else f"is of format version {version!r}"
        raise UnsupportedFeatureError(f"the backup {what}, which this version of ext4img does not know", unknown)


def _text(key: str, value: str) -> dict[str, str]:
    """A value that may have bytes in it which are no UTF-8 (as surrogates): then it is in base64."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return {f"{key}_base64": base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()}
    return {key: value}


def _untext(found: dict[str, Any], key: str) -> str:
    if key in found:
        return str(found[key])
    return decode_path(base64.b64decode(found[f"{key}_base64"], validate=True))


def _whole(found: dict[str, Any], key: str) -> int:
    value = found[key]
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise ValueError(f"{key} is {value!r}")
    return value


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
    version = _whole(found, "version")
    key_id = bytes.fromhex(found["key"])
    if len(key_id) != {1: 8, 2: 16}.get(version):
        raise ValueError(f"a policy of version {version} with a key of {len(key_id)} bytes")
    return Policy(
        version,
        _whole(found, "contents_mode"),
        _whole(found, "filenames_mode"),
        _whole(found, "flags"),
        key_id,
        _whole(found, "log2_data_unit_size"),
    )
