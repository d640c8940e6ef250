"""The fuzzer under atheris: `python -m tools.fuzz.coverage_guided IMAGE [atheris options]`.

The same mutations and the same run, with the decisions taken from atheris' bytes, so that new
branches in ext4img lead it on. Needs `pip install atheris`. A found input is a file of bytes;
`IMAGE --recipe FOUND JSON` writes what it does to the image as a recipe for tests/hostile.

Options are libFuzzer's: -max_total_time=SECONDS, a directory to keep the corpus in, and others.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# A mutation takes a few dozen bytes; without this libFuzzer tries one, two, three for a long time.
_OPTIONS = ("-len_control=0", "-max_len=256")


def main() -> int:
    """See the module's text."""
    import atheris

    with atheris.instrument_imports(include=["ext4img"]):
        from tools.fuzz.__main__ import load_target
        from tools.fuzz.chooser import AtherisChooser
        from tools.fuzz.consumers import back_up
        from tools.fuzz.exercise import exercise
        from tools.fuzz.mutations import mutate
        from tools.fuzz.recipe import Recipe

    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    target = load_target(Path(sys.argv[1]))
    image = target.image

    def one(data: bytes) -> None:
        chooser = AtherisChooser(atheris.FuzzedDataProvider(data))
        mutate(image, chooser)
        try:
            exercise(target.source(), (), ("report", "strict"), then=back_up, journal_device=target.journal_device)
        finally:
            image.restore()

    if "--recipe" in sys.argv:
        found, written = map(Path, sys.argv[sys.argv.index("--recipe") + 1 :][:2])
        told = mutate(image, AtherisChooser(atheris.FuzzedDataProvider(found.read_bytes())))
        Recipe(target.name, image.patches(), story=told).save(written)
        return 0
    arguments: list[Any] = [sys.argv[0], *_OPTIONS, *sys.argv[2:]]
    atheris.Setup(arguments, one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
