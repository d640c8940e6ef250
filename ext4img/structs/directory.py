"""Directory entries and the hash tree (kernel: fs/ext4/ext4.h, fs/ext4/namei.c)."""

from ext4img.structs.declaration import Bytes, Int8ul, Int16ul, Int32ul, Struct
from ext4img.structs.inode import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK
from ext4img.structs.record import Record

EXT4_NAME_LEN = 255

# file_type
EXT4_FT_UNKNOWN = 0
EXT4_FT_REG_FILE = 1
EXT4_FT_DIR = 2
EXT4_FT_CHRDEV = 3
EXT4_FT_BLKDEV = 4
EXT4_FT_FIFO = 5
EXT4_FT_SOCK = 6
EXT4_FT_SYMLINK = 7
EXT4_FT_MAX = 8
EXT4_FT_DIR_CSUM = 0xDE  # of EXT4_DIR_ENTRY_TAIL
# By the type bits of i_mode (kernel: ext4_type_by_mode).
EXT4_TYPE_BY_MODE = {
    S_IFREG: EXT4_FT_REG_FILE,
    S_IFDIR: EXT4_FT_DIR,
    S_IFCHR: EXT4_FT_CHRDEV,
    S_IFBLK: EXT4_FT_BLKDEV,
    S_IFIFO: EXT4_FT_FIFO,
    S_IFSOCK: EXT4_FT_SOCK,
    S_IFLNK: EXT4_FT_SYMLINK,
}

# struct ext4_dir_entry_2 without its name. Without the filetype feature name_len is 16 bits wide;
# no name is longer than 255, so its upper byte (file_type here) is zero.
EXT4_DIR_ENTRY = Record(
    "ext4_dir_entry_2",
    Struct(
        "inode" / Int32ul,
        "rec_len" / Int16ul,
        "name_len" / Int8ul,
        "file_type" / Int8ul,
    ),
)
EXT4_DIR_MIN_REC_LEN = 12  # of a name of 1 to 4 bytes; "." and ".." have it (kernel: ext4_dir_rec_len)

# struct ext4_dir_entry_hash: after the name, at the next multiple of 4 from the entry's start, in
# directories that are encrypted and case-insensitive.
EXT4_DIR_ENTRY_HASH = Record("ext4_dir_entry_hash", Struct("hash" / Int32ul, "minor_hash" / Int32ul))

# Looks like an entry without a name, last in every block of entries, with metadata_csum.
EXT4_DIR_ENTRY_TAIL = Record(
    "ext4_dir_entry_tail",
    Struct(
        "det_reserved_zero1" / Int32ul,
        "det_rec_len" / Int16ul,
        "det_reserved_zero2" / Int8ul,
        "det_reserved_ft" / Int8ul,
        "det_checksum" / Int32ul,
    ),
)

# struct dx_root_info, at byte 24 of an indexed directory's first block, after "." and "..".
DX_ROOT_INFO_OFFSET = 24
DX_ROOT_INFO = Record(
    "dx_root_info",
    Struct(
        "reserved_zero" / Int32ul,
        "hash_version" / Int8ul,
        "info_length" / Int8ul,
        "indirect_levels" / Int8ul,
        "unused_flags" / Int8ul,
    ),
)
DX_ROOT_ENTRIES_OFFSET = DX_ROOT_INFO_OFFSET + DX_ROOT_INFO.size

# struct dx_countlimit: overlays the hash of the first dx_entry.
DX_COUNTLIMIT = Record("dx_countlimit", Struct("limit" / Int16ul, "count" / Int16ul))
DX_ENTRY = Record("dx_entry", Struct("hash" / Int32ul, "block" / Int32ul))
DX_BLOCK_MASK = 0x0FFFFFFF  # the logical block; the upper bits are reserved (kernel: dx_get_block)
# Levels of index blocks, the root included: one more than indirect_levels can be.
EXT4_HTREE_LEVEL_COMPAT = 2
EXT4_HTREE_LEVEL = 3  # with large_dir
# struct dx_node: an empty entry over the whole block, then countlimit and entries.
DX_NODE_ENTRIES_OFFSET = 8
# struct dx_tail: after `limit` entries, with metadata_csum.
DX_TAIL = Record("dx_tail", Struct("dt_reserved" / Int32ul, "dt_checksum" / Int32ul))

# hash versions (dx_root_info, s_def_hash_version)
DX_HASH_LEGACY = 0
DX_HASH_HALF_MD4 = 1
DX_HASH_TEA = 2
DX_HASH_LEGACY_UNSIGNED = 3
DX_HASH_HALF_MD4_UNSIGNED = 4
DX_HASH_TEA_UNSIGNED = 5
DX_HASH_SIPHASH = 6

# struct fake_dirent and the two entries at the start of dx_root, as one piece of bytes when built.
FAKE_DIRENT = Record(
    "fake_dirent",
    Struct("inode" / Int32ul, "rec_len" / Int16ul, "name_len" / Int8ul, "file_type" / Int8ul),
)
DX_ROOT_DOTS = Record(
    "dx_root_dots",
    Struct(
        "dot_inode" / Int32ul,
        "dot_rec_len" / Int16ul,
        "dot_name_len" / Int8ul,
        "dot_file_type" / Int8ul,
        "dot_name" / Bytes(4),
        "dotdot_inode" / Int32ul,
        "dotdot_rec_len" / Int16ul,
        "dotdot_name_len" / Int8ul,
        "dotdot_file_type" / Int8ul,
        "dotdot_name" / Bytes(4),
    ),
)

# A directory stored inline: the first 4 bytes of i_block are the parent's inode number.
EXT4_INLINE_DIR_PARENT = Record("ext4_inline_dir_parent", Struct("parent" / Int32ul))
EXT4_INLINE_DOTDOT_SIZE = 4

# struct ext4_orphan_block_tail: last 8 bytes of each block of the orphan file.
EXT4_MAX_ORPHAN_FILE_BLOCKS = 512
EXT4_ORPHAN_BLOCK_MAGIC = 0x0B10CA04
EXT4_ORPHAN_BLOCK_TAIL = Record("ext4_orphan_block_tail", Struct("ob_magic" / Int32ul, "ob_checksum" / Int32ul))
