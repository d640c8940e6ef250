"""The part of Construct's notation that a `Record` is declared in, without Construct itself.

The words mean what they mean in Construct, and `Struct.construct` is the `construct.Struct` that a
declaration stands for. Importing Construct takes as long as all the rest of opening an image, and
reading needs nothing of a declaration but each field's name, size and code: so Construct comes in
when something is built, or compared in the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import construct


class FieldType(NamedTuple):
    """What a field holds: Construct's word for it, its size in bytes and struct's letter."""

    word: str
    size: int
    code: str  # of bytes, "<n>s"
    byte_order: str  # struct's prefix: "<", ">", "=" (the host's); empty where there is none

    def __rtruediv__(self, name: str) -> tuple[str, FieldType]:
        return name, self

    @property
    def construct(self) -> Any:
        """Construct's own."""
        import construct

        own = getattr(construct, self.word)
        return own(self.size) if own is construct.Bytes else own


class Struct:
    """A flat declaration: `Struct("name" / Int32ul, ...)`."""

    def __init__(self, *members: tuple[str, FieldType]) -> None:
        self.members = members

    @property
    def construct(self) -> construct.Struct[Any, Any]:
        """Construct's own."""
        import construct

        return construct.Struct(*(name / kind.construct for name, kind in self.members))


def Bytes(length: int) -> FieldType:
    """So many bytes as they stand."""
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
