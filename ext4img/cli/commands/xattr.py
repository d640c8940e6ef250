"""`ext4img xattr`."""

from __future__ import annotations

import base64
from enum import StrEnum
from typing import Annotated

import typer

from ext4img.cli.image_options import ImageOptions
from ext4img.cli.key_options import ImageKeyOptions
from ext4img.cli.multi_path import MultiPath
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json
from ext4img.cli.output import Output, text_fields
from ext4img.cli.path_arg import resolve_path_arg
from ext4img.cli.quoting import quote
from ext4img.errors import NotFoundError


class Encoding(StrEnum):
    """The encoding of values, as for getfattr -e."""

    auto = "auto"
    text = "text"
    hex = "hex"
    base64 = "base64"
    raw = "raw"


def run(
    image: ImageOptions,
    keys: ImageKeyOptions,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Paths on the image, or inode:N.")],
    name: Annotated[str | None, typer.Option("-n", "--name", metavar="NAME", help="Show only this attribute.")] = None,
    encoding: Annotated[
        Encoding, typer.Option("-e", "--encoding", help="auto: text if printable, else hex; raw requires --name.")
    ] = Encoding.auto,
    json: Json = False,
) -> int:
    """Show extended attributes, like getfattr -d -m -.

    Symbolic links are not followed. For encryption contexts see stat and metadata.
    """
    out = Output(json)
    if encoding is Encoding.raw and (name is None or json):
        raise typer.BadParameter("--encoding raw writes one value: it requires --name and excludes --json")
    with open_image(image, keys) as fs:
        multi_path = MultiPath("xattr", image.image, len(paths))
        for argument in paths:
            with multi_path:
                arg = resolve_path_arg(fs, argument)
                found = fs.volume.xattrs(arg.inode)
                if name is not None:
                    if name not in found:
                        raise NotFoundError.at(arg.path, f"No such attribute: {name}")
                    found = {name: found[name]}
                if json:
                    for key, value in sorted(found.items()):
                        fields = {**text_fields("path", arg.shown), **text_fields("name", key)}
                        if (text := value.decode("utf-8", "surrogateescape")).isprintable():
                            fields["value"] = text
                        out.record({**fields, "value_base64": base64.b64encode(value).decode()})
                elif encoding is Encoding.raw:
                    out.write(found[name or ""])
                elif found:
                    out.line(f"# file: {quote(arg.path)}")
                    for key, value in sorted(found.items()):
                        out.line(f"{quote(key)}={_encoded(value, encoding)}")
                    out.line("")
    return multi_path.code


def _encoded(value: bytes, encoding: Encoding) -> str:
    if encoding is Encoding.base64:
        return "0s" + base64.b64encode(value).decode()
    if encoding is Encoding.hex:
        return "0x" + value.hex()
    text = value.decode("utf-8", "surrogateescape")
    if encoding is Encoding.auto and not text.isprintable():
        return "0x" + value.hex()
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if not escaped.isprintable():
        # As in getfattr: unprintable bytes as three octal digits.
        escaped = "".join(
            char if char.isprintable() else "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))
            for char in escaped
        )
    return f'"{escaped}"'
