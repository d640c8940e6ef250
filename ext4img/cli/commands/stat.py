"""`ext4img stat`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ext4img.cli.image_options import ImageOptions
from ext4img.cli.inode_json import flag_letters, flag_names, inode_record
from ext4img.cli.key_options import ImageKeyOptions
from ext4img.cli.key_value import KeyValues, write_key_values
from ext4img.cli.multi_path import MultiPath
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json
from ext4img.cli.output import Output, text_list_fields
from ext4img.cli.path_arg import PathArg, resolve_path_arg
from ext4img.cli.policy_json import policy_record
from ext4img.cli.quoting import quote
from ext4img.cli.units import plural, time_text
from ext4img.crypto.policy import EncryptionContext
from ext4img.errors import CorruptionError, NoKeyError, UnsupportedFeatureError
from ext4img.volume.runs import STATES

_KINDS = {
    "file": "regular file",
    "dir": "directory",
    "symlink": "symbolic link",
    "char": "character device",
    "block": "block device",
    "fifo": "fifo",
    "socket": "socket",
    "unknown": "unknown type",
}
_BILLION = 1_000_000_000


def run(
    image: ImageOptions,
    keys: ImageKeyOptions,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Paths on the image, or inode:N.")],
    runs: Annotated[bool, typer.Option("--runs", help="Show the block mapping.")] = False,
    verity: Annotated[
        bool, typer.Option("--verity", help="Verify the contents against the fs-verity tree, if there is one.")
    ] = False,
    follow: Annotated[bool, typer.Option("-L", "--dereference", help="Follow symbolic links.")] = False,
    json: Json = False,
) -> int:
    """Show all fields of inodes.

    Times are in UTC. Flags are shown as by lsattr.
    """
    out = Output(json)
    with open_image(image, keys) as fs:
        multi_path = MultiPath("stat", image.image, len(paths))
        for position, argument in enumerate(paths):
            with multi_path:
                arg = resolve_path_arg(fs, argument)
                if follow:
                    arg = arg._replace(inode=arg.followed())
                if verity:
                    arg.inode.verify_verity()
                if json:
                    out.record(_record(arg, runs))
                else:
                    if position:
                        out.line("")
                    write_key_values(out, _key_values(arg, runs))
    return multi_path.code


def _key_values(arg: PathArg, runs: bool) -> KeyValues:
    inode = arg.inode
    name = quote(arg.path)
    if inode.is_symlink:
        name += f" -> {quote(inode.readlink())}"
    key_values = [
        ("File", name),
        ("Inode", f"{inode.number}, {_KINDS[inode.type]}"),
        ("Size", f"{plural(inode.size, 'byte')}, {plural(inode.sectors, 'sector')} of 512"),
        ("Mode", f"{inode.permissions:04o} ({inode.mode_string})"),
        ("Owner", f"uid {inode.uid}, gid {inode.gid}, project {inode.project_id}"),
        ("Links", str(inode.links)),
        ("Access", time_text(inode.atime_ns, full=True)),
        ("Modify", time_text(inode.mtime_ns, full=True)),
        ("Change", time_text(inode.ctime_ns, full=True)),
        ("Birth", "-" if inode.crtime_ns is None else time_text(inode.crtime_ns, full=True)),
        ("Flags", f"{flag_letters(inode.flags)} {', '.join(flag_names(inode.flags))}".rstrip()),
        ("Generation", f"{inode.generation}, version {inode.version}"),
    ]
    if inode.dtime:
        key_values.append(("Deleted", time_text(inode.dtime * _BILLION, full=True)))
    if inode.rdev is not None:
        key_values.append(("Device", f"{inode.rdev[0]}, {inode.rdev[1]}"))
    xattrs = arg.fs.volume.xattrs(inode)
    if xattrs:
        key_values.append(
            ("Attributes", "\n".join(f"{quote(name)} ({len(xattrs[name])} bytes)" for name in sorted(xattrs)))
        )
    key_values += _encryption_key_values(arg)
    verity = _verity_text(arg)
    if verity:
        key_values.append(("Verity", verity))
    if runs:
        key_values.append(("Runs", _runs_text(arg)))
    return key_values


def _encryption_key_values(arg: PathArg) -> KeyValues:
    key_values: KeyValues = []
    fs = arg.fs
    context, problem = _context(arg)
    if context is not None:
        key = "key available" if fs.keyring.has(context.policy) else "key not available"
        key_values.append(("Encryption", f"{context.policy.describe()}; {key}"))
        key_values.append(("Nonce", context.nonce.hex()))
    elif problem:
        key_values.append(("Encryption", problem))
    if arg.entry is not None and arg.directory and fs.inode(arg.directory).is_encrypted:
        key_values.append(("Stored name", arg.entry.name.hex()))
        if arg.entry.hash:
            key_values.append(("Name hash", arg.entry.hash.hex()))
    return key_values


def _context(arg: PathArg) -> tuple[EncryptionContext | None, str]:
    """The encryption context, or its problem: stat must show damaged inodes, too."""
    try:
        return arg.inode.encryption, ""
    except (CorruptionError, UnsupportedFeatureError) as error:
        return None, str(error)


def _verity_text(arg: PathArg) -> str:
    """The digest in the format of fsverity; empty if there is none."""
    try:
        verity = arg.inode.verity
    except NoKeyError:
        return "present, but encrypted"
    return "" if verity is None else f"{verity.algorithm}:{verity.digest.hex()}"


def _runs_text(arg: PathArg) -> str:
    if arg.inode.has_inline_data:
        return "none: the contents are in the inode"
    runs = arg.inode.runs()
    if not runs:
        return "none"
    rows = [("logical", "physical", "blocks", "state")]
    rows += [(str(run.lblk), str(run.pblk) if run.pblk else "-", str(run.length), STATES[run.state]) for run in runs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        " ".join(cell.rjust(width) for cell, width in zip(row[:3], widths, strict=False)) + f" {row[3]}" for row in rows
    )


def _record(arg: PathArg, runs: bool) -> dict[str, Any]:
    inode = arg.inode
    record = inode_record(arg.shown, inode)
    record["flag_names"] = flag_names(inode.flags)
    record |= text_list_fields("xattrs", arg.fs.volume.xattrs(inode))
    context, problem = _context(arg)
    if context is not None:
        record["encryption"] = {
            **policy_record(context.policy),
            "nonce": context.nonce.hex(),
            "has_key": arg.fs.keyring.has(context.policy),
        }
    elif problem:
        record["encryption"] = {"problem": problem}
    if arg.entry is not None and arg.directory and arg.fs.inode(arg.directory).is_encrypted:
        record["stored_name"] = arg.entry.name.hex()
        if arg.entry.hash:
            record["name_hash"] = arg.entry.hash.hex()
    verity = _verity_text(arg)
    if verity:
        record["verity"] = verity
    if runs:
        record["inline"] = inode.has_inline_data
        record["runs"] = [
            {"lblk": run.lblk, "pblk": run.pblk, "blocks": run.length, "state": STATES[run.state]}
            for run in inode.runs()
        ]
    return record
