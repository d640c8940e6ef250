"""`ext4img list`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ext4img.archive.entry import VERITY, Entry
from ext4img.archive.open_backup import BackupMember, BackupSource, recorded_changes
from ext4img.cli.archive_options import ArchiveOptions, open_archive
from ext4img.cli.exit_codes import Exit
from ext4img.cli.key_value import KeyValues, write_key_values
from ext4img.cli.options import Json
from ext4img.cli.output import Output, text_fields, text_list_fields, warn_of_changes
from ext4img.cli.policy_json import policy_record
from ext4img.cli.quoting import quote
from ext4img.cli.report_losses import loss_records, report_losses
from ext4img.cli.units import time_text
from ext4img.crypto.policy import parse_context
from ext4img.names.paths import decode_path


def run(
    backup: ArchiveOptions,
    long: Annotated[
        bool, typer.Option("-l", "--long", help="Show mode, owner, size and time; E marks encrypted entries.")
    ] = False,
    info: Annotated[bool, typer.Option("--info", help="Show the recorded file system properties instead.")] = False,
    json: Json = False,
) -> int:
    """List the members of a backup, in the order of the archive.

    Encrypted names are shown as the kernel shows them without the key.
    """
    out = Output(json)
    with open_archive(backup) as opened:
        if info:
            _info(out, opened)
            changes = recorded_changes(opened)
            warn_of_changes(backup.label, changes)
            return Exit.PARTLY if report_losses(opened.losses, backup.label) or changes else Exit.DONE
        for member in opened.members():
            entry = member.entry
            if entry.type == VERITY:
                continue
            if json:
                out.record(_record(member))
            elif long:
                _long(out, entry)
            else:
                out.write(out.name(entry.path) + b"\n")
    return Exit.DONE


def _info(out: Output, opened: BackupSource) -> None:
    info = opened.info
    if out.json:
        out.record(
            {
                "uuid": str(info.uuid),
                **text_fields("label", info.label),
                "block_size": info.block_size,
                "inode_count": info.inode_count,
                "features": list(info.features),
                "tool": info.tool,
                "live": list(info.live),
                **text_list_fields("only", map(decode_path, info.only)),
                "policies": [policy_record(policy) for policy in info.policies],
                "losses": opened.losses.total,
                "lost": loss_records(opened.losses),
            }
        )
        return
    key_values: KeyValues = [
        ("UUID", str(info.uuid)),
        ("Label", quote(info.label) if info.label else "-"),
        ("Blocks", f"of {info.block_size} bytes"),
        ("Inodes", str(info.inode_count)),
        ("Features", " ".join(map(quote, info.features))),
        ("Made by", quote(info.tool)),
    ]
    if info.live:
        key_values.append(("Live", f"others could write to the image: {', '.join(map(quote, info.live))}"))
    key_values += [("Only", quote(path)) for path in info.only]
    key_values += [("Policy", policy.describe()) for policy in info.policies]
    if opened.losses.total:
        key_values.append(("Losses", f"{opened.losses.total} when the backup was made"))
    write_key_values(out, key_values)


def _long(out: Output, entry: Entry) -> None:
    import stat

    mark = "E" if entry.context is not None else "e" if entry.stored_name is not None else "-"
    if entry.type in ("char", "block"):
        size = f"{entry.rdev[0]}, {entry.rdev[1]}"
    else:
        size = str(entry.size)
    owner = f"{entry.uid:>5} {entry.gid:>5}"
    columns = f"{stat.filemode(entry.mode)} {mark} {owner} {size:>12} {time_text(entry.mtime_ns)} "
    arrow = b""
    if entry.is_link:
        arrow = b" link to " + out.name(entry.link_target)
    elif entry.type == "symlink":
        arrow = b" -> " + out.name(entry.link_target)
    out.write(columns.encode() + out.name(entry.path) + arrow + b"\n")


def _record(member: BackupMember) -> dict[str, Any]:
    entry = member.entry
    record: dict[str, Any] = {
        **text_fields("path", entry.path),
        "type": entry.type,
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "inode": entry.inode,
        "generation": entry.generation,
        "flags": entry.flags,
        "project": entry.project_id,
        "links": entry.links,
        "atime_ns": entry.atime_ns,
        "mtime_ns": entry.mtime_ns,
        "ctime_ns": entry.ctime_ns,
        "crtime_ns": entry.crtime_ns,
        "offset": member.position,
        "stored_bytes": member.data_size,
        **text_list_fields("xattrs", entry.xattrs),
    }
    if entry.type in ("char", "block"):
        record["rdev"] = list(entry.rdev)
    if entry.is_link:
        record |= text_fields("link_to", entry.link_target)
    elif entry.type == "symlink":
        record |= text_fields("target", entry.link_target)
    if entry.context is not None:
        context = parse_context(entry.context, supported_only=False)
        record["encryption"] = {**policy_record(context.policy), "nonce": context.nonce.hex()}
    if entry.stored_name is not None:
        record["stored_name"] = entry.stored_name.hex()
    if member.unreadable:
        record["unreadable"] = [list(part) for part in member.unreadable]
    return record
