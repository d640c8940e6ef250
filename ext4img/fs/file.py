"""An open file: random access to plaintext or ciphertext, as io.RawIOBase."""

from __future__ import annotations

import io
from operator import index
from typing import TYPE_CHECKING

from ext4img.errors import LimitError
from ext4img.volume.contents import Contents

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from ext4img.crypto.codec import ContentsCipher

PEEK_BYTES = 8192
_AT_ONCE_BYTES = 1 << 30
# Plaintext for a small read comes from a piece of this size, which is kept.
_DECRYPT_BYTES = 64 << 10


class File(io.RawIOBase):
    """A file on the image, opened for reading. Every read returns all bytes requested, up to the end.

    `size` is in bytes. Holes and unwritten extents read as zeros; `segments` lists where data is.
    """

    def __init__(self, contents: Contents, name: str, cipher: ContentsCipher | None = None) -> None:
        self._contents = contents
        self._cipher = cipher
        self._position = 0
        self._kept = b""
        self._kept_at = -1
        self.name = name
        self.size = contents.size

    def __del__(self) -> None:
        """Do nothing: io's own would close it, which costs more than reading a small file."""

    def __repr__(self) -> str:
        return f"<ext4img.File {self.name!r}, {self.size} bytes>"

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check_open()
        offset = index(offset)
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}.get(whence)
        if base is None:
            raise ValueError(f"unknown whence {whence}")
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill the buffer from the position on; returns the number of bytes."""
        view = memoryview(buffer)
        got = self.pread_into(self._position, view if view.format == "B" and view.ndim == 1 else view.cast("B"))
        self._position += got
        return got

    def read(self, size: int | None = -1, /) -> bytes:
        """`size` bytes, or all that remain."""
        self._check_open()
        left = max(self.size - self._position, 0)
        data = self.pread(self._position, left if size is None or size < 0 else min(size, left))
        self._position += len(data)
        return data

    def write(self, data: ReadableBuffer, /) -> int:
        raise io.UnsupportedOperation("images are read-only")

    def readall(self) -> bytes:
        return self.read()

    def peek(self, size: int = 0, /) -> bytes:
        """Bytes at the position, which does not move; makes readline fast."""
        return self.pread(self._position, max(size, PEEK_BYTES))

    def pread(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from byte `offset` on; the position does not move.

        LimitError for more bytes than the whole volume has: i_size may be any number, and most of
        such a file is a hole. `segments` lists where data is.
        """
        if self.closed:
            self._check_open()
        if offset < 0:
            raise ValueError(f"negative offset {offset}")
        if length > _AT_ONCE_BYTES:
            length = min(length, self.size - offset)
            if length > max(self._contents.volume_size, _AT_ONCE_BYTES):
                raise LimitError(f"{self.name}: {length} bytes at once, nearly all of them a hole: read it in pieces")
        if self._cipher is None:
            return self._contents.read(offset, length)
        length = max(min(length, self.size - offset), 0)
        data = bytearray(length)
        self.pread_into(offset, memoryview(data))
        return bytes(data)

    def pread_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from byte `offset` on; returns the number of bytes. The position does not move."""
        if self.closed:
            self._check_open()
        if offset < 0:
            raise ValueError(f"negative offset {offset}")
        length = min(len(buffer), self.size - offset)
        if length <= 0:
            return 0
        if self._cipher is None:
            return self._contents.read_into(offset, buffer)
        unit = self._cipher.data_unit_size
        if offset % unit == 0 and length % unit == 0:
            self._decrypt_into(offset, buffer[:length])
            return length
        self._ragged_into(offset, buffer[:length], unit)
        return length

    def segments(self) -> list[tuple[int, int]]:
        """(offset, length) in bytes of the data, in order; the rest up to `size` is holes."""
        return self._contents.segments()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _ragged_into(self, offset: int, buffer: memoryview, unit: int) -> None:
        """Read a range that does not begin or end with a data unit: by whole units, of which the last are kept."""
        done = 0
        while done < len(buffer):
            at = offset + done
            inside = at - self._kept_at
            if self._kept_at < 0 or not 0 <= inside < len(self._kept):
                if at % unit == 0 and len(buffer) - done >= max(unit, _DECRYPT_BYTES):
                    whole = (len(buffer) - done) // unit * unit
                    self._decrypt_into(at, buffer[done : done + whole])
                    done += whole
                    continue
                start = at - at % unit
                wanted = len(buffer) - done + at % unit
                # A little more, as the next small read is likely to follow here.
                end = start + max(-(-min(wanted, _DECRYPT_BYTES) // unit) * unit, unit)
                piece = bytearray(min(end, -(-self.size // unit) * unit) - start)
                self._decrypt_into(start, memoryview(piece))
                self._kept, self._kept_at = bytes(piece), start
                inside = at - start
            take = min(len(self._kept) - inside, len(buffer) - done)
            buffer[done : done + take] = self._kept[inside : inside + take]
            done += take

    def _decrypt_into(self, offset: int, buffer: memoryview) -> None:
        """Whole data units of plaintext; only written blocks are decrypted, the rest are zeros."""
        assert self._cipher is not None
        contents, unit = self._contents, self._cipher.data_unit_size
        bad = contents.read_stored_into(offset, buffer)
        for start, length in contents.written(offset, len(buffer)):
            piece = buffer[start - offset : start - offset + length]
            self._cipher.decrypt_into(piece, start // unit, piece)
        for start, length in bad:  # unreadable blocks must stay zeros; decrypted they would be noise
            first = start - start % unit
            end = min(-(-(start + length) // unit) * unit, offset + len(buffer))
            buffer[first - offset : end - offset] = bytes(end - first)
