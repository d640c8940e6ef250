"""Changing a sound image field by field, with checksums that fit again, so that the damage is met."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from ext4img.sources import BytesSource
from ext4img.structs.directory import EXT4_DIR_ENTRY
from ext4img.volume.volume import Volume
from tools.fuzz.mutations import Image
from tools.fuzz.site import Site
from tools.fuzz.sites import find_sites


class EditedImage:
    """A copy of an image. Edits seal the structure they change, unless told not to."""

    def __init__(self, data: bytes | bytearray) -> None:
        self.data = bytearray(data)

    @cached_property
    def sites(self) -> list[Site]:
        """Of the image as it was when first asked."""
        return find_sites(self.data)

    @cached_property
    def volume(self) -> Volume:
        """The image as it was when first asked."""
        return Volume(BytesSource(bytes(self.data)), checks="off", journal="ignore")

    def copy(self) -> EditedImage:
        """Another copy; what was found out about the sound image goes with it."""
        other = EditedImage(self.data)
        vars(other).update({key: value for key, value in vars(self).items() if key != "data"})
        return other

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def site(self, kind: str, inode: int | None = None, index: int = 0) -> Site:
        """The `index`-th structure of a kind (the end of its name is enough), of one inode."""
        fitting = [s for s in self.sites if s.kind.endswith(kind) and inode in (None, s.inode)]
        return fitting[index]

    def number(self, path: str) -> int:
        """The inode number of a path without symbolic links."""
        number = 2
        for name in filter(None, path.encode().split(b"/")):
            entries = self.volume.directory(self.volume.inode(number))
            number = next(entry.inode for entry in entries if entry.name == name)
        return number

    def set(self, site: Site, field: str, value: int | bytes, index: int = 0, sealed: bool = True) -> EditedImage:
        """Change one field of a structure."""
        place = site.field(field, index)
        order = "big" if place.big_endian else "little"
        raw = value if isinstance(value, bytes) else value.to_bytes(place.size, order)  # type: ignore[arg-type]
        return self.write(place.offset, raw, site if sealed else None)

    def write(self, offset: int, raw: bytes, site: Site | None = None) -> EditedImage:
        """Change bytes, and seal `site`."""
        self.data[offset : offset + len(raw)] = raw
        if site is not None:
            Image(self.data, []).seal(site)
        return self

    def inode(self, number: int, **fields: int | bytes) -> EditedImage:
        """Change fields of an inode."""
        for field, value in fields.items():
            self.set(self.site("inode", number), field, value)
        return self

    def superblock(self, **fields: int | bytes) -> EditedImage:
        """Change fields of the primary superblock."""
        for field, value in fields.items():
            self.set(self.site("superblock"), field, value)
        return self

    def entry(self, directory: str, old_name: bytes, /, **fields: int | bytes) -> EditedImage:
        """Change fields of a directory entry (inode, rec_len, name_len, file_type, name)."""
        number = self.number(directory)
        for site in self.sites:
            if site.inode == number and site.kind.startswith("directory"):
                at = site.offset
                while at < site.offset + site.size:
                    _, rec_len, name_len, _ = EXT4_DIR_ENTRY.unpack_tuple(self.data, at)
                    start = at + EXT4_DIR_ENTRY.size
                    if self.data[start : start + name_len] == old_name:
                        for field, value in fields.items():
                            if field == "name":
                                assert isinstance(value, bytes)
                                assert len(value) == name_len
                                self.write(start, value, site)
                                continue
                            span = EXT4_DIR_ENTRY.span(field)
                            assert isinstance(value, int)
                            raw = value.to_bytes(span.size, "little")
                            self.write(at + span.offset, raw, site)
                        return self
                    at += max(rec_len, 12)
        raise LookupError(f"{directory} has no entry {old_name!r}")


Edit = Callable[[str], EditedImage]
"""The name of a fixture → a copy of it, to be changed."""
