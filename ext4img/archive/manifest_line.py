"""The lines of an archive's manifest, built and parsed: one for each member, then the closing line.

docs/archive-format.md ("`.ext4img/manifest.jsonl`") lists the keys.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, Final, NamedTuple

from ext4img.archive.encryption_records import build_filename
from ext4img.archive.entry import UNWRITTEN_KEPT, Entry, Segments
from ext4img.archive.json_fields import (
    FIELD_ERRORS,
    SHA256_DIGITS,
    get_base64,
    get_bytes,
    get_ranges,
    get_sha256,
    get_time_ns,
    get_unsigned,
    shown_line,
)
from ext4img.errors import AlteredArchiveError, UnsupportedFeatureError
from ext4img.structs.fscrypt import FSCRYPT_SYMLINK_DATA

LINE_LIMIT_BYTES: Final = 2 << 20
LOSSES: Final = "losses"  # what a closing line requires if there are lines of losses
_TARGET_SHOWN_WHOLE: Final = FSCRYPT_SYMLINK_DATA.size + 149  # the no-key form of a longer target ends with a digest
NO_BODY: Final = hashlib.sha256(b"").hexdigest()
_decode: Final = json.JSONDecoder().raw_decode
_LINE_ENDS: Final = ("\n", "")
# A path cannot imitate the keys after it: a quote in a JSON string is preceded by a backslash.
_PLAIN_LINE: Final = re.compile(
    rb'\{"path(?:_base64)?":"[^"\\]*(?:\\.[^"\\]*)*","inode":([0-9]{1,20}),"offset":[0-9]{1,20},"head":".{64}"'
    rb',"data":[0-9]{1,20},"size":([0-9]{1,20}),"sha256":".{64}"'
    rb',"generation":([0-9]{1,20}),"i_size":([0-9]{1,20}),"ctime_ns":(-?[0-9]{1,20}),"version":([0-9]{1,20})'
    rb'(?:,"head_atime_ns":-?[0-9]{1,20})?\}'
)
_REFERENCE: Final = re.compile(rb',"in":([0-9]{1,20})[,}]')
_UNUSUAL: Final = frozenset(("filename", "hash", "symlink", "unwritten", "unreadable", "in"))


class ChangeKey(NamedTuple):
    """The inode's facts that change whenever the file changes: an incremental backup compares them."""

    generation: int = 0
    size: int = 0
    ctime_ns: int = 0
    version: int = 0


def change_key_of(entry: Entry) -> ChangeKey:
    """An entry's change key. `size` is 0 unless the entry is a file under its first name."""
    size = entry.size if entry.type == "file" and not entry.is_link else 0
    return ChangeKey(entry.generation, size, entry.ctime_ns, entry.version)


def header_atime_of(entry: Entry) -> int | None:
    """The access time in a member's headers, if a later backup may refer to the member: see `ManifestLine`."""
    return entry.atime_ns if entry.body_size and entry.type == "file" and not entry.is_link else None


class ManifestOnlyFields(NamedTuple):
    """Facts of an entry that are also in the manifest, as an extracted tree may lose them; see `ManifestLine`."""

    filename: bytes | None = None
    name_hash: bytes | None = None
    symlink: bytes | None = None
    unwritten: Segments = ()


NO_MANIFEST_ONLY_FIELDS: Final = ManifestOnlyFields()


def manifest_only_fields_of(entry: Entry) -> ManifestOnlyFields:
    """The facts of an entry that the manifest must have, too."""
    if entry.stored_name is None and entry.stored_target is None and not entry.unwritten:
        return NO_MANIFEST_ONLY_FIELDS
    if entry.is_link and entry.stored_name is not None:
        return ManifestOnlyFields(build_filename(entry.stored_name), entry.name_hash)
    if entry.stored_target is not None and len(entry.stored_target) > _TARGET_SHOWN_WHOLE:
        return ManifestOnlyFields(symlink=entry.stored_target)
    if len(entry.unwritten) > UNWRITTEN_KEPT and not entry.is_link:
        return ManifestOnlyFields(unwritten=entry.unwritten)
    return NO_MANIFEST_ONLY_FIELDS


class ChainReference(NamedTuple):
    """Where an unchanged file of an incremental backup is stored.

    `archive` is an index into the closing line's `chain`, `path` the member's name in that archive.
    `atime_ns` is from this backup: an access changes no other fact of the file.
    """

    archive: int
    path: bytes
    atime_ns: int


class ManifestLine(NamedTuple):
    """The line of one member. Sizes and offsets are in bytes, digests SHA-256 in hex.

    The member's headers start at `header_offset`. Its stored data, sparse map included, starts at
    `data_offset`. `header_atime_ns` is the access time in the headers of a file with a body: with it a
    later backup can build the headers again, to see whether the attributes are still the same; archives
    of earlier versions do not have it. `unreadable` are the (offset, length) ranges of the file that the source could
    not read; they hold zeros.

    Four fields are for trees that a stock tool extracted, which may have lost them: `filename` and
    `name_hash` are record and casefold hash of an encrypted hard link's name; `symlink` is the
    stored target of an encrypted symlink whose no-key form does not contain all of it; `unwritten`
    are all unwritten ranges of a file that has too many for its inode record.
    """

    path: bytes
    inode: int
    data_size: int
    data_sha256: str
    header_sha256: str
    header_offset: int
    data_offset: int
    change_key: ChangeKey | None = None
    header_atime_ns: int | None = None
    filename: bytes | None = None
    name_hash: bytes | None = None
    symlink: bytes | None = None
    unwritten: Segments = ()
    unreadable: Segments = ()
    reference: ChainReference | None = None


_PLAIN_FIELDS: Final = ManifestLine._fields.index("filename")
_PLAIN: Final = tuple(ManifestLine._field_defaults.values())[2:]  # what most members have in the other fields


class Closing(NamedTuple):
    """The manifest's closing line.

    `manifest_offset` is where the manifest's own header starts. `sha256` is the digest of the lines before. `chain`
    has the `sha256` of each archive that an incremental archive is based on, the oldest first. `losses` is the
    number of lines of losses, which are the last ones before it. `last_write_s` is when the file system
    was last written, in seconds since 1970: its files may have changed later without a new change time,
    see `ext4img.archive.incremental_base`. None if unknown. `changed`: the
    file system may have changed while it was read.
    """

    members: int
    manifest_offset: int
    sha256: str
    incomplete: int
    chain: tuple[str, ...] = ()
    losses: int = 0
    last_write_s: int | None = None
    changed: bool = False


def build_line(line: ManifestLine) -> bytes:
    """The line's bytes, newline included."""
    before, after = _around_digest(line)
    return f"{before}{line.data_sha256}{after}\n".encode()


def digest_in(raw: bytes, line: ManifestLine) -> str | None:
    """The digest of the stored data in `raw`, if all else in it is, to the byte, what `line` gives; else None.

    So an unaltered line need not be parsed. `raw` has no newline.
    """
    before, after = _around_digest(line)
    start, stop = len(before), len(raw) - len(after)
    if stop - start != SHA256_DIGITS or not raw.startswith(before.encode()) or not raw.endswith(after.encode()):
        return None
    return raw[start:stop].decode("ascii", "replace")


def _around_digest(line: ManifestLine) -> tuple[str, str]:
    """The line's text before and after the digest of the stored data."""
    before = (
        f'{_start(line.path)}{line.inode},"offset":{line.header_offset},"head":"{line.header_sha256}"'
        f',"data":{line.data_offset},"size":{line.data_size},"sha256":"'
    )
    after = '"'
    if line.change_key is not None:
        generation, size, ctime_ns, version = line.change_key
        after = f'","generation":{generation},"i_size":{size},"ctime_ns":{ctime_ns},"version":{version}'
        if line.header_atime_ns is not None:
            after += f',"head_atime_ns":{line.header_atime_ns}'
    if line[_PLAIN_FIELDS:] == _PLAIN:
        return before, after + "}"
    if line.filename is not None:
        after += f',"filename":"{base64.b64encode(line.filename).decode()}"'
    if line.name_hash is not None:
        after += f',"hash":"{line.name_hash.hex()}"'
    if line.symlink is not None:
        after += f',"symlink":"{base64.b64encode(line.symlink).decode()}"'
    if line.unwritten:
        after += f',"unwritten":{json.dumps(line.unwritten, separators=(",", ":"))}'
    if line.unreadable:
        after += f',"unreadable":{json.dumps(line.unreadable, separators=(",", ":"))}'
    if line.reference is not None:
        archive, base, atime_ns = line.reference
        after += f',"in":{archive},"base":"{base64.b64encode(base).decode()}","atime_ns":{atime_ns}'
    return before, after + "}"


def _start(path: bytes) -> str:
    """The start of a line, up to the inode number."""
    try:
        return f'{{"path":{encode_basestring_ascii(path.decode())},"inode":'
    except UnicodeDecodeError:
        return f'{{"path_base64":"{base64.b64encode(path).decode()}","inode":'


def line_start(path: bytes) -> bytes:
    """The start of the line of a member of this name, as our writer writes it."""
    return _start(path).encode()


def archive_in(raw: bytes) -> int | None:
    """The index in the chain of the archive that stores a line's member; None if this archive does."""
    match = _REFERENCE.search(raw)
    return int(match[1]) if match is not None else None


class FilePlace(NamedTuple):
    """The facts of a plain file's line that an incremental backup needs: inode, size of the data, change key."""

    inode: int
    data_size: int
    change_key: ChangeKey


def file_place(raw: bytes) -> FilePlace | None:
    """The `FilePlace` of a line without optional keys, else None: `parse_line` parses any line."""
    match = _PLAIN_LINE.fullmatch(raw)
    if match is None:
        return None
    inode, size, *change_key = map(int, match.groups())
    return FilePlace(inode, size, ChangeKey._make(change_key))


def parse_line(raw: bytes) -> ManifestLine | Closing:
    """Parse a line. AlteredArchiveError if it is malformed."""
    try:
        text = raw.decode()
        found, end = _decode(text)
        if not isinstance(found, dict) or text[end:] not in _LINE_ENDS:
            raise TypeError("not one JSON object")
        if "members" in found:
            chain = tuple(map(str, found.get("chain", ())))
            _check_requires(found.get("requires", ()))
            return Closing(
                get_unsigned(found, "members"),
                get_unsigned(found, "offset"),
                get_sha256(found, "sha256"),
                get_unsigned(found, "incomplete"),
                chain,
                get_unsigned(found, "losses") if "losses" in found else 0,
                get_unsigned(found, "last_write") if "last_write" in found else None,
                bool(found.get("changed", False)),
            )
        path = get_bytes(found, "path")
        change_key = None
        if "ctime_ns" in found:
            change_key = ChangeKey(
                get_unsigned(found, "generation"),
                get_unsigned(found, "i_size"),
                get_time_ns(found, "ctime_ns"),
                get_unsigned(found, "version"),
            )
        usual = (
            path,
            get_unsigned(found, "inode"),
            get_unsigned(found, "size"),
            get_sha256(found, "sha256"),
            get_sha256(found, "head"),
            get_unsigned(found, "offset"),
            get_unsigned(found, "data"),
            change_key,
            get_time_ns(found, "head_atime_ns") if "head_atime_ns" in found else None,
        )
        if _UNUSUAL.isdisjoint(found):
            return ManifestLine._make(usual + _PLAIN)
        filename = get_base64(found, "filename") if "filename" in found else None
        name_hash = bytes.fromhex(found["hash"]) if "hash" in found else None
        symlink = get_base64(found, "symlink") if "symlink" in found else None
        unwritten = get_ranges(found, "unwritten") if "unwritten" in found else ()
        unreadable = get_ranges(found, "unreadable") if "unreadable" in found else ()
        reference = None
        if "in" in found:
            base = get_base64(found, "base")
            reference = ChainReference(get_unsigned(found, "in"), base, get_time_ns(found, "atime_ns"))
        return ManifestLine._make((*usual, filename, name_hash, symlink, unwritten, unreadable, reference))
    except FIELD_ERRORS as error:
        raise AlteredArchiveError(f"malformed line in the manifest: {shown_line(raw)!r} ({error})") from error


def _check_requires(requires: Sequence[object]) -> None:
    unknown = tuple(sorted({str(name) for name in requires} - {LOSSES}))
    if unknown:
        what = f"the backup requires {', '.join(unknown)}, which this version of ext4img does not know"
        raise UnsupportedFeatureError(what, unknown)


def build_closing(closing: Closing) -> bytes:
    """The closing line's bytes."""
    found: dict[str, Any] = {
        "members": closing.members,
        "offset": closing.manifest_offset,
        "sha256": closing.sha256,
        "incomplete": closing.incomplete,
    }
    if closing.chain:
        found["chain"] = closing.chain
    if closing.losses:
        found |= {"losses": closing.losses, "requires": [LOSSES]}
    if closing.last_write_s is not None:
        found["last_write"] = closing.last_write_s
    if closing.changed:
        found["changed"] = True
    return (json.dumps(found, separators=(",", ":")) + "\n").encode()
