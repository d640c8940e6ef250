"""Fast commits (kernel: fs/ext4/fast_commit.h): tags with a length, back to back, little-endian.

They are in the journal's last s_num_fc_blks blocks. A tag never crosses the end of a block. The
first commit begins with a HEAD tag; every commit ends with a TAIL.
"""

from ext4img.structs.declaration import Bytes, Int16ul, Int32ul, Struct
from ext4img.structs.record import Record

# fc_tag
EXT4_FC_TAG_ADD_RANGE = 0x0001
EXT4_FC_TAG_DEL_RANGE = 0x0002
EXT4_FC_TAG_CREAT = 0x0003
EXT4_FC_TAG_LINK = 0x0004
EXT4_FC_TAG_UNLINK = 0x0005
EXT4_FC_TAG_INODE = 0x0006
EXT4_FC_TAG_PAD = 0x0007
EXT4_FC_TAG_TAIL = 0x0008
EXT4_FC_TAG_HEAD = 0x0009

EXT4_FC_SUPPORTED_FEATURES = 0x0

EXT4_FC_TL = Record("ext4_fc_tl", Struct("fc_tag" / Int16ul, "fc_len" / Int16ul))

EXT4_FC_HEAD = Record("ext4_fc_head", Struct("fc_features" / Int32ul, "fc_tid" / Int32ul))

# fc_ex is a struct ext4_extent.
EXT4_FC_ADD_RANGE = Record("ext4_fc_add_range", Struct("fc_ino" / Int32ul, "fc_ex" / Bytes(12)))

EXT4_FC_DEL_RANGE = Record("ext4_fc_del_range", Struct("fc_ino" / Int32ul, "fc_lblk" / Int32ul, "fc_len" / Int32ul))

# CREAT, LINK and UNLINK: the name follows, up to the tag's end.
EXT4_FC_DENTRY_INFO = Record("ext4_fc_dentry_info", Struct("fc_parent_ino" / Int32ul, "fc_ino" / Int32ul))

# INODE: a raw inode follows, up to the tag's end.
EXT4_FC_INODE = Record("ext4_fc_inode", Struct("fc_ino" / Int32ul))

# fc_crc is over every byte since the last TAIL, this tag's fc_tid included.
EXT4_FC_TAIL = Record("ext4_fc_tail", Struct("fc_tid" / Int32ul, "fc_crc" / Int32ul))
