"""Opening a Source for everything that a caller may pass as an image."""

from __future__ import annotations

import os

from ext4img.sources.base import Source
from ext4img.sources.file import FileSource
from ext4img.sources.memory import BytesSource
from ext4img.sources.slice import SliceSource
from ext4img.sources.stream import SeekableReader, StreamSource

Openable = str | os.PathLike[str] | bytes | bytearray | memoryview | int | Source | SeekableReader


def open_source(image: Openable, offset: int = 0, length: int | None = None, *, live: bool = False) -> Source:
    """The source for `image`, from byte `offset` on.

    A str or os.PathLike is a path (file or block device), an int a descriptor, bytes are the image
    itself, anything else a seekable binary file object. With `live` a block device is read past the page
    cache (`direct`). SourceError if it cannot be opened.
    """
    source: Source
    if isinstance(image, Source):
        source = image
    elif isinstance(image, str | os.PathLike | int):
        source = FileSource(image)
        if live and source.is_block_device:
            from ext4img.sources.direct import DirectSource

            source.close()
            source = DirectSource(image)
    elif isinstance(image, bytes | bytearray | memoryview):
        source = BytesSource(image)
    else:
        source = StreamSource(image)
    if offset or length is not None:
        try:
            return SliceSource(source, offset, length)
        except BaseException:
            if source is not image:  # the caller closes what the caller opened
                source.close()
            raise
    return source
