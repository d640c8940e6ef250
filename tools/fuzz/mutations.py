"""Damage: what is done to the sites of an image, and how it is undone.

An `Image` is changed in place and put back after every run, so that a mutation costs what it
changes. What was changed is a list of patches, which is also how a found crasher is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tools.fuzz.chooser import Chooser, pick
from tools.fuzz.site import Field, Site

Patch = tuple[int, bytes]
MOST_MUTATIONS = 6
# Inode numbers with a meaning, small counts, and the edges of widths and signs.
_NUMBERS = (0, 1, 2, 3, 5, 7, 8, 10, 11, 12, 16, 31, 32, 60, 127, 128, 255, 256, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF,
            0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, 1 << 47, (1 << 63) - 1,
            1 << 63, (1 << 64) - 1)  # fmt: skip


class Image:
    """An image whose bytes can be changed and put back."""

    def __init__(self, data: bytearray, sites: Sequence[Site]) -> None:
        self.data = data
        self.sites = list(sites)
        self.by_kind: dict[str, list[Site]] = defaultdict(list)
        for site in self.sites:
            self.by_kind[site.kind].append(site)
        self.kinds = sorted(self.by_kind)
        self._undo: list[Patch] = []

    def write(self, offset: int, new: bytes) -> None:
        """Change bytes; `restore` puts them back."""
        new = new[: max(len(self.data) - offset, 0)]
        self._undo.append((offset, bytes(self.data[offset : offset + len(new)])))
        self.data[offset : offset + len(new)] = new

    def restore(self) -> None:
        """Put back all that was changed."""
        while self._undo:
            offset, old = self._undo.pop()
            self.data[offset : offset + len(old)] = old

    def seal(self, site: Site) -> None:
        """Make the site's checksum fit what stands there now."""
        if site.seal is not None:
            ranges = ((site.offset, site.offset + site.size), *site.also_sealed)
            before = [(start, bytes(self.data[start:end])) for start, end in ranges]
            site.seal(self.data)
            self._undo += before

    def patches(self) -> list[Patch]:
        """The difference from the sound image, in order, without overlaps."""
        touched: set[int] = set()
        for offset, old in self._undo:
            touched.update(range(offset, offset + len(old)))
        now = {offset: self.data[offset] for offset in touched}
        original = self._original(touched)
        changed = sorted(offset for offset in touched if now[offset] != original[offset])
        merged: list[tuple[int, bytearray]] = []
        for offset in changed:
            if merged and merged[-1][0] + len(merged[-1][1]) == offset:
                merged[-1][1].append(now[offset])
            else:
                merged.append((offset, bytearray((now[offset],))))
        return [(offset, bytes(piece)) for offset, piece in merged]

    def _original(self, touched: set[int]) -> dict[int, int]:
        original = {offset: self.data[offset] for offset in touched}
        for offset, old in reversed(self._undo):
            original.update(zip(range(offset, offset + len(old)), old, strict=True))
        return original


def mutate(image: Image, chooser: Chooser, kinds: Sequence[str] = ()) -> str:
    """Damage one to several sites; half of the time with checksums that fit. Tells what it did."""
    told = []
    sealed = bool(chooser.below(2))
    count = 1 if chooser.below(5) < 3 else 2 + chooser.below(MOST_MUTATIONS - 1)
    kind = ""
    for _ in range(count):
        # Damage of one kind in several places finds what damage of one place does not.
        if not kind or chooser.below(2):
            kind = pick(chooser, kinds or image.kinds)
        site = pick(chooser, image.by_kind[kind])
        told.append(_damage(image, site, chooser))
        if sealed and site.seal is not None:
            image.seal(site)
            told[-1] += " (sealed)"
    return "; ".join(told)


def mutate_covered(image: Image, chooser: Chooser) -> str:
    """Damage bytes of one site that a checksum covers, and leave the checksum as it is."""
    kind = pick(chooser, [kind for kind in image.kinds if any(site.covered for site in image.by_kind[kind])])
    site = pick(chooser, [site for site in image.by_kind[kind] if site.covered])
    fields = [
        field
        for field in site.fields
        if any(start <= field.offset and field.offset + field.size <= end for start, end in site.covered)
    ]
    if fields and chooser.below(4):
        return _damage_field(image, site, pick(chooser, fields), chooser)
    start, end = pick(chooser, site.covered)
    offset = start + chooser.below(end - start)
    length = min(1 + chooser.below(16), end - offset)
    image.write(offset, chooser.data(length))
    return f"{kind} at {site.offset:#x}: {length} random bytes at +{offset - site.offset}"


def _damage(image: Image, site: Site, chooser: Chooser) -> str:
    what = chooser.below(10)
    if site.fields and what < 7:
        return _damage_field(image, site, pick(chooser, site.fields), chooser)
    at = chooser.below(site.size)
    if what == 7:
        other = pick(chooser, image.by_kind[site.kind])
        size = min(site.size, other.size)
        image.write(site.offset, bytes(image.data[other.offset : other.offset + size]))
        return f"{site.kind} at {site.offset:#x}: the bytes of the one at {other.offset:#x}"
    length = min(1 + chooser.below(1 << chooser.below(9)), site.size - at)
    data = pick(chooser, (bytes(length), b"\xff" * length, chooser.data(length)))
    image.write(site.offset + at, data)
    return f"{site.kind} at {site.offset:#x}: {length} bytes at +{at}"


def _damage_field(image: Image, site: Site, field: Field, chooser: Chooser) -> str:
    order = "big" if field.big_endian else "little"
    old = image.data[field.offset : field.offset + field.size]
    if field.size > 8:
        at = chooser.below(field.size)
        length = min(1 + chooser.below(16), field.size - at)
        image.write(field.offset + at, pick(chooser, (chooser.data(length), b"/" * length, bytes(length))))
        return f"{site.kind} at {site.offset:#x}: {field.name}, {length} bytes at {at}"
    value = int.from_bytes(old, order)  # type: ignore[arg-type]
    mask = (1 << 8 * field.size) - 1
    how = chooser.below(6)
    if how == 0:
        value ^= 1 << chooser.below(8 * field.size)
    elif how == 1:
        value += chooser.below(17) - 8
    elif how == 2:
        value = int.from_bytes(chooser.data(field.size), "little")
    elif how == 3:
        other = pick(chooser, site.fields)
        value = int.from_bytes(image.data[other.offset : other.offset + min(other.size, 8)], order)  # type: ignore[arg-type]
    else:
        value = pick(chooser, _NUMBERS)
    value &= mask
    image.write(field.offset, value.to_bytes(field.size, order))  # type: ignore[arg-type]
    return f"{site.kind} at {site.offset:#x}: {field.name} = {value:#x}"


def truncate_length(image: Image, chooser: Chooser) -> int | None:
    """Now and then, how much of the image is left; None for all of it."""
    return chooser.below(len(image.data)) if chooser.below(40) == 0 else None
