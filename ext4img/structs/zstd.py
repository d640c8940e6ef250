"""Zstandard frames that can be read in any order (zstd's contrib/seekable_format, version 0.1.0).

After the last frame of data stands a skippable frame with one entry for each, then a footer. Every
zstd decoder passes skippable frames by.
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
        "Seek_Table_Descriptor" / Int8ul,  # bit 7: entries have a checksum too, which ours have not
        "Seekable_Magic_Number" / Int32ul,
    ),
)
