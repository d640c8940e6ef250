"""Options of `verify --against`: the image to compare a backup with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from ext4img.cli.error_report import CommandError
from ext4img.cli.exit_codes import Exit
from ext4img.cli.image_options import ImageOptions


@dataclass(frozen=True)
class CompareOptions(ImageOptions):
    """As `ImageOptions`, but the image is optional: without one, `image` is empty."""

    image: Annotated[
        str,
        typer.Option(
            "--against",
            metavar="IMAGE",
            help="Compare the backup with an image, using the image options below.",
            show_default=False,
        ),
    ] = ""

    def check(self) -> None:
        """CommandError for image options without an image."""
        if not self.image and self != CompareOptions():
            raise CommandError(Exit.USAGE, "image options require --against IMAGE")
