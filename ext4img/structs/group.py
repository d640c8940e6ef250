"""struct ext4_group_desc, 32 bytes, and its upper half with 64bit (kernel: fs/ext4/ext4.h)."""

from ext4img.structs.declaration import Int16ul, Int32ul, Struct
from ext4img.structs.record import Record

EXT4_MIN_DESC_SIZE = 32
EXT4_MIN_DESC_SIZE_64BIT = 64
EXT4_MAX_DESC_SIZE = 1024

# bg_flags
EXT4_BG_INODE_UNINIT = 0x1
EXT4_BG_BLOCK_UNINIT = 0x2
EXT4_BG_INODE_ZEROED = 0x4

EXT4_GROUP_DESC = Record(
    "ext4_group_desc",
    Struct(
        "bg_block_bitmap_lo" / Int32ul,
        "bg_inode_bitmap_lo" / Int32ul,
        "bg_inode_table_lo" / Int32ul,
        "bg_free_blocks_count_lo" / Int16ul,
        "bg_free_inodes_count_lo" / Int16ul,
        "bg_used_dirs_count_lo" / Int16ul,
        "bg_flags" / Int16ul,
        "bg_exclude_bitmap_lo" / Int32ul,
        "bg_block_bitmap_csum_lo" / Int16ul,
        "bg_inode_bitmap_csum_lo" / Int16ul,
        "bg_itable_unused_lo" / Int16ul,
        "bg_checksum" / Int16ul,
    ),
)

# Bytes 32 to 63, present where s_desc_size is at least 64.
EXT4_GROUP_DESC_HI = Record(
    "ext4_group_desc_hi",
    Struct(
        "bg_block_bitmap_hi" / Int32ul,
        "bg_inode_bitmap_hi" / Int32ul,
        "bg_inode_table_hi" / Int32ul,
        "bg_free_blocks_count_hi" / Int16ul,
        "bg_free_inodes_count_hi" / Int16ul,
        "bg_used_dirs_count_hi" / Int16ul,
        "bg_itable_unused_hi" / Int16ul,
        "bg_exclude_bitmap_hi" / Int32ul,
        "bg_block_bitmap_csum_hi" / Int16ul,
        "bg_inode_bitmap_csum_hi" / Int16ul,
        "bg_reserved" / Int32ul,
    ),
)
