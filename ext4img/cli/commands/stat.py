"""`ext4img stat`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ext4img.cli.describe import flag_letters, flag_names, inode_record, time_text
from ext4img.cli.image import open_image
from ext4img.cli.key_value import Facts, plural, write_facts
from ext4img.cli.keys import ImageKeyOptions
from ext4img.cli.multi_path import Attempts
from ext4img.cli.options import ImageOptions, Json
from ext4img.cli.output import Output, text_list_fields
from ext4img.cli.path_arg import Located, locate
from ext4img.cli.policies import policy_record
from ext4img.cli.quoting import quote
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
    "unknown": "of no known type",
}
_BILLION = 1_000_000_000


def run(
    image: ImageOptions,
    keys: ImageKeyOptions,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Paths on the image, or inode:N.")],
    runs: Annotated[bool, typer.Option("--runs", help="Where the blocks stand on the image.")] = False,
    verity: Annotated[
        bool, typer.Option("--verity", help="Check the contents against the fs-verity tree, where there is one.")
    ] = False,
    follow: Annotated[bool, typer.Option("-L", "--dereference", help="Follow symbolic links.")] = False,
    json: Json = False,
) -> int:
    """Show all fields of an inode.

    Times are UTC. Flags are shown as lsattr does.
    """
    out = Output(json)
    with open_image(image, keys) as fs:
        attempts = Attempts("stat", image.image, len(paths))
        for position, argument in enumerate(paths):
            with attempts:
                located = locate(fs, argument)
                if follow:
                    located = located._replace(inode=located.followed())
                if verity:
                    located.inode.verify_verity()
                if json:
                    out.record(_record(located, runs))
                else:
                    if position:
                        out.line("")
                    write_facts(out, _facts(located, runs))
    return attempts.code


def _facts(located: Located, runs: bool) -> Facts:
    inode = located.inode
    name = quote(located.path)
    if inode.is_symlink:
        name += f" -> {quote(inode.readlink())}"
    facts = [
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
        facts.append(("Deleted", time_text(inode.dtime * _BILLION, full=True)))
    if inode.rdev is not None:
        facts.append(("Device", f"{inode.rdev[0]}, {inode.rdev[1]}"))
    xattrs = located.fs.volume.xattrs(inode)
    if xattrs:
        facts.append(("Attributes", "\n".join(f"{quote(name)} ({len(xattrs[name])} bytes)" for name in sorted(xattrs))))
    facts += _encryption_facts(located)
    verity = _verity_text(located)
    if verity:
        facts.append(("Verity", verity))
    if runs:
        facts.append(("Runs", _runs_text(located)))
    return facts


def _encryption_facts(located: Located) -> Facts:
    facts: Facts = []
    fs = located.fs
    context, problem = _context(located)
    if context is not None:
        there = "the key is there" if fs.keyring.has(context.policy) else "the key is not there"
        facts.append(("Encryption", f"{context.policy.describe()}; {there}"))
        facts.append(("Nonce", context.nonce.hex()))
    elif problem:
        facts.append(("Encryption", problem))
    if located.entry is not None and located.directory and fs.inode(located.directory).is_encrypted:
        facts.append(("Stored name", located.entry.name.hex()))
        if located.entry.hash:
            facts.append(("Name hash", located.entry.hash.hex()))
    return facts


def _context(located: Located) -> tuple[EncryptionContext | None, str]:
    """The encryption context, or what is wrong with it: stat is to show damage too."""
    try:
        return located.inode.encryption, ""
    except (CorruptionError, UnsupportedFeatureError) as error:
        return None, str(error)


def _verity_text(located: Located) -> str:
    """The digest as fsverity prints it; nothing where there is none."""
    try:
        verity = located.inode.verity
    except NoKeyError:
        return "there, and encrypted"
    return "" if verity is None else f"{verity.algorithm}:{verity.digest.hex()}"


def _runs_text(located: Located) -> str:
    if located.inode.has_inline_data:
        return "none: the contents are in the inode"
    runs = located.inode.runs()
    if not runs:
        return "none"
    rows = [("logical", "physical", "blocks", "state")]
    rows += [(str(run.lblk), str(run.pblk) if run.pblk else "-", str(run.length), STATES[run.state]) for run in runs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        " ".join(cell.rjust(width) for cell, width in zip(row[:3], widths, strict=False)) + f" {row[3]}" for row in rows
    )


def _record(located: Located, runs: bool) -> dict[str, Any]:
    inode = located.inode
    record = inode_record(located.shown, inode)
    record["flag_names"] = flag_names(inode.flags)
    record |= text_list_fields("xattrs", located.fs.volume.xattrs(inode))
    context, problem = _context(located)
    if context is not None:
        record["encryption"] = {
            **policy_record(context.policy),
            "nonce": context.nonce.hex(),
            "has_key": located.fs.keyring.has(context.policy),
        }
    elif problem:
        record["encryption"] = {"problem": problem}
    if located.entry is not None and located.directory and located.fs.inode(located.directory).is_encrypted:
        record["stored_name"] = located.entry.name.hex()
        if located.entry.hash:
            record["name_hash"] = located.entry.hash.hex()
    verity = _verity_text(located)
    if verity:
        record["verity"] = verity
    if runs:
        record["inline"] = inode.has_inline_data
        record["runs"] = [
            {"lblk": run.lblk, "pblk": run.pblk, "blocks": run.length, "state": STATES[run.state]}
            for run in inode.runs()
        ]
    return record
