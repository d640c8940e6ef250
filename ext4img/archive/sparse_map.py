"""The map in front of a sparse member's data (GNU tar's sparse format 1.0).

Decimal lines: the count of regions, then offset and length of each, NUL-padded to a block of 512.
A file that ends in a hole has a last region (true size, 0).
"""

from __future__ import annotations

from typing import Final

from ext4img.archive.entry import Segments
from ext4img.archive.input import Cursor
from ext4img.archive.pax_writer import padding
from ext4img.errors import AlteredArchiveError, LimitError
from ext4img.structs.tar import BLOCK_BYTES

REGION_LIMIT: Final = 1 << 20
_DIGITS_LIMIT: Final = 19


def encode_map(segments: Segments, size: int) -> bytes:
    """The map's bytes for a file of `size` bytes whose data is in `segments`."""
    regions = segments
    if not segments or sum(segments[-1]) < size:
        regions = (*segments, (size, 0))
    if len(regions) > REGION_LIMIT:
        raise LimitError(f"a file of {len(regions)} pieces with holes between; the archive takes {REGION_LIMIT}")
    text = b"%d\n" % len(regions) + b"".join([b"%d\n%d\n" % region for region in regions])
    return text + bytes(padding(len(text)))


def read_map(cursor: Cursor, stored_size: int, size: int, member: str) -> tuple[Segments, bytes]:
    """The map at the cursor: its segments, and its bytes as they stand.

    `stored_size` bytes are stored, map included, for a file of `size` bytes. Regions ascend, do
    not overlap, lie inside the file, and have just as many bytes as are stored behind the map.
    """
    raw = _lines(cursor, stored_size, 1, b"", member)
    count = _number(raw[: raw.index(b"\n")], member)
    if not 1 <= count <= REGION_LIMIT:
        raise LimitError(f"{member!r}: a sparse map of {count} regions; the format allows {REGION_LIMIT}")
    raw = _lines(cursor, stored_size, 1 + 2 * count, raw, member)
    lines = raw.split(b"\n", 1 + 2 * count)
    rest = lines.pop()
    if rest.strip(b"\0") or len(rest) >= BLOCK_BYTES:
        raise AlteredArchiveError("the sparse map is padded with something else than zeros", member)
    numbers = [_number(line, member) for line in lines[1:]]
    regions = list(zip(numbers[::2], numbers[1::2], strict=True))
    if regions[-1] == (size, 0):
        regions.pop()
    end = last_length = 0
    for offset, length in regions:
        # All but the last must be whole blocks: readers disagree whether others are padded.
        if offset < end or not length or last_length % BLOCK_BYTES:
            raise AlteredArchiveError(f"sparse region at {offset} of {length} bytes does not follow {end}", member)
        end, last_length = offset + length, length
    if end > size:
        raise AlteredArchiveError(f"sparse regions reach to {end}, the file to {size}", member)
    if sum(length for _, length in regions) != stored_size - len(raw):
        raise AlteredArchiveError("the sparse map's regions are not as long as what is stored", member)
    return tuple(regions), raw


def _lines(cursor: Cursor, stored_size: int, wanted: int, raw: bytes, member: str) -> bytes:
    """Read whole blocks until `wanted` lines are there, and never a block more."""
    seen = raw.count(b"\n")
    parts = [raw] if raw else []
    length = len(raw)
    while seen < wanted:
        minimum = max((wanted - seen) * 2, 1)  # every line still to come has two bytes or more
        part = minimum + padding(minimum)
        if length + part > stored_size:
            raise AlteredArchiveError("the sparse map does not end", member)
        data = cursor.read(part, f"the sparse map of {member!r}")
        if b"\0" in data and data.rstrip(b"\0").count(b"\n") + seen < wanted:
            raise AlteredArchiveError("the sparse map stops before its end", member)
        parts.append(data)
        length += part
        seen += data.count(b"\n")
    return b"".join(parts)


def _number(text: bytes, member: str) -> int:
    if not text.isdigit() or len(text) > _DIGITS_LIMIT:
        raise AlteredArchiveError(f"the sparse map has {text[:20]!r} where a number must be", member)
    return int(text)
