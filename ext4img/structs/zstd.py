"""Zstandard frames that can be read in any order (zstd's contrib/seekable_format, version 0.1.0).

The last frame of data is followed by a skippable frame that has one entry for each of them, and a
footer. Every zstd decoder ignores skippable frames.
"""

from ext4img.structs.declaration import Int8ul, Int32ul, Struct
from ext4img.structs.record import Record

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE_MAGIC = 0x184D2A5E
ZSTD_SEEKABLE_MAGIC = 0x8F92EAB1

ZSTD_SKIPPABLE_HEADER = Record("zstd_skippable_header", Struct("Magic_Number" / Int32ul, "Frame_Size" / Int32ul))
ZSTD_SEEK_ENTRY = Record("zstd_seek_entry", Struct("Compressed_Size" / Int32ul, "Decompressed_Size" / Int32ul))
ZSTD_SEEK_FOOTER = Record(
    "zstd_seek_table_footer",
    Struct(
        "Number_Of_Frames" / Int32ul,
        "Seek_Table_Descriptor" / Int8ul,  # bit 7: entries also have a checksum; ours have none
        "Seekable_Magic_Number" / Int32ul,
    ),
)
