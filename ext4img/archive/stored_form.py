"""How an entry is stored: its headers, the sparse map before its data, and whether a member is the same.

The same entry and data always give the same bytes, so a later backup can tell from the digests in a
manifest whether a file is still what an earlier archive stores.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from ext4img.archive.body import BodyStream
from ext4img.archive.digest_thread import DigestThread, sha256_hex
from ext4img.archive.entry import Entry
from ext4img.archive.entry_codec import header_of
from ext4img.archive.manifest_line import ManifestLine
from ext4img.archive.member_paths import archive_path, tree_path
from ext4img.archive.pax_writer import encode
from ext4img.archive.sparse_map import encode_map
from ext4img.archive.tar_header import TarHeader
from ext4img.interruption import checkpoint


class StoredForm(NamedTuple):
    """`sparse_map` is b"" without holes; `overflow` the body of the attribute member, b"" if there is none."""

    header: TarHeader
    sparse_map: bytes
    overflow: bytes


def stored_form(entry: Entry, encdata: bool) -> StoredForm:
    """The form of an entry of the tree. LimitError if the archive cannot store it."""
    data_bytes = entry.data_bytes
    sparse = data_bytes != entry.body_size
    sparse_map = encode_map(entry.segments, entry.body_size) if sparse else b""
    header, overflow = header_of(entry, len(sparse_map) + data_bytes, sparse, encdata)
    return StoredForm(header, sparse_map, overflow)


def has_same_attributes(entry: Entry, line: ManifestLine, encdata: bool) -> bool:
    """Whether a member's headers would be the same again; its name and access time do not count.

    False also if that cannot be known: the manifest is of an earlier version, or the member has
    another encrypted name.
    """
    if line.header_atime_ns is None:
        return False
    path = line.path if line.reference is None else line.reference.path
    if path != archive_path(entry.path):
        if entry.stored_name is not None:
            return False
        entry = entry._replace(path=tree_path(path, directory=False))
    form = stored_form(entry._replace(atime_ns=line.header_atime_ns), encdata)
    return not form.overflow and sha256_hex(encode(form.header)) == line.header_sha256


def has_same_data(entry: Entry, body: BodyStream, line: ManifestLine, digests: DigestThread) -> bool:
    """Read a body, and tell whether a member's stored data would be the same again."""
    form = stored_form(entry, encdata=False)
    if form.header.size != line.data_size:
        return False
    digest = hashlib.sha256(form.sparse_map)
    for chunk in body.chunks:
        checkpoint()
        digests.update(digest, chunk)
    digests.wait()
    return not body.unreadable and digest.hexdigest() == line.data_sha256
