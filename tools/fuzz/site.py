"""A site: one structure of an image, its fields, and the checksum over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ext4img.structs.record import Record

Seal = Callable[[bytearray], None]
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Field:
    """An integer or byte string inside a site, at `offset` bytes from the image's start."""

    name: str
    offset: int
    size: int
    big_endian: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """One structure. `covered` are the (start, end) bytes, from the image's start, under its checksum.

    `seal` makes that checksum fit again; it changes bytes of the site and of `also_sealed`.
    """

    kind: str
    offset: int
    size: int
    fields: tuple[Field, ...]
    covered: Ranges = ()
    seal: Seal | None = None
    inode: int | None = None  # that it is or belongs to
    also_sealed: Ranges = ()

    def field(self, name: str, index: int = 0) -> Field:
        """The `index`-th field of this name (the kernel's, without its record's)."""
        return [field for field in self.fields if field.name.rpartition(".")[2] == name][index]


def fields_of(record: Record, offset: int) -> Iterator[Field]:
    """The fields of a record that stands at `offset` bytes from the image's start."""
    big = record.byte_order == ">"
    for field in record.fields:
        yield Field(f"{record.name}.{field.name}", offset + field.offset, field.size, big)


def shifted(field: Field, by: int) -> Field:
    """The same field `by` bytes further on."""
    return replace(field, offset=field.offset + by)
