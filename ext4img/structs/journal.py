"""The journal, jbd2 (kernel: include/linux/jbd2.h). Everything here is big-endian.

Blocks of the log begin with `journal_header_t`. It is followed in a descriptor block by tags, one
for each data block after it, in one of three layouts; in a revoke block by a byte count and block
numbers; in a commit block by checksums and a time.
"""

from ext4img.structs.declaration import Bytes, Int8ub, Int16ub, Int32sb, Int32ub, Int64ub, Struct
from ext4img.structs.record import Record

JBD2_MAGIC_NUMBER = 0xC03B3998
JBD2_MAGIC_BYTES = JBD2_MAGIC_NUMBER.to_bytes(4, "big")

# h_blocktype
JBD2_DESCRIPTOR_BLOCK = 1
JBD2_COMMIT_BLOCK = 2
JBD2_SUPERBLOCK_V1 = 3
JBD2_SUPERBLOCK_V2 = 4
JBD2_REVOKE_BLOCK = 5

# s_checksum_type, h_chksum_type
JBD2_CRC32_CHKSUM = 1
JBD2_CRC32_CHKSUM_SIZE = 4
JBD2_CRC32C_CHKSUM = 4

# t_flags
JBD2_FLAG_ESCAPE = 1  # the block began with the journal's magic number, which is zeroed in the log
JBD2_FLAG_SAME_UUID = 2  # no UUID follows this tag
JBD2_FLAG_DELETED = 4  # never written; the kernel ignores it
JBD2_FLAG_LAST_TAG = 8

JBD2_UUID_SIZE = 16
JBD2_MIN_JOURNAL_BLOCKS = 1024
JBD2_DEFAULT_FAST_COMMIT_BLOCKS = 256

JOURNAL_HEADER = Record(
    "journal_header_s",
    Struct("h_magic" / Int32ub, "h_blocktype" / Int32ub, "h_sequence" / Int32ub),
)

# At the start of the journal's block 0; the whole structure is 1,024 bytes long.
JOURNAL_SUPERBLOCK = Record(
    "journal_superblock_s",
    Struct(
        "h_magic" / Int32ub,
        "h_blocktype" / Int32ub,
        "h_sequence" / Int32ub,
        "s_blocksize" / Int32ub,
        "s_maxlen" / Int32ub,
        "s_first" / Int32ub,
        "s_sequence" / Int32ub,
        "s_start" / Int32ub,
        "s_errno" / Int32sb,
        # from here on only in version 2
        "s_feature_compat" / Int32ub,
        "s_feature_incompat" / Int32ub,
        "s_feature_ro_compat" / Int32ub,
        "s_uuid" / Bytes(16),
        "s_nr_users" / Int32ub,
        "s_dynsuper" / Int32ub,
        "s_max_transaction" / Int32ub,
        "s_max_trans_data" / Int32ub,
        "s_checksum_type" / Int8ub,
        "s_padding2" / Bytes(3),
        "s_num_fc_blks" / Int32ub,
        "s_head" / Int32ub,
        "s_padding" / Bytes(40 * 4),
        "s_checksum" / Int32ub,
        "s_users" / Bytes(16 * 48),
    ),
)

COMMIT_HEADER = Record(
    "commit_header",
    Struct(
        "h_magic" / Int32ub,
        "h_blocktype" / Int32ub,
        "h_sequence" / Int32ub,
        "h_chksum_type" / Int8ub,
        "h_chksum_size" / Int8ub,
        "h_padding" / Bytes(2),
        "h_chksum_0" / Int32ub,
        "h_chksum_rest" / Bytes(7 * 4),
        "h_commit_sec" / Int64ub,
        "h_commit_nsec" / Int32ub,
    ),
)

# A tag is 16 bytes with CSUM_V3 (journal_block_tag3_t). Otherwise it is the 8 bytes of
# journal_block_tag_t, then t_blocknr_high with 64BIT, then two unused bytes with CSUM_V2.
JOURNAL_BLOCK_TAG = Record(
    "journal_block_tag_s",
    Struct("t_blocknr" / Int32ub, "t_checksum" / Int16ub, "t_flags" / Int16ub),
)
JOURNAL_BLOCK_TAG_HIGH = Record("journal_block_tag_s_high", Struct("t_blocknr_high" / Int32ub))
JOURNAL_BLOCK_TAG_CSUM_V2_PADDING = 2
JOURNAL_BLOCK_TAG3 = Record(
    "journal_block_tag3_s",
    Struct("t_blocknr" / Int32ub, "t_flags" / Int32ub, "t_blocknr_high" / Int32ub, "t_checksum" / Int32ub),
)

# The last bytes of a descriptor or revoke block, with CSUM_V2 or CSUM_V3.
JBD2_JOURNAL_BLOCK_TAIL = Record("jbd2_journal_block_tail", Struct("t_checksum" / Int32ub))

# r_count counts bytes from the block's start; block numbers have 8 bytes with 64BIT, else 4.
JBD2_JOURNAL_REVOKE_HEADER = Record(
    "jbd2_journal_revoke_header_s",
    Struct("h_magic" / Int32ub, "h_blocktype" / Int32ub, "h_sequence" / Int32ub, "r_count" / Int32ub),
)
REVOKE_32 = Record("jbd2_revoke_blocknr_32", Struct("blocknr" / Int32ub))
REVOKE_64 = Record("jbd2_revoke_blocknr_64", Struct("blocknr" / Int64ub))
