"""struct ext4_inode: 128 bytes, then as many as i_extra_isize counts (kernel: fs/ext4/ext4.h)."""

from typing import NamedTuple

from ext4img.structs.declaration import Bytes, Int16ul, Int32sl, Int32ul, Struct
from ext4img.structs.record import Record

EXT4_BAD_INO = 1
EXT4_ROOT_INO = 2
EXT4_USR_QUOTA_INO = 3
EXT4_GRP_QUOTA_INO = 4
EXT4_BOOT_LOADER_INO = 5
EXT4_RESIZE_INO = 7
EXT4_JOURNAL_INO = 8
EXT4_N_BLOCKS = 15
EXT4_NDIR_BLOCKS = 12
EXT4_LINK_MAX = 65000
SECTOR_SIZE = 512  # what i_blocks counts

# i_flags (FS_*_FL in include/uapi/linux/fs.h; NOCOW is known to lsattr alone)
EXT4_SECRM_FL = 0x00000001
EXT4_UNRM_FL = 0x00000002
EXT4_COMPR_FL = 0x00000004
EXT4_SYNC_FL = 0x00000008
EXT4_IMMUTABLE_FL = 0x00000010
EXT4_APPEND_FL = 0x00000020
EXT4_NODUMP_FL = 0x00000040
EXT4_NOATIME_FL = 0x00000080
EXT4_NOCOMPR_FL = 0x00000400
EXT4_ENCRYPT_FL = 0x00000800
EXT4_INDEX_FL = 0x00001000
EXT4_IMAGIC_FL = 0x00002000
EXT4_JOURNAL_DATA_FL = 0x00004000
EXT4_NOTAIL_FL = 0x00008000
EXT4_DIRSYNC_FL = 0x00010000
EXT4_TOPDIR_FL = 0x00020000
EXT4_HUGE_FILE_FL = 0x00040000
EXT4_EXTENTS_FL = 0x00080000
EXT4_VERITY_FL = 0x00100000
EXT4_EA_INODE_FL = 0x00200000
EXT4_EOFBLOCKS_FL = 0x00400000
EXT4_NOCOW_FL = 0x00800000
EXT4_DAX_FL = 0x02000000
EXT4_INLINE_DATA_FL = 0x10000000
EXT4_PROJINHERIT_FL = 0x20000000
EXT4_CASEFOLD_FL = 0x40000000


class InodeFlag(NamedTuple):
    """One bit of i_flags, its letter in lsattr and chattr ("" if it has none), and its name."""

    bit: int
    letter: str
    name: str


# In lsattr's order, with the names of `lsattr -l` (e2fsprogs, lib/e2p/pf.c). lsattr does not show the last two.
INODE_FLAGS = (
    InodeFlag(EXT4_SECRM_FL, "s", "secure_deletion"),
    InodeFlag(EXT4_UNRM_FL, "u", "undelete"),
    InodeFlag(EXT4_SYNC_FL, "S", "synchronous_updates"),
    InodeFlag(EXT4_DIRSYNC_FL, "D", "synchronous_directory_updates"),
    InodeFlag(EXT4_IMMUTABLE_FL, "i", "immutable"),
    InodeFlag(EXT4_APPEND_FL, "a", "append_only"),
    InodeFlag(EXT4_NODUMP_FL, "d", "no_dump"),
    InodeFlag(EXT4_NOATIME_FL, "A", "no_atime"),
    InodeFlag(EXT4_COMPR_FL, "c", "compression_requested"),
    InodeFlag(EXT4_ENCRYPT_FL, "E", "encrypted"),
    InodeFlag(EXT4_JOURNAL_DATA_FL, "j", "journaled_data"),
    InodeFlag(EXT4_INDEX_FL, "I", "indexed_directory"),
    InodeFlag(EXT4_NOTAIL_FL, "t", "no_tailmerging"),
    InodeFlag(EXT4_TOPDIR_FL, "T", "top_of_directory_hierarchies"),
    InodeFlag(EXT4_EXTENTS_FL, "e", "extents"),
    InodeFlag(EXT4_NOCOW_FL, "C", "no_cow"),
    InodeFlag(EXT4_DAX_FL, "x", "dax"),
    InodeFlag(EXT4_CASEFOLD_FL, "F", "casefold"),
    InodeFlag(EXT4_INLINE_DATA_FL, "N", "inline_data"),
    InodeFlag(EXT4_PROJINHERIT_FL, "P", "project_hierarchy"),
    InodeFlag(EXT4_VERITY_FL, "V", "verity"),
    InodeFlag(EXT4_NOCOMPR_FL, "m", "dont_compress"),
    InodeFlag(EXT4_HUGE_FILE_FL, "", "huge_file"),
    InodeFlag(EXT4_EA_INODE_FL, "", "ea_inode"),
)

# i_mode's file types (POSIX)
S_IFMT = 0xF000
S_IFIFO = 0x1000
S_IFCHR = 0x2000
S_IFDIR = 0x4000
S_IFBLK = 0x6000
S_IFREG = 0x8000
S_IFLNK = 0xA000
S_IFSOCK = 0xC000

# The first 128 bytes (EXT4_GOOD_OLD_INODE_SIZE). Seconds are signed, as in the kernel
# (ext4_decode_extra_time). Of the unions this is Linux's variant: osd1 is l_i_version, osd2 is linux2.
EXT4_INODE = Record(
    "ext4_inode",
    Struct(
        "i_mode" / Int16ul,
        "i_uid" / Int16ul,
        "i_size_lo" / Int32ul,
        "i_atime" / Int32sl,
        "i_ctime" / Int32sl,
        "i_mtime" / Int32sl,
        "i_dtime" / Int32ul,
        "i_gid" / Int16ul,
        "i_links_count" / Int16ul,
        "i_blocks_lo" / Int32ul,
        "i_flags" / Int32ul,
        "l_i_version" / Int32ul,
        "i_block" / Bytes(60),
        "i_generation" / Int32ul,
        "i_file_acl_lo" / Int32ul,
        "i_size_high" / Int32ul,
        "i_obso_faddr" / Int32ul,
        "l_i_blocks_high" / Int16ul,
        "l_i_file_acl_high" / Int16ul,
        "l_i_uid_high" / Int16ul,
        "l_i_gid_high" / Int16ul,
        "l_i_checksum_lo" / Int16ul,
        "l_i_reserved" / Int16ul,
    ),
)
I_BLOCK_SIZE = EXT4_INODE.span("i_block").size

# Bytes 128 to 159. A field exists only if it ends within 128 + i_extra_isize (EXT4_FITS_IN_INODE).
EXT4_INODE_EXTRA = Record(
    "ext4_inode_extra",
    Struct(
        "i_extra_isize" / Int16ul,
        "i_checksum_hi" / Int16ul,
        "i_ctime_extra" / Int32ul,
        "i_mtime_extra" / Int32ul,
        "i_atime_extra" / Int32ul,
        "i_crtime" / Int32sl,
        "i_crtime_extra" / Int32ul,
        "i_version_hi" / Int32ul,
        "i_projid" / Int32ul,
    ),
)
