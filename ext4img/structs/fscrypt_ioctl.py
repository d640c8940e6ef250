"""Arguments of the encryption ioctls (kernel: include/uapi/linux/fscrypt.h), in the host's byte order."""

from ext4img.structs.declaration import Bytes, Int8un, Int32un, Struct
from ext4img.structs.record import Record

FSCRYPT_KEY_SPEC_TYPE_DESCRIPTOR = 1
FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER = 2
FSCRYPT_KEY_STATUS_ABSENT = 1
FSCRYPT_POLICY_V1 = 0
FSCRYPT_POLICY_V2 = 2

FSCRYPT_POLICY_RECORD_V1 = Record(
    "fscrypt_policy_v1",
    Struct(
        "version" / Int8un,
        "contents_encryption_mode" / Int8un,
        "filenames_encryption_mode" / Int8un,
        "flags" / Int8un,
        "master_key_descriptor" / Bytes(8),
    ),
)
FSCRYPT_POLICY_RECORD_V2 = Record(
    "fscrypt_policy_v2",
    Struct(
        "version" / Int8un,
        "contents_encryption_mode" / Int8un,
        "filenames_encryption_mode" / Int8un,
        "flags" / Int8un,
        "log2_data_unit_size" / Int8un,
        "reserved" / Bytes(3),
        "master_key_identifier" / Bytes(16),
    ),
)
# struct fscrypt_add_key_arg without its raw[]; key_spec is struct fscrypt_key_specifier.
FSCRYPT_ADD_KEY_ARG = Record(
    "fscrypt_add_key_arg",
    Struct(
        "key_spec_type" / Int32un,
        "key_spec_reserved" / Int32un,
        "key_spec_u" / Bytes(32),
        "raw_size" / Int32un,
        "key_id" / Int32un,
        "reserved" / Bytes(32),
    ),
)
FSCRYPT_REMOVE_KEY_ARG = Record(
    "fscrypt_remove_key_arg",
    Struct(
        "key_spec_type" / Int32un,
        "key_spec_reserved" / Int32un,
        "key_spec_u" / Bytes(32),
        "removal_status_flags" / Int32un,
        "reserved" / Bytes(20),
    ),
)
FSCRYPT_GET_KEY_STATUS_ARG = Record(
    "fscrypt_get_key_status_arg",
    Struct(
        "key_spec_type" / Int32un,
        "key_spec_reserved" / Int32un,
        "key_spec_u" / Bytes(32),
        "reserved" / Bytes(24),
        "status" / Int32un,
        "status_flags" / Int32un,
        "user_count" / Int32un,
        "out_reserved" / Bytes(52),
    ),
)
# struct fscrypt_get_policy_ex_arg: policy_size, then the larger of the two policies.
FSCRYPT_GET_POLICY_EX_ARG = Record("fscrypt_get_policy_ex_arg", Struct("policy_size" / Bytes(8), "policy" / Bytes(24)))
