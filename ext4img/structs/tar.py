"""The tar header block (POSIX.1-2001 pax, "ustar Interchange Format"): text fields, 512 bytes."""

from ext4img.structs.declaration import Bytes, Struct
from ext4img.structs.record import Record

BLOCK_BYTES = 512
USTAR_MAGIC = b"ustar\0"
USTAR_VERSION = b"00"

# Numbers are octal digits, zero-filled on the left and followed by a NUL or space. Names are
# NUL-padded, unless they fill the field. chksum is the sum of all 512 bytes, with its own eight
# counted as spaces.
POSIX_HEADER = Record(
    "posix_header",
    Struct(
        "name" / Bytes(100),
        "mode" / Bytes(8),
        "uid" / Bytes(8),
        "gid" / Bytes(8),
        "size" / Bytes(12),
        "mtime" / Bytes(12),
        "chksum" / Bytes(8),
        "typeflag" / Bytes(1),
        "linkname" / Bytes(100),
        "magic" / Bytes(6),
        "version" / Bytes(2),
        "uname" / Bytes(32),
        "gname" / Bytes(32),
        "devmajor" / Bytes(8),
        "devminor" / Bytes(8),
        "prefix" / Bytes(155),
        "padding" / Bytes(12),
    ),
)

REGTYPE = b"0"
LNKTYPE = b"1"
SYMTYPE = b"2"
CHRTYPE = b"3"
BLKTYPE = b"4"
DIRTYPE = b"5"
FIFOTYPE = b"6"
XHDTYPE = b"x"  # pax records of the next member
GNU_LONGNAME = b"L"  # its data is the next member's name and a NUL
GNU_LONGLINK = b"K"  # the same for its link name
