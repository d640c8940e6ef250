"""Sources of bytes: `read_at(offset, length)` and `size`, nothing else. Read-only, without mmap."""

from ext4img.sources.base import Source
from ext4img.sources.file import FileSource
from ext4img.sources.memory import BytesSource
from ext4img.sources.opening import Openable, open_source
from ext4img.sources.slice import SliceSource
from ext4img.sources.stream import StreamSource

__all__ = ["BytesSource", "FileSource", "Openable", "SliceSource", "Source", "StreamSource", "open_source"]
