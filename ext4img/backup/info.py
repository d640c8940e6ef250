"""The archive's first member, `.ext4img/backup.json`: what was backed up, and by what.

It holds no secret and no path of the host.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ext4img.crypto.policy import Policy
from ext4img.errors import AlteredArchiveError, UnsupportedFeatureError

FORMAT: Final = "ext4img-backup"
FORMAT_VERSION: Final = 1
INFO_LIMIT_BYTES: Final = 16 << 20
KNOWN_REQUIREMENTS: Final[frozenset[str]] = frozenset()
_BLOCK_SIZES: Final = frozenset(1 << shift for shift in range(10, 17))


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """What holds for the whole archive. `inode_count` is that of the file system.

    `policies` are those met in the tree that was backed up. `requires` names what a reader must
    know beyond format version 1; one that does not know a name refuses the archive.
    """

    uuid: uuid.UUID
    block_size: int
    label: str = ""
    features: tuple[str, ...] = ()
    inode_count: int = 0
    policies: tuple[Policy, ...] = ()
    only: tuple[bytes, ...] = ()
    tool: str = ""
    requires: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The member's body: JSON, the same bytes for the same facts."""
        found = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "requires": list(self.requires),
            "tool": self.tool,
            "uuid": str(self.uuid),
            "label": self.label,
            "block_size": self.block_size,
            "features": list(self.features),
            "inode_count": self.inode_count,
            "policies": [_policy_to_json(policy) for policy in self.policies],
            "options": {**self.options, "only": [path.decode("utf-8", "surrogateescape") for path in self.only]},
        }
        return json.dumps(found, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, raw: bytes) -> BackupInfo:
        """The facts back. UnsupportedFeatureError for a version or requirement that is not known."""
        try:
            found = json.loads(raw)
            if found["format"] != FORMAT:
                raise ValueError(f"format is {found['format']!r}")
            version = found["version"]
            requires = tuple(str(name) for name in found["requires"])
            unknown = sorted(set(requires) - KNOWN_REQUIREMENTS)
            if version != FORMAT_VERSION or unknown:
                what = f"needs {', '.join(unknown)}" if unknown else f"is of format version {version!r}"
                raise UnsupportedFeatureError(f"the backup {what}, which this ext4img does not know", tuple(unknown))
            options = dict(found["options"])
            only = tuple(str(path).encode("utf-8", "surrogateescape") for path in options.pop("only", ()))
            block_size = found["block_size"]
            if type(block_size) is not int or block_size not in _BLOCK_SIZES:
                raise ValueError(f"block_size is {block_size!r}")
            return cls(
                uuid=uuid.UUID(found["uuid"]),
                block_size=block_size,
                label=str(found["label"]),
                features=tuple(str(name) for name in found["features"]),
                inode_count=int(found["inode_count"]),
                policies=tuple(_policy_from_json(policy) for policy in found["policies"]),
                only=only,
                tool=str(found["tool"]),
                requires=requires,
                options=options,
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise AlteredArchiveError(f"it cannot be understood: {error!r}", ".ext4img/backup.json") from error


def _policy_to_json(policy: Policy) -> dict[str, Any]:
    return {
        "version": policy.version,
        "contents_mode": policy.contents_mode,
        "filenames_mode": policy.filenames_mode,
        "flags": policy.flags,
        "key": policy.key_id.hex(),
        "log2_data_unit_size": policy.log2_data_unit_size,
    }


def _policy_from_json(found: Mapping[str, Any]) -> Policy:
    version = int(found["version"])
    key_id = bytes.fromhex(found["key"])
    if len(key_id) != {1: 8, 2: 16}.get(version):
        raise ValueError(f"a policy of version {version} with a key of {len(key_id)} bytes")
    return Policy(
        version,
        int(found["contents_mode"]),
        int(found["filenames_mode"]),
        int(found["flags"]),
        key_id,
        int(found["log2_data_unit_size"]),
    )
