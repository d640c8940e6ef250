"""The inode record, `trusted.ext4img.inode`: one line of JSON with the facts that tar has no field for.

docs/archive-format.md ("The inode record") lists the keys.
"""

from __future__ import annotations

import json
from typing import Final

from ext4img.archive.entry import MODE_OF_TYPE, UNWRITTEN_KEPT, Entry, Segments
from ext4img.archive.json_fields import (
    FIELD_ERRORS,
    LIMIT_32,
    LIMIT_63,
    LIMIT_64,
    get_integer,
    get_ranges,
    get_unsigned,
)
from ext4img.errors import AlteredArchiveError

INODE: Final = "trusted.ext4img.inode"
INODE_LINE_LIMIT_BYTES: Final = 4096
_HASH_BYTES: Final = 8
_decode: Final = json.JSONDecoder().raw_decode


def build_inode_record(entry: Entry) -> bytes:
    """The record of an entry. Only facts that differ from their defaults are written."""
    text = f'{{"number":{entry.inode},"generation":{entry.generation},"flags":{entry.flags},"links":{entry.links}'
    if entry.crtime_ns is not None:
        text += f',"crtime_ns":{entry.crtime_ns}'
    if entry.version:
        text += f',"version":{entry.version}'
    if entry.project_id:
        text += f',"project":{entry.project_id}'
    if entry.type == "socket" or entry.is_link:
        text += f',"type":"{entry.type}"'
    if entry.type == "dir" and entry.context is None:
        text += f',"size":{entry.size}'
    if entry.name_hash is not None:
        text += f',"hash":"{entry.name_hash.hex()}"'
    if entry.unwritten and not entry.is_link:
        kept = entry.unwritten[:UNWRITTEN_KEPT]
        text += f',"unwritten":{json.dumps(kept, separators=(",", ":"))}'
    return text.encode() + b"}"


class InodeRecord:
    """A parsed record, each value of its type and in its range. AlteredArchiveError if one is not."""

    __slots__ = (
        "crtime_ns", "flags", "generation", "hash", "links", "number", "project", "size", "type", "unwritten", "version"
    )  # fmt: skip

    def __init__(self, line: bytes) -> None:
        if not line or len(line) > INODE_LINE_LIMIT_BYTES:
            raise AlteredArchiveError(f"its {INODE} attribute has {len(line)} bytes")
        try:
            text = line.decode()
            found, end = _decode(text)
            if type(found) is not dict or end != len(text):
                raise TypeError("not one JSON object")
            self.number = number = found["number"]
            self.generation = generation = found["generation"]
            self.flags = flags = found["flags"]
            self.links = links = found["links"]
            # Together, as every member has these four.
            if not type(number) is type(generation) is type(flags) is type(links) is int:
                raise TypeError("number, generation, flags or links is not an integer")
            if not (
                0 < number < LIMIT_32 and 0 <= generation < LIMIT_32 and 0 <= flags < LIMIT_32 and 0 <= links < LIMIT_32
            ):
                raise ValueError("number, generation, flags or links does not fit into 32 bits")
            self.version = get_unsigned(found, "version") if "version" in found else 0
            self.project = get_unsigned(found, "project", LIMIT_32) if "project" in found else 0
            self.size: int | None = get_unsigned(found, "size", LIMIT_63) if "size" in found else None
            self.crtime_ns: int | None = None
            if "crtime_ns" in found:
                self.crtime_ns = get_integer(found, "crtime_ns", -LIMIT_63, LIMIT_64)  # ext4's times end in 2446
            self.type: str | None = found.get("type")
            if self.type is not None and self.type not in MODE_OF_TYPE:
                raise ValueError(f"type is {self.type!r}")
            self.hash: bytes | None = None
            if "hash" in found:
                self.hash = bytes.fromhex(found["hash"])
                if len(self.hash) != _HASH_BYTES:
                    raise ValueError(f"hash has {len(self.hash)} bytes")
            self.unwritten: Segments = get_ranges(found, "unwritten") if "unwritten" in found else ()
        except FIELD_ERRORS as error:
            raise AlteredArchiveError(f"its {INODE} attribute is malformed: {error}") from error
