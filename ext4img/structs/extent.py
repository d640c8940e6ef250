"""The extent tree (kernel: fs/ext4/ext4_extents.h)."""

from ext4img.structs.declaration import Int16ul, Int32ul, Struct
from ext4img.structs.record import Record

EXT4_EXT_MAGIC = 0xF30A
EXT4_MAX_EXTENT_DEPTH = 5
EXT_INIT_MAX_LEN = 32768  # a longer ee_len means unwritten, of ee_len - 32768 blocks
EXT_UNWRITTEN_MAX_LEN = EXT_INIT_MAX_LEN - 1
EXT_MAX_BLOCKS = 0xFFFFFFFF  # blocks of a file

EXT4_EXTENT_HEADER = Record(
    "ext4_extent_header",
    Struct(
        "eh_magic" / Int16ul,
        "eh_entries" / Int16ul,
        "eh_max" / Int16ul,
        "eh_depth" / Int16ul,
        "eh_generation" / Int32ul,
    ),
)

EXT4_EXTENT_IDX = Record(
    "ext4_extent_idx",
    Struct(
        "ei_block" / Int32ul,
        "ei_leaf_lo" / Int32ul,
        "ei_leaf_hi" / Int16ul,
        "ei_unused" / Int16ul,
    ),
)

EXT4_EXTENT = Record(
    "ext4_extent",
    Struct(
        "ee_block" / Int32ul,
        "ee_len" / Int16ul,
        "ee_start_hi" / Int16ul,
        "ee_start_lo" / Int32ul,
    ),
)

# After the eh_max entries of an extent block; never in the inode.
EXT4_EXTENT_TAIL = Record("ext4_extent_tail", Struct("et_checksum" / Int32ul))
