"""`Record`: one flat declaration of a structure, and everything that is derived from it.

A declaration is a `Struct` of fixed-width integers and `Bytes(n)` only, all of one byte order, in
Construct's notation (declaration.py). A structure with a conditional part becomes two Records; one
with a variable part becomes a header Record and one bounded loop in its owner. The declaration gives:

- `size` in bytes and `fields` (name, offset and size of each),
- `raw`, a named tuple with the kernel's field names,
- `unpack` (one), `iter_unpack` and `unpack_many` (tables), all `struct.Struct` underneath,
- `dtype()`, the same layout for NumPy, which is imported only then,
- `build`, by Construct.

The tests prove that unpack, dtype and Construct's parse agree. Construct's `.compile()` is not used:
on short input a compiled field returned fewer bytes and raised nothing (construct 2.10.70).
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator, Mapping
from functools import cached_property
from struct import Struct as PackStruct
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ext4img.errors import CorruptionError, Place
from ext4img.structs.declaration import Struct

if TYPE_CHECKING:
    import construct
    import numpy

Buffer = bytes | bytearray | memoryview

_NUMPY_INTEGERS = {"B": "u1", "H": "u2", "L": "u4", "Q": "u8", "b": "i1", "h": "i2", "l": "i4", "q": "i8"}


class Field(NamedTuple):
    """A field of a Record: its kernel name, its offset and size in bytes."""

    name: str
    offset: int
    size: int
    code: str  # struct's letter for an integer, "<n>s" for bytes


class Record:
    """One structure on disk; the module's docstring says more. `name` is the kernel's name of it."""

    def __init__(self, name: str, declaration: Struct, raw: Any = None) -> None:
        self.name = name
        self.declaration = declaration
        offset = 0
        fields: list[Field] = []
        for field_name, kind in declaration.members:
            fields.append(Field(field_name, offset, kind.size, kind.code))
            offset += kind.size
        self.fields = tuple(fields)
        self.size = offset
        orders = {kind.byte_order for _, kind in declaration.members if kind.byte_order}
        if len(orders) > 1:
            raise TypeError(f"{name}: two byte orders in one record")
        self.byte_order = orders.pop() if orders else "<"
        self._pack = PackStruct(self.byte_order + "".join(f.code for f in fields))
        if self._pack.size != self.size:
            raise TypeError(f"{name}: derived size differs from the declaration's")
        if raw is not None:
            if raw._fields != tuple(f.name for f in fields):
                raise TypeError(f"{name}: the raw tuple's fields differ from the declaration's")
            self.raw = raw
        self.unpack_tuple = self._pack.unpack_from
        """Plain tuple of the fields at (buffer, offset), for hot loops that have checked the bounds."""
        self.iter_tuples = self._pack.iter_unpack
        """Plain tuples of all records of a buffer whose length is a multiple of the size."""

    @cached_property
    def construct(self) -> construct.Struct[Any, Any]:
        """The equivalent declaration of Construct; imports Construct."""
        return self.declaration.construct

    @cached_property
    def raw(self) -> Any:
        """The named tuple's class, made on first use: it costs more than the rest of a Record.

        Its fields are only known at run time, hence Any: `from_raw` functions give them types. A
        small record may pass a NamedTuple of its own, with the same names.
        """
        return cast(Any, namedtuple)(self.name, [f.name for f in self.fields])

    @cached_property
    def _make(self) -> Any:
        return self.raw._make

    def __repr__(self) -> str:
        return f"Record({self.name}, {self.size} bytes)"

    def span(self, field: str) -> Field:
        """The named field, with its offset and size."""
        for candidate in self.fields:
            if candidate.name == field:
                return candidate
        raise KeyError(f"{self.name} has no field {field}")

    def offset_of(self, field: str) -> int:
        """Byte offset of the named field."""
        return self.span(field).offset

    def unpack(self, buffer: Buffer, offset: int = 0, place: Place | None = None) -> Any:
        """The raw named tuple at `offset`. CorruptionError where the buffer is too short."""
        if offset < 0 or len(buffer) - offset < self.size:
            raise CorruptionError(
                f"{self.name} needs {self.size} bytes, {max(len(buffer) - offset, 0)} are left",
                place or Place(offset=offset, record=self.name),
            )
        return self._make(self.unpack_tuple(buffer, offset))

    def unpack_many(self, buffer: Buffer, count: int, offset: int = 0, stride: int | None = None) -> list[Any]:
        """`count` records, `stride` bytes apart (default: packed), from `offset` on."""
        step = stride or self.size
        if count < 0 or offset < 0 or (count and offset + (count - 1) * step + self.size > len(buffer)):
            raise CorruptionError(
                f"{count} records of {self.name} do not fit into {len(buffer)} bytes",
                Place(offset=offset, record=self.name),
            )
        if step == self.size:
            view = memoryview(buffer)[offset : offset + count * step]
            return [self._make(values) for values in self._pack.iter_unpack(view)]
        at = self.unpack_tuple
        return [self._make(at(buffer, offset + i * step)) for i in range(count)]

    def iter_unpack(self, buffer: Buffer) -> Iterator[Any]:
        """All records of a buffer whose length is a multiple of the size."""
        return map(self._make, self._pack.iter_unpack(buffer))

    def dtype(self) -> numpy.dtype[Any]:
        """The same layout for NumPy, which reads a whole table in one `numpy.frombuffer`."""
        import numpy

        def code(field: Field) -> str:
            if field.code.endswith("s"):
                return f"V{field.size}"
            kind = _NUMPY_INTEGERS[field.code]
            return kind if field.size == 1 else self.byte_order + kind

        return numpy.dtype([(f.name, code(f)) for f in self.fields])

    def pack(self, values: tuple[Any, ...]) -> bytes:
        """The bytes of a raw tuple (the inverse of `unpack`)."""
        return self._pack.pack(*values)

    def build(self, values: Mapping[str, Any]) -> bytes:
        """The bytes of these values, by Construct; fields that are not named are zero."""
        full = {f.name: bytes(f.size) if f.code.endswith("s") else 0 for f in self.fields}
        unknown = set(values) - set(full)
        if unknown:
            raise KeyError(f"{self.name} has no field {', '.join(sorted(unknown))}")
        full.update(values)
        return cast("bytes", self.construct.build(full))
