"""The part of Construct's notation that a `Record` is declared in, without Construct itself.

The words mean the same as in Construct, and `Struct.construct` gives the equivalent
`construct.Struct`. Importing Construct takes as long as the rest of opening an image, and reading
only needs each field's name, size and code. So Construct is imported only to build something, and
by the tests, which compare both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import construct


class FieldType(NamedTuple):
    """A field's type: its name in Construct, its size in bytes and its letter in `struct`."""

    word: str
    size: int
    code: str  # "<n>s" for bytes
    byte_order: str  # struct's prefix: "<", ">", "=" (the host's); empty for bytes and single bytes

    def __rtruediv__(self, name: str) -> tuple[str, FieldType]:
        return name, self

    @property
    def construct(self) -> Any:
        """The equivalent of Construct."""
        import construct

        own = getattr(construct, self.word)
        return own(self.size) if own is construct.Bytes else own


class Struct:
    """A flat declaration: `Struct("name" / Int32ul, ...)`."""

    def __init__(self, *members: tuple[str, FieldType]) -> None:
        self.members = members

    @property
    def construct(self) -> construct.Struct[Any, Any]:
        """The equivalent of Construct."""
        import construct

        return construct.Struct(*(name / kind.construct for name, kind in self.members))


def Bytes(length: int) -> FieldType:
    """`length` bytes, uninterpreted."""
    return FieldType("Bytes", length, f"{length}s", "")


Int8ul = FieldType("Int8ul", 1, "B", "")
Int8ub = FieldType("Int8ub", 1, "B", "")
Int8un = FieldType("Int8un", 1, "B", "")
Int16ul = FieldType("Int16ul", 2, "H", "<")
Int16ub = FieldType("Int16ub", 2, "H", ">")
# In struct's standard modes "L" has 4 bytes.
Int32ul = FieldType("Int32ul", 4, "L", "<")
Int32sl = FieldType("Int32sl", 4, "l", "<")
Int32ub = FieldType("Int32ub", 4, "L", ">")
Int32sb = FieldType("Int32sb", 4, "l", ">")
Int32un = FieldType("Int32un", 4, "L", "=")
Int64ul = FieldType("Int64ul", 8, "Q", "<")
Int64ub = FieldType("Int64ub", 8, "Q", ">")
Int64un = FieldType("Int64un", 8, "Q", "=")
