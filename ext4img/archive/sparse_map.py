"""The map in front of a sparse member's data (GNU tar's sparse format 1.0).

Decimal lines: the count of regions, then offset and length of each, NUL-padded to a block of 512.
A file that ends with a hole has a last region (true size, 0).
"""

from __future__ import annotations

from typing import Final

from ext4img.archive.entry import Segments
from ext4img.archive.input import Cursor
from ext4img.archive.tar_header import padding
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
        raise LimitError(f"the file has {len(regions)} segments between holes; the archive allows {REGION_LIMIT}")
    text = b"%d\n" % len(regions) + b"".join([b"%d\n%d\n" % region for region in regions])
    return text + bytes(padding(len(text)))


def read_map(cursor: Cursor, stored_size: int, size: int, member: str) -> tuple[Segments, bytes]:
    """Read the map at the cursor: (segments, the map's bytes).

    `stored_size` bytes are stored, map included, for a file of `size` bytes. Regions must ascend,
    not overlap, lie inside the file and together have as many bytes as are stored after the map;
    else AlteredArchiveError.
    """
    raw = _lines(cursor, stored_size, 1, b"", member)
    count = _number(raw[: raw.index(b"\n")], member)
    if not 1 <= count <= REGION_LIMIT:
        raise LimitError(f"{member!r}: a sparse map of {count} regions; the format allows {REGION_LIMIT}")
    raw = _lines(cursor, stored_size, 1 + 2 * count, raw, member)
    lines = raw.split(b"\n", 1 + 2 * count)
    rest = lines.pop()
    if rest.strip(b"\0") or len(rest) >= BLOCK_BYTES:
        raise AlteredArchiveError("the padding of the sparse map is not zeros", member)
    numbers = [_number(line, member) for line in lines[1:]]
    regions = list(zip(numbers[::2], numbers[1::2], strict=True))
    if regions[-1] == (size, 0):
        regions.pop()
    end = last_length = 0
    for offset, length in regions:
        # All but the last must be whole blocks: readers disagree on whether others are padded.
        if offset < end or not length or last_length % BLOCK_BYTES:
            raise AlteredArchiveError(
                f"sparse region at {offset} of {length} bytes does not follow {end}",
                member,
            )
        end, last_length = offset + length, length
    if end > size:
        raise AlteredArchiveError(f"sparse regions reach to {end}, the file to {size}", member)
    if sum(length for _, length in regions) != stored_size - len(raw):
        raise AlteredArchiveError("the sizes of the sparse map's regions do not add up to the stored size", member)
    return tuple(regions), raw


def _lines(cursor: Cursor, stored_size: int, count: int, raw: bytes, member: str) -> bytes:
    """Read blocks until they contain `count` lines, and never a block more. `raw` was read before."""
    seen = raw.count(b"\n")
    parts = [raw] if raw else []
    length = len(raw)
    while seen < count:
        minimum = max((count - seen) * 2, 1)  # every further line has at least two bytes
        part = minimum + padding(minimum)
        if length + part > stored_size:
            raise AlteredArchiveError("the sparse map is longer than the stored data", member)
        data = cursor.read(part, f"the sparse map of {member!r}")
        if b"\0" in data and data.rstrip(b"\0").count(b"\n") + seen < count:
            raise AlteredArchiveError("the sparse map has too few lines", member)
        parts.append(data)
        length += part
        seen += data.count(b"\n")
    return b"".join(parts)


def _number(text: bytes, member: str) -> int:
    if not text.isdigit() or len(text) > _DIGITS_LIMIT:
        raise AlteredArchiveError(f"the sparse map has {text[:20]!r} instead of a number", member)
    return int(text)
