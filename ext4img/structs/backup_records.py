"""Encryption metadata records, the bytes of a keyless backup.

From the ext4 patch series of 2015-16 that never reached mainline ("ioctls to allow backup of
encryption metadata"): EXT4_IOC_GET_ENCRYPTION_METADATA returned "e5" and
EXT4_IOC_GET_ENCRYPTED_FILENAME returned "ef" or "ed". Each begins with a header that is declared
here. In e5 the encryption context follows it, in ef the name, in ed the context and then the name.
docs/archive-format.md has the whole layout.
"""

from ext4img.structs.declaration import Bytes, Int16ul, Int32ul, Int64ul, Struct
from ext4img.structs.record import Record

METADATA_MAGIC = b"e5"
FILENAME_MAGIC = b"ef"
DIRECTORY_NAME_MAGIC = b"ed"

ENCRYPTION_METADATA = Record(
    "ext4_encryption_metadata",
    Struct("magic" / Bytes(2), "crc16" / Int16ul, "i_size" / Int64ul),
)
ENCRYPTED_FILENAME = Record(
    "ext4_encrypted_filename",
    Struct("magic" / Bytes(2), "crc16" / Int16ul),
)
ENCRYPTED_DIRECTORY_NAME = Record(
    "ext4_encrypted_directory_name",
    Struct("magic" / Bytes(2), "crc16" / Int16ul, "i_mode" / Int32ul, "context_length" / Int16ul),
)
