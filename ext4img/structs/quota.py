"""Quota files of version 2 (kernel: fs/quota/quotaio_v2.h, quota_tree.c): a tree of blocks of 1,024 bytes."""

from ext4img.structs.declaration import Int16ul, Int32ul, Int64ul, Struct
from ext4img.structs.record import Record

V2_INITQMAGICS = (0xD9C01F11, 0xD9C01927, 0xD9C03F14)  # of the files for users, groups and projects
QT_BLKSIZE = 1024
QT_TREEOFF = 1  # the block with the tree's root
QT_TREEDEPTH = 4

V2_DISK_DQHEADER = Record("v2_disk_dqheader", Struct("dqh_magic" / Int32ul, "dqh_version" / Int32ul))
QT_DISK_DQDBHEADER = Record(
    "qt_disk_dqdbheader",
    Struct(
        "dqdh_next_free" / Int32ul,
        "dqdh_prev_free" / Int32ul,
        "dqdh_entries" / Int16ul,
        "dqdh_pad1" / Int16ul,
        "dqdh_pad2" / Int32ul,
    ),
)
V2R1_DISK_DQBLK = Record(
    "v2r1_disk_dqblk",
    Struct(
        "dqb_id" / Int32ul,
        "dqb_pad" / Int32ul,
        "dqb_ihardlimit" / Int64ul,
        "dqb_isoftlimit" / Int64ul,
        "dqb_curinodes" / Int64ul,
        "dqb_bhardlimit" / Int64ul,
        "dqb_bsoftlimit" / Int64ul,
        "dqb_curspace" / Int64ul,
        "dqb_btime" / Int64ul,
        "dqb_itime" / Int64ul,
    ),
)
