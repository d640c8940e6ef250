"""Extended attributes (kernel: fs/ext4/xattr.h)."""

from ext4img.structs.declaration import Bytes, Int8ul, Int16ul, Int32ul, Struct
from ext4img.structs.record import Record

EXT4_XATTR_MAGIC = 0xEA020000
EXT4_XATTR_PAD = 4
EXT4_XATTR_REFCOUNT_MAX = 1024
EXT4_XATTR_SIZE_MAX = 1 << 24  # of a value on disk
XATTR_NAME_MAX = 255  # include/uapi/linux/limits.h, of the rest of the name
XATTR_SIZE_MAX = 65536  # include/uapi/linux/limits.h, of a value that setxattr(2) takes

# e_name_index
EXT4_XATTR_INDEX_USER = 1
EXT4_XATTR_INDEX_POSIX_ACL_ACCESS = 2
EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT = 3
EXT4_XATTR_INDEX_TRUSTED = 4
EXT4_XATTR_INDEX_LUSTRE = 5
EXT4_XATTR_INDEX_SECURITY = 6
EXT4_XATTR_INDEX_SYSTEM = 7
EXT4_XATTR_INDEX_RICHACL = 8
EXT4_XATTR_INDEX_ENCRYPTION = 9
EXT4_XATTR_INDEX_HURD = 10

# Not ext4's: names of attributes whose e_name_index has no prefix in any kernel begin with this, the
# index and a dot. The kernel has no such namespace, so no other attribute has such a name.
RAW_XATTR_PREFIX = "ext4.index"

# The block that i_file_acl names starts with this; its entries follow at byte 32.
EXT4_XATTR_HEADER = Record(
    "ext4_xattr_header",
    Struct(
        "h_magic" / Int32ul,
        "h_refcount" / Int32ul,
        "h_blocks" / Int32ul,
        "h_hash" / Int32ul,
        "h_checksum" / Int32ul,
        "h_reserved" / Bytes(12),
    ),
)

# At 128 + i_extra_isize in the inode; entries follow, and value offsets count from the first one.
EXT4_XATTR_IBODY_HEADER = Record("ext4_xattr_ibody_header", Struct("h_magic" / Int32ul))

EXT4_XATTR_ENTRY = Record(
    "ext4_xattr_entry",
    Struct(
        "e_name_len" / Int8ul,
        "e_name_index" / Int8ul,
        "e_value_offs" / Int16ul,
        "e_value_inum" / Int32ul,
        "e_value_size" / Int32ul,
        "e_hash" / Int32ul,
    ),
)

# POSIX ACLs as ext4 stores them (kernel: fs/ext4/acl.h); user space sees struct posix_acl_xattr_*.
EXT4_ACL_VERSION = 1
POSIX_ACL_XATTR_VERSION = 2
# e_tag (include/uapi/linux/posix_acl.h)
ACL_USER_OBJ = 0x01
ACL_USER = 0x02
ACL_GROUP_OBJ = 0x04
ACL_GROUP = 0x08
ACL_MASK = 0x10
ACL_OTHER = 0x20
ACL_UNDEFINED_ID = 0xFFFFFFFF
EXT4_ACL_HEADER = Record("ext4_acl_header", Struct("a_version" / Int32ul))
EXT4_ACL_ENTRY_SHORT = Record("ext4_acl_entry_short", Struct("e_tag" / Int16ul, "e_perm" / Int16ul))
EXT4_ACL_ENTRY = Record("ext4_acl_entry", Struct("e_tag" / Int16ul, "e_perm" / Int16ul, "e_id" / Int32ul))
POSIX_ACL_XATTR_HEADER = Record("posix_acl_xattr_header", Struct("a_version" / Int32ul))
POSIX_ACL_XATTR_ENTRY = Record("posix_acl_xattr_entry", Struct("e_tag" / Int16ul, "e_perm" / Int16ul, "e_id" / Int32ul))
