"""A bounded reader of the protocol buffer wire format, for proto3 messages.

A message is a sequence of fields: a varint key (field number << 3 | wire type), then the value. Only
wire types 0 (varint) and 2 (length-delimited) are used by fscrypt's messages; 1 and 5 (64 and 32
bits) are skipped, as every unknown field must be. 3 and 4 (groups) do not exist in proto3.
Source: protobuf.dev, "Encoding".

Every number in the input may be hostile. The length of the input bounds the work, and
`MAX_MESSAGE_BYTES` bounds that length; sub-messages are parsed only when the caller requests them.
"""

from __future__ import annotations

from collections.abc import Iterator

from ext4img.errors import CorruptionError, LimitError, Place

MAX_MESSAGE_BYTES = 16384
"""Size of the largest message accepted; fscrypt refuses larger metadata files (filesystem.go)."""

_VARINT, _BYTES = 0, 2
_FIXED_SIZES = {1: 8, 5: 4}
_MAX_VARINT_BYTES = 10
_MAX_FIELD_NUMBER = (1 << 29) - 1


class Message:
    """The fields of one message, by number. `name` is the message's type, `where` the file it is in.

    As the format requires, the last value of a repeated scalar counts, a repeated sub-message that is
    not a list is merged, and an absent field has its type's zero.
    """

    __slots__ = ("_chunks", "_integers", "name", "where")

    def __init__(self, data: bytes, name: str, where: str) -> None:
        """Parse `data`. CorruptionError if it is malformed, LimitError above MAX_MESSAGE_BYTES."""
        if len(data) > MAX_MESSAGE_BYTES:
            raise LimitError(f"{where}: {len(data)} bytes, more than the {MAX_MESSAGE_BYTES} that metadata may have")
        self.name = name
        self.where = where
        self._integers: dict[int, list[int]] = {}
        self._chunks: dict[int, list[bytes]] = {}
        for number, value in self._iter_fields(data):
            if isinstance(value, int):
                self._integers.setdefault(number, []).append(value)
            else:
                self._chunks.setdefault(number, []).append(value)

    def invalid(self, field: str, reason: str) -> CorruptionError:
        """The error that `field` of this message is wrong."""
        return CorruptionError(f"{self.where}: {field} {reason}", Place(record=self.name, field=field))

    def integer(self, number: int, field: str) -> int:
        """An int64, or an enum; 0 where absent."""
        if number in self._chunks:
            raise self.invalid(field, "is not a number")
        value = self._integers.get(number, [0])[-1]
        return value - (1 << 64) if value >> 63 else value

    def boolean(self, number: int, field: str) -> bool:
        """A bool; False where absent."""
        return self.integer(number, field) != 0

    def _all_chunks(self, number: int, field: str) -> list[bytes]:
        if number in self._integers:
            raise self.invalid(field, "is a number")
        return self._chunks.get(number, [])

    def octets(self, number: int, field: str) -> bytes:
        """A bytes field; empty where absent."""
        chunks = self._all_chunks(number, field)
        return chunks[-1] if chunks else b""

    def text(self, number: int, field: str) -> str:
        """A string field; bytes that are not UTF-8 become U+FFFD."""
        return self.octets(number, field).decode("utf-8", "replace")

    def message(self, number: int, field: str, name: str) -> Message:
        """A sub-message of type `name`, its parts merged by joining their bytes. It is required."""
        chunks = self._all_chunks(number, field)
        if not chunks:
            raise self.invalid(field, "is not set")
        return Message(b"".join(chunks), name, self.where)

    def messages(self, number: int, field: str, name: str) -> list[Message]:
        """A repeated sub-message of type `name`."""
        return [Message(chunk, name, self.where) for chunk in self._all_chunks(number, field)]

    def _corrupt(self, reason: str, offset: int) -> CorruptionError:
        return CorruptionError(
            f"{self.where}: protobuf {reason}, at byte {offset} of the message", Place(record=self.name)
        )

    def _iter_fields(self, data: bytes) -> Iterator[tuple[int, int | bytes]]:
        """Yield (field number, value): an unsigned 64-bit integer, or the bytes of a length-delimited field."""
        offset = 0
        while offset < len(data):
            start = offset
            key, offset = self._varint(data, offset)
            number, wire_type = key >> 3, key & 7
            if not 1 <= number <= _MAX_FIELD_NUMBER:
                raise self._corrupt(f"field number {number} does not exist", start)
            if wire_type == _VARINT:
                value, offset = self._varint(data, offset)
                yield number, value
                continue
            if wire_type == _BYTES:
                length, offset = self._varint(data, offset)
            elif wire_type in _FIXED_SIZES:
                length = _FIXED_SIZES[wire_type]
            else:
                raise self._corrupt(f"wire type {wire_type} does not occur in proto3", start)
            if length > len(data) - offset:
                raise self._corrupt(f"field {number} runs past the end", start)
            if wire_type == _BYTES:
                yield number, data[offset : offset + length]
            offset += length

    def _varint(self, data: bytes, offset: int) -> tuple[int, int]:
        """The unsigned 64-bit varint at `offset`, and the offset after it."""
        value = 0
        for index, byte in enumerate(data[offset : offset + _MAX_VARINT_BYTES]):
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80 and value < 1 << 64:
                return value, offset + index + 1
        raise self._corrupt("number is cut short or above 64 bits", offset)
