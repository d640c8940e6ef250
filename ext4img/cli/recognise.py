"""What an image is that is no ext4, and what to do about it: advice for a failure to open it."""

from __future__ import annotations

from ext4img.errors import Ext4Error, SourceError
from ext4img.sources import Source
from ext4img.sources.partitions import read_partitions
from ext4img.volume.superblock_search import find_copy

_CONVERT = "`qemu-img convert -O raw` makes a raw image of it"
_UNPACK = "unpack it first"
_READ_BY_OTHERS = "ext4img reads ext2, ext3 and ext4 only"
# (byte offset, magic bytes, what it is, what to do)
_MAGIC = (
    (0, b"QFI\xfb", "a qcow2 image", _CONVERT),
    (0, b"KDMV", "a VMDK image", _CONVERT),
    (0, b"vhdxfile", "a VHDX image", _CONVERT),
    (0, b"conectix", "a VHD image", _CONVERT),
    (0, b"EVF\x09\x0d\x0a\xff\x00", "an EWF (E01) image", "`ewfexport -f raw` makes a raw image of it"),
    (0, b"\x3a\xff\x26\xed", "an Android sparse image", "`simg2img` makes a raw image of it"),
    (0, b"\x1f\x8b", "gzip-compressed", _UNPACK),
    (0, b"\xfd7zXZ\x00", "xz-compressed", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed", _UNPACK),
    (0, b"BZh", "bzip2-compressed", _UNPACK),
    (0, b"PK\x03\x04", "a zip archive", _UNPACK),
    (257, b"ustar", "a tar archive", "a backup made by ext4img is read by verify, list and restore"),
    (0, b"LUKS\xba\xbe", "a LUKS container", "open it with cryptsetup and read the device below /dev/mapper"),
    (512, b"LABELONE", "an LVM physical volume", "activate it with vgchange and read the logical volume's device"),
    (0, b"XFSB", "an XFS file system", _READ_BY_OTHERS),
    (0x10040, b"_BHRfS_M", "a btrfs file system", _READ_BY_OTHERS),
    (1024, b"\x10\x20\xf5\xf2", "an F2FS file system", _READ_BY_OTHERS),
    (3, b"NTFS    ", "an NTFS file system", _READ_BY_OTHERS),
    (0, b"hsqs", "a squashfs file system", _READ_BY_OTHERS),
    (0x8001, b"CD001", "an ISO 9660 file system", _READ_BY_OTHERS),
)
_MOST_PARTITIONS_TOLD = 16
_LOOKED_AT_BYTES = 1 << 20


def advice_for(source: Source) -> list[str]:
    """Lines of advice for somebody whose image has no ext4 file system at its start."""
    try:
        partitions = read_partitions(source)
        if partitions:
            told = [f"--partition {partition.number}: {partition.describe()}" for partition in partitions]
            more = [f"… and {len(told) - _MOST_PARTITIONS_TOLD} more"] if len(told) > _MOST_PARTITIONS_TOLD else []
            return ["it is a disk with partitions; say which one", *told[:_MOST_PARTITIONS_TOLD], *more]
        start = source.read_at(0, min(source.size, _LOOKED_AT_BYTES))
    except SourceError as error:
        return [f"its start cannot be read: {error.strerror or error}"]
    except Ext4Error as error:
        return [f"its partition table is damaged: {error}"]
    copy = find_copy(source)
    if copy is not None and copy.block is not None:
        block = copy.block
        return [f"block {block} holds a copy of its superblock: --superblock {block} reads by it, or --checks report"]
    if copy is not None:
        return ["its journal holds a copy of its superblock: --checks report reads by it"]
    for offset, magic, what, then in _MAGIC:
        if start[offset : offset + len(magic)] == magic:
            return [f"it is {what}: {then}"]
    if not start.strip(b"\0"):
        return [f"its first {len(start)} bytes are zeros" if start else "it is empty"]
    return ["if the file system starts further in, say where with --offset or --partition"]
