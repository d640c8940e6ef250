"""The images that tests run on: those of tests/fixtures, and those of $EXT4IMG_CORPUS.

The corpus is any directory that holds, at any depth, NAME.img or NAME.img.zst beside NAME.json.
"""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

FIXTURES = Path(__file__).parent / "fixtures"
CORPUS_VARIABLE = "EXT4IMG_CORPUS"
_SUFFIXES = (".img", ".img.xz", ".img.zst")
_WINDOW_BYTES = 1 << 20


@dataclass(frozen=True)
class PackedImage:
    """An image with a manifest, as it is stored."""

    name: str
    stored: Path
    manifest: Path

    def unpack(self, destination: Path) -> None:
        """Write the raw image; runs of zeros become holes, or the larger ones would fill the disk."""
        with _opened(self.stored) as packed, destination.open("wb") as raw:
            zeros = bytes(_WINDOW_BYTES)
            while window := packed.read(_WINDOW_BYTES):
                if window == zeros[: len(window)]:
                    raw.seek(len(window), os.SEEK_CUR)
                else:
                    raw.write(window)
            raw.truncate(raw.tell())

    @property
    def label(self) -> str:
        """The name, and the directory that tells a fixture from an image of the corpus."""
        return f"{self.stored.parent.name}/{self.name}"

    @property
    def keys(self) -> list[Path]:
        """The key files (hex) that lie beside a fixture."""
        return sorted(self.stored.parent.glob(f"{self.name}.*.key"))


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix == ".xz":
        with lzma.open(path) as file:
            yield cast("IO[bytes]", file)
    elif path.suffix == ".zst":
        try:
            from compression import zstd
        except ImportError:
            from backports import zstd
        with zstd.open(path, "rb") as file:
            yield file
    else:
        with path.open("rb") as file:
            yield file


def _images_below(directory: Path) -> list[PackedImage]:
    found = []
    for manifest in sorted(directory.rglob("*.json")):
        for suffix in _SUFFIXES:
            stored = manifest.with_name(manifest.name.removesuffix(".json") + suffix)
            if stored.exists():
                found.append(PackedImage(manifest.stem, stored, manifest))
                break
    return found


def fixture_images() -> list[PackedImage]:
    """The images that come with the tests."""
    return _images_below(FIXTURES)


def corpus_images() -> list[PackedImage]:
    """The images of the directory that the environment names; none without it."""
    directory = os.environ.get(CORPUS_VARIABLE)
    return _images_below(Path(directory)) if directory else []


def all_images() -> list[PackedImage]:
    """Fixtures first, then the corpus."""
    return fixture_images() + corpus_images()
