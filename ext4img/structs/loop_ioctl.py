"""What LOOP_GET_STATUS64 gives (kernel: struct loop_info64, include/uapi/linux/loop.h), in the host's byte order."""

from ext4img.structs.declaration import Bytes, Int32un, Int64un, Struct
from ext4img.structs.record import Record

LOOP_GET_STATUS64 = 0x4C05
LO_FLAGS_READ_ONLY = 1

LOOP_INFO64 = Record(
    "loop_info64",
    Struct(
        "lo_device" / Int64un,
        "lo_inode" / Int64un,
        "lo_rdevice" / Int64un,
        "lo_offset" / Int64un,
        "lo_sizelimit" / Int64un,
        "lo_number" / Int32un,
        "lo_encrypt_type" / Int32un,
        "lo_encrypt_key_size" / Int32un,
        "lo_flags" / Int32un,
        "lo_file_name" / Bytes(64),
        "lo_crypt_name" / Bytes(64),
        "lo_encrypt_key" / Bytes(32),
        "lo_init" / Bytes(16),
    ),
)
