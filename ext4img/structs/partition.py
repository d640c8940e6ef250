"""Partition tables: MBR and GPT (kernel: include/linux/msdos_partition.h, block/partitions/efi.h)."""

from ext4img.structs.declaration import Bytes, Int8ul, Int32ul, Int64ul, Struct
from ext4img.structs.record import Record

# The same layout in the master boot record and in each extended boot record.
MSDOS_PARTITIONS_OFFSET = 446
MSDOS_PARTITIONS = 4
MSDOS_MAGIC_OFFSET = 510
MSDOS_LABEL_MAGIC = b"\x55\xaa"

MSDOS_PARTITION = Record(
    "msdos_partition",
    Struct(
        "boot_ind" / Int8ul,  # 0x80 active, 0 not
        "head" / Int8ul,
        "sector" / Int8ul,
        "cyl" / Int8ul,
        "sys_ind" / Int8ul,
        "end_head" / Int8ul,
        "end_sector" / Int8ul,
        "end_cyl" / Int8ul,
        "start_sect" / Int32ul,
        "nr_sects" / Int32ul,
    ),
)
EXTENDED_PARTITIONS = (0x05, 0x0F, 0x85)
EFI_PMBR_OSTYPE_EFI_GPT = 0xEE

GPT_HEADER_SIGNATURE = b"EFI PART"
GPT_HEADER = Record(
    "gpt_header",
    Struct(
        "signature" / Bytes(8),
        "revision" / Int32ul,
        "header_size" / Int32ul,
        "header_crc32" / Int32ul,  # of header_size bytes, this field as zero
        "reserved1" / Int32ul,
        "my_lba" / Int64ul,
        "alternate_lba" / Int64ul,
        "first_usable_lba" / Int64ul,
        "last_usable_lba" / Int64ul,
        "disk_guid" / Bytes(16),
        "partition_entry_lba" / Int64ul,
        "num_partition_entries" / Int32ul,
        "sizeof_partition_entry" / Int32ul,
        "partition_entry_array_crc32" / Int32ul,
    ),
)
GPT_ENTRY = Record(
    "gpt_entry",
    Struct(
        "partition_type_guid" / Bytes(16),
        "unique_partition_guid" / Bytes(16),
        "starting_lba" / Int64ul,
        "ending_lba" / Int64ul,  # the last, not the one after
        "attributes" / Int64ul,
        "partition_name" / Bytes(72),  # UTF-16LE
    ),
)
