"""The image that a backup is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from ext4img.cli.error_report import Failure
from ext4img.cli.exit_codes import Exit
from ext4img.cli.image_options import ImageOptions


@dataclass(frozen=True)
class AgainstOptions(ImageOptions):
    """As `ImageOptions`, but that there need not be an image: then `image` is empty."""

    image: Annotated[
        str,
        typer.Option(
            "--against",
            metavar="IMAGE",
            help="Compare it with an image: names, attributes, records, contents. The options below are for that.",
            show_default=False,
        ),
    ] = ""

    def check(self) -> None:
        """Failure for options about an image where there is none."""
        if not self.image and self != AgainstOptions():
            raise Failure(Exit.USAGE, "options about an image need --against IMAGE")
