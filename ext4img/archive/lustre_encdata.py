"""Lustre's encryption records: the attribute `security.encdata`.

One line of ASCII, as the Lustre project writes and reads it ("ldiskfs: implement security.encdata
xattr", 2022): size in bytes (0 for directories), encryption context and name in base64url without
padding. It has room for one name of a file, not for a symlink's target, and supports contexts of
version 2 only.
"""

from __future__ import annotations

import base64
import re
from typing import Final, NamedTuple

from ext4img.archive.entry import Entry
from ext4img.errors import AlteredArchiveError

ENCDATA: Final = "security.encdata"
_LINE = re.compile(
    rb"\{ encoding: base64url, size: ([0-9]{1,19}), enc_ctx: ([A-Za-z0-9_-]{54}), enc_name: ([A-Za-z0-9_-]{1,340}) \}"
)


class EncData(NamedTuple):
    """The parsed line: i_size, the context, the name bytes of the directory entry."""

    size: int
    context: bytes
    name: bytes


def encdata_of(entry: Entry) -> bytes | None:
    """The line for an entry; None if the form does not support it."""
    if entry.context is None or entry.context[0] != 2 or entry.type not in ("file", "dir") or entry.is_link:
        return None
    size = entry.size if entry.type == "file" else 0
    return build_encdata(EncData(size, entry.context, entry.stored_name or entry.name))


def build_encdata(facts: EncData) -> bytes:
    """The line."""
    return b"{ encoding: base64url, size: %d, enc_ctx: %b, enc_name: %b }" % (
        facts.size,
        _encoded(facts.context),
        _encoded(facts.name),
    )


def parse_encdata(line: bytes) -> EncData:
    """Parse a line. AlteredArchiveError if it is malformed."""
    match = _LINE.fullmatch(line.rstrip(b"\0"))
    if not match:
        raise AlteredArchiveError(f"{ENCDATA} is {line[:60]!r}")
    return EncData(int(match[1]), _decoded(match[2]), _decoded(match[3]))


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decoded(text: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except ValueError as error:
        raise AlteredArchiveError(f"{ENCDATA} has {text[:60]!r}, which is not base64url") from error
