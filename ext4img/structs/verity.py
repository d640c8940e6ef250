"""fs-verity on disk: the descriptor behind a file's Merkle tree (kernel: include/uapi/linux/fsverity.h).

fs/ext4/verity.c says where ext4 puts both.
"""

from ext4img.structs.declaration import Bytes, Int8ul, Int32ul, Int64ul, Struct
from ext4img.structs.record import Record

FS_VERITY_HASH_ALG_SHA256 = 1
FS_VERITY_HASH_ALG_SHA512 = 2
FS_VERITY_MAX_LEVELS = 8
FS_VERITY_MAX_DESCRIPTOR_SIZE = 16384

# The tree begins at the first multiple of this past i_size.
EXT4_VERITY_METADATA_ALIGNMENT = 65536

FSVERITY_DESCRIPTOR = Record(
    "fsverity_descriptor",
    Struct(
        "version" / Int8ul,
        "hash_algorithm" / Int8ul,
        "log_blocksize" / Int8ul,
        "salt_size" / Int8ul,
        "sig_size" / Int32ul,
        "data_size" / Int64ul,
        "root_hash" / Bytes(64),
        "salt" / Bytes(32),
        "reserved" / Bytes(144),
    ),
)

# Last 4 bytes of the last mapped block: the descriptor's size, its signature included.
EXT4_VERITY_DESCRIPTOR_SIZE = Record("ext4_verity_descriptor_size", Struct("desc_size" / Int32ul))
