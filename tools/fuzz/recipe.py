"""A found crasher as a small fixture: the name of a sound image, and what was changed in it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from tools.fuzz.mutations import Patch


@dataclass(frozen=True)
class Recipe:
    """`patches` are (byte offset, new bytes); `size` cuts the image short where it is given.

    `expect` says what came of it when it was found, and `story` what was wrong with the reader.
    """

    image: str
    patches: list[Patch]
    size: int | None = None
    expect: str = ""
    story: str = ""

    def apply(self, image: bytearray) -> bytearray:
        """A damaged copy of the sound image."""
        damaged = bytearray(image)
        for offset, data in self.patches:
            damaged[offset : offset + len(data)] = data
        return damaged if self.size is None else damaged[: self.size]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        told = {
            "image": self.image,
            "size": self.size,
            "expect": self.expect,
            "story": self.story,
            "patches": [[offset, base64.b64encode(data).decode()] for offset, data in self.patches],
        }
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read it from JSON."""
        told = json.loads(path.read_text(encoding="utf-8"))
        patches = [(int(offset), base64.b64decode(data)) for offset, data in told["patches"]]
        return cls(told["image"], patches, told["size"], told["expect"], told["story"])
