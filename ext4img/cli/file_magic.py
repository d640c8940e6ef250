"""Recognises other formats by their magic numbers: hints for an image that is not ext4, and a device's contents."""

from __future__ import annotations

from ext4img.cli.quoting import quote
from ext4img.cli.units import size_text
from ext4img.errors import Ext4Error, NotExt4Error, SourceError
from ext4img.sources import SliceSource, Source, open_source
from ext4img.sources.partitions import Partition, read_partitions
from ext4img.volume.problems import Problems
from ext4img.volume.salvage.file_systems import FoundFileSystem, find_file_systems
from ext4img.volume.salvage.superblock import find_copy, read_superblock
from ext4img.volume.superblock import Superblock

_CONVERT = "convert it to a raw image with `qemu-img convert -O raw`"
_UNPACK = "decompress it first"
_READ_AS_BACKUP = "to read a backup made by ext4img use verify, list, dump or restore"
_READ_BY_OTHERS = "ext4img reads ext2, ext3 and ext4 only"
# (byte offset, magic bytes, what it is, what to do)
_MAGIC = (
    (0, b"QFI\xfb", "a qcow2 image", _CONVERT),
    (0, b"KDMV", "a VMDK image", _CONVERT),
    (0, b"vhdxfile", "a VHDX image", _CONVERT),
    (0, b"conectix", "a VHD image", _CONVERT),
    (0, b"EVF\x09\x0d\x0a\xff\x00", "an EWF (E01) image", "convert it to a raw image with `ewfexport -f raw`"),
    (0, b"\x3a\xff\x26\xed", "an Android sparse image", "convert it to a raw image with `simg2img`"),
    (0, b"\x1f\x8b", "gzip-compressed", _UNPACK),
    (0, b"\xfd7zXZ\x00", "xz-compressed", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed", f"{_UNPACK}; {_READ_AS_BACKUP}"),
    (0, b"BZh", "bzip2-compressed", _UNPACK),
    (0, b"PK\x03\x04", "a zip archive", _UNPACK),
    (257, b"ustar", "a tar archive", _READ_AS_BACKUP),
    (0, b"LUKS\xba\xbe", "a LUKS container", "open it with cryptsetup and read the device in /dev/mapper"),
    (512, b"LABELONE", "an LVM physical volume", "activate it with vgchange and read the logical volume"),
    (0, b"XFSB", "an XFS file system", _READ_BY_OTHERS),
    (0x10040, b"_BHRfS_M", "a btrfs file system", _READ_BY_OTHERS),
    (1024, b"\x10\x20\xf5\xf2", "an F2FS file system", _READ_BY_OTHERS),
    (3, b"NTFS    ", "an NTFS file system", _READ_BY_OTHERS),
    (0, b"hsqs", "a squashfs file system", _READ_BY_OTHERS),
    (0x8001, b"CD001", "an ISO 9660 file system", _READ_BY_OTHERS),
)
_MAGIC_END = 0x10048
_MAX_PARTITIONS_LISTED = 16
_WINDOW_BYTES = 1 << 20


def hints_for(source: Source, image: str, offset: int | None, sector_bytes: int | None = None) -> list[str]:
    """Hints for a source without an ext4 file system at its start.

    It is what `image` has from byte `offset` on; None if it is a partition.
    """
    try:
        partitions = read_partitions(source, sector_bytes)
        if partitions:
            listed = [
                f"--partition {partition.number}: {partition.describe()}{_contents(source, partition)}"
                for partition in partitions[:_MAX_PARTITIONS_LISTED]
            ]
            more = len(partitions) - len(listed)
            return [
                "the image has a partition table; choose a partition",
                *listed,
                *([f"… and {more} more"] * (more > 0)),
            ]
        start = source.read_at(0, min(source.size, _WINDOW_BYTES))
    except SourceError as error:
        return [f"its first bytes cannot be read: {error.strerror or error}"]
    except Ext4Error as error:
        return [f"its partition table is damaged: {error}"]
    copy = find_copy(source)
    if copy is not None and copy.block is not None:
        block = copy.block
        return [f"block {block} holds a backup superblock: use --superblock {block}, or --checks report"]
    if copy is not None:
        return ["the journal holds a copy of the superblock: use --checks report"]
    known = _known(start)
    if known is not None:
        return ["it is {}: {}".format(*known)]
    found = find_file_systems(source) if offset is not None else []
    if offset is not None and found:
        return [line for one in found for line in _found_lines(one, image, offset)]
    if not start.strip(b"\0"):
        return [f"its first {len(start)} bytes are zeros" if start else "it is empty"]
    return ["if the file system starts at another offset, give --offset or --partition"]


def _contents(source: Source, partition: Partition) -> str:
    """What a partition holds, after a colon; "" if that is not known."""
    if partition.is_extended or partition.offset >= source.size:
        return ""
    inside = SliceSource(source, partition.offset, min(partition.size, source.size - partition.offset))
    try:
        return f": {_named(read_superblock(inside, Problems('off')))}"
    except Ext4Error:
        pass
    try:
        known = _known(inside.read_at(0, min(inside.size, _MAGIC_END)))
    except SourceError:
        return ""
    return f": {known[0]}" if known is not None else ""


def _named(superblock: Superblock) -> str:
    """A file system by type, label and UUID."""
    label = f" {quote(superblock.label)}" if superblock.label else ""
    return f"{superblock.features.type}{label}, UUID {superblock.uuid}"


def _found_lines(found: FoundFileSystem, image: str, offset: int) -> list[str]:
    """A file system inside the image, and a command that reads it."""
    offset += found.offset
    line = f"a file system starts at byte {offset}: {_named(found.superblock)}"
    backup = ""
    if found.superblock_block is not None:
        line += ", its primary superblock is damaged"
        backup = f" --superblock {found.superblock_block}"
    return [line, f"ext4img info --offset {offset}{backup} {quote(image)}"]


def _known(start: bytes) -> tuple[str, str] | None:
    """The format that begins with these bytes, and the hint for it."""
    return next(((what, then) for at, magic, what, then in _MAGIC if start[at : at + len(magic)] == magic), None)


def describe_device(path: str) -> list[str]:
    """Lines that describe what a device holds, printed before it is overwritten."""
    with open_source(path) as source:
        size = f"a block device of {size_text(source.size)}"
        try:
            superblock = read_superblock(source, Problems("off"))
        except NotExt4Error:
            return [f"{size}: {what}" for what in _other_contents(source)]
        except Ext4Error as error:
            return [f"{size}: an ext2, ext3 or ext4 file system that cannot be read: {error}"]
    label = f" {quote(superblock.label)}" if superblock.label else ""
    mounted = f", last mounted on {quote(superblock.last_mounted)}" if superblock.last_mounted else ""
    return [f"{size}: a file system{label} of {size_text(superblock.size)}, UUID {superblock.uuid}{mounted}"]


def _other_contents(source: Source) -> list[str]:
    """The contents of a device without ext2, ext3 or ext4."""
    try:
        partitions = read_partitions(source)
    except SourceError as error:
        return [f"its first bytes cannot be read: {error.strerror or error}"]
    except Ext4Error as error:
        return [f"a damaged partition table: {error}"]
    if partitions:
        return [f"partition {partition.number}: {partition.describe()}" for partition in partitions]
    start = source.read_at(0, min(source.size, _WINDOW_BYTES))
    known = _known(start)
    if known is not None:
        return [known[0]]
    return ["unknown contents" if start.strip(b"\0") else "starts with zeros"]
