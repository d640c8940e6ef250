"""`ext4img info`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ext4img.cli.image_options import ImageOptions
from ext4img.cli.key_value import KeyValues, write_key_values
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json
from ext4img.cli.output import Output, text_fields
from ext4img.cli.policy_json import policy_record
from ext4img.cli.quoting import quote
from ext4img.cli.units import plural, size_text, time_text
from ext4img.fs.filesystem import FileSystem
from ext4img.volume.features import Compat, Incompat, RoCompat
from ext4img.volume.recovery.recover import Recovery
from ext4img.volume.superblock import Superblock

_BILLION = 1_000_000_000
# s_state (kernel: fs/ext4/ext4.h)
_STATES = ((0x1, "clean"), (0x2, "has errors"), (0x4, "orphans being recovered"), (0x20, "fast commits replaying"))
# Fields of the superblock that are copied into the JSON.
_NUMBERS = (
    "block_size", "cluster_size", "block_count", "free_blocks", "reserved_blocks", "first_data_block",
    "blocks_per_group", "group_count", "inode_count", "free_inodes", "inodes_per_group", "inode_size", "first_inode",
    "descriptor_size", "revision", "journal_inode", "encoding", "mkfs_time", "mount_time", "write_time", "check_time",
    "mount_count", "kilobytes_written", "error_count",
)  # fmt: skip
_HASHES = ("legacy", "half_md4", "tea", "legacy unsigned", "half_md4 unsigned", "tea unsigned", "siphash")


def run(
    image: ImageOptions,
    policies: Annotated[
        bool, typer.Option("--policies", help="Also show the encryption policies in use (scans all inodes).")
    ] = False,
    json: Json = False,
) -> None:
    """Show the superblock, and what journal recovery did.

    Recovery happens in memory; the image is not changed.
    """
    out = Output(json)
    with open_image(image) as fs:
        if json:
            out.record(_record(fs, image.image, policies))
            return
        out.line(f"{quote(image.image)}: {fs.features.type}\n")
        key_values = _key_values(fs)
        if policies:
            key_values += _policy_key_values(fs)
        write_key_values(out, key_values)


def _key_values(fs: FileSystem) -> KeyValues:
    sb = fs.superblock
    key_values = [
        ("UUID", str(sb.uuid)),
        ("Label", quote(sb.label) if sb.label else "-"),
        ("Size", f"{size_text(sb.size)} ({sb.size} bytes: {plural(sb.block_count, 'block')} of {sb.block_size})"),
        ("Free", f"{plural(sb.free_blocks, 'block')} ({sb.reserved_blocks} reserved), {sb.free_inodes} inodes"),
        ("Inodes", f"{sb.inode_count} of {sb.inode_size} bytes"),
        ("Groups", f"{sb.group_count} of {sb.blocks_per_group} blocks and {sb.inodes_per_group} inodes"),
        ("Features", _wrapped(sb.features.names)),
        ("Journal", _journal_text(fs)),
        ("Encryption", _encryption_text(fs)),
        ("Checksums", _checksums_text(fs)),
        ("State", ", ".join(name for bit, name in _STATES if sb.state & bit) or "not clean"),
        ("Created", _moment(sb.mkfs_time)),
        ("Mounted", f"{_moment(sb.mount_time)}, {plural(sb.mount_count, 'time')} since the last check"),
        ("Mounted on", quote(sb.last_mounted) if sb.last_mounted else "-"),
        ("Written", f"{_moment(sb.write_time)}, {size_text(sb.kilobytes_written * 1024)} in total"),
        ("Checked", _moment(sb.check_time)),
        ("Hash", f"{_hash_name(sb)}, seed {_seed_hex(sb)}"),
    ]
    if sb.cluster_size != sb.block_size:
        key_values.insert(3, ("Clusters", f"of {sb.cluster_size} bytes"))
    if sb.error_count:
        key_values.append(("Errors", f"{sb.error_count} recorded by the kernel"))
    unknown = sb.features.unknown_ro_compat()
    if unknown:
        key_values.append(("Unknown", f"{', '.join(unknown)}: ignored, as they do not affect reading"))
    return key_values


def _wrapped(words: tuple[str, ...], width: int = 72) -> str:
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines) or "none"


def _moment(seconds: int) -> str:
    return time_text(seconds * _BILLION) if seconds else "never"


def _hash_name(sb: Superblock) -> str:
    name = _HASHES[sb.hash_version] if sb.hash_version < len(_HASHES) else f"version {sb.hash_version}"
    return f"{name} unsigned" if sb.hash_unsigned and "unsigned" not in name else name


def _seed_hex(sb: Superblock) -> str:
    return b"".join(word.to_bytes(4, "little") for word in sb.hash_seed).hex()


def _checksums_text(fs: FileSystem) -> str:
    if fs.superblock.has_metadata_checksums:
        return "crc32c of all metadata" + (", verified" if fs.problems.verify else ", not verified")
    return "of group descriptors only" if RoCompat.GDT_CSUM in fs.features else "none"


def _encryption_text(fs: FileSystem) -> str:
    if Incompat.ENCRYPT not in fs.features:
        return "none"
    return "enabled; `ext4img keys` lists the policies in use"


def _journal_text(fs: FileSystem) -> str:
    sb = fs.superblock
    if Compat.HAS_JOURNAL not in sb.features:
        where = "none"
    elif sb.journal_inode:
        where = f"inode {sb.journal_inode}"
    else:
        where = f"on another device, UUID {sb.journal_uuid}"
    recovery = fs.volume.recovery
    if recovery is None:
        needed = Incompat.RECOVER in sb.features
        return f"{where}; ignored, but needs recovery" if needed else f"{where}; ignored"
    texts = _recovery_texts(recovery)
    return "\n".join([f"{where}; recovered in memory:", *texts]) if texts else f"{where}; nothing to recover"


def _recovery_texts(recovery: Recovery) -> list[str]:
    """The steps of recovery, one a line."""
    texts = []
    replay = recovery.replay
    if replay is not None:
        text = f"{plural(replay.transactions, 'transaction')}: {plural(replay.replaced, 'block')} replaced"
        if replay.revoke_records:
            text += f", {plural(replay.revoked, 'logged block')} revoked"
        texts.append(text)
        if replay.torn:
            texts.append("an unfinished last transaction was discarded")
        if not replay.complete:
            texts.append("the log is damaged and was not replayed completely")
    if recovery.fast_commits.commits:
        commits = recovery.fast_commits
        texts.append(f"{plural(commits.commits, 'fast commit')} of {plural(commits.tags, 'tag')}")
    if recovery.orphans.deleted:
        texts.append(f"{plural(len(recovery.orphans.deleted), 'deleted file')} removed")
    if recovery.orphans.truncated:
        texts.append(f"{plural(len(recovery.orphans.truncated), 'truncate')} completed")
    return texts


def _policy_key_values(fs: FileSystem) -> KeyValues:
    return [
        (
            "Policy",
            f"{policy.describe()}\n{plural(use.files, 'file')} of {size_text(use.bytes)},"
            f" {plural(use.directories, 'directory', 'directories')}, {plural(use.symlinks, 'symlink')}",
        )
        for policy, use in fs.policies().items()
    ]


def _record(fs: FileSystem, image: str, policies: bool) -> dict[str, Any]:
    sb = fs.superblock
    record: dict[str, Any] = {
        **text_fields("image", image),
        "type": sb.features.type,
        "uuid": str(sb.uuid),
        **text_fields("label", sb.label),
        **text_fields("last_mounted", sb.last_mounted),
        "features": list(sb.features.names),
        "unknown_features": list(sb.features.unknown_ro_compat()),
        "state": sb.state,
        "hash": _hash_name(sb),
        "hash_seed": _seed_hex(sb),
        "journal_uuid": str(sb.journal_uuid),
        "recovery": _recovery_record(fs.volume.recovery),
    }
    for field in _NUMBERS:
        record[field] = getattr(sb, field)
    if policies:
        record["policies"] = [
            {
                **policy_record(policy),
                "files": use.files,
                "directories": use.directories,
                "symlinks": use.symlinks,
                "bytes": use.bytes,
            }
            for policy, use in fs.policies().items()
        ]
    return record


def _recovery_record(recovery: Recovery | None) -> dict[str, Any] | None:
    """None with --journal ignore."""
    if recovery is None:
        return None
    replay = recovery.replay
    return {
        "needed": recovery.needed,
        "transactions": replay.transactions if replay else 0,
        "blocks_replaced": replay.replaced if replay else 0,
        "blocks_revoked": replay.revoked if replay else 0,
        "torn": replay.torn if replay else False,
        "complete": replay.complete if replay else True,
        "fast_commits": recovery.fast_commits.commits,
        "orphans_deleted": list(recovery.orphans.deleted),
        "orphans_truncated": list(recovery.orphans.truncated),
    }
