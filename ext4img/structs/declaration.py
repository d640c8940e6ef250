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


class Kind(NamedTuple):
    """What a field holds: Construct's word for it, its size in bytes and struct's letter."""

    word: str
    size: int
    code: str  # of bytes, "<n>s"
    byte_order: str  # struct's prefix: "<", ">", "=" (the host's); empty where there is none

    def __rtruediv__(self, name: str) -> tuple[str, Kind]:
        return name, self

    @property
    def construct(self) -> Any:
        """Construct's own."""
        import construct

        own = getattr(construct, self.word)
        return own(self.size) if own is construct.Bytes else own


class Struct:
    """A flat declaration: `Struct("name" / Int32ul, ...)`."""

    def __init__(self, *members: tuple[str, Kind]) -> None:
        self.members = members

    @property
    def construct(self) -> construct.Struct[Any, Any]:
        """Construct's own."""
        import construct

        return construct.Struct(*(name / kind.construct for name, kind in self.members))


def Bytes(length: int) -> Kind:
    """So many bytes as they stand."""
    return Kind("Bytes", length, f"{length}s", "")


Int8ul = Kind("Int8ul", 1, "B", "")
Int8ub = Kind("Int8ub", 1, "B", "")
Int8un = Kind("Int8un", 1, "B", "")
Int16ul = Kind("Int16ul", 2, "H", "<")
Int16ub = Kind("Int16ub", 2, "H", ">")
# In struct's standard modes "L" has 4 bytes.
Int32ul = Kind("Int32ul", 4, "L", "<")
Int32sl = Kind("Int32sl", 4, "l", "<")
Int32ub = Kind("Int32ub", 4, "L", ">")
Int32sb = Kind("Int32sb", 4, "l", ">")
Int32un = Kind("Int32un", 4, "L", "=")
Int64ul = Kind("Int64ul", 8, "Q", "<")
Int64ub = Kind("Int64ub", 8, "Q", ">")
Int64un = Kind("Int64un", 8, "Q", "=")
